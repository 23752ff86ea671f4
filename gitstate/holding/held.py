"""Descriptors of files that were written, so that unlinking or replacing them destroys nothing until a checkpoint.

A descriptor is opened with O_PATH (`man 2 open`): it keeps the inode, and a FIFO, a device, a lease or another watcher
notices nothing of it. It costs some 5 µs. Bytes are read only from what was destroyed, by the checkpoint that keeps
them.
"""

from __future__ import annotations

import fcntl
import os
import resource
import stat

from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: No more descriptors than this are held. Where there are more, the oldest go.
MOST_FILES = 16_384
#: Descriptors below this one are left for everything else: `select` can't wait for those above.
_FIRST = 1024
#: A larger file is not held, in bytes: who deletes one may need its room.
LARGEST = 64 << 20
#: What is held of files that are gone from the disk takes no more room than this, nor than is free, in bytes.
MOST_BYTES = 512 << 20
#: Of one path so many versions are held.
_VERSIONS = 4


class Gone(Record):
    """A version of a file that is no longer at its path."""

    link: str
    """Where it can be opened, below /proc, by the process that holds it and by those that it forks."""
    identity: tuple[int, int]
    """Device and inode, which tell that it is this one."""


if TYPE_CHECKING:
    #: Path → what was there.
    Layer = Mapping[bytes, Gone]


class _Version:
    """One inode that was at a path."""

    __slots__ = ("epoch", "fd", "identity", "is_given", "size", "was_unlinked")

    def __init__(self, fd: int, identity: tuple[int, int], epoch: int) -> None:
        self.fd = fd
        self.identity = identity
        #: Of the last event of it.
        self.epoch = epoch
        #: Whether a caller of `take` got it.
        self.is_given = False
        #: Bytes, where it is known to be gone; None while it may be at its path.
        self.size: int | None = None
        self.was_unlinked = False


