"""The PATH that an agent had: a scheduler has a bare one, on which neither the agent nor its interpreter is.

It stands in gitstate's own directory of the workspace alone, and no save holds it.
"""

from __future__ import annotations

import os

from ..system import files
from ..system.stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILE = b"agent-path"
_MOST = 1 << 16


def write_search_path(own: bytes, path: str) -> None:
    """Keep the PATH of an agent that begins to work (no-op if it is there). A write that fails is ignored."""
    with suppress(OSError):
        if path and path != read_search_path(own):
            files.make_directory(own, top=os.path.dirname(own))
            files.write_atomic(os.path.join(own, _FILE), os.fsencode(path), staging=own, durable=False)


def read_search_path(own: bytes) -> str:
    """The PATH that was kept; an empty text where none was."""
    data = files.read_limited(os.path.join(own, _FILE), _MOST)
    return "" if data is None or b"\0" in data else os.fsdecode(data)


def with_search_path(own: bytes, environ: Mapping[str, str]) -> str:
    """The PATH of an environment, and behind it the directories of the kept one that it lacks."""
    here = environ.get("PATH", "")
    kept = [entry for entry in read_search_path(own).split(":") if entry.startswith("/")]
    return ":".join(dict.fromkeys([*(here.split(":") if here else []), *kept]))
