"""What an order, and the end of a run, cost until the marker stands, in numbers that no machine changes."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from gitstate.orders.client import order_checkpoint, order_save
from gitstate.save.request import SaveRequest
from tests.recover.test_cost import LOGGING
from tests.run.commands import run_command
from tests.support.agents import Started, agent_pid, wait_until
from tests.support.workspace import Workspace

#: One git each, all of them at once: what HEAD has at the changed paths, whether new ones are ignored, and the refs.
UNTIL_MARKER = ["cat-file", "check-ignore", "update-ref"]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which each git adds its subcommand."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "git").write_text(LOGGING.format(log=log, git=shutil.which("git")))
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return log


def running(ws: Workspace, log: Path) -> Started:
    """A run whose keeper knows what changes: a tracked file has changed since its checkpoint, and one is new."""
    started = Started(ws, run_command(ws, "", "--interval", "3600"))
    agent_pid(ws)
    ws.write("d/first.txt", "new\n")
    own = os.path.join(os.fsencode(ws.git_dir), b"gitstate")
    wait_until(lambda: order_checkpoint(own, at_once=True, waits=60), "a checkpoint")
    ws.append("a.txt", "more\n")
    ws.write("d/new.txt", "new\n")
    log.write_text("")
    return started


def test_ordered_save_starts_three_gits_until_its_marker(ws: Workspace, log: Path) -> None:
    started = running(ws, log)
    answer = order_save(os.path.join(os.fsencode(ws.git_dir), b"gitstate"), SaveRequest())
    assert answer.last is not None and answer.early is not None
    begun = log.read_text().split()
    # The second save looks at everything, and opens the repository anew.
    assert (sorted(begun[:3]), begun[3]) == (UNTIL_MARKER, "config")
    started.send(signal.SIGKILL)
    started.status()


def test_end_of_a_run_starts_three_gits_until_its_marker(ws: Workspace, log: Path) -> None:
    started = running(ws, log)
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    begun = log.read_text().split()
    assert (sorted(begun[:3]), begun[3]) == (UNTIL_MARKER, "config")
    assert ws.out("show", "HEAD:d/new.txt") == "new"
