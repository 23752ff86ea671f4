"""The only module that knows a ref's name: names, and compare-and-swap transactions through `git update-ref`.

`update-ref` is not atomic over several refs when it is killed (files backend, git 2.39), so a transaction's order
is its protocol and exactly one ref, the marker, is the commit point. Refs are fsynced by git, their directories here.
"""

from __future__ import annotations

import os

from ..errors import GitError, RefChanged
from ..system.files import fsync_path, read_limited
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .command import Git
from .oid import Oid, is_oid
from .repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class RefUpdate(Record):
    """Move `ref` from `old` (None: it must not exist) to `new` (None: delete it)."""

    ref: str
    new: Oid | None
    old: Oid | None


class RefWriter:
    """One `git update-ref --stdin` that carries out several transactions, one after the other.

    `commit` does all of one. Its parts are for who has something else to do meanwhile: `prepare`, `carry_out`, `sync`.
    Made early, its start costs nothing. An error ends the process; the next transaction starts another.
    """

    def __init__(self, repository: Repository, git: Git, message: str) -> None:
        self._repository = repository
        self._git = git
        self._arguments = ("update-ref", "-m", f"gitstate: {message}", "--stdin", "-z")
        self._process = git.start(*self._arguments)
        #: Whether git was told already to commit what it prepares.
        self._told = False

    def end(self) -> None:
        """Nothing more is committed: it may end while the caller does something else."""
        if self._process.returncode is None:
            self._process.end_input()

    def close(self) -> None:
        """End the process; what was not committed is not done."""
        if self._process.returncode is None:
            self._process.communicate()

    def commit(self, updates: Sequence[RefUpdate], *, no_deref: bool = False) -> None:
        """Carry out `updates` in their order. Raises RefChanged where a ref is not at its old value, else GitError."""
        self.prepare(updates, no_deref=no_deref)
        self.carry_out()
        self.sync(updates)

    def prepare(self, updates: Sequence[RefUpdate], *, no_deref: bool = False, and_move: bool = False) -> None:
        """Let git lock the refs of `updates` and write down what they will hold, while the caller goes on.

        Nothing has moved before `carry_out`, and nothing will if `close` comes first. With `and_move` git goes on to
        move them, so that it holds no lock while it waits for the caller; `carry_out` then says what came of it.
        """
        zero = self._repository.zero
        words = [b"start\0"]
        for update in updates:
            if no_deref:
                words.append(b"option no-deref\0")
            old = update.old or zero
            if update.new is None:
                words.append(b"delete %s\0%s\0" % (os.fsencode(update.ref), old.encode("ascii")))
            else:
                new = update.new.encode("ascii")
                words.append(b"update %s\0%s\0%s\0" % (os.fsencode(update.ref), new, old.encode("ascii")))
        words.append(b"prepare\0commit\0" if and_move else b"prepare\0")
        self._told = and_move
        if self._process.returncode is not None:
            self._process = self._git.start(*self._arguments)
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"".join(words))
            self._process.stdin.flush()

    def carry_out(self) -> None:
        """Move what was prepared; raises as `commit` does. `sync` makes it durable."""
        try:
            answers = [self._process.stdout.readline() for _ in range(2)]
            if answers == [b"start: ok\n", b"prepare: ok\n"]:
                if not self._told:
                    self._process.stdin.write(b"commit\0")
                    self._process.stdin.flush()
                answers.append(self._process.stdout.readline())
        except BrokenPipeError:
            answers = []
        if answers[2:] != [b"commit: ok\n"]:
            raise self._failure()

    def _failure(self) -> Exception:
        _, said = self._process.communicate()
        error = GitError(["update-ref"], self._process.wait(), said)
        if b"but expected" in said or b"reference already exists" in said or b"unable to resolve reference" in said:
            return RefChanged(error.message)
        return error

    def sync(self, updates: Sequence[RefUpdate]) -> None:
        """Make durable what `carry_out` moved; raises OSError."""
        common = self._repository.common_dir
        directories: dict[bytes, None] = {}
        for update in updates:
            directory = os.path.dirname(os.path.join(common, os.fsencode(update.ref)))
            while len(directory) > len(common):
                directories[directory] = None
                directory = os.path.dirname(directory)
        if any(update.new is None for update in updates):
            # A ref that is deleted may stand in `packed-refs`, which git then writes anew.
            directories[common] = None
        for directory in (*directories, os.path.join(common, b"reftable")):
            fsync_path(directory)


