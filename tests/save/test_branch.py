"""The branch moves to the WIP commit, without hard links too, or the save says why it does not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.faults.strace import why_not_strace
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace, run_git


def detached(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")


def merging(ws: Workspace) -> None:
    ws.git("checkout", "-q", "-b", "side")
    ws.append("a", "theirs\n")
    ws.commit("side")
    ws.git("checkout", "-q", "-")
    ws.append("a", "ours\n")
    ws.commit("ours")
    ws.fails("merge", "-q", "side")
    ws.write("a", "solved\n")
    ws.add("a")


def checked_out_elsewhere(ws: Workspace) -> None:
    ws.git(
        "worktree", "add", "-q", "--force", os.fspath(ws.outside / "twin"), ws.out("symbolic-ref", "--short", "HEAD")
    )


def unreadable_index(ws: Workspace) -> None:
    ws.write(".git/index", "DIRC no more")


def not_a_branch(ws: Workspace) -> None:
    ws.git("update-ref", "refs/odd/place", "HEAD")
    ws.git("symbolic-ref", "HEAD", "refs/odd/place")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (detached, "HEAD is detached"),
        (merging, "a merge is in progress"),
        (checked_out_elsewhere, "another worktree has the branch checked out, too"),
        (unreadable_index, "the index is unreadable"),
        (not_a_branch, "HEAD points to refs/odd/place, which is no branch"),
    ],
)
def test_branch_that_is_not_moved_says_why(prepare: Callable[[Workspace], None], why: str, ws: Workspace) -> None:
    prepare(ws)
    ws.append("b")
    head = run_git(ws.path, "rev-parse", "HEAD")
    run = ws.gitstate("save", "--task-id", "T")
    assert f"branch not moved: {why}" in run.stderr, run
    assert run_git(ws.path, "rev-parse", "HEAD") == head


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP"])
def test_branch_moves_where_no_hard_link_can_be_made(error: str, ws: Workspace) -> None:
    """A file system without them refuses; so does the kernel for the index of another user (`protected_hardlinks`)."""
    ws.append("a")
    ws.add("a")
    ws.append("a")
    ws.write("new")
    before, index = fingerprint(ws.path), ws.read(".git/index")
    filtered = ("--seccomp-bpf", "-e", "trace=link,linkat", "-e", f"inject=link,linkat:error={error}")
    ws.cli_prefix = ("strace", "-f", "-qq", "-o", "/dev/null", *filtered)
    run = ws.save("--task-id", "T")
    assert run.exit_status == 0, run
    assert run.json["branch_moved"] is True
    assert ws.out("status", "--porcelain") == ""
    assert ws.recover().exit_status == 0
    assert before.diff(fingerprint(ws.path)) == []
    assert ws.read(".git/index") == index or ws.out("status", "--porcelain").split("\n") == ["MM a", "?? new"]
