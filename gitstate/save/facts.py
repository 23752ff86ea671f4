"""What a save looks at, in its order, and what the plan must know of it."""

from __future__ import annotations

import os

from ..errors import GitError, GitstateError
from ..format.context import Context, is_of_other_task, with_values
from ..format.manifest import LeftOut
from ..format.names import NOTES, PENDING, checkpoint_ref, marker_ref, save_ref, workspace_id
from ..git import refs
from ..git.index import IndexFile, IndexMoved, is_frozen_index, readable_identity
from ..git.repository import head_of, read_head
from ..snapshot.record import Room, Snapshot, SnapshotBuilder, SnapshotOptions
from ..snapshot.snapshot import take_snapshot
from ..snapshot.walk import ignored_repositories
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.live_context import FINISHED, read_live_context, state_name, with_measured_fields, with_owner
from ..workspace.ownership import frozen_index
from ..workspace.settings import patterns
from .plan import PendingSave, SaveFacts
from .request import PRECIOUS, until_collected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..format.manifest import Nested, Save
    from ..git.command import Oid
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
    inside: Mapping[bytes, Repository] = {}
    """Those of `nested` that could be saved, or have a keeper of their own, by their paths."""


def look(
    builder: Builder,
    request: SaveRequest,
    query: StatusQuery | None,
    save: Callable[[bytes, SaveRequest], SaveResult],
    *,
    check: Callable[[], None],
    meanwhile: Callable[[], None],
) -> Scene:
    """Look at all that a save depends on. `query` is what git was asked about the frozen index.

    `meanwhile` is called while git starts, where all that the save relies on is known to be there.

    The objects of what is found go into the builder's pack. Repositories inside are saved with `save`. Raises what
    `check` does, which is called once all was looked at by the index.
    """
    repository = builder.repository
    taken = _take(builder, request, query, meanwhile)
    taken.drop_refused_names()
    staged = None
    if taken.staged or taken.stages:
        from .index import StagedBlobs

        staged = StagedBlobs(repository, builder.writer, builder.reader, taken)
    check()
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
    inside: dict[bytes, Repository] = {}
    is_whole = not request.depth and request.kind != "safety" and request.look_end is None
    if taken.nested or taken.checked_out or (is_whole and ignored_repositories(repository, taken.ignored)):
        from .nested import begin_with_outer, nested_before, save_nested, with_work

        asked, before = begin_with_outer(request), lambda: nested_before(builder, request, seen)
        more, unknown = with_work(repository, request, taken) if is_whole else ([], [])
        nested, skipped = save_nested(repository, asked, taken, save, before, inside.__setitem__, more)
        taken.left_out += unknown
        taken.left_out += skipped
    if staged is not None:
        staged.pack()
    if taken.head is not None and builder.commit_content(taken.head) is None:
        # On an unborn branch git takes a tag named HEAD for HEAD, and lists what differs from it.
        taken.head = head_of(repository.toplevel) or taken.head
    return Scene(taken, context, nested, seen, inside)


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
        until_collected(request),
        request.largest,
        growth,
        [*patterns(repository, "includeIgnored"), *request.keep_ignored],
        request.keep_paths,
        None if request.expected is None or request.expected.scan is None else request.expected.scan.tracked,
        end=None if request.end is None else request.end.part(PRECIOUS),
        room=None if request.room is None else Room(request.room, request.room_ends),
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


def check_index(repository: Repository, seen: IndexFile | None) -> None:
    """Raises IndexMoved where git replaced the index since it was frozen, or another program wrote into it.

    `seen` is what it was then: what is written into the index shows in the frozen one, its other name.
    """
    index = os.path.join(repository.git_dir, b"index")
    frozen = frozen_index(repository)
    if not is_frozen_index(index, frozen) or readable_identity(frozen) != seen:
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
    if is_of_other_task(live, request.values):
        # The session stays: it is the last one that began here.
        live = live._replace(issue_number=None, progress_stage=None, memory_refs=())
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
        facts = facts._replace(marker_is_lost=marker is not None)
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
            if save is not None and _is_below(save, builder, taken):
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


def _is_below(save: Save, builder: Builder, taken: Snapshot) -> bool:
    return taken.head == save.wip and _is_on_its_branch(save, builder, taken)


def _is_on_its_branch(save: Save, builder: Builder, taken: Snapshot) -> bool:
    """Whether HEAD points to what it pointed to then, also where `git branch -m` gave that another name since."""
    old, new = save.manifest.head_ref, taken.head_ref
    if old == new:
        return True
    if old is None or new is None or taken.head != save.wip:
        return False
    return refs.is_renamed(builder.repository, old) or refs.names_in_log(builder.repository, new).get(old) == save.wip


def _known(save: Save, builder: Builder, taken: Snapshot, context: Context) -> PendingSave:
    """What the plan must know of one pending save."""
    is_at_home = _is_on_its_branch(save, builder, taken)
    is_below = save.manifest.moves_branch and is_at_home and taken.head == save.wip
    is_reset = not is_below and _is_reset(save, builder, taken)
    is_lost = is_reset and _is_damaged(save, builder)
    return PendingSave(
        save.manifest.save_id,
        save.archive,
        base=save.manifest.base,
        is_below=is_below,
        emptied=_is_wiped(save, builder) if is_below else is_reset and not is_lost,
        is_lost=is_lost,
        same_work=save.context.work() == context.work(),
        place=None if is_at_home else save.manifest.head_ref or "a detached HEAD",
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


def _is_damaged(save: Save, builder: Builder) -> bool:
    """Whether git can't read what a save changed: another one of the same trees would be as unreadable."""
    from ..git.damaged.broken import is_whole
    from ..git.entries import differing_paths

    base = builder.tree_of(save.manifest.head)
    staged = save.files.get(b"staged")
    try:
        for tree in (save.wip_tree, *([staged[1]] if staged else [])):
            differing_paths(builder.repository, base, tree)
        return False
    except GitError as error:
        if error.status < 0:
            raise
        # Where it is the base that can't be read, what the save holds may be whole.
        return save.manifest.head is None or is_whole(builder.repository.git, save.manifest.head)


def _ends_after_checkpoint(request: SaveRequest, scene: Scene, own: str) -> bool:
    """Whether a run ends that has a checkpoint: without a save that would count as its last work."""
    ended = request.reason.signal is not None or request.reason.exit_code is not None
    return request.kind == "save" and ended and checkpoint_ref(own) in scene.seen
