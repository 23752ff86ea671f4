"""Each event of each agent, as the agent writes it: what is recorded, and whether a checkpoint is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from gitstate.agents.registry import all_agents
from tests.support.agents import hooks_are_done, wait_until
from tests.support.typed import git, gitstate, run, state_file
from tests.support.workspace import GITSTATE, Workspace


class Effect(NamedTuple):
    """What an event does in a workspace with a task whose last checkpoint is older than the interval."""

    checkpoint: bool
    briefed: bool = False


#: Agent and event → effect. An event that an agent does not have means nothing to gitstate.
EFFECTS = {
    ("claude", "SessionStart"): Effect(False, briefed=True),
    ("claude", "PostToolUse"): Effect(True),
    ("claude", "PostToolUseFailure"): Effect(True),
    ("claude", "UserPromptSubmit"): Effect(False),
    ("claude", "SubagentStop"): Effect(True),
    ("claude", "StopFailure"): Effect(True),
    ("claude", "PreCompact"): Effect(True),
    ("claude", "Stop"): Effect(True),
    ("claude", "SessionEnd"): Effect(True),
    ("claude", "Notification"): Effect(False),
    ("codex", "SessionStart"): Effect(False, briefed=True),
    ("codex", "PostToolUse"): Effect(True),
    ("codex", "PostToolUseFailure"): Effect(True),
    ("codex", "UserPromptSubmit"): Effect(False),
    ("codex", "SubagentStop"): Effect(True),
    ("codex", "PreCompact"): Effect(True),
    ("codex", "Stop"): Effect(True),
    ("codex", "SessionEnd"): Effect(True),
    ("codex", "Interrupt"): Effect(True),
    ("gemini", "SessionStart"): Effect(False),
    ("gemini", "BeforeAgent"): Effect(False, briefed=True),
    ("gemini", "AfterTool"): Effect(True),
    ("gemini", "AfterAgent"): Effect(True),
    ("gemini", "PreCompress"): Effect(True),
    ("gemini", "SessionEnd"): Effect(True),
    ("gemini", "PostToolUse"): Effect(False),
    ("kimi", "SessionStart"): Effect(False),
    ("kimi", "UserPromptSubmit"): Effect(False, briefed=True),
    ("kimi", "PostToolUse"): Effect(True),
    ("kimi", "PostToolUseFailure"): Effect(True),
    ("kimi", "StopFailure"): Effect(True),
    ("kimi", "PreCompact"): Effect(True),
    ("kimi", "Stop"): Effect(True),
    ("kimi", "SessionEnd"): Effect(True),
    ("kimi", "Interrupt"): Effect(True),
    ("qwen", "SessionStart"): Effect(False, briefed=True),
    ("qwen", "UserPromptSubmit"): Effect(False),
    ("qwen", "PostToolUse"): Effect(True),
    ("qwen", "PostToolUseFailure"): Effect(True),
    ("qwen", "SubagentStop"): Effect(True),
    ("qwen", "PreCompact"): Effect(True),
    ("qwen", "Stop"): Effect(True),
    ("qwen", "StopFailure"): Effect(True),
    ("qwen", "SessionEnd"): Effect(True),
    ("copilot", "SessionStart"): Effect(False, briefed=True),
    ("copilot", "UserPromptSubmit"): Effect(False),
    ("copilot", "PostToolUse"): Effect(True),
    ("copilot", "PostToolUseFailure"): Effect(True),
    ("copilot", "SubagentStop"): Effect(True),
    ("copilot", "PreCompact"): Effect(True),
    ("copilot", "Stop"): Effect(True),
    ("copilot", "SessionEnd"): Effect(True),
    ("cursor", "sessionStart"): Effect(False, briefed=True),
    ("cursor", "beforeSubmitPrompt"): Effect(False),
    ("cursor", "afterFileEdit"): Effect(True),
    ("cursor", "afterShellExecution"): Effect(True),
    ("cursor", "afterMCPExecution"): Effect(True),
    ("cursor", "preCompact"): Effect(True),
    ("cursor", "stop"): Effect(True),
    ("cursor", "sessionEnd"): Effect(True),
    ("opencode", "session.created"): Effect(False),
    ("opencode", "chat.message"): Effect(False, briefed=True),
    ("opencode", "tool.execute.after"): Effect(True),
    ("opencode", "session.compacting"): Effect(True),
    ("opencode", "session.idle"): Effect(True),
    ("opencode", "session.error"): Effect(True),
    ("opencode", "session.deleted"): Effect(True),
}


def usual(path: str) -> dict[str, Any]:
    return {"session_id": "s-1", "cwd": path}


#: How an agent names its session and its directory, where it does so in its own way.
NAMED: dict[str, Callable[[str], dict[str, Any]]] = {
    "cursor": lambda path: {"conversation_id": "s-1", "workspace_roots": [path, "/elsewhere"]},
}

#: What the agents send beside the common keys, shortened: it must not disturb.
MORE: dict[str, dict[str, Any]] = {
    "claude": {"permission_mode": "default", "tool_name": "Bash", "tool_input": {"command": "ls"}, "tool_response": {}},
    "codex": {"turn_id": "1", "model": "m", "tool_name": "shell", "tool_input": {"command": ["ls"]}},
    "gemini": {"timestamp": "2026-01-31T00:00:00Z", "tool_name": "replace", "tool_response": {"llmContent": "x"}},
    "qwen": {"permission_mode": "yolo", "tool_name": "write_file", "timestamp": "2026-01-31T00:00:00Z"},
    "copilot": {"tool_name": "create", "tool_input": {"path": "x"}, "stop_reason": "end_turn"},
    "opencode": {},
    "cursor": {"generation_id": "g-1", "cursor_version": "1.7", "edits": []},
    "kimi": {"client": "cli", "tool_name": "Shell", "tool_output": "x", "tool_call_id": "c-1"},
}


#: These come before something: `tests/agent_hooks/test_destroying.py` has them.
BEFORE = ("before_tool", "worktree_end")


def test_every_event_of_every_agent_is_in_the_table() -> None:
    all_events = [(agent.name, event) for agent in all_agents() for event in agent.events]
    assert {(name, event.name) for name, event in all_events if event.meaning not in BEFORE} <= EFFECTS.keys()


@pytest.mark.sample(3)
@pytest.mark.parametrize(("agent", "event"), EFFECTS)
def test_event(agent: str, event: str, repo: Workspace) -> None:
    effect = EFFECTS[agent, event]
    gitstate(repo, "set", "task_id=T-1", "progress_stage=testing")
    repo.write("new", "new\n")
    payload = {
        "hook_event_name": event,
        "transcript_path": "/t/s-1.jsonl",
        **NAMED.get(agent, usual)(str(repo.path)),
        **MORE[agent],
    }
    done = run(repo, *GITSTATE, "hook", agent, given=json.dumps(payload))
    assert (done.exit_status, done.stderr) == (0, "")
    wait_until(lambda: hooks_are_done(repo.git_dir), "what the hook has begun")
    assert ("T-1" in done.text) == effect.briefed and bool(done.text) == effect.briefed
    assert bool(git(repo, "for-each-ref", "refs/gitstate/checkpoints")) == effect.checkpoint
    state = state_file(repo)
    assert (state["agent"], state["session_id"], state["task_id"]) == (agent, "s-1", "T-1")
    assert state["extra"] == {"transcript_path": "/t/s-1.jsonl", "agent_cwd": str(repo.path)}
    assert state["status"] == "active"
