"""`gitstate run` and `gitstate.guard` with real processes and real signals: every cause of death."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.run.processes import RUN_ID
from tests.run.commands import WAYS, WORK, run_command
from tests.support.agents import (
    Started,
    agent_pid,
    check_recovered,
    check_saved,
    descriptors,
    keeper_pid,
    marker,
    members,
    wait_until,
)
from tests.support.environment import ROOT
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.workspace import GITSTATE, Workspace


def to_agent(number: int) -> Callable[[Started, int], None]:
    return lambda _, pid: os.kill(pid, number)


def to_all(number: int) -> Callable[[Started, int], None]:
    return lambda started, _: started.send_group(number)


def to_one(*numbers: int) -> Callable[[Started, int], None]:
    def kill(started: Started, _: int) -> None:
        for number in numbers:
            if started.process.poll() is None:
                started.send(number)
            time.sleep(0.05)

    return kill


def term_then_kill(started: Started, agent: int) -> None:
    """Who sent SIGTERM loses patience. The agent ends later, so that the front is still there."""
    started.send(signal.SIGTERM)
    wait_until(lambda: marker(started.ws), "the first save")
    started.send(signal.SIGKILL)
    started.status()
    os.kill(agent, signal.SIGKILL)


#: name: (what kills, what the agent does, the status that the caller sees with `run`, the same with `guard`)
DEATHS: dict[str, tuple[Callable[[Started, int], None], str, int, int]] = {
    "TERM": (to_one(signal.SIGTERM), "", 143, 143),
    "TERM to the group": (to_all(signal.SIGTERM), "", 143, 143),
    "TERM twice": (to_one(signal.SIGTERM, signal.SIGTERM), "", 143, 143),
    "HUP": (to_one(signal.SIGHUP), "", 129, 129),
    "INT": (to_one(signal.SIGINT), "", 130, 130),
    "QUIT": (to_one(signal.SIGQUIT), "", 131, 131),
    "TERM, agent deaf": (to_one(signal.SIGTERM), "deaf", 143, 143),
    "TERM, then KILL": (term_then_kill, "deaf", 137, 137),
    "KILL of the agent": (to_agent(signal.SIGKILL), "", 137, 137),
    "KILL of the front": (to_one(signal.SIGKILL), "", 137, 137),
    "KILL of the front, agent deaf": (to_one(signal.SIGKILL), "deaf", 137, 137),
    "KILL of the group": (to_all(signal.SIGKILL), "", 137, 137),
    "exit 3": (lambda *_: None, "exit 3", 3, 3),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("death", DEATHS)
def test_every_cause_of_death_saves_the_work(ws: Workspace, death: str, way: str) -> None:
    kill, then, *statuses = DEATHS[death]
    # On a machine that stalls all of it is saved, too.
    ws.config("gitstate.deadline", "60")
    ws.config("gitstate.grace", "30" if kill is term_then_kill else "1")
    head = ws.out("rev-parse", "HEAD")
    started = Started(ws, WAYS[way](ws, then))
    pid = agent_pid(ws)
    before = fingerprint(ws.path)
    kill(started, pid)
    assert started.status() == statuses[way == "guard"], started.words()
    if then.startswith("exit"):
        wait_until(lambda: marker(ws), "the save")
        assert "new by agent.txt" in ws.out("ls-tree", "--name-only", "HEAD")
        assert ws.recover().exit_status == 0
        assert ws.out("rev-parse", "HEAD") == head
        return
    check_saved(ws, before, **WORK)
    state = check_recovered(ws, before)
    assert state["task_id"] == "T-9"
    assert "T-9" in state["briefing"]
    assert "coding" in state["resume"]


#: An agent that does not end before it is let go.
LINGERER = """\
import os, signal, sys, time
ready, go = sys.argv[1:]
def on_term(*_):
    while not os.path.exists(go):
        time.sleep(0.01)
    os._exit(1)
