"""What the checkpoints of a run may add to the object store, and what is known of large files that are gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.format.manifest import LeftOut
from gitstate.objects.tree import REGULAR, Leaf
from gitstate.run.budget import Budget
from gitstate.save.request import SaveResult
from gitstate.snapshot.record import Growth, Snapshot

ARCHIVE = "1" * 40
LARGE = Growth.FREE + 1


def checkpoint(
    budget: Budget, top: Path, due: frozenset[bytes] = frozenset(), left_out: tuple[bytes, ...] = ()
) -> Growth:
    """Look at the files in a directory as a checkpoint does, but for those that were `left_out`."""
    growth = budget.growth(ARCHIVE, due)
    taken = Snapshot()
    for file in sorted(top.iterdir()):
        path = os.fsencode(file.name)
        info = file.stat()
        if path not in left_out and not growth.refusal(path, info.st_size):
            growth.note(path, info, "2" * 40)
            taken.worktree[path] = Leaf(REGULAR, "2" * 40)
    lost = tuple(LeftOut(path, "the deadline passed", True) for path in left_out)
    budget.spend(growth, SaveResult("saved", os.fsencode(top), None, left_out=lost), taken)
    return growth


def make(top: Path, name: str, size: int = LARGE) -> None:
    (top / name).write_bytes(bytes(size))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Budget, Path]:
    """A file that was just taken is refused; no time passes by itself."""
    monkeypatch.setattr("gitstate.run.budget.time.monotonic", lambda: 1000.0)
    budget = Budget()
    make(tmp_path, "a")
    assert checkpoint(budget, tmp_path).taken.keys() == {b"a"}
    assert checkpoint(budget, tmp_path).refused == {b"a": LARGE}
    assert budget.refused == {b"a": LARGE} and budget.due() == frozenset()
    return budget, tmp_path


def test_refused_file_waits_until_it_is_due(refused: tuple[Budget, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    budget, top = refused
    checkpoint(budget, top)
    assert budget.refused == {b"a": LARGE}
    monkeypatch.setattr("gitstate.run.budget.time.monotonic", lambda: 1100.0)
    assert budget.due() == {b"a"}
    assert checkpoint(budget, top, budget.due()).taken.keys() == {b"a"}
    assert budget.refused == {}


def test_refused_file_that_was_removed_is_due_once(
    refused: tuple[Budget, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, top = refused
    (top / "a").unlink()
    monkeypatch.setattr("gitstate.run.budget.time.monotonic", lambda: 1100.0)
    assert budget.due() == {b"a"}
    checkpoint(budget, top, budget.due())
    assert budget.due() == frozenset() and budget.refused == {}


def test_file_that_became_due_after_the_question_is_not_forgotten(
    refused: tuple[Budget, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint was not told to look at it."""
    budget, top = refused
    due = budget.due()
    monkeypatch.setattr("gitstate.run.budget.time.monotonic", lambda: 1100.0)
    (top / "a").rename(top.parent / "aside")
    checkpoint(budget, top, due)
    assert budget.due() == {b"a"}


def test_file_that_there_was_no_time_for_is_not_forgotten(
    refused: tuple[Budget, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, top = refused
    monkeypatch.setattr("gitstate.run.budget.time.monotonic", lambda: 1100.0)
    checkpoint(budget, top, budget.due(), left_out=(b"a",))
    assert budget.due() == {b"a"}


def test_files_that_come_and_go_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of weeks: each growth is sent to the keeper with all that it knows."""
    clock = [1000.0]
    monkeypatch.setattr("gitstate.run.budget.time.monotonic", lambda: clock[0])
    budget = Budget()
    for number in range(100):
        clock[0] += 100.0
        make(tmp_path, f"{number}")
        growth = checkpoint(budget, tmp_path, budget.due())
        assert growth.taken.keys() == {b"%d" % number}
        assert len(growth.held) <= 1 and len(growth.waiting) <= 1
        (tmp_path / f"{number}").unlink()
