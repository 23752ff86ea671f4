"""A disk that does not answer: a save with a deadline ends all the same, says what is not durable, and goes on."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
from collections.abc import Collection
from typing import Any

import pytest

from tests.support.agents import Started, keeper_pid, marker, wait_until
from tests.support.patched import patched
from tests.support.workspace import GITSTATE, Workspace

#: fsync of what `when` names hangs until a file is there.
HANGS = """
import time
real = os.fsync
def slow(fd):
    while {when} and not os.path.exists({release!r}):
        time.sleep(0.01)
    real(fd)
os.fsync = slow
import gitstate.orders.late
gitstate.orders.late._MARGIN = {margin}
gitstate.orders.late._LOOK = 60
"""
#: Nor can the refs be read.
UNREADABLE = """
def unreadable(path):
    raise OSError(5, "Input/output error", path)
gitstate.orders.late.open_repository = unreadable
"""
#: The repository can't even be opened by who saves.
OPENS_LATE = """
opens = gitstate.orders.late.start_opening
def waits(path):
    while not os.path.exists({release!r}):
        time.sleep(0.01)
    return opens(path)
gitstate.orders.late.start_opening = waits
"""
ALWAYS = "True"
#: The refs' directories are synced when the marker stands.
OF_REFS = "'/refs/gitstate/pending' in os.readlink(f'/proc/self/fd/{fd}')"


def late(
    ws: Workspace, when: str, margin: float, *args: str, inherits: Collection[int] = (), more: str = ""
) -> dict[str, Any]:
    """The answer of a save whose disk does not answer. Its output is read to the end: nobody else may hold it."""
    hangs = HANGS.format(when=when, release=str(ws.outside / "release"), margin=margin)
    hangs += more.format(release=str(ws.outside / "release"))
    run = patched(ws, hangs, *args, "--json", inherits=inherits)
    assert run.returncode == 75, run
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


@pytest.mark.parametrize("words", [("--deadline", "0.5"), ("--signal", "TERM")])
def test_save_ends_where_the_disk_does_not_answer(ws: Workspace, words: tuple[str, ...]) -> None:
    ws.config("gitstate.deadline", "0.5")
    ws.write("a.txt", "edited\n")
    lock = ws.outside / "lock of a loop"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        answer = late(ws, ALWAYS, 0.1, "save", *words, inherits=[held.fileno()])
    with lock.open() as again:
        # The save that goes on does not keep the loop from starting again.
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert "within 0.5 seconds: nothing is saved yet" in answer["error"]
    assert answer["hint"] == f"gitstate -C {ws.path} status"
    assert not marker(ws)
    (ws.outside / "release").touch()
    wait_until(lambda: marker(ws), "the save goes on when the disk answers")
    # The workspace is free again when it has ended.
    assert ws.gitstate("recover", "--json").exit_status == 0
    assert ws.read("a.txt") == b"edited\n"


def test_an_earlier_save_is_not_taken_for_the_late_one(ws: Workspace) -> None:
    ws.write("a.txt", "saved before\n")
    assert ws.gitstate("save").exit_status == 0
    before = marker(ws)
    ws.write("a.txt", "edited\n")
    answer = late(ws, ALWAYS, 0.1, "save", "--deadline", "0.5")
    assert "nothing is saved yet" in answer["error"] and marker(ws) == before
    (ws.outside / "release").touch()
    wait_until(lambda: marker(ws) != before, "the save goes on when the disk answers")


def test_an_earlier_save_is_not_taken_for_one_that_has_not_begun(ws: Workspace) -> None:
    ws.write("a.txt", "saved before\n")
    assert ws.gitstate("save").exit_status == 0
    ws.write("a.txt", "edited\n")
    before = marker(ws)
    answer = late(ws, ALWAYS, 0.1, "save", "--deadline", "0.5", more=OPENS_LATE)
    assert "nothing is saved yet" in answer["error"]
    (ws.outside / "release").touch()
    wait_until(lambda: marker(ws) != before, "the save goes on when the disk answers")


#: What comes of the save is written into a file.
TELLS = """
saves = gitstate.orders.late.save
def tells(*args):
    outcome = "saved"
    try:
        return saves(*args)
    except Exception as error:
        outcome = str(error)
        raise
    finally:
        with open({outcome!r}, "w") as file:
            file.write(outcome)
gitstate.orders.late.save = tells
"""


def test_save_that_goes_on_leaves_the_next_run_alone(ws: Workspace) -> None:
    """It had not begun when its deadline passed: what it finds then is the work of another one."""
    outcome = ws.outside / "outcome"
    ws.write("a.txt", "edited\n")
    late(ws, ALWAYS, 0.1, "save", "--deadline", "0.5", more=OPENS_LATE + TELLS.format(outcome=str(outcome)))
    started = Started(ws, [*GITSTATE, "run", "--interval", "3600", "--", "sleep", "600"])
    keeper_pid(ws)
    (ws.outside / "release").touch()
    wait_until(lambda: outcome.exists() and outcome.read_text(), "the save ends")
    assert "nothing was saved" in outcome.read_text()
    started.send(signal.SIGTERM)
    assert started.status() == 143


def test_nothing_is_claimed_where_the_disk_does_not_tell_what_stands(ws: Workspace) -> None:
    ws.write("a.txt", "edited\n")
    answer = late(ws, ALWAYS, 0.1, "save", "--deadline", "0.5", more=UNREADABLE)
    assert "cannot determine whether a save stands" in answer["error"]
    (ws.outside / "release").touch()
    wait_until(lambda: marker(ws), "the save goes on when the disk answers")


@pytest.mark.slow
def test_marker_that_may_not_be_durable_is_told(ws: Workspace) -> None:
    ws.write("a.txt", "edited\n")
    answer = late(ws, OF_REFS, 5.0, "save", "--deadline", "0.5")
    assert "may not be durable yet" in answer["error"]
    assert marker(ws)
    (ws.outside / "release").touch()
    wait_until(lambda: ws.out("log", "-1", "--format=%(trailers:key=Gitstate-Save,valueonly)"), "the branch has moved")


@pytest.mark.parametrize("words", [("--deadline", "20"), ("--signal", "TERM")])
def test_errors_are_those_of_a_save_without_deadline(ws: Workspace, words: tuple[str, ...]) -> None:
    ws.write("a.txt", "edited\n")
    elsewhere = ws.gitstate("save", *words, "--json", path=ws.outside)
    plain = ws.gitstate("save", "--json", path=ws.outside)
    assert (elsewhere.exit_status, elsewhere.json["error"]) == (plain.exit_status, plain.json["error"])
    with (ws.git_dir / "refs" / "gitstate").open("w"):
        pass
    blocked = ws.gitstate("save", *words)
    assert blocked.exit_status == ws.gitstate("save").exit_status == 1, blocked
    assert "mv " in blocked.stderr
    subprocess.run(["rm", str(ws.git_dir / "refs" / "gitstate")], check=True)
    assert ws.gitstate("save", *words).exit_status == 0
