"""Runs on a real terminal: Ctrl-C, a closed terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import time

import pytest

from tests.run.commands import WORK, run_command
from tests.support.agents import PATIENCE, agent_pid, check_recovered, check_saved, marker
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace


@pytest.mark.parametrize("way", ["agent ends", "agent goes on"])
def test_ctrl_c_on_a_terminal_reaches_the_agent(ws: Workspace, way: str) -> None:
    command = run_command(ws, "deaf" if way == "agent goes on" else "")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ws.path)
        os.execvp(command[0], command)
    agent_pid(ws)
    before = fingerprint(ws.path)
    os.write(terminal, b"\x03")
    if way == "agent goes on":
        time.sleep(1)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it was ended"
        assert not marker(ws)
        os.kill(pid, signal.SIGTERM)
    _, status = _reap(pid, terminal)
    expected = signal.SIGTERM if way == "agent goes on" else signal.SIGINT
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == expected, status
    check_saved(ws, before, **WORK)
    check_recovered(ws, before)


def test_ctrl_c_before_the_agent_begins_ends_the_run(ws: Workspace) -> None:
    command = run_command(ws, "")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ws.path)
        # As if it came while the run prepares itself: it is pending when the agent is about to begin.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.write(1, b"!")
        while signal.SIGINT not in signal.sigpending():
            time.sleep(0.01)
        os.execvp(command[0], command)
    assert os.read(terminal, 1) == b"!"
    os.write(terminal, b"\x03")
    _, status = _reap(pid, terminal)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGINT, status
    assert not (ws.outside / "ready").exists()


def test_closed_terminal_saves_the_work(ws: Workspace) -> None:
    command = run_command(ws, "")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ws.path)
        os.execvp(command[0], command)
    agent_pid(ws)
    before = fingerprint(ws.path)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGHUP, status
    check_saved(ws, before, **WORK)
    check_recovered(ws, before)


def _reap(pid: int, terminal: int) -> tuple[int, int]:
    """Wait for a process on a terminal, reading what it prints so that it is never stuck on it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            os.close(terminal)
            return done, status
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                os.read(terminal, 65_536)
            except OSError:
                time.sleep(0.02)
    raise AssertionError("it never ended")
