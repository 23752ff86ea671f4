"""What goes on when the agent has gone on: one checkpoint at a time, the last one of an interval, and kills."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.orders import events
from gitstate.orders.client import SOCKET, order_checkpoint
from gitstate.system.process import Process
from gitstate.workspace.lease import this_holder, write_holder
from tests.run.commands import run_command
from tests.support.agents import Started, agent_pid, hooks_are_done, keeper_pid, marker, wait_until
from tests.support.workspace import GITSTATE, Workspace

HOOK = [*GITSTATE, "hook", "claude"]
SLOW = {"GITSTATE_HOOK_INTERVAL": "3600"}


def told(repo: Workspace, name: str = "PostToolUse", session: str = "s-1") -> bytes:
    paths = {"transcript_path": f"/t/{session}.jsonl", "cwd": str(repo.path)}
    return json.dumps({"hook_event_name": name, "session_id": session, **paths}).encode()


def start(repo: Workspace, name: str, **env: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(HOOK, stdin=subprocess.PIPE, cwd=repo.path, env={**os.environ, **env})
    assert process.stdin is not None
    process.stdin.write(told(repo, name))
    process.stdin.close()
    return process


def event(repo: Workspace, name: str = "PostToolUse", **env: str) -> None:
    assert start(repo, name, **env).wait(60) == 0


def memory(repo: Workspace) -> dict[str, int]:
    return dict(json.loads((repo.git_dir / "gitstate" / "agent-hook.json").read_bytes()))


def settled(repo: Workspace) -> None:
    wait_until(lambda: hooks_are_done(repo.git_dir), "what the hook has begun")


def checkpointed(repo: Workspace, path: str = "new") -> str:
    """A file in the latest checkpoint; an empty text where it holds none."""
    for ref in repo.refs("refs/gitstate/checkpoints"):
        return repo.git("show", f"{ref}^1:{path}", check=False).decode().strip()
    return ""


def holds(repo: Workspace, text: str) -> bool:
    return checkpointed(repo) == text


def waiter(repo: Workspace) -> subprocess.Popen[bytes]:
    """A process that waits for the end of an interval of an hour, in which a tool has changed `new` to 2."""
    repo.write("new", "1\n")
    event(repo, **SLOW)
    settled(repo)
    assert checkpointed(repo) == "1"
    repo.write("new", "2\n")
    (repo.git_dir / "gitstate" / "agent-hook.events" / "100001.claude").write_bytes(told(repo) + b"\n")
    process = subprocess.Popen(
        [*HOOK, "background"], stdin=subprocess.DEVNULL, cwd=repo.path, env={**os.environ, **SLOW}
    )
    wait_until((repo.git_dir / "gitstate" / "agent-hook.wait").exists, "it waits")
    assert checkpointed(repo) == "1" and process.poll() is None
    return process


def test_checkpoint_that_nobody_waits_for_lets_others_go_first(repo: Workspace, tmp_path: Path) -> None:
    log, wrapper = tmp_path / "niceness", tmp_path / "bin/git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nnice >>{log}\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o755)
    path = {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}
    own = os.getpriority(os.PRIO_PROCESS, 0)
    behind = min(own + 5, 19)

    def niceness() -> set[int]:
        settled(repo)
        found = set(map(int, log.read_text().split()))
        log.unlink()
        return found

    repo.write("new", "1\n")
    event(repo, **path)
    # Until the agent goes on, it is handled as the agent is.
    assert niceness() == {own, behind} and checkpointed(repo) == "1"
    repo.write("new", "2\n")
    (repo.git_dir / "gitstate" / "agent-hook.events" / "100001.claude").write_bytes(told(repo, "Stop") + b"\n")
    environment = {**os.environ, **path}
    argv = [*HOOK, "background"]
    assert subprocess.run(argv, stdin=subprocess.DEVNULL, cwd=repo.path, env=environment).returncode == 0
    assert checkpointed(repo) == "2" and niceness() == {behind}
    repo.write("new", "3\n")
    event(repo, "SessionEnd", **path)
    assert checkpointed(repo) == "3" and niceness() == {own}, "the agent waits for this one"


def test_tool_in_the_interval_brings_a_checkpoint_at_its_end(repo: Workspace) -> None:
    interval = {"GITSTATE_HOOK_INTERVAL": "3"}
    repo.write("new", "1\n")
    event(repo, **interval)
    settled(repo)
    repo.write("new", "2\n")
    event(repo, **interval)
    # No other event comes.
    wait_until(lambda: checkpointed(repo) == "2", "the checkpoint at the end of the interval")


def test_one_process_waits_for_the_end_of_an_interval(repo: Workspace) -> None:
    first = waiter(repo)
    for number in range(3):
        repo.write("new", f"{3 + number}\n")
        argv = [*HOOK, "background"]
        (repo.git_dir / "gitstate" / "agent-hook.events" / "100001.claude").write_bytes(told(repo) + b"\n")
        assert subprocess.run(argv, stdin=subprocess.DEVNULL, cwd=repo.path, env={**os.environ, **SLOW}).returncode == 0
    assert memory(repo)["skipped"] == 4 and first.poll() is None
    # The end of the turn takes all of it, and it has nothing to wait for.
    event(repo, "Stop", **SLOW)
    settled(repo)
    assert (checkpointed(repo), first.wait(60)) == ("5", 0)


def test_waiter_takes_the_checkpoint_when_the_agent_has_ended(repo: Workspace) -> None:
    process = waiter(repo)
    gone = Process(process.pid, "1")
    write_holder(open_repository(os.fsencode(repo.path)), this_holder("owner", gone, agent="claude"))
    assert process.wait(60) == 0
    assert checkpointed(repo) == "2"


def test_checkpoint_of_a_waiter_is_of_the_session_that_works_now(repo: Workspace) -> None:
    """The session that it was started for has ended without a word, and the next one works."""
    process = waiter(repo)
    repo.write("new", "3\n")
    for name in ("UserPromptSubmit", "PostToolUse"):
        queued = repo.git_dir / "gitstate" / "agent-hook.events" / "100001.claude"
        queued.write_bytes(told(repo, name, "s-2") + b"\n")
        argv = [*HOOK, "background"]
        assert subprocess.run(argv, stdin=subprocess.DEVNULL, cwd=repo.path, env={**os.environ, **SLOW}).returncode == 0
    assert checkpointed(repo) == "1" and process.poll() is None
    gone = Process(process.pid, "1")
    write_holder(open_repository(os.fsencode(repo.path)), this_holder("owner", gone, agent="claude"))
    assert process.wait(60) == 0
    assert checkpointed(repo) == "3"
    (archive,) = repo.refs("refs/gitstate/checkpoints").values()
    assert json.loads(repo.git("show", f"{archive}:context.json"))["session_id"] == "s-2"


def test_killed_waiter_is_in_nobodys_way(repo: Workspace) -> None:
    process = waiter(repo)
    process.kill()
    process.wait()
    event(repo, GITSTATE_HOOK_INTERVAL="0")
    wait_until(functools.partial(holds, repo, "2"), "another process waits, or the checkpoint is due")


def test_waiter_ends_with_its_workspace(repo: Workspace) -> None:
    process = waiter(repo)
    shutil.rmtree(repo.path)
    assert process.wait(60) == 0
    assert not repo.path.exists()


def test_process_killed_in_its_checkpoint_leaves_the_events_to_the_next(repo: Workspace) -> None:
    event(repo, "SessionStart")
    repo.write("new", "1\n")
    queue = repo.git_dir / "gitstate" / "agent-hook.events"
    (queue / "100001.claude").write_bytes(told(repo, "Stop") + b"\n")
    gate = repo.outside / "gate"
    os.mkfifo(gate)
    slow = repo.outside / "bin"
    slow.mkdir()
    gated = f'case "$*" in *status*) read -r go <"{gate}" ;; esac'
    (slow / "git").write_text(f'#!/bin/sh\n{gated}\nexec {shutil.which("git")} "$@"\n')
    (slow / "git").chmod(0o755)
    env = {**os.environ, "PATH": f"{slow}:{os.environ['PATH']}"}
    process = subprocess.Popen([*HOOK, "background"], stdin=subprocess.DEVNULL, cwd=repo.path, env=env)
    taking = repo.git_dir / "gitstate" / "journal"
    wait_until(taking.exists, "it takes a checkpoint")
    assert not list(queue.iterdir())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert memory(repo)["done"] < memory(repo)["wanted"] and checkpointed(repo) == ""
    # Any event that comes takes it.
    event(repo, "UserPromptSubmit")
    settled(repo)
    assert checkpointed(repo) == "1"


def test_twenty_at_once_bring_one_checkpoint_after_the_other(repo: Workspace) -> None:
    event(repo, "SessionStart")
    repo.write("new", "1\n")
    running = [start(repo, "Stop") for _ in range(20)]
    assert [process.wait(120) for process in running] == [0] * 20
    settled(repo)
    assert (memory(repo)["events"], memory(repo)["done"], memory(repo).get("problem")) == (20, 20, None)
    assert checkpointed(repo) == "1"


#: A hook that waits for its turn. It tells when its patience is over, and goes on when it is told to.
WAITS = """\
import os, sys
from gitstate.agent_hooks import background
from gitstate.errors import TryAgain
from gitstate.git.opening import open_repository
lock, background._LONGEST = background.lock, 600.0
def told(path, deadline, what):
    try:
        return lock(path, background.Deadline(0.0), what)
    except TryAgain:
        print("impatient", flush=True)
        sys.stdin.readline()
        raise
