"""Trees: read them, and build new ones from old ones by rewriting only the directories that change."""

from __future__ import annotations

from ..errors import GitError, MissingObject
from ..git.command import Oid
from ..system.stdlib import TYPE_CHECKING, Record
from .reader import ObjectReader

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    #: Path → what the old and the new tree hold there; None where one lacks it.
    Difference = dict[bytes, tuple["Leaf | None", "Leaf | None"]]
    #: Two trees at one place, and the path of that place: where differences are noted, old, new, path.
    _Side = tuple[Difference, "Oid | None", "Oid | None", bytes]

DIRECTORY = 0o040000
GITLINK = 0o160000
SYMLINK = 0o120000
EXECUTABLE = 0o100755
REGULAR = 0o100644
_MODES = frozenset((DIRECTORY, GITLINK, SYMLINK, EXECUTABLE, REGULAR))
#: So many trees, of so many bytes, are compared here: git starts in the time that a few of them take.
_MOST_TREES, _MOST_BYTES = 6000, 2 << 20
#: So many names are looked for in a tree before all of its names are taken from it.
_FEW_NAMES = 24


class Leaf(Record):
    """What a tree holds at one path: mode and oid of a file, symlink, gitlink or tree."""

    mode: int
    oid: Oid


class Tree:
    """One tree: `records` maps each name to its entry as git wrote it, which `get` parses and a new tree can reuse."""

    __slots__ = ("_oid_bytes", "records", "size")

    def __init__(self, data: bytes, oid_bytes: int) -> None:
        """Raises ValueError where the raw tree object `data` is cut short."""
        self.records: dict[bytes, bytes] = {}
        self.size = len(data)
        self._oid_bytes = oid_bytes
        place, end = 0, len(data)
        while place < end:
            nul = data.index(b"\0", place)
            after = nul + 1 + oid_bytes
            self.records[data[data.index(b" ", place) + 1 : nul]] = data[place:after]
            place = after
        if place > end:
            raise ValueError("a tree is cut short")

    def get(self, name: bytes) -> Leaf | None:
        """The entry of this name; None where there is none."""
        return _leaf(self.records.get(name, b""), self._oid_bytes)

    def leaves(self) -> dict[bytes, Leaf]:
        """All entries by name."""
        return {name: leaf for name in self.records if (leaf := self.get(name)) is not None}

    def names_once(self) -> bool:
        """Whether no two entries have the same name, as in every tree that git has made."""
        return sum(map(len, self.records.values())) == self.size


def _record(name: bytes, leaf: Leaf) -> bytes:
    return b"%o %s\0%s" % (leaf.mode, name, bytes.fromhex(leaf.oid))


def _leaf(record: bytes, oid_bytes: int) -> Leaf | None:
    """What an entry says; None for an empty text."""
    return Leaf(int(record[: record.index(b" ")], 8), record[-oid_bytes:].hex()) if record else None


def _is_directory(record: bytes) -> bool:
    # Old versions of git wrote the mode with a leading zero.
    return record.startswith((b"40000 ", b"040000 "))


def _format(records: Mapping[bytes, bytes]) -> bytes:
    """The raw tree object, in git's order: a directory sorts as if its name ended in a slash."""
    order = sorted(records.items(), key=lambda item: item[0] + b"/" if _is_directory(item[1]) else item[0])
    return b"".join([record for _, record in order])


