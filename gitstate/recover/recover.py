"""Brings a workspace back: facts → verdict → the steps below, the marker last.

Each step looks first and does nothing where it is done already, so recovery may be killed anywhere and run again.

| step | durable after it | a second run after a kill there |
|---|---|---|
| 1. clear up after a holder that was killed (`owned`) | nothing new | does the same |
| 2. facts, verdict; remove locks whose owner is provably gone | nothing new | comes to the same verdict |
| 3. set an index aside that git can't read | nothing new | finds no index, as after a wipe |
| 4. journal: the ref locks that a kill may leave | nothing new | removes those locks (step 1) |
| 5. safety save, if a file will be written or deleted, and HEAD lacks it | the files of now | saves what differs |
| 6. delete files, then write files: content, one sync, places | each file that was placed | leaves what is as saved |
| 7. operation files, sparse patterns, where missing | each of them | writes those still missing |
| 8. index, by one rename under its lock | the file, not its name | finds the saved entries, leaves them |
| 9. missing tracked files, directories, permissions | each file that was written | does the rest |
| 10. branch, from the commit it was seen on | the ref's file, not its name | finds it moved |
| 11. stat data that step 8 lacked; sync of all that was found right | the whole worktree | syncs again |
| 12. nested repositories, each by these steps | each of them | finds nothing pending in those done |
| 13. `active_state.json` and the live context; sync of directories | both, index, branch | writes them again |
| 14. delete the marker: **the commit point** | the save is no longer pending | has nothing to do |
| 15. clear the journal | nothing new | clears it (step 1) |

A path that could not be restored for a reason that can be mended keeps the marker: then step 14 is left out.
"""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, NotAWorkspace
from ..format.archive import pending_in_files, tree_of_base
from ..format.names import branch_name, workspace_id
from ..git import gitdir, refs
from ..git.index import looks_torn
from ..git.opening import open_repository
from ..git.permitted import without_filters
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..restore.choices import Choice, Outcome, close_directories, is_all_in, needs_safety_save
from ..restore.paths import SavedPaths, Workspace, paths_with
from ..system.clock import Deadline
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, quote
from ..workspace.lease import wait_for_last_save
from ..workspace.live_context import with_measured_fields
from ..workspace.ownership import clear_journal, give_back, locked_workspace, ref_locks, write_journal
from ..workspace.settings import require, with_filter_limit
from .facts import compare_with_checkpoint, gather, whole_copies, with_damage
from .plan import Facts, Verdict, conclude, decide, final_verdict, marker_goes, with_checkpoint
from .request import SETTINGS, RecoverRequest, RecoverResult, hints_for, located, with_messages

# The rest is imported where it is needed: a loop asks at every start, and as a rule there is nothing to recover.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..git.command import Git
    from ..git.opening import Opening
    from ..restore.choices import Target
    from ..restore.index import IndexRecovery, Written
    from .act.branch import BranchMover
    from .act.report import Report
    from .request import DecidedVerdict


def recover(
    path: bytes, request: RecoverRequest, opening: Opening | None = None, reader: ObjectReader | None = None
) -> RecoverResult:
    """Recover the workspace that `path` is in. Raises NotAWorkspace, UsageError, TryAgain, GitError, OSError.

    `opening` is what `start_opening` gave for the same path, where the caller had something else to do meanwhile; so is
    `reader`, which was started there.
    """
    try:
        repository = open_repository(path) if opening is None else opening.finish()
    except NotAWorkspace:
        return _without_git(path)
    if not request.runs_filters:
        repository = without_filters(repository)
    require(repository, *SETTINGS)
    repository = with_filter_limit(repository)
    with hints_for(repository.toplevel):
        try:
            return located(_recover(repository, request, reader))
        except GitError:
            return _without_git(path)


