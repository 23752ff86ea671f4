"""Claude Code."""

from __future__ import annotations

import os

from .base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, Transcript

_HOME = Home(".claude", "CLAUDE_CONFIG_DIR")


def _place(root: str, transcript: str, directory: str) -> str:
    """Claude Code keeps transcripts by the directory of the work, with `-` for all but letters and digits."""
    encoded = "".join(c if c.isascii() and c.isalnum() else "-" for c in directory)
    return f"projects/{encoded}/{os.path.basename(transcript)}"


AGENT = Agent(
    name="claude",
    commands=("claude",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        HookEvent("PostToolUse", "tool", timeout=30, matcher="Bash|Edit|MultiEdit|NotebookEdit|Write|mcp__.*"),
        HookEvent("PostToolUseFailure", "tool"),
        HookEvent("PreCompact", "compaction", timeout=30),
        HookEvent("Stop", "turn_end", timeout=30),
        # Without a timeout of its own, this one is ended after 1.5 s.
        HookEvent("SessionEnd", "session_end", timeout=10),
    ),
    settings=HookSettings(_HOME, "settings.json"),
    briefing=Briefing("SessionStart"),
    sessions=Sessions(
        resume=("claude", "--resume", "{id}"),
        resume_with_prompt=("claude", "-p", "--resume", "{id}", "{prompt}"),
        start_with_prompt=("claude", "-p", "{prompt}", "--session-id", "{id}"),
        transcripts=(Transcript(_HOME, "projects/*/{id}.jsonl"),),
        place=_place,
    ),
)
