"""Files below a top directory: what is seen, what is written, and what is refused."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gitstate.workspace.files import MISSING, FileState, Worktree


@pytest.fixture
def top(tmp_path: Path) -> Path:
    path = tmp_path / "top"
    path.mkdir()
    (tmp_path / "temporary").mkdir()
    return path


@pytest.fixture
def worktree(top: Path) -> Worktree:
    return Worktree(os.fsencode(top), os.fsencode(top.parent / "temporary"), "sha1")


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def put_file(top: Path) -> None:
    (top / "x").write_bytes(b"text\n")
    (top / "x").chmod(0o600)


def put_directory(top: Path) -> None:
    (top / "x").mkdir(0o700)


@pytest.mark.parametrize(
    ("put", "expected"),
    [
        (lambda top: None, MISSING),
        (put_file, FileState("file", blob(b"text\n"), 0o600)),
        (lambda top: (top / "x").symlink_to("gone"), FileState("link", blob(b"gone"), 0o777)),
        (put_directory, FileState("directory", None, 0o700)),
        (lambda top: os.mkfifo(top / "x"), FileState("special")),
    ],
    ids=["missing", "file", "symlink", "directory", "FIFO"],
)
def test_each_kind_is_seen(worktree: Worktree, top: Path, put: Callable[[Path], object], expected: FileState) -> None:
    put(top)
    assert worktree.look(b"x") == expected
    assert worktree.look(b"x/below") == MISSING


def test_file_is_written_with_its_parents(worktree: Worktree, top: Path) -> None:
    worktree.write_file(b"d/e/x", [b"a", b"b"], 0o640, MISSING)
    worktree.sync()
    assert (top / "d/e/x").read_bytes() == b"ab"
    assert worktree.look(b"d/e/x") == FileState("file", blob(b"ab"), 0o640)
    assert os.listdir(top.parent / "temporary") == []


@pytest.mark.parametrize("change", [b"edited", None], ids=["edited", "deleted"])
def test_changed_file_is_not_overwritten(worktree: Worktree, top: Path, change: bytes | None) -> None:
    (top / "x").write_bytes(b"old")
    seen = worktree.look(b"x")
    if change is None:
        (top / "x").unlink()
    else:
        (top / "x").write_bytes(change)
    acts: tuple[Callable[[], object], ...] = (
        lambda: worktree.write_file(b"x", [b"new"], 0o644, seen),
        lambda: worktree.write_link(b"x", b"new", seen),
        lambda: worktree.delete(b"x", seen),
    )
    for act in acts:
        with pytest.raises(FileExistsError):
            act()
    assert (top / "x").exists() is (change is not None)
    assert change is None or (top / "x").read_bytes() == change
    assert os.listdir(top.parent / "temporary") == []


def test_file_that_appeared_is_not_overwritten(worktree: Worktree, top: Path) -> None:
    (top / "x").write_bytes(b"new")
    with pytest.raises(FileExistsError):
        worktree.write_file(b"x", [b"saved"], 0o644, MISSING)
    with pytest.raises(FileExistsError):
        worktree.take_in(os.fsencode(top / "x"), b"x")
    assert (top / "x").read_bytes() == b"new"


def test_failed_write_leaves_nothing(worktree: Worktree, top: Path) -> None:
    def content() -> Iterator[bytes]:
        yield b"begun"
        raise OSError("the object is unreadable")

    with pytest.raises(OSError, match="unreadable"):
        worktree.write_file(b"x", content(), 0o644, MISSING)
    assert os.listdir(top) == os.listdir(top.parent / "temporary") == []


@pytest.mark.parametrize("path", [b"link/x", b"link/d/x"])
def test_symlink_in_the_path_is_not_followed(worktree: Worktree, top: Path, path: bytes) -> None:
    outside = top.parent / "outside"
    (outside / "d").mkdir(parents=True)
    (outside / "x").write_bytes(b"theirs")
    (top / "link").symlink_to(outside)
    assert worktree.look(path) == MISSING
    with pytest.raises(NotADirectoryError):
        worktree.write_file(path, [b"ours"], 0o644, MISSING)
    assert sorted(os.listdir(outside)) == ["d", "x"] and os.listdir(outside / "d") == []


@pytest.mark.parametrize("path", [b"../x", b"/x", b".git/x", b"d/.GIT/x", b""])
def test_path_that_git_refuses_is_refused(worktree: Worktree, path: bytes) -> None:
    with pytest.raises(PermissionError):
        worktree.write_file(path, [b"x"], 0o644, MISSING)


def test_only_empty_directories_are_removed(worktree: Worktree, top: Path) -> None:
    worktree.make_directory(b"d/e")
    assert worktree.is_empty(b"d/e") and not worktree.is_empty(b"d")
    assert not worktree.remove_directory(b"d")
    assert worktree.remove_directory(b"d/e") and worktree.remove_directory(b"d")
    (top / "x").write_bytes(b"")
    assert not worktree.remove_directory(b"x") and not worktree.remove_directory(b"gone")
    with pytest.raises(NotADirectoryError):
        worktree.make_directory(b"x")


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second file system at /dev/shm")
def test_files_come_from_another_file_system(top: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == os.stat(top).st_dev:
            pytest.skip("needs a second file system at /dev/shm")
        worktree = Worktree(os.fsencode(top), os.fsencode(other), "sha1")
        worktree.write_file(b"x", [b"one"], 0o600, MISSING)
        worktree.write_file(b"x", [b"two"], 0o755, worktree.look(b"x"))
        worktree.write_link(b"link", b"x", MISSING)
        assert (top / "x").read_bytes() == b"two" and worktree.permissions(b"x") == 0o755
        assert os.readlink(top / "link") == "x"
        assert sorted(os.listdir(top)) == ["link", "x"] and os.listdir(other) == []


def test_directories_that_are_held_open_show_what_is_there(top: Path, worktree: Worktree) -> None:
    deep = "/".join(["d"] * 200)
    for directory in ("a/b/c", "a/b2", "z", deep):
        (top / directory).mkdir(parents=True)
        (top / directory / "file").write_text(directory[:20])
    (top / "link").symlink_to("a")
    (top / "a/b/link").symlink_to("../b2")
    outside = top.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("outside")
    (top / "out").symlink_to(outside)
    paths = [b"a", b"a/b", b"a/b/c", b"a/b/c/file", b"a/b/c/gone", b"a/b/c/gone/file", b"a/b/file", b"a/b/link"]
    paths += [b"a/b/link/file", b"a/b2/file", b"a/file", b"a/b/c/file/x", b"gone/file", b"link/b2/file", b"out/file"]
    paths += [deep.encode() + b"/file", b"z/file", b"a/b/c/file", b"top"]
    one_by_one = [worktree.look(path) for path in paths]
    assert [state.kind for state in one_by_one[:4]] == ["directory", "directory", "directory", "file"]
    descriptors = len(os.listdir("/proc/self/fd"))
    with worktree.held_open():
        assert [worktree.look(path) for path in paths] == one_by_one
        assert [worktree.look(path) for path in reversed(paths)] == one_by_one[::-1]
        assert worktree.permissions(b"a/b/c/file") == 0o644 and worktree.stamp(b"out/file") is None
        with pytest.raises(PermissionError):
            worktree.look(b"a/../a")
    assert len(os.listdir("/proc/self/fd")) == descriptors
    (top / "a/b/c/file").unlink()
    assert worktree.look(b"a/b/c/file") == MISSING


def test_what_is_written_while_directories_are_held_open_is_there(top: Path, worktree: Worktree) -> None:
    with worktree.held_open():
        assert worktree.look(b"a/b/file") == MISSING
        worktree.write_file(b"a/b/file", [b"text\n"], 0o644, MISSING)
        assert worktree.look(b"a/b/file").kind == "file"


@pytest.mark.parametrize("name", [".fuse_hidden0000128100000007", ".nfs00000000000a1b2c00000001"])
def test_directory_waits_for_a_deleted_file_to_go(
    name: str, worktree: Worktree, top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system hears in the pause that the file was closed."""
    (top / "d").mkdir()
    (top / "d" / name).write_text("deleted")
    monkeypatch.setattr("time.sleep", lambda _: (top / "d" / name).unlink())
    assert worktree.remove_directory(b"d")
    assert not (top / "d").exists()


def test_directory_stays_where_a_deleted_file_is_open(worktree: Worktree, top: Path) -> None:
    (top / "d").mkdir()
    (top / "d" / ".fuse_hidden01").write_text("deleted")
    assert not worktree.remove_directory(b"d")
    assert (top / "d" / ".fuse_hidden01").read_text() == "deleted"
