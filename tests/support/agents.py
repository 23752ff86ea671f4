"""Agents that work in a workspace, the processes that run them, and what must be true after one was killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.oracle import Fingerprint, fingerprint
from tests.support.workspace import Workspace

#: Long enough for a busy machine; nothing is measured by it.
PATIENCE = 120.0

#: An agent: changes files in every way, says that it is ready, and goes on as `then` says.
AGENT = """\
import os, signal, subprocess, sys, time
ready, then = sys.argv[1], sys.argv[2]
if "deaf" in then:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
open("a.txt", "a").write("by the agent\\n")
open("new by agent.txt", "w").write("new\\n")
subprocess.run(["git", "add", "new by agent.txt"], check=True)
open("new by agent.txt", "a").write("more\\n")
os.remove("b.txt")
if "grandchild" in then:
    code = "import signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\n" \\
        "while True: open('growing', 'a').write('x\\\\n'); time.sleep(0.02)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
open(ready, "w").write(str(os.getpid()))
if then.startswith("exit"):
    sys.exit(int(then.split()[1]))
time.sleep(600)
"""


def agent(ws: Workspace, then: str = "") -> list[str]:
    """The command line of an agent in this workspace."""
    script = ws.outside / "agent.py"
    script.write_text(AGENT)
    return [sys.executable, os.fspath(script), os.fspath(ws.outside / "ready"), then]


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.01)


def agent_pid(ws: Workspace) -> int:
    """The agent's pid, once it has done its work."""
    ready = ws.outside / "ready"
    wait_until(lambda: ready.exists() and ready.read_text(), "the agent is ready")
    return int(ready.read_text())


class Started:
    """A process that runs an agent in a workspace, in a process group of its own."""

    def __init__(self, ws: Workspace, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.ws = ws
        self.output = ws.outside / "output"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                list(command),
                cwd=ws.path,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(os.environ) | dict(env or {}),
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def send_group(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def status(self) -> int:
        """As a shell says it: 128+n for death by signal n."""
        code = self.process.wait(PATIENCE)
        return 128 - code if code < 0 else code

    def words(self) -> str:
        return self.output.read_text(errors="replace")


def marker(ws: Workspace) -> str:
    return ws.out("for-each-ref", "--format=%(objectname)", "refs/gitstate/pending")


def has_checkpoint(ws: Workspace) -> bool:
    """Whether the first checkpoint of a run stands, and has ended: it holds no lock of git any more."""
    return bool(ws.refs("refs/gitstate/checkpoints")) and not (ws.git_dir / "gitstate" / "journal").exists()


def members(ws: Workspace) -> list[str]:
    """Command lines of processes whose current directory is in the workspace; none after a run."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/cwd").startswith(os.fspath(ws.path)):
                found.append(Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process lead to. One may be closed meanwhile, and the process may end."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def keeper_pid(ws: Workspace) -> int:
    """The keeper's pid: the agent may be ready before it."""
    file = ws.git_dir / "gitstate" / "run.json"
    wait_until(file.exists, "the keeper has begun")
    return int(json.loads(file.read_bytes())["keeper"][0])


def keepers(ws: Workspace) -> bool:
    return (ws.git_dir / "gitstate" / "run.json").exists()


def check_saved(ws: Workspace, before: Fingerprint, **context: Any) -> None:
    """Marker, note and WIP commit exist with this context; no process is left; the files are unchanged."""
    wait_until(lambda: marker(ws) and not keepers(ws), "the save")
    wait_until(lambda: not members(ws), f"everything ended: {members(ws)}")
    assert ws.out("log", "-1", "--format=%s").startswith("WIP(gitstate): ")
    note = json.loads(ws.git("notes", "--ref=gitstate", "show", "HEAD"))
    archive = json.loads(ws.git("cat-file", "blob", f"{marker(ws)}:context.json"))
    for name, value in context.items():
        assert archive[name] == value, name
        assert note[name] == value, name
    assert fingerprint(ws.path).files == before.files


def check_recovered(ws: Workspace, before: Fingerprint) -> dict[str, Any]:
    """Recover everything, as the next run does first; the state file that it wrote."""
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path)) == []
    assert not marker(ws)
    state = json.loads((ws.path / "active_state.json").read_bytes())
    assert state["status"] == "recovered"
    return dict(state)


def name_of(number: int) -> str:
    return signal.Signals(number).name.removeprefix("SIG")


def hooks_are_done(git_dir: Path) -> bool:
    """Whether the events of an agent's hooks have been handled, and no checkpoint of theirs is due or being taken."""
    own = git_dir / "gitstate"
    try:
        with (own / "agent-hook.lock").open() as lock:
            # Whoever holds it writes the memory, and then what the command's script reads.
            fcntl.flock(lock, fcntl.LOCK_SH)
            memory = json.loads((own / "agent-hook.json").read_bytes())
    except FileNotFoundError:
        return True
    return not list(own.glob("agent-hook.events/1*")) and memory["done"] >= memory["wanted"]


def ends(pid: int) -> bool:
    """Whether a process that was killed ends: it may take a moment."""
    for _ in range(600):
        if not _is_running(pid):
            return True
        time.sleep(0.05)
    return False


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False
