"""Wrong arguments: one clear line, in JSON too where that is asked for, exit status 2 or 1, and nothing is changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.repositories import three_files
from tests.support.workspace import Workspace, run_gitstate


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files, and a pending save."""
    ws = three_files(tmp_path)
    ws.write("a", "a1\n")
    assert ws.save().exit_status == 0
    return ws


@pytest.mark.parametrize("words", [("save", "--json", "nosuch"), ("checkpoint", "--set", "nosuch", "--json")])
def test_word_that_is_no_pair_is_told_in_json_too(ws: Workspace, words: tuple[str, ...]) -> None:
    run = ws.gitstate(*words)
    assert run.exit_status == 2 and "nothing was saved" in run.stderr, run
    assert run.json["error"] == "'nosuch' is not KEY=VALUE; nothing was saved" and run.json["exit_status"] == 2


def test_format_json_in_two_words_is_json_too(ws: Workspace) -> None:
    assert ws.gitstate("recover", "--format", "json", "--nope").json["exit_status"] == 2


@pytest.mark.parametrize("command", ["diff", "show", "loop"])
def test_word_that_is_no_text_is_shown_as_its_bytes(ws: Workspace, command: str) -> None:
    run = ws.gitstate(command, os.fsdecode(b"\xfe"))
    assert run.exit_status and r"'\xfe'" in run.stderr, run


def test_empty_path_is_not_the_current_directory(ws: Workspace) -> None:
    """A variable that is not set must not name a workspace."""
    before = ws.refs()
    for words in ("recover", "status", "status --root", "stop", "resume", "verify", "unregister", "restore latest"):
        run = ws.gitstate(*words.split(), "")
        assert run.exit_status == 2 and "a path is empty" in run.stderr, (words, run)
    assert ws.refs() == before


@pytest.mark.parametrize("words", ["status --all", "status --root", "recover --all", "recover --root", "resume --root"])
def test_path_that_is_no_workspace_is_an_error_beside_others(ws: Workspace, words: str) -> None:
    run = ws.gitstate(*words.split(), "nowhere")
    assert run.exit_status == 1, run
    assert "nowhere" in run.text + run.stderr and "reached its limit" not in run.stderr, run
    if words == "recover --root":
        assert ws.refs("refs/gitstate/pending"), "a root that is missing does not stand for all workspaces"


def test_file_in_place_of_a_workspace_is_named_as_one(ws: Workspace) -> None:
    assert "it is not a directory" in ws.gitstate("status", "a").text
    assert "/a: not a directory" in ws.gitstate("recover", "a").stderr


@pytest.mark.parametrize("command", ["stop", "resume", "verify"])
def test_each_of_many_workspaces_has_a_row_in_json(ws: Workspace, command: str) -> None:
    run = ws.gitstate(command, "--json", ".", "nowhere")
    (_, failed) = run.json["workspaces"]
    assert run.exit_status and failed["workspace"].endswith("/nowhere"), run
    assert failed["exit_status"] == 1 and "no such directory" in failed["error"], run


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_scope_without_an_agent_does_not_mean_the_hooks_of_git(ws: Workspace, command: str) -> None:
    assert ws.gitstate("install").exit_status == 0
    hooks = sorted((ws.common_dir / "hooks").iterdir())
    run = ws.gitstate(command, "--scope", "project")
    assert run.exit_status == 2 and f" {command} --agent NAME --scope project" in run.stderr, run
    assert sorted((ws.common_dir / "hooks").iterdir()) == hooks


def test_run_without_a_command_starts_nothing(ws: Workspace) -> None:
    before = ws.refs()
    for words in ([""], ["--", ""], ["task_id=T-1", "--"], ["--set", "nosuch", "--", "true"]):
        run = ws.gitstate("run", *words)
        assert run.exit_status == 2 and "nothing was started" in run.stderr, (words, run)
    assert ws.refs() == before


def test_pair_in_place_of_a_command_is_answered_with_the_whole_line(ws: Workspace) -> None:
    run = ws.gitstate("run", "task_id=T 1", "sleep", "1")
    assert run.exit_status == 127 and "next: gitstate run 'task_id=T 1' -- sleep 1" in run.stderr, run


def test_named_commands_work_where_they_are_printed(ws: Workspace, tmp_path: Path) -> None:
    """With `-C` the next command has it too: without it, it would be for another workspace."""
    for words in (["prune", "latest"], ["diff", "nowhere"], ["save", "nowhere"], ["set"], ["push"], ["status"]):
        run = run_gitstate("-C", str(ws.path), *words, cwd=tmp_path)
        assert f" gitstate -C {ws.path} " in run.text + run.stderr, (words, run)
        run = run_gitstate(*words, cwd=ws.path)
        assert " -C " not in run.text + run.stderr, (words, run)
    (pending,) = [
        item["next"]
        for item in run_gitstate("-C", str(ws.path), "doctor", "--json", cwd=tmp_path).json["findings"]
        if item["check"] == "waiting"
    ]
    assert pending == f"gitstate -C {ws.path} recover"


@pytest.mark.parametrize("option", ["--tasks", "--workspace", "--next", "--prompt", "--stop-file"])
def test_option_of_a_loop_that_is_empty_starts_nothing(ws: Workspace, option: str) -> None:
    more = () if option in ("--tasks", "--next") else ("--tasks", "a")
    run = ws.gitstate("loop", "claude", *more, option, "")
    assert run.exit_status == 2 and f"{option} is empty; nothing was started" in run.stderr, run


@pytest.mark.parametrize(
    "words",
    [
        "resume --tmux --detach",
        "recover --format shell --json",
        "recover --format shell --all",
        "prune latest --keep 0",
        "prune latest --days 0",
    ],
)
def test_options_that_contradict_each_other_change_nothing(ws: Workspace, words: str) -> None:
    before = ws.refs()
    run = ws.gitstate(*words.split())
    assert run.exit_status == 2 and "next: gitstate" in run.stderr, run
    assert ws.refs() == before and "RECOVERED" not in run.text
