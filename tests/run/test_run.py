"""`gitstate run`, `gitstate.guard`, `gitstate stop`: what they refuse, record and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.run.commands import WORK, run_command
from tests.support.agents import (
    PATIENCE,
    Started,
    agent_pid,
    check_recovered,
    check_saved,
    has_checkpoint,
    keeper_pid,
    marker,
    wait_until,
)
from tests.support.oracle import fingerprint
from tests.support.workspace import GITSTATE, Workspace


def test_second_run_in_the_same_workspace_is_rejected(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    canary = ws.outside / "canary"
    run = ws.gitstate("run", "--", "touch", os.fspath(canary))
    assert run.exit_status == 75, run
    assert not canary.exists()
    started.send(signal.SIGTERM)
    assert started.status() == 143


def test_missing_command_exits_127(ws: Workspace) -> None:
    run = ws.gitstate("run", "--", "no-such-agent")
    assert run.exit_status == 127
    assert "no-such-agent" in run.stderr
    assert not marker(ws)


def test_run_takes_checkpoints_while_the_agent_works(ws: Workspace) -> None:
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


def test_stop_ends_a_run_and_prints_its_save(ws: Workspace) -> None:
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


def test_stop_kills_and_saves_a_loop_that_ignores_signals(ws: Workspace) -> None:
    """A foreign loop that only recorded its pid gets SIGKILL, and `stop` saves its work."""
    script = (
        "trap '' TERM; ready=$1; shift; \"$@\" begin --owner-pid $$ task_id=T-9; echo x > made; "
        "touch $ready; while :; do sleep 0.1; done"
    )
    started = Started(ws, ["sh", "-c", script, "sh", os.fspath(ws.outside / "ready"), *GITSTATE])
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


def test_guard_calls_the_previous_signal_handler(ws: Workspace) -> None:
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


def test_guard_dies_of_its_signal_though_nobody_reads_its_output(ws: Workspace) -> None:
    script = ws.outside / "piped.py"
    script.write_text(
        "import os, signal, gitstate\n"
        "reading, writing = os.pipe()\n"
        "os.close(reading)\n"
        "os.dup2(writing, 1)\n"
        "with gitstate.guard(task_id='T-9'):\n"
        "    print('a word', end='')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, os.fspath(script)], cwd=ws.path, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGTERM


def test_guard_of_another_task_has_no_values_of_the_recovered_one(ws: Workspace) -> None:
    ws.append("a.txt")
    saved = ws.gitstate("save", "--task-id", "T-1", "--issue-number", "7", "--set", "session_id=s-1")
    assert saved.exit_status == 0
    script = ws.outside / "next.py"
    script.write_text(
        "import gitstate\n"
        "with gitstate.guard(task_id='T-2') as task:\n"
        "    print(task.context.task_id, task.context.issue_number, task.context.session_id)\n"
    )
    done = subprocess.run([sys.executable, os.fspath(script)], cwd=ws.path, capture_output=True, timeout=PATIENCE)
    assert done.stdout == b"T-2 None None\n", done


def test_guard_works_with_threads_and_as_a_decorator(ws: Workspace) -> None:
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


def test_finish_recovers_a_pending_save_first(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=T-9")
    ws.write("made", "x")
    before = fingerprint(ws.path)
    assert ws.gitstate("save").exit_status == 0
    assert ws.gitstate("finish").exit_status == 0
    assert not marker(ws)
    assert before.diff(fingerprint(ws.path)) == []
    assert json.loads((ws.path / "active_state.json").read_bytes())["status"] == "finished"


@pytest.mark.parametrize("there", [True, False])
def test_session_of_the_agent_is_named_only_if_it_exists(ws: Workspace, hermetic: Path, there: bool) -> None:
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


def test_session_id_that_looks_like_a_command_is_ignored(ws: Workspace, hermetic: Path) -> None:
    transcript = hermetic / "t.jsonl"
    transcript.write_text("{}\n")
    ws.gitstate("begin", "agent=claude", "session_id=x; touch PWNED", f"transcript_path={transcript}")
    ws.write("made", "x")
    ws.gitstate("save")
    assert "PWNED" not in ws.recover().json["workspaces"][0]["resume"]


def test_run_has_three_processes_and_no_descriptor_of_its_caller(ws: Workspace) -> None:
    """Front, keeper, agent. Neither keeper nor agent holds what the caller of the front had open: a lock, say."""
    with (ws.outside / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        front = subprocess.Popen(run_command(ws, ""), cwd=ws.path, close_fds=False, stderr=subprocess.DEVNULL)
    try:
        agent, keeper = agent_pid(ws), keeper_pid(ws)
        wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
        listed = Path(f"/proc/{front.pid}/task/{front.pid}/children")
        assert {*map(int, listed.read_text().split())} == {agent, keeper}
        assert os.getsid(keeper) == keeper and os.readlink(f"/proc/{keeper}/cwd") == "/"
        for pid in (agent, keeper):
            open_files = {os.path.realpath(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
            assert os.fspath(ws.outside / "held") not in open_files
    finally:
        front.send_signal(signal.SIGTERM)
    assert front.wait(PATIENCE) == -signal.SIGTERM


MALFORMED: tuple[str, ...] = ("--no-such-option true", "--grace -1 true", "--owner-pid 0 true", "")


@pytest.mark.parametrize("words", MALFORMED)
def test_malformed_run_is_reported_with_its_help(ws: Workspace, words: str) -> None:
    run = ws.gitstate("run", *words.split())
    assert run.exit_status == 2 and "next: gitstate run --help" in run.stderr, run
    assert not (ws.git_dir / "gitstate" / "run.json").exists()


def test_pairs_and_options_of_a_run_reach_its_context(ws: Workspace) -> None:
    options = ["--task-id=T-1", "--set", "colour=red", "--grace", "3"]
    run = ws.gitstate("run", *options, "progress_stage=coding", "--", "true")
    assert run.exit_status == 0, run
    for name, value in (("task_id", b"T-1\n"), ("progress_stage", b"coding\n"), ("colour", b"red\n")):
        assert ws.gitstate("show", name).stdout == value
