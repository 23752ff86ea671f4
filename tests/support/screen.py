"""A terminal: a program runs on it, and the test sees what a person would see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import termios
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support.agents import PATIENCE
from tests.support.workspace import GITSTATE

_CONTROL = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|[\r\n]")
#: The modes of a terminal that programs are given: lines wrap, the cursor is seen.
_ORDINARY = {"7": True, "25": True}


class Emulator:
    """What a terminal shows, for the few sequences that are known here: any other one is an error.

    `wide` are characters that this terminal shows in two columns, whatever Unicode says.
    """

    def __init__(self, columns: int, lines: int, wide: str = "") -> None:
        self.columns, self.lines, self.wide = columns, lines, wide
        self.modes = dict(_ORDINARY)
        self.cells: dict[tuple[int, int], str] = {}
        self.line = self.column = 0
        self._held: list[str] = []

    def feed(self, text: str) -> None:
        """Show what a program writes."""
        while text:
            found = _CONTROL.search(text)
            for c in text[: found.start()] if found else text:
                self._put(c)
            if found is None:
                return
            if found[0] == "\r":
                self.column = 0
            elif found[0] == "\n":
                self.line = min(self.line + 1, self.lines - 1)
            else:
                self._control(found[1], found[2], found[3])
            text = text[found.end() :]

    def _put(self, c: str) -> None:
        assert c.isprintable() or unicodedata.category(c) in ("Mn", "Me"), f"{c!r} on the screen"
        size = self._size(c)
        if size == 0:
            before = (self.line, max(0, self.column - 1))
            self.cells[before] = self.cells.get(before, " ") + c
            return
        if self.column + size > self.columns:
            if self.modes["7"]:
                self.line, self.column = min(self.line + 1, self.lines - 1), 0
            else:
                self.column = self.columns - size
        self.cells[self.line, self.column] = c
        if size == 2:
            self.cells[self.line, self.column + 1] = ""
        self.column = min(self.column + size, self.columns - (not self.modes["7"]))

    def _size(self, c: str) -> int:
        if unicodedata.category(c) in ("Mn", "Me"):
            return 0
        return 2 if c in self.wide or unicodedata.east_asian_width(c) in "WF" else 1

    def _control(self, private: str, numbers: str, kind: str) -> None:
        first = int(numbers.split(";")[0] or 0) if not private else 0
        if private:
            assert kind in "hl", (private, numbers, kind)
            if (numbers, kind) == ("2026", "h"):
                self._held = self._lines()
            self.modes[numbers] = kind == "h"
        elif kind == "H":
            line, _, column = numbers.partition(";")
            self.line, self.column = int(line or 1) - 1, int(column or 1) - 1
        elif kind == "G":
            self.column = first - 1
        elif kind == "K":
            self._clear(lambda line, column: line == self.line and column >= self.column)
        elif kind == "J":
            everything = first == 2
            self._clear(lambda line, column: everything or (line, column) >= (self.line, self.column))
        else:
            assert kind == "m", (numbers, kind)

    def _clear(self, is_in: Callable[[int, int], bool]) -> None:
        self.cells = {place: c for place, c in self.cells.items() if not is_in(*place)}

    def text(self) -> list[str]:
        """The lines as they are seen, without blanks at their ends."""
        # Between the two words of mode 2026 a terminal shows what it showed before.
        return self._held if self.modes.get("2026") else self._lines()

    def _lines(self) -> list[str]:
        shown = range(self.columns)
        lines = ["".join(self.cells.get((line, column), " ") for column in shown) for line in range(self.lines)]
        return [line.rstrip() for line in lines]


class OnTerminal:
    """gitstate on a terminal of its own."""

    def __init__(
        self,
        *words: str,
        cwd: Path,
        columns: int = 80,
        lines: int = 24,
        wide: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = Emulator(columns, lines, wide)
        self.written = b""
        self._fed = 0
        ours, theirs = os.openpty()
        self.fd = ours
        self.resize(columns, lines, tell=False)
        self.mode = termios.tcgetattr(theirs)
        self.pid = pty_process([*GITSTATE, *words], theirs, cwd, env or {})
        # Kept open, so that what was written is still there when the program has ended.
        self._theirs = theirs

    def resize(self, columns: int, lines: int, *, tell: bool = True) -> None:
        """Another size, of which the kernel tells the program."""
        self.screen.columns, self.screen.lines = columns, lines
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if tell:
            os.kill(self.pid, signal.SIGWINCH)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def drain(self) -> None:
        """Show what was written since."""
        with contextlib.suppress(OSError):
            while select.select([self.fd], [], [], 0)[0]:
                self.written += os.read(self.fd, 65_536)
        new = self.written[self._fed :]
        # A character, or a sequence, may have come in part.
        whole = re.sub(rb"(\x1b(\[[?0-9;]*)?|[\xc0-\xff][\x80-\xbf]*)\Z", b"", new)
        self.screen.feed(whole.decode("utf-8"))
        self._fed += len(whole)

    def until(self, condition: Callable[[list[str]], object], what: str) -> list[str]:
        """Wait until the lines on the screen are so; returns them."""
        end = time.monotonic() + PATIENCE
        while True:
            self.drain()
            if condition(self.screen.text()):
                return self.screen.text()
            shown = "\n".join(self.screen.text()).rstrip()
            assert time.monotonic() < end, f"waited in vain for {what}:\n{shown}"
            time.sleep(0.01)

    def wait(self) -> int:
        """The exit status, or the negative number of the signal that it died of."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.drain()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.drain()
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise AssertionError(f"still running: {self.written[-500:]!r}")

    def mode_now(self) -> list[object]:
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)
        os.close(self._theirs)


def pty_process(argv: list[str], terminal: int, cwd: Path, env: Mapping[str, str]) -> int:
    """Start a program whose controlling terminal this is."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            for number in range(3):
                os.dup2(terminal, number)
            os.chdir(cwd)
            os.execve(argv[0], argv, {**os.environ, "TERM": "xterm-256color", **env})
        finally:
            os._exit(127)
    return pid
