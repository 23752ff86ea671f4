"""Which earlier checkpoints stay when a new one takes the place of the latest: kept ones, and those of the history."""

from __future__ import annotations

import os
import time

from ..errors import CorruptSave, GitstateError, UnsupportedSave
from ..format.names import age_key, history_ref, marker_ref, save_ref, save_time_ns, workspace_id
from ..git import refs
from ..git.command import object_id
from ..git.refs import RefUpdate
from ..system.stdlib import TYPE_CHECKING
from ..workspace import settings
from .plan import PathVersions, is_due, is_other_run, is_undone, is_unheld, surplus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..format.manifest import Save
    from ..git.command import Oid
    from ..git.repository import Repository
    from ..objects.tree import Leaf
    from .build import Builder
    from .facts import Scene

#: All of so many kept checkpoints stay, and of older ones one for each hour: that with the most changed paths.
_NEWEST = 20
_HOUR_NS = 3_600_000_000_000
#: So many checkpoints of the history go at once: to delete a ref git rewrites `packed-refs`.
_GO_AT_ONCE = 8
#: The newest saves, so many of them, are looked at for kept checkpoints. Where these are few among them, others take
#: the disk.
_LOOKED_AT = 200


def keeping_updates(old: Save, builder: Builder, scene: Scene) -> list[RefUpdate]:
    """The ref that keeps the checkpoint `old`, and kept ones that go for it; empty where nothing would be lost."""
    try:
        keeps = is_only_copy(old, builder, scene)
    except GitstateError:
        # An object is missing: nobody can tell what it holds.
        builder.reader.restart()
        keeps = True
    if not keeps:
        return []
    own = workspace_id(builder.repository)
    ref = save_ref(own, old.manifest.save_id)
    held = {name: oid for name, oid in _held(builder).items() if oid}
    if ref in held:
        # A killed transaction made it already.
        return []
    return [RefUpdate(ref, old.archive, None), *_thinned(held, builder)]


def history_updates(old: Save, builder: Builder) -> list[RefUpdate]:
    """The ref by which the checkpoint `old` joins the history, and those of it that go; empty where it is not due."""
    repository = builder.repository
    prefix = history_ref(workspace_id(repository), "")
    repository, _ = settings.with_defaults(repository, settings.OF_HISTORY)
    if old.manifest.kind != "checkpoint" or not settings.boolean(repository, "history"):
        return []
    interval = settings.number(repository, "historyInterval")
    save_id = old.manifest.save_id
    # As a rule it is not due, and the newest ones are loose refs: their names alone tell.
    if not is_due(save_id, _names(repository, prefix), interval):
        return []
    held = {ref.removeprefix(prefix): oid for ref, oid in _refs_below(builder, prefix).items() if oid}
    if save_id in held or not is_due(save_id, held, interval):
        # A killed transaction made it already, or git has packed the newest ones.
        return []
    gone = surplus(held, time.time_ns(), interval)
    leaving = gone if len(gone) >= _GO_AT_ONCE else []
    return [
        RefUpdate(prefix + save_id, old.archive, None),
        *(RefUpdate(prefix + name, None, held[name]) for name in leaving),
    ]


def _names(repository: Repository, prefix: str) -> list[str]:
    try:
        return [os.fsdecode(name) for name in os.listdir(os.path.join(repository.common_dir, os.fsencode(prefix)))]
    except OSError:
        return []


def _held(builder: Builder) -> dict[str, Oid]:
    """The saves of this workspace: their refs and values."""
    return _refs_below(builder, save_ref(workspace_id(builder.repository), ""))


def _refs_below(builder: Builder, prefix: str) -> dict[str, Oid]:
    if not refs.refs_are_files(builder.repository):
        return refs.list_refs(builder.repository.git, prefix)
    (found,) = refs.read_refs_below(builder.repository.common_dir, prefix)
    return {prefix + name: oid for name, oid in found.items()}


