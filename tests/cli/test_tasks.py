"""`begin`, `set` and `finish`: the quick way does and says what click does, and loads a fraction of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from gitstate.cli.options import parse
from tests.support.workspace import GITSTATE, Workspace

CLICK = "import sys; sys.argv[0] = 'gitstate'; from gitstate.cli.main import main; main()"
#: One line after the other, in one workspace.
LINES = [
    ["begin", "task_id=T-2", "issue_number=9", "own=value"],
    ["begin", "--task-id", "T-3", "--set", "a=b", "--memory-ref", "m1", "--memory-ref=m2", "memory_refs=m3", "--json"],
    ["--json", "begin", "--", "task_id=T-4", "progress_stage=", "-x=1"],
    ["begin"],
    ["begin", "T-5"],
    ["begin", "task_id=T-6", "=x"],
    ["begin", "--owner-pid", "0", "task_id=T-6"],
    ["begin", "--owner-pid", "-5", "task_id=T-6"],
    ["begin", "--owner-pid", "x"],
    ["set", "progress_stage=testing"],
    ["set", "--progress-stage=testing again", "stage=2", "sesion_id=1", "--json"],
    ["set", "--", "progress_stage=a=b", "issue_number=\u00e9\x1b[31m"],
    ["set", "--agent", "codex", "--session-id=s-1"],
    ["set"],
    ["set", "testing"],
    ["set", "--owner-pid", "1", "a=b"],
    ["set", "--set", "no pair"],
    ["set", "--progress-stage"],
    ["set", "--unknown", "a=b"],
    ["finish", "now"],
    ["finish", "--keep-save", "--json"],
    ["finish", "--keep-save=1"],
    ["finish"],
]


def _by_click(ws: Workspace, line: list[str]) -> tuple[int, bytes, str]:
    argv = [sys.executable, "-c", CLICK, "-C", os.fspath(ws.path), *line]
    done = subprocess.run(argv, capture_output=True, cwd=ws.outside, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr.decode()


def _timeless(stdout: bytes) -> Any:
    """What was printed, but for the time of it and the process."""
    if not stdout.startswith(b"{"):
        return stdout
    value = json.loads(stdout)
    for name in ("timestamp", "pid", "pid_start"):
        (value.get("context") or {}).pop(name, None)
    return value


def test_quick_way_does_and_says_what_click_does(ws: Workspace) -> None:
    context = ws.git_dir / "gitstate" / "context.json"
    for line in LINES:
        before = context.read_bytes() if context.exists() else b"{}"
        run = ws.gitstate(*line)
        quick = run.exit_status, _timeless(run.stdout), run.stderr
        after = _timeless(b'{"context": %s}' % (context.read_bytes() if context.exists() else b"{}"))
        if context.exists():
            context.write_bytes(before)
        status, stdout, stderr = _by_click(ws, line)
        assert (status, _timeless(stdout), stderr) == quick, line
        assert _timeless(b'{"context": %s}' % (context.read_bytes() if context.exists() else b"{}")) == after, line


@pytest.mark.parametrize("line", [["begin", "task_id=T-2"], ["set", "progress_stage=testing"], ["finish"]])
def test_loop_waits_for_nothing_slow(line: list[str], ws: Workspace) -> None:
    """It calls them at each task and stage."""
    argv = [*GITSTATE, "-C", os.fspath(ws.path), *line]
    env = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(argv, capture_output=True, env=env, text=True)
    loaded = {report.rpartition("|")[2].strip() for report in done.stderr.splitlines()}
    assert done.returncode == 0 and "gitstate.cli.tasks" in loaded
    assert not loaded & {"click", "re", "enum", "typing", "contextlib", "functools", "subprocess", "difflib", "shlex"}


@pytest.mark.parametrize(
    "words", [["begin", "--help"], ["begin", "-x"], ["begin", "--owner-pid=0"], ["finish", "x"], ["finish", "a=b"]]
)
def test_line_that_is_not_well_formed_is_left_to_click(words: list[str]) -> None:
    assert parse(words) is None
