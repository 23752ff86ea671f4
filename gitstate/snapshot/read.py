"""Read single files into blobs, safely: no symlink is followed, no FIFO blocks, and a changing file is read again.

A file that only grows is saved as it was at one moment: its bytes up to the size that it had when it was opened.
"""

from __future__ import annotations

import errno
import os
import stat

from ..format.manifest import REFUSED_NAME
from ..git.command import Oid, object_id
from ..git.repository import head_of
from ..objects.pack import ChangedWhileRead, TooLate, read_ranges, zeros
from ..objects.reader import LARGE
from ..objects.tree import EXECUTABLE, GITLINK, REGULAR, SYMLINK, Leaf, is_refused_symlink, is_safe_path, parents_of
from ..system.clock import Deadline
from ..system.files import file_stamp
from ..system.stdlib import TYPE_CHECKING, Record, digest, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from ..objects.pack import PackWriter
    from .record import HeldFile, Snapshot, SnapshotBuilder, SnapshotOptions

NEVER = Deadline(None)
#: A file that changes while it is read is read this many times.
_ATTEMPTS = 3
#: What was a file is a link by now, or the other way round.
_REPLACED = (errno.ELOOP, errno.EINVAL)


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


#: A sparse file with larger holes than this, in bytes, is skipped: git has no holes, and would have to read them.
_MOST_HOLES = 16 << 30
#: Added to the reason where an older version of a file is saved in its place.
OLDER = "; its version of the save before is saved"
LATE = "the deadline passed before it was read"
#: So many files of at most so many bytes, the most precious, are read whatever the deadline: it takes no time.
_IN_ANY_CASE, _TINY = 64, 64 << 10


def read_content(
    full: bytes,
    writer: PackWriter,
    refuses: Callable[[int], str] = lambda size: "",
    deadline: Deadline = NEVER,
    info: os.stat_result | None = None,
) -> Content:
    """Read the file or symlink at an absolute path into `writer`.

    `refuses` is asked with the size of a file, and says why it is not to be read; empty where it is. `info` is the
    status of what is there, where the caller has just asked for it.
    """
    for attempt in range(_ATTEMPTS):
        try:
            info = os.lstat(full) if info is None or attempt else info
            if stat.S_ISLNK(info.st_mode):
                return Content(writer.add("blob", os.readlink(full)), info)
            if not stat.S_ISREG(info.st_mode):
                return Content(problem=special_reason(full))
            fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return Content()
        except OSError as error:
            if error.errno in _REPLACED and attempt < _ATTEMPTS - 1:
                continue
            return Content(problem=f"unreadable: {error.strerror}", lost=True)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise ChangedWhileRead
            problem = refuses(before.st_size) or _hole_problem(before)
            if problem:
                return Content(problem=problem, lost=True)
            if before.st_size > LARGE:
                oid = writer.add_file(fd, before.st_size, deadline)
            else:
                oid = writer.add("blob", read_whole(fd, before.st_size))
            after = os.fstat(fd)
            if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                return Content(oid, before)
            # One that only grew still begins with what was read.
            if after.st_size >= before.st_size and _begins_with(fd, before.st_size, oid, deadline):
                return Content(oid, before)
        except ChangedWhileRead:
            continue
        except TooLate:
            return Content(problem=LATE, lost=True)
        except OSError as error:
            return Content(problem=f"unreadable: {error.strerror}", lost=True)
        finally:
            os.close(fd)
        if attempt == _ATTEMPTS - 1:
            return Content(oid, before, "kept changing while it was read; one of its versions is saved", True)
    return Content(problem="kept changing while it was read", lost=True)


def _hole_problem(info: os.stat_result) -> str:
    """Why a sparse file can't be saved; empty where it can. A file of a file system that knows no holes is none."""
    data = info.st_blocks * 512
    if info.st_size - data <= _MOST_HOLES:
        return ""
    return f"a sparse file of {info.st_size} bytes with {data} bytes of data: git cannot store its holes"


def _begins_with(fd: int, size: int, oid: Oid, deadline: Deadline) -> bool:
    """Whether the first `size` bytes of an open file are the blob `oid`. Raises ChangedWhileRead, TooLate."""
    name = "sha1" if len(oid) == 40 else "sha256"
    whole = digest(name, b"blob %d\0" % size, size)
    os.lseek(fd, 0, os.SEEK_SET)
    for data, length in read_ranges(fd, size, deadline):
        whole.update(zeros(length) if data is None else data)
    return whole.hexdigest() == oid


