"""`active_state.json` and the file of the live context: where they are, and how they are written and read."""

from __future__ import annotations

import os

from ..errors import BadJson
from ..format.context import MAX_CONTEXT, SCHEMA_VERSION, Context
from ..format.manifest import Manifest
from ..git.command import Oid
from ..git.repository import Repository
from ..system import files
from ..system.jsonio import Json, dumps, loads
from ..system.stdlib import TYPE_CHECKING
from . import settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Literal

    Status = Literal["active", "interrupted", "recovered", "finished"]

STATE_FILE = b"active_state.json"
CONTEXT_FILE = b"context.json"
#: The statuses of a context: an agent works on it; a save of it is pending; it was recovered; its task is done.
ACTIVE: Final = "active"
INTERRUPTED: Final = "interrupted"
RECOVERED: Final = "recovered"
FINISHED: Final = "finished"


def parse_status(value: object) -> Status | None:
    """A status from untrusted JSON; None for any other value."""
    return next((status for status in (ACTIVE, INTERRUPTED, RECOVERED, FINISHED) if status == value), None)


def state_path(repository: Repository) -> bytes:
    """The path of `active_state.json`: `gitstate.stateFile`, else at the top of the workspace.

    Raises UsageError where the setting names no path inside the workspace.
    """
    return _unless_foreign(repository, settings.path(repository, "stateFile"))


def _unless_foreign(repository: Repository, path: bytes) -> bytes:
    """`path`, or a path in the git directory where gitstate did not write the file at `path`: that is not replaced."""
    if not os.path.lexists(path) or os.path.islink(path):
        return path
    data = files.read_limited(path, 4 * MAX_CONTEXT)
    try:
        ours = "task_id" in loads(data, 4 * MAX_CONTEXT, "the state file")
    except BadJson:
        # A power cut may have left it empty or cut short.
        ours = data is not None and (not data or data.startswith(b"{"))
    return path if ours else os.path.join(repository.own, STATE_FILE)


def state_name(repository: Repository) -> bytes:
    """The state file's path relative to the workspace; it is in no save."""
    return os.path.relpath(state_path(repository), repository.toplevel)


def context_path(repository: Repository) -> bytes:
    """The file of the live context."""
    return os.path.join(repository.own, CONTEXT_FILE)


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
    status: Status,
    *,
    reason: Mapping[str, Json] | None = None,
    save: Mapping[str, Json] | None = None,
    resume: str | None = None,
    briefing: str | None = None,
    durable: bool = True,
    syncs_names: bool = True,
) -> bytes:
    """Write the live context and `active_state.json`, atomically, readable for the owner only.

    With `durable` they are synced; what a save holds already need not be. Without `syncs_names` the caller syncs the
    directories of both, `repository.own` and that of the file. The other arguments are the file's fields. Returns its
    path. Raises OSError, and UsageError before anything is written if `gitstate.stateFile` can't be read.
    """
    path = state_path(repository)
    files.make_directory(repository.own, top=repository.git_dir)
    live = {**context.to_json(), "status": status}

    def write(path: bytes, data: bytes) -> None:
        files.write_atomic(path, data, durable=durable, syncs_name=syncs_names, staging=repository.own)

    write(context_path(repository), dumps(live))
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
        write(path, dumps(state))
        return path
    _exclude(repository, os.path.relpath(path, repository.toplevel))
    if not _leads_outside(repository.toplevel, path):
        files.make_directory(os.path.dirname(path), top=repository.toplevel)
        write(path, dumps(state))
    return path


def read_state(repository: Repository) -> dict[str, Json]:
    """The content of `active_state.json`; empty where it can't be read."""
    try:
        return loads(files.read_limited(state_path(repository), 4 * MAX_CONTEXT), 4 * MAX_CONTEXT, "the state file")
    except BadJson:
        return {}


def _leads_outside(toplevel: bytes, path: bytes) -> bool:
    """Whether a symlink among the parents of `path` leads out of the workspace."""
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
    """Add the state file to `info/exclude`, which all worktrees share; idempotent."""
    path = os.path.join(repository.common_dir, b"info", b"exclude")
    pattern = b"/" + b"".join(b"\\" + char if char in b"\\*?[ " else char for char in map(bytes, zip(name)))
    data = files.read_limited(path, 1 << 20)
    above = os.path.dirname(path)
    if data is None and (os.path.lexists(path) or (os.path.lexists(above) and not os.path.isdir(above))):
        return
    lines = (data or b"").split(b"\n")
    if pattern in lines:
        return
    if data and not data.endswith(b"\n"):
        data += b"\n"
    files.make_directory(above, top=repository.common_dir)
    files.write_atomic(path, (data or b"") + pattern + b"\n", mode=0o644, durable=False, staging=repository.own)
