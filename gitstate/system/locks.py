"""Locks that end with their holder: flock on a file of ours, and what stands for it where a file system has none."""

from __future__ import annotations

import errno
import fcntl
import os
import time

from ..errors import TryAgain
from .clock import Deadline
from .files import UNSUPPORTED, give_to, open_own
from .stdlib import TYPE_CHECKING, contextmanager, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextmanager
def locked(path: bytes, deadline: Deadline, what: str) -> Iterator[int]:
    """Hold `lock` while the body runs; yields its descriptor. Raises as `lock` does."""
    fd = lock(path, deadline, what)
    try:
        yield fd
    finally:
        os.close(fd)


def lock(path: bytes, deadline: Deadline, what: str) -> int:
    """Take an exclusive flock on the file at `path`; returns the descriptor that holds it until it is closed.

    The kernel releases it when the last process with the descriptor ends, so it is never stale. A child that inherits
    the descriptor holds the lock too: whoever gets it knows that no child of the former holder is left.

    Raises TryAgain where another process still holds it when `deadline` has passed; `what` says what it locks.
    """
    fd = open_own(path, os.O_RDWR)
    try:
        begun = time.monotonic()
        while True:
            try:
                return flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, InterruptedError):
                # A small part longer than it is held.
                waited = time.monotonic() - begun
                if not deadline.pause(min(max(waited / 8, 0.001), 0.05)):
                    message = f"another gitstate is at work on {what}{_holder(path)}; nothing was changed"
                    raise TryAgain(message, hint="try again in a moment") from None
    except BaseException:
        os.close(fd)
        raise


def flock(fd: int, operation: int) -> int:
    """flock(2) on an open file; returns the descriptor that holds the lock until its last copy is closed: `fd`.

    Where the file system has no locks (NFS without lockd, Lustre) it is that of files in memory which stand for it,
    and `fd` is closed: then other users but root, and other machines, do not see the lock. Raises OSError, and
    BlockingIOError where the lock is held.
    """
    try:
        fcntl.flock(fd, operation)
        return fd
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    stand_in = _lock_stand_ins(os.fstat(fd), operation)
    os.close(fd)
    return stand_in


_NO_LOCKS = (errno.ENOLCK, *UNSUPPORTED)
#: Where the files stand that are locked in place of others.
_MEMORY = (b"/dev/shm", b"/tmp")


def _lock_stand_ins(info: os.stat_result, operation: int) -> int:
    """Lock what stands for a file, in all places: one may vanish. systemd clears `/dev/shm` when its user logs out.

    Where another user takes one of the places, or gives it back, two processes still meet in the other one.
    """
    held: list[int] = []
    try:
        for top in _MEMORY:
            with suppress(OSError):
                held.append(_open_stand_in(top, info))
        for fd in held[:]:
            try:
                fcntl.flock(fd, operation)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                held.remove(fd)
                os.close(fd)
        if not held:
            taken = b" and ".join(_stand_in_directory(top, info)[0] for top in _MEMORY)
            raise OSError(errno.ENOLCK, "no locks here, nor directories that this user can use for them", taken)
        return held.pop() if len(held) == 1 else _as_one(held)
    finally:
        for fd in held:
            os.close(fd)


def _stand_in_directory(top: bytes, info: os.stat_result) -> tuple[bytes, int]:
    """The directory for the locks of one user, and that user: root locks what others own as they do."""
    user = os.geteuid() or info.st_uid
    return top + b"/gitstate-locks-%d" % user, user


def _open_stand_in(top: bytes, info: os.stat_result) -> int:
    """Open the file that stands for one without locks, never by a link. Raises OSError where others can change it."""
    path, user = _stand_in_directory(top, info)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
        if user != os.geteuid():
            with suppress(OSError):
                os.chown(path, user, -1, follow_symlinks=False)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        around = os.fstat(directory)
        if around.st_uid not in (user, os.geteuid()) or around.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "others can change it", path)
        flags, name = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, b"%d-%d" % (info.st_dev, info.st_ino)
        try:
            fd = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
            give_to(fd, around)
        except FileExistsError:
            fd = os.open(name, flags, dir_fd=directory)
            # What nobody has used for days may be removed from /tmp.
            with suppress(OSError):
                os.utime(fd)
    finally:
        os.close(directory)
    return fd


def _as_one(fds: Iterable[int]) -> int:
    """One descriptor that keeps several open until its last copy is closed: a socket to which they were sent."""
    import sys
    from _socket import SCM_RIGHTS, SOL_SOCKET, socketpair

    sender, holder = socketpair()
    data = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    sender.sendmsg([b"held"], [(SOL_SOCKET, SCM_RIGHTS, data)])
    sender.close()
    os.set_inheritable(holder.fileno(), False)
    return holder.detach()


def _holder(path: bytes) -> str:
    """Who holds the lock on a file, for a message: its pid and its command; empty where the system does not tell."""
    with suppress(OSError, ValueError):
        info = os.stat(path)
        wanted = b"%02x:%02x:%d" % (os.major(info.st_dev), os.minor(info.st_dev), info.st_ino)
        with open("/proc/locks", "rb") as file:
            held = [line.split() for line in file]
        # `1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF` (`man 5 proc`); PID 0 is in another pid namespace.
        pids = [int(words[4]) for words in held if words[1:2] == [b"FLOCK"] and words[5:6] == [wanted]]
        return _named(pids[0] if pids else _opener(path))
    return ""


def _opener(path: bytes) -> int | None:
    """Another process of ours that has the file open, where the kernel lists no locks; None without one."""
    full, mine = os.path.realpath(path), os.getpid()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):
            directory = b"/proc/%d/fd" % pid
            if pid != mine and any(os.readlink(os.path.join(directory, fd)) == full for fd in os.listdir(directory)):
                return pid
    return None


def _named(pid: int | None) -> str:
    if pid is None:
        return ""
    command = b""
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        command = file.read(200).rstrip(b"\0").replace(b"\0", b" ")
    return f" (pid {pid}: {os.fsdecode(command)})" if command else f" (pid {pid})"
