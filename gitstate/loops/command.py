"""The tasks of a loop that a shell command prints."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable

from ..errors import GitstateError
from ..run.processes import descendants
from ..system.clock import Deadline
from ..system.process import process, send, wait_for
from .tasks import Task, parse_task

#: The bytes that a command may print.
_MOST_OUTPUT = 1 << 20
_TURN = 0.1


class CommandTasks:
    """What a shell command prints. It may wait for a task as long as it likes."""

    def __init__(self, command: str) -> None:
        self._command = command

    def take(self, is_over: Callable[[], bool]) -> Task | None:
        """See TaskSource."""
        running = subprocess.Popen(["bash", "-c", self._command], stdout=subprocess.PIPE)
        try:
            printed = self._output(running, is_over)
        finally:
            _end(running)
        if printed is None:
            return None
        if running.returncode:
            raise GitstateError(f"this command failed: {self._command} (status {running.returncode})")
        return parse_task(printed.decode("utf-8", "replace"))

    def claim(self, task_id: str) -> Task | None:
        return None

    def done(self, task: Task) -> None:
        return

    def _output(self, running: subprocess.Popen[bytes], is_over: Callable[[], bool]) -> bytes | None:
        """What it prints until it ends, whatever else holds the other end; None where the loop is over before."""
        assert running.stdout is not None
        printed = bytearray()
        with running.stdout as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not is_over():
                ended = running.poll() is not None
                data = os.read(pipe.fileno(), 65_536) if selector.select(0 if ended else _TURN) else b""
                printed += data
                if len(printed) > _MOST_OUTPUT:
                    raise GitstateError(f"this command printed more than {_MOST_OUTPUT} bytes: {self._command}")
                if ended and not data:
                    return bytes(printed)
                if not data:
                    time.sleep(0 if ended else 0.01)
        return None


def _end(running: subprocess.Popen[bytes]) -> None:
    """End a command that still runs, with all that it started."""
    if running.poll() is None:
        some = [process(running.pid), *descendants(process(running.pid))]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in some:
                send(one, number)
            if wait_for(some, Deadline(1.0)):
                break
    running.wait()
