"""What a save and a checkpoint keep of a transcript, and what that costs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conversation.talk import SESSION, Talk, transcript_of
from tests.support.agents import wait_until
from tests.support.workspace import Workspace


def size_of_packs(ws: Workspace) -> int:
    return sum(path.stat().st_size for path in (ws.common_dir / "objects" / "pack").iterdir())


def test_many_checkpoints_of_a_growing_transcript_cost_its_size_once(talk: Talk) -> None:
    for number in range(25):
        talk.ws.append("a.txt", f"{number}\n")
        talk.say(40_000)
        assert talk.ws.gitstate("checkpoint").exit_status == 0
    assert talk.kept() == talk.said
    assert size_of_packs(talk.ws) < 1.3 * len(talk.said)


def test_transcript_grows_though_no_file_has_changed(talk: Talk) -> None:
    for command in ("checkpoint", "checkpoint", "save", "save"):
        talk.say()
        assert talk.ws.gitstate(command).exit_status == 0
        assert talk.kept() == talk.said


def test_only_new_bytes_are_read(talk: Talk, ws: Workspace) -> None:
    talk.say(200_000, lines=40)
    assert ws.gitstate("checkpoint").exit_status == 0
    talk.say()
    trace = ws.outside / "trace"
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    argv = ["strace", "-f", "-y", "-e", "trace=pread64,read", "-o", str(trace), sys.executable, "-m", "gitstate"]
    subprocess.run([*argv, "-C", str(ws.path), "checkpoint"], check=True, capture_output=True)
    lines = [line for line in trace.read_text().splitlines() if f"{SESSION}.jsonl" in line]
    assert 0 < sum(int(line.rpartition("= ")[2]) for line in lines) < 10_000
    assert talk.kept() == talk.said


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_line_that_is_being_written_waits_for_its_end(talk: Talk, command: str) -> None:
    with open(talk.path, "ab") as file:
        file.write(b'{"text": "half')
    assert talk.ws.gitstate(command).exit_status == 0
    assert talk.kept() == talk.said


@pytest.mark.parametrize("left", [b"", b"\0" * 5000, None], ids=["empty", "zeros", "cut short"])
def test_damaged_transcript_takes_the_place_of_no_good_one(talk: Talk, left: bytes | None) -> None:
    talk.say(lines=4)
    assert talk.ws.gitstate("checkpoint").exit_status == 0
    talk.path.write_bytes(talk.said[:1500] if left is None else left)
    talk.ws.append("a.txt")
    assert talk.ws.gitstate("save").exit_status == 0
    assert talk.kept() == talk.said


def test_other_text_is_kept_and_that_of_before_stays_reachable(talk: Talk) -> None:
    talk.say(lines=4)
    assert talk.ws.gitstate("checkpoint").exit_status == 0
    before = talk.ws.refs("refs/gitstate/conversations")
    talk.said = b""
    talk.say(lines=2)
    talk.said = talk.said.replace(b'"text"', b'"word"')
    talk.path.write_bytes(talk.said)
    assert talk.ws.gitstate("checkpoint").exit_status == 0
    assert talk.kept() == talk.said
    (ref,) = before
    assert talk.ws.out("rev-parse", f"{ref}^") == before[ref]


def test_symlink_is_refused_and_the_save_stands(talk: Talk, ws: Workspace) -> None:
    secret = ws.outside / "secret.jsonl"
    secret.write_text("{}\n")
    talk.path.unlink()
    talk.path.symlink_to(secret)
    ws.append("a.txt")
    assert ws.gitstate("save").exit_status == 0
    assert talk.kept() == b""
    talk.path.unlink()
    directory = talk.path.parent
    directory.rename(ws.outside / "moved")
    directory.symlink_to(ws.outside / "moved")
    (directory / talk.path.name).write_bytes(talk.said)
    assert ws.gitstate("save").exit_status == 0
    assert talk.kept() == b""


def test_known_place_is_enough(ws: Workspace, hermetic: Path) -> None:
    talk = Talk(ws, hermetic)
    talk.say()
    assert ws.gitstate("begin", "agent=claude", f"session_id={SESSION}").exit_status == 0
    assert ws.gitstate("checkpoint").exit_status == 0
    assert talk.path == transcript_of(ws, hermetic) and talk.kept() == talk.said


def test_setting_turns_it_off(talk: Talk) -> None:
    talk.ws.config("gitstate.conversation", "false")
    talk.ws.append("a.txt")
    assert talk.ws.gitstate("save").exit_status == 0
    assert talk.kept() == b""


def test_no_other_user_may_read_its_pack(talk: Talk) -> None:
    assert talk.ws.gitstate("checkpoint").exit_status == 0
    (ref,) = talk.ws.refs("refs/gitstate/conversations")
    oid = talk.ws.out("rev-parse", f"{ref}:0/0000/00")
    packs = talk.ws.common_dir / "objects" / "pack"
    holding = [index for index in packs.glob("*.idx") if bytes.fromhex(oid) in index.read_bytes()]
    assert len(holding) == 1
    assert {path.stat().st_mode & 0o777 for path in (holding[0], holding[0].with_suffix(".pack"))} == {0o400}


def test_keeper_takes_it_while_the_agent_works_and_changes_no_file(talk: Talk, ws: Workspace) -> None:
    ready = ws.outside / "go"
    agent = f"while ! [ -e {ready} ]; do sleep 0.02; done"
    values = ["--agent", "claude", "--session-id", SESSION, "--set", f"transcript_path={talk.path}"]
    command = [sys.executable, "-m", "gitstate", "run", "--interval", "0.2", *values, "--", "sh", "-c", agent]
    running = subprocess.Popen(command, cwd=ws.path)
    try:
        wait_until(lambda: talk.kept() == talk.said, "the first checkpoint")
        talk.say()
        wait_until(lambda: talk.kept() == talk.said, "a checkpoint of the transcript alone")
    finally:
        ready.touch()
        running.wait(60)


@pytest.mark.faults
def test_killed_checkpoint_leaves_what_was_kept(talk: Talk, ws: Workspace) -> None:
    """SIGKILL at many moments of a checkpoint: what is kept is always a beginning of what was said."""
    assert ws.gitstate("checkpoint").exit_status == 0
    for number in range(30):
        talk.say(3000)
        ws.append("a.txt", f"{number}\n")
        argv = [sys.executable, "-m", "gitstate", "-C", str(ws.path), "checkpoint"]
        running = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            running.wait(0.02 + number * 0.006)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        assert talk.said.startswith(talk.kept())
    assert ws.gitstate("checkpoint").exit_status == 0
    assert talk.kept() == talk.said
    assert ws.git("fsck", "--strict", "--no-dangling") == b""


def test_prune_removes_old_ones_but_not_that_of_now(talk: Talk) -> None:
    assert talk.ws.gitstate("checkpoint").exit_status == 0
    prune = ("prune", "--days", "0", "--keep", "0")
    assert talk.ws.gitstate(*prune).exit_status == 0
    assert talk.kept() == talk.said, "the session goes on"
    talk.ws.gitstate("set", "session_id=another")
    wait_until(lambda: talk.ws.gitstate(*prune).exit_status == 0 and not talk.kept(), "it is older than now")
