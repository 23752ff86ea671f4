"""Tracked files as git reports them: the paths in the index, what is staged, what changed, what is unmerged."""

from __future__ import annotations

import os

from ..errors import GitError
from ..git.repository import read_head
from ..git.status import Listing, parse_listing, quick_status, start_status
from ..objects.tree import GITLINK, Leaf
from ..system.stdlib import TYPE_CHECKING, suppress
from .record import TrackedPaths
from .walk import is_nested

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..system.child import Child
    from .record import SnapshotBuilder

#: Under a deadline `git status` may take this part of its time, and so many seconds in any case; a quicker question
#: then takes this many seconds.
_STATUS, _LEAST, _QUICK = 0.85, 0.2, 1.0
#: The least for a caller that gives up where git is late.
_LEAST_AT_ALL = 0.05
#: Git compares each path of the index with all that it is asked about: no more than these.
_NEWEST = 100


def read_listing(builder: SnapshotBuilder, listing: Child | Listing) -> list[tuple[bytes, bytes]]:
    """Wait for `git ls-files` and set the builder's `tracked`; returns (tag, path) of each entry hidden from git."""
    if not isinstance(listing, Listing):
        listing = parse_listing(builder.repository.git.finish(listing))
    if builder.repository.is_true("index.sparse"):
        listing = _without_filled_directories(builder, listing)
        builder.snapshot.sparse_directories = [path[:-1] for path in listing.paths if path.endswith(b"/")]
    paths, hidden = listing
    attributes = b".gitattributes\0" in b"\0".join((*paths, b""))
    builder.tracked = TrackedPaths(set(paths), paths, attributes)
    return hidden


def _without_filled_directories(builder: SnapshotBuilder, listing: Listing) -> Listing:
    """The listing with every file by its name, where a directory outside of a sparse index is on the disk.

    As a rule git does that itself; with `sparse.expectFilesOutsideOfPatterns` it looks at no file there.
    """
    outside = [path[:-1] for path in listing.paths if path.endswith(b"/")]
    if not any(os.path.lexists(os.path.join(builder.top, path)) for path in outside):
        return listing
    return parse_listing(builder.repository.git.run("ls-files", "-z", "-v", env=builder.env))


def read_status(builder: SnapshotBuilder, status: Child) -> tuple[list[bytes], list[bytes]]:
    """Wait for `git status` and note HEAD, index and stages in the snapshot.

    Returns the paths to read, and the paths that are staged and unchanged since.
    """
    snapshot = builder.snapshot
    changed: list[bytes] = []
    staged_only: list[bytes] = []
    for line in _status_output(builder, status).split(b"\0"):
        kind = line[:2]
        if kind == b"1 ":
            _, states, sub, mode_head, mode_index, _, _, oid_index, path = line.split(b" ", 8)
            builder.index_modes[path] = int(mode_index, 8)
            if states[:1] == b"." and mode_head == b"000000":
                snapshot.intent_to_add.append(path)
            elif states[:1] != b".":
                gone = states[:1] == b"D"
                snapshot.staged[path] = None if gone else Leaf(int(mode_index, 8), oid_index.decode("ascii"))
                if states == b"DA":
                    # HEAD has it, and the index only the intent to add it.
                    snapshot.intent_to_add.append(path)
                if not gone and states[1:] == b"." and sub[:1] != b"S":
                    staged_only.append(path)
            if sub[:1] == b"S":
                _note_submodule(builder, path, sub, is_staged=states[:1] != b".")
            if states[1:] != b"." and (sub[:1] != b"S" or sub[1:2] == b"C" or states[1:] in (b"D", b"T")):
                changed.append(path)
        elif kind == b"u ":
            words = line.split(b" ", 10)
            path = words[10]
            builder.index_modes[path] = max(int(mode, 8) for mode in words[3:6])
            for stage in (1, 2, 3):
                if words[2 + stage] != b"000000":
                    leaf = Leaf(int(words[2 + stage], 8), words[6 + stage].decode("ascii"))
                    snapshot.stages.setdefault(stage, {})[path] = leaf
            changed.append(path)
            if words[2][:1] == b"S":
                _note_submodule(builder, path, words[2], is_staged=True)
        elif line.startswith(b"# branch.oid ") and line[13:] != b"(initial)":
            snapshot.head = line[13:].decode("ascii")
    snapshot.head_ref = read_head(builder.repository.git_dir)
    return changed, staged_only


