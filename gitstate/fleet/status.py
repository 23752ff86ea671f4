"""What each of many workspaces is doing, for `gitstate status`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import GitstateError
from ..format import names
from ..format.archive import read_save
from ..format.context import Context
from ..format.saves import pending_archive
from ..git import refs
from ..git.repository import open_repository, read_head
from ..integrations.agent_hooks import failing_hook
from ..objects.reader import ObjectReader
from ..run.hold import is_aside
from ..system import forkpool
from ..workspace import registry
from ..workspace.live_context import read_live_context
from ..workspace.ownership import failing_checkpoints
from ..workspace.peek import WorkspacePeek
from .find import PEEK_DEADLINE, WORKERS, peek_all

#: Seconds to open one workspace.
_DEADLINE = 3 * PEEK_DEADLINE


@dataclass(frozen=True)
class Summary:
    """One line of `gitstate status`."""

    workspace: bytes
    branch: str | None = None
    """The short name; None if HEAD is detached or the branch is unknown."""
    status: str | None = None
    """The status in the state file, or `idle`, `crashed`, `damaged`, `unreadable`, or the problem of the peek."""
    waiting: str | None = None
    """The id of the pending save."""
    context: Context = Context()
    problem: str | None = None
    """What is wrong, for a person."""
    aside: tuple[tuple[str, str | None], ...] = ()
    """Save and task of what `gitstate run --keep` has set aside here."""


def summaries(paths: Sequence[bytes]) -> list[Summary]:
    """One summary of each workspace, in their order. Only those with a pending save are opened."""
    looks = peek_all(paths)
    opened = [
        number
        for number, seen in enumerate(looks)
        if seen.problem == "no_repository" or (not seen.damage and (seen.marker or seen.unreadable))
    ]
    tasks = [lambda path=looks[number].workspace: summarize(path) for number in opened]
    answers = dict(zip(opened, forkpool.each(tasks, workers=WORKERS, timeout=_DEADLINE), strict=True))
    found = []
    for number, seen in enumerate(looks):
        answer = answers.get(number, forkpool.LOST)
        found.append(replace(_summarize_peek(seen) if answer is forkpool.LOST else answer, aside=_aside(seen)))
    return found


def _aside(seen: WorkspacePeek) -> tuple[tuple[str, str | None], ...]:
    """What was set aside in a workspace; it is opened only where there is a ref that may say so."""
    if not seen.common_dir or seen.damage:
        return ()
    (found,) = refs.read_refs_below(seen.common_dir, names.dismissed_ref(seen.workspace_id, ""))
    aside = []
    if found:
        with contextlib.suppress(GitstateError, OSError), ObjectReader(open_repository(seen.workspace).git) as reader:
            for save_id, archive in sorted(found.items()):
                save = read_save(archive, reader)
                if is_aside(save.manifest):
                    aside.append((save_id, save.context.task_id))
    return tuple(aside)


def summarize(path: bytes) -> Summary:
    """The summary of one workspace, which is opened. Never raises: the summary says what is wrong."""
    branch = None
    try:
        repository = open_repository(path)
        ref = read_head(repository.git_dir)
        branch = None if ref is None else names.branch_name(ref)
        context, status = read_live_context(repository)
        waiting = None
        archive = pending_archive(repository)
        if archive is not None:
            with ObjectReader(repository.git) as reader:
                save = read_save(archive, reader)
            waiting, status, context = save.manifest.save_id, "interrupted", save.context
        return Summary(repository.toplevel, branch, status or "idle", waiting, context)
    except (GitstateError, OSError) as error:
        return Summary(path, branch, status="unreadable", problem=str(error)[:200])


def _summarize_peek(seen: WorkspacePeek) -> Summary:
    """The summary of a workspace that is not opened."""
    where = registry.not_mounted(seen.workspace) if seen.problem == "missing" else None
    problem = {
        "missing": "the directory does not exist" if where is None else f"{os.fsdecode(where)} is not mounted",
        "foreign": f"it belongs to user {seen.uid}",
        "unreachable": "it does not answer",
    }.get(seen.problem or "", seen.problem)
    if problem is not None:
        return Summary(seen.workspace, status=seen.problem, problem=problem)
    branch = None if seen.branch is None else names.branch_name(seen.branch)
    status: str = "damaged" if seen.damage else seen.status or "idle"
    notes = list(seen.damage)
    if status == "active" and seen.owner == "gone":
        status = "crashed"
        notes.append("gitstate recover")
    elif status == "active" and (problem := failing_checkpoints(seen.git_dir)) is not None:
        notes.append(f"the last checkpoint failed: {problem}")
    if status == "active" and (failing := failing_hook(seen.git_dir)) is not None:
        notes.append(failing)
    return Summary(seen.workspace, branch, status, None, seen.context, "; ".join(notes) or None)
