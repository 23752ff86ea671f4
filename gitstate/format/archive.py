"""Reads what a save wrote: the archive commit, and from it the whole save (see `model` for the format)."""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, GitstateError
from ..git import refs
from ..git.oid import Oid
from ..git.repository import Repository
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import Tree, TreeReader, is_safe_path
from ..system.jsonio import loads, text_to_json
from ..system.stdlib import TYPE_CHECKING, suppress
from . import names
from .context import MAX_CONTEXT, Context, context_from_json
from .manifest import MAX_MANIFEST, Save, manifest_from_json

if TYPE_CHECKING:
    from collections.abc import Iterable


def read_save(archive: Oid, reader: ObjectReader) -> Save:
    """A save as the archive commit holds it. Raises CorruptSave or UnsupportedSave."""
    try:
        commit = reader.contents([archive], MAX_CONTEXT)[0]
        if commit is None or commit[0] != "commit":
            raise CorruptSave(f"the archive {archive} is missing or no commit")
        tree, parents = commit_head(commit[1])
        if not parents:
            raise CorruptSave(f"the archive {archive} names no WIP commit")
        wip = reader.contents(parents[:1], MAX_CONTEXT)[0]
        if wip is None or wip[0] != "commit":
            raise CorruptSave(f"the WIP commit {parents[0]} is missing")
        content = reader.contents([tree])[0]
        if content is None or content[0] != "tree":
            raise CorruptSave(f"the archive's tree {tree} is missing")
        entries = Tree(content[1], len(tree) // 2).leaves()

        def load(name: bytes, limit: int) -> bytes | None:
            leaf = entries.get(name)
            found = None if leaf is None else reader.contents([leaf.oid], limit)[0]
            return None if found is None else found[1]

        manifest = manifest_from_json(loads(load(b"manifest.json", MAX_MANIFEST), MAX_MANIFEST, "the manifest"))
        try:
            context = context_from_json(loads(load(b"context.json", MAX_CONTEXT), MAX_CONTEXT, "the context"))
        except (CorruptSave, GitError, ValueError):
            context = Context()
        plain = {name: (leaf.mode, leaf.oid) for name, leaf in entries.items()}
        return Save(archive, parents[0], commit_head(wip[1])[0], plain, context, manifest)
    except (GitError, ValueError, IndexError) as error:
        raise CorruptSave(f"the save {archive[:12]} can't be read: {text_to_json(str(error))[:200]}") from None


def pending_save_id(repository: Repository) -> str | None:
    """The id of the save that waits in this workspace, None where none is found. Never raises.

    Asked where something has just failed, so refs come first: they tell it even where git can read no object.
    """
    own = names.workspace_id(repository)
    with suppress(GitstateError, OSError):
        archive = refs.read_refs(repository, [names.marker_ref(own)]).get(names.marker_ref(own))
        if archive is not None:
            (saves,) = refs.read_refs_below(repository.common_dir, names.save_ref(own, ""))
            named = [save_id for save_id, oid in saves.items() if oid == archive]
            return named[0] if named else _id_of(repository, archive)
    return None


def checkpoint_save_id(repository: Repository) -> str | None:
    """The id of this workspace's latest checkpoint, None where none is found. Never raises."""
    ref = names.checkpoint_ref(names.workspace_id(repository))
    with suppress(GitstateError, OSError):
        archive = refs.read_refs(repository, [ref]).get(ref)
        return None if archive is None else _id_of(repository, archive)
    return None


def _id_of(repository: Repository, archive: Oid) -> str:
    with ObjectReader(repository.git) as reader:
        return read_save(archive, reader).manifest.save_id


def stage_paths(repository: Repository, trees: TreeReader, save: Save, stage: bytes) -> list[bytes]:
    """The paths that are unmerged in a save at one stage (b"1", b"2" or b"3")."""
    entry = save.files.get(b"stages")
    leaf = None if entry is None else trees.tree(entry[1]).get(stage)
    if leaf is None:
        return []
    out = repository.git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", leaf.oid)
    return out.split(b"\0")[:-1]


def refuse_unsafe(paths: Iterable[bytes]) -> None:
    """Raises CorruptSave where one of the paths is one that git would refuse to check out."""
    for path in paths:
        if not is_safe_path(path):
            raise CorruptSave(f"a save names a path that git would refuse: {os.fsdecode(path)}", hint="gitstate log")