class HeldFiles:
    """The files below `top` that were written since the last checkpoint. Paths are relative to it."""

    def __init__(self, top: bytes, most: int | None = None) -> None:
        self._top = os.path.join(top, b"")
        self._first, allowed = _allowed()
        self._most = allowed if most is None else most
        self._versions: dict[bytes, list[_Version]] = {}
        self._epoch = 0
        self.count = 0
        """How many descriptors are open."""
        #: Those whose size is known, the oldest first, with their paths.
        self._gone: dict[_Version, bytes] = {}
        self.gone_bytes = 0
        """How much room is held of files that are gone."""
        self.dropped = 0
        """How many were closed because of the bounds."""

    # -- what happens to files

    def see(self, path: bytes, *, is_new: bool = True) -> None:
        """A file was made, written or moved to a path. `is_new`: it may be another one than the one that is held."""
        versions = self._versions.get(path)
        if versions is not None and not is_new and versions[-1].size is None:
            versions[-1].epoch = self._epoch
            return
        try:
            fd = os.open(self._top + path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            # It is gone already. Or there are no descriptors left, and then nothing can be done.
            return
        info = os.fstat(fd)
        identity = info.st_dev, info.st_ino
        same = None if versions is None else next((one for one in versions if one.identity == identity), None)
        if same is not None and versions is not None:
            os.close(fd)
            self._is_back(same)
            versions.remove(same)
            self._replaced(path)
            self._versions.setdefault(path, []).append(same)
            return
        self._replaced(path)
        if not stat.S_ISREG(info.st_mode) or info.st_size > LARGEST or (aside := self._set_aside(fd)) is None:
            os.close(fd)
            return
        os.close(fd)
        self.count += 1
        self._append(path, _Version(aside, identity, self._epoch))
        while self.count > self._most:
            self._drop_oldest()

    def _set_aside(self, fd: int) -> int | None:
        """A copy of a descriptor that is in nobody's way; None where there is none left."""
        for _ in range(2):
            try:
                return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, self._first)
            except OSError:
                # Another window of this process may have them.
                self._drop_oldest()
        return None

    def _append(self, path: bytes, version: _Version) -> None:
        versions = self._versions.setdefault(path, [])
        versions.append(version)
        if len(versions) > _VERSIONS:
            # First of those that newer work has replaced.
            replaced = [one for one in versions[:-1] if not one.was_unlinked]
            self._let_go(path, (replaced or versions)[0])

    def unlinked(self, path: bytes) -> None:
        """The file at a path was removed."""
        versions = self._versions.get(path)
        if versions is not None:
            versions[-1].was_unlinked = True
            self._is_gone(path, versions[-1])

    def moved(self, old: bytes, new: bytes) -> None:
        """A file, or a directory with all that is in it, was moved."""
        versions = self._versions.get(old)
        if versions is not None:
            there = _identity(self._top + new)
            if there not in (None, versions[-1].identity) and _identity(self._top + old) == versions[-1].identity:
                # Events come late: this is another file, which was made at the old path since.
                return
            # It is at its new path. What was at the old one before stays there.
            last = versions.pop()
            if versions:
                versions[-1].was_unlinked = True
            else:
                del self._versions[old]
            self._put(new, last)

    def moved_below(self, old: bytes, new: bytes) -> None:
        """A directory was moved."""
        prefix = old + b"/"
        for path in [path for path in self._versions if path.startswith(prefix)]:
            self.moved(path, new + path[len(old) :])

    def _put(self, path: bytes, version: _Version) -> None:
        self._is_back(version)
        for one in [one for one in self._versions.get(path, ()) if one.identity == version.identity]:
            self._let_go(path, one)
        self._replaced(path)
        self._append(path, version)

    def forget_below(self, top: bytes) -> None:
        """Hold nothing any more of what is in a directory: git ignores it."""
        prefix = top + b"/"
        for path in [path for path in self._versions if path.startswith(prefix)]:
            for version in self._versions.pop(path):
                self._close(version)

    def _replaced(self, path: bytes) -> None:
        versions = self._versions.get(path)
        if versions:
            self._is_gone(path, versions[-1])

    def _is_gone(self, path: bytes, version: _Version) -> None:
        """A version is no longer at its path: it takes room that somebody may need."""
        if version.size is not None:
            return
        # An O_PATH descriptor answers for the inode, whatever its links.
        version.size = os.fstat(version.fd).st_size
        self.gone_bytes += version.size
        self._gone[version] = path
        if version.size > LARGEST:
            # It was smaller when it was first seen.
            self._let_go(path, version)
            self.dropped += 1
        room = min(MOST_BYTES, self._free()) if self.gone_bytes else 0
        while self._gone and self.gone_bytes > room:
            oldest = next(iter(self._gone))
            self._let_go(self._gone[oldest], oldest)
            self.dropped += 1

    def _free(self) -> int:
        try:
            info = os.statvfs(self._top)
        except OSError:
            return MOST_BYTES
        return info.f_bavail * info.f_frsize

    def _is_back(self, version: _Version) -> None:
        self._forget_size(version)
        version.was_unlinked, version.is_given = False, False
        version.epoch = self._epoch

    def _forget_size(self, version: _Version) -> None:
        if version.size is not None:
            self.gone_bytes -= version.size
            version.size = None
            del self._gone[version]

    def _close(self, version: _Version) -> None:
        self._forget_size(version)
        os.close(version.fd)
        self.count -= 1

    def _let_go(self, path: bytes, version: _Version) -> None:
        versions = self._versions[path]
        versions.remove(version)
        if not versions:
            del self._versions[path]
        self._close(version)

    def _drop_oldest(self) -> None:
        for path in self._versions:
            for version in self._versions.pop(path):
                self._close(version)
                self.dropped += 1
            return

    # -- what was destroyed

    def take(self) -> tuple[list[Layer], int]:
        """What was destroyed since the last `release`, and what to release once a checkpoint has it.

        As a rule that is one layer. A path that was destroyed several times is in several, the last one comes first.
        """
        layers: list[dict[bytes, Gone]] = []
        for path, versions in self._versions.items():
            there = _identity(self._top + path)
            number = 0
            for version in reversed(versions):
                if version.identity == there:
                    continue
                if number and not version.was_unlinked:
                    # Later work replaced it.
                    version.is_given = True
                    continue
                if number == len(layers):
                    layers.append({})
                layers[number][path] = Gone(f"/proc/self/fd/{version.fd}", version.identity)
                version.is_given = True
                number += 1
        self._epoch += 1
        return list(layers), self._epoch - 1

    def release(self, epoch: int, kept: Collection[bytes] = (), missed: Collection[bytes] = ()) -> None:
        """Close what a checkpoint has that began at `epoch`.

        It has what is at each path, but for the paths `kept`, and what was given, but for the paths `missed`.
        """
        for path in list(self._versions):
            versions = self._versions[path]
            there = _identity(self._top + path)
            for version in list(versions):
                # What has gone since, without having been given, is for the next one.
                is_there = version.identity == there
                has_it = path not in kept if is_there else version.is_given and path not in missed
                if version.epoch <= epoch and has_it:
                    versions.remove(version)
                    self._close(version)
            if not versions:
                del self._versions[path]

    def close(self) -> None:
        for versions in self._versions.values():
            for version in versions:
                self._close(version)
        self._versions.clear()


def _identity(full: bytes) -> tuple[int, int] | None:
    try:
        info = os.lstat(full)
    except (OSError, ValueError):
        return None
    return info.st_dev, info.st_ino


def _allowed() -> tuple[int, int]:
    """The lowest descriptor to hold a file by, and how many may be held. The soft limit of this process is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    end = wanted = _FIRST + MOST_FILES
    if hard != resource.RLIM_INFINITY:
        end = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < end:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (end, hard))
        except (OSError, ValueError):
            end = soft
    first = min(_FIRST, end // 2)
    return first, end - first
