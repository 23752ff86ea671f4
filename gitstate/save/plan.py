"""Facts → what a save does. Pure: no repository, no git, no file, no clock.

`plan_save` decides all that can be decided before an object is built; `holds_the_same` and `stack_holds` then say
whether an earlier save holds it all already, so that the new one is dropped; `is_undone` and `is_other_run` whether a
checkpoint is kept that a new one replaces, `is_due` and `surplus` which ones make up the history. `recover/plan.py` is
the other half.
"""

from __future__ import annotations

from ..format.names import age_key, checkpoint_ref, marker_ref, save_ref, save_time_ns
from ..git.refs import RefUpdate
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..format.context import Context
    from ..format.manifest import Manifest, Save, SaveKind
    from ..git.command import Oid
    from .request import SaveOutcome

CLEAN = "nothing to save: the worktree is clean and has no context"
ALL_SKIPPED = "nothing was saved: everything that could be saved was skipped"
EMPTIED = "the workspace was emptied or reset: the pending save holds its work and was left as it is"
RENEWED = "the workspace was reset: the new save takes over the work of the pending one"
LOST = "the pending save is unreadable, and pending no longer: see gitstate log"
LEFT = "the pending save {0} was made on {1}, and is pending no longer: gitstate recover --save {0}"
SAME_AS_SAVE = "nothing changed since the last save"
SAME_AS_CHECKPOINT = "nothing changed since the last checkpoint"

#: What differs between two saves of the same work.
_VOLATILE = (
    *("save_id", "created", "index_size", "index_checksum", "index_mtime_ns", "index_commit"),
    *("reason", "previous", "below", "base", "nested", "label", "index_is_plain"),
)
#: What the archive holds beside the manifest and can differ while the manifests are equal.
_ENTRIES = (b"raw", b"stages", b"operation", b"staged", b"sparse-checkout", b"sharedindex")


class PendingSave(Record):
    """A pending save, as the plan for the next one needs to know it."""

    save_id: str
    archive: Oid
    base: Oid | None = None
    """The commit below the whole stack; None on a branch that was unborn."""
    is_below: bool = False
    """HEAD is on its WIP commit, on the branch that it moved: a new save stacks on it."""
    emptied: bool = False
    """Its work is gone from the disk: wiped, or reset to the commit that it stands on."""
    is_lost: bool = False
    """Its work is gone from the disk, and git can't read the trees that hold it."""
    same_work: bool = False
    """Its context says of the task what the context of now says."""
    place: str | None = None
    """What HEAD pointed to, where it points to something else now: its work may be there, and was not reset."""


class SaveFacts(Record):
    """What is known before a save is planned. The defaults are those of a clean branch with no context."""

    workspace_id: str
    save_id: str
    """The id of the save that is planned."""
    kind: SaveKind = "save"
    insist: bool = False
    """The index kept changing: save it as it was seen."""
    stay: bool = False
    """The agent still works: leave branch and index where they are."""
    may_hide: bool = False
    """Nobody has looked whether the index hides paths from git, and the save has no copy of it."""
    head_ref: str | None = "refs/heads/main"
    """The full name of what HEAD points to; None where it is detached."""
    head: Oid | None = None
    """The commit that HEAD is on; None on an unborn branch."""
    operation: str | None = None
    """The unfinished operation; `conflict` for unmerged paths without one."""
    shared: bool = False
    """Another worktree has the branch checked out, too: it does not move under it."""
    leads_to: str | None = None
    """What the branch is a symbolic ref to, and what would move in its place; None as a rule."""
    noteworthy: bool = False
    """A fresh checkout of HEAD would not have all that is here."""
    dirty: bool = False
    """Index or worktree differ from HEAD."""
    staged: bool = False
    """The index differs from HEAD."""
    has_files: bool = False
    """The worktree has files that the index does not have so: it differs by more than deletions."""
    nested: bool = False
    """There is a repository inside."""
    has_context: bool = False
    """The context says anything of a task."""
    lost: bool = False
    """Something that a save should hold was skipped."""
    pending: PendingSave | None = None
    """The save that the marker names."""
    replaces_pending: bool = False
    """That save is the early one of the same end of the same run: this one takes its place."""
    beneath: PendingSave | None = None
    """The save that was pending before that early one."""
    marker_is_lost: bool = False
    """The marker names a save that can't be read."""
    checkpoint: str | None = None
    """The id of the latest checkpoint."""
    unreadable: str = ""
    """What git can't read of the repository; empty as a rule."""
    foreign_marker: tuple[str, Oid] | None = None
    """The marker under which `pending` stands, and its value, where it is another than this workspace's."""


