"""A worktree was removed with what was written in it since its last checkpoint: that goes into a checkpoint yet.

Its git directory is gone with it. So the repository that all worktrees share takes the checkpoint, under the name of
the workspace that is gone: `gitstate recover --save ID --into PATH` makes the worktree again.
"""

from __future__ import annotations

import os

from ..errors import GitstateError
from ..format.names import NOTES, checkpoint_ref, last_number, marker_ref, new_save_id, parse_trailers, save_ref
from ..git import refs
from ..git.opening import open_repository
from ..git.repository import Repository
from ..objects.pack import PackWriter
from ..objects.reader import ObjectReader
from ..save.build import Builder
from ..save.facts import Scene
from ..save.publish import Publisher
from ..snapshot.record import Snapshot
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, quote
from ..workspace.ownership import locked_workspace

if TYPE_CHECKING:
    from ..git.command import Oid
    from ..save.request import SaveRequest
    from .put_back import Destroyed, Last


def is_gone(toplevel: bytes) -> bool:
    """Whether there is no worktree any more."""
    return not os.path.lexists(os.path.join(toplevel, b".git"))


def save_gone(last: Last, destroyed: Destroyed, request: SaveRequest) -> str | None:
    """Take a checkpoint of a worktree that is gone; what was done in words, None where nothing was lost with it.

    Raises GitstateError, OSError.
    """
    repository = _repository_of(last.common_dir)
    with locked_workspace(repository, Deadline(request.wait)) as git:
        found = refs.read_refs(repository, (marker_ref(last.own), checkpoint_ref(last.own), NOTES))
        writer = PackWriter(repository.objects, repository.object_format, last.own, deflates=True)
        reader = ObjectReader(repository.git)
        publisher = None
        try:
            save_id = new_save_id(last_number(repository, last.own, lambda oid: _id_of(reader, oid)) + 1)
            builder = Builder(repository._replace(toplevel=last.toplevel), save_id, writer, reader)
            # On the disk there is nothing. What HEAD has is not lost.
            clean = Snapshot()
            clean.head_ref, clean.head = last.head_ref, _head(repository, last)
            scene = Scene(clean, last.context, (), found)
            request = request._replace(end=Deadline(request.deadline))
            if request.growth is not None:
                request.growth.is_last = True
            built = destroyed.when_gone().build(builder, request, scene)
            kept = refs.list_refs(repository.git, save_ref(last.own, ""))
            # An earlier attempt may have taken it.
            trees = {save.wip_tree for oid in kept.values() if (save := builder.earlier(oid)) is not None}
            updates = [update for update, tree in built if tree not in trees]
            if updates:
                publisher = Publisher(repository, git, save_id, writer, reader)
                publisher.journal_locks(*(update.ref for update in updates))
                publisher.move(updates)
        finally:
            reader.close()
            if publisher is not None:
                publisher.close()
            writer.release()
    names = [update.ref for update in updates] or sorted(kept)
    if not names:
        return None
    where = quote(os.fsdecode(last.toplevel))
    return f"what was in it is kept: gitstate recover --save {names[-1].rpartition('/')[2]} --into {where}"


def _id_of(reader: ObjectReader, archive: Oid) -> str | None:
    content = reader.commit(archive)
    return None if content is None else parse_trailers(content).save_id


def _head(repository: Repository, last: Last) -> Oid | None:
    """The commit that the worktree was on: the agent may have committed since."""
    if last.head_ref is None:
        return last.head
    return refs.read_refs(repository, [last.head_ref]).get(last.head_ref, last.head)


def _repository_of(common_dir: bytes) -> Repository:
    """A worktree of a repository: the main one, or the repository itself where it is bare."""
    try:
        return open_repository(os.path.dirname(common_dir))
    except GitstateError:
        return open_repository(common_dir, bare_too=True)
