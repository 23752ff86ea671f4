"""A save that can't be read: which part, and the newest one that can."""

from __future__ import annotations

from ..errors import CorruptSave, GitError, UnsupportedSave
from ..format.archive import held_saves, read_save
from ..format.names import newest_first, parse_ref
from ..git.command import Oid
from ..git.damaged.broken import is_readable
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Facts


def with_unreadable(facts: Facts, repository: Repository, error: GitError | CorruptSave) -> Facts:
    """The facts with the tree of a save that git can't read, where that is what an `error` is about.

    Git may fail for want of memory or room, and in a partial clone trees are missing that no save needs: then nothing
    may be said that lets somebody discard a good save.
    """
    named = f"{error.message} {getattr(error, 'stderr', b'').decode('utf-8', 'replace')}"
    for save in facts.saves:
        trees = [save.wip_tree, *(oid for mode, oid in save.files.values() if mode == DIRECTORY)]
        for tree in dict.fromkeys(trees):
            if tree in named and not is_readable(repository.git, tree, "tree"):
                problem = f"the save {save.manifest.save_id} is unreadable: its tree {tree[:12]} is missing or damaged"
                return facts._replace(problem=problem, earlier=_earlier(facts, repository), detach=False)
    return facts


def _earlier(facts: Facts, repository: Repository) -> str | None:
    if facts.remote is not None:
        return None
    with ObjectReader(repository.git) as reader:
        return newest_readable(repository, reader, facts.marker, facts.saves[0].archive)


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
