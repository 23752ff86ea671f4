"""Opening a repository: its paths and settings are those that git reports, for any kind of `.git`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.errors import NotAWorkspace
from gitstate.git import opening
from gitstate.git.opening import open_repository
from tests.support.repositories import three_files
from tests.support.workspace import Workspace, run_git

QUESTIONS = ("--show-toplevel", "--absolute-git-dir", "--git-common-dir", "--show-object-format")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return three_files(tmp_path)


def inside(ws: Workspace) -> Path:
    """A repository below the top of another."""
    run_git(ws.path, "init", "-q", "inside")
    return ws.path / "inside"


def without_head(ws: Workspace) -> Path:
    place = inside(ws)
    # As a power cut leaves it.
    (place / ".git" / "HEAD").write_bytes(b"")
    return place


def without_objects(ws: Workspace) -> Path:
    place = inside(ws)
    (place / ".git" / "objects").rename(place / "objects")
    return place


def empty(ws: Workspace) -> Path:
    ws.mkdir("inside/.git")
    return ws.path / "inside"


def below_a_colon(ws: Workspace) -> Path:
    ws.mkdir("in:side/deep/.git")
    return ws.path / "in:side" / "deep"


def elsewhere(ws: Workspace) -> Path:
    ws.mkdir(".git/false")
    ws.config("core.worktree", "false")
    return ws.path


def by_a_link(ws: Workspace) -> Path:
    place = ws.outside / "link"
    place.symlink_to(inside(ws))
    return place


@pytest.mark.parametrize("build", [inside, empty, below_a_colon, by_a_link])
def test_repository_paths_match_git_rev_parse(ws: Workspace, build: Callable[[Workspace], Path]) -> None:
    ws.config("our.key", "of the repository above")
    place = build(ws)
    opened = open_repository(os.fsencode(place))
    said = run_git(place, "rev-parse", "--path-format=absolute", *QUESTIONS).split(b"\n")[:-1]
    assert [opened.toplevel, opened.git_dir, opened.common_dir, opened.object_format.encode()] == said
    settings = run_git(place, "config", "--list", "--name-only", "-z").split(b"\0")[:-1]
    assert {os.fsencode(key) for key in opened.config} >= set(settings)
    assert opened.setting("our.key") == (None if build in (inside, by_a_link) else "of the repository above")


def test_worktree_elsewhere_is_refused(ws: Workspace) -> None:
    """Its value is a path, though it reads like a boolean: git run there would find another repository."""
    place = elsewhere(ws)
    with pytest.raises(NotAWorkspace, match=r"\.git/false \(core\.worktree\)"):
        open_repository(os.fsencode(place))


def test_included_config_does_not_change_core_bare(ws: Workspace) -> None:
    """Git reads core.bare from the config file alone; `git config` takes included files into account."""
    ws.config("core.bare", "true")
    (ws.git_dir / "included").write_text("[core]\n\tbare = false\n")
    ws.config("include.path", "included")
    with pytest.raises(NotAWorkspace):
        open_repository(os.fsencode(ws.path))


@pytest.mark.parametrize("where", ["main", "linked"])
def test_hint_for_a_bare_repository_works(where: str, ws: Workspace) -> None:
    place = ws.path
    if where == "linked":
        place = ws.outside / "linked"
        ws.git("worktree", "add", "-q", "--detach", place)
        ws.config("extensions.worktreeConfig", "true")
    run_git(place, "config", *(["--worktree"] if where == "linked" else []), "core.bare", "true")
    run = ws.gitstate("save", "--task-id", "T", path=place)
    assert run.exit_status == 1
    assert "it is a bare repository (core.bare)" in run.stderr
    run_git(ws.outside, "-c", f"alias.do=!{run.stderr.partition('next: ')[2].strip()}", "do")
    assert ws.gitstate("save", "--task-id", "T", path=place).exit_status == 0


@pytest.mark.parametrize("build", [without_head, without_objects])
def test_torn_repository_is_not_taken_for_the_one_above(ws: Workspace, build: Callable[[Workspace], Path]) -> None:
    place = build(ws)
    ws.write("a", "edited\n")
    ws.write("inside/own", "work\n")
    with pytest.raises(NotAWorkspace, match=r"inside/\.git is damaged"):
        open_repository(os.fsencode(place))
    run = ws.gitstate("save", "--json", path=place)
    assert run.json["workspace"] == str(place), run
    assert ws.git("show", "HEAD:a") == b"a0\n"
    assert (place / ".git" / "gitstate").exists()


@pytest.mark.parametrize("below", ["", "/sub"])
def test_worktree_under_another_name_is_not_refused(ws: Workspace, below: str) -> None:
    """Where a file system folds case, git tells the name that the kernel knows, not the one that was typed."""
    ws.mkdir("sub")
    other = ws.outside / "other name"
    other.symlink_to(ws.path)
    path, git_dir = os.fsencode(f"{ws.path}{below}"), os.fsencode(ws.git_dir)
    opening._refuse_repository_above(path, os.fsencode(other), git_dir, git_dir)
    with pytest.raises(NotAWorkspace, match="is not in the worktree of its git directory"):
        opening._refuse_repository_above(os.fsencode(ws.outside), os.fsencode(other), git_dir, git_dir)
