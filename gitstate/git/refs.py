"""Read refs, and move them by compare and swap: transactions of `git update-ref`.

A killed `update-ref` may have moved some refs of a transaction and not the others (files backend, git 2.39): the order
of a transaction counts. Git syncs the refs, this module their directories.

Git reads `packed-refs` once in a process, and takes a file of the same size, inode and second for the same file. So it
may compare with a value that is no longer true. This module reads each ref again while git holds the lock on it.
"""

from __future__ import annotations

import errno
import os
import select

from ..errors import GitError, RefChanged
from ..system.files import file_stamp, fsync_paths, open_at_once, read_limited
from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from .command import Git, Oid, is_oid
from .packed import PackedRefs, names_in, read_packed, refs_in
from .repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..system.child import Child
    from ..system.clock import Deadline


#: Git waits so many milliseconds for a lock at the most, as for all that this program does.
_LOCK = 3000
#: It has so many seconds for an answer, whatever the deadline: a machine that stalls must not cost a save.
_LEAST = 3.0


class RefUpdate(Record):
    """A ref that is to be moved, if it has the expected value."""

    ref: str
    new: Oid | None
    """None: delete it."""
    old: Oid | None
    """None: it must not exist."""


class RefsLocked(GitError):
    """Raised where `locks`, of all refs in a reftable, are there: another git has them, or was killed."""

    def __init__(self, status: int, stderr: bytes, locks: Sequence[bytes]) -> None:
        hint = "once no git runs here: rm " + " ".join(quote(os.fsdecode(lock)) for lock in locks)
        super().__init__(["update-ref"], status, stderr, hint=hint)
        self.locks = locks


