"""A snapshot from an earlier one and the paths that changed since: its cost follows the changes, not the tree.

For who watches a worktree while an agent works. It answers only where the earlier look still holds in all else: same
HEAD, same index file, same settings, no unfinished operation, no repository inside. Otherwise it says so, and the
whole tree has to be looked at (`snapshot.take`).
"""

from __future__ import annotations

import bisect
import os
import stat

from ..git import refs
from ..git.index import identify_index_at
from ..git.oid import Oid, object_id
from ..git.operation import operation_under_way
from ..git.repository import Repository, read_head
from ..git.status import ignored_among
from ..objects.pack import PackWriter
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY, EXECUTABLE, GITLINK, REGULAR, SYMLINK, Leaf, TreeReader
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record
from ..workspace.settings import patterns
from . import snapshot
from .snapshot import MODES_LIMIT, Ground, Snapshot, Taking, settings_identity

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    T = TypeVar("T")


#: More paths than this, and one look at the whole tree is as fast.
_MOST = 5_000
#: Files whose content decides how others are seen.
_DECIDING = (b".gitattributes", b".gitignore", b".gitmodules")


class Known(Record):
    """An earlier snapshot, the archive that keeps its objects alive, and what may have changed since.

    A directory among `touched` stands for all below it; so does one that is gone.
    """

    snapshot: Snapshot
    archive: Oid
    touched: frozenset[bytes]


def take_since(
    known: Known,
    repository: Repository,
    writer: PackWriter,
    reader: ObjectReader,
    frozen_index: bytes,
    *,
    never: bytes,
    largest: int | None,
    deadline: Deadline,
) -> Snapshot | None:
    """The snapshot of now; None where the earlier one does not carry it. Arguments as those of `snapshot.take`.

    Raises GitError, OSError.
    """
    ground = known.snapshot.ground
    if ground is None or not _holds(known, ground, repository, frozen_index):
        return None
    taking = _Since(repository, writer, reader, frozen_index, never, (), largest, deadline)
    return taking.since(known.snapshot, ground, known.touched)


def _holds(known: Known, ground: Ground, repository: Repository, frozen_index: bytes) -> bool:
    earlier = known.snapshot
    if len(known.touched) > _MOST or any(path.rpartition(b"/")[2] in _DECIDING for path in known.touched):
        return False
    odd = earlier.operation or earlier.nested or earlier.absent or earlier.shared_index or earlier.sparse_file
    if odd or not ground.plain or patterns(repository, "includeIgnored"):
        return False
    if operation_under_way(repository.git_dir) is not None:
        return False
    return (
        ground.settings == settings_identity(repository)
        and earlier.index_file == identify_index_at(frozen_index)
        and (earlier.head_ref, earlier.head) == _head(repository)
    )


def _head(repository: Repository) -> tuple[str | None, Oid | None]:
    ref = read_head(repository.git_dir)
    if ref is None:
        with open(os.path.join(repository.git_dir, b"HEAD"), "rb") as file:
            return None, file.read(256).strip().decode("ascii", "replace")
    return ref, refs.read_refs(repository, [ref]).get(ref)


