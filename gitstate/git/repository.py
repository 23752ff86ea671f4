"""A worktree and its repository: where they are, their configuration, who owns them, what HEAD is."""

from __future__ import annotations

import os

from ..errors import NeedsPerson, NotAWorkspace
from ..system.child import Child
from ..system.files import open_at_once, strange_kind
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .command import Git, Oid, is_oid, is_readable, switch_off, user_files
from .gitdir import NO_HEAD, linked_places, path_named_in, read_head_file, strange_files_above

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .gitdir import StrangeFile


#: Git may keep so many bytes of what a filter prints.
_MOST_PRINTED = 128 << 20
#: What git says where a filter prints more.
OVER_LIMIT = "over limit"


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
    if plain.startswith("0") and not plain.startswith("0x"):
        # C reads a number that begins with 0 as octal.
        plain = "0o" + plain
    if not plain.isascii() or not plain.isalnum():
        return None
    try:
        value = int(sign + plain, 0) * unit
    except ValueError:
        return None
    return value != 0 if -(1 << 31) < value < 1 << 31 else None


def open_repository(path: bytes, *, bare_too: bool = False) -> Repository:
    """The repository of the worktree that `path` is in, or with `bare_too` a bare one.

    Of a repository of another user no program runs, unless its path is trusted. Raises NotAWorkspace where there is
    none, git refuses to open it (safe.directory), or it is bare; NeedsPerson where a link stands for a directory.
    """
    return _opened(start_opening(path), bare_too)


_SETTINGS = ("config", "--list", "--show-origin", "-z")
_WHERE = ("rev-parse", "--path-format=absolute")
_QUESTIONS = ("--absolute-git-dir", "--git-common-dir", "--show-object-format", "--show-toplevel")


class Opening(Record):
    """A repository that is being opened: git works while the caller does something else."""

    path: bytes
    listed: Child | None
    """`git config --list`; None where `path` is no directory."""
    asked: Child | None
    """`git rev-parse`, which tells where all is; None where the configuration is expected to tell (`_is_plain`)."""
    known: Repository | None = None
    """The repository, where the caller has opened it a moment ago."""
    strange: StrangeFile | None = None
    """At what git would wait for ever, or fail: no git is started."""

    def is_plain(self) -> bool:
        """Whether a directory `.git` stands at `path`, and its configuration alone is asked where all is."""
        return self.listed is not None and self.asked is None

    def finish(self) -> Repository:
        """The repository. Raises as `open_repository` does."""
        return _opened(self, False) if self.known is None else self.known


def start_opening(path: bytes) -> Opening:
    """Start what `open_repository` does."""
    if not os.path.isdir(path):
        return Opening(path, None, None)
    strange = strange_files_above(path)
    if strange:
        return Opening(path, None, None, strange=strange[0])
    above = os.path.dirname(os.path.realpath(path))
    if b":" in above or not _has_git_dir(path):
        return _ask_both(path)
    # Git must not go on to a repository above: its configuration would have the same origin, `file:.git/config`.
    env = {"GIT_CEILING_DIRECTORIES": os.fsdecode(above)}
    return Opening(path, Git(path).start(*_SETTINGS, env=env), None)


def _ask_both(path: bytes) -> Opening:
    git = Git(path)
    listed = git.start(*_SETTINGS)
    return Opening(path, listed, git.start(*_WHERE, *_QUESTIONS))


def _has_git_dir(path: bytes) -> bool:
    dot_git = os.path.join(path, b".git")
    return os.path.isdir(dot_git) and not os.path.islink(dot_git)


def _opened(opening: Opening, bare_too: bool) -> Repository:
    path, listed, asked = opening.path, opening.listed, opening.asked
    git = Git(path)
    if opening.strange is not None:
        from .damaged.refused import why_strange

        raise why_strange(path, opening.strange)
    if listed is None:
        raise NotAWorkspace(f"{os.fsdecode(path)}: no such directory", hint="gitstate -C PATH … names a git worktree")
    settings = git.finish(listed, ok_codes=range(256))
    fields = settings.split(b"\0")[:-1]
    config = settings_of(fields[1::2])
    hooks = dict.fromkeys(key.rpartition(".")[0] for key in config if key.startswith("hook.") and key.count(".") > 1)
    options = tuple(switch_off(f"{hook}.enabled") for hook in hooks)
    if asked is None and (listed.returncode != 0 or not _is_plain(config, fields[::2])):
        return _opened(_ask_both(path), bare_too)
    if asked is None:
        toplevel = os.path.realpath(path)
        git_dir = common_dir = os.path.join(toplevel, b".git")
        object_format = b"sha1"
    else:
        git_dir, common_dir, object_format, toplevel = _where(path, asked, bare_too)
        if toplevel != git_dir:
            _refuse_other_worktree(toplevel, git_dir)
            if git_dir != common_dir:
                _refuse_copy(toplevel, git_dir)
            _refuse_repository_above(path, toplevel, git_dir, common_dir)
    git = Git(toplevel, options)
    return as_permitted(Repository(toplevel, git_dir, common_dir, object_format.decode("ascii"), config, git))


