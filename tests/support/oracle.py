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
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from tests.support.index_reader import IndexEntry, K, read_index, run_git, show

V = TypeVar("V")

OPERATION_FILES = (
    "MERGE_HEAD",
    "MERGE_MSG",
    "MERGE_MODE",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "REBASE_HEAD",
    "AUTO_MERGE",
    "SQUASH_MSG",
    "NOTES_MERGE_REF",
    "NOTES_MERGE_PARTIAL",
)

OPERATION_DIRECTORIES = ("rebase-merge", "rebase-apply", "sequencer", "NOTES_MERGE_WORKTREE")

OPERATION_REFS = ("refs/bisect", "refs/rewritten")


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
    return _describe(workspace)[0]


def _describe(workspace: Path) -> tuple[Path, int, str | None]:
    """The git directory, the number of bytes in an object id, and the commit that HEAD leads to."""
    questions = ("--absolute-git-dir", "--show-object-format", "--show-prefix", "HEAD^{commit}")
    # Where HEAD leads to no commit, git says the question again and fails.
    answer, _, commit = run_git(workspace, "rev-parse", *questions, check=False).removesuffix(b"\n").rpartition(b"\n")
    if not answer.endswith(b"\n"):
        raise NotARepositoryError(f"not the top of a worktree: {workspace}")
    git_dir, _, object_format = answer[:-1].rpartition(b"\n")
    found = None if commit == b"HEAD^{commit}" else commit.decode("ascii")
    return Path(os.fsdecode(git_dir)), 32 if object_format == b"sha256" else 20, found


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


def _read_head(git_dir: Path) -> str:
    head = git_dir / "HEAD"
    return f"ref: {os.readlink(head)}" if head.is_symlink() else os.fsdecode(head.read_bytes()).rstrip("\n")


def fingerprint(
    workspace: Path, *, ignore: Collection[bytes] = (b"active_state.json",), keep_ignored: bool = False
) -> Fingerprint:
    """Look at a workspace.

    ``ignore`` names paths that don't count (with what is below them); ``keep_ignored`` counts what git ignores as well.
    """
    git_dir, hash_size, commit = _describe(workspace)
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
    return Fingerprint(
        head=_read_head(git_dir),
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
