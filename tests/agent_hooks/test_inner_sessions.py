"""Sessions that an agent starts in its own shell, and sessions beside each other: whose the context is."""

from __future__ import annotations

import json
import os
import shlex
import subprocess

import pytest

from tests.support.agents import hooks_are_done, wait_until
from tests.support.typed import gitstate, script, state_file
from tests.support.workspace import GITSTATE, Workspace

#: An agent for these tests: it does what the file says that it is given.
_AGENT = '#!/bin/bash\n. "$1"\n'


def hook(repo: Workspace, name: str, session: str, agent: str = "claude", **more: str) -> str:
    """A line for an agent's file: an event of its hooks."""
    told = {"hook_event_name": name, "session_id": session, "cwd": str(repo.path), **more}
    return f"printf %s {shlex.quote(json.dumps(told))} | {shlex.join([*GITSTATE, 'hook', agent])} >/dev/null\n"


def agent(repo: Workspace, *lines: str, name: str = "claude", file: str = "outer.sh") -> list[str]:
    """The command line of an agent that does this."""
    program = script(repo.outside / "agents" / name, _AGENT)
    return [os.fspath(program), os.fspath(script(repo.outside / file, "".join(lines)))]


def run_agent(repo: Workspace, *lines: str) -> None:
    subprocess.run(agent(repo, *lines), cwd=repo.path, check=False, env={**os.environ, **repo.cli_env})
    wait_until(lambda: hooks_are_done(repo.git_dir), "what the hooks have begun")


def inner_agent(repo: Workspace, name: str, *lines: str) -> str:
    """A line for an agent's file: it runs another agent to its end."""
    return f"{shlex.join(agent(repo, *lines, name=name, file='inner.sh'))}\n"


def begun(repo: Workspace, session: str, name: str = "claude") -> str:
    first = hook(repo, "SessionStart", session, name)
    return first + hook(repo, "UserPromptSubmit", session, name) + hook(repo, "PostToolUse", session, name)


@pytest.mark.parametrize("inner", ["claude", "codex"])
def test_session_inside_another_leaves_its_context_alone(repo: Workspace, inner: str) -> None:
    work = begun(repo, "s-inner", inner) + "echo inner >inner.txt\n" + hook(repo, "Stop", "s-inner", inner)
    end = hook(repo, "SessionEnd", "s-inner", inner)
    run_agent(repo, begun(repo, "s-outer"), inner_agent(repo, inner, work, end), "kill -9 $$\n")
    state = state_file(repo)
    assert (state["agent"], state["session_id"], state["status"]) == ("claude", "s-outer", "active")
    assert (repo.git_dir / "gitstate" / "turn").read_text() == "open"
    refs = repo.git("for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints").decode().split()
    assert repo.git("show", f"{refs[0]}^1:inner.txt") == b"inner\n", "its work is saved like any other"
    gitstate(repo, "recover")
    assert (state_file(repo)["session_id"], state_file(repo)["status"]) == ("s-outer", "recovered")


def test_killed_inside_another_session_the_outer_one_is_resumed(repo: Workspace) -> None:
    killed = inner_agent(repo, "codex", begun(repo, "s-inner", "codex"), "kill -9 $PPID $$\n")
    run_agent(repo, begun(repo, "s-outer"), killed)
    gitstate(repo, "recover")
    state = state_file(repo)
    assert (state["agent"], state["session_id"], state["status"]) == ("claude", "s-outer", "recovered")


def test_agent_that_starts_after_another_has_ended_is_the_next_session(repo: Workspace) -> None:
    run_agent(repo, inner_agent(repo, "codex", begun(repo, "s-1", "codex"), hook(repo, "SessionEnd", "s-1", "codex")))
    run_agent(repo, begun(repo, "s-2"))
    assert (state_file(repo)["agent"], state_file(repo)["session_id"]) == ("claude", "s-2")


def test_same_process_may_begin_another_session(repo: Workspace) -> None:
    run_agent(repo, begun(repo, "s-1"), hook(repo, "SessionEnd", "s-1"), begun(repo, "s-2"))
    assert (state_file(repo)["session_id"], state_file(repo)["status"]) == ("s-2", "active")


def test_agent_that_starts_itself_again_has_one_session(repo: Workspace) -> None:
    """Its first event may come from the first process, the others from the second."""
    again = inner_agent(repo, "claude", hook(repo, "PostToolUse", "s-1"), hook(repo, "SessionEnd", "s-1"))
    run_agent(repo, hook(repo, "SessionStart", "s-1"), again)
    assert (state_file(repo)["session_id"], state_file(repo)["status"]) == ("s-1", "finished")


@pytest.mark.parametrize(("beside", "ends"), [("codex", "SessionEnd"), ("kimi", "Stop")])
def test_end_of_a_session_beside_another_does_not_finish_the_work(repo: Workspace, beside: str, ends: str) -> None:
    """Two agents in one workspace, neither of which has started the other: the first one is continued."""
    other = agent(repo, begun(repo, "s-2", beside), hook(repo, ends, "s-2", beside), name=beside, file="other.sh")
    ready, done = repo.outside / "ready", repo.outside / "done"
    waits = f"touch {ready}; until [ -e {done} ]; do sleep 0.05; done\n"
    env = {**os.environ, **repo.cli_env}
    first = subprocess.Popen(agent(repo, begun(repo, "s-1"), waits, "kill -9 $$\n"), cwd=repo.path, env=env)
    try:
        wait_until(ready.exists, "the first agent works")
        subprocess.run(other, cwd=repo.path, check=True, env=env)
        assert state_file(repo)["status"] == "active"
    finally:
        done.touch()
        first.wait(60)
    wait_until(lambda: hooks_are_done(repo.git_dir), "what the hooks have begun")
    gitstate(repo, "recover")
    assert (state_file(repo)["session_id"], state_file(repo)["status"]) == ("s-1", "recovered")


def test_session_that_was_killed_earlier_does_not_take_the_place_of_one_that_ends(repo: Workspace) -> None:
    run_agent(repo, begun(repo, "s-1"), "kill -9 $$\n")
    with subprocess.Popen(["sleep", "600"]) as loop:
        gitstate(repo, "begin", "--owner-pid", str(loop.pid), "--session-id", "s-1")
        run_agent(repo, begun(repo, "s-2"), hook(repo, "SessionEnd", "s-2"))
        loop.kill()
    assert state_file(repo)["session_id"] == "s-2"
