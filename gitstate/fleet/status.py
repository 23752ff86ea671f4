"""What each of many workspaces is doing, for `gitstate status`."""

from __future__ import annotations

import os

from ..errors import GitstateError, words_of
from ..format import names
from ..format.context import Context
from ..git.gitdir import lost_backlinks
from ..git.opening import open_repository
from ..git.repository import read_head
from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from ..workspace.live_context import owner_state, read_live_context
from ..workspace.peek import Peeker, WorkspacePeek

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..git.repository import Repository
    from ..workspace.live_context import OwnerState
    from .orphans import Orphan

#: The states of a workspace in which nobody works, and nothing is pending.
AT_REST = ("recovered", "idle", "finished")
#: Seconds to open one workspace.
_DEADLINE = 30.0


class Summary(Record):
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
    proven: tuple[str | None, str, list[str]] | None = None
    """What the last `verify` found: see `read_receipt`."""
    inside: tuple[bytes, ...] = ()
    """The repositories inside, ignored or not, that the pending save names."""


def summaries(
    paths: Sequence[bytes],
    progress: Callable[[int, int, str], None] = lambda _done, _all, _what: None,
    *,
    with_gone: bool = False,
    bare: Repository | None = None,
) -> list[Summary]:
    """One summary of each workspace, in their order. Only those with a pending save are opened.

    `with_gone`: then one for each pending save whose workspace does not exist, also where no worktree of the repository
    `bare` is left. `progress` is called as `recover_all` calls it.
    """
    from ..system import forkpool
    from .find import WORKERS, peek_all

    looks = peek_all(paths, lambda done: progress(done, len(paths), "looked at"))
    opened = [
        number
        for number, seen in enumerate(looks)
        if seen.problem == "no_repository" or (not seen.damage and _is_worth_opening(seen))
    ]
    tasks = [lambda path=looks[number].workspace: summarize(path) for number in opened]
    opening = forkpool.each(
        tasks, workers=WORKERS, timeout=_DEADLINE, done=lambda done: progress(done, len(opened), "opened")
    )
    answers = dict(zip(opened, opening, strict=True))
    found = []
    for number, seen in enumerate(looks):
        answer = answers.get(number, forkpool.LOST)
        summary = summarize_peek(seen) if answer is forkpool.LOST else answer
        found.append(summary._replace(aside=_aside(seen)) if seen.dismissed or seen.unreadable else summary)
    if not with_gone or (bare is None and not any(seen.others_pending or seen.unreadable for seen in looks)):
        return found
    from .orphans import find_orphans

    orphans = [orphan for of_one in find_orphans(looks, bare).values() for orphan in of_one]
    # Of a copied repository the workspaces are there, and their saves pending in the original.
    gone = [_gone(one) for one in orphans if not os.path.lexists(os.fsencode(one.workspace_path or ""))]
    named = {item.workspace for item in gone}
    return [*(item for item in found if item.status != "missing" or item.workspace not in named), *gone]


def _gone(orphan: Orphan) -> Summary:
    """The summary of a workspace that does not exist, and has a pending save."""
    command = f"gitstate -C {quote(os.fsdecode(orphan.beside))}"
    if orphan.problem is not None:
        what = f"a pending save of a workspace that does not exist can't be read: {orphan.problem}"
        return Summary(orphan.beside, None, "unreadable", problem=f"{what}: {command} log --all")
    path = os.fsencode(orphan.workspace_path or "PATH")
    branch = None if orphan.head_ref is None else names.branch_name(orphan.head_ref)
    problem = f"the directory does not exist: {command} recover --worktrees"
    return Summary(path, branch, "missing", orphan.save_id, orphan.context, problem)


def _is_worth_opening(seen: WorkspacePeek) -> bool:
    return bool(seen.marker or seen.unfinished or seen.lost or seen.unreadable)


def short_line(path: bytes) -> str:
    """The status of the workspace that `path` is in, and its task, for a prompt: empty where there is nothing to tell.

    From files alone: no process is started, and a pending save is not opened. Never raises.
    """
    top = os.path.realpath(path)
    while len(top) > 1 and not os.path.lexists(os.path.join(top, b".git")):
        top = os.path.dirname(top)
    seen = Peeker().peek(top)
    if seen.problem is not None:
        return ""
    summary = summarize_peek(seen)
    is_interrupted = (seen.marker or (seen.unfinished and summary.status in AT_REST)) and not seen.damage
    known = "interrupted" if is_interrupted else summary.status
    words = ["" if known in (None, "idle") else known, summary.context.task_id]
    return " ".join(word for word in words if word) if words[0] else ""


