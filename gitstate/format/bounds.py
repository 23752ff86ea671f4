"""Limits on the trees that came from another host: a pack of some kilobytes can hold a tree of billions of paths."""

from __future__ import annotations

from ..errors import CorruptSave, GitError
from ..git.command import Oid
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY, Tree
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, Record
from .archive import MAX_FETCHED_MANIFEST, read_stack
from .context import MAX_CONTEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .manifest import Save

#: Bytes of one tree object, and of all trees together, each counted once, and how many there may be.
_MOST_BYTES, _MOST_TOGETHER, _MOST_TREES = 16 << 20, 256 << 20, 250_000
#: Paths below one tree, bytes of their names, and how deep they may be: Linux takes paths of 4096 bytes.
_MOST_PATHS, _MOST_NAMES, _DEEPEST = 2_000_000, 256 << 20, 2048
#: So many trees are read at once, and so many bytes of them.
_AT_ONCE, _BYTES_AT_ONCE = 256, 16 << 20


def read_fetched_stack(archive: Oid, reader: ObjectReader) -> tuple[Save, ...]:
    """As `read_stack`, for a save that was fetched. Raises CorruptSave also where it exceeds these limits."""
    stack = read_stack(archive, reader, MAX_FETCHED_MANIFEST)
    for save in stack:
        roots = [save.wip_tree, *(oid for mode, oid in save.files.values() if mode == DIRECTORY)]
        try:
            if save.manifest.head is not None:
                roots.append(reader.tree_of(save.manifest.head, MAX_CONTEXT))
            check_tree(reader, *roots)
        except (GitError, ValueError) as error:
            raise CorruptSave(f"the save {archive[:12]} can't be read: {text_to_json(str(error))[:200]}") from None
    return stack


class _Seen(Record):
    """What one tree holds itself."""

    below: tuple[tuple[int, Oid], ...]
    """The length of the name and the tree of each directory."""
    files: int
    names: int
    """Bytes of the names of its files."""


def check_tree(reader: ObjectReader, *roots: Oid) -> None:
    """Raise CorruptSave where one of these trees has more paths, or more of anything, than a save of people has."""
    seen = _read(reader, roots)
    totals: dict[Oid, tuple[int, int, int]] = {}
    for root in roots:
        stack = [root]
        while stack:
            tree = stack[-1]
            missing = [oid for _, oid in seen[tree].below if oid not in totals]
            if missing and tree not in totals:
                if len(stack) > _DEEPEST:
                    raise _refused(root, "is too deep")
                stack += missing[:1]
                continue
            stack.pop()
            totals[tree] = _total(root, seen[tree], totals)


def _total(root: Oid, tree: _Seen, totals: dict[Oid, tuple[int, int, int]]) -> tuple[int, int, int]:
    """The paths below a tree, the bytes of their names, and its depth."""
    paths, names, depth = tree.files, tree.names, 1
    for length, oid in tree.below:
        inner = totals[oid]
        paths += inner[0]
        names += inner[1] + inner[0] * (length + 1)
        depth = max(depth, inner[2] + 1)
    if paths > _MOST_PATHS or names > _MOST_NAMES:
        raise _refused(root, f"holds more than {_MOST_PATHS} paths, or too long ones")
    if depth > _DEEPEST:
        raise _refused(root, "is too deep")
    return paths, names, depth


def _read(reader: ObjectReader, roots: Iterable[Oid]) -> dict[Oid, _Seen]:
    """Every tree at and below `roots`, each read once."""
    seen: dict[Oid, _Seen] = {}
    left = list(dict.fromkeys(roots))
    known = set(left)
    together = 0
    while left:
        some, left = left[:_AT_ONCE], left[_AT_ONCE:]
        sizes = []
        for oid, info in zip(some, reader.kinds(some), strict=True):
            if info is None or info[0] != "tree":
                raise _refused(oid, "is missing")
            sizes.append(info[1])
            together += info[1]
            if info[1] > _MOST_BYTES or together > _MOST_TOGETHER:
                raise _refused(oid, "is too large")
        for portion in _portions(some, sizes):
            for oid, content in zip(portion, reader.contents(portion), strict=True):
                seen[oid] = _Seen((), 0, 0) if content is None else _look(Tree(content[1], len(oid) // 2))
                wanted = {below for _, below in seen[oid].below} - known
                left += wanted
                known |= wanted
                if len(known) > _MOST_TREES:
                    raise _refused(oid, f"holds more than {_MOST_TREES} directories, or is one of as many")
    return seen


def _portions(trees: Sequence[Oid], sizes: Sequence[int]) -> Iterator[list[Oid]]:
    """The trees in portions that are small enough to be held in memory, or have one tree."""
    portion: list[Oid] = []
    together = 0
    for oid, size in zip(trees, sizes, strict=True):
        if portion and together + size > _BYTES_AT_ONCE:
            yield portion
            portion, together = [], 0
        portion.append(oid)
        together += size
    if portion:
        yield portion


def _look(tree: Tree) -> _Seen:
    below: list[tuple[int, Oid]] = []
    files = names = 0
    for name in tree.records:
        leaf = tree.get(name)
        if leaf is not None and leaf.mode == DIRECTORY:
            below.append((len(name), leaf.oid))
        else:
            files += 1
            names += len(name)
    return _Seen(tuple(below), files, names)


def _refused(tree: Oid, why: str) -> CorruptSave:
    return CorruptSave(f"a tree of another host {why} ({tree[:12]}); nothing was read of it")
