"""A submodule on another commit: where git commands go into submodules (`submodule.recurse`), and in a clone."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.states import add_submodule, nested_repository
from tests.support.look import paths_of
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_git


@pytest.mark.parametrize("way", ["in place", "reset"])
def test_save_moves_nothing_in_a_submodule(way: str, ws: Workspace, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", "--bare", str(ws.path), str(tmp_path / "library.git")], check=True)
    allow = ("-c", "protocol.file.allow=always")
    ws.git(*allow, "submodule", "--quiet", "add", str(tmp_path / "library.git"), "sm")
    ws.git("commit", "-qm", "with a submodule")
    ws.git("config", "submodule.recurse", "true")
    ws.git("-C", "sm", "checkout", "-q", "-B", "work")
    ws.write("sm/new", "new\n")
    ws.append("sm/a.txt")
    ws.append("a.txt")
    inside = ws.out("-C", "sm", "rev-parse", "HEAD", "work")
    before = fingerprint(ws.path)
    assert ws.out("status", "--porcelain", "--ignore-submodules=dirty") == "M a.txt"
    assert ws.gitstate("save", "--signal", "TERM").exit_status == 0
    assert ws.out("status", "--porcelain", "--ignore-submodules=dirty") == ""
    assert ws.out("-C", "sm", "rev-parse", "HEAD", "work") == inside
    if way == "reset":
        ws.git("reset", "-q", "--hard")
    done = ws.recover()
    assert done.exit_status == 0, done
    assert ws.out("-C", "sm", "rev-parse", "HEAD", "work") == inside
    assert before.diff(fingerprint(ws.path)) == []


def move_to_older(ws: Workspace, sub: Workspace) -> None:
    sub.git("checkout", "-q", "HEAD~1")


def move_and_stage(ws: Workspace, sub: Workspace) -> None:
    sub.git("checkout", "-q", "HEAD~1")
    ws.git("add", "sub")


def move_and_edit(ws: Workspace, sub: Workspace) -> None:
    sub.git("checkout", "-q", "HEAD~1")
    sub.append("inner.txt")
    sub.write("untracked.txt")


def commit_in_it(ws: Workspace, sub: Workspace) -> None:
    sub.append("inner.txt")
    sub.commit("only here")


MOVES = [move_to_older, move_and_stage, move_and_edit, commit_in_it]


@pytest.mark.sample(2)
@pytest.mark.parametrize("move", MOVES)
def test_commit_of_a_submodule_comes_back(move: Callable[[Workspace, Workspace], None], ws: Workspace) -> None:
    move(ws, add_submodule(ws))
    ws.append("a.txt")
    ws.config("submodule.recurse", "true")
    before = fingerprint(ws.path)
    saved = ws.save().json
    ws.git("reset", "--hard", "-q", saved["base_commit"])
    ws.git("clean", "-ffdxq")
    assert before.diff(fingerprint(ws.path)) != []
    assert ws.recover().exit_status == 0
    assert before.diff(fingerprint(ws.path)) == []


def test_submodule_that_somebody_moved_stays(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.git("checkout", "-q", "HEAD~1")
    ws.save()
    sub.git("checkout", "-q", "--detach", "main")
    sub.append("inner.txt")
    there = fingerprint(sub.path)
    run = ws.recover()
    assert run.exit_status == 4, run
    assert there.diff(fingerprint(sub.path)) == []


def clone_with_saves(ws: Workspace, *options: str) -> Workspace:
    clone = ws.path.with_name("clone")
    run_git(ws.outside, "clone", "-q", "--no-local", *options, ws.path, clone)
    wanted = ["refs/gitstate/*:refs/gitstate/*", "refs/notes/gitstate:refs/notes/gitstate"]
    run_git(clone, "fetch", "-q", "origin", *wanted)
    return Workspace(clone, ws.outside)


def forget_inside(ws: Workspace) -> None:
    """As after a save of an older version, or of a repository that is too large: its save is in itself alone."""
    for name in ws.refs("refs/gitstate/inside"):
        ws.git("update-ref", "-d", name)


def carry_out(reason: str, before: str, ws: Workspace) -> None:
    """Type the command that stands behind `before` in a reason, somewhere else."""
    command = reason.partition(before)[2]
    assert command, reason
    subprocess.run(command, shell=True, check=True, cwd=ws.outside, env={**os.environ, "GIT_ALLOW_PROTOCOL": "file"})


@pytest.mark.sample(2)
@pytest.mark.parametrize("move", MOVES)
def test_clone_reports_the_commit_it_lacks(move: Callable[[Workspace, Workspace], None], ws: Workspace) -> None:
    move(ws, add_submodule(ws))
    assert ws.save().exit_status == 0
    clone = clone_with_saves(ws)
    forget_inside(clone)
    run = clone.recover()
    assert run.exit_status == 4, run
    [left] = run.json["workspaces"][0]["left_out"]
    assert left["path"] == "sub"
    carry_out(left["reason"], "; its commit: ", clone)
    assert os.path.exists(clone.at("sub/inner.txt"))


def test_clone_reports_a_clean_submodule_that_is_not_checked_out(ws: Workspace) -> None:
    add_submodule(ws)
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    clone = clone_with_saves(ws)
    run = clone.recover()
    assert run.exit_status == 0, run
    [left] = run.json["workspaces"][0]["left_out"]
    assert left["path"] == "sub"
    carry_out(left["reason"], "not checked out here: ", clone)
    assert os.path.exists(clone.at("sub/inner.txt"))


def test_clone_names_no_command_for_a_link_that_no_gitmodules_names(ws: Workspace) -> None:
    nested_repository(ws, "linked", commit=True)
    ws.git("-c", "advice.addEmbeddedRepo=false", "add", "linked")
    ws.commit("a link")
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    run = clone_with_saves(ws).recover()
    assert run.exit_status == 0, run
    [left] = run.json["workspaces"][0]["left_out"]
    assert left["path"] == "linked"
    assert left["reason"].endswith("and .gitmodules does not say where to clone it from")


@pytest.mark.parametrize("file", ["inner.txt", "untracked.txt"])
def test_clone_with_submodules_reports_the_work_it_lacks(file: str, ws: Workspace) -> None:
    add_submodule(ws).append(file)
    assert ws.save().exit_status == 0
    run = clone_with_saves(ws, "--recurse-submodules").recover()
    assert run.exit_status == 4, run
    assert b"sub" in paths_of(run.json["workspaces"][0]["left_out"])


def test_clone_with_submodules_where_nothing_was_to_save_in_one(ws: Workspace) -> None:
    add_submodule(ws)
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    run = clone_with_saves(ws, "--recurse-submodules").recover()
    assert run.exit_status == 0, run
    assert run.json["workspaces"][0]["left_out"] == []


def test_no_command_for_submodules_is_named_for_a_repository_that_is_none(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=True).append("inner.txt")
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    clone = clone_with_saves(ws)
    forget_inside(clone)
    run = clone.recover()
    assert run.exit_status == 4, run
    reasons = [item["reason"] for item in run.json["workspaces"][0]["left_out"]]
    assert "the nested repository is gone, and its save with it" in reasons


def test_nested_repository_that_was_made_again_is_not_called_recovered(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=True).append("inner.txt")
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    ws.remove("nested")
    nested_repository(ws, "nested", commit=True)
    run = ws.recover()
    assert run.exit_status == 4, run
    reasons = [item["reason"] for item in run.json["workspaces"][0]["left_out"] if item["path"] == "nested"]
    assert any("is not the one that holds the save" in reason for reason in reasons), reasons


def test_nested_repository_that_was_recovered_by_itself_is_no_trouble(ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.append("inner.txt")
    assert ws.save().exit_status == 0
    assert ws.recover(path=sub.path).exit_status == 0
    run = ws.recover()
    assert run.exit_status == 0, run


def test_clean_repository_of_a_gitlink_that_is_gone_is_reported(ws: Workspace) -> None:
    nested_repository(ws, "nested", commit=True)
    ws.git("-c", "advice.addEmbeddedRepo=false", "add", "nested")
    ws.git("commit", "-q", "-m", "a link")
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    ws.remove("nested")
    run = ws.recover()
    assert run.exit_status == 0, run
    assert b"nested" in paths_of(run.json["workspaces"][0]["left_out"])


def test_place_of_a_submodule_that_is_empty_as_before_is_no_trouble(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("submodule", "--quiet", "deinit", "-f", "sub")
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    ws.git("reset", "--hard", "-q")
    run = ws.recover()
    assert run.exit_status == 0, run
    assert run.json["workspaces"][0]["left_out"] == []


def test_symlink_in_place_of_a_submodule_is_not_followed(ws: Workspace) -> None:
    add_submodule(ws)
    ws.remove("sub")
    inner = nested_repository(ws, "target", commit=True)
    inner.append("inner.txt")
    ws.symlink("target", "sub")
    saved = ws.save()
    assert saved.exit_status in (0, 4), saved
    assert b"sub" not in {path.rstrip(b"/") for path in paths_of(saved.json["left_out"])}
    ws.git("rm", "-q", "--cached", "-f", "sub")
    ws.remove("target")
    forget_inside(ws)
    run = ws.recover()
    assert run.exit_status == 4, run
    assert not os.path.lexists(ws.at("target")), "the submodule was put where the symlink leads"
    assert os.readlink(ws.at("sub")) == b"target"


#: What is unfinished in the submodule, on branches `main` (one commit more) and `side` (two commits).
INSIDE: dict[str, Callable[[Workspace], object]] = {
    "rebase": lambda sub: sub.fails("rebase", "-q", "main", "side"),
    "merge": lambda sub: sub.fails("merge", "-q", "side"),
    "cherry_pick": lambda sub: sub.fails("cherry-pick", "side~1"),
    "bisect": lambda sub: sub.git("bisect", "start", "side", "main~1"),
}


@pytest.mark.parametrize("loss", ["tree", "submodule", "emptied"])
@pytest.mark.parametrize("how", INSIDE)
@pytest.mark.slow
def test_operation_in_a_submodule_comes_back(how: str, loss: str, ws: Workspace) -> None:
    sub = add_submodule(ws)
    sub.git("checkout", "-q", "-b", "side")
    for number in (1, 2):
        sub.write("inner.txt", f"side {number}\n")
        sub.commit(f"side {number}")
    sub.git("checkout", "-q", "main")
    sub.write("inner.txt", "main\n")
    sub.commit("main")
    INSIDE[how](sub)
    sub.write("untracked.txt", "untracked\n")
    ws.append("b.txt", "edited\n")
    before = fingerprint(ws.path)
    assert before.nested[b"sub"].operation
    saved_from(ws.save(), exits=(0, 4))
    for name in os.listdir(ws.path) if loss == "tree" else ("sub",):
        if name != ".git":
            ws.remove(name)
    if loss == "emptied":
        ws.mkdir("sub")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


def test_submodule_that_git_took_away_and_emptied_comes_back(ws: Workspace) -> None:
    """With `submodule.recurse` a reset to a commit without the submodule empties its index as well."""
    sub = add_submodule(ws)
    ws.git("config", "submodule.recurse", "true")
    ws.git("reset", "-q", "--soft", "HEAD~1")
    ws.append("a.txt")
    sub.append("inner.txt")
    before = fingerprint(ws.path)
    base = ws.out("rev-parse", "HEAD")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", base)
    ws.git("clean", "-ffdxq")
    assert not os.path.lexists(ws.at("sub"))
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path)) == []


def test_submodule_that_git_checked_out_since_is_reported(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("config", "submodule.recurse", "true")
    base = ws.out("rev-parse", "HEAD")
    ws.git("rm", "-q", "sub")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", base)
    assert os.path.exists(ws.at("sub/inner.txt"))
    run = ws.recover()
    assert run.exit_status == 0, run
    [left] = run.json["workspaces"][0]["left_out"]
    assert left["path"] == "sub" and "since the save" in left["reason"]
    assert os.path.exists(ws.at("sub/inner.txt"))


def test_submodule_that_git_moved_back_is_named_with_its_save(ws: Workspace) -> None:
    add_submodule(ws)
    ws.git("config", "submodule.recurse", "true")
    base = ws.out("rev-parse", "HEAD")
    ws.git("mv", "sub", "moved")
    ws.append("moved/inner.txt")
    edited = ws.read("moved/inner.txt")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", base)
    ws.git("clean", "-ffdxq")
    run = ws.recover()
    assert run.exit_status == 4, run
    reasons = [item["reason"] for item in run.json["workspaces"][0]["left_out"] if item["path"] == "moved"]
    [command] = [shlex.split(reason.partition("its save: gitstate ")[2]) for reason in reasons]
    assert command[:2] == ["-C", str(ws.path / "sub")]
    assert ws.gitstate(*command[2:], path=ws.path / "sub").exit_status == 0
    assert ws.read("sub/inner.txt") == edited


def chain(ws: Workspace, depth: int) -> list[str]:
    """Commit a submodule in a submodule and so on; returns the paths of all, the outermost first."""
    allow = ("-c", "protocol.file.allow=always")
    below = None
    for number in range(depth):
        origin = ws.outside / f"level{number}"
        run_git(ws.outside, "init", "-q", origin)
        (origin / "file.txt").write_text(f"{number}\n")
        run_git(origin, "add", "file.txt")
        if below is not None:
            run_git(origin, *allow, "submodule", "--quiet", "add", str(below), "in side")
        run_git(origin, "commit", "-q", "-m", "level")
        below = origin
    ws.git(*allow, "submodule", "--quiet", "add", str(below), "sub")
    ws.git(*allow, "submodule", "--quiet", "update", "--init", "--recursive")
    ws.commit("a chain")
    return ["/".join(["sub", *["in side"] * number]) for number in range(depth)]


def remove_all(ws: Workspace) -> None:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)


def test_clean_submodules_in_submodules_come_back(ws: Workspace) -> None:
    paths = chain(ws, 3)
    ws.append("a.txt")
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    remove_all(ws)
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path)) == []
    assert all((ws.path / path / "file.txt").exists() for path in paths)


def test_clean_submodules_come_back_after_a_recovery_that_was_killed(ws: Workspace) -> None:
    """It had written the `.git` file of the outer one, and nothing else of it."""
    chain(ws, 2)
    ws.append("a.txt")
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    link = (ws.path / "sub" / ".git").read_bytes()
    remove_all(ws)
    ws.mkdir("sub")
    (ws.path / "sub" / ".git").write_bytes(link)
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path)) == []


@pytest.mark.parametrize("link", ["its own", "another"])
def test_clean_submodule_in_which_somebody_went_on_stays_as_it_is(link: str, ws: Workspace) -> None:
    """It has its `.git` file, and more; or another one than a killed recovery writes."""
    chain(ws, 1)
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    ws.remove("sub/file.txt")
    if link == "its own":
        ws.write("sub/later.txt", "later\n")
    else:
        ws.write("sub/.git", f"gitdir: {ws.git_dir / 'modules' / 'sub'}\n")
    before = run_git(ws.path / "sub", "status", "--porcelain")
    ws.recover()
    assert not os.path.lexists(ws.at("sub/file.txt"))
    assert run_git(ws.path / "sub", "status", "--porcelain") == before


def test_index_that_somebody_emptied_in_a_repository_inside_stays_so(ws: Workspace) -> None:
    """Only where git took a submodule away it is filled again."""
    sub = add_submodule(ws)
    sub.append("inner.txt")
    assert ws.save().exit_status == 0
    sub.git("rm", "-rq", "--cached", ".")
    ws.recover()
    assert sub.git("ls-files") == b""


def test_submodule_in_a_submodule_that_was_not_checked_out_stays_so(ws: Workspace) -> None:
    deepest = chain(ws, 3)[-1]
    run_git(ws.path / "sub/in side", "submodule", "--quiet", "deinit", "-f", "in side")
    ws.append("a.txt")
    before = fingerprint(ws.path)
    assert ws.save().exit_status == 0
    remove_all(ws)
    run = ws.recover()
    assert run.exit_status == 0, run
    assert run.json["workspaces"][0]["left_out"] == []
    assert not os.path.exists(ws.path / deepest / "file.txt")
    assert before.without([os.fsencode(deepest)]).diff(fingerprint(ws.path).without([os.fsencode(deepest)])) == []


def test_submodule_in_a_submodule_whose_git_directory_is_gone_is_named(ws: Workspace) -> None:
    """As `git submodule add` leaves one that was cloned before: its `.git` is a directory in the worktree."""
    paths = chain(ws, 2)
    inside = ws.path / paths[1]
    store = ws.git_dir / "modules/sub/modules/in side"
    (inside / ".git").unlink()
    os.rename(store, inside / ".git")
    run_git(ws.outside, "config", "-f", inside / ".git" / "config", "--unset", "core.worktree")
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    remove_all(ws)
    run = ws.recover()
    assert run.exit_status == 0, run
    [left] = run.json["workspaces"][0]["left_out"]
    assert left["path"] == paths[1]
    carry_out(left["reason"], "not checked out here: ", ws)
    assert (inside / "file.txt").exists()


def test_repository_with_files_of_the_index_is_saved_once(ws: Workspace) -> None:
    """As after a merge that has a directory on one side, and a submodule on the other."""
    inside = nested_repository(ws, "nested", commit=True)
    ws.git("-c", "advice.addEmbeddedRepo=false", "add", "nested")
    ws.git("commit", "-q", "-m", "a link")
    ws.git("rm", "-q", "--cached", "nested")
    ws.git("update-index", "--add", "--cacheinfo", f"100644,{ws.out('hash-object', '-w', 'a.txt')},nested/inner.txt")
    inside.append("inner.txt")
    saved_from(ws.save())
    [archive] = ws.refs("refs/gitstate/pending").values()
    assert [item["path"] for item in json.loads(ws.git("show", f"{archive}:manifest.json"))["nested"]] == ["nested"]
    assert len(inside.refs("refs/gitstate/saves")) == 1


def test_command_that_moves_the_git_directory_keeps_submodules(ws: Workspace) -> None:
    """Git moves the git directory of a workspace, and leaves its submodules with paths to where that was."""
    store = ws.path / "store"
    (ws.path / ".git").rename(store)
    (ws.path / ".git").write_text("gitdir: store\n")
    ws.path.joinpath("store/info/exclude").write_text("/store\n/active_state.json\n")
    deepest = chain(ws, 2)[-1]
    ws.write(f"{deepest}/new.txt", "new\n")
    before = ws.out("submodule", "status", "--recursive")
    [warning] = ws.save().json["warnings"]
    run = subprocess.run(warning.partition("move it out with: ")[2], shell=True, check=True, cwd=ws.outside)
    assert run.returncode == 0 and not store.exists()
    assert ws.out("submodule", "status", "--recursive") == before
    assert ws.out("-C", deepest, "status", "--porcelain") == "?? new.txt"
    assert not any(ws.save("--task-id", "next").json[key] for key in ("left_out", "warnings"))


def test_recovery_ends_where_the_configuration_of_a_submodule_is_a_fifo(ws: Workspace) -> None:
    add_submodule(ws)
    ws.append("a.txt")
    saved = ws.save().json
    ws.remove("sub")
    config = ws.common_dir / "modules/sub/config"
    config.unlink()
    os.mkfifo(config)
    assert recovered_from(ws.recover())["save_id"] == saved["save_id"]