class SavePlan(Record):
    """What a save does: the steps that are its own, in the order of `protocol`."""

    result: SaveOutcome
    """`saved`; or, where nothing is built, `unchanged` (the save `upon` holds all of it) or `nothing`."""
    message: str = ""
    upon: str | None = None
    """The id of the earlier save that may hold all of it: the pending one, for a checkpoint the latest checkpoint."""
    stacks: bool = False
    """HEAD is on the WIP commit of `upon`: this save stands on it."""
    renews: bool = False
    """Write `upon` once more under the context of now, instead of the worktree."""
    ignores_deletions: bool = False
    """Deletions are what a wipe left: take only the files that are there."""
    index_commit: bool = False
    """The staged tree gets a commit of its own, if it differs from HEAD's."""
    base: Oid | None = None
    below: Oid | None = None
    """The archive of the save that this one stacks on."""
    previous: str | None = None
    """The pending save that this one takes the marker from without stacking on it."""
    creates: tuple[str, ...] = ()
    """Refs that must not exist yet."""
    moves: tuple[str, ...] = ()
    """Refs that move from the value they were seen at."""
    deletes: tuple[tuple[str, Oid], ...] = ()
    """Refs that go, with the value they must have."""
    branch: str | None = None
    """The branch to move to the WIP commit; then the index is exchanged for one that matches, too."""
    why_not_moved: str = ""
    """Why there is none, for a person; empty where nobody would expect it."""
    keeps_index: bool = False
    """Keep the index file beside git's, for recover to put back."""
    follows: bool = False
    """The note and the state file follow the marker."""


def plan_save(facts: SaveFacts) -> SavePlan:
    """The plan for one save, or why there is none."""
    own = save_ref(facts.workspace_id, facts.save_id)
    index_commit = facts.staged and facts.head is not None
    if facts.kind == "checkpoint":
        moves = (checkpoint_ref(facts.workspace_id),)
        return SavePlan("saved", upon=facts.checkpoint, index_commit=index_commit, base=facts.head, moves=moves)
    if facts.kind == "safety":
        if not facts.dirty:
            return SavePlan("nothing")
        return SavePlan("saved", index_commit=index_commit, base=facts.head, creates=(own,))
    early = facts.pending if facts.replaces_pending and facts.pending and not facts.pending.emptied else None
    pending = facts.pending if early is None else facts.beneath
    stops = _stop(facts, pending)
    if stops is not None:
        return stops
    marker = marker_ref(facts.workspace_id)
    plan = SavePlan("saved", LOST if facts.marker_is_lost else "", creates=(own,), moves=(marker,), follows=True)
    if pending is not None:
        plan = plan._replace(upon=pending.save_id, stacks=pending.is_below)
        if pending.place is not None:
            plan = plan._replace(message=LEFT.format(pending.save_id, pending.place))
        elif pending.emptied and not pending.is_below:
            return plan._replace(message=RENEWED, renews=True)
        plan = plan._replace(message=LOST) if pending.is_lost else plan
    why = _why_not_moved(facts)
    deletes = [facts.foreign_marker] if facts.foreign_marker is not None else []
    if early is not None:
        deletes.append((save_ref(facts.workspace_id, early.save_id), early.archive))
    return plan._replace(
        ignores_deletions=pending is not None and pending.emptied,
        index_commit=index_commit,
        base=pending.base if pending is not None and pending.is_below else facts.head,
        below=pending.archive if pending is not None and pending.is_below else None,
        previous=pending.save_id if pending is not None and not pending.is_below else None,
        deletes=tuple(deletes),
        branch=None if why else facts.head_ref,
        why_not_moved=why,
        keeps_index=not facts.stay or facts.may_hide,
    )


