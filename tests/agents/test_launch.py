"""Resume commands that run as printed, for a person and for a program, with the options that the agent had."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest

from gitstate.agents.base import Agent
from gitstate.agents.launch import Launch, _words_of, may_hold_secret, recorded_argv, typed_argv
from gitstate.agents.registry import agent_named, all_agents
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
        ("codex h", "--no-daemon"),
        ("codex help exec", None),
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


@pytest.mark.parametrize(
    ("name", "line", "typed"),
    [
        ("claude", "claude --model opus", "claude --model opus"),
        ("claude", "/opt/none/claude -p x", "/opt/none/claude -p x"),
        ("gemini", "node /opt/none/gemini --yolo -p x", "/opt/none/gemini --yolo -p x"),
        ("gemini", "/usr/bin/node --max-old-space-size=12 --import tsx /a/gemini.js -p", "/a/gemini.js -p"),
        ("codex", "/opt/none/bin/codex exec x", "/opt/none/bin/codex exec x"),
        ("claude", "vim claude.md", None),
        ("claude", "python3 other.py claude", None),
        ("claude", "bash -c claude", "claude"),
        ("claude", "", None),
    ],
)
def test_command_line_of_a_process_is_what_a_person_typed(name: str, line: str, typed: str | None) -> None:
    agent = agent_named(name)
    assert agent is not None
    found = typed_argv(agent, shlex.split(line))
    assert found == (None if typed is None else shlex.split(typed))


@pytest.mark.parametrize(
    "value",
    [
        "sk-ant-0000",
        "key=sk-0000",
        "model_providers.x.api_key=abc",
        "openai-token=abc",
        "https://user:word@host/",
        '{"env": {"A": "hunter2"}}',
        '{"mcpServers": {"a": {"headers": {"A": "b"}}}}',
        '{"mcpServers": {"a": {"env":{"A": "b"}}}}',
        'shell_environment_policy.set={A="b"}',
        "Authorization: Basic abc",
        "eyJhbGciOiJIUzI1NiJ9.e30.x",
        "ghp_0000",
    ],
)
@pytest.mark.parametrize("form", ["--settings {}", "--settings={}", "--mcp-config {}", "--mcp-config a.json {}"])
def test_value_that_may_be_a_secret_is_not_recorded(value: str, form: str) -> None:
    agent = agent_named("claude")
    assert agent is not None and may_hold_secret(value)
    option, _, rest = form.partition(" ")
    words = [word.replace("{}", value) for word in (option, *rest.split())]
    recorded = recorded_argv(agent, ["claude", *words, "--verbose"])
    assert recorded is not None and value not in shlex.split(recorded) and value not in recorded
    assert shlex.split(recorded)[-1] == "--verbose"


@pytest.mark.parametrize("option", ["--api-key", "--openai-api-key", "--auth-token", "--token", "--password", "-k"])
@pytest.mark.parametrize("agent", all_agents(), ids=lambda agent: agent.name)
def test_option_for_a_secret_is_not_recorded(agent: Agent, option: str) -> None:
    for words in ([option, "hunter2"], [f"{option}=hunter2"]):
        recorded = recorded_argv(agent, [agent.commands[0], *words])
        assert recorded == agent.commands[0]


@pytest.mark.parametrize("value", ["opus", "a/b.json", "gpt-5", "acceptEdits", "task-runner", "/home/a@b/x", "k2"])
def test_other_values_are_no_secrets(value: str) -> None:
    assert not may_hold_secret(value)


def test_limits_of_an_agent_are_never_lost() -> None:
    agent = agent_named("claude")
    assert agent is not None
    line = "claude --disallowedTools 'Read(secrets/**)' 'Read(.env)' --allowedTools=Bash --add-dir a b -p x"
    recorded = recorded_argv(agent, shlex.split(line))
    wanted = ["claude", "-p", "--disallowedTools", "Read(secrets/**)", "Read(.env)", "--allowedTools=Bash"]
    assert recorded is not None and shlex.split(recorded) == [*wanted, "--add-dir", "a", "b"]


def test_line_is_taken_apart_as_by_a_shell() -> None:
    """Whichever way it goes: that without Python's own module is for lines in which nothing is quoted."""
    for signs in itertools.product("a'\" \\\t#é\x1f", repeat=4):
        line = "".join(signs)
        found = []
        for split in (shlex.split, _words_of):
            try:
                found.append(split(line))
            except ValueError:
                found.append(["refused"])
        assert found[0] == found[1], line
