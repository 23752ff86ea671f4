"""`active_state.json` and the live context: what the loop, a person or the next run reads.

The context while the agent works is kept twice: in the worktree's git dir, where `git clean` can't reach it, and as
`active_state.json` in the workspace, for everyone. The second is only ever a cache of the first and of the saves.
"""

from __future__ import annotations

import os
import time

from . import files, registry
from .errors import CorruptSave, UsageError
from .git import Oid, Repository, read_head
from .json_data import Json, dumps, loads
from .light import TYPE_CHECKING
from .model import (
    CALLER_FIELDS,
    CONTEXT_FIELDS,
    MAX_CONTEXT,
    MAX_VALUE,
    SCHEMA_VERSION,
    Context,
    Manifest,
    context_from_json,
    is_safe_path,
    text_to_json,
    with_values,
)
from .refs import branch_name

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_FILE = b"active_state.json"
_CONTEXT_FILE = b"context.json"
_TIME = frozenset("0123456789T:.-")
#: What a context's status may be: someone works on it; a save of it waits; it was brought back; its task is done.
ACTIVE, INTERRUPTED, RECOVERED, FINISHED = "active", "interrupted", "recovered", "finished"


def now() -> str:
    """The time in UTC with microseconds, as a context and a manifest carry it."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def state_path(repository: Repository) -> bytes:
    """Where `active_state.json` goes: `gitstate.stateFile`, a path inside the workspace, or its root.

    Raises UsageError where the setting points outside the workspace or into `.git`.
    """
    setting = os.environ.get("GITSTATE_STATE_FILE") or repository.setting("gitstate.statefile")
    if setting is None:
        return _unless_foreign(repository, os.path.join(repository.toplevel, STATE_FILE))
    path = os.path.normpath(os.path.join(repository.toplevel, os.fsencode(setting)))
    inside = os.path.relpath(path, repository.toplevel)
    if not is_safe_path(inside):
        raise UsageError(
            f"gitstate.stateFile must be a path inside the workspace, not {text_to_json(setting)}",
            hint="git config gitstate.stateFile active_state.json",
        )
    return _unless_foreign(repository, path)


def _unless_foreign(repository: Repository, path: bytes) -> bytes:
    """`path`, or where a file stands there that gitstate did not write, a place in the git dir: theirs is theirs."""
    if not os.path.lexists(path) or os.path.islink(path):
        return path
    data = files.read_limited(path, 4 * MAX_CONTEXT)
    try:
        ours = "task_id" in loads(data, 4 * MAX_CONTEXT, "the state file")
    except CorruptSave:
        # Cut short by whatever ended a writer that was not as careful.
        ours = data is not None and (not data or data.startswith(b"{"))
    return path if ours else os.path.join(repository.own, STATE_FILE)


def state_name(repository: Repository) -> bytes:
    """The state file relative to the workspace: never part of a save."""
    return os.path.relpath(state_path(repository), repository.toplevel)


def context_path(repository: Repository) -> bytes:
    """The file that holds the live context."""
    return os.path.join(repository.own, _CONTEXT_FILE)


def read_live_context(repository: Repository) -> tuple[Context, str | None]:
    """The context that was set in this workspace, and its status; an empty one where there is none to read."""
    return read_context(repository.git_dir)


def read_context(git_dir: bytes) -> tuple[Context, str | None]:
    """The same by the worktree's git directory."""
    data = files.read_limited(os.path.join(git_dir, b"gitstate", _CONTEXT_FILE), MAX_CONTEXT)
    if data is None:
        return Context(), None
    return _context_of(data)


def read_state_context(repository: Repository) -> tuple[Context, str | None]:
    """The context as `active_state.json` has it, for when the one in the git directory is lost."""
    return _context_of(files.read_limited(state_path(repository), 4 * MAX_CONTEXT))


def _context_of(data: bytes | None) -> tuple[Context, str | None]:
    try:
        value = loads(data, 4 * MAX_CONTEXT, "the context")
    except CorruptSave:
        return Context(), None
    status = value.get("status")
    return context_from_json(value), status if isinstance(status, str) else None


