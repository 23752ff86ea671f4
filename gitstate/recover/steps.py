"""The steps that bring a workspace back, the marker last.

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
| 13. a ref for each that is not back (`unfinished`) | the refs | tries again, and makes or deletes them |
| 14. `active_state.json` and the live context; sync of directories | both, index, branch | writes them again |
| 15. delete the marker: **the commit point** | the save is no longer pending | goes on with those of step 13 alone |
| 16. clear the journal | nothing new | clears it (step 1) |

A path that could not be restored for a reason that can be mended keeps the marker: then steps 13 and 15 are left out.
"""

from __future__ import annotations

import os

from ..errors import GitError
from ..format.archive import is_dismissed, tree_of_base, unfinished_here
from ..format.manifest import LeftOut
from ..format.names import DISMISSED, unfinished_ref, workspace_id
from ..git import refs
from ..git.refs import RefUpdate
from ..objects.durable import FilesToDisk, bring_files_to_disk
from ..restore.choices import Outcome, close_directories, is_all_in, needs_safety_save
from ..restore.destroyed import Destroyed, gone_since
from ..restore.files import FileRecovery, save_for_safety, umask_now, usual_umask
from ..restore.index import IndexRecovery
from ..restore.paths import SavedPaths, paths_with
from ..system import files
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from ..workspace.live_context import with_measured_fields
from ..workspace.ownership import clear_journal, filling, ref_locks, write_journal
from .act.branch import BranchMover
from .act.report import Report
from .facts import whole_copies
from .plan import can_compare, final_verdict, marker_goes, result_of
from .request import with_messages

# The rest is imported where it is needed: few recoveries need it.
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..format.context import Context
    from ..git.scan import WorktreeScan
    from ..restore.choices import Choice, Target
    from ..restore.index import Written
    from ..restore.missing import MissingFiles
    from ..restore.paths import Workspace
    from .act.nested import Recover, RecoverInto
    from .plan import Facts, Verdict
    from .request import DecidedVerdict, RecoverRequest, RecoverResult


