"""The options of an agent that was started without gitstate come back with its session."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.agents import registry
from tests.support.skips import why_not_module
from tests.support.typed import gitstate, script, state_file
from tests.support.workspace import Workspace

#: An agent: it runs its hook through a shell, as agents do, and waits for it.
AGENT = """\
#!{python}
import json, os, subprocess, sys
events = os.environ.get("EVENTS", "SessionStart").split()
for name in events:
    told = {{"hook_event_name": name, "session_id": os.environ.get("SESSION", "s-1"), "cwd": os.getcwd()}}
    hook = "{python} -m gitstate hook " + os.path.basename(sys.argv[0])
    argv = ["/bin/sh", "-c", hook + " && true"]
    done = subprocess.run(argv, input=json.dumps(told).encode(), stdout=subprocess.PIPE, check=True)
    open("said", "ab").write(done.stdout)
"""


def start(ws: Workspace, *argv: str, **env: str) -> str | None:
    """Run an agent of this name; what the context has of its command line then."""
    program = script(ws.outside / "bin" / argv[0], AGENT.format(python=sys.executable))
    path = f"{program.parent}:{os.environ['PATH']}"
    subprocess.run(argv, cwd=ws.path, check=True, env={**os.environ, **ws.cli_env, "PATH": path, **env})
    found = state_file(ws)["extra"].get("agent_argv")
    assert found is None or isinstance(found, str)
    return found


def test_options_are_recorded_and_secrets_and_prompts_are_not(repo: Workspace) -> None:
    argv = ("claude", "--dangerously-skip-permissions", "--api-key", "hunter2", "--model", "opus", "-p", "my words")
    assert start(repo, *argv) == "claude -p --dangerously-skip-permissions --model opus"
    everything = (repo.path / "active_state.json").read_text() + str(list(repo.path.rglob("*")))
    assert "hunter2" not in everything and "my words" not in everything


@pytest.mark.parametrize(("agent", "options"), [("gemini", "--yolo -m x"), ("qwen", "-y"), ("copilot", "--allow-all")])
def test_each_agent_by_its_own_options(agent: str, options: str, repo: Workspace) -> None:
    found = start(repo, agent, *options.split(), "-p", "my words")
    assert found is not None and found == f"{agent} -p {options}"


def test_session_that_is_resumed_with_other_options(repo: Workspace) -> None:
    assert start(repo, "claude", "--model", "opus") == "claude --model opus"
    assert start(repo, "claude", "--resume", "s-1", "--verbose") == "claude --verbose"
    assert start(repo, "claude", "--model", "opus", EVENTS="PostToolUse") == "claude --verbose", "no new session"
    assert start(repo, "claude", "--model", "opus", EVENTS="PostToolUse", SESSION="s-2") == "claude --model opus"


def test_next_run_gets_the_options_again(repo: Workspace) -> None:
    transcript = repo.outside / "s-1.jsonl"
    transcript.write_text("{}\n")
    start(repo, "claude", "--model", "opus", "--verbose")
    gitstate(repo, "set", "task_id=T-1", f"transcript_path={transcript}")
    repo.write("new", "new\n")
    gitstate(repo, "save", "--signal", "TERM")
    gitstate(repo, "recover")
    assert "claude --model opus --verbose --resume s-1" in state_file(repo)["resume"]


def test_run_keeps_what_its_command_line_said(repo: Workspace) -> None:
    program = script(repo.outside / "bin" / "claude", AGENT.format(python=sys.executable))
    gitstate(repo, "run", "--", str(program), "--model", "opus", "-p", "x")
    recorded = state_file(repo)["extra"]["agent_argv"]
    assert shlex.split(recorded) == [str(program), "-p", "--model", "opus"]


@pytest.mark.parametrize(("agent", "prompt"), [("opencode", "chat.message"), ("kimi", "UserPromptSubmit")])
def test_session_that_another_process_resumes_is_briefed_again(agent: str, prompt: str, repo: Workspace) -> None:
    """Once for each process, where the agent says nothing of a session that is resumed."""
    gitstate(repo, "set", "task_id=T-1")
    for _ in range(2):
        start(repo, agent, EVENTS=f"{prompt} {prompt}")
        said = (repo.path / "said").read_text().splitlines()
        assert len(said) == 1 and "T-1" in said[0]
        (repo.path / "said").unlink()


@pytest.mark.skipif(why_not_module("psutil") is not None, reason=str(why_not_module("psutil")))
def test_processes_above_a_hook_are_found_without_proc(tmp_path: Path) -> None:
    found = {one.pid: one for one in registry.ancestors_without_proc()}
    assert os.getppid() in found
    for pid, one in found.items():
        assert one.argv == registry.argv_of(pid) or not os.path.isdir(f"/proc/{pid}")
