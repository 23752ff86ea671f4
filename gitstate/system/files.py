"""Files written whole and durably, read with a limit, and removed.

Durable means: fsync of the file, rename or link, fsync of the directory. POSIX does not promise that a directory entry
survives a power cut before its directory is synced (`man 2 fsync`).
"""

from __future__ import annotations

import _thread
import errno
import os
import stat

from .stdlib import TYPE_CHECKING, contextmanager, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: A file that grows by more bytes than this is synced before it grows further.
SYNCED_AT_ONCE = 32 << 20
#: A piece of zeros of at least this size, in bytes, becomes a hole.
_HOLE = 64 << 10
#: A file that tells of troubles has room for so many bytes.
_REPORT = 4096


def file_stamp(info: os.stat_result) -> tuple[int, int, int, int]:
    """Size, mtime, ctime and inode: what changes when a file does."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


#: What a file system answers that has no such call, or not for this kind of file.
UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def sync(fd: int) -> None:
    """fsync(2). No-op where the file system has none (`man 2 fsync`: EINVAL): then nothing is more durable there."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise _named(error, fd) from None


def set_mode(fd: int, mode: int) -> None:
    """fchmod(2) of a file of ours. No-op where the file system holds no permissions, as FAT: they stay as it gives."""
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in (errno.EPERM, *UNSUPPORTED):
            raise


