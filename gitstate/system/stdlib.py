"""What the crash path needs of the standard library, without what importing it there costs.

Each save starts a new interpreter. Importing `typing` (with `re` and `enum` behind it), `contextlib` and `signal` takes
longer than `git status` takes for two hundred files. mypy sees the originals. Packages off the crash path import those.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False

__all__ = [
    "TYPE_CHECKING",
    "Record",
    "bisect_left",
    "c_function",
    "contextmanager",
    "digest",
    "pickler",
    "quote",
    "signal",
    "suppress",
]

if TYPE_CHECKING:
    import hashlib
    import signal
    from bisect import bisect_left
    from collections.abc import Callable
    from contextlib import contextmanager, suppress
    from shlex import quote
    from types import ModuleType
    from typing import Any
    from typing import NamedTuple as Record
else:
    import _signal as signal
    from _collections import _tuplegetter

    class _Fields(type):
        """Turns the annotations of a class body into fields, in their order; a value is the field's default."""

        def __new__(mcs, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            body["_defaults"] = defaults = {field: body.pop(field) for field in fields if field in body}
            # Only the last fields may be left out without a name.
            body["_last"] = tuple(defaults.values()) if fields[len(fields) - len(defaults) :] == tuple(defaults) else ()
            body["_fields"] = body["__match_args__"] = fields
            body["__slots__"] = ()
            for place, field in enumerate(fields):
                body[field] = _tuplegetter(place, None)
            return super().__new__(mcs, name, bases, body)

    class Record(tuple, metaclass=_Fields):
        """`typing.NamedTuple`."""

        def __new__(cls, *values, **named):
            fields = cls._fields
            missing = len(fields) - len(values)
            if missing and not named and 0 < missing <= len(cls._last):
                return tuple.__new__(cls, values + cls._last[-missing:])
            if named or missing:
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

    def bisect_left(items, wanted):
        """`bisect.bisect_left`; its module is a file of its own, which no recovery needs."""
        from _bisect import bisect_left as find

        return find(items, wanted)

    #: What a shell takes as it is, as `shlex` has it.
    _PLAIN = frozenset("@%+=:,./-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")

    def quote(text):
        """`shlex.quote`, for a command that is shown: what a terminal must not get stands as in `$'…'`."""
        if text and _PLAIN.issuperset(text):
            return text
        if not text.isprintable():
            return "$'" + "".join(map(_pasted, text)) + "'"
        return "'" + text.replace("'", "'\"'\"'") + "'"

    def _pasted(c):
        if c.isprintable():
            return "\\" + c if c in "\\'" else c
        return "".join(map("\\x{:02x}".format, c.encode("utf-8", "surrogateescape")))

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
    if _before_openssl > 0 and "_hashlib" not in sys.modules:
        module = "_sha1" if name == "sha1" else "_sha256" if sys.version_info < (3, 12) else "_sha2"
        try:
            start = getattr(__import__(module), name)
        except ImportError:
            _before_openssl = 0
        else:
            return start(data, usedforsecurity=False)  # type: ignore[no-any-return]
    try:
        # All that `hashlib` adds to it takes a third of its time.
        import _hashlib

        return _hashlib.new(name, data, usedforsecurity=False)
    except (ImportError, ValueError):
        import hashlib

        return hashlib.new(name, data, usedforsecurity=False)


def expect_digest(more: int) -> None:
    """About so many bytes will be hashed: load what that takes now, while the caller has to wait for something else."""
    if more >= _before_openssl:
        with suppress(ImportError):
            __import__("_hashlib")


def pickler() -> ModuleType:
    """The C module of `pickle`, without what it loads for the names of Python 2: half a megabyte in each keeper."""
    if "_pickle" not in sys.modules and "functools" not in sys.modules:
        names = ("NAME_MAPPING", "IMPORT_MAPPING", "REVERSE_NAME_MAPPING", "REVERSE_IMPORT_MAPPING")
        old_names = type(sys)("_compat_pickle")
        vars(old_names).update({name: {} for name in names})
        # It looks for `partial` there.
        sys.modules.update({"functools": __import__("_functools"), "_compat_pickle": old_names})
        try:
            import _pickle
        finally:
            del sys.modules["functools"], sys.modules["_compat_pickle"]
    import _pickle

    return _pickle


def c_function(name: str) -> Callable[..., int]:
    """A function of the C library that returns a number, by its name; it raises OSError where that is negative.

    Importing `ctypes` itself takes a third of a megabyte. Raises ImportError, OSError, AttributeError where there is
    no such function.
    """
    ctypes: Any = __import__("_ctypes")
    number = type("Number", (ctypes._SimpleCData,), {"_type_": "i"})
    flags = ctypes.FUNCFLAG_CDECL | ctypes.FUNCFLAG_USE_ERRNO
    kind = type("Function", (ctypes.CFuncPtr,), {"_flags_": flags, "_restype_": number})
    function = kind(ctypes.dlsym(ctypes.dlopen(None, 0), name))

    def call(*arguments: int | bytes) -> int:
        result: int = function(*arguments)
        if result < 0:
            import os

            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    return call
