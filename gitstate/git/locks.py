"""Git's lock files: which are there, and which are provably dead.

"No process has it open" proves nothing: a live owner holds no descriptor of its lock. A proof is that the file is
older than this boot; locks of a gitstate that was killed are cleared by its journal (`ownership.settle`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ..system import files, process

#: A repository with more refs than this in loose files is not searched to its end.
_REFS = 100_000


class Lock(NamedTuple):
    """A lock file. `dead`: it is older than this boot."""

    path: bytes
    dead: bool


def dead_locks_in(directory: bytes) -> tuple[bytes, ...]:
    """The dead locks that stand in one git directory itself; an empty tuple where it can't be read."""
    try:
        names = [name for name in os.listdir(directory) if name.endswith(b".lock")]
    except OSError:
        return ()
    paths = (os.path.join(directory, name) for name in names)
    return tuple(path for path in paths if process.older_than_boot(path))


def find_locks(git_dir: bytes, common_dir: bytes) -> list[Lock]:
    """Every lock of a worktree and of its repository, those of single refs too."""
    places = dict.fromkeys((git_dir, common_dir))
    found = [os.path.join(place, name) for place in places for name in _listed(place) if name.endswith(b".lock")]
    found += _below(os.path.join(common_dir, b"refs"))
    return [Lock(path, process.older_than_boot(path)) for path in found]


def remove_dead_locks(git_dir: bytes, common_dir: bytes) -> tuple[bytes, ...]:
    """Remove the dead locks of a workspace; returns their paths. One that can't be removed stays."""
    removed = []
    for lock in find_locks(git_dir, common_dir):
        try:
            # Asked again: a new owner may have taken it meanwhile.
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
        if seen > _REFS:
            return
