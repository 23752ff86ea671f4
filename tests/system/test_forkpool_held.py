"""A child that waits for a disk is awaited no longer; one that is slow is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gitstate.system import forkpool


def test_child_that_a_disk_holds_is_awaited_no_longer(tmp_path: Path) -> None:
    """A process that starts another one waits for it in the same state (`man 2 vfork`)."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def work(send: Callable[[Any], None]) -> None:
        opens = [(os.POSIX_SPAWN_OPEN, 0, str(fifo), os.O_RDONLY, 0)]
        os.posix_spawn("/bin/true", ["true"], {}, file_actions=opens)
        send("done")

    child = forkpool.Child(work)
    assert not child.answers(0.0, 1000.0)
    with fifo.open("w"):
        assert child.answers(1000.0, 0.0)
    assert child.receive()[0] == ["done"]
    child.end(kill=False)


def test_slow_child_is_awaited() -> None:
    def work(send: Callable[[Any], None]) -> None:
        time.sleep(0.5)
        send("done")

    child = forkpool.Child(work)
    assert child.answers(0.0, 1000.0)
    assert child.receive()[0] == ["done"]
    child.end(kill=False)