class RefWriter:
    """One `git update-ref --stdin` that commits several transactions, one after the other.

    `commit` does a whole transaction. `prepare`, `carry_out` and `sync` are its parts, for a caller that does something
    else in between. Git starts when the writer is made. An error ends that git; the next transaction starts another.
    """

    def __init__(self, repository: Repository, git: Git, message: str, until: Deadline | None = None) -> None:
        """`until`: when git has to have answered. It waits so long for no lock, and is ended where it hangs."""
        self._repository = repository
        self._git = git
        self._arguments = ("update-ref", "-m", f"gitstate: {message}", "--stdin", "-z")
        self._until = until
        self._buffer = b""
        self._process = self._start()
        #: What was prepared, and whether symbolic refs are not followed in it.
        self._prepared: Sequence[RefUpdate] = ()
        self._no_deref = False
        #: Which file `packed-refs` was before that.
        self._packed: tuple[int, ...] | None = None

    def _packed_identity(self) -> tuple[int, ...] | None:
        try:
            return file_stamp(os.lstat(os.path.join(self._repository.common_dir, b"packed-refs")))
        except OSError:
            return None

    def _start(self) -> Child:
        self._buffer = b""
        if self._until is None or self._until.seconds is None:
            return self._git.start(*self._arguments)
        # Three transactions may wait one after the other.
        wait = max(300, min(_LOCK, int(self._until.left() * 1000 / 3)))
        names = ("core.filesRefLockTimeout", "core.packedRefsTimeout", "reftable.lockTimeout")
        return self._git.start(*(word for name in names for word in ("-c", f"{name}={wait}")), *self._arguments)

    def _line(self) -> bytes:
        """The next line of git's answer; less than a line where it has ended. Raises GitError where it hangs."""
        while b"\n" not in self._buffer:
            if self._until is not None and self._until.seconds is not None:
                poll = select.poll()
                poll.register(self._process.stdout, select.POLLIN)
                if not poll.poll(max(_LEAST, self._until.left()) * 1000):
                    self._process.kill_all()
                    self._process.wait()
                    raise GitError(["update-ref"], -9, b"it took too long")
            data = os.read(self._process.stdout.fileno(), 4096)
            if not data:
                break
            self._buffer += data
        line, end, self._buffer = self._buffer.partition(b"\n")
        return line + end

    def end(self) -> None:
        """Let git end while the caller does something else: there is no further transaction."""
        if self._process.returncode is None:
            self._process.end_input()

    def close(self) -> None:
        """End the process; a transaction that was not committed is dropped."""
        if self._process.returncode is None:
            self._process.communicate()

    def commit(self, updates: Sequence[RefUpdate], *, no_deref: bool = False, is_last: bool = False) -> None:
        """Move the refs in the order of `updates`, durably. Raises RefChanged, GitError, OSError.

        After the last transaction git ends while its refs are synced.
        """
        self.prepare(updates, no_deref=no_deref)
        self.carry_out()
        if is_last:
            self.end()
        self.sync(updates)

    def prepare(self, updates: Sequence[RefUpdate], *, no_deref: bool = False) -> None:
        """Let git lock the refs of `updates` and write their new values, while the caller goes on.

        No ref moves before `carry_out`, and none does if `close` comes first.
        """
        zero = self._repository.zero
        commands = [b"start\0"]
        for update in updates:
            if no_deref:
                commands.append(b"option no-deref\0")
            old = update.old or zero
            if update.new is None:
                commands.append(b"delete %s\0%s\0" % (os.fsencode(update.ref), old.encode("ascii")))
            else:
                new = update.new.encode("ascii")
                commands.append(b"update %s\0%s\0%s\0" % (os.fsencode(update.ref), new, old.encode("ascii")))
        commands.append(b"prepare\0")
        self._prepared, self._no_deref = updates, no_deref
        self._packed = self._packed_identity()
        if self._process.returncode is not None:
            self._process = self._start()
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"".join(commands))
            self._process.stdin.flush()

    def carry_out(self) -> None:
        """Move the prepared refs; `sync` then makes that durable. Raises RefChanged, GitError."""
        try:
            answers = [self._line() for _ in range(2)]
            if answers == [b"start: ok\n", b"prepare: ok\n"]:
                self._refuse_moved_refs()
                self._process.stdin.write(b"commit\0")
                self._process.stdin.flush()
                answers.append(self._line())
        except BrokenPipeError:
            answers = []
        if answers[2:] != [b"commit: ok\n"]:
            raise self._failure()

    def _refuse_moved_refs(self) -> None:
        """Raises RefChanged where a locked ref has another value than expected; git then drops the transaction."""
        if not refs_are_files(self._repository):
            return
        # Read once, when it is needed: all of the refs are locked, so nobody packs them.
        packed = PackedRefs(self._repository.common_dir, anew=True)
        for update in self._prepared:
            value = _locked_value(self._repository.common_dir, update.ref, packed, follow=not self._no_deref)
            if value not in (UNKNOWN, update.old or ""):
                self.close()
                raise RefChanged(f"{update.ref} is at {value or 'no commit'} but expected {update.old or 'none'}")

    def _failure(self) -> Exception:
        _, stderr = self._process.communicate()
        from .damaged.refused import way_to_write

        hint = way_to_write(self._git.directory, stderr)
        error = GitError(["update-ref"], self._process.wait(), stderr, hint=hint)
        if any(
            text in stderr for text in (b"but expected", b"reference already exists", b"unable to resolve reference")
        ):
            return RefChanged(error.message)
        locks = self._tables_locks()
        return RefsLocked(error.status, stderr, locks) if locks else error

    def _tables_locks(self) -> list[bytes]:
        """The locks of a reftable that are there: git does not say which one it could not take."""
        if refs_are_files(self._repository):
            return []
        from .gitdir import tables_locks

        return [*filter(os.path.lexists, tables_locks(self._repository.git_dir, self._repository.common_dir))]

    def sync(self, updates: Sequence[RefUpdate]) -> None:
        """Make durable that the refs of `updates` moved. Raises OSError."""
        common = self._repository.common_dir
        directories: dict[bytes, None] = {}
        for update in updates:
            directory = os.path.dirname(os.path.join(common, os.fsencode(update.ref)))
            while len(directory) > len(common):
                directories[directory] = None
                directory = os.path.dirname(directory)
        if any(update.new is None for update in updates) and self._packed != self._packed_identity():
            # The deleted ref was in `packed-refs`, which git has replaced. Or another git did: then once too often.
            directories[common] = None
        fsync_paths((*directories, os.path.join(common, b"reftable")))


def list_refs(git: Git, *prefixes: str) -> dict[str, Oid]:
    """The refs that have one of these names, or are below one of them, with their values. Raises GitError."""
    out = git.run("for-each-ref", "--format=%(objectname) %(refname)", *prefixes)
    found = {}
    for line in out.split(b"\n")[:-1]:
        oid, _, ref = line.partition(b" ")
        found[os.fsdecode(ref)] = oid.decode("ascii")
    return found


def refs_are_files(repository: Repository) -> bool:
    """Whether each ref is a file with a lock of its own; in a reftable one transaction locks all refs."""
    return (repository.setting("extensions.refstorage") or "files") == "files"


