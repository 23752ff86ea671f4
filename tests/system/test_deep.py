"""Directories of any depth are walked and removed: no recursion, and no descriptor for each level."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from gitstate.system.files import remove_tree, walk
from tests.support.repositories import three_files
from tests.support.workspace import Workspace


def make_deep(top: Path, levels: int) -> None:
    """Directories `d` in each other, and a file in the last one."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_directory_deeper_than_any_path_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "beside" / "inner").mkdir(parents=True)
    (top / "beside" / "link").symlink_to(tmp_path)
    (top / "beside").chmod(0o500)
    (tmp_path / "kept").touch()
    make_deep(top, 3_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
    try:
        remove_tree(os.fsencode(top))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_link_is_removed_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    (tmp_path / "link").symlink_to("there")
    remove_tree(os.fsencode(tmp_path / "link"))
    remove_tree(os.fsencode(tmp_path / "missing"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]


def test_walk_is_that_of_python(tmp_path: Path) -> None:
    for name in ("b/c/x", "b/a/x", "a/x", "y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    top = os.fsencode(tmp_path)
    mine = sorted((directory, sorted(names), sorted(others)) for directory, names, others in walk(top))
    assert mine == sorted((directory, sorted(names), sorted(others)) for directory, names, others in os.walk(top))
    directories = []
    for directory, names, _ in walk(top):
        names.clear()
        directories.append(directory)
    assert directories == [top]


@pytest.mark.slow
def test_save_of_a_deep_tree_is_proven(tmp_path: Path) -> None:
    ws: Workspace = three_files(tmp_path)
    (ws.path / "new").mkdir()
    try:
        make_deep(ws.path / "new", 1_200)
        assert ws.save().exit_status == 0
        proof = ws.gitstate("verify")
        assert proof.exit_status == 0 and "proven" in proof.text, proof
    finally:
        # Pytest removes what is left by a recursion.
        remove_tree(os.fsencode(ws.path))
