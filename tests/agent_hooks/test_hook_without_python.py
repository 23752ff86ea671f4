"""The rule of the command's script for an event where nothing is due, tied to Python's rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitstate.agents.base import Agent
from gitstate.agents.registry import all_agents
from tests.support.environment import ROOT
from tests.support.typed import git, state_file
from tests.support.workspace import Workspace

SLOW = {"GITSTATE_HOOK_INTERVAL": "3600"}
#: What stands beside the script in place of pip's: it shows that Python would have been started, and with which event.
ASKED = b"Python is asked: "


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A copy of the script that has no Python."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "gitstate").write_bytes((ROOT / "bin" / "gitstate").read_bytes())
    (place / "git-gitstate").write_text(f"#!/bin/sh\nprintf '{ASKED.decode()}%s ' \"$@\"\ncat\n")
    for name in ("gitstate", "git-gitstate"):
        (place / name).chmod(0o755)
    return place / "gitstate"


def told(repo: Workspace, name: str = "PostToolUse", agent: str = "claude", **more: object) -> bytes:
    keys = agent_called(agent).payload
    directory: object = [str(repo.path), "/elsewhere"] if keys.names_many_directories else str(repo.path)
    event = {keys.session_id: "s-1", keys.transcript_path: "/t/s-1.jsonl", keys.directory: directory, keys.event: name}
    return json.dumps({**event, **more}, separators=(",", ":")).encode()


def agent_called(name: str) -> Agent:
    return next(agent for agent in all_agents() if agent.name == name)


def python(repo: Workspace, event: bytes, agent: str = "claude", **env: str) -> None:
    """Let Python handle an event."""
    argv = [sys.executable, "-m", "gitstate", "hook", agent]
    subprocess.run(argv, input=event, cwd=repo.path, env={**os.environ, **SLOW, **env}, check=True)


def asks_python(script: Path, repo: Workspace, event: bytes, agent: str = "claude", **env: str) -> bool:
    """Whether the script leaves an event to Python, which must then read all of it."""
    argv = [os.fspath(script), "hook", agent]
    done = subprocess.run(argv, input=event, cwd=repo.path, env={**os.environ, **env}, capture_output=True, timeout=30)
    assert not done.stderr
    if not done.stdout:
        assert done.returncode == 0
        return False
    assert done.stdout.rstrip(b"\n").endswith(b"hook " + ASKED + agent.encode() + b" " + event), done.stdout
    return True


def own(repo: Workspace, name: str) -> Path:
    return Path(git(repo, "rev-parse", "--absolute-git-dir")) / "gitstate" / name


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("agent", [agent.name for agent in all_agents()])
def test_event_like_the_last_one_needs_no_python(agent: str, script: Path, repo: Workspace) -> None:
    names = {event.meaning: event.name for event in agent_called(agent).events}
    tool = told(repo, names["tool"], agent)
    assert asks_python(script, repo, tool, agent)
    repo.write("new", "new\n")
    python(repo, tool, agent)
    before = git(repo, "for-each-ref"), own(repo, "agent-hook.json").read_bytes()
    assert before[0]
    for more in ({}, {"tool_response": "x" * 200_000}, {"tool_input": {"text": 'a "quoted" \\ text\n'}}):
        assert not asks_python(script, repo, told(repo, names["tool"], agent, **more), agent)
    assert (git(repo, "for-each-ref"), own(repo, "agent-hook.json").read_bytes()) == before
    for meaning in ("session_start", "prompt", "turn_end", "compaction"):
        if meaning in names:
            assert asks_python(script, repo, told(repo, names[meaning], agent), agent), meaning


def quoted_in_a_string(repo: Workspace) -> bytes:
    return told(repo, "Stop", last_assistant_message=told(repo).decode())


def touch(name: str, seconds: float) -> Callable[[Workspace], None]:
    def change(repo: Workspace) -> None:
        path, when = own(repo, name), time.time() + seconds
        path.touch()
        os.utime(path, (when, when))

    return change


def no_change(repo: Workspace) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "event", "env"),
    [
        (no_change, lambda repo: told(repo, session_id="s-2"), {}),
        (no_change, lambda repo: told(repo, transcript_path="/t/s-2.jsonl"), {}),
        (no_change, lambda repo: told(repo, cwd=str(repo.outside)), {}),
        (no_change, lambda repo: told(repo, "Unknown"), {}),
        (no_change, quoted_in_a_string, {}),
        (no_change, lambda repo: b"no JSON", {}),
        (no_change, told, {"GITSTATE_PROGRESS_STAGE": "testing"}),
        (lambda repo: (touch("agent-hook.due", -1)(repo), touch("agent-hook.busy", 60)(repo)), told, {}),
        (lambda repo: (touch("agent-hook.due", -1)(repo), touch("agent-hook.json", 60)(repo)), told, {}),
        (touch("agent-hook.json", 60), told, {}),
        (touch("context.json", 60), told, {}),
        (touch("lease.json", 60), told, {}),
        (lambda repo: own(repo, "agent-hook.due").unlink(), told, {}),
        (lambda repo: os.mkfifo(own(repo, "agent-hook.now")), told, {}),
        (lambda repo: own(repo, "agent-hook.now").symlink_to(repo.path / "a"), told, {}),
    ],
    ids=[
        *(
            "session",
            "transcript",
            "directory",
            "event",
            "quoted event",
            "no JSON",
            "stage",
            "one at work",
            "due, clock set back",
            "clock set back",
        ),
        *("context changed", "somebody else works here", "no stamp", "FIFO", "symlink"),
    ],
)
def test_other_events_are_left_to_python(
    change: Callable[[Workspace], Any],
    event: Callable[[Workspace], bytes],
    env: dict[str, str],
    script: Path,
    repo: Workspace,
) -> None:
    python(repo, told(repo))
    assert not asks_python(script, repo, told(repo))
    own(repo, "agent-hook.now").unlink()
    change(repo)
    assert asks_python(script, repo, event(repo), **env)


def test_checkpoint_is_due_for_the_script_when_it_is_for_python(script: Path, repo: Workspace) -> None:
    """The stamp's time is the last checkpoint and the pause of `is_due`."""
    python(repo, told(repo))
    memory = json.loads(own(repo, "agent-hook.json").read_bytes())
    pause = own(repo, "agent-hook.due").stat().st_mtime_ns - memory["last_ns"]
    assert pause == 3600 * 10**9
    python(repo, told(repo), GITSTATE_HOOK_INTERVAL="0")
    memory = json.loads(own(repo, "agent-hook.json").read_bytes())
    pause = own(repo, "agent-hook.due").stat().st_mtime_ns - memory["last_ns"]
    assert pause == 20 * memory["cost_ns"] > 0


