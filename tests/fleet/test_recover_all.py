"""`recover --all`: where contexts come from, which workspaces are skipped, and what blocks no other."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.cli.recovering import fleet_lines
from gitstate.fleet.recover_all import recover_all
from gitstate.format.manifest import LeftOut
from gitstate.git.opening import open_repository
from gitstate.recover.request import RecoverRequest, RecoverResult
from gitstate.system import clock, forkpool, locks
from gitstate.system.process import Process
from gitstate.workspace import lease
from gitstate.workspace.peek import Peeker
from tests.fleet.crashes import context_file, dead_pid, edit_context, foreign, give_away, recovered, waiting
from tests.states import STATES, dirty, make
from tests.support.oracle import fingerprint
from tests.support.repositories import Templates
from tests.support.skips import NO_MOUNT, NOT_ROOT, not_installed
from tests.support.workspace import Workspace, run_git, run_gitstate


def test_killed_run_without_a_save_restores_its_context(ws: Workspace, sleeper: subprocess.Popen[bytes]) -> None:
    ws.gitstate("begin", "task_id=T-9", "progress_stage=testing", "--owner-pid", str(sleeper.pid))
    ws.append("a.txt", "on the disk\n")
    before = fingerprint(ws.path)
    live = ws.recover()
    assert (live.exit_status, live.json["workspaces"][0]["verdict"]) == (75, "live")
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    (ws.path / "active_state.json").unlink()
    assert ws.gitstate("status").stdout.decode().splitlines()[1].startswith("crashed")
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "context_only"
    assert (item["context"]["task_id"], item["context"]["progress_stage"]) == ("T-9", "testing")
    state = json.loads((ws.path / "active_state.json").read_text())
    assert (state["task_id"], state["status"]) == ("T-9", "recovered")
    assert fingerprint(ws.path) == before
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "recovered"


def test_context_falls_back_to_the_state_file(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-9")
    context_file(ws).write_bytes(b"")
    (item,) = ws.recover().json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("context_only", "T-9")


def test_context_falls_back_to_the_checkpoint(ws: Workspace) -> None:
    dirty(ws)
    ws.gitstate("checkpoint", "--task-id", "T-9")
    (item,) = ws.recover().json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("context_only", "T-9")


def test_wiped_work_is_restored_from_the_checkpoint(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=T-9", "--owner-pid", str(dead_pid()))
    edit_context(ws, pid=dead_pid(), boot_id="another boot")
    dirty(ws)
    before = fingerprint(ws.path)
    assert ws.gitstate("checkpoint").exit_status == 0
    for entry in ws.path.iterdir():
        if entry.name != ".git":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "restore"
    assert fingerprint(ws.path) == before


def test_work_newer_than_the_checkpoint_is_kept(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-9")
    ws.append("a.txt", "then\n")
    held_id = ws.gitstate("checkpoint", "--json").json["save_id"]
    edit_context(ws, boot_id="another boot")
    ws.append("a.txt", "now\n")
    before = fingerprint(ws.path)
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "context_only"
    assert held_id in item["message"] and held_id in item["hint"]
    assert fingerprint(ws.path) == before


def test_live_loop_does_not_get_reverted_work_back(ws: Workspace) -> None:
    """The owner is an ancestor of `recover`, so its run has not ended and its checkpoint is not restored."""
    ws.gitstate("begin", "task_id=T-9", "--owner-pid", str(os.getpid()))
    ws.append("a.txt", "an idea\n")
    ws.gitstate("checkpoint")
    ws.git("checkout", "-q", "a.txt")
    before = fingerprint(ws.path)
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] == "context_only"
    assert fingerprint(ws.path) == before


@pytest.mark.parametrize("command", ["begin", "set"])
def test_task_after_that_of_a_killed_run_is_no_crash(ws: Workspace, command: str) -> None:
    """What was written down of the run that was killed says nothing of the task that begins after it."""
    repository = open_repository(os.fsencode(ws.path))
    ws.gitstate("set", "task_id=T-8")
    lease.write_holder(repository, lease.this_holder("keeper", Process(dead_pid(), None)))
    assert ws.recover("--all").json["workspaces"][0]["verdict"] == "context_only"
    assert ws.gitstate("finish").exit_status == 0
    assert ws.gitstate(command, "task_id=T-9").exit_status == 0
    ws.append("a.txt", "an idea\n")
    ws.gitstate("checkpoint")
    ws.git("checkout", "-q", "a.txt")
    assert ws.gitstate("status").stdout.decode().splitlines()[1].startswith("active")
    assert ws.recover("--all").json["workspaces"][0]["verdict"] == "nothing"
    ws.expect_exactly()


def crash(ws: Workspace) -> None:
    """A task begins, and all that works on it is killed before its first checkpoint."""
    assert ws.gitstate("begin", "task_id=T-9").exit_status == 0
    holder = lease.this_holder("keeper", Process(dead_pid(), None))
    lease.write_holder(open_repository(os.fsencode(ws.path)), holder)


@pytest.mark.parametrize("is_saved", [False, True])
def test_killed_run_without_a_checkpoint_gets_nothing_of_an_older_task(ws: Workspace, is_saved: bool) -> None:
    ws.gitstate("set", "task_id=T-8")
    ws.append("a.txt", "of the older task\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    if is_saved:
        ws.append("a.txt", "more\n")
        assert ws.save().exit_status == 0 and ws.recover().exit_status == 0
    else:
        assert ws.gitstate("finish").exit_status == 0
    ws.git("checkout", "-q", "a.txt")
    crash(ws)
    (item,) = ws.recover("--all").json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("context_only", "T-9"), item
    ws.expect_exactly()


def test_checkpoint_of_the_next_task_with_the_same_files_is_its_own(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-8")
    ws.append("a.txt", "of both\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    assert ws.gitstate("finish").exit_status == 0
    crash(ws)
    assert ws.gitstate("checkpoint").exit_status == 0
    ws.git("checkout", "-q", "a.txt")
    assert ws.recover("--all").json["workspaces"][0]["verdict"] == "restore"
    assert ws.read("a.txt").endswith(b"of both\n")


@pytest.mark.parametrize("status", ["recovered", "finished"])
def test_task_after_one_of_another_host_can_be_finished(ws: Workspace, status: str) -> None:
    ws.gitstate("set", "task_id=T-8")
    there = lease.this_holder("owner", Process(1, None))._replace(host="there", boot_id="another boot")
    lease.write_holder(open_repository(os.fsencode(ws.path)), there)
    assert ws.gitstate("finish").exit_status == 75, "it may still run"
    assert ws.recover().exit_status == 0
    if status == "finished":
        assert ws.gitstate("finish").exit_status == 0
    assert ws.gitstate("begin", "task_id=T-9").exit_status == 0
    assert ws.gitstate("finish").exit_status == 0


def test_finish_restores_no_checkpoint(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-9")
    ws.append("a.txt", "an idea\n")
    ws.gitstate("checkpoint")
    edit_context(ws, boot_id="another boot", pid=1)
    ws.git("checkout", "-q", "a.txt")
    assert ws.gitstate("finish").exit_status == 0
    ws.expect_exactly()


@pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)
@pytest.mark.skipif(shutil.which("unshare") is None, reason=not_installed("unshare"))
def test_recycled_pid_after_a_reboot_is_not_the_owner(
    ws: Workspace, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    ws.gitstate("set", "task_id=T-9")
    dirty(ws)
    assert ws.save("--owner-pid", str(sleeper.pid)).exit_status == 0
    assert recovered(run_gitstate("recover", "--all", "--json", cwd=tmp_path))[str(ws.path)]["verdict"] == "live"
    with ws.in_another_boot():
        run = ws.recover("--all")
    if run.exit_status == 97:
        pytest.skip(NO_MOUNT)
    (item,) = json.loads(run.stdout)["workspaces"]
    assert (run.exit_status, item["verdict"]) == (0, "restore")


def test_recover_all_skips_the_workspace_of_the_calling_loop(ws: Workspace, tmp_path: Path) -> None:
    ws.gitstate("begin", "task_id=T-9", "--owner-pid", str(os.getpid()))
    run = run_gitstate("recover", "--all", "--json", cwd=tmp_path)
    assert (run.exit_status, recovered(run)[str(ws.path)]["verdict"]) == (0, "live")


def test_missing_workspace_is_reported_with_the_command_to_restore_it(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    dirty(ws)
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    shutil.rmtree(ws.path)
    assert ws.main is not None
    run_gitstate("register", cwd=ws.main)
    run = run_gitstate("recover", "--all", "--json", cwd=tmp_path)
    item = recovered(run)[str(ws.path)]
    assert (run.exit_status, item["verdict"]) == (4, "elsewhere")
    command, *words = shlex.split(item["hint"])
    assert command == "gitstate"
    assert run_gitstate(*words, cwd=tmp_path).exit_status == 0
    assert fingerprint(ws.path).files == before.files


def test_bare_repository_has_its_worktrees_and_the_saves_of_those_that_are_gone(ws: Workspace, tmp_path: Path) -> None:
    """It stands beside a `.git` that leads to it, as teams have it that work in linked worktrees alone."""
    top, agent = tmp_path / "top", Workspace(tmp_path / "agent", tmp_path)
    run_git(tmp_path, "clone", "-q", "--bare", str(ws.path), "top/.bare")
    (top / ".git").write_text("gitdir: ./.bare\n")
    run_git(top, "config", "gitstate.register", "false")
    run_git(top, "worktree", "add", "-q", str(agent.path), "agent/work")
    agent.write("new.txt")
    save_id = agent.save().json["save_id"]
    listed = run_gitstate("status", "--all", "--json", cwd=top).json["workspaces"]
    assert [item["workspace"] for item in listed] == [str(agent.path)]
    shutil.rmtree(agent.path)
    told = run_gitstate("recover", "--all", "--json", cwd=top)
    (item,) = told.json["workspaces"]
    assert (told.exit_status, item["verdict"], item["save_id"]) == (4, "elsewhere", save_id)
    (entry,) = run_gitstate("log", "--json", cwd=top).json["saves"]
    assert (entry["save_id"], entry["waiting"]) == (save_id, True)
    assert "+text" in run_gitstate("diff", save_id, cwd=top).text
    kept = run_gitstate("prune", "--all", "--keep", "0", "--days", "0", "--json", cwd=top)
    assert (kept.json["pruned"], kept.json["kept"]) == ([], 1)
    refused = run_gitstate("recover", cwd=top)
    assert refused.exit_status == 1 and "core.bare false" not in refused.stderr
    again = run_gitstate(*shlex.split(refused.stderr.rpartition(": gitstate ")[2]), cwd=top)
    assert again.exit_status == 0 and agent.read("new.txt") == b"text\n", again
    pruned = run_gitstate("prune", "--all", "--keep", "0", "--days", "0", "--json", cwd=top)
    assert pruned.json["pruned"] == [save_id]


def test_save_that_another_gitstate_recovers_meanwhile_is_not_told(ws: Workspace) -> None:
    lost = Workspace(ws.outside / "lost", ws.outside)
    ws.git("worktree", "add", "-q", "-b", "of-lost", lost.path)
    for one in (ws, lost):
        one.write("new.txt")
        assert one.save().exit_status == 0
    ws.git("worktree", "remove", "--force", lost.path)

    def meanwhile(_done: int, _all: int, what: str) -> None:
        if what == "recovered" and not lost.path.exists():
            assert ws.gitstate("recover", "--into", str(lost.path)).exit_status == 0

    (result,) = recover_all([os.fsencode(ws.path)], RecoverRequest(strict=True), meanwhile)
    assert (result.verdict, result.exit_status) == ("restore", 0) and (lost.path / "new.txt").exists()


@pytest.mark.parametrize("lost", ["objects", "marker"])
def test_pending_save_of_a_missing_workspace_that_cannot_be_read_is_named(
    templates: Templates, tmp_path: Path, lost: str
) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    dirty(ws)
    assert ws.main is not None
    packs = ws.main / ".git" / "objects" / "pack"
    before = set(packs.iterdir())
    assert ws.save().exit_status == 0
    ((marker, _),) = ws.refs("refs/gitstate/pending").items()
    if lost == "marker":
        (ws.main / ".git" / marker).write_bytes(b"")
    else:
        for pack in set(packs.iterdir()) - before:
            pack.unlink()
    shutil.rmtree(ws.path)
    run_git(ws.main, "worktree", "prune")
    run_gitstate("register", cwd=ws.main)
    run = run_gitstate("recover", "--all", "--json", cwd=tmp_path)
    (found,) = (item for item in run.json["workspaces"] if item["verdict"] == "corrupt")
    assert run.exit_status == 4 and marker in found["message"] and "fsck" in found["hint"], run


def test_renamed_directory_finds_its_save(ws: Workspace, tmp_path: Path) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    moved = tmp_path / "moved"
    ws.path.rename(moved)
    run = run_gitstate("recover", "--root", str(tmp_path), "--json", cwd=tmp_path)
    assert recovered(run)[str(moved)]["verdict"] == "restore", run
    assert fingerprint(moved).files == before.files


@pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)
def test_filters_of_a_foreign_workspace_never_run_under_safe_directory_star(ws: Workspace, tmp_path: Path) -> None:
    """`safe.directory = *` lets git open it, but is no statement of trust in this repository."""
    foreign(ws)
    run_git(tmp_path, "config", "--global", "safe.directory", "*")
    run = run_gitstate("recover", "--all", "--json", cwd=tmp_path)
    assert (run.exit_status, recovered(run)[str(ws.path)]["verdict"]) == (4, "foreign")
    one = ws.recover()
    assert one.json["workspaces"][0]["verdict"] == "restore", one
    assert "12345" in one.json["workspaces"][0]["message"]
    assert not (ws.outside / "canary").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)
def test_foreign_workspace_trusted_by_name_is_recovered(ws: Workspace, tmp_path: Path) -> None:
    waiting(ws)
    give_away(ws.path)
    run_git(tmp_path, "config", "--global", "--add", "safe.directory", str(ws.path))
    run = run_gitstate("recover", "--all", "--json", cwd=tmp_path)
    assert (run.exit_status, recovered(run)[str(ws.path)]["verdict"]) == (0, "restore")


def test_parallel_recover_all_recovers_each_workspace_once(templates: Templates, tmp_path: Path) -> None:
    made = []
    for number in range(6):
        top = tmp_path / str(number)
        top.mkdir()
        ws = make(STATES["clean"], templates, top)
        dirty(ws)
        before = fingerprint(ws.path)
        assert ws.save().exit_status == 0
        made.append((ws, before))
    argv = [sys.executable, "-m", "gitstate", "recover", "--all", "--json", "--wait", "60"]
    running = [subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE) for _ in range(3)]
    answers = [json.loads(process.communicate(timeout=300)[0]) for process in running]
    verdicts = [item["verdict"] for answer in answers for item in answer["workspaces"]]
    assert verdicts.count("restore") == len(made)
    assert set(verdicts) <= {"restore", "nothing"}
    assert all(fingerprint(ws.path) == before for ws, before in made)


def test_workspace_held_by_another_process_is_busy_without_a_wait(
    ws: Workspace, templates: Templates, tmp_path: Path
) -> None:
    waiting(ws)
    with locks.locked(os.fsencode(ws.git_dir / "gitstate" / "lock"), clock.Deadline(5), "it"):
        run = run_gitstate("recover", "--all", "--json", "--wait", "0.1", cwd=tmp_path)
    assert (run.exit_status, recovered(run)[str(ws.path)]["verdict"]) == (75, "busy")


def test_triage_starts_no_process(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(ws)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    seen = Peeker().peek(os.fsencode(ws.path))
    assert seen.marker is not None and seen.due


@pytest.mark.parametrize("packed", [False, True])
def test_triage_finds_loose_and_packed_markers(packed: bool, ws: Workspace) -> None:
    waiting(ws)
    if packed:
        ws.git("pack-refs", "--all")
    seen = Peeker().peek(os.fsencode(ws.path))
    (oid,) = ws.refs("refs/gitstate/pending/").values()
    assert (seen.marker, seen.branch, seen.context.task_id) == (oid, "refs/heads/agent/work", "T-1")


def test_hanging_or_dying_worker_costs_only_its_own_workspace() -> None:
    def work(item: str) -> str:
        if item == "hang":
            signal.pause()
        if item == "die":
            os._exit(9)
        return item.upper()

    items = ["a", "hang", "b", "die", "c"]
    assert forkpool.stream(items, work, patience=1.0) == ["A", forkpool.LOST, "B", forkpool.LOST, "C"]
    tasks = [lambda item=item: work(item) for item in items]
    assert forkpool.each(tasks, workers=2, timeout=1.0) == ["A", forkpool.LOST, "B", forkpool.LOST, "C"]


def test_control_characters_of_a_context_never_reach_the_terminal(ws: Workspace, tmp_path: Path) -> None:
    ws.gitstate("set", "task_id=\x1b]0;title\x07\x1b[2J", "progress_stage=a\nb\tc")
    edit_context(ws, boot_id="another boot")
    for command in ("status", "recover"):
        run = run_gitstate(command, "--all", cwd=tmp_path)
        assert "\x1b" not in run.stdout.decode() + run.stderr


def test_recover_right_after_the_kill_waits_for_the_save_of_the_keeper(ws: Workspace) -> None:
    """The supervisor dies of SIGKILL; the next loop starts before the keeper has saved."""
    argv = [
        sys.executable,
        "-m",
        "gitstate",
        "-C",
        str(ws.path),
        "run",
        "--task-id",
        "T-9",
        "--",
        "sh",
        "-c",
        "echo more >>a.txt; echo ready; exec sleep 600",
    ]
    run = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"ready\n"
    run.kill()
    run.wait()
    run.stdout.close()
    (item,) = ws.recover().json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "T-9")
    assert item["save_id"] is not None
    assert b"more" in ws.read("a.txt")


def test_repository_inside_that_needs_a_person_is_named(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["submodule_dirty"], templates, tmp_path)
    run_git(ws.path / "sub", "checkout", "-q", "-b", "inside")
    assert ws.save().exit_status == 0
    run_git(ws.path / "sub", "checkout", "-q", "-f", "-b", "other")
    run = ws.gitstate("recover", "--all")
    assert run.exit_status == 4, run
    inside = str(ws.path / "sub")
    assert f"{inside}: the save was made on refs/heads/inside" in run.stderr, run
    assert f"next: gitstate -C {inside} recover" in run.stderr
    assert "everything is as it was saved" not in run.stderr
    assert run.stderr.endswith("1 workspace: 1 restore\n")


def test_file_that_is_lost_is_named() -> None:
    left_out = (LeftOut(b"gone", "its content is missing", True), LeftOut(b"large", "larger than the limit", False))
    result = RecoverResult(b"/work", "restore", exit_status=4, partial=True, left_out=left_out, hint="gitstate log")
    lines = fleet_lines([result], None)
    assert lines[2:] == [
        "/work: recovered in part",
        "  skipped: gone: its content is missing",
        "  next: gitstate log",
        "1 workspace: 1 restore",
    ]
