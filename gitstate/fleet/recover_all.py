"""Recover many workspaces, as after a reboot: look at each, and recover those that need it.

One broken workspace never stops the others: each is opened in a process of its own under a deadline, and an error
becomes its result. A workspace is not touched if its owner may still run, or if it belongs to another user.
"""

from __future__ import annotations

import os

from ..errors import EXIT_AGAIN, EXIT_FAILED, EXIT_PERSON, GitstateError, TryAgain, UsageError, words_of
from ..format import names
from ..format.archive import pending_here, read_stack, tree_of_base
from ..format.fetched import fetched_in_files, fetched_saves
from ..git.opening import open_repository
from ..git.repository import Repository, git_dir_of
from ..objects.reader import ObjectReader
from ..recover.facts import worktrees
from ..recover.new_worktree import is_of, remove_half_made
from ..recover.recover import recover, recover_into
from ..recover.request import RecoverRequest, RecoverResult
from ..system import forkpool
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from ..workspace import registry
from ..workspace.lease import describe, presence_in
from ..workspace.peek import Peeker, WorkspacePeek
from .find import WORKERS, is_bare, peek_all
from .orphans import Orphan, find_orphans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..format.manifest import Save

#: Seconds for one recovery. The next one completes a recovery that was killed.
DEADLINE = 900.0


def recover_all(
    paths: Sequence[bytes],
    request: RecoverRequest,
    progress: Callable[[int, int, str], None] = lambda _done, _all, _what: None,
    *,
    bare: Repository | None = None,
    deadline: float = DEADLINE,
) -> list[RecoverResult]:
    """Recover each workspace that needs it. Returns one result for each of `paths`, in their order, then one for each
    save whose workspace is gone, also where no worktree of the repository `bare` is left.

    `progress` is called with the number of workspaces that are done, of all, and what is done: they are looked at, and
    then some are recovered. Never raises for one bad workspace.
    """
    looks = [_not_mounted(seen) for seen in peek_all(paths, lambda done: progress(done, len(paths), "looked at"))]
    orphans = find_orphans(looks, bare)
    offered = _offered_by_remotes(looks)
    due = [
        number
        for number, seen in enumerate(looks)
        if seen.due or _may_take(seen, orphans) or (seen.common_dir in offered and _has_nothing(seen))
    ]
    is_due = frozenset(due)
    results: dict[int, RecoverResult] = {
        number: _without_opening(seen, orphans) for number, seen in enumerate(looks) if number not in is_due
    }
    tasks = [lambda seen=looks[number]: _recover_one(seen, request) for number in due]
    answers = forkpool.each(
        tasks, workers=WORKERS, timeout=deadline, done=lambda done: progress(done, len(due), "recovered")
    )
    for number, answer in zip(due, answers, strict=True):
        results[number] = _lost(looks[number], deadline) if answer is forkpool.LOST else answer
    recovered = {result.save_id for result in results.values()}
    # A live agent is no failure: nobody has to try again.
    ordered = [
        result._replace(exit_status=0) if result.verdict == "live" else result
        for result in (results[number] for number in range(len(looks)))
    ]
    later = {text_to_json(os.fsdecode(result.workspace)) for result in ordered if result.verdict == "unreachable"}
    told = [orphan for found in orphans.values() for orphan in found if orphan.save_id not in recovered]
    # Another gitstate may have recovered some meanwhile.
    still = [orphan for found in find_orphans(looks, bare).values() for orphan in found] if told else []
    for orphan in (orphan for orphan in told if orphan in still):
        if orphan.problem is not None:
            ordered.append(_unreadable(orphan))
        elif orphan.workspace_path not in later:
            ordered.append(_elsewhere(os.fsencode(orphan.workspace_path or "PATH"), orphan))
    return ordered


def recover_worktrees(
    directory: bytes,
    request: RecoverRequest,
    progress: Callable[[int, int, str], None] = lambda _done, _all, _what: None,
) -> list[RecoverResult]:
    """Recover every worktree of the repository in `directory`. One that is gone, and has a save, is added anew."""
    repository = open_repository(directory, bare_too=True)
    if not request.dry_run:
        remove_half_made(repository)
    # Git lists the directory of a bare repository too, and worktrees that are gone: their saves are told by themselves.
    here = [path for path in worktrees(repository) if os.path.lexists(os.path.join(path, b".git"))]
    results = recover_all(here, request, progress, bare=repository if is_bare(repository) else None)
    return [_added_anew(repository, result, request) if result.verdict == "elsewhere" else result for result in results]


def _added_anew(repository: Repository, gone: RecoverResult, request: RecoverRequest) -> RecoverResult:
    """The result of a worktree that is gone, and that is added again where its save holds work that is nowhere else."""
    if gone.save_id is None or not os.path.isabs(gone.workspace):
        return gone
    named = f"gitstate -C {_quoted(repository.toplevel)} recover --save {gone.save_id} --into"
    if not _holds_work(repository, gone.save_id):
        message = "the worktree was removed, and its save holds no uncommitted work: it is not added again"
        hint = f"{named} {_quoted(gone.workspace)}"
        return gone._replace(verdict="nothing", message=message, hint=hint, exit_status=0)
    try:
        this_save = request._replace(save_id=gone.save_id, strict=False)
        return recover_into(repository, gone.workspace, this_save, only_pending=True)
    except UsageError as error:
        problem = gone._replace(message=f"{gone.message}; {error.message}", hint=f"{named} ANOTHER-PATH")
    except GitstateError as error:
        problem = gone._replace(message=error.message, hint=error.hint, exit_status=error.exit_status)
    return _recovered_by_another(repository, gone, request) or problem


