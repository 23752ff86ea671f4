"""Which paths of a worktree changed since the last question, from the kernel's events (`man 7 inotify`).

Each file that is made, written or moved is held at once (`held`). A new directory is watched at once too, and looked
into when the watch stands: what was written before has no event. Whether git ignores it is asked later.

Events save a scan, but they prove nothing: they are lost when the queue overflows, and a store through a mapping
raises none. So a caller scans the whole tree once more before the end. Without inotify, or with too few watches, the
answer is that nothing is known.
"""

from __future__ import annotations

import errno
import os
import time
from _struct import Struct

from ..system.stdlib import TYPE_CHECKING, c_function, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from .held import HeldFiles

    #: Which of some directories git ignores.
    Ignored = Callable[[list[bytes]], set[bytes]]

#: With more changed paths than this a scan of the whole tree is as fast.
_MOST = 20_000
#: Of new directories so many levels are looked into at once.
_DEEPEST = 32
#: So many bytes of events are read at once: some 2,000 of them.
_AT_ONCE = 1 << 16
#: A file's times come from a clock that ticks, in nanoseconds.
_TICK_NS = 50_000_000

#: Bits of an event, and of what is watched (`man 7 inotify`, <sys/inotify.h>).
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_Q_OVERFLOW, _IGNORED, _ISDIR = 0x4000, 0x8000, 0x40000000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK = 0x1000000, 0x2000000, 0x4000000
ADDED_OR_REMOVED = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_CHANGES = _MODIFY | _ATTRIB | _CLOSE_WRITE | ADDED_OR_REMOVED
_SEEN = _CREATE | _MODIFY | _CLOSE_WRITE


_EVENT = Struct("iIII")


