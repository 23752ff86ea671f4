"""The repositories inside a workspace that a recovery could not bring back, when it brought back all else.

Its save is no longer pending: work goes on around them, and nothing older may be written over that. Each of them has a
ref of its own instead, `refs/gitstate/unfinished/<workspace-id>/<save-id>.<hash of its path>`, which points to the
archive and keeps it. It is made before the marker goes. Each later recovery tries again to bring back that repository,
touches nothing else, and deletes the ref when it is back.
"""

from __future__ import annotations

import os

from ..errors import EXIT_DONE, EXIT_PERSON, GitstateError, words_of
from ..format.archive import pending_archive, read_stack, unfinished_here
from ..format.names import inside_ref, save_ref, unfinished_ref, workspace_id
from ..git import refs
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..restore.choices import Outcome
from ..restore.paths import SavedPaths, Workspace
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, Record, quote
from ..workspace.lease import presence
from ..workspace.ownership import clear_journal, ref_locks, write_journal
from .act.nested import NestedRecovery
from .request import SUCCESSES, UNFINISHED_HINT, locate, unfinished_words, with_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ..format.manifest import Save
    from ..git.command import Git, Oid
    from .act.nested import Recover, RecoverInto
    from .request import RecoverRequest, RecoverResult


def changes(repository: Repository, newest: Save, paths: Collection[bytes]) -> list[RefUpdate]:
    """The updates after which the repositories at `paths`, and no others, are not back from the save `newest`."""
    own, save_id = workspace_id(repository), newest.manifest.save_id
    wanted = {unfinished_ref(own, save_id, path) for path in paths}
    there = {ref: oid for ref, oid in unfinished_here(repository).items() if oid == newest.archive}
    updates = [RefUpdate(ref, newest.archive, None) for ref in sorted(wanted - there.keys())]
    kept = _kept_checkpoint(repository, newest) if updates and newest.manifest.kind == "checkpoint" else []
    return [*kept, *updates, *(RefUpdate(ref, None, oid) for ref, oid in there.items() if ref not in wanted)]


def _kept_checkpoint(repository: Repository, newest: Save) -> list[RefUpdate]:
    """The updates that keep a checkpoint, and what is held beside it, as a save: the next one takes its place."""
    own, save_id = newest.manifest.workspace_id, newest.manifest.save_id
    kept = {save_ref(own, save_id): newest.archive}
    latest = inside_ref(own)
    found = refs.read_refs(repository, [latest, inside_ref(own, save_id), *kept])
    if latest in found:
        kept[inside_ref(own, save_id)] = found[latest]
    return [RefUpdate(ref, oid, None) for ref, oid in kept.items() if ref not in found]


class Unfinished(Record):
    """What is not back from one save."""

    save_id: str
    paths: tuple[bytes, ...]
    """Those of the repositories; empty where the save can't be read."""
    saves: tuple[Save, ...] = ()
    """The stack of the save; as `paths`."""
    problem: str | None = None
    """Why the save can't be read; None where it can."""


def unfinished(repository: Repository, reader: ObjectReader, found: Mapping[str, Oid]) -> list[Unfinished]:
    """What is not back by the refs `found`; of the newest save first. Raises nothing for a save that can't be read."""
    own = workspace_id(repository)
    answers = []
    for archive in dict.fromkeys(found.values()):
        mine = {ref for ref, oid in found.items() if oid == archive}
        save_id = min(mine).rpartition("/")[2].rpartition(".")[0]
        try:
            saves = read_stack(archive, reader)
        except GitstateError as error:
            # Git ends at an object that it can't read.
            reader.restart()
            answers.append(Unfinished(save_id, (), problem=error.message))
            continue
        save_id = saves[0].manifest.save_id
        named = {item.path for save in saves for item in save.manifest.nested}
        paths = tuple(path for path in sorted(named) if unfinished_ref(own, save_id, path) in mine)
        answers.append(Unfinished(save_id, paths, saves))
    return sorted(answers, key=lambda one: one.save_id, reverse=True)


def _words(one: Unfinished) -> str:
    if one.problem is None:
        return unfinished_words(one.save_id, one.paths)
    return f"repositories inside are not recovered yet, and the save {one.save_id} can't be read: {one.problem}"


def lines(found: Sequence[Unfinished]) -> list[str]:
    """What to say of each save, with the command that tries again."""
    return [f"{_words(one)}: gitstate recover" for one in found]