def settings_of(items: Iterable[bytes]) -> dict[str, list[str]]:
    """The values of each setting in the items that `git config --list -z` prints."""
    config: dict[str, list[str]] = {}
    for item in items:
        name, line_end, value = item.partition(b"\n")
        config.setdefault(os.fsdecode(name), []).append(os.fsdecode(value) if line_end else "true")
    return config


def _is_plain(config: Mapping[str, Sequence[str]], origins: Sequence[bytes]) -> bool:
    """Whether all of a repository is where it is by default, so that `git rev-parse` need not be asked.

    Git was started beside a directory `.git`, took its configuration from there, and nothing in it says that the
    worktree is elsewhere, the repository is bare, or its format has an extension.
    """
    # All values count, not the last: `git config` shows included files too, which git ignores for this purpose.
    special = "core.worktree" in config or any(value != "false" for value in config.get("core.bare", ()))
    extended = any(key.startswith("extensions.") for key in config)
    return b"file:.git/config" in origins and not special and not extended


def _where(path: bytes, asked: Child, bare_too: bool) -> list[bytes]:
    """The answers to `_QUESTIONS`. Raises NotAWorkspace."""
    git = Git(path)
    out, stderr = asked.communicate()
    if (
        asked.returncode != 0
        and bare_too
        and git.run("rev-parse", "--is-bare-repository", ok_codes=(0, 128)) == b"true\n"
    ):
        out = git.run(*_WHERE, *_QUESTIONS[:-1], "--absolute-git-dir")
    elif asked.returncode != 0:
        from .damaged.refused import why_not_opened

        raise why_not_opened(path, stderr)
    lines = out.split(b"\n")[:-1]
    if len(lines) == len(_QUESTIONS):
        return lines
    # A path contains a line end: ask one question at a time.
    return [git.run(*_WHERE, question)[:-1] for question in _QUESTIONS]


def _refuse_other_worktree(toplevel: bytes, git_dir: bytes) -> None:
    """Raises NotAWorkspace where the worktree's own `.git` does not lead to its git dir: git run there finds another.

    `core.worktree` may name any directory, and that of a submodule that was moved names its old place.
    """
    if git_dir_of(toplevel) != os.path.realpath(git_dir):
        from .damaged.refused import has_worktree_elsewhere

        raise has_worktree_elsewhere(toplevel, git_dir)


def _refuse_copy(toplevel: bytes, git_dir: bytes) -> None:
    """Raises NotAWorkspace where a linked worktree was copied: HEAD, index and saves are those of the one it is of."""
    link, mine = path_named_in(os.path.join(git_dir, b"gitdir"), b"", git_dir), os.path.join(toplevel, b".git")
    if link is None or link == mine or not os.path.lexists(link) or os.path.samefile(link, mine):
        return
    if git_dir_of(os.path.dirname(link)) == os.path.realpath(git_dir):
        from .damaged.refused import is_copy_of

        raise is_copy_of(toplevel, os.path.dirname(link))


def _refuse_repository_above(path: bytes, toplevel: bytes, git_dir: bytes, common_dir: bytes) -> None:
    """Raises NotAWorkspace where git passed a git directory that it can't read, and found the repository above it.

    So it does where a linked worktree inside of another one has lost its `.git`. And where `path` is in no worktree of
    the git directory: `core.worktree` names another place.
    """
    place = os.path.realpath(path)
    if place != toplevel and not place.startswith(os.path.join(toplevel, b"")):
        above = place
        while len(above) > 1 and not os.path.samefile(above, toplevel):
            above = os.path.dirname(above)
        if len(above) == 1:
            from .damaged.refused import has_other_worktree

            raise has_other_worktree(place, toplevel, git_dir)
        # It was named in other letters, on a file system that folds case.
        toplevel = above
    links = linked_places(common_dir) if place != toplevel else ()
    while place != toplevel and len(place) > 1:
        dot_git = os.path.join(place, b".git")
        if os.path.isdir(dot_git) or dot_git in links:
            from .damaged.refused import refuse_passed_over

            refuse_passed_over(place, toplevel, is_linked=dot_git in links)
        place = os.path.dirname(place)


