"""Whether an index hides entries from git (skip-worktree, assume-unchanged), told from its bytes.

`man 5 gitformat-index`. `git ls-files -v` tells it, too, and lists every entry: that takes a fifth of a recovery.
"""

from __future__ import annotations

from ..system import files
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A larger index is left to git.
_LARGEST = 1 << 30
#: The modes of symlinks and gitlinks.
_LINKS = (b"\0\0\xa0\0", b"\0\0\xe0\0")


def shows_all(path: bytes, oid_bytes: int) -> bool:
    """Whether the index file at `path` is known to hide no entry; False where git has to be asked.

    Only entries of a later version than 2 can have the flag skip-worktree.
    """
    data = files.read_limited(path, _LARGEST)
    if data is None or data[:8] != b"DIRC\0\0\0\2":
        return False
    return not any(_is_entry(data, place, oid_bytes) for place in _candidates(data, oid_bytes))


def _candidates(data: bytes, oid_bytes: int) -> Iterator[int]:
    """Where flags may stand whose highest bit is set: assume-unchanged."""
    import re

    # Behind the mode are uid, gid, size and the object id. What is not a file's mode by chance is told by `_is_entry`.
    of_file = re.compile(rb"\x81[\xa4\xed].{%d}[\x80-\xff]" % (12 + oid_bytes), re.DOTALL)
    place = -1
    # One match may begin within another.
    while found := of_file.search(data, place + 1):
        place = found.start()
        yield place + 14 + oid_bytes
    for mode in _LINKS:
        place = data.find(mode)
        while place >= 0:
            flags = place + 16 + oid_bytes
            if data[flags : flags + 1] >= b"\x80":
                yield flags
            place = data.find(mode, place + 1)


def _is_entry(data: bytes, flags: int, oid_bytes: int) -> bool:
    """Whether the flags of an entry may stand there: a path as long as they say follows, and ends."""
    mode, length = flags - oid_bytes - 16, int.from_bytes(data[flags : flags + 2], "big") & 0xFFF
    end = data.find(b"\0", flags + 2)
    return data[mode : mode + 2] == b"\0\0" and min(end - flags - 2, 0xFFF) == length
