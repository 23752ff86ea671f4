"""The plan of a save: facts in, steps out. No repository, no git, no file."""

from __future__ import annotations

from typing import Any

import pytest

from gitstate.format.context import Context
from gitstate.format.manifest import LeftOut, Manifest, Nested, Reason, Save
from gitstate.git.refs import RefUpdate
from gitstate.save import plan as plans
from gitstate.save.plan import PendingSave, SaveFacts, SavePlan, first_refs, holds_the_same, plan_save, stack_holds

WORKSPACE = "shop-0123456789ab"
OWN = f"refs/gitstate/saves/{WORKSPACE}/new"
MARKER = f"refs/gitstate/pending/{WORKSPACE}"
CHECKPOINT = f"refs/gitstate/checkpoints/{WORKSPACE}"
HEAD, BASE, BELOW, EARLY, ARCHIVE = (digit * 40 for digit in "12345")

#: HEAD is on its WIP commit.
STACKED = PendingSave("below", BELOW, base=BASE, is_below=True)
#: HEAD is somewhere else: the branch did not move then, or it has moved since.
BESIDE = PendingSave("beside", BELOW, base=BASE)
#: The save that a run took at once when it was told to end; the one that is planned takes its place.
AT_ONCE = PendingSave("early", EARLY, base=HEAD)


def facts(**given: Any) -> SaveFacts:
    """A branch with one edited file, unless something else is given."""
    usual = {"head": HEAD, "noteworthy": True, "dirty": True, "has_files": True}
    return SaveFacts(WORKSPACE, "new", **{**usual, **given})


def clean(**given: Any) -> SaveFacts:
    return facts(**{"noteworthy": False, "dirty": False, "has_files": False, **given})


# -- whether there is anything to save

NOTHING = [
    pytest.param(clean(), plans.CLEAN, id="clean"),
    pytest.param(clean(head=None), plans.CLEAN, id="unborn and empty"),
    pytest.param(clean(operation=None, head_ref=None), plans.CLEAN, id="clean and detached"),
    pytest.param(clean(insist=True), plans.CLEAN, id="clean while the index changes"),
    pytest.param(clean(lost=True), plans.ALL_SKIPPED, id="all that is there was skipped"),
    pytest.param(clean(kind="safety"), "", id="nothing that recover could overwrite"),
    pytest.param(facts(kind="safety", dirty=False), "", id="only modes and empty directories before recover"),
    pytest.param(
        clean(replaces_pending=True, pending=AT_ONCE), plans.CLEAN, id="all that an early save held is gone by itself"
    ),
]


@pytest.mark.parametrize(("given", "message"), NOTHING)
def test_nothing_to_save(given: SaveFacts, message: str) -> None:
    assert plan_save(given) == SavePlan("nothing", message)


SOMETHING = [
    pytest.param(facts(), id="an edited file"),
    pytest.param(facts(dirty=False, has_files=False), id="an empty directory"),
    pytest.param(facts(has_files=False), id="a deleted file"),
    pytest.param(clean(nested=True), id="a repository inside"),
    pytest.param(clean(has_context=True), id="a context"),
    pytest.param(clean(has_context=True, lost=True), id="a context, and all files skipped"),
    pytest.param(facts(head=None), id="files on an unborn branch"),
    pytest.param(clean(pending=BESIDE), id="clean, but an earlier save is pending and its branch has moved on"),
    pytest.param(clean(pending=STACKED), id="clean on the WIP commit of a pending save"),
]


@pytest.mark.parametrize("given", SOMETHING)
def test_something_to_save(given: SaveFacts) -> None:
    plan = plan_save(given)
    assert (plan.result, plan.message, plan.renews, plan.follows) == ("saved", "", False, True)
    assert plan.creates == (OWN,) and plan.moves == (MARKER,)


# -- whether the branch moves

