"""Text on a terminal: escaped, and never a reason to fail.

What came from a context, a file name or a repository is escaped, so that it can't control a terminal. Printing to a
terminal that is gone (EIO, a closed pipe) raises nothing: the work is durable before anything is printed. An answer
that a full disk does not take is a failure where the command was called for it alone: half of it would be read.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from .jsonio import text_to_json
from .stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO


class OutputClosed(Exception):
    """Who reads our output has read enough (`gitstate log | head`)."""


def escape(text: str | bytes) -> str:
    """Text that is safe on a terminal: control characters and undecodable bytes are escaped."""
    plain = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text_to_json(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)


def quoted(text: str) -> str:
    """A word of the command line in quotes, safe on a terminal; bytes that are no text as `\\xff`."""
    return repr(text).replace("\\udc", "\\x")


def say(*lines: str) -> None:
    """Print lines for people on stderr, escaped."""
    print_to(sys.stderr, "".join(escape(line) + "\n" for line in lines))


def print_to(stream: TextIO | None, text: str) -> None:
    """Write a text to a stream, and flush it. Raises nothing: a stream that is gone takes no more."""
    if stream is None:
        return
    try:
        stream.buffer.write(text.encode("utf-8", "backslashreplace"))
        stream.buffer.flush()
    except (OSError, ValueError):
        give_up(stream)


#: What a file says that takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def print_answer(text: str) -> None:
    """Write to stdout what the command was called for. Raises OSError where it is a file that takes no more."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    except (OSError, ValueError) as error:
        give_up(sys.stdout)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OSError(error.errno, error.strerror, "stdout") from None


def give_up(stream: TextIO | None) -> None:
    """Let what is still buffered go to /dev/null: at its end Python flushes it, and a failure means status 120."""
    if stream is None:
        return
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Progress:
    """How many of many are done, on a line of stderr that is overwritten; only on a terminal that can do that."""

    #: The line is written anew after this time, in seconds.
    _PAUSE = 0.1

    def __init__(self) -> None:
        self._again = 0.0
        self._shows = sys.stderr is not None and sys.stderr.isatty() and not is_dumb()

    def __call__(self, done: int, total: int, what: str) -> None:
        """`done` of `total` workspaces are done: `what` was done to them. The last one removes the line."""
        if not self._shows or (time.monotonic() < self._again and done < total):
            return
        self._again = time.monotonic() + self._PAUSE
        end = "\r\x1b[K" if done >= total else ""
        print_to(sys.stderr, f"\r\x1b[K{done} of {total} workspaces {what} {end}")


def escape_lines(text: str) -> str:
    """A text of several lines, safe for a terminal line by line; tabs stay."""
    return "\n".join("\t".join(escape(cell) for cell in line.split("\t")) for line in text.split("\n"))


def write_patch(text: str) -> None:
    """Print a patch on stdout: escaped on a terminal, byte for byte elsewhere."""
    if sys.stdout is None:
        return
    if sys.stdout.isatty():
        print_to(sys.stdout, escape_lines(text))
    else:
        try:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            give_up(sys.stdout)


_LEAST = 8


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Lines of aligned columns below a header. The caller has escaped the cells.

    Where a line is wider than `width` columns, the widest cells are cut, but not those of the first column; None cuts
    nothing.
    """
    return ["  ".join(row).rstrip() for row in aligned(header, rows, width)[0]]


def aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None
) -> tuple[list[list[str]], list[int]]:
    """The cells of `table`, padded to the widths of their columns, and these widths. Two blanks part the columns."""
    cells = [header, *rows]
    widths = [max(columns(row[number]) for row in cells) for number in range(len(header))]
    while width is not None and sum(widths) + 2 * len(widths) - 2 > width:
        widest = max(range(1, len(widths)), key=lambda number: widths[number])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    return [[_fitted(cell, size) for cell, size in zip(row, widths, strict=True)] for row in cells], widths


def terminal_width(stream: TextIO | None) -> int | None:
    """The width of the terminal that a stream writes to, in columns; None where it is none."""
    with suppress(OSError, ValueError):
        if stream is not None and stream.isatty():
            return os.get_terminal_size(stream.fileno()).columns or None
    return None


def is_dumb() -> bool:
    """Whether the terminal prints control sequences as they are, as that of an editor's shell does."""
    return os.environ.get("TERM", "dumb") in ("", "dumb")


def has_colours(stream: TextIO | None) -> bool:
    """Whether a stream writes to a terminal that shows colours, and nobody forbade them (https://no-color.org)."""
    with suppress(OSError, ValueError):
        plain = os.environ.get("NO_COLOR") or is_dumb()
        return stream is not None and stream.isatty() and not plain
    return False


def _fitted(cell: str, size: int) -> str:
    """A cell padded to `size` columns. A wider one loses its middle, because paths differ at their ends."""
    width = columns(cell)
    if width > size:
        tail = (size - 1) * 2 // 3
        last = clipped(cell[::-1], tail)[::-1]
        cell = f"{clipped(cell, size - 1 - tail)}…{last}"
        width = columns(cell)
    return cell + " " * (size - width)


def clipped(text: str, width: int) -> str:
    """The beginning of a text that takes at most `width` columns."""
    if text.isascii():
        return text[: max(0, width)]
    for number, c in enumerate(text):
        width -= columns(c)
        if width < 0:
            return text[:number]
    return text


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0
        if unicodedata.category(c) in ("Mn", "Me")
        # Vowels and final consonants of Hangul, which join the syllable before them.
        or "\u1160" <= c <= "\u11ff"
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )


def counted(number: int, what: str) -> str:
    """A number of things in words.

    >>> counted(1, "save"), counted(2, "save")
    ('1 save', '2 saves')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def first_of(shown: Sequence[str], count: int) -> str:
    """The first of `count` items on one line, and how many more there are."""
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")
