"""An index tells by its bytes whether it hides an entry from git; what is not sure is left to git."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitstate.git.command import Git
from gitstate.git.entries import hidden_tags
from gitstate.git.hidden import shows_all
from tests.support.workspace import Workspace

#: A path that holds the bytes of entries: modes, and flags behind them.
DISGUISE = os.fsdecode(b"dir/\x81\xa4" + b"x" * 32 + b"\x80\x01y\xa0")


@pytest.fixture(params=["sha1", "sha256"])
def ws(tmp_path: Path, request: pytest.FixtureRequest) -> Workspace:
    ws = Workspace(tmp_path / "ws", tmp_path)
    ws.path.mkdir()
    ws.git("init", "-q", f"--object-format={request.param}", ".")
    for name in ("a", "run.sh", "deep/er/file", "n" * 250, f"{'d' * 200}/{'f' * 100}", DISGUISE):
        ws.write(name, "text\n")
    (ws.path / "run.sh").chmod(0o755)
    ws.symlink("a", "link")
    ws.git("add", "-A")
    ws.git("update-index", "--add", "--cacheinfo", f"160000,{ws.out('rev-parse', ':a')},module")
    return ws


def told(ws: Workspace) -> bool:
    return shows_all(os.fsencode(ws.git_dir / "index"), len(ws.out("hash-object", "a")) // 2)


PATHS = ["a", "run.sh", "deep/er/file", "n" * 250, f"{'d' * 200}/{'f' * 100}", DISGUISE, "link", "module"]


@pytest.mark.parametrize("flag", ["assume-unchanged", "skip-worktree"])
@pytest.mark.parametrize(
    "path", PATHS, ids=["file", "program", "deep", "long", "longer", "disguise", "link", "gitlink"]
)
def test_hidden_entry_is_seen(flag: str, path: str, ws: Workspace) -> None:
    assert told(ws)
    ws.git("update-index", f"--{flag}", path)
    assert not told(ws)
    ws.git("update-index", f"--no-{flag}", path)
    assert told(ws) or flag == "skip-worktree"


@pytest.mark.parametrize("version", ["3", "4"])
def test_other_versions_are_left_to_git(version: str, ws: Workspace) -> None:
    ws.git("update-index", "--index-version", version)
    assert told(ws) == ((ws.git_dir / "index").read_bytes()[7:8] == b"\x02")


def test_what_is_no_index_is_left_to_git(ws: Workspace) -> None:
    assert not shows_all(os.fsencode(ws.path / "none"), 20)
    (ws.git_dir / "index").write_bytes(b"")
    assert not shows_all(os.fsencode(ws.git_dir / "index"), 20)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hidden=st.sets(st.integers(0, 299)), seed=st.integers(0, 2**32))
def test_it_never_overlooks_an_entry(hidden: set[int], seed: int, ws: Workspace) -> None:
    oid_bytes = len(ws.out("hash-object", "a")) // 2
    lines = "".join(f"100644 {number * seed + 1:0{2 * oid_bytes}x}\tp{number}\0" for number in range(300))
    ws.git("read-tree", "--empty")
    ws.git("update-index", "-z", "--index-info", stdin=lines.encode())
    if hidden:
        names = "".join(f"p{number}\0" for number in hidden)
        ws.git("update-index", "-z", "--assume-unchanged", "--stdin", stdin=names.encode())
    index = os.fsencode(ws.git_dir / "index")
    git = Git(os.fsencode(ws.path))
    assert len(hidden_tags(git, index)) == len(hidden)
    assert shows_all(index, oid_bytes) == (not hidden)
