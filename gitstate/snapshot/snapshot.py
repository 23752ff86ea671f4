"""Disk → objects: one worktree, its index and its unfinished operation. Writes no ref and no file of the worktree.

`git status` reports changed tracked files while the walk finds untracked ones; only what changed is read. This module
has the order of the steps, the other modules of the package have the steps.
"""

from __future__ import annotations

import os

from ..git.repository import folds_case
from ..git.status import left_out_ignores, query_status
from ..objects.tree import GITLINK
from ..system.stdlib import TYPE_CHECKING
from .gitdir import settings_identity, store_index, store_operation, store_sparse
from .read import read_files, take_older
from .record import IGNORED_LISTED, ScanFacts, SnapshotBuilder
from .tracked import add_submodule, read_listing, read_status
from .walk import CROWD, add_touched, end_asking, is_nested, start_asking, walk, without_ignored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..git.status import StatusQuery
    from ..system.child import Child
    from .record import Snapshot
    from .walk import WalkResult

#: Under a deadline: the parts of its time after which no more directories are walked, looked into for untracked files,
#: or files sorted. What is known by then is read in what is left.
WALKED, LISTED, _SORTED = 0.4, 0.65, 0.75
#: Larger files, in bytes, come last.
_SMALL = 4 << 20


def take_snapshot(builder: SnapshotBuilder, query: StatusQuery | None = None) -> Snapshot:
    """Take a snapshot of a whole worktree, by a new `builder`; its objects go to the builder's writer.

    The index of the builder is a hard link to git's (or a path where nothing is, where there is no index): git replaces
    the index by rename, so every step reads the same index, with the time stamp that racy entries need. `query` is
    the answer to `query_status` for the same index, where the caller has asked already.

    Raises GitError, OSError; a single bad file is skipped instead.
    """
    repository, options = builder.repository, builder.options
    snapshot, deadline = builder.snapshot, options.deadline
    query = query or query_status(repository, builder.index_path)
    hidden = [] if options.tracked is not None else read_listing(builder, query.listing)
    builder.tracked = options.tracked or builder.tracked
    builder.left_out_ignores = left_out_ignores(repository, hidden)
    store_index(builder, has_hidden=bool(hidden))
    settings = settings_identity(repository)
    found = walk(builder, [builder.top], deadline.part(WALKED))
    if builder.unread:
        add_touched(builder, found.untracked)
    # While `git status` looks, the next gits start.
    asking = None if found.replaced else start_asking(builder, found)
    builder.reader.start()
    changed, staged_only = _read_changes(builder, query, found, asking)
    changed, large = most_precious_first(builder, changed)
    builder.note_attributes(found.untracked)
    # Files are read while `git check-ignore` starts, unless all must be converted together.
    early = [] if builder.may_convert() else changed
    plain, ignored = without_ignored(
        builder, found, lambda: store_in_order(builder, early, []), deadline.part(LISTED), asking
    )
    snapshot.ignored = ignored[:IGNORED_LISTED]
    builder.note_attributes(plain)
    builder.reader.foresee_contents([snapshot.head] if snapshot.head else [])
    builder.reader.foresee_kinds(snapshot.staged_blobs())
    plain, more = most_precious_first(builder, plain, found.untracked)
    store_in_order(builder, changed[len(early) :], plain)
    folds = folds_case(builder.top)
    if folds:
        _note_other_names(builder, [*plain, *more])
    _store_staged_only(builder, staged_only)
    _store_unreported(builder, hidden, [*changed, *large], [*plain, *more])
    store_operation(builder)
    store_sparse(builder)
    store_files(builder, [*large, *more])
    if options.older is not None:
        take_older(builder, options.older)
    is_plain = not (hidden or found.replaced or snapshot.absent or folds or not builder.symlinks)
    snapshot.scan = ScanFacts(builder.tracked, is_plain, settings)
    return snapshot


def _read_changes(
    builder: SnapshotBuilder, query: StatusQuery, found: WalkResult, asking: Child | None
) -> tuple[list[bytes], list[bytes]]:
    """What `read_status` returns. `asking` is ended where that fails.

    The output of `git status` is read only now: until here it ran beside the walk, on another core.
    """
    try:
        changed, staged_only = read_status(builder, query.status)
    except BaseException:
        end_asking(builder, asking)
        raise
    for path in found.replaced:
        _sort_replaced(builder, path, found.untracked)
    return changed, staged_only


