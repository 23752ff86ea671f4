"""Claude Code."""

from __future__ import annotations

import os

from ...system.stdlib import TYPE_CHECKING
from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOME = Home(".claude", "CLAUDE_CONFIG_DIR")
_LONGEST_NAME = 200


def _place(root: str, transcript: str, directory: str) -> str:
    """Claude Code keeps transcripts by the directory of the work, with `-` for all but letters and digits.

    Of a long one it takes the beginning, and a hash. It counts in the units of UTF-16, as JavaScript does.
    """
    data = directory.encode("utf-16-le", "surrogatepass")
    units = [int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2)]
    encoded = "".join(chr(unit) if unit < 128 and chr(unit).isalnum() else "-" for unit in units)
    if len(encoded) > _LONGEST_NAME:
        encoded = f"{encoded[:_LONGEST_NAME]}-{_hash(units)}"
    return f"projects/{encoded}/{os.path.basename(transcript)}"


def _hash(units: Sequence[int]) -> str:
    """Java's hash of a text, without its sign, in base 36."""
    value = 0
    for unit in units:
        value = (31 * value + unit) & 0xFFFFFFFF
    value = min(value, (1 << 32) - value)
    digits = ""
    while value or not digits:
        value, digit = divmod(value, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits


def _refused(argv: Sequence[str]) -> tuple[str, str] | None:
    """`--bg` ends at once with 0, and works on in a process of its own."""
    background = next((word for word in argv[1:] if word in ("--bg", "--background")), None)
    if background is None or "--" in argv[: argv.index(background)]:
        return None
    return f"claude {background} works on elsewhere after it has ended, so that no save could hold its work", background


AGENT = Agent(
    name="claude",
    commands=("claude",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        # A checkpoint before a command that destroys: the agent waits for it.
        HookEvent("PreToolUse", "before_tool", timeout=10, matcher="Bash", deadline=3.0),
        HookEvent("WorktreeRemove", "worktree_end", timeout=10, deadline=3.0),
        HookEvent("PostToolUse", "tool", timeout=30, matcher="Bash|Edit|MultiEdit|NotebookEdit|Write|mcp__.*"),
        # A tool that failed has no PostToolUse.
        HookEvent("PostToolUseFailure", "tool", timeout=30, matcher="Bash|Edit|MultiEdit|NotebookEdit|Write|mcp__.*"),
        HookEvent("UserPromptSubmit", "prompt", timeout=10),
        HookEvent("SubagentStop", "tool", timeout=30),
        HookEvent("PreCompact", "compaction", timeout=30),
        HookEvent("Stop", "turn_end", timeout=30),
        # An error of the API, or a usage limit: in the place of Stop.
        HookEvent("StopFailure", "turn_failed", timeout=30),
        # Without a timeout of its own, this one is ended after 1.5 s.
        HookEvent("SessionEnd", "session_end", timeout=10),
    ),
    settings=HookSettings(_HOME, "settings.json", async_key="async"),
    refused=_refused,
    # A `cd` of its shell stays, and so does the directory of a worktree that it enters.
    project_variable="CLAUDE_PROJECT_DIR",
    briefing=Briefing("SessionStart"),
    sessions=Sessions(
        resume=("claude", "{options}", "--resume", "{id}"),
        resume_with_prompt=("claude", "-p", "--resume", "{id}", "{prompt}", "{options}"),
        start_with_prompt=("claude", "-p", "{prompt}", "--session-id", "{id}", "{options}"),
        flags=(
            "--dangerously-skip-permissions",
            "--allow-dangerously-skip-permissions",
            "--strict-mcp-config",
            "--verbose",
        ),
        valued=(
            "--model",
            "--fallback-model",
            "--permission-mode",
            "--settings",
            "--setting-sources",
            "--append-system-prompt",
            "--agents",
            "--output-format",
        ),
        many=(
            "--mcp-config",
            "--add-dir",
            "--allowedTools",
            "--allowed-tools",
            "--disallowedTools",
            "--disallowed-tools",
        ),
        headless=("-p", "--print"),
        transcripts=(Transcript(_HOME, "projects/*/{id}.jsonl"),),
        place=_place,
    ),
)
