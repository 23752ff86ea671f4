"""The stand-ins for parts of the standard library behave as those parts do."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import shlex
import string
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from gitstate.system import stdlib
from gitstate.system.stdlib import Record, contextmanager, quote, suppress


class Theirs(NamedTuple):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()

    @property
    def both(self) -> str:
        return f"{self.first}{self.second}"


class Ours(Record):
    first: int
    second: str = "two"
    third: tuple[int, ...] = ()

    @property
    def both(self) -> str:
        return f"{self.first}{self.second}"


def test_record_behaves_like_a_named_tuple() -> None:
    ours, theirs = Ours(1, third=(3,)), Theirs(1, third=(3,))
    assert tuple(ours) == tuple(theirs)
    assert Ours._fields == Theirs._fields and ours._asdict() == theirs._asdict() and hash(ours) == hash(theirs)
    assert ours.both == theirs.both and ours.second == "two" and ours._replace(second="x") == (1, "x", (3,))
    assert Ours._make((1, "two", (3,))) == ours and type(Ours._make(ours)) is Ours
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert type(pickle.loads(pickle.dumps(ours))) is Ours and pickle.loads(pickle.dumps(ours)) == ours
    match ours:
        case Ours(first, second):
            assert (first, second) == (1, "two")
        case _:
            pytest.fail("it matches by position")


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, "", (), 4), {}), ((1,), {"first": 2}), ((1,), {"fourth": 4})]
)
def test_record_rejects_the_arguments_that_a_named_tuple_rejects(
    values: tuple[object, ...], named: dict[str, object]
) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*values, **named)  # type: ignore[arg-type]


def test_record_is_frozen() -> None:
    for one in (Ours(1), Theirs(1)):
        with pytest.raises(AttributeError):
            one.first = 2  # type: ignore[misc]
        with pytest.raises(AttributeError):
            one.new = 2  # type: ignore[union-attr]


def test_contextmanager_matches_contextlib() -> None:
    def steps(said: list[str]) -> Iterator[str]:
        said.append("begin")
        try:
            yield "value"
        except KeyError:
            said.append("error")
            raise LookupError("another") from None
        finally:
            said.append("end")

    for make_context in (contextmanager, contextlib.contextmanager):
        said: list[str] = []
        with make_context(steps)(said) as value:
            said.append(value)
        with pytest.raises(LookupError, match="another"), make_context(steps)(said):
            raise KeyError
        original = ValueError()
        with pytest.raises(ValueError) as caught, make_context(steps)(said):
            raise original
        assert caught.value is original
        assert said == ["begin", "value", "end", "begin", "error", "end", "begin", "end"]


def test_suppress_lets_other_errors_pass() -> None:
    with suppress(OSError, KeyError):
        raise FileNotFoundError
    with pytest.raises(ValueError), suppress(OSError):
        raise ValueError


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_digests_match_hashlib(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = hashlib.new(name, b"some more").hexdigest()
    for left, openssl in ((1000, None), (0, sys.modules["_hashlib"]), (0, None)):
        monkeypatch.setattr(stdlib, "_before_openssl", left)
        if left:
            monkeypatch.delitem(sys.modules, "_hashlib")
        else:
            # A Python may be built without OpenSSL.
            monkeypatch.setitem(sys.modules, "_hashlib", openssl)
        digest = stdlib.digest(name, b"some ", more=4)
        digest.update(b"more")
        assert digest.hexdigest() == wanted


@pytest.mark.parametrize(
    "text", ["", "a b", "it's", "$x", "\u00e9", "'", "~", *filter(str.isprintable, string.printable)]
)
def test_quote_is_that_of_shlex(text: str) -> None:
    assert quote(text) == shlex.quote(text)
    assert quote(f"a{text}") == shlex.quote(f"a{text}")


@pytest.mark.parametrize("text", ["a b", "a\x1b[2Jb'c\\d", "\u202e x", os.fsdecode(b"\xff\n'e")])
def test_quoted_word_is_shown_and_pasted_as_it_is(text: str) -> None:
    """No terminal gets what is no text, and a shell reads the word as it was."""
    word = quote(text)
    assert word.isprintable()
    assert subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True).stdout == os.fsencode(text)
