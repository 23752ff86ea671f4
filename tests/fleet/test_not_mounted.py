"""A workspace whose file system is mounted late, as after a boot: it is looked at again, and never given up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gitstate.workspace import registry
from tests.states import STATES, dirty, make
from tests.support.repositories import Templates
from tests.support.workspace import Run, Workspace, run_git, run_gitstate


def can_mount() -> bool:
    argv = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(argv, capture_output=True).returncode == 0


mounts = pytest.mark.skipif(not can_mount(), reason="this user may not mount a file system")


def item(run: Run, path: Path) -> dict[str, Any]:
    (found,) = (one for one in run.json["workspaces"] if one["workspace"] == str(path))
    assert isinstance(found, dict)
    return found


def all_of(cwd: Path) -> Run:
    return run_gitstate("recover", "--all", "--json", cwd=cwd)


def test_empty_directory_in_place_of_the_one_that_held_it_is_waited_for(templates: Templates, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    ws = make(STATES["clean"], templates, tmp_path / "disk")
    dirty(ws)
    assert ws.save().exit_status == 0
    (tmp_path / "disk").rename(tmp_path / "away")
    (tmp_path / "disk").mkdir()
    run = all_of(tmp_path)
    found = item(run, ws.path)
    assert run.exit_status == 75 and found["verdict"] == "unreachable" and "not mounted" in found["message"], run
    assert "unregister" not in run.text and str(tmp_path / "disk") in found["message"]
    assert "not mounted" in run_gitstate("status", "--all", cwd=tmp_path).text
    assert "no longer exist" not in run_gitstate("doctor", cwd=tmp_path).text
    run_gitstate("unregister", "--missing", cwd=tmp_path)
    assert registry.registered() == [os.fsencode(ws.path)]
    (tmp_path / "disk").rmdir()
    (tmp_path / "away").rename(tmp_path / "disk")
    run = all_of(tmp_path)
    assert (run.exit_status, item(run, ws.path)["verdict"]) == (0, "restore"), run


def test_workspace_that_needs_a_person_does_not_end_the_waiting(templates: Templates, tmp_path: Path) -> None:
    """Only on status 75 the boot service looks again."""
    for name in ("disk", "damaged"):
        (tmp_path / name).mkdir()
        ws = make(STATES["clean"], templates, tmp_path / name)
        dirty(ws)
        assert ws.save().exit_status == 0
    (ws.git_dir / "HEAD").write_bytes(b"")
    (tmp_path / "disk").rename(tmp_path / "away")
    (tmp_path / "disk").mkdir()
    run = all_of(tmp_path)
    assert {one["exit_status"] for one in run.json["workspaces"]} == {4, 75}, run
    assert (run.exit_status, run.json["exit_status"]) == (75, 75)


@pytest.mark.parametrize("how", ["the workspace", "all of its directory", "and made anew with other things"])
def test_removed_workspace_is_missing(templates: Templates, tmp_path: Path, how: str) -> None:
    (tmp_path / "there").mkdir()
    ws = make(STATES["clean"], templates, tmp_path / "there")
    dirty(ws)
    assert ws.save().exit_status == 0
    shutil.rmtree(ws.path if how == "the workspace" else tmp_path / "there")
    if how.startswith("and"):
        (tmp_path / "there" / "other").mkdir(parents=True)
    run = all_of(tmp_path)
    assert (run.exit_status, item(run, ws.path)["verdict"]) == (0, "missing"), run
    assert "unregister" in run.text
    run_gitstate("unregister", "--missing", cwd=tmp_path)
    assert registry.registered() == []


def test_entry_of_an_older_version_is_completed_by_the_next_save(ws: Workspace) -> None:
    registry.add([os.fsencode(ws.path)])
    (file,) = Path(os.fsdecode(registry.list_directory())).iterdir()
    file.write_bytes(os.fsencode(ws.path) + b"\0")
    assert registry.registered() == [os.fsencode(ws.path)]
    assert ws.save().exit_status == 0
    path, mount, *_, inodes, rest = file.read_bytes().split(b"\0")
    assert path == os.fsencode(ws.path) and os.path.ismount(mount) and not rest
    assert int(inodes.split()[0]) == ws.path.stat().st_ino


def test_linked_worktree_that_is_not_mounted_is_not_given_another_place(templates: Templates, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    ws = make(STATES["clean"], templates, tmp_path / "disk", linked=True)
    assert ws.main is not None
    main = tmp_path / "main"
    ws.main.rename(main)
    run_git(main, "worktree", "repair", ws.path)
    dirty(ws)
    assert ws.save().exit_status == 0
    run_gitstate("register", cwd=main)
    (tmp_path / "disk").rename(tmp_path / "away")
    (tmp_path / "disk").mkdir()
    run = all_of(tmp_path)
    assert (run.exit_status, item(run, ws.path)["verdict"]) == (75, "unreachable"), run
    assert "--into" not in run.text


SCRIPT = """
set -e
mkdir -p "$TOP/mnt"
unshare -m sh -ec '
  mount -t tmpfs none "$TOP/mnt"; mkdir -p "$TOP/mnt/ws"; cp -a "$FROM/." "$TOP/mnt/ws"; echo work >>"$TOP/mnt/ws/a.txt"
  $GITSTATE -C "$TOP/mnt/ws" save; cp -a "$TOP/mnt/ws" "$TOP/copy"'
