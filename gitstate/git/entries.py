"""Entries of the index, of trees, of diffs and of reflogs as git lists them: the only reader of these formats.

`man git-ls-files`, `man git-ls-tree` and `man git-diff-tree` (raw output) describe them; these are read with `-z`.
"""

from __future__ import annotations

import os

from ..errors import GitError, MissingObject
from ..system.stdlib import TYPE_CHECKING, Record
from .command import Oid, is_oid, split_nul

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ..system.child import Child
    from .command import Git
    from .repository import Repository

#: So many paths fit on a command line whatever their length. Git compares each entry with all of them.
_PATHS_AT_ONCE = 500


class IndexEntry(Record):
    """One entry of the index."""

    path: bytes
    mode: int
    oid: Oid
    stage: int = 0
    """0; 1 (base), 2 (ours) or 3 (theirs) where the path is unmerged."""
    tag: str = ""
    """`H`, `S` (skip-worktree) or `M` (unmerged), in lower case where it is assume-unchanged; empty: not asked for."""

    @classmethod
    def parse(cls, line: bytes) -> IndexEntry:
        """A line of `ls-files -s`, or of `ls-files -s -v`, without its NUL. Raises ValueError."""
        info, tab, path = line.partition(b"\t")
        fields = info.split(b" ")
        tag = fields.pop(0).decode("ascii") if len(fields) == 4 else ""
        mode, oid, stage = fields
        if not tab or not path or len(tag) > 1 or stage not in (b"0", b"1", b"2", b"3"):
            raise ValueError(f"no index entry: {line[:80]!r}")
        return cls(path, _mode(mode), _oid(oid), int(stage), tag)

    def info_line(self) -> bytes:
        """The entry as `update-index -z --index-info` reads it, with its NUL."""
        return b"%o %s %d\t%s\0" % (self.mode, self.oid.encode("ascii"), self.stage, self.path)


class TreeEntry(Record):
    """What a tree holds at one path: a file, symlink or gitlink."""

    path: bytes
    mode: int
    oid: Oid

    @classmethod
    def parse(cls, line: bytes) -> TreeEntry:
        """A line of `ls-tree` without its NUL. Raises ValueError."""
        info, tab, path = line.partition(b"\t")
        mode, kind, oid = info.split(b" ")
        if not tab or not path or kind not in (b"blob", b"tree", b"commit"):
            raise ValueError(f"no tree entry: {line[:80]!r}")
        return cls(path, _mode(mode), _oid(oid))


class DiffEntry(Record):
    """One path in which two trees differ. Mode 0 and a zero oid: that side lacks the path."""

    path: bytes
    status: str
    """`A`, `D`, `M` or `T` (`man git-diff-tree`)."""
    old_mode: int
    old_oid: Oid
    new_mode: int
    new_oid: Oid

    @classmethod
    def parse(cls, line: bytes, path: bytes) -> DiffEntry:
        """The two fields of a raw diff without their NULs. Raises ValueError."""
        old_mode, new_mode, old_oid, new_oid, status = line.split(b" ")
        if not path or old_mode[:1] != b":" or len(status) != 1:
            raise ValueError(f"no raw diff: {line[:80]!r}")
        modes = _mode(old_mode[1:]), _mode(new_mode)
        return cls(path, status.decode("ascii"), modes[0], _oid(old_oid), modes[1], _oid(new_oid))


def list_index(
    git: Git,
    paths: Sequence[bytes] | None = None,
    *,
    tags: bool = False,
    sparse: bool = False,
    env: Mapping[str, str] | None = None,
) -> list[IndexEntry]:
    """The index entries of `paths`, of all where it is None, sorted by path and stage.

    With `tags` each has its tag. With `sparse` a directory outside a sparse index is one entry. `env` is added to
    the environment, as which index to read. Raises GitError.
    """
    command: list[str | bytes] = ["ls-files", "-z", "-s", *(["-v"] if tags else []), *(["--sparse"] if sparse else [])]
    if paths is not None and len(paths) <= _PATHS_AT_ONCE:
        lines = split_nul(git.run(*command, "--", *paths, env=env)) if paths else []
    else:
        lines = split_nul(git.run(*command, env=env))
        if paths is not None:
            lines = list(_among(lines, {*paths}))
    return [IndexEntry.parse(line) for line in lines]


def _among(lines: Iterable[bytes], wanted: Collection[bytes]) -> Iterator[bytes]:
    """The lines of the entries that are one of the `wanted` paths, or below one."""
    for line in lines:
        path = line.partition(b"\t")[2]
        while path and path not in wanted:
            path = path.rpartition(b"/")[0]
        if path:
            yield line


def hidden_tags(git: Git, index: bytes) -> dict[bytes, str]:
    """The tags of the entries that the index file `index` hides from git: `S`, `s` or `h`, by path. Raises GitError."""
    env = {"GIT_INDEX_FILE": os.fsdecode(index)}
    listed = split_nul(git.run("ls-files", "-z", "-v", env=env))
    return {line[2:]: line[:1].decode("ascii") for line in listed if line[:1] in b"Ssh"}


def list_unmerged(git: Git) -> list[IndexEntry]:
    """The unmerged entries of the index: up to three for a path."""
    return [IndexEntry.parse(line) for line in split_nul(git.run("ls-files", "-z", "-u"))]


def list_tree(git: Git, tree: Oid) -> list[TreeEntry]:
    """All files, symlinks and gitlinks in and below a tree, sorted by path."""
    return [TreeEntry.parse(line) for line in split_nul(git.run("ls-tree", "-r", "-z", "--full-tree", tree))]