background.lock = told
with background.in_order(open_repository(os.fsencode(sys.argv[1]))):
    print("goes on", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("hangs", [False, True])
def test_turn_is_waited_for_as_long_as_others_have_theirs(hangs: bool, repo: Workspace) -> None:
    """Else two of many at once would write the memory beside each other, and lose an event."""
    event(repo, "SessionStart")
    place = repo.git_dir / "gitstate" / "agent-hook.lock"
    argv = [sys.executable, "-c", WAITS, os.fspath(repo.path)]
    with place.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as waits:
            assert waits.stdin is not None and waits.stdout is not None
            for number in range(0 if hangs else 3):
                assert waits.stdout.readline() == "impatient\n"
                # Another one has its turn.
                os.utime(place, (number, number))
                print(file=waits.stdin, flush=True)
            assert waits.stdout.readline() == "impatient\n"
            if not hangs:
                os.utime(place)
                fcntl.flock(lock, fcntl.LOCK_UN)
            print(file=waits.stdin, flush=True)
            assert waits.stdout.readline() == "goes on\n"
            if not hangs:
                with pytest.raises(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print(file=waits.stdin, flush=True)


def test_keeper_takes_the_checkpoints_of_the_hooks(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, "", "--interval", "3600"))
    try:
        agent_pid(ws)
        keeper_pid(ws)
        own = os.fsencode(ws.git_dir) + b"/gitstate"
        wait_until(lambda: order_checkpoint(own, at_once=True, waits=60), "the keeper listens")
        event(ws, "SessionStart")
        assert json.loads((ws.path / "active_state.json").read_bytes())["session_id"] == "s-1"
        for number, name in enumerate(("PreCompact", "Stop", "SessionEnd")):
            ws.write("new", f"{number}\n")
            event(ws, name)
            wait_until(functools.partial(holds, ws, str(number)), name)
            settled(ws)
            # One that a hook takes itself has a cost.
            assert (memory(ws)["cost_ns"], memory(ws)["events"]) == (0, number + 1)
        assert (ws.git_dir / "gitstate" / "turn").read_bytes() == b"closed"
        ws.write("new", "tool\n")
        event(ws, **SLOW)
        event(ws, **SLOW)
        settled(ws)
        assert checkpointed(ws) == "2", "a tool waits for the keeper's own interval"
    finally:
        started.send(signal.SIGKILL)
        started.status()
        wait_until(lambda: not (ws.git_dir / "gitstate" / "run.json").exists(), "the end of the keeper")


def test_end_of_a_session_is_durable_before_the_agent_goes_on(repo: Workspace) -> None:
    for number in range(3):
        repo.write("new", f"{number}\n")
        event(repo, "SessionEnd")
        assert checkpointed(repo) == str(number)


def test_dead_keeper_leaves_the_checkpoint_to_the_hook(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    keeper = keeper_pid(ws)
    socket = ws.git_dir / "gitstate" / os.fsdecode(SOCKET)
    wait_until(socket.exists, "the keeper listens")
    # It hangs, and another one would be started if it died.
    os.kill(keeper, signal.SIGSTOP)
    ws.write("new", "1\n")
    event(ws, "Stop")
    settled(ws)
    assert checkpointed(ws) == "1" and memory(ws)["cost_ns"] > 0
    started.send(signal.SIGKILL)
    started.status()
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: not order_checkpoint(os.fsencode(socket.parent), at_once=True, waits=60), "it is dead")
    os.kill(agent_pid(ws), signal.SIGKILL)
    ws.write("new", "2\n")
    event(ws, "Stop")
    settled(ws)
    assert socket.exists() and checkpointed(ws) == "2" and memory(ws)["cost_ns"] > 0


@pytest.mark.parametrize("somebody", [True, False], ids=["handled", "killed"])
def test_turn_that_was_closed_last_is_known_at_the_end_of_the_run(somebody: bool, ws: Workspace) -> None:
    """The agent ends at once after its last hook, which is handled when it has gone, or was killed with it."""
    event(ws, "SessionStart")
    script = ws.outside / "agent.py"
    script.write_text(
        "import subprocess, sys\n"
        f"hook, prompt, stop = {HOOK!r}, {told(ws, 'UserPromptSubmit')!r}, {told(ws, 'Stop')!r}\n"
        "subprocess.run(hook, input=prompt, check=True)\n"
        f"open({os.fspath(ws.git_dir)!r} + '/gitstate/agent-hook.events/100001.claude', 'wb').write(stop + b'\\n')\n"
        # The run has ended when it begins.
        f"if {somebody}:\n"
        "    late = ['sh', '-c', 'sleep 0.3; exec \"$@\"', '', *hook, 'background']\n"
        "    subprocess.Popen(late, stdin=subprocess.DEVNULL)\n"
    )
    (ws.git_dir / "gitstate" / "lease.json").unlink(missing_ok=True)
    done = subprocess.run([*GITSTATE, "run", "--task-id", "T-1", "--", sys.executable, script], cwd=ws.path)
    assert done.returncode == 0
    assert not marker(ws), "a turn that was closed counted as open"
    assert (Path(ws.git_dir) / "gitstate" / "turn").read_bytes() == b"closed"


def test_event_of_a_session_before_the_run_does_not_count(ws: Workspace) -> None:
    event(ws, "SessionStart")
    settled(ws)
    (ws.git_dir / "gitstate" / "agent-hook.events" / "100001.claude").write_bytes(told(ws, "UserPromptSubmit") + b"\n")
    (ws.git_dir / "gitstate" / "lease.json").unlink(missing_ok=True)
    done = subprocess.run([*GITSTATE, "run", "--task-id", "T-1", "--", "true"], cwd=ws.path)
    assert done.returncode == 0
    assert not marker(ws), "the prompt of another session opened a turn"


def test_unfinished_event_holds_nobody_where_the_clock_is_set_back(
    repo: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = open_repository(os.fsencode(repo.path))
    os.makedirs(repository.own, exist_ok=True)
    events.make_queue(repository)
    (repo.git_dir / "gitstate/agent-hook.events/1.claude").write_text("{")
    asked = [0]

    def back() -> float:
        asked[0] += 1
        assert asked[0] < 10_000, "it waits until the clock has come to where it was"
        return told_time if asked[0] == 1 else told_time - 86_400

    told_time = time.time()
    monkeypatch.setattr(events, "_WRITING", 0.05)
    monkeypatch.setattr(events, "_PAUSE", 0.001)
    monkeypatch.setattr(time, "time", back)
    assert list(events.queued_events(repository)) == []
    assert events.is_empty(repository)
