"""What all sweeps have in common: an even sample of the points, the figures in words, and a floor under them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

#: Says one line at the end of the test run; the fixture `say` in conftest.py.
Say = Callable[[str], None]


def spread(points: Sequence[T], most: int | None) -> list[T]:
    """At most `most` of the points, evenly spread, the first and the last among them; all of them for None."""
    if most is None or len(points) <= most:
        return list(points)
    if most == 1:
        return [points[-1]]
    return [points[n * (len(points) - 1) // (most - 1)] for n in range(most)]


def judge(say: Say, *, points: int, floor: int, tried: int, problems: Sequence[str], of: str = "points") -> None:
    """Print the figures; fail on a problem, and on fewer points than `floor`, the number that is on record."""
    say(f"{points} {of} (on record: {floor}), {tried} tried, {len(problems)} bad")
    assert not problems, f"{len(problems)} of {tried} tried:\n" + "\n".join(problems[:40])
    assert points >= floor, f"only {points} {of}, {floor} are on record: does the sweep still see every step?"
    assert tried > 0