def list_refs(git: Git, *prefixes: str) -> dict[str, Oid]:
    """All refs below the prefixes, or of exactly those names, with what they point to."""
    out = git.run("for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
    found = {}
    for line in out.split(b"\n")[:-1]:
        oid, _, ref = line.partition(b" ")
        found[os.fsdecode(ref)] = oid.decode("ascii")
    return found


def refs_are_files(repository: Repository) -> bool:
    """Whether each ref is a file with a lock of its own; else (reftable) a transaction locks out every other one."""
    return (repository.setting("extensions.refstorage") or "files") == "files"


def read_refs(repository: Repository, refs: Iterable[str]) -> dict[str, Oid]:
    """What each of `refs` points to, from git's files (loose, then packed); where those are not used, from git.

    The loose file wins over `packed-refs` (`man gitrepository-layout`). Symbolic refs are left to git.
    """
    wanted = list(refs)
    if not refs_are_files(repository):
        found = list_refs(repository.git, *wanted)
        return {ref: found[ref] for ref in wanted if ref in found}
    found = {}
    packed: dict[bytes, bytes] | None = None
    for ref in wanted:
        name = os.fsencode(ref)
        try:
            with open(os.path.join(repository.common_dir, name), "rb") as file:
                value = file.read(256).strip()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if packed is None:
                packed = _packed_refs(repository.common_dir)
            value = packed.get(name, b"")
        if is_oid(oid := value.decode("latin-1")):
            found[ref] = oid
    return found


def read_refs_below(common_dir: bytes, *prefixes: str) -> list[dict[str, Oid]]:
    """For each prefix the refs directly below it, by what their names say after it, read from git's files alone.

    A loose file that holds no object id (a power cut empties them) is an empty text. Nothing is found in a reftable.
    """
    packed = _packed_refs(common_dir)
    answers = []
    for prefix in prefixes:
        top = os.fsencode(prefix)
        found = {
            os.fsdecode(name[len(top) :]): value.decode("latin-1")
            for name, value in packed.items()
            if name.startswith(top)
        }
        try:
            names = os.listdir(os.path.join(common_dir, top))
        except OSError:
            names = []
        for name in names:
            data = read_limited(os.path.join(common_dir, top, name), 256)
            if data is not None and not name.endswith(b".lock"):
                value = data.strip().decode("latin-1")
                found[os.fsdecode(name)] = value if is_oid(value) else ""
        answers.append(found)
    return answers


def _packed_refs(common_dir: bytes) -> dict[bytes, bytes]:
    try:
        with open(os.path.join(common_dir, b"packed-refs"), "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return {}
    return {
        line[line.index(b" ") + 1 :]: line[: line.index(b" ")] for line in lines if line[:1] not in (b"", b"#", b"^")
    }


def move_refs(
    repository: Repository, git: Git, updates: Sequence[RefUpdate], message: str, *, no_deref: bool = False
) -> None:
    """One transaction in a process of its own; raises as `RefWriter.commit` does."""
    writer = RefWriter(repository, git, message)
    try:
        writer.commit(updates, no_deref=no_deref)
    finally:
        writer.close()


def lock_files(refs: Iterable[str]) -> list[str]:
    """The lock files, relative to the common directory, that a transaction over `refs` may leave when it is killed."""
    return [f"{ref}.lock" for ref in refs] + ["packed-refs.lock"]
