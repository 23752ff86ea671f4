"""A run whose last save failed names the latest save or checkpoint that exists.

The failures are real: a file-size limit is put on the process that saves (EFBIG, as a full disk gives ENOSPC), a lock
is held, the keeper is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from tests.support.agents import (
    PATIENCE,
    Started,
    agent,
    agent_pid,
    check_recovered,
    has_checkpoint,
    keeper_pid,
    keepers,
    marker,
    wait_until,
)
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace

GITSTATE = [sys.executable, "-m", "gitstate"]


def run_command(ws: Workspace, then: str, *options: str) -> list[str]:
    return [*GITSTATE, "run", "--task-id", "T-9", *options, "--", *agent(ws, then)]


def full(pid: int) -> None:
    """Let this process and its children write no file."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))


def the_id(ws: Workspace, kind: str) -> str:
    """The id of the only save that a ref of this kind leads to."""
    (archive,) = ws.refs(f"refs/gitstate/{kind}").values()
    return str(json.loads(ws.git("cat-file", "blob", f"{archive}:manifest.json"))["save_id"])


def test_failed_save_names_the_latest_checkpoint(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, "", "--interval", "0.2"))
    pid = agent_pid(ws)
    wait_until(lambda: ws.refs("refs/gitstate/checkpoints"), "a checkpoint")
    before = fingerprint(ws.path)
    full(keeper_pid(ws))
    os.kill(pid, signal.SIGKILL)
    assert started.status() == 137, started.words()
    assert not marker(ws)
    said = started.words()
    assert f"gitstate: not saved: {ws.git_dir}/gitstate/" in said and ": File too large\n" in said
    latest = the_id(ws, "checkpoints")
    assert f"the latest checkpoint is {latest} (gitstate diff {latest})" in said
    assert "next: gitstate save" in said
    # The limit is gone with the keeper: the command that was named does it.
    assert ws.gitstate("save").exit_status == 0
    check_recovered(ws, before)


def test_failed_save_without_a_checkpoint_names_none(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, "", "--interval", "600"))
    pid = agent_pid(ws)
    wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
    for ref in ws.refs("refs/gitstate/checkpoints"):
        ws.git("update-ref", "-d", ref)
    full(keeper_pid(ws))
    os.kill(pid, signal.SIGKILL)
    assert started.status() == 137, started.words()
    said = started.words()
    assert f"gitstate: not saved: {ws.git_dir}/gitstate/" in said and ": File too large\n" in said
    assert "checkpoint" not in said and "saved 2" not in said
    assert "next: gitstate save" in said


def test_save_that_fails_after_its_marker_is_named(ws: Workspace) -> None:
    """Another process locks the notes: the work is complete, and no message denies it."""
    started = Started(ws, run_command(ws, "", "--deadline", "4"))
    agent_pid(ws)
    before = fingerprint(ws.path)
    turn = ws.git_dir / "gitstate" / "notes-turn"
    with turn.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        started.send(signal.SIGTERM)
        assert started.status() == 143, started.words()
    said = started.words()
    # A disk that is busy with the data of others may hold a sync of that save: then the files of the run stay.
    wait_until(lambda: not keepers(ws) or "goes on until the disk answers" in said, "the keeper has gone")
    assert f"saved {the_id(ws, 'pending')}" in said, said
    assert "not saved" not in said
    assert len(ws.refs("refs/gitstate/saves")) == 1, "the early save is still listed"
    check_recovered(ws, before)


def test_run_whose_keepers_were_killed_names_the_latest_save(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, "", "--interval", "600"))
    agent_pid(ws)
    before = fingerprint(ws.path)
    assert ws.gitstate("save").exit_status == 0
    ws.write("larger", os.urandom(1 << 20))
    killed: list[int] = []

    def another() -> bool:
        try:
            return started.process.poll() is not None or keeper_pid(ws) not in killed
        except (OSError, ValueError):
            return False

    for _ in range(4):
        wait_until(another, "the next keeper")
        killed.append(keeper_pid(ws))
        os.kill(killed[-1], signal.SIGKILL)
    wait_until(lambda: "no checkpoint is taken any more" in started.words(), "the words about the keepers")
    journal = ws.git_dir / "gitstate" / "journal"
    journal.unlink(missing_ok=True)
    journal.mkdir()
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    journal.rmdir()
    said = started.words()
    assert f"gitstate: saved {the_id(ws, 'pending')}; later changes are not saved: " in said, said
    assert "next: gitstate recover" in said
    ws.remove("larger")
    check_recovered(ws, before)


GUARDED = """\
import json, os, signal, subprocess, sys, time, gitstate
with gitstate.guard(task_id="T-9", interval=600):
    open("made", "w").write("x")
    if sys.argv[1] == "saved":
        subprocess.run([sys.executable, "-m", "gitstate", "save"], check=True)
    while not os.path.exists(".git/gitstate/run.json"):
        time.sleep(0.01)
    os.kill(json.load(open(".git/gitstate/run.json"))["keeper"][0], signal.SIGKILL)
    sys.exit(5)
"""


@pytest.mark.parametrize("way", ["saved", "not"])
def test_guard_whose_keeper_was_killed_names_the_latest_save(ws: Workspace, way: str) -> None:
    script = ws.outside / "guarded.py"
    script.write_text(GUARDED)
    command = [sys.executable, os.fspath(script), way]
    done = subprocess.run(command, cwd=ws.path, capture_output=True, timeout=PATIENCE, check=False)
    said = done.stderr.decode()
    assert done.returncode == 5, said
    if way == "saved":
        assert f"gitstate: saved {the_id(ws, 'pending')}; later changes are not saved: " in said
        assert "next: gitstate recover" in said
    else:
        assert not marker(ws)
        assert "gitstate: not saved: the keeper of this run is gone" in said
        assert "next: gitstate save" in said


def test_save_without_its_note_is_still_a_save(ws: Workspace) -> None:
    """The marker is set, the branch moves as well, and the missing note is reported."""
    ws.write("a.txt", "edited\n")
    before = fingerprint(ws.path)
    turn = ws.git_dir / "gitstate" / "notes-turn"
    turn.parent.mkdir(exist_ok=True)
    with turn.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        run = ws.gitstate("save", "--wait", "1", "--json")
    assert run.exit_status == 0 and run.json["result"] == "saved" and run.json["branch_moved"], run
    assert (
        run.json["message"]
        == "the save is complete, but its note could not be added: another gitstate held the lock on the notes"
    )
    check_recovered(ws, before)
