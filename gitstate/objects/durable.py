"""Sync what other programs wrote, before a marker is set or deleted on the strength of it.

An agent's git leaves loose objects, the index and refs in the page cache, and an agent leaves its files there.
"""

from __future__ import annotations

import os
import stat
import time

from ..git.gitdir import operation_paths, operation_place
from ..git.repository import Repository, read_head
from ..system import files, process
from ..system.child import FilesystemSync
from ..system.process import filesystem_type
from ..system.stdlib import TYPE_CHECKING, suppress
from .tree import parents_with_top

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

#: Above `_SYNC_MANY` files one `syncfs` is always faster than an fsync of each.
_SYNC_FEW, _SYNC_MANY = 24, 400
#: Below it `syncfs` is faster while fewer bytes than this are to be written, since it waits for all data of the system:
#: for more than `_SYNC_FEW` files, and for more than `_SYNC_ALONE`. Each fsync makes the disk empty its cache.
_LITTLE_DIRT, _LEAST_DIRT = 32 << 20, 4 << 20
#: So few new files are fsynced; for more one `syncfs` is faster.
_SYNC_ALONE = 4
#: A file that changed no longer ago than this, in seconds, may not be on the disk.
_RECENT = 600
#: File systems on which power cuts were tested with `syncfs`. On others, as FUSE, it may do less than an fsync.
_PROVEN = (b"ext4", b"xfs", b"btrfs")
#: A stamp is no longer than this, in bytes.
_LONGEST_STAMP = 256
#: Coarse kernel clocks and file systems stamp files a little in the past.
_CLOCK_SLACK_NS = 2_000_000_000


class OthersToDisk:
    """Makes durable all that other programs wrote and a save of `repository` relies on; the names of its packs, too.

    It begins at once, and what is written later is not part of it. Where one sync of all is best, that goes on beside
    the caller.
    """

    def __init__(self, repository: Repository, tag: str, others: Iterable[bytes] = ()) -> None:
        """`tag` names the workspace: each has at most one temporary file, and control files of its own.

        What is in `others` becomes durable with the rest. Raises OSError.
        """
        self._tag = tag.encode("ascii")
        self._stamp_file = os.path.join(repository.common_dir, b"gitstate", b"durable")
        files.make_directory(os.path.dirname(self._stamp_file), top=repository.common_dir)
        stamp, last = _stamp(self._stamp_file)
        objects = repository.objects
        places = [os.path.join(objects, name) for name in sorted(os.listdir(objects)) if len(name) == 2]
        packs = os.path.join(objects, b"pack")
        control = [packs, objects, repository.common_dir, *_control_files(repository)]
        branch = list(_branch_files(repository))
        if last == self._tag:
            # HEAD may name another branch since: nobody has synced that one, however old it is.
            is_same = not _changed_since([os.path.join(repository.git_dir, b"HEAD")], stamp)
            control = _changed_since(control, stamp)
            branch = _changed_since(branch, stamp) if is_same else branch
        self.is_durable = False
        # First what no git removes: an empty place of loose objects goes with its last one.
        self._new, self._syncs = start_sync_since([packs, *places], stamp, (*control, *branch, *others))

    def finish(self) -> None:
        """Return when all of it is durable. Raises OSError."""
        if self.is_durable:
            return
        self._wait()
        self.is_durable = True
        temporary = b"%s.tmp-%s" % (self._stamp_file, self._tag)
        data = b"%d %d %s" % (self._new, _clock_offset(), self._tag)
        # Without it all is synced. In the place of another file ext4 would write it to the disk at once.
        with suppress(OSError):
            files.remove(self._stamp_file)
        files.write_and_rename(temporary, self._stamp_file, data, mode=0o644, durable=False)

    def end(self) -> None:
        """Wait for the programs that were started: nobody relies on them any more."""
        with suppress(OSError):
            self._wait()

    def _wait(self) -> None:
        while self._syncs:
            self._syncs.pop().wait()


def _stamp(path: bytes) -> tuple[int, bytes]:
    """The stamp of the last call, as a file holds it, and its tag; 0 where ctimes tell nothing.

    After a clock was set back, what is written next looks older than what is on the disk; and on a file server whose
    clock is behind it always does.
    """
    stamp, offset, tag, *_ = *(files.read_limited(path, _LONGEST_STAMP) or b"").split(b" "), b"", b""
    if not stamp.isdigit() or not offset.removeprefix(b"-").isdigit():
        return 0, b""
    is_told = abs(_clock_offset() - int(offset)) < _CLOCK_SLACK_NS // 2
    with suppress(OSError):
        if is_told and os.lstat(path).st_ctime_ns > int(stamp) - _CLOCK_SLACK_NS // 2:
            return int(stamp), tag
    return 0, b""


