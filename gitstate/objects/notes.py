"""Notes as data, and changes of a notes ref that lose no note.

`git notes add` passes no old value to its ref update, so of forty parallel ones a single note survives (git 2.39).
Here trees are built, and the ref is moved by compare and swap. A lock keeps those who move it from spinning; git
processes of others are met by the swap.
"""

from __future__ import annotations

import os
import time

from ..errors import RefChanged
from ..git import refs
from ..git.command import Oid
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..system import files
from ..system.clock import Deadline
from ..system.locks import lock
from ..system.stdlib import TYPE_CHECKING, Record
from .edit import edit_tree
from .pack import PackWriter
from .reader import ObjectReader, commit_head, format_commit
from .tree import DIRECTORY, GITLINK, REGULAR, Leaf, TreeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..git.command import Git

_TRIES = 50
#: How long retention and a fetch wait for the lock on the notes, in seconds.
_PATIENCE = 60.0


def note_paths(noted: Oid) -> list[bytes]:
    """The paths that a note on an object may have: git reads any mix of fan-outs (`notes.c`)."""
    name = noted.encode("ascii")
    return [name, name[:2] + b"/" + name[2:], name[:2] + b"/" + name[2:4] + b"/" + name[4:]]


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

    Its path has one level of fan-out, unless the tree has a file in its place. `stamp` is as for `format_commit`.
    The arguments are what a save has at hand: its reader, its trees, and the pack that it writes.
    """
    base = _tree_of(parent, reader)
    flat, fanned, _ = note_paths(noted)
    level = trees.tree(base).get(fanned[:2]) if base is not None else None
    path = fanned if level is None or level.mode == DIRECTORY else flat
    tree = edit_tree(base, {path: Leaf(REGULAR, blob)}, trees, write)
    return write("commit", format_commit(tree, [parent] if parent else [], stamp, f"Note on {noted}\n"))


def read_note(tip: Oid | None, noted: Oid, reader: ObjectReader, trees: TreeReader, limit: int) -> bytes | None:
    """The note on `noted` in the notes commit `tip`; None without one. Raises MissingObject past `limit` bytes."""
    for leaf in trees.lookup(_tree_of(tip, reader), note_paths(noted)).values():
        content = reader.contents([leaf.oid], limit)[0]
        return None if content is None else content[1]
    return None


class NotesRef(Record):
    """A notes ref of a repository, for who changes it."""

    repository: Repository
    ref: str
    owner: str
    """Part of the names of temporary files, so that litter has an owner: the workspace id."""

    def lock(self, wait: float) -> int:
        """The descriptor that holds the lock on the notes until it is closed. Raises TryAgain after `wait` seconds."""
        path = os.path.join(self.repository.common_dir, b"gitstate", b"notes-turn")
        files.make_directory(os.path.dirname(path), top=self.repository.common_dir)
        return lock(path, Deadline(wait), "the notes")

    def change(
        self, build: Callable[[Oid | None], Oid | None], move: Callable[[RefUpdate], None], *, wait: float
    ) -> None:
        """Move the ref to the commit that `build` makes on top of its tip; again where others were faster.

        `build` writes what it makes durably, and returns None where nothing has to change. Raises TryAgain where the
        lock is not to be had within `wait` seconds, RefChanged after 50 attempts, and what `build` and `move` raise.
        """
        lock = self.lock(wait)
        try:
            for _ in range(_TRIES):
                tip = refs.read_refs(self.repository, [self.ref]).get(self.ref)
                new = build(tip)
                if new is None:
                    return
                try:
                    return move(RefUpdate(self.ref, new, tip))
                except RefChanged:
                    continue
        finally:
            os.close(lock)
        raise RefChanged(f"{self.ref} kept changing; gave up after {_TRIES} attempts", hint="try again in a moment")

    def drop(self, git: Git, noted: Iterable[Oid]) -> None:
        """Remove the notes on these objects, in whichever fan-out they stand. Raises as `change` does."""
        paths = [path for oid in noted for path in note_paths(oid)]

        def changes(tree: Oid | None, trees: TreeReader) -> dict[bytes, Leaf | None]:
            return dict.fromkeys(trees.lookup(tree, paths))

        self._edit(git, "prune", (), changes)

    def join(self, git: Git, theirs: Oid) -> None:
        """Add those notes of another notes commit that are missing here; what both have stays. Raises as `change`.

        Its history is joined even where no note is missing, so that a push of the ref is a fast-forward.
        """
        from ..git.entries import list_tree

        found = {e.path.replace(b"/", b""): e for e in list_tree(git, theirs) if e.mode != GITLINK}

        def changes(tree: Oid | None, trees: TreeReader) -> dict[bytes, Leaf | None]:
            paths = [path for noted in found for path in note_paths(noted.decode("latin-1"))]
            held = {path.replace(b"/", b"") for path in trees.lookup(tree, paths)}
            return {entry.path: Leaf(entry.mode, entry.oid) for noted, entry in found.items() if noted not in held}

        self._edit(git, "fetch", (theirs,), changes)

    def _edit(
        self,
        git: Git,
        why: str,
        parents: tuple[Oid, ...],
        changes: Callable[[Oid | None, TreeReader], dict[bytes, Leaf | None]],
    ) -> None:
        """Move the ref to a commit in whose tree the `changes` of its tip's tree are made."""
        writers: list[PackWriter] = []

        def build(tip: Oid | None) -> Oid | None:
            with ObjectReader(self.repository.git) as reader:
                trees = TreeReader(reader)
                tree = _tree_of(tip, reader)
                wanted = changes(tree, trees)
                if not wanted and not parents:
                    return None
                writer = PackWriter(self.repository.objects, self.repository.object_format, self.owner)
                writers.append(writer)
                new_tree = edit_tree(tree, wanted, trees, writer.add)
                stamp = f"gitstate <gitstate@localhost> {int(time.time())} +0000"
                new = writer.add(
                    "commit", format_commit(new_tree, [*([tip] if tip else []), *parents], stamp, f"Notes: {why}\n")
                )
                writer.finish()
                return new

        try:
            self.change(build, lambda update: refs.move_refs(self.repository, git, [update], why), wait=_PATIENCE)
        finally:
            for writer in writers:
                writer.release()


def _tree_of(commit: Oid | None, reader: ObjectReader) -> Oid | None:
    """The tree of a notes commit; None where there is none that can be read."""
    data = None if commit is None else reader.commit(commit)
    try:
        return None if data is None else commit_head(data).tree
    except ValueError:
        return None
