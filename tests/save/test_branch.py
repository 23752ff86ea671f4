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


@pytest.mark.parametrize("wiped", [False, True])
def test_save_stacks_on_a_branch_that_was_renamed(wiped: bool, ws: Workspace) -> None:
    """Else the first WIP commit stays in its history, and what was staged at the first save is lost."""
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.append("a.txt", "not staged\n")
    before = fingerprint(ws.path)
    assert ws.save(task_id="T-1").exit_status == 0
    ws.git("branch", "-m", "agent/renamed")
    ws.append("b.txt", "later\n")
    assert ws.save(task_id="T-1").exit_status == 0
    if wiped:
        ws.git("reset", "-q", "--hard", "HEAD~3")
    assert ws.recover().exit_status == 0
    assert ws.read("b.txt").endswith(b"later\n")
    (ws.path / "b.txt").unlink()
    assert [line for line in before.diff(fingerprint(ws.path)) if "agent/" not in line] == []


def test_save_on_another_branch_takes_over_nothing_and_names_the_pending_save(ws: Workspace) -> None:
    """The work of that one was not reset: it is on its own branch, and comes back there."""
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    before = fingerprint(ws.path)
    first = ws.save(task_id="T-1").json["save_id"]
    ws.git("checkout", "-q", "-b", "other", "HEAD~2")
    saved = ws.save(task_id="T-2")
    message = saved.json["message"]
    assert saved.exit_status == 0 and message.endswith(f"pending no longer: gitstate recover --save {first}"), saved
    assert "was reset" not in message
    (found,) = ws.recover().json["workspaces"]
    assert (found["verdict"], found["context"]["task_id"]) == ("context_only", "T-2") and first in found["message"]
    ws.git("checkout", "-q", "-")
    (found,) = ws.recover().json["workspaces"]
    assert (found["verdict"], found["context"]["task_id"]) == ("restore", "T-1")
    assert before.diff(fingerprint(ws.path)) == []


def test_save_on_a_new_branch_beside_that_of_the_pending_save_is_not_stacked(ws: Workspace) -> None:
    """`git checkout -b` on its WIP commit renames nothing: each branch gives back what was saved on it."""
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    before = fingerprint(ws.path)
    first = ws.save(task_id="T-1").json["save_id"]
    ws.git("checkout", "-q", "-b", "other")
    ws.append("b.txt", "later\n")
    saved = ws.save(task_id="T-1")
    assert saved.exit_status == 0 and first in saved.json["message"], saved
    (found,) = ws.recover().json["workspaces"]
    assert found["verdict"] == "restore" and ws.status() == {b"?? b.txt"}
    ws.remove("b.txt")
    ws.git("checkout", "-q", "-")
    (found,) = ws.recover().json["workspaces"]
    assert (found["verdict"], found["save_id"]) == ("restore", first)
    assert before.diff(fingerprint(ws.path)) == []


def test_save_of_the_same_task_on_another_branch_leaves_the_pending_one_alone(ws: Workspace) -> None:
    ws.append("a.txt")
    first = ws.save(task_id="T-1").json["save_id"]
    ws.git("checkout", "-q", "-b", "other", "HEAD~1")
    again = ws.save(task_id="T-1").json
    assert (again["result"], again["save_id"]) == ("unchanged", first)


@pytest.mark.parametrize("below", [True, False], ids=["on its WIP commit", "beside it"])
def test_save_over_one_that_cannot_be_read_says_so(below: bool, ws: Workspace) -> None:
    ws.append("a.txt")
    first = ws.save(task_id="T-1").json["save_id"]
    (archive,) = ws.refs("refs/gitstate/pending").values()
    tree = ws.out("ls-tree", archive)
    rest = "".join(f"{line}\n" for line in tree.splitlines() if not line.endswith("\tmanifest.json"))
    made = os.fsdecode(ws.git("mktree", stdin=rest.encode())).strip()
    damaged = ws.out("commit-tree", "-m", "damaged", "-p", f"{archive}^1", made)
    for ref in (*ws.refs("refs/gitstate/pending"), *ws.refs("refs/gitstate/saves")):
        ws.git("update-ref", ref, damaged)
    if not below:
        ws.git("reset", "-q", "HEAD~1")
    ws.append("b.txt")
    saved = ws.save(task_id="T-2")
    assert saved.exit_status == 0 and "the pending save is unreadable" in saved.json["message"], saved
    assert first.encode() in ws.gitstate("log").stdout
