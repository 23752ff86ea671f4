"""Object ids."""

from __future__ import annotations

from ..system.stdlib import digest

Oid = str
"""An object id in lower-case hex: 40 digits in a sha1 repository, 64 in a sha256 one."""
_HEX = frozenset("0123456789abcdef")


def is_oid(value: object) -> bool:
    """Whether a value is a full object id in lower-case hex."""
    return isinstance(value, str) and len(value) in (40, 64) and _HEX.issuperset(value)


def object_id(object_format: str, kind: str, data: bytes) -> Oid:
    """The id that git gives to these bytes."""
    whole = digest(object_format, b"%s %d\0" % (kind.encode("ascii"), len(data)), len(data))
    whole.update(data)
    return whole.hexdigest()
