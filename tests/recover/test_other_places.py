"""A save recovered in another worktree or on another host keeps a shorter version of a file that is there.

Only where the save was made can a power cut have shortened a file.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.forgery import forged
from tests.support.look import paths_of
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.repositories import initialized
from tests.support.saving import saved_from
from tests.support.workspace import Run, Workspace, run_git

SHORT, LONG = "begun\n", "begun\nand carried on\n"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository whose second worktree and clone hold a shorter version of a file that is then saved."""
    ws = initialized(tmp_path)
    path, outside = ws.path, ws.outside
    ws.write("a.txt", "a\n")
    ws.commit("base")
    ws.git("worktree", "add", "-q", "-b", "other", str(outside / "worktree"))
    ws.git("clone", "-q", str(path), str(outside / "clone"))
    for place in ("worktree", "clone"):
        (outside / place / "notes.txt").write_text(SHORT)
    time.sleep(0.1)
    ws.write("notes.txt", LONG)
    assert ws.save().exit_status == 0
    with forged(ws) as save:
        # As every save of another host is, and of this one before a reboot.
        save.context["boot_id"] = "00000000-1111-2222-3333-444444444444"
    return ws


def saved_id(ws: Workspace) -> str:
    (archive,) = ws.refs("refs/gitstate/pending").values()
    return str(json.loads(ws.git("cat-file", "blob", f"{archive}:manifest.json"))["save_id"])


def restored_in(ws: Workspace, place: Path, *options: str) -> Run:
    return ws.gitstate("restore", *options, saved_id(ws), "notes.txt", "--json", path=place)


@pytest.mark.parametrize("where", ["worktree", "clone"])
def test_older_beginning_in_another_place_is_kept(ws: Workspace, where: str) -> None:
    place = ws.outside / where
    if where == "clone":
        ws.gitstate("fetch", "origin", path=place)
    run = restored_in(ws, place)
    assert run.exit_status == 4, run
    assert paths_of(run.json["workspaces"][0]["kept"]) == {b"notes.txt"}
    assert (place / "notes.txt").read_text() == SHORT
    assert restored_in(ws, place, "--overwrite").exit_status == 0
    assert (place / "notes.txt").read_text() == LONG


def test_recovering_a_fetched_save_keeps_an_older_beginning(ws: Workspace) -> None:
    clone = ws.outside / "clone"
    ws.gitstate("fetch", "origin", path=clone)
    run = ws.gitstate("recover", "--save", saved_id(ws), "--json", path=clone)
    (item,) = run.json["workspaces"]
    assert item["verdict"] == "changed", run
    assert paths_of(item["kept"]) == {b"notes.txt"}
    assert (clone / "notes.txt").read_text() == SHORT


@pytest.mark.sample(2)
@pytest.mark.parametrize("where", ["repo/inside", "outside/beside"])
@pytest.mark.parametrize("how", ["detached", "forced"])
def test_clone_takes_the_save_of_its_branch_among_those_of_worktrees(how: str, where: str, tmp_path: Path) -> None:
    ws = initialized(tmp_path)
    ws.write("a.txt", "a\n")
    ws.commit("base")
    place = tmp_path / where
    branch = ws.out("symbolic-ref", "--short", "HEAD")
    options = ["--detach", str(place)] if how == "detached" else ["--force", str(place), branch]
    ws.git("worktree", "add", "-q", *options)
    (place / "a.txt").write_text("of the worktree\n")
    # So no save moves the branch.
    ws.git("bisect", "start")
    ws.write("a.txt", "of the main worktree\n")
    assert ws.gitstate("save", path=place).exit_status == 0
    saved = saved_from(ws.save())
    clone = tmp_path / "clone"
    ws.git("clone", "-q", "--no-local", str(ws.path), str(clone))
    run_git(clone, "fetch", "-q", "origin", "refs/gitstate/*:refs/gitstate/*")
    run = ws.recover(path=clone)
    if how == "forced" and where == "outside/beside":
        # Each of the two was made on this branch, at this commit.
        assert run.exit_status == 4
        assert "several saves fit this workspace" in run.stderr
        run = ws.recover("--save", saved.save_id, path=clone)
    # A worktree inside can't have a branch that is checked out: that is said.
    answer = recovered_from(run, exits=(4,) if how == "forced" and where == "repo/inside" else (0,))
    assert answer["save_id"] == saved.save_id
    assert (clone / "a.txt").read_text() == "of the main worktree\n"


