"""Edits JSON as text, so that all that is not touched keeps its order, spacing and comments.

What agents call JSON may hold comments and trailing commas; both are passed over.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from ..system.jsonio import Json

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"true|false|null|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_DEPTH = 100


class Node(NamedTuple):
    """A value and where it stands in the text. `items` are what an object or array holds; a key is None in an array."""

    start: int
    end: int
    value: Json
    items: tuple[tuple[str | None, int, Node], ...] = ()
    """Key, where the item begins (with its key), and its value."""

    def item(self, key: str) -> Node | None:
        """The value under a key; the last one where it stands twice, as JSON readers have it."""
        return next((node for name, _, node in reversed(self.items) if name == key), None)


def parse(text: str) -> Node:
    """The value that a text holds. Raises ValueError where it is none."""
    start = _skip(text, 0)
    node = _value(text, start, 0)
    if _skip(text, node.end) != len(text):
        raise ValueError(f"something follows the value at {node.end}")
    return node


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, depth: int) -> Node:
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    opening = text[at : at + 1]
    if opening in ("{", "["):
        return _container(text, at, depth, "}" if opening == "{" else "]")
    found = _STRING.match(text, at) or _SCALAR.match(text, at)
    if found is None:
        raise ValueError(f"no value at {at}")
    return Node(at, found.end(), json.loads(found[0]))


def _container(text: str, at: int, depth: int, closing: str) -> Node:
    items: list[tuple[str | None, int, Node]] = []
    place = _skip(text, at + 1)
    while text[place : place + 1] != closing:
        begin, key = place, None
        if closing == "}":
            found = _STRING.match(text, place)
            if found is None:
                raise ValueError(f"no key at {place}")
            key = json.loads(found[0])
            place = _skip(text, found.end())
            if text[place : place + 1] != ":":
                raise ValueError(f"no colon at {place}")
            place = _skip(text, place + 1)
        node = _value(text, place, depth + 1)
        items.append((key, begin, node))
        place = _skip(text, node.end)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != closing:
            raise ValueError(f"neither a comma nor an end at {place}")
    value: Json = [node.value for _, _, node in items]
    if closing == "}":
        value = {key: node.value for key, _, node in items}
    return Node(at, place + 1, value, tuple(items))


def indent_of(text: str, root: Node) -> str:
    """What one level is indented by in this text; two spaces where it does not show."""
    if root.items:
        line = text[text.rfind("\n", 0, root.items[0][1]) + 1 : root.items[0][1]]
        if line and not line.strip(" \t"):
            return line
    return "  "


def insert(text: str, container: Node, key: str | None, value: Json, indent: str, depth: int) -> str:
    """The text with an item at the end of an object or array that is `depth` levels deep."""
    margin = indent * (depth + 1)
    written = json.dumps(value, indent=indent, ensure_ascii=False).replace("\n", "\n" + margin)
    item = (json.dumps(key, ensure_ascii=False) + ": " if key is not None else "") + written
    if container.items:
        last = container.items[-1][2].end
        return f"{text[:last]},\n{margin}{item}{text[last:]}"
    closing = container.end - 1
    # What stands in an empty container, a comment perhaps, stays before the item.
    inside = text[container.start + 1 : closing].rstrip()
    return f"{text[: container.start + 1]}{inside}\n{margin}{item}\n{indent * depth}{text[closing:]}"


def remove(text: str, container: Node, place: int) -> str:
    """The text without the item at `place` of an object or array, and without the comma that goes with it."""
    _, begin, node = container.items[place]
    if place > 0:
        former = container.items[place - 1][2].end
        comma = _skip(text, former)
        gap = text[former:comma] + text[comma + 1 : begin]
        return text[:former] + gap.rstrip() + text[node.end :]
    if len(container.items) > 1:
        return text[:begin] + text[container.items[1][1] :]
    rest = _skip(text, node.end)
    end = rest + 1 if text[rest : rest + 1] == "," else node.end
    before, after = text[container.start + 1 : begin].rstrip(), text[end : container.end - 1].strip()
    return text[: container.start + 1] + before + after + text[container.end - 1 :]