def owner_of(context: Context) -> str:
    """Who is known about the process that a context names as its owner.

    `lives`, `ours` (it lives, and this process descends from it), `gone` (of another boot, or ended), or `unknown`:
    no process was named since this boot began, or it is one of another host.
    """
    if context.host not in (None, files.hostname()):
        return "unknown"
    if context.boot_id is not None and files.boot_id() not in (None, context.boot_id):
        return "gone"
    if context.pid is None:
        return "gone" if context.boot_id is None and _before_boot(context.timestamp) else "unknown"
    if not files.is_running(context.pid, context.pid_start, context.boot_id):
        return "gone"
    return "ours" if context.pid in files.ancestors() else "lives"


def _before_boot(timestamp: str | None) -> bool:
    """Whether a context's time lies before this boot. Both are texts of UTC: they sort as the times do."""
    if timestamp is None or not 20 <= len(timestamp) <= 41 or timestamp[-1] != "Z":
        return False
    boot = files.boot_time_ns()
    if boot is None or not _TIME.issuperset(timestamp[:-1]):
        return False
    return timestamp < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(boot // 1_000_000_000))


def measured(repository: Repository, context: Context, head_ref: str | None) -> Context:
    """`context` with what is known better than any caller can say: where, on which branch, when, on which host."""
    return context._replace(
        workspace_path=text_to_json(os.fsdecode(repository.toplevel)),
        branch_name=None if head_ref is None else text_to_json(branch_name(head_ref)),
        timestamp=now(),
        host=files.hostname(),
    )


def set_values(repository: Repository, values: Mapping[str, str]) -> Context:
    """Change the live context; an empty text means unknown. Raises UsageError for a measured field or a long value."""
    live, status = read_live_context(repository)
    return _set(repository, Context() if status == FINISHED else live, values)


def _set(repository: Repository, before: Context, values: Mapping[str, str]) -> Context:
    fixed = [name for name in values if name in CONTEXT_FIELDS and name not in CALLER_FIELDS]
    if fixed:
        raise UsageError(f"{fixed[0]} is measured, not set", hint=f"gitstate set {' '.join(CALLER_FIELDS)} …")
    context, too_long = with_values(before, values)
    if too_long:
        raise UsageError(f"{too_long[0]} is longer than {MAX_VALUE} characters")
    if owner_of(context) not in ("lives", "ours"):
        # Whoever sets this lives, an earlier run's process does not; the boot tells after a reboot that all are gone.
        context = context._replace(pid=None, pid_start=None, boot_id=files.boot_id())
    context = measured(repository, context, read_head(repository.git_dir))
    write_state(repository, context, ACTIVE)
    return context


def begin(
    repository: Repository, values: Mapping[str, str], owner_pid: int | None, *, before: Context = Context()
) -> Context:
    """Work begins: its context is `before` with `values`, in place of the one that was. `owner_pid` is who works.

    Raises UsageError as `set_values` does.
    """
    context = _set(repository, owned_by(before, owner_pid), values)
    registry.register(repository)
    return context


def owned_by(context: Context, pid: int | None) -> Context:
    """`context` with the process that owns the workspace while it lives."""
    start = None if pid is None else files.process_start(pid)
    return context._replace(pid=pid, pid_start=start, boot_id=files.boot_id())


def finish(repository: Repository) -> Context:
    """The task is done: its context stays to be read, nobody owns the workspace any more."""
    live, _ = read_live_context(repository)
    context = measured(repository, live, read_head(repository.git_dir))._replace(pid=None, pid_start=None)
    write_state(repository, context, FINISHED)
    return context


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
    `status` is `active`, `interrupted`, `recovered` or `finished`. Returns the state file's path; raises OSError.
    """
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
    path = state_path(repository)
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
    except CorruptSave:
        return {}


def replace_context(repository: Repository, context: Context, status: str) -> None:
    """Write another context, not durably, and leave all else that the state file says as it is. Raises OSError."""
    state = read_state(repository)
    reason, save, resume, told = (state.get(name) for name in ("reason", "save", "resume", "briefing"))
    write_state(
        repository,
        context,
        status,
        reason=reason if isinstance(reason, dict) else None,
        save=save if isinstance(save, dict) else None,
        resume=resume if isinstance(resume, str) else None,
        briefing=told if isinstance(told, str) else None,
        durable=False,
    )


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
