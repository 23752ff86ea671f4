"""Resume commands that run as printed, for a person and for a program, with the options that the agent had."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gitstate.agents.launch import Launch, recorded_argv
from gitstate.agents.registry import agent_named
from gitstate.agents.sessions import resume_command
from gitstate.format.context import Context

#: The command line of a run; what a person types to go on; what a program runs.
COMMANDS = [
    (
        "claude --model opus -p 'secret' --permission-mode=acceptEdits --unknown x --session-id old",
        "claude --model opus --permission-mode=acceptEdits --resume s-1",
        "claude -p --resume s-1 'go on' --model opus --permission-mode=acceptEdits",
    ),
    (
        "/opt/bin/codex exec -m gpt-5 --sandbox workspace-write --json 'secret'",
        "/opt/bin/codex resume -m gpt-5 --sandbox workspace-write s-1",
        "/opt/bin/codex exec -m gpt-5 --sandbox workspace-write resume s-1 'go on'",
    ),
    ("gemini --yolo -p secret", "gemini --yolo --resume s-1", "gemini --yolo --resume s-1 -p 'go on'"),
    ("kimi -y -m k2 -p secret", "kimi -y -m k2 -S s-1", "kimi -y -m k2 -S s-1 -p 'go on'"),
]


@pytest.mark.parametrize(("line", "person", "program"), COMMANDS)
def test_commands(line: str, person: str, program: str, tmp_path: Path) -> None:
    argv = shlex.split(line)
    agent = agent_named(Path(argv[0]).name)
    assert agent is not None
    recorded = recorded_argv(agent, argv)
    assert recorded is not None and "secret" not in recorded
    transcript = tmp_path / "s-1.jsonl"
    transcript.write_text("{}\n")
    extra = {"agent_argv": recorded, "transcript_path": str(transcript), "agent_cwd": str(tmp_path)}
    context = Context(agent=agent.name, session_id="s-1", extra=extra)
    assert resume_command(context, {"HOME": "/nowhere"}) == f"cd {tmp_path} && {person}"
    assert resume_command(context, {"HOME": "/nowhere"}, "go on") == f"cd {tmp_path} && {program}"


@pytest.mark.parametrize("line", ["rm -rf /", "claude 'unclosed", "x" * 9000])
def test_foreign_command_line_in_a_context_is_not_used(line: str) -> None:
    agent = agent_named("claude")
    assert agent is not None
    launch = Launch(agent, Context(extra={"agent_argv": line}))
    assert launch.resume("s-1") == ["claude", "--resume", "s-1"]


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("codex", "--no-daemon"),
        ("codex 'do it'", "--no-daemon"),
        ("codex -m gpt-5 'exec this'", "--no-daemon"),
        ("codex resume abc", "--no-daemon"),
        ("codex exec x", None),
        ("codex -m gpt-5 exec x", None),
        ("codex --no-daemon", None),
        ("codex --help", None),
        ("codex login", None),
    ],
)
def test_terminal_interface_of_codex_works_without_its_daemon(line: str, option: str | None) -> None:
    agent = agent_named("codex")
    assert agent is not None and agent.supervised is not None
    assert agent.supervised(shlex.split(line)) == option


def test_background_session_of_claude_is_refused() -> None:
    agent = agent_named("claude")
    assert agent is not None and agent.refused is not None
    assert agent.refused(["claude", "--bg", "x"]) is not None
    assert agent.refused(["claude", "-p", "about --bg"]) is None
