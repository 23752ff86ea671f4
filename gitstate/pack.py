"""New objects → one pack with its index, durable (formats: `man 5 gitformat-pack`), large files as loose objects.

One pack costs one flush of the disk whatever the number of objects; git's own loose objects cost one each. There are
no deltas: `git gc` makes them later, off the crash path. Until refs hold the objects a `.keep` file beside the pack
stops a concurrent `git gc --prune=now` from dropping them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Callable
from typing import Any

from .files import fsync_path, make_directory, remove, write_all
from .git import LARGE, Oid

_KINDS = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_CHUNK = 1 << 20
#: Not `tmp_…`: `git gc --prune=now` removes what is called so while we still write it (`prune.c`).
_TEMPORARY = b"gitstate_tmp_%s_"
#: From this size on storing beats deflating: the crash path pays for time, `git gc` for space.
_FAST = 128 << 10


def object_id(object_format: str, kind: str, data: bytes) -> Oid:
    """The id that git gives to these bytes."""
    digest = hashlib.new(object_format, b"%s %d\0" % (kind.encode("ascii"), len(data)), usedforsecurity=False)
    digest.update(data)
    return digest.hexdigest()


class ChangedWhileRead(Exception):
    """A file was not of the size it began with when its last byte was read."""


class PackWriter:
    """Collects objects, and writes them durably under `objects` with `finish`.

    Memory is bounded: past eight times `LARGE` bytes what was collected goes out as a pack of its own, and a file
    larger than `LARGE` is streamed past the pack. `tag` is part of every temporary name, so that litter has an owner.
    """

    def __init__(self, objects: bytes, object_format: str, tag: str) -> None:
        self._objects = objects
        self._format = object_format
        self._tag = tag.encode("ascii")
        self._records: dict[Oid, tuple[int, bytes]] = {}
        self._size = 0
        self._seen: set[Oid] = set()
        self._keeps: list[bytes] = []
        self._count = 0
        #: Bytes that were written so far.
        self.written = 0

    def __contains__(self, oid: object) -> bool:
        return oid in self._seen

    def add(self, kind: str, data: bytes) -> Oid:
        """Take one object of at most `LARGE` bytes, or a larger one that is in memory anyway."""
        oid = object_id(self._format, kind, data)
        if oid not in self._seen:
            self._seen.add(oid)
            size, head = len(data), bytearray()
            byte = _KINDS[kind] << 4 | size & 15
            size >>= 4
            while size:
                head.append(byte | 0x80)
                byte, size = size & 0x7F, size >> 7
            head.append(byte)
            record = bytes(head) + zlib.compress(data, 1 if len(data) < _FAST else 0)
            self._records[oid] = (zlib.crc32(record), record)
            self._size += len(record)
            if self._size > 8 * LARGE:
                self._flush()
        return oid

    def add_file(self, fd: int, size: int, known: Callable[[Oid], bool]) -> Oid:
        """Stream an open file of `size` bytes into a loose blob of stored deflate blocks: no memory, one hash.

        Nothing is kept where `known(oid)` says that the object is safe already. Raises ChangedWhileRead.
        """
        digest = hashlib.new(self._format, usedforsecurity=False)
        temporary = self._temporary(b"loose")
        out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            packer = zlib.compressobj(0)
            head = b"blob %d\0" % size
            digest.update(head)
            write_all(out, packer.compress(head))
            left = size
            while data := os.read(fd, _CHUNK):
                left -= len(data)
                digest.update(data)
                write_all(out, packer.compress(data))
            if left:
                raise ChangedWhileRead
            oid: Oid = digest.hexdigest()
            path = os.path.join(self._objects, oid[:2].encode("ascii"), oid[2:].encode("ascii"))
            if not known(oid) and not os.path.exists(path):
                write_all(out, packer.flush())
                os.fchmod(out, 0o444)
                os.fsync(out)
                make_directory(os.path.dirname(path), top=self._objects)
                os.rename(temporary, path)
                fsync_path(os.path.dirname(path))
                self.written += size
            elif os.path.exists(path):
                fsync_path(path)
                fsync_path(os.path.dirname(path))
            self._seen.add(oid)
            return oid
        finally:
            os.close(out)
            remove(temporary)

    def finish(self) -> None:
        """Write what was collected. After it returns every object is on the disk; raises OSError."""
        if self._records:
            self._flush()

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
        """Refs hold the objects now: git may repack them."""
        for keep in self._keeps:
            remove(keep)
        self._keeps.clear()

    def _temporary(self, kind: bytes) -> bytes:
        self._count += 1
        directory = os.path.join(self._objects, b"pack")
        make_directory(directory, top=self._objects)
        return os.path.join(directory, _TEMPORARY % self._tag + b"%s_%d" % (kind, self._count))

    def _flush(self) -> None:
        body = [b"PACK" + struct.pack(">LL", 2, len(self._records))]
        body += [record for _, record in self._records.values()]
        digest = hashlib.new(self._format, usedforsecurity=False)
        offsets: dict[Oid, int] = {}
        offset = 0
        for oid, part in zip((None, *self._records), body, strict=True):
            if oid is not None:
                offsets[oid] = offset
            offset += len(part)
            digest.update(part)
        checksum = digest.digest()
        name = os.path.join(self._objects, b"pack", b"pack-%s" % digest.hexdigest().encode("ascii"))
        keep = name + b".keep"
        self._write(keep, b"gitstate %s\n" % self._tag, durable=False)
        self._keeps.append(keep)
        self._write(name + b".pack", b"".join(body) + checksum)
        self._write(name + b".idx", self._index(offsets, checksum))
        fsync_path(os.path.dirname(name))
        self._records.clear()
        self._size = 0

    def _index(self, offsets: dict[Oid, int], checksum: bytes) -> bytes:
        oids = sorted(offsets)
        raw = [bytes.fromhex(oid) for oid in oids]
        fanout, place = [], 0
        for first in range(256):
            while place < len(raw) and raw[place][0] <= first:
                place += 1
            fanout.append(place)
        data = b"".join(
            (
                b"\377tOc" + struct.pack(">L", 2) + struct.pack(">256L", *fanout),
                b"".join(raw),
                struct.pack(f">{len(oids)}L", *(self._records[oid][0] for oid in oids)),
                struct.pack(f">{len(oids)}L", *(offsets[oid] for oid in oids)),
                checksum,
            )
        )
        digest: Any = hashlib.new(self._format, data, usedforsecurity=False)
        return data + bytes(digest.digest())

    def _write(self, path: bytes, data: bytes, *, durable: bool = True) -> None:
        temporary = self._temporary(b"part")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            try:
                write_all(fd, data)
                os.fchmod(fd, 0o444)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, path)
            self.written += len(data)
        except BaseException:
            remove(temporary)
            raise


def sweep_litter(objects: bytes, tag: str) -> None:
    """Remove what a killed writer with this `tag` left. Only for who holds the lock that the writer held."""
    directory = os.path.join(objects, b"pack")
    mine = tag.encode("ascii")
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(_TEMPORARY % mine):
                remove(entry.path)
            elif entry.name.endswith(b".keep") and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                with open(entry.path, "rb") as file:
                    if file.read(256) == b"gitstate %s\n" % mine:
                        remove(entry.path)
