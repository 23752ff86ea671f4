"""Files that git converts (filters, encodings, line endings): stored as git stores them, and byte for byte beside it.

Imported only where attributes or settings may convert a file.
"""

from __future__ import annotations

import os
import stat

from ..errors import GitError, MissingObject
from ..git.attributes import Conversions, IndexConversions, attributes_files, governed, only_in_index, quote_c
from ..git.entries import IndexEntry, list_index
from ..git.repository import is_attributes
from ..objects.reader import LARGE, ObjectReader
from ..objects.tree import EXECUTABLE, REGULAR, Leaf
from ..system.files import discard, make_directory, remove_tree, temporary_name
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.ownership import checkout_staging, quarantine
from .read import has_content, read_early, read_file, read_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..git.command import Oid
    from .record import SnapshotBuilder


class Unconverted(Record):
    """Files that were read, and that git still has to convert."""

    raw: dict[bytes, Leaf]
    """Path → the bytes on disk."""
    programs: dict[bytes, bytes | None]
    """Path → the name of its filter, of those that a program converts."""
    automatic: frozenset[bytes]
    """Those whose line ends git converts only where what is committed has none of Windows."""


def store_with_conversions(builder: SnapshotBuilder, paths: Sequence[bytes]) -> None:
    """Read changed and untracked files into the snapshot, those that git converts through git."""
    convert(builder, [read_unconverted(builder, paths)])


def read_unconverted(builder: SnapshotBuilder, paths: Sequence[bytes]) -> Unconverted:
    """Read changed and untracked files into the snapshot; returns those that git converts, for `convert`."""
    conversions = _conversions(builder)
    named = conversions.converting_attributes(list(paths))
    raw = {path: read_early(builder, path, at) for at, path in enumerate(read_files(builder, paths, named))}
    found = {path: leaf for path, leaf in raw.items() if leaf is not None}
    programs = {path: named[path].get(b"filter") for path in found if conversions.filter_reads(named[path])}
    usual = b"auto" if builder.repository.autocrlf else b""
    automatic = frozenset(path for path in found if named[path].get(b"text", usual) == b"auto")
    return Unconverted(found, programs, automatic)


def convert(builder: SnapshotBuilder, portions: Iterable[Unconverted]) -> None:
    """Store files that were read as git converts them.

    A filter may take all the time that is left: then their bytes are in the snapshot already.
    """
    for raw, programs, automatic in portions:
        builtin = {path: raw[path] for path in sorted(raw.keys() - programs.keys())}
        if builtin:
            _store_builtin(builder, builtin, automatic)
        if programs:
            # A filter may write objects of its own and refer to them (git-annex does): nothing of that is thrown away,
            # and the index that it may look at is git's own.
            files = {path: raw[path] for path in programs}
            _store_converted(builder, files, _hashed(builder, files, None, programs, automatic), None)


def _conversions(builder: SnapshotBuilder) -> Conversions:
    return Conversions(builder.repository, builder.env)


def _store_builtin(builder: SnapshotBuilder, files: Mapping[bytes, Leaf], automatic: frozenset[bytes]) -> None:
    """Let git convert files that need no program: its blobs go to a quarantine, and from there into the snapshot."""
    repository = builder.repository
    directory = quarantine(repository)
    make_directory(directory, top=repository.git_dir)
    env = {
        **builder.env,
        "GIT_OBJECT_DIRECTORY": os.fsdecode(directory),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(repository.objects),
    }
    converted = _hashed(builder, files, env, {}, automatic)
    _store_converted(builder, files, converted, env)
    remove_tree(directory)


def _hashed(
    builder: SnapshotBuilder,
    files: Mapping[bytes, Leaf],
    env: Mapping[str, str] | None,
    filters: Mapping[bytes, bytes | None],
    automatic: frozenset[bytes],
) -> dict[bytes, Oid]:
    """The oid of each file as `git add` would hash it with `env`: see `Conversions.hash_files`."""
    deadline = builder.options.deadline
    by_index = _governed_by_index(builder, files)
    found = _conversions(builder).hash_files([path for path in files if path not in by_index], env, deadline, filters)
    converted = [path for path in automatic & found.keys() if found[path] != files[path].oid]
    by_index |= _with_committed_line_ends(builder, converted)
    if by_index:
        # What git can't convert so is kept byte for byte.
        with suppress(GitError, OSError), _index_conversions(builder) as conversions:
            found.update(conversions.hash_files(sorted(by_index), env, deadline, filters))
    return found


