"""The rows of a fleet: their order, how old the newest copy is, and that little is read again."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from gitstate.fleet.board import STATES, Row, Watched, read_rows, worst_first
from gitstate.format.names import save_time_ns
from gitstate.workspace import registry
from tests.fleet.crowd import counting_git, crowd
from tests.support.workspace import Workspace, run_gitstate


def row(ws: Workspace) -> Row:
    (found,) = read_rows([os.fsencode(ws.path)])
    return found


def test_worst_comes_first_and_of_one_state_the_oldest_copy() -> None:
    mixed = [Row(f"/{state}".encode(), state, copied_ns=3) for state in sorted(STATES)]
    mixed += [Row(b"/new", "active", copied_ns=9), Row(b"/none", "active"), Row(b"/old", "active", copied_ns=1)]
    ordered = worst_first(mixed)
    assert list(dict.fromkeys(row.state for row in ordered)) == list(STATES)
    assert [row.workspace for row in ordered if row.state == "active"] == [b"/none", b"/old", b"/active", b"/new"]
    assert worst_first([*mixed, *mixed]) == ordered


def test_newest_copy_is_the_newest_of_all(ws: Workspace) -> None:
    assert row(ws).copied_ns is None
    ws.append("a.txt")
    times = []
    for command in ("checkpoint", "checkpoint", "save"):
        ws.append("a.txt")
        made = save_time_ns(ws.gitstate(command, "--json").json["save_id"])
        copied = row(ws).copied_ns
        assert made is not None and copied is not None
        # To the second: the name tells when it began, the ref when it stood.
        assert made <= copied <= time.time_ns()
        times.append(copied)
    assert times == sorted(times)
    # Recovered, packed, or in the log alone: it is a copy still.
    ws.gitstate("recover")
    assert row(ws).copied_ns == pytest.approx(times[-1], abs=2e9)
    ws.git("pack-refs", "--all")
    assert row(ws).copied_ns == pytest.approx(times[-1], abs=2e9)


def test_pending_save_without_a_context_on_record_is_opened(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.gitstate("save", "--task-id", "T-9")
    assert (row(ws).state, row(ws).task) == ("interrupted", "T-9")
    os.unlink(ws.git_dir / "gitstate" / "context.json")
    assert (row(ws).state, row(ws).task, row(ws).is_pending) == ("interrupted", "T-9", True)


def rest(paths: list[Path]) -> None:
    """Let all changes be so long ago that a time of the file system tells them from later ones."""
    for path in paths:
        for directory, _, files in os.walk(path, topdown=False):
            for name in (*files, "."):
                os.utime(os.path.join(directory, name), (1, 1))


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = crowd(tmp_path, 40)
    for number in range(3):
        (made[number] / "b.txt").write_text("b\n")
        run_gitstate("checkpoint", cwd=made[number])
        subprocess.run(["git", "-C", str(made[number]), "pack-refs", "--all"], check=True)
    rest(made)
    environment, started = counting_git(tmp_path)
    monkeypatch.setenv("PATH", environment["PATH"])
    watched = Watched(registry.registered, 600.0)
    assert watched.look() == 40 and len(watched.rows()) == 40
    # The time of a checkpoint whose ref is packed: git tells it.
    assert sum("for-each-ref" in line for line in started.read_text().splitlines()) == 3
    before = started.read_text()
    assert (watched.look(), watched.look()) == (0, 0)
    run_gitstate("begin", "task_id=T-1", "--owner-pid", str(os.getpid()), cwd=made[7])
    (made[8] / ".git").rename(made[8] / "gone")
    assert watched.look() == 2
    assert {row.state for row in watched.rows()} == {"idle", "active", "no_repository"}
    assert watched.rows()[0].task == "T-1"
    # What is active is looked at always: its owner may have died.
    assert watched.look() >= 1
    assert [line for line in started.read_text().removeprefix(before).splitlines() if "for-each-ref" in line] == []


def test_looks_keep_to_their_share_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gitstate.fleet.board.AGAIN", 0.0)
    paths = [b"/nowhere/%d" % number for number in range(10_000)]
    watched = Watched(lambda: paths, 0.1)
    assert watched.look() == len(paths)
    # From now on a look has a twentieth of a second, in which nobody reads so many.
    left = len(paths)
    while left > 0:
        read = watched.look()
        assert read < len(paths)
        left -= read
    # Whose turn was the longest ago comes first: so all had theirs.
    assert len(watched.rows()) == len(paths)


def test_list_that_changes_is_read_again(tmp_path: Path) -> None:
    made = crowd(tmp_path, 3)
    watched = Watched(registry.registered, 600.0)
    watched.look()
    registry.remove([os.fsencode(made[0])])
    # Within its share of the processor: that may take some looks.
    end = time.monotonic() + 60
    while len(watched.rows()) != 2:
        watched.look()
        assert time.monotonic() < end
    assert os.fsencode(made[0]) not in [row.workspace for row in watched.rows()]
