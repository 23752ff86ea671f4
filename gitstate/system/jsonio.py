"""JSON objects to and from UTF-8, without importing `json`, which takes as long as four git processes."""

from __future__ import annotations

from ..errors import BadJson
from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any as Json
else:
    Json = object


__all__ = ["Json", "dumps", "loads", "read_value"]

_ESCAPES = {number: f"\\u{number:04x}" for number in range(32)}
_ESCAPES |= {ord(char): f"\\{letter}" for char, letter in zip('"\\\b\f\n\r\t', '"\\bfnrt', strict=True)}


def dumps(value: Mapping[str, Json]) -> bytes:
    """Indented JSON with a final newline; what is not valid Unicode becomes a question mark."""
    out: list[str] = []
    _write(value, "\n", out)
    out.append("\n")
    # In portions: one wide character makes a text four times as large.
    parts = ("".join(out[start : start + 4096]) for start in range(0, len(out), 4096))
    return b"".join([part.encode("utf-8", "replace") for part in parts])


class Stream:
    """A list for `write`, whose items are made while it is written."""

    def __init__(self, items: Iterable[Json]) -> None:
        self.items = items


def write(value: Mapping[str, Json], put: Callable[[str], object]) -> None:
    """As `dumps`, in portions that `put` gets, so that neither they nor the items of a `Stream` are held together."""
    out = _Portions(put)
    _write(value, "\n", out)
    out.append("\n")
    out.flush()


class _Portions:
    """Parts of a text, of which thousands go to `put` as one."""

    _AT_ONCE = 4096

    def __init__(self, put: Callable[[str], object]) -> None:
        self._put = put
        self._parts: list[str] = []

    def append(self, part: str) -> None:
        self._parts.append(part)
        if len(self._parts) >= self._AT_ONCE:
            self.flush()

    def flush(self) -> None:
        self._put("".join(self._parts).encode("utf-8", "replace").decode("utf-8"))
        self._parts.clear()


def _write(value: Json, margin: str, out: list[str] | _Portions) -> None:
    if isinstance(value, str):
        out.append(f'"{value.translate(_ESCAPES)}"')
    elif value is None or value is True or value is False:
        out.append("null" if value is None else "true" if value else "false")
    elif type(value) is int:
        out.append(str(value))
    elif type(value) is float and value - value == 0.0:
        out.append(repr(value))
    elif isinstance(value, dict | list | tuple) and not value:
        out.append("{}" if isinstance(value, dict) else "[]")
    elif isinstance(value, dict):
        inner = margin + " "
        before = "{" + inner
        for key, item in value.items():
            out.append(f'{before}"{key.translate(_ESCAPES)}": ')
            _write(item, inner, out)
            before = "," + inner
        out.append(margin + "}")
    elif isinstance(value, list | tuple | Stream):
        inner = margin + " "
        before = "[" + inner
        for item in value.items if isinstance(value, Stream) else value:
            out.append(before)
            _write(item, inner, out)
            before = "," + inner
        out.append("[]" if before[0] == "[" else margin + "]")
    else:
        import json

        out.append(json.dumps(value))


#: A document of more bytes is read piece by piece: parsed at once, it takes up to thirty times its size in memory.
_AT_ONCE = 1 << 20
#: Bytes of one item of a list in such a document: a path has at most 4096, which JSON can make six times as long.
_MAX_ITEM = 1 << 16


class Items(list[Json]):
    """A list of which each item was converted while it was read."""


def loads(
    data: bytes | None, limit: int, what: str, items: Mapping[str, Callable[[Json], Json]] | None = None
) -> dict[str, Json]:
    """A JSON object of at most `limit` bytes. Raises BadJson for anything else; `what` names it in the message.

    `items` converts the items of lists by the name of the list. Of a large object the lists are `Items`, or the error
    that a conversion raised; a list that `items` does not name is empty.
    """
    if data is None or len(data) > limit:
        raise BadJson(f"{what} is missing or larger than {limit} bytes")
    if items is not None and len(data) > _AT_ONCE:
        try:
            return _Pieces(data, items).read()
        except (ValueError, RecursionError) as error:
            raise BadJson(f"{what} is not JSON, or too large: {str(error)[:80]}") from None
    value = read_value(data, what)
    if not isinstance(value, dict):
        raise BadJson(f"{what} is not a JSON object")
    return value


