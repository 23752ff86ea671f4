"""Brings a workspace back: facts → verdict → the steps of `steps`."""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, NeedsPerson, NotAWorkspace
from ..format import names
from ..format.archive import pending_archives, pending_here, pending_in_files, unfinished_here
from ..format.names import workspace_id
from ..git import gitdir, refs
from ..git.index import looks_torn
from ..git.opening import open_repository
from ..git.packed import read_once
from ..git.permitted import without_filters
from ..git.repository import Repository, git_dir_of
from ..objects.reader import ObjectReader
from ..restore.paths import Workspace
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, quote
from ..workspace.lease import wait_for_last_save
from ..workspace.live_context import pending_in_context
from ..workspace.ownership import filling, give_back, left_behind, locked_workspace
from ..workspace.settings import require, with_filter_limit
from .facts import compare_with_checkpoint, gather, with_damage
from .plan import Facts, Verdict, decide, result_of, with_checkpoint
from .request import SETTINGS, RecoverRequest, RecoverResult, hints_for, located, with_messages

# The rest is imported where it is needed: a loop asks at every start, and as a rule there is nothing to recover.
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ..format.manifest import Save
    from ..git.command import Git
    from ..git.opening import Opening


def recover(
    path: bytes,
    request: RecoverRequest,
    opening: Opening | None = None,
    reader: ObjectReader | None = None,
    begin: Callable[[Repository, Git], RecoverRequest] | None = None,
) -> RecoverResult:
    """Recover the workspace that `path` is in. Raises NotAWorkspace, UsageError, TryAgain, GitError, OSError.

    `opening` is what `start_opening` gave for the same path, where the caller had something else to do meanwhile; so is
    `reader`, which was started there. `begin` is called first when the workspace is locked, by a git that holds the
    lock, and says what to recover.
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
            return located(_recover(repository, request, reader, begin))
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


def _recover(
    repository: Repository,
    request: RecoverRequest,
    started: ObjectReader | None,
    begin: Callable[[Repository, Git], RecoverRequest] | None,
) -> RecoverResult:
    opened = ObjectReader(repository.git) if started is None else started.started_for(repository.git)
    with read_once(), opened as reader:
        reader.start()
        wait_for_last_save(repository, Deadline(request.wait))
        with locked_workspace(repository, Deadline(request.wait), reads=request.dry_run) as git:
            broken_off = None
            if os.path.lexists(filling(repository)) and not request.dry_run:
                from .new_worktree import empty_broken_off

                broken_off = empty_broken_off(repository, git, reader, request)
                if broken_off is not None:
                    request = request._replace(save_id=broken_off.save_id)
            if begin is not None:
                request = begin(repository, git)
            begun = unfinished_here(repository) if request.save_id is None and not request.waiting_only else {}
            if not begun:
                result = _recover_locked(repository, git, reader, request)
            else:
                from .unfinished import due, finish

                def again() -> RecoverResult:
                    return _recover_locked(repository, git, reader, request)

                begun = due(repository)
                result = finish(again(), repository, git, begun, request, recover, recover_into, again)
            told = [] if broken_off is None else [broken_off.words]
            return with_messages(result, *told, *left_behind(repository))


def _recover_locked(repository: Repository, git: Git, reader: ObjectReader, request: RecoverRequest) -> RecoverResult:
    are_files = refs.refs_are_files(repository)
    waiting = (pending_in_files(repository.common_dir) if are_files else pending_archives(repository.git)).keys()
    own = workspace_id(repository)
    if own not in waiting and not request.dry_run and pending_in_context(repository.git_dir) is not None:
        from ..workspace.damage import TOLD, make_again

        if make_again(repository, git, reader):
            return with_messages(_recover_locked(repository, git, reader, request), TOLD)
    if own not in waiting:
        return _recover_waiting(Workspace.of(repository, git, reader), waiting, request)
    # Imported, and begun, while git gets ready: most of what a recovery loads, and what takes the longest.
    from ..restore.differences import compare_ahead
    from ..restore.index import scan_ahead
    from . import steps  # noqa: F401

    ahead = None if request.dry_run else scan_ahead(repository)
    comparing = None if request.dry_run else compare_ahead(repository)
    try:
        return _recover_waiting(Workspace.of(repository, git, reader, ahead, comparing), waiting - {own}, request)
    finally:
        for begun in (ahead, comparing):
            if begun is not None:
                begun.end()


def _is_back(workspace: Workspace, facts: Facts, request: RecoverRequest) -> bool:
    """Whether plain git has brought back the pending save, and newer commits stand on it: it is pending no more."""
    if facts.marker is None or facts.remote is not None or request.save_id is not None:
        return False
    from .stale import clear_if_stale

    repository, reader = workspace.repository, workspace.reader
    return clear_if_stale(
        repository, workspace.git, reader, facts.marker, facts.saves[0].archive, dry_run=request.dry_run
    )


def _recover_waiting(workspace: Workspace, others: Collection[str], request: RecoverRequest) -> RecoverResult:
    """`others` are the workspaces besides this one in which a save is pending."""
    repository, reader = workspace.repository, workspace.reader
    facts = gather(repository, reader, request)
    if facts.saves and facts.marker is not None and request.save_id is None:
        _refuse_other_directory(repository, facts.saves[0])
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
    if verdict.verdict == "diverged" and _is_back(workspace, facts, request):
        recovered = None if request.waiting_only else facts.saves[0].context
        facts = facts._replace(saves=(), marker=None, recovered=recovered)
        verdict = decide(facts)
    if verdict.verdict == "nothing" and verdict.hint is None and not (request.depth or request.waiting_only):
        # As a rule only this workspace has checkpoints, and no more is loaded.
        listed = refs.read_names_below(repository.common_dir, names.CHECKPOINTS)
        if listed - {workspace_id(repository)} or not refs.refs_are_files(repository):
            from .gone import with_gone

            verdict = with_gone(verdict, workspace, facts)
    facts = with_checkpoint(facts, verdict)
    clears = verdict.clears_locks and not request.dry_run
    cleared = gitdir.remove_dead_locks(repository.git_dir, repository.common_dir) if clears else ()
    in_the_way = gitdir.locks_in_the_way(repository.git_dir, repository.common_dir)
    # Of a run that was saved alone, or recovered, its worktrees may still wait.
    if verdict.clears_locks and (facts.saves or facts.context or others or in_the_way):
        from .elsewhere import put_away, remove_locks_of_run

        # Looked for once: where no gc has packed the refs of thousands of saves it takes as long as all else.
        locks = gitdir.locks_of_any_command(repository.git_dir, repository.common_dir)
        removed = remove_locks_of_run(repository, facts, locks) if clears else ()
        left = [lock for lock in locks if lock not in removed and os.path.lexists(lock)]
        cleared += removed
        facts = facts._replace(put_away=put_away(repository, reader, facts, left))
    try:
        result = _recover_fetched(workspace, facts, verdict, request)
    except (GitError, CorruptSave) as error:
        from .unreadable import with_unreadable

        facts = with_damage(with_unreadable(facts, repository, error), repository)
        if not facts.damage and facts.problem is None:
            raise
        result = _carry_out(workspace, facts, decide(facts), request)
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


def _refuse_other_directory(repository: Repository, save: Save) -> None:
    """Raises NeedsPerson where a save is of another directory, whose `.git` leads to the git directory of this one.

    Git has one HEAD and one index for both, and gitstate one pending save: what is here would be replaced by what was
    there.
    """
    place = os.fsencode(save.context.workspace_path or "")
    git_dir = git_dir_of(place) if os.path.isabs(place) and place != repository.toplevel else None
    if git_dir == os.path.realpath(repository.git_dir) and not os.path.samefile(place, repository.toplevel):
        where, save_id = quote(os.fsdecode(place)), save.manifest.save_id
        raise NeedsPerson(
            f"the pending save {save_id} is of {os.fsdecode(place)}, whose .git leads to the same git directory; "
            "nothing was changed",
            hint=f"gitstate -C {where} recover, or to have it here: gitstate recover --save {save_id}",
        )


def _recover_fetched(workspace: Workspace, facts: Facts, verdict: Verdict, request: RecoverRequest) -> RecoverResult:
    """Carry out the verdict, for a save that was fetched after a look at what in it could run by itself."""
    if facts.remote is None or not facts.saves or not verdict.acts:
        return _carry_out(workspace, facts, verdict, request)
    from .fetched import is_trusted, refusal, runs_by_itself, without_argv

    repository, save_id = workspace.repository, facts.saves[0].manifest.save_id
    runs = runs_by_itself(repository, workspace.reader, facts.saves)
    messages = [f"the save was fetched from {facts.remote}"]
    if not is_trusted(repository, facts.remote, request):
        if runs:
            hint = f"gitstate recover --save {save_id} --trust"
            return refusal(repository.toplevel, save_id, facts.remote, runs, hint)
        newest = without_argv(facts.saves[0])
        if newest != facts.saves[0]:
            facts = facts._replace(saves=(newest, *facts.saves[1:]))
            messages.append(f"its command line of the agent is not used: {facts.remote} is not trusted")
    result = _carry_out(workspace, facts, verdict, request)
    return with_messages(result, *messages)._replace(runs=runs)


def recover_into(
    repository: Repository, path: bytes, request: RecoverRequest, *, only_pending: bool = False
) -> RecoverResult:
    """Give a save whose workspace is gone a new worktree at `path`, and recover it there.

    Raises NeedsPerson where the save's branch is checked out in a worktree that exists, or another gitstate was faster
    and it is to be one that is `only_pending`; UsageError where `path` is in use, TryAgain.
    """
    from contextlib import ExitStack

    from .elsewhere import stack_of
    from .fetched import is_trusted, refusal, runs_by_itself
    from .new_worktree import add_worktree, adding_worktrees, fill_worktree, only_orphan, refuse_used_place

    with ExitStack() as turn:
        with hints_for(repository.toplevel):
            require(repository, *SETTINGS)
            if not request.dry_run:
                repository = turn.enter_context(adding_worktrees(repository, request.wait))
            found = stack_of(repository, request.save_id or only_orphan(repository))
            newest = found.stack[0]
            save_id = newest.manifest.save_id
            was_pending = _is_pending(repository, newest)
            if only_pending and not was_pending:
                raise NeedsPerson(
                    f"another gitstate has recovered the save {save_id} meanwhile; nothing was changed",
                    hint="gitstate log --all",
                )
            refuse_used_place(repository, path, newest)
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

        def begin(made: Repository, git: Git) -> RecoverRequest:
            """Whoever adds the next worktree need not wait for the files of this one: it is locked."""
            turn.close()
            if was_pending and not _is_pending(made, newest):
                # Who found it before it was locked has recovered it.
                return request._replace(save_id=None)
            with hints_for(repository.toplevel):
                fill_worktree(made, git, newest)
                give_back(made, made.toplevel)
            return request._replace(save_id=save_id)

        return recover(path, request, begin=begin)


def _is_pending(repository: Repository, save: Save) -> bool:
    return save.archive in pending_here(repository).values()


def _carry_out(workspace: Workspace, facts: Facts, verdict: Verdict, request: RecoverRequest) -> RecoverResult:
    result = result_of(workspace.repository.toplevel, facts, verdict, request, verdict.verdict)
    if verdict.verdict == "recovered":
        from .act.report import Report

        return Report(workspace.repository, facts, request).again(result)
    if not verdict.acts:
        return result
    from .steps import Recovery

    return Recovery(workspace, facts, verdict, request, recover, recover_into).run()
