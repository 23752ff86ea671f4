"""The whole of a terminal, on which only what changed is written anew.

What must be put back is put back: the echo, the caret, lines that wrap, and what was printed before.
"""

from __future__ import annotations

import os
import select
import sys

from ...system.stdlib import TYPE_CHECKING, signal, suppress
from ...system.terminal import clipped, has_colours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

Line = list[tuple[int, str, str]]
"""What stands on one line of the screen: column from 0, style (a number of `SGR`, or empty) and text of each cell."""


class Screen:
    """The whole of the terminal, while the body runs: without echo and caret, and without lines that wrap.

    Each cell is placed at its own column: a character that the terminal finds wider than we do moves no other cell.
    """

    #: Another screen, which leaves what was printed before as it is; no wrapped lines; no caret. And back.
    _ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l"
    _LEAVE = "\x1b[m\x1b[?7h\x1b[?25h\x1b[?1049l"
    #: A terminal that knows this shows all that stands between at once.
    _BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"

    def __init__(self, has_keys: bool) -> None:
        """`has_keys`: stdin is a terminal, too."""
        self._has_keys = has_keys
        self._colours = has_colours(sys.stdout)
        self._shown: list[str] | None = None
        self._size = (0, 0)
        self._told: set[int] = set()
        self._pipe = os.pipe()
        self._old: dict[int, Any] = {}
        self._mode: list[Any] | None = None

    def __enter__(self) -> Screen:
        return self

    def begin(self) -> None:
        """Take the terminal, inside the body: a signal that ends it meanwhile must leave the terminal as it was."""
        for fd in self._pipe:
            os.set_blocking(fd, False)
        for number in (signal.SIGWINCH, signal.SIGTSTP):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._old[number] = signal.signal(number, lambda number, _: self._told.add(number))
        # A signal between a look at `_told` and the wait must end the wait.
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._enter()

    def __exit__(self, *_: object) -> None:
        try:
            with suppress(OSError):
                self._leave()
        except BaseException:
            # A signal came meanwhile.
            with suppress(OSError):
                self._leave()
            raise
        signal.set_wakeup_fd(-1)
        for number, old in self._old.items():
            signal.signal(number, old)
        for fd in self._pipe:
            os.close(fd)

    def _enter(self) -> None:
        self._shown = None
        if self._has_keys:
            import termios

            with suppress(termios.error):
                self._mode = termios.tcgetattr(0)
                mode = termios.tcgetattr(0)
                mode[3] &= ~(termios.ECHO | termios.ICANON)
                mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
                termios.tcsetattr(0, termios.TCSANOW, mode)
        _write(self._ENTER)

    def _leave(self) -> None:
        try:
            _write(f"{self._END}\x1b[{self.size()[1]};1H{self._LEAVE}")
        finally:
            if self._mode is not None:
                import termios

                with suppress(termios.error):
                    termios.tcsetattr(0, termios.TCSANOW, self._mode)
                self._mode = None

    def size(self) -> tuple[int, int]:
        """Columns and lines of the terminal; 80 and 24 where it does not tell."""
        with suppress(OSError):
            columns, lines = os.get_terminal_size(1)
            if columns > 0 and lines > 0:
                return columns, lines
        return 80, 24

    def show(self, lines: Sequence[Line]) -> None:
        """Bring these lines to the screen. Only those that differ from what is there are written."""
        size = self.size()
        if size != self._size:
            # The terminal moves what it showed, and tells of it a moment later.
            self._shown, self._size = None, size
        width = size[0]
        new = [self._text(line, width) for line in lines]
        old = self._shown or []
        out = ["\x1b[m\x1b[2J"] if self._shown is None else []
        for number, text in enumerate(new):
            if number >= len(old) or old[number] != text:
                out.append(f"\x1b[{number + 1};1H\x1b[K{text}")
        if len(new) < len(old):
            out.append(f"\x1b[{len(new) + 1};1H\x1b[J")
        if out:
            _write("".join([self._BEGIN, *out, self._END]))
        self._shown = new

    def _text(self, line: Line, width: int) -> str:
        parts = []
        for number, (start, style, cell) in enumerate(line):
            text = clipped(cell, width - start)
            if number and text:
                # What the terminal showed beyond the end of the cell before is gone.
                parts.append(f"\x1b[{start + 1}G\x1b[K")
            parts.append(f"\x1b[{style}m{text}\x1b[m" if style and self._colours else text)
        return "".join(parts)

    def wait(self, seconds: float) -> str:
        """Wait so long; returns `end` where somebody typed `q`, `size` where all must be shown anew, else nothing."""
        if not self._told:
            watched = [self._pipe[0], *([0] if self._has_keys else [])]
            ready = select.select(watched, [], [], seconds)[0]
            if self._pipe[0] in ready:
                with suppress(BlockingIOError):
                    os.read(self._pipe[0], 4096)
            if 0 in ready and "q" in self._keys():
                return "end"
        told, self._told = self._told, set()
        if signal.SIGTSTP in told:
            self._stop()
        if told:
            self._shown = None
        return "size" if told else ""

    def _keys(self) -> str:
        try:
            keys = os.read(0, 4096)
        except OSError:
            keys = b""
        # At its end a terminal can always be read.
        self._has_keys = bool(keys)
        return keys.decode("ascii", "replace").lower()

    def _stop(self) -> None:
        """Ctrl-Z: leave the terminal to the shell, and come back when it lets us go on."""
        self._leave()
        here = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, here)
        self._enter()


def _write(text: str) -> None:
    """Write to the terminal, which another program may have told never to block."""
    view = memoryview(text.encode("utf-8", "backslashreplace"))
    while view:
        try:
            view = view[os.write(1, view) :]
        except BlockingIOError:
            select.select([], [1], [])
