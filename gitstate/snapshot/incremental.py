"""A snapshot from an earlier one and the paths that changed since: its cost follows the changes, not the tree.

For a keeper that watches a worktree while an agent works. It is possible only while everything else is the same: HEAD,
index file, settings, no unfinished operation, no nested repository. Otherwise `take_since` returns None, and the caller
takes a full snapshot.
"""

from __future__ import annotations

import os
import stat

from ..format.manifest import LeftOut
from ..git import refs
from ..git.command import Oid, object_id
from ..git.gitdir import operation_under_way
from ..git.index import identify_index_at
from ..git.repository import Repository, is_attributes, read_head
from ..git.status import ignored_among, staged_entries, start_staged
from ..objects.reader import commit_head
from ..objects.tree import DIRECTORY, EXECUTABLE, GITLINK, REGULAR, SYMLINK, Leaf, is_safe_path, parents_with_top
from ..system.files import open_at_once
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .gitdir import settings_identity, store_index, store_sparse
from .read import has_content, take_older
from .record import IGNORED_LISTED, Growth, ScanFacts, Snapshot, SnapshotBuilder, TrackedPaths
from .snapshot import LISTED, WALKED, most_precious_first, store_files, store_in_order
from .tracked import newest_of
from .walk import WalkResult, walk, without_ignored

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")


#: With more changed paths than this, a full snapshot is as fast.
_MOST = 5_000
#: Files whose content decides how git treats other files.
_DECIDING = (b".gitattributes", b".gitignore", b".gitmodules")


class Baseline(Record):
    """An earlier snapshot, and what may have changed since."""

    snapshot: Snapshot
    archive: Oid
    """The archive commit that keeps the objects of the snapshot alive."""
    touched: frozenset[bytes]
    """Paths that may have changed. A directory, even one that is gone, stands for everything below it."""


def take_since(
    baseline: Baseline, builder: SnapshotBuilder, meanwhile: Callable[[], None] = lambda: None
) -> Snapshot | None:
    """The snapshot of now, by a new `builder`, as for `take_snapshot`; None where the baseline does not allow it.

    `meanwhile` is called while git starts: all that the snapshot relies on was there before. Raises GitError, OSError.
    """
    earlier, touched = baseline.snapshot, baseline.touched
    scan, options, reader = earlier.scan, builder.options, builder.reader
    if scan is None or options.include_ignored or options.include_paths:
        return None
    if not _is_valid(baseline, scan, builder.repository, builder.index_path):
        return None
    tracked = sorted({path for top in touched for path in scan.tracked.at_or_below(top)})
    if len(tracked) > _MOST:
        return None
    builder.tracked = scan.tracked
    reader.foresee_contents([earlier.head] if earlier.head is not None else [])
    _carry_over(builder.snapshot, earlier, touched)
    found = _walk_touched(builder, touched)
    if found is None:
        return None
    index: dict[bytes, Leaf] = {}

    def look_at_index() -> None:
        meanwhile()
        store_index(builder, has_hidden=False)
        index.update(_index_entries(builder, tracked))

    plain, ignored = without_ignored(builder, found, look_at_index, options.deadline.part(LISTED))
    builder.index_modes = {path: leaf.mode for path, leaf in index.items()}
    # An entry is missing where its staged blob was unreadable, and the save skipped it.
    if len(index) != len(tracked) or any(leaf.mode == GITLINK for leaf in index.values()) or builder.snapshot.nested:
        return None
    builder.snapshot.ignored = list(dict.fromkeys((*builder.snapshot.ignored, *ignored)))[:IGNORED_LISTED]
    # Each is read once: what turns out to be its index entry is dropped. But git converts no file for nothing, and what
    # has not changed is refused by nobody.
    looks_first = builder.may_convert() or options.room is not None
    changed = [
        path
        for path in tracked
        if not ((looks_first or _may_be_refused(builder, path)) and _is_unchanged(builder, path, index[path]))
    ]
    changed, large = most_precious_first(builder, changed)
    plain, more = most_precious_first(builder, plain, found.untracked)
    store_in_order(builder, changed, plain)
    store_files(builder, [*large, *more])
    take_older(builder, earlier)
    _drop_unchanged(builder, index)
    if scan.tracked.are_few and builder.may_convert():
        from .convert import keep_unlike_checkout

        known = builder.snapshot.worktree.keys() | builder.snapshot.raw.keys()
        keep_unlike_checkout(builder, [path for path in tracked if path not in known], index)
    _note_directories(builder, touched)
    store_sparse(builder)
    return builder.snapshot


