"""The bundle of the crash path's modules: never older than the sources, and never a reason to fail."""

from __future__ import annotations

import marshal
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.environment import ROOT
from tests.support.workspace import Workspace

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gitstate.__main__ import main; main()"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, without what Python compiled; its parent directory."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gitstate", tmp_path / "copy" / "gitstate", ignore=ignored)
    return tmp_path / "copy"


def checkpoint(copy: Path, ws: Workspace, *flags: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-P", *flags, "-c", START, str(copy), "-C", str(ws.path), "checkpoint"]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(argv, capture_output=True, encoding="utf-8", env=env, timeout=120)


def bundle(copy: Path) -> Path:
    (found,) = (copy / "gitstate" / "__pycache__").glob("checkpoint.*.bundle")
    return found


def head(path: Path) -> tuple[dict[str, tuple[Any, ...]], list[tuple[int, bytes]]]:
    """What a bundle says of its modules, and of its parts."""
    data = path.read_bytes()
    found: tuple[dict[str, tuple[Any, ...]], list[tuple[int, bytes]]]
    found = marshal.loads(data[12 : 12 + int.from_bytes(data[:4], "little")])
    return found


def opened_sources(copy: Path, ws: Workspace) -> int:
    """How many compiled modules one checkpoint reads one by one."""
    done = checkpoint(copy, ws, "-v")
    assert done.returncode == 0, done.stderr
    return sum("matches" in line and "/gitstate/" in line for line in done.stderr.splitlines())


def test_second_command_reads_one_file_in_place_of_many(copy: Path, ws: Workspace) -> None:
    before = opened_sources(copy, ws)
    assert bundle(copy).stat().st_size > 10_000
    for _ in range(2):
        # The first checkpoint saved something: a later one, which saves nothing, loads fewer modules.
        after = opened_sources(copy, ws)
    assert after < 10
    assert before == 0 or before > after


def test_git_is_started_before_all_is_unpacked(copy: Path, ws: Workspace) -> None:
    """What opens the repository is a part, what locks and asks the next one; the rest is not needed until git works."""
    ws.append("a.txt")
    assert checkpoint(copy, ws).returncode == 0
    modules, stamps = head(bundle(copy))
    parts = [modules[f"gitstate.{name}"][4] for name in ("git.opening", "save.save", "save.protocol")]
    assert parts == [0, 1, 2]
    assert sum(size for size, _ in stamps[:1]) < sum(size for size, _ in stamps) / 2


def test_changed_source_is_used_at_once(copy: Path, ws: Workspace) -> None:
    assert checkpoint(copy, ws).returncode == 0
    words = copy / "gitstate" / "save" / "request.py"
    text = words.read_text()
    info = words.stat()
    assert "nothing changed since the last checkpoint" in checkpoint(copy, ws).stderr
    for source in (copy / "gitstate").rglob("*.py"):
        changed = source.read_text().replace("nothing changed since the last", "NOTHING changed since the last")
        source.write_text(changed)
    os.utime(words, ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    assert words.stat().st_size == len(text.encode())
    assert "NOTHING changed since the last checkpoint" in checkpoint(copy, ws).stderr
    assert "NOTHING changed since the last checkpoint" in checkpoint(copy, ws).stderr


def test_parts_of_which_all_has_changed_go(copy: Path, ws: Workspace) -> None:
    assert checkpoint(copy, ws).returncode == 0
    _, first = head(bundle(copy))
    for source in (copy / "gitstate").rglob("*.py"):
        os.utime(source, ns=(0, 0))
    assert checkpoint(copy, ws).returncode == 0
    modules, stamps = head(bundle(copy))
    assert len(stamps) <= len(first) and {entry[4] for entry in modules.values()} == {*range(len(stamps))}
    assert opened_sources(copy, ws) < 10


def test_bundle_of_another_copy_of_the_package_is_not_used(copy: Path, ws: Workspace, tmp_path: Path) -> None:
    assert checkpoint(copy, ws).returncode == 0
    other = tmp_path / "other"
    shutil.copytree(copy, other)
    for source in (copy / "gitstate").rglob("*.py"):
        text = source.read_text()
        if "nothing changed since the last" in text:
            source.write_text(text.replace("nothing changed since the last", "COPIED changed since the last"))
    assert "COPIED changed since the last checkpoint" in checkpoint(copy, ws).stderr
    bundle(other).write_bytes(bundle(copy).read_bytes())
    assert "nothing changed since the last checkpoint" in checkpoint(other, ws).stderr


def test_bundle_is_used_where_the_package_is_named_by_way_of_another_directory(copy: Path, ws: Workspace) -> None:
    """As `bin/gitstate` names it."""
    path = copy / ".." / copy.name
    for _ in range(2):
        # The first checkpoint saved something: a later one may load another module.
        assert checkpoint(path, ws).returncode == 0
    inode = bundle(copy).stat().st_ino
    assert checkpoint(path, ws).returncode == 0
    assert bundle(copy).stat().st_ino == inode


@pytest.mark.sample(3)
@pytest.mark.parametrize("damage", ["empty", "cut", "text", "directory", "other format", "zeros"])
def test_damaged_bundle_is_replaced(damage: str, copy: Path, ws: Workspace) -> None:
    assert checkpoint(copy, ws).returncode == 0
    path = bundle(copy)
    whole = path.read_bytes()
    if damage == "directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "cut": whole[: len(whole) // 2],
                "text": b"text",
                "other format": b"i\x01",
                # As a disk that lost blocks: what tells where all is stands at the beginning.
                "zeros": whole[: len(whole) // 2].ljust(len(whole), b"\0"),
            }[damage]
        )
    ws.append("a.txt")
    done = checkpoint(copy, ws)
    assert done.returncode == 0 and "saved" in done.stderr, done
    assert not list(path.parent.glob("checkpoint.*.bundle.*"))
    if damage != "directory":
        # A module of a damaged part was imported from its source, and the next call finds that the file lacks it.
        assert checkpoint(copy, ws).returncode == 0
        assert len(path.read_bytes().rstrip(b"\0")) > len(whole) // 2 + 10_000


def test_no_damaged_byte_of_the_bundle_changes_what_a_command_does(copy: Path, ws: Workspace) -> None:
    """A number in the head that names a part which is not there, a name in the code of a module, …"""
    assert checkpoint(copy, ws).returncode == 0
    path = bundle(copy)
    whole = path.read_bytes()
    head = int.from_bytes(whole[:4], "little")
    # Where the entries of the modules end, each with the number of its part, and in the code of the first part.
    for place in (6, head // 3, head - 30, head // 2, head + 400, len(whole) // 2):
        for changed in (0x01, 0x60):
            damaged = bytearray(whole)
            damaged[place] ^= changed
            path.write_bytes(damaged)
            ws.append("a.txt")
            done = checkpoint(copy, ws)
            assert done.returncode == 0 and "saved" in done.stderr, (place, done)
            assert path.read_bytes() != damaged, f"the damaged byte {place} was not noticed"


def test_directory_that_cannot_be_written_costs_only_time(copy: Path, ws: Workspace) -> None:
    assert checkpoint(copy, ws).returncode == 0
    cache = bundle(copy).parent
    bundle(copy).unlink()
    shutil.rmtree(cache)
    cache.write_text("not a directory\n")
    ws.append("a.txt")
    done = checkpoint(copy, ws)
    assert done.returncode == 0 and "saved" in done.stderr, done
    assert cache.read_text() == "not a directory\n"


@pytest.mark.parametrize("event", ["SessionStart", "PostToolUse", "Stop"])
def test_hook_of_an_agent_has_a_bundle_of_its_own(event: str, copy: Path, ws: Workspace) -> None:
    payload = f'{{"hook_event_name": "{event}", "session_id": "s", "cwd": "{ws.path}"}}'
    argv = [sys.executable, "-P", "-c", START, str(copy), "hook", "claude"]
    for _ in range(2):
        done = subprocess.run(argv, input=payload, capture_output=True, encoding="utf-8", cwd=ws.path, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    assert list((copy / "gitstate" / "__pycache__").glob("hook.*.bundle"))