def finish(
    result: RecoverResult,
    repository: Repository,
    git: Git,
    due: Mapping[str, Oid],
    request: RecoverRequest,
    recover: Recover,
    recover_into: RecoverInto,
    again: Callable[[], RecoverResult],
) -> RecoverResult:
    """Bring back what is not back by the refs `due`; `result` is that of the recovery of all else, to add to, and
    `again` recovers all else once more.

    Nothing is done where that needs a person, or where somebody may be at work.
    """
    # The missing workspace of which a save is pending may be one of those that are not back.
    is_elsewhere = result.verdict == "elsewhere" and result.save_id is None
    may_act = is_elsewhere or result.verdict == "nothing" or result.verdict in SUCCESSES
    if not may_act or (request.strict and presence(repository).state in ("live", "unknown")):
        return result
    with ObjectReader(repository.git) as reader:
        found = unfinished(repository, reader, due)
        if request.dry_run:
            return with_messages(result, *map(_words, found))
        if is_elsewhere or result.verdict == "nothing":
            # What it says is that no save is pending here.
            result = result._replace(verdict="nothing", message="", hint=None, exit_status=EXIT_DONE)
        for one in found:
            result = _finish_one(result, Workspace.of(repository, git, reader), one, request, recover, recover_into)
    if not is_elsewhere or result.exit_status:
        return result
    rest = again()
    return result if rest.verdict == "nothing" else with_messages(rest, result.message)._replace(nested=result.nested)


def _finish_one(
    result: RecoverResult,
    workspace: Workspace,
    one: Unfinished,
    request: RecoverRequest,
    recover: Recover,
    recover_into: RecoverInto,
) -> RecoverResult:
    repository = workspace.repository
    command = f"gitstate -C {quote(os.fsdecode(repository.toplevel))} recover"
    if one.problem is not None:
        return _told(result, repository, _words(one), f"git fsck; {UNFINISHED_HINT}", one.save_id)
    outcome = Outcome()
    nested = NestedRecovery(workspace, request, outcome, recover, recover_into, command)
    try:
        results = nested.run(SavedPaths(workspace, one.saves), (), one.paths)
    except (GitstateError, OSError) as error:
        words = f"{unfinished_words(one.save_id, one.paths)}; {words_of(error)}"
        return _told(result, repository, words, UNFINISHED_HINT, one.save_id)
    left = [path for path in one.paths if path in outcome.unfinished]
    back = [path for path in one.paths if path not in left and not any(item.path == path for item in outcome.failed)]
    updates = changes(repository, one.saves[0], left)
    if updates:
        move(repository, workspace.git, updates, f"recover {one.save_id}")
    result = result._replace(nested=(*result.nested, *results), left_out=(*result.left_out, *outcome.failed))
    if back:
        named = [text_to_json(os.fsdecode(path)) for path in back]
        result = with_messages(result, f"recovered from the save {one.save_id}: {', '.join(named)}")
    if left or any(item.lost for item in outcome.failed):
        words = unfinished_words(one.save_id, left) if left else ""
        return _told(result, repository, words, UNFINISHED_HINT if left else None, one.save_id)
    return result


def _told(result: RecoverResult, repository: Repository, words: str, hint: str | None, save_id: str) -> RecoverResult:
    """`result` where a person has to do something first."""
    hint = "; ".join(filter(None, (result.hint, locate(hint, repository.toplevel))))
    result = with_messages(result, words)._replace(hint=hint or None, exit_status=EXIT_PERSON, partial=True)
    return result if result.verdict != "nothing" else result._replace(verdict="restore", save_id=save_id)


def move(repository: Repository, git: Git, updates: Sequence[RefUpdate], message: str) -> None:
    """Move refs as a step of its own, which may be killed anywhere. Raises as `RefWriter.commit` does."""
    write_journal(repository, ref_locks(repository, [update.ref for update in updates]))
    refs.move_refs(repository, git, updates, message)
    clear_journal(repository)


def due(repository: Repository) -> dict[str, Oid]:
    """Ref → archive of what is not back; without that of the pending save, whose recovery brings back all."""
    found = unfinished_here(repository)
    pending = pending_archive(repository) if found else None
    return {ref: oid for ref, oid in found.items() if oid != pending}