def fsync_path(path: bytes) -> None:
    """Make the file or directory at `path` durable; no-op where there is none, or it can't be opened.

    Raises OSError; on a full disk that of a failed sync: the kernel says once that it did not write what others wrote,
    and who tries again with fewer files of his own is told nothing (`man 2 fsync`).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM):
            return
        raise
    try:
        sync(fd)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(errno.EIO, f"sync failed: {error.strerror}", path) from error
        if error.errno != errno.EROFS:
            raise
    finally:
        os.close(fd)


#: From `_SYNCED_MANY` files on so many are synced at once: the disk then makes them durable together.
_SYNCED_TOGETHER, _SYNCED_MANY = 8, 16


def fsync_paths(paths: Iterable[bytes]) -> None:
    """`fsync_path` of each; several at a time where they are many. Raises the first OSError, after all were tried."""
    left = list(paths)[::-1]
    errors: list[OSError] = []

    def work(done: _thread.LockType | None = None) -> None:
        try:
            while left:
                try:
                    fsync_path(left.pop())
                except IndexError:
                    # Another thread took the last one.
                    break
                except OSError as error:
                    errors.append(error)
        finally:
            if done is not None:
                done.release()

    running = []
    for _ in range(_SYNCED_TOGETHER - 1 if len(left) >= _SYNCED_MANY else 0):
        done = _thread.allocate_lock()
        done.acquire()
        try:
            _thread.start_new_thread(work, (done,))
        except RuntimeError:
            # No more threads for this user: this one does the work.
            break
        running.append(done)
    work()
    for done in running:
        done.acquire()
    if errors:
        raise errors[0]


def home(named: bytes | None = None) -> bytes:
    """The user's home directory: HOME, else what the password database says (`env -i`, some schedulers), else `/`.

    So container runtimes set it for a user whom the database does not know. A relative HOME would be another directory
    in each place, and is ignored. `named` is HOME in another environment.
    """
    named = os.environb.get(b"HOME", b"") if named is None else named
    if not named.startswith(b"/"):
        import pwd

        with suppress(KeyError):
            named = os.fsencode(pwd.getpwuid(os.getuid()).pw_dir)
    return named.rstrip(b"/") or b"/" if named.startswith(b"/") else b"/"


def state_home() -> bytes:
    """The directory for what programs of the user keep. A relative XDG_STATE_HOME is ignored, as its rules demand."""
    named = os.environb.get(b"XDG_STATE_HOME", b"")
    return named if named.startswith(b"/") else os.path.join(home(), b".local", b"state")


def make_directory(path: bytes, *, top: bytes, mode: int = 0o777, durable: bool = True) -> None:
    """Create `path` and its missing parents below `top`. Each belongs to whom the one above belongs to."""
    missing = []
    while path != top and not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        above = os.path.dirname(directory)
        with suppress(FileExistsError):
            os.mkdir(directory, mode)
            around = os.stat(above)
            if is_shared(around):
                os.chmod(directory, os.stat(directory).st_mode & 0o7777 | stat.S_ISGID | 0o070)
            give_to(directory, around)
        if durable:
            fsync_path(above)


def make_directory_at(above: int, name: bytes, *, mode: int) -> None:
    """Create the directory `name` in the open directory `above`, as `make_directory` does; idempotent."""
    with suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=above)
        give_to(name, os.fstat(above), directory=above)
        sync(above)


def give_to(path: bytes | int, around: os.stat_result, *, directory: int | None = None) -> None:
    """Give what root has just made at `path`, or as an open file, to the owner of the directory around it.

    No-op for other users, and where the system refuses it, as for a user who is unknown in a container.
    """
    if os.geteuid() == 0 != around.st_uid:
        with suppress(OSError):
            if isinstance(path, int):
                os.fchown(path, around.st_uid, around.st_gid)
            else:
                os.chown(path, around.st_uid, around.st_gid, dir_fd=directory, follow_symlinks=False)


def is_shared(around: os.stat_result) -> bool:
    """Whether a directory is one that a group shares, as git makes them where `core.sharedRepository` is set."""
    return bool(around.st_mode & stat.S_ISGID and around.st_mode & stat.S_IWGRP)


def for_group(mode: int, around: os.stat_result) -> int:
    """`mode` of a file of ours; where a group shares the directory around it, the group may do what its owner may."""
    return mode | (mode & 0o600) >> 3 if is_shared(around) else mode


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`; `os.write` alone may write less. Raises OSError that names the file where /proc tells it."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise _named(error, fd) from None


def _named(error: OSError, fd: int) -> OSError:
    """What the system said of a descriptor, with the path that it leads to: which disk is full."""
    path = b""
    with suppress(OSError):
        path = os.readlink(b"/proc/self/fd/%d" % fd)
    return OSError(error.errno, error.strerror, path) if path.startswith(b"/") else error


def write_atomic(
    path: bytes, data: bytes, *, staging: bytes, mode: int = 0o600, durable: bool = True, syncs_name: bool = True
) -> None:
    """Replace the file at `path` as a whole or not at all. A symlink at `path` is replaced, not followed.

    The new file is written in the directory `staging`, which is cleared after a kill, and renamed from there; where
    that is another file system, it is written beside `path`. Raises OSError; then the old file is unchanged.
    Without `syncs_name` the caller syncs the directory of `path`, until when the old file may come back.
    A device, FIFO or socket at `path` is never replaced: FileExistsError.
    """
    _refuse_special_file(path)
    try:
        temporary = temporary_name(os.path.join(staging, os.path.basename(path)))
        write_and_rename(temporary, path, data, mode=mode, durable=durable)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_and_rename(temporary_name(path), path, data, mode=mode, durable=durable)
    if durable and syncs_name:
        fsync_path(os.path.dirname(path))


def write_report(path: bytes, data: bytes, *, staging: bytes) -> None:
    """Replace the file at `path`, which tells of troubles; not durably. A full disk may be the trouble to be told of.

    So the file ends in blanks, and there it is written in place, which needs no room. Raises OSError.
    """
    data = data.ljust(_REPORT)
    try:
        write_atomic(path, data, staging=staging, durable=False)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            # Under another name it may be a file of anybody's.
            if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1 or info.st_size < len(data):
                raise
            os.pwrite(fd, data.ljust(info.st_size), 0)
        finally:
            os.close(fd)


def _refuse_special_file(path: bytes) -> None:
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except OSError:
        return
    if kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
        raise FileExistsError(errno.EEXIST, "it is not a regular file", path)


def temporary_name(path: bytes) -> bytes:
    """The name under which this process writes the file at `path` before it takes its place."""
    return b"%s.tmp-%d" % (path, os.getpid())


def write_new_file(
    path: bytes, content: Iterable[bytes | memoryview], *, mode: int, durable: bool = True, directory: int | None = None
) -> None:
    """Create the file at `path` and write the pieces of `content` to it. Raises OSError; then no file is left.

    `path` is relative to the open directory `directory`, where that is given. Root gives the file to the owner of its
    directory. Durable are the bytes, not the directory entry: the caller syncs a directory once for many files.

    A large piece of zeros becomes a hole. A large file is synced as it grows, so that whoever kills this process, or
    has a deadline, waits for no long sync.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        try:
            unsynced, in_hole = 0, False
            for data in content:
                # As a rule the first byte tells, and nothing is copied.
                if in_hole := len(data) >= _HOLE and not data[0] and not bytes(data).strip(b"\0"):
                    os.lseek(fd, len(data), os.SEEK_CUR)
                    continue
                write_all(fd, data)
                unsynced += len(data)
                if durable and unsynced > SYNCED_AT_ONCE:
                    sync(fd)
                    unsynced = 0
            if in_hole:
                os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR))
            if os.geteuid() == 0:
                give_to(fd, around_of(path, directory))
            set_mode(fd, mode)
            if durable:
                sync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(path, dir_fd=directory)
        raise


def around_of(path: bytes, directory: int | None) -> os.stat_result:
    """The directory that `path` is in."""
    return os.stat(os.path.dirname(path) or b".") if directory is None else os.fstat(directory)


