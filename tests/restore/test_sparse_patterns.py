"""The patterns of a sparse checkout that somebody changed after the save stay, and that is said."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.workspace import Workspace


def sparse(ws: Workspace) -> bytes:
    """A sparse checkout with work in it; its patterns."""
    for name in ("one", "two"):
        ws.write(f"{name}/f.txt")
    ws.commit("two directories")
    ws.git("sparse-checkout", "set", "one")
    ws.append("one/f.txt", "edited\n")
    return (ws.git_dir / "info/sparse-checkout").read_bytes()


def told(answer: dict[str, Any]) -> str:
    (item,) = answer["left_out"]
    assert not item["lost"], item
    return str(item["reason"])


def test_changed_patterns_stay_and_the_saved_ones_are_one_command_away(ws: Workspace) -> None:
    before, patterns = sparse(ws), ws.git_dir / "info/sparse-checkout"
    assert ws.save().exit_status == 0
    ws.git("sparse-checkout", "set", "two")
    after = patterns.read_bytes()
    assert after != before
    reason = told(recovered_from(ws.recover()))
    assert "the sparse-checkout patterns were changed after the save, and stay" in reason
    assert patterns.read_bytes() == after and ws.read("one/f.txt").endswith(b"edited\n")
    subprocess.run(["sh", "-c", reason.partition("those of the save: ")[2]], check=True)
    assert patterns.read_bytes() == before and not (ws.path / "two/f.txt").exists()
    assert ws.status() == {b" M one/f.txt"}


def test_changed_patterns_are_overwritten_by_name(ws: Workspace) -> None:
    before = sparse(ws)
    assert ws.save().exit_status == 0
    ws.git("sparse-checkout", "set", "two")
    answer = recovered_from(ws.recover("--overwrite"))
    assert (ws.git_dir / "info/sparse-checkout").read_bytes() == before and answer["left_out"] == []


def test_checkout_that_is_made_sparse_again_is_named(ws: Workspace) -> None:
    before = sparse(ws)
    assert ws.save().exit_status == 0
    ws.git("sparse-checkout", "disable")
    answer = recovered_from(ws.recover())
    assert answer["message"] == "the checkout is sparse again, as it was saved"
    assert (ws.git_dir / "info/sparse-checkout").read_bytes() == before and not (ws.path / "two").exists()


def test_checkout_that_became_sparse_after_the_save_stays_so(ws: Workspace) -> None:
    ws.write("one/f.txt")
    ws.commit("a directory")
    ws.append("README.md", "edited\n")
    assert ws.save().exit_status == 0
    ws.git("sparse-checkout", "set", "one")
    reason = told(recovered_from(ws.recover()))
    subprocess.run(["sh", "-c", reason.partition("as it was: ")[2]], check=True)
    assert ws.status() == {b" M README.md"}


@pytest.mark.parametrize("name", ["one", None])
def test_worktree_that_is_added_for_a_save_is_sparse_as_that_is(name: str | None, ws: Workspace) -> None:
    """Git copies the patterns of the main worktree into it."""
    for directory in ("one", "two"):
        ws.write(f"{directory}/f.txt")
    ws.commit("two directories")
    path = ws.outside / "linked"
    ws.git("worktree", "add", "-q", "-b", "side", path)
    there = Workspace(path, ws.outside, main=ws.path)
    if name is not None:
        there.git("sparse-checkout", "set", name)
    there.append("one/f.txt", "edited\n")
    before = fingerprint(path)
    assert there.save().exit_status == 0
    ws.git("sparse-checkout", "set", "two")
    ws.git("worktree", "remove", "--force", path)
    answer = recovered_from(ws.recover("--into", str(path)))
    assert answer["left_out"] == [] and before.diff(fingerprint(path)) == []
    assert ws.out("config", "core.sparseCheckout") == "true" and (ws.path / "two/f.txt").exists()
