"""Tasks in forked processes, so that one that hangs or dies does not stop the others.

A path on a dead network mount blocks for ever the process that looks at it, and even SIGKILL does not end that one:
nothing here waits for a child past its deadline. A fork takes a few milliseconds, a new interpreter a hundred.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

#: The result of a task that died or took too long.
LOST = object()


class Child:
    """A forked process that sends values through a pipe. Only for a process without threads."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None]) -> None:
        reading, writing = os.pipe()
        self.begun = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(reading)
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
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)
        self.pipe = reading
        self._got = b""

    def receive(self) -> tuple[list[Any], bool]:
        """The values that have arrived, and whether more may come. Blocks until the pipe can be read."""
        data = os.read(self.pipe, 1 << 20)
        self._got += data
        values = []
        while len(self._got) >= 8:
            size = int.from_bytes(self._got[:8], "big")
            if len(self._got) < 8 + size:
                break
            # Only our own forked child writes into this pipe.
            values.append(pickle.loads(self._got[8 : 8 + size]))
            self._got = self._got[8 + size :]
        return values, bool(data)

    def end(self, *, kill: bool) -> None:
        """Close the pipe, with `kill` kill the child and all that it started, and reap it if it has ended."""
        os.close(self.pipe)
        if kill:
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        for _ in range(200):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                    # It may be stuck in the kernel for ever.
                    time.sleep(0.005)
                    continue
            return


def _send(pipe: Any, value: Any) -> None:
    data = pickle.dumps(value)
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
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    number = waiting.pop()
                    task = tasks[number]
                    child = Child(lambda send, task=task: send(task()))  # type: ignore[misc]
                    running[child.pipe] = (child, number)
                    selector.register(child.pipe, selectors.EVENT_READ)
                ready = [int(key.fd) for key, _ in selector.select(_until_first(running, timeout))]
                late = [fd for fd, (child, _) in running.items() if time.monotonic() - child.begun > timeout]
                for fd in dict.fromkeys((*ready, *late)):
                    child, number = running[fd]
                    values, more = child.receive() if fd in ready else ([], False)
                    if values:
                        answers[number] = values[0]
                    if not more:
                        selector.unregister(fd)
                        del running[fd]
                        child.end(kill=fd not in ready)
                        done(len(tasks) - len(waiting) - len(running))
        finally:
            for child, _ in running.values():
                child.end(kill=True)
    return answers


def _until_first(running: dict[int, tuple[Child, int]], timeout: float) -> float:
    oldest = min((child.begun for child, _ in running.values()), default=0.0)
    return max(0.0, oldest + timeout - time.monotonic()) + 0.01


def stream(items: Sequence[Any], work: Callable[[Any], Any], *, patience: float) -> Iterator[Any]:
    """What `work` returns for each item, in their order, all in one child; LOST for one that took `patience` seconds.

    Each one that hung makes the patience a fifth, half a second at least: the rest may be on the same dead mount.
    """
    start = 0
    while start < len(items):
        rest = items[start:]

        def run(send: Callable[[Any], None], rest: Sequence[Any] = rest) -> None:
            for item in rest:
                send(work(item))

        child = Child(run)
        lost = False
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(child.pipe, selectors.EVENT_READ)
                more = True
                while more and start < len(items):
                    if not selector.select(patience):
                        lost = True
                        break
                    values, more = child.receive()
                    yield from values
                    start += len(values)
        finally:
            child.end(kill=lost or start < len(items))
        if start < len(items):
            yield LOST
            start += 1
            patience = max(0.5, patience / 5)
