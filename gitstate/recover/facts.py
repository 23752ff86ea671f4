"""Workspaces → facts: which save is pending, what the last run was doing, how the disk compares. Read-only."""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, GitstateError, NeedsPerson, UnsupportedSave
from ..format import names
from ..format.archive import (
    HeldSave,
    archives_of,
    is_dismissed,
    pending_archive,
    pending_archives,
    pending_here,
    read_save,
    read_stack,
    save_ids,
)
from ..format.context import MAX_CONTEXT, Context
from ..format.manifest import Manifest, Save
from ..format.names import workspace_id
from ..git import refs
from ..git.command import Oid
from ..git.gitdir import operation_under_way
from ..git.permitted import without_filters
from ..git.repository import OVER_LIMIT, Repository, read_head, shares_configuration
from ..objects.reader import ObjectReader
from ..objects.tree import TreeReader
from ..restore.choices import Outcome
from ..restore.paths import SavedPaths, Workspace, may_be_cut_short
from ..system import files, process
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.lease import describe, presence_in
from ..workspace.live_context import (
    RECOVERED,
    is_of_finished_task,
    owner_state,
    pending_in_context,
    read_live_context,
    read_state_context,
    state_name,
)
from ..workspace.settings import with_filter_limit
from .plan import Facts, can_compare, disk_state, lacks_checkpoint, resting_places
from .request import RecoverRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ..format.carried import Carried
    from .plan import DiskState

#: What to say of another save that fits.
_OTHER = "the save {0} fits this workspace, too, and is pending: gitstate recover --save {0} --into PATH"
#: What to say where the context of the save can't be read.
_NOTED = "the context of the save is damaged, and was taken from its note"
_LOST = "the context of the save is damaged: which task it was on can't be told"
_PLAIN = RecoverRequest()
#: So many saves are looked at for files that a power cut left short.
_COPIES = 5


def gather(repository: Repository, reader: ObjectReader, request: RecoverRequest = _PLAIN) -> Facts:
    """The facts about one workspace.

    With `save_id` of the request that save is looked at, pending or not. Raises NeedsPerson where it does not exist.
    Where it is `strict`, an owner is taken for gone only where that is proven. Where it is `waiting_only`, saves that
    were fetched from a remote are not looked for.
    """
    operation = operation_under_way(repository.git_dir)
    here = Facts(read_head(repository.git_dir), reader.head(), operation, strict=request.strict, begins=request.begins)
    here = here._replace(ended=request.ended)
    pending = _pending(repository, reader, here, request)
    if pending is None:
        from .made_up import from_trailers

        made_up = from_trailers(repository, reader, here)
        if made_up is not None:
            return _with_stack(here, repository, reader, (made_up,))
        without = _without_save(here, repository, reader, request)
        has_own = request.waiting_only or without.context is not None or without.recovered is not None
        return without if has_own else _with_fetched(without, repository, reader)
    here = here._replace(marker=pending.marker, detach=pending.detach, remote=pending.remote)
    here = here._replace(put_away=tuple(map(_OTHER.format, pending.others)))
    try:
        if pending.remote is None:
            stack = read_stack(pending.archive, reader)
        else:
            from ..format.bounds import read_fetched_stack

            stack = read_fetched_stack(pending.archive, reader)
        # By the commits that they stand on the files are compared.
        reader.foresee_contents({save.manifest.head: None for save in stack if save.manifest.head is not None})
        return _with_stack(here, repository, reader, stack)
    except UnsupportedSave as error:
        return here._replace(problem=error.message, unsupported=True, detach=False)
    except CorruptSave as error:
        from .unreadable import newest_readable

        is_own = pending.remote is None
        earlier = newest_readable(repository, reader, pending.marker, pending.archive) if is_own else None
        return here._replace(problem=error.message, earlier=earlier, detach=False)


