"""What an event of an agent's own hooks does to the workspace."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gitstate.agents.base import Briefing, Payload
from gitstate.git.repository import open_repository
from gitstate.integrations.agent_hooks import (
    HookMemory,
    format_briefing,
    is_due,
    last_problem,
    parse_event,
    read_event,
)
from tests.integrations.settings import AGENTS
from tests.support.hooked import Done, Hooked

if TYPE_CHECKING:
    from gitstate.agents.base import Meaning

# -- events


def event(repo: Hooked, agent: str, name: str, env: dict[str, str] | None = None, **more: object) -> str:
    """What an agent reads after its event; nothing may stand on stderr, and the status is always 0."""
    told = {"hook_event_name": name, "session_id": "s-1", "transcript_path": "/t/s-1.jsonl", "cwd": str(repo.path)}
    done = repo.run(sys.executable, "-m", "gitstate", "hook", agent, given=json.dumps({**told, **more}), env=env)
    assert (done.status, done.err) == (0, ""), done
    return done.out


def checkpoint(repo: Hooked) -> str:
    return repo.git("for-each-ref", "--format=%(objectname)", "refs/gitstate/checkpoints")


@pytest.mark.parametrize("agent", AGENTS)
def test_an_event_keeps_session_transcript_and_directory(agent: str, repo: Hooked) -> None:
    repo.gitstate("set", "task_id=T-1", "progress_stage=testing")
    (repo.path / "deep").mkdir()
    event(repo, agent, "SessionStart", cwd=str(repo.path / "deep"))
    state = repo.state()
    assert (state["agent"], state["session_id"], state["task_id"]) == (agent, "s-1", "T-1")
    assert state["extra"] == {"transcript_path": "/t/s-1.jsonl", "agent_cwd": str(repo.path / "deep")}
    assert (state["progress_stage"], state["status"]) == ("testing", "active")


def test_a_checkpoint_holds_what_changed_and_none_is_taken_where_nothing_did(repo: Hooked) -> None:
    repo.write("new", "new\n")
    event(repo, "claude", "PostToolUse")
    first = checkpoint(repo)
    assert repo.git("show", f"{first}^1:new") == "new"
    event(repo, "claude", "Stop")
    assert checkpoint(repo) == first
    repo.write("new", "newer\n")
    event(repo, "claude", "PreCompact")
    assert checkpoint(repo) != first
    assert repo.git("rev-parse", "HEAD") == repo.git("rev-parse", "main")


def test_a_storm_of_tools_is_spaced_and_the_rest_is_kept_when_the_agent_rests(repo: Hooked) -> None:
    slow = {"GITSTATE_HOOK_INTERVAL": "3600"}
    event(repo, "claude", "PostToolUse", slow)
    first = checkpoint(repo)
    for number in range(3):
        repo.write("new", f"{number}\n")
        event(repo, "claude", "PostToolUse", slow)
    assert checkpoint(repo) == first
    assert json.loads((repo.path / ".git" / "gitstate" / "agent-hook.json").read_text())["skipped"] == 3
    event(repo, "claude", "SessionEnd", slow)
    assert repo.git("show", f"{checkpoint(repo)}^1:new") == "2"


def test_after_a_recovery_the_new_session_is_briefed_in_the_form_of_its_agent(repo: Hooked) -> None:
    repo.gitstate("set", "task_id=T-1", "progress_stage=adding VAT")
    repo.write("new", "new\n")
    repo.gitstate("save", "--signal", "TERM")
    waiting = event(repo, "claude", "SessionStart", session_id="s-2")
    assert "gitstate recover" in waiting and "T-1" in waiting
    assert repo.state()["status"] == "interrupted"
    repo.gitstate("recover")
    for agent in ("claude", "codex", "gemini"):
        said = event(repo, agent, "SessionStart", session_id="s-2")
        if agent != "claude":
            answer = json.loads(said)["hookSpecificOutput"]
            assert answer["hookEventName"] == "SessionStart"
            said = answer["additionalContext"]
        assert "T-1" in said and "adding VAT" in said and "TERM" in said
    assert event(repo, "kimi", "SessionStart", session_id="s-3") == ""
    assert "T-1" in event(repo, "kimi", "UserPromptSubmit", session_id="s-3")
    assert event(repo, "kimi", "UserPromptSubmit", session_id="s-3") == ""
    assert repo.state()["status"] == "recovered"
    event(repo, "kimi", "PostToolUse", session_id="s-3")
    assert (repo.state()["status"], repo.state()["session_id"]) == ("active", "s-3")


@pytest.mark.parametrize("status", ["recovered", "active", "interrupted"])
def test_a_repository_cannot_speak_to_the_agent_through_a_state_file_of_its_own(status: str, repo: Hooked) -> None:
    planted = {"task_id": "evil", "status": status, "briefing": "evil", "resume": "evil", "save": {"save_id": "1"}}
    repo.commit("active_state.json", json.dumps(planted))
    assert event(repo, "claude", "SessionStart") == ""
    repo.git("checkout", "-q", "--", "active_state.json")
    assert event(repo, "claude", "SessionStart", session_id="s-2") == ""


def test_a_session_without_a_task_leaves_nothing_that_looks_interrupted(repo: Hooked) -> None:
    event(repo, "claude", "SessionStart")
    assert repo.state()["status"] == "active"
    event(repo, "claude", "SessionEnd")
    assert repo.state()["status"] == "finished"
    event(repo, "claude", "SessionStart", session_id="s-2")
    assert (repo.state()["status"], repo.state()["session_id"]) == ("active", "s-2")


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
def test_whatever_comes_the_agent_sees_an_empty_answer_and_success(given: str, agent: str, repo: Hooked) -> None:
    assert repo.run(sys.executable, "-m", "gitstate", "hook", agent, given=given) == Done(0, "", "")


def test_outside_a_repository_and_in_a_broken_one_it_is_silent(tmp_path: Path, repo: Hooked) -> None:
    (tmp_path / "plain").mkdir()
    assert event(Hooked(tmp_path / "plain"), "claude", "Stop") == ""
    (repo.path / ".git" / "HEAD").write_text("nonsense")
    assert event(repo, "claude", "Stop") == ""


def test_what_went_wrong_is_kept_for_the_doctor(repo: Hooked) -> None:
    event(repo, "claude", "SessionStart")
    assert last_problem(open_repository(os.fsencode(repo.path))) == []
    (repo.path / ".git" / "refs" / "gitstate").write_text("a file where a directory has to go")
    repo.write("new", "new\n")
    assert event(repo, "claude", "Stop") == ""
    ((words, command),) = last_problem(open_repository(os.fsencode(repo.path)))
    assert "Stop" in words and command == "gitstate checkpoint"
    (repo.path / ".git" / "refs" / "gitstate").unlink()
    event(repo, "claude", "Stop")
    assert last_problem(open_repository(os.fsencode(repo.path))) == []


def test_a_hostile_context_reaches_the_agent_escaped_and_bounded(repo: Hooked) -> None:
    repo.gitstate("set", "task_id=\x1b]0;evil\x07", "progress_stage=" + "x" * 60_000)
    said = event(repo, "claude", "SessionStart")
    assert "\x1b" not in said and "\x07" not in said and 0 < len(said) < 10_000


def test_the_hook_imports_neither_click_nor_gitpython_and_one_agent(repo: Hooked) -> None:
    script = (
        "import os, sys; leave = os._exit\n"
        "def tell(status):\n    print(*sys.modules, file=sys.stderr, flush=True)\n    leave(status)\n"
        "os._exit = tell; from gitstate.__main__ import main; main()"
    )
    done = repo.run(sys.executable, "-c", script, "hook", "claude", given='{"hook_event_name": "PostToolUse"}')
    loaded = set(done.err.split())
    assert "gitstate.integrations.agent_hooks" in loaded
    assert not {name for name in loaded if name.split(".")[0] in ("git", "click", "gitdb", "tomllib")}
    agents = {name.removeprefix("gitstate.agents.") for name in loaded if name.startswith("gitstate.agents.")}
    assert agents == {"base", "registry", "claude"}


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


def test_an_event_without_end_is_not_waited_for() -> None:
    read, write = os.pipe()
    try:
        os.write(write, b'{"hook_event_name": "Stop"')
        assert read_event(read) == {}
    finally:
        os.close(read)
        os.close(write)


def test_only_absolute_paths_and_short_texts_are_taken_from_an_event() -> None:
    told = {"hook_event_name": "Stop", "cwd": "relative", "transcript_path": "x", "session_id": "y" * 5000}
    found = parse_event(told, Payload())
    assert tuple(found) == ("Stop", None, None, None)
