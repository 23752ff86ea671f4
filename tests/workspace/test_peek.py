"""Files alone tell where a plain worktree is, and git is asked about every other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.workspace.peek import plain_toplevel
from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.typed import git
from tests.support.workspace import Workspace


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    ws = make(STATES["clean"], templates, tmp_path)
    (ws.path / ".git" / "config").write_text(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"
    )
    return ws


def test_plain_worktree_is_where_git_says_it_is(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ws.path)
    for path in (ws.path, tmp_path / "link"):
        assert plain_toplevel(os.fsencode(path)) == open_repository(os.fsencode(path)).toplevel


@pytest.mark.parametrize(
    "setting",
    [
        "[core]\n\tworktree = elsewhere\n",
        "[core]\n\tworktree = /tmp\n",
        "[CORE]\n\tWorkTree=x\n",
        "[core]\n\tbare = true\n",
        "[core]\n\tbare\n",
        "[include]\n\tpath = other\n",
        '[includeIf "gitdir:/"]\n\tpath = other\n',
        '[core]\n\tbare = "true"\n',
        "[core] bare = true\n",
        "[core]\n\tfilemode = true \\\n",
        "[core\n",
        "= x\n",
    ],
)
def test_git_is_asked_where_the_configuration_says_more(setting: str, ws: Workspace) -> None:
    assert plain_toplevel(os.fsencode(ws.path)) is not None
    with open(ws.path / ".git" / "config", "a", encoding="utf-8") as file:
        file.write(setting)
    assert plain_toplevel(os.fsencode(ws.path)) is None


def test_git_is_asked_about_what_is_no_plain_worktree(ws: Workspace, tmp_path: Path) -> None:
    (ws.path / "below").mkdir()
    git(ws, "worktree", "add", "-q", str(tmp_path / "linked"))
    git(ws, "init", "-q", "--bare", str(tmp_path / "bare"))
    for path in (ws.path / "below", tmp_path / "linked", tmp_path / "bare", tmp_path / "missing", tmp_path):
        assert plain_toplevel(os.fsencode(path)) is None
    (ws.path / ".git" / "HEAD").write_text("")
    assert plain_toplevel(os.fsencode(ws.path)) is None
