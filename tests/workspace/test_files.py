"""Files below a top directory: what is seen, what is written, and what is refused."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gitstate.workspace.files import CHANGING, MISSING, FileState, Worktree


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


@pytest.fixture
def another_file_system(top: Path) -> Iterator[Path]:
    """A directory on another file system than `top`."""
    if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(top).st_dev:
        pytest.skip("needs a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        yield Path(other)


def test_files_come_from_another_file_system(top: Path, another_file_system: Path) -> None:
    worktree = Worktree(os.fsencode(top), os.fsencode(another_file_system), "sha1")
    worktree.write_file(b"x", [b"one"], 0o600, MISSING)
    worktree.write_file(b"x", [b"two"], 0o755, worktree.look(b"x"))
    worktree.write_link(b"link", b"x", MISSING)
    worktree.write_link(b"link", b"gone", worktree.look(b"link"))
    assert (top / "x").read_bytes() == b"two" and worktree.permissions(b"x") == 0o755
    assert os.readlink(top / "link") == "gone"
    assert sorted(os.listdir(top)) == ["link", "x"] and os.listdir(another_file_system) == []


def in_a_thread(work: Callable[[], object]) -> Callable[[], list[BaseException]]:
    """Begin `work`; what is returned waits for its end, and tells what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def end() -> list[BaseException]:
        thread.join(60)
        assert not thread.is_alive()
        return raised

    return end


def changed_while_read(path: Path, look: Callable[[], FileState]) -> FileState:
    """What `look` says of a file whose first byte changes all the time."""
    stop = threading.Event()

    def change() -> None:
        with open(path, "r+b", buffering=0) as file:
            while not stop.is_set():
                file.seek(0)
                file.write(os.urandom(1))

    end = in_a_thread(change)
    try:
        for _ in range(200):
            found = look()
            # Both may come between two ticks of the kernel's clock, or the other thread has to wait.
            if found.oid == CHANGING:
                break
        return found
    finally:
        stop.set()
        assert end() == []


def test_file_that_changes_while_it_is_read_is_nothing_to_replace(top: Path, worktree: Worktree) -> None:
    (top / "x").write_bytes(b"")
    os.truncate(top / "x", 64 << 20)
    before = worktree.look(b"x")
    found = changed_while_read(top / "x", lambda: worktree.look(b"x"))
    assert (found.kind, found.oid) == ("file", CHANGING)
    for expected in (found, before):
        with pytest.raises(FileExistsError):
            worktree.write_file(b"x", [b"older\n"], 0o644, expected)
        with pytest.raises(FileExistsError):
            worktree.delete(b"x", expected)
    assert os.path.getsize(top / "x") == 64 << 20


@pytest.mark.parametrize("there", ["file", "nothing"])
def test_what_appears_during_a_copy_from_another_file_system_is_kept(
    there: str, top: Path, another_file_system: Path
) -> None:
    """A large file is copied for seconds: somebody may write at its place meanwhile."""
    worktree = Worktree(os.fsencode(top), os.fsencode(another_file_system), "sha1")
    if there == "file":
        (top / "x").write_text("as it was seen\n")
    # Whoever reads it waits here for who writes it.
    fifo = another_file_system / "source"
    os.mkfifo(fifo)
    seen = worktree.look(b"x")
    end = in_a_thread(lambda: worktree.take_in(os.fsencode(fifo), b"x", seen))
    with open(fifo, "wb") as source:
        (top / "x").write_text("newer\n")
        source.write(b"older\n")
    assert [type(error) for error in end()] == [FileExistsError]
    assert (top / "x").read_text() == "newer\n"
    assert os.listdir(top) == ["x"]


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
