"""Kimi Code."""

from __future__ import annotations

import os

from ...system.stdlib import digest
from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, Transcript

_HOME = Home(".kimi-code", "KIMI_CODE_HOME")
#: The home of the versions before Kimi Code.
_OLD_HOME = Home(".kimi", "KIMI_SHARE_DIR")

#: What a session needs, below its directory.
_FILES = ("agents/main/wire.jsonl", "state.json")


def _place(root: str, transcript: str, directory: str) -> str:
    """Kimi Code keeps sessions by the directory of the work: its name, and a hash of its path."""
    path = directory.rstrip("/")
    hashed = digest("sha256", os.fsencode(path)).hexdigest()[:12]
    return f"sessions/wd_{_slug(os.path.basename(path))}_{hashed}/{os.path.basename(transcript)}"


def _slug(name: str) -> str:
    """Its `slugifyWorkDirName`."""
    import re

    slug = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-")[:40].strip("-")
    return "workspace" if slug in ("", ".", "..") else slug


def _lists(root: str, transcript: str, directory: str) -> tuple[tuple[str, bytes], ...]:
    """The line of a session in the list of all sessions."""
    entry = {
        "sessionId": os.path.basename(transcript),
        "sessionDir": os.path.join(root, transcript),
        "workDir": directory,
    }
    line = "{" + ",".join(f"{_quoted(key)}:{_quoted(value)}" for key, value in entry.items()) + "}\n"
    return (("session_index.jsonl", line.encode()),)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


AGENT = Agent(
    name="kimi",
    commands=("kimi",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        HookEvent("UserPromptSubmit", "prompt", timeout=10),
        HookEvent("PreToolUse", "before_tool", timeout=10, deadline=3.0),
        HookEvent("PostToolUse", "tool", timeout=30),
        HookEvent("PostToolUseFailure", "tool", timeout=30),
        HookEvent("PreCompact", "compaction", timeout=30),
        HookEvent("Stop", "turn_end", timeout=30),
        HookEvent("StopFailure", "turn_failed", timeout=30),
        HookEvent("SessionEnd", "session_end", timeout=10),
        HookEvent("Interrupt", "turn_end", timeout=10),
    ),
    # Its schema is strict: a key that it does not know ends it at its start.
    settings=HookSettings(
        _HOME,
        "config.toml",
        format="toml",
        in_projects=False,
        notes=("Kimi Code runs it; the older `kimi` that ends at once does not",),
    ),
    # What a hook prints at SessionStart does not reach the model.
    briefing=Briefing("UserPromptSubmit", once=True),
    sessions=Sessions(
        resume=("kimi", "{options}", "-S", "{id}"),
        resume_with_prompt=("kimi", "{options}", "-S", "{id}", "-p", "{prompt}"),
        start_with_prompt=("kimi", "{options}", "-p", "{prompt}"),
        flags=("-y", "--yolo", "--auto", "--plan"),
        valued=("-m", "--model", "--add-dir", "--skills-dir"),
        headless=("-p", "--prompt"),
        transcripts=tuple(
            Transcript(home, pattern, _FILES)
            for home in (_HOME, _OLD_HOME)
            for pattern in ("sessions/{id}", "sessions/*/{id}")
        ),
        place=_place,
        names_directory=True,
        lists=_lists,
    ),
    # With -p it has no SessionEnd.
    ends_sessions=False,
    # A loop around the stub of the older version would spin: it ends at once with status 0.
    stub_advice="install Kimi Code and remove the old command",
)
