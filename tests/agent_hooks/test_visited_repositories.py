"""A session whose shell goes into another repository: a submodule, a worktree, a clone inside of the workspace."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.agent_hooks.test_hook_without_python import asks_python, python, told
from tests.agent_hooks.test_hook_without_python import script as script
from tests.agent_hooks.test_inner_sessions import agent, hook, run_agent
from tests.support.typed import git, gitstate, run, state_file
from tests.support.workspace import GITSTATE, Run, Workspace


@pytest.fixture
def inside(repo: Workspace, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository in the workspace, in which the shell of an agent is that began in the workspace."""
    monkeypatch.setenv("CLAUDE_PROJECT_DIR", str(repo.path))
    path = os.fspath(repo.path / "lib")
    repo.git("init", "-q", path)
    git(repo, "-C", path, "commit", "-q", "--allow-empty", "-m", "one")
    return path


def events(repo: Workspace, inside: str, *names: str) -> str:
    return "".join(hook(repo, name, "s-1", cwd=inside) for name in names)


def test_session_ends_where_it_began(repo: Workspace, inside: str) -> None:
    begin = hook(repo, "SessionStart", "s-1") + hook(repo, "UserPromptSubmit", "s-1")
    work = f"echo a >{inside}/a.txt\necho b >b.txt\n"
    run_agent(repo, begin, work, events(repo, inside, "PostToolUse", "Stop", "SessionEnd"))
    assert (state_file(repo)["session_id"], state_file(repo)["status"]) == ("s-1", "finished")
    assert gitstate(repo, "status", "--short") == ""
    (kept,) = repo.refs("refs/gitstate/checkpoints")
    assert git(repo, "show", f"{kept}^1:b.txt") == "b"
    (kept,) = git(repo, "-C", inside, "for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints").split()
    assert git(repo, "-C", inside, "show", f"{kept}^1:a.txt") == "a"
    assert not os.path.exists(f"{inside}/active_state.json"), "it has no session of its own"


def test_run_whose_agent_ends_in_another_repository_is_finished(repo: Workspace, inside: str) -> None:
    begin = hook(repo, "SessionStart", "s-1") + hook(repo, "UserPromptSubmit", "s-1") + "echo b >b.txt\n"
    words = agent(repo, begin, events(repo, inside, "PostToolUse", "Stop", "SessionEnd"))
    assert run(repo, *GITSTATE, "run", "--task-id", "T-1", "--", *words).exit_status == 0
    assert state_file(repo)["status"] == "finished"
    assert not repo.refs("refs/gitstate/pending")


def test_session_is_continued_where_it_began(repo: Workspace, inside: str) -> None:
    (repo.path / "sub").mkdir()
    below = str(repo.path / "sub")
    run_agent(repo, hook(repo, "SessionStart", "s-1"), hook(repo, "PostToolUse", "s-1", cwd=below), "kill -9 $$\n")
    assert state_file(repo)["extra"]["agent_cwd"] == str(repo.path)


def test_command_in_another_repository_that_destroys_work_of_the_first(repo: Workspace, inside: str) -> None:
    (repo.path / "b.txt").write_text("b\n")
    told = {"hook_event_name": "PreToolUse", "tool_input": {"command": "rm ../b.txt"}, "cwd": inside}
    assert run(repo, *GITSTATE, "hook", "claude", given=json.dumps(told)) == Run(0, b"", "")
    (kept,) = repo.refs("refs/gitstate/checkpoints")
    assert git(repo, "show", f"{kept}^1:b.txt") == "b"


def test_agent_waits_for_no_python_before_a_harmless_command(repo: Workspace, inside: str, script: Path) -> None:
    there = Workspace(Path(inside), repo.outside)
    before = told(there, "PreToolUse", tool_input={"command": "ls"})
    assert asks_python(script, there, before)
    python(there, told(there))
    assert not asks_python(script, there, before)
    assert asks_python(script, there, told(there, "PreToolUse", tool_input={"command": "rm a"}))
    assert asks_python(script, there, told(there)), "the repository in which the session began has to know"