def _without_git(path: bytes) -> RecoverResult:
    """The result where git fails because files of its own are damaged. For use in an exception handler."""
    from ..workspace.damage import find_unreadable, open_damaged

    repository = open_damaged(path)
    if repository is None:
        raise
    verdict = decide(Facts(None, None, None, damage=tuple(find_unreadable(repository))))
    message, hint = f"{verdict.message}; nothing was touched", f"{verdict.hint}, then: gitstate recover"
    return located(RecoverResult(repository.toplevel, "damaged", message, hint, verdict.exit_status))


def _has_torn_index(repository: Repository) -> bool:
    return looks_torn(os.path.join(repository.git_dir, b"index"), repository.object_format)


def _recover(repository: Repository, request: RecoverRequest, started: ObjectReader | None) -> RecoverResult:
    with ObjectReader(repository.git) if started is None else started.started_for(repository.git) as reader:
        reader.start()
        wait_for_last_save(repository, Deadline(request.wait))
        with locked_workspace(repository, Deadline(request.wait)) as git:
            return _recover_locked(repository, git, reader, request)


def _recover_locked(repository: Repository, git: Git, reader: ObjectReader, request: RecoverRequest) -> RecoverResult:
    workspace = Workspace.of(repository, git, reader)
    facts = gather(repository, reader, request.save_id, strict=request.strict, own_only=request.waiting_only)
    if request.waiting_only:
        facts = facts._replace(context=None, recovered=None)
    was_whole = not any(not item.path and item.lost for save in facts.saves for item in save.manifest.left_out)
    is_proven = facts.saves and facts.head and was_whole
    # Where no run left anything, a look at the index has to do: a loop asks at every start.
    if not is_proven and (facts.saves or facts.context or facts.head is None or _has_torn_index(repository)):
        facts = with_damage(facts, repository)
    if not facts.damage:
        facts = facts._replace(disk=compare_with_checkpoint(workspace, facts))
    verdict = decide(facts)
    facts = with_checkpoint(facts, verdict)
    clears = verdict.clears_locks and not request.dry_run
    cleared = gitdir.remove_dead_locks(repository.git_dir, repository.common_dir) if clears else ()
    locks = gitdir.locks_in_the_way(repository.git_dir, repository.common_dir)
    # Of a run that was saved alone, or recovered, its worktrees may still wait.
    others = pending_in_files(repository.common_dir).keys() - {workspace_id(repository)}
    if verdict.clears_locks and (facts.saves or facts.context or others or locks):
        from .elsewhere import put_away, remove_locks_of_run

        cleared += remove_locks_of_run(repository, facts) if clears else ()
        facts = facts._replace(put_away=put_away(repository, reader, facts))
    try:
        result = _recover_fetched(workspace, facts, verdict, request)
    except (GitError, CorruptSave):
        facts = with_damage(facts, repository)
        if not facts.damage:
            raise
        result = _Recovery(workspace, facts, decide(facts), request).run()
    if repository.stranger is not None:
        message = f"this repository belongs to user {repository.stranger}; none of its filters was run"
        result = with_messages(result, message)
    if not request.depth:
        for path in gitdir.lost_backlinks(repository.git_dir, repository.common_dir):
            from ..workspace.damage import backlink_trouble

            trouble = backlink_trouble(path, repository)
            message = f"{trouble.what}; mend it with: {trouble.command}"
            result = with_messages(result, message)
    return result._replace(cleared=cleared)


def _recover_fetched(workspace: Workspace, facts: Facts, verdict: Verdict, request: RecoverRequest) -> RecoverResult:
    """Carry out the verdict, for a save that was fetched after a look at what in it could run by itself."""
    recovery = _Recovery(workspace, facts, verdict, request)
    if facts.remote is None or not facts.saves or not verdict.acts:
        return recovery.run()
    from .fetched import is_trusted, refusal, runs_by_itself

    repository, save_id = workspace.repository, facts.saves[0].manifest.save_id
    runs = runs_by_itself(repository, workspace.reader, facts.saves)
    if runs and not is_trusted(repository, facts.remote, request):
        hint = f"gitstate recover --save {save_id} --trust"
        return refusal(repository.toplevel, save_id, facts.remote, runs, hint)
    result = recovery.run()
    return with_messages(result, f"the save was fetched from {facts.remote}")._replace(runs=runs)


