"""What goes on while the agent goes on: the events that wait in the queue, and the checkpoint that they want.

Events change memory, context and turn one after the other (`in_order`). One checkpoint at a time is taken, and it
counts for all events that came before it began, so that twenty at once bring one or two. A tool that ran soon after a
checkpoint brings another one when the interval is over, which one process waits for. The keeper of a run takes them
all by itself: it is told, and nobody takes a second one.
"""

from __future__ import annotations

import os
import time

from ..errors import GitstateError, TryAgain, words_of
from ..git.repository import Repository
from ..orders.client import SOCKET, order_checkpoint
from ..orders.events import queued
from ..system import files
from ..system.clock import Deadline, now
from ..system.jsonio import text_to_json
from ..system.locks import lock
from ..system.stdlib import TYPE_CHECKING, contextmanager, suppress
from ..workspace import lease
from ..workspace.settings import number
from .memory import (
    HookMemory,
    date_stamp,
    note_waiting,
    pause_ns,
    read_memory,
    remove_stamp,
    write_memory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..agents.base import HookEvent

#: Whoever waits for the end of an interval holds this lock.
_WAITING = b"agent-hook.waiting"
#: Handling the events takes milliseconds. Where another process hangs in it, an agent does not wait longer, in seconds.
_PATIENCE = 2.0
#: Where many come at once, each waits for its turn as long as the others have theirs, but no longer than this.
_LONGEST = 10.0
#: A checkpoint of another process is waited for so long, in seconds.
_OTHERS = 60.0
#: Who waits for the end of the interval looks again after this time, in seconds.
_LOOK = 0.2
#: And as often as this whether the agent has ended.
_LOOK_FOR_AGENT = 2.0


@contextmanager
def in_order(repository: Repository) -> Iterator[None]:
    """Handle events while no other process does."""
    with _locked(repository, b"agent-hook.lock", _PATIENCE, _LONGEST):
        yield


@contextmanager
def _locked(repository: Repository, name: bytes, seconds: float, longest: float = 0.0) -> Iterator[bool]:
    """Hold a lock of the hooks while the body runs; yields whether it could be had in this time.

    As long as others get it, the time begins anew, until `longest` is over.
    """
    try:
        files.make_directory(repository.own, top=repository.git_dir, durable=False)
        fd: int | None = _take_turn(os.path.join(repository.own, name), seconds, Deadline(longest))
    except (TryAgain, OSError):
        fd = None
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def _take_turn(path: bytes, seconds: float, end: Deadline) -> int:
    """The descriptor that holds a lock. Whoever gets it dates its file. Raises TryAgain, OSError."""
    dated = _dated(path)
    while True:
        try:
            fd = lock(path, Deadline(seconds), "the agent's hooks")
        except TryAgain:
            before, dated = dated, _dated(path)
            if end.passed() or dated == before:
                raise
        else:
            with suppress(OSError):
                os.utime(path)
            return fd


def _dated(path: bytes) -> int | None:
    with suppress(OSError):
        return os.stat(path).st_mtime_ns
    return None


def change_memory(repository: Repository, change: Callable[[HookMemory], HookMemory]) -> HookMemory:
    """Change the memory while no other process does; what it is then."""
    with in_order(repository):
        memory = change(read_memory(repository))
        write_memory(repository, memory)
        date_stamp(repository, memory)
    return memory


def has_work(repository: Repository) -> bool:
    """Whether a checkpoint is to be taken, now or at the end of the interval, and no process is there for it."""
    memory = read_memory(repository)
    if memory.wanted > memory.done or memory.events <= memory.done:
        return memory.wanted > memory.done
    with _locked(repository, _WAITING, 0.0) as nobody_waits:
        return nobody_waits


def work(repository: Repository, handle_queue: Callable[[Repository], None]) -> None:
    """Handle the events in the queue, and take the checkpoints that they want, until nothing is left to do."""
    before: list[tuple[bytes, int]] | None = None
    while True:
        handle_queue(repository)
        settle(repository)
        left = queued(repository)
        # What is still there can't be removed: a disk that is full, or read-only.
        if not left or left == before or not os.path.isdir(repository.own):
            return
        before = left


def settle(repository: Repository) -> None:
    """Take the checkpoint that the events want, now or when the interval is over."""
    memory = read_memory(repository)
    if memory.events <= memory.done:
        return
    if _has_keeper(repository) and order_checkpoint(repository.own, at_once=memory.urgent > memory.done):
        _cover(repository, memory.events)
        note_waiting(repository)
        return
    if memory.wanted > memory.done:
        take(repository, memory.wanted)
    _wait_for_interval(repository)


def take(repository: Repository, event: int, deadline: float | None = None, wait: float = _OTHERS) -> None:
    """Take the checkpoint that holds the work up to an event, unless another process has taken it.

    Its context is that of the last event: a new session may have begun while this process waited. `deadline` is that of
    the save, `wait` for another process that takes one, in seconds. One that fails is noted in the memory, and not
    tried again for these events.
    """
    from ..save.request import SaveRequest
    from ..save.save import save

    with _locked(repository, b"agent-hook.taking", wait):
        memory = read_memory(repository)
        if memory.done >= event or not os.path.isdir(repository.own):
            return
        covers, last_ns, begun, values = memory.events, memory.last_ns, time.monotonic_ns(), memory.values
        # A tool that runs meanwhile brings a checkpoint when the interval is over.
        change_memory(repository, lambda memory: memory._replace(last_ns=time.time_ns()))
        try:
            save(repository.toplevel, SaveRequest(kind="checkpoint", values=values, deadline=deadline, wait=1.0))
        except (GitstateError, OSError, ValueError) as error:
            problem = text_to_json(f"{memory.event}: {words_of(error)}")[:300]
            change_memory(repository, lambda memory: failed(memory, problem, covers)._replace(last_ns=last_ns))
            remove_stamp(repository)
            return
        _cover(repository, covers, time.monotonic_ns() - begun)
    from ..objects.fold import fold_packs

    fold_packs(repository)


def take_now(repository: Repository, deadline: float | None, wait: float) -> None:
    """The session ends: return when the checkpoint is durable, by the keeper or by this process."""
    memory = read_memory(repository)
    if memory.events <= memory.done:
        return
    if _has_keeper(repository) and order_checkpoint(repository.own, at_once=True, waits=wait):
        _cover(repository, memory.events)
    else:
        take(repository, memory.events, deadline, wait)


def take_before(repository: Repository, event: HookEvent, deadline: Deadline) -> None:
    """Files are about to be destroyed: return when the checkpoint is durable, by the keeper or by this process."""
    left = deadline.left()
    if _has_keeper(repository) and order_checkpoint(repository.own, at_once=True, waits=left / 2):
        return
    from ..save.request import SaveRequest
    from ..save.save import save

    try:
        if deadline.passed():
            raise TryAgain("no time was left, other worktrees took it")
        save(repository.toplevel, SaveRequest(kind="checkpoint", deadline=left, wait=left / 2))
    except (GitstateError, OSError, ValueError) as error:
        problem = text_to_json(f"{event.name}: {words_of(error)}")[:300]
        change_memory(repository, lambda memory: failed(memory, problem))


def failed(memory: HookMemory, problem: str, covers: int | None = None) -> HookMemory:
    """The memory after an event that failed, or a checkpoint for all events up to `covers`."""
    since = memory.since if memory.problem else None
    done = memory.done if covers is None else max(memory.done, covers)
    return memory._replace(problem=problem, since=since or now(), done=done)


def _cover(repository: Repository, covers: int, cost_ns: int = 0) -> None:
    """A checkpoint that holds the work of all events up to `covers` was taken."""
    at = time.time_ns()

    def change(memory: HookMemory) -> HookMemory:
        done = max(memory.done, covers)
        skipped = 0 if done >= memory.events else memory.skipped
        return memory._replace(last_ns=at, cost_ns=cost_ns, done=done, skipped=skipped, problem=None, since=None)

    change_memory(repository, change)


def _has_keeper(repository: Repository) -> bool:
    return os.path.lexists(os.path.join(repository.own, SOCKET))


def _wait_for_interval(repository: Repository) -> None:
    """Take a checkpoint at the end of the interval, where events came in it. One process for each workspace waits."""
    while (memory := read_memory(repository)).events > memory.done and os.path.isdir(repository.own):
        with _locked(repository, _WAITING, 0.0) as mine:
            note_waiting(repository)
            if not mine:
                return
            if not _wait(repository):
                return


def _wait(repository: Repository) -> bool:
    """Wait, and take it. Sooner where the agent has ended; not at all where another event has brought one.

    False where it can't be noted that it was taken: it would be taken without end.
    """
    look_for_agent = 0.0
    while (memory := read_memory(repository)).events > memory.done and os.path.isdir(repository.own):
        pause = pause_ns(memory, number(repository, "hookInterval"))
        left = (memory.last_ns + pause - time.time_ns()) / 1e9
        # A clock that was set back counts as no pause.
        ended = not 0 < left <= pause / 1e9
        if not ended and time.monotonic() >= look_for_agent:
            ended = lease.presence(repository).state == "gone"
            look_for_agent = time.monotonic() + _LOOK_FOR_AGENT
        if ended:
            take(repository, memory.events)
            if read_memory(repository).done <= memory.done:
                return False
        else:
            time.sleep(min(left, _LOOK))
    return True
