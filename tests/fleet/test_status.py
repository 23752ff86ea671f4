"""`gitstate status` says what each of many workspaces is doing, and changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from gitstate.fleet.find import peek_all, workspaces
from gitstate.fleet.status import summaries, summarize
from tests.support.workspace import Workspace, run_git, run_gitstate


def statuses(*paths: Path) -> list[tuple[str | None, str | None]]:
    """Status and problem of each workspace."""
    return [(item.status, item.problem) for item in summaries([os.fsencode(path) for path in paths])]


def test_each_workspace_has_its_status_in_the_order_asked_for(ws: Workspace, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    run_git(tmp_path, "init", "-q", str(fresh))
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    assert statuses(tmp_path / "gone", ws.path, fresh) == [
        ("missing", "the directory does not exist"),
        ("interrupted", None),
        ("idle", None),
    ]


def test_summary_of_a_pending_save_has_its_id_and_context(ws: Workspace) -> None:
    ws.append("a.txt")
    saved = ws.save("--task-id", "T-7").json
    (item,) = summaries([os.fsencode(ws.path)])
    assert (item.waiting, item.branch, item.context.task_id) == (saved["save_id"], saved["branch"], "T-7")
    assert item == summarize(os.fsencode(ws.path))


def test_worktree_that_is_gone_has_a_row_while_its_save_is_pending(ws: Workspace, tmp_path: Path) -> None:
    """In the worktrees that are there, and in one that does not exist any more and is registered."""
    lost = Workspace(ws.outside / "lost", ws.outside)
    ws.git("worktree", "add", "-q", "-b", "of-lost", lost.path)
    lost.write("new.txt")
    saved = lost.save("--task-id", "T-7").json
    run_git(tmp_path, "clone", "-q", "--mirror", str(ws.path), "copy")
    in_copy = ws.gitstate("status", "--all", "--json", path=tmp_path / "copy").json["workspaces"]
    assert "missing" not in [item["status"] for item in in_copy], "it is pending in the original"
    ws.git("worktree", "remove", "--force", lost.path)
    for where in (ws.path, tmp_path / "copy"):
        listed = ws.gitstate("status", "--all", "--json", path=where).json["workspaces"]
        (item,) = (item for item in listed if item["workspace"] == str(lost.path))
        assert (item["status"], item["branch"], item["context"]["task_id"]) == ("missing", "of-lost", "T-7")
        assert item["waiting"] == saved["save_id"] and item["problem"].endswith(" recover --worktrees")
    told = ws.gitstate("status", "--all").stdout.decode()
    assert f"save {saved['save_id']} is pending; the directory does not exist: gitstate -C {ws.path} " in told


def test_directory_without_repository_is_unreadable_and_says_why(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    ((status, problem),) = statuses(plain)
    assert status == "unreadable" and problem is not None and "not a git repository" in problem


def test_status_changes_nothing(ws: Workspace) -> None:
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    refs, files = ws.refs("refs/"), ws.status()
    assert ws.gitstate("status").exit_status == 0
    assert (ws.refs("refs/"), ws.status()) == (refs, files)


def test_workspaces_below_a_root_do_not_include_registered_ones(ws: Workspace, tmp_path: Path) -> None:
    ws.append("a.txt")
    assert ws.save().exit_status == 0
    other = tmp_path / "root" / "other"
    run_git(tmp_path, "init", "-q", str(other))
    below = workspaces(os.fsencode(ws.path), [os.fsencode(tmp_path / "root")])
    assert (below.paths, below.complete) == ((os.fsencode(other),), True)
    assert os.fsencode(ws.path) in workspaces(os.fsencode(other)).paths


def test_all_together_with_a_root_means_both(ws: Workspace, tmp_path: Path) -> None:
    assert ws.gitstate("register").exit_status == 0
    other = tmp_path / "root" / "other"
    run_git(tmp_path, "init", "-q", str(other))
    for command in ("status", "recover"):
        run = run_gitstate(command, "--json", "--all", "--root", "root", cwd=tmp_path)
        assert {item["workspace"] for item in run.json["workspaces"]} == {str(ws.path), str(other)}, run


def test_peek_sees_each_path_in_the_order_asked_for(ws: Workspace, tmp_path: Path) -> None:
    paths = [os.fsencode(path) for path in (tmp_path / "gone", ws.path)]
    assert [(seen.workspace, seen.problem) for seen in peek_all(paths)] == [(paths[0], "missing"), (paths[1], None)]
