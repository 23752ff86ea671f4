"""Reads what a save wrote: the archive commit, and from it the whole save (see `model` for the format)."""

from __future__ import annotations

import os

from . import refs
from .errors import CorruptSave, GitError, GitstateError
from .git import ObjectReader, Oid, Repository, is_oid
from .json_data import loads
from .light import TYPE_CHECKING, suppress
from .model import (
    MAX_CONTEXT,
    MAX_MANIFEST,
    Context,
    Save,
    context_from_json,
    is_safe_path,
    manifest_from_json,
    text_to_json,
)
from .tree import Tree, TreeReader

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


def waiting_id(repository: Repository) -> str | None:
    """The id of the save that waits in this workspace, None where none is found. Never raises.

    Asked where something has just failed, so refs come first: they tell it even where git can read no object.
    """
    own = refs.workspace_id(repository)
    with suppress(GitstateError, OSError):
        archive = refs.read_refs(repository, [refs.marker_ref(own)]).get(refs.marker_ref(own))
        if archive is not None:
            (saves,) = refs.read_names(repository.common_dir, refs.save_ref(own, ""))
            named = [save_id for save_id, oid in saves.items() if oid == archive]
            return named[0] if named else _id_of(repository, archive)
    return None


def checkpoint_id(repository: Repository) -> str | None:
    """The id of this workspace's latest checkpoint, None where none is found. Never raises."""
    ref = refs.checkpoint_ref(refs.workspace_id(repository))
    with suppress(GitstateError, OSError):
        archive = refs.read_refs(repository, [ref]).get(ref)
        return None if archive is None else _id_of(repository, archive)
    return None


def _id_of(repository: Repository, archive: Oid) -> str:
    with ObjectReader(repository.git) as reader:
        return read_save(archive, reader).manifest.save_id


def commit_head(data: bytes) -> tuple[Oid, list[Oid]]:
    """Tree and parents of a raw commit. Raises ValueError where it is none."""
    tree, parents = "", []
    for line in data.split(b"\n\n", 1)[0].split(b"\n"):
        word, _, value = line.partition(b" ")
        if word == b"tree":
            tree = value.decode("ascii")
        elif word == b"parent":
            parents.append(value.decode("ascii"))
    if not is_oid(tree) or not all(is_oid(parent) for parent in parents):
        raise ValueError("not a commit")
    return tree, parents


def tree_of(reader: ObjectReader, commit: Oid | None) -> Oid | None:
    """The tree of a commit that a save stands on; None where it stands on none. Raises CorruptSave."""
    if commit is None:
        return None
    content = reader.contents([commit])[0]
    if content is None or content[0] != "commit":
        raise CorruptSave(f"the commit {commit} that the save stands on is missing", hint="git fsck")
    return commit_head(content[1])[0]


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
