"""Tasks in forked processes, so that one that hangs or dies does not stop the others.

A path on a dead network mount blocks for ever the process that looks at it, and even SIGKILL does not end that one:
nothing here waits for a child past its deadline. A fork takes a few milliseconds, a new interpreter a hundred.
"""

from __future__ import annotations

import os
import select
import time

from .process import comes, forked_by, give_way, is_held_by_disk
from .stdlib import TYPE_CHECKING, pickler, signal, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

#: The result of a task that died or took too long.
LOST = object()


#: The children that this process waits for no more, and whose end it has not seen.
_going_on: list[int] = []


def is_any_held() -> bool:
    """Whether a disk holds a child that goes on, or did not end: a call of the file system would hold this process."""
    return any(map(is_held_by_disk, _going_on))


def _reap() -> None:
    """Reap those that have ended since: a run of weeks would leave them all, and the user may have so many."""
    _going_on[:] = [pid for pid in _going_on if not _has_ended(pid)]


def _has_ended(pid: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    return True


#: A child that was killed, or is about to end, is looked at so often, after so many seconds each, at first sooner.
_LOOKS, _PAUSE, _FIRST_PAUSE = 205, 0.005, 0.0002


class Child:
    """A forked process that sends values through a pipe. Only for a process without threads."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None]) -> None:
        reading, writing = os.pipe()
        leaving, self._left = os.pipe()
        self.begun = time.monotonic()
        parent = os.getpid()
        # Else both would load it, and each while the other waits.
        pickler()
        _reap()
        try:
            self.pid = os.fork()
        except OSError:
            # A keeper that is allowed no process for hours must not run out of descriptors, too.
            for fd in (reading, writing, leaving, self._left):
                os.close(fd)
            raise
        if self.pid == 0:
            try:
                os.close(reading)
                os.close(self._left)
                forked_by(parent, leaving)
                # A process group of its own, so that the gits that it starts can be killed with it.
                os.setpgid(0, 0)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                with os.fdopen(writing, "wb", buffering=0) as pipe:
                    work(lambda value: _send(pipe, value))
            except BaseException:
                # The pipe ends without a result: LOST.
                os._exit(1)
            os._exit(0)
        os.close(writing)
        os.close(leaving)
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)
        self.pipe = reading
        #: What has arrived of the next values. Bytes that grow in place: it is a few hundred parts of a large value.
        self._got = bytearray()

    def receive(self) -> tuple[list[Any], bool]:
        """The values that have arrived, and whether more may come. Blocks until the pipe can be read."""
        data = os.read(self.pipe, 1 << 20)
        self._got += data
        loads = pickler().loads
        values = []
        while len(self._got) >= 8:
            size = int.from_bytes(self._got[:8], "big")
            if len(self._got) < 8 + size:
                break
            # Only our own forked child writes into this pipe.
            values.append(loads(bytes(self._got[8 : 8 + size])))
            del self._got[: 8 + size]
        return values, bool(data)

    def answers(self, seconds: float, patience: float) -> bool:
        """Whether something comes within so many seconds; or `patience` more, where no disk holds the child."""
        return comes(self.pipe, self.pid, seconds, patience)

    def end(self, *, kill: bool) -> None:
        """Close the pipe, with `kill` kill the child and all that it started, and reap it: if late, with the next.

        A signal may end the first call anywhere: the second one must not fail.
        """
        pipes, self.pipe, self._left = (self.pipe, self._left), -1, -1
        for pipe in pipes:
            if pipe >= 0:
                os.close(pipe)
        if kill:
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        for number in range(_LOOKS):
            if _has_ended(self.pid):
                return
            if number % 20 == 19 and is_held_by_disk(self.pid):
                # It may be stuck in the kernel for ever.
                break
            # As a rule it has just sent its last word, and takes less than a millisecond to end.
            time.sleep(min(_PAUSE, _FIRST_PAUSE * 2**number))
        _going_on.append(self.pid)

    def leave(self) -> None:
        """Let the child go on by itself once this process has ended: `was_left` tells it."""
        _going_on.append(self.pid)
        os.write(self._left, b"\0")
        os.close(self.pipe)
        os.close(self._left)
        self.pipe = self._left = -1


def in_background(work: Callable[[], None]) -> None:
    """Do `work` in a process that nobody waits for, with a session of its own and no stream of this one.

    Only for a process without threads. Where the system allows no process it is done in this one.
    """
    try:
        if os.fork():
            return
    except OSError:
        work()
        return
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        give_way()
        # Nobody's directory is kept from being removed or unmounted.
        os.chdir("/")
        work()
    finally:
        os._exit(0)


def _send(pipe: Any, value: Any) -> None:
    data = pickler().dumps(value)
    view = memoryview(len(data).to_bytes(8, "big") + data)
    while view:
        view = view[pipe.write(view) :]


def each(
    tasks: Sequence[Callable[[], Any]], *, workers: int, timeout: float, done: Callable[[int], None] = lambda _: None
) -> list[Any]:
    """What each task returns, in their order; LOST for one that died or took longer than `timeout` seconds.

    At most `workers` run at once. `done` is called with the number of those that have ended.
    """
    answers: list[Any] = [LOST] * len(tasks)
    waiting = list(range(len(tasks)))[::-1]
    running: dict[int, tuple[Child, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.pop()
                task = tasks[number]
                child = Child(lambda send, task=task: send(task()))  # type: ignore[misc]
                running[child.pipe] = (child, number)
            ready = _readable(list(running), _until_first(running, timeout))
            late = [fd for fd, (child, _) in running.items() if time.monotonic() - child.begun > timeout]
            for fd in dict.fromkeys((*ready, *late)):
                child, number = running[fd]
                values, more = child.receive() if fd in ready else ([], False)
                if values:
                    answers[number] = values[0]
                if not more:
                    del running[fd]
                    child.end(kill=fd not in ready)
                    done(len(tasks) - len(waiting) - len(running))
    finally:
        for child, _ in running.values():
            child.end(kill=True)
    return answers


def _readable(fds: Sequence[int], seconds: float) -> list[int]:
    """Those of some descriptors that can be read, or are at their end, after at most so many seconds."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(seconds * 1000)]


def _until_first(running: dict[int, tuple[Child, int]], timeout: float) -> float:
    oldest = min((child.begun for child, _ in running.values()), default=0.0)
    return max(0.0, oldest + timeout - time.monotonic()) + 0.01


#: Results go to the parent in portions: at most so many, and none waits longer than so many seconds for the next one.
_PORTION, _PORTION_SECONDS = 128, 0.02
#: Fewer items than this go to one child: a fork takes as long as the look at thirty workspaces.
_LEAST_FOR_A_LANE = 256


def stream(
    items: Sequence[Any],
    work: Callable[[Any], Any],
    *,
    patience: float,
    lanes: int = 1,
    done: Callable[[int], None] = lambda _: None,
) -> list[Any]:
    """What `work` returns for each item, in their order; LOST for one that took `patience` seconds.

    The items are cut into at most `lanes` parts, and one child does all of a part. Each item that hung makes the
    patience of its lane a fifth, half a second at least: the rest may be on the same dead mount. `done` is called with
    the number of the items that are done.
    """
    lanes = max(1, min(lanes, len(items) // _LEAST_FOR_A_LANE))
    cuts = [len(items) * number // lanes for number in range(lanes + 1)]
    all_of_them = [_Lane(items[cuts[at] : cuts[at + 1]], work, patience) for at in range(lanes)]
    try:
        while running := {lane.pipe: lane for lane in all_of_them if lane.child is not None}:
            ready = _readable(list(running), min(lane.seconds_left() for lane in running.values()))
            for fd, lane in running.items():
                if fd in ready:
                    lane.receive()
                elif not lane.seconds_left():
                    lane.give_up()
            done(sum(len(lane.answers) for lane in all_of_them))
    finally:
        for lane in all_of_them:
            lane.end()
    return [answer for lane in all_of_them for answer in lane.answers]


class _Lane:
    """Some items, one after the other, in a child; in another one after an item that hung or ended the child."""

    def __init__(self, items: Sequence[Any], work: Callable[[Any], Any], patience: float) -> None:
        self.answers: list[Any] = []
        self.child: Child | None = None
        self._items, self._work, self._patience = items, work, patience
        self._size = _PORTION
        self._heard = 0.0
        self._begin()

    @property
    def pipe(self) -> int:
        return -1 if self.child is None else self.child.pipe

    def seconds_left(self) -> float:
        """Until the child must have sent something."""
        return max(0.0, self._heard + self._patience - time.monotonic())

    def receive(self) -> None:
        """Take what has come. Blocks until something has."""
        if self.child is None:
            return
        portions, more = self.child.receive()
        for values in portions:
            self.answers += values
            self._heard = time.monotonic()
        if len(self.answers) == len(self._items):
            self.end()
        elif not more:
            self._go_on()

    def give_up(self) -> None:
        """Nothing came for too long: kill the child."""
        self._go_on()
        self._patience = max(0.5, self._patience / 5)

    def end(self) -> None:
        """End the child, where there is one."""
        if self.child is not None:
            self.child.end(kill=len(self.answers) < len(self._items))
            self.child = None

    def _go_on(self) -> None:
        self.end()
        if self._size > 1 and len(self._items) - len(self.answers) > 1:
            # One item of a portion hung, or ended the child: alone each shows which.
            self._size = 1
        else:
            self.answers.append(LOST)
            self._size = _PORTION
        self._begin()

    def _begin(self) -> None:
        left, size, work = self._items[len(self.answers) :], self._size, self._work
        if not left:
            return

        def run(send: Callable[[Any], None]) -> None:
            found, begun = [], time.monotonic()
            for item in left:
                found.append(work(item))
                if len(found) >= size or time.monotonic() - begun > _PORTION_SECONDS:
                    send(found)
                    found, begun = [], time.monotonic()
            if found:
                send(found)

        self.child, self._heard = Child(run), time.monotonic()
