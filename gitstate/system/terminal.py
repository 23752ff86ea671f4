"""Text on a terminal: escaped, and never a reason to fail.

What came from a context, a file name or a repository is escaped, so that it can't control a terminal. Printing to a
terminal that is gone (EIO, a closed pipe) raises nothing: the work is durable before anything is printed.
"""

from __future__ import annotations

import os
import sys

from .jsonio import text_to_json
from .stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from typing import TextIO


def escape(text: str | bytes) -> str:
    """Text that is safe on a terminal: control characters and undecodable bytes are escaped."""
    plain = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text_to_json(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)


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
        _give_up(stream)


def _give_up(stream: TextIO) -> None:
    """Let what is still buffered go to /dev/null: at its end Python flushes it, and a failure means status 120."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def progress(done: int, total: int) -> None:
    """Show how many of many workspaces are done, on a line that is overwritten; only on a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        end = "\r\x1b[K" if done >= total else ""
        print_to(sys.stderr, f"\r{done} of {total} workspaces {end}")


def escape_lines(text: str) -> str:
    """A text of several lines, safe for a terminal line by line; tabs stay."""
    return "\n".join("\t".join(escape(cell) for cell in line.split("\t")) for line in text.split("\n"))


def write_patch(text: str) -> None:
    """Print a patch on stdout: escaped on a terminal, byte for byte elsewhere."""
    if sys.stdout.isatty():
        print_to(sys.stdout, escape_lines(text))
    else:
        try:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _give_up(sys.stdout)
