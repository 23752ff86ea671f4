"""What `.git` may be, beside the usual: each is saved, or refused in words that help."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.states import STATES, dirty, make
from tests.support.look import paths_of
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.repositories import Templates
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_git


def separate(ws: Workspace) -> Workspace:
    """The same workspace, its git directory in the worktree under another name."""
    os.rename(ws.at(".git"), ws.at("repo.git"))
    ws.write(".git", "gitdir: repo.git\n")
    return Workspace(ws.path, ws.outside)


def size(ws: Workspace) -> int:
    return sum(path.stat().st_size for path in (ws.path / "repo.git").rglob("*") if path.is_file())


def test_own_git_directory_under_another_name_is_no_part_of_the_worktree(ws: Workspace) -> None:
    ws = separate(ws)
    dirty(ws)
    ws.git("branch", "side")
    before = files_beside(ws)
    saved = saved_from(ws.save())
    assert not ws.git("ls-tree", "-r", saved.wip, "repo.git")
    ws.git("branch", "-q", "-D", "side")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert not ws.refs("refs/heads/side")
    assert files_beside(ws) == before


def files_beside(ws: Workspace) -> set[str]:
    listed = run_git(ws.path, "ls-files", "-z", "-o", "-c", "--exclude-standard").decode("utf-8").split("\0")
    return {path for path in listed if not path.startswith("repo.git/")}


def test_saves_do_not_hold_the_saves_before_them(ws: Workspace) -> None:
    ws = separate(ws)
    ws.append("a.txt")
    ws.save()
    ws.recover()
    first = size(ws)
    for number in range(4):
        ws.write("new.txt", f"{number}\n")
        ws.save()
        ws.recover()
    assert size(ws) < 4 * first


def test_git_directory_that_a_clean_would_delete_is_named(ws: Workspace) -> None:
    ws = separate(ws)
    dirty(ws)
    before = fingerprint(ws.path, ignore=(b"repo.git",))
    [warning] = saved_from(ws.save()).document["warnings"]
    what, _, command = warning.partition("; move it out with: ")
    assert "git clean -x deletes it with all saves" in what
    assert command in ws.gitstate("doctor").text
    run_git(ws.outside, "-c", f"alias.do=!{command}", "do")
    assert not os.path.lexists(ws.at("repo.git"))
    moved = Workspace(ws.path, ws.outside)
    wipe(moved)
    assert recovered_from(moved.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(moved.path)) == []
    assert saved_from(moved.save()).document["warnings"] == []
    assert command not in moved.gitstate("doctor").text


def test_git_directory_that_was_deleted_with_the_worktree_is_said(ws: Workspace) -> None:
    ws = separate(ws)
    dirty(ws)
    saved_from(ws.save())
    shutil.rmtree(ws.path / "repo.git")
    run = ws.recover()
    assert run.exit_status == 1
    assert "it was in the worktree, with all saves" in run.stderr
    assert "next: what was pushed comes back in a new clone" in run.stderr


def test_command_for_a_worktree_whose_repository_was_moved_mends_it(ws: Workspace, tmp_path: Path) -> None:
    linked = Workspace(tmp_path / "linked", ws.outside)
    ws.git("worktree", "add", "-q", "-b", "agent/7", str(linked.path))
    dirty(linked)
    before = fingerprint(linked.path)
    saved_from(linked.save())
    moved = ws.path.with_name("moved")
    os.rename(ws.path, moved)
    run = linked.recover()
    assert run.exit_status == 1, run
    command = run.stderr.partition("if its repository was moved: git ")[2].strip()
    run_git(moved, "-c", f"alias.do=!git {command.replace('REPOSITORY', str(moved))}", "do")
    assert recovered_from(linked.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(linked.path)) == []


def test_worktree_that_does_not_lead_back_is_refused(ws: Workspace) -> None:
    """Git that runs there would find another repository, or none."""
    elsewhere = ws.outside / "elsewhere"
    elsewhere.mkdir()
    ws.config("core.worktree", elsewhere)
    run = ws.gitstate("save", "--task-id", "T")
    assert run.exit_status == 1
    assert "core.worktree" in run.stderr and "nothing was changed" in run.stderr
    assert not ws.refs("refs/gitstate")


def test_hint_for_a_worktree_elsewhere_works(ws: Workspace) -> None:
    elsewhere = ws.outside / "elsewhere"
    os.rename(ws.path, elsewhere)
    ws.path.mkdir()
    os.rename(elsewhere / ".git", ws.path / ".git")
    run_git(ws.path, "config", "core.worktree", elsewhere)
    hint = ws.gitstate("save", "--task-id", "T").stderr.partition(", or: ")[2]
    run_git(ws.outside, "-c", f"alias.do=!{hint.strip()}", "do")
    moved = Workspace(elsewhere, ws.outside)
    moved.append("a.txt")
    before = fingerprint(elsewhere)
    saved_from(moved.save())
    assert recovered_from(moved.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(elsewhere)) == []


def test_moved_submodule_writes_nothing_into_the_repository_above(ws: Workspace) -> None:
    origin = ws.outside / "origin"
    run_git(ws.outside, "clone", "-q", ws.path, origin)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "sub")
    ws.commit("sub")
    os.rename(ws.at("sub"), ws.at("moved"))
    ws.mkdir("sub")
    ws.append("moved/a.txt")
    run = ws.gitstate("save", "--task-id", "T", path=ws.path / "moved")
    assert run.exit_status == 1 and "core.worktree" in run.stderr
    assert not ws.refs("refs/gitstate")


def test_copy_of_a_submodule_is_not_saved_under_the_name_of_the_other(ws: Workspace) -> None:
    """Git works in the submodule when it is started in the copy; the repository around both is not damaged."""
    origin = ws.outside / "origin"
    run_git(ws.outside, "clone", "-q", ws.path, origin)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "sub")
    ws.commit("sub")
    shutil.copytree(ws.path / "sub", ws.path / "copy", symlinks=True)
    ws.append("copy/a.txt")
    run = ws.gitstate("save", "--task-id", "T", path=ws.path / "copy")
    assert run.exit_status == 1
    assert f"is not in the worktree of its git directory, which is at {ws.path / 'sub'}" in run.stderr
    assert f"gitstate -C {ws.path / 'sub'}" in run.stderr and "is damaged" not in run.stderr
    assert not ws.refs("refs/gitstate")
    outer = ws.save()
    assert outer.exit_status == 4, "the copy can't be saved, and that is said"
    assert paths_of(outer.json["left_out"]) == {b"copy"}


def test_git_dir_of_the_environment_is_named(ws: Workspace) -> None:
    """Dotfiles: the worktree has no `.git`, and the environment names both."""
    bare, home = ws.outside / "dotfiles", ws.outside / "home"
    run_git(ws.outside, "init", "-q", "--bare", bare)
    home.mkdir()
    ws.cli_env = {"GIT_DIR": str(bare), "GIT_WORK_TREE": str(home)}
    run = ws.gitstate("save", "--task-id", "T", path=home)
    assert run.exit_status == 1
    assert "GIT_DIR" in run.stderr
    command = run.stderr.partition("next: ")[2].strip()
    run_git(home, "-c", f"alias.do=!{command}", "do", env={})
    there = Workspace(home, ws.outside)
    there.write("vimrc")
    saved_from(there.save())


@pytest.mark.parametrize("is_link", [True, False])
def test_save_of_another_directory_with_the_same_git_directory_comes_back_by_name_alone(
    is_link: bool, ws: Workspace
) -> None:
    """What is here is not what is there. Where that was moved here, or is gone, there is no other."""
    path = ws.path.with_name("other one")
    path.mkdir()
    if is_link:
        (path / ".git").symlink_to(ws.git_dir)
    else:
        (path / ".git").write_text(f"gitdir: {ws.git_dir}\n")
    (path / "new.txt").write_text("there\n")
    saved = saved_from(Workspace(path, ws.outside).save())
    ws.append("a.txt")
    before, refs = fingerprint(ws.path), ws.refs("refs/gitstate")
    run = ws.recover()
    assert run.exit_status == 4 and f"is of {path}, whose .git leads to" in run.json["error"], run
    assert (fingerprint(ws.path), ws.refs("refs/gitstate")) == (before, refs)
    path.rename(path.with_name("moved"))
    assert recovered_from(ws.recover("--dry-run"))["save_id"] == saved.save_id
    path.with_name("moved").rename(path)
    command = run.stderr.partition("to have it here: ")[2].split()
    assert recovered_from(ws.gitstate(*command[1:], "--json"), exits=(0, 4))["save_id"] == saved.save_id
    assert ws.read("new.txt") == b"there\n"


@pytest.mark.parametrize("option", ["-r", pytest.param("-a", marks=pytest.mark.slow)])
def test_copy_of_a_linked_worktree_takes_no_save_of_the_original(
    option: str, templates: Templates, tmp_path: Path
) -> None:
    """Git has one HEAD and one index for both. The command makes the copy a worktree of its own."""
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    ws.write("own.txt", "original\n")
    saved = saved_from(ws.save())
    path = ws.path.with_name("copy")
    subprocess.run(["cp", option, ws.path, path], check=True)
    copy = Workspace(path, ws.outside, main=ws.main)
    copy.write("own.txt", "copy\n")
    for command in ("save", "recover"):
        run = copy.gitstate(command, "--json")
        assert run.exit_status == 1 and "is a copy of the linked worktree" in run.json["error"], run
    assert (ws.read("own.txt"), copy.read("own.txt")) == (b"original\n", b"copy\n")
    subprocess.run(run.json["hint"].partition(": ")[2], shell=True, check=True, cwd=ws.outside)
    other = saved_from(copy.save(task_id="T-2"))
    wipe(ws)
    wipe(copy)
    assert recovered_from(copy.recover())["save_id"] == other.save_id
    assert recovered_from(ws.recover())["save_id"] == saved.save_id
    assert (ws.read("own.txt"), copy.read("own.txt")) == (b"original\n", b"copy\n")


@pytest.mark.parametrize("option", ["-r", pytest.param("-a", marks=pytest.mark.slow)])
def test_copy_of_a_repository_gets_its_own_save_back(option: str, ws: Workspace) -> None:
    ws.write("own.txt", "original\n")
    saved = saved_from(ws.save())
    assert recovered_from(ws.recover())["save_id"] == saved.save_id
    path = ws.path.with_name("copy")
    subprocess.run(["cp", option, ws.path, path], check=True)
    copy = Workspace(path, ws.outside)
    copy.write("own.txt", "copy\n")
    first, second = saved_from(ws.save()), saved_from(copy.save(task_id="T-2"))
    for workspace, save in ((copy, second), (ws, first)):
        wipe(workspace)
        assert recovered_from(workspace.recover())["save_id"] == save.save_id
    assert (ws.read("own.txt"), copy.read("own.txt")) == (b"original\n", b"copy\n")
