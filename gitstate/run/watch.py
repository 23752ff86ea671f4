"""Which paths of a worktree changed since the last question, from the kernel's events (`man 7 inotify`).

Events save a scan, but they prove nothing: they are lost when the queue overflows, and a store through a mapping
raises none. So a caller scans the whole tree once more before the end. Without inotify, or with too few watches, the
answer is that nothing is known.
"""

from __future__ import annotations

import errno
import os
import select
from sys import byteorder

from ..errors import GitstateError
from ..system.stdlib import TYPE_CHECKING, c_function, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Ignored = Callable[[list[bytes]], set[bytes]]

#: With more changed paths than this a scan of the whole tree is as fast.
_MOST = 20_000

#: Of new directories so many levels are looked into at once.
_DEEPEST = 32

#: Bits of an event, and of what is watched (`man 7 inotify`, <sys/inotify.h>).
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_Q_OVERFLOW, _IGNORED, _ISDIR = 0x4000, 0x8000, 0x40000000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK = 0x1000000, 0x2000000, 0x4000000
_CHANGES = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_MASK = _CHANGES | _ONLYDIR | _DONT_FOLLOW | _EXCL_UNLINK
#: So many bytes of events are read at once; one has 16, and a name.
_AT_ONCE = 1 << 16


class Inotify:
    """The kernel's watches, by way of the C library. Raises OSError, AttributeError where the system has none."""

    def __init__(self) -> None:
        self._add, self._remove = c_function("inotify_add_watch"), c_function("inotify_rm_watch")
        self._fd = c_function("inotify_init1")(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def add(self, path: bytes) -> int:
        """Watch a directory; the number that its events name. Raises OSError."""
        return self._add(self._fd, path, _MASK)

    def remove(self, number: int) -> None:
        """Watch it no longer. Raises OSError."""
        self._remove(self._fd, number)

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """The events that have come: the number of the directory, the bits, and the name in it, which may be empty."""
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, _AT_ONCE)
            at = 0
            while at < len(data):
                number, mask, size = (
                    int.from_bytes(data[place : place + 4], byteorder) for place in (at, at + 4, at + 12)
                )
                name, at = data[at + 16 : at + 16 + size], at + 16 + size
                yield number, mask, name.rstrip(b"\0")

    def close(self) -> None:
        os.close(self._fd)


class Watch:
    """Watches directories below `top`, without those that git ignores: `ignored` returns which of some these are."""

    def __init__(self, top: bytes, ignored: Ignored) -> None:
        self.top = top
        self._ignored = ignored
        self._touched: set[bytes] = set()
        self._by_descriptor: dict[int, bytes] = {}
        self._by_path: dict[bytes, int] = {}
        self._lost = False
        self._inotify: Inotify | None = None
        with suppress(ImportError, OSError, AttributeError):
            self._inotify = Inotify()

    @property
    def works(self) -> bool:
        """Whether anything is watched at all."""
        return self._inotify is not None

    def fileno(self) -> int:
        """The descriptor that is readable when `drain` has events to read."""
        assert self._inotify is not None
        return self._inotify.fileno()

    def add(self, directories: Iterable[bytes]) -> None:
        """Watch these directories, not those below them. Paths are relative to the top, which is the empty path."""
        for directory in directories:
            self._add(directory)

    def touch(self, paths: Iterable[bytes]) -> None:
        """Count these paths as changed."""
        self._touched.update(paths)

    def drain(self) -> None:
        """Read the events that have come, and watch the new directories."""
        if self._inotify is None:
            return
        new: list[bytes] = []
        for number, mask, name in self._inotify.read():
            if mask & _Q_OVERFLOW:
                self._lost = True
                continue
            directory = self._by_descriptor.get(number)
            if directory is None:
                continue
            if mask & _IGNORED:
                self._forget(number)
                continue
            path = os.path.join(directory, name) if name else directory
            if path == b".git" or not path:
                continue
            self._touched.add(path)
            if mask & _ISDIR:
                if mask & _MOVED_FROM:
                    self._forget_below(path)
                elif mask & (_CREATE | _MOVED_TO):
                    new.append(path)
        if len(self._touched) > _MOST:
            self._lost = True
        self._open(new)

    def take(self) -> frozenset[bytes] | None:
        """The paths that changed since the last call; None if that is not known, and the whole tree must be scanned."""
        self.drain()
        touched, lost = frozenset(self._touched), self._lost or self._inotify is None
        self._touched.clear()
        self._lost = False
        return None if lost else touched

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _open(self, level: list[bytes]) -> None:
        """Watch new directories and those below them. They count as changed with everything that is in them.

        Each level takes a git process, so a deep tree is left to a full scan.
        """
        for _ in range(_DEEPEST):
            if not level:
                return
            try:
                ignored = self._ignored(level)
            except (GitstateError, OSError):
                # The workspace itself may be on its way out: then nothing is known.
                self._lost = True
                return
            below: list[bytes] = []
            for path in level:
                if path in ignored or not self._add(path):
                    continue
                try:
                    with os.scandir(os.path.join(self.top, path)) as entries:
                        inside = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
                    if any(entry.name == b".git" for entry in inside):
                        # A nested repository has many events, and is always scanned as a whole.
                        self._lost = True
                    below += [os.path.join(path, entry.name) for entry in inside if entry.name != b".git"]
                except OSError:
                    continue
            level = below
        self._lost = self._lost or bool(level)

    def _add(self, path: bytes) -> bool:
        if self._inotify is None:
            return False
        try:
            descriptor = self._inotify.add(os.path.join(self.top, path))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG):
                # The user has no watches left: from now on nothing is known.
                self.close()
            return False
        self._by_descriptor[descriptor] = path
        self._by_path[path] = descriptor
        return True

    def _forget(self, descriptor: int) -> None:
        path = self._by_descriptor.pop(descriptor, None)
        if path is not None and self._by_path.get(path) == descriptor:
            del self._by_path[path]

    def _forget_below(self, top: bytes) -> None:
        """Stop watching a directory that moved away: it would report its changes under its old name."""
        prefix = top + b"/"
        for path in [path for path in self._by_path if path == top or path.startswith(prefix)]:
            descriptor = self._by_path.pop(path)
            self._by_descriptor.pop(descriptor, None)
            try:
                assert self._inotify is not None
                self._inotify.remove(descriptor)
            except OSError:
                continue
