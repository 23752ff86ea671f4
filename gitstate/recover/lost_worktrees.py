"""Worktrees of a run that was killed without a save: only their checkpoints hold the work that is gone from them."""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitstateError, UnsupportedSave
from ..format.archive import checkpoint_archives, pending_here, read_save, tree_of_base
from ..format.context import RUN_WORKSPACE
from ..format.names import save_time_ns, workspace_id
from ..git.opening import open_repository
from ..objects.reader import ObjectReader
from ..restore.paths import Workspace
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from ..workspace.lease import work_began_ns
from ..workspace.settings import with_filter_limit
from .facts import compare_with_checkpoint, gather

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..format.manifest import Save
    from ..git.repository import Repository

#: So many of them are named one by one.
_NAMED = 8


def lost_worktrees(repository: Repository, reader: ObjectReader) -> tuple[str, ...]:
    """Sentences that name those of the last run of a workspace, each with the command that brings its files back."""
    found = [words for save in _of_run(repository, reader) if (words := _words(repository, reader, save))]
    more = f"{len(found) - _NAMED} more worktrees of the run have lost files: gitstate log --all"
    return (*found[:_NAMED], *([more] if len(found) > _NAMED else []))


def _of_run(repository: Repository, reader: ObjectReader) -> Iterator[Save]:
    """The latest checkpoints of the other worktrees of the last run in which no save is pending."""
    here, began = text_to_json(os.fsdecode(repository.toplevel)), work_began_ns(repository)
    known = {workspace_id(repository), *pending_here(repository)}
    for name, archive in checkpoint_archives(repository.git).items():
        if name in known:
            continue
        try:
            save = read_save(archive, reader)
        except (CorruptSave, UnsupportedSave):
            # Git ends at an object that it can't read.
            reader.restart()
            continue
        made = save_time_ns(save.manifest.save_id)
        is_of_it = began is not None and made is not None and made >= began
        if is_of_it and save.context.extra.get(RUN_WORKSPACE) == here:
            yield save


def _words(repository: Repository, reader: ObjectReader, save: Save) -> str:
    """The sentence on one worktree; empty where nothing of it is lost."""
    manifest, path = save.manifest, save.context.workspace_path
    has_work = save.wip_tree != tree_of_base(reader, manifest.head) or manifest.staged or manifest.operation
    if path is None or not has_work:
        return ""
    if not os.path.lexists(os.path.join(os.fsencode(path), b".git")):
        what = f"the run's worktree {path} is gone, and its latest checkpoint holds uncommitted work"
        top = quote(os.fsdecode(repository.toplevel))
        return f"{what}: gitstate -C {top} recover --save {manifest.save_id} --into {quote(path)}"
    if not _has_lost(os.fsencode(path), repository):
        return ""
    what = f"the files of the run's worktree {path} are gone, and its latest checkpoint holds them"
    return f"{what}: gitstate -C {quote(path)} recover --save {manifest.save_id}"


def _has_lost(path: bytes, repository: Repository) -> bool:
    """Whether the files of a worktree are gone since its latest checkpoint, and nobody works there."""
    with suppress(GitstateError, OSError):
        one = with_filter_limit(open_repository(path))
        if one.common_dir != repository.common_dir:
            return False
        with ObjectReader(one.git) as reader:
            facts = gather(one, reader)
            state = compare_with_checkpoint(Workspace.of(one, one.git, reader), facts)
        return state == "gone" and facts.owner not in ("lives", "ours")
    return False