signal.signal(signal.SIGTERM, on_term)
open("a.txt", "a").write("by the agent\\n")
open("large.bin", "wb").write(bytes((4 << 20) + 1))
open(ready, "w").write(str(os.getpid()))
while True:
    time.sleep(1)
"""


def lose_head(ws: Workspace, _: int) -> None:
    (ws.git_dir / "HEAD").rename(ws.outside / "HEAD")


def take_all_room(_: Workspace, keeper: int) -> None:
    resource.prlimit(keeper, resource.RLIMIT_FSIZE, (0, 0))


def saved_early(ws: Workspace, breaks: Callable[[Workspace, int], None]) -> tuple[Started, str, Fingerprint]:
    """A run that was told to end: after its early save something breaks, and the agent writes once more.

    Returns the run, which has ended, and the id and the state of the early save.
    """
    script, ready, go = (ws.outside / name for name in ("lingerer.py", "ready", "go"))
    script.write_text(LINGERER)
    patient = ["--grace", "50", "--deadline", "100"]
    started = Started(ws, [*GITSTATE, "run", *patient, "--", sys.executable, *map(os.fspath, (script, ready, go))])
    agent_pid(ws)
    keeper, before = keeper_pid(ws), fingerprint(ws.path)
    started.send(signal.SIGTERM)
    wait_until(lambda: marker(ws), "the early save")
    with (ws.git_dir / "gitstate" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the early save has ended
        (early,) = ws.out("for-each-ref", "--format=%(refname:lstrip=4)", "refs/gitstate/saves").split()
        breaks(ws, keeper)
    ws.append("a.txt", "after the early save\n")
    go.touch()
    assert started.status() == 143
    return started, early, before


def test_failed_last_save_names_the_earlier_one(ws: Workspace) -> None:
    """After a first save, while the agent ends, the disk is full."""
    started, early, before = saved_early(ws, take_all_room)
    failed, saved, *more = started.words().splitlines()
    assert failed.startswith("gitstate: the second save of this run's end failed: ")
    assert "File too large" in failed
    assert saved.startswith(f"saved {early} (")
    assert saved.endswith("incomplete: 1 skipped")
    assert "large.bin" in more[0]
    assert more[-2].strip() == "files skipped above and later changes are not saved"
    assert more[-1].strip() == "next: gitstate recover"
    assert ws.out("for-each-ref", "--format=%(refname:lstrip=4)", "refs/gitstate/saves").split() == [early]
    ws.git("checkout", "-q", "--", "a.txt")
    ws.recover()
    assert before.diff(fingerprint(ws.path)) == []
    assert not marker(ws)


def test_last_save_is_taken_though_head_is_gone(ws: Workspace) -> None:
    """After a first save, while the agent ends, a power cut or the agent takes HEAD."""
    git_dir = ws.git_dir
    started, _, _ = saved_early(ws, lose_head)
    assert "HEAD is missing" in started.words().splitlines()[0]
    (ws.outside / "HEAD").rename(git_dir / "HEAD")
    after = fingerprint(ws.path)
    ws.git("checkout", "-q", "--", "a.txt")
    ws.recover()
    assert ws.read("a.txt").endswith(b"after the early save\n")
    assert after.diff(fingerprint(ws.path)) == []


@pytest.mark.parametrize("way", WAYS)
def test_processes_left_by_the_agent_end_before_the_last_save(ws: Workspace, way: str) -> None:
    started = Started(ws, WAYS[way](ws, "grandchild"))
    agent_pid(ws)
    wait_until(lambda: (ws.path / "growing").exists(), "the grandchild writes")
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    assert not members(ws)
    size = (ws.path / "growing").stat().st_size
    assert int(ws.out("cat-file", "-s", "HEAD:growing")) == size, "it wrote after the last save"
    assert ws.out("for-each-ref", "refs/gitstate/saves").count("\n") == 0, "the early save is still listed"


@pytest.mark.parametrize("way", WAYS)
def test_clean_end_leaves_no_save(ws: Workspace, way: str) -> None:
    head = ws.out("rev-parse", "HEAD")
    started = Started(ws, WAYS[way](ws, "exit 0"))
    assert started.status() == 0, started.words()
    assert not marker(ws)
    assert ws.out("rev-parse", "HEAD") == head
    assert json.loads((ws.path / "active_state.json").read_bytes())["status"] == "finished"
    assert (ws.path / "new by agent.txt").read_text() == "new\nmore\n"
    assert not ws.gitstate("save").stdout, "a finished task is carried into the next save"
    assert "T-9" not in ws.out("log", "-1", "--format=%s")


def test_next_run_recovers_first_and_resumes_the_task(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    before = fingerprint(ws.path)
    started.send(signal.SIGKILL)
    started.status()
    check_saved(ws, before)
    seen = ws.outside / "seen"
    code = f"import shutil; shutil.copy('new by agent.txt', {os.fspath(seen)!r})"
    run = ws.gitstate("run", "--", sys.executable, "-c", code)
    assert run.exit_status == 0, run
    assert seen.read_text() == "new\nmore\n"
    assert ws.gitstate("show", "task_id").stdout == b"T-9\n"
    assert before.diff(fingerprint(ws.path)) == []


#: A front that is held up before it starts the agent, as on a busy machine.
HELD_UP = """\
import os, sys, time
from gitstate.run.supervisor import Supervisor
start, there, go = Supervisor._start, *sys.argv[1:3]
def held_up(self):
    open(there, "w").close()
    while not os.path.exists(go):
        time.sleep(0.01)
    return start(self)
