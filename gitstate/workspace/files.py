"""Files below one directory: inspect, write and delete them, never through a symlink.

Each part of a path is opened with O_NOFOLLOW, beginning at the top, so that a planted symlink leads nowhere. New
content is written to a temporary file, made durable, and then moved into place.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from ..git.command import Oid
from ..objects.tree import is_safe_path
from ..system.files import discard, file_stamp, give_to, sync, write_new_file
from ..system.stdlib import TYPE_CHECKING, Record, contextmanager, digest, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 1 << 20
#: What a file system answers that can't link or rename a file so: it has no hard links, or begins between the two.
_NOT_MOVED = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
#: How FUSE and NFS name a file that was deleted while it was open. FUSE hears of the close a moment later.
_DELETED = (".fuse_hidden", ".nfs")
#: So often, with so many seconds between, a directory with nothing else is tried again.
_MOST_TRIES, _PAUSE = 20, 0.01
#: Of a path with more parts no directory is held open: a process may have 1,024 descriptors.
_MOST_HELD = 64


class FileState(Record):
    """What is at a path. Two equal states mean that nothing changed in between."""

    kind: str
    """`missing`, `file`, `link`, `directory` or `special` (a FIFO, socket or device)."""
    oid: Oid | None = None
    """The content as a blob, of a symlink its target; None for other kinds, `CHANGING` while somebody writes it."""
    permissions: int = 0
    """Of a file or directory (0 to 0o777); 0 for other kinds."""


MISSING = FileState("missing")
#: Stands for the content of a file that was changed while it was read: it is as no other, and nobody may replace it.
CHANGING = ""


class Worktree:
    """The files below `top`. `temporary` is a directory for unfinished files, best on the same file system.

    Every method takes paths relative to `top`, and raises PermissionError for a path that git would refuse.
    """

    def __init__(self, top: bytes, temporary: bytes, object_format: str) -> None:
        self.top = top
        self._temporary = temporary
        self._format = object_format
        self._count = 0
        #: Permissions of what `stage` wrote: another file system may not hold them.
        self._staged: dict[bytes, int] = {}
        #: Directories, relative to the top, in which entries were created or removed since the last `sync`.
        self._changed: set[bytes] = set()
        #: In `held_open` the open directories from the top to the last parent that was looked at, with their names.
        self._held: list[tuple[bytes, int]] | None = None
        #: A directory was removed: FUSE may know it for a second by a name that folds to the same, gone or not.
        self._has_removed = False

    # -- inspect

    @contextmanager
    def held_open(self) -> Iterator[None]:
        """In the block, which only inspects, a directory is opened once for all paths in it that follow each other."""
        self._held = [(b"", os.open(self.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]
        try:
            yield
        finally:
            held, self._held = self._held, None
            for _, fd in held:
                os.close(fd)

    def look(self, path: bytes) -> FileState:
        """What is at `path`; missing too where a parent is not a directory. Raises OSError where it is unreadable."""
        try:
            with self._parent(path) as (parent, name):
                return self._look_in(parent, name)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING

    def _look_in(self, parent: int, name: bytes) -> FileState:
        """What has a name in an open directory; missing where nothing has. Raises OSError where it is unreadable."""
        try:
            info = os.lstat(name, dir_fd=parent)
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink(name, dir_fd=parent)
                return FileState("link", self._blob_id([target], len(target)), 0o777)
            if stat.S_ISDIR(info.st_mode):
                return FileState("directory", None, info.st_mode & 0o777)
            if not stat.S_ISREG(info.st_mode):
                return FileState("special")
            fd = os.open(name, _FILE, dir_fd=parent)
            try:
                before = file_stamp(os.fstat(fd))
                oid = self._blob_id(_chunks(fd), before[0])
                is_whole = file_stamp(os.fstat(fd)) == before
                return FileState("file", oid if is_whole else CHANGING, info.st_mode & 0o777)
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            return MISSING

    def permissions(self, path: bytes) -> int | None:
        """The permissions of the file or directory at `path`; None where there is neither."""
        return self._mode(path, 0o777)

    def special_bits(self, path: bytes) -> int | None:
        """The setuid, setgid and sticky bits of the file or directory at `path`; None where there is neither."""
        return self._mode(path, 0o7000)

    def _mode(self, path: bytes, bits: int) -> int | None:
        try:
            with self._parent(path) as (parent, name):
                mode = os.lstat(name, dir_fd=parent).st_mode
                return mode & bits if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def stamp(self, path: bytes) -> tuple[int, int] | None:
        """Size in bytes and time of the last change in nanoseconds of the regular file at `path`; None without one.

        The later of mtime and ctime counts: a rename or chmod is a change too, and nobody can set the ctime.
        """
        try:
            with self._parent(path) as (parent, name):
                info = os.lstat(name, dir_fd=parent)
                changed = max(info.st_mtime_ns, info.st_ctime_ns)
                return (info.st_size, changed) if stat.S_ISREG(info.st_mode) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, path: bytes) -> Iterator[bytes]:
        """The bytes of the regular file at `path`, in pieces. Raises OSError."""
        with self._parent(path) as (parent, name):
            fd = os.open(name, _FILE, dir_fd=parent)
        try:
            yield from _chunks(fd)
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

    # -- change

    def write_file(self, path: bytes, content: Iterable[bytes], permissions: int, expected: FileState) -> None:
        """Write a regular file at `path`, and its parent directories.

        Raises FileExistsError where `path` is not in the `expected` state, else OSError.
        """
        self.place(self.stage(content, permissions), path, expected)

    def stage(self, content: Iterable[bytes], permissions: int, *, durable: bool = True) -> bytes:
        """Write a regular file that `place` moves into place later; its path. Without `durable` the caller syncs it."""
        temporary = self._temporary_path()
        write_new_file(temporary, content, mode=permissions, durable=durable)
        self._staged[temporary] = permissions
        return temporary

    def place(self, temporary: bytes, path: bytes, expected: FileState) -> os.stat_result:
        """Move what `stage` wrote to `path`, whose parent directories are made; it is gone where that fails.

        Returns the `lstat` of the file in its place. Raises as `write_file` does.
        """
        try:
            with self._parent(path, create=True) as (parent, name):
                self._move_temporary(temporary, parent, name, expected)
                info = os.lstat(name, dir_fd=parent)
        except BaseException:
            self.discard(temporary)
            raise
        self._note_change(path)
        return info

    def discard(self, temporary: bytes) -> None:
        """Remove what `stage` wrote."""
        self._staged.pop(temporary, None)
        with suppress(OSError):
            os.unlink(temporary)

    def write_link(self, path: bytes, target: bytes, expected: FileState) -> os.stat_result:
        """Create a symlink at `path`, and return its `lstat`; raises as `write_file` does."""
        if b"\0" in target:
            raise OSError(errno.EINVAL, "no symlink has a NUL byte in its target", path)
        with self._parent(path, create=True) as (parent, name):
            temporary = self._temporary_path()
            os.symlink(target, temporary)
            self._move_temporary(temporary, parent, name, expected)
            info = os.lstat(name, dir_fd=parent)
        self._note_change(path)
        return info

    def take_in(self, source: bytes, path: bytes, expected: FileState = MISSING) -> None:
        """Move the file or symlink `source` (an absolute path) to `path`; raises as `write_file` does."""
        with self._parent(path, create=True) as (parent, name):
            self._move(source, parent, name, expected)
        self._note_change(path)

    def delete(self, path: bytes, expected: FileState) -> None:
        """Delete the file or symlink at `path`; raises as `write_file` does."""
        with self._parent(path) as (parent, name):
            self._check(parent, name, expected)
            os.unlink(name, dir_fd=parent)
        self._note_change(path)

    def remove_directory(self, path: bytes) -> bool:
        """Remove an empty directory; False where it is not empty, or none. Raises OSError where the disk fails."""
        tries = 0
        while True:
            try:
                with self._parent(path) as (parent, name):
                    os.rmdir(name, dir_fd=parent)
                break
            except OSError as error:
                if error.errno in (errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
                    raise
                is_full = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
                if not is_full or tries == _MOST_TRIES or not self._holds_deleted_alone(path):
                    return False
            tries += 1
            time.sleep(_PAUSE)
        self._note_change(path)
        self._has_removed = True
        return True

    def _holds_deleted_alone(self, path: bytes) -> bool:
        """Whether all in a directory was deleted, and only stays until the file system hears that it was closed."""
        try:
            with self._parent(path) as (parent, name):
                fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError:
            return False
        try:
            with os.scandir(fd) as entries:
                return all(entry.name.startswith(_DELETED) for entry in entries)
        finally:
            os.close(fd)

    def make_directory(self, path: bytes) -> None:
        """Create a directory and its parents, where missing; raises OSError."""
        with self._parent(path, create=True) as (parent, name):
            _make_directory(name, parent)
            # Not opened: it may be a directory that nobody may read.
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", os.fsdecode(path))
        self._note_change(path)

    def set_permissions(self, path: bytes, permissions: int, *, special: int | None = None) -> None:
        """Change the permissions of a file or directory, never of a symlink's target; raises OSError.

        Setuid, setgid and sticky bits stay as they are, or become `special`.
        """
        with self._parent(path) as (parent, name):
            fd = os.open(name, _FILE, dir_fd=parent)
            try:
                bits = os.fstat(fd).st_mode & 0o7000 if special is None else special
                os.fchmod(fd, permissions | bits)
                sync(fd)
            finally:
                os.close(fd)

    def sync(self) -> None:
        """Make every creation and removal since the last call durable; raises OSError."""
        from ..objects.durable import sync_each

        sync_each(os.path.join(self.top, directory) for directory in self._changed)
        self._changed.clear()

    def take_changed(self) -> list[bytes]:
        """The directories that `sync` would make durable, relative to the top: the caller does it."""
        changed = sorted(self._changed)
        self._changed.clear()
        return changed

    # -- the steps of a change

    def _temporary_path(self) -> bytes:
        self._count += 1
        return os.path.join(self._temporary, b"write-%d-%d" % (os.getpid(), self._count))

    def _note_change(self, path: bytes) -> None:
        while path:
            path = path.rpartition(b"/")[0]
            if path in self._changed:
                break
            self._changed.add(path)

    def _check(self, parent: int, name: bytes, expected: FileState) -> None:
        if self._look_in(parent, name) != expected or expected.oid == CHANGING:
            raise FileExistsError(errno.EEXIST, "it changed in the meantime")

    def _move_temporary(self, temporary: bytes, parent: int, name: bytes, expected: FileState) -> None:
        """Move a file of ours, and remove it where that fails."""
        try:
            self._move(temporary, parent, name, expected)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def _move(self, source: bytes, parent: int, name: bytes, expected: FileState) -> None:
        """Move `source` to `name` in the open directory `parent`."""
        is_new = expected.kind == "missing"
        give_to(source, os.fstat(parent))
        try:
            if is_new:
                os.link(source, name, dst_dir_fd=parent, follow_symlinks=False)
                discard(source)
            else:
                self._check(parent, name, expected)
                os.rename(source, name, dst_dir_fd=parent)
        except OSError as error:
            if error.errno not in _NOT_MOVED:
                raise
            beside = b".gitstate-%d-%d" % (os.getpid(), self._count)
            _copy(source, parent, beside, permissions=self._staged.get(source))
            try:
                # The copy may have taken long.
                self._check(parent, name, expected)
                os.rename(beside, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(OSError):
                    os.unlink(beside, dir_fd=parent)
                raise
            discard(source)
        self._staged.pop(source, None)

    @contextmanager
    def _parent(self, path: bytes, *, create: bool = False) -> Iterator[tuple[int, bytes]]:
        """The open parent directory of `path` and the last part of the path; `create` creates missing parents."""
        if not is_safe_path(path):
            raise PermissionError(errno.EPERM, "git refuses this path", os.fsdecode(path))
        *parents, name = path.split(b"/")
        held = self._held if len(parents) <= _MOST_HELD and not create else None
        fd = -1
        try:
            if held is None:
                fd = self._opened(parents, create)
            yield fd if held is None else _open_below(held, parents), name
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, "a symlink is in the path") from None
            raise
        finally:
            if fd >= 0:
                os.close(fd)

    def _opened(self, parents: list[bytes], create: bool) -> int:
        """Open a directory below the top, step by step."""
        fd = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parents:
                if create and self._has_removed:
                    _make_directory(part, fd)
                try:
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    _make_directory(part, fd)
                    below = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _blob_id(self, pieces: Iterable[bytes], size: int) -> Oid:
        hasher = digest(self._format, b"blob %d\0" % size, size)
        for piece in pieces:
            hasher.update(piece)
        return hasher.hexdigest()


def _copy(source: bytes, parent: int, beside: bytes, *, permissions: int | None) -> None:
    """Copy to `beside` in the open directory `parent`: to another file system neither link nor rename reaches.

    The permissions are those of `source` where none are given.
    """
    if os.path.islink(source):
        os.symlink(os.readlink(source), beside, dir_fd=parent)
        return
    with open(source, "rb") as file:
        if permissions is None:
            permissions = os.stat(source).st_mode & 0o777
        write_new_file(beside, _chunks(file.fileno()), mode=permissions, directory=parent)


def _open_below(held: list[tuple[bytes, int]], parents: list[bytes]) -> int:
    """Open the directory `parents` below the first of `held`, which then holds it last, and all that lead to it."""
    depth = 1
    while depth < len(held) and depth <= len(parents) and held[depth][0] == parents[depth - 1]:
        depth += 1
    while len(held) > depth:
        os.close(held.pop()[1])
    for part in parents[depth - 1 :]:
        held.append((part, os.open(part, _DIRECTORY, dir_fd=held[-1][1])))
    return held[-1][1]


def _make_directory(name: bytes, parent: int) -> None:
    """Create a directory in the open directory `parent`, for its owner; idempotent."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
        give_to(name, os.fstat(parent), directory=parent)


def _chunks(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, _CHUNK):
        yield data