def read_value(data: bytes, what: str) -> Json:
    """Any JSON value. Raises BadJson where the bytes are none; `what` names them in the message."""
    value = _read(data)
    if value is None:
        import json

        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadJson(f"{what} is not JSON: {str(error)[:80]}") from None
    return value


class _Pieces:
    """Reads a large object, and holds no more of it than a piece of the text and what its items were converted to."""

    #: No more items of all lists together are read.
    MOST_ITEMS = 1_000_000
    _PIECE = 1 << 18

    def __init__(self, data: bytes, items: Mapping[str, Callable[[Json], Json]]) -> None:
        import re
        from json import JSONDecoder

        self._scan = JSONDecoder().raw_decode
        self._white = re.compile(r"[ \t\n\r]*").match
        self._data, self._items = data, items
        self._text, self._at, self._taken = "", 0, 0
        self._count = 0

    def read(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        self._expect("{")
        while True:
            name = self._value(_MAX_ITEM)
            self._expect(":")
            if not isinstance(name, str):
                raise ValueError("a name is no text")
            found[name] = self._list(self._items.get(name)) if self._next() == "[" else self._value(_AT_ONCE)
            if self._expect(",}") == "}":
                break
        if self._next():
            raise ValueError("more follows")
        return found

    def _list(self, convert: Callable[[Json], Json] | None) -> Json:
        """The items converted; the first error where one could not be."""
        found: Items | Exception = Items()
        self._expect("[")
        if self._next() == "]":
            self._expect("]")
            return found
        while True:
            self._count += 1
            if self._count > self.MOST_ITEMS:
                raise ValueError(f"more than {self.MOST_ITEMS} entries")
            item = self._value(_MAX_ITEM)
            if convert is not None and isinstance(found, Items):
                try:
                    found.append(convert(item))
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    found = error
            if self._expect(",]") == "]":
                return found

    def _next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            match = self._white(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, characters: str) -> str:
        char = self._next()
        if not char or char not in characters:
            raise ValueError(f"{char!r} where one of {characters!r} belongs")
        self._at += 1
        return char

    def _value(self, most: int) -> Json:
        """The value that follows, of at most so many characters."""
        self._next()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                # A number that ends with the piece may go on in the next.
                if end < len(self._text) or self._taken == len(self._data):
                    break
            except ValueError:
                if self._taken == len(self._data) or len(self._text) - self._at > most:
                    raise
            self._more()
        if end - self._at > most:
            raise ValueError(f"a value of {end - self._at} characters")
        self._at = end
        return value

    def _more(self) -> bool:
        """Take another piece into the text; False where all was taken."""
        from _codecs import utf_8_decode

        piece = self._data[self._taken : self._taken + self._PIECE]
        text, taken = utf_8_decode(piece, "strict", self._taken + len(piece) == len(self._data))
        self._text, self._at = self._text[self._at :] + text, 0
        self._taken += taken
        return bool(piece)


class _Defaults:
    """The options that `json.loads` gives its scanner by default."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = {name: float(name) for name in ("NaN", "Infinity", "-Infinity")}.__getitem__


def _read(data: bytes) -> Json | None:
    """What the scanner in C reads, which needs little of `json`; None where `json` has to say what is wrong."""
    try:
        from _json import make_scanner

        text = data.decode("utf-8").strip(" \t\n\r")
        value, end = make_scanner(_Defaults)(text, 0)  # type: ignore[arg-type]  # any object with these
    except Exception:
        return None
    return value if end == len(text) else None


def path_to_json(path: bytes) -> dict[str, Json]:
    """A path as JSON: text, and base64 beside it where the bytes are not UTF-8."""
    try:
        return {"path": path.decode("utf-8")}
    except UnicodeDecodeError:
        import binascii

        encoded = binascii.b2a_base64(path, newline=False).decode("ascii")
        return {"path": path.decode("utf-8", "backslashreplace"), "path_base64": encoded}


def text_to_json(text: str) -> str:
    """A name as valid Unicode: undecodable bytes (surrogates) become `\\xNN`."""
    return _encoded(text).decode("utf-8", "backslashreplace")


def clean_text(value: str) -> str:
    """A caller's value as valid Unicode: bytes that are not UTF-8 become U+FFFD."""
    return _encoded(value).decode("utf-8", "replace")


def _encoded(text: str) -> bytes:
    """UTF-8 with undecodable bytes as they were; another lone surrogate, which JSON can hold, is a question mark."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
