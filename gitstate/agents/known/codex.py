"""Codex, which runs a hook only after its user has trusted it."""

from __future__ import annotations

import os

from ...system.files import read_limited
from ...system.stdlib import TYPE_CHECKING, signal
from ..base import Agent, Briefing, Home, HookEvent, HookPosition, HookSettings, Sessions, StopRule, Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

_HOME = Home(".codex", "CODEX_HOME")
#: No more of config.toml is read, in bytes.
_MAX_CONFIG = 4 << 20


def untrusted_events(path: bytes, positions: Sequence[HookPosition]) -> list[str]:
    """The events of the entries at `positions` in the file `path` that the user did not trust, or has disabled.

    config.toml in the same directory holds a table `[hooks.state."FILE:EVENT:GROUP:NUMBER"]` for each reviewed hook,
    with its `trusted_hash`. Whether that hash still fits is not checked here.
    """
    import tomllib

    config = read_limited(os.path.join(os.path.dirname(path), b"config.toml"), _MAX_CONFIG)
    try:
        state = tomllib.loads((config or b"").decode("utf-8"))["hooks"]["state"]
        trusted = {
            _with_real_path(key)
            for key, value in state.items()
            if value.get("trusted_hash") and value.get("enabled", True)
        }
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        trusted = set()
    return [position.event for position in positions if _trust_key(path, position) not in trusted]


def _trust_key(path: bytes, position: HookPosition) -> str:
    import re

    event = re.sub(r"(?<!^)(?=[A-Z])", "_", position.event).lower()
    return f"{os.fsdecode(path)}:{event}:{position.group}:{position.number}"


def _with_real_path(key: str) -> str:
    file, *rest = key.rsplit(":", 3)
    return ":".join((os.path.realpath(file) if "\0" not in file else file, *rest))


#: The commands of codex that do not open its terminal interface.
_OTHERS = frozenset(
    (
        *("exec", "e", "review", "login", "logout", "mcp", "plugin", "mcp-server"),
        *("app-server", "remote-control", "app", "completion", "update", "doctor", "sandbox", "debug"),
        *("apply", "a", "archive", "delete", "unarchive", "cloud", "exec-server", "features"),
        "help",
    )
)


def _without_daemon(argv: Sequence[str]) -> str | None:
    """The terminal interface is a client of one daemon of the user: its work would go on when the run ends."""
    words = list(argv[1:])
    if "--no-daemon" in words or any(word in _OTHERS for word in words[:1]) or {"-h", "--help", "-V"} & {*words}:
        return None
    skipped = False
    for word in words:
        if not word.startswith("-") and not skipped:
            return None if word in _OTHERS else "--no-daemon"
        skipped = word in AGENT.sessions.valued
    return "--no-daemon"


AGENT = Agent(
    name="codex",
    commands=("codex",),
    events=(
        HookEvent("SessionStart", "session_start", timeout=10),
        HookEvent("PreToolUse", "before_tool", timeout=10, deadline=3.0),
        HookEvent("PostToolUse", "tool", timeout=30),
        HookEvent("PostToolUseFailure", "tool"),
        HookEvent("UserPromptSubmit", "prompt", timeout=10),
        HookEvent("SubagentStop", "tool", timeout=30),
        HookEvent("PreCompact", "compaction", timeout=30),
        HookEvent("Stop", "turn_end", timeout=30),
        # Both are ended after 3 s, whatever timeout is set.
        HookEvent("SessionEnd", "session_end", timeout=3, deadline=2.0),
        HookEvent("Interrupt", "turn_end", timeout=3, deadline=2.0),
    ),
    # Trust goes by the hash of an entry, so the command must never change.
    settings=HookSettings(
        _HOME,
        "hooks.json",
        notes=(
            "codex runs a hook only once you trust it: start codex, then /hooks",
            "until then `codex exec` passes it over without a word; `gitstate doctor` tells",
        ),
        untrusted=untrusted_events,
    ),
    briefing=Briefing("SessionStart", format="json"),
    sessions=Sessions(
        resume=("codex", "resume", "{options}", "{id}"),
        # It fails without a prompt.
        resume_with_prompt=("codex", "exec", "{options}", "resume", "{id}", "{prompt}"),
        start_with_prompt=("codex", "exec", "{options}", "{prompt}"),
        # Those that `codex exec` and `codex resume` share.
        flags=("--dangerously-bypass-approvals-and-sandbox", "--approve-for-me", "--oss", "--strict-config"),
        valued=(
            *("-m", "--model", "-s", "--sandbox", "-c", "--config", "-p", "--profile"),
            *("--add-dir", "--enable", "--disable", "--local-provider"),
        ),
        headless=("exec", "e"),
        # sessions/YYYY/MM/DD/rollout-TIME-ID.jsonl
        transcripts=(Transcript(_HOME, "sessions/**/*-{id}.jsonl"),),
    ),
    supervised=_without_daemon,
    # It ends cleanly on SIGINT alone.
    stop=StopRule(signal.SIGINT),
    shared_with=("app-server",),
    outlives_runs=("--managed-daemon",),
)