class _Since(Taking):
    """Everything that stands below a touched path is looked at anew; all else is taken over."""

    def since(self, earlier: Snapshot, ground: Ground, touched: frozenset[bytes]) -> Snapshot | None:
        self.tracked, self.order, self.attributes = set(), ground.order, ground.attributes
        self.known_tracked = ground.tracked
        found = self.found
        found.head_ref, found.head, found.ground = earlier.head_ref, earlier.head, ground
        found.staged, found.intent_to_add = earlier.staged, earlier.intent_to_add
        self._take_over(earlier, touched)
        self._take_index(hides=False)
        tracked = sorted({path for top in touched for path in self._tracked_below(top)})
        if len(tracked) > _MOST:
            return None
        index = self._index_entries(tracked)
        self.index_modes = {path: leaf.mode for path, leaf in index.items()}
        self.tracked = set(tracked)
        untracked, specials, odd = self._new_below(touched)
        if odd or any(leaf.mode == GITLINK for leaf in index.values()):
            return None
        plain, ignored = self._sort_out(untracked, specials)
        if found.nested:
            return None
        found.ignored = list(dict.fromkeys((*found.ignored, *ignored)))[: snapshot.IGNORED_LISTED]
        self._read_all([*(path for path in tracked if not self._is_unchanged(path, index[path])), *plain])
        for path, leaf in index.items():
            if path in found.worktree and found.worktree[path] == leaf:
                del found.worktree[path]
                if path not in found.staged:
                    found.raw.pop(path, None)
        if len(self.order) <= MODES_LIMIT and self._may_convert(tracked):
            told = found.worktree.keys() | found.raw.keys()
            self._clean_but_other([path for path in tracked if path not in told], index)
        self._directories(touched, plain)
        self._sparse()
        return found

    def _take_over(self, earlier: Snapshot, touched: frozenset[bytes]) -> None:
        found = self.found
        found.worktree = _without(earlier.worktree, touched)
        found.modes = _without(earlier.modes, touched)
        found.raw = _without(earlier.raw, touched)
        found.directories = _without(earlier.directories, touched)
        found.left_out = [item for item in earlier.left_out if not _is_touched(item.path, touched)]
        found.ignored = [path for path in earlier.ignored if not _is_touched(path.removesuffix(b"/"), touched)]

    def _tracked_below(self, top: bytes) -> Iterable[bytes]:
        if top in self.known_tracked:
            yield top
        prefix = top + b"/"
        place = bisect.bisect_left(self.order, prefix)
        while place < len(self.order) and self.order[place].startswith(prefix):
            yield self.order[place]
            place += 1

    def _index_entries(self, tracked: list[bytes]) -> dict[bytes, Leaf]:
        """What the index says of each path: what is staged there, else what HEAD's tree holds."""
        tree = None
        if self.found.head is not None:
            commit = self.reader.contents([self.found.head])[0]
            tree = None if commit is None else commit[1][5 : 5 + len(self.found.head)].decode("ascii")
        held = TreeReader(self.reader).lookup(tree, tracked)
        added = set(self.found.intent_to_add)
        entries: dict[bytes, Leaf] = {}
        for path in tracked:
            leaf = self.found.staged.get(path) or held.get(path)
            if leaf is not None and leaf.mode != DIRECTORY:
                entries[path] = leaf
            elif path in added:
                entries[path] = Leaf(REGULAR, "")
        return entries

    def _new_below(self, touched: frozenset[bytes]) -> tuple[list[bytes], list[bytes], bool]:
        """Untracked names and special files at and below the touched paths; whether something odd stands there."""
        untracked: dict[bytes, None] = {}
        specials: dict[bytes, None] = {}
        for path in sorted(touched):
            if path == self.never or _is_touched(path.rpartition(b"/")[0], touched):
                continue
            full = os.path.join(self.top, path)
            if not self._is_reached(path.rpartition(b"/")[0]):
                continue
            try:
                info = os.lstat(full)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if path.rpartition(b"/")[2] == b".git":
                return [], [], True
            if stat.S_ISDIR(info.st_mode):
                if path in self.tracked:
                    return [], [], True
                if not self._holds_tracked(path):
                    untracked[path + b"/"] = None
                    continue
                more, special, swapped = self._walk([full])
                if swapped:
                    return [], [], True
                untracked.update(dict.fromkeys(more))
                specials.update(dict.fromkeys(special))
            elif path in self.tracked:
                continue
            elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
                untracked[path] = None
            else:
                specials[path] = None
        return list(untracked), list(specials), False

    def _is_unchanged(self, path: bytes, leaf: Leaf) -> bool:
        """Whether the file at a tracked path is what the index says; notes permissions that git does not keep."""
        full = os.path.join(self.top, path)
        try:
            info = os.lstat(full)
            if not self._is_reached(path.rpartition(b"/")[0]):
                return False
            if stat.S_ISLNK(info.st_mode):
                oid = object_id(self.repository.object_format, "blob", os.readlink(full))
                return leaf.mode == SYMLINK and oid == leaf.oid
            if not stat.S_ISREG(info.st_mode) or leaf.mode not in (REGULAR, EXECUTABLE):
                return False
            if not snapshot.same_content(full, self.repository.object_format, leaf.oid):
                return False
        except OSError:
            return False
        permissions = info.st_mode & 0o777
        wanted = EXECUTABLE if permissions & 0o100 else REGULAR
        if self.filemode and wanted != leaf.mode:
            return False
        if len(self.order) <= MODES_LIMIT and self.filemode and permissions not in (0o644, 0o755):
            self.found.modes[path] = permissions
        return True

    def _directories(self, touched: frozenset[bytes], plain: list[bytes]) -> None:
        """Empty directories and unusual permissions, for the directories whose entries may have changed."""
        found = self.found
        looked: dict[bytes, None] = {}
        for path in touched:
            while path:
                looked[path] = None
                path = path.rpartition(b"/")[0]
        holding: set[bytes] = set()
        for path, leaf in found.worktree.items():
            if leaf is not None and path not in self.known_tracked:
                while (path := path.rpartition(b"/")[0]) and path not in holding:
                    holding.add(path)
        ignored = None
        for path in looked:
            full = os.path.join(self.top, path)
            if not self._is_reached(path):
                found.directories.pop(path, None)
                continue
            mode = os.lstat(full).st_mode & 0o777
            if self._holds_tracked(path):
                small = len(self.order) <= MODES_LIMIT
                says = not os.listdir(full) or (small and mode != 0o755)
            else:
                if ignored is None:
                    reached = [other for other in looked if self._is_reached(other)]
                    ignored = ignored_among(self.repository, reached)
                says = path not in ignored and (path not in holding or mode != 0o755)
            if says:
                found.directories[path] = mode
            else:
                found.directories.pop(path, None)


def _is_touched(path: bytes, touched: frozenset[bytes]) -> bool:
    """Whether a path, or a directory above it, was touched."""
    while path:
        if path in touched:
            return True
        path = path.rpartition(b"/")[0]
    return False


def _without(known: dict[bytes, T], touched: frozenset[bytes]) -> dict[bytes, T]:
    return {path: value for path, value in known.items() if not _is_touched(path, touched)}
