"""Gemini CLI."""

from __future__ import annotations

import os

from ...errors import BadJson
from ...system.files import read_limited
from ...system.jsonio import loads
from ...system.stdlib import suppress
from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Sessions, StopRule, Transcript

_HOME = Home(".gemini")
_MAX_PROJECTS = 4 << 20
#: What it keeps by project.
_KINDS = ("tmp", "history")


def _slug(root: str, directory: str) -> str:
    """The name that Gemini gives to a project, as its `ProjectRegistry` does: each belongs to one directory.

    The one in projects.json, else the one whose directory of sessions says so, else the first free one.
    """
    data = read_limited(os.path.join(os.fsencode(root), b"projects.json"), _MAX_PROJECTS)
    try:
        projects = dict(loads(data, _MAX_PROJECTS, "projects.json")["projects"])
    except (BadJson, KeyError, TypeError, ValueError):
        projects = {}
    known = projects.pop(directory, None)
    if isinstance(known, str) and _is_name(known) and _belongs(root, known, directory):
        return known
    for name in _names(root):
        if _is_name(name) and any(_owner(root, kind, name) == directory for kind in _KINDS):
            return name
    base = "".join(c if c.isascii() and c.isalnum() else "-" for c in os.path.basename(directory).lower())
    base = "-".join(part for part in base.split("-") if part) or "project"
    taken = {name for name in projects.values() if isinstance(name, str)}
    name, number = base, 0
    while name in taken or not _belongs(root, name, directory):
        number += 1
        name = f"{base}-{number}"
    return name


def _is_name(text: str) -> bool:
    return bool(text) and "/" not in text and not text.startswith(".")


def _names(root: str) -> list[str]:
    found: list[str] = []
    for kind in _KINDS:
        with suppress(OSError):
            found += os.listdir(os.path.join(root, kind))
    return sorted(found)


def _belongs(root: str, name: str, directory: str) -> bool:
    """Whether a name is that of this directory, or of none yet."""
    return all(_owner(root, kind, name) in (None, directory) for kind in _KINDS)


def _owner(root: str, kind: str, name: str) -> str | None:
    """The directory whose name this is; None where nothing tells."""
    path = os.fsencode(os.path.join(root, kind, name, ".project_root"))
    data = read_limited(path, _MAX_PROJECTS)
    if data is None:
        return "" if os.path.lexists(path) else None
    return os.fsdecode(data).strip()


def _place(root: str, transcript: str, directory: str) -> str:
    return f"tmp/{_slug(root, directory)}/chats/{os.path.basename(transcript)}"


def _lists(root: str, transcript: str, directory: str) -> tuple[tuple[str, bytes], ...]:
    """The file by which Gemini knows whose chats these are."""
    return ((f"{os.path.dirname(os.path.dirname(transcript))}/.project_root", os.fsencode(directory)),)


AGENT = Agent(
    name="gemini",
    commands=("gemini",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        HookEvent("BeforeTool", "before_tool", timeout=10, matcher="run_shell_command", deadline=3.0),
        HookEvent("AfterTool", "tool", timeout=30, matcher="write_file|replace|run_shell_command|mcp_.*"),
        HookEvent("BeforeAgent", "prompt", timeout=10),
        HookEvent("AfterAgent", "turn_end", timeout=30),
        # It comes before every request to the model, and not only before the agent forgets.
        HookEvent("PreCompress", "tool", timeout=30),
        HookEvent("SessionEnd", "session_end", timeout=10),
    ),
    settings=HookSettings(
        _HOME,
        "settings.json",
        units_per_second=1000,
        entry_name="gitstate",
        project_notes=("gemini reads a project's settings only in a folder that you trust: start gemini there",),
    ),
    # What a hook prints must be JSON, or nothing. What it says at SessionStart is put before the user's first prompt,
    # and a resumed session drops every prompt that begins so. What it says at BeforeAgent is put behind the prompt.
    briefing=Briefing("BeforeAgent", format="json", once=True),
    sessions=Sessions(
        resume=("gemini", "{options}", "--resume", "{id}"),
        resume_with_prompt=("gemini", "{options}", "--resume", "{id}", "-p", "{prompt}"),
        start_with_prompt=("gemini", "{options}", "-p", "{prompt}"),
        flags=("-y", "--yolo", "--skip-trust", "-s", "--sandbox"),
        valued=("-m", "--model", "--approval-mode"),
        many=("--include-directories", "--allowed-tools", "-e", "--extensions"),
        headless=("-p", "--prompt"),
        # The name of a chat holds only the first part of the id: session-TIME-ID.json.
        transcripts=(Transcript(_HOME, "tmp/*/chats/*{id:.8}*"),),
        place=_place,
        lists=_lists,
    ),
    # It starts itself again as a child: a signal to the first process alone does not reach the one that works.
    stop=StopRule(everyone=True),
)
