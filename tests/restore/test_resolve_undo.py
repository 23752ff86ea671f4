"""What git needs to bring a resolved conflict back (`git checkout -m`): the index names it, and a save keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.git.index import resolve_undo
from tests.support.losing import forget_unreachable, wipe
from tests.support.workspace import Workspace


def resolved(ws: Workspace) -> None:
    """A conflict that was resolved, with a commit that no ref holds any more."""
    ws.git("checkout", "-q", "-b", "gone")
    ws.write("REUC", "theirs\n")
    ws.write("a.txt", "theirs\n")
    ws.commit("theirs")
    ws.git("checkout", "-q", "-")
    ws.write("REUC", "ours\n")
    ws.write("a.txt", "ours\n")
    ws.commit("ours")
    ws.fails("cherry-pick", "gone")
    ws.write("REUC", "both\n")
    ws.write("a.txt", "both\n")
    ws.git("add", "-A")
    ws.git("cherry-pick", "--quit")
    ws.git("branch", "-q", "-D", "gone")


def named_by_git(ws: Workspace) -> set[str]:
    return {line.split()[1] for line in ws.out("ls-files", "--resolve-undo").splitlines()}


def test_resolved_conflict_can_be_undone_after_a_recovery(ws: Workspace) -> None:
    resolved(ws)
    before = named_by_git(ws)
    assert ws.save().exit_status == 0
    wipe(ws)
    forget_unreachable(ws.path)
    assert ws.recover().exit_status == 0
    assert named_by_git(ws) == before
    ws.git("gc", "-q")
    ws.git("checkout", "-m", "a.txt")
    ws.expect("UU a.txt")


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_objects_of_resolved_conflicts_are_those_that_git_lists(object_format: str, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    ws = Workspace(tmp_path / "repo", tmp_path)
    ws.git("init", "-q", f"--object-format={object_format}", ".")
    ws.write("a.txt", "base\n")
    ws.commit("base")
    resolved(ws)
    for version in ("2", "4"):
        ws.git("update-index", "--index-version", version)
        fd = os.open(ws.git_dir / "index", os.O_RDONLY)
        assert {*resolve_undo(fd, 20 if object_format == "sha1" else 32)} == named_by_git(ws) != set()
        os.close(fd)
