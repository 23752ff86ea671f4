"""Changes of the notes ref by compare and swap, for retention and for what comes from another host."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from ..errors import RefChanged
from ..git import refs
from ..git.command import Git
from ..git.oid import Oid
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.pack import PackWriter
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import Leaf, TreeReader, edit_tree
from ..system import clock, files
from .names import NOTES, workspace_id

_PATIENCE = 60.0
_TRIES = 50


def drop_notes(repository: Repository, git: Git, noted: Iterable[Oid]) -> None:
    """Remove the notes on these commits, in whichever fan-out they stand. Raises RefChanged, TryAgain, GitError."""
    names = [name.encode("ascii") for oid in noted for name in _places(oid)]

    def changes(tree: Oid, trees: TreeReader) -> dict[bytes, Leaf | None]:
        return dict.fromkeys(trees.lookup(tree, names))

    _change(repository, git, "prune", (), changes)


def join_notes(repository: Repository, git: Git, theirs: Oid) -> None:
    """Add the notes of another notes commit that are not there. What both have differently stays as it is here."""
    listed = git.run("ls-tree", "-r", "-z", "--full-tree", theirs).split(b"\0")[:-1]
    found: dict[bytes, tuple[bytes, Leaf]] = {}
    for line in listed:
        info, _, path = line.partition(b"\t")
        mode, kind, oid = info.split(b" ")
        if kind == b"blob":
            found[path.replace(b"/", b"")] = (path, Leaf(int(mode, 8), oid.decode("ascii")))

    def changes(tree: Oid | None, trees: TreeReader) -> dict[bytes, Leaf | None]:
        names = [name.encode("ascii") for noted in found for name in _places(noted.decode("latin-1"))]
        held = {name.replace(b"/", b"") for name in (trees.lookup(tree, names) if tree else ())}
        return {path: leaf for noted, (path, leaf) in found.items() if noted not in held}

    _change(repository, git, "fetch", (theirs,), changes)


def _places(oid: str) -> tuple[str, str, str]:
    """Where a note on `oid` may stand: git reads any fan-out."""
    return oid, f"{oid[:2]}/{oid[2:]}", f"{oid[:2]}/{oid[2:4]}/{oid[4:]}"


def _change(
    repository: Repository,
    git: Git,
    why: str,
    parents: tuple[Oid, ...],
    changes: Callable[..., dict[bytes, Leaf | None]],
) -> None:
    lock = os.path.join(repository.common_dir, b"gitstate", b"notes-turn")
    files.make_directory(os.path.dirname(lock), top=repository.common_dir)
    with files.locked(lock, clock.Deadline(_PATIENCE), "the notes"):
        for _ in range(_TRIES):
            tip = refs.read_refs(repository, [NOTES]).get(NOTES)
            with ObjectReader(repository.git) as reader:
                trees = TreeReader(reader)
                content = reader.contents([tip])[0] if tip is not None else None
                tree = commit_head(content[1])[0] if content is not None else None
                wanted = changes(tree, trees) if tree is not None or parents else {}
                if not wanted:
                    return
                writer = PackWriter(repository.objects, repository.object_format, workspace_id(repository))
                try:
                    new_tree = edit_tree(tree, wanted, trees, writer.add)
                    lines = [f"tree {new_tree}", *(f"parent {oid}" for oid in (tip, *parents) if oid)]
                    stamp = f"gitstate <gitstate@localhost> {int(time.time())} +0000"
                    text = "\n".join([*lines, f"author {stamp}", f"committer {stamp}", "", f"Notes: {why}", ""])
                    new = writer.add("commit", text.encode("utf-8"))
                    writer.finish()
                    refs.move_refs(repository, git, [RefUpdate(NOTES, new, tip)], why)
                    return
                except RefChanged:
                    continue
                finally:
                    writer.release()
        raise RefChanged("others kept moving the notes; nothing was changed", hint="try again in a moment")