def _stop(facts: SaveFacts, pending: PendingSave | None) -> SavePlan | None:
    """Why nothing is built; None where there is something to save."""
    if pending is None:
        if facts.noteworthy or facts.nested or facts.has_context:
            return None
        return SavePlan("nothing", ALL_SKIPPED if facts.lost else CLEAN)
    if pending.emptied and pending.same_work and not facts.has_files:
        return SavePlan("unchanged", EMPTIED, pending.save_id, stacks=pending.is_below)
    return None


def _why_not_moved(facts: SaveFacts) -> str:
    """Why the branch stays where it is; empty where it moves."""
    if facts.stay:
        return "the agent is still at work"
    if facts.unreadable:
        return facts.unreadable
    if facts.operation == "conflict":
        return "there are unmerged paths"
    if facts.operation is not None:
        name = "series of picks or reverts" if facts.operation == "sequence" else facts.operation
        return f"{'an' if name == 'am' else 'a'} {name} is in progress"
    if facts.head_ref is None:
        return "HEAD is detached"
    if facts.shared:
        return "another worktree has the branch checked out, too"
    if not facts.head_ref.startswith("refs/heads/"):
        return f"HEAD points to {facts.head_ref}, which is no branch"
    if facts.leads_to is not None and not facts.leads_to.startswith("refs/heads/"):
        return f"the branch is a symbolic ref to {facts.leads_to}, which is no branch"
    return "the index kept changing" if facts.insist else ""


def first_refs(plan: SavePlan, archive: Oid, seen: Mapping[str, Oid]) -> list[RefUpdate]:
    """The transaction that makes the save stand: what keeps it, then the marker, then what they replace.

    `seen` maps refs to the values they had when the save began.
    """
    return [
        *(RefUpdate(ref, archive, None) for ref in plan.creates),
        *(RefUpdate(ref, archive, seen.get(ref)) for ref in plan.moves),
        *(RefUpdate(ref, None, oid) for ref, oid in plan.deletes),
    ]


def holds_the_same(earlier: Save, new: Manifest, entries: Mapping[bytes, tuple[int, Oid]]) -> bool:
    """Whether an earlier save of the same tree and task, with which the new one does not stack, holds all of it.

    `entries` maps the names at the top of the new archive to mode and oid.
    """
    volatile = dict.fromkeys(_VOLATILE)
    if {**earlier.manifest.to_json(), **volatile} != {**new.to_json(), **volatile}:
        return False
    return all(earlier.files.get(name) == entries.get(name) for name in _ENTRIES)


def stack_holds(
    old: Manifest, new: Manifest, *, unmerged: bool, same_raw: bool, permissions: Mapping[bytes, int | None]
) -> bool:
    """Whether a save of the same tree and task, on whose WIP commit HEAD is, holds what a new one would add to it.

    `unmerged`: there are unmerged paths. `same_raw`: the old one has the new one's raw bytes. `permissions` maps the
    paths of `old.modes` that `new.modes` lacks to what they are now, None for a file that is gone.
    """
    return (
        new.operation == old.operation
        and not {*new.operation_files} - {*old.operation_files} - {b"ORIG_HEAD"}
        and not unmerged
        and new.absent == old.absent
        and new.sparse == old.sparse
        and new.worktree_settings == old.worktree_settings
        and new.sparse_directories == old.sparse_directories
        and new.absent_submodules == old.absent_submodules
        and not new.staged
        and not new.intent_to_add
        and same_raw
        and all(old.modes.get(path) == mode for path, mode in new.modes.items())
        and all(path in new.modes or permissions.get(path) == mode for path, mode in old.modes.items())
        and old.directories == new.directories
        and old.special == new.special
        and old.left_out == new.left_out
    )


