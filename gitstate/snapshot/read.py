"""Read single files into blobs, safely: no symlink is followed, no FIFO blocks, and a changing file is read again."""

from __future__ import annotations

import os
import stat

from ..git.command import Oid, object_id
from ..git.repository import head_of
from ..objects.pack import ChangedWhileRead
from ..objects.reader import LARGE
from ..objects.tree import EXECUTABLE, GITLINK, REGULAR, SYMLINK, Leaf, is_safe_path
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from ..objects.pack import PackWriter
    from .record import SnapshotBuilder

#: A file that changes while it is read is read this many times.
_ATTEMPTS = 3


class Content(Record):
    """The outcome of reading one path. All fields are empty where nothing is there."""

    oid: Oid | None = None
    """The file's bytes, or the target of the symlink, as a blob; None where it was not read."""
    info: os.stat_result | None = None
    """The status of what was read; None where it was not read."""
    problem: str = ""
    """Why it was not read, or not in one piece; empty where all is well."""
    lost: bool = False
    """Whether bytes of a regular file are missing."""


def read_content(full: bytes, writer: PackWriter, largest: int | None) -> Content:
    """Read the file or symlink at an absolute path into `writer`; a file of more than `largest` bytes is not read."""
    for attempt in range(_ATTEMPTS):
        try:
            info = os.lstat(full)
            if stat.S_ISLNK(info.st_mode):
                return Content(writer.add("blob", os.readlink(full)), info)
            if not stat.S_ISREG(info.st_mode):
                return Content(problem=special_reason(full))
            fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return Content()
        except OSError as error:
            return Content(problem=f"unreadable: {error.strerror}", lost=True)
        try:
            before = os.fstat(fd)
            if largest is not None and before.st_size > largest:
                return Content(problem=f"larger than {largest} bytes; saved in a second step", lost=True)
            if before.st_size > LARGE:
                oid = writer.add_file(fd, before.st_size)
            else:
                oid = writer.add("blob", read_whole(fd, before.st_size))
            after = os.fstat(fd)
        except ChangedWhileRead:
            continue
        except OSError as error:
            return Content(problem=f"unreadable: {error.strerror}", lost=True)
        finally:
            os.close(fd)
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return Content(oid, before)
        if attempt == _ATTEMPTS - 1:
            return Content(oid, before, "kept changing while it was read; one of its versions is saved", True)
    return Content(problem="kept changing while it was read", lost=True)


def read_file(builder: SnapshotBuilder, path: bytes) -> Leaf | None:
    """The file at `path` as a leaf; None where it is gone, then noted as deleted, or skipped."""
    if builder.options.deadline.passed():
        builder.skip(path, "the deadline passed before it was read", lost=True)
        return None
    content = read_content(os.path.join(builder.top, path), builder.writer, builder.options.largest)
    if content.problem:
        builder.skip(path, content.problem, lost=content.lost)
    if content.oid is None or content.info is None:
        if not content.lost and path in builder.index_modes:
            builder.snapshot.worktree[path] = None
        return None
    if stat.S_ISLNK(content.info.st_mode):
        return Leaf(SYMLINK, content.oid)
    return Leaf(_file_mode(builder, path, builder.permissions(path, content.info.st_mode)), content.oid)


def _file_mode(builder: SnapshotBuilder, path: bytes, permissions: int) -> int:
    """The mode that git gives a regular file (`ce_mode_from_stat`); other permissions are noted."""
    in_index = builder.index_modes.get(path)
    if not builder.symlinks and in_index == SYMLINK:
        return SYMLINK
    if builder.filemode:
        mode = EXECUTABLE if permissions & 0o100 else REGULAR
    else:
        mode = in_index if in_index in (REGULAR, EXECUTABLE) else REGULAR
    if permissions != mode & 0o777:
        builder.snapshot.modes[path] = permissions
    else:
        builder.snapshot.modes.pop(path, None)
    return mode


def read_files(builder: SnapshotBuilder, paths: Sequence[bytes], converted: Container[bytes]) -> list[bytes]:
    """Read changed and untracked files into the snapshot; returns the regular files among `converted`, not read."""
    left: list[bytes] = []
    for path in paths:
        if not is_safe_path(path):
            builder.skip(path, "git refuses this file name", lost=True)
            continue
        try:
            if not builder.is_reached(path.rpartition(b"/")[0]):
                raise NotADirectoryError
            info = os.lstat(os.path.join(builder.top, path))
        except (FileNotFoundError, NotADirectoryError):
            if path in builder.index_modes:
                builder.snapshot.worktree[path] = None
            continue
        if stat.S_ISDIR(info.st_mode):
            _note_directory(builder, path)
        elif stat.S_ISREG(info.st_mode) and path in converted:
            left.append(path)
        else:
            leaf = read_file(builder, path)
            if leaf is not None:
                builder.snapshot.worktree[path] = leaf
    return left


def _note_directory(builder: SnapshotBuilder, path: bytes) -> None:
    """A directory where the index has an entry: a submodule on another commit, or a deleted file."""
    mode = builder.index_modes.get(path)
    if mode == GITLINK:
        head = head_of(os.path.join(builder.top, path))
        if head is not None:
            builder.snapshot.worktree[path] = Leaf(GITLINK, head)
    elif mode is not None:
        builder.snapshot.worktree[path] = None


def size_of(full: bytes) -> int:
    """The size of what is at an absolute path; 0 where nothing can be said."""
    try:
        return os.lstat(full).st_size
    except OSError:
        return 0


def read_whole(fd: int, size: int) -> bytes:
    """All bytes of an open file that had `size` bytes. Raises ChangedWhileRead where it grew by more than `LARGE`."""
    parts = []
    got = 0
    while data := os.read(fd, max(size - got, 0) + 1):
        parts.append(data)
        got += len(data)
        if got > max(size, LARGE) + LARGE:
            raise ChangedWhileRead
    return parts[0] if len(parts) == 1 else b"".join(parts)


def has_content(full: bytes, object_format: str, oid: Oid) -> bool:
    """Whether the file or symlink at an absolute path is the blob `oid`, byte for byte. False for a large file."""
    try:
        info = os.lstat(full)
        if stat.S_ISLNK(info.st_mode):
            return object_id(object_format, "blob", os.readlink(full)) == oid
        if not stat.S_ISREG(info.st_mode) or info.st_size > LARGE:
            return False
        with open(full, "rb") as file:
            return object_id(object_format, "blob", file.read()) == oid
    except OSError:
        return False


def special_reason(full: bytes) -> str:
    """Why what is at an absolute path, neither file, symlink nor directory, is skipped."""
    try:
        mode = os.lstat(full).st_mode
    except OSError:
        return "neither a file, a symlink nor a directory"
    kinds: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    name = next((word for matches, word in kinds if matches(mode)), "neither a file, a symlink nor a directory")
    return f"{name}: git cannot store it"
