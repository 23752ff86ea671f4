"""The list of workspaces: multi-valued `gitstate.workspace` in the user's global git config, and what a walk finds.

`git config` takes the file's lock, fails at once where another holds it (git 2.39), and copies the file whole, so a
change is never torn; forty savers at once need patience, not a lock of ours. Values are compared as they stand
(`--fixed-value`), for a path may hold every character of a pattern.
"""

from __future__ import annotations

import os
import stat
import time

from . import files
from .errors import GitError, GitstateError, TryAgain
from .files import Deadline
from .git import Git, Repository
from .light import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY = "gitstate.workspace"
#: How long a save waits for others that write the global config, in seconds. All of it comes after the marker.
_PATIENCE = 2.0
#: A lock on the global config that is older than this, in seconds, was left by a git that was killed.
_STALE = 30.0
#: What nobody keeps a workspace in, and what holds thousands of files.
_PASSED_OVER = frozenset(
    (
        b"node_modules", b"bower_components", b"__pycache__", b"site-packages", b".venv", b"venv", b".tox", b".nox",
        b".mypy_cache", b".pytest_cache", b".ruff_cache", b".cache", b".cargo", b".rustup", b".gradle", b".m2",
        b".npm", b"lost+found",
    )
)  # fmt: skip


def register(repository: Repository) -> None:
    """Add the workspace to the list, for `recover --all` after a reboot. Never raises, and costs nothing when listed.

    `git config gitstate.register false`, or GITSTATE_REGISTER=false, keeps workspaces out of it.
    """
    wanted = os.environ.get("GITSTATE_REGISTER") or repository.setting("gitstate.register") or "true"
    if wanted.lower() in ("false", "no", "off", "0"):
        return
    if os.fsdecode(repository.toplevel) in repository.config.get(KEY, ()):
        return
    try:
        add([repository.toplevel])
    except (GitstateError, OSError):
        # The work is saved; `gitstate doctor` tells what is wrong with the configuration.
        return


def add(paths: Iterable[bytes]) -> None:
    """Put absolute paths on the list, each once. Raises GitError, or TryAgain where the config stays locked."""
    for path in paths:
        # Replaces the one value that is equal, and adds it where none is: twice is once, under git's own lock.
        _change("--replace-all", KEY, path, path)


def remove(paths: Iterable[bytes]) -> list[bytes]:
    """Take absolute paths off the list; returns those that stood on it. Raises as `add` does."""
    return [path for path in paths if _change("--unset-all", KEY, path)]


def registered() -> list[bytes]:
    """The listed workspaces, whether they exist or not, each once, in the order of the config.

    Raises GitError where git can't read the configuration: an unreadable list is not an empty one.
    """
    out = Git(b"/").run("config", "--global", "--includes", "-z", "--get-all", KEY, fine=(0, 1))
    return [path for path in dict.fromkeys(out.split(b"\0")[:-1]) if path.startswith(b"/")]


def config_file() -> bytes:
    """The file that `git config --global` writes: GIT_CONFIG_GLOBAL, ~/.gitconfig, or the one below XDG_CONFIG_HOME."""
    named = os.environb.get(b"GIT_CONFIG_GLOBAL")
    if named:
        return named
    home = os.path.expanduser(b"~")
    plain = os.path.join(home, b".gitconfig")
    other = os.path.join(os.environb.get(b"XDG_CONFIG_HOME") or os.path.join(home, b".config"), b"git", b"config")
    return other if os.path.exists(other) and not os.path.exists(plain) else plain


def config_lock() -> bytes:
    """The lock of that file. Git follows a symlink to the file itself."""
    return os.path.realpath(config_file()) + b".lock"


def _change(*args: str | bytes) -> bool:
    """Change the global config; False where there was nothing to unset (status 5 of git-config)."""
    deadline = Deadline(_PATIENCE)
    while True:
        process = Git(b"/").start("config", "--global", "--fixed-value", *args)
        _, said = process.communicate()
        if process.returncode == 5:
            return False
        if process.returncode == 0:
            # Git renames the new file into place unsynced; a power cut would leave an empty one, and no list.
            files.fsync_path(os.path.realpath(config_file()))
            return True
        if b"could not lock" not in said or b"File exists" not in said:
            raise GitError(["config"], process.wait(), said)
        if deadline.passed() or _is_stale(config_lock()):
            lock = os.fsdecode(config_lock())
            raise TryAgain(f"{lock} is held by another git, or was left behind", hint="gitstate doctor")
        # Not all at the same moment again.
        time.sleep(0.002 + os.urandom(1)[0] / 5000)


def _is_stale(lock: bytes) -> bool:
    """Whether waiting for this lock is pointless: no git holds it for so long."""
    try:
        return files.older_than_boot(lock) or time.time() - os.lstat(lock).st_mtime > _STALE
    except OSError:
        return False


class Found(Record):
    """Workspaces below a root, in the order of their paths; `complete` is False where a bound ended the walk."""

    paths: tuple[bytes, ...]
    complete: bool


def find(root: bytes, *, depth: int = 8, entries: int = 500_000) -> Found:
    """The workspaces in and below the directory `root`, linked worktrees and nested repositories too.

    Reads directories only: at most `entries` names, `depth` levels below the root. It follows no symlink, leaves the
    root's file system to no other, and never looks into `.git` directories or where tools keep what they downloaded.
    """
    root = os.path.realpath(root)
    found: list[bytes] = []
    complete = True
    try:
        device = os.stat(root).st_dev
    except OSError:
        return Found((), False)
    waiting = [(root, 0)]
    while waiting:
        directory, level = waiting.pop()
        try:
            with os.scandir(directory) as listing:
                below = []
                for entry in listing:
                    entries -= 1
                    if entries < 0:
                        return Found(tuple(sorted(found)), False)
                    if entry.name == b".git":
                        if _is_repository(entry):
                            found.append(directory)
                    elif entry.name not in _PASSED_OVER and _is_on(entry, device):
                        below.append(entry.path)
        except OSError:
            # Not ours to read, or gone meanwhile.
            continue
        if {b"objects", b"refs"} <= {os.path.basename(path) for path in below} and _is_bare(directory):
            continue
        if level < depth:
            waiting += [(path, level + 1) for path in below]
        elif below:
            complete = False
    return Found(tuple(sorted(found)), complete)


def _is_on(entry: os.DirEntry[bytes], device: int) -> bool:
    """Whether an entry is a directory, and on this file system."""
    return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_dev == device


def _is_bare(directory: bytes) -> bool:
    """Whether a directory that holds objects and refs is a git directory: nothing in it is a worktree."""
    return os.path.isfile(os.path.join(directory, b"HEAD")) and not os.path.lexists(os.path.join(directory, b".git"))


def _is_repository(entry: os.DirEntry[bytes]) -> bool:
    """Whether a `.git` is a git directory, or a file that names one. A symlink counts where it leads to a directory."""
    mode = entry.stat(follow_symlinks=True).st_mode
    if stat.S_ISREG(mode):
        data = files.read_limited(entry.path, 65_536)
        return data is not None and data.startswith(b"gitdir: ")
    return stat.S_ISDIR(mode) and os.path.lexists(os.path.join(entry.path, b"HEAD"))
