"""A pending save once more, under a new context: its work was reset away, and only the save holds it."""

from __future__ import annotations

import os

from ..errors import CorruptSave
from ..format.names import ARCHIVE_SUBJECT, NOTES, WIP_SUBJECT
from ..git.index import kept_index, link_or_copy
from ..objects.reader import commit_head
from ..objects.tree import edit_tree
from ..system.clock import now
from ..system.stdlib import TYPE_CHECKING
from .after_marker import AfterMarker, write_interrupted
from .build import Built, subject_of
from .plan import first_refs

if TYPE_CHECKING:
    from ..format.context import Context
    from ..format.manifest import Save
    from .build import Builder
    from .facts import Scene
    from .plan import SavePlan
    from .publish import Publisher
    from .request import SaveRequest


def renew(
    old: Save, plan: SavePlan, scene: Scene, request: SaveRequest, publisher: Publisher, builder: Builder
) -> tuple[Built, AfterMarker]:
    """Write and publish the save `old` under another id, context and reason. Raises CorruptSave."""
    built = _build(builder, old, scene.context, request)
    after = AfterMarker(publisher, builder, request.wait)
    note = after.build_note(built, scene.context, scene.seen.get(NOTES))
    publisher.journal_locks()
    kept = kept_index(builder.repository, old.manifest.save_id)
    if os.path.exists(kept):
        link_or_copy(kept, kept_index(builder.repository, builder.save_id))
    publisher.move(first_refs(plan, built.archive, scene.seen))
    after.move_notes(note)
    write_interrupted(builder.repository, scene.context, built)
    return built, after


def _build(builder: Builder, old: Save, context: Context, request: SaveRequest) -> Built:
    manifest = old.manifest._replace(save_id=builder.save_id, created=now(), reason=request.reason)
    archive, wip = builder.reader.commit(old.archive), builder.reader.commit(old.wip)
    if archive is None or wip is None:
        raise CorruptSave(f"the save {old.manifest.save_id} is unreadable", hint="gitstate log")
    subject = subject_of(context)
    wip_tree, wip_parents = commit_head(wip)
    new_wip = builder.commit(wip_tree, wip_parents, WIP_SUBJECT + subject, manifest.base)
    tree, parents = commit_head(archive)
    new_tree = edit_tree(tree, builder.described(context, manifest), builder.trees, builder.writer.add)
    new_archive = builder.commit(new_tree, [new_wip, *parents[1:]], ARCHIVE_SUBJECT + subject, manifest.base)
    return Built(new_wip, None, new_archive, wip_tree, manifest)
