"""The real agents, killed in the middle of a turn: the work is there, and the next run continues its own session."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agents_real.model import AGAIN, BRIEFED, PROMPT, Model, model
from tests.agents_real.programs import PATH, PROGRAMS, environment
from tests.support.agents import PATIENCE, wait_until
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.skips import why_not_program
from tests.support.workspace import Workspace

GITSTATE = (sys.executable, "-m", "gitstate")
#: Opencode keeps all conversations in one database.
KEPT_IN_FILES = [name for name in PROGRAMS if name != "opencode"]


class Stand:
    """One agent in one workspace, with the made-up model."""

    def __init__(self, name: str, ws: Workspace, home: Path, server: Model) -> None:
        self.name, self.ws, self.home, self.server = name, ws, home, server
        self.program = PROGRAMS[name]
        self.env = environment(self.program, home, server.url) | ws.cli_env
        self.output = ws.outside / "output"
        assert self.gitstate("install", "--agent", name).returncode == 0

    def gitstate(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [*GITSTATE, *args]
        return subprocess.run(
            argv,
            cwd=self.ws.path,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=4 * PATIENCE,
        )

    def start(self, *supervisor: str) -> subprocess.Popen[bytes]:
        """Start the agent, and wait until it waits for the model in the middle of its turn."""
        argv = [*supervisor, *self.program.command, PROMPT]
        with self.output.open("wb") as out:
            running = subprocess.Popen(
                argv,
                cwd=self.ws.path,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_until(lambda: self.server.thinks.is_set() or running.poll() is not None, "the model is asked")
        assert running.poll() is None, self.output.read_text(errors="replace")
        return running

    def processes(self) -> dict[int, str]:
        """Every process with the home of this test."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                alive = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if alive and f"HOME={self.home}".encode() in words and int(pid) != os.getpid():
                    found[int(pid)] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
        return found

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to everything that was started here."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def saved(self) -> bool:
        return bool(self.ws.refs("refs/gitstate/pending"))

    def recover(self, before: Fingerprint) -> dict[str, Any]:
        done = self.gitstate("recover")
        assert done.returncode == 0, done
        assert before.diff(fingerprint(self.ws.path)) == []
        state: dict[str, Any] = json.loads((self.ws.path / "active_state.json").read_text())
        return state

    def resume(self, task: str) -> None:
        """The second run reads its own session, the briefing and the task, and works."""
        known = len(self.server.requests)
        done = self.gitstate("resume")
        assert done.returncode == 0, done
        asked = self.server.requests[known:]
        assert asked, done
        assert PROMPT in asked[0], f"not its own session: {asked[0][:2000]}"
        assert BRIEFED in asked[0] and task in asked[0]
        assert (self.ws.path / "again.txt").read_text() == AGAIN.split()[1] + "\n"


@pytest.fixture
def server() -> Iterator[Model]:
    with model() as running:
        yield running


@pytest.fixture
def stand(request: pytest.FixtureRequest, ws: Workspace, hermetic: Path, server: Model) -> Iterator[Stand]:
    name = str(request.param)
    reason = why_not_program(PROGRAMS[name].command[0], PATH)
    if reason is not None:
        pytest.skip(reason)
    made = Stand(name, ws, hermetic, server)
    yield made
    made.end()
    wait_until(lambda: not made.processes(), f"everything ended: {made.processes()}")


every_agent = pytest.mark.parametrize("stand", PROGRAMS, indirect=True)

#: What gets which signal: the run, its agent, or everybody.
DEATHS = [("TERM", "run"), ("INT", "run"), ("HUP", "run"), ("KILL", "run"), ("KILL", "agent"), ("KILL", "everybody")]


def kill(stand: Stand, running: subprocess.Popen[bytes], name: str, whom: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    if whom == "everybody":
        stand.end(number)
    elif whom == "run":
        running.send_signal(number)
    else:
        holder = json.loads((stand.ws.git_dir / "gitstate" / "run.json").read_text())
        keeper = int(holder["keeper"][0])
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(next(int(pid) for pid in children if int(pid) != keeper), number)
    running.wait(PATIENCE)
    if whom != "everybody":
        wait_until(stand.saved, "the save")
    wait_until(lambda: not stand.processes(), f"nothing is left: {stand.processes()}")


def killed_under_run(stand: Stand, name: str, whom: str) -> None:
    running = stand.start(*GITSTATE, "run", "--task-id", "T-77", "--progress-stage", "coding", "--")
    before = fingerprint(stand.ws.path)
    kill(stand, running, name, whom)
    assert stand.saved() == (whom != "everybody")
    state = stand.recover(before)
    assert (state["task_id"], state["agent"]) == ("T-77", stand.name) and state["session_id"]
    stand.resume("T-77")


#: The kill that a quick run tries; the slow tests try every one on every agent.
QUICK = {"claude": ("TERM", "run"), "codex": ("KILL", "agent"), "gemini": ("KILL", "run"), "qwen": ("HUP", "run")}


@pytest.mark.parametrize("stand", QUICK, indirect=True)
def test_kill_under_run(stand: Stand) -> None:
    killed_under_run(stand, *QUICK[stand.name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "whom"), DEATHS)
@every_agent
def test_every_kill_under_run(stand: Stand, name: str, whom: str) -> None:
    killed_under_run(stand, name, whom)


@pytest.mark.slow
@every_agent
def test_kill_with_hooks_alone(stand: Stand) -> None:
    """The agent was started by hand, with options: its next run has them, too."""
    assert stand.gitstate("set", "task_id=T-78", "progress_stage=coding").returncode == 0
    running = stand.start()
    wait_until(lambda: stand.ws.refs("refs/gitstate/checkpoints"), "the checkpoint")
    before = fingerprint(stand.ws.path)
    stand.end()
    running.wait(PATIENCE)
    wait_until(lambda: not stand.processes(), "everything ended")
    state = stand.recover(before)
    # Kimi Code replaces its own command line by another title.
    argv = state["extra"].get("agent_argv", stand.name if stand.name == "kimi" else "").split()
    options = [word for word in stand.program.command[1:] if word.startswith("--") and "hook" not in word]
    assert argv[0] == stand.program.command[0] and set(options) <= set(argv)
    stand.resume("T-78")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "zeroed", "gone"])
@pytest.mark.parametrize("stand", KEPT_IN_FILES, indirect=True)
def test_transcript_that_a_power_cut_damaged(stand: Stand, damage: str) -> None:
    running = stand.start(*GITSTATE, "run", "--task-id", "T-79", "--")
    before = fingerprint(stand.ws.path)
    kill(stand, running, "KILL", "agent")
    (ref,) = stand.ws.refs("refs/gitstate/conversations")
    kept = json.loads(stand.ws.git("show", f"{ref}:conversation.json"))
    for item in kept["files"]:
        path = Path(kept["root"]) / item["name"]
        data = path.read_bytes()
        half = len(data) // 2
        path.write_bytes(data[:half] + (bytes(len(data) - half) if damage == "zeroed" else b""))
        if damage == "gone":
            path.unlink()
    stand.recover(before)
    stand.resume("T-79")


@pytest.mark.slow
@pytest.mark.parametrize("stand", ["opencode"], indirect=True)
def test_database_that_is_gone(stand: Stand) -> None:
    running = stand.start(*GITSTATE, "run", "--task-id", "T-80", "--")
    before = fingerprint(stand.ws.path)
    kill(stand, running, "KILL", "agent")
    for path in (stand.home / ".local" / "share" / "opencode").glob("opencode.db*"):
        path.unlink()
    stand.recover(before)
    stand.resume("T-80")
