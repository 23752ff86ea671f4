"""When an agent can go on, by what it says of its usage limit."""

from __future__ import annotations

import time

import pytest

from gitstate.loops.limits import find_limit

NOW = time.mktime((2026, 1, 31, 14, 30, 0, 0, 0, -1))
HOUR = 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (f"Claude AI usage limit reached|{int(NOW + 7200)}", 2 * HOUR),
        ("5-hour limit reached ∙ resets 3pm\n     /upgrade to increase your usage limit.", HOUR / 2),
        ("You've hit your session limit · resets 4:30pm (Europe/Berlin)", 2 * HOUR),
        ("You've hit your usage limit. Upgrade to Plus or try again at 3:00 PM.", HOUR / 2),
        ("You've hit your usage limit. Try again in 2 hours 10 minutes.", 2 * HOUR + 600),
        ("You've hit your usage limit. Try again in 1 day 2 hours 5 minutes.", 26 * HOUR + 300),
        ("429 Too Many Requests, quota exceeded. Please retry in 34.07s.", 34.07),
        ("You have exhausted your capacity on this model. Your quota will reset after 18h9m1s.", 65_341.0),
        ("usage limit reached, resets at 13:00", 22.5 * HOUR),
    ],
)
def test_named_time(text: str, seconds: float) -> None:
    limit = find_limit(f"Working on it.\n{text}\n", NOW)
    assert limit is not None and limit.named
    assert limit.until - NOW == pytest.approx(seconds, abs=1)


def test_pause_grows_where_no_time_is_named() -> None:
    pauses = [find_limit("error: rate limit", NOW, times=times) for times in range(6)]
    assert [limit.until - NOW for limit in pauses if limit is not None] == [300, 600, 1200, 2400, 3600, 3600]


@pytest.mark.parametrize("text", ["", "All done.", "resets at 3pm", "exit status 1", "the limits of my patience"])
def test_other_words_are_no_limit(text: str) -> None:
    assert find_limit(text, NOW) is None
