"""The index as a file: which one it is, git's lock on it, and the file that a save keeps beside it.

Git only ever replaces its index by a rename, so another name for it (a hard link) goes on showing what was there.
"""

from __future__ import annotations

import os
import time

from ..errors import TryAgain
from ..system import files, process
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record, contextmanager
from .repository import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How long a save waits for a git that holds index.lock before it goes on without it, in seconds.
_LOCK_PATIENCE = 0.3
#: What stands in an index.lock of ours: nobody else's is ever removed after a kill.
_OURS = b"gitstate\n"


class IndexMoved(TryAgain):
    """The index file was replaced while the snapshot was taken: look again."""


class IndexFile(Record):
    """What tells one index file from another: size, the checksum at its end, and its time stamp in nanoseconds."""

    size: int
    checksum: str
    mtime_ns: int


def identify_index(fd: int) -> IndexFile:
    """The identity of an open index file; its checksum is the last 20 bytes (`man 5 gitformat-index`)."""
    info = os.fstat(fd)
    return IndexFile(info.st_size, os.pread(fd, 20, max(info.st_size - 20, 0)).hex(), info.st_mtime_ns)


def identify_index_at(path: bytes) -> IndexFile | None:
    """The identity of the index file at `path`; None where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return identify_index(fd)
    finally:
        os.close(fd)


def is_torn_index(path: bytes, object_format: str) -> bool:
    """Whether the file is no whole index: its first bytes or its checksum (zero where `index.skipHash`) are wrong."""
    import hashlib

    digest = hashlib.new(object_format, usedforsecurity=False)
    size = digest.digest_size
    try:
        with open(path, "rb") as file:
            left = os.fstat(file.fileno()).st_size - size
            start = data = file.read(max(0, min(left, 1 << 20)))
            while data:
                digest.update(data)
                left -= len(data)
                data = file.read(min(left, 1 << 20))
            checksum = file.read(size)
    except FileNotFoundError:
        return False
    return not start.startswith(b"DIRC") or (any(checksum) and checksum != digest.digest())


def file_identity(path: bytes) -> tuple[int, int, int] | None:
    """What changes whenever git replaces a file: size, time stamp and inode; None where there is none."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return None
    return info.st_size, info.st_mtime_ns, info.st_ino


def shared_index_name(index: bytes, oid_bytes: int, git_dir: bytes) -> str | None:
    """The id of the shared index that a split index names in its `link` extension (`man 5 gitformat-index`).

    The word may stand in a file's name too, so only an id whose shared index is there counts.
    """
    place = index.rfind(b"link")
    while place > 0:
        name = index[place + 8 : place + 8 + oid_bytes].hex()
        if len(name) == 2 * oid_bytes and os.path.exists(os.path.join(git_dir, b"sharedindex." + name.encode("ascii"))):
            return name
        place = index.rfind(b"link", 0, place)
    return None


def kept_index(repository: Repository, save_id: str) -> bytes:
    """Where the index that a save took away is kept."""
    return os.path.join(repository.own, b"index." + save_id.encode("ascii"))


def link_or_copy(source: bytes, target: bytes) -> None:
    """Another name for a file that is only ever replaced; where there are no hard links a copy with its time stamp.

    Without the time stamp git would take entries that are racy for clean.
    """
    files.remove(target)
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        import shutil

        shutil.copy2(source, target)


@contextmanager
def index_lock(repository: Repository) -> Iterator[None]:
    """Hold git's own index.lock, or go on without it where someone holds it for longer than a git command does.

    A stale one must not stop a save; a live holder that comes later overwrites our index with one that `recover`
    compares entry by entry.
    """
    lock = os.path.join(repository.git_dir, b"index.lock")
    patience = Deadline(_LOCK_PATIENCE)
    # Made whole beside and linked into place: a lock of ours never stands there without its mark.
    mark = os.path.join(repository.own, b"index-lock.tmp-%d" % os.getpid())
    with open(mark, "wb") as file:
        file.write(_OURS)
    held = False
    while not held:
        try:
            os.link(mark, lock)
            held = True
        except FileExistsError:
            if process.older_than_boot(lock):
                files.remove(lock)
                continue
            if patience.passed():
                break
            time.sleep(0.01)
        except OSError:
            break
    try:
        yield
    finally:
        if held:
            files.remove(lock)
        files.remove(mark)


def is_own_lock(path: bytes) -> bool:
    """Whether the index.lock at `path` was made by `index_lock`."""
    return files.read_limited(path, 64) == _OURS
