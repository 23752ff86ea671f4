"""The worktrees that belong to a run beside its workspace: an agent adds some for itself, ignored or outside of it.

They are those that were added since the work of the keeper began, and those in which a process of the run works. Left
out are the main worktree, one that another agent works in or that has another task, and one that is not ignored in the
workspace or in another of them: that is a nested repository there. A clean one needs no save.
"""

from __future__ import annotations

import os
import select
import time

from ..errors import GitError, GitstateError, words_of
from ..format.archive import checkpoint_save_id, pending_save_id
from ..format.context import RUN_WORKSPACE, Context, with_values
from ..format.manifest import Reason
from ..git.gitdir import LinkedWorktree, linked_worktrees, operation_under_way
from ..git.opening import open_repository
from ..git.repository import Repository, read_head
from ..git.status import ignored_among
from ..save.request import SaveRequest, SaveResult, save_lines
from ..save.save import save
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from ..system.terminal import escape
from ..workspace.lease import presence_in, worktrees_at_begin
from ..workspace.live_context import (
    ACTIVE,
    FINISHED,
    read_context,
    read_live_context,
    with_measured_fields,
    write_state,
)
from ..workspace.settings import OF_SAVE, with_defaults, with_filter_limit
from .checkpoints import Checkpoints, ForkedSave
from .processes import of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ..holding.put_back import Destroyed

#: So many worktrees are saved at once.
_AT_ONCE = 4
#: Each is broken off so many seconds after its deadline, and asked again after so many.
_OVERTIME, _LOOK_AGAIN = 0.15, 0.2
#: Git makes a worktree within this time as a rule: it is looked for this often meanwhile, in seconds.
_FILLS, _SOON = 0.1, 0.004
#: A slow one is looked for until this time, less often.
_LATEST, _LATER = 3.0, 0.1
#: What was in a removed worktree is kept within so many attempts.
_TRIES = 5
#: A worktree of fewer seconds is new: what is in it is held from the first file.
_NEW = 5.0
#: A save that nobody waits for may take this long to get hold of a worktree, in seconds.
_PATIENCE = 60.0


class SavedWorktrees:
    """What came of the saves of a run's worktrees: for each one that is not clean its result, or why it failed."""

    def __init__(self, results: Mapping[bytes, SaveResult | str]) -> None:
        told = {path: item for path, item in results.items() if isinstance(item, str) or item.result != "nothing"}
        self.failed = any(isinstance(item, str) for item in told.values())
        self.lost = any(item.lost for item in told.values() if not isinstance(item, str))
        self.lines = [line for path, item in told.items() for line in _lines(path, item)]


def _lines(path: bytes, item: SaveResult | str) -> list[str]:
    where = f"worktree {escape(path)}"
    if isinstance(item, str):
        command = f"gitstate -C {quote(os.fsdecode(path))} save"
        return [f"gitstate: {where}: not saved: {item}", f"  its files are as they are; next: {command}"]
    first, *rest = save_lines(item, "save")
    return [f"{where}: {first}", *rest]