#: No more paths than these are taken without a look at the tree, the newest ones.
_ALONE = 1_000
#: Git tells what is staged within so many seconds.
_STAGED = 2.0
NOT_LOOKED = "the worktree was not looked at as a whole yet: only what changed since the run began is saved"


def take_touched(builder: SnapshotBuilder, meanwhile: Callable[[], None] = lambda: None) -> Snapshot | None:
    """The snapshot of `options.touched` alone, as one that names what it lacks; None where that is not possible.

    For an early save before the first look at a large tree, which takes a second and more. Arguments as for
    `take_since`. Raises GitError, OSError.
    """
    repository, reader, frozen_index, options = builder.repository, builder.reader, builder.index_path, builder.options
    head_ref, head = _head(repository)
    commit = None if head is None else reader.commit(head)
    if head is None or commit is None:
        return None
    asked = start_staged(repository, builder.env, head)
    earlier, touched = Snapshot(), list(options.touched - {options.state_file})
    if len(touched) > _ALONE:
        touched = newest_of(touched, repository.toplevel, _ALONE)
    # On a large index git needs as long as this does.
    tree = commit_head(commit).tree
    try:
        builder.trees.lookup(tree, touched)
    except BaseException:
        asked.communicate()
        raise
    staged = staged_entries(repository, asked, _STAGED)
    if staged is None or _may_have_more_flags(frozen_index):
        return None
    # Of a path that is staged as deleted the file may be there all the same.
    touched = [*dict.fromkeys((*touched, *staged))]
    earlier.head_ref, earlier.head, earlier.index_file = head_ref, head, identify_index_at(frozen_index)
    earlier.staged = {path: None if entry is None else Leaf(*entry) for path, entry in staged.items()}
    attributes = {os.path.join(above, b".gitattributes") for path in touched for above in parents_with_top(path)}
    in_head = builder.trees.lookup(tree, dict.fromkeys((*touched, *attributes)))
    if any(
        path in in_head and in_head[path].mode == DIRECTORY and not _is_directory(repository, path) for path in touched
    ):
        # It was moved as a whole: no event names what was in it.
        return None
    # What git keeps below a directory, or in a submodule, is known after a look at the tree.
    alone = frozenset(path for path in touched if path not in in_head or in_head[path].mode not in (DIRECTORY, GITLINK))
    entries = {path: leaf for path, leaf in in_head.items() if path in alone} | earlier.staged
    order = sorted(path for path, leaf in entries.items() if leaf is not None)
    converts = any(name in in_head or os.path.lexists(os.path.join(repository.toplevel, name)) for name in attributes)
    tracked = TrackedPaths(set(order), order, converts or any(map(is_attributes, staged)))
    earlier.scan = ScanFacts(tracked, True, settings_identity(repository))
    snapshot = take_since(Baseline(earlier, "", alone), builder, meanwhile)
    if snapshot is not None:
        # Nobody may take it for more than it is.
        snapshot.scan, snapshot.index_is_plain = None, False
        snapshot.left_out.insert(0, LeftOut(b"", NOT_LOOKED, True))
    return snapshot


def _may_have_more_flags(index: bytes) -> bool:
    """Whether an index may have paths that are to be added, or that are skipped in the worktree.

    Git marks it so by version 3; in version 4 any entry may have these flags (`man 5 gitformat-index`).
    """
    with open(index, "rb", opener=open_at_once) as file:
        return file.read(8)[4:] != b"\0\0\0\2"


def _is_directory(repository: Repository, path: bytes) -> bool:
    with suppress(OSError):
        return stat.S_ISDIR(os.lstat(os.path.join(repository.toplevel, path)).st_mode)
    return False


def allows(baseline: Baseline, repository: Repository) -> bool:
    """Whether a snapshot of now could be taken from the baseline, without a look at the whole tree."""
    scan, index = baseline.snapshot.scan, os.path.join(repository.git_dir, b"index")
    return scan is not None and _is_valid(baseline, scan, repository, index)


