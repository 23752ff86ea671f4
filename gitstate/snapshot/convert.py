"""Files that git converts (filters, encodings, line endings): stored as git stores them, and byte for byte beside it.

Imported only where attributes or settings may convert a file.
"""

from __future__ import annotations

import os
import stat

from ..errors import MissingObject
from ..git.attributes import Conversions, quote_c
from ..git.entries import list_index
from ..objects.reader import LARGE, ObjectReader
from ..objects.tree import EXECUTABLE, REGULAR, Leaf
from ..system.files import make_directory, remove_tree
from ..system.stdlib import TYPE_CHECKING
from ..workspace.ownership import quarantine
from .read import has_content, read_file, read_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..git.command import Oid
    from .record import SnapshotBuilder


def store_with_conversions(builder: SnapshotBuilder, paths: Sequence[bytes]) -> None:
    """Read changed and untracked files into the snapshot, those that git converts through git."""
    converted = read_files(builder, paths, _conversions(builder).converting_attributes(list(paths)))
    if converted:
        _store_converted(builder, converted)


def _conversions(builder: SnapshotBuilder) -> Conversions:
    return Conversions(builder.repository, builder.env)


def _store_converted(builder: SnapshotBuilder, paths: list[bytes]) -> None:
    """Let git convert files into a quarantine, take the blobs from there, and keep the raw bytes where they differ."""
    snapshot, repository = builder.snapshot, builder.repository
    directory = quarantine(repository)
    make_directory(directory, top=repository.git_dir)
    env = {
        **builder.env,
        "GIT_OBJECT_DIRECTORY": os.fsdecode(directory),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(repository.objects),
    }
    converted = _conversions(builder).hash_files(paths, env, builder.options.deadline)
    with ObjectReader(repository.git, env) as reader:
        for path in paths:
            raw = read_file(builder, path)
            if raw is None:
                continue
            oid = converted.get(path)
            if oid != raw.oid:
                snapshot.raw[path] = (raw, "filter")
            if oid is None or snapshot.staged.get(path) == (raw.mode, oid):
                # Same as in the index: an entry in `worktree` would only cost the index its stat data.
                continue
            if oid == raw.oid:
                snapshot.worktree[path] = raw
            else:
                content = reader.contents([oid])[0]
                if content is None:
                    raise MissingObject(oid)
                snapshot.worktree[path] = Leaf(raw.mode, builder.writer.add("blob", content[1]))
    remove_tree(directory)


def store_staged_only(builder: SnapshotBuilder, staged_only: list[bytes]) -> None:
    """Keep the raw bytes of staged files, unchanged since, that git converts."""
    converted = _conversions(builder).converting_attributes(staged_only)
    reached = [path for path in converted if builder.is_reached(path.rpartition(b"/")[0])]
    _store_converted(builder, sorted(path for path in reached if os.path.isfile(os.path.join(builder.top, path))))


def keep_unlike_checkout(
    builder: SnapshotBuilder, paths: list[bytes], entries: Mapping[bytes, Leaf] | None = None
) -> None:
    """Keep files that git calls clean although a checkout would write other bytes (mixed line endings, encodings).

    `paths` are tracked and unchanged; `entries` maps them to their index entries (None: git is asked). Where a
    checkout writes the blob as it is, the size decides; else git is asked what it would write. Output of a filter
    program is not compared: to run it for every file would cost more than the save.
    """
    conversions = _conversions(builder)
    named = {path: names for path, names in conversions.converting_attributes(paths).items() if b"filter" not in names}
    if not named:
        return
    if entries is None:
        index = list_index(builder.repository.git, env=builder.env)
        entries = {entry.path: Leaf(entry.mode, entry.oid) for entry in index}
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
    written = conversions.checkout_oids(suspects)
    object_format = builder.repository.object_format
    for path in suspects:
        if not has_content(os.path.join(builder.top, path), object_format, written.get(path, "")):
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