def _governed_by_index(builder: SnapshotBuilder, paths: Iterable[bytes]) -> frozenset[bytes]:
    """Those of the paths of which a tracked .gitattributes file may speak that is not on the disk."""
    repository = builder.repository
    if not builder.tracked.attributes:
        return frozenset()
    return frozenset(governed(paths, only_in_index(repository, builder.tracked.order)))


def _index_conversions(builder: SnapshotBuilder) -> IndexConversions:
    repository = builder.repository
    return IndexConversions(repository, attributes_files(repository, builder.env), checkout_staging(repository))


def _with_committed_line_ends(builder: SnapshotBuilder, paths: Iterable[bytes]) -> frozenset[bytes]:
    """Those of the paths that the index has with line ends of Windows: git keeps these."""
    tracked = [path for path in paths if path in builder.tracked.paths]
    entries = [entry for entry in list_index(builder.repository.git, tracked, env=builder.env) if entry.stage == 0]
    oids = [entry.oid for entry in entries]
    infos = builder.reader.kinds(oids)
    small = [oid for oid, info in zip(oids, infos, strict=True) if info is not None and info[1] <= LARGE]
    try:
        read = zip(small, builder.reader.contents(small), strict=True)
        plain = {oid for oid, content in read if content is not None and b"\r\n" not in content[1]}
    except MissingObject:
        # Git ends at an object that it can't read.
        builder.reader.restart()
        return frozenset(tracked)
    return frozenset(entry.path for entry in entries if entry.oid not in plain)


def _store_converted(
    builder: SnapshotBuilder, files: Mapping[bytes, Leaf], converted: Mapping[bytes, Oid], env: Mapping[str, str] | None
) -> None:
    """Store files as git has converted them with `env`; the raw bytes, which `files` has, stay where they differ."""
    snapshot, repository = builder.snapshot, builder.repository
    with ObjectReader(repository.git, env) as reader:
        for path, raw in files.items():
            oid = converted.get(path)
            if oid != raw.oid:
                snapshot.raw[path] = (raw, "filter")
            if oid is None:
                snapshot.unconverted.append(path)
                continue
            if snapshot.staged.get(path) == (raw.mode, oid):
                # Same as in the index: an entry in `worktree` would only cost the index its stat data.
                continue
            if oid == raw.oid:
                snapshot.worktree[path] = raw
            else:
                content = reader.contents([oid])[0]
                if content is None:
                    raise MissingObject(oid)
                snapshot.worktree[path] = Leaf(raw.mode, builder.writer.add("blob", content[1]))


def store_staged_only(builder: SnapshotBuilder, staged_only: list[bytes]) -> None:
    """Keep the raw bytes of staged files, unchanged since, that git converts now or converted when they were staged."""
    named = _conversions(builder).converting_attributes(staged_only)
    candidates = {*named, *_with_other_attributes(builder, staged_only, named)}
    for path in sorted(candidates):
        staged = builder.snapshot.staged[path]
        if _file_size(builder, path) is None or staged is None:
            continue
        leaf = read_file(builder, path)
        if leaf is not None and leaf.oid != staged.oid:
            builder.snapshot.raw[path] = (leaf, "filter")


def keep_unlike_checkout(
    builder: SnapshotBuilder, paths: list[bytes], entries: Mapping[bytes, Leaf] | None = None
) -> None:
    """Keep files that git calls clean although a checkout would write other bytes (mixed line endings, encodings).

    `paths` are tracked and unchanged; `entries` maps them to their index entries (None: git is asked). Where a
    checkout writes the blob as it is, the size decides; else git is asked what it would write. Output of a filter
    program is not compared: to run it for every file would cost more than the save. Where the attributes changed since
    git wrote the file, it is kept as it is.
    """
    conversions = _conversions(builder)
    named = conversions.converting_attributes(paths)
    unlike = _with_other_attributes(builder, paths, named)
    named = {
        path: names for path, names in named.items() if path not in unlike and not conversions.filter_writes(names)
    }
    if not named and not unlike:
        return
    if entries is None:
        index = list_index(builder.repository.git, env=builder.env)
        entries = {entry.path: Leaf(entry.mode, entry.oid) for entry in index}
    _keep_written_otherwise(builder, unlike, entries)
    leaves = {path: leaf for path in named if (leaf := entries.get(path)) is not None and leaf.oid}
    oids = {path: leaf.oid for path, leaf in leaves.items() if leaf.mode in (REGULAR, EXECUTABLE)}
    suspects: dict[bytes, Oid] = {}
    for path, info in zip(oids, builder.reader.kinds([*oids.values()]), strict=True):
        size = _file_size(builder, path)
        if info is None or size is None or max(size, info[1]) > LARGE:
            continue
        if conversions.may_change_on_checkout(named[path]):
            suspects[path] = oids[path]
        elif size != info[1]:
            _keep_raw(builder, path)
    written = _checkout_oids(builder, suspects)
    object_format = builder.repository.object_format
    for path in suspects:
        if not has_content(os.path.join(builder.top, path), object_format, written.get(path, "")):
            _keep_raw(builder, path)


