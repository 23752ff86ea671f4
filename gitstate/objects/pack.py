"""Write new objects durably: as one pack with its index (`man 5 gitformat-pack`), a large file as a pack of its own.

A pack takes one flush of the disk whatever the number of objects, loose objects take one each. There are no deltas:
`git gc` makes them later. Until a ref holds the objects, a `.keep` file beside the pack stops a concurrent
`git gc --prune=now` from dropping them.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import zlib

from ..git.command import Oid, object_id
from ..system.clock import Deadline
from ..system.files import (
    SYNCED_AT_ONCE,
    around_of,
    discard,
    for_group,
    fsync_path,
    give_to,
    make_directory,
    remove,
    sync,
    write_and_rename,
    write_new_file,
)
from ..system.stdlib import TYPE_CHECKING, digest, suppress
from .reader import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_CHUNK = 1 << 20
#: Not `tmp_…`: `git gc --prune=now` removes such files while we still write them (`prune.c`).
_TEMPORARY = b"gitstate_tmp_%s_"
#: Objects of this size and more are stored, not deflated, in any case.
_MOST_DEFLATED = 128 << 10
#: An object for which an encoder with less memory is quicker.
_SMALL = 48 << 10
#: The most bytes of a stored block of deflate.
_BLOCK = 65_535


def _words(numbers: Iterable[int]) -> bytes:
    """Numbers of 32 bits in network byte order."""
    return b"".join([number.to_bytes(4, "big") for number in numbers])


def _pack_head(count: int) -> bytes:
    return b"PACK" + _words((2, count))


def _record_head(kind: str, size: int) -> bytes:
    """The header of an object in a pack: its kind, and its size in seven bits a byte."""
    head = bytearray()
    byte = _KINDS[kind] << 4 | size & 15
    size >>= 4
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    return bytes(head)


def _deflated(data: bytes) -> bytes:
    """A zlib stream. On a small file its window is 8 kB: to allocate the usual one takes longer than it saves."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, 13 if len(data) < _SMALL else 15, 8)
    return deflate.compress(data) + deflate.flush()


def _stored(data: bytes) -> bytes:
    """A zlib stream of stored blocks (RFC 1950 and 1951); no encoder has to be allocated for it."""
    parts = [b"\x78\x01"]
    for start in range(0, len(data) or 1, _BLOCK):
        block = data[start : start + _BLOCK]
        size = len(block).to_bytes(2, "little")
        parts += [b"\1" if start + _BLOCK >= len(data) else b"\0", size, bytes((~size[0] & 255, ~size[1] & 255)), block]
    parts.append(zlib.adler32(data).to_bytes(4, "big"))
    return b"".join(parts)


_zero_blocks: dict[int, bytes] = {}


def _deflated_zeros(length: int) -> bytes:
    """Deflate blocks of so many zeros, which end at a byte."""
    known = _zero_blocks.get(length)
    if known is None:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        known = packer.compress(zeros(length)) + packer.flush(zlib.Z_FULL_FLUSH)
        if length == _CHUNK:
            _zero_blocks[length] = known
    return known


class ChangedWhileRead(Exception):
    """A file became shorter while it was read."""


class TooLate(Exception):
    """The deadline passed while a file was read, or would have passed before its end."""


#: Whether the rest of a file can be read in time is judged after so many bytes.
_JUDGED_AFTER = 64 << 20
_NEVER = Deadline(None)


def file_ranges(fd: int, size: int) -> Iterator[tuple[int, bool]]:
    """The first `size` bytes of an open file in pieces of up to `_CHUNK`: length, and whether all of it is a hole.

    The next piece is to be read with `os.read` only where it is none; of a hole nothing is read.
    """
    place = 0
    while place < size:
        data = _seek(fd, place, "SEEK_DATA", size)
        while place < data:
            length = min(_CHUNK, data - place)
            place += length
            yield length, True
        end = _seek(fd, place, "SEEK_HOLE", size)
        os.lseek(fd, place, os.SEEK_SET)
        while place < end:
            length = min(_CHUNK, end - place)
            place += length
            yield length, False


