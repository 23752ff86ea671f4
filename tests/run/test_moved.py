"""A workspace that is moved or renamed while the agent works: the run goes on there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.run.commands import WAYS, WORK
from tests.support.agents import Started, agent_pid, check_recovered, check_saved, has_checkpoint, wait_until
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace


def rename(ws: Workspace, place: Path) -> None:
    ws.path.rename(place)


def move_worktree(ws: Workspace, place: Path) -> None:
    ws.git("worktree", "move", os.fspath(ws.path), os.fspath(place))


def kill_agent(started: Started, agent: int) -> None:
    os.kill(agent, signal.SIGKILL)


def terminate(started: Started, agent: int) -> None:
    started.send(signal.SIGTERM)


def kill_all_but_the_keeper(started: Started, agent: int) -> None:
    started.send_group(signal.SIGKILL)


ENDS: list[Callable[[Started, int], None]] = [kill_agent, terminate, kill_all_but_the_keeper]


def holds(ws: Workspace, kind: str, path: str) -> bool:
    """Whether the latest checkpoint, or the pending save, holds a file."""
    archives = ws.refs(f"refs/gitstate/{kind}").values()
    return any(path in ws.out("ls-tree", "--name-only", f"{archive}^1") for archive in archives)


@pytest.mark.sample(8)
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("move", [rename, move_worktree])
@pytest.mark.parametrize("way", WAYS)
def test_run_goes_on_where_its_workspace_was_moved(
    way: str, move: Callable[[Workspace, Path], None], end: Callable[[Started, int], None], ws: Workspace
) -> None:
    """Its last save would find no workspace, and say so; the next run would have the last checkpoint before that."""
    if move is move_worktree:
        linked = ws.outside / "linked"
        ws.git("worktree", "add", "-q", "-b", "agent/linked", os.fspath(linked))
        ws = Workspace(linked, ws.outside)
    started = Started(ws, WAYS[way](ws, ""), {"GITSTATE_INTERVAL": "0.2"})
    agent = agent_pid(ws)
    wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
    place = ws.outside / "moved away"
    move(ws, place)
    ws = Workspace(place, ws.outside)
    ws.write("later.txt", "written there\n")
    wait_until(lambda: holds(ws, "checkpoints", "later.txt"), "a checkpoint at the new place")
    assert ws.gitstate("status").stdout.split()[5] == b"active"
    before = fingerprint(ws.path)
    end(started, agent)
    started.status()
    check_saved(ws, before, **WORK)
    assert "not saved" not in started.words() and not (ws.git_dir / "gitstate" / "run.json").exists()
    check_recovered(ws, before)


def test_run_that_ends_well_where_its_workspace_was_moved_is_finished(ws: Workspace) -> None:
    place = ws.path.with_name("moved")
    script = f'sleep 0.5; mv "{ws.path}" "{place}"; cd "{place}"; echo work >work.txt'
    run = ws.gitstate("run", "--task-id", "T-9", "--", "sh", "-c", script)
    assert run.exit_status == 0 and not run.stderr, run
    ws = Workspace(place, ws.outside)
    assert holds(ws, "checkpoints", "work.txt")
    assert b"finished" in ws.gitstate("status").stdout


def test_directory_that_takes_the_place_of_the_workspace_is_the_workspace(ws: Workspace) -> None:
    """As where an agent makes a copy, and takes that: what was moved away is what it no longer wants."""
    started = Started(ws, WAYS["run"](ws, ""), {"GITSTATE_INTERVAL": "0.2"})
    agent_pid(ws)
    wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
    old = ws.outside / "old"
    script = f'cp -a "{ws.path}" "{old}.copy"; mv "{ws.path}" "{old}"; mv "{old}.copy" "{ws.path}"'
    assert os.system(script) == 0
    ws.write("new.txt", "here\n")
    started.send(signal.SIGTERM)
    started.status()
    wait_until(lambda: holds(ws, "pending", "new.txt"), "the save of what stands there")
