"""`gitstate doctor` finds each problem, prints a command that fixes it, and `--fix` loses nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitstate.integrations.schedulers import any_works
from tests.states import dirty
from tests.support.oracle import fingerprint
from tests.support.skips import NOT_ROOT
from tests.support.workspace import Workspace, run_git

LONG_AGO = 978_307_200


def findings(ws: Workspace, *args: str) -> dict[str, dict[str, Any]]:
    run = ws.gitstate("doctor", "--json", *args)
    found = run.json["findings"]
    assert run.exit_status == (4 if any(item["serious"] for item in found) else 0), run
    assert all(item["next"] for item in found)
    return {item["check"]: item for item in found}


def test_healthy_workspace_exits_0_with_advice(ws: Workspace) -> None:
    ws.git("config", "core.fsync", "committed")
    ws.append("a.txt")
    ws.gitstate("checkpoint")
    assert set(findings(ws)) == {"boot"}


def dead_lock(ws: Workspace) -> Path:
    lock = ws.git_dir / "refs" / "heads" / "agent" / "work.lock"
    lock.touch()
    os.utime(lock, (LONG_AGO, LONG_AGO))
    return lock


def test_doctor_removes_a_dead_lock_but_not_a_young_one(ws: Workspace) -> None:
    lock, young = dead_lock(ws), ws.git_dir / "index.lock"
    young.touch()
    assert findings(ws)["lock"]["serious"]
    assert "lock" not in findings(ws, "--fix")
    assert not lock.exists() and young.exists()


def test_recover_removes_a_dead_lock_and_reports_it(ws: Workspace) -> None:
    lock = dead_lock(ws)
    (item,) = ws.recover().json["workspaces"]
    assert [path["path"] for path in item["removed_locks"]] == [str(lock)]
    assert not lock.exists()


def test_missing_hooks_directory_is_found(ws: Workspace) -> None:
    ws.git("config", "core.hooksPath", ".husky/_")
    assert ".husky/_" in findings(ws)["hooks"]["what"]


def test_default_core_fsync_is_reported_until_it_is_set(ws: Workspace) -> None:
    command = findings(ws)["fsync"]["next"]
    subprocess.run(command.split(), check=True)
    assert "fsync" not in findings(ws)


def test_tracked_state_file_is_found_and_fixed(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-1")
    ws.git("add", "-f", "active_state.json")
    command = findings(ws)["state"]["next"]
    subprocess.run(command, shell=True, check=True, cwd=ws.path, stdout=subprocess.DEVNULL)
    assert "state" not in findings(ws)


@pytest.mark.parametrize("name", ["active_state.json", "notes/state.json"])
def test_file_of_the_user_in_the_place_of_the_state_file_is_named(name: str, ws: Workspace) -> None:
    """The state file stands in the git directory then, which git never lists: there is nothing to ignore."""
    if name != "active_state.json":
        ws.git("config", "gitstate.stateFile", name)
    ws.write(name, "mine\n")
    ws.gitstate("set", "task_id=T-1")
    found = findings(ws)["state"]
    assert found["what"].startswith(f"gitstate did not write {name} ") and not found["serious"]
    state = ws.path / found["what"].rpartition(" ")[2]
    assert json.loads(state.read_text())["task_id"] == "T-1" and ws.read(name) == b"mine\n"
    ws.git("config", "gitstate.stateFile", found["next"].split()[-1])
    ws.gitstate("set", "task_id=T-2")
    assert "state" not in findings(ws)


def test_pushed_wip_commit_is_found(ws: Workspace, tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    dirty(ws)
    ws.save()
    assert "pushed" not in findings(ws)
    ws.git("push", "-q", "origin", "agent/work")
    assert "origin/agent/work" in findings(ws)["pushed"]["what"]


def test_kimi_without_a_version_is_reported(ws: Workspace, tmp_path: Path) -> None:
    stub = tmp_path / "bin" / "kimi"
    stub.parent.mkdir()
    ws.cli_env = {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    for text, wrong in (("exit 0", True), ("echo kimi 1.2.3", False)):
        stub.write_text(f"#!/bin/sh\n{text}\n")
        stub.chmod(0o755)
        assert ("agent" in findings(ws)) == wrong


def test_registered_but_missing_workspace_is_found_and_fixed(ws: Workspace, tmp_path: Path) -> None:
    run_git(tmp_path, "config", "--global", "--add", "gitstate.workspace", str(tmp_path / "gone"))
    ws.gitstate("register")
    assert str(tmp_path / "gone") in findings(ws)["registry"]["what"]
    ws.gitstate("unregister", "--missing")
    assert "registry" not in findings(ws)


@pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)
def test_workspace_of_another_user_is_found_and_fixed(ws: Workspace) -> None:
    for path in (ws.path, ws.path / ".git"):
        os.chown(path, 12_345, 12_345)
    command = findings(ws)["ownership"]["next"]
    subprocess.run(command, shell=True, check=True)
    assert "ownership" not in findings(ws)


def test_doctor_outside_of_a_repository_checks_the_installation(ws: Workspace, tmp_path: Path) -> None:
    run = ws.gitstate("doctor", "--json", path=tmp_path)
    assert run.exit_status == 0
    assert {item["check"] for item in run.json["findings"]} == {"boot"}


# --------------------------------------------------------------------------------------------------------------------
# After a power cut
# --------------------------------------------------------------------------------------------------------------------


def empty_head(ws: Workspace) -> None:
    (ws.git_dir / "HEAD").write_bytes(b"")


def zero_branch(ws: Workspace) -> None:
    (ws.common_dir / "refs" / "heads" / "agent" / "work").write_bytes(b"\0" * 41)


def empty_object(ws: Workspace) -> None:
    """Empty a loose object that a pack holds too: git reads the loose one first, and fails."""
    ws.git("repack", "-q", "-a")
    oid = ws.out("rev-parse", "HEAD:a.txt").strip()
    path = ws.common_dir / "objects" / oid[:2] / oid[2:]
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.chmod(0o644)
    path.write_bytes(b"")


def empty_marker(ws: Workspace) -> None:
    (path,) = (ws.common_dir / "refs" / "gitstate" / "pending").iterdir()
    path.write_bytes(b"")


@pytest.mark.sample(2)
@pytest.mark.parametrize("damage", [empty_head, zero_branch, empty_object, empty_marker], ids=lambda f: f.__name__)
def test_doctor_fix_restores_files_emptied_by_a_power_cut(
    damage: Callable[[Workspace], None], ws: Workspace, tmp_path: Path
) -> None:
    ws.gitstate("set", "task_id=T-1")
    dirty(ws)
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    damage(ws)
    assert findings(ws)["damage"]["serious"]
    run = ws.gitstate("recover", "--all", "--json", path=tmp_path)
    assert damage is empty_object or run.exit_status == 4
    assert "damage" not in findings(ws, "--fix")
    (item,) = ws.recover().json["workspaces"]
    assert item["verdict"] in ("restore", "recovered")
    assert fingerprint(ws.path) == before


def test_doctor_fix_takes_no_safety_save_and_no_checkpoint_for_the_pending_save(ws: Workspace) -> None:
    dirty(ws)
    save_id = ws.save().json["save_id"]
    oid = ws.refs("refs/gitstate/saves")
    ws.gitstate("checkpoint", "--json")
    ws.write("edited.txt", "1\n")
    ws.gitstate("checkpoint", "--json")
    ws.remove("edited.txt")
    ws.gitstate("checkpoint", "--json")
    assert len(ws.refs("refs/gitstate/saves")) == len(oid) + 1
    empty_marker(ws)
    assert "damage" not in findings(ws, "--fix")
    assert list(ws.refs("refs/gitstate/pending").values()) == list(oid.values())
    assert ws.recover().json["workspaces"][0]["save_id"] == save_id


@pytest.mark.parametrize("damage", [empty_head, zero_branch], ids=lambda f: f.__name__)
def test_printed_command_restores_files_emptied_by_a_power_cut(
    damage: Callable[[Workspace], None], ws: Workspace
) -> None:
    ws.gitstate("set", "task_id=T-1")
    before = fingerprint(ws.path)
    damage(ws)
    command = findings(ws)["damage"]["next"]
    subprocess.run(command, shell=True, check=True, cwd=ws.path)
    assert "damage" not in findings(ws)
    assert fingerprint(ws.path) == before


def test_empty_index_is_restored_from_the_save(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    (ws.git_dir / "index").write_bytes(b"")
    assert ws.recover().json["workspaces"][0]["verdict"] == "restore"
    assert fingerprint(ws.path) == before


def test_fix_never_overwrites_a_file_that_is_not_empty(ws: Workspace) -> None:
    ref = ws.common_dir / "refs" / "heads" / "agent" / "work"
    ref.write_text("rubbish\n")
    ws.gitstate("doctor", "--fix")
    assert ref.read_text() == "rubbish\n"


def test_doctor_prints_its_answer_on_stdout(ws: Workspace) -> None:
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    run = ws.gitstate("doctor")
    advice = "recovery at boot is not enabled\n  next: gitstate boot enable\n"
    if not any_works():
        why = "neither systemd nor cron nor launchd works here"
        advice = f"recovery at boot is not enabled: {why}\n  next: let whatever"
    assert f"advice: {advice}" in run.text
    assert f"advice: a save is pending\n  next: gitstate -C {ws.path} recover\n" in run.text
    assert run.stderr == ""
