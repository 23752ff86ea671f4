"""What an agent says where its account has no more for now, and when it can go on."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

#: Where an agent names no time: so long to wait at first, and at most, in seconds.
_FIRST, _MOST = 300.0, 3600.0
#: No agent names a later time than this.
_LATEST = 8 * 86_400.0
#: A time that passed no longer ago than this, in seconds, did so while the run ended: the agent can go on.
_JUST = 60.0

_LIMIT = re.compile(
    "|".join(
        (
            r"usage limit",
            r"rate.?limit",
            r"limit reached",
            r"hit your (?:\w+ )?limit",
            r"quota (?:exceeded|exhausted)",
            r"exceeded your .{0,40}quota",
            r"exhausted your (?:daily )?(?:quota|capacity)",
            r"resource_exhausted",
            r"too many requests",
        )
    ),
    re.IGNORECASE,
)
_EPOCH = re.compile(r"limit reached\|(\d{10})")
_ISO = re.compile(r"\b(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)")
_SPAN = re.compile(r"\b(?:in|after|for)\s+((?:\d+(?:\.\d+)?\s?[a-z]+[,\s]*(?:and\s)?)+)", re.IGNORECASE)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|milli|[dhms])", re.IGNORECASE)
_CLOCK = re.compile(
    r"\b(?:at|resets?|until)\s+(?:at\s+)?(\d{1,2})(?::(\d\d)\s?(?:([ap])m)?|\s?([ap])m)\b"
    r"(?:\s?\((UTC|[A-Z][A-Za-z]+/[A-Za-z_/+-]+)\))?",
    re.IGNORECASE,
)
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "milli": 0.001}


class Limit(NamedTuple):
    """A usage limit was met."""

    until: float
    """Seconds since the epoch."""
    named: bool
    """Whether the agent named the time."""


def find_limit(text: str, now: float | None = None, *, times: int = 0) -> Limit | None:
    """The limit that an agent's last words tell of; None where they tell of none.

    `times` says how many limits without a time came in a row before.
    """
    now = time.time() if now is None else now
    hits = list(_LIMIT.finditer(text))
    if not hits:
        return None
    for hit in reversed(hits):
        until = _named_time(text[hit.start() : hit.end() + 400], now)
        if until is not None and until != now and now - _JUST < until < now + _LATEST:
            return Limit(until, True)
    return Limit(now + min(_MOST, _FIRST * 2 ** min(times, 16)), False)


def _named_time(text: str, now: float) -> float | None:
    epoch = _EPOCH.search(text)
    if epoch is not None:
        return float(epoch[1])
    iso = _ISO.search(text)
    if iso is not None:
        try:
            return datetime.fromisoformat(iso[1]).timestamp()
        except (ValueError, OverflowError):
            return None
    span = _SPAN.search(text)
    if span is not None:
        return now + sum(float(number) * _SECONDS[unit.lower()] for number, unit in _PART.findall(span[1]))
    clock = _CLOCK.search(text)
    if clock is None:
        return None
    return _next_time(int(clock[1]), int(clock[2] or 0), clock[3] or clock[4], _zone(clock[5]), now)


def _zone(name: str | None) -> ZoneInfo | None:
    """The time zone of this name; None, which is that of this host, where there is none."""
    try:
        return None if name is None else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def _next_time(hour: int, minute: int, half: str | None, zone: ZoneInfo | None, now: float) -> float | None:
    """The next time at which the clock of a time zone shows this hour."""
    if half is not None:
        hour = hour % 12 + (12 if half.lower() == "p" else 0)
    if hour > 23 or minute > 59:
        return None
    here = datetime.fromtimestamp(now, zone)
    then = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return (then if then > here else then + timedelta(days=1)).timestamp()
