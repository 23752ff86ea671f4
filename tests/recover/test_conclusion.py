"""What a recovery has become when all is done, and what it tells: no repository, no git, no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gitstate.errors import EXIT_AGAIN, EXIT_DONE, EXIT_PERSON
from gitstate.format.context import Context
from gitstate.format.manifest import LeftOut, Save
from gitstate.recover.plan import (
    BranchMove,
    Facts,
    Verdict,
    branch_move,
    conclude,
    conclude_files,
    final_verdict,
    in_trouble,
    marker_goes,
)
from gitstate.recover.request import RecoverResult
from gitstate.restore.choices import Outcome
from tests.support.made_up import BRANCH, EARLIER_ID, HEAD, SAVE_ID, made_up_save, oid

if TYPE_CHECKING:
    from gitstate.recover.request import ResultVerdict

SAVE = made_up_save()
ABOVE_EARLIER = made_up_save(previous=EARLIER_ID)
RESTORE = Verdict("restore")
TOP = b"/w"
LOST, UNIMPORTANT = LeftOut(b"a", "unreadable", True), LeftOut(b"b", "its filter failed", False)
NO_ROOM = OSError(28, "No space left on device")


def outcome_of(**fields: object) -> Outcome:
    outcome = Outcome()
    for name, value in fields.items():
        assert hasattr(outcome, name)
        setattr(outcome, name, value)
    return outcome


@pytest.fixture(autouse=True)
def hermetic() -> None:
    """These rules read no environment: no home is made for each row."""


@pytest.mark.parametrize(
    ("newest", "base_tree", "outcome", "verdict"),
    [
        (SAVE, SAVE.wip_tree, Outcome(), "context_only"),
        (SAVE, oid("other"), Outcome(), "restore"),
        (SAVE, None, Outcome(), "restore"),
        (SAVE, SAVE.wip_tree, outcome_of(restored=[b"a"]), "restore"),
        (SAVE, SAVE.wip_tree, outcome_of(deleted=[b"a"]), "restore"),
        (SAVE, SAVE.wip_tree, outcome_of(kept=[b"a"]), "changed"),
        (SAVE, oid("other"), outcome_of(kept=[b"a"], restored=[b"b"]), "changed"),
        (made_up_save(staged={b"a": None}), SAVE.wip_tree, Outcome(), "restore"),
        (made_up_save(operation="merge"), SAVE.wip_tree, Outcome(), "restore"),
        (made_up_save(raw={b"a": "filter"}), SAVE.wip_tree, Outcome(), "restore"),
        (made_up_save(raw={b"a": "ignored"}), SAVE.wip_tree, Outcome(), "restore"),
        (made_up_save(raw={b"a": "clean"}), SAVE.wip_tree, Outcome(), "context_only"),
    ],
)
def test_final_verdict(newest: Save, base_tree: str | None, outcome: Outcome, verdict: str) -> None:
    assert final_verdict(newest, base_tree, outcome) == verdict


@pytest.mark.parametrize(
    ("newest", "outcome", "status", "message", "hint"),
    [
        (SAVE, Outcome(), EXIT_DONE, "", None),
        (SAVE, outcome_of(restored=[b"a"]), EXIT_DONE, "", None),
        (SAVE, outcome_of(failed=[UNIMPORTANT]), EXIT_DONE, "", None),
        (SAVE, outcome_of(failed=[UNIMPORTANT, LOST]), EXIT_PERSON, "", None),
        (SAVE, outcome_of(nested_trouble=True), EXIT_PERSON, "", None),
        (SAVE, outcome_of(stuck=True, failed=[LOST]), EXIT_PERSON, "still pending", "gitstate recover"),
        (ABOVE_EARLIER, Outcome(), EXIT_DONE, EARLIER_ID, f"gitstate diff {EARLIER_ID}"),
        (ABOVE_EARLIER, outcome_of(stuck=True, failed=[LOST]), EXIT_PERSON, "still pending", "gitstate recover"),
        (None, Outcome(), EXIT_DONE, "", None),
    ],
)
def test_what_is_told_of_a_restore(
    newest: Save | None, outcome: Outcome, status: int, message: str, hint: str | None
) -> None:
    told = conclude(TOP, RESTORE, "restore", newest, outcome)
    assert (told.workspace, told.verdict, told.exit_status) == (TOP, "restore", status)
    assert message in told.message and bool(message) == bool(told.message)
    assert (told.hint is None) is (hint is None) and (hint or "") in (told.hint or "")


def test_a_changed_file_stays_and_its_saved_version_is_one_command_away() -> None:
    told = conclude(TOP, RESTORE, "changed", SAVE, outcome_of(kept=[b"a", b"a"]))
    assert told.kept == (b"a",) and told.exit_status == EXIT_DONE
    assert "kept" in told.message and f"gitstate restore --overwrite {SAVE_ID}" in (told.hint or "")


def test_the_words_of_the_decision_stay() -> None:
    told = conclude(TOP, Verdict("live", "still running", EXIT_AGAIN, "gitstate status"), "live", SAVE, Outcome())
    assert (told.verdict, told.message, told.exit_status, told.hint) == (
        *("live", "still running", EXIT_AGAIN),
        "gitstate status",
    )
    buried = conclude(TOP, Verdict("buried", "on top", hint="git rebase"), "buried", ABOVE_EARLIER, Outcome())
    assert (buried.message, buried.hint) == ("on top", "git rebase")


def test_what_the_save_left_out_and_what_failed_are_both_told() -> None:
    newest = made_up_save(left_out=(LOST,), context=Context(task_id="T-1"))
    told = conclude(TOP, RESTORE, "restore", newest, outcome_of(failed=[UNIMPORTANT], safety=EARLIER_ID))
    assert told.left_out == (LOST, UNIMPORTANT)
    assert told.exit_status == EXIT_DONE, "the save itself has said that it is incomplete"
    assert (told.save_id, told.context.task_id, told.safety_save) == (SAVE_ID, "T-1", EARLIER_ID)
    alone = conclude(TOP, RESTORE, "context_only", None, outcome_of(failed=[UNIMPORTANT]))
    assert (alone.save_id, alone.left_out, alone.context) == (None, (UNIMPORTANT,), Context())


def test_files_that_were_asked_for_and_kept_need_a_person() -> None:
    told = conclude_files(TOP, SAVE, outcome_of(kept=[b"a", b"b"]))
    assert (told.verdict, told.exit_status, told.files_only) == ("changed", EXIT_PERSON, True)
    assert "2 paths" in told.message and "--overwrite" in (told.hint or "")
    stuck = Outcome()
    stuck.could_not_write(b"a", NO_ROOM)
    told = conclude_files(TOP, SAVE, stuck)
    assert (told.message, told.exit_status) == ("some paths could not be restored", EXIT_PERSON)
    assert told.hint == f"gitstate restore {SAVE_ID} PATH…"
    told = conclude_files(TOP, SAVE, outcome_of(restored=[b"a"]))
    assert (told.verdict, told.exit_status, told.files_only) == ("restore", EXIT_DONE, True)


def test_a_path_that_a_person_can_mend_keeps_the_save_pending() -> None:
    outcome = Outcome()
    assert marker_goes(outcome)
    outcome.could_not_chmod(b"a", NO_ROOM)
    assert marker_goes(outcome)
    outcome.could_not_write(b"b", NO_ROOM)
    assert not marker_goes(outcome)
    assert [item.path for item in outcome.failed if item.lost] == [b"b"]


UPPER = made_up_save(head=oid("w"), base=HEAD)
LOWER = made_up_save(save_id=EARLIER_ID, wip=oid("w"))
DETACHED = made_up_save(head_ref=None)
UNBORN = made_up_save(head=None, base=None)


@pytest.mark.parametrize(
    ("facts", "move"),
    [
        (Facts(BRANCH, SAVE.wip, None, (SAVE,)), BranchMove(BRANCH, HEAD, SAVE.wip, False)),
        (Facts(BRANCH, HEAD, None, (SAVE,)), None),
        (Facts(BRANCH, UPPER.wip, None, (UPPER, LOWER)), BranchMove(BRANCH, HEAD, UPPER.wip, False)),
        (Facts(BRANCH, UNBORN.wip, None, (UNBORN,)), BranchMove(BRANCH, None, UNBORN.wip, False)),
        (Facts(BRANCH, None, None, (UNBORN,)), None),
        (Facts(None, HEAD, None, (DETACHED,)), None),
        (Facts("refs/heads/main", HEAD, None, (DETACHED,), detach=True), BranchMove("HEAD", HEAD, HEAD, True)),
    ],
)
def test_where_branch_and_head_go(facts: Facts, move: BranchMove | None) -> None:
    assert branch_move(facts) == move


@pytest.mark.parametrize(
    ("verdicts", "status", "trouble"),
    [
        ([], 0, False),
        (["restore", "nothing", "context_only", "changed"], 0, False),
        (["buried"], 0, True),
        (["restore", "diverged"], 0, True),
        (["restore"], 4, True),
        (["live"], 75, True),
    ],
)
def test_a_nested_repository_that_needs_a_person(verdicts: list[ResultVerdict], status: int, trouble: bool) -> None:
    nested = [RecoverResult(TOP, verdict, exit_status=status) for verdict in verdicts]
    around = RecoverResult(TOP, "restore", nested=tuple(nested))
    assert (bool(in_trouble(nested)), bool(in_trouble([around]))) == (trouble, trouble)