def _without_save(here: Facts, repository: Repository, reader: ObjectReader, request: RecoverRequest) -> Facts:
    from .made_up import left_by_another

    elsewhere, concerns = _elsewhere(repository, reader, here, request)
    checkpoint = _latest_checkpoint(repository, reader)
    context = _unsaved_context(repository, checkpoint)
    return here._replace(
        elsewhere=elsewhere,
        concerns=concerns,
        left_here=left_by_another(repository, reader, here),
        context=context,
        checkpoint=checkpoint,
        newer_save=None if checkpoint is None else _newer_save(repository, checkpoint),
        recovered=_recovered_context(repository),
        owner=owner_state(repository.git_dir, context) if context else "unknown",
        worker=describe(presence_in(repository.git_dir, context).holder) if context else "",
    )


def _with_fetched(here: Facts, repository: Repository, reader: ObjectReader) -> Facts:
    """The facts with the saves that were fetched for this branch: one of a trusted remote is the save to recover."""
    from .fetched import fetched_for, offer, older_than_fetched, trusted_of

    fitting = fetched_for(here, repository, reader)
    taken = trusted_of(fitting, repository)
    if taken is None:
        return here._replace(fetched=offer(fitting))
    older = older_than_fetched(taken, repository, reader)
    if older is not None:
        return here._replace(fetched=older)
    return _with_stack(here._replace(remote=taken.remote, detach=taken.detach), repository, reader, taken.stack)


def compare_with_checkpoint(workspace: Workspace, facts: Facts) -> DiskState:
    """How the files on disk compare with the latest checkpoint; `same` where they can't be compared."""
    checkpoint = facts.checkpoint
    is_past = facts.newer_save or (facts.recovered is not None and not facts.strict)
    if checkpoint is None or facts.saves or (facts.context is None and is_past):
        return "same"
    if not can_compare(facts, checkpoint):
        return "same" if facts.context is not None or _went_on(workspace, facts, checkpoint) else "differs"
    paths = SavedPaths(workspace, (checkpoint,))
    targets = paths.targets()
    actions = [choice.action for choice in paths.choices(targets, Outcome())]
    deleted = {target.path for target in targets if target.saved is None}
    lacks = lacks_checkpoint(facts, checkpoint, actions)
    if not lacks and facts.context is not None:
        lacks = _lacks_all(workspace.repository, deleted) or _lacks_inside(workspace, checkpoint)
    state = disk_state(facts, lacks=lacks, is_wiped=lacks and _is_wiped(workspace.repository))
    is_older = facts.newer_save or is_of_finished_task(workspace.repository, checkpoint.archive)
    # A run that was killed before its first checkpoint has none: what is gone of an older one was not gone in it.
    return "differs" if state == "gone" and is_older else state


def _lacks_all(repository: Repository, deleted: Collection[bytes]) -> bool:
    """Whether no tracked file is left, and not all of them were `deleted` then: also those without changes are gone."""
    if _has_tracked(repository):
        return False
    return any(path not in deleted for path in repository.git.run("ls-files", "-z", "-d").split(b"\0")[:-1])


def _has_tracked(repository: Repository) -> bool:
    """Whether any tracked file is left, or none is tracked."""
    tracked = repository.git.run("ls-files", "-z").split(b"\0")[:-1]
    return not tracked or any(os.path.lexists(os.path.join(repository.toplevel, path)) for path in tracked)


def _lacks_inside(workspace: Workspace, checkpoint: Save) -> bool:
    """Whether a repository inside is gone that a checkpoint names, or what that one's own latest checkpoint holds."""
    from ..git.opening import open_inside
    from ..restore.nested import submodules_of
    from ..snapshot.walk import is_nested

    repository = workspace.repository
    named = [item.path for item in checkpoint.manifest.nested if item.save_id is not None]
    submodules = submodules_of(workspace) if named else ()
    for path in named:
        full = os.path.join(repository.toplevel, path)
        if not is_nested(repository, full):
            return True
        with suppress(GitstateError, OSError):
            inside = open_inside(repository, full)
            if not repository.runs_filters or not (path in submodules or shares_configuration(inside, repository)):
                inside = without_filters(inside)
            inside = with_filter_limit(inside)
            with ObjectReader(inside.git) as reader:
                facts = gather(inside, reader, RecoverRequest(depth=1))
                state = compare_with_checkpoint(Workspace.of(inside, inside.git, reader), facts)
            if state == "gone" and facts.owner not in ("lives", "ours"):
                return True
    return False


