"""A signal before the keeper's first look at a large worktree: what the agent has changed is safe at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.orders.test_save import children
from tests.support.agents import Started, agent_pid, ends, keeper_pid, marker, wait_until
from tests.support.workspace import GITSTATE, Workspace

#: An agent that ends some time after it was told.
AGENT = """\
import os, signal, sys, time
ready, told, go = sys.argv[1:]
def on_term(*_):
    open(told, "w").close()
    while not os.path.exists(go):
        time.sleep(0.01)
    os._exit(1)
signal.signal(signal.SIGTERM, on_term)
open(ready, "w").write(str(os.getpid()))
while True:
    time.sleep(1)
"""


WORK = ("a.txt", "new.txt", "made/below/file", "staged.txt", "before.txt", "untracked before.txt")


@pytest.fixture
def large(ws: Workspace) -> Workspace:
    """A workspace with the index of a large one, for its paths are long. It was dirty before the run began."""
    directory = ws.path / ("x" * 200) / ("y" * 200) / ("z" * 200)
    directory.mkdir(parents=True)
    for number in range(3_400):
        (directory / str(number)).touch()
    for name in ("gone.txt", "staged.txt", "before.txt"):
        ws.write(name, "committed\n")
    ws.commit("large")
    ws.write("staged.txt", "staged before\n")
    ws.add("staged.txt")
    ws.write("before.txt", "dirty before\n")
    ws.write("untracked before.txt", "there before\n")
    assert os.stat(ws.git_dir / "index").st_size > 2 << 20
    return ws


def start(large: Workspace, tmp_path: Path) -> Started:
    """A run whose first checkpoint is under way: its `git status` takes longer than all else."""
    tools, hold = tmp_path / "tools", large.outside / "hold"
    tools.mkdir()
    hold.touch()
    asks = f"echo >{large.outside}/asked; while [ -e {hold} ]; do sleep 0.02; done"
    waits = f'case " $* " in *" status "*) {asks} ;; esac'
    (tools / "git").write_text(f'#!/bin/sh\n{waits}\nexec {shutil.which("git")} "$@"\n')
    (tools / "git").chmod(0o755)
    agent = [sys.executable, "-c", AGENT, *(str(large.outside / name) for name in ("ready", "told", "go"))]
    command = [*GITSTATE, "run", "--interval", "3600", "--deadline", "100", "--grace", "50", "--", *agent]
    found = Started(large, command, env={"PATH": f"{tools}:{os.environ['PATH']}"})
    agent_pid(large)
    looks_at_all(large)
    return found


def looks_at_all(ws: Workspace) -> None:
    """Wait until git is asked about the whole tree. By then the directories are watched."""
    wait_until((ws.outside / "asked").exists, "git status")
    (ws.outside / "asked").unlink()


@pytest.fixture
def started(large: Workspace, tmp_path: Path) -> Started:
    """Such a run that was told to end after the agent has changed files; its early save stands."""
    found = start(large, tmp_path)
    large.append("a.txt", "by the agent\n")
    large.write("new.txt", "new\n")
    large.write("made/below/file", "made\n")
    large.remove("gone.txt")
    found.send(signal.SIGTERM)
    wait_until((large.outside / "told").exists, "the agent is told")
    wait_until(lambda: marker(large), "the early save")
    return found


def go_on(ws: Workspace) -> None:
    (ws.outside / "hold").unlink()
    (ws.outside / "go").touch()


def manifest(ws: Workspace, archive: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ws.git("cat-file", "-p", f"{archive}:manifest.json"))
    return found


def text(ws: Workspace, archive: str, name: str) -> str | None:
    out = ws.git("cat-file", "-p", f"{archive}^1:{name}", check=False)
    return out.decode() or None


def test_early_save_looks_at_nothing_but_what_the_agent_changed(large: Workspace, started: Started) -> None:
    ws = large
    early = marker(ws)
    assert not (ws.outside / "asked").exists(), "git looked at the whole tree before it"
    assert text(ws, early, "a.txt") == ws.read("a.txt").decode()
    assert text(ws, early, "new.txt") == "new\n"
    assert text(ws, early, "made/below/file") == "made\n"
    assert text(ws, early, "gone.txt") is None
    assert text(ws, early, "staged.txt") == "staged before\n", "git tells what is staged without a look at the files"
    # What was dirty before is not called saved.
    assert text(ws, early, "before.txt") == "committed\n"
    assert text(ws, early, "untracked before.txt") is None
    described = manifest(ws, early)
    (named,) = described["left_out"]
    assert named["path"] == "" and "not looked at as a whole" in named["reason"] and named["lost"]
    work = {name: ws.read(name) for name in WORK}
    go_on(ws)
    assert started.status() == 143, started.words()
    last = marker(ws)
    assert last != early and manifest(ws, last)["left_out"] == []
    assert text(ws, last, "before.txt") == "dirty before\n"
    assert ws.recover().exit_status == 0
    assert {name: ws.read(name) for name in work} == work
    assert ws.out("diff", "--cached", "--name-only") == "staged.txt"


@pytest.mark.parametrize("options", [[], ["--overwrite"]], ids=["kept", "overwrite"])
def test_kill_after_the_early_save_loses_nothing_on_disk(
    large: Workspace, started: Started, options: list[str]
) -> None:
    ws = large
    early = marker(ws)
    kill_all(ws, started)
    assert marker(ws) == early
    work = {name: ws.read(name) for name in (*WORK, "before.txt")}
    run = ws.recover(*options)
    assert run.json["workspaces"][0]["verdict"] == "restore", run
    assert "not looked at as a whole" in json.dumps(run.json), "recover tells that the save is not whole"
    assert {name: ws.read(name) for name in work} == work
    assert not (ws.path / "gone.txt").exists()
    assert ws.out("diff", "--cached", "--name-only") == "staged.txt"


#: What an agent does, and whether a save of what is known to have changed can tell of it.
DEEDS = {
    "git rm -q --cached before.txt; git rm -q -f gone.txt": True,
    "mv dir moved": False,
    "echo new >added; git add -N added": False,
}


@pytest.mark.sample(2)
@pytest.mark.parametrize(("deed", "tells"), DEEDS.items(), ids=["staged", "moved", "to be added"])
def test_early_save_of_a_part_brings_nothing_back_and_deletes_nothing(
    deed: str, tells: bool, large: Workspace, tmp_path: Path
) -> None:
    ws = large
    ws.write("dir/tracked", "committed\n")
    ws.git("checkout", "-q", "--", "before.txt")
    ws.add("dir/tracked")
    ws.commit("more")
    started = start(ws, tmp_path)
    ws.append("a.txt", "by the agent\n")
    subprocess.run(deed, shell=True, cwd=ws.path, check=True)
    started.send(signal.SIGTERM)
    wait_until((ws.outside / "told").exists, "the agent is told")
    wait_until(lambda: marker(ws) or (ws.outside / "asked").exists(), "the early save is under way")
    assert bool(marker(ws)) == tells
    kill_all(ws, started)
    before = ws.out("status", "--porcelain")
    assert ws.recover().exit_status == 0
    assert ws.out("status", "--porcelain") == before


def kill_all(ws: Workspace, started: Started) -> None:
    """Kill the run with the gits that it has started, which would go on with the save."""
    pids = [keeper_pid(ws), started.process.pid, int((ws.outside / "ready").read_text())]
    groups = children(pids[0])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    started.status()
    assert ends(pids[0])
    go_on(ws)


def test_early_save_of_a_part_hides_no_whole_save(large: Workspace, tmp_path: Path) -> None:
    """The save that the agent ordered moved no branch: what it holds alone must stay what `recover` brings back."""
    ws = large
    ws.git("checkout", "-q", "--detach")
    started = start(ws, tmp_path)
    ws.append("a.txt", "by the agent\n")
    assert ws.gitstate("save").exit_status == 0
    whole = marker(ws)
    looks_at_all(ws)
    ws.write("new.txt", "later\n")
    started.send(signal.SIGTERM)
    wait_until((ws.outside / "told").exists, "the agent is told")
    wait_until(lambda: marker(ws) != whole or (ws.outside / "asked").exists(), "the early save is under way")
    assert marker(ws) == whole
    kill_all(ws, started)
    ws.git("checkout", "-q", "--", "before.txt")
    ws.remove("untracked before.txt")
    assert ws.recover().exit_status == 0
    assert ws.read("before.txt") == b"dirty before\n"
    assert ws.read("untracked before.txt") == b"there before\n"


#: What stands before the run, and what the agent does with it.
BEFORE = {
    "hidden before": ("git update-index --assume-unchanged before.txt", "echo more >>before.txt"),
    "hidden in the run": ("true", "git update-index --assume-unchanged before.txt; echo more >>before.txt"),
    "gone before": ("rm before.txt", "true"),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", BEFORE)
def test_early_save_of_a_part_leaves_what_was_there_before_the_run(name: str, large: Workspace, tmp_path: Path) -> None:
    ws = large
    first, then = BEFORE[name]
    ws.git("checkout", "-q", "--", "before.txt")
    subprocess.run(first, shell=True, cwd=ws.path, check=True)
    started = start(ws, tmp_path)
    ws.append("a.txt", "by the agent\n")
    subprocess.run(then, shell=True, cwd=ws.path, check=True)
    started.send(signal.SIGTERM)
    wait_until((ws.outside / "told").exists, "the agent is told")
    wait_until(lambda: marker(ws), "the early save")
    kill_all(ws, started)
    # Git writes the index anew here.
    before = ws.out("status", "--porcelain"), ws.out("ls-files", "-v", "before.txt")
    if name != "gone before":
        ws.git("reset", "-q", "--hard")
    run = ws.recover()
    assert run.exit_status == 0, run
    if name != "gone before":
        assert ws.read("before.txt") == b"committed\nmore\n"
    else:
        assert "git checkout -- before.txt" in json.dumps(run.json)
    untracked = '\n?? "untracked before.txt"'
    assert (ws.out("status", "--porcelain").replace(untracked, ""), ws.out("ls-files", "-v", "before.txt")) == (
        before[0].replace(untracked, ""),
        before[1],
    )
