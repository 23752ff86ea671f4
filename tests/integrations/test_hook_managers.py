"""`gitstate install` beside pre-commit, lefthook, Git LFS and husky."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gitstate.git.repository import open_repository
from gitstate.integrations import git_hooks_install
from tests.integrations.installed import files_only, kept, refuses, tool
from tests.support.hooked import EVENTS, Hooked, entries


@files_only
def test_husky_owns_its_files_and_a_linked_worktree_without_them_is_a_problem(repo: Hooked, tmp_path: Path) -> None:
    # As husky 9 leaves them: one script that every hook sources, in a directory that git ignores.
    (repo.path / ".husky" / "_").mkdir(parents=True)
    repo.write(".husky/_/.gitignore", "*")
    repo.write(
        ".husky/_/h",
        '#!/usr/bin/env sh\nn=$(basename "$0")\ns=$(dirname "$(dirname "$0")")/$n\n'
        '[ ! -f "$s" ] && exit 0\nsh -e "$s" "$@"\nexit $?\n',
    )
    for event in EVENTS:
        repo.script(repo.path / ".husky" / "_" / event, '#!/usr/bin/env sh\n. "$(dirname "$0")/h"\n')
    repo.git("config", "core.hooksPath", ".husky/_")
    before = entries(repo.path / ".husky")
    done = repo.run(sys.executable, "-m", "gitstate", "install")
    assert done.status == 4 and ".husky/pre-commit" in done.err and git_hooks_install.by_hand("pre-commit") in done.err
    assert entries(repo.path / ".husky") == before
    command = repo.script(tmp_path / "bin" / "gitstate", f'#!/bin/sh\nexec {sys.executable} -m gitstate "$@"\n')
    repo.env["PATH"] = f"{command.parent}:{os.environ['PATH']}"
    for event in EVENTS:
        repo.write(f".husky/{event}", git_hooks_install.by_hand(event) + "\n")
    assert set(repo.outcomes().values()) == {"already"}
    assert refuses(repo)
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"), "main")
    problems = git_hooks_install.hook_problems(open_repository(os.fsencode(tmp_path / "linked")))
    assert ("not there" in problems[0][0], problems[0][1]) == (True, "npx husky")


PRE_COMMIT = """\
repos:
- repo: local
  hooks:
  - {id: log, name: log, entry: sh -c 'echo theirs >>log', language: system, always_run: true, pass_filenames: false}
"""


@files_only
@pytest.mark.parametrize("first", ["pre-commit", "gitstate"])
def test_pre_commit_runs_ours_whoever_came_first_and_after_its_reinstall(first: str, repo: Hooked) -> None:
    tool("pre-commit", repo)
    repo.commit(".pre-commit-config.yaml", PRE_COMMIT)
    before = kept(repo)
    theirs = ("pre-commit", "install", "-t", "pre-commit", "-t", "pre-push")
    if first == "pre-commit":
        assert repo.run(*theirs).status == 0
        before = kept(repo)
    repo.gitstate("install")
    assert repo.run(*theirs).status == 0
    repo.gitstate("install")
    assert repo.run(*theirs).status == 0
    assert refuses(repo)
    repo.gitstate("recover")
    repo.git("commit", "-q", "-a", "-m", "mine")
    assert "theirs" in (repo.path / "log").read_text()
    if first == "gitstate":
        assert repo.run("pre-commit", "uninstall", "-t", "pre-commit", "-t", "pre-push").status == 0
        assert refuses(repo)
    repo.gitstate("uninstall")
    assert kept(repo) == before


@files_only
def test_lefthook_keeps_its_files_and_the_lines_for_its_configuration_work(repo: Hooked, tmp_path: Path) -> None:
    tool("lefthook", repo)
    repo.write("lefthook.yml", "pre-commit:\n  jobs:\n    - run: echo theirs >>log\n")
    assert repo.run("lefthook", "install").status == 0
    before = kept(repo)
    outcomes = repo.outcomes(status=4)
    assert outcomes.pop("pre-commit") == "by hand" and set(outcomes.values()) == {"installed"}
    command = repo.script(tmp_path / "bin" / "gitstate", f'#!/bin/sh\nexec {sys.executable} -m gitstate "$@"\n')
    repo.env["PATH"] = f"{command.parent}:{repo.env['PATH']}"
    repo.write("lefthook-local.yml", "\n".join(git_hooks_install.lefthook_lines("pre-commit")) + "\n")
    assert set(repo.outcomes().values()) == {"already"}
    assert repo.run("lefthook", "install").status == 0
    assert refuses(repo)
    assert "theirs" in (repo.path / "log").read_text()
    repo.write("lefthook-local.yml", "{}\n")
    assert repo.run("lefthook", "install").status == 0
    repo.gitstate("uninstall")
    assert kept(repo) == before


@files_only
def test_git_lfs_hooks_run_beside_ours(repo: Hooked) -> None:
    tool("git-lfs", repo)
    repo.git("lfs", "install", "--local")
    repo.git("lfs", "track", "*.bin")
    before = kept(repo)
    repo.gitstate("install")
    repo.commit("x.bin", "large\n")
    assert "version https://git-lfs" in repo.git("cat-file", "-p", "HEAD:x.bin")
    repo.git("add", ".gitattributes")
    assert refuses(repo)
    repo.gitstate("uninstall")
    assert kept(repo) == before
