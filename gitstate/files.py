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


def home() -> bytes:
    """The user's home directory: HOME, else what the password database says (`env -i`, some schedulers)."""
    return os.path.expanduser(b"~")


def make_directory(path: bytes, *, top: bytes, mode: int = 0o777) -> None:
    """Create `path` and what is missing up to `top`, each entry durable, and owned as the directory above it."""
    missing = []
    while path != top and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        above = os.path.dirname(directory)
        with suppress(FileExistsError):
            os.mkdir(directory, mode)
            if os.geteuid() == 0:
                _give_to(directory, os.stat(above))
        fsync_path(above)


def make_directory_at(above: int, name: bytes, *, mode: int) -> None:
    """Create the directory `name` in the open directory `above`, as `make_directory` does; idempotent."""
    with suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=above)
        if os.geteuid() == 0:
            _give_to(name, os.fstat(above), directory=above)
        os.fsync(above)


def give_to_owner_of(fd: int, directory: int) -> None:
    """Give the open file to the owner of the open directory: what root writes must not lock its user out."""
    if os.geteuid() == 0:
        owner = os.fstat(directory)
        os.fchown(fd, owner.st_uid, owner.st_gid)


def _give_to(path: bytes, owner: os.stat_result, *, directory: int | None = None) -> None:
    os.chown(path, owner.st_uid, owner.st_gid, dir_fd=directory, follow_symlinks=False)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`: os.write may stop short, and says nothing."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_atomic(path: bytes, data: bytes, *, staging: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """Replace the file at `path` as a whole or not at all. A symlink at `path` is replaced, not followed.

    It is written in the directory `staging`, which someone sweeps after a kill, and moved from there; only from
    another file system it has to be written beside its place. Raises OSError; then the old file stands.
    A device, FIFO or socket at `path` is never replaced: that raises FileExistsError.
    """
    _refuse_special_file(path)
    try:
        _write_and_move(os.path.join(staging, os.path.basename(path)), path, data, mode, durable)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _write_and_move(path, path, data, mode, durable)


def _refuse_special_file(path: bytes) -> None:
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except OSError:
        return
    if kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
        raise FileExistsError(errno.EEXIST, "it is not a regular file", path)


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


def read_limited(path: bytes, limit: int, *, directory: int | None = None) -> bytes | None:
    """The bytes of a regular file of at most `limit` bytes; None where there is none, or it is larger, or is a link.

    A relative `path` is looked up in the open directory `directory`, where that is given.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
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
