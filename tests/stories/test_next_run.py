"""The next run gets the task: after a reboot, in a container that starts again, beside another task."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstate.format.names import old_workspace_id
from gitstate.workspace import lease
from tests.states import dirty
from tests.support.agents import has_checkpoint, wait_until
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_gitstate

NAMESPACES = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unshare makes a pid namespace")


@contextlib.contextmanager
def running(ws: Workspace, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the workspace; whatever comes, it is gone afterwards."""
    process = subprocess.Popen(argv, cwd=ws.path, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def context(ws: Workspace) -> dict[str, object]:
    found = ws.gitstate("show", "--json").json["context"]
    assert isinstance(found, dict)
    return found


def test_loop_after_recovery_at_boot_hears_of_the_task(ws: Workspace, tmp_path: Path) -> None:
    ws.gitstate("begin", "task_id=T-OLD", "agent=claude", "session_id=S1", "memory_refs=notes.md")
    dirty(ws)
    assert ws.gitstate("save", "--signal", "TERM").exit_status == 0
    assert run_gitstate("recover", "--all", cwd=tmp_path).exit_status == 0
    before = fingerprint(ws.path)
    for _ in range(2):
        (item,) = ws.recover().json["workspaces"]
        assert (item["verdict"], item["exit_status"]) == ("recovered", 0)
        found = item["context"]
        assert (found["task_id"], found["session_id"], found["memory_refs"]) == ("T-OLD", "S1", ["notes.md"])
        assert "T-OLD" in item["briefing"]
    assert before.diff(fingerprint(ws.path)) == []
    ws.gitstate("begin", "task_id=T-NEW")
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "context_only" and item["context"]["task_id"] == "T-NEW"


def test_finished_task_is_not_reported_again(ws: Workspace) -> None:
    dirty(ws)
    assert ws.gitstate("save", "--signal", "TERM").exit_status == 0
    assert ws.recover().exit_status == 0
    assert ws.gitstate("finish").exit_status == 0
    assert ws.recover().json["workspaces"][0]["verdict"] == "nothing"


def test_run_of_another_task_is_refused_while_one_waits(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=A")
    dirty(ws)
    assert ws.gitstate("save", "--signal", "TERM").exit_status == 0
    before = fingerprint(ws.path)
    refused = run_gitstate("run", "--task-id", "B", "--", "touch", "started", cwd=ws.path)
    assert refused.exit_status == 4
    assert "task A is not finished" in refused.stderr and "--task-id A" in refused.stderr
    assert before.diff(fingerprint(ws.path)) == []
    assert not (ws.path / "started").exists()
    went_on = run_gitstate("run", "--task-id", "A", "--", "touch", "started", cwd=ws.path)
    assert went_on.exit_status == 0, went_on
    assert (ws.path / "started").exists()
    assert run_gitstate("run", "--task-id", "B", "--", "true", cwd=ws.path).exit_status == 0


@NAMESPACES
@pytest.mark.parametrize("wiped", [False, True])
def test_container_that_starts_again_continues_the_task(wiped: bool, ws: Workspace) -> None:
    """Same host, same boot, pid 1 again: the pids agree, and yet the run has ended."""
    script = "echo work >>a.txt; echo new >new.txt; sleep 600"
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    python = [sys.executable, "-m", "gitstate"]
    run = [*python, "run", "--interval", "0.3", "--task-id", "T-42", "--progress-stage", "coding", "--", "sh", "-c"]
    with running(ws, *container, *run, script) as first:
        wait_until(lambda: "new.txt" in checkpoint_paths(ws), "a checkpoint of the work")
        assert lease.presence_in(os.fsencode(ws.git_dir)).state == "live"
        assert ws.recover().exit_status == 75
        first.kill()
    wait_until(lambda: lease.presence_in(os.fsencode(ws.git_dir)).state == "gone", "the lease is free")
    if wiped:
        ws.git("reset", "-q", "--hard")
        ws.git("clean", "-fdxq")
    second = subprocess.run([*container, *run[:4], "--", "true"], cwd=ws.path, capture_output=True, encoding="utf-8")
    assert second.returncode == 0, second
    found = context(ws)
    assert (found["task_id"], found["progress_stage"]) == ("T-42", "coding")
    assert ws.read("new.txt") == b"new\n" and ws.read("a.txt").endswith(b"work\n")


def checkpoint_paths(ws: Workspace) -> str:
    refs = ws.refs("refs/gitstate/checkpoints")
    return "".join(ws.out("ls-tree", "-r", "--name-only", f"{archive}^1") for archive in refs.values())


@NAMESPACES
def test_live_agent_in_another_container_is_left_alone(ws: Workspace, tmp_path: Path) -> None:
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    argv = [*container, sys.executable, "-m", "gitstate", "run", "--task-id", "T-1", "--", "sleep", "600"]
    with running(ws, *argv) as live:
        wait_until(lambda: lease.presence_in(os.fsencode(ws.git_dir)).live, "the run has begun")
        wait_until(lambda: has_checkpoint(ws), "its context stands")
        before = (ws.git_dir / "gitstate" / "context.json").read_bytes()
        assert ws.recover().exit_status == 75
        for words in (["run", "--task-id", "T-9", "--", "true"], ["begin", "task_id=T-9"], ["finish"]):
            refused = ws.gitstate(*words)
            assert refused.exit_status == 75 and " stop, where it was started" in refused.stderr, refused
        stopped = ws.gitstate("stop")
        assert stopped.exit_status == 75 and "not in this container" in stopped.stderr, stopped
        (item,) = run_gitstate("recover", "--all", "--json", cwd=tmp_path).json["workspaces"]
        assert item["verdict"] == "live"
        assert (ws.git_dir / "gitstate" / "context.json").read_bytes() == before
        assert live.poll() is None


def test_copy_of_a_live_workspace_is_a_workspace_of_its_own(ws: Workspace, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "gitstate", "run", "--task-id", "T-1", "--", "sleep", "600"]
    with running(ws, *argv) as live:
        wait_until(lambda: lease.presence_in(os.fsencode(ws.git_dir)).live, "the run has begun")
        wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
        subprocess.run(["cp", "-a", str(ws.path), str(tmp_path / "copy")], check=True)
        copy = Workspace(tmp_path / "copy", ws.outside)
        copy.append("a.txt")
        assert copy.recover().exit_status == 0
        assert copy.save("--task-id", "T-2").exit_status == 0
        ids = [(one.git_dir / "gitstate" / "workspace-id").read_text().split("\n")[0] for one in (ws, copy)]
        assert ids[0] != ids[1]
        live.terminate()
        live.wait(60)


@pytest.mark.parametrize("change", ["moved", "renamed host"])
def test_workspace_keeps_its_id(change: str, ws: Workspace, tmp_path: Path) -> None:
    dirty(ws)
    assert ws.save().exit_status == 0
    before = sorted(ws.refs("refs/gitstate/pending"))
    if change == "moved":
        ws.path = ws.path.rename(tmp_path / "moved")
        run = ws.recover()
    else:
        if os.geteuid() != 0:
            pytest.skip("needs root: unshare changes the host name")
        script = 'hostname another; exec "$@"'
        argv = ["unshare", "--uts", "sh", "-c", script, "sh", sys.executable, "-m", "gitstate", "recover", "--json"]
        done = subprocess.run(argv, cwd=ws.path, capture_output=True, encoding="utf-8")
        assert json.loads(done.stdout)["exit_status"] == 0, done
        run = ws.recover()
    assert run.exit_status == 0, run
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    assert sorted(ws.refs("refs/gitstate/pending")) == before


@pytest.mark.parametrize("packed", [False, True])
def test_saves_of_version_0_1_keep_their_name(packed: bool, ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    given = (ws.git_dir / "gitstate" / "workspace-id").read_text().split("\n")[0]
    old = old_workspace_id(os.fsencode(ws.path))
    for ref, oid in ws.refs("refs/gitstate").items():
        ws.git("update-ref", ref.replace(given, old), oid)
        ws.git("update-ref", "-d", ref)
    (ws.git_dir / "gitstate" / "workspace-id").unlink()
    if packed:
        ws.git("pack-refs", "--all")
    assert ws.recover("--dry-run").json["workspaces"][0]["verdict"] == "restore"
    ws.append("README.md")
    assert ws.save().exit_status == 0
    assert list(ws.refs("refs/gitstate/pending")) == [f"refs/gitstate/pending/{old}"]
    assert ws.recover().exit_status == 0
    ws.git("checkout", "-q", "--", "README.md")
    assert before.diff(fingerprint(ws.path)) == []


def lost_worktree(ws: Workspace, *, commits: bool = False) -> tuple[Workspace, str]:
    """A worktree on a branch of its own, and its pending save of the task A: it was removed then."""
    lost = Workspace(ws.outside / "lost", ws.outside)
    ws.git("worktree", "add", "-q", "-b", "of-a", lost.path)
    if commits:
        lost.git("commit", "-q", "--allow-empty", "-m", "of A")
    lost.write("of-a.txt")
    saved = saved_from(lost.save(task_id="A"))
    ws.git("worktree", "remove", "--force", lost.path)
    return lost, saved.save_id


@pytest.mark.parametrize(
    "argv",
    [
        [sys.executable, "-m", "gitstate", "run", "--", "touch", "begun"],
        ["bash", "-c", 'eval "$(gitstate init bash)"; recover_agent_state; [ $? -eq 1 ] && touch begun'],
        [
            sys.executable,
            "-c",
            "import gitstate\nwith gitstate.guard() as it: open('begun', 'w').write(str(it.recovered))",
        ],
    ],
    ids=["run", "shell", "guard"],
)
def test_worktree_that_is_gone_stops_no_run_in_another(argv: list[str], ws: Workspace) -> None:
    _, save_id = lost_worktree(ws)
    new = Workspace(ws.outside / "new", ws.outside)
    ws.git("worktree", "add", "-q", "-b", "next", new.path)
    done = subprocess.run(argv, cwd=new.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (new.path / "begun").exists(), done
    assert save_id in done.stderr and "--into" in done.stderr
    assert new.recover().json["workspaces"][0]["save_id"] is None
    assert len(ws.refs("refs/gitstate/pending")) == 1


@pytest.mark.parametrize("known", ["branch", "path", "unreadable"])
def test_worktree_that_is_gone_stops_a_run_that_may_go_on_with_it(known: str, ws: Workspace) -> None:
    lost, save_id = lost_worktree(ws)
    branch = "of-a" if known == "branch" else "next"
    new = Workspace(lost.path if known == "path" else ws.outside / "new", ws.outside)
    ws.git("worktree", "add", "-q", "-B", branch, new.path, "HEAD~1")
    if known == "unreadable":
        (marker,) = ws.refs("refs/gitstate/pending")
        ws.git("update-ref", marker, "HEAD")
    run = run_gitstate("run", "--", "touch", "begun", cwd=new.path)
    assert run.exit_status == 4 and not (new.path / "begun").exists(), run
    assert ("it can't be read" if known == "unreadable" else save_id) in run.stderr


@pytest.mark.parametrize("commits", [False, True])
def test_worktree_made_anew_for_another_task_begins_without_the_work_of_the_last(commits: bool, ws: Workspace) -> None:
    """Same path, same branch: of the task A nothing is taken, and nothing is lost."""
    lost, save_id = lost_worktree(ws, commits=commits)
    ws.git("worktree", "add", "-q", "-B", "of-a", lost.path, "HEAD")
    run = run_gitstate(
        "run", "--task-id", "B", "--", "sh", "-c", "test ! -e of-a.txt && echo b >of-b.txt", cwd=lost.path
    )
    assert run.exit_status == 0 and save_id in run.stderr, run
    assert ws.gitstate("begin", "task_id=B", path=lost.path).exit_status == 0
    assert recovered_from(lost.recover(), exits=(0, 75))["save_id"] is None
    assert not (lost.path / "of-a.txt").exists() and (lost.path / "of-b.txt").exists()
    beside = ws.outside / "beside"
    ws.git("worktree", "remove", "--force", lost.path)
    if not commits:
        assert ws.gitstate("recover", "--into", str(beside), "--save", save_id).exit_status == 0
        assert (beside / "of-a.txt").exists()


def test_run_of_another_task_is_refused_on_the_wip_commit_of_a_worktree_that_is_gone(ws: Workspace) -> None:
    lost, _ = lost_worktree(ws)
    ws.git("worktree", "add", "-q", lost.path, "of-a")
    refused = run_gitstate("run", "--task-id", "B", "--", "touch", "begun", cwd=lost.path)
    assert refused.exit_status == 4 and "task A is not finished" in refused.stderr, refused
    kept = run_gitstate("run", "--keep", "--task-id", "B", "--", "test", "!", "-e", "of-a.txt", cwd=lost.path)
    assert kept.exit_status == 0 and "task A is set aside" in kept.stderr, kept
