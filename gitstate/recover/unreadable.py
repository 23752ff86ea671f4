"""A save that can't be read: which part, and the newest one that can."""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, UnsupportedSave
from ..format.archive import held_saves, read_save
from ..format.manifest import Save
from ..format.names import marker_ref, newest_first, parse_ref
from ..git.command import Oid, is_oid
from ..git.damaged.broken import is_readable
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY, Tree
from ..system.stdlib import TYPE_CHECKING, Record, contextmanager, suppress
from .plan import way_out

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from .plan import Facts


class _Unreadable(Record):
    """What git can't read of a stack of saves: `problem`, `lost_base` and `rest` are those of `Facts`."""

    problem: str
    save: Save
    lost_base: bool
    rest: Oid | None


def with_unreadable(facts: Facts, repository: Repository, error: GitError | CorruptSave) -> Facts:
    """The facts with the tree of a save that git can't read, where that is what an `error` is about."""
    with ObjectReader(repository.git) as reader:
        found = _unreadable(repository, reader, facts.saves, error)
        if found is None:
            return facts
        is_own = facts.remote is None and not found.lost_base
        earlier = newest_readable(repository, reader, facts.marker, facts.saves[0].archive) if is_own else None
    known = facts._replace(problem=found.problem, lost_base=found.lost_base, rest=found.rest)
    return known._replace(earlier=earlier, detach=False)


@contextmanager
def unreadable_told(repository: Repository, saves: Sequence[Save]) -> Iterator[None]:
    """Raises CorruptSave in the place of an error in the block that is about a tree of these saves."""
    try:
        yield
    except GitError as error:
        with ObjectReader(repository.git) as reader:
            found = _unreadable(repository, reader, saves, error)
            if found is None:
                raise
            marker = marker_ref(found.save.manifest.workspace_id)
            earlier = newest_readable(repository, reader, marker, found.save.archive)
        hint = way_out(earlier, found.rest, lost_base=found.lost_base)
        raise CorruptSave(found.problem, hint=hint) from None


def _unreadable(
    repository: Repository, reader: ObjectReader, saves: Sequence[Save], error: GitError | CorruptSave
) -> _Unreadable | None:
    """The tree of a save that git can't read, where that is what an `error` is about; else None.

    Git may fail for want of memory or room, and in a partial clone trees are missing that no save needs: then nothing
    may be said that lets somebody discard a good save.
    """
    named = f"{error.message} {getattr(error, 'stderr', b'').decode('utf-8', 'replace')}"
    words = "".join(sign if sign in "0123456789abcdef" else " " for sign in named).split()
    lost = {oid for oid in words if is_oid(oid) and not is_readable(repository.git, oid, "tree")}
    for save in saves if lost else ():
        save_id, head = save.manifest.save_id, save.manifest.head
        own = [save.wip_tree, *(oid for mode, oid in save.files.values() if mode == DIRECTORY)]
        base: Oid | None = None
        with suppress(GitError):
            base = None if head is None else reader.tree_of(head)
        rest = save.wip if save.wip_tree not in lost else None
        # What the save did not change is of both.
        for root in (*lost.intersection(own), base, *own):
            part = None if root is None else _first_of(lost, root, reader)
            if part is not None and root == base and root not in own:
                problem = f"the save {save_id} can't be compared: {part} of the commit {head} is missing or damaged"
                return _Unreadable(problem, save, True, rest)
            if part is not None:
                problem = f"the save {save_id} is unreadable: its {part} is missing or damaged"
                return _Unreadable(problem, save, False, rest)
    return None


def _first_of(lost: Collection[Oid], root: Oid, reader: ObjectReader) -> str | None:
    """The words for the first of the `lost` trees that is a tree, or below it; None where none is."""
    level, seen = {root: b""}, {root}
    while level:
        below: dict[Oid, bytes] = {}
        for oid, path in level.items():
            if oid in lost:
                return f"tree {oid[:12]}{f' ({os.fsdecode(path)})' if path else ''}"
            try:
                found = reader.contents([oid])[0]
                leaves = {} if found is None else Tree(found[1], len(oid) // 2).leaves()
            except (GitError, ValueError):
                # Git ends at an object that it can't read.
                reader.restart()
                continue
            below.update((leaf.oid, path + name + b"/") for name, leaf in leaves.items() if leaf.mode == DIRECTORY)
        level = {oid: path for oid, path in below.items() if oid not in seen}
        seen |= level.keys()
    return None


def newest_readable(repository: Repository, reader: ObjectReader, marker: str | None, archive: Oid) -> str | None:
    """The id of the newest save that can be read beside that of `archive`, which can't; None where there is none."""
    name = None if marker is None else parse_ref(marker)
    held = held_saves(repository.git, name.workspace_id if name else None)
    for save in newest_first(held, lambda save: (save.workspace_id, save.save_id)):
        if save.archive == archive:
            continue
        try:
            return read_save(save.archive, reader).manifest.save_id
        except (CorruptSave, UnsupportedSave):
            continue
    return None
