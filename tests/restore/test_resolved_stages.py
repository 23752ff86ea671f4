"""The stages of a resolved conflict, with which `git checkout -m` brings the conflict back, survive a wipe."""

from __future__ import annotations

import pytest

from tests.states import stop_merging
from tests.support.losing import wipe
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace


def resolve(ws: Workspace, side: str) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.git("checkout", "-q", f"--{side}", "a.txt")
    ws.add("a.txt")


def stages(ws: Workspace) -> bytes:
    return ws.git("ls-files", "-z", "--resolve-undo")


@pytest.mark.sample(3)
@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("file", [None, "b.txt", "untracked.txt"])
def test_resolved_conflict_can_be_brought_back_after_a_wipe(side: str, file: str | None, ws: Workspace) -> None:
    """Resolved as in HEAD, the index has the entries that `git reset --hard` gives it."""
    resolve(ws, side)
    if file is not None:
        ws.append(file)
    before = stages(ws)
    assert before.count(b"\ta.txt\0") == 3
    saved_from(ws.save())
    wipe(ws)
    assert stages(ws) == b""
    recovered_from(ws.recover())
    assert stages(ws) == before
    ws.git("checkout", "-q", "-m", "a.txt")
    assert b"UU a.txt" in ws.status()


def test_conflict_that_was_resolved_after_the_save_stays_resolved(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    saved_from(ws.save())
    ws.git("checkout", "-q", "--ours", "a.txt")
    ws.add("a.txt")
    before = stages(ws)
    recovered_from(ws.recover(), exits=(0, 4))
    assert stages(ws) in (before, b"")


def test_conflict_whose_merge_is_over_can_be_brought_back_after_a_wipe(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.git("merge", "--quit")
    before = stages(ws)
    saved_from(ws.save())
    wipe(ws)
    recovered_from(ws.recover())
    assert stages(ws) == before