class RunWorktrees:
    """Takes checkpoints and saves of the worktrees of one run. `private` is as for `ForkedSave`."""

    def __init__(self, repository: Repository, run_id: str, interval: float, private: Sequence[int] = ()) -> None:
        self._repository = repository
        self._run_id = run_id
        self._interval = interval
        self._private = private
        self._next = Deadline(interval)
        #: The process ids of the run that were ever seen, and the directories in which they worked.
        self._members: set[int] = set()
        self._entered: set[bytes] = set()
        self._checkpoints: dict[bytes, Checkpoints] = {}
        #: Those of worktrees that are gone, until what was destroyed with them is kept.
        #: With how many more attempts each gets.
        self._removed: dict[Checkpoints, int] = {}
        # The front of a run has no use for it.
        from ..holding.watch import WorktreeListing

        self._listing = WorktreeListing(repository.common_dir)
        #: Those that git had finished to make at the last look.
        self._keys: frozenset[bytes] = frozenset()
        #: When git was last seen to add or remove one; the first look is at those that are there already.
        self._changed = time.monotonic()
        self._found = False

    def look(self) -> None:
        """See in which directories the processes of the run work now; nothing to see without a linked worktree."""
        if not linked_worktrees(self._repository.common_dir):
            return
        for one in of_run(self._run_id):
            self._members.add(one.pid)
            try:
                self._entered.add(os.readlink(os.fsencode(f"/proc/{one.pid}/cwd")))
            except OSError:
                continue

    def found(self) -> list[bytes]:
        """The tops of the worktrees that belong to the run now."""
        return find_worktrees(self._repository, self._entered, self._members)

    # -- checkpoints

    def running(self) -> list[ForkedSave]:
        """The checkpoints under way: call `collect` with those that can be read."""
        return [item.running for item in self._all() if item.running is not None]

    def _all(self) -> list[Checkpoints]:
        return [*self._checkpoints.values(), *self._removed]

    def pause(self) -> float:
        """How long `serve` need not be called, in seconds, where nothing can be read."""
        return min((item.pause() for item in self._all()), default=float("inf"))

    def is_due(self) -> float:
        """In how many seconds `begin_if_due` has something to do."""
        since = time.monotonic() - self._changed
        return _SOON if since < _FILLS and not self._found else _LATER if since < _LATEST else float("inf")

    def listing(self) -> list[int]:
        """What can be read when git has added or removed a worktree."""
        return self._listing.watched()

    def watched(self) -> list[int]:
        """What can be read when `serve` must be called at once."""
        return [fd for item in self._all() for fd in item.watched()]

    def serve(self, ready: Collection[object]) -> None:
        """Read the file events that have come."""
        for item in self._all():
            item.serve(ready)

    def collect(self, ready: Collection[object]) -> None:
        for item in self._all():
            if item.running is not None and item.running in ready:
                item.collect()
        for item, tries in [(item, tries) for item, tries in self._removed.items() if item.running is None]:
            if tries and not item.is_rescued():
                self._removed[item] = tries - 1
                item.begin()
            if item.running is None:
                item.close()
                del self._removed[item]

    def begin_if_due(self) -> None:
        """Begin the checkpoints that are due. Which worktrees there are is looked at once in an interval, and when git
        has added or removed one.
        """
        if self._listing.has_changed():
            self._changed, self._found = time.monotonic(), False
        if self.is_due() < float("inf"):
            # Git fills them: there is more to note than when they were found.
            for item in self._checkpoints.values():
                item.note_workspace()
        is_regular = self._next.passed()
        if is_regular or (self.is_due() < float("inf") and self._has_others()):
            if is_regular:
                self._next = Deadline(self._interval)
                self.look()
            before = self._checkpoints
            found = {path: before.get(path) or self._of(path) for path in self._safely_found()}
            self._checkpoints = {path: item for path, item in found.items() if item is not None}
            for path in before.keys() - self._checkpoints.keys():
                before[path].break_off()
                before[path].begin()
                self._removed[before[path]] = _TRIES
        for item in self._checkpoints.values():
            if item.running is None and len(self.running()) < _AT_ONCE:
                item.begin_if_due()

    def _has_others(self) -> bool:
        """Whether other worktrees are there than at the last look: a look at files, without git."""
        before, self._keys = self._keys, frozenset(one.key for one in linked_worktrees(self._repository.common_dir))
        self._found = self._found or before != self._keys
        return before != self._keys

    def _safely_found(self) -> list[bytes]:
        try:
            return self.found()
        except (GitstateError, OSError):
            return []

    def _of(self, path: bytes) -> Checkpoints | None:
        """The checkpoints of a worktree; None where git has not finished to make it."""
        try:
            repository, _ = with_defaults(open_repository(path), OF_SAVE)
            is_new = time.time() - os.lstat(os.path.join(path, b".git")).st_ctime < _NEW
        except (GitstateError, OSError):
            self._keys, self._found = frozenset(), False
            return None

        def take(path: bytes, request: SaveRequest) -> SaveResult:
            return save_worktree(path, request._replace(values=_values(self._repository)))

        def context() -> Context:
            found = with_values(Context(), _values(self._repository))[0]
            return found._replace(workspace_path=os.fsdecode(path))

        found = Checkpoints(repository, self._interval, self._private, take, context)
        with suppress(GitstateError, OSError):
            found.start(is_new=is_new)
        return found

    def break_off(self) -> None:
        for item in self._all():
            item.break_off()

    def close(self) -> None:
        """End the watch over the worktrees."""
        self._listing.close()
        for item in self._all():
            item.close()

    def _keep_removed(self, found: Collection[bytes], deadline: Deadline) -> dict[bytes, Destroyed]:
        """Keep what was destroyed with worktrees that are gone; what was destroyed in the others."""
        for path, item in self._checkpoints.items():
            if path not in found:
                _take_all(item, deadline)
        for item in self._removed:
            _take_all(item, deadline)
        return {path: self._checkpoints[path].destroyed() for path in found if path in self._checkpoints}

    # -- the end of a run

    def start_saving(self, request: SaveRequest, deadline: Deadline) -> SavingWorktrees:
        """Begin to save each worktree with the run's context, until the deadline."""
        self.break_off()
        request = request._replace(values=_values(self._repository))
        found = self._safely_found()
        return SavingWorktrees(found, request, deadline, self._private, beside=self._keep_removed(found, deadline))

    def take_last(self, deadline: Deadline, *, finished: bool) -> None:
        """Take a last checkpoint of each, until the deadline: the run has ended well."""
        self.break_off()
        request = SaveRequest(kind="checkpoint", values=_values(self._repository))
        take = finish_worktree if finished else save_worktree
        found = self._safely_found()
        beside = self._keep_removed(found, deadline)
        SavingWorktrees(found, request, deadline, self._private, take=take, beside=beside).finish()