def write_and_rename(
    temporary: bytes, path: bytes, data: bytes, *, mode: int, durable: bool = True, directory: int | None = None
) -> None:
    """Replace the file at `path` by way of the file `temporary`, as `write_new_file` writes it: whole or not at all."""
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=directory)
    around = around_of(path, directory)
    mode = for_group(mode, around)
    write_new_file(temporary, (data,), mode=mode, durable=durable, directory=directory)
    try:
        if os.path.dirname(temporary) != os.path.dirname(path):
            give_to(temporary, around)
        os.rename(temporary, path, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise


def read_limited(path: bytes, limit: int, *, directory: int | None = None) -> bytes | None:
    """The bytes of a regular file of at most `limit` bytes; None where it is missing, larger, a link or unreadable.

    `path` is relative to the open directory `directory`, where that is given.
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
            if len(part) == info.st_size:
                # The whole of it: one call of the kernel less for each of thousands of files.
                break
        return b"".join(parts) if limit >= 0 else None
    finally:
        os.close(fd)


def open_at_once(path: str | bytes, flags: int) -> int:
    """An opener for `open` that does not wait for the other end of a FIFO. A socket counts as missing."""
    try:
        return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise FileNotFoundError(errno.ENOENT, "a socket", os.fsdecode(path)) from None
        raise


def walk(top: bytes) -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
    """`os.walk` for any depth: before Python 3.12 that is a recursion, which ends at some thousand levels.

    As there the caller may take names out of the second list, and a link is not followed.
    """
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        names: list[bytes] = []
        others: list[bytes] = []
        with suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                (names if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
        yield directory, names, others
        waiting += [os.path.join(directory, name) for name in reversed(names)]


def remove_tree(path: bytes) -> None:
    """Remove a directory of ours with all in it, as far as possible; of a symlink the link alone.

    What lies deep is moved up first, so that no path gets too long and no level costs a descriptor.
    """
    path = path.rstrip(b"/")
    if os.path.islink(path) or not os.path.isdir(path):
        with suppress(OSError):
            remove(path)
        return
    waiting, number = [path], 0
    while waiting:
        directory = waiting.pop()
        with suppress(OSError):
            os.chmod(directory, 0o700)
        for _, names, others in walk(directory):
            for name in others:
                with suppress(OSError):
                    os.unlink(os.path.join(directory, name))
            for name in names:
                below, number = os.path.join(directory, name), number + 1
                with suppress(OSError):
                    if directory != path:
                        moved = b"%s/%d.deep-%d" % (path, number, os.getpid())
                        os.chmod(below, 0o700)
                        os.rename(below, moved)
                        below = moved
                waiting.append(below)
            break
        if directory != path:
            with suppress(OSError):
                os.rmdir(directory)
    with suppress(OSError):
        os.rmdir(path)


@contextmanager
def temporary_directory(prefix: str) -> Iterator[str]:
    """A directory for the time of the body, for this user alone. It may hold a tree of any depth.

    `tempfile.mkdtemp`, whose module takes as long to load as half a recovery. Raises OSError where there is no place.
    """
    told = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    places = [*filter(None, told), "/tmp", "/var/tmp", "/usr/tmp"]
    for place in places:
        path = os.path.join(os.path.realpath(place), f"{prefix}{os.urandom(6).hex()}")
        try:
            os.mkdir(path, 0o700)
            break
        except OSError:
            if place is places[-1]:
                raise
    try:
        yield path
    finally:
        remove_tree(os.fsencode(path))


def remove(path: bytes) -> None:
    """Unlink `path`; no-op where there is nothing."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(path)


#: What the disk did not remove.
_unremoved: set[bytes] = set()


def discard(path: bytes) -> None:
    """`remove` a temporary file of ours: what the disk refuses costs nobody the work that is done. See `unremoved`."""
    try:
        remove(path)
    except OSError:
        _unremoved.add(path)


def unremoved(*places: bytes) -> list[bytes]:
    """What `discard` could not remove below directories, and what the disk does not remove now either.

    The caller holds the lock under which these files were made, and writes down that they are there.
    """
    found = [path for path in _unremoved if any(path.startswith(place + b"/") for place in places)]
    for path in found:
        _unremoved.remove(path)
        with suppress(OSError):
            remove(path)
    return [path for path in found if os.path.lexists(path)]


def sync_filesystem(path: bytes) -> None:
    """syncfs(2) of the file system that holds `path`; sync(2) of all where the C library lacks it."""
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


def open_own(path: bytes, flags: int) -> int:
    """Open a file of ours, which is created where it is missing, for its owner alone or the group of its directory.

    Raises OSError; FileExistsError for what is not a regular file.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_CREAT, 0o600)
        around = os.stat(os.path.dirname(path))
        # Another process may have made it meanwhile: only its owner may change it.
        with suppress(PermissionError):
            os.fchmod(fd, for_group(0o600, around))
            give_to(fd, around)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileExistsError(errno.EEXIST, "it is not a regular file", path)
    return fd


def strange_kind(path: bytes) -> str | None:
    """What stands at a path, links followed; None for a regular file, /dev/null, and nothing."""
    try:
        info = os.stat(path)
    except (OSError, ValueError) as error:
        is_loop = getattr(error, "errno", None) == errno.ELOOP and os.path.islink(path)
        return "a link to itself" if is_loop else None
    kind = info.st_mode & 0o170000
    if kind == 0o100000 or (kind == 0o020000 and info.st_rdev == os.makedev(1, 3)):
        return None
    return {0o010000: "a FIFO", 0o140000: "a socket", 0o040000: "a directory"}.get(kind, "a device")