def _seek(fd: int, place: int, what: str, size: int) -> int:
    """Where the next data, or hole, of a file begins, `size` at most. A system that can't tell knows no holes."""
    try:
        return min(size, os.lseek(fd, place, getattr(os, what)))
    except AttributeError:
        return place if what == "SEEK_DATA" else size
    except OSError as error:
        # No data follows, or the file became shorter: reading it tells.
        return size if error.errno == errno.ENXIO or what == "SEEK_HOLE" else place


def read_ranges(fd: int, size: int, deadline: Deadline = _NEVER) -> Iterator[tuple[bytes | None, int]]:
    """The first `size` bytes of an open file in pieces, each with its length; None for one that is a hole.

    Raises ChangedWhileRead where the file is shorter, TooLate.
    """
    begun, done = time.monotonic(), 0
    for length, is_hole in file_ranges(fd, size):
        if deadline.passed():
            raise TooLate
        if done > _JUDGED_AFTER and (time.monotonic() - begun) / done * (size - done) > deadline.left():
            raise TooLate
        done += length
        if is_hole:
            yield None, length
            continue
        while length:
            data = os.read(fd, length)
            if not data:
                raise ChangedWhileRead
            length -= len(data)
            yield data, len(data)
    # Behind the end of a file is a hole, too.
    if os.fstat(fd).st_size < size:
        raise ChangedWhileRead


_ZEROS = b"\0" * 4096


def zeros(length: int) -> bytes:
    """So many bytes of zero."""
    global _ZEROS
    if len(_ZEROS) < length:
        _ZEROS = b"\0" * max(length, _CHUNK)
    return _ZEROS if len(_ZEROS) == length else _ZEROS[:length]