Supervisor._start = held_up
sys.argv[1:] = sys.argv[3:]
from gitstate.__main__ import main
main()
"""


def test_no_agent_begins_after_the_save_of_a_loop_that_was_killed(ws: Workspace) -> None:
    """It would work, and commit, on top of the WIP commit, which then stays in the branch."""
    there, go = ws.outside / "there", ws.outside / "go"
    ws.write("a.txt", "by the loop\n")
    before = fingerprint(ws.path)
    loop = subprocess.Popen(["sleep", "600"])
    command = run_command(ws, "", "--owner-pid", str(loop.pid))[len(GITSTATE) :]
    started = Started(ws, [sys.executable, "-c", HELD_UP, str(there), str(go), *command])
    wait_until(there.exists, "the agent is to be started")
    loop.kill()
    loop.wait()
    wait_until(lambda: marker(ws), "the save of the keeper")
    go.touch()
    started.status()
    assert not (ws.outside / "ready").exists(), "the agent has worked"
    assert len(ws.refs("refs/gitstate/saves/")) == 1
    wait_until(lambda: not members(ws), "nothing of the run is left")
    check_recovered(ws, before)


def test_agent_outlives_its_keepers_and_is_saved_in_the_end(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    before = fingerprint(ws.path)
    killed: set[int] = set()

    def gives_up() -> bool:
        return "no checkpoint is taken any more" in started.words()

    for _ in range(6):
        file = ws.git_dir / "gitstate" / "run.json"

        def another(file: Path = file) -> bool:
            try:
                return json.loads(file.read_bytes())["keeper"][0] not in killed
            except (OSError, ValueError):
                return False

        wait_until(lambda: another() or gives_up(), "another keeper, or the words about it")
        if gives_up():
            break
        pid = json.loads(file.read_bytes())["keeper"][0]
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    assert len(killed) == 4 and gives_up()
    time.sleep(0.3)
    assert started.process.poll() is None, "a healthy agent was ended"
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    (ws.git_dir / "gitstate" / "run.json").unlink()
    check_saved(ws, before, task_id="T-9")
    check_recovered(ws, before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unshare makes a pid namespace")
def test_process_1_of_a_container_reaps_orphans_and_ends_of_the_signal(ws: Workspace) -> None:
    script = """
    for i in 1 2 3; do (sleep 0.05 & exit); done
    trap 'exit 0' TERM
    while grep -q '^Name:.sleep' /proc/[0-9]*/status; do :; done
    touch ready
    while :; do sleep 0.05; done
    """
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    argv = [*container, sys.executable, "-m", "gitstate", "run", "--task-id", "T-1", "--", "sh", "-c", script]
    with subprocess.Popen(argv, cwd=ws.path, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until((ws.path / "ready").exists, "no orphan is left, not even as a zombie")
            (children,) = Path(f"/proc/{process.pid}/task").glob("*/children")
            os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
            assert process.wait(60) == 143
        finally:
            process.kill()
    assert ws.refs("refs/gitstate/pending")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unshare makes a pid namespace")
@pytest.mark.parametrize("number", [signal.SIGPWR, signal.SIGRTMIN + 3])
def test_process_1_of_a_container_ends_as_containers_are_told_to(ws: Workspace, number: int) -> None:
    """By LXC and by systemd. The kernel drops a signal for process 1 that it does not listen to."""
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    with subprocess.Popen([*container, *run_command(ws, "")], cwd=ws.path, stderr=subprocess.DEVNULL) as process:
        try:
            agent_pid(ws)
            before = fingerprint(ws.path)
            (children,) = Path(f"/proc/{process.pid}/task").glob("*/children")
            os.kill(int(children.read_text().split()[0]), number)
            assert process.wait(60) == 128 + number
        finally:
            process.kill()
    check_recovered(ws, before)


def test_last_save_needs_no_code_that_the_agent_may_have_changed(ws: Workspace) -> None:
    """An agent may edit or update gitstate itself while the keeper waits to save."""
    code = ws.outside / "code"
    shutil.copytree(ROOT / "gitstate", code / "gitstate", ignore=shutil.ignore_patterns("__pycache__"))
    go = ws.outside / "go"
    wait = f"echo by the agent >a.txt; until [ -e {shlex.quote(os.fspath(go))} ]; do sleep 0.1; done; exit 3"
    started = Started(ws, [*GITSTATE, "run", "--", "sh", "-c", wait], {"PYTHONPATH": os.fspath(code)})
    keeper_pid(ws)
    shutil.rmtree(code)
    go.touch()
    assert started.status() == 3, started.words()
    assert ws.out("show", "HEAD:a.txt") == "by the agent" and marker(ws), started.words()


def test_keeper_has_name_session_and_streams_of_its_own(ws: Workspace) -> None:
    """Who kills the agent by its command line (`pkill -f`), its session or its terminal does not kill the keeper."""
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    keeper = keeper_pid(ws)
    words = Path(f"/proc/{keeper}/cmdline").read_bytes().split(b"\0")
    assert [word for word in words if word] == [b"gitstate", b"keep"]
    assert os.getsid(keeper) == keeper
    assert {os.readlink(f"/proc/{keeper}/fd/{stream}") for stream in range(3)} == {os.devnull}
    started.send(signal.SIGTERM)
    assert started.status() == 143


def test_keeper_of_a_run_inside_a_run_is_no_process_of_the_outer_one(ws: Workspace) -> None:
    """The end of the outer run ends what has its id in the environment; the keeper inside must save first."""
    started = Started(ws, run_command(ws, ""), {RUN_ID: "outer"})
    agent_pid(ws)
    keeper = keeper_pid(ws)
    assert f"{RUN_ID}=".encode() not in Path(f"/proc/{keeper}/environ").read_bytes()
    started.send(signal.SIGTERM)
    assert started.status() == 143


def test_descriptor_of_the_front_is_none_of_the_keeper(ws: Workspace) -> None:
    """A pipe that the keeper held open would keep whoever reads its other end."""
    reading, writing = os.pipe()
    command = run_command(ws, "")
    process = subprocess.Popen(command, cwd=ws.path, pass_fds=(writing,), start_new_session=True)
    os.close(writing)
    agent_pid(ws)
    keeper = keeper_pid(ws)
    pipe = os.readlink(f"/proc/self/fd/{reading}")
    assert pipe in descriptors(process.pid)
    assert os.devnull in descriptors(keeper) and pipe not in descriptors(keeper)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    os.close(reading)
