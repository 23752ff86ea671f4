"""A workspace on a file system that gives directories other inodes at the next mount: it is the same workspace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gitstate.format.names import given_workspace_id
from gitstate.git.opening import open_repository
from gitstate.system.process import this_process
from gitstate.workspace.lease import read_holder, this_holder, write_holder
from tests.states import dirty
from tests.support.agents import Started, agent, agent_pid, has_checkpoint, members, wait_until
from tests.support.oracle import fingerprint
from tests.support.skips import NO_MOUNT, why_not_root
from tests.support.workspace import GITSTATE, Workspace

pytestmark = pytest.mark.skipif((reason := why_not_root()) is not None, reason=str(reason))


@pytest.fixture
def remount(ws: Workspace, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """The workspace in a container whose image is on another file system; it can be started again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    layers = f"lowerdir={ws.path},upperdir={disk / 'upper'},workdir={disk / 'work'},xino=off"
    mount = ["mount", "-t", "overlay", "-o", layers, "overlay", os.fspath(ws.path)]

    def again() -> None:
        subprocess.run(["umount", os.fspath(ws.path)], check=True)
        subprocess.run(mount, check=True)
        # They are numbered in the order in which they are looked at.
        list(ws.path.rglob("*"))

    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", os.fspath(disk)], capture_output=True).returncode:
        pytest.skip(NO_MOUNT)
    try:
        for name in ("upper", "work"):
            (disk / name).mkdir()
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip(NO_MOUNT)
        yield again
        subprocess.run(["umount", "-l", os.fspath(ws.path)], check=True)
    finally:
        subprocess.run(["umount", "-l", os.fspath(disk)], check=True)


def test_killed_run_comes_back_after_a_new_mount(ws: Workspace, remount: Callable[[], None]) -> None:
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
    command = [*GITSTATE, "run", "--task-id", "T-9", "--interval", "600", "--", *agent(ws, "")]
    run = Started(ws, [*container, *command])
    agent_pid(ws)
    wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
    dirty(ws)
    assert ws.gitstate("checkpoint").exit_status == 0
    before = fingerprint(ws.path)
    run.send(signal.SIGKILL)
    wait_until(lambda: not members(ws), "the container has ended")
    own = ws.git_dir / "gitstate"
    then = own.stat().st_ino
    for entry in ws.path.iterdir():
        if entry.name != ".git":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    remount()
    assert own.stat().st_ino != then, "this is what the test is about"
    assert ws.gitstate("status").text.splitlines()[1].startswith("crashed"), run.words()
    (item,) = ws.recover("--all").json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "T-9")
    assert fingerprint(ws.path) == before


def test_copy_is_a_workspace_of_its_own(ws: Workspace, remount: Callable[[], None], tmp_path: Path) -> None:
    dirty(ws)
    assert ws.save().exit_status == 0
    remount()
    git_dir = os.fsencode(ws.git_dir)
    assert given_workspace_id(git_dir) is not None
    copy = ws.path / "copy"
    shutil.copytree(ws.git_dir, copy, symlinks=True)
    assert given_workspace_id(os.fsencode(copy)) is None


def test_copy_in_the_place_of_a_workspace_is_another_where_inodes_last(ws: Workspace, tmp_path: Path) -> None:
    """A backup that was put back there, as a rule: who was at work in the original was not at work in it."""
    dirty(ws)
    assert ws.save().exit_status == 0
    write_holder(open_repository(os.fsencode(ws.path)), this_holder("owner", this_process()))
    place = ws.git_dir
    git_dir, own = os.fsencode(place), os.fsencode(place / "gitstate")
    assert given_workspace_id(git_dir) is not None and read_holder(own) is not None
    shutil.copytree(place.rename(tmp_path / "original"), place, symlinks=True)
    assert given_workspace_id(git_dir) is None
    assert read_holder(own) is None
