"""Edits of JSON settings keep every other byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitstate.agent_hooks import json_edit
from tests.agent_hooks.settings import COMMENTED

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.text(max_size=5), values, max_size=4), st.sampled_from([None, 0, 1, 4, "\t"]), values)
def test_inserted_item_is_read_and_removed_exactly(old: dict[str, Any], indent: Any, value: Any) -> None:
    text = json.dumps(old, indent=indent)
    root = json_edit.parse(text)
    assert root.value == old
    key = "new key"
    edited = json_edit.insert(text, root, key, value, json_edit.indent_of(text, root), 0)
    assert json.loads(edited) == {**old, key: value}
    back = json_edit.parse(edited)
    again = json_edit.remove(edited, back, len(back.items) - 1)
    assert json.loads(again) == old
    if old:
        assert again == text


@pytest.mark.parametrize("text", ["", "{", '{"a"}', '{"a":}', "[1 2]", "nul", '{"a":1}}', "\x00", '"\n"', "[" * 500])
def test_invalid_json_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):
        json_edit.parse(text)


def test_comments_and_text_around_an_item_are_kept() -> None:
    root = json_edit.parse(COMMENTED)
    hooks = root.item("hooks")
    assert hooks is not None
    edited = json_edit.insert(COMMENTED, hooks, "Stop", [1], "  ", 1)
    assert "// mine" in edited and "/* really */" in edited
    hooks = json_edit.parse(edited).item("hooks")
    assert hooks is not None and hooks.value["Stop"] == [1]
    assert json_edit.remove(edited, hooks, 1) == COMMENTED


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{\n  // mine\n  "hooks": 1\n}\n', "{\n  // mine\n}\n"),
        ('{\n  // mine\n  "hooks": 1 }', "{\n  // mine\n }"),
        ('{\n  "hooks": 1, // ours\n  /* mine */ "b": 2\n}\n', '{\n  // ours\n  /* mine */ "b": 2\n}\n'),
        ('{\n  "a": 1, // mine\n  "hooks": 1, "b": 2\n}\n', '{\n  "a": 1 // mine\n, "b": 2\n}\n'),
        ('{\n  "hooks": 1, // mine\n}\n', "{ // mine\n}\n"),
    ],
)
def test_comments_beside_an_item_that_is_removed_are_kept(text: str, left: str) -> None:
    root = json_edit.parse(text)
    assert json_edit.remove(text, root, [item.key for item in root.items].index("hooks")) == left
    json_edit.parse(left)
