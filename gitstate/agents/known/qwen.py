"""Qwen Code."""

from __future__ import annotations

import os

from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, StopRule, Transcript

_HOME = Home(".qwen")
#: The tools that may change files.
_TOOLS = "write_file|edit|replace|run_shell_command|notebook_edit|mcp_.*"


def _place(root: str, transcript: str, directory: str) -> str:
    """Qwen keeps transcripts by the directory of the work, with `-` for all but letters and digits, as in UTF-16."""
    encoded = "".join(c if c.isascii() and c.isalnum() else "-" if c < "\U00010000" else "--" for c in directory)
    return f"projects/{encoded}/chats/{os.path.basename(transcript)}"


AGENT = Agent(
    name="qwen",
    commands=("qwen",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        HookEvent("UserPromptSubmit", "prompt", timeout=10),
        HookEvent("PreToolUse", "before_tool", timeout=10, matcher="run_shell_command", deadline=3.0),
        HookEvent("PostToolUse", "tool", timeout=30, matcher=_TOOLS),
        HookEvent("PostToolUseFailure", "tool", timeout=30, matcher=_TOOLS),
        HookEvent("SubagentStop", "tool", timeout=30),
        HookEvent("PreCompact", "compaction", timeout=30),
        HookEvent("Stop", "turn_end", timeout=30),
        HookEvent("StopFailure", "turn_failed", timeout=30),
        HookEvent("SessionEnd", "session_end", timeout=10),
    ),
    settings=HookSettings(
        _HOME,
        "settings.json",
        units_per_second=1000,
        async_key="async",
        entry_name="gitstate",
        project_notes=("qwen reads a project's settings only in a folder that you trust",),
    ),
    briefing=Briefing("SessionStart", format="json"),
    sessions=Sessions(
        resume=("qwen", "{options}", "--resume", "{id}"),
        resume_with_prompt=("qwen", "{options}", "--resume", "{id}", "-p", "{prompt}"),
        start_with_prompt=("qwen", "{options}", "-p", "{prompt}"),
        transcripts=(Transcript(_HOME, "projects/*/chats/{id}.jsonl"),),
        flags=("-y", "--yolo", "-s", "--sandbox"),
        valued=("-m", "--model", "--approval-mode", "--auth-type", "--output-format", "--mcp-config"),
        many=("--include-directories", "--add-dir", "--allowed-tools", "--exclude-tools", "-e", "--extensions"),
        headless=("-p", "--prompt"),
        place=_place,
        names_directory=True,
    ),
    # It starts itself again as a child: a signal to the first process alone does not reach the one that works.
    stop=StopRule(everyone=True),
)