def recover_into(repository: Repository, path: bytes, request: RecoverRequest) -> RecoverResult:
    """Give a save whose workspace is gone a new worktree at `path`, and recover it there.

    Raises NeedsPerson where the save's branch is checked out in a worktree that exists, UsageError where `path` is
    in use.
    """
    from .elsewhere import add_worktree, only_orphan, refuse_used_place, stack_of
    from .fetched import is_trusted, refusal, runs_by_itself

    with hints_for(repository.toplevel):
        refuse_used_place(path)
        require(repository, *SETTINGS)
        found = stack_of(repository, request.save_id or only_orphan(repository))
        newest = found.stack[0]
        save_id = newest.manifest.save_id
        if not is_trusted(repository, found.remote, request):
            with ObjectReader(repository.git) as reader:
                runs = runs_by_itself(repository, reader, found.stack)
            if runs:
                hint = f"gitstate recover --into {quote(os.fsdecode(path))} --save {save_id} --trust"
                return refusal(path, save_id, found.remote, runs, hint)
        if request.dry_run:
            return RecoverResult(path, "elsewhere", "a worktree would be added here", save_id=save_id)
        add_worktree(repository, path, newest, is_own=found.remote is None)
        give_back(repository, os.path.realpath(path))
    return recover(path, request._replace(save_id=save_id))


