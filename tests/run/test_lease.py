"""The lease of a run whose agent removes it, or all that it is in: whoever asks hears all the same that it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from gitstate.git.opening import open_repository
from gitstate.workspace import lease
from tests.run.commands import WAYS
from tests.support.agents import Started, agent_pid, marker, wait_until
from tests.support.patched import patched
from tests.support.workspace import GITSTATE, Workspace


def remove_lease(ws: Workspace) -> None:
    (ws.git_dir / "gitstate/lease").unlink()


def replace_lease(ws: Workspace) -> None:
    remove_lease(ws)
    (ws.git_dir / "gitstate/lease").touch()


def remove_own_directory(ws: Workspace) -> None:
    # The keeper may write in it meanwhile.
    (ws.git_dir / "gitstate").rename(ws.outside / "removed")


def replace_git_directory(ws: Workspace) -> None:
    """As an agent that makes a copy first, and then takes that."""
    place, copy = ws.git_dir, ws.outside / "copy"
    # A temporary file of the keeper may go meanwhile.
    subprocess.run(["cp", "-R", os.fspath(place), os.fspath(copy)], stderr=subprocess.DEVNULL)
    place.rename(ws.outside / "original")
    copy.rename(place)


LOSSES: dict[str, Callable[[Workspace], None]] = {
    "lease removed": remove_lease,
    "lease replaced": replace_lease,
    "own directory removed": remove_own_directory,
    "git directory replaced": replace_git_directory,
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("loss", LOSSES)
def test_run_that_lost_its_lease_takes_it_again(ws: Workspace, loss: str) -> None:
    started = Started(ws, WAYS["run"](ws, ""))
    agent_pid(ws)
    LOSSES[loss](ws)
    own = os.fsencode(ws.git_dir / "gitstate")
    wait_until(lambda: lease.is_held(own) and lease.read_holder(own), "the lease")
    found = lease.presence(open_repository(os.fsencode(ws.path)))
    assert found.live and found.holder is not None and found.holder.owner.pid == started.process.pid
    assert ws.recover().exit_status == 75
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    wait_until(lambda: marker(ws), "the save")
    assert not lease.is_held(own)
    assert ws.recover().exit_status == 0


#: As NFS without lockd: what stands for a lock is in memory.
NO_LOCKS = """\
import errno, fcntl, os
locks = fcntl.flock
def flock(fd, operation):
    if "/.git/" in os.readlink("/proc/self/fd/" + str(fd)):
        raise OSError(errno.ENOLCK, "no locks here")
    locks(fd, operation)
fcntl.flock = flock
"""


@pytest.mark.sample(3)
@pytest.mark.parametrize("loss", LOSSES)
def test_run_takes_its_lease_again_where_the_file_system_has_no_locks(ws: Workspace, loss: str) -> None:
    site = ws.outside / "site"
    site.mkdir()
    (site / "no_locks.py").write_text(NO_LOCKS)
    begin = "import sys; sys.argv[0] = 'gitstate'; import no_locks; from gitstate.__main__ import main; main()"
    command = WAYS["run"](ws, "")
    command = [sys.executable, "-c", begin, *command[len(GITSTATE) :]]
    started = Started(ws, command, env={"PYTHONPATH": os.pathsep.join([str(site), *sys.path])})
    agent_pid(ws)
    assert patched(ws, NO_LOCKS, "recover").returncode == 75
    LOSSES[loss](ws)
    own = os.fsencode(ws.git_dir / "gitstate")
    held = f"{NO_LOCKS}\nfrom gitstate.workspace import lease\nsys.exit(0 if lease.is_held({own!r}) else 1)"
    wait_until(lambda: patched(ws, held).returncode == 0 and lease.read_holder(own), "the lease")
    for words in (("recover",), ("run", "--", "true")):
        other = patched(ws, NO_LOCKS, *words)
        assert other.returncode == 75, other
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    wait_until(lambda: marker(ws), "the save")
    assert patched(ws, NO_LOCKS, "recover").returncode == 0


@pytest.mark.parametrize("loss", ["lease removed", "lease replaced", "git directory replaced"])
def test_loop_that_lost_its_lease_between_two_runs_takes_it_again(ws: Workspace, loss: str) -> None:
    with subprocess.Popen(["sleep", "600"]) as loop:
        begun = ws.gitstate("begin", "task_id=T-9", "--owner-pid", str(loop.pid))
        assert begun.exit_status == 0, str(begun)
        own = os.fsencode(ws.git_dir / "gitstate")
        assert lease.is_held(own)
        LOSSES[loss](ws)
        wait_until(lambda: lease.is_held(own), "the lease")
        loop.kill()
    wait_until(lambda: not lease.is_held(own), "the end of who held it")
