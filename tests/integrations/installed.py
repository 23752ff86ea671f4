"""Where this git keeps its hooks, and whether the installed ones reject what they must."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gitstate.integrations.git_hooks_install import git_version, manner
from tests.support.skips import why_not_program
from tests.support.typed import entries, git, gitstate
from tests.support.workspace import Workspace

CONFIGURED = manner(git_version(subprocess.run(["git", "version"], capture_output=True, check=True).stdout)) == "config"


files_only = pytest.mark.skipif(CONFIGURED, reason="hooks in files alone need git 2.53 or older")


def saved(repo: Workspace) -> str:
    repo.write("a", "one\ntwo\n")
    gitstate(repo, "save")
    return git(repo, "rev-parse", "HEAD")


def refuses(repo: Workspace) -> bool:
    """Whether gitstate rejects a commit on top of a WIP commit, and a push of it."""
    wip = saved(repo)
    repo.write("a", "three\n")
    commit = git(repo, "commit", "-q", "-a", "-m", "bury", fails=True)
    push = git(repo, "push", "-q", "origin", "HEAD", fails=True)
    return all("gitstate" in said and wip[:12] in said for said in (commit, push))


def kept(repo: Workspace) -> object:
    return entries(repo.path / ".git" / "hooks"), (repo.path / ".git" / "config").read_bytes()


def tool(name: str, repo: Workspace) -> None:
    """Let `repo` find a tool of the test environment; skips where there is none."""
    places = f"{os.environ['PATH']}:{os.path.dirname(sys.executable)}"
    if reason := why_not_program(name, places):
        pytest.skip(reason)
    repo.cli_env["PATH"] = places
