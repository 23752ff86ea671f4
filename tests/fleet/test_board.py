"""The rows of a fleet: their order, how old the newest copy is, and that little is read again."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from pathlib import Path

import pytest

from gitstate.fleet.board import STATES, Row, Watched, read_rows, worst_first
from gitstate.format.names import save_time_ns
from gitstate.workspace import registry
from gitstate.workspace.peek import Peeker, WorkspacePeek
from tests.fleet.crowd import counting_git, crowd
from tests.support.agents import wait_until
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


def test_save_that_was_recovered_is_a_copy_still(ws: Workspace) -> None:
    ws.append("a.txt")
    save_id = ws.save().json["save_id"]
    ws.recover()
    assert list(ws.refs("refs/gitstate/")) == [f"refs/gitstate/saves/{ws_id(ws)}/{save_id}"]
    assert row(ws).copied_ns == save_time_ns(save_id)


def ws_id(ws: Workspace) -> str:
    return (ws.git_dir / "gitstate" / "workspace-id").read_text().splitlines()[0]


def test_owner_that_dies_is_seen_though_no_file_changes(ws: Workspace, sleeper: subprocess.Popen[bytes]) -> None:
    ws.gitstate("begin", "--owner-pid", str(sleeper.pid))
    rest([ws.path])
    watched = Watched(lambda: [os.fsencode(ws.path)], 600.0)
    assert (watched.look(), watched.look()) == (1, 1)
    sleeper.kill()
    sleeper.wait()

    def states() -> list[str]:
        watched.look()
        return [row.state for row in watched.rows()]

    # The process that holds the lease for it ends some time later.
    wait_until(lambda: states() == ["crashed"], "the crashed one")


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
    run_gitstate("begin", "task_id=T-1", "--owner-pid", str(os.getpid()), cwd=made[0])
    (made[8] / ".git").rename(made[8] / "gone")
    assert watched.look() == 2
    assert {row.state for row in watched.rows()} == {"idle", "active", "no_repository"}
    assert watched.rows()[0].task == "T-1"
    # What is active is looked at always: its owner may have died.
    assert watched.look() >= 1
    assert [line for line in started.read_text().removeprefix(before).splitlines() if "for-each-ref" in line] == []


def test_workspace_that_goes_bit_by_bit_is_missing_at_last(tmp_path: Path) -> None:
    made = crowd(tmp_path, 1)
    watched = Watched(registry.registered, 600.0)
    states = []
    for act in (
        lambda: None,
        lambda: (made[0] / ".git").rename(tmp_path / "git"),
        lambda: made[0].rename(tmp_path / "w"),
    ):
        act()
        rest([tmp_path])
        watched.look()
        states += [row.state for row in watched.rows()]
    assert states == ["idle", "no_repository", "missing"]
    (tmp_path / "w").rename(made[0])
    (tmp_path / "git").rename(made[0] / ".git")
    rest([tmp_path])
    watched.look()
    assert [row.state for row in watched.rows()] == ["idle"]


def test_looks_keep_to_their_share_and_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gitstate.fleet.board.AGAIN", 0.0)
    last = tmp_path / "last"
    paths = [*(b"/nowhere/%d" % number for number in range(1_500)), os.fsencode(last)]
    watched = Watched(lambda: paths, 0.1)
    assert watched.look() == len(paths)
    # From now on a look has a twentieth of a second of the processor, and each workspace takes a thousandth.
    spent = itertools.count()
    monkeypatch.setattr("gitstate.fleet.board._processor_time", lambda: next(spent) / 1000)
    last.mkdir()
    left = len(paths)
    while left > 0:
        read = watched.look()
        assert read < len(paths)
        left -= read
    # Whose turn was the longest ago comes first: so all had theirs.
    assert [row.workspace for row in watched.rows() if row.state == "no_repository"] == [os.fsencode(last)]


def test_workspace_that_does_not_answer_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a dead mount: the process that looks at it hangs in the kernel."""
    made = crowd(tmp_path, 20)
    rest(made)
    peek = Peeker.peek

    def hangs(peeker: Peeker, path: bytes) -> WorkspacePeek:
        while path == os.fsencode(made[5]):
            time.sleep(1)
        return peek(peeker, path)

    monkeypatch.setattr(Peeker, "peek", hangs)
    for name in ("PEEK_DEADLINE", "_PATIENCE"):
        monkeypatch.setattr(f"gitstate.fleet.board.{name}", 2.0)
    watched = Watched(registry.registered, 600.0)
    assert watched.look() == 20
    rows = {row.workspace: row.state for row in watched.rows()}
    assert rows.pop(os.fsencode(made[5])) == "unreachable" and set(rows.values()) == {"idle"}
    # It is left alone for a while.
    assert watched.look() == 0


def test_list_that_becomes_unreadable_ends_nothing(ws: Workspace) -> None:
    ws.gitstate("register")
    watched = Watched(registry.registered, 0.1)
    watched.look()
    directory = Path(os.fsdecode(registry.list_directory()))
    away = directory.rename(directory.parent / "away")
    directory.write_text("in its place\n")
    end = time.monotonic() + 60
    while watched.problem is None and time.monotonic() < end:
        watched.look()
    assert "unreadable" in str(watched.problem) and [row.state for row in watched.rows()] == ["idle"]
    directory.unlink()
    away.rename(directory)
    while watched.problem is not None and time.monotonic() < end:
        watched.look()
    assert watched.problem is None and [row.state for row in watched.rows()] == ["idle"]
    with pytest.raises(OSError, match="no list"):
        Watched(unreadable, 0.1).look()


def unreadable() -> list[bytes]:
    raise OSError("no list")


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
