"""Save and recovery do no more work for each changed file where there are more of them, and next to none for old saves.

Python's function calls are counted, which no machine changes; the processes of git count in other tests.
"""

from __future__ import annotations

import cProfile
import os
import pstats
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.recover.recover import recover
from gitstate.recover.request import RecoverRequest
from gitstate.save.request import SaveRequest
from gitstate.save.save import save
from tests.support.past import give_past
from tests.support.repositories import three_files
from tests.support.workspace import Workspace

FEW, MANY = 100, 400


def calls(work: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(work)
    found: int = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    return found


def changed(top: Path, files: int) -> Workspace:
    """A repository whose every file is edited or deleted, beside a new one for every fifth."""
    top.mkdir()
    ws = three_files(top)
    for number in range(files):
        ws.write(f"d{number // 10}/f{number}", f"{number}\n")
    ws.commit("many")
    for number in range(files):
        if number % 10 == 0:
            ws.remove(f"d{number // 10}/f{number}")
        else:
            ws.write(f"d{number // 10}/f{number}", f"{number} edited\n")
        if number % 5 == 0:
            ws.write(f"d{number // 10}/n{number}", f"{number} new\n")
    return ws


def measured(ws: Workspace) -> dict[str, int]:
    """The calls of each command, one after the other."""
    path, base = os.fsencode(ws.path), ws.out("rev-parse", "HEAD")
    found = {
        "checkpoint": calls(lambda: save(path, SaveRequest(kind="checkpoint"))),
        "save": calls(lambda: save(path, SaveRequest())),
        "recover, in place": calls(lambda: recover(path, RecoverRequest())),
    }
    save(path, SaveRequest())
    ws.git("reset", "-q", "--hard", base)
    ws.git("clean", "-fdq")
    found["recover, wiped"] = calls(lambda: recover(path, RecoverRequest()))
    return found


def test_work_grows_in_proportion_to_the_changed_files(tmp_path: Path) -> None:
    few, many = (measured(changed(tmp_path / str(files), files)) for files in (FEW, MANY))
    for command, count in few.items():
        assert many[command] < MANY / FEW * 1.1 * count, (command, count, many[command])


@pytest.mark.parametrize("packed", [True, False])
def test_old_saves_cost_next_to_nothing(tmp_path: Path, packed: bool) -> None:
    ws = changed(tmp_path / "ws", 20)
    assert ws.save().exit_status == 0 and ws.recover().exit_status == 0
    # Some of the newest are read in any case.
    give_past(ws, 40)
    some = measured(ws)
    give_past(ws, MANY)
    if packed:
        ws.git("pack-refs", "--all")
    for command, count in measured(ws).items():
        # A line of packed-refs, or a name in a directory and its file, is looked at.
        assert count < some[command] + 60 * MANY, (command, some[command], count)