def _recovered_by_another(repository: Repository, gone: RecoverResult, request: RecoverRequest) -> RecoverResult | None:
    """The result of a worktree that another gitstate adds, or has added; None where its save may still be pending."""
    found = None
    git_dir = git_dir_of(gone.workspace)
    if git_dir is not None and is_of(repository, git_dir):
        # That one has it locked until it is recovered.
        found = _recover_one(WorkspacePeek(gone.workspace), request)
    stacks = _pending_stacks(repository)
    if any(stack is None or stack[0].manifest.save_id == gone.save_id for stack in stacks):
        return None
    message = "another gitstate has recovered it meanwhile"
    return found or gone._replace(verdict="nothing", message=message, hint=None, exit_status=0)


def _holds_work(repository: Repository, save_id: str) -> bool:
    """Whether a pending save holds uncommitted work, an unfinished operation, or commits that no other ref has."""
    stacks = _pending_stacks(repository)
    stack = next((stack for stack in stacks if stack is not None and stack[0].manifest.save_id == save_id), None)
    if stack is None:
        return True
    with ObjectReader(repository.git) as reader:
        for save in stack:
            manifest, base = save.manifest, tree_of_base(reader, save.manifest.head)
            if save.wip_tree != base or manifest.staged or manifest.operation or manifest.raw or manifest.nested:
                return True
        head = stack[-1].manifest.head
    ours = ("refs/heads", "refs/remotes", "refs/tags")
    return head is not None and not repository.git.run("for-each-ref", "--count=1", "--contains", head, *ours)


def _pending_stacks(repository: Repository) -> list[tuple[Save, ...] | None]:
    """The pending saves of a repository, each with those that it stands on; None for one that can't be read."""
    stacks: list[tuple[Save, ...] | None] = []
    with ObjectReader(repository.git) as reader:
        for archive in pending_here(repository).values():
            try:
                stacks.append(read_stack(archive, reader))
            except GitstateError:
                reader.restart()
                stacks.append(None)
    return stacks


def recover_each(paths: Sequence[bytes], request: RecoverRequest) -> list[RecoverResult]:
    """Recover the workspaces that were named one by one. Returns their results in the same order. Never raises."""
    looks = [WorkspacePeek(path) for path in paths]
    tasks = [lambda seen=seen: _recover_one(seen, request) for seen in looks]
    answers = forkpool.each(tasks, workers=WORKERS, timeout=DEADLINE)
    return [
        _lost(seen, DEADLINE) if answer is forkpool.LOST else answer
        for seen, answer in zip(looks, answers, strict=True)
    ]


def _recover_one(seen: WorkspacePeek, request: RecoverRequest) -> RecoverResult:
    """Recover one workspace. Never raises: an error becomes the result."""
    try:
        result = recover(seen.workspace, request)
    except TryAgain as error:
        result = RecoverResult(seen.workspace, "busy", error.message, error.hint, EXIT_AGAIN)
    except GitstateError as error:
        result = RecoverResult(seen.workspace, "failed", error.message, error.hint, error.exit_status)
    except (OSError, RecursionError) as error:
        result = RecoverResult(seen.workspace, "failed", f"{words_of(error)}; nothing was lost", None, EXIT_FAILED)
    if not seen.damage:
        return result
    from . import damage

    left = Peeker(lambda: [seen.workspace]).peek(seen.workspace).damage
    if not left:
        return result
    more = damage.find_damage(seen.workspace, seen.git_dir, seen.common_dir) if seen.git_dir else []
    what = "; ".join([item.what for item in more] or left)
    hint = f"gitstate -C {_quoted(seen.workspace)} doctor"
    verdict = "damaged" if result.verdict in ("nothing", "failed", "corrupt") else result.verdict
    message = "; ".join(part for part in (what, result.message if verdict != "damaged" else "") if part)
    return result._replace(verdict=verdict, message=message, hint=hint, exit_status=EXIT_PERSON)


def _without_opening(seen: WorkspacePeek, orphans: dict[bytes, list[Orphan]]) -> RecoverResult:
    """The result for a workspace that needs no recovery, or that must not be touched."""
    branch = None if seen.branch is None else names.branch_name(seen.branch)
    if seen.lives:
        message = f"an agent runs here ({_worker(seen)}); nothing was changed"
        return RecoverResult(seen.workspace, "live", message, branch=branch, context=seen.context)
    if seen.problem == "foreign":
        return _foreign(seen)
    if seen.problem == "unreachable" and (where := registry.not_mounted(seen.workspace)) is not None:
        message = f"its file system is not mounted at {os.fsdecode(where)}; nothing was changed"
        return RecoverResult(
            seen.workspace, "unreachable", message, "mount it, then: gitstate recover --all", EXIT_AGAIN
        )
    if seen.problem == "unreachable":
        message = "it does not answer (a dead mount?); the other workspaces were recovered"
        return RecoverResult(seen.workspace, "unreachable", message, "gitstate recover PATH", EXIT_AGAIN)
    if seen.problem is not None:
        return _missing(seen, orphans)
    return RecoverResult(seen.workspace, "nothing", branch=branch, context=seen.context)


