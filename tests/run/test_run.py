"""`gitstate run`, `gitstate.guard` and `gitstate stop` with real processes and real signals: every cause of death."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.states import STATES, Templates, Workspace, make
from tests.support.environment import ROOT
from tests.support.oracle import fingerprint
from tests.support.runs import (
    PATIENCE,
    Started,
    agent,
    agent_pid,
    check_recovered,
    check_saved,
    keeper_pid,
    marker,
    members,
    wait_until,
)

GITSTATE = [sys.executable, "-m", "gitstate"]

GUARD = """\
import subprocess, sys
import gitstate
with gitstate.guard(task_id="T-9", issue_number=9, progress_stage="coding", agent="fake") as task:
    status = subprocess.run(sys.argv[1:]).returncode
    if status:
        sys.exit(128 - status if status < 0 else status)
"""


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    return make(STATES["clean"], templates, tmp_path)


def run_command(ws: Workspace, then: str, *options: str) -> list[str]:
    context = ["--task-id", "T-9", "--issue-number", "9", "--progress-stage", "coding", "--agent", "fake"]
    return [*GITSTATE, "run", *context, *options, "--", *agent(ws, then)]


def guard_command(ws: Workspace, then: str) -> list[str]:
    script = ws.outside / "guarded.py"
    script.write_text(GUARD)
    return [sys.executable, os.fspath(script), *agent(ws, then)]


WAYS: dict[str, Callable[[Workspace, str], list[str]]] = {"run": run_command, "guard": guard_command}
WORK = {"task_id": "T-9", "issue_number": 9, "progress_stage": "coding", "agent": "fake"}


def to_agent(number: int) -> Callable[[Started, int], None]:
    return lambda _, pid: os.kill(pid, number)


def to_all(number: int) -> Callable[[Started, int], None]:
    return lambda started, _: started.send_group(number)


def to_one(*numbers: int, pause: float = 0.05) -> Callable[[Started, int], None]:
    def kill(started: Started, _: int) -> None:
        for number in numbers:
            if started.process.poll() is None:
                started.send(number)
            time.sleep(pause)

    return kill


#: name: (what kills, what the agent does, the status that the caller sees with `run`, the same with `guard`)
DEATHS: dict[str, tuple[Callable[[Started, int], None], str, int, int]] = {
    "TERM": (to_one(signal.SIGTERM), "", 143, 143),
    "TERM to the group": (to_all(signal.SIGTERM), "", 143, 143),
    "TERM twice": (to_one(signal.SIGTERM, signal.SIGTERM), "", 143, 143),
    "HUP": (to_one(signal.SIGHUP), "", 129, 129),
    "INT": (to_one(signal.SIGINT), "", 130, 130),
    "QUIT": (to_one(signal.SIGQUIT), "", 131, 131),
    "TERM, agent deaf": (to_one(signal.SIGTERM), "deaf", 143, 143),
    "TERM, then KILL after 2 s": (to_one(signal.SIGTERM, signal.SIGKILL, pause=2.0), "", 143, 143),
    "KILL of the agent": (to_agent(signal.SIGKILL), "", 137, 137),
    "KILL of the front": (to_one(signal.SIGKILL), "", 137, 137),
    "KILL of the front, agent deaf": (to_one(signal.SIGKILL), "deaf", 137, 137),
    "KILL of the group": (to_all(signal.SIGKILL), "", 137, 137),
    "exit 3": (lambda *_: None, "exit 3", 3, 3),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("death", DEATHS)
def test_whatever_ends_the_run_its_work_is_saved(ws: Workspace, death: str, way: str) -> None:
    kill, then, *statuses = DEATHS[death]
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


@pytest.mark.parametrize(("breaks", "why"), [(lose_head, ""), (take_all_room, "File too large")])
def test_a_last_save_that_fails_names_the_early_one_that_stands(
    ws: Workspace, breaks: Callable[[Workspace, int], None], why: str
) -> None:
    """While the agent still ends, and after its work was saved once, the repository breaks or its disk is full."""
    script, ready, go = (ws.outside / name for name in ("lingerer.py", "ready", "go"))
    script.write_text(LINGERER)
    patient = ["--grace", "50", "--deadline", "100"]
    started = Started(ws, [*GITSTATE, "run", *patient, "--", sys.executable, *map(os.fspath, (script, ready, go))])
    agent_pid(ws)
    git_dir, before = ws.git_dir, fingerprint(ws.path)
    keeper = keeper_pid(ws)
    started.send(signal.SIGTERM)
    wait_until(lambda: marker(ws), "the early save")
    with (git_dir / "gitstate" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the early save has ended
        (early,) = ws.out("for-each-ref", "--format=%(refname:lstrip=4)", "refs/gitstate/saves").split()
        breaks(ws, keeper)
    ws.append("a.txt", "after the early save\n")
    go.touch()
    assert started.status() == 143
    if (ws.outside / "HEAD").exists():
        (ws.outside / "HEAD").rename(git_dir / "HEAD")
    failed, saved, *more = started.words().splitlines()
    assert failed.startswith("gitstate: the last look failed: ")
    assert why in failed
    assert saved.startswith(f"saved {early} (")
    assert saved.endswith("incomplete: 1 left out")
    assert "large.bin" in more[0]
    assert more[-2].strip() == "what was left to this second step, and what changed since, is not saved"
    assert more[-1].strip() == "next: gitstate recover"
    assert ws.out("for-each-ref", "--format=%(refname:lstrip=4)", "refs/gitstate/saves").split() == [early]
    ws.git("checkout", "-q", "--", "a.txt")
    ws.recover()
    assert before.diff(fingerprint(ws.path)) == []
    assert not marker(ws)


@pytest.mark.parametrize("way", WAYS)
def test_what_an_agent_leaves_behind_is_ended_before_the_last_save(ws: Workspace, way: str) -> None:
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
def test_a_clean_end_leaves_no_save(ws: Workspace, way: str) -> None:
    head = ws.out("rev-parse", "HEAD")
    started = Started(ws, WAYS[way](ws, "exit 0"))
    assert started.status() == 0, started.words()
    assert not marker(ws)
    assert ws.out("rev-parse", "HEAD") == head
    assert json.loads((ws.path / "active_state.json").read_bytes())["status"] == "finished"
    assert (ws.path / "new by agent.txt").read_text() == "new\nmore\n"
    assert not ws.gitstate("save").stdout, "a finished task is carried into the next save"
    assert "T-9" not in ws.out("log", "-1", "--format=%s")


def test_the_next_run_recovers_first_and_goes_on_with_the_task(ws: Workspace) -> None:
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


def test_a_second_run_in_the_same_workspace_is_refused(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    canary = ws.outside / "canary"
    run = ws.gitstate("run", "--", "touch", os.fspath(canary))
    assert run.exit_status == 75, run
    assert not canary.exists()
    started.send(signal.SIGTERM)
    assert started.status() == 143


def test_a_command_that_is_not_there(ws: Workspace) -> None:
    run = ws.gitstate("run", "--", "no-such-agent")
    assert run.exit_status == 127
    assert "no-such-agent" in run.stderr
    assert not marker(ws)


def test_keepers_that_are_killed(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    before = fingerprint(ws.path)
    killed: set[int] = set()
    for _ in range(6):
        file = ws.git_dir / "gitstate" / "run.json"

        def another(file: Path = file) -> bool:
            try:
                return json.loads(file.read_bytes())["keeper"][0] not in killed
            except (OSError, ValueError):
                return False

        end = time.monotonic() + 5
        while not another() and time.monotonic() < end:
            time.sleep(0.02)
        if not another():
            break
        pid = json.loads(file.read_bytes())["keeper"][0]
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    assert started.status() == 143, started.words()
    assert len(killed) == 4
    (ws.git_dir / "gitstate" / "run.json").unlink()
    check_saved(ws, before, task_id="T-9")
    check_recovered(ws, before)


def test_checkpoints_while_the_agent_works(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, "", "--interval", "0.2"))
    agent_pid(ws)
    tree = ws.out("rev-parse", "HEAD^{tree}")

    def holds(name: str, text: str) -> bool:
        return checkpoint(name) == text

    def checkpoint(name: str) -> str:
        ref = ws.out("for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints")
        return ws.git("cat-file", "-p", f"{ref}^1:{name}", check=False).decode() if ref else ""

    wait_until(lambda: checkpoint("new by agent.txt") == "new\nmore\n", "a checkpoint")
    for name, text in (("a.txt", "changed again\n"), ("dir one/two/deep.txt", "deep\n"), ("new by agent.txt", "x")):
        ws.write(name, text)
        wait_until(partial(holds, name, text), f"a checkpoint with {name}")
    ws.remove("dir one")
    wait_until(lambda: not checkpoint("dir one/two/deep.txt"), "a checkpoint without it")
    assert not marker(ws)
    assert ws.out("rev-parse", "HEAD^{tree}") == tree
    before = fingerprint(ws.path)
    started.send(signal.SIGTERM)
    assert started.status() == 143
    check_saved(ws, before, **WORK)
    check_recovered(ws, before)


@pytest.mark.parametrize("way", ["agent ends", "agent goes on"])
def test_ctrl_c_on_a_terminal_is_the_agents(ws: Workspace, way: str) -> None:
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


def test_a_terminal_that_is_closed(ws: Workspace) -> None:
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


def test_stop_ends_a_run_and_says_what_was_saved(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    before = fingerprint(ws.path)
    run = ws.gitstate("stop", "--json")
    assert run.exit_status == 0, run
    found = run.json["workspaces"][0]
    assert found["result"] == "stopped" and not found["killed"]
    assert started.status() == 143
    assert found["save_id"] in ws.out("log", "-1", "--format=%B")
    check_saved(ws, before, **WORK)
    check_recovered(ws, before)
    assert ws.gitstate("stop", "--json").json["workspaces"][0]["result"] == "idle"


def test_stop_of_a_loop_that_is_deaf(ws: Workspace) -> None:
    """A loop of somebody's own that only said who it is: it gets SIGKILL, and its work is saved from outside."""
    script = "trap '' TERM; gitstate=$1; ready=$2; $gitstate begin --owner-pid $$ task_id=T-9; echo x > made; " \
        "touch $ready; while :; do sleep 0.1; done"  # fmt: skip
    started = Started(ws, ["sh", "-c", script, "sh", " ".join(GITSTATE), os.fspath(ws.outside / "ready")])
    wait_until((ws.outside / "ready").exists, "the loop began")
    run = ws.gitstate("stop", "--wait", "0.5", "--json")
    assert run.exit_status == 0, run
    found = run.json["workspaces"][0]
    assert found["killed"] and found["save_id"]
    assert started.status() == 137
    assert ws.out("show", "HEAD:made") == "x"
    note = json.loads(ws.git("notes", "--ref=gitstate", "show", "HEAD"))
    assert note["task_id"] == "T-9"
    assert note["reason"]["signal"] == "KILL"


