"""In which paths the trees of one save differ: small ones are compared here, large ones by a git beside the caller."""

from __future__ import annotations

from ..git.index import file_identity
from ..objects.tree import Leaf
from ..system.stdlib import TYPE_CHECKING
from ..workspace.ownership import kept_indexes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..format.manifest import Save
    from ..git.command import Oid
    from ..git.entries import DiffEntry
    from ..git.repository import Repository
    from ..objects.reader import ObjectReader
    from ..objects.tree import Difference, TreeReader
    from ..system.child import Child

#: The trees of an index of more bytes, some thousand files, git compares in less time than it takes to read them here.
_LARGE = 256 << 10


def compare_ahead(repository: Repository) -> Child | None:
    """The git that will compare large trees, started before it is read which save is pending.

    None where the index that a save has kept here is small, and where there is none, or several.
    """
    kept = kept_indexes(repository)
    identity = file_identity(kept[0]) if len(kept) == 1 else None
    if identity is None or identity[0] <= _LARGE:
        return None
    from ..git.entries import start_diff_of_pairs

    return start_diff_of_pairs(repository)


class TreeDifferences:
    """Where the WIP tree of a save and its staged tree differ from that of the commit which the save stands on."""

    def __init__(self, repository: Repository, trees: TreeReader, save: Save, base: Oid) -> None:
        self.base = base
        self._repository, self._trees = repository, trees
        self._is_large = (save.manifest.index_size or 0) > _LARGE
        staged = save.files.get(b"staged")
        others = dict.fromkeys((save.wip_tree, *([staged[1]] if staged else [])))
        self._pairs = [(base, other) for other in others if other != base]
        #: The git that compares them, once it knows them.
        self._comparing: Child | None = None

    def foresee(self, reader: ObjectReader, ahead: Child | None) -> None:
        """Let git read or compare the trees while the caller does something else; `ahead` is a git that is ready to."""
        if not self._is_large:
            reader.foresee_contents(dict.fromkeys((self.base, *(other for _, other in self._pairs))))
        elif self._pairs and self._comparing is None:
            from ..git.entries import give_pairs, start_diff_of_pairs

            self._comparing = ahead or start_diff_of_pairs(self._repository)
            give_pairs(self._comparing, self._pairs)

    def told(self) -> dict[Oid | None, dict[bytes, Leaf | None]]:
        """For each of the trees what it holds at every path in which any of them differs from the base.

        Raises MissingObject, GitError.
        """
        diffs = None if self._is_large else self._trees.differences(self._pairs)
        if diffs is None:
            from ..git.entries import diff_pairs_of_trees

            started, self._comparing = self._comparing, None
            diffs = [_sides(diff) for diff in diff_pairs_of_trees(self._repository, self._pairs, started)]
        before = {path: old for diff in diffs for path, (old, _) in diff.items()}
        told: dict[Oid | None, dict[bytes, Leaf | None]] = {self.base: before}
        for (_, root), diff in zip(self._pairs, diffs, strict=True):
            told[root] = {**before, **{path: new for path, (_, new) in diff.items()}}
        return told

    def end(self) -> None:
        """Nobody asks any more."""
        if self._comparing is not None:
            self._comparing.end()
            self._comparing = None


def _sides(diff: Iterable[DiffEntry]) -> Difference:
    """A diff of git's as `TreeReader.differences` has it."""
    sides: Difference = {}
    for entry in diff:
        before, after = _leaf(entry.old_mode, entry.old_oid), _leaf(entry.new_mode, entry.new_oid)
        # A broken tree names a path twice: git reports one of them as changed, and the other as deleted.
        sides[entry.path] = before, after or sides.get(entry.path, (None, None))[1]
    return sides


def _leaf(mode: int, oid: Oid) -> Leaf | None:
    """One side of a diff; None where it lacks the path."""
    return Leaf(mode, oid) if mode else None
