"""Edits JSON as text: whatever is not edited keeps its order, spacing and comments.

Agents' settings may hold comments and trailing commas, which JSON does not know; both are allowed.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from ..system.jsonio import Json

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"true|false|null|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_MAX_DEPTH = 100


class Item(NamedTuple):
    """A member of an object or an element of an array."""

    key: str | None
    """None in an array."""
    start: int
    """Where it begins in the text: an object's member with its key."""
    node: Node


class Node(NamedTuple):
    """A value, and where it stands in the text."""

    start: int
    end: int
    value: Json
    items: tuple[Item, ...] = ()
    """What an object or array holds, in the order of the text; empty for any other value."""

    def item(self, key: str) -> Node | None:
        """The value under a key; the last one if the key stands twice, as JSON parsers have it."""
        return next((item.node for item in reversed(self.items) if item.key == key), None)


def parse(text: str) -> Node:
    """The value that a text holds. Raises ValueError if it is not JSON."""
    start = _skip(text, 0)
    node = _value(text, start, 0)
    if _skip(text, node.end) != len(text):
        raise ValueError(f"something follows the value at {node.end}")
    return node


def _skip(text: str, at: int) -> int:
    """The place after blanks and comments."""
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, depth: int) -> Node:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    opening = text[at : at + 1]
    if opening in ("{", "["):
        return _container(text, at, depth, "}" if opening == "{" else "]")
    found = _STRING.match(text, at) or _SCALAR.match(text, at)
    if found is None:
        raise ValueError(f"no value at {at}")
    return Node(at, found.end(), json.loads(found[0]))


def _container(text: str, at: int, depth: int, closing: str) -> Node:
    items: list[Item] = []
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
        items.append(Item(key, begin, node))
        place = _skip(text, node.end)
        if text[place : place + 1] == ",":
            place = _skip(text, place + 1)
        elif text[place : place + 1] != closing:
            raise ValueError(f"neither a comma nor an end at {place}")
    value: Json = [item.node.value for item in items]
    if closing == "}":
        value = {item.key: item.node.value for item in items}
    return Node(at, place + 1, value, tuple(items))


def indent_of(text: str, root: Node) -> str:
    """The indentation of one level in this text; two spaces if it has none."""
    if root.items:
        first = root.items[0].start
        line = text[text.rfind("\n", 0, first) + 1 : first]
        if line and not line.strip(" \t"):
            return line
    return "  "


def insert(text: str, container: Node, key: str | None, value: Json, indent: str, depth: int) -> str:
    """The text with a new item at the end of an object or array that is `depth` levels deep."""
    margin = indent * (depth + 1)
    written = json.dumps(value, indent=indent, ensure_ascii=False).replace("\n", "\n" + margin)
    item = (json.dumps(key, ensure_ascii=False) + ": " if key is not None else "") + written
    if container.items:
        last = container.items[-1].node.end
        return f"{text[:last]},\n{margin}{item}{text[last:]}"
    closing = container.end - 1
    # An empty container may hold a comment: it stays before the new item.
    inside = text[container.start + 1 : closing].rstrip()
    return f"{text[: container.start + 1]}{inside}\n{margin}{item}\n{indent * depth}{text[closing:]}"


def remove(text: str, container: Node, place: int) -> str:
    """The text without the item at index `place` of an object or array, and without its comma; comments stay."""
    _, begin, node = container.items[place]
    if place > 0:
        former = container.items[place - 1].node.end
        comma = _skip(text, former)
        return _joined(text[:comma] + text[comma + 1 : begin], text[node.end :])
    behind = _without_comma(text, node.end)
    if len(container.items) > 1:
        following = container.items[1].start - len(text)
        return text[:begin] + behind[:following].lstrip() + text[following:]
    if is_alone(text, container):
        return text[: container.start + 1] + text[container.end - 1 :]
    return _joined(text[:begin], behind)


def is_alone(text: str, container: Node) -> bool:
    """Whether an object or array holds one item, and no comment beside it."""
    if len(container.items) != 1:
        return False
    _, begin, node = container.items[0]
    inside = _without_comma(text[: container.end - 1], node.end)
    return not (text[container.start + 1 : begin].strip() or inside.strip())


def _without_comma(text: str, at: int) -> str:
    """What follows the value that ends there, without its comma."""
    comma = _skip(text, at)
    return text[at:comma] + text[comma + 1 :] if text[comma : comma + 1] == "," else text[at:]


def _joined(before: str, after: str) -> str:
    """Two parts of a text without the blanks between them; a comment to the end of its line takes nothing in."""
    before = before.rstrip()
    line = before[before.rfind("\n") + 1 :]
    return before + ("\n" if "//" in line and not after.startswith(("\n", "\r")) else "") + after
