"""Reads git's index directly, and through git where only git can read it."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

K = TypeVar("K")

QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.untrackedCache=keep")

FLAG_ASSUME_VALID = 0x8000

FLAG_EXTENDED = 0x4000

FLAG_SKIP_WORKTREE = 0x4000  # in the second, extended half

FLAG_INTENT_TO_ADD = 0x2000  # in the second, extended half


def show(path: bytes) -> str:
    """A path as a person can read it, whatever bytes it is made of."""
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() and text == text.strip() else repr(path)[1:]


def run_git(where: Path, *args: str, check: bool = True) -> bytes:
    """Ask git something without letting it write, fetch, or start anybody's program."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "CONFIG" in name}
    env |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C.UTF-8"}
    command = ["git", "-C", os.fspath(where), *QUIET, *args]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=120)
    if check and done.returncode:
        raise AssertionError(f"{command} exited {done.returncode}: {done.stderr.decode('utf-8', 'replace')}")
    return done.stdout


@dataclass(frozen=True, order=True)
class IndexEntry:
    """One line of the index, stat data aside."""

    path: bytes
    stage: int
    mode: int
    oid: str
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.mode:06o} {self.oid[:12]} stage {self.stage} {','.join(self.flags) or '-'}"


@dataclass(frozen=True)
class ParsedIndex:
    version: int
    entries: tuple[IndexEntry, ...]
    extensions: tuple[str, ...]


class IndexDamagedError(AssertionError):
    """The bytes are not an index."""


def _flags(first: int, second: int) -> tuple[str, ...]:
    named = (
        ("assume-valid", first & FLAG_ASSUME_VALID),
        ("intent-to-add", second & FLAG_INTENT_TO_ADD),
        ("skip-worktree", second & FLAG_SKIP_WORKTREE),
    )
    return tuple(name for name, present in named if present)


def parse_index(data: bytes, hash_size: int) -> ParsedIndex:
    """Read an index file of version 2, 3 or 4; ``hash_size`` is 20 for sha1 and 32 for sha256."""
    magic, version, count = struct.unpack_from(">4sLL", data)
    if magic != b"DIRC" or version not in (2, 3, 4):
        raise IndexDamagedError(f"no index: {data[:12]!r}")
    body, checksum = data[:-hash_size], data[-hash_size:]
    if any(checksum) and hashlib.new("sha1" if hash_size == 20 else "sha256", body).digest() != checksum:
        raise IndexDamagedError("the checksum is wrong")
    entries: list[IndexEntry] = []
    at, previous = 12, b""
    for _ in range(count):
        start = at
        (mode,) = struct.unpack_from(">L", data, at + 24)
        at += 40
        oid = data[at : at + hash_size].hex()
        at += hash_size
        (first,) = struct.unpack_from(">H", data, at)
        at += 2
        second = 0
        if first & FLAG_EXTENDED:
            (second,) = struct.unpack_from(">H", data, at)
            at += 2
        if version == 4:
            strip, at = _offset_varint(data, at)
            end = data.index(b"\0", at)
            path = previous[: len(previous) - strip] + data[at:end]
            at = end + 1
        else:
            end = data.index(b"\0", at)
            path = data[at:end]
            at = start + ((end - start) // 8 + 1) * 8
        previous = path
        entries.append(IndexEntry(path, (first >> 12) & 3, mode, oid, _flags(first, second)))
    extensions: list[str] = []
    while at < len(body):
        name, size = struct.unpack_from(">4sL", data, at)
        extensions.append(name.decode("ascii"))
        at += 8 + size
    return ParsedIndex(version, tuple(entries), tuple(extensions))


def _offset_varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    value = byte & 127
    while byte & 128:
        at += 1
        byte = data[at]
        value = ((value + 1) << 7) + (byte & 127)
    return value, at + 1


_DEBUG_LINES = re.compile(
    rb"  ctime: \d+:\d+\n  mtime: \d+:\d+\n  dev: \d+\tino: \d+\n  uid: \d+\tgid: \d+\n"
    rb"  size: \d+\tflags: ([0-9a-f]+)\n"
)


def index_through_git(workspace: Path) -> tuple[IndexEntry, ...]:
    """The index as git sees it: for split and sparse ones, and to check ``parse_index`` against."""
    output = run_git(workspace, "ls-files", "--full-name", "-s", "-z", "--debug")
    entries: list[IndexEntry] = []
    at = 0
    while at < len(output):
        end = output.index(b"\0", at)
        head, path = output[at:end].split(b"\t", 1)
        mode, oid, stage = head.split()
        details = _DEBUG_LINES.match(output, end + 1)
        if details is None:
            raise AssertionError(f"ls-files --debug says {output[end : end + 200]!r}")
        bits = int(details.group(1), 16)
        flags = _flags(bits & 0xFFFF, bits >> 16)
        entries.append(IndexEntry(path, int(stage), int(mode, 8), oid.decode("ascii"), flags))
        at = details.end()
    return tuple(entries)


def read_index(workspace: Path, git_dir: Path, hash_size: int) -> tuple[IndexEntry, ...]:
    file = git_dir / "index"
    if not file.exists():
        return ()
    parsed = parse_index(file.read_bytes(), hash_size)
    if "link" in parsed.extensions or "sdir" in parsed.extensions:
        return index_through_git(workspace)
    return parsed.entries
