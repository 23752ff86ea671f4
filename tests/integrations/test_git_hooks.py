"""Git's hooks at work: what they keep true, what they refuse, and that they never stop anybody else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gitstate.git_hook import may_be_stale, updates
from gitstate.model import Context, Manifest, Save
from tests.support.typed import (
    commit,
    git,
    gitstate,
    hooks,
    markers,
    run,
    state_file,
    with_remote,
)
from tests.support.workspace import Run, Workspace

ZERO = "0" * 40


@pytest.fixture
def repo(tmp_path: Path) -> Workspace:
    found = with_remote(tmp_path)
    found.gitstate("install")
    return found


def saved(repo: Workspace) -> str:
    """A WIP commit on the branch, with one edited and one new file; its id."""
    gitstate(repo, "set", "task_id=T-1")
    repo.write("a", "one\ntwo\n")
    repo.write("new", "new\n")
    gitstate(repo, "save")
    assert len(markers(repo)) == 1
    return git(repo, "rev-parse", "HEAD")


# -- the context


def test_a_new_branch_and_a_commit_are_in_the_state_file_at_once(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1", "progress_stage=testing")
    git(repo, "checkout", "-q", "-b", "agent/2")
    assert state_file(repo)["branch_name"] == "agent/2"
    made = commit(repo, "b", "b\n")
    state = state_file(repo)
    assert (state["branch_name"], state["extra"]["base_commit"]) == ("agent/2", made)
    assert (state["task_id"], state["progress_stage"], state["status"]) == ("T-1", "testing", "active")


def test_a_merge_an_amend_and_a_rebase_move_the_base_along(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1")
    git(repo, "checkout", "-q", "-b", "side", "main")
    commit(repo, "s", "s\n")
    git(repo, "checkout", "-q", "agent/1")
    commit(repo, "b", "b\n")
    for command in ("merge -q side -m m", "commit --amend -q -m n", "rebase -q side"):
        git(repo, *command.split())
        assert state_file(repo)["extra"]["base_commit"] == git(repo, "rev-parse", "HEAD"), command
        assert state_file(repo)["branch_name"] == "agent/1"


def test_a_checkout_of_files_writes_nothing(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1")
    before = state_file(repo)
    repo.write("a", "edited\n")
    git(repo, "checkout", "-q", "--", "a")
    assert state_file(repo) == before


def test_where_no_context_was_ever_set_hooks_leave_nothing_behind(repo: Workspace) -> None:
    commit(repo, "b", "b\n")
    git(repo, "checkout", "-q", "main")
    git(repo, "push", "-q", "origin", "agent/1")
    assert not (repo.path / "active_state.json").exists()
    assert not (repo.path / ".git" / "gitstate").exists()


def test_each_linked_worktree_keeps_a_context_of_its_own(repo: Workspace, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "agent/9")
    linked = Workspace(tmp_path / "linked", tmp_path)
    gitstate(linked, "set", "task_id=T-9")
    gitstate(repo, "set", "task_id=T-1")
    git(linked, "checkout", "-q", "-b", "agent/10")
    assert state_file(linked)["branch_name"] == "agent/10"
    assert state_file(repo)["branch_name"] == "agent/1"


# -- the refusals


def test_a_commit_on_top_of_a_waiting_wip_is_refused_with_what_to_type(repo: Workspace) -> None:
    wip = saved(repo)
    repo.write("a", "three\n")
    said = git(repo, "commit", "-q", "-a", "-m", "bury", fails=True)
    assert wip[:12] in said and "agent/1" in said and "gitstate recover" in said
    assert git(repo, "rev-parse", "HEAD") == wip
    git(repo, "commit", "-q", "-a", "-m", "bury", "--no-verify")


def test_the_way_back_without_gitstate_is_told_step_by_step(repo: Workspace) -> None:
    repo.write("a", "staged\n")
    git(repo, "add", "a")
    repo.write("new", "new\n")
    gitstate(repo, "save")
    for step in ("git reset HEAD~1", "git reset --soft HEAD~1"):
        said = git(repo, "commit", "-q", "-a", "-m", "bury", fails=True)
        assert f"without gitstate: {step})" in said
        git(repo, *step.split()[1:])
    assert git(repo, "status", "--short") == "M  a\n?? new"
    git(repo, "commit", "-q", "-m", "mine")
    assert markers(repo) == []


def test_after_recovery_a_commit_goes_through(repo: Workspace) -> None:
    saved(repo)
    gitstate(repo, "recover")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "mine")
    assert git(repo, "show", "--format=", "--name-only", "HEAD").split() == ["a", "new"]


def test_another_worktree_commits_while_a_wip_waits_here(repo: Workspace, tmp_path: Path) -> None:
    saved(repo)
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "agent/9", "main")
    commit(Workspace(tmp_path / "linked", tmp_path), "b", "b\n")


def test_a_wip_that_nothing_waits_for_may_be_built_upon(repo: Workspace) -> None:
    saved(repo)
    git(repo, "update-ref", "-d", markers(repo)[0])
    commit(repo, "b", "b\n")


def test_a_packed_marker_is_seen_too(repo: Workspace) -> None:
    saved(repo)
    git(repo, "pack-refs", "--all")
    assert not list((repo.path / ".git" / "refs" / "gitstate").rglob("*-*"))
    repo.write("a", "three\n")
    assert "gitstate recover" in git(repo, "commit", "-q", "-a", "-m", "bury", fails=True)


def test_a_push_of_a_wip_is_refused_and_names_branch_and_commit(repo: Workspace) -> None:
    wip = saved(repo)
    for target in ("agent/1", "HEAD", "agent/1:other"):
        said = git(repo, "push", "-q", "origin", target, fails=True)
        assert wip[:12] in said and ("agent/1" in said or "other" in said), said
    assert git(repo, "ls-remote", "origin", "refs/heads/agent/1") == ""


def test_a_wip_below_other_commits_is_refused_too(repo: Workspace) -> None:
    wip = saved(repo)
    repo.write("c", "c\n")
    git(repo, "add", "c")
    git(repo, "commit", "-q", "--no-verify", "-m", "on top")
    assert wip[:12] in git(repo, "push", "-q", "origin", "agent/1", fails=True)


def test_other_branches_deletions_and_the_refs_of_gitstate_are_pushed(repo: Workspace) -> None:
    saved(repo)
    git(repo, "branch", "clean", "main")
    git(repo, "push", "-q", "origin", "clean")
    git(repo, "push", "-q", "origin", "--delete", "clean")
    git(repo, "push", "-q", "origin", "refs/gitstate/*:refs/gitstate/*", "refs/notes/gitstate")
    assert len(git(repo, "ls-remote", "origin", "refs/gitstate/pending/*").splitlines()) == 1


def test_one_wip_among_many_branches_stops_the_push_and_is_the_only_one_named(repo: Workspace) -> None:
    for number in range(30):
        git(repo, "branch", f"b{number}", "main")
    saved(repo)
    said = git(repo, "push", "-q", "origin", "--all", fails=True)
    assert "agent/1" in said and " b1" not in said


def test_a_commit_that_only_speaks_of_the_trailer_is_pushed(repo: Workspace) -> None:
    repo.write("b", "b\n")
    git(repo, "add", "b")
    git(repo, "commit", "-q", "-m", "Docs\n\nGitstate-Save: is a trailer of ours,\nas this paragraph says.\n\nMore.")
    git(repo, "push", "-q", "origin", "agent/1")


# -- the marker


def undone(repo: Workspace) -> None:
    """The way back without gitstate, as the README has it."""
    git(repo, "reset", "-q", "HEAD~1")


def test_work_that_plain_git_brought_back_and_that_is_committed_clears_the_marker(repo: Workspace) -> None:
    saved(repo)
    undone(repo)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "mine")
    assert markers(repo) == []
    assert git(repo, "for-each-ref", "refs/gitstate/saves") != ""
    state = state_file(repo)
    assert (state["status"], state["task_id"], state["resume"]) == ("recovered", "T-1", None)
    assert "nothing" in gitstate(repo, "recover")


def test_a_part_that_is_committed_and_a_part_that_is_on_the_disk_clear_it_too(repo: Workspace) -> None:
    saved(repo)
    undone(repo)
    git(repo, "commit", "-q", "-a", "-m", "only a")
    assert markers(repo) == []
    assert (repo.path / "new").read_text() == "new\n"


@pytest.mark.parametrize("loss", ["edited", "deleted", "mode"])
def test_a_version_that_is_nowhere_but_in_the_save_keeps_the_marker(loss: str, repo: Workspace) -> None:
    saved(repo)
    undone(repo)
    if loss == "edited":
        repo.write("new", "other\n")
    elif loss == "deleted":
        (repo.path / "new").unlink()
    else:
        (repo.path / "new").chmod(0o755)
    git(repo, "commit", "-q", "-a", "-m", "only a")
    assert len(markers(repo)) == 1


def test_what_was_staged_and_is_nowhere_else_keeps_the_marker(repo: Workspace) -> None:
    repo.write("a", "staged\n")
    git(repo, "add", "a")
    repo.write("a", "on the disk\n")
    gitstate(repo, "save")
    git(repo, "reset", "-q", "HEAD~2")
    git(repo, "commit", "-q", "-a", "-m", "mine")
    assert len(markers(repo)) == 1


def test_a_hard_reset_and_a_commit_keep_the_marker(repo: Workspace) -> None:
    saved(repo)
    git(repo, "reset", "-q", "--hard", "HEAD~1")
    commit(repo, "c", "c\n")
    assert len(markers(repo)) == 1


def test_another_branch_with_the_same_files_keeps_the_marker(repo: Workspace) -> None:
    saved(repo)
    git(repo, "checkout", "-q", "-b", "copy", "main")
    git(repo, "checkout", "-q", "agent/1", "--", ".")
    git(repo, "commit", "-q", "-m", "copied")
    assert len(markers(repo)) == 1


def test_a_save_in_the_middle_of_a_merge_keeps_the_marker(repo: Workspace) -> None:
    git(repo, "checkout", "-q", "-b", "side", "main")
    commit(repo, "a", "side\n")
    git(repo, "checkout", "-q", "agent/1")
    commit(repo, "a", "here\n")
    assert run(repo, "git", "merge", "-q", "side").exit_status == 1
    gitstate(repo, "save")
    repo.write("a", "both\n")
    git(repo, "commit", "-q", "-a", "-m", "merged")
    assert len(markers(repo)) == 1


def test_a_wip_that_was_amended_into_a_real_commit_clears_the_marker(repo: Workspace) -> None:
    saved(repo)
    git(repo, "commit", "-q", "--amend", "--no-verify", "-m", "done")
    assert markers(repo) == []


# -- trouble


def test_under_a_bare_environment_the_hooks_still_refuse(repo: Workspace) -> None:
    wip = saved(repo)
    repo.write("a", "three\n")
    git = shutil.which("git") or "git"
    done = run(repo, "env", "-i", f"HOME={os.environ['HOME']}", git, "commit", "-q", "-a", "-m", "x")
    assert done.exit_status != 0 and wip[:12] in done.stderr


def test_a_repository_cannot_smuggle_in_a_gitstate_of_its_own(repo: Workspace) -> None:
    wip = saved(repo)
    for name in ("gitstate/__init__.py", "gitstate/__main__.py", "json.py", "subprocess.py"):
        repo.write(name, "open('smuggled', 'w')\n")
    git(repo, "add", "-A")
    said = git(repo, "commit", "-q", "-m", "bury", fails=True)
    assert wip[:12] in said
    assert not (repo.path / "smuggled").exists()


@pytest.mark.parametrize("broken", ["python", "marker", "context"])
def test_an_error_of_ours_never_stops_a_commit(broken: str, repo: Workspace) -> None:
    saved(repo)
    if broken == "python":
        shim = hooks(repo) / "gitstate-hook"
        shim.write_text(shim.read_text().replace("sys.path.insert", "sys.path.nonsense"))
    elif broken == "marker":
        archive = git(repo, "rev-parse", markers(repo)[0])
        (repo.path / ".git" / "objects" / archive[:2] / archive[2:]).unlink(missing_ok=True)
        git(repo, "update-ref", markers(repo)[0], git(repo, "rev-parse", "main^{tree}"))
    else:
        gitstate(repo, "recover")
        (repo.path / ".git" / "gitstate" / "context.json").write_text("{")
    repo.write("a", "three\n")
    git(repo, "commit", "-q", "-a", "-m", "goes through")


def test_where_gitstate_is_gone_the_hooks_are_silent(repo: Workspace) -> None:
    saved(repo)
    shim = hooks(repo) / "gitstate-hook"
    shim.write_text(shim.read_text().replace("gitstate_python=", "gitstate_python=/nowhere"))
    repo.write("a", "three\n")
    done = run(repo, "git", "commit", "-q", "-a", "-m", "x")
    assert done == Run(0, b"", "")


def test_a_workspace_in_a_directory_with_a_strange_name(tmp_path: Path) -> None:
    top = tmp_path / "a 'b\"$(touch c)\n d"
    top.mkdir()
    repo = with_remote(top)
    gitstate(repo, "install")
    wip = saved(repo)
    repo.write("a", "three\n")
    assert wip[:12] in git(repo, "commit", "-q", "-a", "-m", "bury", fails=True)


# -- decisions


def manifest(**given: object) -> Manifest:
    fields: dict[str, Any] = dict.fromkeys(Manifest._fields)
    fields.update(moves_branch=True, head_ref="refs/heads/x", head="b" * 40, raw={}, absent=(), sparse={})
    return Manifest(**{**fields, **given})


def stack(**given: object) -> list[Save]:
    return [Save("a" * 40, "c" * 40, "d" * 40, {}, Context(), manifest(**given))]


def test_only_a_plain_save_of_this_branch_that_head_left_may_be_stale() -> None:
    head, ref = "e" * 40, "refs/heads/x"
    assert may_be_stale(stack(), ref, head)
    assert not may_be_stale(stack(), "refs/heads/y", head)
    assert not may_be_stale(stack(), None, head)
    assert not may_be_stale(stack(), ref, "c" * 40)
    assert not may_be_stale(stack(), ref, "b" * 40)
    for kept in ({"operation": "merge"}, {"raw": {b"x": "ignored"}}, {"absent": (b"x",)}, {"moves_branch": False}):
        assert not may_be_stale(stack(**kept), ref, head)


def test_what_git_says_of_a_push_is_read_with_care() -> None:
    one, two = "1" * 40, "2" * 40
    lines = [
        f"refs/heads/x {one} refs/heads/y {ZERO}",
        f"HEAD {one} refs/heads/z {two}",
        f"(delete) {ZERO} refs/heads/x {one}",
        f"refs/gitstate/saves/w/1 {one} refs/gitstate/saves/w/1 {ZERO}",
        "",
        "refs/heads/x",
        f"refs/heads/x --all x {ZERO}",
    ]
    found = updates("\n".join(lines).encode())
    assert [tuple(item) for item in found] == [("refs/heads/x", one, None), ("refs/heads/z", one, two)]