class PackWriter:
    """Collects objects, and with `finish` writes them durably to the object directory `objects`.

    Memory is bounded: after eight times `LARGE` bytes the collected objects are written as a pack, and a file larger
    than `LARGE` is streamed into a pack of its own. `tag` is part of each temporary name: `sweep_litter` removes what a
    killed writer left. With `deflates` objects are compressed; else `git gc` is left to do that. `mode` is that of the
    packs.
    """

    def __init__(
        self, objects: bytes, object_format: str, tag: str, *, deflates: bool = False, mode: int = 0o444
    ) -> None:
        self._deflates = deflates
        self._mode = mode
        self._objects = objects
        self._format = object_format
        self._tag = tag.encode("ascii")
        self._records: dict[Oid, tuple[int, bytes]] = {}
        self._size = 0
        self._seen: set[Oid] = set()
        self._keeps: list[bytes] = []
        self._count = 0
        #: How many bytes were written so far.
        self.written = 0

    def __contains__(self, oid: object) -> bool:
        return oid in self._seen

    def add(self, kind: str, data: bytes) -> Oid:
        """Collect one object; returns its oid. Files of more than `LARGE` bytes go to `add_file`."""
        oid = object_id(self._format, kind, data)
        if oid not in self._seen:
            self._seen.add(oid)
            small = self._deflates and len(data) < _MOST_DEFLATED
            record = _record_head(kind, len(data)) + (_deflated(data) if small else _stored(data))
            self._records[oid] = (zlib.crc32(record), record)
            self._size += len(record)
            if self._size > 8 * LARGE:
                self._flush()
        return oid

    def forget(self, oids: Iterable[Oid]) -> None:
        """Do not write these objects, which the repository holds, unless they were written already."""
        for oid in oids:
            _, record = self._records.pop(oid, (0, b""))
            self._size -= len(record)

    def add_file(self, fd: int, size: int, deadline: Deadline = _NEVER) -> Oid:
        """Stream the first `size` bytes of an open file into a pack of its own, in stored blocks; returns its oid.

        Holes take next to no room. A loose object would be faster, but nothing protects one from
        `git gc --prune=now` before a ref holds it. Raises ChangedWhileRead, TooLate, OSError.
        """
        blob = digest(self._format, b"blob %d\0" % size, size)
        whole = digest(self._format, more=size)
        start = _pack_head(1)
        crc = 0

        def record() -> Iterator[bytes]:
            yield _record_head("blob", size) + b"\x78\x01"
            packer = zlib.compressobj(0, zlib.DEFLATED, -15)
            adler = 1
            for data, length in read_ranges(fd, size, deadline):
                if data is None:
                    data = zeros(length)
                    # Whole blocks that end at a byte: they can stand between any others.
                    yield packer.flush(zlib.Z_FULL_FLUSH) + _deflated_zeros(length)
                else:
                    yield packer.compress(data)
                blob.update(data)
                adler = zlib.adler32(data, adler)
            yield packer.flush() + adler.to_bytes(4, "big")

        def pack() -> Iterator[bytes]:
            nonlocal crc
            whole.update(start)
            yield start
            for data in record():
                crc = zlib.crc32(data, crc)
                whole.update(data)
                yield data
            yield whole.digest()

        temporary = self._temporary(b"large")
        try:
            write_new_file(temporary, pack(), mode=self._mode)
            oid: Oid = blob.hexdigest()
            index = self._index({oid: len(start)}, {oid: crc}, whole.digest())
            self._place(temporary, self._name(whole.digest()), index)
            self._seen.add(oid)
            return oid
        finally:
            discard(temporary)

    def _place(self, temporary: bytes, name: bytes, index: bytes) -> None:
        """Give the file `temporary` the name of a pack, unless that pack exists already, and write its index."""
        self._hold(name)
        if os.path.exists(name + b".pack"):
            fsync_path(name + b".pack")
        else:
            self.written += os.stat(temporary).st_size
            os.rename(temporary, name + b".pack")
        self._write(name + b".idx", index)
        fsync_path(os.path.dirname(name))

    def finish(self, *, syncs_name: bool = True, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Write what was collected. After it returns every object is on the disk; raises OSError.

        Without `syncs_name` the caller syncs the directory of the packs: until then they may be without a name there.
        `meanwhile` may be called while the disk works.
        """
        if self._records:
            self._flush(syncs_name=syncs_name, meanwhile=meanwhile)

    def content(self, oid: Oid) -> bytes:
        """The bytes of an object that was added and is not written yet."""
        record = self._records[oid][1]
        start = 0
        while record[start] & 0x80:
            start += 1
        return zlib.decompress(record[start + 1 :])

    def adopt(self, other: PackWriter) -> None:
        """Hold another writer's packs until `release` as if they were written here."""
        self._keeps += other._keeps

    def release(self) -> None:
        """Remove the `.keep` files: refs hold the objects now, or nobody needs them."""
        for keep in self._keeps:
            discard(keep)
        self._keeps.clear()

    def _temporary(self, kind: bytes) -> bytes:
        self._count += 1
        directory = os.path.join(self._objects, b"pack")
        make_directory(directory, top=self._objects)
        return os.path.join(directory, _TEMPORARY % self._tag + b"%s_%d" % (kind, self._count))

    def _flush(self, *, syncs_name: bool = True, meanwhile: Callable[[], object] = lambda: None) -> None:
        body = [_pack_head(len(self._records))]
        body += [record for _, record in self._records.values()]
        whole = digest(self._format, more=self._size)
        offsets: dict[Oid, int] = {}
        offset = 0
        for oid, part in zip((None, *self._records), body, strict=True):
            if oid is not None:
                offsets[oid] = offset
            offset += len(part)
            whole.update(part)
        checksum = whole.digest()
        name = self._name(checksum)
        self._hold(name)
        pack = b"".join(body) + checksum
        index = self._index(offsets, {oid: crc for oid, (crc, _) in self._records.items()}, checksum)
        # Git looks for a pack where it sees an index: that gets its name last.
        parts = [
            (self._temporary(b"part"), name + ending, data) for ending, data in ((b".pack", pack), (b".idx", index))
        ]
        _write_and_rename_all(parts, mode=self._mode, meanwhile=meanwhile)
        self.written += len(pack) + len(index)
        if syncs_name:
            fsync_path(os.path.dirname(name))
        self._records.clear()
        self._size = 0

    def _name(self, checksum: bytes) -> bytes:
        """The path of a pack, without its ending."""
        return os.path.join(self._objects, b"pack", b"pack-%s" % checksum.hex().encode("ascii"))

    def _hold(self, name: bytes) -> None:
        """Protect a pack from gc until `release`; to be called before the pack is written."""
        keep = name + b".keep"
        self._write(keep, b"gitstate %s\n" % self._tag, durable=False)
        self._keeps.append(keep)

    def _index(self, offsets: dict[Oid, int], crcs: dict[Oid, int], checksum: bytes) -> bytes:
        oids = sorted(offsets)
        raw = [bytes.fromhex(oid) for oid in oids]
        fanout, place = [], 0
        for first in range(256):
            while place < len(raw) and raw[place][0] <= first:
                place += 1
            fanout.append(place)
        data = b"".join(
            (
                b"\377tOc" + _words((2, *fanout)),
                b"".join(raw),
                _words(crcs[oid] for oid in oids),
                _words(offsets[oid] for oid in oids),
                checksum,
            )
        )
        return data + digest(self._format, data).digest()

    def _write(self, path: bytes, data: bytes, *, durable: bool = True) -> None:
        write_and_rename(self._temporary(b"part"), path, data, mode=self._mode, durable=durable)
        self.written += len(data)


def _write_and_rename_all(
    items: Sequence[tuple[bytes, bytes, bytes]], *, mode: int, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """`write_and_rename` of several files, each its temporary file, its path and its bytes, in their order.

    All are written first and come to the disk together: a sync of each alone would wait for a transaction of its own.
    `meanwhile` is called while they do. None has its name before all of them are on the disk.
    """
    fds: list[int] = []
    try:
        for temporary, path, data in items:
            remove(temporary)
            whole = len(data) > SYNCED_AT_ONCE
            write_new_file(temporary, (data,), mode=for_group(mode, around_of(path, None)), durable=whole)
            fds.append(os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            _begin_to_sync(fds[-1])
        meanwhile()
        for fd in fds:
            sync(fd)
        for temporary, path, _ in items:
            if os.path.dirname(temporary) != os.path.dirname(path):
                give_to(temporary, around_of(path, None))
            os.rename(temporary, path)
    except BaseException:
        for temporary, _, _ in items:
            with suppress(OSError):
                os.unlink(temporary)
        raise
    finally:
        for fd in fds:
            os.close(fd)


def _begin_to_sync(fd: int) -> None:
    """Let the kernel begin to write a file to the disk; it may do nothing."""
    with suppress(OSError, AttributeError):
        # To forget what is not on the disk yet, Linux begins to write it (`man 2 posix_fadvise`).
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def sweep_litter(objects: bytes, tag: str) -> None:
    """Remove what a killed writer with this `tag` left. The caller holds the lock that the writer held."""
    directory = os.path.join(objects, b"pack")
    mine = tag.encode("ascii")
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY % mine):
                _unlink_at_once(entry.path)
            elif entry.name.endswith(b".keep") and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                with open(entry.path, "rb") as file:
                    if file.read(256) == b"gitstate %s\n" % mine:
                        discard(entry.path)


#: Descriptors of removed files, which this process keeps open until its end: see `_unlink_at_once`.
_sunk: list[int] = []
#: To free more bytes than this takes longer than a save may wait.
_SLOW_TO_FREE = 64 << 20


def _unlink_at_once(path: bytes) -> None:
    """Unlink a file. Of a large one the file system frees the blocks when this process ends, not now."""
    with suppress(OSError):
        if os.lstat(path).st_size > _SLOW_TO_FREE:
            _sunk.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
    discard(path)
