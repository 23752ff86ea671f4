"""A worktree and its repository: where they are, their configuration, what HEAD is. `opening` opens one."""

from __future__ import annotations

import os

from ..system.files import open_at_once
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .command import Git, Oid, is_oid, switch_off
from .gitdir import NO_HEAD, read_head_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Git may keep so many bytes of what a filter prints.
_MOST_PRINTED = 128 << 20
#: What git says where a filter prints more.
OVER_LIMIT = "over limit"
#: What git says where it ends because a partial clone lacks an object. A file that it was writing is left empty.
LACKED = b"from promisor remote"


class Repository(Record):
    """One worktree and its repository. All paths are absolute."""

    toplevel: bytes
    """The top of the worktree, symlinks resolved; of a bare repository its git directory."""
    git_dir: bytes
    """The worktree's own directory: `.git`, or `.git/worktrees/<id>` of a linked worktree."""
    common_dir: bytes
    """What all worktrees share: `.git` of the main worktree, which has it as `git_dir` too."""
    object_format: str
    """`sha1` or `sha256`."""
    config: dict[str, list[str]]
    """Every setting by its lower-case name (subsections keep their case), last value last; `true` for a bare key."""
    git: Git
    """Runs git at the top, with the configured hooks off; it holds no lock."""
    stranger: int | None = None
    """The uid of another user who owns a part of it, where nobody trusts its path; None as a rule."""
    runs_filters: bool = True
    """Whether the filters of its configuration run. Without them git looks into no submodule, which has its own."""
    unused: tuple[tuple[str, str], ...] = ()
    """What git is run without, because it would wait for ever or fail there: what it is, and the command that helps."""
    filter_limit: float | None = None
    """So many seconds a filter may take for one file; None where none is configured, or nobody set a limit."""

    @property
    def objects(self) -> bytes:
        """The object directory of the repository itself, alternates aside."""
        return os.path.join(self.common_dir, b"objects")

    @property
    def own(self) -> bytes:
        """The directory below `git_dir` for what gitstate keeps beside git's files; it may be missing."""
        return os.path.join(self.git_dir, b"gitstate")

    @property
    def zero(self) -> Oid:
        """The oid of all zeros, which means no object."""
        return "0" * (64 if self.object_format == "sha256" else 40)

    def setting(self, name: str) -> str | None:
        """The value of a setting without a subsection; None where it is not set."""
        values = self.config.get(name.lower())
        return values[-1] if values else None

    def promisors(self) -> list[str]:
        """The remotes from which git fetches what this partial clone lacks; none of a whole clone."""
        named = {key: values[-1] for key, values in self.config.items() if key.startswith("remote.")}
        ending = ".promisor"
        return [
            key.removeprefix("remote.").removesuffix(ending)
            for key, value in named.items()
            if key.endswith(ending) and parse_bool(value)
        ]

    def filters_off(self) -> list[str]:
        """Options for git that replace the filters of the configuration by none."""
        names = dict.fromkeys(key.rpartition(".")[0] for key in self.config if key.startswith("filter."))
        settings = ("clean", "smudge", "process", "required")
        return [switch_off(f"{name}.{setting}") for name in names for setting in settings]

    def filter_env(self, size: int = 0) -> dict[str, str]:
        """Variables for a git that may run a filter: it ends where one prints too much for a file of `size` bytes.

        Git keeps all that a filter prints in memory, and some print without end.
        """
        return {} if self.filter_limit is None else {"GIT_ALLOC_LIMIT": str(max(_MOST_PRINTED, 4 * size))}

    @property
    def autocrlf(self) -> bool:
        """Whether git converts the line endings of every text file (`core.autocrlf` is true or input)."""
        value = self.setting("core.autocrlf")
        return value is not None and parse_bool(value) is not False

    def is_true(self, name: str, default: bool = False) -> bool:
        """Whether a setting of git's own is true; `default` where it is not set."""
        value = self.setting(name)
        return default if value is None else bool(parse_bool(value))


def held_here(repository: Repository, oids: Collection[Oid]) -> set[Oid]:
    """Those of the objects that are in this clone; no remote is asked for the others. Raises GitError."""
    argv = ("rev-list", "--objects", "--no-object-names", "--no-walk", "--ignore-missing", "--missing=allow-any")
    lines = "".join(f"{oid}\n" for oid in oids).encode("ascii")
    return {*repository.git.run(*argv, "--stdin", input=lines).decode("ascii").split()} if oids else set()


def lacked_files(repository: Repository, blobs: Mapping[bytes, Oid]) -> set[bytes]:
    """Those of these paths whose blob a partial clone lacks; none of a whole clone. Raises GitError."""
    if not blobs or not repository.promisors():
        return set()
    here = held_here(repository, {*blobs.values()})
    return {path for path, oid in blobs.items() if oid not in here}


#: What git multiplies a number by that has this suffix (`git help config`, the type int).
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_bool(text: str) -> bool | None:
    """A boolean as git reads one (git_parse_maybe_bool in git's parse.c); None where git would refuse it.

    A key without a value stands as `true` in `Repository.config`; an empty value is false, a number other than 0 true.
    """
    word = text.lower()
    if word in ("true", "yes", "on"):
        return True
    if word in ("false", "no", "off", ""):
        return False
    digits, unit = (word[:-1], _UNITS[word[-1]]) if word[-1] in _UNITS else (word, 1)
    digits = digits.lstrip(" \t\n\v\f\r")
    sign, plain = (digits[0], digits[1:]) if digits[:1] in ("+", "-") else ("", digits)
    if plain.startswith("0") and plain[1:2] not in ("x", "b"):
        # C reads a number that begins with 0 as octal; only a C library of today reads `0b1`.
        plain = "0o" + plain
    if not plain.isascii() or not plain.isalnum():
        return None
    try:
        value = int(sign + plain, 0) * unit
    except ValueError:
        return None
    return value != 0 if -(1 << 31) < value < 1 << 31 else None


