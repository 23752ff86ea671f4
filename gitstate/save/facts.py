"""What a save looks at, in its order, and what the plan must know of it."""

from __future__ import annotations

import os

from ..errors import GitstateError, words_of
from ..format.context import Context, with_values
from ..format.manifest import SAVED_INSIDE, LeftOut, Nested, Reason
from ..format.names import NOTES, PENDING, checkpoint_ref, marker_ref, save_ref, workspace_id
from ..git import refs
from ..git.index import IndexMoved, is_frozen_index
from ..git.repository import head_of, open_repository, read_head, shares_configuration
from ..snapshot.record import Room, Snapshot, SnapshotBuilder, SnapshotOptions
from ..snapshot.snapshot import take_snapshot
from ..system.clock import Deadline
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.live_context import FINISHED, read_live_context, state_name, with_measured_fields, with_owner
from ..workspace.ownership import frozen_index
from ..workspace.settings import patterns
from .plan import PendingSave, SaveFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..format.manifest import Save
    from ..git.command import Oid
    from ..git.repository import Repository
    from ..git.status import StatusQuery
    from ..workspace.lease import Presence
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
    meanwhile: Callable[[], None],
) -> Scene:
    """Look at all that a save depends on. `query` is what git was asked about the frozen index.

    `meanwhile` is called while git starts, where all that the save relies on is known to be there.

    The objects of what is found go into the builder's pack. Repositories inside are saved with `save`. Raises
    IndexMoved where git replaced the index meanwhile, unless `insist`.
    """
    repository = builder.repository
    taken = _take(builder, request, query, meanwhile)
    taken.drop_refused_names()
    staged = None
    if taken.staged or taken.stages:
        from .index import StagedBlobs

        staged = StagedBlobs(repository, builder.writer, builder.reader, taken)
    if not insist:
        check_index(repository)
    if request.broken is None:
        _check_head(repository, taken)
    else:
        taken.head_ref = request.broken.branch
        taken.left_out.insert(0, LeftOut(b"", request.broken.why, True))
    own = workspace_id(repository)
    seen = refs.read_refs(repository, (marker_ref(own), checkpoint_ref(own), NOTES))
    context, too_long = _context(repository, request, taken)
    why = "the end of {}: it is longer than a value of the context may be"
    taken.left_out += [LeftOut(b"", why.format(name[:64]), False) for name in too_long]
    taken.left_out += request.problems
    nested: tuple[Nested, ...] = ()
    if taken.nested:
        nested, skipped = save_nested(
            repository, begin_with_outer(request), taken, save, lambda: _nested_before(builder, request, seen)
        )
        taken.left_out += skipped
    if staged is not None:
        staged.pack()
    if taken.head is not None and builder.commit_content(taken.head) is None:
        # On an unborn branch git takes a tag named HEAD for HEAD, and lists what differs from it.
        taken.head = head_of(repository.toplevel) or taken.head
    return Scene(taken, context, nested, seen)


def _take(builder: Builder, request: SaveRequest, query: StatusQuery | None, meanwhile: Callable[[], None]) -> Snapshot:
    repository = builder.repository
    if request.broken is not None and request.broken.worktree:
        return _context_alone(repository)

    def anew(options: SnapshotOptions) -> SnapshotBuilder:
        new = SnapshotBuilder(repository, builder.writer, builder.reader, frozen_index(repository), options)
        new.trees = builder.trees
        return new

    known, growth = request.known, request.growth
    # The checkpoint keeps alive what the caller knows: without it nothing vouches for those objects.
    checkpoint = checkpoint_ref(workspace_id(repository))
    held = {} if known is None and growth is None else refs.read_refs(repository, [checkpoint])
    if growth is not None and growth.archive not in held.values():
        growth.held = {}
    options = SnapshotOptions(
        state_name(repository),
        _until_collected(request),
        request.largest,
        growth,
        [*patterns(repository, "includeIgnored"), *request.keep_ignored],
        request.keep_paths,
        None if request.expected is None or request.expected.scan is None else request.expected.scan.tracked,
        end=None if request.end is None else request.end.part(_PRECIOUS),
        room=None if request.room is None else Room(request.room),
        gives_up=request.look_end is not None and request.depth > 0,
        older=request.older,
    )
    if known is not None and known.archive in held.values():
        from ..snapshot.incremental import take_since

        taken = take_since(known, anew(options), meanwhile)
        if taken is not None:
            return taken
    if options.deadline.seconds is not None:
        options = options._replace(touched=_touched(request))
    if request.unseen:
        from ..snapshot.incremental import take_touched

        taken = take_touched(anew(options), meanwhile)
        if taken is not None:
            return taken
    return take_snapshot(anew(options), query)


