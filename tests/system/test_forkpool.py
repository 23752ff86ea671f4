"""Tasks in forked processes."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from gitstate.system import forkpool


class Ended(BaseException):
    """What a signal raises."""


def test_signal_that_ends_the_end_of_a_child_is_what_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came while the child was reaped; then the child is ended once more, on the way out."""

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGUSR1, end)
    waitpid = os.waitpid

    def interrupted(pid: int, options: int) -> tuple[int, int]:
        monkeypatch.setattr(os, "waitpid", waitpid)
        os.kill(os.getpid(), signal.SIGUSR1)
        return waitpid(pid, options)

    monkeypatch.setattr(os, "waitpid", interrupted)
    try:
        with pytest.raises(Ended):
            forkpool.stream([1, 2, 3], str, patience=60.0)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_large_value_is_gathered_in_place() -> None:
    """A pipe gives it in hundreds of parts: copied with each of them, what was there before costs seconds."""
    value = [os.urandom(1 << 20)] * 8 + [os.urandom(4 << 20)]
    child = forkpool.Child(lambda send: send(value))
    gathered = child._got
    found: list[object] = []
    while not found:
        found, more = child.receive()
        assert child._got is gathered and (found or more)
    child.end(kill=False)
    assert found == [value]


@pytest.mark.parametrize("is_held", [False, True])
def test_child_that_ends_late_is_reaped_by_the_next_one(is_held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, or a disk that did not answer for a while: a run of weeks would leave them all."""
    monkeypatch.setattr(forkpool, "_LOOKS", 40)
    monkeypatch.setattr(forkpool, "is_held_by_disk", lambda pid: is_held)
    reading, writing = os.pipe()

    def work(send: Callable[[Any], None]) -> None:
        os.close(writing)
        os.read(reading, 1)

    late = [forkpool.Child(work) for _ in range(3)]
    for child in late:
        child.end(kill=False)
    os.close(writing)
    for child in late:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    forkpool.Child(lambda send: None).end(kill=False)
    for child in late:
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
    os.close(reading)


def test_system_without_processes_takes_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper tries again and again."""

    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "no process")

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refused)
        for _ in range(3):
            with pytest.raises(BlockingIOError):
                forkpool.Child(lambda send: send(1))
    assert os.listdir("/proc/self/fd") == before
