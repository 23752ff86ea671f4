"""The command that continues an agent's own session, printed only where the session still exists.

A loop around a resume command with a stale id would start it again and again, because it ends at once. The values come
from agents: an id must look like one, and every word is quoted for a shell.
"""

from __future__ import annotations

import os

from ..format.context import Context
from ..system.stdlib import TYPE_CHECKING, quote
from .registry import agent_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LONGEST_ID = 128
#: No more names of one directory, and no more names below a `**`, are compared with a pattern.
_MAX_NAMES = 20_000


def resume_command(context: Context, environ: Mapping[str, str]) -> str | None:
    """The shell command that continues the agent's session; None where there is no session, or it is gone.

    `environ` says where agents keep their sessions (`HOME`, and each agent's own variable).
    """
    agent = agent_named((context.agent or "").lower())
    session = context.session_id
    if agent is None or session is None or not _is_session_id(session):
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
    return f"cd {quote(directory)} && {command}"


def _is_session_id(text: str) -> bool:
    """Whether a text is made of ASCII letters and digits, and inside of `_` and `-`: no option, no path."""
    plain = text.replace("_", "a").replace("-", "a")
    return text.isascii() and text[:1].isalnum() and plain.isalnum() and len(text) <= _LONGEST_ID


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
    from fnmatch import fnmatchcase

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
    from fnmatch import fnmatchcase

    yield from (name for name in names if fnmatchcase(name, pattern))
