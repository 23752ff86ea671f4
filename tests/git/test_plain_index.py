"""A small ordinary index is read as git reads it; every other one is left to git."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.git.index import list_plain_index
from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace


def listed(ws: Workspace) -> list[bytes] | None:
    oid_bytes = 32 if ws.out("rev-parse", "--show-object-format") == "sha256" else 20
    return list_plain_index(os.path.join(os.fsencode(ws.git_dir), b"index"), oid_bytes)


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


@pytest.mark.parametrize("name", sorted(name for name, state in STATES.items() if not state.slow))
def test_no_state_is_read_otherwise_than_git_does(name: str, templates: Templates, tmp_path: Path) -> None:
    state = STATES[name]
    if (reason := state.why_not()) is not None:
        pytest.skip(reason)
    ws = make(state, templates, tmp_path)
    try:
        tagged = ws.git("ls-files", "-z", "-v", "--sparse").split(b"\0")[:-1]
    except AssertionError:
        return
    paths = listed(ws)
    assert paths is None or [b"H " + path for path in paths] == tagged


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
