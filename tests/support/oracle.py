"""The oracle: everything about a workspace that a crash must not change, written down and comparable.

``fingerprint()`` looks at the workspace with its own eyes: it parses the index file itself and reads the worktree with
``lstat`` and ``open``. Git is asked only for what has no file of its own (which paths are ignored, where the git
directory is, per-worktree refs), and in a way that runs no filter, no hook and no monitor and writes nothing.

Part of the fingerprint: HEAD, the index with all its flags, the worktree with modes, types and empty directories,
the files of an unfinished operation, and nested repositories (each a fingerprint of its own).
Not part of it: stat data, ORIG_HEAD, reflogs, objects, and, unless asked for, ignored files.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

QUIET = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.untrackedCache=keep")

OPERATION_FILES = (
    "MERGE_HEAD",
    "MERGE_MSG",
    "MERGE_MODE",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "REBASE_HEAD",
    "AUTO_MERGE",
    "SQUASH_MSG",
)
OPERATION_DIRECTORIES = ("rebase-merge", "rebase-apply", "sequencer")
OPERATION_REFS = ("refs/bisect", "refs/rewritten")

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


@dataclass(frozen=True)
class FileEntry:
    """One thing in the worktree. ``content`` is the sha256 of a file's bytes, or a symlink's target."""

    kind: str
    mode: int
    content: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.mode:04o} {self.content[:16]}".rstrip()


@dataclass(frozen=True)
class Fingerprint:
    head: str
    commit: str | None
    index: tuple[IndexEntry, ...]
    files: Mapping[bytes, FileEntry]
    operation: Mapping[str, bytes]
    settings: Mapping[str, bytes]
    nested: Mapping[bytes, Fingerprint]
    #: Directories that hold nothing but ignored or disregarded files: they may be there or not.
    hollow: frozenset[bytes] = field(default=frozenset(), compare=False)

    def without(self, paths: Iterable[bytes]) -> Fingerprint:
        """The same, but looking away from these paths of the worktree and everything below them."""
        gone = {path.rstrip(b"/") for path in paths}
        if not gone:
            return self
        files = {path: entry for path, entry in self.files.items() if not _is_below(path, gone)}
        nested = {path: inner for path, inner in self.nested.items() if not _is_below(path, gone)}
        dropped = {*self.files, *self.nested} - {*files, *nested}
        hollow = set(self.hollow)
        for parent in {parent for path in dropped for parent in parents(path)}:
            if not any(other.startswith(parent + b"/") for other in (*files, *nested)):
                hollow.add(parent)
        return replace(self, files=files, nested=nested, hollow=frozenset(hollow))

    def diff(self, other: Fingerprint) -> list[str]:
        """What is different in ``other``, one readable line each; empty where both are the same."""
        lines: list[str] = []
        if self.head != other.head:
            lines.append(f"HEAD: {self.head} became {other.head}")
        if self.commit != other.commit:
            lines.append(f"commit: {self.commit} became {other.commit}")
        mine = {(entry.path, entry.stage): entry for entry in self.index}
        theirs = {(entry.path, entry.stage): entry for entry in other.index}
        lines += _compare("index", mine, theirs, lambda key: show(key[0]))
        loose = self.hollow | other.hollow
        lines += _compare("file", _solid(self.files, loose), _solid(other.files, loose), show)
        lines += _compare("operation", self.operation, other.operation, str)
        lines += _compare("setting", self.settings, other.settings, str)
        for path in sorted({*self.nested, *other.nested}):
            inner, outer = self.nested.get(path), other.nested.get(path)
            if inner is None or outer is None:
                lines.append(f"repository {show(path)}: {'appeared' if inner is None else 'is gone'}")
            else:
                lines += [f"repository {show(path)}: {line}" for line in inner.diff(outer)]
        return lines


def parents(path: bytes) -> Iterator[bytes]:
    """The directories above a path, nearest first, without the workspace itself."""
    while b"/" in path:
        path = path.rsplit(b"/", 1)[0]
        yield path


def _is_below(path: bytes, tops: Collection[bytes]) -> bool:
    return path in tops or any(parent in tops for parent in parents(path))


def _solid(files: Mapping[bytes, FileEntry], hollow: frozenset[bytes]) -> dict[bytes, FileEntry]:
    return {path: entry for path, entry in files.items() if path not in hollow}


def _compare(what: str, mine: Mapping[K, V], theirs: Mapping[K, V], name: Callable[[K], str]) -> Iterator[str]:
    for key in sorted({*mine, *theirs}, key=repr):
        if key not in theirs:
            yield f"{what} {name(key)}: {mine[key]} is gone"
        elif key not in mine:
            yield f"{what} {name(key)}: {theirs[key]} appeared"
        elif mine[key] != theirs[key]:
            yield f"{what} {name(key)}: {mine[key]} became {theirs[key]}"


@dataclass(frozen=True)
class _Ignored:
    """What git would not track here; a directory's name stands for everything below it."""

    files: frozenset[bytes]
    directories: frozenset[bytes]

    def covers(self, path: bytes) -> bool:
        return path in self.files or _is_below(path, self.directories)


