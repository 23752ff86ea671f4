"""SIGKILL at every step of save, checkpoint and recover: the next command restores everything.

An ordinary run kills after delays that are spread evenly over one run, and at a few system calls. The long sweep kills
before every single system call that changes the disk: in gitstate itself and in each git that it starts, once with the
whole process group and once alone. `CRASH_POINT=REGEX` tries the points of that name alone.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.states import STATES, State
from tests.support.look import index_bytes
from tests.support.oracle import Identity, fingerprint, identities
from tests.support.repositories import Templates
from tests.support.workspace import Run, run_gitstate

from .checks import check_done, check_integrity, recover_to_the_end
from .scenes import (
    CHECKPOINT,
    RECOVER,
    RECOVER_ALL,
    SAVE,
    WAIT,
    Lose,
    Scene,
    gone,
    in_place,
    killed_after,
    only_git_left,
    retyped,
    saved_and_lost,
    scene_of,
    start,
    undone,
    wiped,
)
from .strace import Point, count, disturbed_at, why_not_strace
from .sweeps import Say, judge, spread


@dataclass(frozen=True)
class Before:
    """What a killed save must not change."""

    identities: Mapping[bytes, Identity]
    index: bytes | None


def check_killed_save(scene: Scene, before: Before, run: Run, number: int) -> None:
    """After a save or a checkpoint that was killed; ``number`` varies what happens next."""
    ws = scene.ws
    check_integrity(ws)
    after = identities(ws.path)
    touched = {path for path in before.identities.keys() | after if before.identities.get(path) != after.get(path)}
    assert {path for path in touched if not path.startswith(b"active_state.json.tmp-")} == set()
    pending = ws.refs("refs/gitstate/pending")
    check_markers(scene, pending, run)
    if pending:
        waiting = [oid for name, oid in ws.refs("refs/gitstate/saves").items() if oid in pending.values()]
        assert waiting, "a marker without its save"
        if number % 3:
            goal = scene.fingerprint.commit if number % 3 == 2 else None
            ws.git("reset", "-q", "--hard", goal or "HEAD", check=False)
            ws.git("clean", "-ffdxq")
        answer = recover_to_the_end(ws)
        assert answer["verdict"] != "nothing"
        check_done(replace(scene, index=before.index), in_place=number % 3 == 0)
        return
    assert scene.fingerprint.diff(fingerprint(ws.path)) == []
    same = index_bytes(ws) == before.index
    assert same, "the index file changed, and there is no save"
    if number % 2:
        # A checkpoint that stands tells of a run that ended without a save.
        assert recover_to_the_end(ws)["verdict"] in ("nothing", "context_only", "recovered")
    saved_and_lost(ws)
    answer = recover_to_the_end(ws)
    assert answer["verdict"] != "nothing"
    check_done(scene, in_place=False)


def check_markers(scene: Scene, pending: Mapping[str, str], run: Run) -> None:
    """A save that says so is there; a checkpoint leaves no marker, and what it leaves can be read."""
    ws = scene.ws
    if scene.command[0] == "checkpoint":
        assert pending == {}
    for name, oid in {**pending, **ws.refs("refs/gitstate/checkpoints")}.items():
        manifest = json.loads(ws.git("cat-file", "blob", f"{oid}:manifest.json"))
        assert name.endswith("/" + manifest["workspace_id"])
        ws.git("rev-list", "--objects", oid)
    if run.exit_status == 0:
        archive = run.json["archive"]
        there = pending if scene.command[0] == "save" else ws.refs("refs/gitstate/checkpoints")
        assert archive in there.values(), f"success was reported without a save: {run}"


def check_killed_recover(scene: Scene) -> None:
    """After a recover that was killed: another one brings everything back."""
    ws = scene.ws
    if scene.lose is gone:
        again = run_gitstate(*scene.command, cwd=scene.place)
        assert again.exit_status == 0, str(again)
        check_done(scene, in_place=False)
        return
    check_integrity(ws)
    pending = ws.refs("refs/gitstate/pending")
    answer = recover_to_the_end(ws)
    assert answer["verdict"] != "nothing" or not pending
    check_done(scene, in_place=scene.lose is in_place)


def tried(scene: Scene, kill: Callable[[], Run], number: int) -> str | None:
    """One killing on a fresh copy of the scene; what is wrong afterwards, or None."""
    scene.reset()
    before = Before(identities(scene.ws.path), index_bytes(scene.ws)) if scene.lose is None else None
    run = kill()
    try:
        if before is not None:
            check_killed_save(scene, before, run, number)
        else:
            check_killed_recover(scene)
    except AssertionError as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{where.filename}:{where.lineno}: {where.line}: {error}"[:1500]
    return None


# --------------------------------------------------------------------------------------------------------------------
# The quick part
# --------------------------------------------------------------------------------------------------------------------

QUICK = [
    pytest.param("everything_at_once", SAVE, None, id="save"),
    pytest.param("merge_conflict", SAVE, None, id="save-merge", marks=pytest.mark.slow),
    pytest.param("everything_at_once", RECOVER, undone, id="recover-undone"),
    pytest.param("merge_conflict", RECOVER, undone, id="recover-merge", marks=pytest.mark.slow),
]


def measured_run(scene: Scene) -> tuple[float, float]:
    """Seconds after which one run has taken the workspace, and after which it has ended."""
    scene.reset()
    lock = scene.ws.git_dir / "gitstate" / "journal"
    begun = time.monotonic()
    process = start(scene)
    while not lock.exists() and process.poll() is None:
        time.sleep(0.0005)
    taken = time.monotonic() - begun
    process.communicate(timeout=WAIT)
    return taken, time.monotonic() - begun


@pytest.mark.faults
@pytest.mark.parametrize(("name", "command", "lose"), QUICK)
def test_kill_after_a_delay_loses_nothing(
    name: str, command: tuple[str, ...], lose: Lose | None, templates: Templates, tmp_path: Path, say: Say
) -> None:
    scene = scene_of(STATES[name], command, lose, templates, tmp_path)
    first, last = measured_run(scene)
    problems, times = [], 5
    for number in range(times):
        delay = first + (last - first) * number / (times - 1)
        alone = number % 4 >= 2

        def kill(delay: float = delay, alone: bool = alone) -> Run:
            return killed_after(scene, delay, alone=alone)

        problem = tried(scene, kill, number)
        if problem is not None:
            who = "alone" if alone else "with its children"
            problems.append(f"after {delay:.3f} s of {last:.3f}, {who}: {problem}")
    judge(say, points=times, floor=times, tried=times, problems=problems)


# --------------------------------------------------------------------------------------------------------------------
# Every system call
# --------------------------------------------------------------------------------------------------------------------

RETYPED = State(name="retyped", build=retyped)
#: The last field is the number of points on record, where one `syncfs` stands for an fsync of each file.
EVERY = {
    "save": (STATES["everything_at_once"], SAVE, None, False, 128),
    "save-merge": (STATES["merge_conflict"], SAVE, None, False, 104),
    "save-linked": (STATES["everything_at_once"], SAVE, None, True, 138),
    "checkpoint": (STATES["everything_at_once"], CHECKPOINT, None, False, 58),
    "checkpoint-merge": (STATES["merge_conflict"], CHECKPOINT, None, False, 62),
    "recover-in-place": (STATES["everything_at_once"], RECOVER, in_place, False, 70),
    "recover-wiped": (RETYPED, RECOVER, wiped, False, 96),
    "recover-undone": (RETYPED, RECOVER, undone, False, 160),
    "recover-merge": (STATES["merge_conflict"], RECOVER, undone, False, 124),
    "recover-merge-in-place": (STATES["merge_conflict"], RECOVER, in_place, False, 40),
    "recover-only-git-left": (RETYPED, RECOVER, only_git_left, False, 245),
    "recover-linked": (STATES["everything_at_once"], RECOVER, undone, True, 126),
    "recover-gone": (RETYPED, RECOVER_ALL, gone, True, 230),
}


def sweep(scene: Scene, points: Sequence[Point], *, alone: bool) -> list[str]:
    """What went wrong at which point."""
    problems, missed = [], []
    for number, point in enumerate(points):

        def kill(point: Point = point) -> Run:
            run = disturbed_at(scene, point, alone=alone)
            if run.exit_status != -signal.SIGKILL and not (alone and point.git):
                missed.append(str(point))
            return run

        problem = tried(scene, kill, number)
        if problem is not None:
            problems.append(f"{point} {'alone' if alone else 'with its group'}: {problem}")
    assert len(missed) <= len(points) // 5 + 1, f"not reached: {missed}"
    return problems


def killed(name: str, templates: Templates, tmp_path: Path, say: Say, *, alone: bool, most: int | None) -> None:
    why = why_not_strace()
    if why is not None:
        pytest.skip(why)
    kind, command, lose, linked, floor = EVERY[name]
    scene = scene_of(kind, command, lose, templates, tmp_path, linked=linked)
    points = count(scene)
    only = os.environ.get("CRASH_POINT")
    chosen = spread(points, most) if only is None else [point for point in points if re.fullmatch(only, str(point))]
    problems = sweep(scene, chosen, alone=alone)
    judge(say, points=len(points), floor=floor, tried=len(chosen), problems=problems)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["save", "checkpoint", "recover-in-place", "recover-undone"])
def test_kill_at_sampled_system_calls_loses_nothing(name: str, templates: Templates, tmp_path: Path, say: Say) -> None:
    killed(name, templates, tmp_path, say, alone=name == "save", most=5)


@pytest.mark.faults
@pytest.mark.parametrize("number", [3, 4], ids=["notes", "branch"])
def test_git_killed_while_it_locks_notes_and_branch_moves_neither(
    number: int, templates: Templates, tmp_path: Path
) -> None:
    """Git dies before it moves either; the save and its marker were written before."""
    why = why_not_strace()
    if why is not None:
        pytest.skip(why)
    scene = scene_of(STATES["everything_at_once"], SAVE, None, templates, tmp_path)
    scene.reset()
    run = disturbed_at(scene, Point("update-ref.1", "rename", number))
    assert run.exit_status == 0 and run.json["branch_moved"] and not run.json["message"], str(run)
    assert (scene.top / "turns" / "update-ref.2").exists()
    assert scene.ws.git("notes", "--ref=gitstate", "show", run.json["wip_commit"])


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True], ids=["group", "alone"])
@pytest.mark.parametrize("name", EVERY)
def test_kill_at_every_system_call_loses_nothing(
    name: str, alone: bool, templates: Templates, tmp_path: Path, say: Say
) -> None:
    killed(name, templates, tmp_path, say, alone=alone, most=None)
