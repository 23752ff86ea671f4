"""Files below one directory: look at them, write, delete, never through a symlink.

Every path is opened part by part with O_NOFOLLOW from the top, so that a link planted on the way leads nowhere.
New content is written beside, made durable, and renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..git.oid import Oid
from ..objects.tree import is_safe_path
from ..system.files import fsync_path, write_all

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20


class Seen(NamedTuple):
    """What is at a path: `missing`, `file`, `link`, `directory` or `special`; content as the blob it would be."""

    kind: str
    oid: Oid | None = None
    permissions: int = 0


MISSING = Seen("missing")


class Worktree:
    """The files below `top`. `temporary` is a directory for half-written files, best on the same file system."""

    def __init__(self, top: bytes, temporary: bytes, object_format: str) -> None:
        self.top = top
        self._temporary = temporary
        self._format = object_format
        self._count = 0
        self._touched: set[bytes] = set()

    def look(self, path: bytes) -> Seen:
        """What is at `path`. A parent that is no directory means that it is missing. Raises OSError if unreadable."""
        try:
            with self._parent(path) as (parent, name):
                info = os.lstat(name, dir_fd=parent)
                if stat.S_ISLNK(info.st_mode):
                    return Seen("link", self._hash_of([os.readlink(name, dir_fd=parent)]), 0o777)
                if stat.S_ISDIR(info.st_mode):
                    return Seen("directory", None, info.st_mode & 0o777)
                if not stat.S_ISREG(info.st_mode):
                    return Seen("special")
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
                try:
                    size = os.fstat(fd).st_size
                    return Seen("file", self._hash_of(_chunks(fd), size), info.st_mode & 0o777)
                finally:
                    os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING

    def permissions(self, path: bytes) -> int | None:
        """The permissions of the file or directory at `path`; None where there is neither."""
        try:
            with self._parent(path) as (parent, name):
                mode = os.lstat(name, dir_fd=parent).st_mode
                return mode & 0o777 if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stamp(self, path: bytes) -> tuple[int, int] | None:
        """Size in bytes and time of the last change in nanoseconds of the regular file at `path`; None without one.

        The change may be of its bytes or of its name and permissions (ctime): that time nobody can set.
        """
        try:
            with self._parent(path) as (parent, name):
                info = os.lstat(name, dir_fd=parent)
                changed = max(info.st_mtime_ns, info.st_ctime_ns)
                return (info.st_size, changed) if stat.S_ISREG(info.st_mode) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: bytes) -> Iterator[bytes]:
        """The bytes of the regular file at `path`, in pieces."""
        with self._parent(path) as (parent, name):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            yield from _chunks(fd)
        finally:
            os.close(fd)

    def write_file(self, path: bytes, content: Iterable[bytes], permissions: int, expected: Seen) -> None:
        """Put a regular file at `path`, making directories. FileExistsError where it is not `expected`."""
        with self._parent(path, create=True) as (parent, name):
            self._count += 1
            temporary = os.path.join(self._temporary, b"write-%d-%d" % (os.getpid(), self._count))
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                try:
                    for part in content:
                        write_all(fd, part)
                    os.fchmod(fd, permissions)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                self._place(temporary, parent, name, path, expected)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        self._touch(path)

    def write_link(self, path: bytes, target: bytes, expected: Seen) -> None:
        """Put a symlink at `path`; raises as `write_file` does."""
        self._count += 1
        temporary = os.path.join(self._temporary, b"write-%d-%d" % (os.getpid(), self._count))
        os.symlink(target, temporary)
        try:
            with self._parent(path, create=True) as (parent, name):
                self._place(temporary, parent, name, path, expected)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._touch(path)

    def take_in(self, source: bytes, path: bytes, expected: Seen = MISSING) -> None:
        """Move a finished file or symlink to `path`. FileExistsError where that is not `expected`, else OSError."""
        with self._parent(path, create=True) as (parent, name):
            self._place(source, parent, name, path, expected)
        self._touch(path)

    def delete(self, path: bytes, expected: Seen) -> None:
        """Remove the file or symlink at `path` if it is still what was seen; raises OSError."""
        with self._parent(path) as (parent, name):
            if self.look(path) != expected:
                raise FileExistsError(errno.EEXIST, "it changed meanwhile")
            os.unlink(name, dir_fd=parent)
        self._touch(path)

    def remove_directory(self, path: bytes) -> bool:
        """Remove an empty directory; False where it is not empty, or not one. Raises OSError where the disk fails."""
        try:
            with self._parent(path) as (parent, name):
                os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
                raise
            return False
        self._touch(path)
        return True

    def make_directory(self, path: bytes) -> None:
        """Create a directory and its parents, where missing; raises OSError."""
        with self._parent(path, create=True) as (parent, name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=parent)
            # Not opened: a directory may be one that nobody may read.
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "something else is in the way", os.fsdecode(path))
        self._touch(path)

    def set_permissions(self, path: bytes, permissions: int) -> None:
        """chmod of a file or directory, never of what a link leads to; raises OSError."""
        with self._parent(path) as (parent, name):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.fchmod(fd, permissions)
                os.fsync(fd)
            finally:
                os.close(fd)

    def is_empty(self, path: bytes) -> bool:
        """Whether `path` is a directory without entries."""
        try:
            with self._parent(path) as (parent, name):
                fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError:
            return False
        try:
            with os.scandir(fd) as entries:
                return next(entries, None) is None
        finally:
            os.close(fd)

    def sync(self) -> None:
        """Make every directory in which something was created or removed durable."""
        for directory in self._touched:
            fsync_path(os.path.join(self.top, directory))
        self._touched.clear()

    def _touch(self, path: bytes) -> None:
        while path:
            path = path.rpartition(b"/")[0]
            if path in self._touched:
                break
            self._touched.add(path)

    def _place(self, temporary: bytes, parent: int, name: bytes, path: bytes, expected: Seen) -> None:
        try:
            if expected.kind == "missing":
                os.link(temporary, name, dst_dir_fd=parent, follow_symlinks=False)
                os.unlink(temporary)
                return
            if self.look(path) != expected:
                raise FileExistsError(errno.EEXIST, "it changed meanwhile")
            os.rename(temporary, name, dst_dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP):
                raise
            self._copy(temporary, parent, name, replace=expected.kind != "missing")

    def _copy(self, temporary: bytes, parent: int, name: bytes, *, replace: bool) -> None:
        """Where neither link nor rename reaches (another file system): copy beside, then rename or link."""
        if os.path.islink(temporary):
            if replace:
                os.unlink(name, dir_fd=parent)
            os.symlink(os.readlink(temporary), name, dir_fd=parent)
            os.unlink(temporary)
            return
        beside = b".gitstate-%d-%d" % (os.getpid(), self._count)
        out = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=parent)
        try:
            try:
                with open(temporary, "rb") as file:
                    while data := file.read(_CHUNK):
                        write_all(out, data)
                os.fchmod(out, os.stat(temporary).st_mode & 0o777)
                os.fsync(out)
            finally:
                os.close(out)
            if not replace and _exists(name, parent):
                raise FileExistsError(errno.EEXIST, "it appeared meanwhile")
            os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=parent)
            raise
        os.unlink(temporary)

    @contextlib.contextmanager
    def _parent(self, path: bytes, *, create: bool = False) -> Iterator[tuple[int, bytes]]:
        if not is_safe_path(path):
            raise PermissionError(errno.EPERM, "a path that git would refuse", os.fsdecode(path))
        *parents, name = path.split(b"/")
        fd = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parents:
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd, name
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, "a symlink is in the way") from None
            raise
        finally:
            os.close(fd)

    def _hash_of(self, parts: Iterable[bytes], size: int | None = None) -> Oid:
        pieces = list(parts) if size is None else parts
        length = sum(len(piece) for piece in pieces) if size is None else size
        digest = hashlib.new(self._format, b"blob %d\0" % length, usedforsecurity=False)
        for piece in pieces:
            digest.update(piece)
        return digest.hexdigest()


def _exists(name: bytes, parent: int) -> bool:
    try:
        os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return False
    return True


def _chunks(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, _CHUNK):
        yield data