def _went_on(workspace: Workspace, facts: Facts, checkpoint: Save) -> bool:
    """Whether commits were made on its branch since a checkpoint of a task that is done: its work went into them.

    Another branch may be checked out now. There the commits of a branch that is gone are looked for, as after a merge.
    """
    base, branch = checkpoint.manifest.head, checkpoint.manifest.head_ref
    tip = facts.head
    if base is None:
        return False
    if branch != facts.head_ref:
        tip = refs.read_refs(workspace.repository, [branch]).get(branch, facts.head) if branch else None
        if tip == base:
            return False
    return tip is not None and workspace.git.succeeds("merge-base", "--is-ancestor", base, tip)


def _is_wiped(repository: Repository) -> bool:
    """Whether no tracked file is left, or none differs from HEAD."""
    if not _has_tracked(repository):
        return True
    words = ("status", "--porcelain", "-z", "-unormal", "--ignore-submodules=dirty")
    try:
        out = repository.git.run(*words, env=repository.filter_env(), timeout=repository.filter_limit)
        return all(_is_repository_inside(repository, record) for record in out.split(b"\0")[:-1])
    except GitError as error:
        if error.status != -9 and OVER_LIMIT not in error.message:
            raise
        # A filter hangs, or prints without end, where git compares a file that was touched.
        return False


def _is_repository_inside(repository: Repository, record: bytes) -> bool:
    """Whether a record of `git status` is of an untracked repository: `git clean -fd` leaves that."""
    from ..snapshot.walk import is_nested

    path = record.removeprefix(b"?? ")
    is_directory = path != record and path.endswith(b"/")
    return is_directory and is_nested(repository, os.path.join(repository.toplevel, path[:-1]))


def with_damage(facts: Facts, repository: Repository) -> Facts:
    """The facts with what git can't read. A save holds the index; but no base that can't be read."""
    from ..workspace.damage import find_unreadable

    index = os.path.join(repository.git_dir, b"index")
    found = tuple(item for item in find_unreadable(repository) if not facts.saves or item.path != index)
    return facts._replace(damage=found)


def worktrees(repository: Repository) -> list[bytes]:
    """The directories of all worktrees of the repository, whether they exist or not; the main one first."""
    out = repository.git.run("worktree", "list", "--porcelain", "-z")
    return [line[9:] for line in out.split(b"\0") if line.startswith(b"worktree ")]


class _Pending(Record):
    """The save that is pending here, or that was asked for."""

    archive: Oid
    marker: str | None
    """The ref under which it is pending; None where it is not."""
    detach: bool = False
    """HEAD has to be detached for it."""
    remote: str | None = None
    """The remote that it was fetched from; None for a save of this repository."""
    others: tuple[str, ...] = ()
    """The ids of other saves that fit this workspace less well."""


def _pending(repository: Repository, reader: ObjectReader, here: Facts, request: RecoverRequest) -> _Pending | None:
    save_id = request.save_id
    if save_id is not None:
        from ..format.find import find_save

        held = find_save(repository, save_id)
        archive = held.archive
        if held.remote is not None:
            return _Pending(archive, None, remote=held.remote)
        pending = pending_archives(repository.git).items()
        markers = [names.marker_ref(workspace) for workspace, oid in pending if oid == archive]
        detach = not markers and _fits_detached(repository, reader, here, held)
        return _Pending(archive, markers[0] if markers else None, detach)
    mine = pending_archive(repository)
    if mine is not None:
        return _Pending(mine, names.own_marker(repository))
    if pending_in_context(repository.git_dir) is not None:
        from ..workspace.damage import lost_stack

        # Who only looks does not make its refs again.
        lost = lost_stack(repository, reader)
        if lost:
            return _Pending(lost[0].archive, None)
    fitting: list[tuple[Manifest, _Pending]] = []
    for ref, oid, stack in orphans(repository, reader):
        manifest = stack[0].manifest
        same_path = stack[0].context.workspace_path == os.fsdecode(repository.toplevel)
        detach = manifest.head_ref is None and here.head_ref is not None and here.head == manifest.head
        # On the WIP commit its work is here already.
        is_here = here.head == stack[0].wip
        is_renamed = is_here and _is_renamed(here, repository, manifest.head_ref, stack[0].wip)
        fits = manifest.head_ref == here.head_ref and (same_path or here.head in resting_places(stack))
        if not is_here and _is_of_another_task(stack[0], request):
            continue
        if not is_here and _has_other_work(repository, reader, stack[0].context):
            continue
        if detach or fits or is_renamed:
            fitting.append((manifest, _Pending(oid, ref, detach)))
    best = _fitting_best(fitting) if len(fitting) > 1 else fitting
    if len(best) > 1:
        listed = ", ".join(sorted(manifest.save_id for manifest, _ in best))
        raise NeedsPerson(f"several saves fit this workspace: {listed}", hint="gitstate recover --save ID")
    if not best:
        return None
    manifest, taken = best[0]
    known = {manifest.save_id, *(item.save_id for item in manifest.nested)}
    return taken._replace(others=tuple(other.save_id for other, _ in fitting if other.save_id not in known))


