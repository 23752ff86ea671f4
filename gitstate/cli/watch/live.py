"""`status --watch` and `status --prometheus`: a live table of many workspaces, and a file of metrics kept current.

On a terminal the table takes the whole screen, and only the cells that changed are written. Elsewhere each look prints
a plain table.
"""

from __future__ import annotations

import gc
import os
import sys
import time

from ...errors import EXIT_DONE, GitstateError, words_of
from ...fleet.board import Row, Watched, read_rows, worst_first
from ...fleet.prometheus import metrics, write_metrics
from ...system.stdlib import TYPE_CHECKING, Record, signal, suppress
from ...system.terminal import OutputClosed, Progress, aligned, clipped, escape, is_dumb, say, table
from .screen import Line, Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

#: No more of a cell is looked at: agents write what they like.
_LONGEST_CELL = 512
#: The share of one core that printing, or writing the file, may take.
_SHARE = 0.1
_HEADER = ("STATE", "COPY", "AGENT", "TASK", "STAGE", "WORKSPACE")
#: Columns that a narrow screen does without.
_AGENT, _STAGE = _HEADER.index("AGENT"), _HEADER.index("STAGE")
_COLOURS = {
    **dict.fromkeys(("damaged", "unreadable", "failing", "crashed"), "31"),
    **dict.fromkeys(("interrupted", "unreachable", "foreign", "missing", "no_repository"), "33"),
    "active": "32",
    **dict.fromkeys(("idle", "finished"), "2"),
}


class WatchQuery(Record):
    """What to look at, and where to write it."""

    find: Callable[[], list[bytes]]
    """Returns the paths of the workspaces, which come and go."""
    interval: float
    """Seconds between two looks."""
    metrics: bytes | None = None
    """The file that the metrics are written to, `-` for stdout; None where nobody wants them."""
    as_json: Callable[[], bytes] | None = None
    """Looks at the workspaces, and returns what to print; None for a table."""


def write_once(query: WatchQuery) -> int:
    """Write the file of metrics once, for cron: nothing is printed."""
    paths = query.find()
    progress = Progress()
    rows = worst_first(read_rows(paths, lambda done: progress(done, len(paths), "looked at")))
    if query.metrics == b"-":
        _print(metrics(rows, time.time_ns()).encode("utf-8", "backslashreplace"))
    elif query.metrics is not None:
        _write_metrics(query.metrics, rows)
    if query.as_json is not None:
        _print(query.as_json())
    return EXIT_DONE


def watch(query: WatchQuery) -> int:
    """Look again and again, until a signal or, on a terminal, `q` ends it.

    Returns 130 after Ctrl-C, and dies of any other signal.
    """
    # This process lives long.
    gc.enable()
    try:
        with _Endings():
            if query.as_json is None and _is_screen(sys.stdout):
                _watch_on_screen(query)
            else:
                _watch_plainly(query)
    except _Ended as ended:
        number = ended.number
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # As process 1 of a container nobody dies of a signal.
        return 128 + number
    return EXIT_DONE


def _write_metrics(path: bytes, rows: Sequence[Row]) -> None:
    """Raises GitstateError where the file can't be written."""
    try:
        write_metrics(path, rows, time.time_ns())
    except OSError as error:
        # Another name in its words is that of a temporary file.
        problem = f"{escape(path)} can't be written: {error.strerror or words_of(error)}"
        raise GitstateError(problem, hint="name a regular file, or a new one, in a directory of yours") from None


class _Ended(BaseException):
    """A signal came that ends the watch, wherever it is."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Endings:
    """Lets signals end the watch in such a way that the terminal is put back. What the caller ignores stays ignored."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

    def __enter__(self) -> None:
        known = {number: signal.getsignal(number) for number in self._NUMBERS}
        self._old = {number: old for number, old in known.items() if old not in (None, signal.SIG_IGN)}
        for number in self._old:
            signal.signal(number, self._end)

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _end(self, number: int, _: FrameType | None) -> None:
        # Whoever puts things back is not disturbed by a second one.
        for one in self._old:
            signal.signal(one, signal.SIG_IGN)
        raise _Ended(number)


class _Metrics:
    """Keeps the file of metrics current, as far as its share of the processor goes."""

    def __init__(self, path: bytes | None) -> None:
        self.problem: str | None = None
        self._path = path
        self._again = 0.0
        self._is_first = True

    def write(self, rows: Sequence[Row]) -> None:
        """Write the file. Raises GitstateError the first time; later failures are kept in `problem`."""
        if self._path is None or time.monotonic() < self._again:
            return
        begun = time.process_time()
        try:
            _write_metrics(self._path, rows)
            self.problem = None
        except GitstateError as error:
            if self._is_first:
                raise
            self.problem = error.message
        self._is_first = False
        self._again = time.monotonic() + (time.process_time() - begun) / _SHARE


# -- where there is no screen


