"""Agents with ways of their own: a daemon, the background, status 0 in the middle of a turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workspace import GITSTATE, Workspace


def run_command(ws: Workspace, *argv: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*GITSTATE, "run", "--task-id", "T-9", "--", *argv]
    return subprocess.run(command, cwd=ws.path, env=env, capture_output=True, encoding="utf-8", timeout=60)


def program(tmp_path: Path, name: str, text: str) -> dict[str, str]:
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return {**os.environ, "PATH": f"{path.parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize("knows", [True, False])
def test_codex_works_without_its_daemon_where_it_knows_that(ws: Workspace, tmp_path: Path, knows: bool) -> None:
    told = "--no-daemon" if knows else "nothing"
    env = program(tmp_path, "codex", f'[ "$1" != --help ] || {{ echo "{told}"; exit; }}; echo "$@" >said')
    done = run_command(ws, "codex", "do it", env=env)
    assert done.returncode == 0
    assert ws.read("said").decode() == ("--no-daemon do it\n" if knows else "do it\n")
    assert ("is started with --no-daemon" in done.stderr) == knows


def test_background_of_claude_is_refused_with_words(ws: Workspace, tmp_path: Path) -> None:
    env = program(tmp_path, "claude", "echo x >started")
    done = run_command(ws, "claude", "--bg", "do it", env=env)
    assert done.returncode == 2 and "works on elsewhere" in done.stderr
    assert "next: gitstate run -- claude 'do it'" in done.stderr
    assert not (ws.path / "started").exists()


@pytest.mark.parametrize(("event", "saved"), [("BeforeAgent", True), ("AfterAgent", False)])
def test_status_0_in_the_middle_of_a_turn_is_an_interruption(
    ws: Workspace, tmp_path: Path, event: str, saved: bool
) -> None:
    payload = json.dumps({"hook_event_name": event, "session_id": "s-1", "cwd": str(ws.path)})
    (tmp_path / "event").write_text(payload)
    hook = f"{sys.executable} -m gitstate hook gemini <{tmp_path / 'event'}"
    env = program(tmp_path, "gemini", f"echo x >>a.txt; {hook}")
    done = run_command(ws, "gemini", "-p", "x", env=env)
    assert done.returncode == 0
    assert bool(ws.refs("refs/gitstate/pending")) == saved
    status = json.loads((ws.path / "active_state.json").read_text())["status"]
    assert status == ("interrupted" if saved else "finished")


def test_daemon_of_the_user_is_no_leftover(ws: Workspace, tmp_path: Path) -> None:
    text = (
        'sh -c "sleep 60 & wait" app-server --managed-daemon >/dev/null 2>&1 & echo $! >"$PIDS"; echo x >>a.txt; exit 3'
    )
    env = {**program(tmp_path, "codex", text), "PIDS": str(tmp_path / "pids")}
    done = run_command(ws, "codex", "exec", "x", env=env)
    assert done.returncode == 3
    pid = int((tmp_path / "pids").read_text())
    try:
        os.kill(pid, 0)
    finally:
        os.kill(pid, 15)
