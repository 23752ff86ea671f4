"""A disk that is full while an agent works: `status` says that checkpoints fail, though no file can be made for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from gitstate.system.files import write_report
from tests.agent_hooks.test_background import event, settled
from tests.faults.test_limits import fill, release, small_disk, workspace_in
from tests.support.agents import Started, wait_until
from tests.support.workspace import GITSTATE, Workspace

SIZE = "size=12m"


def problem(ws: Workspace) -> str | None:
    (workspace,) = ws.gitstate("status", "--json").json["workspaces"]
    told = workspace["problem"]
    assert told is None or isinstance(told, str)
    return told


def is_told(ws: Workspace, words: str) -> bool:
    told = problem(ws)
    return told is not None and words in told and "No space left on device" in told


def test_checkpoint_of_a_run_that_has_no_room_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        ws, _ = workspace_in(disk, tmp_path / "outside")
        run = Started(ws, [*GITSTATE, "run", "--interval", "2", "--", "sleep", "600"])
        wait_until(lambda: bool(ws.refs("refs/gitstate/checkpoints")), "the first checkpoint")
        wait_until(lambda: not (ws.git_dir / "gitstate" / "journal").exists(), "its end")
        filler = fill(disk, 0)
        # It needs no room, and gives none back.
        ws.chmod("kept.bin", 0o755)
        wait_until(lambda: is_told(ws, "the last checkpoint failed: "), "status tells it")
        release(filler)
        wait_until(lambda: problem(ws) is None, "and then no more")
        run.send(signal.SIGTERM)
        assert run.status() == 128 + signal.SIGTERM


def test_checkpoint_of_a_hook_that_has_no_room_is_told(tmp_path: Path) -> None:
    now = {"GITSTATE_HOOK_INTERVAL": "0"}
    with small_disk(tmp_path / "disk", SIZE) as disk:
        ws, _ = workspace_in(disk, tmp_path / "outside")
        event(ws, **now)
        settled(ws)
        ws.write("late", "late\n")
        filler = fill(disk, 0)
        event(ws, **now)
        wait_until(lambda: is_told(ws, "hook"), "status tells it")
        release(filler)
        event(ws, **now)
        wait_until(lambda: problem(ws) is None, "and then no more")
        settled(ws)


def test_report_is_written_through_no_second_name(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE) as disk:
        report, other = os.fsencode(disk / "report"), disk / "other"
        write_report(report, b"one", staging=os.fsencode(disk))
        fill(disk, 0)
        write_report(report, b"two", staging=os.fsencode(disk))
        assert (disk / "report").read_bytes().rstrip() == b"two"
        other.hardlink_to(disk / "report")
        with pytest.raises(OSError, match="No space left"):
            write_report(report, b"three", staging=os.fsencode(disk))
        assert other.read_bytes().rstrip() == b"two"
