"""The resume command of each agent, printed only where the session's transcript exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from gitstate.agents.sessions import path_exists, resume_command
from gitstate.format.context import Context

SESSION = "0a1b2c3d-4e5f-6789"

#: Agent, its home's variable (None: below HOME), the transcript below that home, the command without the directory.
TRANSCRIPTS = [
    ("claude", None, f".claude/projects/-w/{SESSION}.jsonl", f"claude --resume {SESSION}"),
    ("claude", "CLAUDE_CONFIG_DIR", f"projects/-w/{SESSION}.jsonl", f"claude --resume {SESSION}"),
    ("codex", None, f".codex/sessions/2026/01/31/rollout-1-{SESSION}.jsonl", f"codex resume {SESSION}"),
    ("codex", "CODEX_HOME", f"sessions/2026/01/31/rollout-1-{SESSION}.jsonl", f"codex resume {SESSION}"),
    ("gemini", None, ".gemini/tmp/p/chats/session-2026-0a1b2c3d.json", f"gemini --resume {SESSION}"),
    ("kimi", None, f".kimi-code/sessions/p/{SESSION}/state.json", f"kimi -S {SESSION}"),
    ("kimi", "KIMI_CODE_HOME", f"sessions/{SESSION}/state.json", f"kimi -S {SESSION}"),
    ("kimi", "KIMI_SHARE_DIR", f"sessions/p/{SESSION}/state.json", f"kimi -S {SESSION}"),
    ("Claude", None, f".claude/projects/-w/{SESSION}.jsonl", f"claude --resume {SESSION}"),
]


@pytest.mark.parametrize(("agent", "variable", "transcript", "command"), TRANSCRIPTS)
def test_session_is_resumed_only_while_its_transcript_exists(
    agent: str, variable: str | None, transcript: str, command: str, tmp_path: Path
) -> None:
    environ = {"HOME": str(tmp_path / "home")}
    top = tmp_path / "home"
    if variable is not None:
        top = tmp_path / "elsewhere"
        environ[variable] = str(top)
    context = Context(agent=agent, session_id=SESSION, workspace_path="/w")
    assert resume_command(context, environ) is None
    path = top / transcript
    path.parent.mkdir(parents=True)
    path.write_text("{}\n")
    assert resume_command(context, environ) == f"cd /w && {command}"
    assert resume_command(context._replace(session_id="9f-other"), environ) is None
    assert resume_command(context, {"HOME": "/nowhere"}) is None


def test_transcript_that_the_hook_named_is_enough(tmp_path: Path) -> None:
    transcript = tmp_path / "t.jsonl"
    transcript.write_text("{}\n")
    (tmp_path / "a dir").mkdir()
    extra = {"transcript_path": str(transcript), "agent_cwd": str(tmp_path / "a dir")}
    context = Context(agent="claude", session_id="s-1", workspace_path="/w", extra=extra)
    assert resume_command(context, {"HOME": "/nowhere"}) == f"cd '{tmp_path}/a dir' && claude --resume s-1"


@pytest.mark.parametrize("session", ["", "-x", "a b", "a;b", "../x", "{prompt}", "*", "x" * 129, "s\n"])
def test_value_that_is_no_session_id_is_never_printed(session: str, tmp_path: Path) -> None:
    transcript = tmp_path / "t.jsonl"
    transcript.write_text("{}\n")
    context = Context(agent="claude", session_id=session, extra={"transcript_path": str(transcript)})
    assert resume_command(context, {"HOME": str(tmp_path)}) is None


@pytest.mark.parametrize(
    ("pattern", "exists"),
    [
        ("a/b/c.txt", True),
        ("a/*/c.txt", True),
        ("*/*/*.txt", True),
        ("**/*.txt", True),
        ("a/**/c.*", True),
        ("a/c.txt", False),
        ("*/c.txt", False),
        ("x/**/c.txt", False),
        ("a/b/C.txt", False),
    ],
)
def test_pattern(pattern: str, exists: bool, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").touch()
    assert path_exists(str(tmp_path), pattern) == exists
