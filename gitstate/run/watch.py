"""Which paths of a worktree changed since the last question, from the kernel's events (`man 7 inotify`).

Events save a scan, but they prove nothing: they are lost when the queue overflows, and a store through a mapping
raises none. So a caller scans the whole tree once more before the end. Without inotify, or with too few watches, the
answer is that nothing is known.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import GitstateError

if TYPE_CHECKING:
    from inotify_simple import INotify

#: With more changed paths than this a scan of the whole tree is as fast.
_MOST = 20_000

#: Of new directories so many levels are looked into at once.
_DEEPEST = 32

Ignored = Callable[[list[bytes]], set[bytes]]


class Watch:
    """Watches directories below `top`, without those that git ignores: `ignored` returns which of some these are."""

    def __init__(self, top: bytes, ignored: Ignored) -> None:
        self.top = top
        self._ignored = ignored
        self._touched: set[bytes] = set()
        self._by_descriptor: dict[int, bytes] = {}
        self._by_path: dict[bytes, int] = {}
        self._lost = False
        self._inotify: INotify | None = None
        self._mask = 0
        try:
            from inotify_simple import INotify, flags

            self._inotify = INotify()
            self._flags: Any = flags
            self._mask = (
                flags.MODIFY
                | flags.CLOSE_WRITE
                | flags.ATTRIB
                | flags.CREATE
                | flags.DELETE
                | flags.MOVED_FROM
                | flags.MOVED_TO
                | flags.ONLYDIR
                | flags.DONT_FOLLOW
                | flags.EXCL_UNLINK
            )
        except (ImportError, OSError, AttributeError):
            self._inotify = None

    @property
    def works(self) -> bool:
        """Whether anything is watched at all."""
        return self._inotify is not None

    def fileno(self) -> int:
        """The descriptor that is readable when `drain` has events to read."""
        assert self._inotify is not None
        number: int = self._inotify.fileno()
        return number

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
        for event in self._inotify.read(timeout=0):
            if event.mask & self._flags.Q_OVERFLOW:
                self._lost = True
                continue
            directory = self._by_descriptor.get(event.wd)
            if directory is None:
                continue
            if event.mask & self._flags.IGNORED:
                self._forget(event.wd)
                continue
            name = os.fsencode(event.name)
            path = os.path.join(directory, name) if name else directory
            if path == b".git" or not path:
                continue
            self._touched.add(path)
            if event.mask & self._flags.ISDIR:
                if event.mask & self._flags.MOVED_FROM:
                    self._forget_below(path)
                elif event.mask & (self._flags.CREATE | self._flags.MOVED_TO):
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
            descriptor = self._inotify.add_watch(os.path.join(self.top, path), self._mask)
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
                self._inotify.rm_watch(descriptor)
            except OSError:
                continue