def _changed_since(paths: Iterable[bytes], stamp_ns: int) -> list[bytes]:
    """Those of the paths that are there, and may have changed since an earlier call returned `stamp_ns`.

    The kernel makes the disk empty its cache for each file, whether it has to be written or not.
    """
    since = _since(stamp_ns, time.time_ns())
    found = []
    for path in dict.fromkeys(paths):
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.lstat(path).st_ctime_ns >= since:
                found.append(path)
    return found


def _since(stamp_ns: int, now: int) -> int:
    """What has an older ctime was there when an earlier call returned `stamp_ns`."""
    return stamp_ns - _CLOCK_SLACK_NS if stamp_ns <= now else 0


def _clock_offset() -> int:
    """What the clock is ahead of the time since this boot, in nanoseconds: it changes when the clock is set."""
    since_boot = time.CLOCK_BOOTTIME if hasattr(time, "CLOCK_BOOTTIME") else time.CLOCK_MONOTONIC
    offset = 0
    for _ in range(5):
        before, told, after = time.clock_gettime_ns(since_boot), time.time_ns(), time.clock_gettime_ns(since_boot)
        offset = told - before
        if after - before < _CLOCK_SLACK_NS // 8:
            # Else this process had to wait between the two.
            break
    return offset


class FilesToDisk:
    """Makes durable what a recovery found right. Where one sync of all is best, it begins at once.

    `changed` are directories in which files were put or removed before, relative to the top.
    """

    def __init__(self, repository: Repository, changed: Iterable[bytes] = ()) -> None:
        self._repository = repository
        self._changed = list(changed)
        self._syncs: list[FilesystemSync] = []
        if _is_one_sync_best(repository.toplevel):
            places = (repository.toplevel, repository.git_dir, repository.common_dir)
            by_device = {os.stat(place).st_dev: place for place in places}
            self._syncs = [FilesystemSync(place) for place in by_device.values()]
            self._changed = [path for path in self._changed if self._device(path) not in by_device]

    def finish(self, paths: Iterable[bytes]) -> None:
        """Return when the files at `paths`, relative to the top, and the index are durable as they were at the start.

        Other files of the worktree that changed in the last minutes are synced too: nobody may have done it yet.
        Raises OSError.
        """
        for sync in self._syncs:
            sync.wait()
        if not self._syncs:
            _sync_one_by_one(self._repository, [*paths, *self._changed])
        elif self._changed:
            # Another file system is mounted in the worktree.
            sync_each(os.path.join(self._repository.toplevel, path) for path in self._changed)

    def _device(self, path: bytes) -> int | None:
        with suppress(OSError):
            return os.lstat(os.path.join(self._repository.toplevel, path)).st_dev
        return None


def bring_files_to_disk(repository: Repository, paths: Iterable[bytes]) -> None:
    """Make durable what a recovery found right, as it is now (see `FilesToDisk`). Raises OSError."""
    FilesToDisk(repository).finish(paths)


def sync_new(paths: Sequence[bytes], meanwhile: Callable[[], object]) -> None:
    """Make the content of new files of ours durable, which are in one directory. Raises OSError.

    Where another process does it `meanwhile` is called.
    """
    if len(paths) > _SYNC_ALONE and _is_one_sync_best(os.path.dirname(paths[0])):
        sync = FilesystemSync(os.path.dirname(paths[0]))
        meanwhile()
        sync.wait()
    else:
        sync_each(paths)


def sync_each(paths: Iterable[bytes]) -> None:
    """Make files and directories durable: each alone, or hundreds by one `syncfs` for each file system.

    What is missing is skipped. Raises OSError.
    """
    paths = list(paths)
    devices: dict[int, bytes] = {}
    if len(paths) > _SYNC_MANY:
        for path in paths:
            with suppress(OSError):
                info = os.lstat(path)
                devices.setdefault(info.st_dev, path if stat.S_ISDIR(info.st_mode) else os.path.dirname(path))
    if devices and all(filesystem_type(device) in _PROVEN for device in devices):
        for place in devices.values():
            FilesystemSync(place).wait()
    else:
        files.fsync_paths(paths)


def _is_one_sync_best(place: bytes) -> bool:
    return _waiting_to_be_written() < _LITTLE_DIRT and filesystem_type(os.stat(place).st_dev) in _PROVEN


def _sync_one_by_one(repository: Repository, paths: Iterable[bytes]) -> None:
    top = repository.toplevel
    found = dict.fromkeys(paths)
    found.update(dict.fromkeys(_recent_files(repository)))
    directories: dict[bytes, None] = {}
    for path in found:
        directories.update(dict.fromkeys(parents_with_top(path)))
    sync_each(os.path.join(top, path) for path in {**found, **directories})
    files.fsync_paths(dict.fromkeys((*_control_files(repository), *_branch_files(repository))))


