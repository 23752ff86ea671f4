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

from ..errors import CorruptSave, GitError, GitstateError, NotAWorkspace
from ..format.archive import tree_of_base
from ..format.context import Context
from ..format.manifest import LeftOut, Reason
from ..format.names import branch_name, is_save_id, workspace_id
from ..format.saves import pending_in_files
from ..git import gitdir, refs
from ..git.index import looks_torn
from ..git.refs import RefUpdate, RefWriter
from ..git.repository import Repository, open_repository, shares_configuration, without_filters
from ..objects.reader import ObjectReader
from ..restore.choices import Choice, Outcome, close_directories, is_all_in, needs_safety_save
from ..restore.paths import SavedPaths, Workspace, paths_with
from ..system import files
from ..system.clock import Deadline
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, quote
from ..workspace.lease import wait_for_last_save
from ..workspace.live_context import read_live_context, with_measured_fields
from ..workspace.ownership import clear_journal, give_back, locked_workspace, ref_locks, write_journal
from ..workspace.settings import require, with_filter_limit
from ..workspace.state_file import RECOVERED, describe_save, read_state, write_state
from .facts import compare_with_checkpoint, gather, whole_copies, with_damage
from .plan import (
    Facts,
    Verdict,
    branch_move,
    conclude,
    decide,
    final_verdict,
    is_nested_trouble,
    marker_goes,
    with_checkpoint,
)
from .request import (
    SETTINGS,
    RecoverRequest,
    RecoverResult,
    briefing,
    hints_for,
    instruction,
    located,
)

