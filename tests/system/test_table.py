"""Tables for people: aligned, as wide as the terminal, whatever the words are made of."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from gitstate.table import table
from tests.states import STATES, Templates, dirty, make

ROWS = [["waiting", "/a/very/long/path/to/some/workspace", "main", "T-1"], ["idle", "/b", "日本語", "T-2"]]
HEADER = ("STATUS", "WORKSPACE", "BRANCH", "TASK")


def columns(line: str) -> int:
    return sum(2 if ord(c) > 0x2E80 else 1 for c in line)


def test_columns_are_aligned() -> None:
    lines = table(HEADER, ROWS, None)
    assert [line.split()[0] for line in lines] == ["STATUS", "waiting", "idle"]
    last = zip(lines, ("TASK", "T-1", "T-2"), strict=True)
    assert len({columns(line[: line.rindex(word)]) for line, word in last}) == 1


def test_what_is_too_wide_loses_its_middle() -> None:
    lines = table(HEADER, ROWS, 40)
    assert max(map(columns, lines)) <= 40
    assert "…" in lines[1] and lines[1].startswith("waiting  /") and "space  main" in lines[1]


def test_on_a_terminal_recover_all_fits_and_shows_how_far_it_is(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    ws.save()
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-c", "import fcntl, struct, termios, sys, os\n"
            "fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 60, 0, 0))\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'gitstate', 'recover', '--all'])"]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    said = b""
    try:
        while data := os.read(ours, 4096):
            said += data
    except OSError:
        # The other end of a pty that is closed reads as EIO.
        pass
    assert process.wait() == 0
    os.close(ours)
    text = said.decode()
    assert "1 of 1 workspaces" in text
    lines = text.rpartition("\x1b[K")[2].splitlines()
    assert lines[0].startswith("VERDICT") and lines[-1] == "1 workspace: 1 restore"
    assert max(map(columns, lines)) <= 60
