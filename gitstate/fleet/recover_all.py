"""Many workspaces at once, as after a reboot: a look at each, and recovery of those that need it.

One bad workspace never stops the rest: each is opened in a process of its own under a deadline, and what goes wrong
there is its result. Nothing is done in a workspace whose owner may live, or that belongs to someone else.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import EXIT_AGAIN, EXIT_FAILED, EXIT_PERSON, GitstateError, TryAgain
from ..format import names
from ..git import refs
from ..git.oid import Oid
from ..git.repository import open_repository, trusted_directories
from ..objects.reader import ObjectReader
from ..recover import facts
from ..recover.facts import Summary
from ..recover.recover import recover
from ..recover.request import RecoverRequest, RecoverResult
from ..system import forkpool
from ..workspace import damage, registry
from ..workspace.peek import Peeker, WorkspacePeek, worktree_ids
from ..workspace.run_record import failing_checkpoints
from . import find

#: Each recovery starts several git processes of its own.
_WORKERS = min(8, max(2, os.cpu_count() or 2))
#: Seconds for one look, which takes less than a thousandth of one where the disk answers.
_PATIENCE = 10.0
#: Seconds for one recovery. A killed one is taken up by the next.
DEADLINE = 900.0


class Orphan(NamedTuple):
    """A save that waits in a repository under the name of a workspace that is not there."""

    workspace_id: str
    save_id: str
    workspace_path: str | None
    head_ref: str | None
    beside: bytes
    """A worktree of the repository that is there."""


def workspaces(here: bytes, roots: Sequence[bytes] = ()) -> tuple[list[bytes], bool]:
    """Every workspace that is known: the worktrees of the repository in `here`, the registered ones, and those found
    below `roots`. The flag says whether the walk saw all.
    """
    found: list[bytes] = []
    complete = True
    if not roots:
        try:
            repository = open_repository(here)
            places = facts.worktrees(repository)
            # The administrative directory of a bare repository is listed too.
            found += [place for place in places if os.path.lexists(os.path.join(place, b".git"))]
        except GitstateError:
            pass
        found += registry.registered()
    for root in roots:
        walked = find.find(root)
        found += walked.paths
        complete = complete and walked.complete
    return list(dict.fromkeys(found)), complete


def look_at(paths: Sequence[bytes]) -> list[WorkspacePeek]:
    """The first look at each path, in their order, whatever one of them does."""
    looker = Peeker(trusted_directories())
    answers = forkpool.stream(paths, looker.peek, patience=_PATIENCE)
    return [
        WorkspacePeek(path, "unreachable") if seen is forkpool.LOST else seen
        for path, seen in zip(paths, answers, strict=True)
    ]


def recover_all(
    paths: Sequence[bytes],
    request: RecoverRequest,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    *,
    deadline: float = DEADLINE,
) -> list[RecoverResult]:
    """Recover each workspace that needs it; the results stand in the order of `paths`, orphaned saves behind them.

    `progress` is told how many of how many workspaces are done. Never raises for what is wrong with one of them.
    """
    looks = look_at(paths)
    orphans = _orphans(looks)
    due = [number for number, seen in enumerate(looks) if seen.due or _may_take(seen, orphans)]
    results: dict[int, RecoverResult] = {
        number: _without_opening(seen, orphans) for number, seen in enumerate(looks) if number not in set(due)
    }
    tasks = [lambda seen=looks[number]: _recover_one(seen, request) for number in due]
    answers = forkpool.each(tasks, workers=_WORKERS, timeout=deadline, done=lambda done: progress(done, len(due)))
    for number, answer in zip(due, answers, strict=True):
        results[number] = _lost(looks[number], deadline) if answer is forkpool.LOST else answer
    taken = {result.save_id for result in results.values()}
    # An agent that works is well: nobody has to try again because of it.
    told = [
        result._replace(exit_status=0) if result.verdict == "live" else result
        for result in (results[number] for number in range(len(looks)))
    ]
    for found in orphans.values():
        told += [_into(os.fsencode(o.workspace_path or "PATH"), o) for o in found if o.save_id not in taken]
    return told


def recover_each(paths: Sequence[bytes], request: RecoverRequest) -> list[RecoverResult]:
    """Recover the workspaces that someone named one by one; the results stand in their order. Never raises."""
    looks = [WorkspacePeek(path) for path in paths]
    tasks = [lambda seen=seen: _recover_one(seen, request) for seen in looks]
    answers = forkpool.each(tasks, workers=_WORKERS, timeout=DEADLINE)
    return [
        _lost(seen, DEADLINE) if answer is forkpool.LOST else answer
        for seen, answer in zip(looks, answers, strict=True)
    ]


def summaries(paths: Sequence[bytes]) -> list[Summary]:
    """One line about each workspace, in their order. Only those in which a save waits are opened."""
    looks = look_at(paths)
    opened = [
        number
        for number, seen in enumerate(looks)
        if seen.problem == "no_repository" or (not seen.damage and (seen.marker or seen.unreadable))
    ]
    tasks = [lambda path=looks[number].workspace: facts.summary(path) for number in opened]
    answers = dict(zip(opened, forkpool.each(tasks, workers=_WORKERS, timeout=_PATIENCE * 3), strict=True))
    found = []
    for number, seen in enumerate(looks):
        answer = answers.get(number, forkpool.LOST)
        found.append(_summary(seen) if answer is forkpool.LOST else answer)
    return found


def _summary(seen: WorkspacePeek) -> Summary:
    problem = {
        "missing": "there is no such directory",
        "foreign": f"it belongs to user {seen.uid}",
        "unreachable": "nothing answers there",
    }.get(seen.problem or "", seen.problem)
    if problem is not None:
        return Summary(seen.workspace, status=seen.problem, problem=problem)
    branch = None if seen.branch is None else names.branch_name(seen.branch)
    status = "damaged" if seen.damage else seen.status or "idle"
    notes = list(seen.damage)
    if status == "active" and seen.owner == "gone":
        status = "crashed"
        notes.append("gitstate recover")
    if status == "active" and (why := failing_checkpoints(seen.git_dir)) is not None:
        notes.append(f"the last checkpoint failed: {why}")
    return Summary(seen.workspace, branch, status, None, seen.context, "; ".join(notes) or None)


def _recover_one(seen: WorkspacePeek, request: RecoverRequest) -> RecoverResult:
    """One recovery, in a process of its own; whatever happens is its result."""
    try:
        result = recover(seen.workspace, request)
    except TryAgain as error:
        result = RecoverResult(seen.workspace, "busy", error.message, error.hint, EXIT_AGAIN)
    except GitstateError as error:
        result = RecoverResult(seen.workspace, "failed", error.message, error.hint, error.exit_status)
    except (OSError, RecursionError) as error:
        result = RecoverResult(seen.workspace, "failed", f"{error}; nothing was lost", None, EXIT_FAILED)
    if not seen.damage:
        return result
    left = Peeker([seen.workspace]).peek(seen.workspace).damage
    if not left:
        return result
    more = damage.find_damage(seen.workspace, seen.git_dir, seen.common_dir) if seen.git_dir else []
    words = "; ".join([item.what for item in more] or left)
    hint = f"gitstate -C {_quoted(seen.workspace)} doctor"
    verdict = "damaged" if result.verdict in ("nothing", "failed", "corrupt") else result.verdict
    message = "; ".join(word for word in (words, result.message if verdict != "damaged" else "") if word)
    return result._replace(verdict=verdict, message=message, hint=hint, exit_status=EXIT_PERSON)


def _without_opening(seen: WorkspacePeek, orphans: dict[bytes, list[Orphan]]) -> RecoverResult:
    """The result for a workspace in which nothing is to be done."""
    branch = None if seen.branch is None else names.branch_name(seen.branch)
    if seen.lives:
        words = f"an agent works here (pid {seen.context.pid}); left alone"
        return RecoverResult(seen.workspace, "live", words, branch=branch, context=seen.context)
    if seen.problem == "foreign":
        return _foreign(seen)
    if seen.problem == "unreachable":
        words = "nothing answers there (a dead mount?); the rest went on"
        return RecoverResult(seen.workspace, "unreachable", words, "gitstate recover PATH", EXIT_AGAIN)
    if seen.problem is not None:
        return _missing(seen, orphans)
    return RecoverResult(seen.workspace, "nothing", branch=branch, context=seen.context)


def _foreign(seen: WorkspacePeek) -> RecoverResult:
    where = _quoted(seen.workspace)
    return RecoverResult(
        seen.workspace,
        "foreign",
        f"it belongs to user {seen.uid}: nothing that it names was run, nothing was changed",
        f"as that user: gitstate -C {where} recover; or, where you trust it: git config --global --add "
        f"safe.directory {where}",
        EXIT_PERSON,
    )


def _missing(seen: WorkspacePeek, orphans: dict[bytes, list[Orphan]]) -> RecoverResult:
    own = names.workspace_id_at(seen.workspace)
    for orphan in (orphan for found in orphans.values() for orphan in found):
        if orphan.workspace_id == own:
            return _into(seen.workspace, orphan)
    words = "there is no git worktree here any more" if seen.problem == "no_repository" else "it is not there any more"
    hint = f"gitstate unregister {_quoted(seen.workspace)}"
    return RecoverResult(seen.workspace, "missing", words, hint)


def _into(place: bytes, orphan: Orphan) -> RecoverResult:
    branch = None if orphan.head_ref is None else names.branch_name(orphan.head_ref)
    words = f"a save of {branch or 'a detached HEAD'} waits, and its workspace is not there"
    hint = f"gitstate -C {_quoted(orphan.beside)} recover --save {orphan.save_id} --into {_quoted(place)}"
    return RecoverResult(place, "elsewhere", words, hint, EXIT_PERSON, orphan.save_id, branch)


def _lost(seen: WorkspacePeek, deadline: float) -> RecoverResult:
    words = f"its recovery ended early, or took longer than {deadline:.0f} seconds and was stopped; nothing was lost"
    return RecoverResult(seen.workspace, "failed", words, f"gitstate -C {_quoted(seen.workspace)} recover", EXIT_FAILED)


def _orphans(looks: Sequence[WorkspacePeek]) -> dict[bytes, list[Orphan]]:
    """The saves that wait for workspaces which are not there, by the repository's common directory."""
    one_of: dict[bytes, WorkspacePeek] = {}
    for seen in looks:
        if seen.problem is None and seen.git_dir and seen.common_dir not in one_of:
            one_of[seen.common_dir] = seen
    asked: list[tuple[bytes, WorkspacePeek, dict[str, Oid]]] = []
    for common, seen in one_of.items():
        (pending,) = refs.read_refs_below(common, names.PENDING)
        if pending:
            here = worktree_ids(common)
            lone = {name: oid for name, oid in pending.items() if name not in here and oid}
            if lone:
                asked.append((common, seen, lone))
    tasks = [lambda seen=seen, lone=lone: _read_orphans(seen.workspace, lone) for _, seen, lone in asked]
    answers = forkpool.each(tasks, workers=_WORKERS, timeout=_PATIENCE * 6)
    return {
        common: answer for (common, _, _), answer in zip(asked, answers, strict=True) if answer is not forkpool.LOST
    }


def _read_orphans(workspace: bytes, lone: dict[str, Oid]) -> list[Orphan]:
    found = []
    with ObjectReader(open_repository(workspace).git) as reader:
        for name, oid in lone.items():
            try:
                save = facts.read_stack(oid, reader)[0]
            except GitstateError:
                continue
            place, manifest = save.context.workspace_path, save.manifest
            found.append(Orphan(name, manifest.save_id, place, manifest.head_ref, workspace))
    return found


def _may_take(seen: WorkspacePeek, orphans: dict[bytes, list[Orphan]]) -> bool:
    """Whether an orphaned save may be this workspace's: its host was renamed, or its directory moved."""
    if seen.problem is not None or seen.lives or seen.marker is not None:
        return False
    return any(orphan.head_ref == seen.branch for orphan in orphans.get(seen.common_dir, ()))


def _quoted(path: bytes) -> str:
    return shlex.quote(os.fsdecode(path))
