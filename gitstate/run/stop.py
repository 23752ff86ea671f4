"""`gitstate stop`: end what works in a workspace, and have its work saved: SIGTERM, the save, then SIGKILL."""

from __future__ import annotations

import signal
from typing import NamedTuple

from ..errors import EXIT_PERSON
from ..format.manifest import Reason
from ..format.saves import pending_save_id
from ..git.repository import Repository, open_repository
from ..save.request import SaveRequest
from ..save.save import save
from ..system import process
from ..system.clock import Deadline
from ..system.process import Process, is_alive, send, wait_for
from ..workspace.live_context import read_live_context
from ..workspace.ownership import read_run_record
from ..workspace.state_file import ACTIVE
from .processes import kill_all, of_run

#: What a keeper may need to save after the last process of its run is gone, in seconds.
_SAVING = 30.0


class StopResult(NamedTuple):
    """What happened: `stopped`, or `idle` if nothing worked there. `killed`: SIGTERM was not enough."""

    workspace: bytes
    result: str
    killed: bool = False
    save_id: str | None = None
    message: str = ""
    exit_status: int = 0


class _Running(NamedTuple):
    """Who works in a workspace: the owner that the context names, and the run that is under way."""

    owner: Process | None
    run_id: str | None
    keeper: Process | None


def stop(path: bytes, wait: float) -> StopResult:
    """End the owner of the workspace that `path` is in, and whatever is left of its run after `wait` seconds.

    Raises NotAWorkspace, GitError, OSError.
    """
    repository = open_repository(path)
    running = _running(repository)
    before = pending_save_id(repository)
    members = [] if running.run_id is None else of_run(running.run_id)
    if running.owner is None and not members:
        return StopResult(repository.toplevel, "idle", message="nothing runs here")
    told = [running.owner] if running.owner is not None else members
    for one in told:
        send(one, signal.SIGTERM)
        send(one, signal.SIGCONT)
    ended = wait_for(told, Deadline(wait))
    if not ended:
        for one in told:
            send(one, signal.SIGKILL)
        wait_for(told, Deadline(5.0))
    if running.keeper is not None:
        # It ends what is left, saves, and exits.
        wait_for([running.keeper], Deadline(_SAVING))
    if running.run_id is not None:
        kill_all(running.run_id)
    return _saved(repository, before, killed=not ended)


def _saved(repository: Repository, before: str | None, *, killed: bool) -> StopResult:
    save_id = pending_save_id(repository)
    message = ""
    _, status = read_live_context(repository)
    if save_id == before and status == ACTIVE:
        # It died without a save: save from this process what it left on the disk.
        reason = Reason("KILL" if killed else "TERM", None, "gitstate stop")
        result = save(repository.toplevel, SaveRequest(reason=reason))
        save_id = result.save_id
        message = "; ".join(result.warnings)
        if result.lost:
            message = "not all of it could be saved: gitstate log"
            return StopResult(repository.toplevel, "stopped", killed, save_id, message, EXIT_PERSON)
    message = message or ("" if save_id is not None else "it had finished; nothing waits to be recovered")
    return StopResult(repository.toplevel, "stopped", killed, save_id, message)


def _running(repository: Repository) -> _Running:
    context, status = read_live_context(repository)
    owner = None
    if status == ACTIVE and context.pid and process.is_running(context.pid, context.pid_start, context.boot_id):
        owner = Process(context.pid, context.pid_start)
    owner = None if owner is not None and owner.pid in process.ancestors() else owner
    record = read_run_record(repository)
    return _Running(owner, record.run_id, record.keeper if record.keeper and is_alive(record.keeper) else None)
