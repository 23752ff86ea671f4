"""Which cases of a long table a quick run tries; ``-m slow`` tries the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import pytest


def in_sample(cases: Sequence[Mapping[str, int]], step: int) -> list[bool]:
    """Each step-th case, and where several axes make the table, each value of each axis at least once.

    A case has the place of its value in each axis. Arguments that change together are one axis; one whose values come
    once each is none.
    """
    axes = {tuple(case[name] for case in cases): name for name in (cases[0] if cases else {})}
    axes = {values: name for values, name in axes.items() if len({*values}) < len(cases)}
    seen: set[tuple[str, int]] = set()
    found = []
    for number, case in enumerate(cases):
        values = {(name, case[name]) for name in axes.values()}
        found.append(number % step == 0 or (len(axes) > 1 and not values <= seen))
        if found[-1]:
            seen |= values
    return found


def mark_what_is_not_in_the_sample(items: Iterable[pytest.Item]) -> None:
    """Of a test with the marker ``sample(step)`` the cases that are not in the sample are slow, too."""
    tables: dict[object, list[pytest.Function]] = defaultdict(list)
    for item in items:
        is_quick = not item.get_closest_marker("slow")
        if isinstance(item, pytest.Function) and item.get_closest_marker("sample") and is_quick:
            tables[item.parent, item.originalname].append(item)
    for table in tables.values():
        marker = table[0].get_closest_marker("sample")
        assert marker is not None
        cases = [item.callspec.indices for item in table]
        for item, is_quick in zip(table, in_sample(cases, *marker.args), strict=True):
            if not is_quick:
                item.add_marker(pytest.mark.slow)
