"""Every system call fails in turn: a full disk, a broken one, a quota, a read-only mount, no descriptors, no fork.

What may come of it: a full success; a success that says what is missing (exit status 4); or one clear line and a
non-zero status, with the workspace as it was. Never a damaged index, ref or file, a traceback, or exit 0 with
something missing. What comes next always gets everything back. `ERROR_POINT=REGEX` tries the points of that name
alone; a point is `process:call:number=ERROR`, and ends in `+` where every later call of that name fails as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.states import STATES, State
from tests.support.look import index_bytes, paths_of
from tests.support.oracle import fingerprint, identities
from tests.support.repositories import Templates
from tests.support.workspace import Run, Workspace

from .checks import check_integrity, is_honest, litter, recover_to_the_end
from .scenes import CHECKPOINT, RECOVER, SAVE, Lose, Scene, only_git_left, retyped, scene_of, undone
from .strace import Point, count, disturbed_at, was_disturbed, why_not_strace
from .sweeps import Say, judge, spread

_FULL, _NEW = ("ENOSPC", "EIO", "EDQUOT"), ("ENOSPC", "EROFS", "EDQUOT", "EMFILE")
#: The call, and the errors that it really gives.
ERRORS = {
    "write": _FULL,
    "pwrite64": _FULL,
    "openat": _NEW,
    "rename": ("ENOSPC", "EIO", "EROFS"),
    "renameat": ("ENOSPC", "EIO"),
    "renameat2": ("ENOSPC", "EIO"),
    "link": ("ENOSPC", "EDQUOT", "EROFS"),
    "linkat": ("ENOSPC", "EDQUOT", "EROFS"),
    "unlink": ("EIO", "EROFS"),
    "unlinkat": ("EIO", "EROFS"),
    "mkdir": ("ENOSPC", "EDQUOT", "EROFS"),
    "mkdirat": ("ENOSPC", "EDQUOT", "EROFS"),
    "rmdir": ("EIO",),
    "symlink": ("ENOSPC", "EROFS"),
    "symlinkat": ("ENOSPC", "EROFS"),
    "fsync": ("EIO", "ENOSPC"),
    "fdatasync": ("EIO", "ENOSPC"),
    "ftruncate": ("EIO",),
    "chmod": ("EIO",),
    "fchmod": ("EIO",),
    "fchmodat": ("EIO",),
    "read": ("EIO",),
    "pread64": ("EIO",),
    "clone": ("EAGAIN", "ENOMEM"),
    "clone3": ("EAGAIN", "ENOMEM"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "fork": ("EAGAIN", "ENOMEM"),
}
#: From there on, where it is the disk that is full or the process table.
_LASTING = frozenset({"ENOSPC", "EROFS", "EMFILE", "EAGAIN"})


class Fault(NamedTuple):
    point: Point
    error: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.point}={self.error}{'+' if self.lasting else ''}"


def faults_of(points: list[Point]) -> Iterator[Fault]:
    """At each point one error that passes, and one that lasts; the errors of a call take turns.

    Left out is a git that can't remove its own lock: it does not say so, and nobody else may.
    """
    for number, point in enumerate(points):
        if point.git is not None and point.call in ("unlink", "unlinkat"):
            continue
        errors = ERRORS[point.call]
        yield Fault(point, errors[number % len(errors)], False)
        lasting = [error for error in errors if error in _LASTING]
        # Where all of gitstate's own writes fail there is no answer to judge either.
        if lasting and (point.git, point.call) != (None, "write"):
            yield Fault(point, lasting[number % len(lasting)], True)


def inject(scene: Scene, fault: Fault) -> Run:
    point = fault.point
    if fault.lasting:
        return disturbed_at(scene, point, f"error={fault.error}:when={point.number}+")
    return disturbed_at(scene, point, f"error={fault.error}")


def judge_save(scene: Scene, run: Run, before: tuple[object, bytes | None]) -> None:
    """After a save or checkpoint in which something failed."""
    ws = scene.ws
    is_honest(run)
    check_integrity(ws)
    assert identities(ws.path) == before[0], "a file of the worktree was touched"
    pending = ws.refs("refs/gitstate/pending")
    kept = pending if scene.command[0] == "save" else ws.refs("refs/gitstate/checkpoints")
    lost: set[bytes] = set()
    if run.exit_status in (0, 4) and "error" not in run.json:
        assert run.json["archive"] in kept.values(), f"no save, and no word of that: {run}"
        lost = paths_of(item for item in run.json["left_out"] if item["lost"])
        assert bool(lost) == (run.exit_status == 4), str(run)
    if not kept:
        assert run.exit_status != 0, str(run)
        assert index_bytes(ws) == before[1], "the index changed, and there is no save"
    if not pending:
        again = ws.save()
        assert again.exit_status == 0, f"the save after it: {again}"
        lost = set()
    ws.git("reset", "-q", "--hard", "HEAD", check=False)
    ws.git("clean", "-ffdxq")
    answer = recover_to_the_end(ws) if not lost else ws.recover().json["workspaces"][0]
    assert answer["verdict"] != "nothing"
    differences = scene.fingerprint.without(lost).diff(fingerprint(ws.path).without(lost))
    if b"" in lost:
        said = [item["reason"] for item in run.json["left_out"] if item["path"] == ""]
        differences = [line for line in differences if not is_told(line, said, ws)]
    assert differences == [], f"after {run}: {differences}"
    check_integrity(ws)
    assert litter(scene) == []


def is_told(difference: str, said: Sequence[str], ws: Workspace) -> bool:
    """Whether a difference is one that the save owned up to without a path of the worktree."""
    kind, _, rest = difference.partition(" ")
    name = rest.partition(": ")[0]
    if kind == "operation":
        return f"unreadable file of the unfinished operation: {name}" in said
    unread = any(reason.startswith("unreadable directory") for reason in said)
    # Git itself says what became of tracked files; what else is in the top directory nobody could see.
    tracked = ws.out("ls-files", "-z").split("\0") if unread else []
    return unread and kind == "file" and difference.endswith(" is gone") and name not in tracked


def judge_recover(scene: Scene, run: Run) -> None:
    """After a recover in which something failed: another one comes to the same end."""
    ws = scene.ws
    is_honest(run)
    check_integrity(ws)
    pending = ws.refs("refs/gitstate/pending")
    if run.exit_status == 0:
        assert not pending, str(run)
        differences = scene.fingerprint.diff(fingerprint(ws.path))
        assert differences == [], f"exit status 0: {differences}"
    else:
        answer = recover_to_the_end(ws)
        # Where the marker was deleted, and its directory could not be synced, the work is told of once more.
        assert pending or answer["verdict"] in ("nothing", "recovered"), str(run)
    differences = scene.fingerprint.diff(fingerprint(ws.path))
    assert differences == [], f"after {run}: {differences}"
    if litter(scene) and run.exit_status == 0:
        # What the disk would not remove is removed by the next command.
        assert ws.recover().json["workspaces"][0]["verdict"] in ("nothing", "recovered")
    assert litter(scene) == []


def tried(scene: Scene, fault: Fault) -> str | None:
    """One fault on a fresh copy of the scene; what is wrong afterwards, or None."""
    scene.reset()
    before = identities(scene.ws.path), index_bytes(scene.ws)
    run = inject(scene, fault)
    try:
        is_sync = fault.point.git is None and fault.point.call in ("fsync", "fdatasync")
        if is_sync and run.exit_status == 0 and was_disturbed(scene):
            assert scene.lose is None and run.json["message"], f"success, and no word of a failed fsync: {run}"
        if scene.lose is None:
            judge_save(scene, run, before)
        else:
            judge_recover(scene, run)
    except AssertionError as error:
        return str(error)[:1500]
    return None


# --------------------------------------------------------------------------------------------------------------------
# The sweeps
# --------------------------------------------------------------------------------------------------------------------

RETYPED = State(name="retyped", build=retyped)
#: State, command, what was lost before it, and the number of faults that is on record.
SWEEPS: dict[str, tuple[State, tuple[str, ...], Lose | None, int]] = {
    "save": (STATES["everything_at_once"], SAVE, None, 640),
    "save-merge": (STATES["merge_conflict"], SAVE, None, 545),
    "checkpoint": (STATES["everything_at_once"], CHECKPOINT, None, 445),
    "recover": (RETYPED, RECOVER, undone, 1200),
    "recover-only-git-left": (RETYPED, RECOVER, only_git_left, 1350),
}


def sweep(
    name: str, templates: Templates, tmp_path: Path, say: Say, *, most: int | None, only: str | None = None
) -> None:
    why = why_not_strace()
    if why is not None:
        pytest.skip(why)
    state, command, lose, floor = SWEEPS[name]
    scene = scene_of(state, command, lose, templates, tmp_path)
    faults = list(faults_of(count(scene, ERRORS, reading=True)))
    only = os.environ.get("ERROR_POINT", only)
    chosen = spread(faults, most) if only is None else [fault for fault in faults if re.fullmatch(only, str(fault))]
    problems = []
    for fault in chosen:
        wrong = tried(scene, fault)
        if wrong is not None:
            problems.append(f"{fault}: {wrong}")
    judge(say, points=len(faults), floor=floor, tried=len(chosen), problems=problems)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["save", "recover"])
def test_failure_of_sampled_system_calls_is_handled(name: str, templates: Templates, tmp_path: Path, say: Say) -> None:
    sweep(name, templates, tmp_path, say, most=6)


@pytest.mark.faults
def test_unreadable_branch_is_not_taken_for_an_unborn_one(templates: Templates, tmp_path: Path, say: Say) -> None:
    """`git status` prints an error about it, and exits 0."""
    sweep("save", templates, tmp_path, say, most=None, only=r"status\.1:read:.*=EIO")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", SWEEPS)
def test_failure_of_every_system_call_is_handled(name: str, templates: Templates, tmp_path: Path, say: Say) -> None:
    sweep(name, templates, tmp_path, say, most=None)