MOVES = [
    pytest.param(facts(), "", id="a branch"),
    pytest.param(facts(head=None), "", id="an unborn branch"),
    pytest.param(facts(head_ref="refs/heads/agent/42"), "", id="a branch with a slash"),
    pytest.param(facts(pending=STACKED), "", id="stacked"),
    pytest.param(facts(pending=BESIDE), "", id="beside a pending save"),
    pytest.param(facts(stay=True), "the agent is still at work", id="an early save"),
    pytest.param(facts(insist=True), "the index kept changing", id="the index kept changing"),
    pytest.param(facts(head_ref=None), "HEAD is detached", id="detached"),
    pytest.param(
        facts(head_ref="refs/remotes/origin/main"),
        "HEAD points to refs/remotes/origin/main, which is no branch",
        id="no branch",
    ),
    pytest.param(facts(leads_to="refs/heads/real"), "", id="a symbolic ref to a branch"),
    pytest.param(
        facts(leads_to="refs/remotes/origin/main"),
        "the branch is a symbolic ref to refs/remotes/origin/main, which is no branch",
        id="a symbolic ref to no branch",
    ),
    pytest.param(facts(operation="merge"), "a merge is in progress", id="merge"),
    pytest.param(facts(operation="rebase", head_ref=None), "a rebase is in progress", id="rebase, so detached"),
    pytest.param(facts(operation="cherry-pick"), "a cherry-pick is in progress", id="cherry-pick"),
    pytest.param(facts(operation="revert"), "a revert is in progress", id="revert"),
    pytest.param(facts(operation="bisect"), "a bisect is in progress", id="bisect"),
    pytest.param(facts(operation="am"), "an am is in progress", id="am"),
    pytest.param(facts(operation="sequence"), "a series of picks or reverts is in progress", id="sequence"),
    pytest.param(facts(operation="conflict"), "there are unmerged paths", id="unmerged paths"),
    pytest.param(facts(operation="merge", stay=True), "the agent is still at work", id="early, in a merge"),
    pytest.param(facts(operation="merge", insist=True), "a merge is in progress", id="merge, index changing"),
]


@pytest.mark.parametrize(("given", "why"), MOVES)
def test_branch_moves_or_why_not(given: SaveFacts, why: str) -> None:
    plan = plan_save(given)
    assert plan.branch == (None if why else given.head_ref)
    assert plan.why_not_moved == why
    assert plan.keeps_index == (not given.stay), "recover puts it back wherever the branch is"


@pytest.mark.parametrize("kind", ["checkpoint", "safety"])
def test_branch_never_moves_for_saves_of_other_kinds(kind: str) -> None:
    plan = plan_save(facts(kind=kind, staged=True, pending=STACKED))
    assert (plan.result, plan.branch, plan.why_not_moved, plan.keeps_index, plan.follows) == ("saved", None, "", 0, 0)
    assert (plan.base, plan.below, plan.previous, plan.index_commit) == (HEAD, None, None, True)
    assert plan.deletes == ()


def test_checkpoint_moves_only_its_ref_and_is_compared_with_the_latest_one() -> None:
    plan = plan_save(clean(kind="checkpoint", checkpoint="latest"))
    assert (plan.creates, plan.moves, plan.upon) == ((), (CHECKPOINT,), "latest")
    assert plan_save(clean(kind="checkpoint")).upon is None


def test_safety_save_makes_only_a_ref_of_its_own() -> None:
    plan = plan_save(facts(kind="safety"))
    assert (plan.creates, plan.moves, plan.upon) == ((OWN,), (), None)


# -- whether there is an index commit


@pytest.mark.parametrize("kind", ["save", "checkpoint", "safety"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, False, id="nothing staged"),
        pytest.param({"staged": True}, True, id="staged"),
        pytest.param({"staged": True, "head": None}, False, id="staged on an unborn branch"),
        pytest.param({"staged": True, "operation": "merge"}, True, id="staged in a merge"),
        pytest.param({"staged": True, "head_ref": None}, True, id="staged on a detached HEAD"),
    ],
)
def test_index_commit(kind: str, given: dict[str, Any], expected: bool) -> None:
    assert plan_save(facts(kind=kind, **given)).index_commit is expected


# -- what stands on what


@pytest.mark.parametrize(
    ("pending", "base", "below", "previous"),
    [
        pytest.param(None, HEAD, None, None, id="nothing pending"),
        pytest.param(STACKED, BASE, BELOW, None, id="on a pending save"),
        pytest.param(STACKED._replace(base=None), None, BELOW, None, id="on one of an unborn branch"),
        pytest.param(BESIDE, HEAD, None, "beside", id="beside a pending save"),
        pytest.param(STACKED._replace(same_work=True), BASE, BELOW, None, id="on one of the same task"),
        pytest.param(BESIDE._replace(same_work=True), HEAD, None, "beside", id="beside one of the same task"),
    ],
)
def test_stacking(pending: PendingSave | None, base: str | None, below: str | None, previous: str | None) -> None:
    plan = plan_save(facts(pending=pending))
    assert (plan.base, plan.below, plan.previous) == (base, below, previous)
    assert plan.upon == (pending.save_id if pending else None)
    assert plan.stacks == (below is not None)
    assert not plan.deletes and not plan.ignores_deletions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(facts(pending=BESIDE), "", id="reset to its base, and edited"),
        pytest.param(facts(pending=BESIDE._replace(place="refs/heads/b")), plans.LEFT, id="on another branch"),
        pytest.param(
            clean(has_context=True, pending=BESIDE._replace(place="refs/heads/b", emptied=True)), plans.LEFT, id="clean"
        ),
        pytest.param(facts(marker_is_lost=True), plans.LOST, id="unreadable"),
        pytest.param(facts(marker_is_lost=True, pending=STACKED), plans.LOST, id="unreadable, on a WIP commit"),
    ],
)
def test_save_that_takes_the_marker_from_another_says_so(given: SaveFacts, message: str) -> None:
    plan = plan_save(given)
    assert plan.message == message.format("beside", "refs/heads/b") and not plan.renews