class _Recovery:
    """Carries out the verdict on one workspace, step by step."""

    def __init__(self, workspace: Workspace, facts: Facts, verdict: Verdict, request: RecoverRequest) -> None:
        self.workspace = workspace
        self.repository = workspace.repository
        self.facts = facts
        self.verdict = verdict
        self.request = request
        self.outcome = Outcome()
        #: None before it is needed.
        self._branch: BranchMover | None = None
        self._index: IndexRecovery | None = None

    def run(self) -> RecoverResult:
        try:
            return self._run()
        finally:
            if self.outcome.opened:
                # Something failed before they were closed.
                close_directories(self.workspace.disk, self.outcome)
            if self._branch is not None:
                self._branch.close()
            if self._index is not None:
                self._index.end()

    def _run(self) -> RecoverResult:
        if self.verdict.verdict == "recovered":
            return self._report().again(self._result("recovered"))
        if not self.verdict.acts:
            return self._result(self.verdict.verdict)
        if self._is_after_reboot():
            from ..restore.gitdir import restore_staged_objects

            self.outcome.failed += restore_staged_objects(self.workspace, dry_run=self.request.dry_run)
        if not self.facts.saves:
            return self._context_alone()
        if self.verdict.verdict == "buried":
            return self._finish("buried")
        return self._restore()

    def _is_after_reboot(self) -> bool:
        context = self.facts.saves[0].context if self.facts.saves else self.facts.context
        return context is None or context.boot_id is None or context.boot_id != boot_id()

    def _restore(self) -> RecoverResult:
        from ..objects.durable import FilesToDisk
        from ..restore.files import FileRecovery, save_for_safety, usual_umask
        from ..restore.index import IndexRecovery

        workspace, outcome = self.workspace, self.outcome
        saved = SavedPaths(workspace, self.facts.saves, overwrite=self.request.overwrite)
        newest = saved.newest
        original = self.facts.carried.original if self.facts.carried else ()
        index = self._index = IndexRecovery(workspace, saved.saves, original)
        # Git works on all of these at the same time, and while the saved files are compared here.
        if not self.request.dry_run:
            # It takes the longest.
            index.start_scan()
        saved.foresee()
        if not self.request.dry_run:
            index.foresee(self.facts.head)
            if self.facts.marker is not None:
                # Git gets ready meanwhile.
                self._mover().start()
        targets = saved.targets()
        if not self.request.dry_run:
            index.learn(saved.told)
            index.set_broken_aside()
        choices = saved.choices(targets, outcome)
        outcome.kept = paths_with(choices, "keep")
        if self.request.dry_run:
            outcome.restored, outcome.deleted = paths_with(choices, "write"), paths_with(choices, "delete")
            return self._result("changed" if outcome.kept else "restore")
        self._journal()
        if needs_safety_save(choices) and not self._is_in_head(saved, choices):
            outcome.safety = save_for_safety(workspace, choices)
            self._journal()
        recovery = FileRecovery(workspace, saved, outcome)
        with usual_umask(self.repository, newest):
            recovery.carry_out(choices)
        if newest.manifest.operation_files or b"sparse-checkout" in newest.files:
            from ..restore.gitdir import restore_operation, restore_sparse

            restore_operation(workspace, newest)
            restore_sparse(workspace, newest)
        # What is written from here on is synced by itself; what was found right, and the places of files, meanwhile.
        to_disk = FilesToDisk(self.repository, workspace.disk.take_changed())
        self._restore_index(saved, targets, recovery.written)
        with usual_umask(self.repository, newest):
            recovery.directories()
        if newest.archive != newest.wip:
            recovery.permissions(targets)
            recovery.special_bits(sets=self.request.special_bits)
        close_directories(workspace.disk, outcome)
        self._mover().carry_out()
        if outcome.restored or outcome.deleted:
            index.refresh(outcome.restored, outcome.deleted)
        workspace.disk.sync()
        to_disk.finish([*(target.path for target in targets), *newest.manifest.directories])
        nested = self._nested(saved, targets)
        if outcome.links or newest.manifest.workspace_id != workspace_id(self.repository):
            from ..restore.nested import absent_submodules

            outcome.failed += absent_submodules(workspace, saved, outcome.links)
        if newest.manifest.worktree_settings and newest.manifest.workspace_id != workspace_id(self.repository):
            from ..restore.gitdir import missing_settings

            outcome.failed += missing_settings(workspace, newest)
        base_tree = tree_of_base(workspace.reader, saved.saves[-1].manifest.head)
        return self._finish(final_verdict(newest, base_tree, outcome))._replace(nested=nested)

    def _restore_index(self, saved: SavedPaths, targets: Sequence[Target], written: Written) -> None:
        """Put the index back, then write the tracked files that the save did not change and that are gone."""
        index, outcome = self._index, self.outcome
        assert index is not None
        leaves = {target.path: target.bases for target in targets}
        known = {path for path, (oid, _) in written.items() if any(leaf.oid == oid for leaf in leaves.get(path, ()))}
        kept = index.restore(written, known, self._mover().begin, self._mover().undo)
        outcome.kept += [path for path in kept if path not in outcome.kept]
        # The scan went by the index of the save.
        scan = None if kept else index.scan
        has_filters = any(key.startswith("filter.") for key in self.repository.config)
        paths = {target.path for target in targets}
        if scan is not None and (scan.proves_only(paths) or (not has_filters and scan.shows_only(paths))):
            return
        from ..restore.files import usual_umask
        from ..restore.missing import MissingFiles

        # It may take long, and nobody could commit meanwhile.
        self._mover().undo()
        missing = MissingFiles(self.workspace, saved, outcome, scan)
        sizes = missing.sizes_at_save(targets, index.saved.sizes)
        with usual_umask(self.repository, saved.newest):
            missing.restore(targets, sizes)

    def _is_in_head(self, saved: SavedPaths, choices: Sequence[Choice]) -> bool:
        """Whether all that will be replaced or deleted is as the commit of HEAD has it, which the save keeps alive."""
        base = saved.base
        if base is None or self.facts.head is None or self.facts.head != saved.newest.manifest.head:
            return False
        index = self._index
        if b"stages" in saved.newest.files and index is not None and not index.is_as_in(self.facts.head):
            # The saved conflict takes the place of one of now, whose versions may be in no commit.
            return False
        from ..restore.files import umask_now

        return is_all_in(choices, base, umask_now())

    def _journal(self) -> None:
        head = self.facts.saves[0].manifest.head_ref
        names = [name for name in (self.facts.marker, head) if name]
        if self.facts.remote is not None:
            from ..format.fetched import fetched_markers

            names += fetched_markers(self.repository, self.facts.saves[0].archive)
        write_journal(self.repository, ref_locks(self.repository, names))

    def _mover(self) -> BranchMover:
        if self._branch is None:
            from .act.branch import BranchMover

            self._branch = BranchMover(self.repository, self.workspace.git, self.facts)
        return self._branch

    def _report(self) -> Report:
        from .act.report import Report

        return Report(self.repository, self.facts, self.request)

    def _nested(self, saved: SavedPaths, targets: Sequence[Target]) -> tuple[RecoverResult, ...]:
        modules = os.path.join(self.repository.git_dir, b"modules")
        if not os.path.lexists(modules) and not any(save.manifest.nested for save in saved.saves):
            return ()
        from .act.nested import NestedRecovery

        return NestedRecovery(self.workspace, self.request, self.outcome, recover, recover_into).run(saved, targets)

    # -- context, marker, result

    def _context_alone(self) -> RecoverResult:
        """The run ended without a save: its context is all there is to bring back."""
        assert self.facts.context is not None
        outcome, dry_run = self.outcome, self.request.dry_run
        context = with_measured_fields(self.repository, self.facts.context, self.facts.head_ref)
        if self.facts.owner == "gone":
            from ..restore.missing import restore_cut_short

            copies = whole_copies(self.repository, self.workspace.reader, self.facts)
            restore_cut_short(self.workspace, copies, outcome, dry_run=dry_run)
        if outcome.restored:
            message = "the last run ended without a save; files that a power cut left short were restored"
            self.verdict = self.verdict._replace(message=message)
        result = self._result("restore" if outcome.restored else "context_only")._replace(context=context)
        if dry_run:
            return result
        from ..objects.durable import bring_files_to_disk

        self.workspace.disk.sync()
        bring_files_to_disk(self.repository, ())
        return self._report().of_context(result, context, outcome)

    def _finish(self, final: DecidedVerdict) -> RecoverResult:
        if self.request.dry_run:
            return self._result(final)
        outcome, newest = self.outcome, self.facts.saves[0]
        manifest = newest.manifest
        context = with_measured_fields(self.repository, newest.context, self.facts.head_ref)
        from ..restore.destroyed import find_destroyed

        # A save that was fetched, or a checkpoint that was named, says nothing of what stood here before.
        lost = find_destroyed(self.workspace, newest) if self.facts.marker is not None else None
        if outcome.restored or outcome.deleted:
            from .single_files import Version, remember

            # The file's name becomes durable with those below.
            remember(self.workspace, Version(manifest.save_id, None), outcome, syncs_name=False)
        result = self._report().of_save(self._result(final)._replace(destroyed=lost), context, outcome)
        self._mover().sync_names(result.state_file)
        if self._index is not None:
            self._index.forget_kept()
        if self.facts.remote is not None and marker_goes(outcome):
            from ..format.fetched import mark_recovered

            mark_recovered(self.repository, self.workspace.git, newest.archive)
        marker = self.facts.marker
        if marker is not None and marker_goes(outcome):
            seen = refs.read_refs(self.repository, [marker]).get(marker)
            if seen == newest.archive:
                self._mover().commit([RefUpdate(marker, None, seen)])
        if marker is None and marker_goes(outcome):
            from .dismissed import dismissed

            fact = dismissed(self.repository, manifest.save_id, None)
            if fact.old is not None:
                self._mover().commit([fact])
        clear_journal(self.repository)
        if self._mover().end():
            # Both gits end at the same time.
            self.workspace.reader.end()
        return result

    def _result(self, final: DecidedVerdict) -> RecoverResult:
        newest = self.facts.saves[0] if self.facts.saves else None
        result = conclude(self.repository.toplevel, self.verdict, final, newest, self.outcome)
        result = with_messages(result, *self.facts.put_away)
        branch = None if self.facts.head_ref is None else branch_name(self.facts.head_ref)
        return result._replace(branch=branch, dry_run=self.request.dry_run)
