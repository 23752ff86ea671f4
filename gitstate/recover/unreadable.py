"""A save that can't be read: which part, and the newest one that can."""

from __future__ import annotations

from ..errors import CorruptSave, GitError, UnsupportedSave
from ..format.archive import held_saves, read_save
from ..format.names import newest_first, parse_ref
from ..git.command import Oid
from ..git.entries import list_tree_paths
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from ..format.manifest import Save
    from .plan import Facts


def with_unreadable(facts: Facts, repository: Repository) -> Facts:
    """The facts with the tree of a save that git can't read. Only after something failed: all of them are read."""
    for save in facts.saves:
        tree = _unreadable_tree(repository, save)
        if tree is not None:
            problem = f"the save {save.manifest.save_id} is unreadable: its tree {tree[:12]} is missing or damaged"
            with ObjectReader(repository.git) as reader:
                own = facts.remote is None
                earlier = newest_readable(repository, reader, facts.marker, facts.saves[0].archive) if own else None
            return facts._replace(problem=problem, earlier=earlier, detach=False)
    return facts


def _unreadable_tree(repository: Repository, save: Save) -> Oid | None:
    for tree in dict.fromkeys([save.wip_tree, *(oid for mode, oid in save.files.values() if mode == DIRECTORY)]):
        try:
            list_tree_paths(repository.git, tree)
        except GitError as error:
            if error.status < 0:
                raise
            return tree
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
