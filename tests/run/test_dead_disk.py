"""A run whose disk does not answer: the agent is told and ended, the run ends, and says what is not saved."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from tests.support.agents import Started, agent_pid, keeper_pid, marker, wait_until
from tests.support.patched import patched
from tests.support.workspace import Workspace

#: The keeper's fsync hangs once a file is there, until another one is.
HANGS = """\
import os, time
real = os.fsync
def slow(fd):
    while os.path.exists({hang!r}) and not os.path.exists({release!r}):
        time.sleep(0.01)
    real(fd)
os.fsync = slow
import gitstate.run.ending
gitstate.run.ending._PATIENT = 0.2
"""
#: An agent that notes that it was told, and does not end by itself.
DEAF = """\
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: open(sys.argv[2], "w").close())
open(sys.argv[1], "w").write(str(os.getpid()))
while True:
    time.sleep(1)
"""


#: An agent that ends well once a file is there.
OBEDIENT = """\
import os, sys, time
open(sys.argv[1], "w").write(str(os.getpid()))
while not os.path.exists(os.path.join(os.path.dirname(sys.argv[1]), "end")):
    time.sleep(0.05)
"""


#: The early save fails, whatever the disk does.
FAILS = """\
def fails(path, request, opening=None):
    raise OSError(5, "Input/output error")
gitstate.run.ending.save = fails
"""


@pytest.fixture
def started(ws: Workspace) -> Started:
    """A run, with a checkpoint, in which an agent works that does not obey."""
    return start(ws)


def start(ws: Workspace, patch: str = "", deadline: str = "1", agent: str = DEAF) -> Started:
    site = ws.outside / "site"
    site.mkdir()
    release, hang = str(ws.outside / "release"), str(ws.outside / "hang")
    (site / "dead_disk.py").write_text(HANGS.format(hang=hang, release=release) + patch)
    main = "import sys; sys.argv[0] = 'gitstate'; import dead_disk; from gitstate.__main__ import main; main()"
    words = [sys.executable, "-c", agent, str(ws.outside / "ready"), str(ws.outside / "heard")]
    path = {"PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    options = ["run", "--interval", "0.2", "--deadline", deadline, "--grace", "0.2", "--"]
    found = Started(ws, [sys.executable, "-c", main, *options, *words], env=path)
    agent_pid(ws)
    return found


def test_run_ends_though_the_disk_does_not_answer(ws: Workspace, started: Started) -> None:
    ws.write("a.txt", "edited\n")
    agent = agent_pid(ws)
    (ws.outside / "hang").touch()
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    assert (ws.outside / "heard").exists()
    assert not os.path.exists(f"/proc/{agent}"), "an agent that does not obey is ended all the same"
    assert "the disk did not answer" in started.words() or "at work on" in started.words()
    assert "saved" not in started.words().split("\n")[-1]
    (ws.outside / "release").touch()
    wait_until(lambda: marker(ws), "the save goes on when the disk answers")
    assert ws.gitstate("recover", "--json").exit_status == 0
    assert ws.read("a.txt") == b"edited\n"


def test_the_only_save_of_a_run_goes_on(ws: Workspace) -> None:
    """The early one has failed: nothing is saved but by the last one."""
    started = start(ws, FAILS, deadline="3")
    ws.write("a.txt", "edited\n")
    (ws.outside / "hang").touch()
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    assert "the disk did not answer" in started.words() and not marker(ws)
    (ws.outside / "release").touch()
    wait_until(lambda: marker(ws), "the save goes on when the disk answers")
    assert ws.gitstate("recover", "--json").exit_status == 0
    assert ws.read("a.txt") == b"edited\n"


@pytest.mark.parametrize("words", [("--signal", "TERM"), ("--deadline", "0.5")])
def test_save_in_a_trap_beside_the_keeper_ends_in_time(
    ws: Workspace, started: Started, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITSTATE_DEADLINE", "0.5")
    keeper_pid(ws)
    ws.write("a.txt", "edited\n")
    (ws.outside / "hang").touch()
    soon = "import gitstate.orders.client, gitstate.orders.late\ngitstate.orders.client._MARGIN = 0.2"
    run = patched(ws, f"{soon}\ngitstate.orders.late._MARGIN = 0.2", "save", *words)
    assert run.returncode == 75, run
    assert b"at work on" in run.stderr or b"the disk did not answer" in run.stderr
    (ws.outside / "release").touch()
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    assert ws.gitstate("recover", "--json").exit_status == 0
    assert ws.read("a.txt") == b"edited\n"


#: In the place of a disk: a process that starts another one waits for it in the same state (`man 2 vfork`).
HELD = """
def held(fd):
    if os.path.exists({hang!r}) and not os.path.exists({release!r}):
        os.posix_spawn("/bin/true", ["true"], {{}}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, {fifo!r}, os.O_RDONLY, 0)])
    real(fd)
os.fsync = held
gitstate.run.ending._PATIENT = 1000.0
"""


def test_run_whose_disk_holds_the_save_ends_at_its_deadline(ws: Workspace) -> None:
    """Nothing of it is removed: the disk would hold keeper and front as well. The next run replaces it."""
    fifo = ws.outside / "fifo"
    os.mkfifo(fifo)
    patch = HELD.format(hang=str(ws.outside / "hang"), release=str(ws.outside / "release"), fifo=str(fifo))
    started = start(ws, patch)
    ws.write("a.txt", "edited\n")
    (ws.outside / "hang").touch()
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    assert "the disk did not answer" in started.words()
    names = {"keeper.sock", "run.json", "lease.json"}
    own = ws.git_dir / "gitstate"
    assert names <= set(os.listdir(own))
    (ws.outside / "release").touch()
    with fifo.open("w"):
        wait_until(lambda: marker(ws), "the save goes on when the disk answers")
    run = ws.gitstate("run", "--", "true")
    assert run.exit_status == 0, run
    assert ws.read("a.txt") == b"edited\n"
    wait_until(lambda: not names & set(os.listdir(own)), "the next run leaves nothing")


def test_run_that_ends_well_on_a_disk_that_does_not_answer_ends_at_its_deadline(ws: Workspace) -> None:
    """What says that its task is done comes when the disk answers."""
    fifo = ws.outside / "fifo"
    os.mkfifo(fifo)
    patch = HELD.format(hang=str(ws.outside / "hang"), release=str(ws.outside / "release"), fifo=str(fifo))
    started = start(ws, patch, agent=OBEDIENT)
    (ws.outside / "hang").touch()
    (ws.outside / "end").touch()
    assert started.status() == 1, started.words()
    assert "the disk did not answer" in started.words()
    state = ws.path / "active_state.json"
    assert json.loads(state.read_text())["status"] == "active"
    (ws.outside / "release").touch()
    with fifo.open("w"):
        wait_until(
            lambda: json.loads(state.read_text())["status"] == "finished", "the end is recorded when the disk answers"
        )
    run = ws.gitstate("run", "--", "true")
    assert run.exit_status == 0, run
