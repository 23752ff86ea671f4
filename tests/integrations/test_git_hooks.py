"""Git hooks keep the recorded context up to date, reject commits and pushes of WIP commits, and stop nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gitstate.format.context import Context
from gitstate.format.manifest import Manifest, Nested, Save
from gitstate.integrations.git_hooks import updates
from gitstate.recover.stale import may_be_stale
from tests.support.repositories import Templates
from tests.support.typed import (
    commit,
    copy_with_remote,
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
def repo(templates: Templates, tmp_path: Path) -> Workspace:
    found = copy_with_remote(templates, tmp_path)
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


def test_hooks_record_new_branches_and_commits_at_once(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1", "progress_stage=testing")
    git(repo, "checkout", "-q", "-b", "agent/2")
    assert state_file(repo)["branch_name"] == "agent/2"
    made = commit(repo, "b", "b\n")
    state = state_file(repo)
    assert (state["branch_name"], state["extra"]["base_commit"]) == ("agent/2", made)
    assert (state["task_id"], state["progress_stage"], state["status"]) == ("T-1", "testing", "active")


def test_merge_amend_and_rebase_update_the_base_commit(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1")
    git(repo, "checkout", "-q", "-b", "side", "main")
    commit(repo, "s", "s\n")
    git(repo, "checkout", "-q", "agent/1")
    commit(repo, "b", "b\n")
    for command in ("merge -q side -m m", "commit --amend -q -m n", "rebase -q side"):
        git(repo, *command.split())
        assert state_file(repo)["extra"]["base_commit"] == git(repo, "rev-parse", "HEAD"), command
        assert state_file(repo)["branch_name"] == "agent/1"


def test_checkout_of_files_writes_nothing(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1")
    before = state_file(repo)
    repo.write("a", "edited\n")
    git(repo, "checkout", "-q", "--", "a")
    assert state_file(repo) == before


def test_hooks_without_a_context_write_nothing(repo: Workspace) -> None:
    commit(repo, "b", "b\n")
    git(repo, "checkout", "-q", "main")
    git(repo, "push", "-q", "origin", "agent/1")
    assert not (repo.path / "active_state.json").exists()
    assert not (repo.path / ".git" / "gitstate").exists()


def test_each_linked_worktree_has_its_own_context(repo: Workspace, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "agent/9")
    linked = Workspace(tmp_path / "linked", tmp_path)
    gitstate(linked, "set", "task_id=T-9")
    gitstate(repo, "set", "task_id=T-1")
    git(linked, "checkout", "-q", "-b", "agent/10")
    assert state_file(linked)["branch_name"] == "agent/10"
    assert state_file(repo)["branch_name"] == "agent/1"


# -- the refusals


def test_commit_on_a_pending_wip_commit_is_rejected_with_the_commands(repo: Workspace) -> None:
    wip = saved(repo)
    repo.write("a", "three\n")
    said = git(repo, "commit", "-q", "-a", "-m", "bury", fails=True)
    assert wip[:12] in said and "agent/1" in said and "gitstate recover" in said
    assert git(repo, "rev-parse", "HEAD") == wip
    git(repo, "commit", "-q", "-a", "-m", "bury", "--no-verify")


def test_rejection_prints_the_steps_of_recovery_without_gitstate(repo: Workspace) -> None:
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


def test_commit_after_recovery_is_accepted(repo: Workspace) -> None:
    saved(repo)
    gitstate(repo, "recover")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "mine")
    assert git(repo, "show", "--format=", "--name-only", "HEAD").split() == ["a", "new"]


#: What buries a WIP commit or rewrites it: the command, with @ where `--no-verify` goes, and what the hook calls it.
BURYING = {
    "merge": ("merge -q --no-edit @ main", "the merge would bury"),
    "pull": ("pull -q --no-rebase --no-edit @ . main", "the merge would bury"),
    "rebase": ("rebase -q @ main", "the rebase would rewrite"),
    "rebase of a branch that is named": ("rebase -q @ main agent/1", "the rebase would rewrite"),
    "rebase with patches": ("rebase -q --apply @ main", "the rebase would rewrite"),
    "pull --rebase": ("pull -q --rebase @ . main", "the rebase would rewrite"),
}


def moved_on(repo: Workspace) -> None:
    """One more commit on main, and the same as a patch beside the repository."""
    git(repo, "checkout", "-q", "main")
    commit(repo, "m", "m\n")
    patch = run(repo, "git", "format-patch", "-1", "--stdout").text
    (repo.path.parent / "patch").write_text(patch)
    git(repo, "checkout", "-q", "agent/1")


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", BURYING)
def test_what_would_bury_a_pending_wip_commit_is_rejected_with_the_commands(repo: Workspace, case: str) -> None:
    moved_on(repo)
    wip = saved(repo)
    command, why = BURYING[case]
    said = git(repo, *command.replace("@ ", "").split(), fails=True)
    assert why in said and wip[:12] in said and "--no-verify" in said, said
    assert git(repo, "rev-parse", "agent/1") == wip
    step = said.partition("  next: ")[2].partition(",")[0].partition("   (")[0]
    for part in step.split(" && "):
        assert run(repo, *(("git", *part.split()[1:]) if part.startswith("git ") else ("true",))).exit_status == 0
    assert step.endswith("gitstate recover")
    gitstate(repo, "recover")
    assert git(repo, "status", "--short") == "M a\n?? new"
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "mine")
    git(repo, *command.replace("@ ", "").split())


#: `git pull` hands it to `git merge`, and not to `git rebase`.
@pytest.mark.sample(3)
@pytest.mark.parametrize("case", [case for case in BURYING if case != "pull --rebase"])
def test_no_verify_of_git_passes_the_refusal(repo: Workspace, case: str) -> None:
    moved_on(repo)
    wip = saved(repo)
    git(repo, *BURYING[case][0].replace("@", "--no-verify").split())
    assert git(repo, "rev-parse", "agent/1") != wip
    assert markers(repo), "the work is not in a commit of the agent's own"
    assert b"two" in repo.read("a") and repo.read("m") == b"m\n"


def test_rebase_past_the_hook_is_recovered_and_no_hook_takes_its_marker(repo: Workspace) -> None:
    moved_on(repo)
    saved(repo)
    git(repo, "rebase", "-q", "--no-verify", "main")
    assert len(markers(repo)) == 1
    gitstate(repo, "recover")
    assert git(repo, "rev-parse", "HEAD") == git(repo, "rev-parse", "main")
    assert git(repo, "status", "--short") == "M a\n?? new"


@pytest.mark.sample(2)
@pytest.mark.parametrize("command", ["cherry-pick main", "revert --no-edit HEAD~1", "am -q ../patch"])
def test_pick_on_a_pending_wip_commit_is_named_with_the_way_back(repo: Workspace, command: str) -> None:
    """Git asks no hook before a pick, and has no `git am --no-verify` before 2.43."""
    moved_on(repo)
    commit(repo, "b", "b\n")
    saved(repo)
    done = run(repo, "git", *command.split())
    assert done.exit_status == 0 and "buried the pending save" in done.stderr, done
    step = done.stderr.partition("  next: ")[2].partition(" && ")[0]
    git(repo, *step.split()[1:])
    gitstate(repo, "recover")
    assert git(repo, "status", "--short") == "M a\n?? new"


def test_rebase_and_merge_without_a_pending_save_are_silent(repo: Workspace) -> None:
    gitstate(repo, "set", "task_id=T-1")
    moved_on(repo)
    commit(repo, "b", "b\n")
    for command in ("merge -q --no-edit main", "cherry-pick --allow-empty main", "rebase -q main"):
        done = run(repo, "git", *command.split())
        if done.exit_status:  # an empty pick
            git(repo, "cherry-pick", "--skip")
        assert "gitstate" not in done.stderr, done


def test_other_worktree_commits_beside_a_pending_save(repo: Workspace, tmp_path: Path) -> None:
    saved(repo)
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "agent/9", "main")
    commit(Workspace(tmp_path / "linked", tmp_path), "b", "b\n")


def test_commit_on_a_wip_commit_without_a_marker_is_accepted(repo: Workspace) -> None:
    saved(repo)
    git(repo, "update-ref", "-d", markers(repo)[0])
    commit(repo, "b", "b\n")


def test_packed_marker_rejects_the_commit_as_well(repo: Workspace) -> None:
    saved(repo)
    git(repo, "pack-refs", "--all")
    assert not list((repo.path / ".git" / "refs" / "gitstate").rglob("*-*"))
    repo.write("a", "three\n")
    assert "gitstate recover" in git(repo, "commit", "-q", "-a", "-m", "bury", fails=True)


def test_push_of_a_wip_commit_is_rejected_with_branch_and_commit(repo: Workspace) -> None:
    wip = saved(repo)
    for target in ("agent/1", "HEAD", "agent/1:other"):
        said = git(repo, "push", "-q", "origin", target, fails=True)
        assert wip[:12] in said and ("agent/1" in said or "other" in said), said
    assert git(repo, "ls-remote", "origin", "refs/heads/agent/1") == ""


def test_push_of_a_buried_wip_commit_is_rejected(repo: Workspace) -> None:
    wip = saved(repo)
    repo.write("c", "c\n")
    git(repo, "add", "c")
    git(repo, "commit", "-q", "--no-verify", "-m", "on top")
    assert wip[:12] in git(repo, "push", "-q", "origin", "agent/1", fails=True)


def test_push_of_other_branches_deletions_and_gitstate_refs_is_accepted(repo: Workspace) -> None:
    saved(repo)
    git(repo, "branch", "clean", "main")
    git(repo, "push", "-q", "origin", "clean")
    git(repo, "push", "-q", "origin", "--delete", "clean")
    git(repo, "push", "-q", "origin", "refs/gitstate/*:refs/gitstate/*", "refs/notes/gitstate")
    assert len(git(repo, "ls-remote", "origin", "refs/gitstate/pending/*").splitlines()) == 1


def test_push_of_many_branches_names_only_the_one_with_a_wip_commit(repo: Workspace) -> None:
    for number in range(30):
        git(repo, "branch", f"b{number}", "main")
    saved(repo)
    said = git(repo, "push", "-q", "origin", "--all", fails=True)
    assert "agent/1" in said and " b1" not in said


def test_commit_that_mentions_the_trailer_is_pushed(repo: Workspace) -> None:
    repo.write("b", "b\n")
    git(repo, "add", "b")
    git(repo, "commit", "-q", "-m", "Docs\n\nGitstate-Save: is a trailer of ours,\nas this paragraph says.\n\nMore.")
    git(repo, "push", "-q", "origin", "agent/1")


# -- the marker


def undone(repo: Workspace) -> None:
    """Unwind the save with plain git, as the README says."""
    git(repo, "reset", "-q", "HEAD~1")


def test_committing_work_restored_by_plain_git_clears_the_marker(repo: Workspace) -> None:
    saved(repo)
    undone(repo)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "mine")
    assert markers(repo) == []
    assert git(repo, "for-each-ref", "refs/gitstate/saves") != ""
    state = state_file(repo)
    assert (state["status"], state["task_id"]) == ("recovered", "T-1")
    assert state["resume"].startswith("Continue T-1") and "see `git log`" in state["briefing"]
    assert "recovered" in gitstate(repo, "recover")


def test_committing_part_of_the_restored_work_clears_the_marker(repo: Workspace) -> None:
    saved(repo)
    undone(repo)
    git(repo, "commit", "-q", "-a", "-m", "only a")
    assert markers(repo) == []
    assert (repo.path / "new").read_text() == "new\n"


@pytest.mark.sample(2)
@pytest.mark.parametrize("loss", ["edited", "deleted", "mode"])
def test_version_that_only_the_save_holds_keeps_the_marker(loss: str, repo: Workspace) -> None:
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


def test_staged_version_that_only_the_save_holds_keeps_the_marker(repo: Workspace) -> None:
    repo.write("a", "staged\n")
    git(repo, "add", "a")
    repo.write("a", "on the disk\n")
    gitstate(repo, "save")
    git(repo, "reset", "-q", "HEAD~2")
    git(repo, "commit", "-q", "-a", "-m", "mine")
    assert len(markers(repo)) == 1


def test_hard_reset_and_commit_keep_the_marker(repo: Workspace) -> None:
    saved(repo)
    git(repo, "reset", "-q", "--hard", "HEAD~1")
    commit(repo, "c", "c\n")
    assert len(markers(repo)) == 1


def test_other_branch_with_the_same_files_keeps_the_marker(repo: Workspace) -> None:
    saved(repo)
    git(repo, "checkout", "-q", "-b", "copy", "main")
    git(repo, "checkout", "-q", "agent/1", "--", ".")
    git(repo, "commit", "-q", "-m", "copied")
    assert len(markers(repo)) == 1


def test_save_during_a_merge_keeps_the_marker(repo: Workspace) -> None:
    git(repo, "checkout", "-q", "-b", "side", "main")
    commit(repo, "a", "side\n")
    git(repo, "checkout", "-q", "agent/1")
    commit(repo, "a", "here\n")
    assert run(repo, "git", "merge", "-q", "side").exit_status == 1
    gitstate(repo, "save")
    repo.write("a", "both\n")
    git(repo, "commit", "-q", "-a", "-m", "merged")
    assert len(markers(repo)) == 1


def test_amending_the_wip_commit_clears_the_marker(repo: Workspace) -> None:
    saved(repo)
    git(repo, "commit", "-q", "--amend", "--no-verify", "-m", "done")
    assert markers(repo) == []


# -- trouble


def test_hooks_reject_with_an_empty_environment(repo: Workspace) -> None:
    wip = saved(repo)
    repo.write("a", "three\n")
    git = shutil.which("git") or "git"
    done = run(repo, "env", "-i", f"HOME={os.environ['HOME']}", git, "commit", "-q", "-a", "-m", "x")
    assert done.exit_status != 0 and wip[:12] in done.stderr


def test_hooks_never_import_a_gitstate_of_the_repository(repo: Workspace) -> None:
    wip = saved(repo)
    for name in ("gitstate/__init__.py", "gitstate/__main__.py", "json.py", "subprocess.py"):
        repo.write(name, "open('smuggled', 'w')\n")
    git(repo, "add", "-A")
    said = git(repo, "commit", "-q", "-m", "bury", fails=True)
    assert wip[:12] in said
    assert not (repo.path / "smuggled").exists()


@pytest.mark.sample(2)
@pytest.mark.parametrize("broken", ["python", "marker", "context"])
def test_error_in_a_hook_never_stops_a_commit(broken: str, repo: Workspace) -> None:
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


def test_hooks_are_silent_after_gitstate_was_removed(repo: Workspace) -> None:
    saved(repo)
    shim = hooks(repo) / "gitstate-hook"
    shim.write_text(shim.read_text().replace("gitstate_python=", "gitstate_python=/nowhere"))
    repo.write("a", "three\n")
    done = run(repo, "git", "commit", "-q", "-a", "-m", "x")
    assert done == Run(0, b"", "")


def test_hooks_work_in_a_directory_with_a_strange_name(tmp_path: Path) -> None:
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
    fields.update(moves_branch=True, head_ref="refs/heads/x", head="b" * 40, raw={}, absent=(), sparse={}, nested=())
    return Manifest(**{**fields, **given})


def stack(**given: object) -> list[Save]:
    return [Save("a" * 40, "c" * 40, "d" * 40, {}, Context(), manifest(**given))]


def test_only_a_plain_save_of_this_branch_may_be_stale() -> None:
    head, ref = "e" * 40, "refs/heads/x"
    assert may_be_stale(stack(), ref, head)
    assert not may_be_stale(stack(), "refs/heads/y", head)
    assert not may_be_stale(stack(), None, head)
    assert not may_be_stale(stack(), ref, "c" * 40)
    assert not may_be_stale(stack(), ref, "b" * 40)
    of_nested = {"nested": (Nested(b"x", "save", "f" * 40),)}
    for kept in (
        {"operation": "merge"},
        {"raw": {b"x": "ignored"}},
        {"absent": (b"x",)},
        {"moves_branch": False},
        of_nested,
    ):
        assert not may_be_stale(stack(**kept), ref, head)


def test_updates_of_a_push_are_parsed_strictly() -> None:
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