def _watch_plainly(query: WatchQuery) -> None:
    """Print each look as a whole. With a file of metrics nothing is printed, but what is wrong with it, on stderr."""
    watched, file = Watched(query.find, query.interval), _Metrics(query.metrics)
    said: str | None = None
    while True:
        begun, spent = time.monotonic(), time.process_time()
        if query.as_json is not None:
            _print(query.as_json())
        if query.as_json is None or query.metrics is not None:
            watched.look()
            rows = watched.rows()
            file.write(rows)
            problem = watched.problem or file.problem
            if problem not in (None, said):
                say(f"gitstate: {problem}")
            said = problem
            if query.metrics is None:
                _print(_block(rows))
        spent = time.process_time() - spent
        time.sleep(max(query.interval - (time.monotonic() - begun), spent / _SHARE - spent, 0.0))


def _print(data: bytes) -> None:
    """Raises OutputClosed where nobody reads any more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise OutputClosed from None


def _block(rows: Sequence[Row]) -> bytes:
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    lines = [f"{now} {_counts(rows)}", *table(_HEADER, [_cells(row) for row in rows], None), ""]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _counts(rows: Sequence[Row]) -> str:
    states = [row.state for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    total = "1 workspace" if len(rows) == 1 else f"{len(rows)} workspaces"
    return total + (f": {counts}" if counts else "")


def _cells(row: Row) -> list[str]:
    return [row.state, _age(row.copied_ns), *map(_cell, (row.agent, row.task, row.stage, row.workspace))]


def _cell(text: str | bytes | None) -> str:
    if not text:
        return "-"
    if len(text) > _LONGEST_CELL:
        # What a file name ends with tells more than its middle.
        half = _LONGEST_CELL // 2
        return f"{escape(text[:half])}…{escape(text[-half:])}"
    return escape(text)


def _age(copied_ns: int | None) -> str:
    """How old the newest copy is, in at most four columns."""
    if copied_ns is None:
        return "-"
    seconds = max(0, time.time_ns() - copied_ns) // 1_000_000_000
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{min(seconds // size, 999)}{unit}"
    return f"{seconds}s"


# -- on a screen


def _is_screen(stream: object) -> bool:
    """Whether stdout is a terminal on which text can be placed."""
    with suppress(OSError, ValueError):
        return os.isatty(1) and stream is not None and not is_dumb()
    return False


def _watch_on_screen(query: WatchQuery) -> None:
    watched, file = Watched(query.find, query.interval), _Metrics(query.metrics)
    with Screen(os.isatty(0)) as screen:
        screen.begin()
        total = 0

        def begins(number: int) -> None:
            nonlocal total
            total = number

        def progress(done: int) -> None:
            screen.show([[(0, "", f"{done} of {total} workspaces looked at")]])

        progress_at_first: Callable[[int], None] | None = progress
        while True:
            begun = time.monotonic()
            watched.look(begins, progress_at_first)
            progress_at_first = None
            spent = time.process_time()
            rows = watched.rows()
            file.write(rows)
            problem = watched.problem or file.problem
            if problem is None and watched.oldest() > query.interval + 2:
                problem = f"a look at all {total} workspaces takes {_age(time.time_ns() - int(watched.oldest() * 1e9))}"
            screen.show(frame(rows, screen.size(), problem))
            until = begun + max(query.interval, (time.process_time() - spent) / _SHARE)
            while (left := until - time.monotonic()) > 0:
                told = screen.wait(left)
                if told == "end":
                    return
                if told == "size":
                    screen.show(frame(rows, screen.size(), problem))


def frame(rows: Sequence[Row], size: tuple[int, int], problem: str | None) -> list[Line]:
    """The lines of a screen of so many columns and lines: the first rows, and how many more there are."""
    width, height = size
    lines: list[Line] = []
    room = height - 2 - (problem is not None)
    shown = rows if len(rows) <= room else rows[: max(0, room - 1)]
    clock = time.strftime("%H:%M:%S")
    counts = _counts(rows)
    if width > 40:
        # A blank before the time stays.
        lines.append([(0, "1", clipped(counts, width - len(clock) - 1)), (width - len(clock), "2", clock)])
    else:
        lines.append([(0, "1", counts)])
    left_out = [number for number, least in ((_AGENT, 48), (_STAGE, 60)) if width < least]
    kept = [number for number in range(len(_HEADER)) if number not in left_out]
    table_of = [[cells[number] for number in kept] for cells in (_HEADER, *map(_cells, shown))]
    cells, widths = aligned(table_of[0], table_of[1:], width)
    starts = [sum(widths[:number]) + 2 * number for number in range(len(widths))]
    for number, row in enumerate(cells):
        first = "1" if number == 0 else _COLOURS.get(shown[number - 1].state, "")
        styles = [first, *["1" if number == 0 else ""] * (len(row) - 1)]
        lines.append(list(zip(starts, styles, row, strict=True)))
    if len(shown) < len(rows):
        lines.append([(0, "2", f"and {len(rows) - len(shown)} more")])
    if problem is not None:
        lines.append([(0, "31", problem)])
    return lines[:height]