# -- a workspace that was emptied or reset: a save of that must not hide the one that matters


@pytest.mark.parametrize(
    ("given", "stacks"),
    [
        pytest.param(clean(pending=BESIDE._replace(emptied=True, same_work=True)), False, id="reset"),
        pytest.param(
            facts(has_files=False, pending=STACKED._replace(emptied=True, same_work=True)), True, id="wiped on its WIP"
        ),
        pytest.param(
            clean(head_ref=None, operation="rebase", pending=BESIDE._replace(emptied=True, same_work=True)),
            False,
            id="reset on a detached HEAD",
        ),
        pytest.param(
            clean(replaces_pending=True, pending=AT_ONCE._replace(emptied=True, same_work=True), beneath=STACKED),
            False,
            id="reset since the early save of the same end",
        ),
    ],
)
def test_emptied_workspace_leaves_the_pending_save_alone(given: SaveFacts, stacks: bool) -> None:
    assert given.pending is not None
    assert plan_save(given) == SavePlan("unchanged", plans.EMPTIED, given.pending.save_id, stacks=stacks)


@pytest.mark.parametrize("has_context", [False, True])
def test_reset_workspace_with_another_task_renews_the_pending_save(has_context: bool) -> None:
    plan = plan_save(clean(pending=BESIDE._replace(emptied=True), has_context=has_context))
    assert plan == SavePlan(
        "saved", plans.RENEWED, upon="beside", renews=True, creates=(OWN,), moves=(MARKER,), follows=True
    )


def test_reset_workspace_takes_over_no_pending_save_that_git_cannot_read() -> None:
    plan = plan_save(clean(pending=BESIDE._replace(is_lost=True)))
    assert (plan.result, plan.message, plan.renews) == ("saved", plans.LOST, False)


@pytest.mark.parametrize("same_work", [False, True])
def test_new_files_in_a_wiped_workspace_are_saved_without_the_deletions(same_work: bool) -> None:
    plan = plan_save(facts(pending=STACKED._replace(emptied=True, same_work=same_work)))
    assert (plan.result, plan.renews, plan.ignores_deletions, plan.below) == ("saved", False, True, BELOW)


def test_another_task_in_a_wiped_workspace_is_saved_without_the_deletions() -> None:
    plan = plan_save(facts(has_files=False, pending=STACKED._replace(emptied=True)))
    assert (plan.result, plan.renews, plan.ignores_deletions, plan.below) == ("saved", False, True, BELOW)


# -- the second save of a run's end takes the place of the early one


@pytest.mark.parametrize(
    ("beneath", "base", "below", "previous"),
    [
        pytest.param(None, HEAD, None, None, id="nothing was pending before"),
        pytest.param(STACKED, BASE, BELOW, None, id="on what was pending before"),
        pytest.param(BESIDE, HEAD, None, "beside", id="beside what was pending before"),
    ],
)
def test_second_save_replaces_the_early_one(
    beneath: PendingSave | None, base: str, below: str | None, previous: str | None
) -> None:
    plan = plan_save(facts(replaces_pending=True, pending=AT_ONCE, beneath=beneath))
    assert (plan.base, plan.below, plan.previous) == (base, below, previous)
    assert plan.deletes == ((f"refs/gitstate/saves/{WORKSPACE}/early", EARLY),)
    assert plan.branch == "refs/heads/main"


def test_early_save_whose_work_was_reset_meanwhile_is_renewed_not_replaced() -> None:
    early = AT_ONCE._replace(emptied=True)
    plan = plan_save(clean(replaces_pending=True, pending=early, beneath=BESIDE))
    assert (plan.renews, plan.upon, plan.deletes) == (True, "early", ())


