"""The checkpoints of one run: when one is due, what changed since the last one, and what went wrong."""

from __future__ import annotations

import gc
import os
import select
import time

from ..errors import GitstateError, words_of
from ..git.command import Oid
from ..git.gitdir import operation_under_way
from ..git.index import file_identity
from ..git.repository import Repository
from ..save.request import SaveRequest, SaveResult
from ..save.save import save
from ..snapshot.incremental import Baseline
from ..snapshot.record import Growth, Snapshot
from ..snapshot.walk import ignored_repositories
from ..system import forkpool
from ..system.clock import Deadline, now
from ..system.stdlib import TYPE_CHECKING
from ..workspace.live_context import context_path, read_live_context, state_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

    from ..format.context import Context
    from ..holding.put_back import Destroyed

#: Checkpoints take no more than this part of a core.
_SHARE = 0.05
#: The caller looks again after so many seconds at the latest.
_GATHER = 0.2
#: A child that does not say anything is looked at again after so many seconds.
_LOOK_AGAIN = 1.0
#: A checkpoint waits this long for another gitstate in the workspace, in seconds.
_WAIT = 1.0
#: Of the paths that changed while no checkpoint is known no more are remembered.
_MOST_TOUCHED = 20_000
#: An index of so many bytes, some 20,000 files: to look at them all takes longer than an early save may.
_LARGE_INDEX = 2 << 20
#: One that failed is tried again after this time, in seconds, where the next one is due later than that.
_RETRY = 2.0


class ForkedSave:
    """A save in a forked child. The keeper goes on listening meanwhile, and can break it off at any moment.

    Every step of a save survives SIGKILL. `private` are descriptors that the child must not keep: whoever waits for the
    keeper's end waits for them.
    """

    def __init__(
        self,
        path: bytes,
        request: SaveRequest,
        private: Sequence[int],
        take: Callable[[bytes, SaveRequest], SaveResult] = save,
    ) -> None:
        self.request = request
        self._values: list[Any] = []

        def work(send: Callable[[Any], None]) -> None:
            for fd in private:
                os.close(fd)
            result = try_save(path, request, take)
            same = False
            if not isinstance(result, str) and result.taken is not None:
                # It is large: who asked may have it already, and after the last save nobody wants it.
                same = self._same_scan(result.taken)
                is_last = request.kind == "save" and not request.stay
                result.taken.scan = None if is_last or same else result.taken.scan
            send((result, request.growth, same))

        self._child = forkpool.Child(work)

    def _same_scan(self, taken: Snapshot) -> bool:
        known = self.request.known
        return known is not None and taken.scan is known.snapshot.scan

    def fileno(self) -> int:
        return self._child.pipe

    def receive(self) -> tuple[SaveResult | str, Growth | None] | None:
        """What came of it; None while it goes on. Blocks until something has come."""
        values, more = self._child.receive()
        self._values += values
        if more and not self._values:
            return None
        self._child.end(kill=False)
        if not self._values:
            return "the process that took it was killed", None
        result, growth, same = self._values[0]
        known = self.request.known
        if same and known is not None:
            result.taken.scan = known.snapshot.scan
        return result, growth

    def answers(self, seconds: float, patience: float) -> bool:
        """Whether something comes of it within so many seconds; or `patience` more, where no disk holds it."""
        return self._child.answers(seconds, patience)

    def leave(self) -> None:
        """Let the child go on by itself: a disk that does not answer holds it, and nobody is there to wait any more."""
        self._child.leave()

    def break_off(self) -> None:
        """Kill the child and the gits that it started; what they leave is cleaned up by who saves next."""
        self._child.end(kill=True)


