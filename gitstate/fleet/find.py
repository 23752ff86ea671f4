"""Find known workspaces, and workspaces below a directory, and take a first look at each."""

from __future__ import annotations

import os
import stat

from ..errors import GitstateError
from ..system import files, forkpool
from ..system.stdlib import TYPE_CHECKING, Record
from ..workspace.peek import Peeker, WorkspacePeek

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..git.repository import Repository

#: Seconds for one look, which takes less than a millisecond unless the disk does not answer.
PEEK_DEADLINE = 10.0
#: The cores that this process may use: so many look at workspaces at the same time.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
#: Workspaces that are opened at the same time. Each starts several git processes.
WORKERS = min(8, max(2, os.cpu_count() or 2))
#: Directories of tools: they hold thousands of files and no workspace.
_TOOL_DIRECTORIES = frozenset(
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
    """Workspaces that were found. `complete` is False if a limit ended a walk."""

    paths: tuple[bytes, ...]
    complete: bool
    bare: Repository | None = None
    """The bare repository that one stands in: all its worktrees may be gone."""


def workspaces(here: bytes, roots: Sequence[bytes] = (), *, everything: bool = False) -> Found:
    """The workspaces found below `roots`. Without roots, or with `everything`: the worktrees of the repository in
    `here`, which may be bare, and all registered workspaces.
    """
    from ..git.opening import open_repository
    from ..recover.facts import worktrees
    from ..workspace import registry

    found: list[bytes] = []
    complete, bare = True, None
    if everything or not roots:
        try:
            repository = open_repository(here, bare_too=True)
            bare = repository if is_bare(repository) else None
            listed = worktrees(repository)
            # Git lists the directory of a bare repository too.
            found += [path for path in listed if os.path.lexists(os.path.join(path, b".git"))]
        except GitstateError:
            pass
        found += registry.registered()
    for root in roots:
        walked = find(root)
        found += walked.paths
        complete = complete and walked.complete
    return Found(tuple(dict.fromkeys(found)), complete, bare)


def is_bare(repository: Repository) -> bool:
    """Whether one that was opened with `bare_too` is bare."""
    return repository.toplevel == repository.git_dir


def peek_all(paths: Sequence[bytes], looked_at: Callable[[int], None] = lambda _: None) -> list[WorkspacePeek]:
    """The first look at each path, in their order. A path that does not answer in time is `unreachable`.

    `looked_at` is called with the number of those that are done.
    """
    peeker = Peeker(trusted_directories)
    answers = forkpool.stream(paths, peeker.peek, patience=PEEK_DEADLINE, lanes=CORES, done=looked_at)
    return [
        WorkspacePeek(path, "unreachable") if seen is forkpool.LOST else seen
        for path, seen in zip(paths, answers, strict=True)
    ]


def trusted_directories() -> list[bytes]:
    """The paths that are named in safe.directory."""
    from ..git.damaged import refused

    return refused.trusted_directories()


def find(root: bytes, *, depth: int = 8, entries: int = 500_000) -> Found:
    """The workspaces in and below the directory `root`, including linked worktrees and nested repositories.

    Reads only directories: at most `entries` names, and `depth` levels below the root. It follows no symlink, does not
    leave the file system of the root, and does not look into `.git` directories or the directories of tools.
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
                    elif entry.name not in _TOOL_DIRECTORIES and _is_on(entry, device):
                        below.append(entry.path)
        except OSError:
            # We may not read it, or it is gone by now.
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
    """Whether a directory with `objects` and `refs` in it is a git directory, in which nothing is a worktree."""
    return os.path.isfile(os.path.join(directory, b"HEAD")) and not os.path.lexists(os.path.join(directory, b".git"))


def _is_repository(entry: os.DirEntry[bytes]) -> bool:
    """Whether a `.git` is a git directory or a file that names one. A symlink to a directory counts."""
    mode = entry.stat(follow_symlinks=True).st_mode
    if stat.S_ISREG(mode):
        data = files.read_limited(entry.path, 65_536)
        return data is not None and data.startswith(b"gitdir: ")
    return stat.S_ISDIR(mode) and os.path.lexists(os.path.join(entry.path, b"HEAD"))
