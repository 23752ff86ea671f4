"""Names that git refuses on another file system: here it has them in the index, and no recover writes to one.

Such a path is named as skipped; all else is saved, and comes back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.states import Loss
from tests.support.losing import lose
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.repositories import three_files
from tests.support.saving import saved_from
from tests.support.workspace import Workspace

#: Of the first git on Linux refuses none; of the others it does without `core.protectNTFS = false`.
NAMES = (".gi\u200ct", "d/.gi\u200ct/x", "git~1", ".git ", ".git::$INDEX")
LOSSES = [Loss.IN_PLACE, Loss.WIPED, Loss.BASE, Loss.REMOVED, Loss.CLONED]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    found = three_files(tmp_path)
    for name in ("core.protectNTFS", "core.protectHFS"):
        found.git("config", "--global", name, "false")
    return found


def go_round(ws: Workspace, name: str, loss: Loss) -> list[str]:
    """Save the workspace with more work, lose it, recover it. Returns what differs, the named path aside."""
    ws.write("a", "edited\n")
    ws.write("new", "new\n")
    ws.write("b", "staged\n")
    ws.add("b")
    before = fingerprint(ws.path)
    saved = saved_from(ws.save(), exits=(4,))
    assert saved.left_out == {name.encode()}
    where, options = lose(ws, loss, saved)
    assert recovered_from(ws.recover(*options, path=where))["verdict"] == "restore"
    return before.without(saved.left_out).diff(fingerprint(ws.path).without(saved.left_out))


@pytest.mark.sample(6)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_name_that_is_staged_costs_no_more_than_itself(ws: Workspace, name: str, loss: Loss) -> None:
    ws.write(name, "work\n")
    ws.git("add", "--", name)
    differs = go_round(ws, name, loss)
    # Nothing but the index has it, and of that a second name stays in the git directory.
    assert len(differs) == (loss is Loss.CLONED)
    assert all(line.startswith("index") and line.endswith("is gone") for line in differs)


@pytest.mark.sample(6)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NAMES)
def test_name_that_is_committed_costs_no_more_than_its_edit(ws: Workspace, name: str, loss: Loss) -> None:
    ws.write(name, "committed\n")
    ws.commit("with it")
    ws.write(name, "edited\n")
    assert go_round(ws, name, loss) == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", NAMES)
def test_committed_file_that_is_gone_is_not_called_restored(ws: Workspace, name: str) -> None:
    ws.write(name, "committed\n")
    ws.commit("with it")
    ws.write("a", "edited\n")
    saved = saved_from(ws.save())
    assert saved.left_out == set()
    ws.remove(name)
    answer = recovered_from(ws.recover(), exits=(4,))
    assert [item["path"] for item in answer["left_out"]] == [name]


def test_directory_of_such_a_name_is_named(ws: Workspace) -> None:
    ws.mkdir(NAMES[0])
    ws.write("a", "edited\n")
    saved = saved_from(ws.save(), exits=(0, 4))
    assert saved.left_out == {NAMES[0].encode()}
    assert recovered_from(ws.recover())["verdict"] == "restore"
