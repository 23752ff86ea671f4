"""Reading one file: as it is, while it changes, when it is gone, special or unreadable."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import LARGE
from gitstate.objects.tree import EXECUTABLE, REGULAR, SYMLINK, Leaf
from gitstate.snapshot.read import Content, has_content, read_content, read_file, read_files, read_whole
from gitstate.snapshot.record import SnapshotBuilder
from tests.support.permissions import drop_override
from tests.support.workspace import Workspace


class ChangingWriter(PackWriter):
    """A pack writer that lets something happen to the file each time when it has been read."""

    def __init__(self, objects: Path, change: Callable[[int], object]) -> None:
        super().__init__(os.fsencode(objects), "sha1", "test")
        self.reads = 0
        self._change = change

    def add(self, kind: str, data: bytes) -> str:
        self.reads += 1
        self._change(self.reads)
        return super().add(kind, data)


@pytest.fixture
def writer(tmp_path: Path) -> PackWriter:
    return PackWriter(os.fsencode(tmp_path / "objects"), "sha1", "test")


def content_of(path: Path, writer: PackWriter, largest: int | None = None) -> Content:
    return read_content(os.fsencode(path), writer, largest)


def test_regular_file_is_read(tmp_path: Path, writer: PackWriter) -> None:
    (tmp_path / "f").write_bytes(b"text\n")
    content = content_of(tmp_path / "f", writer)
    assert content.oid is not None and writer.content(content.oid) == b"text\n"
    assert content.problem == "" and not content.lost


@pytest.mark.parametrize("target", ["f", "gone", "."])
def test_symlink_is_read_and_not_followed(tmp_path: Path, writer: PackWriter, target: str) -> None:
    (tmp_path / "f").write_bytes(b"text\n")
    (tmp_path / "link").symlink_to(target)
    content = content_of(tmp_path / "link", writer)
    assert content.oid is not None and writer.content(content.oid) == target.encode()
    assert content.info is not None and stat.S_ISLNK(content.info.st_mode)


@pytest.mark.parametrize("name", ["gone", "f/below"])
def test_missing_file_is_no_problem(tmp_path: Path, writer: PackWriter, name: str) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert content_of(tmp_path / name, writer) == Content()


def test_fifo_is_skipped_without_waiting_for_a_writer(tmp_path: Path, writer: PackWriter) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert content_of(tmp_path / "fifo", writer) == Content(problem="a FIFO: git cannot store it")


def test_file_over_the_limit_is_lost(tmp_path: Path, writer: PackWriter) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert content_of(tmp_path / "f", writer, 5).oid is not None
    content = content_of(tmp_path / "f", writer, 4)
    assert content.oid is None and content.lost and "4 bytes" in content.problem


def test_file_that_changes_once_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    writer = ChangingWriter(tmp_path / "objects", lambda reads: path.write_bytes(b"newer") if reads == 1 else None)
    content = content_of(path, writer)
    assert content.oid is not None and writer.content(content.oid) == b"newer"
    assert content.problem == "" and writer.reads == 2


def test_file_that_keeps_changing_is_saved_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0")
    writer = ChangingWriter(tmp_path / "objects", lambda reads: path.write_bytes(b"0" * (reads + 1)))
    content = content_of(path, writer)
    assert content.oid is not None and writer.content(content.oid) == b"000"
    assert content.lost and content.problem.startswith("kept changing")


def test_large_file_that_keeps_shrinking_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0" * (LARGE + 1))
    (tmp_path / "objects").mkdir()

    class Shrinking(PackWriter):
        def add_file(self, fd: int, size: int) -> str:
            os.truncate(path, size - 1)
            try:
                return super().add_file(fd, size)
            finally:
                os.truncate(path, LARGE + 1)

    content = content_of(path, Shrinking(os.fsencode(tmp_path / "objects"), "sha1", "test"))
    assert content == Content(problem="kept changing while it was read", lost=True)


def test_file_that_vanishes_before_the_second_read_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def change(reads: int) -> None:
        path.write_bytes(b"newer")
        os.rename(path, tmp_path / "elsewhere")

    # The open file is a changed one; at the second attempt there is none.
    assert content_of(path, ChangingWriter(tmp_path / "objects", change)) == Content()


def test_growing_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    with open(path, "rb") as file:
        assert read_whole(file.fileno(), 2) == b"12345"
        assert read_whole(file.fileno(), 5) == b""


def test_unreadable_file_is_lost(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"text")
    (tmp_path / "f").chmod(0)
    script = (
        "import os, sys\n"
        "from gitstate.objects.pack import PackWriter\n"
        "from gitstate.snapshot.read import read_content\n"
        "content = read_content(os.fsencode(sys.argv[1]), PackWriter(b'', 'sha1', 'test'), None)\n"
        "print(content.oid, content.problem, content.lost)\n"
    )
    argv = [sys.executable, "-c", script, os.fspath(tmp_path / "f")]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", preexec_fn=drop_override, check=True)
    assert done.stdout == "None unreadable: Permission denied True\n"


@pytest.mark.parametrize(
    ("permissions", "mode", "noted"),
    [(0o644, REGULAR, None), (0o755, EXECUTABLE, None), (0o600, REGULAR, 0o600), (0o700, EXECUTABLE, 0o700)],
)
def test_unusual_permissions_are_noted(
    ws: Workspace, new_builder: Callable[..., SnapshotBuilder], permissions: int, mode: int, noted: int | None
) -> None:
    ws.write("a", "new\n", permissions)
    builder = new_builder()
    leaf = read_file(builder, b"a")
    assert leaf is not None and leaf.mode == mode
    assert builder.snapshot.modes.get(b"a") == noted


def test_nothing_is_read_after_the_deadline(new_builder: Callable[..., SnapshotBuilder]) -> None:
    builder = new_builder(deadline=0.0)
    assert read_file(builder, b"a") is None
    (skipped,) = builder.snapshot.left_out
    assert skipped.path == b"a" and skipped.lost and "deadline" in skipped.reason


def test_each_kind_of_path_is_read_or_explained(ws: Workspace, new_builder: Callable[..., SnapshotBuilder]) -> None:
    ws.write("a", "changed\n")
    ws.symlink("a", "link")
    ws.remove("d")
    ws.symlink("outside", "d")
    os.mkfifo(ws.at("fifo"))
    ws.mkdir("b2")
    builder = new_builder()
    builder.index_modes = {b"a": REGULAR, b"d/x": REGULAR, b"b2": REGULAR}
    paths = [b"a", b"link", b"d/x", b"fifo", b"b2", b"gone", b".git/config", b"b"]
    assert read_files(builder, paths, (b"b", b"gone")) == [b"b"]
    worktree = builder.snapshot.worktree
    assert {path: leaf and leaf.mode for path, leaf in worktree.items()} == {
        b"a": REGULAR,
        b"link": SYMLINK,
        b"d/x": None,
        b"b2": None,
    }
    assert {(item.path, item.lost) for item in builder.snapshot.left_out} == {(b"fifo", False), (b".git/config", True)}
    leaf = worktree[b"a"]
    assert isinstance(leaf, Leaf) and builder.writer.content(leaf.oid) == b"changed\n"


def test_content_is_compared_byte_for_byte(ws: Workspace) -> None:
    oid = ws.out("rev-parse", "HEAD:a")
    assert has_content(ws.at("a"), "sha1", oid)
    assert not has_content(ws.at("b"), "sha1", oid)
    assert not has_content(ws.at("gone"), "sha1", oid)
    assert not has_content(ws.at("d"), "sha1", oid)
    ws.symlink("a0\n", "link")
    assert has_content(ws.at("link"), "sha1", oid), "the target of a symlink is its content"
