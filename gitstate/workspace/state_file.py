"""`active_state.json` and the context file: where they are, and how they are written."""

from __future__ import annotations

import os

from ..errors import BadJson
from ..format.context import MAX_CONTEXT, SCHEMA_VERSION, Context
from ..format.manifest import Manifest
from ..git.oid import Oid
from ..git.repository import Repository
from ..system import files
from ..system.jsonio import Json, dumps, loads
from ..system.stdlib import TYPE_CHECKING
from . import settings

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_FILE = b"active_state.json"
_CONTEXT_FILE = b"context.json"
#: What a context's status may be: someone works on it; a save of it waits; it was brought back; its task is done.
ACTIVE, INTERRUPTED, RECOVERED, FINISHED = "active", "interrupted", "recovered", "finished"


def state_path(repository: Repository) -> bytes:
    """Where `active_state.json` goes: `gitstate.stateFile`, a path inside the workspace, or its root.

    Raises UsageError where the setting points outside the workspace or into `.git`.
    """
    return _unless_foreign(repository, settings.path(repository, "stateFile"))


def _unless_foreign(repository: Repository, path: bytes) -> bytes:
    """`path`, or where a file stands there that gitstate did not write, a place in the git dir: theirs is theirs."""
    if not os.path.lexists(path) or os.path.islink(path):
        return path
    data = files.read_limited(path, 4 * MAX_CONTEXT)
    try:
        ours = "task_id" in loads(data, 4 * MAX_CONTEXT, "the state file")
    except BadJson:
        # Cut short by whatever ended a writer that was not as careful.
        ours = data is not None and (not data or data.startswith(b"{"))
    return path if ours else os.path.join(repository.own, STATE_FILE)


def state_name(repository: Repository) -> bytes:
    """The state file relative to the workspace: never part of a save."""
    return os.path.relpath(state_path(repository), repository.toplevel)


def context_path(repository: Repository) -> bytes:
    """The file that holds the live context."""
    return os.path.join(repository.own, _CONTEXT_FILE)


def describe_save(manifest: Manifest, *, wip: Oid, archive: Oid) -> dict[str, Json]:
    """The `save` object of the state file."""
    return {
        "save_id": manifest.save_id,
        "wip_commit": wip,
        "base_commit": manifest.base,
        "archive": archive,
        "incomplete": manifest.incomplete,
        "left_out": [item.to_json() for item in manifest.left_out[:1000]],
    }


def write_state(
    repository: Repository,
    context: Context,
    status: str,
    *,
    reason: Mapping[str, Json] | None = None,
    save: Mapping[str, Json] | None = None,
    resume: str | None = None,
    briefing: str | None = None,
    durable: bool = True,
) -> bytes:
    """Write the live context and `active_state.json`, atomically and for the owner alone.

    Durably too, unless all of it stands in a save already.
    `status` is `active`, `interrupted`, `recovered` or `finished`. Returns the state file's path; raises OSError, and
    UsageError before anything is written if `gitstate.stateFile` can't be read.
    """
    path = state_path(repository)
    files.make_directory(repository.own, top=repository.git_dir)
    live = {**context.to_json(), "status": status}
    files.write_atomic(context_path(repository), dumps(live), durable=durable, staging=repository.own)
    fields = context.to_json()
    extra = fields.pop("extra")
    state = {
        "schema_version": SCHEMA_VERSION,
        **fields,
        "status": status,
        "reason": dict(reason) if reason is not None else None,
        "save": dict(save) if save is not None else None,
        "resume": resume,
        "briefing": briefing,
        "extra": extra,
    }
    if os.path.dirname(path) == repository.own:
        files.write_atomic(path, dumps(state), durable=durable, staging=repository.own)
        return path
    _exclude(repository, os.path.relpath(path, repository.toplevel))
    if not _leads_outside(repository.toplevel, path):
        files.make_directory(os.path.dirname(path), top=repository.toplevel)
        files.write_atomic(path, dumps(state), durable=durable, staging=repository.own)
    return path


def read_state(repository: Repository) -> dict[str, Json]:
    """What `active_state.json` holds; nothing where there is none to read."""
    try:
        return loads(files.read_limited(state_path(repository), 4 * MAX_CONTEXT), 4 * MAX_CONTEXT, "the state file")
    except BadJson:
        return {}


def _leads_outside(toplevel: bytes, path: bytes) -> bool:
    """Whether a directory on the way to `path` is a symlink: someone planted it."""
    planted = any(os.path.islink(parent) for parent in _parents(toplevel, path))
    return planted and os.path.realpath(os.path.dirname(path)) != os.path.realpath(toplevel)


def _parents(toplevel: bytes, path: bytes) -> list[bytes]:
    found = []
    path = os.path.dirname(path)
    while len(path) > len(toplevel):
        found.append(path)
        path = os.path.dirname(path)
    return found


def _exclude(repository: Repository, name: bytes) -> None:
    """Add the state file to `info/exclude`, which all worktrees share, unless it is there."""
    path = os.path.join(repository.common_dir, b"info", b"exclude")
    pattern = b"/" + b"".join(b"\\" + char if char in b"\\*?[ " else char for char in map(bytes, zip(name)))
    data = files.read_limited(path, 1 << 20)
    if data is None and os.path.lexists(path):
        return
    lines = (data or b"").split(b"\n")
    if pattern in lines:
        return
    if data and not data.endswith(b"\n"):
        data += b"\n"
    files.make_directory(os.path.dirname(path), top=repository.common_dir)
    files.write_atomic(path, (data or b"") + pattern + b"\n", mode=0o644, durable=False, staging=repository.own)
