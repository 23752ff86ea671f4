"""What an event of an agent's own hooks does to the workspace."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gitstate.agent_hooks.briefing import format_briefing
from gitstate.agent_hooks.event import parse_event, read_event
from gitstate.agent_hooks.memory import HookMemory, is_due, last_problem
from gitstate.agents.base import Briefing, Payload
from gitstate.git.opening import open_repository
from tests.agent_hooks.settings import AGENTS
from tests.support.agents import hooks_are_done, wait_until
from tests.support.typed import commit, git, gitstate, run, state_file
from tests.support.workspace import GITSTATE, Run, Workspace

if TYPE_CHECKING:
    from gitstate.agents.base import Meaning

# -- events


def event(repo: Workspace, agent: str, name: str, env: dict[str, str] | None = None, **more: object) -> str:
    """Run the hook for an event; what the agent reads. Standard error must be empty, the status 0."""
    told = {"hook_event_name": name, "session_id": "s-1", "transcript_path": "/t/s-1.jsonl", "cwd": str(repo.path)}
    done = run(repo, *GITSTATE, "hook", agent, given=json.dumps({**told, **more}), env=env)
    assert (done.exit_status, done.stderr) == (0, ""), done
    # The checkpoint goes on by itself.
    wait_until(lambda: hooks_are_done(repo.path / ".git"), "what the hook has begun")
    return done.text


def checkpoint(repo: Workspace) -> str:
    return git(repo, "for-each-ref", "--format=%(objectname)", "refs/gitstate/checkpoints")


@pytest.mark.parametrize("agent", AGENTS)
def test_event_records_session_transcript_and_directory(agent: str, repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1", "progress_stage=testing")
    (repo.path / "deep").mkdir()
    event(repo, agent, "SessionStart", cwd=str(repo.path / "deep"))
    state = state_file(repo)
    assert (state["agent"], state["session_id"], state["task_id"]) == (agent, "s-1", "T-1")
    assert state["extra"] == {"transcript_path": "/t/s-1.jsonl", "agent_cwd": str(repo.path / "deep")}
    assert (state["progress_stage"], state["status"]) == ("testing", "active")


def test_checkpoint_is_taken_only_after_a_change(repo: Workspace) -> None:
    repo.write("new", "new\n")
    event(repo, "claude", "PostToolUse")
    first = checkpoint(repo)
    assert git(repo, "show", f"{first}^1:new") == "new"
    event(repo, "claude", "Stop")
    assert checkpoint(repo) == first
    repo.write("new", "newer\n")
    event(repo, "claude", "PreCompact")
    assert checkpoint(repo) != first
    assert git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", "main")


def test_frequent_tool_events_are_throttled_until_the_agent_stops(repo: Workspace) -> None:
    slow = {"GITSTATE_HOOK_INTERVAL": "3600"}
    event(repo, "claude", "PostToolUse", slow)
    first = checkpoint(repo)
    for number in range(3):
        repo.write("new", f"{number}\n")
        event(repo, "claude", "PostToolUse", slow)
    assert checkpoint(repo) == first
    assert json.loads((repo.path / ".git" / "gitstate" / "agent-hook.json").read_text())["skipped"] == 3
    event(repo, "claude", "SessionEnd", slow)
    assert git(repo, "show", f"{checkpoint(repo)}^1:new") == "2"


def test_interval_that_cannot_be_read_costs_no_checkpoint(repo: Workspace) -> None:
    git(repo, "config", "gitstate.hookInterval", "soon")
    repo.write("new", "new\n")
    event(repo, "claude", "PostToolUse")
    assert checkpoint(repo)


def test_new_session_after_a_recovery_is_briefed(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1", "progress_stage=adding VAT")
    repo.write("new", "new\n")
    gitstate(repo, "save", "--signal", "TERM")
    waiting = event(repo, "claude", "SessionStart", session_id="s-2")
    assert "gitstate recover" in waiting and "T-1" in waiting
    assert state_file(repo)["status"] == "interrupted"
    gitstate(repo, "recover")
    for agent, name in (("claude", "SessionStart"), ("codex", "SessionStart"), ("gemini", "BeforeAgent")):
        said = event(repo, agent, name, session_id=f"s-2-{agent}")
        if agent != "claude":
            answer = json.loads(said)["hookSpecificOutput"]
            assert answer["hookEventName"] == name
            said = answer["additionalContext"]
        assert "T-1" in said and "adding VAT" in said and "TERM" in said
    assert event(repo, "kimi", "SessionStart", session_id="s-3") == ""
    assert "T-1" in event(repo, "kimi", "UserPromptSubmit", session_id="s-3")
    assert event(repo, "kimi", "UserPromptSubmit", session_id="s-3") == ""
    assert state_file(repo)["status"] == "recovered"
    event(repo, "kimi", "SessionStart", session_id="s-3")
    assert "T-1" in event(repo, "kimi", "UserPromptSubmit", session_id="s-3"), "a session that is resumed"
    event(repo, "kimi", "PostToolUse", session_id="s-3")
    assert (state_file(repo)["status"], state_file(repo)["session_id"]) == ("active", "s-3")


@pytest.mark.parametrize("status", ["recovered", "active", "interrupted"])
def test_committed_state_file_never_reaches_the_agent(status: str, repo: Workspace) -> None:
    planted = {"task_id": "evil", "status": status, "briefing": "evil", "resume": "evil", "save": {"save_id": "1"}}
    commit(repo, "active_state.json", json.dumps(planted))
    assert event(repo, "claude", "SessionStart") == ""
    git(repo, "checkout", "-q", "--", "active_state.json")
    assert event(repo, "claude", "SessionStart", session_id="s-2") == ""


def test_session_without_a_task_ends_as_finished(repo: Workspace) -> None:
    event(repo, "claude", "SessionStart")
    assert state_file(repo)["status"] == "active"
    event(repo, "claude", "SessionEnd")
    assert state_file(repo)["status"] == "finished"
    event(repo, "claude", "SessionStart", session_id="s-2")
    assert (state_file(repo)["status"], state_file(repo)["session_id"]) == ("active", "s-2")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "{",
        "[]",
        "null",
        "\x00\xff",
        '{"cwd": 3}',
        '{"cwd": "/nowhere"}',
        '{"cwd": "../.."}',
        '{"cwd": "/a\\u0000b"}',
        "[" * 100_000,
        '{"hook_event_name": ["Stop"]}',
        '{"hook_event_name": "\\ud800"}',
        json.dumps({"hook_event_name": "Stop", "session_id": "x" * 100_000, "transcript_path": "\u001b]0;x\u0007"}),
    ],
)
@pytest.mark.parametrize("agent", ["claude", "no-such-agent"])
def test_malformed_event_gets_an_empty_answer_and_status_0(given: str, agent: str, repo: Workspace) -> None:
    assert run(repo, *GITSTATE, "hook", agent, given=given) == Run(0, b"", "")


def test_hook_is_silent_outside_and_in_a_broken_repository(tmp_path: Path, repo: Workspace) -> None:
    (tmp_path / "plain").mkdir()
    assert event(Workspace(tmp_path / "plain", tmp_path), "claude", "Stop") == ""
    (repo.path / ".git" / "HEAD").write_text("nonsense")
    assert event(repo, "claude", "Stop") == ""


def test_failed_checkpoint_is_recorded_for_doctor(repo: Workspace) -> None:
    event(repo, "claude", "SessionStart")
    assert last_problem(open_repository(os.fsencode(repo.path))) == []
    in_the_way = repo.path / ".git" / "refs" / "gitstate" / "checkpoints"
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.write_text("a file where a directory has to go")
    repo.write("new", "new\n")
    assert event(repo, "claude", "Stop") == ""
    ((words, command),) = last_problem(open_repository(os.fsencode(repo.path)))
    assert "Stop" in words and command == "gitstate checkpoint"
    since = words.partition("(since ")[2]
    assert since.startswith("2") and words in repo.gitstate("status").text
    event(repo, "claude", "Stop")
    ((words, _),) = last_problem(open_repository(os.fsencode(repo.path)))
    assert words.partition("(since ")[2] == since, "the first that failed"
    in_the_way.unlink()
    event(repo, "claude", "Stop")
    assert last_problem(open_repository(os.fsencode(repo.path))) == []


def test_hostile_context_reaches_the_agent_escaped_and_bounded(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=\x1b]0;evil\x07", "progress_stage=" + "x" * 60_000)
    said = event(repo, "claude", "SessionStart")
    assert "\x1b" not in said and "\x07" not in said and 0 < len(said) < 10_000


def test_hook_imports_neither_click_nor_gitpython_and_one_agent(repo: Workspace) -> None:
    script = (
        "import os, sys; leave = os._exit\n"
        "def tell(status):\n    print(*sys.modules, file=sys.stderr, flush=True)\n    leave(status)\n"
        "os._exit = tell; from gitstate.__main__ import main; main()"
    )
    done = run(repo, sys.executable, "-c", script, "hook", "claude", given='{"hook_event_name": "PostToolUse"}')
    loaded = set(done.stderr.split())
    assert "gitstate.agent_hooks.hook" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("git", "click", "gitdb", "tomllib")}
    agents = {name.removeprefix("gitstate.agents.") for name in loaded if name.startswith("gitstate.agents.")}
    assert agents == {"base", "registry", "known", "known.claude"}


# -- decisions


def test_tool_gets_a_checkpoint_once_in_an_interval() -> None:
    second = 1_000_000_000
    now = 1_000_000 * second
    assert is_due("tool", HookMemory(), now, 15)
    assert not is_due("tool", HookMemory(now - 14 * second), now, 15)
    assert is_due("tool", HookMemory(now - 15 * second), now, 15)
    assert not is_due("tool", HookMemory(now - 60 * second, 5 * second), now, 15)
    assert is_due("tool", HookMemory(now + second), now, 15)


@pytest.mark.parametrize(
    ("meaning", "due"),
    [
        ("session_start", False),
        ("prompt", False),
        ("compaction", True),
        ("turn_end", True),
        ("session_end", True),
    ],
)
def test_other_events_get_a_checkpoint_always_or_never(meaning: Meaning, due: bool) -> None:
    now = 1_000_000_000_000
    assert is_due(meaning, HookMemory(now), now, 15) == due
    assert is_due(meaning, HookMemory(), now, 15) == due


def test_briefing_takes_the_form_that_the_agent_reads() -> None:
    text, as_json = Briefing("SessionStart"), Briefing("SessionStart", format="json")
    assert format_briefing(text, "words") == "words\n"
    assert format_briefing(text, "") == format_briefing(as_json, "") == ""
    assert json.loads(format_briefing(as_json, "w\n\u2028")) == {
        "hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": "w\n\u2028"}
    }


def test_event_without_end_does_not_block() -> None:
    read, write = os.pipe()
    try:
        os.write(write, b'{"hook_event_name": "Stop"')
        assert read_event(read) == {}
    finally:
        os.close(read)
        os.close(write)


def test_event_of_a_writer_that_never_stops_is_ignored() -> None:
    with open("/dev/zero", "rb") as endless:
        assert read_event(endless.fileno()) == {}


def test_event_yields_only_absolute_paths_and_short_texts() -> None:
    told = {"hook_event_name": "Stop", "cwd": "relative", "transcript_path": "x", "session_id": "y" * 5000}
    found = parse_event(told, Payload())
    assert tuple(found) == ("Stop", None, None, None)
