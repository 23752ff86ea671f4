"""What the crash path needs of the standard library, without what importing it there costs.

Each save starts a new interpreter. Importing `typing` (with `re` and `enum` behind it), `contextlib` and `signal` takes
longer than `git status` takes for two hundred files. mypy sees the originals. Packages off the crash path import those.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False

__all__ = ["TYPE_CHECKING", "Record", "bisect_left", "contextmanager", "digest", "quote", "signal", "suppress"]

if TYPE_CHECKING:
    import hashlib
    import signal
    from bisect import bisect_left
    from contextlib import contextmanager, suppress
    from shlex import quote
    from typing import NamedTuple as Record
else:
    import _signal as signal
    from _bisect import bisect_left
    from _collections import _tuplegetter

    class _Fields(type):
        """Turns the annotations of a class body into fields, in their order; a value is the field's default."""

        def __new__(mcs, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            body["_defaults"] = {field: body.pop(field) for field in fields if field in body}
            body["_fields"] = body["__match_args__"] = fields
            body["__slots__"] = ()
            for place, field in enumerate(fields):
                body[field] = _tuplegetter(place, None)
            return super().__new__(mcs, name, bases, body)

    class Record(tuple, metaclass=_Fields):
        """`typing.NamedTuple`."""

        def __new__(cls, *values, **named):
            fields = cls._fields
            if named or len(values) != len(fields):
                left = fields[len(values) :]
                given = {**cls._defaults, **named}
                if len(values) > len(fields) or not named.keys() <= set(left) or not given.keys() >= set(left):
                    raise TypeError(f"{cls.__name__} has the fields {', '.join(fields)}")
                values += tuple([given[field] for field in left])
            return tuple.__new__(cls, values)

        _make = classmethod(tuple.__new__)

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(map('{}={!r}'.format, self._fields, self))})"

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **named):
            return type(self)(**{**self._asdict(), **named})

    class suppress:
        """`contextlib.suppress`."""

        def __init__(self, *errors):
            self._errors = errors

        def __enter__(self):
            return None

        def __exit__(self, kind, error, trace):
            return kind is not None and issubclass(kind, self._errors)

    #: What a shell takes as it is, as `shlex` has it.
    _PLAIN = frozenset("@%+=:,./-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

    def quote(text):
        """`shlex.quote`."""
        if text and _PLAIN.issuperset(text):
            return text
        return "'" + text.replace("'", "'\"'\"'") + "'"

    class _Context:
        def __init__(self, steps):
            self._steps = steps

        def __enter__(self):
            return next(self._steps)

        def __exit__(self, kind, error, trace):
            if error is None:
                next(self._steps, None)
                return False
            try:
                self._steps.throw(error)
            except BaseException as thrown:
                if thrown is not error:
                    raise
            return False

    def contextmanager(function):
        """`contextlib.contextmanager`, for a function that yields once and lets every error pass."""

        def enter(*values, **named):
            return _Context(function(*values, **named))

        enter.__doc__ = function.__doc__
        return enter


#: So many bytes are hashed by Python's own digests. OpenSSL's are seven times as fast, but slow to load.
_before_openssl = 512 << 10


def digest(name: str, data: bytes = b"", more: int = 0) -> hashlib._Hash:
    """`hashlib.new` for `sha1` or `sha256`, fed with `data`. `more` is about how many bytes the caller will add."""
    global _before_openssl
    _before_openssl -= len(data) + more
    if _before_openssl > 0 and "hashlib" not in sys.modules:
        module = "_sha1" if name == "sha1" else "_sha256" if sys.version_info < (3, 12) else "_sha2"
        try:
            start = getattr(__import__(module), name)
        except ImportError:
            _before_openssl = 0
        else:
            return start(data, usedforsecurity=False)  # type: ignore[no-any-return]
    import hashlib

    return hashlib.new(name, data, usedforsecurity=False)