class TreeReader:
    """Reads trees through an `ObjectReader`, each once."""

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._known: dict[Oid, Tree] = {}
        #: The raw trees, which are taken apart when an entry is asked for.
        self._raw: dict[Oid, bytes] = {}

    def load(self, oids: Iterable[Oid]) -> None:
        """Read several trees at once. Raises MissingObject for one that is missing or no tree, GitError."""
        wanted = [oid for oid in dict.fromkeys(oids) if oid not in self._known]
        self._read(wanted)
        self._known.update((oid, Tree(self._raw[oid], len(oid) // 2)) for oid in wanted)

    def _read(self, oids: Iterable[Oid]) -> None:
        wanted = [oid for oid in dict.fromkeys(oids) if oid not in self._raw]
        for oid, found in zip(wanted, self._reader.contents(wanted), strict=True):
            if found is None or found[0] != "tree":
                raise MissingObject(oid, "is missing or no tree")
            self._raw[oid] = found[1]

    def tree(self, oid: Oid) -> Tree:
        """One tree. Raises as `load` does."""
        self.load((oid,))
        return self._known[oid]

    def lookup(self, root: Oid | None, paths: Iterable[bytes]) -> dict[bytes, Leaf]:
        """What the tree `root` (None: the empty one) holds at each of `paths`; a path that it lacks is missing.

        Raises as `load` does.
        """
        found: dict[bytes, Leaf] = {}
        level = [(root, b"", tuple(path.split(b"/"))) for path in paths] if root is not None else []
        while level:
            self.load(tree for tree, _, _ in level)
            below: list[tuple[Oid, bytes, tuple[bytes, ...]]] = []
            for tree, prefix, names in level:
                leaf = self._known[tree].get(names[0])
                if leaf is None:
                    continue
                if len(names) == 1:
                    found[prefix + names[0]] = leaf
                elif leaf.mode == DIRECTORY:
                    below.append((leaf.oid, prefix + names[0] + b"/", names[1:]))
            level = below
        return found

    def differences(self, pairs: Sequence[tuple[Oid, Oid]]) -> list[Difference] | None:
        """In which files, symlinks and gitlinks the trees of each pair differ.

        None where git has to compare them: trees with much in them, which it takes apart faster, and trees that are
        missing or not as git makes them.
        """
        found: list[Difference] = [{} for _ in pairs]
        level: list[_Side] = [(out, old, new, b"") for out, (old, new) in zip(found, pairs, strict=True) if old != new]
        left, size = _MOST_TREES, _MOST_BYTES
        while level:
            sides = {oid for _, old, new, _ in level for oid in (old, new) if oid is not None}
            left -= len(level)
            if left < 0:
                return None
            below: list[_Side] = []
            try:
                self._read(sides)
                size -= sum(len(self._raw[oid]) for oid in sides)
                if size < 0 or not all(self._compare(side, below) for side in level):
                    return None
            except (GitError, ValueError):
                return None
            level = below
        return found

    def _compare(self, side: _Side, below: list[_Side]) -> bool:
        """Note the entries in which two trees differ, and add the directories among them to `below`.

        False where one of them has a mode that git writes no more, or may have a name twice. Raises ValueError.
        """
        out, old_oid, new_oid, prefix = side
        oid_bytes = len(old_oid or new_oid or "") // 2
        old, new = (b"" if oid is None else self._raw[oid] for oid in (old_oid, new_oid))
        records = differing_records(old, new, oid_bytes)
        if records is None:
            return False
        for name, (old_record, new_record) in sorted(records.items()):
            before, after = _leaf(old_record, oid_bytes), _leaf(new_record, oid_bytes)
            if not {leaf.mode for leaf in (before, after) if leaf is not None} <= _MODES:
                return False
            below_old = before.oid if before is not None and before.mode == DIRECTORY else None
            below_new = after.oid if after is not None and after.mode == DIRECTORY else None
            if below_old or below_new:
                below.append((out, below_old, below_new, prefix + name + b"/"))
            before, after = None if below_old else before, None if below_new else after
            if before is not None or after is not None:
                out[prefix + name] = before, after
        return True


def differing_records(old: bytes, new: bytes, oid_bytes: int) -> dict[bytes, tuple[bytes, bytes]] | None:
    """The entries of two raw trees, as git wrote them, by each name for which they differ; empty for one that lacks it.

    None where a name may be there twice. Raises ValueError where a tree is cut short. Of what both have, only the ends
    of the entries are looked for: all but a few of hundreds are the same, and to take them apart takes five times as
    long.
    """
    found: tuple[dict[bytes, bytes], dict[bytes, bytes]] = {}, {}
    at_old = at_new = 0
    while at_old < len(old) or at_new < len(new):
        begin, end = at_old, at_old + _same_bytes(old, at_old, new, at_new)
        while at_old < end and (after := old.index(b"\0", at_old) + 1 + oid_bytes) <= end:
            at_old = after
        at_new += at_old - begin
        if at_old == len(old) and at_new == len(new):
            break
        here, there = _entry(old, at_old, oid_bytes), _entry(new, at_new, oid_bytes)
        # The one that sorts before the other is in one tree alone. At the end of a tree there is none.
        first = min(key for key, _, record in (here, there) if record)
        for (key, name, record), side in zip((here, there), found, strict=True):
            if record and key == first and side.setdefault(name, record) is not record:
                return None
        at_old += len(here[2]) if here[0] == first else 0
        at_new += len(there[2]) if there[0] == first else 0
    names = found[0].keys() | found[1].keys()
    if not _names_once(old, names, oid_bytes) or not _names_once(new, names, oid_bytes):
        return None
    pairs = {name: (found[0].get(name, b""), found[1].get(name, b"")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _same_bytes(old: bytes, at_old: int, new: bytes, at_new: int) -> int:
    """How many bytes are the same from two places on."""
    most = min(len(old) - at_old, len(new) - at_new)
    same, step = 0, 256
    while same < most and old[at_old + same : at_old + same + step] == new[at_new + same : at_new + same + step]:
        same += step
        step *= 2
    if same >= most:
        return most
    differs = min(same + step, most)
    while same < differs:
        middle = (same + differs + 1) // 2
        if old[at_old + same : at_old + middle] == new[at_new + same : at_new + middle]:
            same = middle
        else:
            differs = middle - 1
    return same


def _entry(data: bytes, at: int, oid_bytes: int) -> tuple[bytes, bytes, bytes]:
    """What the entry at a place sorts by, its name, and all of it; empty at the end. Raises ValueError."""
    if at == len(data):
        return b"", b"", b""
    nul = data.index(b"\0", at)
    record = data[at : nul + 1 + oid_bytes]
    if len(record) != nul + 1 + oid_bytes - at:
        raise ValueError("a tree is cut short")
    name = data[data.index(b" ", at) + 1 : nul]
    return name + b"/" if _is_directory(record) else name, name, record


def _names_once(data: bytes, names: Collection[bytes], oid_bytes: int) -> bool:
    """Whether none of these names stands twice in a raw tree, as in every tree that git has made."""
    if len(names) > _FEW_NAMES:
        return Tree(data, oid_bytes).names_once()
    # What looks like one may be a part of another, or of an object id: then git is asked.
    return all(data.count(b" %s\0" % name) < 2 for name in names)


class _Node:
    """The changes at and below one directory entry."""

    __slots__ = ("children", "leaf", "touched")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.leaf: Leaf | None = None
        self.touched = False


def edit_tree(
    base: Oid | None, changes: Mapping[bytes, Leaf | None], trees: TreeReader, write: Callable[[str, bytes], Oid]
) -> Oid:
    """The tree `base` (None: the empty one) with each path of `changes` set, or removed where it is None.

    A path that is set replaces a file or directory that is in its way, whatever the order of `changes`. New trees are
    written by `write("tree", bytes)`, which returns their oids. Returns the root's oid. Raises MissingObject, GitError.
    """
    root = _Node()
    for path, leaf in changes.items():
        node = root
        for name in path.split(b"/"):
            node = node.children.setdefault(name, _Node())
        node.leaf, node.touched = leaf, True
    _preload(base, root, trees)
    return _build(base, root, trees, write) or write("tree", b"")


def _preload(base: Oid | None, root: _Node, trees: TreeReader) -> None:
    level = [(base, root)]
    while level:
        trees.load(oid for oid, _ in level if oid is not None)
        below: list[tuple[Oid | None, _Node]] = []
        for oid, node in level:
            if oid is None:
                continue
            tree = trees.tree(oid)
            for name, child in node.children.items():
                if child.children and (leaf := tree.get(name)) is not None and leaf.mode == DIRECTORY:
                    below.append((leaf.oid, child))
        level = below


def _build(base: Oid | None, root: _Node, trees: TreeReader, write: Callable[[str, bytes], Oid]) -> Oid | None:
    """Write the changed trees, the deepest first, without a recursion: a tree may be deeper than Python's stack."""
    stack = [_Level(root, None if base is None else trees.tree(base), b"")]
    while True:
        level = stack[-1]
        for name, child in level.left:
            if level.set_leaf(name, child):
                old = level.old_tree(name)
                stack.append(_Level(child, None if old is None else trees.tree(old), name))
                break
        else:
            stack.pop()
            oid = write("tree", level.data()) if level.records else None
            if not stack:
                return oid
            stack[-1].set_tree(level.name, oid)


class _Level:
    """One directory while its tree is built: the entries of its old tree, and the children that are left to do."""

    __slots__ = ("is_ordered", "left", "name", "old", "records")

    def __init__(self, node: _Node, old: Tree | None, name: bytes) -> None:
        self.name = name
        self.old = old
        self.records = {} if old is None else dict(old.records)
        self.left = iter(node.children.items())
        #: Each entry took the place of one that sorts as it does: to sort a large tree takes longer than all else.
        self.is_ordered = True

    def data(self) -> bytes:
        """The raw tree object."""
        return b"".join(self.records.values()) if self.is_ordered else _format(self.records)

    def old_tree(self, name: bytes) -> Oid | None:
        """The old tree of this name; None where there was none."""
        old = None if self.old is None else self.old.get(name)
        return old.oid if old is not None and old.mode == DIRECTORY else None

    def set_leaf(self, name: bytes, child: _Node) -> bool:
        """Set or remove what the changes name here; returns whether they name anything below `name`."""
        if child.touched and child.leaf is not None:
            self._set(name, child.leaf)
            return False
        if child.touched and name in self.records and not _is_directory(self.records[name]):
            del self.records[name]
        return bool(child.children)

    def set_tree(self, name: bytes, oid: Oid | None) -> None:
        """Set the new tree of this name. Where it is empty an old one goes; a file that was not named stays."""
        if oid is not None:
            self._set(name, Leaf(DIRECTORY, oid))
        elif self.old_tree(name) is not None:
            del self.records[name]

    def _set(self, name: bytes, leaf: Leaf) -> None:
        old, new = self.records.get(name), _record(name, leaf)
        if old is None or _is_directory(old) != _is_directory(new):
            self.is_ordered = False
        self.records[name] = new


def parents_of(path: bytes) -> Iterator[bytes]:
    """The directories above a path, the innermost first; not the top."""
    while path := path.rpartition(b"/")[0]:
        yield path


def parents_with_top(path: bytes) -> Iterator[bytes]:
    """The directories above a path, the top (an empty path) last; none above the top itself."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def is_safe_path(path: bytes) -> bool:
    """Whether git would add this path to a tree: relative, without empty, `.`, `..` or `.git` in any spelling."""
    if not path or path.startswith(b"/") or b"\0" in path or len(path) > 1 << 20:
        return False
    plain = path.isascii() and len(path) < 256 and b"/." not in path and b"//" not in path and path[:1] != b"."
    if plain and path[-1:] != b"/" and b"~" not in path:
        return True
    return all(_is_safe_name(part) for part in path.split(b"/"))


def _is_safe_name(name: bytes) -> bool:
    if name in (b"", b".", b"..") or len(name) > 255:
        return False
    plain = name.decode("utf-8", "replace")
    for ignorable in "\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u206a\u206b\u206c\u206d\u206e\u206f\ufeff":
        plain = plain.replace(ignorable, "")
    plain = plain.lower().split(":")[0].rstrip(". ")
    return plain not in (".git", "git~1")


def is_refused_symlink(path: bytes) -> bool:
    """Whether git adds no symlink of this name, and checks out no tree with one (`verify_path` in read-cache.c)."""
    name = path.rpartition(b"/")[2].lower().partition(b":")[0].rstrip(b". ")
    return name in (b".gitmodules", b"gitmod~1")
