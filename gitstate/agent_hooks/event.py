"""An agent's event: JSON on stdin → what is used of it. Sizes and types are checked, every value is data."""

from __future__ import annotations

import os
import select
import stat
import time

from ..errors import BadJson
from ..orders.events import MAX_EVENT
from ..system.jsonio import Json, loads
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..agents.base import Agent, Payload

#: The event is ignored if the agent has not closed its end of stdin by then, in seconds.
_READ_TIMEOUT = 2.0
#: A longer text in an event counts as unknown, in characters.
_MAX_TEXT = 4096


class EventData(Record):
    """What is used of an agent's event. None stands for a value that is missing or not valid."""

    name: str
    session_id: str | None
    transcript_path: str | None
    directory: str | None
    """The agent's working directory: an absolute path that exists."""


def read_event(fd: int) -> dict[str, Json]:
    """The JSON object on a descriptor; an empty one if it is not valid, too large, or not complete in time."""
    parts: list[bytes] = []
    size = 0
    end = time.monotonic() + _READ_TIMEOUT
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return {}
        data = os.read(fd, 1 << 16)
        if not data:
            break
        size += len(data)
        if size <= MAX_EVENT:
            parts.append(data)
        elif time.monotonic() > end:
            # Whoever writes without an end would never be read to it.
            return {}
    return event_of(b"".join(parts)) if size <= MAX_EVENT else {}


def event_of(text: bytes) -> dict[str, Json]:
    """The JSON object of an event; an empty one if it is not valid."""
    try:
        return loads(text, MAX_EVENT, "the event")
    except BadJson:
        return {}


def parse_event(value: Mapping[str, Json], keys: Payload) -> EventData:
    """What is used of an event; a value of the wrong type, size or form counts as unknown."""

    def text(key: str) -> str | None:
        found = value.get(key)
        return found if isinstance(found, str) and 0 < len(found) <= _MAX_TEXT and "\0" not in found else None

    def absolute_path(key: str) -> str | None:
        several = value.get(key)
        # Some agents name all directories of their work, the first one first.
        found = several[0] if isinstance(several, list) and several else text(key)
        if not isinstance(found, str) or not 0 < len(found) <= _MAX_TEXT or "\0" in found:
            return None
        return found if found is not None and found.startswith("/") else None

    directory = absolute_path(keys.directory)
    try:
        exists = directory is not None and os.path.isdir(directory)
    except (OSError, ValueError):
        exists = False
    return EventData(
        text(keys.event) or "",
        text(keys.session_id),
        absolute_path(keys.transcript_path),
        directory if exists else None,
    )


def destroying_command(value: Mapping[str, Json], directory: str) -> str | None:
    """The shell command that an event announces, if it destroys files; else None. It runs in this directory."""
    from .destroying import checked_out, destroys, emptied

    told = value.get("tool_input")
    command = None if not isinstance(told, dict) else told.get("command", told.get("cmd"))
    if isinstance(command, list):
        # The words of an argv; of `bash -lc TEXT` the text counts.
        command = " ; ".join(word for word in command if isinstance(word, str))
    if not isinstance(command, str):
        return None
    if destroys(command) or any(_has_content(os.path.join(directory, path)) for path in emptied(command)):
        return command
    return command if any(_exists(os.path.join(directory, path)) for path in checked_out(command)) else None


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _has_content(path: str) -> bool:
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(info.st_mode) and info.st_size > 0


def removed_worktree(value: Mapping[str, Json]) -> str | None:
    """The worktree that an event announces the end of; None where it names none."""
    path = value.get("worktree_path")
    is_path = isinstance(path, str) and 0 < len(path) <= _MAX_TEXT and path.startswith("/") and "\0" not in path
    return path if is_path and isinstance(path, str) and os.path.isdir(path) else None


def project_directory(agent: Agent) -> str | None:
    """Where the session of this hook began, as its agent tells; None where it does not."""
    path = os.environ.get(agent.project_variable) if agent.project_variable else None
    return path if path and path.startswith("/") and len(path) <= _MAX_TEXT and os.path.isdir(path) else None


def context_values(agent: Agent, data: EventData) -> dict[str, str]:
    """What an event tells of the context, as `save` takes it. A session is continued where it began."""
    found = {
        "agent": agent.name,
        "session_id": data.session_id,
        "transcript_path": data.transcript_path,
        "agent_cwd": project_directory(agent) or data.directory,
        "progress_stage": os.environ.get("GITSTATE_PROGRESS_STAGE"),
    }
    return {name: value for name, value in found.items() if value}
