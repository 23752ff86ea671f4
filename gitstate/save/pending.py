"""What the plan must know of the save that is pending in this workspace when the next one is taken."""

from __future__ import annotations

import os

from ..format.names import PENDING, save_ref
from ..git import refs
from ..system.stdlib import TYPE_CHECKING, suppress
from .plan import PendingSave, stack_holds

if TYPE_CHECKING:
    from ..format.context import Context
    from ..format.manifest import Save
    from ..git.oid import Oid
    from ..snapshot.record import Snapshot
    from .build import Builder, Built
    from .plan import SaveFacts


def with_pending(
    facts: SaveFacts, builder: Builder, taken: Snapshot, context: Context, marker: Oid | None, replaces: str | None
) -> tuple[SaveFacts, dict[str, Save]]:
    """`facts` with what is pending, and the pending saves by id.

    `marker` is the value of this workspace's marker, `replaces` the id of an early save of the same end of a run.
    """
    foreign = None
    beneath = None
    save = builder.earlier(marker)
    if save is None:
        save, foreign = _adopted(builder, taken)
    if save is None:
        return facts, {}
    early = save.manifest.save_id == replaces
    if early:
        beneath = _beneath(builder, save, facts.workspace_id)
    facts = facts._replace(
        pending=_known(save, builder, taken, context),
        replaces_pending=early,
        beneath=None if beneath is None else _known(beneath, builder, taken, context),
        foreign_marker=foreign,
    )
    return facts, {one.manifest.save_id: one for one in (save, beneath) if one is not None}


def _adopted(builder: Builder, taken: Snapshot) -> tuple[Save | None, tuple[str, Oid] | None]:
    """The save on whose WIP commit HEAD is, and its marker, under another name of this workspace.

    A workspace is named by host and path: here one of them has changed.
    """
    if builder.is_wip(taken.head):
        for ref, oid in refs.list_refs(builder.repository.git, PENDING).items():
            save = builder.earlier(oid)
            if save is not None and _is_below(save, taken):
                return save, (ref, oid)
    return None, None


def _beneath(builder: Builder, early: Save, workspace_id: str) -> Save | None:
    """What was pending before an early save of the same end of a run."""
    if early.manifest.below is not None:
        return builder.earlier(early.manifest.below)
    if early.manifest.previous is None:
        return None
    ref = save_ref(workspace_id, early.manifest.previous)
    return builder.earlier(refs.read_refs(builder.repository, [ref]).get(ref))


def _is_below(save: Save, taken: Snapshot) -> bool:
    return taken.head == save.wip and taken.head_ref == save.manifest.head_ref


def _known(save: Save, builder: Builder, taken: Snapshot, context: Context) -> PendingSave:
    """What the plan must know of one pending save."""
    is_below = save.manifest.moves_branch and _is_below(save, taken)
    return PendingSave(
        save.manifest.save_id,
        save.archive,
        base=save.manifest.base,
        is_below=is_below,
        emptied=_is_wiped(save, builder) if is_below else _is_reset(save, builder, taken),
        same_work=save.context.work() == context.work(),
    )


def _is_wiped(save: Save, builder: Builder) -> bool:
    """Whether nothing is left at the top of a worktree whose HEAD is on the save's WIP commit."""
    top = builder.repository.toplevel
    names = [name for name in builder.trees.tree(save.wip_tree).records if not name.startswith(b".")]
    return bool(names) and not any(os.path.lexists(os.path.join(top, name)) for name in names)


def _is_reset(save: Save, builder: Builder, taken: Snapshot) -> bool:
    """Whether worktree and index are what the save stands on, though it holds work."""
    holds = save.wip_tree != builder.tree_of(save.manifest.head) or bool(save.manifest.staged)
    return holds and taken.head == save.manifest.head and not taken.dirty and not taken.nested


def holds_all(save: Save, built: Built, builder: Builder, taken: Snapshot) -> bool:
    """Whether the save on whose WIP commit HEAD is, and whose tree was built again, holds all that was built."""
    raws = builder.trees.lookup(save.files.get(b"raw", (0, None))[1], taken.raw)
    elsewhere = [path for path in save.manifest.modes if path not in built.manifest.modes]
    return stack_holds(
        save.manifest,
        built.manifest,
        unmerged=bool(taken.stages),
        same_raw=all(raws.get(path) == leaf for path, (leaf, _) in taken.raw.items()),
        permissions={path: _permissions(os.path.join(builder.repository.toplevel, path)) for path in elsewhere},
    )


def _permissions(full: bytes) -> int | None:
    with suppress(OSError):
        return os.lstat(full).st_mode & 0o777
    return None