def list_tree_paths(git: Git, tree: Oid, *below: bytes) -> list[bytes]:
    """The paths that `list_tree` would list; with `below` only these, and what is below them."""
    # Without paths `--` says nothing.
    return split_nul(git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", tree, "--", *below))


def diff_trees(repository: Repository, old: Oid, new: Oid) -> list[DiffEntry]:
    """In which paths two trees differ, sorted; a torn index does not matter."""
    fields = split_nul(_diff_tree(repository, old, new))
    return [DiffEntry.parse(*pair) for pair in zip(fields[::2], fields[1::2], strict=True)]


def start_diff_of_pairs(repository: Repository) -> Child:
    """A git that gets ready to compare the pairs of trees that `give_pairs` will name."""
    return _start_diff_tree(repository, "--stdin")


def give_pairs(started: Child, pairs: Sequence[tuple[Oid, Oid]]) -> None:
    """Let git compare them meanwhile. No more pairs than fit into a pipe: a stack has few saves."""
    started.end_input(_lines_of(pairs))


def diff_pairs_of_trees(
    repository: Repository, pairs: Sequence[tuple[Oid, Oid]], started: Child | None = None
) -> list[list[DiffEntry]]:
    """`diff_trees` of each pair, by one git: that which was started for them and knows them.

    Raises GitError, MissingObject.
    """
    if not pairs:
        return []
    if started is None:
        started = start_diff_of_pairs(repository)
        give_pairs(started, pairs)
    found: list[list[DiffEntry]] = []
    head = b""
    for field in split_nul(repository.git.finish(started) + b"\0"):
        if head.startswith(b":"):
            found[-1].append(DiffEntry.parse(head, field))
            head = b""
            continue
        head = field
        while head and not head.startswith(b":"):
            # Before the changes of each pair stands a line that names it.
            line, _, head = head.partition(b"\n")
            _check_pair(line, pairs, len(found))
            found.append([])
    _check_pair(b"", pairs, len(found))
    return found


def _check_pair(line: bytes, pairs: Sequence[tuple[Oid, Oid]], number: int) -> None:
    """See that a line of `diff-tree --stdin` names the pair of this number; an empty one, that there is no such pair.

    Git passes over a pair with a tree that it can't read, and ends with 0. Raises MissingObject.
    """
    if line != _lines_of(pairs[number : number + 1]).strip():
        raise MissingObject(" or ".join(pairs[number]), "is missing or no tree")


#: So many pairs of ids fit into a pipe while git is not reading.
_PAIRS_AT_ONCE = 400


def each_difference(
    repository: Repository, pairs: Sequence[tuple[Oid, Oid]], size: int = 1 << 18
) -> Iterator[tuple[int, DiffEntry]]:
    """What `diff_pairs_of_trees` finds, each entry with the number of its pair, while git still compares: one git for
    hundreds of pairs, and never all of its answer in memory, which is read `size` bytes at a time. Raises GitError,
    MissingObject.
    """
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = pairs[start : start + _PAIRS_AT_ONCE]
        process = _start_diff_tree(repository, "--stdin", quiet=True)
        try:
            process.end_input(_lines_of(some))
            number, head, rest = start - 1, b"", b""
            data = b"\0"
            while data:
                data = process.stdout.read(size)
                # The lines of pairs without a change may be the last ones.
                *fields, rest = (rest + (data or b"\0")).split(b"\0")
                for field in fields:
                    if head:
                        yield number, DiffEntry.parse(head, field)
                        head = b""
                        continue
                    head = field
                    while head and not head.startswith(b":"):
                        line, _, head = head.partition(b"\n")
                        number += 1
                        _check_pair(line, some, number - start)
        except BaseException:
            # It would wait for a reader.
            process.kill()
            raise
        finally:
            status = process.wait()
        if status:
            raise GitError(["diff-tree"], status, b"")
        _check_pair(b"", some, number + 1 - start)


def differing_paths(repository: Repository, old: Oid | None, new: Oid) -> list[bytes]:
    """The paths that `diff_trees` would name; all of `new` where `old` is None (the empty tree)."""
    if old == new:
        return []
    if old is None:
        return list_tree_paths(repository.git, new)
    return split_nul(_diff_tree(repository, "--name-only", old, new))


def _lines_of(pairs: Sequence[tuple[Oid, Oid]]) -> bytes:
    return b"".join(b"%s %s\n" % (old.encode("ascii"), new.encode("ascii")) for old, new in pairs)


def _diff_tree(repository: Repository, *args: str) -> bytes:
    return repository.git.finish(_start_diff_tree(repository, *args))


def _start_diff_tree(repository: Repository, *args: str, quiet: bool = False) -> Child:
    # Git reads the index before it compares two trees, and fails where the index is torn: it gets none to read.
    env = {"GIT_INDEX_FILE": os.fsdecode(os.path.join(repository.own, b"no-index"))}
    options = ("-r", "-z", "--no-renames", "--ignore-submodules=none")
    return repository.git.start("diff-tree", *options, *args, env=env, quiet=quiet)


def _mode(octal: bytes) -> int:
    if len(octal) != 6 or not octal.isdigit():
        raise ValueError(f"no mode: {octal[:20]!r}")
    return int(octal, 8)


def _oid(word: bytes) -> Oid:
    oid = word.decode("ascii")
    if not is_oid(oid):
        raise ValueError(f"no object id: {oid[:80]!r}")
    return oid


#: So many entries of a reflog are asked for at once.
_LATEST = 50


def latest_values(git: Git, ref: str) -> list[Oid]:
    """The last values of a ref, the newest first, by its reflog where only git can read that. Raises GitError."""
    asked = [f"{ref}@{{{number}}}" for number in range(_LATEST)]
    # Git ends at the first one that there is not, and has printed those before it.
    lines = git.run("rev-parse", *asked, ok_codes=range(256)).decode("ascii", "replace").split("\n")
    return [line for line in lines if is_oid(line)]
