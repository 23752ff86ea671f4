"""When an agent can go on, by what it says of its usage limit."""

from __future__ import annotations

import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gitstate.loops.limits import find_limit

NOW = time.mktime((2026, 1, 31, 14, 30, 0, 0, 0, -1))
HOUR = 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (f"Claude AI usage limit reached|{int(NOW + 7200)}", 2 * HOUR),
        ("5-hour limit reached ∙ resets 3pm\n     /upgrade to increase your usage limit.", HOUR / 2),
        ("You've hit your session limit · resets 4:30pm (Nowhere/Atlantis)", 2 * HOUR),
        ("You've hit your usage limit. Upgrade to Plus or try again at 3:00 PM.", HOUR / 2),
        ("You've hit your usage limit. Try again in 2 hours 10 minutes.", 2 * HOUR + 600),
        ("You've hit your usage limit. Try again in 1 day 2 hours 5 minutes.", 26 * HOUR + 300),
        ("429 Too Many Requests, quota exceeded. Please retry in 34.07s.", 34.07),
        ("You have exhausted your capacity on this model. Your quota will reset after 18h9m1s.", 65_341.0),
        ("usage limit reached, resets at 13:00", 22.5 * HOUR),
        ("429 too many requests: retry in 1500ms", 1.5),
        ("rate limit: try again after 2026-01-31T18:00:00+02:00", (1769875200 - NOW)),
        ("rate limit: try again after 2026-01-31T16:00:00Z", (1769875200 - NOW)),
    ],
)
def test_named_time(text: str, seconds: float) -> None:
    limit = find_limit(f"Working on it.\n{text}\n", NOW)
    assert limit is not None and limit.named
    assert limit.until - NOW == pytest.approx(seconds, abs=1)


def test_time_that_passed_while_the_run_ended_is_waited_for_no_longer() -> None:
    said = f"Claude AI usage limit reached|{int(NOW)}"
    limit = find_limit(said, NOW + 30)
    assert limit is not None and limit.named and limit.until == NOW
    limit = find_limit(said, NOW + HOUR)
    assert limit is not None and not limit.named
    limit = find_limit("429 too many requests: retry in 0s", NOW)
    assert limit is not None and not limit.named


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Los_Angeles", "UTC", "Asia/Kolkata"])
def test_time_of_another_zone(zone: str) -> None:
    now = datetime(2026, 1, 31, 15, 30, tzinfo=ZoneInfo(zone)).timestamp()
    limit = find_limit(f"You've hit your limit · resets 4:30pm ({zone})", now)
    assert limit is not None and limit.named and limit.until - now == HOUR


@pytest.mark.parametrize(
    "text", ["try again at 0001-01-01T00:00", "retry in 99999999999999999999 days", "resets at 25:99"]
)
def test_time_that_cannot_be_is_none(text: str) -> None:
    limit = find_limit(f"usage limit: {text}", NOW, times=5_000)
    assert limit is not None and not limit.named and limit.until == NOW + HOUR


def test_pause_grows_where_no_time_is_named() -> None:
    pauses = [find_limit("error: rate limit", NOW, times=times) for times in range(6)]
    assert [limit.until - NOW for limit in pauses if limit is not None] == [300, 600, 1200, 2400, 3600, 3600]


@pytest.mark.parametrize("text", ["", "All done.", "resets at 3pm", "exit status 1", "the limits of my patience"])
def test_other_words_are_no_limit(text: str) -> None:
    assert find_limit(text, NOW) is None
