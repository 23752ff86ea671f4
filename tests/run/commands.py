"""Command lines that run an agent, by `gitstate run` or by `gitstate.guard`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from tests.support.agents import agent
from tests.support.workspace import GITSTATE, Workspace

GUARD = """\
import subprocess, sys
import gitstate
with gitstate.guard(task_id="T-9", issue_number=9, progress_stage="coding", agent="fake") as task:
    status = subprocess.run(sys.argv[1:]).returncode
    if status:
        sys.exit(128 - status if status < 0 else status)
"""


def run_command(ws: Workspace, then: str, *options: str) -> list[str]:
    context = ["--task-id", "T-9", "--issue-number", "9", "--progress-stage", "coding", "--agent", "fake"]
    return [*GITSTATE, "run", *context, *options, "--", *agent(ws, then)]


def guard_command(ws: Workspace, then: str) -> list[str]:
    script = ws.outside / "guarded.py"
    script.write_text(GUARD)
    return [sys.executable, os.fspath(script), *agent(ws, then)]


WAYS: dict[str, Callable[[Workspace, str], list[str]]] = {"run": run_command, "guard": guard_command}

WORK = {"task_id": "T-9", "issue_number": 9, "progress_stage": "coding", "agent": "fake"}
