"""`active_state.json` and the live context: what the loop, a person or the next run reads.

The context while the agent works is kept twice: in the worktree's git dir, where `git clean` can't reach it, and as
`active_state.json` in the workspace, for everyone. The second is only ever a cache of the first and of the saves.
"""

from __future__ import annotations

import os

from ..errors import BadJson, UsageError
from ..format.context import (
    CALLER_FIELDS,
    CONTEXT_FIELDS,
    MAX_CONTEXT,
    MAX_VALUE,
    Context,
    context_from_json,
    with_values,
)
from ..format.names import branch_name
from ..git.repository import Repository, read_head
from ..system import files, process
from ..system.clock import is_before, now
from ..system.jsonio import loads, text_to_json
from ..system.stdlib import TYPE_CHECKING
from . import registry
from .settings import require
from .state_file import _CONTEXT_FILE, ACTIVE, FINISHED, read_state, state_path, write_state

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    except BadJson:
        return Context(), None
    status = value.get("status")
    return context_from_json(value), status if isinstance(status, str) else None


def owner_state(context: Context) -> str:
    """Who is known about the process that a context names as its owner.

    `lives`, `ours` (it lives, and this process descends from it), `gone` (of another boot, or ended), or `unknown`:
    no process was named since this boot began, or it is one of another host.
    """
    if context.host not in (None, process.hostname()):
        return "unknown"
    if context.boot_id is not None and process.boot_id() not in (None, context.boot_id):
        return "gone"
    if context.pid is None:
        began = process.boot_time_ns()
        if context.boot_id is None and context.timestamp is not None and began is not None:
            return "gone" if is_before(context.timestamp, began) else "unknown"
        return "unknown"
    if not process.is_running(context.pid, context.pid_start, context.boot_id):
        return "gone"
    return "ours" if context.pid in process.ancestors() else "lives"


def with_measured_fields(repository: Repository, context: Context, head_ref: str | None) -> Context:
    """`context` with what is known better than any caller can say: where, on which branch, when, on which host."""
    return context._replace(
        workspace_path=text_to_json(os.fsdecode(repository.toplevel)),
        branch_name=None if head_ref is None else text_to_json(branch_name(head_ref)),
        timestamp=now(),
        host=process.hostname(),
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
    if owner_state(context) not in ("lives", "ours"):
        # Whoever sets this lives, an earlier run's process does not; the boot tells after a reboot that all are gone.
        context = context._replace(pid=None, pid_start=None, boot_id=process.boot_id())
    context = with_measured_fields(repository, context, read_head(repository.git_dir))
    write_state(repository, context, ACTIVE)
    return context


def begin(
    repository: Repository, values: Mapping[str, str], owner_pid: int | None, *, before: Context = Context()
) -> Context:
    """Work begins: its context is `before` with `values`, in place of the one that was. `owner_pid` is who works.

    Raises UsageError as `set_values` does.
    """
    require(repository, "stateFile", "register")
    context = _set(repository, with_owner(before, owner_pid), values)
    registry.register(repository)
    return context


def with_owner(context: Context, pid: int | None) -> Context:
    """`context` with the process that owns the workspace while it lives."""
    start = None if pid is None else process.process_start(pid)
    return context._replace(pid=pid, pid_start=start, boot_id=process.boot_id())


def finish(repository: Repository) -> Context:
    """The task is done: its context stays to be read, nobody owns the workspace any more."""
    live, _ = read_live_context(repository)
    context = with_measured_fields(repository, live, read_head(repository.git_dir))._replace(pid=None, pid_start=None)
    write_state(repository, context, FINISHED)
    return context


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
