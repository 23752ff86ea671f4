"""A small ordinary index is read as git reads it; every other one is left to git.

The index of each state is read in `tests/stories/test_round_trip.py`, where the states are made.
"""

from __future__ import annotations

import os

import pytest

from gitstate.git.index import cached_tree, list_plain_index
from tests.support.plain_index import listed
from tests.support.workspace import Workspace


def by_git(ws: Workspace) -> list[bytes]:
    return ws.git("ls-files", "-z").split(b"\0")[:-1]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 61, 62, 63, 64, 65, 200, 255])
def test_path_of_any_length_is_read(length: int, ws: Workspace) -> None:
    ws.write("p" * length)
    ws.write("q" * length)
    ws.git("add", "-A")
    assert listed(ws) == by_git(ws)


def test_path_longer_than_the_flags_can_say_is_read(ws: Workspace) -> None:
    blob = ws.out("rev-parse", "HEAD:a.txt")
    for size in (4094, 4095, 4096, 5000):
        path = "/".join(["d" * 200] * 30)[:size]
        ws.git("read-tree", "HEAD")
        ws.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
        assert path.encode() in by_git(ws)
        assert listed(ws) == by_git(ws)


@pytest.mark.parametrize(
    "change",
    [
        ("update-index", "--assume-unchanged", "a.txt"),
        ("update-index", "--skip-worktree", "a.txt"),
        ("update-index", "--index-version", "4"),
        ("update-index", "--split-index"),
    ],
)
def test_special_index_is_left_to_git(change: tuple[str, ...], ws: Workspace) -> None:
    assert listed(ws) == by_git(ws)
    ws.git(*change)
    assert listed(ws) is None


def test_no_cut_and_no_flipped_byte_ends_in_an_error(ws: Workspace) -> None:
    path = os.path.join(os.fsencode(ws.git_dir), b"index")
    with open(path, "rb") as file:
        data = file.read()
    for place in range(0, len(data), 3):
        for spoiled in (data[:place], data[:place] + bytes((data[place] ^ 0xFF,)) + data[place + 1 :]):
            with open(path, "wb") as file:
                file.write(spoiled)
            list_plain_index(path, 20)


def test_missing_index_has_no_paths(ws: Workspace) -> None:
    os.unlink(os.path.join(os.fsencode(ws.git_dir), b"index"))
    assert listed(ws) == []


def cached(ws: Workspace) -> str | None:
    return cached_tree(os.path.join(os.fsencode(ws.git_dir), b"index"), 20)


@pytest.mark.parametrize("version", [2, 4])
def test_tree_that_an_index_notes_is_the_one_that_git_writes(version: int, ws: Workspace) -> None:
    """A directory has the name of the extension, which its notes then contain."""
    ws.git("update-index", "--index-version", str(version))
    ws.write("TREE/TREE", "TREE\n")
    ws.write("d/e/f", "f\n")
    ws.git("add", "-A")
    assert cached(ws) is None
    ws.commit("more")
    assert cached(ws) == ws.out("write-tree") == ws.out("rev-parse", "HEAD^{tree}")
    ws.git("reset", "-q", "--hard", "HEAD~1")
    assert cached(ws) == ws.out("rev-parse", "HEAD^{tree}")


@pytest.mark.parametrize("how", ["staged", "intent", "deleted", "unmerged", "split", "cut", "none"])
def test_index_that_is_no_tree_notes_none(how: str, ws: Workspace) -> None:
    ws.git("reset", "-q", "--hard")
    before = cached(ws)
    path = ws.git_dir / "index"
    if how in ("staged", "intent"):
        ws.write("new", "new\n")
        ws.git("add", *(["-N"] if how == "intent" else []), "new")
    elif how == "deleted":
        ws.git("rm", "-q", "--cached", "a.txt")
    elif how == "unmerged":
        blob = ws.out("rev-parse", "HEAD:a.txt")
        ws.git("update-index", "--index-info", stdin=f"100644 {blob} 1\tboth\n100644 {blob} 2\tboth\n".encode())
    elif how == "split":
        ws.git("update-index", "--split-index")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.unlink()
    assert before == ws.out("rev-parse", "HEAD^{tree}")
    assert cached(ws) is None


def test_no_flipped_byte_of_an_index_ends_the_search_in_an_error(ws: Workspace) -> None:
    ws.git("reset", "-q", "--hard")
    path = ws.git_dir / "index"
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        for spoiled in (data[:place], data[:place] + bytes((data[place] ^ 0xFF,)) + data[place + 1 :]):
            path.write_bytes(spoiled)
            cached(ws)
