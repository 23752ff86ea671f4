"""The command that continues an agent's own session, printed only where the session still exists.

A loop around a resume command with a stale id would start it again and again, because it ends at once. The values come
from agents: an id must look like one, and every word is quoted for a shell.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from ..format.context import Context
from .registry import agent_named

_SESSION_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
#: No more names of one directory, and no more names below a `**`, are compared with a pattern.
_MAX_NAMES = 20_000


def resume_command(context: Context, environ: Mapping[str, str]) -> str | None:
    """The shell command that continues the agent's session; None where there is no session, or it is gone.

    `environ` says where agents keep their sessions (`HOME`, and each agent's own variable).
    """
    agent = agent_named((context.agent or "").lower())
    session = context.session_id
    if agent is None or session is None or not _SESSION_ID.fullmatch(session):
        return None
    if not _is_file(context.extra.get("transcript_path")) and not any(
        path_exists(transcript.home.path(environ), transcript.pattern.format(id=session))
        for transcript in agent.sessions.transcripts
    ):
        return None
    directory = context.extra.get("agent_cwd")
    if not isinstance(directory, str) or not os.path.isdir(directory):
        directory = context.workspace_path or "."
    command = " ".join(word.format(id=session) for word in agent.sessions.resume)
    return f"cd {shlex.quote(directory)} && {command}"


def _is_file(path: object) -> bool:
    return isinstance(path, str) and "\0" not in path and os.path.isfile(path)


def path_exists(directory: str, pattern: str) -> bool:
    """Whether a path below `directory` matches `pattern`, which is relative and may hold `*` and `**`."""
    first, _, rest = pattern.partition("/")
    if not rest:
        return any(True for _ in _matching_names(directory, first))
    if first == "**":
        return _exists_at_any_depth(directory, rest)
    return any(path_exists(os.path.join(directory, name), rest) for name in _matching_names(directory, first))


def _exists_at_any_depth(directory: str, name_pattern: str) -> bool:
    compared = 0
    for _, _, names in os.walk(directory):
        if any(fnmatchcase(name, name_pattern) for name in names):
            return True
        compared += len(names)
        if compared > _MAX_NAMES:
            break
    return False


def _matching_names(directory: str, pattern: str) -> Iterator[str]:
    if "*" not in pattern:
        if os.path.exists(os.path.join(directory, pattern)):
            yield pattern
        return
    try:
        names = sorted(os.listdir(directory))[:_MAX_NAMES]
    except OSError:
        return
    yield from (name for name in names if fnmatchcase(name, pattern))
