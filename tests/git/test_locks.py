"""A lock of git is removed only where nobody can hold it, whatever was done to the clock."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gitstate.errors import GitError
from gitstate.git.gitdir import is_dead_lock
from gitstate.git.index import index_lock, is_own_lock
from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from gitstate.system import process
from tests.support.workspace import Workspace, git_environment, run_gitstate

LONG_AGO = 1_000_000_000


@pytest.fixture
def editing(ws: Workspace) -> subprocess.Popen[bytes]:
    """A git that waits for its editor, and holds the lock of the index."""
    ws.append("a.txt")
    begun = ws.outside / "begun"
    env = {**git_environment(), "GIT_EDITOR": f"touch '{begun}'; sleep 60; false"}
    started = subprocess.Popen(["git", "commit", "-a"], cwd=ws.path, env=env, stderr=-3, process_group=0)
    while not begun.exists():
        assert started.poll() is None
        time.sleep(0.01)
    return started


def end(started: subprocess.Popen[bytes]) -> None:
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()


@pytest.mark.sample(2)
@pytest.mark.parametrize("command", [["recover"], ["doctor", "--fix"], ["save"], ["status"]])
def test_lock_of_a_living_git_stays_after_a_step_of_the_clock(
    ws: Workspace, editing: subprocess.Popen[bytes], command: list[str]
) -> None:
    lock = ws.git_dir / "index.lock"
    os.utime(lock, (LONG_AGO, LONG_AGO))
    try:
        ws.gitstate(*command)
        assert lock.exists()
    finally:
        end(editing)
    assert is_dead_lock(os.fsencode(lock)), "nobody holds it any more"
    ws.gitstate("recover")
    assert not lock.exists()


def test_lock_in_a_linked_worktree_of_a_living_git_stays(
    ws: Workspace, editing: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """A git in one worktree may hold the locks that all of them share."""
    ws.git("worktree", "add", "-q", "--no-checkout", str(tmp_path / "linked"), "-b", "side")
    lock = ws.git_dir / "refs" / "heads" / "side.lock"
    lock.touch()
    os.utime(lock, (LONG_AGO, LONG_AGO))
    try:
        ws.gitstate("recover", path=tmp_path / "linked")
        assert lock.exists()
    finally:
        end(editing)
    ws.gitstate("recover", path=tmp_path / "linked")
    assert not lock.exists()


def test_git_of_another_repository_does_not_keep_a_lock(
    ws: Workspace, editing: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "other")], check=True)
    run_gitstate("begin", "task_id=T-1", cwd=tmp_path / "other")
    lock = tmp_path / "other" / ".git" / "index.lock"
    lock.touch()
    os.utime(lock, (LONG_AGO, LONG_AGO))
    try:
        run_gitstate("recover", cwd=tmp_path / "other")
        assert not lock.exists()
    finally:
        end(editing)


def test_boot_began_when_the_clock_of_then_said_so(tmp_path: Path) -> None:
    """What the kernel tells moves with the clock; a file that was made at boot does not."""
    told = process.boot_time_ns(())
    assert told is not None
    made = tmp_path / "zero"
    made.touch()
    hour = 3600 * 10**9
    for age, expected in ((told - hour, told - hour), (told + hour, told)):
        os.utime(made, ns=(age, age))
        assert process.boot_time_ns((str(made), str(tmp_path / "none"))) == expected


def test_boot_of_this_machine_is_no_later_than_the_kernel_tells() -> None:
    told, both = process.boot_time_ns(()), process.boot_time_ns()
    assert told is not None and both is not None and both <= told


@pytest.fixture
def repository(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """One on a file system that has no hard links."""
    monkeypatch.setattr(os, "link", no_hard_links)
    found = open_repository(os.fsencode(ws.path))
    os.mkdir(found.own)
    return found


def no_hard_links(*_: object, **__: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_index_is_locked_where_no_hard_link_can_be_made(ws: Workspace, repository: Repository) -> None:
    ws.append("a.txt")
    with index_lock(repository):
        assert is_own_lock(os.fsencode(ws.git_dir / "index.lock"))
        ws.fails("add", "a.txt")
    ws.git("add", "a.txt")


def test_lock_of_another_stays_where_no_hard_link_can_be_made(ws: Workspace, repository: Repository) -> None:
    lock = ws.git_dir / "index.lock"
    lock.write_bytes(b"theirs")
    with index_lock(repository):
        assert lock.read_bytes() == b"theirs"
    assert lock.read_bytes() == b"theirs"


#: A program that has begun, and answers each line with whether the lock of that name is unheld.
ASKED = "import os, sys; from gitstate.git.gitdir import is_unheld; print(flush=True)\n"
ASKED += "for line in sys.stdin: print(is_unheld(os.fsencode(line.rstrip())), flush=True)"


def test_lock_of_a_git_that_began_later_is_held(ws: Workspace) -> None:
    """As that of a recovery in another worktree: git has closed the lock of a ref, and moves it into place later."""
    lock = ws.git_dir / "refs" / "heads" / "other.lock"
    asked = subprocess.Popen([sys.executable, "-c", ASKED], stdin=-1, stdout=-1, encoding="utf-8")
    assert asked.stdin is not None and asked.stdout is not None

    def is_unheld() -> str:
        assert asked.stdin is not None and asked.stdout is not None
        print(lock, file=asked.stdin, flush=True)
        return asked.stdout.readline().strip()

    asked.stdout.readline()
    git = subprocess.Popen(["git", "update-ref", "--stdin"], cwd=ws.path, stdin=-1, stdout=-1, encoding="utf-8")
    assert git.stdin is not None and git.stdout is not None
    print(f"start\ncreate refs/heads/other {ws.out('rev-parse', 'HEAD')}\nprepare", file=git.stdin, flush=True)
    assert [git.stdout.readline(), git.stdout.readline()] == ["start: ok\n", "prepare: ok\n"]
    assert lock.exists() and is_unheld() == "False"
    git.kill()
    git.communicate()
    assert lock.exists() and is_unheld() == "True"
    lock.unlink()
    assert is_unheld() == "False", "its git has ended"
    asked.communicate()


@pytest.mark.parametrize("name", ["plain", "a b", "it's", "$(id)"])
def test_command_that_removes_a_lock_names_that_file(name: str) -> None:
    path = f"/work/{name}/.git/packed-refs.lock"
    error = GitError(["update-ref"], 128, f"fatal: Unable to create '{path}': File exists.\n\nmore".encode())
    assert error.hint is not None and shlex.split(error.hint.partition(": ")[2]) == ["rm", path]
