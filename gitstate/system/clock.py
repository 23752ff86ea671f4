"""Deadlines, and times as contexts and manifests hold them."""

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
        """Whether no time is left."""
        return self.left() <= 0.0

    def pause(self, seconds: float) -> bool:
        """Wait for so many seconds, or what is left of them; False where no time was left."""
        if self.passed():
            return False
        time.sleep(min(seconds, self.left()))
        return True

    def part(self, share: float) -> Deadline:
        """The deadline that comes after this share of its time, counted from its beginning."""
        return self.earlier(0.0 if self.seconds is None else (1.0 - share) * self.seconds)

    def earlier(self, seconds: float) -> Deadline:
        """The deadline that comes so many seconds before this one."""
        other = Deadline(None if self.seconds is None else max(0.0, self.seconds - seconds))
        other._end = None if self._end is None else self._end - seconds
        return other


_TIME_CHARACTERS = frozenset("0123456789T:.-")


def now() -> str:
    """The time in UTC with microseconds: ISO 8601 with a trailing Z."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def is_before(timestamp: str, epoch_ns: int) -> bool:
    """Whether a text as `now` makes it is a time before `epoch_ns`, in nanoseconds; False for any other text.

    Both are texts of UTC, which sort as the times do.
    """
    if not 20 <= len(timestamp) <= 41 or timestamp[-1] != "Z" or not _TIME_CHARACTERS.issuperset(timestamp[:-1]):
        return False
    return timestamp < time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_ns // 1_000_000_000))
