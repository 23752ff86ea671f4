"""A pending save whose refs another program has deleted, as `git fetch --prune` does where it fetches into `refs/*`.

The live context names the archive of the pending save, in the git directory. As long as git has the objects (two weeks,
unless somebody prunes them) the refs are made again. Whoever resolves a save in another way changes that context, or
leaves one of its refs.
"""

from __future__ import annotations

from ..errors import CorruptSave, UnsupportedSave
from ..format import names
from ..format.archive import read_stack
from ..git import refs
from ..git.refs import RefUpdate
from ..objects.reader import ObjectReader
from ..system.stdlib import TYPE_CHECKING
from .live_context import pending_in_context
from .ownership import clear_journal, ref_locks, write_journal

if TYPE_CHECKING:
    from ..format.manifest import Save
    from ..git.command import Git
    from ..git.repository import Repository

#: What to say of such a save, and where its refs were made again.
REFS_DELETED = "another program has deleted its refs"
TOLD = "another program had deleted the refs of the pending save; they were made again"


def lost_save_id(repository: Repository) -> str | None:
    """The id of a pending save that has lost its refs; None where there is none to read."""
    if pending_in_context(repository.git_dir) is None:
        return None
    with ObjectReader(repository.git) as reader:
        stack = lost_stack(repository, reader)
        return stack[0].manifest.save_id if stack else None


def lost_stack(repository: Repository, reader: ObjectReader) -> tuple[Save, ...]:
    """The stack of a pending save that has lost its refs, newest first; empty where there is none to read."""
    archive = pending_in_context(repository.git_dir)
    if archive is None:
        return ()
    try:
        stack = read_stack(archive, reader)
    except (CorruptSave, UnsupportedSave):
        # Git ends at an object that it can't read.
        reader.restart()
        return ()
    newest = stack[0].manifest
    ids = {newest.workspace_id, names.workspace_id(repository)}
    own = [names.marker_ref(one) for one in ids]
    own += [make(one, newest.save_id) for one in ids for make in (names.save_ref, names.dismissed_ref)]
    return () if refs.read_refs(repository, own) else stack


def make_again(repository: Repository, git: Git, reader: ObjectReader) -> bool:
    """Make the refs of a pending save again that has lost them, the marker last. Whether there was one.

    For whoever has locked the workspace. Raises GitError.
    """
    stack = lost_stack(repository, reader)
    if not stack:
        return False
    own = names.workspace_id(repository)
    kept = {names.save_ref(own, save.manifest.save_id): save.archive for save in stack}
    marker = names.own_marker(repository)
    there = refs.read_refs(repository, kept)
    write_journal(repository, ref_locks(repository, [*kept, marker]))
    updates = [RefUpdate(ref, archive, None) for ref, archive in kept.items() if ref not in there]
    refs.move_refs(repository, git, updates, "made again")
    refs.move_refs(repository, git, [RefUpdate(marker, stack[0].archive, None)], "made again")
    clear_journal(repository)
    return True