def _checkout_oids(builder: SnapshotBuilder, wanted: Mapping[bytes, Oid]) -> dict[bytes, Oid]:
    """For each path and its blob: the oid of what a checkout would write, where git can tell."""
    by_index = _governed_by_index(builder, wanted)
    found = _conversions(builder).checkout_oids({path: oid for path, oid in wanted.items() if path not in by_index})
    if by_index:
        with suppress(GitError, OSError), _index_conversions(builder) as conversions:
            found.update(conversions.checkout_oids({path: wanted[path] for path in sorted(by_index)}))
    return found


def _with_other_attributes(
    builder: SnapshotBuilder, paths: list[bytes], named: Mapping[bytes, dict[bytes, bytes]]
) -> set[bytes]:
    """Those of `paths` that are converted otherwise by the attributes of the index, of HEAD or of the WIP commit.

    `named` are the attributes of now. Git does not look again at a file whose stat data are those of the index, and it
    reads the index where a .gitattributes file is missing.
    """
    snapshot = builder.snapshot
    staged = [path for path in snapshot.staged if is_attributes(path)]
    changed = [path for path in snapshot.worktree if is_attributes(path)]
    if not staged and not changed and not any(map(is_attributes, snapshot.ignored)):
        return set()
    sources = [_conversions(builder).converting_attributes(paths, cached=True)]
    files = [*filter(is_attributes, builder.tracked.order), *staged]
    if staged:
        tree = None if snapshot.head is None else builder.reader.tree_of(snapshot.head)
        leaves = builder.trees.lookup(tree, dict.fromkeys(files))
        sources.append(_attributes_by(builder, paths, [IndexEntry(path, *leaf) for path, leaf in leaves.items()]))
    if any(snapshot.worktree[path] is None for path in changed):
        entries = list_index(builder.repository.git, files, env=builder.env)
        sources.append(_attributes_by(builder, paths, [entry for entry in entries if entry.path not in changed]))
    return {path for path in paths if any(source.get(path) != named.get(path) for source in sources)}


def _attributes_by(
    builder: SnapshotBuilder, paths: list[bytes], entries: Iterable[IndexEntry]
) -> dict[bytes, dict[bytes, bytes]]:
    """The converting attributes of `paths` by these .gitattributes files alone."""
    index = temporary_name(os.path.join(builder.repository.own, b"attributes-index"))
    conversions = Conversions(builder.repository, {"GIT_INDEX_FILE": os.fsdecode(index)})
    try:
        conversions.write_index(entries)
        return conversions.converting_attributes(paths, cached=True)
    finally:
        discard(index)


def _keep_written_otherwise(builder: SnapshotBuilder, paths: Iterable[bytes], entries: Mapping[bytes, Leaf]) -> None:
    """Keep files as they are. A large one whose size is that of its blob is taken for it, and not read."""
    for path in sorted(paths):
        leaf, size = entries.get(path), _file_size(builder, path)
        if leaf is None or not leaf.oid or size is None or leaf.mode not in (REGULAR, EXECUTABLE):
            continue
        info = builder.reader.kinds([leaf.oid])[0] if size > LARGE else None
        if info is not None and info[1] == size:
            builder.snapshot.raw[path] = (leaf, "clean")
        else:
            _keep_raw(builder, path)


def _keep_raw(builder: SnapshotBuilder, path: bytes) -> None:
    leaf = read_file(builder, path)
    if leaf is not None:
        builder.snapshot.raw[path] = (leaf, "clean")


def _file_size(builder: SnapshotBuilder, path: bytes) -> int | None:
    """The size of the regular file at `path`; None for anything else."""
    if not builder.is_reached(path.rpartition(b"/")[0]):
        return None
    try:
        info = os.lstat(os.path.join(builder.top, path))
    except OSError:
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else None


def _quoted(path: bytes) -> str:
    """A directory as GIT_ALTERNATE_OBJECT_DIRECTORIES wants it: quoted where it contains a colon."""
    return os.fsdecode(quote_c(path) if b":" in path or path.startswith(b'"') else path)