def test_early_save_of_another_end_is_not_replaced() -> None:
    plan = plan_save(facts(pending=AT_ONCE, beneath=BESIDE))
    assert (plan.previous, plan.deletes) == ("early", ())


# -- the refs that make the save stand, in their order


def test_first_refs_of_a_save_keep_it_before_the_marker_names_it() -> None:
    plan = plan_save(facts(replaces_pending=True, pending=AT_ONCE, foreign_marker=("refs/gitstate/pending/old", BELOW)))
    assert first_refs(plan, ARCHIVE, {MARKER: EARLY}) == [
        RefUpdate(OWN, ARCHIVE, None),
        RefUpdate(MARKER, ARCHIVE, EARLY),
        RefUpdate("refs/gitstate/pending/old", None, BELOW),
        RefUpdate(f"refs/gitstate/saves/{WORKSPACE}/early", None, EARLY),
    ]


@pytest.mark.parametrize("seen", [{}, {CHECKPOINT: BELOW}])
def test_first_refs_of_a_checkpoint(seen: dict[str, str]) -> None:
    plan = plan_save(clean(kind="checkpoint"))
    assert first_refs(plan, ARCHIVE, {**seen, MARKER: EARLY}) == [RefUpdate(CHECKPOINT, ARCHIVE, seen.get(CHECKPOINT))]


def test_first_refs_of_a_safety_save_leave_the_marker_alone() -> None:
    plan = plan_save(facts(kind="safety", pending=STACKED))
    assert first_refs(plan, ARCHIVE, {MARKER: EARLY}) == [RefUpdate(OWN, ARCHIVE, None)]


# -- whether an earlier save holds all of it

PLAIN = Manifest(
    save_id="old",
    kind="save",
    workspace_id=WORKSPACE,
    created="2026-11-26T00:00:00.000000Z",
    head_ref="refs/heads/main",
    head=HEAD,
    base=HEAD,
    index_commit=None,
    moves_branch=True,
    below=None,
    previous=None,
    operation=None,
    operation_files=(),
    index_size=100,
    index_checksum="a" * 40,
    index_mtime_ns=1,
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
OLD = Save(ARCHIVE, BELOW, BASE, {b"staged": (0o040000, BASE)}, Context(), PLAIN)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        pytest.param({}, True, id="nothing"),
        pytest.param({"save_id": "new", "created": "later", "reason": Reason("TERM")}, True, id="id, time and reason"),
        pytest.param({"index_size": 90, "index_checksum": "b" * 40, "index_mtime_ns": 2}, True, id="the index file"),
        pytest.param(
            {"base": BASE, "below": BELOW, "previous": "x", "index_commit": EARLY}, True, id="what is beneath"
        ),
        pytest.param({"nested": (Nested(b"sub", "id", ARCHIVE),)}, True, id="the saves inside"),
        pytest.param({"head": BASE}, False, id="HEAD"),
        pytest.param({"head_ref": None}, False, id="the branch"),
        pytest.param({"moves_branch": False}, False, id="that the branch moves"),
        pytest.param({"operation": "merge"}, False, id="an operation"),
        pytest.param({"operation_files": (b"MERGE_MSG",)}, False, id="a file of an operation"),
        pytest.param({"staged": {b"a": (0o100644, HEAD)}}, False, id="a staged file"),
        pytest.param({"intent_to_add": (b"a",)}, False, id="an intent to add"),
        pytest.param({"modes": {b"a": 0o600}}, False, id="a mode"),
        pytest.param({"directories": {b"d": 0o755}}, False, id="an empty directory"),
        pytest.param({"raw": {b"a": "filter"}}, False, id="raw bytes"),
        pytest.param({"absent": (b"a",)}, False, id="an absent file"),
        pytest.param({"sparse": {"core.sparsecheckout": "true"}}, False, id="a sparse checkout"),
        pytest.param({"left_out": (LeftOut(b"a", "why", True),)}, False, id="a skipped file"),
        pytest.param({"ignored": (b"a",)}, False, id="an ignored file"),
    ],
)
def test_earlier_save_holds_the_same_manifest(changes: dict[str, Any], same: bool) -> None:
    assert holds_the_same(OLD, PLAIN._replace(**changes), OLD.files) is same


@pytest.mark.parametrize("name", ["raw", "stages", "operation", "staged", "sparse-checkout", "sharedindex"])
def test_earlier_save_with_other_content_in_the_archive_is_not_the_same(name: str) -> None:
    assert not holds_the_same(OLD, PLAIN, {**OLD.files, name.encode(): (0o040000, EARLY)})


