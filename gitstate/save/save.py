"""The use case `save`: lock the workspace, ask git, attempt, tidy up; again where git replaced the index meanwhile.

Git is asked before `protocol` is imported: on a small repository the import takes as long as git does.
"""

from __future__ import annotations

import errno
import os
import time

from ..errors import GitError, NotAWorkspace, TryAgain
from ..format.manifest import LeftOut
from ..format.names import (
    OWN,
    SAVES,
    checkpoint_ref,
    give_workspace_id,
    marker_ref,
    old_workspace_id,
    own_marker,
    save_ref,
)
from ..git import refs
from ..git.command import Git
from ..git.gitdir import is_among_files, strange_files_above
from ..git.index import IndexMoved, identify_index_at, link_or_copy, readable_identity
from ..git.opening import Opening, open_repository
from ..git.permitted import left_unread, without_filters
from ..git.repository import Repository, git_dir_of
from ..git.status import StatusQuery, query_status
from ..system import files
from ..system.clock import Deadline
from ..system.process import is_orphan, this_process, was_left
from ..system.stdlib import TYPE_CHECKING, signal, suppress
from ..workspace import settings
from ..workspace.live_context import pending_in_context
from ..workspace.ownership import (
    clean_up_after_kill,
    clear_journal,
    frozen_index,
    left_behind,
    locked_workspace,
    next_index,
    write_journal,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..snapshot.record import Snapshot
    from .request import SaveRequest, SaveResult

#: For this part of its deadline a save whose git was killed is taken again.
_AGAIN = 0.5
#: So long git has to let the index alone before each further attempt, in seconds. The last one insists.
_PAUSES = (0.0, 0.05, 0.2)


def save(path: bytes, request: SaveRequest, opening: Opening | None = None) -> SaveResult:
    """Take one save, or checkpoint, of the workspace that `path` is in. When it returns all of it is durable.

    `opening` is what `start_opening` gave for the same path, where the caller had something else to do meanwhile.
    Raises NotAWorkspace, TryAgain where another gitstate holds the workspace past `wait`, GitError, OSError; UsageError
    where the request is strict and a setting can't be read. Without `strict` such a setting never costs a save.
    """
    request = request._replace(end=Deadline(request.deadline))
    try:
        repository = open_repository(path) if opening is None else opening.finish()
    except NotAWorkspace:
        repository = _open_damaged(path)
    if not request.runs_filters:
        repository = without_filters(repository)
    if request.strict:
        settings.require(repository, *settings.OF_SAVE)
    repository, problems = settings.with_defaults(repository, settings.OF_SAVE)
    repository = settings.with_filter_limit(repository)
    request = bounded(request, repository)
    if problems:
        request = _with_problems(request, problems)
    deadline = Deadline(request.wait if request.deadline is None else request.deadline)
    # The sync before the marker covers it.
    files.make_directory(repository.own, top=repository.git_dir, durable=False)
    result, left = _save_until_index_rests(repository, deadline, request)
    if not request.depth and result.result != "unchanged":
        # Not a nested one: it is recovered with the workspace around it. The save is durable, and the lock is free.
        from ..workspace import registry

        registry.register(repository)
    used = "the default was used"
    warnings = [f"{problem.message}; {used}" for problem in problems if problem.name != "includeIgnored"]
    if repository.stranger is not None:
        warnings.append(f"this repository belongs to user {repository.stranger}; none of its filters was run")
    warnings += [
        f"{what}; the save was made without it. Remove it with: {how}" for what, how in left_unread(repository)
    ]
    warnings += left
    if not request.depth and is_among_files(repository.toplevel, repository.common_dir):
        from ..git.damaged.files import among_files

        risk = among_files(repository.toplevel, repository.common_dir)
        warnings.append(f"{risk.what}; move it out with: {risk.command}")
    return result._replace(warnings=tuple(warnings)) if warnings else result


def _save_until_index_rests(
    repository: Repository, deadline: Deadline, request: SaveRequest
) -> tuple[SaveResult, Sequence[str]]:
    """Save in the locked workspace, again where git replaced the index meanwhile; the result, and what stayed there.

    Others may lock it between two attempts of a checkpoint: while that waits for git it must not keep a save waiting.
    A save keeps it: a checkpoint that came between could last longer than the save has time.
    """
    pauses, look = [*_PAUSES], request.look
    while True:
        try:
            with locked_workspace(repository, deadline) as git:
                if not request.depth and is_orphan():
                    _refuse_orphan(repository)
                give_workspace_id(repository, old_id=lambda: _old_id(repository))
                if look is not None:
                    request, look = request._replace(look_end=Deadline(look)), None
                if request.kind == "save":
                    _make_lost_refs_again(repository, git)
                    return save_owned(repository, git, request), left_behind(repository)
                return _save_locked(repository, git, request, insists=not pauses), left_behind(repository)
        except IndexMoved:
            if not pauses:
                raise
        time.sleep(pauses.pop(0))


def _refuse_orphan(repository: Repository) -> None:
    """Raises TryAgain where this process was to save for one that was killed meanwhile.

    What is here may be the work of somebody else by now: of a recovery, or of the next run. One that was left to go on
    does so where no younger run is here.
    """
    from ..workspace.lease import is_held, read_holder

    holder = read_holder(repository.own) if is_held(repository.own) else None
    begun, own = (None if holder is None else holder.owner.start), this_process().start
    is_younger = begun is not None and own is not None and int(begun) > int(own)
    if not was_left() or is_younger:
        raise TryAgain(
            "whoever asked for this save was killed before it began; nothing was saved", hint="gitstate save"
        )


def _make_lost_refs_again(repository: Repository, git: Git) -> None:
    """Where an earlier save is pending and another program deleted its refs: this one stands on it."""
    if pending_in_context(repository.git_dir) is None:
        return
    # Where that fails no ref can be written, and the save says so.
    with suppress(GitError, OSError):
        if own_marker(repository) not in refs.read_refs(repository, [own_marker(repository)]):
            from ..objects.reader import ObjectReader
            from ..workspace.damage import make_again

            with ObjectReader(repository.git) as reader:
                make_again(repository, git, reader)


def bounded(request: SaveRequest, repository: Repository) -> SaveRequest:
    """`request` with the deadline of who is in a hurry and named none: it begins now."""
    if not request.hurries or request.deadline is not None:
        return request
    seconds = settings.number(settings.with_defaults(repository, ("deadline",))[0], "deadline")
    return request._replace(deadline=seconds, end=Deadline(seconds))


def _open_damaged(path: bytes) -> Repository:
    """The repository that git does not open because its files are damaged. For use in an exception handler."""
    from ..workspace.damage import open_damaged

    repository = open_damaged(path)
    if repository is None:
        raise
    return repository


def _old_id(repository: Repository) -> str | None:
    """The id that version 0.1 gave this workspace; None where no ref has it. Raises GitError, OSError."""
    if not refs.refs_are_files(repository):
        old = old_workspace_id(repository.toplevel)
        try:
            named = refs.list_refs(repository.git, marker_ref(old), checkpoint_ref(old), SAVES + old)
        except GitError:
            # Git does not open a damaged repository. A save is taken of it all the same.
            return None
        return old if named else None
    packed = files.read_limited(os.path.join(repository.common_dir, b"packed-refs"), 1 << 30) or b""
    if os.fsencode(f" {OWN}") not in packed and not os.path.isdir(
        os.path.join(repository.common_dir, os.fsencode(OWN))
    ):
        # As a rule: no save was ever taken in this repository.
        return None
    old = old_workspace_id(repository.toplevel)
    found = refs.read_refs(repository, [marker_ref(old), checkpoint_ref(old)])
    return old if found or any(refs.read_refs_below(repository.common_dir, save_ref(old, ""))) else None


def _with_problems(request: SaveRequest, problems: Sequence[settings.Problem]) -> SaveRequest:
    """`request` with what the save may lack: ignored files that an unreadable pattern names."""
    lost = [LeftOut(b"", problem.message, True) for problem in problems if problem.name == "includeIgnored"]
    return request._replace(problems=lost)


def save_owned(repository: Repository, git: Git, request: SaveRequest) -> SaveResult:
    """`save` for a caller that has locked the workspace already, and keeps it locked."""
    for pause in _PAUSES:
        try:
            return _save_locked(repository, git, request, insists=False)
        except IndexMoved:
            time.sleep(pause)
    return _save_locked(repository, git, request, insists=True)


def _save_locked(repository: Repository, git: Git, request: SaveRequest, *, insists: bool) -> SaveResult:
    """Raises IndexMoved where git replaced the index meanwhile, and this attempt does not insist."""
    if strange_files_above(repository.toplevel) or git_dir_of(repository.toplevel) is None:
        # Git would go on to a repository above, or wait for ever at a FIFO in the place of its file.
        result = _save_what_is_readable(repository, git, request._replace(known=None, unseen=False))
        if result is not None:
            return result
    try:
        return _attempt_in_room(repository, git, request, insists=insists)
    except (GitError, IndexMoved) as error:
        if isinstance(error, IndexMoved) and not insists:
            raise
        if isinstance(error, GitError) and error.status < 0:
            if error.status != -signal.SIGKILL or (request.end is not None and request.end.part(_AGAIN).passed()):
                raise
            # As the OOM killer does. Who saves at its end has no second chance.
            again = request._replace(known=None, unseen=False, expected=None)
            return _attempt_in_room(repository, git, again, insists=insists)
        if isinstance(error, refs.RefsLocked) and not any(map(os.path.lexists, error.locks)):
            # The git that had them was killed, or has ended meanwhile.
            again = request._replace(known=None, unseen=False, expected=None)
            return _attempt_in_room(repository, git, again, insists=insists)
        result = _save_what_is_readable(repository, git, request._replace(known=None, unseen=False, expected=None))
        if result is None:
            raise
        return result


#: What a full disk says, the user's share of one too.
_FULL = (errno.ENOSPC, errno.EDQUOT)


#: Why a file is not saved that would make one in the repository grow to its limit.
_TOO_LARGE = "no file may be so large here"
#: The most bytes of a file where no limit is set, and a file system has one (FAT).
_LARGEST = (1 << 32) - 1


def _attempt_in_room(repository: Repository, git: Git, request: SaveRequest, *, insists: bool) -> SaveResult:
    """Attempt it; where the disk is full again with half of what is left, then without any file. The result says so.

    The same where a file grew to the limit that the system sets (`ulimit -f`): half of what one file may have.
    """
    told = ""
    for share in (2, None):
        try:
            return _with_word(_attempt(repository, git, request, insist=insists), told)
        except OSError as error:
            is_limit = error.errno == errno.EFBIG
            if not is_limit and (error.errno not in _FULL or request.kind != "save"):
                raise
            room = 0 if share is None else _room_left(repository, is_limit=is_limit) // share
            request = request._replace(room=room, room_ends=_TOO_LARGE if is_limit else request.room_ends)
            what = _TOO_LARGE if is_limit else "the disk was full"
            told = f"{what} ({error.strerror}), so the save was tried again with {room} bytes for files"
    return _with_word(_attempt(repository, git, request, insist=insists), told)


def _room_left(repository: Repository, *, is_limit: bool) -> int:
    """How many bytes the disk has left, or one file may have."""
    if is_limit:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        return _LARGEST if limit == resource.RLIM_INFINITY else limit
    disk = os.statvfs(repository.objects)
    return disk.f_bavail * disk.f_frsize


def _with_word(result: SaveResult, word: str) -> SaveResult:
    """The result with one more sentence for a person; an empty one adds nothing."""
    return result._replace(message="; ".join(part for part in (result.message, word) if part)) if word else result


def _save_what_is_readable(repository: Repository, git: Git, request: SaveRequest) -> SaveResult | None:
    """Save a repository whose index or HEAD git can't read; None where it can read both.

    Where git fails all the same, the context is saved alone, unless a save is pending: that one may hold files.
    """
    from ..git.damaged.broken import find_broken
    from ..git.damaged.files import damaged_git_dir
    from ..workspace.damage import stand_in
    from ..workspace.live_context import read_context
    from ..workspace.ownership import stand_in_git_dir

    git_dir = repository.git_dir
    branch = read_context(git_dir)[0].branch_name
    damage = damaged_git_dir(repository.toplevel, git_dir, repository.common_dir, branch)
    try:
        broken = find_broken(stand_in(repository, None, damage), damage)
        if broken is None:
            return None
        try:
            return _attempt_through(stand_in(repository, broken, damage), git, request._replace(broken=broken))
        except GitError as error:
            marker = own_marker(repository)
            if error.status < 0 or request.kind != "save" or marker in refs.read_refs(repository, [marker]):
                raise
            broken = broken._replace(why=f"{broken.why}; no file could be read: {error.message}", worktree=True)
            return _attempt_through(stand_in(repository, None, damage), git, request._replace(broken=broken))
    finally:
        files.remove_tree(stand_in_git_dir(repository))


def _attempt_through(usable: Repository, git: Git, request: SaveRequest) -> SaveResult:
    """An attempt by way of a git dir that stands in, where there is one."""
    return _attempt(usable, git._replace(options=usable.git.options), request, insist=True)


def _attempt(repository: Repository, git: Git, request: SaveRequest, *, insist: bool = False) -> SaveResult:
    """Freeze the index, ask git, and save. No temporary file is left, however it ends."""
    frozen, following = frozen_index(repository), next_index(repository)
    query: StatusQuery | None = None
    locks_are_free = False
    # Another program than git may write into the index again and again, and a link shows that.
    links = not insist or request.broken is not None
    write_journal(repository, [])
    try:
        with suppress(FileNotFoundError, IsADirectoryError):
            link_or_copy(os.path.join(repository.git_dir, b"index"), frozen, links=links)
        if request.broken is not None and request.broken.no_index:
            from ..git.damaged.broken import make_index

            make_index(repository, request.broken, frozen)
        seen = readable_identity(frozen)
        if request.expected is not None and not _is_same_index(request.expected, frozen):
            request = request._replace(expected=None)
        asks = request.known is None and not request.unseen
        if asks and not (request.broken is not None and request.broken.worktree):
            query = query_status(repository, frozen, lists=request.expected is None)
        from .protocol import SaveAttempt

        attempt = SaveAttempt(repository, git, request, seen, insist=insist)
        try:
            result = attempt.run(query, save)
        except GitError as error:
            if not insist and readable_identity(frozen) != seen:
                # Git read an index that was being written.
                raise IndexMoved(error.message, hint=error.hint) from error
            raise
        locks_are_free = not attempt.child_killed
        return result
    finally:
        if query is not None:
            query.end()
        if not locks_are_free:
            # A git that was killed may have left locks: the journal names them.
            clean_up_after_kill(repository)
        for path in (frozen, following, following + b".lock"):
            files.discard(path)
        clear_journal(repository)


def _is_same_index(expected: Snapshot, frozen: bytes) -> bool:
    """Whether the paths of the index are those that an earlier snapshot found, and none of them is hidden from git."""
    index = expected.index_file
    # Without a checksum (`index.skipHash`) another index may look the same.
    if index is None or expected.scan is None or not expected.scan.plain or not index.checksum.strip("0"):
        return False
    return index == identify_index_at(frozen)
