"""Loops on a real terminal: Ctrl-C, a closed terminal, tmux."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import pytest

from gitstate.run.keeper import CTRL_C
from tests.hooks.stage import SOURCE, Stage
from tests.support.agents import PATIENCE, keepers, wait_until
from tests.support.oracle import fingerprint
from tests.support.skips import not_installed


class Terminal:
    """A loop on a terminal of its own."""

    def __init__(self, stage: Stage, command: Sequence[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(stage.ws.path)
            os.execvp(command[0], list(command))
        self.printed = b""

    def drain(self) -> None:
        """Read what was printed, so that no writer blocks."""
        with contextlib.suppress(OSError):
            while select.select([self.fd], [], [], 0)[0]:
                data = os.read(self.fd, 65_536)
                if not data:
                    break
                self.printed += data

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for something to become true, and read meanwhile."""

        def drained() -> object:
            self.drain()
            return condition()

        wait_until(drained, what)

    def wait(self) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.drain()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError(f"still running: {self.printed!r}")


@pytest.mark.sample(2)
@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "sketch", "claude"])
def test_ctrl_c_on_a_terminal_saves_and_ends_the_loop(stage: Stage, way: str) -> None:
    terminal = Terminal(stage, stage.command(way))
    stage.ready()
    before = fingerprint(stage.ws.path)
    os.write(terminal.fd, b"\x03")
    assert terminal.wait() == -signal.SIGINT, terminal.printed
    assert stage.context()["task_id"] == "T-42"
    assert stage.saves() == 1
    assert stage.ws.recover().exit_status == 0
    assert before.diff(fingerprint(stage.ws.path)) == []


def is_checkpointed(stage: Stage, path: str) -> bool:
    refs = stage.ws.refs("refs/gitstate/checkpoints")
    return any(path in stage.ws.out("ls-tree", "--name-only", f"{ref}^1").splitlines() for ref in refs)


@pytest.mark.faults
def test_ctrl_c_handled_by_the_agent_does_not_end_the_loop(stage: Stage) -> None:
    stage.manner("answer-ctrl-c")
    stage.ws.config("gitstate.interval", "3600")
    terminal = Terminal(stage, stage.command("library"))
    stage.ready()
    terminal.until(lambda: stage.ws.refs("refs/gitstate/checkpoints"), "the first checkpoint")
    stage.ws.write("written before", "")
    os.write(terminal.fd, b"\x03")
    terminal.until((stage.directory / "heard").exists, "the agent has heard of it")
    terminal.until(lambda: is_checkpointed(stage, "written before"), "the keeper has heard of it")
    # Past the time in which an agent that ends is taken for one that Ctrl-C has ended.
    time.sleep(CTRL_C)
    (stage.directory / "enough").touch()
    assert terminal.wait() == 0, terminal.printed
    assert stage.pending() is None


def test_ctrl_c_at_a_prompt_ends_the_agent_but_not_the_shell(stage: Stage) -> None:
    terminal = Terminal(stage, ["bash", "--norc", "--noprofile", "-i"])
    os.write(terminal.fd, f"{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n".encode())
    stage.ready()
    os.write(terminal.fd, b"\x03")
    wait_until(lambda: stage.pending() is not None and not keepers(stage.ws), "the save")
    os.write(terminal.fd, b'echo "$?" >"$STAGE/status"; : >"$STAGE/ready"\n')
    wait_until((stage.directory / "status").exists, "the shell lives on")
    assert (stage.directory / "status").read_text() == "130\n"
    assert stage.context()["task_id"] == "T-1"
    os.write(terminal.fd, b"exit\n")
    assert terminal.wait() == 0
    assert stage.pending() is None


@pytest.mark.sample(2)
@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "sketch", "kimi"])
def test_closed_terminal_saves_and_ends_the_loop(stage: Stage, way: str) -> None:
    terminal = Terminal(stage, stage.command(way))
    stage.ready()
    before = fingerprint(stage.ws.path)
    os.close(terminal.fd)
    assert terminal.wait() == -signal.SIGHUP
    assert stage.context()["task_id"] == "T-42"
    wait_until(lambda: not stage.processes(), "everything has ended")
    assert stage.ws.recover().exit_status == 0
    assert before.diff(fingerprint(stage.ws.path)) == []


@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "claude"])
def test_tmux_kill_session_saves_and_ends_the_loop(stage: Stage, way: str) -> None:
    tmux = shutil.which("tmux")
    if tmux is None:
        pytest.skip(not_installed("tmux"))
    server = [tmux, "-S", str(stage.directory / "tmux"), "-f", os.devnull]
    command = shlex.join(stage.command(way))
    subprocess.run([*server, "new-session", "-d", "-s", "loop", "-c", str(stage.ws.path), command], check=True)
    try:
        stage.ready()
        before = fingerprint(stage.ws.path)
        subprocess.run([*server, "kill-session", "-t", "loop"], check=True)
        wait_until(lambda: stage.pending() is not None, "the save")
    finally:
        subprocess.run([*server, "kill-server"], stderr=subprocess.DEVNULL)
    wait_until(lambda: not stage.processes(), "everything has ended")
    assert stage.context()["task_id"] == "T-42"
    assert stage.ws.recover().exit_status == 0
    assert before.diff(fingerprint(stage.ws.path)) == []
