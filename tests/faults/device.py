"""A disk that writes down what it is told: a FUSE file under a loop device, with a log of its writes and flushes.

The kernel's protocol (`linux/fuse.h`) is spoken here directly, so that nothing but /dev/fuse and root is needed. The
mount point is a regular file; the loop driver turns a flush of the disk into an fsync of that file. From the log any
state can be made in which a power cut may leave the disk: all writes up to some point, of those since the last flush
only some.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.skips import NO_MOUNT, NOT_ROOT, not_installed

BLOCK = 4096
_ZERO = bytes(BLOCK)
_SOURCE = b"gitstate-recorder"
_LIBC = ctypes.CDLL(None, use_errno=True)

_FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 2, 3, 4, 14, 15, 16, 17
_RELEASE, _FSYNC, _FLUSH, _INIT, _INTERRUPT, _DESTROY, _BATCH_FORGET = 18, 20, 25, 26, 36, 38, 42
_SILENT = frozenset({_FORGET, _INTERRUPT, _BATCH_FORGET})
_IN_HEADER, _OUT_HEADER = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_MAX_WRITE = 1 << 17
_BIG_WRITES = 1 << 5


class Write(NamedTuple):
    """What one request wrote: whole blocks by number."""

    blocks: dict[int, bytes]


class Flush(NamedTuple):
    """Everything before this is on the disk for good."""


Entry = Write | Flush
Blocks = dict[int, bytes]


class Disk:
    """The contents of a disk of `size` bytes, served at `file` while `served` is entered.

    `base` is what it held when `record` was called, `log` what happened since.
    """

    def __init__(self, file: Path, size: int) -> None:
        self.file = file
        self.size = size
        self.blocks: Blocks = {}
        self.base: Blocks = {}
        self.log: list[Entry] = []
        self._recording = False

    def load_image(self, image: Path) -> None:
        """Take the contents of a sparse image file."""
        with open(image, "rb") as source:
            at = 0
            while at < self.size:
                try:
                    at = os.lseek(source.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
                except OSError:
                    return  # nothing but a hole is left
                source.seek(at)
                data = source.read(BLOCK)
                if data != _ZERO:
                    self.blocks[at // BLOCK] = data.ljust(BLOCK, b"\0")
                at += BLOCK

    def record(self) -> None:
        """Begin the log here."""
        self.base, self.log, self._recording = dict(self.blocks), [], True

    def stop(self) -> None:
        self._recording = False

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Mount the file; its server is a thread of this process and ends with it, whatever happens."""
        clear_dead()
        self.file.touch()
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            options = f"fd={fd},rootmode={stat.S_IFREG:o},user_id=0,group_id=0,allow_other"
            if _LIBC.mount(_SOURCE, os.fsencode(self.file), b"fuse", 0, options.encode()):
                raise OSError(ctypes.get_errno(), "a FUSE file can't be mounted here")
            server = threading.Thread(target=self._serve, args=(fd,), daemon=True)
            server.start()
            try:
                yield
            finally:
                _LIBC.umount2(os.fsencode(self.file), 2)  # MNT_DETACH
                server.join(20)
        finally:
            os.close(fd)

    def _serve(self, fd: int) -> None:
        while True:
            try:
                request = os.read(fd, _MAX_WRITE + 4096)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, code, unique, _, _, _, _, _ = _IN_HEADER.unpack_from(request)
            if code in _SILENT:
                continue
            status, answer = self._answer(code, memoryview(request)[_IN_HEADER.size :])
            with contextlib.suppress(OSError):
                os.write(fd, _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), status, unique) + answer)

    def _answer(self, code: int, body: memoryview) -> tuple[int, bytes]:
        if code == _INIT:
            _, minor, read_ahead, _ = struct.unpack_from("<IIII", body)
            return 0, struct.pack(
                "<IIIIHHIIHHI28x", 7, min(minor, 31), read_ahead, _BIG_WRITES, 12, 10, _MAX_WRITE, 1, 0, 0, 0
            )
        if code in (_GETATTR, _SETATTR):
            return 0, struct.pack("<QIIQQQQQQIIIIIIIIII", 3600, 0, 0, *self._attributes())
        if code == _OPEN:
            return 0, struct.pack("<QII", 1, 0, 0)
        if code == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, self._read(offset, size)
        if code == _WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self._write(offset, bytes(body[40 : 40 + size]))
            return 0, struct.pack("<II", size, 0)
        if code == _FSYNC:
            if self._recording:
                self.log.append(Flush())
            return 0, b""
        if code == _STATFS:
            return 0, struct.pack("<QQQQQIIII24x", self.size // BLOCK, 0, 0, 1, 0, BLOCK, 255, BLOCK, 0)
        if code in (_RELEASE, _FLUSH, _DESTROY):
            return 0, b""
        return -errno.ENOSYS, b""

    def _attributes(self) -> tuple[int, ...]:
        times = (0, 0, 0, 0, 0, 0)
        return (1, self.size, self.size // 512, *times, stat.S_IFREG | 0o600, 1, 0, 0, 0, BLOCK, 0)

    def _read(self, offset: int, size: int) -> bytes:
        size = max(0, min(size, self.size - offset))
        first, last = offset // BLOCK, (offset + size + BLOCK - 1) // BLOCK
        data = b"".join(self.blocks.get(number, _ZERO) for number in range(first, last))
        return data[offset - first * BLOCK :][:size]

    def _write(self, offset: int, data: bytes) -> None:
        first, last = offset // BLOCK, (offset + len(data) + BLOCK - 1) // BLOCK
        whole = bytearray(self._read(first * BLOCK, (last - first) * BLOCK))
        start = offset - first * BLOCK
        whole[start : start + len(data)] = data
        written = {first + n: bytes(whole[n * BLOCK : (n + 1) * BLOCK]) for n in range(last - first)}
        self.blocks.update(written)
        if self._recording:
            self.log.append(Write(written))


def flushed(log: Sequence[Entry], count: int) -> int:
    """How many of the first `count` entries stand before the last flush among them, that one included."""
    return max((n + 1 for n in range(count) if isinstance(log[n], Flush)), default=0)


def after(base: Blocks, log: Sequence[Entry], count: int, dropping: random.Random | None = None) -> Blocks:
    """The disk after `count` entries of the log and a power cut.

    With `dropping` each block that was written since the last flush is there or not, at random; what is there came
    in any order, but of two writes to one block the later one wins, as on a disk that keeps its queue by address.
    """
    blocks = dict(base)
    durable = flushed(log, count)
    for entry in log[:durable]:
        if isinstance(entry, Write):
            blocks.update(entry.blocks)
    share = dropping.choice((0.1, 0.5, 0.9)) if dropping else 1.0
    for entry in log[durable:count]:
        if isinstance(entry, Write):
            for number, data in entry.blocks.items():
                if dropping is None or dropping.random() < share:
                    blocks[number] = data
    return blocks


class FileSystem(NamedTuple):
    """How to make and mount one kind; `size` in bytes."""

    name: str
    size: int
    make: tuple[str, ...]
    options: str


FILE_SYSTEMS = {
    "ext4": FileSystem("ext4", 48 << 20, ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"), "loop"),
    "xfs": FileSystem("xfs", 320 << 20, ("mkfs.xfs", "-q", "-f"), "loop,nouuid"),
    "btrfs": FileSystem("btrfs", 160 << 20, ("mkfs.btrfs", "-q", "-f"), "loop"),
}


def formatted(kind: FileSystem, at: Path) -> Disk:
    """A fresh disk of that kind, to be served in the directory `at`."""
    image = at / "image"
    with open(image, "wb") as file:
        file.truncate(kind.size)
    subprocess.run([*kind.make, os.fspath(image)], check=True, capture_output=True)
    disk = Disk(at / "disk", kind.size)
    disk.load_image(image)
    image.unlink()
    return disk


@contextlib.contextmanager
def mounted(disk: Disk, kind: FileSystem, where: Path) -> Iterator[None]:
    """Mount a served disk. The loop device goes with the mount."""
    where.mkdir(exist_ok=True)
    words = ["mount", "-t", kind.name, "-o", kind.options, os.fspath(disk.file), os.fspath(where)]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        raise MountFailed(done.stderr.decode("utf-8", "replace").strip())
    try:
        yield
    finally:
        unmount(where)
        wait_for_its_end(disk)


def wait_for_its_end(disk: Disk) -> None:
    """Wait while a mount namespace that was made meanwhile, by a test beside this one, still has the file system.

    Raises RuntimeError where that does not end. Going on would be worse: the next mount of this disk would be given
    the file system of this one.
    """
    for _ in range(2000):
        if os.fspath(disk.file) not in (_backing(loop) for loop in Path("/sys/block").glob("loop*")):
            return
        time.sleep(0.01)
    raise RuntimeError(f"{disk.file} stays mounted somewhere")


def _backing(loop: Path) -> str:
    """The file behind a loop device; nothing where it has none."""
    with contextlib.suppress(OSError):
        return (loop / "loop" / "backing_file").read_text().rstrip("\n")
    return ""


def unmount(where: Path) -> None:
    """Unmount, and wait while somebody still looks into it. RuntimeError where that does not end."""
    for _ in range(200):
        if subprocess.run(["umount", os.fspath(where)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", os.fspath(where)], check=True)
    raise RuntimeError(f"{where} stays busy")


def clear_dead() -> None:
    """Unmount what a run that was killed left: disks of ours whose server is gone, and what was mounted from them."""
    table = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    for source, place, *_ in table:
        if source != _SOURCE.decode():
            continue
        try:
            os.stat(place)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                continue
            for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
                if backing.read_text().strip() == place:
                    device = f"/dev/{backing.parts[3]}"
                    for other in [where for what, where, *_ in table if what == device]:
                        _LIBC.umount2(os.fsencode(other), 2)
            _LIBC.umount2(os.fsencode(place), 2)


class MountFailed(Exception):
    """The kernel would not mount this disk."""


@cache
def why_not(name: str, scratch: Path) -> str | None:
    """None where a recorded disk with this file system can be mounted, else the reason in a few words."""
    kind = FILE_SYSTEMS[name]
    if os.geteuid() != 0:
        return NOT_ROOT
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        return "needs /dev/fuse and /dev/loop-control: run on Linux, in a container with --privileged"
    if subprocess.run(["sh", "-c", f"command -v {kind.make[0]}"], capture_output=True, check=False).returncode:
        return not_installed(kind.make[0])
    try:
        disk = formatted(kind, scratch)
        with disk.served(), mounted(disk, kind, scratch / "mnt"):
            return None
    except (OSError, subprocess.CalledProcessError, MountFailed) as error:
        return f"{name} on a FUSE file: {NO_MOUNT} ({error})"
