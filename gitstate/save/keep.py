"""Which checkpoint is kept when a new one replaces it: one whose work is nowhere else.

Only the latest checkpoint has the checkpoint's ref. An agent that edits a file replaces its own work, and git's gc may
take it. But what vanished or went back to HEAD, and what another run left, would be lost with its only ref: then that
checkpoint gets the ref of a save, so that `log` lists it and `restore` finds it.
"""

from __future__ import annotations

from ..errors import GitstateError
from ..format.names import marker_ref, save_ref, save_time_ns, workspace_id
from ..git import refs
from ..git.oid import object_id
from ..git.refs import RefUpdate
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..format.context import Context
    from ..format.manifest import Save
    from ..git.oid import Oid
    from ..objects.tree import Leaf
    from .build import Builder
    from .facts import Scene

#: All of so many kept checkpoints stay, and of older ones one for each hour: that with the most changed paths.
_NEWEST = 20
_HOUR_NS = 3_600_000_000_000


class PathVersions(Record):
    """The versions of one path, by object id; None where it does not exist."""

    old: Oid | None
    """In the checkpoint that is replaced."""
    new: Oid | None
    """In the new one."""
    old_head: Oid | None
    """In the commit that HEAD was on then."""
    head: Oid | None
    """In HEAD's commit of now."""
    pending: Oid | None = None
    """In the pending save."""


def is_unheld(path: PathVersions) -> bool:
    """Whether the old checkpoint's version of a path is in no other place."""
    return path.old is not None and path.old not in (path.new, path.head, path.pending)


def is_undone(path: PathVersions, empty: Oid, *, follows: bool) -> bool:
    """Whether that version was not replaced by later work: the path vanished, went back to HEAD, or is empty now.

    `empty` is the id of the empty blob. `follows`: HEAD's commit of now contains the one of then, so that a path that
    differs between them was committed.
    """
    if not is_unheld(path):
        return False
    committed = follows and path.head != path.old_head
    return path.new == empty or (path.new in (None, path.head) and not committed)


def is_other_run(old: Context, new: Context) -> bool:
    """Whether two contexts are of different runs, sessions or tasks."""
    return _run(old) != _run(new)


def _run(context: Context) -> tuple[object, ...]:
    return (context.task_id, context.agent, context.session_id, context.boot_id, context.pid, context.pid_start)


def keeping_updates(old: Save, builder: Builder, scene: Scene) -> list[RefUpdate]:
    """The ref that keeps the checkpoint `old`, and kept ones that go for it; empty where nothing would be lost."""
    try:
        keeps = _holds_alone(old, builder, scene)
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


def _holds_alone(old: Save, builder: Builder, scene: Scene) -> bool:
    taken, manifest = scene.taken, old.manifest
    if manifest.operation is not None and taken.operation is None and taken.head == manifest.head:
        return True
    if any(why in ("ignored", "hidden") and path not in taken.raw for path, why in manifest.raw.items()):
        return True
    follows = _follows(old, builder, scene)
    empty = object_id(builder.repository.object_format, "blob", b"")
    other_run = is_other_run(old.context, scene.context)
    for path in _versions(old, builder, scene):
        if is_undone(path, empty, follows=follows) or (other_run and is_unheld(path)):
            return True
    return False


def _follows(old: Save, builder: Builder, scene: Scene) -> bool:
    before, now = old.manifest.head, scene.taken.head
    if before == now or before is None:
        return True
    return now is not None and builder.repository.git.succeeds("merge-base", "--is-ancestor", before, now)


def _versions(old: Save, builder: Builder, scene: Scene) -> Iterable[PathVersions]:
    """The versions of each path that the old checkpoint changed, in the worktree and in the index."""
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
        yield versions
        version = staged.get(path)
        if version is not None and version not in (versions.old, versions.new, versions.pending):
            yield versions._replace(old=version, new=of_index.get(path))


def _oids(leaves: Mapping[bytes, Leaf]) -> dict[bytes, Oid | None]:
    return {path: leaf.oid for path, leaf in leaves.items()}


def _entries(leaves: Mapping[bytes, Leaf | None]) -> dict[bytes, Oid | None]:
    return {path: None if leaf is None else leaf.oid for path, leaf in leaves.items()}


def _held(builder: Builder) -> dict[str, Oid]:
    """The saves of this workspace: their refs and values."""
    prefix = save_ref(workspace_id(builder.repository), "")
    if not refs.refs_are_files(builder.repository):
        return refs.list_refs(builder.repository.git, prefix)
    (found,) = refs.read_refs_below(builder.repository.common_dir, prefix)
    return {prefix + name: oid for name, oid in found.items()}


def _thinned(held: Mapping[str, Oid], builder: Builder) -> list[RefUpdate]:
    """Kept checkpoints that go, so that an agent that makes and deletes files for days fills no disk."""
    if len(held) < _NEWEST:
        return []
    found = [(ref, save) for ref, oid in sorted(held.items()) if (save := builder.earlier(oid)) is not None]
    kept = [(ref, save) for ref, save in found if save.manifest.kind == "checkpoint"][: 1 - _NEWEST]
    by_hour: dict[int, list[tuple[str, Save]]] = {}
    for ref, save in kept:
        by_hour.setdefault((save_time_ns(save.manifest.save_id) or 0) // _HOUR_NS, []).append((ref, save))
    gone = []
    for group in by_hour.values():
        if len(group) > 1:
            best = max(group, key=lambda item: _weight(item[1], builder))
            gone += [RefUpdate(ref, None, save.archive) for ref, save in group if ref != best[0]]
    return gone


def _weight(save: Save, builder: Builder) -> int:
    from ..git.entries import differing_paths

    return len(differing_paths(builder.repository, builder.tree_of(save.manifest.head), save.wip_tree))
