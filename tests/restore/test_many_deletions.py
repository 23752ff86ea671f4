"""A recovery that deletes many files tries each directory once, not once for each file."""

from __future__ import annotations

import shutil

import pytest

from gitstate.recover.recover import recover
from gitstate.recover.request import RecoverRequest
from gitstate.workspace.files import Worktree
from tests.support.workspace import Workspace

FILES = 40


def test_each_emptied_directory_is_tried_once(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("gone/one", "gone/two/deep", "stays"):
        for number in range(FILES):
            ws.write(f"{directory}/{number}", f"{number}\n")
    ws.commit("many")
    for directory in ("gone", "stays"):
        shutil.rmtree(ws.path / directory)
    ws.write("stays/new", "new\n")
    ws.path.joinpath("kept/empty").mkdir(parents=True)
    base = ws.out("rev-parse", "HEAD")
    assert ws.save().exit_status == 0
    ws.git("reset", "-q", "--hard", base)
    tried = []
    remove_directory = Worktree.remove_directory

    def counted(disk: Worktree, path: bytes) -> bool:
        tried.append(path)
        return remove_directory(disk, path)

    monkeypatch.setattr(Worktree, "remove_directory", counted)
    assert recover(bytes(ws.path), RecoverRequest()).exit_status == 0
    assert not ws.path.joinpath("gone").exists()
    assert [path.name for path in ws.path.joinpath("stays").iterdir()] == ["new"]
    assert ws.path.joinpath("kept/empty").is_dir()
    assert tried.count(b"stays") == 1 and len(tried) < FILES
