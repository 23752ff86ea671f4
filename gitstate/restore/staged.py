"""Writes the objects of staged files again that a power cut left empty."""

from __future__ import annotations

import os

from ..errors import GitError
from ..format.manifest import LeftOut
from ..git.command import is_oid
from ..git.entries import list_index
from ..objects.tree import GITLINK
from ..system import files
from ..system.stdlib import TYPE_CHECKING, suppress
from .paths import Workspace

if TYPE_CHECKING:
    pass


LOST = "the staged version is lost: a power cut left its object empty; stage the file again (git add)"


def restore_staged_objects(workspace: Workspace, *, dry_run: bool) -> list[LeftOut]:
    """Write the empty objects of staged files again; those for which that is impossible are returned."""
    empty = _empty_objects(workspace.repository.objects)
    if not empty:
        return []
    try:
        entries = list_index(workspace.git)
    except GitError:
        return []  # the index is torn: the save's is put back
    staged = [(entry.path, entry.oid) for entry in entries if entry.oid in empty and entry.mode != GITLINK]
    if dry_run:
        return [LeftOut(path, LOST, True) for path, _ in staged]
    for path in {empty[oid] for _, oid in staged}:
        files.remove(path)
    workspace.reader.restart()
    return [LeftOut(path, LOST, True) for path, oid in staged if not _is_back(workspace, path, oid)]


def _is_back(workspace: Workspace, path: bytes, oid: str) -> bool:
    """Whether the object can be read, from a pack or after it was written from the worktree's file."""
    if workspace.reader.kinds([oid])[0] is not None:
        return True
    full = os.path.join(workspace.repository.toplevel, path)
    if os.path.islink(full) or not os.path.isfile(full):
        return False
    with suppress(GitError):
        argv = ("-c", "core.fsync=loose-object", "hash-object", "-w", b"--path=" + path, "--", full)
        return workspace.git.run(*argv).strip() == oid.encode("ascii")
    return False


def _empty_objects(objects: bytes) -> dict[str, bytes]:
    """The empty loose objects of a repository: their ids, and the paths of their files."""
    found = {}
    for number in range(256):
        directory = os.path.join(objects, b"%02x" % number)
        try:
            with os.scandir(directory) as listing:
                empty = [entry for entry in listing if entry.stat(follow_symlinks=False).st_size == 0]
        except OSError:
            continue
        for entry in empty:
            oid = os.fsdecode(b"%02x" % number + entry.name)
            if is_oid(oid):
                found[oid] = entry.path
    return found
