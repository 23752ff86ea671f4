"""A signal that comes while a command is started: the command is told, and whoever started it dies of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hooks.stage import Stage
from tests.support.agents import PATIENCE

#: Whoever starts a command gets SIGTERM when that is ready, and before it knows the pid of the command.
LATE = """\
import os, signal, subprocess, sys, time
sys.argv[0] = "gitstate"
class Late(subprocess.Popen):
    def __init__(self, argv, *args, **more):
        super().__init__(argv, *args, **more)
        if {word!r} in argv:
            while not os.path.exists({ready!r}):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
subprocess.Popen = Late
"""


def test_signal_that_comes_while_a_run_is_started_ends_the_loop(stage: Stage) -> None:
    stage.tasks.write_text("T-1\n")
    script = LATE.format(word="run", ready=os.fspath(stage.directory / "ready"))
    script += "from gitstate.__main__ import main\nmain()"
    loop = stage.start([sys.executable, "-c", script, "loop", "kimi", "--tasks", str(stage.tasks)])
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert stage.context()["reason"] == {"signal": "TERM", "exit_code": None, "detail": None}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_that_comes_while_a_command_is_started_reaches_it(tmp_path: Path, number: signal.Signals) -> None:
    ready, told = tmp_path / "ready", tmp_path / "told"
    command = f"trap 'touch {told}; exit 1' TERM INT; touch {ready}; while :; do sleep 0.05; done"
    script = LATE.format(word="sh", ready=os.fspath(ready)).replace("SIGTERM", number.name)
    script += "from gitstate.loops.start import wait_for\nwait_for(sys.argv[1:])"
    started = subprocess.run([sys.executable, "-c", script, "sh", "-c", command], capture_output=True, timeout=PATIENCE)
    assert started.returncode == -number and told.exists(), started
