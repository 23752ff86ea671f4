"""A disk that does not remove a file of ours: the save stands, and the file goes as soon as the disk lets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.look import lock_files
from tests.support.oracle import fingerprint
from tests.support.patched import patched
from tests.support.small import done, recover, save
from tests.support.workspace import Workspace

#: A disk that refuses so often to remove a file whose name has this in it.
STUCK = """
import re
left, unlink = {times}, os.unlink
def refusing(path, *args, **more):
    global left
    if left > 0 and os.path.lexists(path) and re.search({name!r}, os.fsdecode(path)):
        left -= 1
        raise OSError(5, "Input/output error", path)
    unlink(path, *args, **more)
os.unlink = refusing
"""
FOR_EVER = 1_000_000
#: What a save removes at its end: the lock, its mark, the index it read, what protects its pack.
REMOVED = (r"/\.git/index\.lock$", r"/index-lock\.tmp-", r"/frozen-index$", r"\.keep$")


def disturbed(ws: Workspace, name: str, times: int, *args: str) -> dict[str, Any]:
    """The answer of a command that ends with 0 while the disk does not remove files of this `name`."""
    run = patched(ws, STUCK.format(times=times, name=name), *args, "--json")
    assert run.returncode == 0, run
    answer = json.loads(run.stdout)
    assert isinstance(answer, dict)
    return answer


def left(ws: Workspace) -> set[str]:
    """The files of ours that nobody needs once a command has ended."""
    own = [path.name for path in (ws.git_dir / "gitstate").iterdir()]
    found = {
        name for name in own if "tmp-" in name or "write-" in name or name in ("journal", "frozen-index", "next-index")
    }
    found |= {path.name for path in (ws.git_dir / "objects" / "pack").glob("*.keep")}
    return found | {path.name for path in lock_files(ws)}


@pytest.fixture
def edited(ws: Workspace) -> Workspace:
    ws.append("a.txt")
    ws.write("new.txt", "new\n")
    return ws


@pytest.mark.parametrize("name", REMOVED)
def test_file_that_the_disk_removes_at_the_second_try_is_gone(edited: Workspace, name: str) -> None:
    answer = disturbed(edited, name, 1, "save")
    assert (answer["result"], answer["message"], answer["warnings"]) == ("saved", None, [])
    assert left(edited) == set()
    edited.git("add", "a.txt")


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", REMOVED)
@pytest.mark.parametrize("command", ["save", "checkpoint", "recover"])
def test_file_that_stays_is_told_of_and_the_next_command_removes_it(edited: Workspace, name: str, command: str) -> None:
    before = fingerprint(edited.path)
    answer = disturbed(edited, name, FOR_EVER, "save")
    assert answer["result"] == "saved" and answer["branch_moved"] and answer["message"] is None
    [warning] = answer["warnings"]
    assert "could not be removed" in warning and ("stops git" in warning) == (name == REMOVED[0]), warning
    assert left(edited) > {"journal"}
    done(edited.gitstate(command))
    assert left(edited) == set()
    recover(edited)
    assert before.diff(fingerprint(edited.path)) == []


def test_lock_that_stays_for_long_costs_no_save(edited: Workspace) -> None:
    disturbed(edited, "index.lock", FOR_EVER, "save")
    edited.fails("add", "a.txt")
    edited.append("a.txt")
    answer = disturbed(edited, "index.lock", FOR_EVER, "save")
    assert answer["result"] == "saved" and "index.lock" in answer["warnings"][0]
    recover(edited)
    edited.git("add", "a.txt")


def test_journal_that_stays_costs_no_save(edited: Workspace) -> None:
    answer = disturbed(edited, "/journal$", FOR_EVER, "save")
    assert answer["result"] == "saved" and left(edited) == {"journal"}
    recover(edited)
    assert left(edited) == set()


@pytest.mark.parametrize("name", [*REMOVED[:2], "/gitstate/write-"])
def test_file_that_stays_in_a_recovery_is_told_of_and_goes_with_the_next(edited: Workspace, name: str) -> None:
    before = fingerprint(edited.path)
    save(edited)
    edited.remove("new.txt")
    [answer] = disturbed(edited, name, FOR_EVER, "recover")["workspaces"]
    assert answer["verdict"] == "restore" and "could not be removed" in answer["message"], answer
    assert before.diff(fingerprint(edited.path)) == [] and left(edited) > {"journal"}
    recover(edited)
    assert left(edited) == set()


@pytest.mark.parametrize("command", ["save", "checkpoint", "recover"])
def test_index_that_a_save_kept_and_that_stays_goes_with_the_next_command(edited: Workspace, command: str) -> None:
    save_id = save(edited)
    kept = edited.git_dir / "gitstate" / f"index.{save_id}"
    [answer] = disturbed(edited, save_id, FOR_EVER, "recover")["workspaces"]
    assert answer["verdict"] == "restore" and "could not be removed" in answer["message"], answer
    assert kept.exists() and not edited.refs("refs/gitstate/pending")
    done(edited.gitstate(command))
    assert not kept.exists() and left(edited) == set()


@pytest.mark.sample(2)
@pytest.mark.parametrize("command", [("save",), ("recover",), ("doctor", "--fix")])
def test_lock_of_an_earlier_version_goes(edited: Workspace, command: tuple[str, ...]) -> None:
    """That one cleared the journal, and nothing names the lock."""
    save(edited)
    edited.append("a.txt")
    lock = own_lock(edited)
    edited.gitstate(*command)
    assert not lock.exists()


def test_doctor_names_a_lock_of_ours_that_stayed(edited: Workspace) -> None:
    save(edited)
    lock = own_lock(edited)
    found = {item["check"]: item for item in edited.gitstate("doctor", "--json").json["findings"]}
    assert str(lock) in found["lock"]["what"] and found["lock"]["next"].endswith(" recover")
    assert lock.exists()


def test_lock_of_git_is_none_of_ours(edited: Workspace) -> None:
    lock = edited.git_dir / "index.lock"
    lock.write_bytes(b"DIRC")
    save(edited)
    edited.gitstate("doctor", "--fix")
    recover(edited)
    assert lock.read_bytes() == b"DIRC"


def own_lock(ws: Workspace) -> Path:
    lock = ws.git_dir / "index.lock"
    lock.write_bytes(b"gitstate\n")
    return lock