# -- a checkpoint that is replaced


class PathVersions(Record):
    """The versions of one path, by object id; None where it does not exist."""

    old: Oid | None
    """In the checkpoint that is replaced."""
    new: Oid | None
    """In the new one."""
    old_head: Oid | None
    """In the commit that HEAD was on then."""
    head: Oid | None
    """In HEAD's commit of now."""
    pending: Oid | None = None
    """In the pending save."""
    staged: Oid | None = None
    """In the index of the checkpoint, where it was staged."""


def is_unheld(path: PathVersions) -> bool:
    """Whether the old checkpoint's version of a path is in no other place."""
    return path.old is not None and path.old not in (path.new, path.head, path.pending)


def is_undone(path: PathVersions, empty: Oid, *, follows: bool) -> bool:
    """Whether that version was not replaced by later work: the path vanished, went back to HEAD, or is empty now.

    Or it went back to what was staged then: a manager of hooks hides what is not, while a commit is made.

    `empty` is the id of the empty blob. `follows`: HEAD's commit of now contains the one of then, so that a path that
    differs between them was committed.
    """
    if not is_unheld(path):
        return False
    committed = follows and path.head != path.old_head
    if path.new == empty or (path.new is not None and path.new == path.staged):
        return True
    return path.new in (None, path.head) and not committed


def is_other_run(old: Context, new: Context) -> bool:
    """Whether two contexts are of different runs, sessions or tasks."""
    return _run(old) != _run(new)


def _run(context: Context) -> tuple[object, ...]:
    return (context.task_id, context.agent, context.session_id, context.boot_id, context.pid, context.pid_start)


# -- the history: the thinned series of checkpoints

#: Up to this age, in seconds, one checkpoint of the history stays for each so many seconds. Older ones: one a day.
_LEVELS = ((600, 0), (3600, 300), (86_400, 3600))
_DAY = 86_400
_SECOND_NS = 1_000_000_000
#: Between two checkpoints with more than this between them nobody worked, or the clock was set.
_PAUSE_NS = 2 * _DAY * _SECOND_NS


def is_due(save_id: str, series: Iterable[str], interval: float) -> bool:
    """Whether the checkpoint `save_id` joins the series: the newest of it is not less than `interval` seconds older."""
    made = save_time_ns(save_id)
    if made is None:
        return False
    timed = (other for other in series if save_time_ns(other) is not None)
    last = save_time_ns(max(timed, key=age_key, default=""))
    return last is None or not 0 <= made - last < interval * _SECOND_NS


def surplus(series: Iterable[str], now_ns: int, interval: float) -> list[str]:
    """The ids that go from a series: of those of one span of time all but the newest. See `_LEVELS`.

    The spans are those of the clock, not of `now_ns`: what stays once stays for as long as its level does. What was
    made after the clock was set back has spans of its own.
    """
    order = sorted((name for name in series if save_time_ns(name) is not None), key=age_key)
    times = [save_time_ns(name) or 0 for name in order]
    newest: dict[tuple[float, int, int], str] = {}
    gone = []
    steps = 0
    for number, (save_id, age) in enumerate(zip(order, _ages(times, now_ns), strict=True)):
        made = times[number]
        steps += number > 0 and made < times[number - 1]
        span = max(interval, next((span for most, span in _LEVELS if age <= most), _DAY))
        key = span, steps, made // int(span * _SECOND_NS) if span else made
        if key in newest:
            gone.append(newest[key])
        newest[key] = save_id
    return gone


def _ages(times: Sequence[int], now_ns: int) -> list[float]:
    """How old each of a series is, in seconds: the time between it and the next one, and so on up to now.

    A clock that was set, back or by days, made nothing older.
    """
    ages: list[float] = []
    age = 0
    for made, later in zip(reversed(times), (now_ns, *reversed(times)), strict=False):
        age += later - made if 0 <= later - made <= _PAUSE_NS else 0
        ages.append(age / _SECOND_NS)
    return ages[::-1]