def _touched(request: SaveRequest) -> frozenset[bytes]:
    """Paths that changed for all that the caller knows: an early save holds them, which this one is to replace."""
    known, expected = request.known, request.expected
    touched = request.touched if known is None else request.touched | known.touched | known.snapshot.worktree.keys()
    return touched if expected is None else touched | expected.worktree.keys()


def _context_alone(repository: Repository) -> Snapshot:
    """The snapshot of a worktree that git can't look at."""
    taken = Snapshot()
    with suppress(GitstateError, OSError):
        taken.head_ref = read_head(repository.git_dir)
        taken.head = head_of(repository.toplevel)
    return taken


#: The part of a deadline, and the most seconds, that are kept for what follows when all has been read.
_KEPT_SHARE, _KEPT_SECONDS = 0.4, 3.0
#: Small tracked files that changed are read until this part of it.
_PRECIOUS = 0.85


def _until_collected(request: SaveRequest) -> Deadline:
    """When the last file must have been read: then objects are written, synced and named."""
    if request.look_end is not None:
        return request.look_end
    end = Deadline(request.deadline) if request.end is None else request.end
    return end.earlier(min(_KEPT_SHARE * (end.seconds or 0.0), _KEPT_SECONDS))


def check_index(repository: Repository) -> None:
    """Raises IndexMoved where git replaced the index since it was frozen."""
    if not is_frozen_index(os.path.join(repository.git_dir, b"index"), frozen_index(repository)):
        raise IndexMoved("the index kept changing; nothing was changed", hint="gitstate save")


def _check_head(repository: Repository, taken: Snapshot) -> None:
    """Raises IndexMoved where the branch has a commit after all: git takes one that it can't read for unborn."""
    if taken.head is None:
        from ..git.damaged.broken import has_lost_head

        if has_lost_head(repository, taken.head_ref):
            raise IndexMoved("git could not read the commit of HEAD; nothing was changed", hint="gitstate save")


