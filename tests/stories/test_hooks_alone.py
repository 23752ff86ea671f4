"""An agent that has hooks alone, and no keeper: who works here is known as long as it lives, and no longer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstate.system.process import Process
from gitstate.workspace import lease
from tests.support.agents import wait_until
from tests.support.workspace import Workspace, run_gitstate

NAMESPACES = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unshare makes a pid namespace")

#: An agent: for each line on its stdin it runs the hook for that event, through a shell, and says that it has.
AGENT = """\
import json, shlex, signal, subprocess, sys, time
workspace, how, command = sys.argv[1:4]
if "deaf" in how:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "command" in how:
    subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
for name in sys.stdin:
    told = {"hook_event_name": name.strip(), "session_id": "s-1", "cwd": workspace}
    subprocess.run(["sh", "-c", command], input=json.dumps(told).encode(), stdout=subprocess.DEVNULL, check=True)
    print("done", flush=True)
time.sleep(600)
"""
HOOK = f"{sys.executable} -m gitstate hook claude"


class Agent:
    """A running agent, that reports its events by its hooks."""

    def __init__(self, ws: Workspace, how: str, prefix: tuple[str, ...], hook: str) -> None:
        argv = [*prefix, sys.executable, "-c", AGENT, str(ws.path), how, hook]
        self.process = subprocess.Popen(argv, cwd=ws.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def event(self, name: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(name.encode() + b"\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b"done\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def agent(ws: Workspace, how: str = "", *prefix: str, hook: str = HOOK) -> Iterator[Agent]:
    started = Agent(ws, how, prefix, hook)
    try:
        started.event("SessionStart")
        yield started
    finally:
        started.kill()


def presence(ws: Workspace) -> lease.Presence:
    return lease.presence_in(os.fsencode(ws.git_dir))


def verdicts(ws: Workspace, tmp_path: Path) -> tuple[str, str]:
    """Of the workspace by its name, and among all."""
    (by_name,) = ws.recover("--dry-run").json["workspaces"]
    (of_all,) = run_gitstate("recover", "--all", "--dry-run", "--json", cwd=tmp_path).json["workspaces"]
    return by_name["verdict"], of_all["verdict"]


def status(ws: Workspace) -> str:
    (item,) = ws.gitstate("status", "--json").json["workspaces"]
    return str(item["status"])


@pytest.mark.parametrize("pending", [False, True])
def test_live_agent_is_left_alone(pending: bool, ws: Workspace, tmp_path: Path) -> None:
    ws.gitstate("begin", "task_id=T-1")
    if pending:
        ws.append("a.txt")
        assert ws.save().exit_status == 0
    with agent(ws) as live:
        context = (ws.git_dir / "gitstate" / "context.json").read_bytes()
        assert verdicts(ws, tmp_path) == ("live", "live")
        (item,) = ws.recover().json["workspaces"]
        assert f"claude pid {live.process.pid}" in item["message"]
        assert run_gitstate("run", "--task-id", "T-2", "--", "touch", "started", cwd=ws.path).exit_status == 75
        assert ws.gitstate("begin", "task_id=T-2").exit_status == 75
        assert ws.gitstate("finish").exit_status == 75
        assert (ws.git_dir / "gitstate" / "context.json").read_bytes() == context
        assert not (ws.path / "started").exists()
        assert status(ws) == ("interrupted" if pending else "active")


def test_killed_agent_is_gone(ws: Workspace, tmp_path: Path) -> None:
    ws.gitstate("begin", "task_id=T-1")
    with agent(ws) as killed:
        ws.append("a.txt")
        killed.event("PostToolUse")
        killed.kill()
        assert presence(ws).state == "gone"
        assert status(ws) == "crashed"
        assert verdicts(ws, tmp_path) == ("context_only", "context_only")
    assert run_gitstate("run", "--task-id", "T-1", "--", "true", cwd=ws.path).exit_status == 0


def test_session_that_ends_leaves_nobody_on_record(ws: Workspace) -> None:
    with agent(ws) as ending:
        ending.event("SessionEnd")
        assert presence(ws).state == "nobody"
        ending.event("SessionStart")
        assert presence(ws).live


@pytest.mark.parametrize(
    "hook",
    [
        HOOK,
        f"exec {HOOK}",
        f"timeout 60 env A=1 nohup {HOOK}",
        f"! command -v no-such-gitstate >/dev/null || exit; {HOOK}",
        f"setsid --wait bash -c '{HOOK}; :'",
    ],
)
def test_owner_is_the_agent_however_it_calls_the_hook(hook: str, ws: Workspace) -> None:
    with agent(ws, hook=hook) as live:
        holder = presence(ws).holder
        assert holder is not None
        assert (holder.kind, holder.agent, holder.owner.pid) == ("owner", "claude", live.process.pid)
        assert holder.pid_namespace == os.readlink("/proc/self/ns/pid")


def test_agent_that_is_a_script_of_a_shell_is_known_by_its_name(ws: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "claude"
    told = json.dumps({"hook_event_name": "SessionStart", "session_id": "s-1", "cwd": str(ws.path)})
    script.write_text(f"#!/bin/bash\necho '{told}' | {HOOK}\necho done\nsleep 600\n")
    script.chmod(0o755)
    with subprocess.Popen([script], cwd=ws.path, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"done\n"
            holder = presence(ws).holder
            assert holder is not None and holder.owner.pid == process.pid
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_server_of_many_sessions_owns_no_workspace(ws: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "codex"
    told = json.dumps({"hook_event_name": "SessionStart", "session_id": "s-1", "cwd": str(ws.path)})
    script.write_text(f"#!/bin/sh\necho '{told}' | {HOOK.replace('claude', 'codex')}\n")
    script.chmod(0o755)
    subprocess.run([script, "app-server"], cwd=ws.path, check=True, stdout=subprocess.DEVNULL)
    assert presence(ws).state == "nobody"
    subprocess.run([script, "exec"], cwd=ws.path, check=True, stdout=subprocess.DEVNULL)
    assert presence(ws).state == "gone"


@pytest.mark.sample(2)
@pytest.mark.parametrize("how", ["polite", "deaf", "command"])
def test_stop_ends_the_agent_and_saves(how: str, ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=T-1")
    with agent(ws, how) as stopped:
        ws.append("a.txt")
        below = [name for name in os.listdir("/proc") if name.isdigit() and _parent(name) == stopped.process.pid]
        run = ws.gitstate("stop", "--wait", "1" if how == "deaf" else "60", "--json")
        assert run.exit_status == 0, run
        (item,) = run.json["workspaces"]
        assert (item["result"], item["killed"]) == ("stopped", how == "deaf")
        assert stopped.process.wait(60) == (-signal.SIGKILL if how == "deaf" else -signal.SIGTERM)
        assert len(below) == (how == "command")
        assert all(_parent(name) is None for name in below)
    (item,) = ws.recover().json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "T-1")


def _parent(pid: str) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[1])


def test_stop_ends_no_process_that_has_the_pid_of_an_agent_that_has_gone(ws: Workspace) -> None:
    with agent(ws) as other:
        holder = presence(ws).holder
        assert holder is not None
        own = os.fsencode(ws.git_dir / "gitstate")
        record = json.loads((ws.git_dir / "gitstate" / "lease.json").read_bytes())
        record["owner"][1] = "1"
        (ws.git_dir / "gitstate" / "lease.json").write_text(json.dumps(record))
        known = lease.read_holder(own)
        assert known is not None and known.owner == Process(other.process.pid, "1")
        assert ws.gitstate("stop", "--json").json["workspaces"][0]["result"] == "idle"
        assert other.process.poll() is None
        other.event("PostToolUse")
        assert presence(ws).holder == holder


@NAMESPACES
def test_agent_in_another_pid_namespace_is_unknown(ws: Workspace, tmp_path: Path) -> None:
    container = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")
    ws.gitstate("begin", "task_id=T-1")
    with agent(ws, "", *container) as live:
        found = presence(ws)
        assert found.state == "unknown" and "in another container" in found.why
        assert verdicts(ws, tmp_path)[1] == "nothing"
        assert run_gitstate("run", "--task-id", "T-2", "--", "true", cwd=ws.path).exit_status == 75
        assert ws.gitstate("begin", "task_id=T-2").exit_status == 75
        stopped = ws.gitstate("stop")
        assert stopped.exit_status == 75 and "not in this container" in stopped.stderr
        assert live.process.poll() is None


def test_keeper_and_first_agent_stay_on_record(ws: Workspace) -> None:
    with agent(ws) as first:
        before = presence(ws).holder
        with agent(ws) as second:
            assert presence(ws).holder == before
            second.event("SessionEnd")
            assert presence(ws).holder == before
            first.kill()
            second.event("PostToolUse")
            holder = presence(ws).holder
            assert holder is not None and holder.owner.pid == second.process.pid
    argv = [sys.executable, "-m", "gitstate", "run", "--", sys.executable, "-c", AGENT, str(ws.path), "", HOOK]
    with subprocess.Popen(argv, cwd=ws.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None and run.stdout is not None
        run.stdin.write(b"SessionStart\nSessionEnd\n")
        run.stdin.flush()
        assert [run.stdout.readline() for _ in range(2)] == [b"done\n"] * 2
        holder = presence(ws).holder
        assert holder is not None and (holder.kind, holder.owner.pid) == ("keeper", run.pid)
        run.terminate()
        run.stdin.close()
    wait_until(lambda: presence(ws).state == "nobody", "the run is over")
