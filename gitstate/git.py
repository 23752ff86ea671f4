"""The only module that runs git: scrubbed environment, bytes and NUL, typed results or GitError.

What a repository's configuration names as a program (fsmonitor, hooks, pagers, editors, askpass) is switched off
on every call; filters run only where `snapshot` asks for git's own way in, and never for a workspace of someone else.
"""

from __future__ import annotations

import os

from .errors import GitError, NeedsPerson, NotAWorkspace
from .light import TYPE_CHECKING, Record, suppress
from .spawn import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

Oid = str
"""An object id in lower-case hex: 40 digits in a sha1 repository, 64 in a sha256 one."""
_HEX = frozenset("0123456789abcdef")


def is_oid(value: object) -> bool:
    return isinstance(value, str) and len(value) in (40, 64) and _HEX.issuperset(value)


#: Names of variables that say where git's own parts and the user's configuration are, not which repository to use.
_KEPT = frozenset(
    (
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_SYSTEM",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_EXEC_PATH",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
    )
)

#: Objects of more bytes than this are never held in memory as a whole.
LARGE = 8 << 20

_OPTIONS = (
    *("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.pager=cat"),
    *("-c", "core.fsync=reference,loose-object,pack,pack-metadata", "-c", "core.fsyncMethod=fsync"),
    *("-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "submodule.recurse=false"),
    *("-c", "core.warnAmbiguousRefs=false", "-c", "core.untrackedCache=keep"),
    *("-c", "core.filesRefLockTimeout=3000", "-c", "core.packedRefsTimeout=3000"),
)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would lead git elsewhere, or let it ask or wait for a person.

    Inside a hook GIT_DIR and GIT_INDEX_FILE are set, and `git -C other` then reads the wrong repository.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT}
    clean.update(
        LC_ALL="C",
        GIT_TERMINAL_PROMPT="0",
        GIT_ASKPASS="true",
        SSH_ASKPASS="true",
        GIT_EDITOR=":",
        GIT_OPTIONAL_LOCKS="0",
        GIT_NO_LAZY_FETCH="1",
        GIT_NO_REPLACE_OBJECTS="1",
        GIT_LITERAL_PATHSPECS="1",
        GIT_ADVICE="0",
        GIT_COMMITTER_NAME="gitstate",
        GIT_COMMITTER_EMAIL="gitstate@localhost",
    )
    if not clean.get("HOME"):
        # A bare environment (`env -i`, some schedulers): without it git reads and writes no global configuration.
        import pwd

        with suppress(KeyError):
            clean["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
    clean.pop("LANGUAGE", None)
    if extra:
        clean.update(extra)
    return clean


class Git(Record):
    """How to run git in one directory.

    `options` are further global options; `lock_fd` is a descriptor that every child inherits (see `files.locked`).
    """

    directory: bytes
    options: tuple[str, ...] = ()
    lock_fd: int | None = None

    def start(self, *args: str | bytes, extra: Mapping[str, str] | None = None, quiet: bool = False) -> Child:
        """Start git with pipes on its streams; with `quiet` its words on stderr are thrown away."""
        words: list[str | bytes] = ["git", "-C", self.directory, *_OPTIONS, *self.options, *args]
        return Child(words, environment(extra), quiet=quiet, inherits=self.lock_fd)

    def run(
        self,
        *args: str | bytes,
        given: bytes = b"",
        extra: Mapping[str, str] | None = None,
        fine: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> bytes:
        """What git prints. Raises GitError where its status is not among `fine`, or it outlives `timeout` seconds."""
        return self.finish(self.start(*args, extra=extra), given=given, fine=fine, timeout=timeout)

    def finish(
        self,
        process: Child,
        *,
        given: bytes = b"",
        fine: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> bytes:
        """Feed a process that `start` made and wait for its output; raises as `run` does."""
        try:
            out, err = process.communicate(given, timeout=timeout)
        except TimeoutError:
            process.kill()
            process.communicate()
            raise GitError(_words(process), -9, b"it took too long") from None
        if process.returncode not in fine:
            raise GitError(_words(process), process.wait(), err)
        return out

    def succeeds(self, *args: str | bytes) -> bool:
        """Whether git ends with status 0 (as with `merge-base --is-ancestor`); raises on any status but 0 and 1."""
        process = self.start(*args)
        self.finish(process, fine=(0, 1))
        return process.returncode == 0


def _words(process: Child) -> list[str]:
    return [os.fsdecode(word) for word in process.args[3:]]


class Repository(Record):
    """Where one worktree and its repository are. All paths are absolute, as bytes."""

    toplevel: bytes
    git_dir: bytes
    """The worktree's own directory: `.git`, or `.git/worktrees/<id>` of a linked worktree."""
    common_dir: bytes
    object_format: str
    """`sha1` or `sha256`."""
    config: dict[str, list[str]]
    """Every setting, by its lower-case name (subsections keep their case), last value last."""
    git: Git

    @property
    def objects(self) -> bytes:
        return os.path.join(self.common_dir, b"objects")

    @property
    def own(self) -> bytes:
        """The directory below git_dir that holds what gitstate needs beside git's own files."""
        return os.path.join(self.git_dir, b"gitstate")

    @property
    def zero(self) -> Oid:
        return "0" * (64 if self.object_format == "sha256" else 40)

    def setting(self, name: str) -> str | None:
        values = self.config.get(name.lower())
        return values[-1] if values else None

    def filters_off(self) -> list[str]:
        """Options that make git take and give every file without its clean and smudge programs."""
        off: list[str] = []
        for key in self.config:
            name, _, last = key.rpartition(".")
            if key.startswith("filter.") and last in ("clean", "smudge", "process", "required") and "=" not in name:
                off += ["-c", f"{name}.clean=cat", "-c", f"{name}.smudge=cat", "-c", f"{name}.process="]
                off += ["-c", f"{name}.required=false"]
        return off

    def is_true(self, name: str, default: bool = False) -> bool:
        value = self.setting(name)
        return default if value is None else value.lower() in ("true", "yes", "on", "1")


def open_repository(path: bytes, *, bare_too: bool = False) -> Repository:
    """Find the worktree that `path` is in. With `bare_too` a bare repository will do: then `toplevel` is its own.

    Raises NotAWorkspace where there is none, git will not open it (safe.directory), or it is bare.
    """
    return _opened(start_opening(path), bare_too)


_SETTINGS = ("config", "--list", "--show-origin", "-z")
_WHERE = ("rev-parse", "--path-format=absolute")
_QUESTIONS = ("--absolute-git-dir", "--git-common-dir", "--show-object-format", "--show-toplevel")


class Opening(Record):
    """Git, asked for a repository and its configuration: its answers come while the caller does something else."""

    path: bytes
    listed: Child | None
    asked: Child | None
    """Where the repository is; not asked where the configuration is expected to show it (see `_is_plain`)."""

    def finish(self) -> Repository:
        """The repository; raises as `open_repository` does."""
        return _opened(self, False)


def start_opening(path: bytes) -> Opening:
    """Begin what `open_repository` does."""
    if not os.path.isdir(path):
        return Opening(path, None, None)
    above = os.path.dirname(os.path.realpath(path))
    if b":" in above or not _has_git_dir(path):
        return _ask_both(path)
    # Git looks no further: settings from a repository above would be named in the same words.
    extra = {"GIT_CEILING_DIRECTORIES": os.fsdecode(above)}
    return Opening(path, Git(path).start(*_SETTINGS, extra=extra), None)


def _ask_both(path: bytes) -> Opening:
    git = Git(path)
    listed = git.start(*_SETTINGS)
    return Opening(path, listed, git.start(*_WHERE, *_QUESTIONS))


def _has_git_dir(path: bytes) -> bool:
    dot_git = os.path.join(path, b".git")
    return os.path.isdir(dot_git) and not os.path.islink(dot_git)


def _opened(opening: Opening, bare_too: bool) -> Repository:
    path, listed, asked = opening
    git = Git(path)
    if listed is None:
        raise NotAWorkspace(f"{os.fsdecode(path)}: no such directory", hint="gitstate -C PATH … names a git worktree")
    settings = git.finish(listed, fine=range(256))
    config: dict[str, list[str]] = {}
    words = settings.split(b"\0")[:-1]
    for item in words[1::2]:
        name, _, value = item.partition(b"\n")
        config.setdefault(os.fsdecode(name), []).append(os.fsdecode(value) if _ else "true")
    hooks = [key for key in config if key.startswith("hook.") and key.endswith(".command")]
    options: list[str] = []
    for hook in hooks:
        options += ["-c", f"{hook.removesuffix('.command')}.enabled=false"]
    if asked is None and (listed.returncode != 0 or not _is_plain(config, words[::2])):
        return _opened(_ask_both(path), bare_too)
    if asked is None:
        toplevel = os.path.realpath(path)
        git_dir = common_dir = os.path.join(toplevel, b".git")
        object_format = b"sha1"
    else:
        git_dir, common_dir, object_format, toplevel = _where(path, asked, bare_too)
    return Repository(
        toplevel, git_dir, common_dir, object_format.decode("ascii"), config, Git(toplevel, tuple(options))
    )


def _is_plain(config: Mapping[str, Sequence[str]], origins: Sequence[bytes]) -> bool:
    """Whether git, started where a directory `.git` is, took its configuration from there, and nothing in it says that
    the worktree is elsewhere or the repository of a special kind: then all is where it is by default.
    """
    # Each of the values: what is included counts for `git config` alone.
    special = "core.worktree" in config or any(value != "false" for value in config.get("core.bare", ()))
    extended = any(key.startswith("extensions.") for key in config)
    return b"file:.git/config" in origins and not special and not extended


def _where(path: bytes, asked: Child, bare_too: bool) -> list[bytes]:
    """What git answers to `_QUESTIONS`; raises NotAWorkspace as `open_repository` does."""
    git = Git(path)
    out, err = asked.communicate()
    if asked.returncode != 0 and bare_too and git.run("rev-parse", "--is-bare-repository", fine=(0, 128)) == b"true\n":
        out = git.run(*_WHERE, *_QUESTIONS[:-1], "--absolute-git-dir")
    elif asked.returncode != 0:
        said = err.decode("utf-8", "replace").strip().splitlines()
        raise NotAWorkspace(
            f"{os.fsdecode(path)}: {said[0].removeprefix('fatal: ') if said else 'not a git worktree'}",
            hint="gitstate -C PATH … names a git worktree",
        )
    lines = out.split(b"\n")[:-1]
    if len(lines) == len(_QUESTIONS):
        return lines
    # A line end in a path: one answer at a time.
    return [git.run(*_WHERE, question)[:-1] for question in _QUESTIONS]


def trusted_directories() -> list[bytes]:
    """The paths that the user's own configuration names one by one in safe.directory: each is a person's decision.

    `*` is none about any repository. What a repository's own configuration says does not count, in git neither.
    """
    found = []
    for scope in ("--system", "--global"):
        out = Git(b"/").run("config", scope, "--includes", "-z", "--get-all", "safe.directory", fine=range(256))
        named = (path for path in out.split(b"\0")[:-1] if path not in (b"", b"*"))
        found += [os.path.realpath(os.path.expanduser(path)) for path in named]
    return found


def owner_besides_us(repository: Repository) -> int | None:
    """The user id of someone else who owns a part of the repository that nobody trusted by name; None where none is."""
    mine = os.geteuid()
    places = (repository.toplevel, os.path.join(repository.toplevel, b".git"), repository.git_dir)
    others = [uid for uid in (os.stat(place).st_uid for place in places) if uid != mine]
    return others[0] if others and repository.toplevel not in trusted_directories() else None


def without_filters(repository: Repository) -> Repository:
    """The same repository, whose filters are not run: each that its configuration names is emptied.

    Raises NeedsPerson where git has no way to say that.
    """
    names = {key.rpartition(".")[0] for key in repository.config if key.startswith("filter.")}
    if any("=" in name for name in names):
        raise NeedsPerson(
            "this workspace belongs to someone else and names a filter that can't be switched off; nothing was run",
            hint="git config --global --add safe.directory PATH, where you trust it",
        )
    options = list(repository.git.options)
    for name in sorted(names):
        for key, value in (("clean", ""), ("smudge", ""), ("process", ""), ("required", "false")):
            options += ["-c", f"{name}.{key}={value}"]
    return repository._replace(git=repository.git._replace(options=tuple(options)))


#: What the file HEAD holds where a reftable holds the real one (git's `technical/reftable`, from 2.45 on).
NO_HEAD = b"ref: refs/heads/.invalid"


def read_head(git_dir: bytes) -> str | None:
    """The full name of the branch that HEAD is on; None where it is detached."""
    with open(os.path.join(git_dir, b"HEAD"), "rb") as file:
        data = file.read(65_536)
    if data.startswith(NO_HEAD):
        # Detached (status 1, no answer) or on a branch: only git knows.
        data = b"ref: " + Git(git_dir).run("symbolic-ref", "--quiet", "HEAD", fine=(0, 1))
    return os.fsdecode(data[5:].strip()) or None if data.startswith(b"ref: ") else None


def head_of(directory: bytes) -> Oid | None:
    """The commit that the repository in `directory` is on; None on an unborn branch."""
    out = Git(directory).run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", fine=(0, 1, 128))
    return out.decode("ascii").strip() or None


class ObjectReader:
    """One `git cat-file --batch-command` (git 2.36): reads objects by id without a process for each.

    It starts with the first question. What `foresee_…` names is asked at once and answered while the caller does
    something else: `kinds` and `contents` then find it ready.
    """

    _AT_ONCE = 256

    def __init__(self, git: Git, extra: Mapping[str, str] | None = None) -> None:
        self._git = git
        self._extra = extra
        self._started: Child | None = None
        #: What was asked and not read yet, in its order.
        self._ahead: list[tuple[bytes, Oid]] = []
        self._foreseen: dict[tuple[bytes, Oid], object] = {}

    @property
    def _process(self) -> Child:
        if self._started is None:
            self._started = self._git.start("cat-file", "--batch-command", extra=self._extra, quiet=True)
        return self._started

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def end(self) -> None:
        """Nothing more is read: it may end while the caller does something else."""
        if self._started is not None and self._started.returncode is None:
            self._started.end_input()

    def close(self) -> None:
        """End the process."""
        if self._started is not None:
            self._started.wait()

    def restart(self) -> None:
        """Go on after a GitError: git ends where it meets an object that it can't read."""
        self.close()
        self._started = None
        self._ahead.clear()

    def foresee_kinds(self, oids: Iterable[Oid]) -> None:
        """`kinds` of these will be wanted."""
        self._foresee(b"info", oids)

    def foresee_contents(self, oids: Iterable[Oid]) -> None:
        """`contents` of these will be wanted: small ones, for they are all held until then."""
        self._foresee(b"contents", oids)

    def _foresee(self, verb: bytes, oids: Iterable[Oid]) -> None:
        # No more than a pipe holds: git may be stuck with an answer that nobody reads yet, and read no question.
        some = list(oids)[: self._AT_ONCE - len(self._ahead)]
        self._ask(verb, some)
        self._ahead += [(verb, oid) for oid in some]

    def kinds(self, oids: Sequence[Oid]) -> list[tuple[str, int] | None]:
        """Kind and size in bytes of each object; None for one that is missing."""
        return self._answers(b"info", oids, self._header)

    def contents(self, oids: Sequence[Oid], limit: int | None = None) -> list[tuple[str, bytes] | None]:
        """Kind and bytes of each object; None for one that is missing.

        Raises GitError where one is larger than `limit` bytes.
        """
        if limit is not None:
            for oid, info in zip(oids, self.kinds(oids), strict=True):
                if info is not None and info[1] > limit:
                    raise GitError(["cat-file"], -1, f"object {oid} has {info[1]} bytes, limit {limit}".encode())
        return self._answers(b"contents", oids, self._content)

    def _answers(self, verb: bytes, oids: Sequence[Oid], read: Callable[[Oid], T]) -> list[T]:
        self._catch_up()
        found: list[T] = []
        for start in range(0, len(oids), self._AT_ONCE):
            some = oids[start : start + self._AT_ONCE]
            ready = {oid: self._foreseen.pop((verb, oid)) for oid in {*some} if (verb, oid) in self._foreseen}
            self._ask(verb, [oid for oid in some if oid not in ready])
            found += [ready[oid] if oid in ready else read(oid) for oid in some]  # type: ignore[misc]
        return found

    def _catch_up(self) -> None:
        ahead, self._ahead = self._ahead, []
        try:
            for verb, oid in ahead:
                self._foreseen[verb, oid] = self._header(oid) if verb == b"info" else self._content(oid)
        except GitError:
            # It is told to who wants that object; the others are asked for again.
            self.restart()

    def _ask(self, verb: bytes, oids: Sequence[Oid]) -> None:
        if not oids:
            return
        try:
            self._process.stdin.write(b"".join([b"%s %s\n" % (verb, oid.encode("ascii")) for oid in oids]))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise GitError(["cat-file"], -1, b"git cat-file ended early") from None

    def _header(self, oid: Oid) -> tuple[str, int] | None:
        words = self._process.stdout.readline().split()
        if len(words) == 3:
            return words[1].decode("ascii"), int(words[2])
        if len(words) == 2 and words[1] == b"missing":
            return None
        raise GitError(["cat-file"], -1, b"object " + oid.encode("ascii") + b" can't be read")

    def _content(self, oid: Oid) -> tuple[str, bytes] | None:
        header = self._header(oid)
        if header is None:
            return None
        data = self._process.stdout.read(header[1])
        self._process.stdout.read(1)
        if len(data) != header[1]:
            raise GitError(["cat-file"], -1, f"object {oid} is cut short".encode())
        return header[0], data

    def stream(self, oid: Oid) -> Iterable[bytes]:
        """The bytes of one object in pieces, for those too large for memory. Read it to its end."""
        self._catch_up()
        self._ask(b"contents", [oid])
        header = self._header(oid)
        if header is None:
            raise GitError(["cat-file"], -1, f"object {oid} is missing".encode())
        left = header[1]
        while left:
            data = self._process.stdout.read(min(left, 1 << 20))
            if not data:
                raise GitError(["cat-file"], -1, f"object {oid} is cut short".encode())
            left -= len(data)
            yield data
        self._process.stdout.read(1)
