"""The lease: who is taken for alive, gone or unknown, and what the kernel says of it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gitstate.errors import TryAgain
from gitstate.git.opening import open_repository
from gitstate.git.repository import Repository
from gitstate.system.process import Process, this_process
from gitstate.workspace import lease
from gitstate.workspace.lease import Here, Holder, judge
from tests.support.agents import wait_until
from tests.support.workspace import Workspace

HERE = Here("here", "boot-1", "pid:[1]")
OWNER = Holder("owner", Process(10, "99"), host="here", boot_id="boot-1", pid_namespace="pid:[1]")
KEEPER = OWNER._replace(kind="keeper")


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize(
    "holder", [None, OWNER, KEEPER, KEEPER._replace(host="there"), OWNER._replace(boot_id="boot-0")]
)
def test_held_lease_is_live_whatever_the_pids_say(holder: Holder | None, runs: bool) -> None:
    assert judge(holder, HERE, held=True, runs=runs) == "live"


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("change", [{}, {"host": "there"}, {"boot_id": "boot-0"}, {"pid_namespace": "pid:[2]"}])
def test_free_lease_of_a_keeper_is_gone_whatever_the_pids_say(change: dict[str, Any], runs: bool) -> None:
    assert judge(KEEPER._replace(**change), HERE, held=False, runs=runs) == "gone"


@pytest.mark.parametrize(
    ("change", "if_it_runs", "if_not"),
    [
        ({}, "live", "gone"),
        ({"boot_id": "boot-0"}, "gone", "gone"),
        ({"boot_id": "boot-0", "pid_namespace": "pid:[2]"}, "gone", "gone"),
        ({"pid_namespace": "pid:[2]"}, "unknown", "unknown"),
        ({"host": "there"}, "live", "gone"),
        ({"host": "there", "pid_namespace": "pid:[2]"}, "unknown", "unknown"),
        ({"host": "there", "boot_id": "boot-0"}, "unknown", "unknown"),
        ({"host": "there", "pid_namespace": None}, "unknown", "unknown"),
        ({"host": None, "boot_id": None, "pid_namespace": None}, "live", "gone"),
        ({"pid_namespace": None}, "live", "gone"),
    ],
)
def test_owner_without_a_keeper(change: dict[str, Any], if_it_runs: str, if_not: str) -> None:
    holder = OWNER._replace(**change)
    assert judge(holder, HERE, held=False, runs=True) == if_it_runs
    assert judge(holder, HERE, held=False, runs=False) == if_not


def test_nobody_is_on_record() -> None:
    assert judge(None, HERE, held=False, runs=False) == "nobody"


# -- the kernel


@pytest.fixture
def repository(ws: Workspace) -> Repository:
    return open_repository(os.fsencode(ws.path))


#: Takes the lease of a workspace, says so, and waits.
HOLDER = """\
import os, sys, time
from gitstate.git.opening import open_repository
from gitstate.system.process import this_process
from gitstate.workspace import lease
repository = open_repository(os.fsencode(sys.argv[1]))
fd = lease.take(repository)
lease.write_holder(repository, lease.this_holder("keeper", this_process(), keeper=this_process(), agent="codex"))
print("held", flush=True)
time.sleep(600)
"""


def holding(ws: Workspace, *prefix: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*prefix, sys.executable, "-c", HOLDER, str(ws.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_lease_is_seen_and_goes_with_its_holder(ws: Workspace, repository: Repository) -> None:
    assert lease.presence(repository).state == "nobody"
    with holding(ws) as holder:
        found = lease.presence(repository)
        assert (found.state, found.ours) == ("live", False)
        with pytest.raises(TryAgain, match=f"codex pid {holder.pid}"):
            lease.take(repository)
        holder.kill()
    assert lease.presence(repository).state == "gone"
    os.close(lease.take(repository))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: unshare makes a pid namespace")
def test_lease_is_seen_from_another_pid_namespace(ws: Workspace, repository: Repository) -> None:
    with holding(ws, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL") as holder:
        assert lease.presence(repository).state == "live"
        holder.kill()
        holder.wait()
    # The kernel kills who holds it some time after its parent has ended.
    wait_until(lambda: lease.presence(repository).state == "gone", "the lease is free")


def test_asking_does_not_keep_a_run_from_beginning(ws: Workspace, repository: Repository) -> None:
    asking = (
        "import sys, os\nfrom gitstate.workspace.lease import presence_in\n"
        "while True: presence_in(sys.argv[1].encode())"
    )
    with subprocess.Popen([sys.executable, "-c", asking, str(ws.git_dir)]) as process:
        for _ in range(50):
            os.close(lease.take(repository))
        process.kill()


def test_asking_does_not_keep_a_run_from_taking_its_lease_again(ws: Workspace, repository: Repository) -> None:
    """The one that asks holds the new file for a moment."""
    fd, path = lease.take(repository), ws.git_dir / "gitstate/lease"
    path.unlink()
    with path.open("w") as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        threading.Timer(0.3, lambda: fcntl.flock(asked, fcntl.LOCK_UN)).start()
        assert lease.take_again(repository, fd, None)
        assert os.path.samestat(os.fstat(fd), os.stat(path))
    assert lease.is_held(os.fsencode(path.parent))
    os.close(fd)


def test_descriptor_is_not_inherited(repository: Repository) -> None:
    fd = lease.take(repository)
    script = f"import os\ntry: os.fstat({fd})\nexcept OSError: print('closed')"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, close_fds=False).stdout == b"closed\n"
    os.close(fd)


@pytest.mark.parametrize("planted", ["link", "fifo"])
def test_planted_lease_is_not_followed(planted: str, ws: Workspace, repository: Repository, tmp_path: Path) -> None:
    own = ws.git_dir / "gitstate"
    own.mkdir(exist_ok=True)
    victim = tmp_path / "victim"
    if planted == "link":
        (own / "lease").symlink_to(victim)
    else:
        os.mkfifo(own / "lease")
    with pytest.raises(OSError):
        lease.take(repository)
    assert not victim.exists()
    assert lease.presence(repository).state == "nobody"


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        '{"kind": "keeper"}',
        '{"kind": "owner", "owner": [true, null]}',
        '{"kind": "owner", "owner": [-1, "9"]}',
        '{"kind": "owner", "owner": ["1", "9"]}',
        "[" * 100_000,
    ],
)
def test_forged_record_names_nobody(record: str, ws: Workspace, repository: Repository) -> None:
    own = ws.git_dir / "gitstate"
    own.mkdir(exist_ok=True)
    (own / "lease.json").write_text(record)
    assert lease.presence(repository) == lease.Presence("nobody")


def test_record_is_read_as_it_was_written(repository: Repository) -> None:
    holder = lease.this_holder("owner", this_process(), run_id="r", agent="x\x1b[31m")
    lease.write_holder(repository, holder)
    assert lease.read_holder(repository.own) == holder._replace(inode=os.stat(repository.own).st_ino)
    assert lease.presence(repository).ours
    lease.clear_holder(repository, holder._replace(run_id="other"))
    assert lease.presence(repository).live
    lease.clear_holder(repository, holder)
    assert lease.presence(repository).state == "nobody"
    assert json.dumps(lease.describe(holder))