def _recent_files(repository: Repository) -> Iterator[bytes]:
    """The files of the worktree that the kernel may not have written yet: it begins after 30 seconds, as a rule."""
    now = time.time()
    for path in repository.git.run("ls-files", "-z", "-c", "-o", "--exclude-standard").split(b"\0")[:-1]:
        with suppress(OSError):
            if not now - _RECENT > os.lstat(os.path.join(repository.toplevel, path)).st_ctime:
                yield path


def start_sync_since(
    directories: Iterable[bytes], stamp_ns: int, others: Iterable[bytes] = ()
) -> tuple[int, list[FilesystemSync]]:
    """Make durable every file directly in `directories` that changed since `stamp_ns`, the directories, and `others`.

    `stamp_ns` is what an earlier call returned, or 0. Returns the stamp for the next call, and what is to be waited
    for: then all older files are durable. The ctime decides, which no program can set. A pack's `.keep` is skipped: it
    only holds off `git gc`.
    """
    now = time.time_ns()
    since = _since(stamp_ns, now)
    others = list(others)
    infos: dict[bytes, os.stat_result] = {}
    for directory in directories:
        with suppress(FileNotFoundError, NotADirectoryError):
            infos[directory] = os.stat(directory)
    # A directory may be a link into another file system.
    devices: dict[int, bytes] = {}
    for directory, info in infos.items():
        devices.setdefault(info.st_dev, directory)
    for place in others:
        # Another git may remove it meanwhile.
        with suppress(OSError):
            devices.setdefault(os.stat(place).st_dev, place)
    found: list[bytes] = []
    changed: list[bytes] = []
    proven, most = False, None
    for directory, info in infos.items():
        if info.st_ctime_ns < since:
            continue
        try:
            found += _new_files(directory, since)
        except (FileNotFoundError, NotADirectoryError):
            continue
        changed.append(directory)
        if most is None and len(found) > _SYNC_ALONE:
            proven = all(filesystem_type(device) in _PROVEN for device in devices)
            most = _most_alone() if proven else _SYNC_MANY
        if most is not None and len(found) > most:
            # It does not matter how many more there are.
            syncs = [FilesystemSync(place) for place in devices.values()]
            if proven:
                return now, syncs
            for sync in syncs:
                sync.wait()
            found, changed = [], []
            break
    for path in dict.fromkeys((*found, *changed, *others)):
        files.fsync_path(path)
    return now, []


def _new_files(directory: bytes, since: int) -> list[bytes]:
    """The files directly in a directory that changed since then."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                # A git renamed it meanwhile; look at the others.
                continue
            is_new = stat.S_ISREG(info.st_mode) and info.st_ctime_ns >= since
            if is_new and not entry.name.endswith(b".keep"):
                found.append(entry.path)
    return found


def _most_alone() -> int:
    """For more files than this one `syncfs` is faster than an fsync of each, with what waits to be written now."""
    waiting = _waiting_to_be_written()
    return _SYNC_ALONE if waiting < _LEAST_DIRT else _SYNC_FEW if waiting < _LITTLE_DIRT else _SYNC_MANY


def _waiting_to_be_written() -> float:
    """How many bytes of the whole system are still to be written to disks; infinity where Linux does not tell."""
    lines = (process.read_proc("/proc/meminfo") or b"").split(b"\n")
    waiting = [int(line.split()[1]) * 1024 for line in lines if line.startswith((b"Dirty:", b"Writeback:"))]
    return float(sum(waiting)) if waiting else float("inf")


def _control_files(repository: Repository) -> Iterator[bytes]:
    """Files without which the repository could not be opened after a power cut, and their directories.

    Those of an unfinished operation are among them: torn, they would differ from the saved ones.
    """
    git_dir, common = repository.git_dir, repository.common_dir
    yield git_dir
    for name in (b"HEAD", b"index", b"commondir", b"gitdir", b"ORIG_HEAD"):
        yield os.path.join(git_dir, name)
    shared = (b"config", b"config.worktree", b"packed-refs", b"HEAD", b"shallow", b"objects/info/alternates", b"refs")
    for name in shared:
        yield os.path.join(common, name)
    for place in dict.fromkeys((git_dir, common)):
        # Without one of its tables no ref of a reftable can be read.
        tables = os.path.join(place, b"reftable")
        with suppress(OSError):
            yield from (os.path.join(tables, name) for name in os.listdir(tables))
            yield tables
    yield os.path.dirname(git_dir)
    yield os.path.join(repository.toplevel, b".git")
    yield repository.toplevel
    for name in operation_paths(git_dir, common):
        place = operation_place(git_dir, common, name)
        yield place
        yield os.path.dirname(place)


def _branch_files(repository: Repository) -> Iterator[bytes]:
    """The file of the branch that HEAD names, and its directories."""
    common = repository.common_dir
    with suppress(OSError):
        ref = read_head(repository.git_dir)
        if ref is not None:
            path = os.path.join(common, os.fsencode(ref))
            while len(path) > len(common):
                yield path
                path = os.path.dirname(path)
