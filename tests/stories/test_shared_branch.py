"""Two worktrees on one branch (`worktree add --force`): the save of one leaves the other as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.git.refs import is_checked_out_elsewhere
from tests.states import dirty
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace


@pytest.fixture
def both(ws: Workspace, tmp_path: Path) -> tuple[Workspace, Workspace]:
    """Two linked worktrees on the branch `b`; the second has work."""
    found = []
    for name in ("one", "two"):
        argv = ("-b", "b") if name == "one" else ("--force",)
        ws.git("worktree", "add", "-q", *argv, str(tmp_path / name), *(() if name == "one" else ("b",)))
        found.append(Workspace(tmp_path / name, ws.outside))
    first, second = found
    second.write("untracked", "precious\n")
    second.append("a.txt")
    second.git("add", "a.txt")
    return first, second


@pytest.mark.parametrize("first_saves", [False, True])
def test_save_of_one_leaves_the_other_alone(first_saves: bool, both: tuple[Workspace, Workspace]) -> None:
    first, second = both
    tip = first.out("rev-parse", "b")
    before, other = fingerprint(second.path), fingerprint(first.path)
    saved = second.gitstate("save", "--task-id", "B")
    assert saved.exit_status == 0 and "another worktree has the branch checked out" in saved.stderr
    assert first.out("rev-parse", "b") == tip
    assert first.out("status", "--porcelain") == ""
    if first_saves:
        assert first.gitstate("save", "--task-id", "A").exit_status == 0
    assert first.recover().exit_status == 0
    assert other.diff(fingerprint(first.path)) == []
    second.git("reset", "-q", "--hard")
    second.git("clean", "-fdxq")
    assert second.recover().exit_status == 0
    assert before.diff(fingerprint(second.path)) == []


@pytest.mark.parametrize("first_saves", [False, True])
def test_save_of_version_0_1_is_taken_by_its_own_worktree(first_saves: bool, both: tuple[Workspace, Workspace]) -> None:
    """It moved the branch for both: the other worktree then seems to have deleted the new files."""
    first, second = both
    tip = second.out("rev-parse", "b")
    # Alone on the branch: the save moves it.
    hidden = first.path.rename(first.path.with_name("hidden"))
    before = fingerprint(second.path)
    assert second.gitstate("save", "--task-id", "B").exit_status == 0
    assert second.out("log", "-1", "--format=%s").startswith("WIP(gitstate): ")
    hidden.rename(first.path)
    if first_saves:
        assert first.gitstate("save", "--task-id", "A").exit_status == 0
    first.recover()
    assert not (first.path / "untracked").exists()
    assert second.recover().exit_status == 0
    assert before.files == fingerprint(second.path).files
    assert second.out("rev-parse", "b") == tip


def test_branch_of_a_worktree_that_is_gone_or_of_a_bare_repository_is_free(ws: Workspace, tmp_path: Path) -> None:
    repository = open_repository(bytes(ws.path))
    branch = repository.git.run("symbolic-ref", "HEAD").decode().strip()
    assert not is_checked_out_elsewhere(repository, branch)
    ws.git("worktree", "add", "-q", "--force", str(tmp_path / "two"), branch.removeprefix("refs/heads/"))
    assert is_checked_out_elsewhere(repository, branch)
    assert is_checked_out_elsewhere(open_repository(bytes(tmp_path / "two")), branch)
    (tmp_path / "two").rename(tmp_path / "gone")
    assert not is_checked_out_elsewhere(repository, branch)
    ws.git("clone", "-q", "--bare", str(ws.path), str(tmp_path / "bare" / ".git"))
    name = branch.removeprefix("refs/heads/")
    ws.git("-C", str(tmp_path / "bare" / ".git"), "worktree", "add", "-q", "--force", str(tmp_path / "three"), name)
    assert not is_checked_out_elsewhere(open_repository(bytes(tmp_path / "three")), branch)


@pytest.mark.parametrize("loss", ["in place", "wiped"])
def test_branch_that_is_a_symbolic_ref_to_a_remote_s_does_not_move(loss: str, ws: Workspace) -> None:
    """To move it is to say that the remote moved: the next `push --force-with-lease` believes it."""
    ws.git("update-ref", "refs/remotes/origin/work", "HEAD")
    ws.git("symbolic-ref", "refs/heads/agent/work", "refs/remotes/origin/work")
    tip = ws.out("rev-parse", "refs/remotes/origin/work")
    dirty(ws)
    before = fingerprint(ws.path)
    saved = ws.gitstate("save", "--task-id", "T")
    assert saved.exit_status == 0 and "symbolic ref to refs/remotes/origin/work" in saved.stderr
    assert ws.out("rev-parse", "refs/remotes/origin/work") == tip
    if loss == "wiped":
        wipe(ws)
    assert ws.recover().exit_status == 0
    assert before.diff(fingerprint(ws.path)) == []
    assert ws.out("symbolic-ref", "refs/heads/agent/work") == "refs/remotes/origin/work"
