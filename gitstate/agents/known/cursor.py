"""Cursor's command line, by its documents."""

from __future__ import annotations

from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Payload, Sessions, Transcript

_HOME = Home(".cursor")

AGENT = Agent(
    name="cursor",
    commands=("cursor-agent", "cursor"),
    events=(
        HookEvent("sessionStart", "session_start", timeout=10),
        HookEvent("beforeSubmitPrompt", "prompt", timeout=10),
        HookEvent("afterFileEdit", "tool", timeout=30),
        HookEvent("afterShellExecution", "tool", timeout=30),
        HookEvent("afterMCPExecution", "tool", timeout=30),
        HookEvent("preCompact", "compaction", timeout=30),
        HookEvent("stop", "turn_end", timeout=30),
        HookEvent("sessionEnd", "session_end", timeout=10),
    ),
    settings=HookSettings(_HOME, "hooks.json", format="flat"),
    briefing=Briefing("sessionStart", format="additional_context"),
    sessions=Sessions(
        resume=("cursor-agent", "{options}", "--resume", "{id}"),
        resume_with_prompt=("cursor-agent", "-p", "{options}", "--resume", "{id}", "{prompt}"),
        start_with_prompt=("cursor-agent", "-p", "{options}", "{prompt}"),
        transcripts=(
            Transcript(_HOME, "projects/*/agent-transcripts/{id}/{id}.jsonl"),
            Transcript(_HOME, "chats/*/{id}/store.db"),
        ),
        flags=("-f", "--force", "--yolo", "--approve-mcps", "--trust"),
        valued=("-m", "--model", "--output-format", "--sandbox", "--mode"),
        headless=("-p", "--print"),
    ),
    payload=Payload(session_id="conversation_id", directory="workspace_roots", names_many_directories=True),
)
