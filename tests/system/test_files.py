"""Files are written whole or not at all, with the mode asked for, and nothing is left beside them."""

from __future__ import annotations

import errno
import os
import pwd
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstate.errors import TryAgain, words_of
from gitstate.system import files, locks
from gitstate.system.clock import Deadline, is_before, now
from tests.faults.strace import why_not_strace


def path_of(path: Path) -> bytes:
    return os.fsencode(path)


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o755])
@pytest.mark.parametrize("durable", [True, False])
def test_new_file_has_its_pieces_and_its_mode(mode: int, durable: bool, tmp_path: Path) -> None:
    files.write_new_file(path_of(tmp_path / "f"), (b"a", b"", b"b" * 100_000), mode=mode, durable=durable)
    assert (tmp_path / "f").read_bytes() == b"a" + b"b" * 100_000
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


def test_new_file_never_replaces_one(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        files.write_new_file(path_of(tmp_path / "f"), (b"new",), mode=0o600)
    assert (tmp_path / "f").read_bytes() == b"old"


def failing() -> Iterator[bytes]:
    yield b"half"
    raise ValueError("no more")


def test_new_file_that_fails_half_way_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        files.write_new_file(path_of(tmp_path / "f"), failing(), mode=0o600)
    assert not list(tmp_path.iterdir())


def test_rename_in_an_open_directory(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "tmp").write_bytes(b"left by a killed process")
        for data in (b"first", b"second"):
            files.write_and_rename(b"tmp", b"f", data, mode=0o600, directory=directory)
            assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("f", data)]
    finally:
        os.close(directory)


def test_rename_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(OSError):
        files.write_and_rename(path_of(tmp_path / "tmp"), path_of(tmp_path / "f"), b"new", mode=0o600)
    assert [item.name for item in tmp_path.iterdir()] == ["f"]


def test_symlink_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"theirs")
    (tmp_path / "f").symlink_to("target")
    files.write_atomic(path_of(tmp_path / "f"), b"ours", staging=path_of(tmp_path))
    assert (tmp_path / "target").read_bytes() == b"theirs"
    assert (tmp_path / "f").read_bytes() == b"ours" and not (tmp_path / "f").is_symlink()


def test_special_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    with pytest.raises(FileExistsError):
        files.write_atomic(path_of(tmp_path / "f"), b"ours", staging=path_of(tmp_path))
    assert stat.S_ISFIFO((tmp_path / "f").stat().st_mode)


@pytest.mark.parametrize(("size", "limit", "is_read"), [(0, 0, True), (3, 3, True), (4, 3, False), (9_999, 99, False)])
def test_only_files_within_the_limit_are_read(size: int, limit: int, is_read: bool, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * size)
    assert files.read_limited(path_of(tmp_path / "f"), limit) == (b"x" * size if is_read else None)


def test_missing_files_links_and_fifos_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo", "missing", "f/below", "."):
        assert files.read_limited(path_of(tmp_path / name), 100) is None, name


def test_lock_that_is_held_is_said_with_its_holder(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "lock")
    script = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, 2); print(flush=True); input()"
    argv = [sys.executable, "-c", script, os.fsdecode(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdout.readline()
        with pytest.raises(TryAgain, match=rf"at work on it \(pid {other.pid}: .*python"):
            locks.lock(path, Deadline(0.05), "it")
        other.stdin.close()


def test_lock_is_exclusive_until_it_is_closed(tmp_path: Path) -> None:
    path = path_of(tmp_path / "lock")
    with locks.locked(path, Deadline(0.0), "it"), pytest.raises(TryAgain, match="at work on it"):
        locks.lock(path, Deadline(0.05), "it")
    os.close(locks.lock(path, Deadline(0.0), "it"))


@pytest.mark.parametrize(
    ("timestamp", "before"),
    [
        ("2026-11-26T23:00:00.000000Z", True),
        ("1999-01-01T00:00:00Z", True),
        ("2026-11-26T23:00:02.000000Z", False),
        ("2026-11-26T23:00:00+01:00", False),
        ("yesterday, long before Z", False),
        ("", False),
        ("9" * 100 + "Z", False),
    ],
)
def test_only_a_time_of_ours_is_before_another(timestamp: str, before: bool) -> None:
    assert is_before(timestamp, 1_795_734_001_000_000_000) is before


def test_now_is_before_what_comes_later() -> None:
    assert is_before(now(), 1 << 62) and not is_before(now(), 0)


@pytest.mark.parametrize("count", [3, 60])
def test_one_file_that_cannot_be_synced_is_reported_after_all_others_were(count: int, tmp_path: Path) -> None:
    paths = []
    for number in range(count):
        (tmp_path / f"f{number}").write_text("x")
        paths.append(path_of(tmp_path / f"f{number}"))
    files.fsync_paths([*paths, path_of(tmp_path), path_of(tmp_path / "missing")])
    files.fsync_paths(())
    with pytest.raises(OSError, match="too long"):
        files.fsync_paths([path_of(tmp_path / ("x" * 300)), *paths])


#: Syncs the file of its argument, and prints the name of the error.
SYNC = """\
import errno, os, sys
from gitstate.system.files import fsync_path
try:
    fsync_path(os.fsencode(sys.argv[1]))
except OSError as error:
    print(errno.errorcode[error.errno], error.strerror)
"""


@pytest.mark.skipif(why_not_strace() is not None, reason=str(why_not_strace()))
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO"])
def test_failed_sync_of_what_others_wrote_is_no_full_disk(error: str, tmp_path: Path) -> None:
    """With fewer files of its own a save would be tried again, and the second sync tells nothing any more."""
    (tmp_path / "f").write_text("x")
    strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"inject=fsync:error={error}", sys.executable, "-c", SYNC]
    done = subprocess.run([*strace, tmp_path / "f"], capture_output=True, encoding="utf-8")
    said = f"sync failed: {os.strerror(getattr(errno, error))}" if error != "EIO" else os.strerror(errno.EIO)
    assert (done.stdout, done.stderr) == (f"EIO {said}\n", "")


def test_error_of_a_write_names_the_file(tmp_path: Path) -> None:
    """A descriptor says nothing of a path, and which disk is full is what a person must know."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the system does not tell where a descriptor leads")
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left") as raised:
            files.write_all(fd, b"data")
    finally:
        os.close(fd)
    assert raised.value.filename == b"/dev/full" and words_of(raised.value) == "/dev/full: No space left on device"


def test_error_of_a_write_to_a_pipe_names_no_file() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(BrokenPipeError) as raised:
            files.write_all(writing, b"data")
    finally:
        os.close(writing)
    assert raised.value.filename is None


def test_home_is_never_relative() -> None:
    """Else there would be a directory `~` or `rel` in the workspace of the agent."""
    known = os.fsencode(pwd.getpwuid(os.getuid()).pw_dir)
    assert files.home(b"/a/b/") == b"/a/b"
    assert files.home(b"rel") == files.home(b"") == known


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user asks")
def test_home_of_a_user_whom_nobody_knows_is_the_root_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.setuid(2_345_678)
        os.write(writing, files.state_home())
        os._exit(0)
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"/.local/state"