def _take_all(item: Checkpoints, deadline: Deadline) -> None:
    """Keep what was destroyed with a worktree that is gone."""
    for _ in range(_TRIES):
        item.take_last(deadline)
        if item.is_rescued() or deadline.passed():
            return


class SavingWorktrees:
    """Saves of several worktrees at once, each in a child that can be broken off. Some begin when this is made."""

    def __init__(
        self,
        paths: Sequence[bytes],
        request: SaveRequest,
        deadline: Deadline,
        private: Sequence[int] = (),
        *,
        take: Callable[[bytes, SaveRequest], SaveResult] | None = None,
        beside: Mapping[bytes, Destroyed] | None = None,
    ) -> None:
        self._beside = beside or {}
        self._waiting = list(paths)
        self._request = request
        self._deadline = deadline
        self._private = private
        self._take = take or save_worktree
        self._results: dict[bytes, SaveResult | str] = dict.fromkeys(paths, "the deadline passed")
        self._running: dict[bytes, ForkedSave] = {}
        self._begin()

    def _begin(self) -> None:
        while self._waiting and len(self._running) < _AT_ONCE and not self._deadline.passed():
            path, left = self._waiting.pop(0), self._deadline.left()
            request = self._request._replace(beside=self._beside.get(path))
            if left < float("inf"):
                request = request._replace(wait=left, deadline=max(0.0, left - _OVERTIME))
            try:
                self._running[path] = ForkedSave(path, request, self._private, self._take)
            except OSError as error:
                self._results[path] = words_of(error)

    def finish(self, hurries: Callable[[], bool] = lambda: False) -> SavedWorktrees | None:
        """Wait for all, until the deadline. None where `hurries` told to break off."""
        try:
            while self._running and not self._deadline.passed():
                ready = select.select(list(self._running.values()), [], [], min(_LOOK_AGAIN, self._deadline.left()))[0]
                for path, child in list(self._running.items()):
                    answer = child.receive() if child in ready else None
                    if answer is not None:
                        self._results[path] = answer[0]
                        del self._running[path]
                if hurries():
                    return None
                self._begin()
            return SavedWorktrees(self._results)
        finally:
            for child in self._running.values():
                child.break_off()


def save_worktrees(repository: Repository, reason: Reason, seconds: float | None = None) -> SavedWorktrees:
    """Save the worktrees that were added while the run, or the loop, of this workspace worked: it has ended.

    For who has no keeper any more. Never raises.
    """
    try:
        found = find_worktrees(repository)
    except (GitstateError, OSError):
        found = []
    if not found:
        return SavedWorktrees({})
    request = SaveRequest(reason=reason, wait=_PATIENCE, values=_values(repository))
    return SavingWorktrees(found, request, Deadline(seconds)).finish() or SavedWorktrees({})


def recover_worktrees(repository: Repository) -> list[str]:
    """Recover the worktrees of the last run that exist: the next one goes on in them. Returns the lines to print."""
    from ..recover.elsewhere import run_worktrees

    lines = []
    try:
        for one in run_worktrees(repository):
            if os.path.lexists(os.path.join(one.path, b".git")):
                lines += _recover_lines(one.path)
    except (GitstateError, OSError) as error:
        lines.append(f"gitstate: the worktrees of the last run could not be looked at: {words_of(error)}")
    return lines


