"""The file `packed-refs`, in whose bytes refs are looked for: thousands of saves may stand there.

To make an object of each line takes ten times as long.
"""

from __future__ import annotations

import errno
import os
import stat

from ..system.files import file_stamp, open_at_once
from ..system.stdlib import TYPE_CHECKING, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class _Last:
    """What was read last, and of which file; nothing is kept outside of `read_once`."""

    def __init__(self) -> None:
        self.readers = 0
        self.key: tuple[bytes, tuple[int, ...]] | None = None
        self.data = b""


_last = _Last()


@contextmanager
def read_once() -> Iterator[None]:
    """In the body a file that is the same as at the last look is not read again: git puts a new one in its place.

    For a command, which ends soon: ten thousand saves take a megabyte.
    """
    _last.readers += 1
    try:
        yield
    finally:
        _last.readers -= 1
        if not _last.readers:
            _last.key, _last.data = None, b""


def read_packed(common_dir: bytes, *, anew: bool = False) -> bytes:
    """The bytes of `packed-refs`, with a line feed at their end; with `anew` from the disk even in `read_once`."""
    try:
        fd = open_at_once(os.path.join(common_dir, b"packed-refs"), os.O_RDONLY)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return b"\n"
    # A file object costs more than reading a small file does.
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return b"\n"
        key = (common_dir, file_stamp(info))
        if key == _last.key and not anew:
            return _last.data
        parts = []
        # As a rule the first read gets all: nothing is copied.
        left = info.st_size + 1
        while part := os.read(fd, left):
            parts.append(part)
            left = 1 << 16
    finally:
        os.close(fd)
    data = parts[0] if len(parts) == 1 else b"".join(parts)
    data = data if data.endswith(b"\n") else data + b"\n"
    if _last.readers:
        _last.key, _last.data = key, data
    return data


def refs_in(data: bytes, beginnings: Iterable[bytes]) -> dict[bytes, bytes]:
    """The refs in the bytes of `packed-refs` whose lines go on with one of `beginnings` behind the object id."""
    found = {}
    for beginning in beginnings:
        wanted, at = b" " + beginning, 0
        while (at := data.find(wanted, at)) >= 0:
            end, value = data.index(b"\n", at), _value_before(data, at)
            if value:
                found[data[at + 1 : end]] = value
            at = end
    return found


def names_in(data: bytes, top: bytes, since: bytes) -> list[bytes]:
    """The refs below `top` in the bytes of the file, by the rest of their names: none that sorts before `since`."""
    _, *rests = data.split(b" " + top)
    return [rest.partition(b"\n")[0] for rest in rests if rest >= since]


def _value_before(data: bytes, at: int) -> bytes:
    """What stands in a line before its name; nothing where it is no object id."""
    value = data[data.rfind(b"\n", 0, at) + 1 : at]
    # A power cut may leave zeros in a line, or its beginning.
    return b"" if value[:1] in (b"#", b"^") or b" " in value else value


class PackedRefs:
    """The refs in `packed-refs`, as they are when the first one is asked for; with `anew` as for `read_packed`."""

    #: After so many refs that were not asked for in the order of the file, an object is made of each line.
    _FEW = 8

    def __init__(self, common_dir: bytes, *, anew: bool = False) -> None:
        self._common_dir = common_dir
        self._anew = anew
        self._data: bytes | None = None
        #: Where the last ref was found.
        self._at = 0
        self._misses = 0
        self._all: dict[bytes, bytes] | None = None

    def value(self, name: bytes) -> bytes:
        """The value of one ref; empty where there is none."""
        if self._data is None:
            self._data = read_packed(self._common_dir, anew=self._anew)
        if self._all is not None:
            return self._all.get(name, b"")
        value = self._find(self._data, name, self._at, len(self._data))
        if value or not self._at:
            return value
        self._misses += 1
        if self._misses > self._FEW:
            self._all = refs_in(self._data, (b"",))
            return self._all.get(name, b"")
        return self._find(self._data, name, 0, self._at + len(name) + 1)

    def _find(self, data: bytes, name: bytes, at: int, end: int) -> bytes:
        wanted = b" %s\n" % name
        while (at := data.find(wanted, at, end)) >= 0:
            value = _value_before(data, at)
            if value:
                self._at = at
                return value
            at += 1
        return b""
