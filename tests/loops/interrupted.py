"""An agent that was killed in the middle of its work, and what it was started with since."""

from __future__ import annotations

import signal
import sys

from tests.conversation.talk import SESSION
from tests.hooks.stage import Stage
from tests.support.agents import PATIENCE, wait_until

AGENT = """\
#!/bin/sh
printf '%s\\0' "$@" >>"$STAGE/arguments"; printf '\\n' >>"$STAGE/arguments"
[ -e "$STAGE/idle" ] || echo "one more" >>work.txt
[ ! -e "$STAGE/stay" ] || exec sleep 600
[ ! -e "$STAGE/fail" ] || exit 7
"""


def interrupt(stage: Stage) -> None:
    """The agent begins, works, and is killed with all that belongs to it."""
    (stage.directory / "stay").touch()
    values = ["--task-id", "T-9", "--session-id", SESSION]
    argv = [sys.executable, "-m", "gitstate", "run", *values, "--", "claude", "--model", "opus", "-p", "secret prompt"]
    running = stage.start(argv)
    wait_until(lambda: (stage.directory / "arguments").exists(), "the agent is ready")
    running.terminate()
    assert running.wait(PATIENCE) == -signal.SIGTERM
    (stage.directory / "stay").unlink()
    (stage.directory / "arguments").unlink()


def words(stage: Stage) -> list[list[str]]:
    """The arguments of every start of the agent."""
    path = stage.directory / "arguments"
    return [[*line.split("\0")] for line in path.read_text().split("\0\n") if line] if path.exists() else []
