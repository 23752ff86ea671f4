"""Reading one file: as it is, while it changes, when it is gone, special or unreadable."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.git.command import object_id
from gitstate.objects.pack import PackWriter
from gitstate.objects.reader import LARGE
from gitstate.objects.tree import EXECUTABLE, REGULAR, SYMLINK, Leaf
from gitstate.snapshot.read import NEVER, Content, has_content, read_content, read_file, read_files, read_whole
from gitstate.snapshot.record import LISTED_BY_NAME, Growth, SnapshotBuilder
from gitstate.snapshot.snapshot import most_precious_first, store_in_order
from gitstate.system.clock import Deadline
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
    return read_content(
        os.fsencode(path), writer, lambda size: f"{size} bytes" if largest is not None and size > largest else ""
    )


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


@pytest.mark.parametrize("kind", ["link", "FIFO", "file", "gone"])
@pytest.mark.parametrize("before", ["file", "link"])
def test_what_was_replaced_after_it_was_looked_at_is_read(
    tmp_path: Path, writer: PackWriter, before: str, kind: str
) -> None:
    """An agent works on: what was a file a moment ago is a link."""
    path = tmp_path / "f"
    path.write_bytes(b"old\n") if before == "file" else path.symlink_to("old")
    info = path.lstat()
    path.unlink()
    if kind == "link":
        path.symlink_to("new")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "file":
        path.write_bytes(b"new\n")
    content = read_content(os.fsencode(path), writer, info=info)
    if kind in ("FIFO", "gone"):
        assert content == Content(problem="a FIFO: git cannot store it" if kind == "FIFO" else "")
    else:
        assert content.oid is not None and writer.content(content.oid) == (b"new" if kind == "link" else b"new\n")
        assert content.info is not None and stat.S_ISLNK(content.info.st_mode) == (kind == "link")


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
    assert content.oid is None and content.lost and content.problem == "5 bytes"


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
    writer = ChangingWriter(tmp_path / "objects", lambda reads: path.write_bytes(b"%d" % reads * (reads + 1)))
    content = content_of(path, writer)
    assert content.oid is not None and writer.content(content.oid) == b"222"
    assert content.lost and content.problem.startswith("kept changing")


def test_large_file_that_keeps_shrinking_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0" * (LARGE + 1))
    (tmp_path / "objects").mkdir()

    class Shrinking(PackWriter):
        def add_file(self, fd: int, size: int, deadline: Deadline = NEVER) -> str:
            os.truncate(path, size - 1)
            try:
                return super().add_file(fd, size, deadline)
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


def test_file_is_read_up_to_the_size_that_it_had(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    with open(path, "rb") as file:
        assert read_whole(file.fileno(), 2) == b"12"
        assert read_whole(file.fileno(), 5) == b"345"


def test_file_that_is_said_to_have_no_bytes_is_read_to_its_end() -> None:
    with open("/proc/self/status", "rb") as file:
        assert os.fstat(file.fileno()).st_size == 0
        assert read_whole(file.fileno(), 0).endswith(b"\n")


@pytest.mark.parametrize("size", [5, LARGE + 5])
def test_growing_file_is_saved_as_it_was_when_it_was_opened(tmp_path: Path, size: int) -> None:
    """A log, a transcript: somebody always appends to it."""
    path = tmp_path / "log"
    path.write_bytes(b"x" * size)

    class Growing(PackWriter):
        def grow(self) -> None:
            with open(path, "ab") as file:
                file.write(b"more")

        def add(self, kind: str, data: bytes) -> str:
            self.grow()
            return super().add(kind, data)

        def add_file(self, fd: int, size: int, deadline: Deadline = NEVER) -> str:
            self.grow()
            return super().add_file(fd, size, deadline)

    (tmp_path / "objects").mkdir()
    content = content_of(path, Growing(os.fsencode(tmp_path / "objects"), "sha1", "test"))
    assert content.problem == "" and not content.lost
    assert content.oid == object_id("sha1", "blob", b"x" * size)
    assert path.stat().st_size == size + 4


def test_file_that_grows_and_changes_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0" * (LARGE + 1))

    class Changing(PackWriter):
        def add_file(self, fd: int, size: int, deadline: Deadline = NEVER) -> str:
            oid = super().add_file(fd, size, deadline)
            path.write_bytes(os.urandom(size + 1))
            return oid

    (tmp_path / "objects").mkdir()
    content = content_of(path, Changing(os.fsencode(tmp_path / "objects"), "sha1", "test"))
    assert content.lost and content.problem.startswith("kept changing")


def test_holes_of_a_large_file_take_no_room(tmp_path: Path) -> None:
    size = 100 * (1 << 20) + 5
    with open(tmp_path / "f", "wb") as file:
        for place in (0, 30 << 20, (60 << 20) + 17, size - 5):
            file.seek(place)
            file.write(b"data\n")
    if os.stat(tmp_path / "f").st_blocks * 512 > size // 2:
        pytest.skip("this file system has no sparse files")
    subprocess.run(["git", "init", "-q", tmp_path / "r"], check=True)
    writer = PackWriter(os.fsencode(tmp_path / "r/.git/objects"), "sha1", "test")
    content = content_of(tmp_path / "f", writer)
    assert writer.written < 10 << 20
    hashed = subprocess.run(["git", "hash-object", tmp_path / "f"], check=True, capture_output=True, encoding="ascii")
    assert content.oid == hashed.stdout.strip()
    git = ["git", "-C", os.fspath(tmp_path / "r")]
    subprocess.run([*git, "fsck", "--strict"], check=True, capture_output=True)
    blob = subprocess.run([*git, "cat-file", "blob", str(content.oid)], check=True, capture_output=True).stdout
    assert blob == (tmp_path / "f").read_bytes()


def test_huge_sparse_file_is_skipped_by_name(tmp_path: Path, writer: PackWriter) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.truncate(1 << 40)
        file.write(b"data")
    content = content_of(tmp_path / "f", writer)
    assert content.oid is None and content.lost and "sparse" in content.problem


def test_large_file_ends_with_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    with open(tmp_path / "f", "wb") as file:
        file.write(b"x" * (LARGE + 1))

    class Late(PackWriter):
        """The deadline passes in the middle of the file."""

        pieces = 0

        def add_file(self, fd: int, size: int, deadline: Deadline = NEVER) -> str:
            writer = self

            class Passing(Deadline):
                def passed(self) -> bool:
                    writer.pieces += 1
                    return writer.pieces > 3

            return super().add_file(fd, size, Passing(None))

    late = Late(os.fsencode(tmp_path / "objects"), "sha1", "test")
    content = content_of(tmp_path / "f", late)
    assert content.oid is None and content.lost and "deadline" in content.problem
    assert late.pieces == 4
    assert os.listdir(tmp_path / "objects" / "pack") == []


def test_checkpoint_grows_by_little() -> None:
    growth = Growth(1 << 20, {b"waits"}, {}, None)
    assert growth.refusal(b"small", growth.FREE) == ""
    assert growth.refusal(b"waits", growth.FREE + 1) != ""
    # Asked twice for a file that changes while it is read.
    assert [growth.refusal(b"a", 1 << 20) for _ in range(2)] == ["", ""]
    assert growth.refusal(b"b", growth.FREE + 1) != ""
    assert growth.left == 0 and growth.refused.keys() == {b"waits", b"b"}


def test_large_file_of_the_last_checkpoint_is_not_read_again(
    ws: Workspace, new_builder: Callable[..., SnapshotBuilder]
) -> None:
    """One that changed, and may not be taken again yet, is saved as the checkpoint has it, and named."""
    ws.write("large", b"x" * (Growth.FREE + 1))
    builder = new_builder(growth=Growth(1 << 20, set(), {}, None))
    first = read_file(builder, b"large")
    assert first is not None and builder.options.growth is not None
    builder.writer.finish()
    held = builder.options.growth.taken
    assert held.keys() == {b"large"}

    again = new_builder(growth=Growth(1 << 20, {b"large"}, held, None))
    assert read_file(again, b"large") == first and first.oid not in again.writer
    assert again.snapshot.left_out == []

    ws.append("large", "more")
    changed = new_builder(growth=Growth(1 << 20, {b"large"}, held, None))
    assert read_file(changed, b"large") == first
    (skipped,) = changed.snapshot.left_out
    assert skipped.path == b"large" and skipped.lost and "before is saved" in skipped.reason


@pytest.mark.parametrize("count", [3, LISTED_BY_NAME + 1])
def test_paths_that_came_too_late_are_named(new_builder: Callable[..., SnapshotBuilder], count: int) -> None:
    builder = new_builder(deadline=0.0)
    in_any_case = [b"tiny"] * 64
    assert read_files(builder, [*in_any_case, b"top", *(b"d/%d" % number for number in range(count))], ()) == []
    left = {item.path: item.reason for item in builder.snapshot.left_out}
    assert all("deadline" in reason for reason in left.values())
    if count <= 3:
        assert left.keys() == {b"top", b"d/0", b"d/1", b"d/2"}
    else:
        assert left.keys() == {b"top", b"d"} and f"{count} paths" in left[b"d"]


def test_unreadable_file_is_lost(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"text")
    (tmp_path / "f").chmod(0)
    script = (
        "import os, sys\n"
        "from gitstate.objects.pack import PackWriter\n"
        "from gitstate.snapshot.read import read_content\n"
        "content = read_content(os.fsencode(sys.argv[1]), PackWriter(b'', 'sha1', 'test'))\n"
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


@pytest.mark.parametrize("deadline", [None, 60.0])
def test_newest_small_files_come_first_and_large_ones_last(
    ws: Workspace, new_builder: Callable[..., SnapshotBuilder], deadline: float | None
) -> None:
    for number, size in enumerate((5 << 20, 3, 6 << 20, 2, 1)):
        ws.write(f"f{number}", b"x" * size)
        os.utime(ws.at(f"f{number}"), (number, number))
    paths = [b"f0", b"f1", b"f2", b"f3", b"f4", b"gone"]
    builder = new_builder(deadline=deadline)
    order = ([b"gone", b"f4", b"f3", b"f1"], [b"f0", b"f2"])
    assert most_precious_first(builder, paths) == (order if deadline else (paths, []))


def test_changed_tracked_files_have_more_time(ws: Workspace, new_builder: Callable[..., SnapshotBuilder]) -> None:
    ws.write("a", "changed\n" * 10_000)
    ws.write("new", "new\n" * 20_000)
    ws.write("tiny", "new\n")
    builder = new_builder(deadline=0.0)
    builder.end = Deadline(60.0)
    store_in_order(builder, [b"a"], [b"new", b"tiny"])
    assert builder.snapshot.worktree.keys() == {b"a", b"tiny"}
    assert [item.path for item in builder.snapshot.left_out] == [b"new"]
