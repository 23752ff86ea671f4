"""A sparse checkout that leaves .gitignore files out: git reads them in the index, and what they name is ignored."""

from __future__ import annotations

import errno
import os

import pytest

from gitstate.git.opening import open_repository
from gitstate.git.status import ignored_among
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import Workspace, run_git

IGNORES = {".gitignore": "build/\n*.key\n!public.key\n", "lib/.gitignore": "*.log\n"}
IGNORED = {"build/out": "built\n", "src/build/out": "built\n", "src/secret.key": "secret\n", "lib/a.log": "a\n"}
PLAIN = {"src/new": "new\n", "src/public.key": "public\n", "lib/new": "new\n", "src/a.log": "b\n"}


@pytest.fixture
def sparse(ws: Workspace) -> Workspace:
    for path, text in IGNORES.items():
        ws.write(path, text)
    ws.write("src/a")
    ws.commit("ignores")
    ws.git("sparse-checkout", "set", "--no-cone", "/src/", "/a.txt")
    assert not any(os.path.exists(ws.at(path)) for path in IGNORES)
    for path, text in {**IGNORED, **PLAIN}.items():
        ws.write(path, text)
    return ws


def test_what_they_name_is_not_saved(sparse: Workspace) -> None:
    ws = sparse
    before = fingerprint(ws.path)
    saved = saved_from(ws.save())
    added = ws.out("diff", "--name-only", f"{saved.wip}^", saved.wip).splitlines()
    assert sorted(added) == sorted(PLAIN)
    for path in PLAIN:
        ws.remove(path)
    answer = recovered_from(ws.recover())
    assert answer["kept"] == []
    assert before.diff(fingerprint(ws.path)) == []
    assert not [name for name in os.listdir(ws.git_dir / "gitstate") if "ignores" in name]


def test_what_was_destroyed_of_it_is_not_held(sparse: Workspace) -> None:
    """`ignored_among` judges what an agent removed or wrote over."""
    asked = [os.fsencode(path) for path in (*IGNORED, *PLAIN)]
    assert ignored_among(open_repository(os.fsencode(sparse.path)), asked) == {os.fsencode(path) for path in IGNORED}


def test_judge_without_a_place_for_an_index_goes_by_what_is_there(
    sparse: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    repository = open_repository(os.fsencode(sparse.path))
    monkeypatch.setattr(os, "mkdir", refuse)
    assert ignored_among(repository, [b"build/out", b"src/new"]) == set()


def test_partial_clone_that_lacks_them_saves_what_is_there(sparse: Workspace) -> None:
    """Nobody can tell there what is ignored; git itself would ask the remote."""
    source = sparse
    source.config("uploadpack.allowFilter", "true")
    path = source.outside / "partial"
    run_git(source.outside, "clone", "-q", "--filter=blob:none", "--no-checkout", f"file://{source.path}", path)
    ws = Workspace(path, source.outside)
    ws.git("sparse-checkout", "set", "--no-cone", "/src/")
    ws.git("checkout", "-q", "HEAD")
    ws.write("src/build/out", "built\n")
    ws.write("src/new", "new\n")
    source.path.rename(source.outside / "gone")
    saved = saved_from(ws.save())
    assert ws.git("show", f"{saved.wip}:src/new") == b"new\n"
