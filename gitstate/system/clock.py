"""Deadlines, and the time as it stands in a context."""

from __future__ import annotations

import time


class Deadline:
    """A point in time after which work must stop. `seconds` is None for no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, never negative; infinity where there is no limit."""
        return float("inf") if self._end is None else max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        return self.left() <= 0.0


_TIME = frozenset("0123456789T:.-")


def now() -> str:
    """The time in UTC with microseconds, as a context and a manifest carry it."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"
