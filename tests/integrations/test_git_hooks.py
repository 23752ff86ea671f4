"""Git's hooks at work: what they keep true, what they refuse, and that they never stop anybody else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gitstate.format.context import Context
from gitstate.format.manifest import Manifest, Save
from gitstate.integrations.git_hooks import may_be_stale, updates
from tests.support.hooked import Hooked, make

ZERO = "0" * 40


@pytest.fixture
def repo(tmp_path: Path) -> Hooked:
    found = make(tmp_path)
    found.gitstate("install")
    return found


def saved(repo: Hooked) -> str:
    """A WIP commit on the branch, with one edited and one new file; its id."""
    repo.gitstate("set", "task_id=T-1")
    repo.write("a", "one\ntwo\n")
    repo.write("new", "new\n")
    repo.gitstate("save")
    assert len(repo.markers()) == 1
    return repo.git("rev-parse", "HEAD")


# -- the context


def test_a_new_branch_and_a_commit_are_in_the_state_file_at_once(repo: Hooked) -> None:
    repo.gitstate("set", "task_id=T-1", "progress_stage=testing")
    repo.git("checkout", "-q", "-b", "agent/2")
    assert repo.state()["branch_name"] == "agent/2"
    commit = repo.commit("b", "b\n")
    state = repo.state()
    assert (state["branch_name"], state["extra"]["base_commit"]) == ("agent/2", commit)
    assert (state["task_id"], state["progress_stage"], state["status"]) == ("T-1", "testing", "active")


def test_a_merge_an_amend_and_a_rebase_move_the_base_along(repo: Hooked) -> None:
    repo.gitstate("set", "task_id=T-1")
    repo.git("checkout", "-q", "-b", "side", "main")
    repo.commit("s", "s\n")
    repo.git("checkout", "-q", "agent/1")
    repo.commit("b", "b\n")
    for command in ("merge -q side -m m", "commit --amend -q -m n", "rebase -q side"):
        repo.git(*command.split())
        assert repo.state()["extra"]["base_commit"] == repo.git("rev-parse", "HEAD"), command
        assert repo.state()["branch_name"] == "agent/1"


def test_a_checkout_of_files_writes_nothing(repo: Hooked) -> None:
    repo.gitstate("set", "task_id=T-1")
    before = repo.state()
    repo.write("a", "edited\n")
    repo.git("checkout", "-q", "--", "a")
    assert repo.state() == before


def test_where_no_context_was_ever_set_hooks_leave_nothing_behind(repo: Hooked) -> None:
    repo.commit("b", "b\n")
    repo.git("checkout", "-q", "main")
    repo.git("push", "-q", "origin", "agent/1")
    assert not (repo.path / "active_state.json").exists()
    assert not (repo.path / ".git" / "gitstate").exists()


def test_each_linked_worktree_keeps_a_context_of_its_own(repo: Hooked, tmp_path: Path) -> None:
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"), "-b", "agent/9")
    linked = Hooked(tmp_path / "linked")
    linked.gitstate("set", "task_id=T-9")
    repo.gitstate("set", "task_id=T-1")
    linked.git("checkout", "-q", "-b", "agent/10")
    assert linked.state()["branch_name"] == "agent/10"
    assert repo.state()["branch_name"] == "agent/1"


# -- the refusals


def test_a_commit_on_top_of_a_waiting_wip_is_refused_with_what_to_type(repo: Hooked) -> None:
    wip = saved(repo)
    repo.write("a", "three\n")
    said = repo.git("commit", "-q", "-a", "-m", "bury", fails=True)
    assert wip[:12] in said and "agent/1" in said and "gitstate recover" in said
    assert repo.git("rev-parse", "HEAD") == wip
    repo.git("commit", "-q", "-a", "-m", "bury", "--no-verify")


def test_the_way_back_without_gitstate_is_told_step_by_step(repo: Hooked) -> None:
    repo.write("a", "staged\n")
    repo.git("add", "a")
    repo.write("new", "new\n")
    repo.gitstate("save")
    for step in ("git reset HEAD~1", "git reset --soft HEAD~1"):
        said = repo.git("commit", "-q", "-a", "-m", "bury", fails=True)
        assert f"without gitstate: {step})" in said
        repo.git(*step.split()[1:])
    assert repo.git("status", "--short") == "M  a\n?? new"
    repo.git("commit", "-q", "-m", "mine")
    assert repo.markers() == []


def test_after_recovery_a_commit_goes_through(repo: Hooked) -> None:
    saved(repo)
    repo.gitstate("recover")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "mine")
    assert repo.git("show", "--format=", "--name-only", "HEAD").split() == ["a", "new"]


def test_another_worktree_commits_while_a_wip_waits_here(repo: Hooked, tmp_path: Path) -> None:
    saved(repo)
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"), "-b", "agent/9", "main")
    Hooked(tmp_path / "linked").commit("b", "b\n")


def test_a_wip_that_nothing_waits_for_may_be_built_upon(repo: Hooked) -> None:
    saved(repo)
    repo.git("update-ref", "-d", repo.markers()[0])
    repo.commit("b", "b\n")


def test_a_packed_marker_is_seen_too(repo: Hooked) -> None:
    saved(repo)
    repo.git("pack-refs", "--all")
    assert not list((repo.path / ".git" / "refs" / "gitstate").rglob("*-*"))
    repo.write("a", "three\n")
    assert "gitstate recover" in repo.git("commit", "-q", "-a", "-m", "bury", fails=True)


def test_a_push_of_a_wip_is_refused_and_names_branch_and_commit(repo: Hooked) -> None:
    wip = saved(repo)
    for target in ("agent/1", "HEAD", "agent/1:other"):
        said = repo.git("push", "-q", "origin", target, fails=True)
        assert wip[:12] in said and ("agent/1" in said or "other" in said), said
    assert repo.git("ls-remote", "origin", "refs/heads/agent/1") == ""


def test_a_wip_below_other_commits_is_refused_too(repo: Hooked) -> None:
    wip = saved(repo)
    repo.write("c", "c\n")
    repo.git("add", "c")
    repo.git("commit", "-q", "--no-verify", "-m", "on top")
    assert wip[:12] in repo.git("push", "-q", "origin", "agent/1", fails=True)


def test_other_branches_deletions_and_the_refs_of_gitstate_are_pushed(repo: Hooked) -> None:
    saved(repo)
    repo.git("branch", "clean", "main")
    repo.git("push", "-q", "origin", "clean")
    repo.git("push", "-q", "origin", "--delete", "clean")
    repo.git("push", "-q", "origin", "refs/gitstate/*:refs/gitstate/*", "refs/notes/gitstate")
    assert len(repo.git("ls-remote", "origin", "refs/gitstate/pending/*").splitlines()) == 1


def test_one_wip_among_many_branches_stops_the_push_and_is_the_only_one_named(repo: Hooked) -> None:
    for number in range(30):
        repo.git("branch", f"b{number}", "main")
    saved(repo)
    said = repo.git("push", "-q", "origin", "--all", fails=True)
    assert "agent/1" in said and " b1" not in said


def test_a_commit_that_only_speaks_of_the_trailer_is_pushed(repo: Hooked) -> None:
    repo.write("b", "b\n")
    repo.git("add", "b")
    repo.git("commit", "-q", "-m", "Docs\n\nGitstate-Save: is a trailer of ours,\nas this paragraph says.\n\nMore.")
    repo.git("push", "-q", "origin", "agent/1")


# -- the marker


def undone(repo: Hooked) -> None:
    """The way back without gitstate, as the README has it."""
    repo.git("reset", "-q", "HEAD~1")


def test_work_that_plain_git_brought_back_and_that_is_committed_clears_the_marker(repo: Hooked) -> None:
    saved(repo)
    undone(repo)
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "mine")
    assert repo.markers() == []
    assert repo.git("for-each-ref", "refs/gitstate/saves") != ""
    state = repo.state()
    assert (state["status"], state["task_id"], state["resume"]) == ("recovered", "T-1", None)
    assert "nothing" in repo.gitstate("recover")


def test_a_part_that_is_committed_and_a_part_that_is_on_the_disk_clear_it_too(repo: Hooked) -> None:
    saved(repo)
    undone(repo)
    repo.git("commit", "-q", "-a", "-m", "only a")
    assert repo.markers() == []
    assert (repo.path / "new").read_text() == "new\n"


@pytest.mark.parametrize("loss", ["edited", "deleted", "mode"])
def test_a_version_that_is_nowhere_but_in_the_save_keeps_the_marker(loss: str, repo: Hooked) -> None:
    saved(repo)
    undone(repo)
    if loss == "edited":
        repo.write("new", "other\n")
    elif loss == "deleted":
        (repo.path / "new").unlink()
    else:
        (repo.path / "new").chmod(0o755)
    repo.git("commit", "-q", "-a", "-m", "only a")
    assert len(repo.markers()) == 1


def test_what_was_staged_and_is_nowhere_else_keeps_the_marker(repo: Hooked) -> None:
    repo.write("a", "staged\n")
    repo.git("add", "a")
    repo.write("a", "on the disk\n")
    repo.gitstate("save")
    repo.git("reset", "-q", "HEAD~2")
    repo.git("commit", "-q", "-a", "-m", "mine")
    assert len(repo.markers()) == 1


def test_a_hard_reset_and_a_commit_keep_the_marker(repo: Hooked) -> None:
    saved(repo)
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.commit("c", "c\n")
    assert len(repo.markers()) == 1


def test_another_branch_with_the_same_files_keeps_the_marker(repo: Hooked) -> None:
    saved(repo)
    repo.git("checkout", "-q", "-b", "copy", "main")
    repo.git("checkout", "-q", "agent/1", "--", ".")
    repo.git("commit", "-q", "-m", "copied")
    assert len(repo.markers()) == 1


def test_a_save_in_the_middle_of_a_merge_keeps_the_marker(repo: Hooked) -> None:
    repo.git("checkout", "-q", "-b", "side", "main")
    repo.commit("a", "side\n")
    repo.git("checkout", "-q", "agent/1")
    repo.commit("a", "here\n")
    assert repo.run("git", "merge", "-q", "side").status == 1
    repo.gitstate("save")
    repo.write("a", "both\n")
    repo.git("commit", "-q", "-a", "-m", "merged")
    assert len(repo.markers()) == 1


def test_a_wip_that_was_amended_into_a_real_commit_clears_the_marker(repo: Hooked) -> None:
    saved(repo)
    repo.git("commit", "-q", "--amend", "--no-verify", "-m", "done")
    assert repo.markers() == []


# -- trouble


def test_under_a_bare_environment_the_hooks_still_refuse(repo: Hooked) -> None:
    wip = saved(repo)
    repo.write("a", "three\n")
    git = shutil.which("git") or "git"
    done = repo.run("env", "-i", f"HOME={os.environ['HOME']}", git, "commit", "-q", "-a", "-m", "x")
    assert done.status != 0 and wip[:12] in done.err


def test_a_repository_cannot_smuggle_in_a_gitstate_of_its_own(repo: Hooked) -> None:
    wip = saved(repo)
    for name in ("gitstate/__init__.py", "gitstate/__main__.py", "json.py", "subprocess.py"):
        repo.write(name, "open('smuggled', 'w')\n")
    repo.git("add", "-A")
    said = repo.git("commit", "-q", "-m", "bury", fails=True)
    assert wip[:12] in said
    assert not (repo.path / "smuggled").exists()


@pytest.mark.parametrize("broken", ["python", "marker", "context"])
def test_an_error_of_ours_never_stops_a_commit(broken: str, repo: Hooked) -> None:
    saved(repo)
    if broken == "python":
        shim = repo.hooks / "gitstate-hook"
        shim.write_text(shim.read_text().replace("sys.path.insert", "sys.path.nonsense"))
    elif broken == "marker":
        archive = repo.git("rev-parse", repo.markers()[0])
        (repo.path / ".git" / "objects" / archive[:2] / archive[2:]).unlink(missing_ok=True)
        repo.git("update-ref", repo.markers()[0], repo.git("rev-parse", "main^{tree}"))
    else:
        repo.gitstate("recover")
        (repo.path / ".git" / "gitstate" / "context.json").write_text("{")
    repo.write("a", "three\n")
    repo.git("commit", "-q", "-a", "-m", "goes through")


def test_where_gitstate_is_gone_the_hooks_are_silent(repo: Hooked) -> None:
    saved(repo)
    shim = repo.hooks / "gitstate-hook"
    shim.write_text(shim.read_text().replace("gitstate_python=", "gitstate_python=/nowhere"))
    repo.write("a", "three\n")
    done = repo.run("git", "commit", "-q", "-a", "-m", "x")
    assert done == (0, "", "")


def test_a_workspace_in_a_directory_with_a_strange_name(tmp_path: Path) -> None:
    top = tmp_path / "a 'b\"$(touch c)\n d"
    top.mkdir()
    repo = make(top)
    repo.gitstate("install")
    wip = saved(repo)
    repo.write("a", "three\n")
    assert wip[:12] in repo.git("commit", "-q", "-a", "-m", "bury", fails=True)


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
