"""`gitstate install` beside pre-commit, lefthook, Git LFS and husky."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.integrations import git_hooks_install, hook_managers
from tests.integrations.installed import files_only, kept, refuses, tool
from tests.support.typed import EVENTS, commit, entries, git, gitstate, outcomes, run, script
from tests.support.workspace import Workspace


@files_only
def test_husky_files_are_left_alone_and_their_absence_is_reported(repo: Workspace, tmp_path: Path) -> None:
    # As husky 9 leaves them: one script that every hook sources, in a directory that git ignores.
    (repo.path / ".husky" / "_").mkdir(parents=True)
    repo.write(".husky/_/.gitignore", "*")
    repo.write(
        ".husky/_/h",
        '#!/usr/bin/env sh\nn=$(basename "$0")\ns=$(dirname "$(dirname "$0")")/$n\n'
        '[ ! -f "$s" ] && exit 0\nsh -e "$s" "$@"\nexit $?\n',
    )
    for event in EVENTS:
        script(repo.path / ".husky" / "_" / event, '#!/usr/bin/env sh\n. "$(dirname "$0")/h"\n')
    git(repo, "config", "core.hooksPath", ".husky/_")
    before = entries(repo.path / ".husky")
    done = run(repo, sys.executable, "-m", "gitstate", "install")
    assert done.exit_status == 4 and ".husky/pre-commit" in done.stderr
    assert hook_managers.script_line("pre-commit") in done.stderr
    assert entries(repo.path / ".husky") == before
    command = script(tmp_path / "bin" / "gitstate", f'#!/bin/sh\nexec {sys.executable} -m gitstate "$@"\n')
    repo.cli_env["PATH"] = f"{command.parent}:{os.environ['PATH']}"
    for event in EVENTS:
        repo.write(f".husky/{event}", hook_managers.script_line(event) + "\n")
    assert set(outcomes(repo).values()) == {"already"}
    assert refuses(repo)
    git(repo, "worktree", "add", "-q", str(tmp_path / "linked"), "main")
    problems = git_hooks_install.hook_problems(open_repository(os.fsencode(tmp_path / "linked")))
    assert ("does not exist" in problems[0][0], problems[0][1]) == (True, "npx husky")


PRE_COMMIT = """\
repos:
- repo: local
  hooks:
  - {id: log, name: log, entry: sh -c 'echo theirs >>log', language: system, always_run: true, pass_filenames: false}
"""


@files_only
@pytest.mark.parametrize("first", ["pre-commit", "gitstate"])
def test_pre_commit_runs_our_hooks_in_any_order_of_installation(first: str, repo: Workspace) -> None:
    tool("pre-commit", repo)
    commit(repo, ".pre-commit-config.yaml", PRE_COMMIT)
    before = kept(repo)
    theirs = ("pre-commit", "install", "-t", "pre-commit", "-t", "pre-push")
    if first == "pre-commit":
        assert run(repo, *theirs).exit_status == 0
        before = kept(repo)
    gitstate(repo, "install")
    assert run(repo, *theirs).exit_status == 0
    gitstate(repo, "install")
    assert run(repo, *theirs).exit_status == 0
    assert refuses(repo)
    gitstate(repo, "recover")
    git(repo, "commit", "-q", "-a", "-m", "mine")
    assert "theirs" in (repo.path / "log").read_text()
    if first == "gitstate":
        assert run(repo, "pre-commit", "uninstall", "-t", "pre-commit", "-t", "pre-push").exit_status == 0
        assert refuses(repo)
    gitstate(repo, "uninstall")
    assert kept(repo) == before


@files_only
def test_lefthook_files_are_left_alone_and_the_printed_lines_work(repo: Workspace, tmp_path: Path) -> None:
    tool("lefthook", repo)
    repo.write("lefthook.yml", "pre-commit:\n  jobs:\n    - run: echo theirs >>log\n")
    assert run(repo, "lefthook", "install").exit_status == 0
    before = kept(repo)
    result = outcomes(repo, status=4)
    assert result.pop("pre-commit") == "by hand" and set(result.values()) == {"installed"}
    command = script(tmp_path / "bin" / "gitstate", f'#!/bin/sh\nexec {sys.executable} -m gitstate "$@"\n')
    repo.cli_env["PATH"] = f"{command.parent}:{repo.cli_env['PATH']}"
    repo.write("lefthook-local.yml", "\n".join(hook_managers.lefthook_lines("pre-commit")) + "\n")
    assert set(outcomes(repo).values()) == {"already"}
    assert run(repo, "lefthook", "install").exit_status == 0
    assert refuses(repo)
    assert "theirs" in (repo.path / "log").read_text()
    repo.write("lefthook-local.yml", "{}\n")
    assert run(repo, "lefthook", "install").exit_status == 0
    gitstate(repo, "uninstall")
    assert kept(repo) == before


@files_only
def test_git_lfs_hooks_run_beside_ours(repo: Workspace) -> None:
    tool("git-lfs", repo)
    git(repo, "lfs", "install", "--local")
    git(repo, "lfs", "track", "*.bin")
    before = kept(repo)
    gitstate(repo, "install")
    commit(repo, "x.bin", "large\n")
    assert "version https://git-lfs" in git(repo, "cat-file", "-p", "HEAD:x.bin")
    git(repo, "add", ".gitattributes")
    assert refuses(repo)
    gitstate(repo, "uninstall")
    assert kept(repo) == before
