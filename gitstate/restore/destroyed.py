"""Work that was destroyed before a save, and that a checkpoint before it still holds. Read-only."""

from __future__ import annotations

import time

from ..errors import GitError, GitstateError
from ..format.archive import SavesAhead, archives_of, save_ids
from ..format.manifest import Save
from ..format.names import age_key, checkpoint_ref, save_time_ns, workspace_id
from ..git import refs
from ..git.command import Oid, object_id
from ..system.stdlib import suppress
from .paths import Workspace

#: Of the kept checkpoints only so many of the newest are looked at, and none that is older than a day at the save.
_LOOKED_AT = 4
#: As a rule those of so many are enough, which are read together.
_AT_ONCE = 8
#: Of the saves of that day only so many of the newest are read: a checkpoint behind more saves than that is old.
_READ = 32
_RECENT_NS = 86_400 * 1_000_000_000


class Destroyed:
    """Finds the newest checkpoint before a save with work that neither the disk, nor HEAD, nor the save has.

    A path counts where it vanished, or went back to HEAD without a commit of it since, or to what was staged. Only
    checkpoints of the same task count, not older than a day. Raises nothing: it is an offer.
    """

    def __init__(self, workspace: Workspace, save: Save) -> None:
        """Git gets ready what it says of the saves and checkpoints before `save`, while the caller goes on."""
        self._workspace = workspace
        self._save = save
        self._made = save_time_ns(save.manifest.save_id) or 0
        self._before = age_key(save.manifest.save_id)
        #: The archives of the latest checkpoint, and then of the newest saves before this one, in that order.
        self._oids: list[Oid] = []
        with suppress(GitstateError, OSError, ValueError):
            self._oids = self._recent()
        self._saves = SavesAhead(self._oids, workspace.reader, few=True)
        with suppress(GitError):
            self._saves.foresee()

    def _recent(self) -> list[Oid]:
        repository = self._workspace.repository
        # An id begins with its time: of thousands none has to be taken apart.
        first = time.strftime("%Y%m%dT%H%M%S", time.gmtime((self._made - _RECENT_NS) // 1_000_000_000))
        aged = sorted(map(age_key, save_ids(repository, since=first)), reverse=True)
        ids = [key[-1] for key in aged if key < self._before]
        latest = checkpoint_ref(workspace_id(repository))
        oids = [*refs.read_refs(repository, [latest]).values(), *archives_of(repository, ids[:_READ]).values()]
        return [oid for oid in oids if oid != self._save.archive]

    def find(self) -> tuple[str, tuple[bytes, ...]] | None:
        """The id of that checkpoint and its paths; None where there is none."""
        with suppress(GitstateError, OSError, ValueError):
            found = sorted(self._checkpoints(), key=lambda item: age_key(item.manifest.save_id), reverse=True)
            for item in found[:_LOOKED_AT]:
                paths = _destroyed_paths(self._workspace, item, self._save)
                if paths:
                    return item.manifest.save_id, tuple(paths)
        return None

    def _checkpoints(self) -> list[Save]:
        found: list[Save] = []
        oids = [oid for oid in self._oids if not self._saves.is_other_kind(oid, "checkpoint")]
        for place, oid in enumerate(oids):
            if len(found) > _LOOKED_AT:
                # The latest is the first, and the others are in their order.
                break
            if place % _AT_ONCE == 0:
                self._saves.expect(oids[place : place + _AT_ONCE])
            item = self._saves.read(oid)
            if (
                item.manifest.kind == "checkpoint"
                and item.context.task_id in (None, self._save.context.task_id)
                and age_key(item.manifest.save_id) < self._before
                and self._made - (save_time_ns(item.manifest.save_id) or 0) < _RECENT_NS
            ):
                found.append(item)
        return found


def gone_since(workspace: Workspace, checkpoint: Save) -> tuple[str, tuple[bytes, ...]] | None:
    """The same for the latest checkpoint of a run that ended without a save."""
    with suppress(GitstateError, OSError, ValueError):
        paths = _destroyed_paths(workspace, checkpoint, None)
        return (checkpoint.manifest.save_id, tuple(paths)) if paths else None
    return None


def _destroyed_paths(workspace: Workspace, old: Save, save: Save | None) -> list[bytes]:
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
    branch = old.manifest.head_ref
    tip = None if branch is None else refs.read_refs(repository, [branch]).get(branch)
    # Work that was committed there is not lost if HEAD is elsewhere now.
    committed = None if tip in (None, then, commit) else reader.tree_of(tip)
    of_old, of_before, of_head, of_save, of_branch = (
        {path: leaf.oid for path, leaf in trees.lookup(root, paths).items()}
        for root in (old.wip_tree, before, head, None if save is None else save.wip_tree, committed)
    )
    empty = object_id(repository.object_format, "blob", b"")
    destroyed = []
    for path in sorted(paths):
        if path in of_branch and of_branch[path] == of_old.get(path):
            continue
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