def read_refs(repository: Repository, refs: Iterable[str]) -> dict[str, Oid]:
    """The value of each of `refs` that exists, from git's files, or from git where refs are not files.

    A loose file wins over `packed-refs` (`man gitrepository-layout`). A symbolic ref counts as missing.
    """
    wanted = list(refs)
    if not refs_are_files(repository):
        found = list_refs(repository.git, *wanted)
        return {ref: found[ref] for ref in wanted if ref in found}
    loose: dict[str, bytes | None] = {}
    for ref in wanted:
        loose[ref] = _read_loose(os.path.join(repository.common_dir, os.fsencode(ref)), 256)
    # Only now: git removes the file of a ref after it has packed it.
    packed = PackedRefs(repository.common_dir)
    for ref in sorted(ref for ref, content in loose.items() if content is None):
        loose[ref] = packed.value(os.fsencode(ref))
    values = {ref: (content or b"").decode("latin-1") for ref, content in loose.items()}
    return {ref: value for ref, value in values.items() if is_oid(value)}


def _read_loose(path: bytes, limit: int) -> bytes | None:
    """What the file of a ref contains, without space around it; None where there is none."""
    try:
        with open(path, "rb", opener=open_at_once) as file:
            # From a FIFO that nobody has written to yet there is nothing to read, not even nothing.
            return (file.read(limit) or b"").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return None


#: The value of a ref that can't be told from the files of the common directory.
UNKNOWN = "unknown"
_PER_WORKTREE = ("refs/worktree/", "refs/bisect/", "refs/rewritten/")


def _locked_value(common_dir: bytes, ref: str, packed: PackedRefs, *, follow: bool) -> Oid:
    """The value of a ref whose lock is held; empty where it does not exist, UNKNOWN where the files don't tell."""
    for _ in range(5):
        if not ref.startswith("refs/") or ref.startswith(_PER_WORKTREE):
            return UNKNOWN
        name = os.fsencode(ref)
        value = _read_loose(os.path.join(common_dir, name), 4096)
        if value is None:
            return packed.value(name).decode("latin-1")
        if not value.startswith(b"ref:"):
            return oid if is_oid(oid := value.decode("latin-1")) else UNKNOWN
        if not follow:
            return UNKNOWN
        ref = os.fsdecode(value[4:].strip())
    return UNKNOWN


def read_refs_below(common_dir: bytes, *prefixes: str) -> list[dict[str, Oid]]:
    """For each prefix the refs below it, by the rest of their names, read from git's files without a process.

    The value is an empty text where a loose file holds no object id, as after a power cut. Loose refs are looked for
    directly below the prefix only. In a reftable there is nothing to find.
    """
    tops, above = _as_bytes(prefixes)
    # Most repositories have no ref of any of them: one look at what is above them all shows that.
    has_loose = os.path.isdir(os.path.join(common_dir, above))
    loose = [_loose_refs(os.path.join(common_dir, top)) if has_loose else {} for top in tops]
    # Only now: git removes the file of a ref after it has packed it.
    packed = refs_in(read_packed(common_dir), tops)
    answers = []
    for top, files in zip(tops, loose, strict=True):
        found = {
            os.fsdecode(name[len(top) :]): value.decode("latin-1")
            for name, value in packed.items()
            if name.startswith(top)
        }
        answers.append(found | files)
    return answers


def _loose_refs(directory: bytes) -> dict[str, Oid]:
    """The refs whose files are directly in a directory; empty texts where a file holds no object id. Raises OSError."""
    found = {}
    for name in _names_in(directory):
        if name.endswith(b".lock"):
            continue
        path = os.path.join(directory, name)
        data = read_limited(path, 256)
        if data is None and _is_hidden(path):
            data = read_limited(path, 256)
        if data is not None:
            value = data.strip().decode("latin-1")
            found[os.fsdecode(name)] = value if is_oid(value) else ""
    return found


def _is_hidden(path: bytes) -> bool:
    """Whether the file of a ref was there, and could not be read. Raises OSError where that is so still."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            # Packed since, a link or a socket.
            return False
        raise
    return True


def _names_in(directory: bytes) -> list[bytes]:
    """The names in a directory; none where there is none. Raises OSError: a save in it must not be taken for absent."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_names_below(common_dir: bytes, prefix: str, since: str = "") -> set[str]:
    """The refs below a prefix, by the rest of their names, from git's files; no loose ref is opened for it.

    `read_refs` tells which of them have a value. None is among them that sorts before `since`.
    """
    top, first = os.fsencode(prefix), os.fsencode(since)
    names = [name for name in _names_in(os.path.join(common_dir, top)) if name >= first]
    # Only now: git removes the file of a ref after it has packed it.
    names += names_in(read_packed(common_dir), top, first)
    return {os.fsdecode(name) for name in names if not name.endswith(b".lock")}


