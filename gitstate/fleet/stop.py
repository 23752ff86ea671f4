"""`gitstate stop`: end what works in a workspace, and have its work saved: SIGTERM, the save, then SIGKILL."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from typing import NamedTuple

from ..errors import EXIT_PERSON, NeedsPerson, TryAgain
from ..format.archive import pending_save_id
from ..format.manifest import Reason
from ..git.opening import open_repository
from ..git.repository import Repository
from ..run.processes import descendants, kill_all, of_run
from ..save.request import SaveRequest
from ..save.save import save
from ..system import process
from ..system.clock import Deadline
from ..system.process import Process, is_alive, send, wait_for
from ..workspace.lease import Holder, describe, is_visible, presence_in
from ..workspace.live_context import ACTIVE, read_live_context
from ..workspace.run_record import read_run_record

#: What a keeper may need to save after the last process of its run is gone, in seconds.
_SAVING = 30.0


#: The time between SIGTERM and SIGKILL for the commands of an agent that has ended, in seconds.
_LEFTOVERS = 0.5


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
    is_alone: bool = False
    """The owner has no keeper: nobody else ends what it has started."""


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
    _refuse_others(repository, told)
    # What an agent without a keeper has started is known as long as the agent runs.
    below = descendants(running.owner) if running.owner is not None and running.is_alone else []
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
    _end(below)
    return _saved(repository, before, killed=not ended)


def _end(some: Collection[Process]) -> None:
    """End processes that their agent left behind: a command may write on after the save."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in some:
            send(one, number)
            send(one, signal.SIGCONT)
        if wait_for(some, Deadline(_LEFTOVERS)):
            return


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
    who = presence_in(repository.git_dir, context if status == ACTIVE else None)
    record = read_run_record(repository)
    keeper = record.keeper if record.keeper and is_alive(record.keeper) else None
    if who.holder is None or who.ours or who.state in ("gone", "nobody"):
        return _Running(None, record.run_id, keeper)
    if who.state == "unknown" or (who.holder.host is not None and not _is_here(who.holder)):
        raise TryAgain(
            f"somebody works here, but not in this container ({describe(who.holder)}); nothing was stopped",
            hint="gitstate stop, where it was started",
        )
    is_alone = who.holder.kind == "owner"
    return _Running(who.holder.owner, record.run_id or who.holder.run_id, keeper, is_alone)


def _is_here(holder: Holder) -> bool:
    return holder.pid_namespace is None or is_visible(holder)


def _refuse_others(repository: Repository, told: Collection[Process]) -> None:
    """Raise NeedsPerson where a process to be ended is not of the user that the repository belongs to.

    What names the process stands in the repository: whoever can write there must not have root end what it likes.
    """
    owner = os.stat(repository.git_dir).st_uid
    for one in told:
        uid = process.user_of(one)
        if uid is not None and uid != owner:
            raise NeedsPerson(
                f"the process on record (pid {one.pid}) belongs to user {uid}, the repository to user {owner}; "
                "nothing was stopped",
                hint=f"kill {one.pid}, where you know that it works here",
            )
