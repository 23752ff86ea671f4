"""Git's lock files: which there are, and which are provably stale.

That no process has a lock open proves nothing: a git that holds a lock may have closed it. A lock older than this boot
is stale. Those of a gitstate that was killed are named in its journal (`workspace.ownership`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ..system import files, process

#: At most about so many loose refs are searched for locks.
_MOST_REFS = 100_000


class Lock(NamedTuple):
    """A lock file of git."""

    path: bytes
    dead: bool
    """It is older than this boot."""


def dead_locks_in(directory: bytes) -> tuple[bytes, ...]:
    """The dead locks directly in one git directory; none where it can't be read."""
    try:
        names = [name for name in os.listdir(directory) if name.endswith(b".lock")]
    except OSError:
        return ()
    paths = (os.path.join(directory, name) for name in names)
    return tuple(path for path in paths if process.older_than_boot(path))


def find_locks(git_dir: bytes, common_dir: bytes) -> list[Lock]:
    """Every lock of a worktree and of its repository, including those of refs."""
    places = dict.fromkeys((git_dir, common_dir))
    found = [os.path.join(place, name) for place in places for name in _listed(place) if name.endswith(b".lock")]
    found += _below(os.path.join(common_dir, b"refs"))
    return [Lock(path, process.older_than_boot(path)) for path in found]


def remove_dead_locks(git_dir: bytes, common_dir: bytes) -> tuple[bytes, ...]:
    """Remove the dead locks of a workspace, as far as possible; returns the paths of those that are gone."""
    removed = []
    for lock in find_locks(git_dir, common_dir):
        try:
            # Checked again: a new git may have taken the lock meanwhile.
            if lock.dead and process.older_than_boot(lock.path):
                files.remove(lock.path)
                removed.append(lock.path)
        except OSError:
            continue
    return tuple(removed)


def _listed(directory: bytes) -> list[bytes]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _below(top: bytes) -> Iterator[bytes]:
    seen = 0
    for directory, _, names in os.walk(top):
        seen += len(names)
        yield from (os.path.join(directory, name) for name in names if name.endswith(b".lock"))
        if seen > _MOST_REFS:
            return