class Checkpoints:
    """Takes checkpoints of one workspace, at least `interval` seconds apart. `start` begins to watch its files.

    `private` and `take` are as for `ForkedSave`; a start adds a descriptor to `private`, and is ended with `close`.
    Without a start all of the workspace is looked at each time, and nothing is held. `context` reads what a checkpoint
    records, None: the live context.
    """

    def __init__(
        self,
        repository: Repository,
        interval: float,
        private: Sequence[int] = (),
        take: Callable[[bytes, SaveRequest], SaveResult] = save,
        context: Callable[[], Context] | None = None,
    ) -> None:
        # The front of a run has no use for it.
        from ..holding.window import Window
        from .budget import Budget

        self._repository = repository
        self._take = take
        self._interval = interval
        self._private = private if isinstance(private, list) else list(private)
        self._state_file = state_name(repository)
        self._window = Window(repository, self._private, context or (lambda: read_live_context(repository)[0]))
        self._known: Baseline | None = None
        #: What changed while nothing else was known, in its order.
        self._touched: dict[bytes, None] = {}
        self._unwatched: tuple[object, ...] = ()
        self._seen: tuple[object, ...] = ()
        self._budget = Budget()
        self._archive: Oid | None = None
        #: Git is asked to fold the packs where there are more of them.
        self._packs = 0
        self._begun = (0.0, 0.0)
        self._begun_ns = 0
        self._next = 0.0
        self.running: ForkedSave | None = None
        """The checkpoint that is being taken: call `collect` when it can be read."""
        self.looks = 0
        """How many times it was looked whether anything may have changed."""
        #: How many destroyed files the last checkpoint was given, and how many a rescue of a removed worktree has.
        self._given = 0
        self._rescued = -1
        self._failing_since: str | None = None
        self.problem: str | None = None
        """Why the last checkpoint failed, and since when they do; None if it did not."""

    def start(self, *, is_new: bool = False) -> None:
        """Begin to watch the worktree, and to hold what is written in it. `is_new`: git is about to fill it.

        `serve` goes on with it, and the first checkpoint begins when the watch stands. Raises GitError, OSError.
        """
        self._window.start(is_new=is_new)
        if is_new:
            # There is nothing to save yet that is not held.
            self._next = time.monotonic() + _RETRY / 4

    def close(self) -> None:
        """End what `start` has begun. What is held of destroyed files goes with it."""
        self.break_off()
        self._window.close()

    def pause(self) -> float:
        """How long to wait for something else, in seconds."""
        left = _GATHER if self.running is not None else max(0.01, min(_GATHER, self._next - time.monotonic()))
        return min(left, self._window.pause())

    def is_starting(self) -> bool:
        """Whether the watch does not stand yet."""
        return self._window.is_starting

    def watched(self) -> list[int]:
        """What can be read when `serve` must be called at once."""
        return self._window.watched()

    def serve(self, ready: Collection[object] = ()) -> None:
        """Read the file events that have come; `ready` are the descriptors that can be read."""
        self._window.serve(ready)

    def begin_if_due(self) -> None:
        if time.monotonic() >= self._next:
            self.begin()

    def begin(self, deadline: float | None = None, *, is_last: bool = False) -> None:
        """Begin a checkpoint, if anything may have changed and none is under way.

        `deadline` is that of the save, in seconds. What it costs decides when the next one is due, unless `is_last`.
        """
        if self.running is not None or self._window.is_starting:
            self.hasten()
            return
        self.looks += 1
        begun = time.monotonic()
        self._begun = begun, _cpu_seconds()
        self._begun_ns = time.time_ns()
        self._window.note_workspace()
        self._next = begun + self._interval
        due = self._budget.due()
        known, unwatched = self._changed(due), _unwatched_files(self._repository)
        beside = self._window.destroyed()
        is_same = known is not None and not known.touched and unwatched == self._unwatched and not beside
        if is_same and known is not None and not _has_repositories(self._repository, known.snapshot):
            return
        self._seen = unwatched
        self._given = len(beside)
        growth = self._budget.growth(self._archive, due)
        growth.is_last = is_last
        request = SaveRequest(
            kind="checkpoint",
            known=known,
            touched=self.touched(),
            wait=_WAIT,
            growth=growth,
            deadline=deadline,
            beside=beside,
        )
        try:
            self.running = ForkedSave(self._repository.toplevel, request, self._private, self._take)
        except OSError as error:
            self._failed(words_of(error))

    def hasten(self) -> None:
        """Have the next checkpoint begin as soon as none is under way, and the watch stands."""
        self._next = 0.0

    def is_running(self) -> bool:
        return self.running is not None

    def _failed(self, problem: str) -> None:
        self._note_problem(problem)
        self._next = min(self._next, self._begun[0] + _RETRY)

    def collect(self) -> None:
        """Take what has come of the checkpoint under way; it may still go on."""
        answer = None if self.running is None else self.running.receive()
        if self.running is None or answer is None:
            return
        known, self.running = self.running.request.known, None
        begun, used = self._begun
        result, growth = answer
        if isinstance(result, str):
            from ..holding.window import Rescued

            self._rescued = self._given if isinstance(result, Rescued) else -1
            self._failed(result)
        else:
            self._note_problem(None)
        # Not the time that passed: another gitstate at work or a slow disk would put off the next one by minutes.
        self._next = max(self._next, begun + (_cpu_seconds() - used) / _SHARE) if self._next else 0.0
        if isinstance(result, str) or result.taken is None or result.archive is None:
            return
        self._unwatched = self._seen
        if growth is not None:
            self._budget.spend(growth, result, result.taken)
        from ..objects.fold import fold_packs

        self._packs = fold_packs(self._repository, self._packs)
        whole = known is None or result.taken.scan is not known.snapshot.scan
        # What has changed since it began is still in the watch.
        self._archive = result.archive
        # The first one gave the workspace its id.
        self._window.note_workspace()
        self._known = Baseline(result.taken, result.archive, frozenset())
        self._touched.clear()
        self.saved(result, growth)
        if whole:
            # A search for garbage would look at every tracked path, and no cycle leads through them.
            gc.freeze()
            self._watch_directories(result.taken)

    def take_last(self, deadline: Deadline) -> None:
        """Take a last checkpoint, if anything may have changed, until the deadline."""
        self.break_off()
        self._window.end_start()
        left = deadline.left()
        self.begin(left if left < float("inf") else None, is_last=True)
        while self.running is not None and not deadline.passed():
            if select.select([self.running], [], [], min(_LOOK_AGAIN, deadline.left()))[0]:
                self.collect()
        self.break_off()

    def break_off(self) -> None:
        """End the checkpoint under way. What it would have taken still counts as changed."""
        running, self.running = self.running, None
        if running is not None:
            running.break_off()

    def _note_problem(self, why: str | None) -> None:
        self._failing_since = None if why is None else self._failing_since or now()
        self.problem = None if why is None else f"{why} (since {self._failing_since})"

    def known(self) -> Baseline | None:
        """The last checkpoint and what changed since; None if that is not known."""
        return self._changed(frozenset(self._budget.refused))

    def touched(self) -> frozenset[bytes]:
        """What changed for all that is known, where `known` is None."""
        return frozenset(self._touched)

    def is_unseen(self) -> bool:
        """Whether no look at a large worktree has ended yet, and something is known to have changed."""
        if self._archive is not None or not self._touched:
            return False
        index = file_identity(os.path.join(self._repository.git_dir, b"index"))
        return index is not None and index[0] >= _LARGE_INDEX

    def is_rescued(self) -> bool:
        """Whether all that was destroyed with a worktree that is gone is kept: files may go after the first look."""
        return self._rescued == len(self.destroyed())

    def note_workspace(self) -> None:
        """Note what will be asked for when the worktree is gone."""
        self._window.note_workspace()

    def destroyed(self) -> Destroyed:
        """What was destroyed and is in no checkpoint: `beside` of a save."""
        self._changed(frozenset())
        return self._window.destroyed()

    def saved(self, result: SaveResult, growth: Growth | None = None) -> None:
        """A save has what was destroyed: it is held no longer. A checkpoint has it but for what `growth` says."""
        lost = {item.path for item in result.left_out if item.lost}
        self._window.release(lost | self._budget.refused.keys(), set() if growth is None else growth.missed)

    def _changed(self, more: frozenset[bytes]) -> Baseline | None:
        """As `known`; of the files that were refused only `more` count as changed."""
        seen, touched = self._window.touched(), self._window.look()
        if self._known is None or touched is None:
            seen |= frozenset() if self._known is None else self._known.touched
            self._touched.update(dict.fromkeys(seen))
            for path in list(self._touched)[:-_MOST_TOUCHED]:
                del self._touched[path]
            self._known = None
            return None
        self._known = self._known._replace(touched=self._known.touched | (touched - {self._state_file}) | more)
        return self._known

    def _watch_directories(self, taken: Snapshot) -> None:
        """Watch the directories of a snapshot that were not known before, those without a tracked file, say."""
        assert taken.scan is not None
        tracked = taken.scan.tracked
        new = [path for path, leaf in taken.worktree.items() if leaf is not None and path not in tracked.paths]
        # A tracked file in a directory that was not watched may have changed after it was read.
        self._window.watch(tracked.order, new, taken.directories, self._begun_ns)


