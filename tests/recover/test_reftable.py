"""An unfinished operation whose refs are in a reftable: they are saved as refs, and come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.skips import NO_REFTABLE
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
    top = tmp_path / "repo"
    (tmp_path / "outside").mkdir()
    top.mkdir()
    ws = Workspace(top, tmp_path / "outside")
    ws.git("init", "-q", "-b", "main", "--ref-format=reftable", ".", check=False)
    if not (top / ".git" / "reftable").exists():
        pytest.skip(NO_REFTABLE)
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
