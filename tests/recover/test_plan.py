"""The rules of a recovery's verdict, row by row: no repository, no git, no file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click
import pytest

from gitstate.cli.main import group
from gitstate.errors import EXIT_AGAIN, EXIT_DONE, EXIT_PERSON
from gitstate.format.context import Context
from gitstate.git.damaged.files import Damage
from gitstate.recover import request
from gitstate.recover.plan import (
    Facts,
    Verdict,
    can_compare,
    decide,
    disk_state,
    lacks_checkpoint,
    resting_places,
    with_checkpoint,
)
from gitstate.recover.request import SUCCESSES
from tests.support.literals import literal_values
from tests.support.made_up import BRANCH, EARLIER_ID, HEAD, SAVE_ID, made_up_save, oid

if TYPE_CHECKING:
    from gitstate.recover.request import DecidedVerdict

DECIDED = literal_values(request, "DecidedVerdict")
SAVE = made_up_save()
WIP = SAVE.wip
IN_MERGE = made_up_save(operation="merge", moves_branch=False)
DETACHED = made_up_save(head_ref=None, moves_branch=False)
UNBORN = made_up_save(head=None, base=None)
STAGED = made_up_save(index_commit=oid("I"))
LOWER = made_up_save(save_id=EARLIER_ID, archive=oid("a"), wip=oid("w"))
UPPER = made_up_save(below=oid("a"), head=oid("w"))
CHECKPOINT = made_up_save(kind="checkpoint", moves_branch=False)
RUN = Context(task_id="T-1", pid=4242)
OTHER = oid("other")
LOST_HEAD = Damage(b"/r/.git/HEAD", "the commit of HEAD is unreadable", "git fsck")


def facts(*saves: Any, head_ref: str | None = BRANCH, head: str | None = WIP, **values: Any) -> Facts:
    return Facts(head_ref, head, values.pop("operation", None), saves, **values)


def run(**values: Any) -> Facts:
    """No save is pending, and a context says what the last run was doing."""
    return facts(head=HEAD, context=RUN, **values)


@pytest.fixture(autouse=True)
def hermetic() -> None:
    """These rules read no environment: no home is made for each row."""


#: Name, facts, verdict, exit status, what the message says, what the hint says.
DECISIONS: list[tuple[str, Facts, str, int, str, str | None]] = [
    ("nothing at all", facts(head=HEAD), "nothing", 0, "no pending save", None),
    ("recovered at boot", facts(head=HEAD, recovered=Context()), "recovered", 0, "was recovered earlier", None),
    (
        "recovered, asked of all",
        facts(head=HEAD, recovered=Context(), strict=True),
        "nothing",
        0,
        "no pending save",
        None,
    ),
    ("recovered, then begun", facts(head=HEAD, recovered=Context(), context=Context()), "context_only", 0, "", None),
    (
        *("a checkpoint without a context", facts(checkpoint=CHECKPOINT, disk="differs")),
        *("nothing", 0, "no pending", f"--save {SAVE_ID}"),
    ),
    ("a checkpoint that is on disk", facts(checkpoint=CHECKPOINT), "nothing", 0, "no pending save", None),
    ("others' saves, nobody named this", facts(elsewhere="some", strict=True), "nothing", 0, "no pending save", None),
    ("others' saves", facts(elsewhere="pending saves of"), "elsewhere", 4, "pending saves of", "recover --into PATH"),
    ("a context before others' saves", run(elsewhere="some"), "context_only", 0, "no pending save", None),
    # -- a save is pending
    ("HEAD on the WIP commit", facts(SAVE), "restore", 0, "", None),
    ("HEAD back on its base", facts(SAVE, head=HEAD), "restore", 0, "", None),
    ("HEAD on the index commit", facts(STAGED, head=oid("I")), "restore", 0, "", None),
    ("a stack, HEAD on the upper WIP", facts(UPPER, LOWER), "restore", 0, "", None),
    ("a stack, HEAD on the lower WIP", facts(UPPER, LOWER, head=oid("w")), "restore", 0, "", None),
    ("a stack, HEAD on the first base", facts(UPPER, LOWER, head=HEAD), "restore", 0, "", None),
    ("an unborn branch", facts(UNBORN, head=None), "restore", 0, "", None),
    ("an unborn branch, moved", facts(UNBORN), "restore", 0, "", None),
    ("a detached HEAD", facts(DETACHED, head_ref=None, head=HEAD), "restore", 0, "", None),
    ("a clone that has no detached HEAD", facts(DETACHED, head=HEAD, detach=True), "restore", 0, "", None),
    ("its own merge", facts(IN_MERGE, head=HEAD, operation="merge"), "restore", 0, "", None),
    ("its merge is gone", facts(IN_MERGE, head=HEAD), "restore", 0, "", None),
    ("nobody named this, and its owner is gone", facts(SAVE, strict=True), "restore", 0, "", None),
    ("its owner lives", facts(SAVE, owner_lives=True), "live", 75, "pid 4242", "gitstate status"),
    ("its owner lives, on another branch", facts(SAVE, head_ref=None, owner_lives=True), "live", 75, "4242", "status"),
    ("another branch", facts(SAVE, head_ref="refs/heads/main"), "elsewhere", 4, "refs/heads/main", "--into PATH"),
    ("another branch, named", facts(SAVE, head_ref="refs/heads/main"), "elsewhere", 4, BRANCH, f"--save {SAVE_ID}"),
    ("detached since", facts(SAVE, head_ref=None), "elsewhere", 4, "a detached HEAD", "--into PATH"),
    ("attached since", facts(DETACHED, head=HEAD), "elsewhere", 4, f"detached at {HEAD[:12]}", "--into PATH"),
    ("commits on top", facts(SAVE, head=OTHER, contains_wip=True), "buried", 0, WIP[:12], "git rebase --onto"),
    ("commits on top of a root", facts(UNBORN, head=OTHER, contains_wip=True), "buried", 0, "", "rebase -i --root"),
    ("the way back", facts(SAVE, head=OTHER, contains_wip=True), "buried", 0, "", f"&& gitstate restore {SAVE_ID}"),
    (
        "the branch was reset",
        facts(SAVE, head=OTHER),
        "diverged",
        4,
        "nothing was touched",
        "gitstate recover --dismiss",
    ),
    ("the branch is unborn now", facts(SAVE, head=None), "diverged", 4, "deleted", f"gitstate diff {SAVE_ID}"),
    ("HEAD was on it last", facts(SAVE, head=None, last_head=SAVE.wip), "restore", 0, "deleted the branch", None),
    ("HEAD was elsewhere last", facts(SAVE, head=None, last_head=OTHER), "diverged", 4, "a commit after", OTHER[:12]),
    ("a detached HEAD moved", facts(DETACHED, head_ref=None, head=OTHER), "diverged", 4, "moved", "--dismiss"),
    ("the WIP commit of a save that moves no branch", facts(IN_MERGE), "diverged", 4, "moved", "--dismiss"),
    (
        "a merge that was begun since",
        facts(SAVE, operation="merge"),
        "diverged",
        4,
        "a merge that is not",
        "abort the merge",
    ),
    (
        "another merge than its own",
        facts(IN_MERGE, head=HEAD, operation="merge", operation_differs=True),
        *("diverged", 4, "nothing was touched", "then: gitstate recover"),
    ),
    ("commits and a merge", facts(SAVE, head=OTHER, operation="merge", contains_wip=True), "buried", 0, "", "rebase"),
    # -- a save can't be read
    ("HEAD is unreadable", facts(SAVE, damage=(LOST_HEAD,)), "damaged", 4, "is unreadable; nothing", "git fsck, then"),
    ("HEAD is unreadable, no save", facts(damage=(LOST_HEAD,)), "damaged", 4, "is unreadable", "git fsck"),
    ("a newer format", facts(problem="format 99", unsupported=True), "unsupported", 4, "format 99", "install a newer"),
    ("torn", facts(problem="torn"), "corrupt", 4, "torn", "gitstate log"),
    ("torn, another before", facts(problem="torn", earlier=EARLIER_ID), "corrupt", 4, "torn", f"restore {EARLIER_ID}"),
    ("torn, with a marker", facts(problem="torn", marker="refs/x"), "corrupt", 4, "torn", "git update-ref -d refs/x"),
    # -- no save, but a context
    ("its process lives", run(owner="lives"), "live", 75, "pid 4242", "gitstate status"),
    ("it is ours", run(owner="ours"), "context_only", 0, "no pending save", None),
    ("it is ours, nobody named this", run(owner="ours", strict=True), "live", 75, "pid 4242", "gitstate status"),
    ("unknown", run(), "context_only", 0, "no pending save", None),
    ("unknown, nobody named this", run(strict=True), "nothing", 0, "cannot determine", "gitstate recover"),
    ("gone", run(owner="gone"), "context_only", 0, "ended without a save", None),
    ("gone, nobody named this", run(owner="gone", strict=True), "context_only", 0, "ended without a save", None),
    ("gone, all there", run(owner="gone", checkpoint=CHECKPOINT), "context_only", 0, "as they are on disk", None),
    ("gone, wiped", run(owner="gone", checkpoint=CHECKPOINT, disk="gone"), "restore", 0, "checkpoint is used", None),
    ("gone, wiped, no checkpoint", run(owner="gone", disk="gone"), "context_only", 0, "ended without a save", None),
    ("ours, wiped", run(owner="ours", checkpoint=CHECKPOINT, disk="gone"), "context_only", 0, "are gone", "--save"),
    ("unknown, wiped", run(checkpoint=CHECKPOINT, disk="gone"), "context_only", 0, "are gone", f"--save {SAVE_ID}"),
    ("gone, edited", run(owner="gone", checkpoint=CHECKPOINT, disk="differs"), "context_only", 0, "differ", "restore"),
    ("unknown, edited", run(checkpoint=CHECKPOINT, disk="differs"), "context_only", 0, "some differ", "gitstate diff"),
    ("lives, wiped", run(owner="lives", checkpoint=CHECKPOINT, disk="gone"), "live", 75, "pid 4242", "gitstate status"),
]


@pytest.mark.parametrize(
    ("name", "known", "verdict", "status", "message", "hint"), DECISIONS, ids=[name for name, *_ in DECISIONS]
)
def test_verdict(name: str, known: Facts, verdict: str, status: int, message: str, hint: str | None) -> None:
    decided = decide(known)
    assert (decided.verdict, decided.exit_status) == (verdict, status), name
    assert message in decided.message, name
    assert (decided.hint is None) is (hint is None), name
    assert hint is None or hint in (decided.hint or ""), name


def test_every_verdict_that_can_be_decided_has_a_row() -> None:
    rows = {decide(known).verdict for _, known, *_ in DECISIONS}
    assert rows == set(DECIDED) - {"changed"}


def test_a_verdict_that_needs_a_person_names_a_command() -> None:
    commands = set(group.list_commands(click.Context(group)))
    for name, known, *_ in DECISIONS:
        decided = decide(known)
        assert decided.exit_status in (EXIT_DONE, EXIT_PERSON, EXIT_AGAIN)
        assert decided.hint or decided.exit_status == EXIT_DONE, name
        named = re.findall(r"(?:^|[;:&] )gitstate ([a-z]+)", decided.hint or "")
        assert set(named) <= commands, name


@pytest.mark.parametrize("verdict", DECIDED)
def test_only_a_success_changes_the_workspace(verdict: DecidedVerdict) -> None:
    assert not Verdict(verdict).acts or verdict in SUCCESSES
    assert Verdict(verdict).clears_locks is (verdict != "live")


def test_where_head_may_be_while_a_stack_is_pending() -> None:
    assert resting_places([SAVE]) == {HEAD, WIP}
    assert resting_places([STAGED]) == {HEAD, WIP, oid("I")}
    assert resting_places([IN_MERGE]) == {HEAD}
    assert resting_places([UNBORN]) == {None, WIP}
    assert resting_places([UPPER, LOWER]) == {HEAD, WIP, oid("w")}


# -- the latest checkpoint


@pytest.mark.parametrize(
    ("known", "comparable"),
    [(run(), True), (run()._replace(head=OTHER), False), (run()._replace(head_ref=None), False)],
    ids=["same", "committed since", "detached since"],
)
def test_a_checkpoint_is_compared_where_head_has_not_moved(known: Facts, comparable: bool) -> None:
    assert can_compare(known, CHECKPOINT) is comparable


def test_what_a_checkpoint_has_and_the_disk_has_not() -> None:
    merging = made_up_save(kind="checkpoint", operation="merge")
    assert not lacks_checkpoint(run(), CHECKPOINT, [])
    assert not lacks_checkpoint(run(), CHECKPOINT, ["same", "same"])
    assert all(lacks_checkpoint(run(), CHECKPOINT, ["same", action]) for action in ("write", "delete", "keep"))
    assert lacks_checkpoint(run(), merging, ["same"])
    assert not lacks_checkpoint(run(operation="merge"), merging, ["same"])


@pytest.mark.parametrize(
    ("lacks", "is_wiped", "operation", "state"),
    [
        (False, False, None, "same"),
        (False, True, None, "same"),
        (False, True, "merge", "same"),
        (True, False, None, "differs"),
        (True, False, "merge", "differs"),
        (True, True, None, "gone"),
        (True, True, "merge", "differs"),
    ],
)
def test_how_the_disk_compares(lacks: bool, is_wiped: bool, operation: str | None, state: str) -> None:
    assert disk_state(run(operation=operation), lacks=lacks, is_wiped=is_wiped) == state


def test_a_checkpoint_takes_the_place_of_a_save_that_was_never_made() -> None:
    wiped = run(owner="gone", checkpoint=CHECKPOINT, disk="gone")
    (save,) = with_checkpoint(wiped, decide(wiped)).saves
    assert save == CHECKPOINT._replace(context=RUN)
    for known in (facts(SAVE), run(checkpoint=CHECKPOINT, disk="gone"), facts(checkpoint=CHECKPOINT)):
        assert with_checkpoint(known, decide(known)) is known
