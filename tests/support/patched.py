"""Run gitstate with one patch: a call that fails or is slow in a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection

from tests.support.workspace import Run, Workspace

PATCHED = """\
import os, sys
import gitstate.system.process, gitstate.save.publish
{}
from gitstate.__main__ import main
main()
"""


def patched(
    ws: Workspace, patch: str, *args: str, inherits: Collection[int] = ()
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PATCHED.format(patch), "-C", os.fspath(ws.path), *args]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, pass_fds=inherits)


def patient(ws: Workspace, *args: str) -> Run:
    """A command with a deadline, where machine and disk may stall: none that is late is taken for one that hangs."""
    patch = "import gitstate.orders.late, gitstate.system.process\ngitstate.orders.late._MARGIN = 50.0"
    done = patched(ws, f"{patch}\ngitstate.system.process._HELD = 1 << 30", *args)
    return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))