def is_attributes(path: bytes) -> bool:
    """Whether a path is that of a .gitattributes file."""
    return path.endswith(b".gitattributes") and path.rpartition(b"/")[2] == b".gitattributes"


def has_conversions(repository: Repository) -> bool:
    """Whether settings, or attributes outside the worktree, may convert files."""
    if repository.setting("core.attributesfile") or repository.autocrlf:
        return True
    config_home = os.environb.get(b"XDG_CONFIG_HOME") or os.path.expanduser(b"~/.config")
    attributes = (
        os.path.join(repository.common_dir, b"info", b"attributes"),
        os.path.join(config_home, b"git", b"attributes"),
        b"/etc/gitattributes",
    )
    return any(os.path.exists(path) for path in attributes)


def shares_configuration(inside: Repository, repository: Repository) -> bool:
    """Whether `inside` is a worktree of `repository`, and so has its configuration, `config.worktree` included."""
    common = repository.common_dir
    return inside.common_dir == common and inside.git_dir.startswith(os.path.join(common, b"worktrees", b""))


def git_dir_of(directory: bytes) -> bytes | None:
    """The git directory, symlinks resolved, to which `.git` in a directory leads; None where it leads to none.

    The rule is git's (`is_nonbare_repository_dir`): with a stale or broken `.git` all files beside it are ordinary.
    """
    dot_git = os.path.join(directory, b".git")
    try:
        if os.path.isfile(dot_git):
            with open(dot_git, "rb") as file:
                data = file.read(65_536)
            if not data.startswith(b"gitdir: "):
                return None
            dot_git = os.path.join(directory, data[8:].rstrip(b"\r\n"))
        return os.path.realpath(dot_git) if _is_git_dir(dot_git) else None
    except (OSError, ValueError):
        # One that may not be read is a repository to git, too.
        return os.path.realpath(dot_git) if os.path.lexists(dot_git) else None


def _is_git_dir(path: bytes) -> bool:
    """Git's `is_git_directory`. Raises OSError where HEAD can't be read."""
    head_file = os.path.join(path, b"HEAD")
    if not os.path.lexists(head_file) or os.path.isdir(head_file):
        return False
    head = read_head_file(path)
    named = head[4:].lstrip().startswith(b"refs/") if head.startswith(b"ref:") else is_oid(head[:40].decode("latin-1"))
    common = path
    with suppress(FileNotFoundError), open(os.path.join(path, b"commondir"), "rb", opener=open_at_once) as file:
        common = os.path.join(path, file.read(65_536).rstrip(b"\r\n"))
    return named and all(os.path.isdir(os.path.join(common, name)) for name in (b"objects", b"refs"))


def module_place(repository: Repository, name: str) -> bytes:
    """Where git keeps the git dir of a submodule of this worktree by its name (`extensions.submodulePathConfig`)."""
    named = repository.config.get(f"submodule.{name}.gitdir")
    if named and repository.is_true("extensions.submodulepathconfig"):
        return os.path.normpath(os.path.join(repository.toplevel, os.fsencode(named[-1])))
    return os.path.join(repository.git_dir, b"modules", os.fsencode(name))


def read_head(git_dir: bytes) -> str | None:
    """The full name of the branch that HEAD is on; None where it is detached, or there is no HEAD."""
    try:
        data = read_head_file(git_dir)
    except (FileNotFoundError, IsADirectoryError):
        # Git opens no such repository: a save is taken of what can be read.
        return None
    if data.startswith(NO_HEAD):
        # Only git can read a reftable. Status 1 and no output: detached. The branch may be a symbolic ref, too.
        # A directory that git has to find is refused for its owner, or as a bare repository.
        git = Git(git_dir, ("--git-dir=.",))
        data = b"ref: " + git.run("symbolic-ref", "--quiet", "--no-recurse", "HEAD", ok_codes=(0, 1))
    return os.fsdecode(data[5:].strip()) or None if data.startswith(b"ref: ") else None


def head_of(directory: bytes) -> Oid | None:
    """The commit of HEAD of the repository in `directory`; None on an unborn branch, or where it can't be read."""
    out = Git(directory).run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", ok_codes=(0, 1, 128))
    return out.decode("ascii").strip() or None


def folds_case(top: bytes) -> bool:
    """Whether `.git` of the worktree `top` answers to another name as well: its file system folds case."""
    return os.path.lexists(os.path.join(top, b".GIT")) and b".GIT" not in os.listdir(top)


class HooksPath(Record):
    """Where git looks for hooks."""

    directory: bytes
    scope: str | None
    """The scope of `core.hooksPath` (`man git-config`); None where it is not set."""


def hooks_path(repository: Repository) -> HooksPath:
    """Where git looks for the hooks of this worktree."""
    argv = ("config", "--show-scope", "-z", "--type=path", "--get-all", "core.hooksPath")
    values = repository.git.run(*argv, ok_codes=(0, 1)).split(b"\0")[:-1]
    # gitstate itself sets core.hooksPath on the command line of each git, so that no hook runs.
    found = [(scope, path) for scope, path in zip(values[::2], values[1::2], strict=True) if scope != b"command"]
    if not found:
        return HooksPath(os.path.join(repository.common_dir, b"hooks"), None)
    scope, path = found[-1]
    return HooksPath(os.path.normpath(os.path.join(repository.toplevel, path)), scope.decode("ascii", "replace"))
