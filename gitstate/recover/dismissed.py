"""Resolves a pending save without a recovery (`--dismiss`); the fact that it was never recovered is a ref."""

from __future__ import annotations

from ..errors import NeedsPerson
from ..format.archive import pending_archive, unfinished_here
from ..format.names import dismissed_ref, own_marker, workspace_id
from ..git import refs
from ..git.command import Git, Oid
from ..git.opening import open_repository
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..system.clock import Deadline
from ..workspace.damage import make_again
from ..workspace.live_context import forget_pending
from ..workspace.ownership import clear_journal, locked_workspace, ref_locks, write_journal
from .facts import gather
from .request import UNFINISHED_HINT, RecoverRequest, RecoverResult, hints_for, locate, with_messages
from .unfinished import due, move


def dismiss(path: bytes, request: RecoverRequest) -> RecoverResult:
    """Mark the pending save as resolved, without touching any file, index or branch.

    The save stays in the log, and retention takes it only by its name. Raises NeedsPerson where HEAD is its WIP commit,
    for that is to be unwound first.
    """
    repository = open_repository(path)
    with (
        hints_for(repository.toplevel),
        locked_workspace(repository, Deadline(request.wait)) as git,
        ObjectReader(repository.git) as reader,
    ):
        if request.save_id is not None:
            from .fetched import dismiss_fetched

            return dismiss_fetched(repository, git, request.save_id, request)
        archive = pending_archive(repository)
        if archive is None and not request.dry_run and make_again(repository, git, reader):
            archive = pending_archive(repository)
        if archive is None:
            return _dismiss_unfinished(repository, git, dry_run=request.dry_run)
        facts = gather(repository, reader)
        if any(save.wip == facts.head and save.manifest.moves_branch for save in facts.saves):
            raise NeedsPerson("HEAD is the WIP commit of the pending save", hint="gitstate recover")
        save_id = facts.saves[0].manifest.save_id if facts.saves else None
        if not request.dry_run:
            marker = own_marker(repository)
            updates = [RefUpdate(marker, None, archive)]
            if save_id is not None:
                # First the fact that it was never recovered: a kill between the two leaves it pending.
                updates.insert(0, dismissed(repository, save_id, archive))
            write_journal(repository, ref_locks(repository, [update.ref for update in updates]))
            refs.move_refs(repository, git, updates, "dismissed")
            clear_journal(repository)
            forget_pending(repository.git_dir)
        left = bool(due(repository))
    message = "the save is no longer pending; it stays in the log"
    result = RecoverResult(repository.toplevel, "dismissed", message, save_id=save_id, dry_run=request.dry_run)
    if not left:
        return result
    hint = locate(UNFINISHED_HINT, repository.toplevel)
    return with_messages(result, "repositories inside are not recovered yet from an earlier one")._replace(hint=hint)


def _dismiss_unfinished(repository: Repository, git: Git, *, dry_run: bool) -> RecoverResult:
    """Give up the repositories inside that are not back from a save that was recovered: retention keeps that save."""
    found = unfinished_here(repository)
    if not found:
        return RecoverResult(repository.toplevel, "nothing", "no pending save")
    save_ids = {ref.rpartition("/")[2].rpartition(".")[0]: oid for ref, oid in found.items()}
    if not dry_run:
        # Git makes no ref for an object that is missing.
        there = {
            save_id: oid for save_id, oid in save_ids.items() if git.run("cat-file", "-t", oid, ok_codes=range(256))
        }
        updates = [dismissed(repository, save_id, oid) for save_id, oid in there.items()]
        updates = [update for update in updates if update.new != update.old]
        # First the fact that not all was recovered, as above.
        move(repository, git, [*updates, *(RefUpdate(ref, None, oid) for ref, oid in found.items())], "dismissed")
    message = f"the repositories inside are not tried again; they stay in the log: {', '.join(sorted(save_ids))}"
    return RecoverResult(repository.toplevel, "dismissed", message, save_id=max(save_ids), dry_run=dry_run)


def dismissed(repository: Repository, save_id: str, new: Oid | None) -> RefUpdate:
    """Set the fact that a save was dismissed, or delete it where `new` is None."""
    ref = dismissed_ref(workspace_id(repository), save_id)
    return RefUpdate(ref, new, refs.read_refs(repository, [ref]).get(ref))