#: What `_as_bytes` made of the prefixes that were asked for: of thousands of repositories the same is asked.
_known_prefixes: dict[tuple[str, ...], tuple[list[bytes], bytes]] = {}


def _as_bytes(prefixes: tuple[str, ...]) -> tuple[list[bytes], bytes]:
    """Some prefixes, and the directory that is above them all."""
    known = _known_prefixes.get(prefixes)
    if known is None:
        if len(_known_prefixes) > 64:
            _known_prefixes.clear()
        above = os.fsencode(os.path.commonpath(prefixes))
        known = _known_prefixes[prefixes] = [os.fsencode(prefix) for prefix in prefixes], above
    return known


def move_refs(
    repository: Repository, git: Git, updates: Sequence[RefUpdate], message: str, *, no_deref: bool = False
) -> None:
    """Commit one transaction in a process of its own. Raises as `RefWriter.commit` does."""
    writer = RefWriter(repository, git, message)
    try:
        writer.commit(updates, no_deref=no_deref, is_last=True)
    finally:
        writer.close()


def lock_files(refs: Iterable[str]) -> list[str]:
    """The lock files, relative to the common directory, that a killed transaction over `refs` may leave."""
    return [f"{ref}.lock" for ref in refs] + ["packed-refs.lock"]


#: Git follows so many symbolic refs.
_DEEPEST = 5


def target_of(repository: Repository, ref: str) -> str:
    """The ref that moves when `ref` is moved: itself, as a rule, or what it leads to as a symbolic ref."""
    for _ in range(_DEEPEST):
        if refs_are_files(repository):
            data = read_limited(os.path.join(repository.common_dir, os.fsencode(ref)), 65_536) or b""
            following = data[4:].strip() if data.startswith(b"ref:") else b""
        else:
            following = repository.git.run("symbolic-ref", "-q", ref, ok_codes=(0, 1, 128)).strip()
        if not following:
            break
        ref = os.fsdecode(following)
    return ref


def is_renamed(repository: Repository, branch: str) -> bool:
    """Whether a branch that HEAD was on is no more, as after `git branch -m`."""
    return target_of(repository, branch) == branch and not read_refs(repository, [branch])


def names_in_log(repository: Repository, branch: str) -> dict[str, Oid]:
    """The names that a branch had before `git branch -m` gave it this one, as its log tells, newest first; each with
    the commit that the branch was on then.
    """
    found: dict[str, Oid] = {}
    try:
        told = os.fsdecode(repository.git.run("log", "-g", "--format=%H %gs", branch, "--")).splitlines()
    except GitError:
        # It is unborn.
        return found
    for line in told:
        oid, _, what = line.partition(" ")
        old, to, new = what.removeprefix("Branch: renamed ").partition(" to ")
        if to and new == branch and what.startswith("Branch: renamed "):
            found.setdefault(old, oid)
            branch = old
    return found


def is_checked_out_elsewhere(repository: Repository, ref: str) -> bool:
    """Whether another worktree of the repository that exists is on this branch, as after `worktree add --force`."""
    common = repository.common_dir
    try:
        names = os.listdir(os.path.join(common, b"worktrees"))
    except OSError:
        return False
    if not refs_are_files(repository):
        return _is_on_branch_elsewhere(repository, os.fsencode(ref))
    others = [os.path.join(common, b"worktrees", name) for name in names]
    if repository.setting("core.bare") != "true":
        others.append(common)
    wanted = b"ref: " + os.fsencode(ref)
    for git_dir in others:
        head = read_limited(os.path.join(git_dir, b"HEAD"), 65_536)
        if head is None or head.rstrip() != wanted or git_dir == repository.git_dir:
            continue
        dot_git = read_limited(os.path.join(git_dir, b"gitdir"), 65_536)
        if git_dir == common or (dot_git and os.path.lexists(os.path.join(git_dir, dot_git.rstrip(b"\r\n")))):
            return True
    return False


def _is_on_branch_elsewhere(repository: Repository, ref: bytes) -> bool:
    """The same where only git can read the HEADs. Raises GitError."""
    # Each worktree is a group of lines: its path first, and an empty one at its end (`man git-worktree`).
    for group in repository.git.run("worktree", "list", "--porcelain", "-z").split(b"\0\0"):
        path, *lines = group.split(b"\0")
        place = path.partition(b" ")[2]
        is_there = os.path.lexists(os.path.join(place, b".git"))
        if b"branch " + ref in lines and is_there and os.path.realpath(place) != repository.toplevel:
            return True
    return False