def _stranger(repository: Repository) -> int | None:
    """The uid of another user who owns a part of the repository; None where all is ours, or its path is trusted."""
    mine = os.geteuid()
    places = [repository.toplevel, os.path.join(repository.toplevel, b".git"), repository.git_dir]
    if mine == 0:
        # Git does not ask who owns what worktrees share: a worktree that root added elsewhere is root's.
        places.append(repository.common_dir)
    others = [uid for uid in map(_owner, places) if uid not in (None, mine)]
    if not others:
        return None
    from .damaged.refused import is_trusted

    return None if is_trusted(repository.toplevel, repository.common_dir) else others[0]


def _owner(path: bytes) -> int | None:
    """The uid of the owner of `path`; None where there is nothing, as at `.git` in a bare repository."""
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def as_permitted(repository: Repository) -> Repository:
    """What may be done with a repository that was just opened: a stranger's runs no program. Raises NeedsPerson."""
    for path in dict.fromkeys((repository.own, os.path.join(repository.common_dir, b"gitstate"))):
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path)):
            raise NeedsPerson(
                f"{os.fsdecode(path)} is not a directory of the repository's own; nothing was changed",
                hint="look where it leads, then remove it",
            )
    if has_damaged_pack_index(repository.common_dir):
        options = (*repository.git.options, "-c", "core.multiPackIndex=false")
        repository = repository._replace(git=repository.git._replace(options=options))
    repository = _without_strange(repository)
    stranger = _stranger(repository)
    if stranger is None:
        return repository
    from .damaged.refused import refuse_links

    repository = without_filters(repository)._replace(stranger=stranger)
    refuse_links(stranger, repository.git_dir, repository.common_dir)
    return repository


#: The settings that name a file which git reads at each look, and its name where none is set.
_NAMING = (("core.excludesFile", b"git/ignore"), ("core.attributesFile", b"git/attributes"))


def _without_strange(repository: Repository) -> Repository:
    """The same repository, whose git reads no FIFO or device in the place of the user's patterns and attributes."""
    home = os.environb.get(b"XDG_CONFIG_HOME") or os.path.expanduser(b"~/.config")
    for key, default in _NAMING:
        value = repository.setting(key)
        path = os.path.join(home, default) if value is None else os.path.expanduser(os.fsencode(value))
        kind = strange_kind(os.path.join(repository.toplevel, path)) if path else None
        if kind:
            from .damaged.refused import way_without

            options = (*repository.git.options, "-c", f"{key}=")
            unused = (*repository.unused, (f"{os.fsdecode(path)} is {kind}", way_without(repository.git, key, path)))
            repository = repository._replace(git=repository.git._replace(options=options), unused=unused)
    return repository


def left_unread(repository: Repository) -> list[tuple[str, str]]:
    """What git is run without, as `Repository.unused`; the files of the user's configuration are among it."""
    files = user_files(os.environ)
    if all(map(is_readable, files)):
        return list(repository.unused)
    from .strange import unused_configuration

    return [*repository.unused, *unused_configuration(files)]


MULTI_PACK_INDEX = b"objects/pack/multi-pack-index"


def has_damaged_pack_index(common_dir: bytes) -> bool:
    """Whether the index of several packs is no such file: git then finds no packed object. The packs have their own."""
    try:
        fd = open_at_once(os.path.join(common_dir, MULTI_PACK_INDEX), os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.read(fd, 4) != b"MIDX"
    except OSError:
        return True
    finally:
        os.close(fd)


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


def without_filters(repository: Repository) -> Repository:
    """The same repository with the filters of its configuration replaced by none, and without any transport.

    A push, or a git that fetches a missing object, would run programs that it names (`core.sshCommand`, `ext::`).
    """
    options = [*repository.git.options, *repository.filters_off(), "-c", "protocol.allow=never"]
    for key in repository.config:
        # It would win over `protocol.allow`.
        if key.startswith("protocol.") and key.count(".") > 1 and key.endswith(".allow") and "=" not in key:
            options += ["-c", f"{key}=never"]
    git = repository.git._replace(options=tuple(options))
    return repository._replace(git=git, runs_filters=False)


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


def read_head(git_dir: bytes) -> str | None:
    """The full name of the branch that HEAD is on; None where it is detached, or there is no HEAD."""
    try:
        data = read_head_file(git_dir)
    except (FileNotFoundError, IsADirectoryError):
        # Git opens no such repository: a save is taken of what can be read.
        return None
    if data.startswith(NO_HEAD):
        # Only git can read a reftable. Status 1 and no output: detached.
        data = b"ref: " + Git(git_dir).run("symbolic-ref", "--quiet", "HEAD", ok_codes=(0, 1))
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
