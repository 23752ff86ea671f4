"""`run --keep`: a task that waits is set aside with its work, another one begins, and the first comes back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.states import dirty
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.workspace import Run, Workspace, run_gitstate

B = "test ! -e new-of-a && git status --porcelain >../status && echo by-b >b-was-here"


def run_b(ws: Workspace, script: str = B) -> Run:
    return run_gitstate("run", "--keep", "--task-id", "B", "--", "sh", "-c", script, cwd=ws.path)


def waits(ws: Workspace, how: str) -> Fingerprint:
    """Task A has worked here, and was ended."""
    ws.gitstate("begin", "task_id=A", "progress_stage=coding")
    dirty(ws)
    ws.write("new-of-a", "new\n")
    ws.write(".gitignore", "*.log\n")
    ws.write("debug.log", "ignored\n")
    if how != "crashed":
        assert ws.gitstate("save", "--signal", "TERM").exit_status == 0
    before = fingerprint(ws.path)
    if how != "pending":
        assert ws.recover().exit_status == 0
        before = fingerprint(ws.path)
    return before


def aside(ws: Workspace) -> str:
    """The id of the save that was set aside."""
    (ref,) = ws.refs("refs/gitstate/dismissed")
    return ref.rpartition("/")[2]


@pytest.mark.sample(2)
@pytest.mark.parametrize("how", ["pending", "recovered", "crashed"])
def test_task_is_set_aside_and_comes_back(how: str, ws: Workspace, tmp_path: Path) -> None:
    head = ws.out("rev-parse", "HEAD")
    waits(ws, how)
    refused = run_gitstate("run", "--task-id", "B", "--", "touch", "started", cwd=ws.path)
    assert refused.exit_status == 4
    assert "--task-id A" in refused.stderr and "gitstate run --keep --task-id B" in refused.stderr
    if how == "pending":
        assert ws.recover().exit_status == 0
    saved = fingerprint(ws.path)
    assert ws.gitstate("save", "--signal", "TERM").exit_status == 0
    done = run_b(ws)
    assert done.exit_status == 0, done
    save_id = aside(ws)
    assert f"task A is set aside as {save_id}" in done.stderr
    assert f"gitstate recover --save {save_id}" in done.stderr
    assert (ws.path.parent / "status").read_text() == ""
    assert ws.out("rev-parse", "HEAD") == head
    assert ws.read("debug.log") == b"ignored\n" and ws.read("b-was-here") == b"by-b\n"
    assert not ws.refs("refs/gitstate/pending")
    assert ws.gitstate("show", "task_id", "status").text.split() == ["B", "finished"]
    ws.remove("b-was-here")
    assert ws.gitstate("prune", "--keep", "0", "--days", "0").exit_status == 0
    (item,) = ws.recover("--save", save_id).json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "A")
    assert saved.diff(fingerprint(ws.path)) == []
    assert not ws.refs("refs/gitstate/dismissed")


def test_task_comes_back_beside_the_commits_of_the_other(ws: Workspace, tmp_path: Path) -> None:
    waits(ws, "recovered")
    before = fingerprint(ws.path)
    assert run_b(ws, "echo b >b.txt; git add b.txt; git -c user.name=B -c user.email=b@b commit -qm b").exit_status == 0
    tip = ws.out("rev-parse", "HEAD")
    there = tmp_path / "beside"
    done = ws.gitstate("recover", "--into", str(there), "--save", aside(ws), "--json")
    (item,) = done.json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "A"), done
    after = fingerprint(there)
    ignored = {b"debug.log"}
    assert {k: v for k, v in before.files.items() if k not in ignored} == after.files
    assert ws.out("rev-parse", "HEAD") == tip and ws.read("b.txt") == b"b\n"


def test_task_that_is_set_aside_is_listed(ws: Workspace) -> None:
    waits(ws, "recovered")
    assert run_b(ws, "true").exit_status == 0
    line = next(line for line in ws.gitstate("log").text.splitlines() if line.startswith(aside(ws)))
    assert "  A  " in line and "set aside" in line
    shown = ws.gitstate("status").text
    assert "task A is set aside" in shown and aside(ws) in shown
    (item,) = ws.gitstate("status", "--json").json["workspaces"]
    assert item["aside"] == [{"save_id": aside(ws), "task_id": "A"}]


def test_work_that_no_save_can_hold_is_not_set_aside(ws: Workspace) -> None:
    waits(ws, "crashed")
    ws.write("holes", "")
    os.truncate(ws.at("holes"), 17 << 30)
    done = run_b(ws, "touch started")
    assert done.exit_status == 4 and "lacks files" in done.stderr, done
    assert ws.refs("refs/gitstate/pending") and not os.path.exists(ws.at("started"))
    assert os.path.getsize(ws.at("holes")) == 17 << 30 and os.path.exists(ws.at("new-of-a"))


def test_unfinished_merge_is_not_set_aside(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=A")
    ws.git("checkout", "-q", "-b", "other", "HEAD~1")
    ws.write("c", "c\n")
    ws.git("add", "c")
    ws.git("commit", "-qm", "c")
    ws.git("merge", "-q", "--no-commit", "--no-ff", "-", check=False)
    before = fingerprint(ws.path)
    done = run_b(ws, "touch started")
    assert done.exit_status == 4 and "can't be set aside: a merge is in progress" in done.stderr, done
    assert before.files == fingerprint(ws.path).files
    assert ws.recover().exit_status == 0
    assert before.diff(fingerprint(ws.path)) == []


#: Kills the process group of a set-aside at its n-th step: a call into git, or a write.
KILLED = """\
import os, signal, sys
from gitstate.git.opening import open_repository
from gitstate.git.command import Git
from gitstate.git import refs
from gitstate.run import hold
left = int(sys.argv[2])
def step():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
def counted(function):
    def run(*args, **more):
        step()
        answer = function(*args, **more)
        step()
        return answer
    return run
