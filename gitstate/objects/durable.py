"""What others wrote and never synced → the disk, before a marker relies on it.

An agent's git leaves loose objects, its index and its refs in the page cache.
"""

from __future__ import annotations

import os
import stat
import time

from ..git.operation import operation_paths
from ..git.repository import Repository, read_head
from ..system import files, process
from ..system.stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Up to this many files each gets an fsync of its own; above `_SYNC_MANY`, one `syncfs` is cheaper in any case.
_SYNC_FEW, _SYNC_MANY = 24, 400
#: In between `syncfs` is cheaper while no more than this, in bytes, waits to be written: it waits for everyone's data.
_LITTLE_DIRT = 32 << 20
#: Where power cuts were tried with it. On FUSE, for one, `syncfs` need not reach the disk as an fsync does.
_PROVEN = (b"ext4", b"xfs", b"btrfs")
#: Coarse kernel clocks and file systems stamp files a little in the past.
_CLOCK_SLACK_NS = 2_000_000_000


def bring_to_disk(repository: Repository, tag: str) -> None:
    """When this returns, all that a save of `repository` relies on and others wrote is on the disk; raises OSError.

    `tag` is part of the name of a temporary file, so that there is never more than one of an owner's.
    """
    stamp_file = os.path.join(repository.common_dir, b"gitstate", b"durable")
    files.make_directory(os.path.dirname(stamp_file), top=repository.common_dir)
    data = files.read_limited(stamp_file, 64) or b""
    stamp = int(data) if data.strip().isdigit() else 0
    objects = repository.objects
    places = [os.path.join(objects, name) for name in sorted(os.listdir(objects)) if len(name) == 2]
    new = sync_since([*places, os.path.join(objects, b"pack")], stamp)
    for path in dict.fromkeys((objects, repository.common_dir, *_control_files(repository))):
        files.fsync_path(path)
    temporary = b"%s.tmp-%s" % (stamp_file, tag.encode("ascii"))
    files.write_and_rename(temporary, stamp_file, b"%d" % new, mode=0o644, durable=False)


def sync_since(directories: Iterable[bytes], stamp_ns: int) -> int:
    """Make durable every file in `directories` (not below) that changed since `stamp_ns`, and the directories.

    `stamp_ns` is what an earlier call returned, or 0. Returns the stamp for the next call: everything older is known
    to be on disk. A file's ctime tells, which nobody can set. A pack's `.keep` is passed over: it holds off `git gc`
    alone.
    """
    now = time.time_ns()
    since = stamp_ns - _CLOCK_SLACK_NS if stamp_ns <= now else 0
    directories = list(directories)
    found: list[bytes] = []
    changed: list[bytes] = []
    for directory in directories:
        try:
            if os.stat(directory).st_ctime_ns < since:
                continue
            with os.scandir(directory) as entries:
                changed.append(directory)
                for entry in entries:
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        # A git that writes has given it its last name; the others are still to be looked at.
                        continue
                    is_new = stat.S_ISREG(info.st_mode) and info.st_ctime_ns >= since
                    if is_new and not entry.name.endswith(b".keep"):
                        found.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if len(found) > _SYNC_MANY:
            break
    few = len(found) <= _SYNC_FEW
    if not few and (len(found) > _SYNC_MANY or _waiting_to_be_written() < _LITTLE_DIRT):
        # A directory may be a link into another file system, and not all of them were looked into.
        devices = {os.stat(place).st_dev: place for place in directories if os.path.isdir(place)}
        if len(found) > _SYNC_MANY or all(_kind_of(device) in _PROVEN for device in devices):
            for place in devices.values():
                files.sync_filesystem(place)
            return now
    for path in (*found, *changed):
        files.fsync_path(path)
    return now


def _kind_of(device: int) -> bytes:
    """The kind of a mounted file system by its device number; empty where Linux does not tell (`man 5 proc`)."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    for line in (process.read_proc("/proc/self/mountinfo") or b"").split(b"\n"):
        words = line.split(b" ")
        if words[2:3] == [number]:
            return words[words.index(b"-") + 1]
    return b""


def _waiting_to_be_written() -> float:
    """How many bytes of files, of the whole machine, are not on a disk yet; infinity where Linux does not tell."""
    lines = (process.read_proc("/proc/meminfo") or b"").split(b"\n")
    waiting = [int(line.split()[1]) * 1024 for line in lines if line.startswith((b"Dirty:", b"Writeback:"))]
    return float(sum(waiting)) if waiting else float("inf")


def _control_files(repository: Repository) -> Iterator[bytes]:
    """Files without which the repository could not be opened after a power cut, and what names them.

    Those of an unfinished operation too: torn, they would look like another operation than the one that is saved.
    """
    git_dir, common = repository.git_dir, repository.common_dir
    yield git_dir
    for name in (b"HEAD", b"index", b"commondir", b"gitdir", b"ORIG_HEAD"):
        yield os.path.join(git_dir, name)
    shared = (b"config", b"config.worktree", b"packed-refs", b"HEAD", b"shallow", b"objects/info/alternates", b"refs")
    for name in shared:
        yield os.path.join(common, name)
    yield os.path.dirname(git_dir)
    yield os.path.join(repository.toplevel, b".git")
    yield repository.toplevel
    for name in operation_paths(git_dir):
        yield os.path.join(git_dir, name)
        yield os.path.dirname(os.path.join(git_dir, name))
    with suppress(OSError):
        ref = read_head(git_dir)
        if ref is not None:
            path = os.path.join(common, os.fsencode(ref))
            while len(path) > len(common):
                yield path
                path = os.path.dirname(path)