def _aside(seen: WorkspacePeek) -> tuple[tuple[str, str | None], ...]:
    """What was set aside in a workspace; it is opened only where there is a ref that may say so."""
    if not (seen.dismissed or seen.unreadable) or seen.damage:
        return ()
    from ..format.archive import read_save
    from ..git import refs
    from ..objects.reader import ObjectReader
    from ..run.hold import is_aside

    prefix, aside = names.dismissed_ref(seen.workspace_id, ""), []
    with suppress(GitstateError, OSError):
        if seen.unreadable:
            listed = refs.list_refs(open_repository(seen.workspace).git, prefix)
            found = {ref[len(prefix) :]: oid for ref, oid in listed.items()}
        else:
            (found,) = refs.read_refs_below(seen.common_dir, prefix)
        if found:
            with ObjectReader(open_repository(seen.workspace).git) as reader:
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
        from ..format.archive import pending_archive

        waiting: str | None = None
        inside: tuple[bytes, ...] = ()
        archive = pending_archive(repository)
        if archive is not None:
            from ..format.archive import read_save
            from ..objects.reader import ObjectReader

            with ObjectReader(repository.git) as reader:
                save = read_save(archive, reader)
            waiting, status, context = save.manifest.save_id, "interrupted", save.context
            inside = tuple(sorted(item.path for item in save.manifest.nested))
        problem = _lost_backlink(repository.git_dir, repository.common_dir)
        if status == "interrupted" and archive is None:
            from ..workspace.damage import REFS_DELETED, lost_save_id

            waiting = lost_save_id(repository)
            problem = problem if waiting is None else "; ".join(filter(None, (REFS_DELETED, problem)))
        if status == "active":
            state, notes = _of_active(repository.git_dir, owner_state(repository.git_dir, context))
            problem = "; ".join([*([] if problem is None else [problem]), *notes]) or None
        else:
            state = status or "idle"
        left = _not_back(repository)
        if left:
            state = "interrupted" if state in AT_REST else state
            problem = "; ".join([*([] if problem is None else [problem]), *left])
        summary = Summary(repository.toplevel, branch, state, waiting, context, problem, inside=inside)
        return summary._replace(proven=_proven(repository.git_dir))
    except (GitstateError, OSError) as error:
        return _damaged(path) or Summary(path, branch, status="unreadable", problem=words_of(error)[:200])


def _not_back(repository: Repository) -> list[str]:
    """What to say of the repositories inside that are not back from a save that was recovered."""
    from ..format.archive import unfinished_here

    found = unfinished_here(repository)
    if not found:
        return []
    from ..objects.reader import ObjectReader
    from ..recover.unfinished import lines, unfinished

    with ObjectReader(repository.git) as reader:
        return lines(unfinished(repository, reader, found))


def _damaged(path: bytes) -> Summary | None:
    """The summary of a workspace that git does not open because its files are damaged; None where it is not that."""
    from ..workspace.damage import find_unreadable, open_damaged

    with suppress(GitstateError, OSError):
        repository = open_damaged(path)
        found = [] if repository is None else [item.what for item in find_unreadable(repository)]
        if repository is not None and found:
            context, _ = read_live_context(repository)
            return Summary(repository.toplevel, None, "damaged", None, context, _advised(found))
    return None


def _advised(found: list[str]) -> str:
    """What is damaged, and the command that tells how to mend it."""
    return f"{'; '.join(found)}: gitstate doctor"


def _lost_backlink(git_dir: bytes, common_dir: bytes) -> str | None:
    """What is wrong with the file by which git finds a linked worktree; None where it leads here."""
    lost = lost_backlinks(git_dir, common_dir) if git_dir != common_dir else []
    return _advised([f"{os.fsdecode(path)} does not lead here" for path in lost]) if lost else None


def summarize_peek(seen: WorkspacePeek) -> Summary:
    """The summary of a workspace that is not opened."""
    where = None
    if seen.problem == "missing":
        from ..workspace.registry import not_mounted

        where = not_mounted(seen.workspace)
    problem = {
        "missing": _absence(seen.workspace) if where is None else f"{os.fsdecode(where)} is not mounted",
        "foreign": f"it belongs to user {seen.uid}",
        "unreachable": "it does not answer",
    }.get(seen.problem or "", seen.problem)
    if problem is not None:
        return Summary(seen.workspace, status=seen.problem, problem=problem)
    branch = None if seen.branch is None else names.branch_name(seen.branch)
    status: str = "damaged" if seen.damage else seen.status or "idle"
    notes = [_advised([*seen.damage])] if seen.damage else []
    backlink = _lost_backlink(seen.git_dir, seen.common_dir)
    notes += [] if backlink is None else [backlink]
    if status == "active":
        status, more = _of_active(seen.git_dir, seen.owner)
        notes += more
    proven = _proven(seen.git_dir)
    return Summary(seen.workspace, branch, status, None, seen.context, "; ".join(notes) or None, proven=proven)


def _absence(path: bytes) -> str:
    return "it is not a directory" if os.path.lexists(path) else "the directory does not exist"


def _of_active(git_dir: bytes, owner: OwnerState) -> tuple[str, list[str]]:
    """What a workspace whose context is active is doing, by what is known of its owner; and what to say of it."""
    return ("crashed", ["gitstate recover"]) if owner == "gone" else ("active", failures(git_dir))


def _proven(git_dir: bytes) -> tuple[str | None, str, list[str]] | None:
    """What the last `verify` found; None where nobody asked for one. Most workspaces have no receipt."""
    if not os.path.exists(os.path.join(git_dir, b"gitstate", b"verified.json")):
        return None
    from ..history.receipt import read_receipt

    return read_receipt(git_dir)


def failures(git_dir: bytes) -> list[str]:
    """Why the last checkpoint of a run, and of an agent's hook, failed."""
    from ..workspace.run_record import failing_checkpoints

    problem = failing_checkpoints(git_dir)
    found = [] if problem is None else [f"the last checkpoint failed: {problem}"]
    if os.path.lexists(os.path.join(git_dir, b"gitstate", b"agent-hook.json")):
        from ..agent_hooks.memory import failing_hook

        failing = failing_hook(git_dir)
        found += [] if failing is None else [failing]
    return found
