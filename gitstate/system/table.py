"""Rows in aligned columns, for people."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Sequence
from typing import TextIO

_LEAST = 8


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Lines of aligned columns below a header. The caller has escaped the cells.

    Where a line is wider than `width` columns, the widest cells are cut, but not those of the first column; None cuts
    nothing.
    """
    cells = [header, *rows]
    widths = [max(_columns(row[number]) for row in cells) for number in range(len(header))]
    while width is not None and sum(widths) + 2 * len(widths) - 2 > width:
        widest = max(range(1, len(widths)), key=lambda number: widths[number])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    return ["  ".join(_fitted(cell, size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells]


def terminal_width(stream: TextIO | None) -> int | None:
    """The width of the terminal that a stream writes to, in columns; None where it is none."""
    with contextlib.suppress(OSError, ValueError):
        if stream is not None and stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or None
    return None


def _fitted(cell: str, size: int) -> str:
    """A cell padded to `size` columns. A wider one loses its middle, because paths differ at their ends."""
    if _columns(cell) > size:
        tail = (size - 1) * 2 // 3
        first, last = cell, cell
        while _columns(first) > size - 1 - tail:
            first = first[:-1]
        while _columns(last) > tail:
            last = last[1:]
        cell = f"{first}…{last}"
    return cell + " " * (size - _columns(cell))


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
