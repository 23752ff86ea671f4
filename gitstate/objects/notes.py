"""Notes as data: the tree of a notes ref with one note more.

`git notes add` passes no old value to its ref update, so of forty parallel ones a single note survives (git 2.39).
Here the tree is built, and `save` moves the ref by compare and swap.
"""

from __future__ import annotations

from ..git.oid import Oid
from ..system.stdlib import TYPE_CHECKING
from .reader import ObjectReader
from .tree import DIRECTORY, REGULAR, Leaf, TreeReader, edit_tree

if TYPE_CHECKING:
    from collections.abc import Callable


def add_note(
    parent: Oid | None,
    noted: Oid,
    blob: Oid,
    stamp: str,
    reader: ObjectReader,
    trees: TreeReader,
    write: Callable[[str, bytes], Oid],
) -> Oid:
    """The notes commit on top of `parent` that gives `noted` the note `blob`.

    Notes stand under `ab/cdef…` here; git reads any mix of fan-outs (`notes.c`). `stamp` is the identity and time for
    the commit's author and committer lines.
    """
    base = None if parent is None else _tree_of(parent, reader)
    path = f"{noted[:2]}/{noted[2:]}".encode("ascii")
    if base is not None:
        below = trees.tree(base).get(path[:2])
        if below is not None and below.mode != DIRECTORY:
            path = noted.encode("ascii")
    tree = edit_tree(base, {path: Leaf(REGULAR, blob)}, trees, write)
    lines = [f"tree {tree}", *([f"parent {parent}"] if parent else []), f"author {stamp}", f"committer {stamp}"]
    return write("commit", ("\n".join(lines) + f"\n\nNote on {noted}\n").encode())


def read_note(tip: Oid | None, noted: Oid, reader: ObjectReader, trees: TreeReader, limit: int) -> bytes | None:
    """The note on `noted` in the notes commit `tip`; None without one. Raises GitError past `limit` bytes."""
    if tip is None:
        return None
    base = _tree_of(tip, reader)
    names = [noted, f"{noted[:2]}/{noted[2:]}", f"{noted[:2]}/{noted[2:4]}/{noted[4:]}"]
    found = trees.lookup(base, [name.encode("ascii") for name in names])
    for leaf in found.values():
        content = reader.contents([leaf.oid], limit)[0]
        return None if content is None else content[1]
    return None


def _tree_of(commit: Oid, reader: ObjectReader) -> Oid | None:
    found = reader.contents([commit])[0]
    if found is None or not found[1].startswith(b"tree "):
        return None
    return found[1][5 : 5 + len(commit)].decode("ascii")
