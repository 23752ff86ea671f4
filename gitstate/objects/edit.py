"""New trees from old ones: only the directories that change are written."""

from __future__ import annotations

from ..git.command import Oid
from ..system.stdlib import TYPE_CHECKING
from .tree import DIRECTORY, Leaf, Tree, format_record, is_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .tree import TreeReader


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
            data = level.data()
            oid = write("tree", data) if data else None
            if not stack:
                return oid
            stack[-1].set_tree(level.name, oid)


class _Level:
    """One directory while its tree is built: its old tree, what becomes of it, and the children that are left to do."""

    __slots__ = ("edits", "left", "name", "old")

    def __init__(self, node: _Node, old: Tree | None, name: bytes) -> None:
        self.name = name
        self.old = Tree(b"", 20) if old is None else old
        #: Entries by name; empty where there is to be none.
        self.edits: dict[bytes, bytes] = {}
        self.left = iter(node.children.items())

    def data(self) -> bytes:
        """The raw tree object; empty for a directory with nothing in it."""
        return self.old.edited(self.edits)

    def old_tree(self, name: bytes) -> Oid | None:
        """The old tree of this name; None where there was none."""
        old = self.old.get(name)
        return old.oid if old is not None and old.mode == DIRECTORY else None

    def set_leaf(self, name: bytes, child: _Node) -> bool:
        """Set or remove what the changes name here; returns whether they name anything below `name`."""
        if child.touched and child.leaf is not None:
            self.edits[name] = format_record(name, child.leaf)
            return False
        if child.touched and (old := self.old.record(name)) and not is_directory(old):
            self.edits[name] = b""
        return bool(child.children)

    def set_tree(self, name: bytes, oid: Oid | None) -> None:
        """Set the new tree of this name. Where it is empty an old one goes; a file that was not named stays."""
        if oid is not None:
            self.edits[name] = format_record(name, Leaf(DIRECTORY, oid))
        elif self.old_tree(name) is not None:
            self.edits[name] = b""