def _is_valid(baseline: Baseline, scan: ScanFacts, repository: Repository, frozen_index: bytes) -> bool:
    """Whether everything but the touched paths is as it was at the baseline."""
    earlier, touched = baseline.snapshot, baseline.touched
    if len(touched) > _MOST or any(path.rpartition(b"/")[2] in _DECIDING for path in touched):
        return False
    unusual = earlier.operation or earlier.nested or earlier.absent or earlier.shared_index
    if unusual or not scan.plain or repository.is_true("core.sparsecheckout"):
        return False
    if operation_under_way(repository.git_dir) is not None:
        return False
    return (
        scan.settings == settings_identity(repository)
        and earlier.index_file == identify_index_at(frozen_index)
        and (earlier.head_ref, earlier.head) == _head(repository)
    )


def _head(repository: Repository) -> tuple[str | None, Oid | None]:
    """The branch that HEAD is on, and its commit."""
    ref = read_head(repository.git_dir)
    if ref is None:
        with open(os.path.join(repository.git_dir, b"HEAD"), "rb", opener=open_at_once) as file:
            return None, file.read(256).strip().decode("ascii", "replace")
    return ref, refs.read_refs(repository, [ref]).get(ref)


def _carry_over(snapshot: Snapshot, earlier: Snapshot, touched: frozenset[bytes]) -> None:
    """Copy from the earlier snapshot what is not touched."""
    snapshot.head_ref, snapshot.head, snapshot.scan = earlier.head_ref, earlier.head, earlier.scan
    snapshot.staged, snapshot.intent_to_add = earlier.staged, earlier.intent_to_add
    snapshot.worktree = _untouched(earlier.worktree, touched)
    snapshot.modes = _untouched(earlier.modes, touched)
    snapshot.raw = _untouched(earlier.raw, touched)
    snapshot.directories = _untouched(earlier.directories, touched)
    snapshot.special = _untouched(earlier.special, touched)
    snapshot.unconverted = [path for path in earlier.unconverted if not _is_touched(path, touched)]
    snapshot.left_out = [item for item in earlier.left_out if not _is_touched(item.path, touched)]
    snapshot.ignored = [path for path in earlier.ignored if not _is_touched(path.removesuffix(b"/"), touched)]


def _index_entries(builder: SnapshotBuilder, tracked: list[bytes]) -> dict[bytes, Leaf]:
    """Path → index entry: what is staged, else what HEAD's tree has there."""
    snapshot = builder.snapshot
    tree = None
    if snapshot.head is not None:
        commit = builder.reader.commit(snapshot.head)
        tree = None if commit is None else commit_head(commit).tree
    in_head = builder.trees.lookup(tree, tracked)
    added = set(snapshot.intent_to_add)
    entries: dict[bytes, Leaf] = {}
    for path in tracked:
        leaf = snapshot.staged.get(path) or in_head.get(path)
        if leaf is not None and leaf.mode != DIRECTORY:
            entries[path] = leaf
        elif path in added:
            entries[path] = Leaf(REGULAR, "")
    return entries


def _walk_touched(builder: SnapshotBuilder, touched: frozenset[bytes]) -> WalkResult | None:
    """What is untracked at and below the touched paths; None where only a full scan can tell (repositories)."""
    untracked: dict[bytes, None] = {}
    special: dict[bytes, None] = {}
    tracked = builder.tracked
    for path in sorted(touched):
        directory, _, name = path.rpartition(b"/")
        if path == builder.options.state_file or _is_touched(directory, touched) or not builder.is_reached(directory):
            continue
        full = os.path.join(builder.top, path)
        try:
            info = os.lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            return None
        if name == b".git":
            return None
        if stat.S_ISDIR(info.st_mode):
            if path in tracked.paths:
                return None
            if not tracked.has_below(path):
                untracked[path + b"/"] = None
                continue
            found = walk(builder, [full], builder.options.deadline.part(WALKED))
            if found.replaced:
                return None
            untracked.update(dict.fromkeys(found.untracked))
            special.update(dict.fromkeys(found.special))
        elif path in tracked.paths:
            continue
        elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            untracked[path] = None
        else:
            special[path] = None
    return WalkResult([*untracked], [*special], [])


def _may_be_refused(builder: SnapshotBuilder, path: bytes) -> bool:
    """Whether a tracked file may not be taken for its name or its size (`SnapshotOptions`)."""
    if not is_safe_path(path):
        return True
    with suppress(OSError):
        return os.lstat(os.path.join(builder.top, path)).st_size > Growth.FREE
    return False