def _worker(seen: WorkspacePeek) -> str:
    return describe(presence_in(seen.git_dir, seen.context).holder)


def _not_mounted(seen: WorkspacePeek) -> WorkspacePeek:
    """The look at a workspace, `unreachable` where its file system may be mounted later."""
    is_gone = seen.problem in ("missing", "no_repository") or (seen.problem is None and not seen.git_dir)
    if not is_gone or registry.not_mounted(seen.workspace) is None:
        return seen
    return WorkspacePeek(seen.workspace, "unreachable")


def _foreign(seen: WorkspacePeek) -> RecoverResult:
    where = _quoted(seen.workspace)
    return RecoverResult(
        seen.workspace,
        "foreign",
        f"it belongs to user {seen.uid}; nothing of its configuration was run, nothing was changed",
        f"as that user: gitstate -C {where} recover; or, if you trust it: git config --global --add "
        f"safe.directory {where}",
        EXIT_PERSON,
    )


def _missing(seen: WorkspacePeek, orphans: dict[bytes, list[Orphan]]) -> RecoverResult:
    own, path = names.old_workspace_id(seen.workspace), text_to_json(os.fsdecode(seen.workspace))
    for orphan in (orphan for found in orphans.values() for orphan in found if orphan.problem is None):
        if orphan.workspace_id == own or orphan.workspace_path == path:
            return _elsewhere(seen.workspace, orphan)
    message = "it is no longer a git worktree" if seen.problem == "no_repository" else "it no longer exists"
    hint = f"gitstate unregister {_quoted(seen.workspace)}"
    return RecoverResult(seen.workspace, "missing", message, hint)


def _elsewhere(path: bytes, orphan: Orphan) -> RecoverResult:
    """The result for a save whose workspace, `path`, is gone."""
    branch = None if orphan.head_ref is None else names.branch_name(orphan.head_ref)
    message = f"a save of {branch or 'a detached HEAD'} is pending, but its workspace does not exist"
    hint = f"gitstate -C {_quoted(orphan.beside)} recover --save {orphan.save_id} --into {_quoted(path)}"
    return RecoverResult(path, "elsewhere", message, hint, EXIT_PERSON, orphan.save_id, branch)


def _unreadable(orphan: Orphan) -> RecoverResult:
    """The result for a pending save of a workspace that is gone, which can't be read either."""
    marker = names.marker_ref(orphan.workspace_id)
    message = f"a pending save of a workspace that does not exist can't be read ({marker}): {orphan.problem}"
    hint = f"git -C {_quoted(orphan.beside)} fsck; gitstate -C {_quoted(orphan.beside)} log --all"
    return RecoverResult(orphan.beside, "corrupt", message, hint, EXIT_PERSON)


def _lost(seen: WorkspacePeek, deadline: float) -> RecoverResult:
    message = f"its recovery died, or was stopped after {deadline:.0f} seconds; nothing was lost"
    return RecoverResult(
        seen.workspace, "failed", message, f"gitstate -C {_quoted(seen.workspace)} recover", EXIT_FAILED
    )


def _offered_by_remotes(looks: Sequence[WorkspacePeek]) -> set[bytes]:
    """The common directories of the repositories in which a save is pending that was fetched."""
    asked = {seen.common_dir: seen for seen in looks if seen.problem is None and (seen.fetched or seen.unreadable)}
    return {common for common, seen in asked.items() if _has_fetched(common, seen)}


def _has_fetched(common: bytes, seen: WorkspacePeek) -> bool:
    """Whether a save is pending that was fetched, as `_pending_in` finds it."""
    if not seen.unreadable:
        return bool(fetched_in_files(common).pending)
    with suppress(GitstateError, OSError):
        return bool(fetched_saves(open_repository(seen.workspace).git).pending)
    return False


def _has_nothing(seen: WorkspacePeek) -> bool:
    """Whether nothing of a workspace's own is pending, and nobody works there."""
    return seen.problem is None and not seen.lives and seen.marker is None


def _may_take(seen: WorkspacePeek, orphans: dict[bytes, list[Orphan]]) -> bool:
    """Whether a save without a workspace may belong to this one: the host was renamed, or the directory was moved."""
    if not _has_nothing(seen) or seen.unreadable:
        # One whose refs only git can read is opened in any case.
        return False
    return any(orphan.head_ref == seen.branch for orphan in orphans.get(seen.common_dir, ()) if orphan.problem is None)


def _quoted(path: bytes) -> str:
    return quote(os.fsdecode(path))