def read_file(
    builder: SnapshotBuilder, path: bytes, deadline: Deadline | None = None, info: os.stat_result | None = None
) -> Leaf | None:
    """The file at `path` as a leaf; None where it is gone, then noted as deleted, or skipped.

    `deadline` takes the place of the builder's; `info` is as for `read_content`.
    """
    options, deadline = builder.options, deadline or builder.deadline
    if deadline.passed():
        builder.skip(path, LATE, lost=True)
        builder.unread.append(path)
        return None
    full = os.path.join(builder.top, path)
    held = None if options.growth is None else options.growth.held.get(path)
    content = None if held is None else _held_content(builder, full, held, only_if_same=True)
    if content is None:
        content = read_content(full, builder.writer, lambda size: _refusal(options, path, size), deadline, info)
        if options.growth is not None and content.oid is not None and content.info is not None:
            options.growth.note(path, content.info, content.oid)
        if held is not None and content.oid is None and content.lost:
            builder.skip(path, content.problem + OLDER, lost=True)
            content = _held_content(builder, full, held, only_if_same=False) or content._replace(problem="")
    if content.problem:
        builder.skip(path, content.problem, lost=content.lost)
        if content.lost:
            builder.unread.append(path)
    if content.oid is None or content.info is None:
        if not content.lost and path in builder.index_modes:
            builder.snapshot.worktree[path] = None
        return None
    if stat.S_ISLNK(content.info.st_mode):
        return Leaf(SYMLINK, content.oid)
    return Leaf(_file_mode(builder, path, builder.permissions(path, content.info.st_mode)), content.oid)


def read_early(builder: SnapshotBuilder, path: bytes, number: int, info: os.stat_result | None = None) -> Leaf | None:
    """`read_file` of one of the most precious files, the first of which is number 0."""
    tiny = False
    if number < _IN_ANY_CASE:
        with suppress(OSError):
            size = os.lstat(os.path.join(builder.top, path)).st_size if info is None else info.st_size
            tiny = size <= _TINY
    return read_file(builder, path, NEVER if tiny else None, info)


def _held_content(builder: SnapshotBuilder, full: bytes, held: HeldFile, *, only_if_same: bool) -> Content | None:
    """The version of a file that the last checkpoint holds; None where it is gone, or with `only_if_same` changed."""
    with suppress(OSError):
        info = os.lstat(full)
        usable = stat.S_ISREG(info.st_mode) and (not only_if_same or file_stamp(info) == held.identity)
        if usable and builder.reader.kinds([held.oid])[0] is not None:
            return Content(held.oid, info)
    return None


def _refusal(options: SnapshotOptions, path: bytes, size: int) -> str:
    """Why a file of `size` bytes is not read; empty where it is."""
    if options.largest is not None and size > options.largest:
        return f"larger than {options.largest} bytes; saved in a second step"
    problem = "" if options.growth is None else options.growth.refusal(path, size)
    return problem or ("" if options.room is None else options.room.refusal(size))


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
    for number, path in enumerate(paths):
        if number >= _IN_ANY_CASE and builder.deadline.passed():
            builder.skip_late(paths[number:], LATE)
            break
        if not is_safe_path(path):
            builder.skip(path, REFUSED_NAME, lost=True)
            continue
        try:
            # Where a directory above may not be searched this fails: nobody knows that the file is gone.
            info = os.lstat(os.path.join(builder.top, path))
            if not builder.is_reached(path.rpartition(b"/")[0]):
                raise NotADirectoryError
        except (FileNotFoundError, NotADirectoryError):
            if path in builder.index_modes:
                builder.snapshot.worktree[path] = None
            continue
        except PermissionError as error:
            builder.skip(path, f"unreadable: {error.strerror}", lost=True)
            continue
        if stat.S_ISDIR(info.st_mode):
            _note_directory(builder, path)
        elif stat.S_ISREG(info.st_mode) and path in converted:
            left.append(path)
        else:
            leaf = read_early(builder, path, number, info)
            if leaf is not None and leaf.mode == SYMLINK and is_refused_symlink(path):
                builder.snapshot.raw[path] = (Leaf(REGULAR, leaf.oid), "symlink")
            elif leaf is not None:
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


def read_whole(fd: int, size: int) -> bytes:
    """The first `size` bytes of an open file, fewer where it became shorter.

    All of it where it is said to have none, as in some file systems; ChangedWhileRead where that is more than `LARGE`.
    """
    parts = []
    left = size or LARGE + 1
    while left and (data := os.read(fd, left)):
        parts.append(data)
        left -= len(data)
    if not size and not left:
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


def take_older(builder: SnapshotBuilder, earlier: Snapshot) -> None:
    """Of what was not looked at now, take the version of the earlier snapshot, and say so."""
    snapshot, asked = builder.snapshot, builder.asked
    late = {path.removesuffix(b"/") for path in builder.unread}
    older: dict[bytes, Leaf | None] = {}
    for path, leaf in earlier.worktree.items() if late or asked is not None else ():
        is_unasked = asked is not None and path in builder.tracked.paths and path not in asked
        if path in snapshot.worktree or path in earlier.raw:
            continue
        if leaf is None and (not is_unasked or os.path.lexists(os.path.join(builder.top, path))):
            continue
        if is_unasked or path in late or not late.isdisjoint(parents_of(path)):
            older[path] = leaf
    snapshot.worktree.update(older)
    snapshot.modes.update({path: earlier.modes[path] for path in older if path in earlier.modes})
    for number, item in enumerate(snapshot.left_out):
        if item.path in older and not item.reason.endswith(OLDER):
            snapshot.left_out[number] = item._replace(reason=item.reason + OLDER)
