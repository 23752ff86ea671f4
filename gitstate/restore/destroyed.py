"""Work that was destroyed before a save, and that a checkpoint before it still holds. Read-only."""

from __future__ import annotations

import time

from ..errors import GitstateError
from ..format.archive import SavesAhead, archives_of, save_ids
from ..format.manifest import Save
from ..format.names import age_key, checkpoint_ref, save_time_ns, workspace_id
from ..git import refs
from ..git.command import object_id
from ..system.stdlib import suppress
from .paths import Workspace

#: Of the kept checkpoints only so many of the newest are looked at, and none that is older than a day at the save.
_LOOKED_AT = 4
#: Of the saves of that day only so many of the newest are read: a checkpoint behind more saves than that is old.
_READ = 32
#: So many characters of a save id tell its time.
_TIME = len("20260102T030405.000006")
_RECENT_NS = 86_400 * 1_000_000_000


def find_destroyed(workspace: Workspace, save: Save) -> tuple[str, tuple[bytes, ...]] | None:
    """The newest checkpoint before `save` with work that neither the disk, nor HEAD, nor the save has, and its paths.

    A path counts where it vanished, or went back to HEAD without a commit of it since, or to what was staged. Only
    checkpoints of the same task count, not older than a day. Raises nothing: it is an offer.
    """
    with suppress(GitstateError, OSError, ValueError):
        made = save_time_ns(save.manifest.save_id) or 0
        # An id begins with its time: of thousands none has to be taken apart.
        first = time.strftime("%Y%m%dT%H%M%S", time.gmtime((made - _RECENT_NS) // 1_000_000_000))
        ids = [name for name in save_ids(workspace.repository) if first <= name[:_TIME]]
        before = age_key(save.manifest.save_id)
        ids = sorted((name for name in ids if age_key(name) < before), key=age_key, reverse=True)
        recent = archives_of(workspace.repository, ids[:_READ])
        latest = checkpoint_ref(workspace_id(workspace.repository))
        oids = [*refs.read_refs(workspace.repository, [latest]).values(), *recent.values()]
        oids = [oid for oid in oids if oid != save.archive]
        saves = SavesAhead(oids, workspace.reader, few=True)
        found: list[Save] = []
        for oid in oids:
            if len(found) > _LOOKED_AT:
                # The latest is the first, and the others are in their order.
                break
            if saves.is_other_kind(oid, "checkpoint"):
                continue
            item = saves.read(oid)
            if (
                item.manifest.kind == "checkpoint"
                and item.context.task_id in (None, save.context.task_id)
                and age_key(item.manifest.save_id) < before
                and made - (save_time_ns(item.manifest.save_id) or 0) < _RECENT_NS
            ):
                found.append(item)
        found.sort(key=lambda item: age_key(item.manifest.save_id), reverse=True)
        for item in found[:_LOOKED_AT]:
            paths = _destroyed_paths(workspace, item, save)
            if paths:
                return item.manifest.save_id, tuple(paths)
    return None


def _destroyed_paths(workspace: Workspace, old: Save, save: Save) -> list[bytes]:
    from ..git.entries import differing_paths
    from ..save.plan import PathVersions, is_undone

    repository, reader, trees = workspace.repository, workspace.reader, workspace.trees
    commit = reader.head()
    before, head = (None if oid is None else reader.tree_of(oid) for oid in (old.manifest.head, commit))
    then = old.manifest.head
    follows = then == commit or then is None
    if not follows and commit is not None and then is not None:
        follows = repository.git.succeeds("merge-base", "--is-ancestor", then, commit)
    paths = differing_paths(repository, before, old.wip_tree)
    of_old, of_before, of_head, of_save = (
        {path: leaf.oid for path, leaf in trees.lookup(root, paths).items()}
        for root in (old.wip_tree, before, head, save.wip_tree)
    )
    empty = object_id(repository.object_format, "blob", b"")
    destroyed = []
    for path in sorted(paths):
        there = workspace.disk.look(path)
        staged = old.manifest.staged.get(path)
        versions = PathVersions(
            of_old.get(path),
            there.oid,
            of_before.get(path),
            of_head.get(path),
            of_save.get(path),
            None if staged is None else staged[1],
        )
        if there.kind in ("missing", "file", "link") and is_undone(versions, empty, follows=follows):
            destroyed.append(path)
    return destroyed
