"""How the next run goes on: the agent's own resume command, where its session still exists, and a briefing in words.

A command is given only where the agent's transcript is on the disk: one with a stale id ends at once, and a loop
around it spins. Everything here came from agents: an id must look like one, and every word is quoted for a shell.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from ..format.context import Context

_SESSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
#: No more of an agent's session directories than this are looked into.
_LOOKED_AT = 20_000
_NAMED = 12


def resume_command(context: Context, environ: Mapping[str, str]) -> str | None:
    """The shell command that continues the agent's own session; None where there is none, or it is gone.

    `environ` says where agents keep their sessions (`HOME`, `CLAUDE_CONFIG_DIR`, `CODEX_HOME`, …).
    """
    known = _AGENTS.get((context.agent or "").lower())
    session = context.session_id
    if known is None or session is None or not _SESSION.fullmatch(session):
        return None
    command, places = known
    if not _exists(context.extra.get("transcript_path")) and not any(places(session, environ)):
        return None
    directory = context.extra.get("agent_cwd")
    if not isinstance(directory, str) or not os.path.isdir(directory):
        directory = context.workspace_path or "."
    return f"cd {shlex.quote(directory)} && {command} {session}"


def _exists(path: object) -> bool:
    return isinstance(path, str) and "\0" not in path and os.path.isfile(path)


def _home(environ: Mapping[str, str], variable: str, directory: str) -> str:
    return environ.get(variable) or os.path.join(environ.get("HOME") or os.path.expanduser("~"), directory)


def _claude(session: str, environ: Mapping[str, str]) -> Iterator[bool]:
    top = os.path.join(_home(environ, "CLAUDE_CONFIG_DIR", ".claude"), "projects")
    for project in _names(top):
        yield os.path.isfile(os.path.join(top, project, f"{session}.jsonl"))


def _codex(session: str, environ: Mapping[str, str]) -> Iterator[bool]:
    # sessions/YYYY/MM/DD/rollout-…-ID.jsonl
    yield _below(os.path.join(_home(environ, "CODEX_HOME", ".codex"), "sessions"), f"-{session}.jsonl")


def _gemini(session: str, environ: Mapping[str, str]) -> Iterator[bool]:
    # tmp/PROJECT/chats/session-…-ID.json; its name carries the first part of the id
    top = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".gemini", "tmp")
    for project in _names(top):
        for chat in _names(os.path.join(top, project, "chats")):
            yield session[:8] in chat


def _kimi(session: str, environ: Mapping[str, str]) -> Iterator[bool]:
    for variable, directory in (("KIMI_CODE_HOME", ".kimi-code"), ("KIMI_SHARE_DIR", ".kimi")):
        top = os.path.join(_home(environ, variable, directory), "sessions")
        for project in _names(top):
            yield project == session or os.path.exists(os.path.join(top, project, session))


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))[:_LOOKED_AT]
    except OSError:
        return []


def _below(top: str, ending: str) -> bool:
    looked = 0
    for _, _, names in os.walk(top):
        looked += len(names)
        if any(name.endswith(ending) for name in names):
            return True
        if looked > _LOOKED_AT:
            break
    return False


_AGENTS: Mapping[str, tuple[str, Callable[[str, Mapping[str, str]], Iterator[bool]]]] = {
    "claude": ("claude --resume", _claude),
    "codex": ("codex exec resume", _codex),
    "gemini": ("gemini --resume", _gemini),
    "kimi": ("kimi -S", _kimi),
}
