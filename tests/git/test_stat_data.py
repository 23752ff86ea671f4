"""Stat data that are filled into an index are those that git itself would fill in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitstate.git.command import object_id
from gitstate.git.index import fill_in_stat_data
from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace


@pytest.fixture(params=["sha1", "sha256"])
def ws(request: pytest.FixtureRequest, templates: Templates, tmp_path: Path) -> Workspace:
    """A workspace whose files, all clean, were written anew: the index has other stat data."""
    ws = make(STATES["clean" if request.param == "sha1" else "sha256"], templates, tmp_path)
    ws.write("deep/er/b.txt", "b\n")
    ws.write("run.sh", "#!/bin/sh\n")
    ws.chmod("run.sh", 0o755)
    (ws.path / "link").unlink(missing_ok=True)
    (ws.path / "link").symlink_to("a.txt")
    ws.git("add", "-A")
    ws.commit()
    ws.git("update-index", "-q", "--refresh")
    for path in ("a.txt", "deep/er/b.txt", "run.sh"):
        old = ws.path / path
        new = old.with_name("new")
        new.write_bytes(old.read_bytes())
        new.chmod(old.stat().st_mode & 0o777)
        new.rename(old)
    (ws.path / "link").unlink()
    (ws.path / "link").symlink_to("a.txt")
    return ws


def written_files(ws: Workspace, *paths: str) -> dict[bytes, tuple[str, os.stat_result]]:
    object_format = ws.out("rev-parse", "--show-object-format")
    written = {}
    for path in paths:
        full = ws.path / path
        data = os.readlink(os.fsencode(full)) if full.is_symlink() else full.read_bytes()
        written[path.encode()] = object_id(object_format, "blob", data), full.lstat()
    return written


def filled_in(ws: Workspace, *paths: str) -> bytes | None:
    object_format = ws.out("rev-parse", "--show-object-format")
    pieces = fill_in_stat_data((ws.git_dir / "index").read_bytes(), written_files(ws, *paths), object_format)
    return None if pieces is None else b"".join(pieces)


def put(ws: Workspace, data: bytes) -> None:
    index = ws.git_dir / "index"
    info = index.stat()
    index.write_bytes(data)
    os.utime(index, ns=(info.st_mtime_ns, info.st_mtime_ns))


def listed(ws: Workspace) -> list[bytes]:
    """The entries with their stat data, without fractions of a second: git as it is usually built ignores those."""
    return re.sub(rb"(time: \d+):\d+", rb"\1", ws.git("ls-files", "--debug", "--stage")).splitlines()


def test_filled_in_index_is_the_one_that_git_makes(ws: Workspace) -> None:
    data = filled_in(ws, "a.txt", "deep/er/b.txt", "run.sh", "link")
    assert data is not None
    ws.git("update-index", "--refresh")
    by_git = listed(ws)
    put(ws, data)
    assert listed(ws) == by_git
    assert ws.git("diff-files", "--raw") == b""
    ws.git("fsck")


def test_checksum_of_an_index_that_has_none_stays_zero(ws: Workspace) -> None:
    index = ws.git_dir / "index"
    size = 20 if ws.out("rev-parse", "--show-object-format") == "sha1" else 32
    index.write_bytes(index.read_bytes()[:-size] + bytes(size))
    data = filled_in(ws, "a.txt")
    assert data is not None and data[-size:] == bytes(size) and data != index.read_bytes()


def staged_otherwise(ws: Workspace) -> None:
    ws.write("a.txt", "other\n")


def made_executable(ws: Workspace) -> None:
    ws.chmod("a.txt", 0o755)


def assumed_unchanged(ws: Workspace) -> None:
    ws.git("update-index", "--assume-unchanged", "a.txt")


def hidden(ws: Workspace) -> None:
    ws.git("update-index", "--skip-worktree", "a.txt")


def added_by_intent(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "a.txt")
    ws.git("add", "-N", "a.txt")


def in_conflict(ws: Workspace) -> None:
    oid = ws.out("rev-parse", ":a.txt")
    stages = "".join(f"100644 {oid} {stage}\ta.txt\n" for stage in (1, 2, 3))
    ws.git("update-index", "--index-info", stdin=f"0 {'0' * len(oid)}\ta.txt\n{stages}".encode())


def not_in_the_index(ws: Workspace) -> None:
    ws.git("rm", "-q", "--cached", "a.txt")


@pytest.mark.parametrize(
    "change",
    [staged_otherwise, made_executable, assumed_unchanged, hidden, added_by_intent, in_conflict, not_in_the_index],
)
def test_entry_that_is_not_this_very_file_stays_as_it_is(change: Callable[[Workspace], None], ws: Workspace) -> None:
    change(ws)
    assert filled_in(ws, "a.txt") == (ws.git_dir / "index").read_bytes()


class Searched(bytes):
    """An index that knows how often something was looked for in vain, through all that follows."""

    in_vain = 0

    def find(self, *args: Any) -> int:
        found = super().find(*args)
        self.in_vain += found < 0
        return found


@pytest.mark.parametrize("change", [staged_otherwise, made_executable, assumed_unchanged, hidden, in_conflict])
def test_entry_of_another_blob_is_no_reason_to_read_all_of_the_index(
    change: Callable[[Workspace], None], ws: Workspace
) -> None:
    change(ws)
    index = Searched((ws.git_dir / "index").read_bytes())
    object_format = ws.out("rev-parse", "--show-object-format")
    edited = object_id(object_format, "blob", b"edited\n"), (ws.path / "a.txt").lstat()
    assert fill_in_stat_data(index, {b"a.txt": edited}, object_format) is not None
    # An entry with more flags has two bytes more before its name.
    assert index.in_vain == (change is hidden)


@pytest.mark.parametrize("is_hidden", [False, True])
def test_many_files_that_the_index_lacks_are_not_looked_for_one_by_one(is_hidden: bool, ws: Workspace) -> None:
    """The files that the index has are filled in all the same, before them, among them and behind them."""
    if is_hidden:
        hidden(ws)
    there = ["a.txt", "deep/er/b.txt", "run.sh", "link"]
    for name in ("a", "deep/er/d", "zzz"):
        for number in range(50):
            ws.write(f"{name}{number}.new", "new\n")
    lacking = [f"{name}{number}.new" for name in ("a", "deep/er/d", "zzz") for number in range(50)]
    index = Searched((ws.git_dir / "index").read_bytes())
    object_format = ws.out("rev-parse", "--show-object-format")
    pieces = fill_in_stat_data(index, written_files(ws, *there, *lacking), object_format)
    assert pieces is not None and b"".join(pieces) == filled_in(ws, *there)
    assert b"".join(pieces) != index
    assert index.in_vain == 16


def test_name_that_ends_like_another_is_another_entry(ws: Workspace) -> None:
    ws.write("deep/a.txt", ws.read("a.txt").decode())
    ws.add("deep/a.txt")
    data = filled_in(ws, "a.txt")
    assert data is not None
    before = ws.git("ls-files", "--debug", "deep/a.txt")
    put(ws, data)
    assert ws.git("ls-files", "--debug", "deep/a.txt") == before


def test_index_with_shortened_paths_is_left_to_git(ws: Workspace) -> None:
    ws.git("update-index", "--index-version", "4")
    assert filled_in(ws, "a.txt") is None


def test_index_of_an_fsmonitor_is_left_to_git(ws: Workspace) -> None:
    ws.git("config", "core.fsmonitor", "true")
    ws.git("update-index", "--fsmonitor")
    assert filled_in(ws, "a.txt") is None