@pytest.mark.parametrize("changed", [True, False])
def test_clone_of_a_detached_head_takes_no_save_of_a_worktree_inside(changed: bool, tmp_path: Path) -> None:
    """Git checks out the branch of the worktree inside in the clone: it is at the commit of the detached HEAD."""
    ws = initialized(tmp_path)
    ws.write("a.txt", "a\n")
    ws.commit("base")
    ws.git("checkout", "-q", "--detach")
    ws.git("branch", "-q", "-D", "main")
    ws.git("worktree", "add", "-q", "-b", "inner", "inside")
    if changed:
        ws.write("inside/a.txt", "of the worktree inside\n")
    ws.write("a.txt", "of the main worktree\n")
    before = fingerprint(ws.path)
    saved = saved_from(ws.save(), exits=(0, 4))
    clone = tmp_path / "clone"
    ws.git("clone", "-q", "--no-local", str(ws.path), str(clone))
    assert run_git(clone, "symbolic-ref", "--short", "HEAD") == b"inner\n"
    run_git(clone, "fetch", "-q", "origin", "refs/gitstate/*:refs/gitstate/*")
    run_git(clone, "fetch", "-q", "origin", "+refs/heads/*:refs/remotes/origin/*")
    ws.path.rename(tmp_path / "the lost one")
    answer = recovered_from(ws.recover(path=clone), exits=(0, 4))
    assert answer["save_id"] == saved.save_id
    assert before.diff(fingerprint(clone)) == []


def test_clone_names_the_save_that_it_does_not_take(tmp_path: Path) -> None:
    """The clone is on the branch of a worktree beside the detached one, and nothing tells which of them was lost."""
    ws = initialized(tmp_path)
    ws.write("a.txt", "a\n")
    ws.commit("base")
    ws.git("checkout", "-q", "--detach")
    ws.git("branch", "-q", "-D", "main")
    # So no save moves the branch.
    ws.git("worktree", "add", "-q", "-b", "beside", str(tmp_path / "beside"))
    run_git(tmp_path / "beside", "bisect", "start")
    for place in (ws.path, tmp_path / "beside"):
        (place / "a.txt").write_text(f"of {place.name}\n")
    beside = Workspace(tmp_path / "beside", ws.outside)
    ours, theirs = saved_from(ws.save()).save_id, saved_from(beside.save()).save_id
    clone = tmp_path / "clone"
    ws.git("clone", "-q", "--no-local", str(ws.path), str(clone))
    run_git(clone, "fetch", "-q", "origin", "refs/gitstate/*:refs/gitstate/*")
    answer = recovered_from(ws.recover(path=clone))
    assert answer["save_id"] == theirs
    command = answer["message"].partition("is pending: gitstate ")[2]
    assert command == f"recover --save {ours} --into PATH"
    assert ws.gitstate(*command.split()[:-1], str(tmp_path / "another"), path=clone).exit_status == 0
    assert (tmp_path / "another" / "a.txt").read_text() == "of repo\n"


@pytest.mark.sample(3)
@pytest.mark.parametrize("has_save", [True, False])
@pytest.mark.parametrize("options", [["--detach"], ["-b", "beside"]])
def test_worktree_takes_no_save_of_a_detached_one_that_is_gone(
    options: list[str], has_save: bool, ws: Workspace
) -> None:
    """It is at the same commit, and has work of its own."""
    lost, other = (Workspace(ws.outside / name, ws.outside) for name in ("lost", "other"))
    ws.git("worktree", "add", "-q", "--detach", str(lost.path))
    ws.git("worktree", "add", "-q", *options, str(other.path))
    lost.append("a.txt")
    lost.write("new.txt")
    save_id = saved_from(lost.save()).save_id
    assert other.gitstate("begin", "--task-id", "of the other").exit_status == 0
    other.append("deep/b.txt" if (other.path / "deep/b.txt").exists() else "a.txt")
    if has_save:
        assert other.save().exit_status == 0
        assert other.recover().exit_status == 0
    ws.remove(str(lost.path))
    before, head = fingerprint(other.path), other.out("rev-parse", "--symbolic-full-name", "HEAD")
    run = other.recover()
    assert run.json["workspaces"][0]["save_id"] != save_id
    assert before.diff(fingerprint(other.path)) == []
    assert other.out("rev-parse", "--symbolic-full-name", "HEAD") == head
    # Whoever asks for it gets it.
    into = ws.outside / "into"
    assert other.gitstate("recover", "--save", save_id, "--into", str(into)).exit_status == 0
    assert (into / "new.txt").exists()


