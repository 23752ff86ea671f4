"""Descriptors of files that were written, so that unlinking or replacing them destroys nothing until a checkpoint.

A descriptor is opened with O_PATH (`man 2 open`): it keeps the inode, and a FIFO, a device, a lease or another watcher
notices nothing of it. It costs 2 µs. Bytes are read only from what was destroyed, by the checkpoint that keeps them.
"""

from __future__ import annotations

import os
import stat

from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

#: No more descriptors than this are held. Where there are more, the oldest go.
MOST_FILES = 16_384
#: So many are left for everything else.
_RESERVED = 128
#: A larger file is not held, in bytes: who deletes one may need its room.
LARGEST = 64 << 20
#: What is held of files that are gone from the disk takes no more room than this, in bytes.
MOST_BYTES = 512 << 20
#: Of one path so many versions are held.
_VERSIONS = 4


class Gone(Record):
    """A version of a file that is no longer at its path."""

    link: str
    """Where it can be opened, below /proc, for as long as the process that holds it does so."""
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
        self._most = _allowed() if most is None else most
        self._versions: dict[bytes, list[_Version]] = {}
        self._epoch = 0
        self.count = 0
        """How many descriptors are open."""
        self._gone_bytes = 0
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
            self._replaced(versions)
            versions.append(same)
        elif not stat.S_ISREG(info.st_mode) or info.st_size > LARGEST:
            os.close(fd)
            if versions is not None:
                self._replaced(versions)
        else:
            self.count += 1
            new = _Version(fd, identity, self._epoch)
            if versions is None:
                self._versions[path] = [new]
            else:
                self._replaced(versions)
                versions.append(new)
                if len(versions) > _VERSIONS:
                    self._drop_one(versions)
            self._keep_bounds()

    def unlinked(self, path: bytes) -> None:
        """The file at a path was removed."""
        versions = self._versions.get(path)
        if versions is not None:
            versions[-1].was_unlinked = True
            self._is_gone(versions[-1])
            self._keep_bounds()

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
        versions = self._versions.setdefault(path, [])
        for one in [one for one in versions if one.identity == version.identity]:
            versions.remove(one)
            self._close(one)
        self._replaced(versions)
        self._is_back(version)
        versions.append(version)
        if len(versions) > _VERSIONS:
            self._drop_one(versions)

    def forget_below(self, top: bytes) -> None:
        """Hold nothing any more of what is in a directory: git ignores it."""
        prefix = top + b"/"
        for path in [path for path in self._versions if path.startswith(prefix)]:
            for version in self._versions.pop(path):
                self._close(version)

    def _replaced(self, versions: Sequence[_Version]) -> None:
        if versions and versions[-1].size is None:
            self._is_gone(versions[-1])

    def _is_gone(self, version: _Version) -> None:
        if version.size is None:
            # An O_PATH descriptor answers for the inode, whatever its links.
            version.size = os.fstat(version.fd).st_size
            self._gone_bytes += version.size

    def _is_back(self, version: _Version) -> None:
        if version.size is not None:
            self._gone_bytes -= version.size
        version.size, version.was_unlinked, version.is_given = None, False, False
        version.epoch = self._epoch

    def _close(self, version: _Version) -> None:
        if version.size is not None:
            self._gone_bytes -= version.size
        os.close(version.fd)
        self.count -= 1

    def _drop_one(self, versions: list[_Version]) -> None:
        """Of too many versions of one path let go of the oldest, first of those that newer work has replaced."""
        replaced = [one for one in versions[:-1] if not one.was_unlinked]
        oldest = (replaced or versions)[0]
        versions.remove(oldest)
        self._close(oldest)

    def _keep_bounds(self) -> None:
        while self._versions and (self.count > self._most or self._gone_bytes > MOST_BYTES):
            path = next(iter(self._versions))
            for version in self._versions.pop(path):
                self._close(version)
                self.dropped += 1

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
                layers[number][path] = Gone(f"/proc/{os.getpid()}/fd/{version.fd}", version.identity)
                version.is_given = True
                number += 1
        self._epoch += 1
        return list(layers), self._epoch - 1

    def release(self, epoch: int, kept: Collection[bytes] = ()) -> None:
        """Close what a checkpoint has that began at `epoch`, but for the paths `kept`, which it does not have."""
        for path in list(self._versions):
            versions = self._versions[path]
            if path in kept:
                continue
            there = _identity(self._top + path)
            for version in list(versions):
                # What has gone since, without having been given, is for the next one.
                if version.epoch <= epoch and (version.is_given or version.identity == there):
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


def _allowed() -> int:
    """How many descriptors may be held. The soft limit of this process is raised for them."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES + _RESERVED
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most - _RESERVED if most > 2 * _RESERVED else most // 2
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        most = soft
    return most - _RESERVED if most > 2 * _RESERVED else most // 2