def _has_repositories(repository: Repository, taken: Snapshot) -> bool:
    """Whether there are repositories inside: they are not watched, and have to be looked at."""
    return bool(taken.nested or taken.checked_out or ignored_repositories(repository, taken.ignored))


def _cpu_seconds() -> float:
    """What this process and the gits that it waited for have used."""
    return sum(os.times()[:4])


def try_save(
    path: bytes, request: SaveRequest, take: Callable[[bytes, SaveRequest], SaveResult] = save
) -> SaveResult | str:
    """Save the workspace at `path` with `take`; the message of the error where that fails.

    Of a worktree that is gone what was destroyed with it is kept, where `beside` of the request knows of it.
    """
    try:
        return take(path, request)
    except GitstateError as error:
        if request.beside is None:
            return error.message
        from ..holding.window import with_rescue

        return with_rescue(error.message, path, request)
    except OSError as error:
        return words_of(error)
    except Exception as error:
        # A bug: the keeper goes on, and says so.
        return f"{type(error).__name__}: {words_of(error)}"


#: In a reftable HEAD, its branch and their logs are there: each change of a ref writes it anew.
_TABLES = b"reftable/tables.list"


def _unwatched_files(repository: Repository) -> tuple[object, ...]:
    """The identity of what is not watched: HEAD, the index, an operation under way and the context."""
    places = [
        *(os.path.join(repository.git_dir, name) for name in (b"HEAD", b"index", b"logs/HEAD")),
        *(os.path.join(place, _TABLES) for place in dict.fromkeys((repository.git_dir, repository.common_dir))),
        context_path(repository),
        *_transcript(repository),
    ]
    return (*(file_identity(place) for place in places), operation_under_way(repository.git_dir))


def _transcript(repository: Repository) -> list[bytes]:
    """The transcript of the agent, which its hook named."""
    path = read_live_context(repository)[0].extra.get("transcript_path")
    return [os.fsencode(path)] if isinstance(path, str) and "\0" not in path else []