def _has_other_work(repository: Repository, reader: ObjectReader, lost: Context) -> bool:
    """Whether this workspace is no new one in place of the `lost` one: it has another task, or a save of its own.

    Many worktrees may be at one commit, or on one branch one after the other: their work must not get mixed.
    """
    context, status = read_live_context(repository)
    if status is not None and context.task_id not in (None, lost.task_id):
        return True
    for archive in archives_of(repository, save_ids(repository)).values():
        with suppress(CorruptSave, UnsupportedSave):
            if read_save(archive, reader).manifest.kind == "save":
                return True
    return False


def _is_of_another_task(save: Save, request: RecoverRequest) -> bool:
    """Whether a save is of another task than the one that begins here, which has a name."""
    return bool(request.task_id) and save.context.task_id not in (None, request.task_id)


def _fitting_best(fitting: list[tuple[Manifest, _Pending]]) -> list[tuple[Manifest, _Pending]]:
    """Of several saves that of a workspace, not of one inside it; and those of the branch that is checked out here.

    The order matters: `git clone` of a detached HEAD checks out a branch at the same commit, if there is one. A
    worktree inside the lost workspace may have had that very branch.
    """
    inside = {item.save_id for manifest, _ in fitting for item in manifest.nested}
    fitting = [fit for fit in fitting if fit[0].save_id not in inside] or fitting
    return [fit for fit in fitting if not fit[1].detach] or fitting


def _fits_detached(repository: Repository, reader: ObjectReader, here: Facts, held: HeldSave) -> bool:
    """Whether HEAD is detached at the base of a save that was set aside: `--into` has made this worktree for it."""
    if here.head_ref is not None or held.save_id is None or not is_dismissed(repository, held.save_id):
        return False
    stack = _readable_stack(held.archive, reader)
    return bool(stack) and here.head == stack[-1].manifest.head


def orphans(repository: Repository, reader: ObjectReader) -> Iterable[tuple[str, Oid, tuple[Save, ...]]]:
    """Markers of workspaces that are no worktree of this repository: copied, or their directory is gone."""
    for ref, oid in _orphaned_markers(repository):
        stack = _readable_stack(oid, reader)
        if stack:
            yield ref, oid, stack


def _orphaned_markers(repository: Repository) -> list[tuple[str, Oid]]:
    pending = pending_here(repository)
    if not pending:
        return []
    from ..workspace.peek import worktree_ids

    here = {*worktree_ids(repository.common_dir), workspace_id(repository)}
    return [(names.marker_ref(workspace), oid) for workspace, oid in pending.items() if workspace not in here]


def _readable_stack(archive: Oid, reader: ObjectReader) -> tuple[Save, ...]:
    """The stack of a save; empty where it can't be read."""
    try:
        return read_stack(archive, reader)
    except (CorruptSave, UnsupportedSave):
        # Git ends at an object that it can't read.
        reader.restart()
        return ()