def test_earlier_save_with_another_index_file_or_context_file_is_the_same() -> None:
    files = {**OLD.files, b"index": (0o100644, EARLY), b"manifest.json": (0o100644, EARLY)}
    assert holds_the_same(OLD, PLAIN, files)


STACK = PLAIN._replace(
    operation_files=(b"AUTO_MERGE",), modes={b"a": 0o600, b"b": 0o640}, directories={b"d": 0o755}, raw={b"r": "filter"}
)
#: What a look finds where the save has put all of that on the branch.
ABOVE = STACK._replace(head=BELOW, operation_files=(), raw={})


@pytest.mark.parametrize(
    ("changes", "others", "holds"),
    [
        pytest.param({}, {}, True, id="nothing"),
        pytest.param({"operation_files": (b"ORIG_HEAD",)}, {}, True, id="ORIG_HEAD, which git leaves behind"),
        pytest.param({"operation_files": (b"AUTO_MERGE",)}, {}, True, id="a file of an operation that it holds"),
        pytest.param({"operation_files": (b"MERGE_MSG",)}, {}, False, id="a file of an operation that it lacks"),
        pytest.param({"operation": "merge"}, {}, False, id="an operation"),
        pytest.param({}, {"unmerged": True}, False, id="unmerged paths"),
        pytest.param({}, {"same_raw": False}, False, id="other raw bytes"),
        pytest.param({"absent": (b"a",)}, {}, False, id="an absent file"),
        pytest.param({"sparse": {"core.sparsecheckout": "true"}}, {}, False, id="a sparse checkout"),
        pytest.param({"staged": {b"a": None}}, {}, False, id="a staged deletion"),
        pytest.param({"intent_to_add": (b"a",)}, {}, False, id="an intent to add"),
        pytest.param({"modes": {b"a": 0o600}}, {"permissions": {b"b": 0o640}}, True, id="a mode that is still so"),
        pytest.param({"modes": {b"a": 0o600}}, {"permissions": {b"b": 0o644}}, False, id="a mode that was reset"),
        pytest.param({"modes": {b"a": 0o600}}, {"permissions": {b"b": None}}, False, id="a file that is gone"),
        pytest.param({"modes": {b"a": 0o640, b"b": 0o640}}, {}, False, id="another mode"),
        pytest.param({"modes": {**STACK.modes, b"c": 0o600}}, {}, False, id="a mode that it lacks"),
        pytest.param({"directories": {}}, {}, False, id="an empty directory that is gone"),
        pytest.param({"left_out": (LeftOut(b"a", "why", True),)}, {}, False, id="a skipped file"),
        pytest.param({"ignored": (b"a",)}, {}, True, id="an ignored file"),
    ],
)
def test_stack_holds(changes: dict[str, Any], others: dict[str, Any], holds: bool) -> None:
    usual = {"unmerged": False, "same_raw": True, "permissions": {}}
    assert stack_holds(STACK, ABOVE._replace(**changes), **{**usual, **others}) is holds


# -- the facts decide alone: whatever they are, the steps fit together


@pytest.mark.parametrize("kind", ["save", "checkpoint", "safety"])
@pytest.mark.parametrize("operation", [None, "merge"])
@pytest.mark.parametrize("head_ref", [None, "refs/heads/main"])
def test_steps_of_every_plan_fit_together(kind: str, operation: str | None, head_ref: str | None) -> None:
    pendings = [
        one and one._replace(emptied=emptied, same_work=same)
        for one in (None, STACKED, BESIDE, AT_ONCE)
        for emptied in (False, True)
        for same in (False, True)
    ]
    names = ("insist", "stay", "dirty", "has_files", "has_context")
    for pending in pendings:
        for number in range(1 << len(names)):
            flags = {name: bool(number >> place & 1) for place, name in enumerate(names)}
            flags["noteworthy"] = flags["dirty"]
            replaces = pending is not None and pending.save_id == "early"
            given = facts(
                kind=kind, operation=operation, head_ref=head_ref, pending=pending, replaces_pending=replaces, **flags
            )
            plan = plan_save(given)
            assert (plan.result == "saved") == bool(plan.creates or plan.moves), given
            assert (plan.result == "unchanged") <= (pending is not None and plan.upon == pending.save_id), given
            assert not (plan.below and plan.previous), given
            assert (plan.branch is None) or (plan.follows and not plan.why_not_moved and plan.keeps_index), given
            assert plan.follows == (MARKER in plan.moves), given
            assert not plan.renews or (plan.upon is not None and not plan.stacks), given
            assert plan.result != "saved" or plan.renews or kind != "save" or plan.branch or plan.why_not_moved, given
