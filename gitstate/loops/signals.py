"""The signals that end a loop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from types import FrameType
from typing import Any

ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class LoopSignals:
    """The signals that end a loop: passed on to the run, and died of when it has saved."""

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def follow(self, child: subprocess.Popen[bytes]) -> None:
        """Pass signals on to `child` from now on, and one that came while it was started, too."""
        self.child = child
        if self.came is not None:
            _pass_on(child, self.came)

    def __enter__(self) -> None:
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._on_signal)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        child = self.child
        if child is not None:
            _pass_on(child, number)
        if child is None or number not in (signal.SIGINT, signal.SIGQUIT):
            self.came = signal.Signals(number)

    def die(self) -> None:
        """End as the signal would have ended this process."""
        assert self.came is not None
        signal.signal(self.came, signal.SIG_DFL)
        os.kill(os.getpid(), self.came)
        raise SystemExit(128 + self.came)


def _pass_on(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(number)
        child.send_signal(signal.SIGCONT)