def _status_output(builder: SnapshotBuilder, status: Child) -> bytes:
    """The output of `git status`, which ends early where a required filter fails or hangs, or a submodule is broken.

    Then it runs again with filters off, then without looking into submodules; each submodule is added to `nested`.
    So it is where no filter runs: git would run those of a submodule's configuration.
    """
    git, deadline = builder.repository.git, builder.options.deadline
    off = builder.repository.filters_off()
    looks_inside = builder.repository.runs_filters

    def finish(asked: Child) -> bytes:
        limit = builder.repository.filter_limit
        least = _LEAST_AT_ALL if builder.options.gives_up else _LEAST
        timeout = limit if deadline.seconds is None else max(least, deadline.part(_STATUS).left())
        return git.finish(asked, timeout=timeout)

    try:
        output = finish(status)
        if looks_inside:
            return output
    except GitError as error:
        late = error.status == -9
        if late and builder.options.gives_up:
            raise
        if off and looks_inside and not (late and deadline.seconds is not None):
            try:
                return finish(start_status(builder.repository, builder.env, *off))
            except GitError as again:
                late = again.status == -9
        if late and deadline.seconds is not None:
            return _hurried_output(builder)
        output = git.finish(start_status(builder.repository, builder.env, *off, submodules=False))
    from ..git.entries import list_index

    for entry in list_index(git, env=builder.env):
        full = os.path.join(builder.top, entry.path)
        if entry.mode == GITLINK and not os.path.islink(full) and is_nested(builder.repository, full, linked=True):
            add_submodule(builder, entry.path)
    return output


def _hurried_output(builder: SnapshotBuilder) -> bytes:
    """The changes as git knows them without reading a file. Where even that takes too long, those that the caller knows
    of, or none.
    """
    # Of those that are gone, any.
    newest, known = newest_of(builder.options.touched & builder.tracked.paths, builder.top, _NEWEST), None
    builder.asked = frozenset()
    builder.knows_submodules = False
    if newest:
        with suppress(GitError):
            # Without them the save is next to worthless.
            known = quick_status(builder.repository, builder.env, max(_QUICK, builder.end.left()), newest)
            builder.asked = frozenset(newest)
    try:
        limit = _QUICK if known is None else builder.options.deadline.left()
        output = quick_status(builder.repository, builder.env, limit)
        builder.asked = None
        return output
    except GitError:
        builder.skip(b"", "git did not list the changes of tracked files in time", lost=True)
        if known is not None:
            return known
        head = builder.repository.git.run("rev-parse", "-q", "--verify", "HEAD", ok_codes=(0, 1)).strip()
        return b"# branch.oid " + (head or b"(initial)")


def newest_of(paths: Iterable[bytes], top: bytes, most: int) -> list[bytes]:
    """The newest of these paths below `top`; those that are gone come first."""
    times: dict[bytes, float] = {}
    for path in paths:
        times[path] = float("-inf")
        with suppress(OSError):
            times[path] = -os.lstat(os.path.join(top, path)).st_mtime
    return sorted(times, key=lambda path: times[path])[:most]


def _note_submodule(builder: SnapshotBuilder, path: bytes, sub: bytes, *, is_staged: bool) -> None:
    """Note a submodule as nested where it has changes (M, U), or its commit is not that of HEAD (C, or staged)."""
    full = os.path.join(builder.top, path)
    has_work = any(letter in sub for letter in (b"C", b"M", b"U"))
    if not builder.repository.runs_filters or not (has_work or is_staged):
        return
    if is_nested(builder.repository, full, linked=has_work):
        add_submodule(builder, path)


def add_submodule(builder: SnapshotBuilder, path: bytes) -> None:
    builder.snapshot.nested.append(path)
    builder.snapshot.submodules.add(path)