def test_detached_worktree_at_another_commit_takes_no_save(ws: Workspace) -> None:
    lost, other = (Workspace(ws.outside / name, ws.outside) for name in ("lost", "other"))
    for one in (lost, other):
        ws.git("worktree", "add", "-q", "--detach", str(one.path))
    lost.write("new.txt")
    saved_from(lost.save())
    ws.remove(str(lost.path))
    other.git("commit", "-q", "--allow-empty", "-m", "elsewhere")
    waits, head = ws.refs("refs/gitstate/pending"), other.out("rev-parse", "HEAD")
    assert recovered_from(other.recover(), exits=(4,))["verdict"] == "elsewhere"
    assert not (other.path / "new.txt").exists() and other.out("rev-parse", "HEAD") == head
    assert ws.refs("refs/gitstate/pending") == waits


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("task", "is_moved", "takes"),
    [("of the other", False, False), ("of the other", True, True), ("of the lost", False, True), (None, False, True)],
)
def test_worktree_anew_on_a_branch_takes_the_save_of_its_task(
    task: str | None, is_moved: bool, takes: bool, ws: Workspace
) -> None:
    """And the save whose WIP commit the branch is at: its files are checked out there."""
    lost, other = (Workspace(ws.outside / name, ws.outside) for name in ("lost", "other"))
    ws.git("worktree", "add", "-q", "-b", "beside", str(lost.path))
    if not is_moved:
        lost.git("bisect", "start")
    lost.write("new.txt")
    save_id = saved_from(lost.save("--task-id", "of the lost")).save_id
    ws.remove(str(lost.path))
    ws.git("worktree", "prune")
    ws.git("worktree", "add", "-q", str(other.path), "beside")
    assert task is None or other.gitstate("begin", "--task-id", task).exit_status == 0
    answer = other.recover().json["workspaces"][0]
    assert (answer["save_id"] == save_id, (other.path / "new.txt").exists()) == (takes, takes)
    assert ("pending/lost-" in ws.out("for-each-ref", "refs/gitstate/pending")) != takes


def test_save_of_a_worktree_that_is_gone_comes_back_once_where_its_branch_was_merged(tmp_path: Path) -> None:
    """On the branch that took the WIP commit; no worktree is made for the save then."""
    ws = initialized(tmp_path)
    ws.write("a.txt")
    ws.commit("base")
    lost = Workspace(ws.outside / "lost", ws.outside)
    ws.git("worktree", "add", "-q", "-b", "beside", lost.path)
    lost.write("new.txt")
    save_id = saved_from(lost.save()).save_id
    ws.git("merge", "-q", "--ff-only", "beside")
    ws.git("worktree", "remove", "--force", lost.path)
    ws.git("branch", "-q", "-D", "beside")
    assert recovered_from(ws.recover())["save_id"] == save_id
    assert ws.refs("refs/gitstate/pending") == {} and (ws.path / "new.txt").exists()
    everywhere = ws.gitstate("recover", "--worktrees", "--json").json["workspaces"]
    assert [item["save_id"] for item in everywhere] == [None] and not lost.path.exists()


def _unborn(ws: Workspace) -> Workspace:
    """A linked worktree on a branch without a commit, and beside it a patch that adds `a.txt`."""
    linked = Workspace(ws.outside / "linked", ws.outside, main=ws.path)
    ws.git("worktree", "add", "-q", "--detach", str(linked.path))
    (ws.outside / "patch").write_bytes(ws.git("format-patch", "-1", "--stdout", "--root", "HEAD~1"))
    linked.git("checkout", "-q", "--orphan", "unborn")
    linked.git("rm", "-rqf", ".")
    return linked


@pytest.mark.parametrize("is_checkpoint", [False, True])
def test_removed_worktree_of_an_unborn_branch_comes_back(is_checkpoint: bool, ws: Workspace) -> None:
    """Its branch is unborn again: no commit that the agent did not make is on it."""
    linked = _unborn(ws)
    linked.write("a.txt", "in the way\n")
    if not is_checkpoint:
        linked.git("am", str(ws.outside / "patch"), check=False)
        assert (linked.git_dir / "rebase-apply").is_dir()
    linked.write("staged.txt")
    linked.git("add", "staged.txt")
    run = linked.gitstate("checkpoint" if is_checkpoint else "save", "--json")
    assert run.exit_status == 0, run
    before = fingerprint(linked.path)
    assert before.commit is None
    ws.remove(str(linked.path))
    ws.git("worktree", "prune")
    into = Workspace(ws.outside / "into", ws.outside)
    run = ws.gitstate("recover", "--into", str(into.path), "--save", run.json["save_id"])
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(into.path)) == []
    assert into.out("symbolic-ref", "HEAD") == "refs/heads/unborn"
