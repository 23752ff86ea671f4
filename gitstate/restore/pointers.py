"""Pointer files: what git-lfs and git-annex commit in place of a file, whose bytes they keep beside git's objects."""

from __future__ import annotations

import os

from ..errors import MissingObject
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ..git.command import Oid
    from ..objects.reader import ObjectReader
    from ..workspace.files import Worktree

#: A longer file is no pointer.
_LONGEST = 1024
_LFS, _ANNEX = b"version https://git-lfs.github.com/spec/", b"/annex/objects/"
#: The checksums that git-annex names keys by, with an E where the extension of the file is part of the key.
_BACKENDS = {b"SHA1": "sha1", b"SHA256": "sha256", b"SHA512": "sha512", b"MD5": "md5"}


class Pointer(Record):
    """What a pointer file says of the bytes that it stands for."""

    algorithm: str
    digest: str
    """In lower-case hex."""
    size: int


def parse_pointer(data: bytes) -> Pointer | None:
    """The pointer that a file holds (the specification of git-lfs, `git annex help examinekey`); None for others."""
    if data.startswith(_LFS):
        fields = dict(line.split(b" ", 1) for line in data.splitlines() if b" " in line)
        name, _, key = fields.get(b"oid", b"").partition(b":")
        size = fields.get(b"size", b"")
        return Pointer("sha256", key.decode("latin-1"), int(size)) if name == b"sha256" and size.isdigit() else None
    if not data.startswith(_ANNEX):
        return None
    backend, _, rest = os.path.basename(data.split(b"\n", 1)[0]).partition(b"-s")
    size, _, key = rest.partition(b"--")
    algorithm = _BACKENDS.get(backend.removesuffix(b"E"))
    return (
        Pointer(algorithm, key.partition(b".")[0].decode("latin-1"), int(size))
        if algorithm and size.isdigit()
        else None
    )


def _is_what_is_named(pointer: Pointer, pieces: Iterable[bytes]) -> bool:
    """Whether these are the bytes that a pointer stands for."""
    import hashlib

    hashed, size = hashlib.new(pointer.algorithm, usedforsecurity=False), 0
    for piece in pieces:
        hashed.update(piece)
        size += len(piece)
        if size > pointer.size:
            return False
    return size == pointer.size and hashed.hexdigest() == pointer.digest


def _readable(blobs: Sequence[Oid], reader: ObjectReader) -> Iterator[bytes]:
    """The bytes of these blobs. One that is damaged is passed over: it names nothing, and the disk wins."""
    for oid in dict.fromkeys(blobs):
        try:
            found = reader.contents([oid])[0]
        except MissingObject:
            # Git ends at an object that it can't read.
            reader.restart()
            continue
        if found is not None:
            yield found[1]


def holds_what_is_named(disk: Worktree, path: bytes, blobs: Sequence[Oid], reader: ObjectReader) -> bool:
    """Whether a regular file holds what the pointer in one of these blobs stands for.

    Git can't tell where the filter is gone, or what it keeps: then it writes the pointer, or nothing.
    """
    sizes = zip(blobs, reader.kinds(blobs), strict=True)
    small = [oid for oid, info in sizes if info is not None and info[1] <= _LONGEST]
    pointers = [pointer for data in _readable(small, reader) if (pointer := parse_pointer(data)) is not None]
    stamp = disk.stamp(path) if pointers else None
    fitting = [pointer for pointer in pointers if stamp is not None and pointer.size == stamp[0]]
    return any(_is_what_is_named(pointer, disk.read(path)) for pointer in fitting)
