"""A save made up from a WIP commit on the tip of the branch, where every ref of ours was lost."""

from __future__ import annotations

from ..errors import CorruptSave, GitError, NeedsPerson
from ..format import names
from ..format.archive import pending_here, read_save
from ..format.carried import base_below
from ..format.context import MAX_CONTEXT, Context, context_from_json
from ..format.find import find_save
from ..format.manifest import Manifest, Reason, Save
from ..format.names import parse_trailers, workspace_id
from ..git import refs
from ..git.command import Oid
from ..git.repository import Repository
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import TreeReader
from ..system.clock import now
from ..system.jsonio import loads
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.peek import worktree_ids
from .plan import Facts

if TYPE_CHECKING:
    from collections.abc import Sequence


def from_trailers(repository: Repository, reader: ObjectReader, here: Facts) -> Save | None:
    """A save made up from a WIP commit on the branch's tip, where every ref of ours was lost."""
    commit = None if here.head is None or here.head_ref is None else reader.commit(here.head)
    if here.head is None or here.head_ref is None or commit is None:
        return None
    save_id, base = parse_trailers(commit)
    if save_id is None or base is None:
        return None
    with suppress(NeedsPerson, CorruptSave):
        held = find_save(repository, save_id)
        if held.workspace_id in worktree_ids(repository.common_dir) - {workspace_id(repository)}:
            # A version before 0.2.0 moved a branch that two worktrees are on: the save is the other one's.
            return None
        save = read_save(held.archive, reader)
        branch = save.manifest.head_ref
        if branch not in (None, here.head_ref) and refs.read_refs(repository, [branch or ""]):
            # Another branch was made at the WIP commit: the save itself was recovered, or dismissed.
            return None
        return save
    if not commit.partition(b"\n\n")[2].startswith(names.WIP_SUBJECT.encode("ascii")):
        return None
    tree, parents = commit_head(commit)
    # Not the trailer's: git may have carried the commit to another base.
    below = base_below(reader, here.head)
    manifest = _made_up_manifest(
        save_id=save_id,
        workspace_id=workspace_id(repository),
        head_ref=here.head_ref,
        head=below,
        index_commit=_index_commit(reader, parents, save_id, below),
    )
    return Save(here.head, here.head, tree, {}, noted_context(repository, reader, here.head), manifest)


def left_by_another(repository: Repository, reader: ObjectReader, here: Facts) -> str | None:
    """The id of a save that is pending in another worktree, where that has left its branch and this one took it."""
    commit = None if here.head is None or here.head_ref is None else reader.commit(here.head)
    save_id = None if commit is None else parse_trailers(commit).save_id
    if here.head_ref is None or save_id is None or refs.is_checked_out_elsewhere(repository, here.head_ref):
        return None
    with suppress(NeedsPerson, CorruptSave):
        held = find_save(repository, save_id)
        if held.archive in pending_here(repository).values() and read_save(held.archive, reader).wip == here.head:
            return save_id
    return None


def _index_commit(reader: ObjectReader, parents: Sequence[Oid], save_id: str, base: Oid | None) -> Oid | None:
    """The index commit that a WIP commit with these parents stands on; None where it stands on its base."""
    below = parents[0] if parents else None
    commit = None if below is None or below == base else reader.commit(below)
    return below if commit is not None and parse_trailers(commit).save_id == save_id else None


def _made_up_manifest(
    *, save_id: str, workspace_id: str, head_ref: str, head: Oid | None, index_commit: Oid | None
) -> Manifest:
    """All that a WIP commit tells; what only an archive holds is empty."""
    return Manifest(
        save_id=save_id,
        kind="save",
        workspace_id=workspace_id,
        created=now(),
        head_ref=head_ref,
        head=head,
        base=head,
        index_commit=index_commit,
        moves_branch=True,
        below=None,
        previous=None,
        operation=None,
        operation_files=(),
        index_size=None,
        index_checksum=None,
        index_mtime_ns=None,
        shared_index=None,
        staged={},
        intent_to_add=(),
        modes={},
        directories={},
        raw={},
        absent=(),
        sparse={},
        nested=(),
        left_out=(),
        ignored=(),
        reason=Reason(),
    )


def noted_context(repository: Repository, reader: ObjectReader, wip: Oid) -> Context:
    """The context in the note on a WIP commit; an empty one where there is none that can be read."""
    from ..objects.notes import read_note

    tip = refs.read_refs(repository, [names.NOTES]).get(names.NOTES)
    try:
        note = read_note(tip, wip, reader, TreeReader(reader), MAX_CONTEXT)
        return context_from_json(loads(note, MAX_CONTEXT, "the note"))
    except (GitError, ValueError):
        return Context()
