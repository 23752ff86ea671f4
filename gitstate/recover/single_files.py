"""Single files of a save (`restore SAVE PATH`), and what was written last taken back (`undo`).

What the last recovery or restore wrote is noted for `undo`: see `last_restore`.
"""

from __future__ import annotations

import os

from ..errors import NeedsPerson, UsageError
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..restore.choices import Choice, Outcome, Target, close_directories, needs_safety_save
from ..restore.files import FileRecovery, save_for_safety
from ..restore.paths import SavedPaths, Workspace, is_below, leaves_of, paths_with
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING
from ..workspace.ownership import clear_journal, locked_workspace, write_journal
from ..workspace.settings import require
from .elsewhere import stack_of
from .fetched import is_trusted, refusal, risky_paths
from .last_restore import Version, last_restore, remember
from .plan import conclude_files
from .request import SETTINGS, RecoverRequest, RecoverResult, hints_for, located
from .unreadable import unreadable_told

if TYPE_CHECKING:
    from collections.abc import Sequence


def restore_paths(
    repository: Repository, save_id: str, paths: Sequence[bytes], request: RecoverRequest
) -> RecoverResult:
    """Write files of a save into this workspace: all that it changed, or `paths` with all below them.

    Index, branch and marker stay. A file that holds something else is kept unless `request.overwrite`.
    Raises NeedsPerson where there is no such save, UsageError where it holds none of `paths`.
    """
    require(repository, *SETTINGS)
    with (
        hints_for(repository.toplevel),
        locked_workspace(repository, Deadline(request.wait), reads=request.dry_run) as git,
        ObjectReader(repository.git) as reader,
    ):
        found = stack_of(repository, save_id)
        with unreadable_told(repository, found.stack):
            workspace = Workspace.of(repository, git, reader)
            saved = SavedPaths(workspace, found.stack, overwrite=request.overwrite)
            targets = _wanted(saved, paths)
            runs = () if found.remote is None else risky_paths(repository, [target.path for target in targets])
            if runs and not is_trusted(repository, found.remote, request):
                hint = f"gitstate restore {save_id} PATH…; to take all of it: gitstate restore {save_id} --trust"
                return refusal(repository.toplevel, save_id, found.remote, runs, hint)
            return _restore(workspace, saved, targets, request)._replace(runs=runs)


def _wanted(saved: SavedPaths, paths: Sequence[bytes]) -> list[Target]:
    changed = saved.targets()
    if not paths or b"." in paths:
        return changed
    targets = [target for target in changed if any(is_below(target.path, path) for path in paths)]
    known = {target.path for target in targets}
    for path in paths:
        more = saved.unchanged(path, known)
        if not more and not any(is_below(name, path) for name in known):
            save_id = saved.newest.manifest.save_id
            raise UsageError(f"the save {save_id} holds no {os.fsdecode(path)}", hint=f"gitstate diff {save_id}")
        targets += more
    return targets


def _restore(
    workspace: Workspace, saved: SavedPaths, targets: Sequence[Target], request: RecoverRequest
) -> RecoverResult:
    outcome = _bring_back(workspace, saved, targets, Version(saved.newest.manifest.save_id, None), request)
    result = conclude_files(workspace.repository.toplevel, saved.newest, outcome)
    return located(result._replace(dry_run=request.dry_run))


def _bring_back(
    workspace: Workspace, saved: SavedPaths, targets: Sequence[Target], version: Version, request: RecoverRequest
) -> Outcome:
    """Give the targets back, and remember that they are of `version`; in a dry run, what would be given back."""
    outcome = Outcome()
    choices = saved.choices(targets, outcome)
    outcome.kept = paths_with(choices, "keep")
    if request.dry_run:
        outcome.restored, outcome.deleted = paths_with(choices, "write"), paths_with(choices, "delete")
    else:
        _carry_out(workspace, saved, choices, outcome)
        remember(workspace, version, outcome)
        clear_journal(workspace.repository)
    return outcome


def _carry_out(workspace: Workspace, saved: SavedPaths, choices: Sequence[Choice], outcome: Outcome) -> None:
    """Take the safety save, then write and delete. The journal is for the caller to clear."""
    write_journal(workspace.repository, [])
    if needs_safety_save(choices):
        outcome.safety = save_for_safety(workspace, choices)
        write_journal(workspace.repository, [])
    recovery = FileRecovery(workspace, saved, outcome)
    try:
        recovery.carry_out(choices)
        recovery.permissions([choice.target for choice in choices])
    finally:
        close_directories(workspace.disk, outcome)
    workspace.disk.sync()


def undo(repository: Repository, request: RecoverRequest) -> RecoverResult:
    """Take the last recovery, restore or undo back: each path that it wrote holds what it held before.

    Index, branch, marker and context stay. A file that was edited since is kept unless `request.overwrite`. What is
    taken back is saved first, so that a second undo brings it again. Raises NeedsPerson where there is nothing to undo.
    """
    require(repository, *SETTINGS)
    with (
        hints_for(repository.toplevel),
        locked_workspace(repository, Deadline(request.wait), reads=request.dry_run) as git,
        ObjectReader(repository.git) as reader,
    ):
        last = last_restore(repository)
        if last is None:
            raise NeedsPerson("nothing was recovered or restored here that could be undone", hint="gitstate log")
        workspace = Workspace.of(repository, git, reader)
        named = [version.save_id for version in (last.before, last.after) if version.save_id is not None]
        if not named:
            raise NeedsPerson("the last restore names no save; nothing was changed", hint="gitstate log")
        stacks = [stack_of(repository, save_id).stack for save_id in named]
        saved = SavedPaths(workspace, stacks[0], overwrite=request.overwrite)
        with unreadable_told(repository, [save for stack in stacks for save in stack]):
            before, after = (_held(workspace, version, last.paths) for version in (last.before, last.after))
            targets = []
            for path in last.paths:
                held, bases = before.get(path, Target(path, None, None, frozenset())), after.get(path)
                known = frozenset() if bases is None or bases.saved is None else frozenset({bases.saved})
                targets.append(held._replace(bases=known))
            outcome = _bring_back(workspace, saved, targets, last.before, request)
        result = conclude_files(repository.toplevel, saved.newest, outcome)
        hint = "gitstate undo --overwrite" if outcome.kept else result.hint
        message = result.message or ("" if request.dry_run else "gitstate undo once more brings back what was undone")
        result = result._replace(save_id=last.before.save_id)
        return located(result._replace(dry_run=request.dry_run, hint=hint, message=message))


def _held(workspace: Workspace, version: Version, paths: Sequence[bytes]) -> dict[bytes, Target]:
    """What a version holds at each of the paths, and the permissions where they are known; a path may be missing."""
    reader, repository = workspace.reader, workspace.repository
    if version.save_id is None:
        tree = None if version.commit is None else reader.tree_of(version.commit)
        stored = leaves_of(workspace, tree, paths)
        return {path: Target(path, leaf, None, frozenset(), True) for path, leaf in stored.items()}
    saved = SavedPaths(workspace, stack_of(repository, version.save_id).stack)
    changed = {target.path: target for target in saved.targets()}
    modes = saved.newest.manifest.modes
    stored = saved.leaves(saved.newest.wip_tree, [path for path in paths if path not in changed])
    held = {path: Target(path, leaf, modes.get(path), frozenset(), True) for path, leaf in stored.items()}
    for path in paths:
        if path in changed and changed[path].saved is not None:
            held[path] = changed[path]
    return held
