"""Gemini CLI."""

from __future__ import annotations

from .base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, StopRule, Transcript

_HOME = Home(".gemini")

AGENT = Agent(
    name="gemini",
    commands=("gemini",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        HookEvent("AfterTool", "tool", timeout=30, matcher="write_file|replace|run_shell_command|mcp_.*"),
        HookEvent("AfterAgent", "turn_end", timeout=30),
        HookEvent("PreCompress", "compaction", timeout=30),
        HookEvent("SessionEnd", "session_end", timeout=10),
    ),
    settings=HookSettings(_HOME, "settings.json", units_per_second=1000, entry_name="gitstate"),
    # What a hook prints must be JSON, or nothing.
    briefing=Briefing("SessionStart", format="json"),
    sessions=Sessions(
        resume=("gemini", "--resume", "{id}"),
        resume_with_prompt=("gemini", "--resume", "{id}", "-p", "{prompt}"),
        start_with_prompt=("gemini", "-p", "{prompt}"),
        # The name of a chat holds only the first part of the id: session-TIME-ID.json.
        transcripts=(Transcript(_HOME, "tmp/*/chats/*{id:.8}*"),),
    ),
    # It starts itself again as a child: a signal to the first process alone does not reach the one that works.
    stop=StopRule(everyone=True),
)