def _is_unchanged(builder: SnapshotBuilder, path: bytes, leaf: Leaf) -> bool:
    """Whether the file at a tracked path is its index entry; notes permissions that git does not store."""
    full = os.path.join(builder.top, path)
    object_format = builder.repository.object_format
    if builder.end.passed():
        return False
    try:
        info = os.lstat(full)
        if not builder.is_reached(path.rpartition(b"/")[0]):
            return False
        if stat.S_ISLNK(info.st_mode):
            return leaf.mode == SYMLINK and object_id(object_format, "blob", os.readlink(full)) == leaf.oid
        if not stat.S_ISREG(info.st_mode) or leaf.mode not in (REGULAR, EXECUTABLE):
            return False
        if not has_content(full, object_format, leaf.oid):
            return False
    except OSError:
        return False
    permissions = builder.permissions(path, info.st_mode)
    mode = EXECUTABLE if permissions & 0o100 else REGULAR
    if builder.filemode and mode != leaf.mode:
        return False
    if _notes_modes(builder) and permissions not in (0o644, 0o755):
        builder.snapshot.modes[path] = permissions
    return True


def _notes_modes(builder: SnapshotBuilder) -> bool:
    """Whether permissions that git does not store are noted for unchanged files."""
    return builder.tracked.are_few and builder.filemode


def _drop_unchanged(builder: SnapshotBuilder, index: dict[bytes, Leaf]) -> None:
    """Drop files that turned out to be their index entry, as they are or after git converted them."""
    snapshot = builder.snapshot
    dropped: set[Oid] = set()
    for path, leaf in index.items():
        if path in snapshot.worktree and snapshot.worktree[path] == leaf:
            del snapshot.worktree[path]
            if path not in snapshot.staged:
                snapshot.raw.pop(path, None)
            if not _notes_modes(builder):
                snapshot.modes.pop(path, None)
            dropped.add(leaf.oid)
        elif leaf.mode == SYMLINK and snapshot.raw.get(path) == (Leaf(REGULAR, leaf.oid), "symlink"):
            del snapshot.raw[path]
    if dropped:
        # Another file may have the same bytes.
        leaves = [*snapshot.worktree.values(), *(leaf for leaf, _ in snapshot.raw.values())]
        builder.writer.forget(dropped - {leaf.oid for leaf in leaves if leaf is not None})


def _note_directories(builder: SnapshotBuilder, touched: frozenset[bytes]) -> None:
    """Note empty directories and unusual permissions, for the directories whose entries may have changed."""
    snapshot, tracked = builder.snapshot, builder.tracked
    parents: dict[bytes, None] = {}
    for path in touched:
        while path:
            parents[path] = None
            path = path.rpartition(b"/")[0]
    holding: set[bytes] = set()
    filled: set[bytes] = set()
    for path, leaf in snapshot.worktree.items():
        if leaf is not None:
            above = filled if path in tracked.paths else holding
            while (path := path.rpartition(b"/")[0]) and path not in above:
                above.add(path)
    ignored = None
    for path in parents:
        full = os.path.join(builder.top, path)
        mode = _permissions(builder, path, full) if builder.is_reached(path) else None
        if mode is None:
            snapshot.directories.pop(path, None)
            continue
        if tracked.has_below(path):
            is_there = path in filled or path in holding
            is_noted = (tracked.are_few and mode != 0o755) or (not is_there and _is_empty(full))
        elif path in holding:
            # What is in it is not ignored, so neither is it.
            is_noted = mode != 0o755
        else:
            if ignored is None:
                others = [other for other in parents if not (other in holding or tracked.has_below(other))]
                ignored = ignored_among(builder.repository, [other for other in others if builder.is_reached(other)])
            is_noted = path not in ignored
        if is_noted:
            snapshot.directories[path] = mode
        else:
            snapshot.directories.pop(path, None)


def _permissions(builder: SnapshotBuilder, path: bytes, full: bytes) -> int | None:
    """The permissions of the directory at an absolute path; None where it is gone."""
    try:
        return builder.permissions(path, os.lstat(full).st_mode)
    except FileNotFoundError:
        return None


def _is_empty(full: bytes) -> bool:
    try:
        return not os.listdir(full)
    except OSError:
        # Gone, or unreadable: the walk lists that as skipped.
        return False


def _is_touched(path: bytes, touched: frozenset[bytes]) -> bool:
    """Whether a path, or a directory above it, was touched."""
    while path:
        if path in touched:
            return True
        path = path.rpartition(b"/")[0]
    return False


def _untouched(values: dict[bytes, T], touched: frozenset[bytes]) -> dict[bytes, T]:
    """The values of paths that were not touched."""
    return {path: value for path, value in values.items() if not _is_touched(path, touched)}