# The rest is imported where it is needed: a loop asks at every start, and as a rule there is nothing to recover.
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Any

    from ..git.command import Git
    from ..git.repository import Opening
    from ..restore.choices import Target
    from ..restore.index import IndexRecovery, Written
    from ..restore.nested import NestedStep
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
        result = result._replace(message="; ".join(part for part in (result.message, message) if part))
    if not request.depth:
        for path in gitdir.lost_backlinks(repository.git_dir, repository.common_dir):
            from ..workspace.damage import backlink_trouble

            trouble = backlink_trouble(path, repository)
            message = f"{trouble.what}; mend it with: {trouble.command}"
            result = result._replace(message="; ".join(part for part in (result.message, message) if part))
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
    message = f"the save was fetched from {facts.remote}"
    return result._replace(message="; ".join(part for part in (result.message, message) if part), runs=runs)


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
        add_worktree(repository, path, newest)
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
        #: Moves the branch, and later the marker; None before the first of them.
        self._refs: RefWriter | None = None
        self._index: IndexRecovery | None = None
        self._saved: SavedPaths | None = None
        #: How the branch is moved; None where it is not, or that has not begun.
        self._moved: RefUpdate | None = None

    def run(self) -> RecoverResult:
        try:
            return self._run()
        finally:
            if self.outcome.opened:
                # Something failed before they were closed.
                close_directories(self.workspace.disk, self.outcome)
            if self._refs is not None:
                self._refs.close()
            if self._index is not None:
                self._index.end()
            if self._saved is not None:
                self._saved.end()

    def _run(self) -> RecoverResult:
        if self.verdict.verdict == "recovered":
            return self._report_again()
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
        self._saved = saved
        if not self.request.dry_run:
            # It takes the longest.
            index.start_scan()
        saved.foresee()
        if not self.request.dry_run:
            index.foresee(self.facts.head)
            if self.facts.marker is not None:
                # Git gets ready meanwhile.
                self._ref_writer()
        targets = saved.targets()
        if not self.request.dry_run:
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
        self._move_branch()
        if outcome.restored or outcome.deleted:
            index.refresh(outcome.restored, outcome.deleted)
        workspace.disk.sync()
        to_disk.finish([*(target.path for target in targets), *newest.manifest.directories])
        nested = self._nested(saved, targets)
        if outcome.links or newest.manifest.workspace_id != workspace_id(self.repository):
            from ..restore.nested import absent_submodules

            outcome.failed += absent_submodules(workspace, saved, outcome.links)
        base_tree = tree_of_base(workspace.reader, saved.saves[-1].manifest.head)
        return self._finish(final_verdict(newest, base_tree, outcome))._replace(nested=nested)

    def _restore_index(self, saved: SavedPaths, targets: Sequence[Target], written: Written) -> None:
        """Put the index back, then write the tracked files that the save did not change and that are gone."""
        index, outcome = self._index, self.outcome
        assert index is not None
        leaves = {target.path: target.bases for target in targets}
        known = {path for path, (oid, _) in written.items() if any(leaf.oid == oid for leaf in leaves.get(path, ()))}
        kept = index.restore(written, known, self._begin_move, self._undo_move)
        outcome.kept += [path for path in kept if path not in outcome.kept]
        # The scan went by the index of the save.
        scan = None if kept else index.scan
        has_filters = any(key.startswith("filter.") for key in self.repository.config)
        if not has_filters and scan is not None and scan.shows_only({target.path for target in targets}):
            return
        from ..restore.files import usual_umask
        from ..restore.missing import MissingFiles

        # It may take long, and nobody could commit meanwhile.
        self._undo_move()
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

    def _ref_writer(self) -> RefWriter:
        """The one git that moves refs. It starts when it is asked for first, and works while the caller goes on."""
        if self._refs is None:
            message = f"recover {self.facts.saves[-1].manifest.save_id}"
            self._refs = RefWriter(self.repository, self.workspace.git, message)
        return self._refs

    def _begin_move(self) -> None:
        """Let git lock the branch and write where it goes, while the caller goes on."""
        move = branch_move(self.facts)
        if move is not None and self._moved is None:
            self._moved = RefUpdate(move.ref, move.new, move.old)
            self._ref_writer().prepare([self._moved], no_deref=move.detach)

    def _undo_move(self) -> None:
        """Unlock the branch: something that takes longer comes first."""
        if self._moved is not None:
            self._moved = None
            self._ref_writer().close()

    def _move_branch(self) -> None:
        self._begin_move()
        if self._moved is not None:
            self._ref_writer().carry_out()

    def _sync_names(self, state_file: bytes | None) -> None:
        """Make durable under their names what was synced before it took its place: branch, index, `active_state.json`.

        One disk transaction for all of them: a sync of each would wait for one of its own.
        """
        if self._moved is not None:
            self._ref_writer().sync([self._moved])
        directories = [self.repository.git_dir, self.repository.own]
        files.fsync_paths([*directories, *([os.path.dirname(state_file)] if state_file else [])])
        if self._index is not None:
            self._index.forget_kept()

    # -- nested repositories

    def _nested(self, saved: SavedPaths, targets: Sequence[Target]) -> tuple[RecoverResult, ...]:
        modules = os.path.join(self.repository.git_dir, b"modules")
        if not os.path.lexists(modules) and not any(save.manifest.nested for save in saved.saves):
            return ()
        from ..restore.nested import nested_failure, nested_steps, submodules_of

        results: list[RecoverResult] = []
        submodules = None
        for step in nested_steps(self.workspace, saved, self.request.depth):
            try:
                if submodules is None:
                    submodules = submodules_of(self.workspace)
                if step.path in submodules and step.action == "recover":
                    from .elsewhere import reattach

                    bases = [leaf for target in targets if target.path == step.path for leaf in target.bases]
                    inside = open_repository(os.path.join(self.repository.toplevel, step.path))
                    reattach(inside, {leaf.oid for leaf in bases})
                result = self._recover_nested(step, submodules)
                if result is not None:
                    results.append(result)
            except (GitstateError, OSError) as error:
                self.outcome.failed.append(LeftOut(step.path, nested_failure(error), True))
        self.outcome.nested_trouble = is_nested_trouble(results)
        return tuple(results)

    def _recover_nested(self, step: NestedStep, submodules: Collection[bytes]) -> RecoverResult | None:
        full = os.path.join(self.repository.toplevel, step.path)
        asked = self.request
        request = RecoverRequest(step.save_id, wait=asked.wait, depth=asked.depth + 1, special_bits=asked.special_bits)
        if step.action == "lost":
            self.outcome.failed.append(LeftOut(step.path, step.reason, True))
            return None
        if step.action == "add":
            return recover_into(self.repository, full, request)
        inside = open_repository(full)
        runs_filters = step.path in submodules or shares_configuration(inside, self.repository)
        runs_filters = runs_filters and self.repository.runs_filters
        if step.is_new:
            from ..format.saves import checkpoint_save_id, pending_save_id
            from ..restore.nested import fill_emptied_index

            fill_emptied_index(inside)
            if pending_save_id(inside) is None and checkpoint_save_id(inside) == step.held:
                # Its directory was wiped: nothing in it is newer than its last checkpoint.
                request = request._replace(save_id=step.held)
        result = recover(full, request._replace(runs_filters=runs_filters))
        if result.verdict == "nothing":
            from ..restore.nested import lacks_its_save

            lacking = lacks_its_save(step, inside.git)
            self.outcome.failed += [lacking] if lacking else []
        if step.is_new and result.verdict == "nothing":
            from ..restore.nested import check_out_submodule

            below = os.path.join(step.path, b"")
            for item in check_out_submodule(inside, asked.depth + 1, runs_filters=runs_filters):
                self.outcome.failed.append(item._replace(path=below + item.path))
            return None
        return result

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
        operation = self.facts.operation
        told = briefing(
            context, Reason(), restored=outcome.restored, kept=(), left_out=outcome.failed, operation=operation
        )
        return self._write_state(result, context, told)

    def _report_again(self) -> RecoverResult:
        """Tell once more what an earlier recovery has brought back: the loop that starts after a reboot needs it."""
        assert self.facts.recovered is not None
        state = read_state(self.repository)
        save, resume, told = state.get("save"), state.get("resume"), state.get("briefing")
        save_id = save.get("save_id") if isinstance(save, dict) else None
        return self._result("recovered")._replace(
            context=self.facts.recovered,
            save_id=save_id if is_save_id(save_id) else None,
            resume=resume if isinstance(resume, str) else None,
            briefing=told if isinstance(told, str) else None,
        )

    def _finish(self, final: DecidedVerdict) -> RecoverResult:
        if self.request.dry_run:
            return self._result(final)
        outcome, newest = self.outcome, self.facts.saves[0]
        manifest = newest.manifest
        context = with_measured_fields(self.repository, newest.context, self.facts.head_ref)
        left_out = (*manifest.left_out, *outcome.failed)
        from ..restore.destroyed import find_destroyed

        # A save that was fetched, or a checkpoint that was named, says nothing of what stood here before.
        lost = find_destroyed(self.workspace, newest) if self.facts.marker is not None else None
        told = briefing(
            context,
            manifest.reason,
            restored=outcome.restored,
            kept=list(dict.fromkeys(outcome.kept)),
            left_out=left_out,
            operation=manifest.operation,
            destroyed=lost,
        )
        if outcome.restored or outcome.deleted:
            from .single_files import Version, remember

            # The file's name becomes durable with those below.
            remember(self.workspace, Version(manifest.save_id, None), outcome, syncs_name=False)
        described = describe_save(manifest, wip=newest.wip, archive=newest.archive)
        described["base_commit"] = self.facts.saves[-1].manifest.base
        described["left_out"] = [item.to_json() for item in left_out][:1000]
        reason = manifest.reason.to_json()
        more: dict[str, Any] = {"reason": reason, "save": described, "syncs_names": False}
        result = self._write_state(self._result(final), context, told, **more)
        self._sync_names(result.state_file)
        if self.facts.remote is not None and marker_goes(outcome):
            from ..format.fetched import mark_recovered

            mark_recovered(self.repository, self.workspace.git, newest.archive)
        marker = self.facts.marker
        if marker is not None and marker_goes(outcome):
            seen = refs.read_refs(self.repository, [marker]).get(marker)
            if seen == newest.archive:
                self._ref_writer().commit([RefUpdate(marker, None, seen)])
        if marker is None and marker_goes(outcome):
            from .dismissed import dismissed

            fact = dismissed(self.repository, manifest.save_id, None)
            if fact.old is not None:
                self._ref_writer().commit([fact])
        clear_journal(self.repository)
        if self._refs is not None:
            # Both gits end at the same time.
            self._refs.end()
            self.workspace.reader.end()
        return result._replace(destroyed=lost)

    def _write_state(self, result: RecoverResult, context: Context, told: str, **more: Any) -> RecoverResult:
        """Give back the agent's conversation, write `active_state.json`, and add what it says to the result."""
        context, result = self._with_conversation(context, result)
        resume = None
        if context.session_id is not None:
            from ..agents.sessions import resume_command

            resume = resume_command(context, os.environ)
        resume = resume or instruction(context)
        told = "\n".join((told, *self.facts.put_away))
        if self.request.depth and read_live_context(self.repository)[1] is None:
            # Nobody ever worked in this nested repository: its save is a part of the one around it.
            return result._replace(resume=resume, briefing=told, context=context)
        try:
            state_file = write_state(self.repository, context, RECOVERED, resume=resume, briefing=told, **more)
        except PermissionError as error:
            # It is a cache; what was recovered is told all the same.
            top = quote(os.fsdecode(self.repository.toplevel))
            why = f"the state file could not be written: {error.strerror}; allow it with: chmod u+w {top}"
            message = "; ".join(part for part in (result.message, why) if part)
            return result._replace(message=message, resume=resume, briefing=told, context=context)
        return result._replace(state_file=state_file, resume=resume, briefing=told, context=context)

    def _with_conversation(self, context: Context, result: RecoverResult) -> tuple[Context, RecoverResult]:
        """The context with the place of its agent's transcript, which is given back where it is gone or torn."""
        facts = self.facts
        was = facts.saves[0].context if facts.saves else facts.context
        if was is None or was.session_id is None or self.request.depth:
            return context, result
        from ..conversation.give_back import give_back

        own = workspace_id(self.repository)
        workspaces = [own, *(save.manifest.workspace_id for save in facts.saves[:1])]
        given = give_back(self.repository, context, was, workspaces, facts.remote)
        message = "; ".join(part for part in (result.message, given.message) if part)
        return given.context, result._replace(message=message)

    def _result(self, final: DecidedVerdict) -> RecoverResult:
        newest = self.facts.saves[0] if self.facts.saves else None
        result = conclude(self.repository.toplevel, self.verdict, final, newest, self.outcome)
        result = result._replace(message="; ".join(part for part in (result.message, *self.facts.put_away) if part))
        branch = None if self.facts.head_ref is None else branch_name(self.facts.head_ref)
        return result._replace(branch=branch, dry_run=self.request.dry_run)