class Inotify:
    """The kernel's watches, by way of the C library. Raises ImportError, OSError, AttributeError where it has none."""

    def __init__(self) -> None:
        self._add, self._remove = c_function("inotify_add_watch"), c_function("inotify_rm_watch")
        self._fd = c_function("inotify_init1")(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def add(self, path: bytes, events: int) -> int:
        """Watch a directory; the number that its events name. Raises OSError."""
        return self._add(self._fd, path, events | _ONLYDIR | _DONT_FOLLOW | _EXCL_UNLINK)

    def remove(self, number: int) -> None:
        """Watch it no longer. Raises OSError."""
        self._remove(self._fd, number)

    def read(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The events that have come: the number of the directory, the bits, the cookie, and the name in it, which may
        be empty.
        """
        unpack = _EVENT.unpack_from
        while True:
            try:
                data = os.read(self._fd, _AT_ONCE)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                number, mask, cookie, size = unpack(data, at)
                at += 16 + size
                yield number, mask, cookie, data[at - size : at].partition(b"\0")[0]
            if len(data) < _AT_ONCE - 512:
                return

    def close(self) -> None:
        os.close(self._fd)


class WorktreeListing:
    """Watches `worktrees` in the git directory that all worktrees share, and that directory itself without it.

    What is written in a new worktree is held from the start: the kernel tells when git adds or removes one.
    """

    def __init__(self, common_dir: bytes) -> None:
        self._common_dir = common_dir
        self._around: int | None = None
        self._inotify: Inotify | None = None
        with suppress(ImportError, OSError, AttributeError):
            self._inotify = Inotify()
        self._begin()

    def watched(self) -> list[int]:
        """What can be read when `has_changed` has something to say."""
        return [] if self._inotify is None else [self._inotify.fileno()]

    def has_changed(self) -> bool:
        """Whether something was added or removed since the last call."""
        if self._inotify is None or not any(True for _ in list(self._inotify.read())):
            return False
        self._begin()
        return True

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _begin(self) -> None:
        if self._inotify is None:
            return
        around, self._around = self._around, None
        try:
            self._inotify.add(os.path.join(self._common_dir, b"worktrees"), ADDED_OR_REMOVED)
        except OSError:
            # Git makes it for the first one, and removes it with the last.
            with suppress(OSError):
                self._around = self._inotify.add(self._common_dir, ADDED_OR_REMOVED)
        if around is not None and self._around is None:
            with suppress(OSError):
                self._inotify.remove(around)


class Watch:
    """Watches directories below `top`, and holds the files in them with `held`."""

    def __init__(self, top: bytes, held: HeldFiles | None = None) -> None:
        self.top = top
        self._held = held
        self._touched: set[bytes] = set()
        self._by_descriptor: dict[int, bytes] = {}
        self._by_path: dict[bytes, int] = {}
        self._lost = False
        self._is_blind = False
        #: Directories to look into, since events were lost, and when the last ones were read before that.
        self._again: list[bytes] = []
        self._since_ns = 0
        self._moving: dict[int, bytes] = {}
        self.unjudged: list[bytes] = []
        """New directories: call `drop` with those that git ignores."""
        self._seen_ns = time.time_ns()
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

    def add_since(self, directories: Iterable[bytes], since_ns: int) -> None:
        """As `add`. Not all is known where entries came or went since, in one that was not watched."""
        for path in directories:
            before = self._by_path.get(path)
            if self._add(path) and self._by_path[path] != before:
                with suppress(OSError):
                    changed_ns = os.lstat(os.path.join(self.top, path)).st_ctime_ns
                    self._lost = self._lost or changed_ns >= since_ns - _TICK_NS

    def lose(self) -> None:
        """Not all that should be is watched: what changes is not known any more."""
        self._is_blind = True

    def add_all(self) -> None:
        """Watch the top, which is new, and all that is in it already."""
        self._open(b"")

    def touch(self, paths: Iterable[bytes]) -> None:
        """Count these paths as changed."""
        self._touched.update(paths)

    def drain(self) -> None:
        """Read the events that have come, watch the new directories, and hold the files."""
        if self._inotify is None:
            return
        begun, is_whole = time.time_ns(), True
        for descriptor, mask, cookie, name in self._inotify.read():
            if mask & _Q_OVERFLOW:
                self._lost, is_whole = True, False
                self._since_ns = min(self._seen_ns, self._since_ns) if self._again else self._seen_ns
                self._again = [*self._by_path]
                continue
            directory = self._by_descriptor.get(descriptor)
            if directory is None:
                continue
            if mask & _IGNORED:
                self._forget(descriptor)
                continue
            path = directory + b"/" + name if directory and name else directory or name
            if path == b".git" or not path:
                continue
            if len(self._touched) <= _MOST:
                self._touched.add(path)
            if mask & _ISDIR:
                self._on_directory(path, mask, cookie)
            elif self._held is not None:
                self._on_file(path, mask, cookie)
        if is_whole:
            # What an overflow hides from here on is no older.
            self._seen_ns = begun

    def _on_file(self, path: bytes, mask: int, cookie: int) -> None:
        assert self._held is not None
        if mask & _SEEN:
            self._held.see(path, is_new=not mask & _MODIFY)
        elif mask & _DELETE:
            self._held.unlinked(path)
        elif mask & _MOVED_FROM:
            self._moving[cookie] = path
        elif mask & _MOVED_TO:
            before = self._moving.pop(cookie, None)
            if before is not None:
                self._held.moved(before, path)
            self._held.see(path)

    def _on_directory(self, path: bytes, mask: int, cookie: int) -> None:
        if mask & _MOVED_FROM:
            self._forget_below(path)
            self._moving[cookie] = path
        elif mask & (_CREATE | _MOVED_TO):
            before = self._moving.pop(cookie, None)
            if self._held is not None and before is not None:
                self._held.moved_below(before, path)
            self._open(path)

    def take(self) -> frozenset[bytes] | None:
        """The paths that changed since the last call; None if that is not known, and the whole tree must be scanned."""
        self.drain()
        unknown = self._lost or self._is_blind or self._inotify is None or len(self._touched) > _MOST
        touched = frozenset(self._touched)
        self._touched.clear()
        self._moving.clear()
        self._lost = False
        return None if unknown else touched

    def touched(self) -> frozenset[bytes]:
        """Paths that changed since the last `take`, for all that is known."""
        self.drain()
        return frozenset(self._touched)

    @property
    def has_to_look(self) -> bool:
        """Whether events were lost, and `look_again` has not been everywhere yet."""
        return bool(self._again)

    def look_again(self, most: int) -> None:
        """Events were lost: look into some directories for files that changed since the last ones were read.

        Directories that are new are known after the next look at the whole tree.
        """
        for directory in self._again[-most:]:
            self._look_into(directory, self._since_ns)
        del self._again[-most:]

    def drop(self, directories: Collection[bytes]) -> None:
        """Watch and hold nothing of what is in these directories: git ignores them."""
        for directory in directories:
            self._forget_below(directory)
            if self._held is not None:
                self._held.forget_below(directory)

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _open(self, top: bytes) -> None:
        """Watch a new directory and those below it. They count as changed with everything that is in them."""
        level = [top]
        for _ in range(_DEEPEST):
            below: list[bytes] = []
            for path in level:
                if self._add(path):
                    self.unjudged += [path] if path else []
                    below += self._look_into(path, 0)
            level = below
            if not level:
                return
        self._lost = True

    def _look_into(self, directory: bytes, since_ns: int) -> list[bytes]:
        """Hold the files in a directory that changed since; returns the directories in it."""
        inside: list[bytes] = []
        try:
            with os.scandir(os.path.join(self.top, directory)) as entries:
                for entry in entries:
                    path = os.path.join(directory, entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name != b".git":
                            inside.append(path)
                        elif directory:
                            # A nested repository has many events, and is always scanned as a whole.
                            self._lost = True
                    elif self._held is not None and entry.is_file(follow_symlinks=False):
                        changed_ns = entry.stat(follow_symlinks=False).st_ctime_ns if since_ns else 0
                        if changed_ns >= since_ns - _TICK_NS:
                            self._held.see(path)
        except OSError:
            pass
        return inside

    def _add(self, path: bytes) -> bool:
        if self._inotify is None:
            return False
        try:
            descriptor = self._inotify.add(os.path.join(self.top, path), _CHANGES)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENAMETOOLONG):
                # The user has no watches left: from now on not all is known. What is watched is still held.
                self._is_blind = True
            return False
        self._by_descriptor[descriptor] = path
        self._by_path[path] = descriptor
        return True

    def _forget(self, descriptor: int) -> None:
        path = self._by_descriptor.pop(descriptor, None)
        if path is not None and self._by_path.get(path) == descriptor:
            del self._by_path[path]

    def _forget_below(self, top: bytes) -> None:
        """Stop watching a directory, which moved away, say: it would report its changes under its old name."""
        prefix = top + b"/"
        for path in [path for path in self._by_path if path == top or path.startswith(prefix)]:
            descriptor = self._by_path.pop(path)
            self._by_descriptor.pop(descriptor, None)
            try:
                assert self._inotify is not None
                self._inotify.remove(descriptor)
            except OSError:
                continue