def _thinned(held: Mapping[str, Oid], builder: Builder) -> list[RefUpdate]:
    """Kept checkpoints that go, so that an agent that makes and deletes files for days fills no disk.

    One more is kept each time: only the hour of that which is no longer among the newest can hold too many.
    """
    if len(held) < _NEWEST:
        return []
    from ..format.archive import SavesAhead

    newest = sorted(held, key=lambda ref: age_key(ref.rpartition("/")[2]), reverse=True)[:_LOOKED_AT]
    saves = SavesAhead([held[ref] for ref in newest], builder.reader)
    mine = 0
    hour: int | None = None
    group: list[tuple[str, Save]] = []
    for ref in newest:
        try:
            save = saves.read(held[ref])
        except (CorruptSave, UnsupportedSave):
            # `git cat-file` ends at an object that it can't read.
            builder.reader.restart()
            continue
        if save.manifest.kind != "checkpoint" or save.manifest.label is not None:
            continue
        mine += 1
        if mine >= _NEWEST:
            its_hour = (save_time_ns(save.manifest.save_id) or 0) // _HOUR_NS
            if hour not in (None, its_hour):
                break
            hour = its_hour
            group.append((ref, save))
    # The oldest of those that changed the most.
    best = max(reversed(group), key=lambda item: _weight(item[1], builder), default=None) if len(group) > 1 else None
    return [RefUpdate(ref, None, save.archive) for ref, save in reversed(group) if best and ref != best[0]]


def _weight(save: Save, builder: Builder) -> int:
    from ..git.entries import differing_paths

    return len(differing_paths(builder.repository, builder.tree_of(save.manifest.head), save.wip_tree))


# -- what only one checkpoint has


def is_only_copy(old: Save, builder: Builder, scene: Scene) -> bool:
    """Whether the checkpoint `old` holds work that would be lost with its only ref. Raises GitstateError.

    An agent that edits a file replaces its own work. But what vanished or went back to HEAD, and what another run left,
    is in no other place.
    """
    taken, manifest = scene.taken, old.manifest
    if manifest.label is not None:
        return True
    if manifest.operation is not None and taken.operation is None and taken.head == manifest.head:
        return True
    if any(why in ("ignored", "hidden") and path not in taken.raw for path, why in manifest.raw.items()):
        return True
    follows = _follows(old, builder, scene)
    empty = object_id(builder.repository.object_format, "blob", b"")
    other_run = is_other_run(old.context, scene.context)
    for _, versions in _versions(old, builder, scene):
        if is_undone(versions, empty, follows=follows) or (other_run and is_unheld(versions)):
            return True
    return False


def undone_work(old: Save, builder: Builder, scene: Scene) -> dict[bytes, Leaf]:
    """Path → file, of those in the checkpoint `old` that vanished or went back to HEAD. Raises GitstateError."""
    follows = _follows(old, builder, scene)
    empty = object_id(builder.repository.object_format, "blob", b"")
    found = [path for path, versions in _versions(old, builder, scene) if is_undone(versions, empty, follows=follows)]
    return builder.trees.lookup(old.wip_tree, dict.fromkeys(found))


def _follows(old: Save, builder: Builder, scene: Scene) -> bool:
    before, now = old.manifest.head, scene.taken.head
    if before == now or before is None:
        return True
    return now is not None and builder.repository.git.succeeds("merge-base", "--is-ancestor", before, now)


def _versions(old: Save, builder: Builder, scene: Scene) -> Iterable[tuple[bytes, PathVersions]]:
    """Each path that the old checkpoint changed, in the worktree and in the index, with its versions."""
    from ..git.entries import differing_paths

    taken, trees = scene.taken, builder.trees
    old_head, head = builder.tree_of(old.manifest.head), builder.tree_of(taken.head)
    changed = differing_paths(builder.repository, old_head, old.wip_tree)
    staged = {path: entry[1] for path, entry in old.manifest.staged.items() if entry is not None}
    paths = {*changed, *staged}
    pending = builder.earlier(scene.seen.get(marker_ref(workspace_id(builder.repository))))
    roots = (old.wip_tree, old_head, head, None if pending is None else pending.wip_tree)
    of_old, of_old_head, of_head, of_pending = (_oids(trees.lookup(root, paths)) for root in roots)
    of_index = {**of_head, **_entries(taken.staged)}
    of_new = {**of_index, **_entries(taken.worktree)}
    for path in paths:
        versions = PathVersions(
            of_old.get(path), of_new.get(path), of_old_head.get(path), of_head.get(path), of_pending.get(path)
        )
        version = staged.get(path)
        yield path, versions._replace(staged=version)
        if version is not None and version not in (versions.old, versions.new, versions.pending):
            yield path, versions._replace(old=version, new=of_index.get(path))


def _oids(leaves: Mapping[bytes, Leaf]) -> dict[bytes, Oid | None]:
    return {path: leaf.oid for path, leaf in leaves.items()}


def _entries(leaves: Mapping[bytes, Leaf | None]) -> dict[bytes, Oid | None]:
    return {path: None if leaf is None else leaf.oid for path, leaf in leaves.items()}
