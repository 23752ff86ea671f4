"""GitHub Copilot CLI."""

from __future__ import annotations

from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, Transcript

_HOME = Home(".copilot", "COPILOT_HOME")

AGENT = Agent(
    name="copilot",
    commands=("copilot",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        HookEvent("UserPromptSubmit", "prompt", timeout=10),
        HookEvent("PreToolUse", "before_tool", timeout=10, deadline=3.0),
        HookEvent("PostToolUse", "tool", timeout=30),
        HookEvent("PostToolUseFailure", "tool", timeout=30),
        HookEvent("SubagentStop", "tool", timeout=30),
        HookEvent("PreCompact", "compaction", timeout=30),
        HookEvent("Stop", "turn_end", timeout=30),
        HookEvent("SessionEnd", "session_end", timeout=10),
    ),
    # Events are named so that the payload has the usual keys.
    settings=HookSettings(
        _HOME,
        "hooks/gitstate.json",
        format="flat",
        project_file=".github/hooks/gitstate.json",
        command_key="bash",
        timeout_key="timeoutSec",
    ),
    briefing=Briefing("SessionStart", format="additionalContext"),
    sessions=Sessions(
        resume=("copilot", "{options}", "--resume={id}"),
        resume_with_prompt=("copilot", "{options}", "--resume={id}", "-p", "{prompt}"),
        start_with_prompt=("copilot", "{options}", "-p", "{prompt}"),
        transcripts=(Transcript(_HOME, "session-state/{id}", ("events.jsonl", "workspace.yaml")),),
        flags=("--allow-all-tools", "--allow-all-paths", "--allow-all", "--yolo", "--no-ask-user", "--autopilot"),
        valued=("--model", "--agent", "--add-dir", "--additional-mcp-config"),
        many=("--allow-tool", "--deny-tool", "--available-tools", "--excluded-tools"),
        headless=("-p", "--prompt"),
        names_directory=True,
    ),
    # A project's hooks for this agent run here too.
    borrows_hooks=True,
)
