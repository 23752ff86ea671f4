"""What a save looks at, in its order, and what the plan must know of it."""

from __future__ import annotations

import os

from ..format.context import Context, with_values
from ..format.manifest import LeftOut
from ..format.names import NOTES, checkpoint_ref, marker_ref, workspace_id
from ..git import refs
from ..git.index import IndexMoved, file_identity
from ..snapshot.record import Snapshot, SnapshotOptions
from ..snapshot.snapshot import take_snapshot
from ..system.clock import Deadline
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, Record
from ..workspace.live_context import read_live_context, with_measured_fields, with_owner
from ..workspace.ownership import frozen_index
from ..workspace.settings import patterns
from ..workspace.state_file import FINISHED, state_name
from .plan import SaveFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..format.manifest import Nested, Save
    from ..git.oid import Oid
    from ..git.repository import Repository
    from ..git.status import StatusQuery
    from .build import Builder
    from .request import SaveRequest, SaveResult


class Scene(Record):
    """What was found in the workspace."""

    taken: Snapshot
    context: Context
    nested: tuple[Nested, ...]
    """The repositories inside, saved already."""
    seen: Mapping[str, Oid]
    """The refs of ours that are there, and their values."""


def look(
    builder: Builder,
    request: SaveRequest,
    query: StatusQuery | None,
    save: Callable[[bytes, SaveRequest], SaveResult],
    *,
    insist: bool,
) -> Scene:
    """Look at all that a save depends on. `query` is what git was asked about the frozen index.

    The objects of what is found go into the builder's pack. Repositories inside are saved with `save`. Raises
    IndexMoved where git replaced the index meanwhile, unless `insist`.
    """
    repository = builder.repository
    taken = _take(builder, request, query)
    staged = None
    if taken.staged or taken.stages:
        from .staged import StagedBlobs

        staged = StagedBlobs(repository, builder.writer, builder.reader, taken)
    if not insist:
        check_index(repository)
    _check_head(repository, taken)
    own = workspace_id(repository)
    seen = refs.read_refs(repository, (marker_ref(own), checkpoint_ref(own), NOTES))
    context, too_long = _context(repository, request, taken)
    taken.left_out += [LeftOut(b"", f"{name}: longer than a context value may be", True) for name in too_long]
    taken.left_out += request.problems
    nested: tuple[Nested, ...] = ()
    if taken.nested:
        from .nested import save_nested

        nested, skipped = save_nested(repository, request, taken.nested, save)
        taken.left_out += skipped
    if staged is not None:
        staged.pack()
    return Scene(taken, context, nested, seen)


def _take(builder: Builder, request: SaveRequest, query: StatusQuery | None) -> Snapshot:
    repository = builder.repository
    known, frozen = request.known, frozen_index(repository)
    options = SnapshotOptions(
        state_name(repository),
        Deadline(request.deadline),
        request.largest,
        [*patterns(repository, "includeIgnored"), *request.keep_ignored],
        request.keep_paths,
    )
    # The checkpoint keeps alive what the caller knows: without it nothing vouches for those objects.
    checkpoint = checkpoint_ref(workspace_id(repository))
    if known is not None and known.archive in refs.read_refs(repository, [checkpoint]).values():
        from ..snapshot.incremental import take_since

        taken = take_since(known, repository, builder.writer, builder.reader, frozen, options)
        if taken is not None:
            return taken
    return take_snapshot(repository, builder.writer, builder.reader, frozen, options, query)


def check_index(repository: Repository) -> None:
    """Raises IndexMoved where git replaced the index since it was frozen."""
    if file_identity(os.path.join(repository.git_dir, b"index")) != file_identity(frozen_index(repository)):
        raise IndexMoved("the index kept changing; nothing was changed", hint="gitstate save")


def _check_head(repository: Repository, taken: Snapshot) -> None:
    """Raises IndexMoved where the branch has a commit after all: git takes one that it can't read for unborn."""
    if taken.head is None:
        ref = taken.head_ref
        if ref is None or ref in refs.read_refs(repository, [ref]):
            raise IndexMoved("git could not read the commit of HEAD; nothing was changed", hint="gitstate save")


def _context(repository: Repository, request: SaveRequest, taken: Snapshot) -> tuple[Context, list[str]]:
    """The context to save, and the names of the values that are too long for one."""
    live, status = read_live_context(repository)
    if status == FINISHED:
        live = Context()
    context, too_long = with_values(live, request.values)
    if request.owner_pid is not None:
        context = with_owner(context, request.owner_pid)
    elif context.boot_id is None:
        context = context._replace(boot_id=boot_id())
    return with_measured_fields(repository, context, taken.head_ref), too_long


def gather(builder: Builder, request: SaveRequest, scene: Scene, *, insist: bool) -> tuple[SaveFacts, dict[str, Save]]:
    """The facts for the plan, and the earlier saves that it may name, by id."""
    taken, context = scene.taken, scene.context
    own = workspace_id(builder.repository)
    facts = SaveFacts(
        own,
        builder.save_id,
        request.kind,
        insist=insist,
        stay=request.stay,
        head_ref=taken.head_ref,
        head=taken.head,
        operation=taken.operation,
        noteworthy=taken.noteworthy,
        dirty=taken.dirty,
        staged=bool(taken.staged),
        has_files=any(leaf is not None for leaf in taken.worktree.values()),
        nested=bool(scene.nested),
        has_context=context.work() != Context().work(),
        lost=any(item.lost for item in taken.left_out),
    )
    if request.kind == "checkpoint":
        latest = builder.earlier(scene.seen.get(checkpoint_ref(own)))
        if latest is None:
            return facts, {}
        return facts._replace(checkpoint=latest.manifest.save_id), {latest.manifest.save_id: latest}
    if request.kind != "save":
        return facts, {}
    # Raises where the commit of HEAD is missing, before anything is decided.
    builder.tree_of(taken.head)
    marker = scene.seen.get(marker_ref(own))
    if marker is None and not builder.is_wip(taken.head):
        return facts, {}
    from .pending import with_pending

    return with_pending(facts, builder, taken, context, marker, request.replaces)