def test_guard_chains_the_handler_that_was_there(ws: Workspace) -> None:
    script = ws.outside / "chained.py"
    script.write_text(
        "import os, signal, sys, gitstate\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').write('mine'), sys.exit(7)))\n"
        "with gitstate.guard(task_id='T-9'):\n"
        "    open('made', 'w').write('x')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    mine = ws.outside / "mine"
    done = subprocess.run([sys.executable, script, mine], cwd=ws.path, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 7, done
    assert mine.read_text() == "mine"
    assert ws.out("show", "HEAD:made") == "x"


def test_guard_in_a_program_with_threads_and_as_a_decorator(ws: Workspace) -> None:
    script = ws.outside / "threads.py"
    script.write_text(
        "import threading, gitstate\n"
        "@gitstate.guard(task_id='T-9')\n"
        "def work(text):\n"
        "    open('made', 'w').write(text)\n"
        "    raise ValueError('$(boom)\\x1b[2J')\n"
        "def main():\n"
        "    try:\n"
        "        work('x')\n"
        "    except ValueError:\n"
        "        print('seen')\n"
        "thread = threading.Thread(target=main); thread.start(); thread.join()\n"
    )
    done = subprocess.run([sys.executable, script], cwd=ws.path, capture_output=True, timeout=PATIENCE)
    assert done.stdout == b"seen\n", done
    assert b"\x1b" not in done.stderr
    assert ws.out("show", "HEAD:made") == "x"
    note = json.loads(ws.git("notes", "--ref=gitstate", "show", "HEAD"))
    assert "ValueError" in note["reason"]["detail"]


def test_finish_brings_a_waiting_save_back_first(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=T-9")
    ws.write("made", "x")
    before = fingerprint(ws.path)
    assert ws.gitstate("save").exit_status == 0
    assert ws.gitstate("finish").exit_status == 0
    assert not marker(ws)
    assert before.diff(fingerprint(ws.path)) == []
    assert json.loads((ws.path / "active_state.json").read_bytes())["status"] == "finished"


@pytest.mark.parametrize("there", [True, False])
def test_the_agents_own_session_is_named_only_where_it_exists(ws: Workspace, hermetic: Path, there: bool) -> None:
    transcript = hermetic / ".claude" / "projects" / "some-project" / "abc-123.jsonl"
    if there:
        transcript.parent.mkdir(parents=True)
        transcript.write_text("{}\n")
    ws.gitstate("begin", "task_id=T-9", "agent=claude", "session_id=abc-123")
    ws.write("made", "x")
    ws.gitstate("save")
    resume = ws.recover().json["workspaces"][0]["resume"]
    assert ("claude --resume abc-123" in resume) is there
    assert ("T-9" in resume) is not there


def test_a_session_id_that_is_a_command_is_none(ws: Workspace, hermetic: Path) -> None:
    transcript = hermetic / "t.jsonl"
    transcript.write_text("{}\n")
    ws.gitstate("begin", "agent=claude", "session_id=x; touch PWNED", f"transcript_path={transcript}")
    ws.write("made", "x")
    ws.gitstate("save")
    assert "PWNED" not in ws.recover().json["workspaces"][0]["resume"]


def test_the_last_save_needs_nothing_of_what_the_agent_may_have_changed(ws: Workspace) -> None:
    """An agent may work on these very files, or bring them up to date, while the keeper waits to save its work."""
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
