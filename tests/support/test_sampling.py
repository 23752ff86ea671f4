"""The rule that picks the cases of a quick run."""

from __future__ import annotations

import itertools

import pytest

from tests.support.sampling import in_sample


def product(**sizes: int) -> list[dict[str, int]]:
    return [dict(zip(sizes, case, strict=True)) for case in itertools.product(*map(range, sizes.values()))]


@pytest.mark.parametrize(
    ("cases", "step", "expected"),
    [
        ([], 3, []),
        (product(a=5), 1, [True] * 5),
        (product(a=7), 3, [True, False, False, True, False, False, True]),
        ([{"a": n, "b": n} for n in range(4)], 2, [True, False, True, False]),
        ([{"a": n, "b": n // 2} for n in range(4)], 4, [True, False, False, False]),
        (product(a=2, b=2), 9, [True, True, True, False]),
    ],
)
def test_sample_of_a_table(cases: list[dict[str, int]], step: int, expected: list[bool]) -> None:
    assert in_sample(cases, step) == expected


@pytest.mark.parametrize("step", [2, 3, 5, 100])
def test_each_value_of_each_axis_is_in_the_sample(step: int) -> None:
    cases = product(a=4, b=3, c=5)
    picked = [case for case, quick in zip(cases, in_sample(cases, step), strict=True) if quick]
    assert {(name, value) for case in picked for name, value in case.items()} == {
        (name, value) for case in cases for name, value in case.items()
    }
    assert len(picked) < len(cases)