def _ignored(workspace: Path) -> _Ignored:
    every = run_git(workspace, "ls-files", "--others", "--ignored", "--exclude-standard", "-z").split(b"\0")
    collapsed = run_git(workspace, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory", "-z")
    directories = {path for path in (*every, *collapsed.split(b"\0")) if path.endswith(b"/")}
    files = {path for path in every if path and not path.endswith(b"/")}
    return _Ignored(frozenset(files), frozenset(path.rstrip(b"/") for path in directories))


def is_repository(directory: bytes) -> bool:
    """Whether a directory below the workspace is a repository of its own: a submodule, a clone, another worktree."""
    dot_git = directory + b"/.git"
    try:
        mode = os.lstat(dot_git).st_mode
        if stat.S_ISREG(mode):
            with open(dot_git, "rb") as file:
                return file.read(8) == b"gitdir: "
        return stat.S_ISDIR(mode) and os.path.lexists(dot_git + b"/HEAD")
    except OSError:
        return False


def _read_entry(path: bytes, status: os.stat_result) -> FileEntry:
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if stat.S_ISLNK(status.st_mode):
        return FileEntry("symlink", 0o777, show(os.readlink(path)))
    if stat.S_ISDIR(status.st_mode):
        return FileEntry("directory", mode)
    if stat.S_ISFIFO(status.st_mode):
        return FileEntry("fifo", mode)
    if stat.S_ISSOCK(status.st_mode):
        return FileEntry("socket", mode)
    if not stat.S_ISREG(status.st_mode):
        return FileEntry("other", mode)
    with open(path, "rb") as file:
        return FileEntry("file", mode, hashlib.file_digest(file, "sha256").hexdigest())


def walk(root: bytes) -> Iterator[tuple[bytes, os.stat_result, bool]]:
    """Everything below ``root``: its relative path, its ``lstat`` and whether it is a repository of its own."""
    waiting = [b""]
    while waiting:
        above = waiting.pop()
        with os.scandir(os.path.join(root, above)) as children:
            names = sorted(child.name for child in children)
        for name in names:
            relative = above + b"/" + name if above else name
            if relative == b".git":
                continue
            path = os.path.join(root, relative)
            status = os.lstat(path)
            directory = stat.S_ISDIR(status.st_mode)
            repository = directory and is_repository(path)
            yield relative, status, repository
            if directory and not repository:
                waiting.append(relative)


class NotARepositoryError(AssertionError):
    """The workspace's own git directory is gone or damaged."""


def git_dir_of(workspace: Path) -> Path:
    """The git directory of the worktree whose top is ``workspace``, and of no other one around it."""
    answer = run_git(workspace, "rev-parse", "--absolute-git-dir", "--show-prefix", check=False)
    if not answer.endswith(b"\n\n"):
        raise NotARepositoryError(f"not the top of a worktree: {workspace}")
    return Path(os.fsdecode(answer[:-2]))


def _read_operation(workspace: Path, git_dir: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for file in (*(git_dir / name for name in OPERATION_FILES), *git_dir.glob("BISECT_*")):
        if file.is_file():
            found[file.name] = file.read_bytes()
    for name in OPERATION_DIRECTORIES:
        for file in (git_dir / name).rglob("*"):
            if file.is_file():
                found[str(file.relative_to(git_dir))] = file.read_bytes()
    references = run_git(workspace, "for-each-ref", "--format=%(refname) %(objectname)", *OPERATION_REFS)
    for line in references.decode("utf-8", "surrogateescape").splitlines():
        name, oid = line.rsplit(" ", 1)
        found[name] = oid.encode("ascii")
    return found


def _read_settings(workspace: Path, git_dir: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    pattern = r"^(core\.sparsecheckout.*|index\.sparse)$"
    for record in run_git(workspace, "config", "-z", "--get-regexp", pattern, check=False).split(b"\0"):
        if record:
            name, _, value = record.partition(b"\n")
            found[name.decode("utf-8")] = value
    sparse = git_dir / "info" / "sparse-checkout"
    if sparse.is_file():
        found["info/sparse-checkout"] = sparse.read_bytes()
    return found


def _read_head(workspace: Path, git_dir: Path) -> tuple[str, str | None]:
    head = git_dir / "HEAD"
    name = f"ref: {os.readlink(head)}" if head.is_symlink() else os.fsdecode(head.read_bytes()).rstrip("\n")
    commit = run_git(workspace, "rev-parse", "--verify", "-q", "HEAD^{commit}", check=False).decode("ascii").strip()
    return name, commit or None


def fingerprint(
    workspace: Path, *, ignore: Collection[bytes] = (b"active_state.json",), keep_ignored: bool = False
) -> Fingerprint:
    """Look at a workspace.

    ``ignore`` names paths that don't count (with what is below them); ``keep_ignored`` counts what git ignores as well.
    """
    git_dir = git_dir_of(workspace)
    hash_size = 32 if run_git(workspace, "rev-parse", "--show-object-format").strip() == b"sha256" else 20
    ignored = _ignored(workspace)
    files: dict[bytes, FileEntry] = {}
    nested: dict[bytes, Fingerprint] = {}
    directories: set[bytes] = set()
    occupied: set[bytes] = set()  # directories that hold something that counts
    shadowed: set[bytes] = set()  # directories that hold something that does not
    root = os.fsencode(workspace)
    for path, status, repository in walk(root):
        if _is_below(path, ignore):
            continue
        if stat.S_ISDIR(status.st_mode) and not repository:
            directories.add(path)
            files[path] = _read_entry(os.path.join(root, path), status)
            continue
        if not keep_ignored and ignored.covers(path):
            shadowed.update(parents(path))
            continue
        occupied.update(parents(path))
        if repository:
            try:
                nested[path] = fingerprint(Path(os.fsdecode(os.path.join(root, path))), ignore=ignore)
            except NotARepositoryError:
                files[path] = FileEntry("broken repository", 0)
        else:
            files[path] = _read_entry(os.path.join(root, path), status)
    for path in directories - occupied:
        if not keep_ignored and ignored.covers(path):
            del files[path]
            shadowed.update(parents(path))
    for path in (directories - occupied) & files.keys():
        if path not in shadowed:
            occupied.update(parents(path))  # an empty directory that counts, counts for those above it
    head, commit = _read_head(workspace, git_dir)
    return Fingerprint(
        head=head,
        commit=commit,
        index=tuple(sorted(read_index(workspace, git_dir, hash_size))),
        files=files,
        operation=_read_operation(workspace, git_dir),
        settings=_read_settings(workspace, git_dir),
        nested=nested,
        hollow=frozenset((shadowed & directories) - occupied),
    )


@dataclass(frozen=True)
class Identity:
    """What tells a file that was left alone from one that was written again with the same bytes."""

    inode: int
    mtime_ns: int
    size: int
    mode: int


def identities(workspace: Path, *, ignore: Collection[bytes] = (b"active_state.json",)) -> dict[bytes, Identity]:
    """Inode and times of everything in the worktree but directories, ignored files and all."""
    return {
        path: Identity(status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        for path, status, _ in walk(os.fsencode(workspace))
        if not stat.S_ISDIR(status.st_mode) and path not in ignore
    }