def most_precious_first(
    builder: SnapshotBuilder, paths: list[bytes], untracked: Sequence[bytes] = ()
) -> tuple[list[bytes], list[bytes]]:
    """The paths in the order in which a save under a deadline reads them: the newest files first; and large ones.

    The files of a crowded directory among `untracked`, as the walk found them, come after the other small ones. The
    large ones, the smallest first, come after all else. Without a deadline nothing is sorted.
    """
    deadline = builder.options.deadline
    if deadline.seconds is None:
        return paths, []
    crowded = _crowded(paths, untracked)
    small: list[tuple[bool, float, bytes]] = []
    large: list[tuple[int, bytes]] = []
    for number, path in enumerate(paths):
        if number % 256 == 255 and deadline.part(_SORTED).passed():
            small += [(path in crowded, 0.0, path) for path in paths[number:]]
            break
        try:
            info = os.lstat(os.path.join(builder.top, path))
        except OSError:
            # Gone: that is noted in no time.
            small.append((False, float("-inf"), path))
            continue
        if info.st_size > _SMALL:
            large.append((info.st_size, path))
        else:
            small.append((path in crowded, -info.st_mtime, path))
    small.sort(key=lambda item: item[:2])
    return [path for _, _, path in small], [path for _, path in sorted(large)]


def _crowded(paths: list[bytes], untracked: Sequence[bytes]) -> set[bytes]:
    """The paths in directories that hold many of them; of an untracked directory all that is below it counts."""
    if len(paths) <= CROWD or not untracked:
        return set()
    tops = {path for path in untracked if path.endswith(b"/")}
    below: dict[bytes, list[bytes]] = {}
    for path in paths:
        cut = path.find(b"/") + 1
        while cut and path[:cut] not in tops:
            cut = path.find(b"/", cut) + 1
        below.setdefault(path[:cut] if cut else path[: path.rfind(b"/") + 1], []).append(path)
    return {path for inside in below.values() if len(inside) > CROWD for path in inside}


def store_in_order(builder: SnapshotBuilder, changed: list[bytes], plain: list[bytes]) -> None:
    """Read changed tracked files, which have more time, and then untracked ones; at once where there is no hurry.

    What git converts is converted when all of it has been read.
    """
    if builder.deadline.seconds is None:
        return store_files(builder, [*changed, *plain])
    if not builder.may_convert():
        builder.deadline = builder.end
        read_files(builder, changed, ())
        builder.deadline = builder.options.deadline
        read_files(builder, plain, ())
    elif changed or plain:
        from .convert import convert, read_unconverted

        builder.deadline = builder.end
        first = read_unconverted(builder, changed)
        builder.deadline = builder.options.deadline
        convert(builder, [first, read_unconverted(builder, plain)])


def store_files(builder: SnapshotBuilder, paths: Sequence[bytes]) -> None:
    """Read changed and untracked files into the snapshot, through git where git converts them."""
    if not paths:
        return
    if builder.may_convert():
        from .convert import store_with_conversions

        store_with_conversions(builder, paths)
    else:
        read_files(builder, paths, ())


def _note_other_names(builder: SnapshotBuilder, untracked: list[bytes]) -> None:
    """Note untracked files that are tracked ones under another case."""
    if untracked:
        from .hidden import note_other_names

        note_other_names(builder, untracked)


def _store_staged_only(builder: SnapshotBuilder, paths: list[bytes]) -> None:
    if paths and builder.may_convert():
        from .convert import store_staged_only

        store_staged_only(builder, paths)


def _sort_replaced(builder: SnapshotBuilder, path: bytes, untracked: list[bytes]) -> None:
    """A directory in place of a tracked file is untracked; and so is one of plain files in place of a submodule.

    Git looks for no file in that one, and does not miss the submodule.
    """
    if builder.index_modes.get(path, GITLINK) == GITLINK:
        full = os.path.join(builder.top, path)
        if is_nested(builder.repository, full, linked=True):
            builder.snapshot.checked_out.append(path)
            if not builder.knows_submodules:
                add_submodule(builder, path)
            return
        if not os.listdir(full):
            builder.snapshot.absent_submodules.append(path)
            return
        builder.snapshot.worktree[path] = None
        builder.in_submodules = True
    untracked.append(path + b"/")


def _store_unreported(
    builder: SnapshotBuilder, hidden: list[tuple[bytes, bytes]], changed: list[bytes], plain: list[bytes]
) -> None:
    """Save what neither `git status` nor the walk reports: all of it is rare."""
    if hidden:
        from .hidden import store_hidden

        store_hidden(builder, hidden)
    if builder.tracked.are_few and builder.may_convert():
        from .convert import keep_unlike_checkout

        known = {*changed, *plain, *builder.snapshot.raw, *builder.snapshot.absent}
        order = builder.tracked.order
        keep_unlike_checkout(builder, [path for path in order if path not in known and not path.endswith(b"/")])
    if builder.tracked.are_few and builder.repository.is_true("core.sparsecheckout"):
        from .hidden import store_outside_sparse

        store_outside_sparse(builder)
    if not builder.symlinks:
        from .hidden import store_real_symlinks

        store_real_symlinks(builder)
    if builder.options.include_ignored:
        from .hidden import store_ignored

        store_ignored(builder, set(plain))
    if builder.options.include_paths:
        from .hidden import store_paths

        store_paths(builder)