def _context(repository: Repository, request: SaveRequest, taken: Snapshot) -> tuple[Context, list[str]]:
    """The context to save, and the names of the values that were too long for one, and cut."""
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
    moved = {ref: refs.target_of(builder.repository, ref) for ref in [taken.head_ref] if ref is not None}
    facts = SaveFacts(
        own,
        builder.save_id,
        request.kind,
        insist=insist,
        stay=request.stay,
        may_hide=request.unseen and not taken.index_is_plain and taken.index is None,
        head_ref=taken.head_ref,
        head=taken.head,
        operation=taken.operation,
        shared=any(refs.is_checked_out_elsewhere(builder.repository, ref) for ref in {*moved, *moved.values()}),
        leads_to=next((target for ref, target in moved.items() if target != ref), None),
        noteworthy=taken.noteworthy,
        dirty=taken.dirty,
        staged=bool(taken.staged),
        has_files=any(leaf is not None for leaf in taken.worktree.values()),
        nested=bool(scene.nested),
        has_context=request.even_clean
        or request.label is not None
        or context.work() != Context().work()
        or _ends_after_checkpoint(request, scene, own),
        lost=any(item.lost for item in taken.left_out),
        unreadable="" if request.broken is None else request.broken.why,
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

    return with_pending(facts, builder, taken, context, marker, request.replaces)


def with_pending(
    facts: SaveFacts, builder: Builder, taken: Snapshot, context: Context, marker: Oid | None, replaces: str | None
) -> tuple[SaveFacts, dict[str, Save]]:
    """`facts` with what is pending, and the pending saves by id.

    `marker` is the value of this workspace's marker, `replaces` the id of an early save of the same end of a run.
    """
    foreign = None
    beneath = None
    save = builder.earlier(marker)
    if save is None:
        save, foreign = _adopted(builder, taken)
    if save is None:
        return facts, {}
    early = save.manifest.save_id == replaces
    if early:
        beneath = _beneath(builder, save, facts.workspace_id)
    facts = facts._replace(
        pending=_known(save, builder, taken, context),
        replaces_pending=early,
        beneath=None if beneath is None else _known(beneath, builder, taken, context),
        foreign_marker=foreign,
    )
    return facts, {one.manifest.save_id: one for one in (save, beneath) if one is not None}


def _adopted(builder: Builder, taken: Snapshot) -> tuple[Save | None, tuple[str, Oid] | None]:
    """The save on whose WIP commit HEAD is, and its marker, under another name of this workspace.

    A workspace is named by host and path: here one of them has changed.
    """
    if builder.is_wip(taken.head):
        from ..workspace.peek import worktree_ids

        # A worktree that is on the same branch may have made it, and keeps its save.
        others = {marker_ref(name) for name in worktree_ids(builder.repository.common_dir)}
        for ref, oid in refs.list_refs(builder.repository.git, PENDING).items():
            save = None if ref in others else builder.earlier(oid)
            if save is not None and _is_below(save, taken):
                return save, (ref, oid)
    return None, None


def _beneath(builder: Builder, early: Save, workspace_id: str) -> Save | None:
    """What was pending before an early save of the same end of a run."""
    if early.manifest.below is not None:
        return builder.earlier(early.manifest.below)
    if early.manifest.previous is None:
        return None
    ref = save_ref(workspace_id, early.manifest.previous)
    return builder.earlier(refs.read_refs(builder.repository, [ref]).get(ref))


def _is_below(save: Save, taken: Snapshot) -> bool:
    return taken.head == save.wip and taken.head_ref == save.manifest.head_ref


def _known(save: Save, builder: Builder, taken: Snapshot, context: Context) -> PendingSave:
    """What the plan must know of one pending save."""
    is_below = save.manifest.moves_branch and _is_below(save, taken)
    return PendingSave(
        save.manifest.save_id,
        save.archive,
        base=save.manifest.base,
        is_below=is_below,
        emptied=_is_wiped(save, builder) if is_below else _is_reset(save, builder, taken),
        same_work=save.context.work() == context.work(),
    )


def _is_wiped(save: Save, builder: Builder) -> bool:
    """Whether nothing is left at the top of a worktree whose HEAD is on the save's WIP commit."""
    top = builder.repository.toplevel
    names = [name for name in builder.trees.tree(save.wip_tree).records if not name.startswith(b".")]
    return bool(names) and not any(os.path.lexists(os.path.join(top, name)) for name in names)


def _is_reset(save: Save, builder: Builder, taken: Snapshot) -> bool:
    """Whether worktree and index are what the save stands on, though it holds work."""
    holds = save.wip_tree != builder.tree_of(save.manifest.head) or bool(save.manifest.staged)
    return holds and taken.head == save.manifest.head and not taken.dirty and not taken.nested


#: Repositories nested more deeply than this are listed, not saved.
_DEEPEST = 8


def begin_with_outer(request: SaveRequest) -> SaveRequest:
    """The request for the repositories inside: an early save comes to them when its own marker stands."""
    is_early = request.look_end is not None and not request.depth
    return request._replace(look_end=Deadline(0.0)) if is_early else request


#: A repository inside has so many seconds for itself in any case, until the most precious files must have been read.
_LEAST_INSIDE = 0.1
NOT_REACHED = "the repository in it was not looked at in time"
_NOT_WHOLE = "the repository in it was saved, but not all of it"


def save_nested(
    repository: Repository,
    request: SaveRequest,
    taken: Snapshot,
    save: Callable[[bytes, SaveRequest], SaveResult],
    before: Callable[[], Iterable[Nested]] = lambda: (),
) -> tuple[tuple[Nested, ...], list[LeftOut]]:
    """Save the repositories inside with `save`; what to record of each, and what was skipped.

    Refs alone hold their saves: no branch moves there. Context and reason are of this workspace, not of theirs. Of one
    that is neither a submodule of the index nor a worktree of `repository` no program runs: plain git in this
    workspace would run none either.

    Each has an equal part of the time that is left. One that is not reached, or fails, is skipped, and is recorded as
    it was `before`: a later one of these counts more.
    """
    asked = request._replace(depth=request.depth + 1, stay=True, strict=False, problems=(), keep_paths=(), broken=None)
    asked = asked._replace(growth=None, beside=None, touched=frozenset(), older=None)
    asked = asked._replace(
        values={}, owner_pid=None, reason=Reason(), known=None, unseen=False, replaces=None, label=None, expected=None
    )
    nested: dict[bytes, Nested] = {}
    skipped: list[LeftOut] = []
    failed: set[bytes] = set()
    paths = [*dict.fromkeys(taken.nested)]
    for number, path in enumerate(paths):
        seconds = _seconds_inside(request, len(paths) - number)
        asked = asked._replace(deadline=seconds, look=None if request.look is None else seconds)
        why = NOT_REACHED if seconds == 0.0 else ""
        try:
            if not why:
                nested[path], others = _save_inside(repository, asked, taken, path, save)
                skipped += others
        except (GitstateError, OSError) as error:
            why = f"the repository in it could not be saved: {words_of(error)}"[:300]
        if why:
            failed.add(path)
            skipped.append(LeftOut(path, why, True))
            nested[path] = Nested(path, None, None)
    if failed:
        nested.update({one.path: one for one in before() if one.path in failed})
    return tuple(nested.values()), skipped


def _seconds_inside(request: SaveRequest, count: int) -> float | None:
    """How long the save of the next of `count` repositories inside may take; 0 where there is no time for it."""
    if request.look_end is not None:
        return request.look_end.left() / count
    if request.end is None or request.deadline is None:
        return None
    if request.end.part(_PRECIOUS).passed():
        return 0.0
    return max(_LEAST_INSIDE, _until_collected(request).left() / count)


def _save_inside(
    repository: Repository,
    asked: SaveRequest,
    taken: Snapshot,
    path: bytes,
    save: Callable[[bytes, SaveRequest], SaveResult],
) -> tuple[Nested, list[LeftOut]]:
    """Save the repository at `path`; what to record of it, and what was skipped. Raises GitstateError, OSError."""
    from ..workspace.lease import presence

    full = os.path.join(repository.toplevel, path)
    if asked.depth > _DEEPEST:
        raise GitstateError("it is nested too deeply")
    inside = open_repository(full)
    if inside.toplevel != os.path.realpath(full):
        raise GitstateError("its .git file points outside the directory")
    if _others_work(presence(inside), presence(repository)):
        # Its own keeper saves it. A save from here would write this task into that one's context.
        return Nested(path, None, None), [LeftOut(path, "an agent works in it, and its own keeper saves it", False)]
    # Of a submodule the commit counts as well: the save keeps it, and tells on which branch it is.
    is_known = path in taken.submodules or shares_configuration(inside, repository)
    result = save(full, asked._replace(even_clean=is_known, runs_filters=repository.runs_filters and is_known))
    skipped = []
    if inside.common_dir.startswith(os.path.realpath(full) + b"/"):
        skipped.append(LeftOut(path, SAVED_INSIDE, False))
    if result.lost:
        skipped.append(LeftOut(path, _NOT_WHOLE, True))
    return Nested(path, result.save_id, result.archive), skipped


def _nested_before(builder: Builder, request: SaveRequest, seen: Mapping[str, Oid]) -> Iterable[Nested]:
    """The repositories inside that are saved, as the last checkpoint has them, then the save that is replaced."""
    own = workspace_id(builder.repository)
    for ref in (checkpoint_ref(own), marker_ref(own)):
        save = builder.earlier(seen.get(ref))
        if save is not None and (ref != marker_ref(own) or save.manifest.save_id == request.replaces):
            yield from (one for one in save.manifest.nested if one.save_id is not None)


def _others_work(inside: Presence, here: Presence) -> bool:
    """Whether somebody works in a nested repository who does not work here, too, as an agent without a keeper may."""
    if not inside.live or inside.holder is None or here.holder is None:
        return inside.live
    return inside.holder.kind == "keeper" or inside.holder.owner != here.holder.owner


def _ends_after_checkpoint(request: SaveRequest, scene: Scene, own: str) -> bool:
    """Whether a run ends that has a checkpoint: without a save that would count as its last work."""
    ended = request.reason.signal is not None or request.reason.exit_code is not None
    return request.kind == "save" and ended and checkpoint_ref(own) in scene.seen