def _recover_lines(path: bytes) -> list[str]:
    from ..recover.recover import recover
    from ..recover.request import RecoverRequest, recover_lines

    try:
        return recover_lines(recover(path, RecoverRequest(strict=True)))
    except GitstateError as error:
        return [f"{escape(path)}: not recovered: {error.message}", f"  next: {error.hint or 'gitstate recover'}"]
    except OSError as error:
        return [f"{escape(path)}: not recovered: {words_of(error)}"]


def find_worktrees(
    repository: Repository, entered: Collection[bytes] = (), members: Collection[int] = ()
) -> list[bytes]:
    """The tops of the worktrees that belong to the run in the workspace of `repository`.

    `entered` are directories in which its processes work, `members` their ids. Raises GitError, OSError.
    """
    linked = [one for one in linked_worktrees(repository.common_dir) if one.git_dir != repository.git_dir]
    if not linked:
        return []
    known = worktrees_at_begin(repository)
    task = read_live_context(repository)[0].task_id
    found = []
    for one in linked:
        worked_in = any(path == one.toplevel or path.startswith(one.toplevel + b"/") for path in entered)
        is_new = known is not None and one.key not in known
        if (worked_in or is_new) and _is_free(one, members, None if worked_in else task):
            found.append(one.toplevel)
    return [path for path in found if not _is_nested(repository, path, found)]


def _is_free(one: LinkedWorktree, members: Collection[int], task: str | None) -> bool:
    """Whether nobody but the run works in a worktree, nor worked at another task than `task`."""
    context, status = read_context(one.git_dir)
    who = presence_in(one.git_dir, context if status == ACTIVE else None)
    if who.state in ("live", "unknown"):
        holder = who.holder
        return holder is not None and holder.kind == "owner" and holder.owner.pid in members
    return task is None or status is None or context.task_id in (None, task)


def _is_nested(repository: Repository, path: bytes, others: Sequence[bytes]) -> bool:
    """Whether the save of the workspace, or of another worktree of the run, holds the one at `path` as nested."""
    around = [top for top in (repository.toplevel, *others) if path.startswith(top + b"/")]
    if not around:
        return False
    nearest = max(around, key=len)
    inside = path[len(nearest) + 1 :]
    outer = repository if nearest == repository.toplevel else open_repository(nearest)
    return not ignored_among(outer, [inside])


def _values(repository: Repository) -> dict[str, str]:
    """What a worktree's context takes from that of the run. The agent's session is no session of the worktree."""
    context = read_live_context(repository)[0]
    issue = None if context.issue_number is None else str(context.issue_number)
    named = {
        "task_id": context.task_id,
        "issue_number": issue,
        "progress_stage": context.progress_stage,
        "memory_refs": "\n".join(context.memory_refs),
        "agent": context.agent,
        RUN_WORKSPACE: os.fsdecode(repository.toplevel),
    }
    return {name: value for name, value in named.items() if value}


def save_worktree(path: bytes, request: SaveRequest) -> SaveResult:
    """Save a worktree of a run, unless it is clean and no save or checkpoint of it says otherwise."""
    repository = open_repository(path)
    if (
        not request.beside
        and not _is_dirty(repository)
        and pending_save_id(repository) is None
        and checkpoint_save_id(repository) is None
    ):
        return SaveResult("nothing", repository.toplevel, None)
    return save(path, request)


def finish_worktree(path: bytes, request: SaveRequest) -> SaveResult:
    """Take the last checkpoint of a worktree whose run has finished its task, which a recovery must not bring back."""
    result = save_worktree(path, request)
    if result.save_id is not None:
        repository = open_repository(path)
        if read_live_context(repository)[1] is None and pending_save_id(repository) is None:
            context = with_values(Context(), request.values)[0]
            write_state(repository, with_measured_fields(repository, context, read_head(repository.git_dir)), FINISHED)
    return result


def _is_dirty(repository: Repository) -> bool:
    limited = with_filter_limit(repository)
    words = ("status", "--porcelain", "-z", "--untracked-files=normal")
    try:
        listed = repository.git.run(*words, env=limited.filter_env(), timeout=limited.filter_limit)
    except GitError:
        # Its index can't be read, or a filter hangs: a save is taken all the same.
        return True
    return bool(listed) or operation_under_way(repository.git_dir) is not None
