"""Trees: what they hold, and how two of them differ."""

from __future__ import annotations

from ..errors import GitError, MissingObject
from ..git.command import Oid
from ..system.stdlib import TYPE_CHECKING, Record
from .reader import ObjectReader

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

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
    """One tree, whose entries are looked for in its bytes: to make an object of each takes longer than all else.

    Where a name stands twice, as in no tree that git has made, the last one counts.
    """

    __slots__ = ("_data", "_ends", "_oid_bytes", "_places", "_records")

    def __init__(self, data: bytes, oid_bytes: int) -> None:
        """Raises ValueError where the raw tree object `data` is cut short."""
        self._data = data
        self._oid_bytes = oid_bytes
        #: Where the entries end.
        self._ends: list[int] = []
        #: Where the entries begin and end that were asked for; of too many an object is made of each.
        self._places: dict[bytes, tuple[int, int]] = {}
        self._records: dict[bytes, bytes] | None = None
        place, end, after, found = 0, len(data), oid_bytes + 1, self._ends.append
        while place < end:
            place = data.index(b"\0", place) + after
            found(place)
        if place > end:
            raise ValueError("a tree is cut short")

    @property
    def records(self) -> dict[bytes, bytes]:
        """Each entry as git wrote it, by its name."""
        if self._records is None:
            self._records, start, behind = {}, 0, -1 - self._oid_bytes
            for end in self._ends:
                record, start = self._data[start:end], end
                self._records[record[record.index(b" ") + 1 : behind]] = record
        return self._records

    def record(self, name: bytes) -> bytes:
        """The entry of this name as git wrote it; empty where there is none."""
        if self._records is None and name not in self._places and len(self._places) < _FEW_NAMES:
            self._places[name] = self._place(name)
        if self._records is None and name in self._places:
            start, end = self._places[name]
            return self._data[start:end]
        return self.records.get(name, b"")

    def _place(self, name: bytes) -> tuple[int, int]:
        """Where the entry of this name begins and ends; nowhere is 0, 0."""
        wanted, at = b" %s\0" % name, len(self._data)
        while (at := self._data.rfind(wanted, 0, at)) >= 0:
            end = at + len(wanted) + self._oid_bytes
            # It may as well stand in an object id, or be the end of a name with a space.
            if end in self._ends:
                number = self._ends.index(end)
                start = self._ends[number - 1] if number else 0
                if self._data.index(b" ", start) == at:
                    return start, end
            at += len(wanted) - 1
        return 0, 0

    def get(self, name: bytes) -> Leaf | None:
        """The entry of this name; None where there is none."""
        return _leaf(self.record(name), self._oid_bytes)

    def leaves(self) -> dict[bytes, Leaf]:
        """All entries by name."""
        return {name: leaf for name in self.records if (leaf := self.get(name)) is not None}

    def names_once(self) -> bool:
        """Whether no two entries have the same name, as in every tree that git has made."""
        return len(self.records) == len(self._ends)

    def edited(self, edits: Mapping[bytes, bytes]) -> bytes:
        """The raw tree with these entries, by their names, in the place of its own; an empty one stands for none."""
        is_ordered = all(_sorts_alike(self.record(name), record) for name, record in edits.items())
        if self._records is not None or not is_ordered:
            records = {**self.records, **edits}
            return b"".join(records.values()) if is_ordered else _format(records)
        # Nothing but these entries changes: to sort a large tree takes longer than all else.
        parts, at = [], 0
        for (start, end), name in sorted((self._places[name], name) for name in edits):
            parts += [self._data[at:start], edits[name]]
            at = max(at, end)
        return b"".join((*parts, self._data[at:]))


def _sorts_alike(old: bytes, new: bytes) -> bool:
    """Whether an entry can take the place of another one of its name, or goes."""
    return not new or (bool(old) and is_directory(old) == is_directory(new))


def format_record(name: bytes, leaf: Leaf) -> bytes:
    """An entry as git writes it."""
    return b"%o %s\0%s" % (leaf.mode, name, bytes.fromhex(leaf.oid))


def _leaf(record: bytes, oid_bytes: int) -> Leaf | None:
    """What an entry says; None for an empty text."""
    return Leaf(int(record[: record.index(b" ")], 8), record[-oid_bytes:].hex()) if record else None


def is_directory(record: bytes) -> bool:
    """Whether an entry is a directory."""
    # Old versions of git wrote the mode with a leading zero.
    return record.startswith((b"40000 ", b"040000 "))


def _format(records: Mapping[bytes, bytes]) -> bytes:
    """The raw tree object, in git's order: a directory sorts as if its name ended in a slash."""
    order = sorted(records.items(), key=lambda item: item[0] + b"/" if is_directory(item[1]) else item[0])
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
    return name + b"/" if is_directory(record) else name, name, record


def _names_once(data: bytes, names: Collection[bytes], oid_bytes: int) -> bool:
    """Whether none of these names stands twice in a raw tree, as in every tree that git has made."""
    if len(names) > _FEW_NAMES:
        return Tree(data, oid_bytes).names_once()
    # What looks like one may be a part of another, or of an object id: then git is asked.
    return all(data.count(b" %s\0" % name) < 2 for name in names)


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
