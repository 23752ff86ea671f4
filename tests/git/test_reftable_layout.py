"""The files that git makes beside a reftable: nothing of them is damaged, whichever git is installed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from gitstate.git.damaged.head import refused_settings
from gitstate.git.gitdir import strange_files
from gitstate.workspace.peek import Peeker


def _make(top: Path) -> bytes:
    """A repository with the layout that `git init --ref-format=reftable` of git 2.45 makes; returns its git dir."""
    # Git 3 makes a reftable itself unless it is told otherwise.
    environment = os.environ | {"GIT_DEFAULT_REF_FORMAT": "files"}
    subprocess.run(["git", "init", "-q", os.fspath(top)], check=True, env=environment)
    git_dir = top / ".git"
    (git_dir / "reftable").mkdir()
    (git_dir / "reftable" / "tables.list").write_text("")
    (git_dir / "refs" / "heads").rmdir()
    (git_dir / "refs" / "heads").write_text("this repository uses the reftable format\n")
    (git_dir / "HEAD").write_text("ref: refs/heads/.invalid\n")
    return os.fsencode(git_dir)


def test_file_in_the_place_of_branches_is_not_strange(tmp_path: Path) -> None:
    git_dir = _make(tmp_path / "ws")
    assert strange_files(git_dir, git_dir) == []


def test_head_is_not_called_damaged(tmp_path: Path) -> None:
    _make(tmp_path / "ws")
    seen = Peeker().peek(os.fsencode(tmp_path / "ws"))
    assert not seen.damage
    assert seen.unreadable, "git has to be asked"


def test_other_directories_are_looked_at_beside_a_reftable(tmp_path: Path) -> None:
    git_dir = _make(tmp_path / "ws")
    (tmp_path / "ws" / ".git" / "objects" / "pack").rmdir()
    (tmp_path / "ws" / ".git" / "objects" / "pack").write_text("")
    assert [item.path for item in strange_files(git_dir, git_dir)] == [git_dir + b"/objects/pack"]


def test_same_file_is_strange_without_a_reftable(tmp_path: Path) -> None:
    git_dir = _make(tmp_path / "ws")
    (tmp_path / "ws" / ".git" / "reftable" / "tables.list").unlink()
    (tmp_path / "ws" / ".git" / "reftable").rmdir()
    assert [item.path for item in strange_files(git_dir, git_dir)] == [git_dir + b"/refs/heads"]
    assert Peeker().peek(os.fsencode(tmp_path / "ws")).damage


VERSION_1 = (b"\trepositoryformatversion = 1", b"[extensions]")


def test_its_setting_is_not_taken_for_one_that_git_refuses() -> None:
    """Without it git takes all refs for missing."""
    lines = [b"[core]", *VERSION_1, b"\trefstorage = reftable"]
    assert list(refused_settings(lines)) == []
    assert list(refused_settings([*lines[:3], b"\tobjectformat = none"]))


@pytest.mark.parametrize("lines", [(b"\trepositoryformatversion = 99",), (*VERSION_1, b"\tnew = x")])
def test_format_that_git_does_not_know_is_no_bad_setting(lines: Sequence[bytes]) -> None:
    """Nobody knows what the repository looks like, and without these settings git would open it."""
    assert list(refused_settings([b"[core]", *lines])) == []
