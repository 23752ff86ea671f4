"""`recover --all` on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.states import STATES, dirty, make
from tests.support.repositories import Templates
from tests.support.terminal import columns


def recover_all(templates: Templates, tmp_path: Path, kind: str) -> str:
    """What `recover --all` prints on a terminal of this kind, which is 60 columns wide."""
    ws = make(STATES["clean"], templates, tmp_path)
    dirty(ws)
    ws.save()
    ours, theirs = pty.openpty()
    argv = [
        sys.executable,
        "-c",
        "import fcntl, struct, termios, sys, os\n"
        "fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 60, 0, 0))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'gitstate', 'recover', '--all'])",
    ]
    process = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=theirs, cwd=tmp_path, env=os.environ | {"TERM": kind}
    )
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
    return said.decode()


def test_recover_all_fits_the_terminal_and_shows_progress(templates: Templates, tmp_path: Path) -> None:
    text = recover_all(templates, tmp_path, "xterm")
    assert "1 of 1 workspaces" in text
    lines = text.rpartition("\x1b[K")[2].splitlines()
    assert lines[0].startswith("VERDICT") and lines[-1] == "1 workspace: 1 restore"
    assert max(map(columns, lines)) <= 60


def test_terminal_without_control_sequences_gets_none(templates: Templates, tmp_path: Path) -> None:
    text = recover_all(templates, tmp_path, "dumb")
    assert "\x1b" not in text and text.startswith("VERDICT"), text
