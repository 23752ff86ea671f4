"""A checkpoint that is replaced is kept where its work would be lost with its ref."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from gitstate.format.context import Context
from gitstate.save.plan import PathVersions, is_other_run, is_undone, is_unheld
from tests.support.workspace import Workspace

EMPTY = "e"


@pytest.mark.parametrize(
    ("old", "new", "old_head", "head", "follows", "undone"),
    [
        ("x", "x", "h", "h", True, False),
        ("x", "y", "h", "h", True, False),
        ("x", "h", "h", "h", True, True),
        ("x", None, None, None, True, True),
        ("x", None, "h", "h", True, True),
        ("x", EMPTY, "h", "h", True, True),
        ("x", "x", "h", "x", True, False),
        ("x", "y", "h", "y", True, False),
        ("x", None, "h", None, True, False),
        ("x", "g", "h", "g", False, True),
        (None, "h", "h", "h", True, False),
    ],
    ids=[
        "unchanged",
        "edited again",
        "back to HEAD",
        "untracked file gone",
        "tracked file gone",
        "emptied",
        "committed",
        "a later version committed",
        "deletion committed",
        "reset to another commit",
        "deleted then",
    ],
)
def test_what_undid_the_work_on_one_path(
    old: str | None, new: str | None, old_head: str | None, head: str | None, follows: bool, undone: bool
) -> None:
    assert is_undone(PathVersions(old, new, old_head, head), EMPTY, follows=follows) is undone


@pytest.mark.parametrize(("new", "undone"), [("s", True), ("y", False), ("x", False)])
def test_what_went_back_to_the_staged_version_is_undone(new: str, undone: bool) -> None:
    assert is_undone(PathVersions("x", new, "h", "h", staged="s"), EMPTY, follows=True) is undone
    assert is_undone(PathVersions("x", new, "h", "s", staged="s"), EMPTY, follows=True) is undone


def test_what_a_pending_save_holds_is_not_lost() -> None:
    path = PathVersions("x", None, None, None, pending="x")
    assert not is_unheld(path)
    assert not is_undone(path, EMPTY, follows=True)


@pytest.mark.parametrize("change", [{"session_id": "2"}, {"pid": 2}, {"boot_id": "2"}, {"task_id": "2"}])
def test_another_run_is_told_by_session_process_boot_and_task(change: dict[str, Any]) -> None:
    context = Context(task_id="1", agent="a", session_id="1", boot_id="1", pid=1, pid_start="1")
    assert is_other_run(context, context._replace(**change))
    assert not is_other_run(context, context._replace(progress_stage="later", timestamp="later"))


def checkpoint(ws: Workspace, *args: str) -> str:
    run = ws.gitstate("checkpoint", "--json", *args)
    assert run.exit_status == 0, run
    save_id: str = run.json["save_id"]
    return save_id


def kept(ws: Workspace) -> set[str]:
    return {ref.rpartition("/")[2] for ref in ws.refs("refs/gitstate/saves/")}


def wipe(ws: Workspace) -> None:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)


def reset(ws: Workspace) -> None:
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-fdq")


#: What loses work that one checkpoint holds.
LOSSES: dict[str, Callable[[Workspace], object]] = {
    "wiped": wipe,
    "reset": reset,
    "reset to an earlier commit": lambda ws: ws.git("reset", "-q", "--hard", "HEAD~1"),
    "untracked file deleted": lambda ws: ws.remove("new.txt"),
    "edit taken back": lambda ws: ws.git("checkout", "-q", "--", "a"),
    "staged version unstaged": lambda ws: ws.git("reset", "-q", "--", "staged.txt"),
    "file emptied, as by a power cut": lambda ws: ws.write("new.txt", ""),
}


@pytest.fixture
def edited(ws: Workspace) -> Workspace:
    ws.write("staged.txt", "base\n")
    ws.commit("one more")
    ws.append("a", "precious\n")
    ws.write("new.txt", "precious too\n")
    ws.write("staged.txt", "staged\n")
    ws.git("add", "staged.txt")
    ws.write("staged.txt", "later\n")
    return ws


@pytest.mark.sample(3)
@pytest.mark.parametrize("loss", LOSSES)
def test_work_that_is_undone_keeps_its_checkpoint(edited: Workspace, loss: str) -> None:
    first = checkpoint(edited)
    LOSSES[loss](edited)
    second = checkpoint(edited)
    assert second != first
    assert kept(edited) == {first}
    assert [entry["save_id"] for entry in edited.gitstate("log", "--json").json["saves"]] == [second, first]
    edited.write("another.txt")
    checkpoint(edited)
    assert kept(edited) == {first}
    assert edited.gitstate("restore", "--overwrite", first).exit_status == 0
    assert edited.read("new.txt") == b"precious too\n"
    assert edited.read("a").endswith(b"precious\n")


#: What an agent does with its own work.
PROGRESS: dict[str, Callable[[Workspace], object]] = {
    "edited again": lambda ws: ws.append("a", "more\n"),
    "a new file": lambda ws: ws.write("another.txt"),
    "committed": lambda ws: ws.commit("done"),
    "staged": lambda ws: ws.git("add", "new.txt"),
    "staged again": lambda ws: ws.git("add", "staged.txt"),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("progress", PROGRESS)
def test_work_that_goes_on_replaces_its_checkpoint(edited: Workspace, progress: str) -> None:
    checkpoint(edited)
    PROGRESS[progress](edited)
    checkpoint(edited)
    assert kept(edited) == set()


def test_work_of_another_session_keeps_its_checkpoint(edited: Workspace) -> None:
    first = checkpoint(edited, "--session-id", "s1")
    edited.append("new.txt", "edited by the next session\n")
    checkpoint(edited, "--session-id", "s2")
    assert kept(edited) == {first}


def test_old_kept_checkpoints_are_thinned(ws: Workspace) -> None:
    """One that holds much stays when twenty later ones held a file each."""
    for number in range(3):
        ws.write(f"much-{number}.txt", f"{number}\n")
    first = checkpoint(ws)
    reset(ws)
    for number in range(24):
        ws.write("little.txt", f"{number}\n")
        checkpoint(ws)
        ws.remove("little.txt")
        checkpoint(ws)
    assert first in kept(ws)
    assert len(kept(ws)) == 21