def test_checkpoint_that_is_due_is_taken_in_the_background(script: Path, repo: Workspace, tmp_path: Path) -> None:
    gate, done = tmp_path / "gate", tmp_path / "done"
    os.mkfifo(gate)
    slow = f'#!/bin/sh\nread -r go <"{gate}"\n{{ echo "$@"; cat; }} >>"{done}"\n'
    (script.parent / "git-gitstate").write_text(slow)
    python(repo, told(repo))
    touch("agent-hook.due", -1)(repo)
    # It returns while its child still waits at the gate.
    assert not asks_python(script, repo, told(repo))
    assert not done.exists()
    gate.write_text("go\n")
    wait_until(lambda: done.exists() and done.read_bytes().endswith(b"}\n"))
    assert done.read_bytes() == b"hook claude background\n" + told(repo) + b"\n"


def test_background_checkpoint_is_taken_in_a_session_of_its_own(repo: Workspace) -> None:
    python(repo, told(repo))
    before = git(repo, "for-each-ref", "refs/gitstate/checkpoints")
    repo.write("new", "newer\n")
    argv = [sys.executable, "-m", "gitstate", "hook", "claude", "background"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=repo.path) as process:
        assert process.stdin is not None and process.stdout is not None
        # It waits for the event.
        wait_until(lambda: os.getsid(process.pid) == process.pid)
        process.stdin.write(told(repo, "PreCompact"))
        process.stdin.close()
        assert (process.stdout.read(), process.wait(timeout=60)) == (b"", 0)
    assert git(repo, "for-each-ref", "refs/gitstate/checkpoints") != before


def test_late_event_does_not_begin_an_ended_session_again(repo: Workspace) -> None:
    python(repo, told(repo))
    python(repo, told(repo, "SessionEnd"))
    ended = state_file(repo)
    assert ended["status"] == "finished"
    argv = [sys.executable, "-m", "gitstate", "hook", "claude", "background"]
    subprocess.run(argv, input=told(repo), cwd=repo.path, env={**os.environ, **SLOW}, check=True)
    assert state_file(repo) == ended
    python(repo, told(repo))
    assert state_file(repo)["status"] == "active"


def test_another_event_or_a_text_that_json_escapes_leaves_no_stamp(script: Path, repo: Workspace) -> None:
    python(repo, told(repo))
    assert own(repo, "agent-hook.due").exists()
    python(repo, told(repo, "UserPromptSubmit"))
    assert not own(repo, "agent-hook.due").exists()
    python(repo, told(repo, session_id='s"1'))
    assert not own(repo, "agent-hook.due").exists()


def test_linked_worktree_has_a_stamp_of_its_own(script: Path, repo: Workspace, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"))
    linked = Workspace(tmp_path / "linked", repo.outside)
    python(linked, told(linked))
    assert not asks_python(script, linked, told(linked))
    assert asks_python(script, repo, told(repo))


def test_agent_that_does_not_close_its_end_does_not_wait(script: Path, repo: Workspace) -> None:
    python(repo, told(repo))
    with subprocess.Popen(
        [script, "hook", "claude"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=repo.path
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(told(repo))
        process.stdin.flush()
        assert ASKED in process.stdout.read()