for owner, name in ((Git, "run"), (refs, "move_refs"), (refs.RefWriter, "prepare"), (refs.RefWriter, "carry_out"),
                    (hold, "write_state"), (hold, "clear_journal"), (hold, "write_journal")):
    setattr(owner, name, counted(getattr(owner, name)))
hold.set_aside(open_repository(os.fsencode(sys.argv[1])), "B")
"""


def test_killed_at_any_step_loses_nothing(ws: Workspace, tmp_path: Path) -> None:
    waits(ws, "recovered")
    before = fingerprint(ws.path)
    killed = 0
    for number in range(400):
        done = subprocess.run([sys.executable, "-c", KILLED, str(ws.path), str(number)], capture_output=True)
        kept = [ref.rpartition("/")[2] for ref in ws.refs("refs/gitstate/dismissed")]
        pending = ws.refs("refs/gitstate/pending")
        if pending or not kept:
            (item,) = ws.recover().json["workspaces"]
            assert item["verdict"] in ("restore", "recovered"), (number, item)
        else:
            assert ws.out("status", "--porcelain") == ""
            assert ws.recover().json["workspaces"][0]["verdict"] == "nothing"
            (item,) = ws.recover("--save", max(kept)).json["workspaces"]
            assert item["verdict"] == "restore", (number, item)
        assert before.diff(fingerprint(ws.path)) == [], number
        assert item["context"]["task_id"] == "A"
        for name in ws.refs("refs/gitstate/dismissed"):
            ws.git("update-ref", "-d", name)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, (number, re.sub(rb"\s+", b" ", done.stderr[-500:]))
        killed += 1
    assert done.returncode == 0 and killed > 20


@pytest.mark.sample(3)
@pytest.mark.parametrize("delay", [n / 25 for n in range(1, 12)])
def test_killed_with_its_gits_at_any_time_loses_nothing(delay: float, ws: Workspace) -> None:
    waits(ws, "recovered")
    before = fingerprint(ws.path)
    argv = [sys.executable, "-c", KILLED, str(ws.path), "1000"]
    with subprocess.Popen(argv, cwd=ws.path, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        with_time = subprocess.run(["sleep", str(delay)], check=True)
        assert with_time.returncode == 0
        os.killpg(process.pid, signal.SIGKILL)
    kept = sorted(ref.rpartition("/")[2] for ref in ws.refs("refs/gitstate/dismissed"))
    if ws.refs("refs/gitstate/pending") or not kept:
        assert ws.recover().exit_status == 0
    else:
        assert ws.recover("--save", kept[-1]).exit_status == 0
    assert before.diff(fingerprint(ws.path)) == []