def _elsewhere(
    repository: Repository, reader: ObjectReader, here: Facts, request: RecoverRequest
) -> tuple[str | None, bool]:
    """A sentence about pending saves whose workspace is missing, None where there are none; whether one of them may be
    of this workspace.

    One that can't be read is named by its ref: it may be this workspace's, and nobody must hear "nothing" of it.
    """
    listed, concerns = [], False
    for ref, oid in _orphaned_markers(repository):
        stack = _readable_stack(oid, reader)
        if stack:
            manifest = stack[0].manifest
            listed.append(f"{manifest.save_id} ({manifest.head_ref or 'detached HEAD'})")
            same_path = stack[0].context.workspace_path == os.fsdecode(repository.toplevel)
            same_branch = manifest.head_ref is not None and manifest.head_ref == here.head_ref
            concerns |= (same_path or same_branch) and not _is_of_another_task(stack[0], request)
        else:
            listed.append(f"{ref} (it can't be read)")
            concerns = True
    return (f"pending saves of workspaces that are missing: {', '.join(listed)}" if listed else None), concerns


def _latest_checkpoint(repository: Repository, reader: ObjectReader) -> Save | None:
    """This workspace's latest checkpoint, where it can be read."""
    ref = names.checkpoint_ref(workspace_id(repository))
    for oid in refs.read_refs(repository, [ref]).values():
        with suppress(CorruptSave, UnsupportedSave):
            return read_save(oid, reader)
    return None


def whole_copies(repository: Repository, reader: ObjectReader, facts: Facts) -> list[Save]:
    """The checkpoint and the newest saves of this workspace, newest first, that were made before this boot."""
    found = [] if facts.checkpoint is None else [facts.checkpoint]
    ids = sorted(save_ids(repository), key=names.age_key)
    for archive in archives_of(repository, ids[-_COPIES:]).values():
        with suppress(CorruptSave, UnsupportedSave):
            found.append(read_save(archive, reader))
    found.sort(key=lambda save: names.age_key(save.manifest.save_id), reverse=True)
    own, boot = workspace_id(repository), process.boot_id()
    return [save for save in found if may_be_cut_short(save, own, boot)]


def _newer_save(repository: Repository, checkpoint: Save) -> str | None:
    """The newest save of this workspace, where it is newer than its latest checkpoint: that holds older work."""
    own = names.age_key(checkpoint.manifest.save_id)
    # Of thousands the first one answers.
    for save_id in sorted(save_ids(repository), key=names.age_key, reverse=True):
        if names.age_key(save_id) <= own:
            return None
        if archives_of(repository, [save_id]):
            return save_id
    return None


def _unsaved_context(repository: Repository, checkpoint: Save | None) -> Context | None:
    """What the last run was doing, where it never said that it ended: its live context, its cache, its checkpoint."""
    context, status = read_live_context(repository)
    if status is None:
        context, status = read_state_context(repository)
        tracked = ("ls-files", "-z", "--", state_name(repository))
        if status is not None and repository.git.run(*tracked, ok_codes=range(256)):
            # It may have come with a clone: then the task is that of whoever committed it.
            status = None
    if status is None and checkpoint is not None:
        return checkpoint.context
    return context if status == "active" else None


def waiting_task(repository: Repository) -> str | None:
    """The task whose work is in this workspace and not finished: of a pending save, or of the last context; else of a
    save whose workspace is missing, where HEAD is on its WIP commit.

    None where there is none, or its name is not known.
    """
    archive = pending_archive(repository)
    if archive is not None:
        with ObjectReader(repository.git) as reader, suppress(CorruptSave, UnsupportedSave):
            return read_save(archive, reader).context.task_id
    context, status = read_live_context(repository)
    if status in ("active", "interrupted", RECOVERED):
        return context.task_id
    with ObjectReader(repository.git) as reader:
        tasks = [stack[0].context.task_id for *_, stack in orphans(repository, reader) if stack[0].wip == reader.head()]
    return tasks[0] if tasks else None


def _recovered_context(repository: Repository) -> Context | None:
    """The context that the last recovery, at boot perhaps, has brought back; None where a task has begun since."""
    context, status = read_live_context(repository)
    return context if status == RECOVERED else None


