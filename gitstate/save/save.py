"""The use case `save`: hold the workspace, ask git, look and save, tidy up; once more where git moved the index.

Git is asked before the rest is imported: what `saving` needs takes as long as git does on a small repository.
"""

from __future__ import annotations

import os
import time

from ..format.manifest import LeftOut
from ..git.command import Git
from ..git.index import IndexMoved, link_or_copy
from ..git.repository import Opening, Repository, open_repository
from ..git.status import StatusQuery, query_status
from ..system import files
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace import registry, settings
from ..workspace.ownership import (
    clean_up_after_kill,
    clear_journal,
    frozen_index,
    locked_workspace,
    next_index,
    write_journal,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .request import SaveRequest, SaveResult


def save(path: bytes, request: SaveRequest, opening: Opening | None = None) -> SaveResult:
    """Take one save, or checkpoint, of the workspace that `path` is in. When it returns all of it is durable.

    `opening` is what `start_opening` gave for the same path, where the caller had something else to do meanwhile.
    Raises NotAWorkspace, TryAgain where another gitstate holds the workspace past `wait`, GitError, OSError; UsageError
    where the request is strict and a setting can't be read. Without `strict` such a setting never costs a save.
    """
    repository = open_repository(path) if opening is None else opening.finish()
    if request.strict:
        settings.require(repository, *settings.OF_SAVE)
    repository, problems = settings.with_defaults(repository, settings.OF_SAVE)
    if problems:
        request = _with_problems(request, problems)
    deadline = Deadline(request.wait if request.deadline is None else request.deadline)
    with suppress(FileExistsError):
        # It comes to the disk with all else, before the marker.
        os.mkdir(repository.own)
    with locked_workspace(repository, deadline) as git:
        result = save_owned(repository, git, request)
    if not request.depth:
        # A nested repository comes back with the workspace around it. Here all is durable, and others may go on.
        registry.register(repository)
    warnings = [problem.message for problem in problems if problem.name != "includeIgnored"]
    return result._replace(warnings=tuple(warnings)) if warnings else result


def _with_problems(request: SaveRequest, problems: Sequence[settings.Problem]) -> SaveRequest:
    """`request` with what the save may not hold: ignored files that a pattern which can't be read was to keep."""
    lost = [LeftOut(b"", problem.message, True) for problem in problems if problem.name == "includeIgnored"]
    return request._replace(problems=lost)


def save_owned(repository: Repository, git: Git, request: SaveRequest) -> SaveResult:
    """`save` for who holds the workspace already (see `locked_workspace`)."""
    for pause in (0.0, 0.05, 0.2):
        try:
            return _attempt(repository, git, request)
        except IndexMoved:
            time.sleep(pause)
    return _attempt(repository, git, request, insist=True)


def _attempt(repository: Repository, git: Git, request: SaveRequest, *, insist: bool = False) -> SaveResult:
    """Hold on to the index, look, and save; whatever comes, nothing of it is left but what was saved."""
    frozen, following = frozen_index(repository), next_index(repository)
    asked: StatusQuery | None = None
    unharmed = False
    write_journal(repository, [])
    try:
        with suppress(FileNotFoundError):
            link_or_copy(os.path.join(repository.git_dir, b"index"), frozen)
        if request.known is None:
            asked = query_status(repository, frozen)
        from .protocol import Saving

        saving = Saving(repository, git, request, asked, save, insist=insist)
        result = saving.run()
        unharmed = not saving.child_killed
        return result
    finally:
        if asked is not None:
            asked.end()
        if not unharmed:
            # A child of ours that was killed may have left locks: the journal names them.
            clean_up_after_kill(repository)
        for path in (frozen, following, following + b".lock"):
            files.remove(path)
        clear_journal(repository)
