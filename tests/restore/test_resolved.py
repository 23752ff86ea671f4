"""Conflicts that were resolved and staged: the index tells what they were, so that git can make them again."""

from __future__ import annotations

import pytest

from tests.states import stop_merging
from tests.support.losing import wipe
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace


@pytest.mark.parametrize("more", [(), ("b.txt",)], ids=["all staged", "not all staged"])
def test_resolved_conflict_can_be_made_again_after_a_wipe(ws: Workspace, more: tuple[str, ...]) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    ws.write("a.txt", "resolved\n")
    ws.add("a.txt")
    ws.git("merge", "--quit")
    for path in more:
        ws.append(path)
    resolved = ws.git("ls-files", "--resolve-undo")
    assert resolved
    saved_from(ws.save())
    wipe(ws)
    assert not ws.git("ls-files", "--resolve-undo")
    recovered_from(ws.recover())
    assert ws.git("ls-files", "--resolve-undo") == resolved
    ws.git("checkout", "-q", "-m", "--", "a.txt")
    ws.expect("UU a.txt")