class Recovery:
    """Carries out the verdict on one workspace, step by step."""

    def __init__(
        self,
        workspace: Workspace,
        facts: Facts,
        verdict: Verdict,
        request: RecoverRequest,
        recover: Recover,
        recover_into: RecoverInto,
    ) -> None:
        """`recover` and `recover_into` are those of `recover`, for the repositories inside this one."""
        self.workspace = workspace
        self.repository = workspace.repository
        self.facts = facts
        self.verdict = verdict
        self.request = request
        self.outcome = Outcome()
        self._recover, self._recover_into = recover, recover_into
        #: None before it is needed.
        self._branch: BranchMover | None = None
        self._index: IndexRecovery | None = None
        self._saved: SavedPaths | None = None
        self._destroyed: Destroyed | None = None

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
            if self._saved is not None:
                self._saved.end()

    def _run(self) -> RecoverResult:
        if self._is_after_reboot():
            from ..restore.gitdir import restore_staged_objects

            self.outcome.failed += restore_staged_objects(self.workspace, dry_run=self.request.dry_run)
        if not self.facts.saves:
            return self._context_alone()
        if self.verdict.verdict == "buried":
            # The repositories inside know nothing of what was committed around them.
            saved = SavedPaths(self.workspace, self.facts.saves)
            named = [item.path for save in saved.saves for item in save.manifest.nested]
            nested = () if self.request.dry_run or not named else self._nested(saved, (), named)
            return self._finish("buried")._replace(nested=nested)
        return self._restore()

    def _is_after_reboot(self) -> bool:
        context = self.facts.saves[0].context if self.facts.saves else self.facts.context
        return context is None or context.boot_id is None or context.boot_id != boot_id()

    def _restore(self) -> RecoverResult:
        workspace, outcome = self.workspace, self.outcome
        saved = self._saved = SavedPaths(workspace, self.facts.saves, overwrite=self.request.overwrite)
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
        targets = saved.targets()
        if not self.request.dry_run:
            if self.facts.marker is not None:
                # Git gets ready meanwhile. Not earlier: the other one, which is waited for, would get less done.
                self._mover().start()
            index.learn(saved.told)
            index.set_broken_aside()
            if self.request.overwrite:
                targets += self._missing(saved, index.scan).edited(targets)
        else:
            gone, edited = self._foreseen(saved, targets)
            targets += edited if self.request.overwrite else []
        choices = saved.choices(targets, outcome)
        outcome.kept = paths_with(choices, "keep")
        if self.request.dry_run:
            outcome.restored, outcome.deleted = paths_with(choices, "write") + gone, paths_with(choices, "delete")
            outcome.kept += [] if self.request.overwrite else [target.path for target in edited]
            return self._result("changed" if outcome.kept else "restore")
        self._journal()
        if needs_safety_save(choices) and not self._is_in_head(saved, choices):
            outcome.safety = save_for_safety(workspace, choices)
            self._journal()
        recovery = FileRecovery(workspace, saved, outcome)
        with usual_umask(self.repository, newest):
            recovery.carry_out(choices)
        said = ""
        if newest.manifest.operation_files or b"sparse-checkout" in newest.files:
            from ..restore.gitdir import restore_operation, restore_sparse

            outcome.failed += restore_operation(workspace, newest)
            said = restore_sparse(workspace, newest, overwrite=self.request.overwrite)
        if self.repository.is_true("core.sparsecheckout"):
            from ..restore.gitdir import other_sparse_checkout

            outcome.failed += other_sparse_checkout(workspace, newest)
        # What is written from here on is synced by itself; what was found right, and the places of files, meanwhile.
        to_disk = FilesToDisk(self.repository, workspace.disk.take_changed())
        self._look_for_destroyed()
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
        if nested:
            recovery.directories_of_repositories()
            workspace.disk.sync()
        if outcome.links or newest.manifest.workspace_id != workspace_id(self.repository):
            from ..restore.nested import absent_submodules

            outcome.failed += absent_submodules(workspace, saved, outcome.links)
        if newest.manifest.operation_files and newest.manifest.workspace_id != workspace_id(self.repository):
            from ..restore.gitdir import missing_branch

            outcome.failed += missing_branch(workspace, newest)
        if newest.manifest.worktree_settings and newest.manifest.workspace_id != workspace_id(self.repository):
            from ..restore.gitdir import missing_settings

            outcome.failed += missing_settings(workspace, newest)
        base_tree = tree_of_base(workspace.reader, saved.saves[-1].manifest.head)
        result = self._finish(final_verdict(newest, base_tree, outcome))._replace(nested=nested)
        return with_messages(result, said)

    def _restore_index(self, saved: SavedPaths, targets: Sequence[Target], written: Written) -> None:
        """Put the index back, then write the tracked files that the save did not change and that are gone."""
        index, outcome = self._index, self.outcome
        assert index is not None
        leaves = {target.path: target.bases for target in targets}
        known = {path for path, (oid, _) in written.items() if any(leaf.oid == oid for leaf in leaves.get(path, ()))}
        kept = index.restore(written, known, self._mover().begin, self._mover().undo)
        outcome.kept += [path for path in kept if path not in outcome.kept]
        if index.saved.is_rebuilt:
            why = "its index is damaged: what was staged is back, but not which files were hidden from git"
            outcome.failed.append(LeftOut(b"", why, True))
        # The scan went by the index of the save.
        scan = None if kept else index.scan
        has_filters = any(key.startswith("filter.") for key in self.repository.config)
        paths = {target.path for target in targets}
        if scan is not None and (scan.proves_only(paths) or (not has_filters and scan.shows_only(paths))):
            return
        # It may take long, and nobody could commit meanwhile.
        self._mover().undo()
        missing = self._missing(saved, scan)
        sizes = missing.sizes_at_save(targets, index.saved.sizes)
        with usual_umask(self.repository, saved.newest):
            missing.restore(targets, sizes)

    def _foreseen(self, saved: SavedPaths, targets: Sequence[Target]) -> tuple[list[bytes], list[Target]]:
        """The tracked files, but for `targets`, that are gone, and those that were edited; none with a torn index."""
        missing = self._missing(saved, None)
        with suppress(GitError):
            return missing.gone(targets), missing.edited(targets)
        return [], []

    def _missing(self, saved: SavedPaths, scan: WorktreeScan | None) -> MissingFiles:
        from ..restore.missing import MissingFiles

        return MissingFiles(self.workspace, saved, self.outcome, scan)

    def _is_in_head(self, saved: SavedPaths, choices: Sequence[Choice]) -> bool:
        """Whether all that will be replaced or deleted is as the commit of HEAD has it, which the save keeps alive."""
        base = saved.base
        if base is None or self.facts.head is None or self.facts.head != saved.newest.manifest.head:
            return False
        index = self._index
        if b"stages" in saved.newest.files and index is not None and not index.is_as_in(self.facts.head):
            # The saved conflict takes the place of one of now, whose versions may be in no commit.
            return False
        return is_all_in(choices, base, umask_now())

    def _journal(self, more: Sequence[str] = ()) -> None:
        head = self.facts.saves[0].manifest.head_ref
        names = [name for name in (self.facts.marker, head, *more) if name]
        if self.facts.remote is not None:
            from ..format.fetched import fetched_markers

            names += fetched_markers(self.repository, self.facts.saves[0].archive)
        write_journal(self.repository, ref_locks(self.repository, names))

    def _mover(self) -> BranchMover:
        if self._branch is None:
            self._branch = BranchMover(self.repository, self.workspace.git, self.facts)
        return self._branch

    def _look_for_destroyed(self) -> None:
        # A save that was fetched, or a checkpoint that was named, says nothing of what stood here before.
        if self._destroyed is None and self.facts.marker is not None:
            self._destroyed = Destroyed(self.workspace, self.facts.saves[0])

    def _report(self) -> Report:
        return Report(self.repository, self.facts, self.request)

    def _nested(
        self, saved: SavedPaths, targets: Sequence[Target], only: Collection[bytes] | None = None
    ) -> tuple[RecoverResult, ...]:
        modules = os.path.join(self.repository.git_dir, b"modules")
        if not os.path.lexists(modules) and not any(save.manifest.nested for save in saved.saves):
            return ()
        from .act.nested import NestedRecovery

        command = f"gitstate -C {quote(os.fsdecode(self.repository.toplevel))} recover"
        if not self._is_first:
            command += f" --save {saved.newest.manifest.save_id}"
        parts = (self.workspace, self.request, self.outcome, self._recover, self._recover_into, command)
        nested = NestedRecovery(*parts).run(saved, targets, only)
        known = {item.path for save in saved.saves for item in save.manifest.nested}
        if not self._is_first:
            own, noted = workspace_id(self.repository), unfinished_here(self.repository)
            known = {path for path in known if unfinished_ref(own, saved.newest.manifest.save_id, path) in noted}
        self.outcome.unfinished = [path for path in self.outcome.unfinished if path in known]
        return nested

    @property
    def _is_first(self) -> bool:
        """Whether this is no save that was recovered before, and named once more."""
        request, facts = self.request, self.facts
        if request.save_id is None or request.depth or facts.marker is not None or facts.remote is not None:
            return True
        return is_dismissed(self.repository, facts.saves[0].manifest.save_id)

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
        result = result._replace(destroyed=self._gone_since_checkpoint(context))
        if dry_run:
            return result
        self.workspace.disk.sync()
        bring_files_to_disk(self.repository, ())
        return self._report().of_context(result, context, outcome)

    def _gone_since_checkpoint(self, context: Context) -> tuple[str, tuple[bytes, ...]] | None:
        """A checkpoint of the run that ended without a save, and its paths whose work neither the disk nor HEAD has."""
        checkpoint = self.facts.checkpoint
        if checkpoint is None or checkpoint.context.task_id not in (None, context.task_id):
            return None
        # Where HEAD is as it was then, the verdict tells of the latest one.
        lost = None if can_compare(self.facts, checkpoint) else gone_since(self.workspace, checkpoint)
        return lost or Destroyed(self.workspace, checkpoint).find()

    def _finish(self, final: DecidedVerdict) -> RecoverResult:
        if self.request.dry_run:
            return self._result(final)
        outcome, newest = self.outcome, self.facts.saves[0]
        manifest = newest.manifest
        context = with_measured_fields(self.repository, newest.context, self.facts.head_ref)
        self._look_for_destroyed()
        lost = None if self._destroyed is None else self._destroyed.find()
        if outcome.restored or outcome.deleted:
            from .last_restore import Version, remember

            # The file's name becomes durable with those below.
            remember(self.workspace, Version(manifest.save_id, None), outcome, syncs_name=False)
        # All was read: git ends meanwhile.
        self.workspace.reader.end()
        if marker_goes(outcome) and any(save.manifest.nested for save in self.facts.saves):
            from .unfinished import changes

            # Without a marker the context says that all is done.
            self._move_others(changes(self.repository, newest, outcome.unfinished))
        result = self._report().of_save(self._result(final)._replace(destroyed=lost), context, outcome)
        self._mover().sync_names(result.state_file)
        if os.path.lexists(filling(self.repository)):
            # All is on the disk: what differs from the save from now on is somebody's work.
            files.remove(filling(self.repository))
            files.fsync_path(self.repository.own)
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
            found = refs.list_refs(self.repository.git, DISMISSED)
            facts = [RefUpdate(ref, None, oid) for ref, oid in found.items() if ref.endswith(f"/{manifest.save_id}")]
            if facts:
                self._mover().commit(facts)
        clear_journal(self.repository)
        return result

    def _move_others(self, updates: Sequence[RefUpdate]) -> None:
        """Move refs that no journal names yet, before the marker goes."""
        if updates:
            self._journal([update.ref for update in updates])
            self._mover().commit(updates, is_last=False)

    def _result(self, final: DecidedVerdict) -> RecoverResult:
        top = self.repository.toplevel
        return result_of(top, self.facts, self.verdict, self.request, final, self.outcome)
