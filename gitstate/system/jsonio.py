"""JSON objects to and from UTF-8, without importing `json`, which takes as long as four git processes."""

from __future__ import annotations

from ..errors import BadJson
from .stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any as Json
else:
    Json = object


__all__ = ["Json", "dumps", "loads"]

_ESCAPES = {number: f"\\u{number:04x}" for number in range(32)}
_ESCAPES |= {ord(char): f"\\{letter}" for char, letter in zip('"\\\b\f\n\r\t', '"\\bfnrt', strict=True)}


def dumps(value: Mapping[str, Json]) -> bytes:
    """Indented JSON with a final newline; what is not valid Unicode becomes a question mark."""
    out: list[str] = []
    _write(value, "\n", out)
    out.append("\n")
    return "".join(out).encode("utf-8", "replace")


def _write(value: Json, margin: str, out: list[str]) -> None:
    if isinstance(value, str):
        out.append(f'"{value.translate(_ESCAPES)}"')
    elif value is None or value is True or value is False:
        out.append("null" if value is None else "true" if value else "false")
    elif type(value) is int:
        out.append(str(value))
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
    elif isinstance(value, list | tuple):
        inner = margin + " "
        before = "[" + inner
        for item in value:
            out.append(before)
            _write(item, inner, out)
            before = "," + inner
        out.append(margin + "]")
    else:
        import json

        out.append(json.dumps(value))


def loads(data: bytes | None, limit: int, what: str) -> dict[str, Json]:
    """A JSON object of at most `limit` bytes. Raises BadJson for anything else; `what` names it in the message."""
    if data is None or len(data) > limit:
        raise BadJson(f"{what} is missing or larger than {limit} bytes")
    value = _read(data)
    if value is None:
        import json

        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadJson(f"{what} is not JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise BadJson(f"{what} is not a JSON object")
    return value


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
