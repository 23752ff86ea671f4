"""JSON is read and written as the standard library does it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitstate.errors import BadJson
from gitstate.system.jsonio import dumps, loads

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_dumps_matches_the_standard_library(value: dict[str, object]) -> None:
    wanted = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    assert dumps(value) == wanted.encode("utf-8", "replace")


ODD = (
    *("", "{", '{"a":', '{"a": 1}}', '{"a": 01}', "[1", "null", '"x"', '{"a": "\t"}', "\ufeff{}", "{}\ufeff", "{}\0"),
    *('{"a": NaN, "a": -Infinity}', '{"a": 1e999}', '{"\\ud800": "\\udc00"}', "\x0b{}", "\u00a0{}", "[" * 100_000),
)


@given(st.dictionaries(st.text(), VALUES).map(json.dumps) | st.sampled_from(ODD), st.sampled_from(" \r\n\t"))
def test_loads_matches_the_standard_library(text: str, margin: str) -> None:
    data = (margin + text + margin).encode("utf-8", "surrogatepass")
    try:
        wanted = json.loads(data)
    except (ValueError, RecursionError):
        wanted = None
    if isinstance(wanted, dict):
        assert repr(loads(data, len(data), "it")) == repr(wanted)
    else:
        with pytest.raises(BadJson):
            loads(data, len(data), "it")


def test_lone_surrogate_is_written_as_valid_utf_8() -> None:
    assert json.loads(dumps({"a\udcff": "\ud800"})) == {"a?": "?"}
