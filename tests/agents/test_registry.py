"""Agents are found by name and by command, and each record is complete."""

from __future__ import annotations

import re
import signal

import pytest

from gitstate.agents.base import Agent, StopRule
from gitstate.agents.registry import agent_named, agent_names, agent_of_command, all_agents, stop_rule


def test_names_are_those_of_the_files() -> None:
    assert agent_names() == ("claude", "codex", "copilot", "cursor", "gemini", "kimi", "opencode", "qwen")
    assert tuple(agent.name for agent in all_agents()) == agent_names()


@pytest.mark.parametrize(
    "name",
    ["", "base", "registry", "sessions", "launch", "transcripts", "__init__", "no-such-agent", "../claude", "Claude"],
)
def test_other_names_are_no_agents(name: str) -> None:
    assert agent_named(name) is None


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["claude", "-p", "x"], "claude"),
        (["/opt/bin/codex", "exec"], "codex"),
        (["Gemini"], "gemini"),
        (["bash", "-c", "claude"], None),
        (["claude-loop.sh"], None),
        ([], None),
    ],
)
def test_agent_is_known_by_the_command_that_starts_it(argv: list[str], name: str | None) -> None:
    found = agent_of_command(argv)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("name", "argv", "rule"),
    [
        (None, ["codex"], StopRule(signal.SIGINT)),
        (None, ["/usr/bin/gemini"], StopRule(signal.SIGTERM, everyone=True)),
        (None, ["claude"], StopRule()),
        (None, ["my-agent"], StopRule()),
        ("codex", ["bash", "loop.sh"], StopRule(signal.SIGINT)),
        ("Codex", (), StopRule(signal.SIGINT)),
        ("my-agent", ["codex"], StopRule()),
    ],
)
def test_given_name_decides_before_the_command_how_a_run_is_stopped(
    name: str | None, argv: list[str], rule: StopRule
) -> None:
    assert stop_rule(name, argv) == rule


@pytest.mark.parametrize("agent", all_agents(), ids=lambda agent: agent.name)
def test_record_is_consistent(agent: Agent) -> None:
    names = [event.name for event in agent.events]
    assert len(names) == len(set(names))
    assert {"session_start", "prompt", "tool", "turn_end", "session_end"} <= {
        event.meaning for event in agent.registered_events()
    }
    assert agent.briefing.event in {event.name for event in agent.registered_events()}
    assert all(event.timeout > event.deadline for event in agent.events if event.deadline is not None)
    assert all(re.compile(event.matcher) for event in agent.events if event.matcher is not None)
    sessions = agent.sessions
    assert "{id}" in " ".join(sessions.resume)
    assert "{id}" in " ".join(sessions.resume_with_prompt) and "{prompt}" in sessions.resume_with_prompt
    assert "{prompt}" in sessions.start_with_prompt
    for command in (sessions.resume, sessions.resume_with_prompt, sessions.start_with_prompt):
        assert command[0] in agent.commands
