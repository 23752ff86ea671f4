"""The live context: what the agent in a workspace is doing now, and who owns the workspace.

It is kept twice: in the worktree's git directory, where `git clean` does not remove it, and as `active_state.json` in
the workspace, a cache for everyone else.
"""

from __future__ import annotations

import os

from ..errors import BadJson, GitstateError, TryAgain, UsageError
from ..format.context import (
    CALLER_FIELDS,
    CONTEXT_FIELDS,
    MAX_CONTEXT,
    SCHEMA_VERSION,
    Context,
    context_from_json,
    with_values,
)
from ..format.manifest import Manifest
from ..format.names import branch_name, checkpoint_ref, workspace_id
from ..git import refs
from ..git.command import Oid, is_oid
from ..git.repository import Repository, read_head
from ..system import files, process
from ..system.clock import is_before, now
from ..system.jsonio import Json, dumps, loads, text_to_json
from ..system.stdlib import TYPE_CHECKING, suppress
from . import settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Literal

    from .lease import Presence

    Status = Literal["active", "interrupted", "recovered", "finished"]
    OwnerState = Literal["lives", "ours", "gone", "unknown"]
    Turn = Literal["open", "closed", "failed"]

STATE_FILE = b"active_state.json"
CONTEXT_FILE = b"context.json"
#: Beside it: the archive of the checkpoint that was the latest when a task was marked as done.
_DONE = b"finished-checkpoint"
#: The statuses of a context: an agent works on it; a save of it is pending; it was recovered; its task is done.
ACTIVE: Final = "active"
INTERRUPTED: Final = "interrupted"
RECOVERED: Final = "recovered"
FINISHED: Final = "finished"
#: In the file of an interrupted context: the archive of the pending save, for where its refs are lost.
_ARCHIVE = "archive"


def read_live_context(repository: Repository) -> tuple[Context, Status | None]:
    """The live context of a workspace and its status; an empty one and None where it can't be read."""
    return read_context(repository.git_dir)


def read_context(git_dir: bytes) -> tuple[Context, Status | None]:
    """The same by the worktree's own git directory."""
    data = files.read_limited(os.path.join(git_dir, b"gitstate", CONTEXT_FILE), MAX_CONTEXT)
    if data is None:
        return Context(), None
    return _context_of(data)


def read_state_context(repository: Repository) -> tuple[Context, Status | None]:
    """The same from `active_state.json`, for the case that the one in the git directory is lost."""
    return _context_of(files.read_limited(state_path(repository), 4 * MAX_CONTEXT))


def _context_of(data: bytes | None) -> tuple[Context, Status | None]:
    try:
        value = loads(data, 4 * MAX_CONTEXT, "the context")
    except BadJson:
        return Context(), None
    return context_from_json(value), parse_status(value.get("status"))


def pending_in_context(git_dir: bytes) -> Oid | None:
    """The archive of the save that is pending by the live context; None where none is, or it can't be read."""
    value = _stored(git_dir)
    archive = value.get(_ARCHIVE)
    return archive if value.get("status") == INTERRUPTED and isinstance(archive, str) and is_oid(archive) else None


def forget_pending(git_dir: bytes) -> None:
    """Let the live context name no archive: its save is resolved. Raises OSError."""
    value = _stored(git_dir)
    if value.pop(_ARCHIVE, None) is not None:
        own = os.path.join(git_dir, b"gitstate")
        files.write_atomic(os.path.join(own, CONTEXT_FILE), dumps(value), staging=own)


def _stored(git_dir: bytes) -> dict[str, Json]:
    """What the file of the live context holds; nothing where it can't be read."""
    data = files.read_limited(os.path.join(git_dir, b"gitstate", CONTEXT_FILE), MAX_CONTEXT)
    try:
        return {} if data is None else loads(data, MAX_CONTEXT, "the context")
    except BadJson:
        return {}


def owner_state(git_dir: bytes, context: Context) -> OwnerState:
    """What is known about the process that works in the workspace, or worked last, by its git directory.

    `lives`, `ours` (it lives, and this process belongs to it), `gone`, or `unknown`: nobody was named since this boot
    began, or it is one of another host or container.
    """
    from .lease import presence_in

    who = presence_in(git_dir, context)
    if who.live:
        return "ours" if who.ours else "lives"
    if who.state != "nobody":
        return "gone" if who.state == "gone" else "unknown"
    if context.host not in (None, process.hostname()):
        return "unknown"
    if context.boot_id is not None and process.boot_id() not in (None, context.boot_id):
        return "gone"
    began = process.boot_time_ns()
    if context.boot_id is None and context.timestamp is not None and began is not None:
        return "gone" if is_before(context.timestamp, began) else "unknown"
    return "unknown"


def with_measured_fields(repository: Repository, context: Context, head_ref: str | None) -> Context:
    """`context` with its measured fields: path, branch, time and host."""
    return context._replace(
        workspace_path=text_to_json(os.fsdecode(repository.toplevel)),
        branch_name=None if head_ref is None else text_to_json(branch_name(head_ref)),
        timestamp=now(),
        host=process.hostname(),
    )


def set_values(repository: Repository, values: Mapping[str, str]) -> Context:
    """Change fields of the live context; an empty text means unknown.

    Raises UsageError for a measured field. A value that is too long is cut, with a word on stderr.
    """
    live, status = read_live_context(repository)
    return _set(repository, Context() if status == FINISHED else live, values, begins=status != ACTIVE)


