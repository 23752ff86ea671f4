"""The only module that runs git: scrubbed environment, bytes and NUL, typed results or GitError.

What a repository's configuration names as a program (fsmonitor, hooks, pagers, editors, askpass) is switched off
on every call; filters run only where `snapshot` asks for git's own way in, and never for a workspace of someone else.
"""

from __future__ import annotations

import os

from ..errors import NeedsPerson, NotAWorkspace
from ..system.child import Child
from ..system.stdlib import TYPE_CHECKING, Record
from .command import Git
from .oid import Oid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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

    @property
    def autocrlf(self) -> bool:
        """Whether git converts the line endings of every text file (`core.autocrlf` is true or input)."""
        return (self.setting("core.autocrlf") or "false").lower() not in ("false", "no", "off", "0")

    def is_true(self, name: str, default: bool = False) -> bool:
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
    return Opening(path, Git(path).start(*_SETTINGS, env=extra), None)


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
    settings = git.finish(listed, ok_codes=range(256))
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
    if (
        asked.returncode != 0
        and bare_too
        and git.run("rev-parse", "--is-bare-repository", ok_codes=(0, 128)) == b"true\n"
    ):
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
        out = Git(b"/").run("config", scope, "--includes", "-z", "--get-all", "safe.directory", ok_codes=range(256))
        named = (path for path in out.split(b"\0")[:-1] if path not in (b"", b"*"))
        found += [os.path.realpath(os.path.expanduser(path)) for path in named]
    return found


def foreign_owner(repository: Repository) -> int | None:
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
        data = b"ref: " + Git(git_dir).run("symbolic-ref", "--quiet", "HEAD", ok_codes=(0, 1))
    return os.fsdecode(data[5:].strip()) or None if data.startswith(b"ref: ") else None


def head_of(directory: bytes) -> Oid | None:
    """The commit that the repository in `directory` is on; None on an unborn branch."""
    out = Git(directory).run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", ok_codes=(0, 1, 128))
    return out.decode("ascii").strip() or None