"""


@mounts
@pytest.mark.parametrize("mount_point", ["there", "gone"])
def test_file_system_that_is_mounted_later(ws: Workspace, tmp_path: Path, mount_point: str) -> None:
    env = {**os.environ, "TOP": str(tmp_path), "FROM": str(ws.path), "GITSTATE": f"{sys.executable} -m gitstate"}
    subprocess.run(["sh", "-c", SCRIPT], env=env, check=True, capture_output=True)
    place = tmp_path / "mnt" / "ws"
    if mount_point == "gone":
        (tmp_path / "mnt").rmdir()
    else:
        (tmp_path / "mnt" / "lost+found").mkdir()
    run = all_of(tmp_path)
    found = item(run, place)
    assert (run.exit_status, found["verdict"]) == (75, "unreachable") and str(tmp_path / "mnt") in found["message"]
    assert "unregister" not in run.text


@mounts
def test_worktree_whose_repository_is_not_mounted_yet(templates: Templates, tmp_path: Path) -> None:
    templates.copy("sha1", tmp_path / "plain")
    script = """
      set -e; mkdir "$TOP/mnt"
      unshare -m sh -ec 'mount -t tmpfs none "$TOP/mnt"; cp -a "$TOP/plain" "$TOP/mnt/main"
        git -C "$TOP/mnt/main" worktree add -q -b agent/9 "$TOP/linked"; echo work >>"$TOP/linked/a.txt"
        $GITSTATE -C "$TOP/linked" save'
    """
    env = {**os.environ, "TOP": str(tmp_path), "GITSTATE": f"{sys.executable} -m gitstate"}
    subprocess.run(["sh", "-c", script], env=env, check=True, capture_output=True)
    run = all_of(tmp_path)
    assert (run.exit_status, item(run, tmp_path / "linked")["verdict"]) == (75, "unreachable"), run


def test_mount_points_are_read_with_their_escapes(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"36 35 98:0 /mnt1 /mnt/a\\040b\\134c rw shared:1 - ext4 /dev/x rw\n37 35 0:5 / /proc rw - proc p rw\n"
    )
    points = registry.mount_points(str(table))
    assert points == {b"/", b"/mnt/a b\\c", b"/proc"}
    assert registry.mount_of(b"/mnt/a b\\c/deep/er", points) == b"/mnt/a b\\c"
    assert registry.mount_of(os.fsencode(tmp_path / "none"), {b"/", os.fsencode(tmp_path)}) == os.fsencode(tmp_path)
