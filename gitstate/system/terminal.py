"""Words for people on a terminal: escaped, and never a reason to fail.

Everything that came from a context, a file name or a repository is escaped, so that it can't steer a terminal. A
terminal that is gone (EIO, a closed pipe) never turns success into failure: what is printed comes after the work is
durable.
"""

from __future__ import annotations

import os
import sys

from .jsonio import text_to_json
from .stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from typing import TextIO


def escape(text: str | bytes) -> str:
    """Text that is safe on a terminal: control characters and undecodable bytes stand as escapes."""
    plain = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text_to_json(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)


def say(*lines: str) -> None:
    """Words for people, on stderr; each line is escaped."""
    _print(sys.stderr, "".join(escape(line) + "\n" for line in lines))


def _print(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.buffer.write(text.encode("utf-8", "backslashreplace"))
        stream.buffer.flush()
    except (OSError, ValueError):
        _give_up(stream)


def _give_up(stream: TextIO) -> None:
    """Nothing more can be said here: what is still buffered goes nowhere, else Python ends with status 120 for it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def progress(done: int, total: int) -> None:
    """How far many recoveries are, on a line that is written over; only on a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        end = "\r\x1b[K" if done >= total else ""
        _print(sys.stderr, f"\r{done} of {total} workspaces {end}")


def escape_lines(text: str) -> str:
    """A text of several lines, safe for a terminal line by line; tabs stay."""
    return "\n".join("\t".join(escape(cell) for cell in line.split("\t")) for line in text.split("\n"))


def write_patch(text: str) -> None:
    """A patch on stdout: its very bytes where a program reads them, escaped on a terminal."""
    if sys.stdout.isatty():
        _print(sys.stdout, escape_lines(text))
    else:
        try:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _give_up(sys.stdout)
