"""Why an agent's turn failed, as its hook was told: a loop reads it, and waits out a usage limit."""

from __future__ import annotations

import os

from ..errors import BadJson
from ..format.context import MAX_CONTEXT
from ..git.repository import Repository
from ..system import files
from ..system.jsonio import dumps, loads

_STOP_FILE = b"agent-stop.json"
_MOST_TEXT = 4096


def write_stop(repository: Repository, text: str) -> None:
    """An agent's hook says why a turn failed. It is only a hint: a write that fails is ignored."""
    try:
        path = os.path.join(repository.own, _STOP_FILE)
        files.write_atomic(path, dumps({"text": text[:_MOST_TEXT]}), staging=repository.own, durable=False)
    except OSError:
        return


def last_stop(repository: Repository, since: float) -> str:
    """What a hook said so since a time, in seconds since the epoch; an empty text where none did."""
    path = os.path.join(repository.own, _STOP_FILE)
    try:
        if os.stat(path).st_mtime < since:
            return ""
        text = loads(files.read_limited(path, MAX_CONTEXT), MAX_CONTEXT, "the failure")["text"]
    except (OSError, BadJson, KeyError):
        return ""
    return f"\n{text}" if isinstance(text, str) else ""