def _set(repository: Repository, before: Context, values: Mapping[str, str], *, begins: bool) -> Context:
    fixed = [name for name in values if name in CONTEXT_FIELDS and name not in CALLER_FIELDS]
    if fixed:
        raise UsageError(f"{fixed[0]} is measured, not set", hint=f"gitstate set {' '.join(CALLER_FIELDS)} …")
    context, too_long = with_values(before, values)
    if too_long:
        from ..system.terminal import say

        say(*(f"gitstate: {name[:64]} is longer than a value of the context may be; it was cut" for name in too_long))
    from .lease import clear_holder, presence_in

    if not presence_in(repository.git_dir, context).live:
        if begins:
            # Else the end of the run before would be the end of this task.
            clear_holder(repository)
        # The recorded process is gone, the one that sets this is not. After a reboot the boot id tells that it is, too.
        context = context._replace(pid=None, pid_start=None, boot_id=process.boot_id())
    context = with_measured_fields(repository, context, read_head(repository.git_dir))
    write_state(repository, context, ACTIVE)
    return context


def begin(
    repository: Repository, values: Mapping[str, str], owner_pid: int | None, *, before: Context = Context()
) -> Context:
    """Start a task: `before` with `values` replaces the live context, and the process `owner_pid` owns the workspace.

    The workspace is added to the list of workspaces. Raises TryAgain where somebody else works here, UsageError as
    `set_values` does.
    """
    settings.require(repository, "stateFile", "register")
    refuse_while_others_work(repository, owner_pid)
    context = _set(repository, with_owner(before, owner_pid), values, begins=True)
    from . import registry

    registry.register(repository)
    return context


def refuse_while_others_work(repository: Repository, owner_pid: int | None = None) -> Presence:
    """Who works here: nobody, this process, or `owner_pid`. Raises TryAgain where others do, or may."""
    from . import lease

    context, status = read_live_context(repository)
    who = lease.presence_in(repository.git_dir, context if status == ACTIVE else None)
    mine = who.ours or (who.holder is not None and who.holder.owner.pid == owner_pid)
    if who.live and not mine:
        raise TryAgain(
            f"another run works in this workspace ({lease.describe(who.holder)}); nothing was changed",
            hint=lease.way_to_end(who.holder),
        )
    if who.state == "unknown" and status == ACTIVE:
        raise TryAgain(
            f"cannot determine whether the last run has ended: {who.why}",
            hint="gitstate recover (where you know that it has ended)",
        )
    return who._replace(ours=mine)


def with_owner(context: Context, pid: int | None) -> Context:
    """`context` with the process that owns the workspace; None for nobody."""
    start = None if pid is None else process.process_start(pid)
    return context._replace(pid=pid, pid_start=start, boot_id=process.boot_id())


def finish(repository: Repository) -> Context:
    """Mark the task as done: nobody owns the workspace any more. Returns its context, which stays."""
    live, _ = read_live_context(repository)
    context = with_measured_fields(repository, live, read_head(repository.git_dir))._replace(pid=None, pid_start=None)
    write_state(repository, context, FINISHED)
    with suppress(OSError, GitstateError):
        checkpoint = refs.read_refs(repository, [checkpoint_ref(workspace_id(repository))])
        done = "".join(checkpoint.values()).encode("ascii")
        files.write_atomic(os.path.join(repository.own, _DONE), done, staging=repository.own, durable=False)
    return context


def is_of_finished_task(repository: Repository, checkpoint: Oid) -> bool:
    """Whether a checkpoint was the latest when a task was marked as done: it holds nothing of the next one."""
    return files.read_limited(os.path.join(repository.own, _DONE), 1024) == checkpoint.encode("ascii")


def replace_context(repository: Repository, context: Context, status: Status) -> None:
    """Replace the context and its status; the other fields of the state file stay. Not durable. Raises OSError."""
    state = read_state(repository)
    reason, save, resume, briefing = (state.get(name) for name in ("reason", "save", "resume", "briefing"))
    write_state(
        repository,
        context,
        status,
        reason=reason if isinstance(reason, dict) else None,
        save=save if isinstance(save, dict) else None,
        resume=resume if isinstance(resume, str) else None,
        briefing=briefing if isinstance(briefing, str) else None,
        durable=False,
    )


# -- the two files


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
    if status == INTERRUPTED and save is not None:
        live[_ARCHIVE] = save.get("archive")

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


# -- the agent's turn, as its hooks tell it: status 0 is no end of the work while it is open

_TURN_FILE = b"turn"


def write_turn(repository: Repository, turn: Turn) -> None:
    """A hook says so. A write that fails is ignored: then the exit status alone decides."""
    path = os.path.join(repository.own, _TURN_FILE)
    with suppress(OSError):
        if turn != read_turn(repository, 0.0):
            files.make_directory(repository.own, top=repository.git_dir)
            files.write_atomic(path, turn.encode("ascii"), staging=repository.own, durable=False)


def read_turn(repository: Repository, since: float) -> str | None:
    """What the last hook said since a time, in seconds since the epoch; None where none said anything."""
    path = os.path.join(repository.own, _TURN_FILE)
    with suppress(OSError):
        if os.stat(path).st_mtime >= since:
            data = files.read_limited(path, 64)
            return None if data is None else data.decode("ascii", "replace")
    return None


def forget_turn(repository: Repository) -> None:
    """A run begins: what an earlier one said does not count."""
    with suppress(OSError):
        files.remove(os.path.join(repository.own, _TURN_FILE))
