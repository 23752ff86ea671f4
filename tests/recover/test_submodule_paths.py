"""Submodules whose git dirs are where the configuration says (`extensions.submodulePathConfig`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.skips import NO_SUBMODULE_PATHS
from tests.support.workspace import Workspace, run_git


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with two submodules whose names differ in their letters alone, each with an edit and a commit."""
    ws = Workspace(tmp_path / "repo", tmp_path)
    run_git(tmp_path, "-c", "init.defaultSubmodulePathConfig=true", "init", "-q", ws.path)
    if "submodulepathconfig" not in (ws.path / ".git" / "config").read_text().lower():
        pytest.skip(NO_SUBMODULE_PATHS)
    library = Workspace(tmp_path / "library", tmp_path)
    run_git(tmp_path, "init", "-q", library.path)
    library.write("f.txt", "f\n")
    library.commit("base")
    for name, path in (("lib/foo", "one"), ("Lib/Foo", "two")):
        ws.git("submodule", "--quiet", "add", "--name", name, library.path, path)
    ws.commit("with submodules")
    for path in ("one", "two"):
        inner = Workspace(ws.path / path, tmp_path)
        inner.write("g.txt", f"{path}\n")
        inner.commit(path)
        inner.append("f.txt", f"{path}\n")
    return ws


@pytest.mark.parametrize("also", ["", ".git/modules"], ids=["wiped", "wiped with modules"])
def test_submodules_come_back_where_the_configuration_has_them(also: str, ws: Workspace) -> None:
    places = {path: run_git(ws.path / path, "rev-parse", "--absolute-git-dir") for path in ("one", "two")}
    before = {path: run_git(ws.path / path, "rev-parse", "HEAD") for path in places}
    saved_from(ws.save(), exits=(0, 4))
    for path in (*places, *filter(None, [also])):
        shutil.rmtree(ws.path / path)
    recovered_from(ws.recover())
    for path, place in places.items():
        assert (ws.path / path / "f.txt").read_text() == f"f\n{path}\n"
        assert run_git(ws.path / path, "rev-parse", "--absolute-git-dir") == place
        assert run_git(ws.path / path, "rev-parse", "HEAD") == before[path]
    assert ws.git("submodule", "foreach", "--quiet", "git status --porcelain") == b" M f.txt\n M f.txt\n"


@pytest.mark.parametrize("name", ["lib", "Lib"])
def test_clean_submodule_comes_back_whatever_the_letters_of_its_name(name: str, tmp_path: Path) -> None:
    library = Workspace(tmp_path / "library", tmp_path)
    run_git(tmp_path, "init", "-q", library.path)
    library.write("f.txt", "f\n")
    library.commit("base")
    ws = Workspace(tmp_path / "repo", tmp_path)
    run_git(tmp_path, "init", "-q", ws.path)
    ws.git("submodule", "--quiet", "add", "--name", name, library.path, "one")
    ws.commit("with a submodule")
    ws.write("new.txt")
    saved_from(ws.save())
    shutil.rmtree(ws.path / "one")
    recovered_from(ws.recover())
    assert (ws.path / "one" / "f.txt").read_text() == "f\n"
    ws.expect_exactly("?? new.txt")
