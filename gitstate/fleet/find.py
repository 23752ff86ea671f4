"""Find workspaces below a directory, where nobody registered them."""

from __future__ import annotations

import os
import stat

from ..system import files
from ..system.stdlib import Record

#: Directories of tools: they hold thousands of files and no workspace.
_PASSED_OVER = frozenset(
    (
        b"node_modules",
        b"bower_components",
        b"__pycache__",
        b"site-packages",
        b".venv",
        b"venv",
        b".tox",
        b".nox",
        b".mypy_cache",
        b".pytest_cache",
        b".ruff_cache",
        b".cache",
        b".cargo",
        b".rustup",
        b".gradle",
        b".m2",
        b".npm",
        b"lost+found",
    )
)


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