def _with_stack(here: Facts, repository: Repository, reader: ObjectReader, stack: tuple[Save, ...]) -> Facts:
    stack = _on_renamed_branch(here, repository, stack)
    if stack[0].lacks_context:
        from .made_up import noted_context

        context = noted_context(repository, reader, stack[0].wip)
        stack = (stack[0]._replace(context=context), *stack[1:])
        here = here._replace(put_away=(*here.put_away, _LOST if context == Context() else _NOTED))
    newest = stack[0]
    live, status = read_live_context(repository)
    # A save that was made here names its owner, too, for where no context is active any more.
    made_here = newest.context.workspace_path == text_to_json(os.fsdecode(repository.toplevel))
    who = presence_in(repository.git_dir, live if status == "active" else newest.context if made_here else None)
    contains = (
        here.head is not None
        and here.head not in resting_places(stack)
        and reader.kinds([newest.wip])[0] is not None
        and repository.git.succeeds("merge-base", "--is-ancestor", newest.wip, here.head)
    )
    carried = None if contains else _carried(here, repository, reader, stack)
    base = stack[-1].manifest.head
    moved_back = (
        here.head is not None
        and base is not None
        and here.head not in resting_places(stack)
        and carried is None
        and not contains
        and repository.git.succeeds("merge-base", "--is-ancestor", here.head, base)
    )
    faithful = carried is not None and carried.faithful
    return here._replace(
        saves=carried.saves if carried is not None and faithful else stack,
        owner_lives=who.live and (here.strict or not who.ours),
        worker=describe(who.holder),
        contains_wip=contains or (carried is not None and faithful and not carried.at_rest),
        moved_back=moved_back,
        carried=carried,
        last_head=None if here.head_ref is None or here.head is not None else _last_head(repository),
        operation_differs=_operation_differs(repository, reader, newest),
    )


def _on_renamed_branch(here: Facts, repository: Repository, stack: tuple[Save, ...]) -> tuple[Save, ...]:
    """The saves as if made on the branch of now, where `git branch -m` gave theirs another name.

    It may have done so between two saves of a stack: they are all on the branch of the newest.
    """
    branch = stack[0].manifest.head_ref
    if _is_renamed(here, repository, branch, stack[0].wip):
        branch = here.head_ref
    return tuple(
        save if save.manifest.head_ref == branch else save._replace(manifest=save.manifest._replace(head_ref=branch))
        for save in stack
    )


def _is_renamed(here: Facts, repository: Repository, old: str | None, wip: Oid) -> bool:
    """Whether the branch `old` of a save has the name of the branch of now: that is on `wip`, or its log says so.

    Where there is a new branch of the old name, the log must say that the one that was renamed was on `wip`.
    """
    if old is None or here.remote is not None or here.head_ref is None or here.head_ref == old:
        return False
    is_gone = refs.is_renamed(repository, old)
    if is_gone and here.head == wip:
        return True
    known = refs.names_in_log(repository, here.head_ref).get(old)
    return known is not None and (is_gone or known == wip)


def _last_head(repository: Repository) -> Oid | None:
    from ..git.damaged.head import last_commit

    return last_commit(os.path.join(repository.git_dir, b"logs", b"HEAD"))


def _carried(here: Facts, repository: Repository, reader: ObjectReader, stack: tuple[Save, ...]) -> Carried | None:
    """Where plain git carried the commits of this stack to; None where HEAD is where it was, or git did not."""
    own = here.remote is None and here.head_ref == stack[0].manifest.head_ref
    if here.head is None or not own or here.head in resting_places(stack):
        return None
    from ..format.carried import find_carried

    with suppress(GitError):  # an object that is missing: then nothing is proven
        return find_carried(repository, reader, here.head, stack)
    return None


_TELLING = (b"MERGE_HEAD", b"CHERRY_PICK_HEAD", b"REVERT_HEAD", b"rebase-merge/onto", b"rebase-apply/onto")


def _operation_differs(repository: Repository, reader: ObjectReader, save: Save) -> bool:
    if save.manifest.operation is None:
        return False
    tree = save.files.get(b"operation")
    saved = TreeReader(reader).lookup(tree[1] if tree else None, _TELLING)
    for path in _TELLING:
        data = files.read_limited(os.path.join(repository.git_dir, path), MAX_CONTEXT)
        if data is None:
            continue
        leaf = saved.get(path)
        content = reader.contents([leaf.oid], MAX_CONTEXT)[0] if leaf is not None else None
        if content is None or content[1] != data:
            return True
    return False
