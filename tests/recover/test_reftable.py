"""An unfinished operation whose refs are in a reftable: they are saved as refs, and come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.tables import in_tables
from tests.support.workspace import Workspace

OPERATIONS = {
    "cherry-pick": ("cherry-pick", "HEAD~2"),
    "revert": ("revert", "HEAD~2"),
    "rebase": ("rebase", "--onto", "HEAD~3", "HEAD~1"),
    "bisect": ("bisect", "start", "HEAD", "HEAD~3"),
}


def _refs(ws: Workspace) -> set[bytes]:
    """Every ref but ours and ORIG_HEAD, which a reset moves."""
    out = ws.git("for-each-ref", "--include-root-refs", "--format=%(refname) %(objectname)")
    return {line for line in out.splitlines() if b"gitstate" not in line and not line.startswith(b"ORIG_HEAD")}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("loss", ["in_place", "wiped"])
def test_operation_comes_back(name: str, loss: str, tmp_path: Path) -> None:
    ws = in_tables(tmp_path)
    for number in range(4):
        ws.write("a.txt", f"{number}\n")
        ws.commit(str(number))
    ws.git(*OPERATIONS[name], check=False)
    ws.write("untracked.txt")
    before = (_refs(ws), ws.git("status"))
    saved_from(ws.save())
    if loss == "wiped":
        ws.git("reset", "-q", "--hard")
        ws.git("clean", "-ffdxq")
        if name == "bisect":
            ws.git("bisect", "reset", "HEAD")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert (_refs(ws), ws.git("status")) == before


def test_merge_of_notes_comes_back(tmp_path: Path) -> None:
    ws = in_tables(tmp_path)
    ws.write("a.txt", "1\n")
    ws.commit("1")
    ws.git("notes", "add", "-m", "one")
    ws.git("notes", "--ref=other", "add", "-m", "two")
    ws.fails("notes", "merge", "other")
    ws.append("a.txt")
    saved_from(ws.save())
    names = ("NOTES_MERGE_REF", "NOTES_MERGE_PARTIAL")
    before = [ws.out("rev-parse", name) for name in names]
    for name in names:
        ws.git("update-ref", "--no-deref", "-d", name)
    recovered_from(ws.recover())
    assert [ws.out("rev-parse", name) for name in names] == before
    assert ws.out("symbolic-ref", "NOTES_MERGE_REF") == "refs/notes/commits"
    ws.git("notes", "merge", "--commit")


def test_damaged_index_is_the_only_thing_reported(tmp_path: Path) -> None:
    ws = in_tables(tmp_path)
    ws.write("a.txt", "1\n")
    ws.commit("1")
    ws.write("a.txt", "2\n")
    (ws.git_dir / "index").write_bytes(b"DIRC")
    run = ws.save()
    saved_from(run, exits=(0, 4))
    assert "index" in run.stderr + run.text
    assert "commit of HEAD" not in run.stderr + run.text
    (ws.git_dir / "index").unlink()
    ws.git("reset", "-q", "--hard")
    recovered_from(ws.recover(), exits=(0, 4))
    assert (ws.path / "a.txt").read_text() == "2\n"
