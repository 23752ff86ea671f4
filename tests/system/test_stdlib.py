"""`light`, `spawn` and `json_data` beside the parts of the standard library that they stand in for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitstate import light
from gitstate.errors import CorruptSave
from gitstate.json_data import dumps, loads
from gitstate.light import Record, contextmanager, suppress
from gitstate.spawn import Child
from tests.states import STATES, Templates, make
from tests.support.environment import ROOT, hermetic_environment

ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C"}


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


def test_a_record_is_what_a_named_tuple_is() -> None:
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
def test_a_record_refuses_what_a_named_tuple_refuses(values: tuple[object, ...], named: dict[str, object]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*values, **named)  # type: ignore[arg-type]


def test_a_record_is_frozen() -> None:
    for one in (Ours(1), Theirs(1)):
        with pytest.raises(AttributeError):
            one.first = 2  # type: ignore[misc]
        with pytest.raises(AttributeError):
            one.new = 2  # type: ignore[union-attr]


def test_contexts_end_as_those_of_contextlib_do() -> None:
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


def test_suppress_lets_all_else_pass() -> None:
    with suppress(OSError, KeyError):
        raise FileNotFoundError
    with pytest.raises(ValueError), suppress(OSError):
        raise ValueError


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_digests_are_those_of_hashlib(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hashlib")
    monkeypatch.setattr(light, "_before_openssl", 1000)
    wanted = hashlib.new(name, b"some more").hexdigest()
    for left in (1000, 0):
        monkeypatch.setattr(light, "_before_openssl", left)
        digest = light.digest(name, b"some ", more=4)
        digest.update(b"more")
        assert digest.hexdigest() == wanted


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_json_is_written_as_json_writes_it(value: dict[str, object]) -> None:
    wanted = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    assert dumps(value) == wanted.encode("utf-8", "replace")


ODD = (
    *("", "{", '{"a":', '{"a": 1}}', '{"a": 01}', "[1", "null", '"x"', '{"a": "\t"}', "\ufeff{}", "{}\ufeff", "{}\0"),
    *('{"a": NaN, "a": -Infinity}', '{"a": 1e999}', '{"\\ud800": "\\udc00"}', "\x0b{}", "\u00a0{}", "[" * 100_000),
)


@given(st.dictionaries(st.text(), VALUES).map(json.dumps) | st.sampled_from(ODD), st.sampled_from(" \r\n\t"))
def test_json_is_read_as_json_reads_it(text: str, margin: str) -> None:
    data = (margin + text + margin).encode("utf-8", "surrogatepass")
    try:
        wanted = json.loads(data)
    except (ValueError, RecursionError):
        wanted = None
    if isinstance(wanted, dict):
        assert repr(loads(data, len(data), "it")) == repr(wanted)
    else:
        with pytest.raises(CorruptSave):
            loads(data, len(data), "it")


def test_a_lone_surrogate_makes_no_invalid_utf_8() -> None:
    assert json.loads(dumps({"a\udcff": "\ud800"})) == {"a?": "?"}


def script(text: str) -> list[str | bytes]:
    return [sys.executable, "-c", "import os, sys, time\n" + text]


def test_both_streams_are_read_while_it_is_fed() -> None:
    """More than any pipe holds, in all three directions at once."""
    given = os.urandom(1 << 20)
    child = Child(
        script("data = sys.stdin.buffer.read()\nos.write(2, data)\nsys.stdout.buffer.write(data)"), ENVIRONMENT
    )
    assert child.communicate(given) == (given, given)
    assert child.returncode == child.wait() == 0


def test_one_that_does_not_read_is_no_error() -> None:
    child = Child(script("os.close(0)\nprint('done')\nsys.exit(3)"), ENVIRONMENT)
    assert child.communicate(b"x" * (1 << 20)) == (b"done\n", b"")
    assert child.returncode == 3


def test_one_that_takes_too_long_can_be_ended() -> None:
    child = Child(script("os.write(1, b'begun')\ntime.sleep(600)"), ENVIRONMENT, quiet=True)
    with pytest.raises(TimeoutError):
        child.communicate(timeout=0.2)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.kill()


def test_a_program_that_is_not_there_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(FileNotFoundError):
        Child(["no-such-program"], ENVIRONMENT)
    assert (os.listdir("/proc/self/fd") if before else []) == before


def test_a_relative_entry_of_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a `git` that an agent puts into its workspace would run."""
    planted = tmp_path / "git"
    planted.write_text("#!/bin/sh\ntouch planted-was-run\n")
    planted.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    child = Child(["git", "version"], ENVIRONMENT)
    assert child.communicate()[0].startswith(b"git version ")
    monkeypatch.setenv("PATH", ".:")
    with pytest.raises(FileNotFoundError):
        Child(["git", "version"], ENVIRONMENT)
    assert not (tmp_path / "planted-was-run").exists()


def test_nothing_is_started_where_no_descriptor_is_left() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with pytest.raises(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(4):
            os.close(opened.pop())
        before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
        with pytest.raises(OSError, match="Too many open files"):
            Child(["git"], ENVIRONMENT)
        assert (sorted(os.listdir("/proc/self/fd")) if before else []) == before
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_has_the_usual_signals_and_keeps_what_it_inherits(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        text = f"os.write({fd}, b'held')\ntry: os.write({other}, b'other')\nexcept OSError: print('closed')"
        child = Child(script(text), ENVIRONMENT, inherits=fd)
        assert child.communicate() == (b"closed\n", b"")
        assert ((tmp_path / "held").read_text(), (tmp_path / "other").read_text()) == ("held", "")
        child = Child(["sh", "-c", "kill -PIPE $$; echo ignored"], ENVIRONMENT)
        assert child.communicate() == (b"", b"") and child.returncode == -signal.SIGPIPE
    finally:
        os.close(fd)
        os.close(other)


def test_it_starts_where_the_standard_streams_are_closed() -> None:
    text = (
        "from gitstate.spawn import Child\nfor fd in (0, 1, 2): os.close(fd)\n"
        "child = Child(['sh', '-c', 'cat; echo said >&2; exit 5'], os.environ)\n"
        "out, err = child.communicate(b'fed')\n"
        "sys.exit(7 if (out, err, child.returncode) == (b'fed', b'said\\n', 5) else 1)"
    )
    done = subprocess.run(script(text), cwd=ROOT, check=False)
    assert done.returncode == 7


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_a_caller_that_ignores_dead_children_takes_no_status_from_us(
    command: str, templates: Templates, tmp_path: Path
) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    (ws.path / "new.txt").write_text("new\n")
    done = subprocess.run(
        [sys.executable, "-m", "gitstate", "-C", str(ws.path), command],
        env=hermetic_environment(Path(os.environ["HOME"])),
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr.startswith(b"saved ")


def test_what_python_compiles_is_kept_whatever_the_environment_says(templates: Templates, tmp_path: Path) -> None:
    """Else every save would compile the whole package first."""
    ws = make(STATES["clean"], templates, tmp_path)
    package = ROOT / "gitstate"
    copy = tmp_path / "copy"
    shutil.copytree(package, copy / "gitstate", ignore=shutil.ignore_patterns("__pycache__"))
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gitstate.__main__ import main; main()"
    subprocess.run(
        [sys.executable, "-c", script, str(copy), "-C", str(ws.path), "checkpoint"],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, check=True,
    )  # fmt: skip
    assert list((copy / "gitstate" / "__pycache__").glob("save.*.pyc"))
