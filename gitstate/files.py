"""The only writer of files outside git: atomic and durable writes, locks, and who a process is.

Durable means: fsync of the file, rename or link, fsync of the directory (POSIX leaves a directory entry volatile
until its directory is synced; see `man 2 fsync`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from .errors import TryAgain
from .light import TYPE_CHECKING, contextmanager, signal, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Coarse kernel clocks and file systems stamp files a little in the past.
_CLOCK_SLACK_NS = 2_000_000_000


class Deadline:
    """A point in time after which work must stop. `seconds` is None for no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left, never negative; infinity where there is no limit."""
        return float("inf") if self._end is None else max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        return self.left() <= 0.0


def fsync_path(path: bytes) -> None:
    """Make the file or directory at `path` durable. What is not there, or can't be opened, is passed over."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM):
            return
        raise
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):
            raise
    finally:
        os.close(fd)


def make_directory(path: bytes, *, top: bytes) -> None:
    """Create `path` and what is missing between it and `top`, each entry durable."""
    missing = []
    while path != top and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(directory)
        fsync_path(os.path.dirname(directory))


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`: os.write may stop short, and says nothing."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_atomic(path: bytes, data: bytes, *, staging: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """Replace the file at `path` as a whole or not at all. A symlink at `path` is replaced, not followed.

    It is written in the directory `staging`, which someone sweeps after a kill, and moved from there; only from
    another file system it has to be written beside its place. Raises OSError; then the old file stands.
    """
    try:
        _write_and_move(os.path.join(staging, os.path.basename(path)), path, data, mode, durable)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _write_and_move(path, path, data, mode, durable)


def _write_and_move(beside: bytes, path: bytes, data: bytes, mode: int, durable: bool) -> None:
    temporary = b"%s.tmp-%d" % (beside, os.getpid())
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        fsync_path(os.path.dirname(path))


def read_limited(path: bytes, limit: int) -> bytes | None:
    """The bytes of a regular file of at most `limit` bytes; None where there is none, or it is larger, or is a link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
            return None
        parts = []
        while limit >= 0 and (part := os.read(fd, min(limit + 1, max(info.st_size + 1, 4096)))):
            parts.append(part)
            limit -= len(part)
        return b"".join(parts) if limit >= 0 else None
    finally:
        os.close(fd)


def remove_tree(path: bytes) -> None:
    """Remove a directory of ours with all in it, as far as it goes; nothing where there is none."""
    if os.path.lexists(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)


def remove(path: bytes) -> None:
    """Unlink `path` if it is there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


def sync_filesystem(path: bytes) -> None:
    """syncfs(2) of the file system that holds `path`; where the C library lacks it, sync(2) of all."""
    import ctypes

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed")
    finally:
        os.close(fd)


@contextmanager
def locked(path: bytes, deadline: Deadline, what: str) -> Iterator[int]:
    """Hold `lock` while the body runs; yields its descriptor, raises as `lock` does."""
    fd = lock(path, deadline, what)
    try:
        yield fd
    finally:
        os.close(fd)


def lock(path: bytes, deadline: Deadline, what: str) -> int:
    """Take an exclusive flock on the file at `path`: the descriptor that holds it until it is closed.

    The kernel drops it when the last holder of the descriptor dies, so it is never stale. A child that inherits the
    descriptor holds the lock too: who gets it knows that no child of the former holder is left.

    Raises TryAgain where it is still held when `deadline` has passed.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        pause = 0.001
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return fd
            except (BlockingIOError, InterruptedError):
                if deadline.passed():
                    raise TryAgain(
                        f"another gitstate is at work on {what}; nothing was changed", hint="try again in a moment"
                    ) from None
                time.sleep(min(pause, deadline.left()))
                pause = min(pause * 2, 0.05)
    except BaseException:
        os.close(fd)
        raise


def hostname() -> str:
    return os.uname().nodename


def boot_id() -> str | None:
    """What tells this boot from every other: Linux's random id, elsewhere None."""
    data = read_proc("/proc/sys/kernel/random/boot_id")
    return None if data is None else data.decode("ascii", "replace").strip()


def boot_time_ns() -> int | None:
    """When this boot began, in nanoseconds since the epoch; None where the kernel does not tell."""
    data = read_proc("/proc/stat")
    for line in (data or b"").splitlines():
        if line.startswith(b"btime "):
            return int(line.split()[1]) * 1_000_000_000
    return None


def older_than_boot(path: bytes) -> bool:
    """Whether the file at `path` was last touched before this boot: whoever made it is gone."""
    try:
        touched = os.lstat(path).st_mtime_ns
    except OSError:
        return False
    boot = boot_time_ns()
    return boot is not None and touched < boot - _CLOCK_SLACK_NS


def process_start(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot (field 22 of proc(5) stat); None where it is gone.

    A zombie counts as gone: it holds nothing and will do nothing.
    """
    data = read_proc(f"/proc/{pid}/stat")
    if data is None:
        return None
    fields = data.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def is_running(pid: int | None, start: str | None, boot: str | None) -> bool:
    """Whether the very process that was recorded still runs: same boot, same pid, same start time."""
    if pid is None or pid <= 0 or (boot is not None and boot != boot_id()):
        return False
    now = process_start(pid)
    if now is not None:
        return start is None or now == start
    if os.path.isdir("/proc/self"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def ancestors() -> set[int]:
    """The pids of this process and all its ancestors."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        data = read_proc(f"/proc/{pid}/stat")
        pid = int(data.rpartition(b")")[2].split()[1]) if data is not None else 0
    return found


def read_proc(path: str) -> bytes | None:
    """A file of proc(5); None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


@contextmanager
def ignoring_signals(signals: Iterable[int]) -> Iterator[None]:
    """Block `signals` for this process and every child it starts; those that came are delivered at the end.

    A blocked mask protects a git child, an ignored signal does not: git installs handlers of its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, list(signals))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
