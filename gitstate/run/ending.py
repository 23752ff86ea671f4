"""The end of a run: the agent is told and waited for, all is saved, and the front gets its answer.

Where somebody waits (a signal came) it keeps to the deadline: what is known and small is saved while the agent still
ends, then the rest.
"""

from __future__ import annotations

import os
import select

from ..errors import EXIT_DONE, EXIT_FAILED, EXIT_PERSON, GitstateError, words_of
from ..format.archive import checkpoint_save_id, pending_save_id
from ..format.manifest import Reason
from ..git.opening import open_repository
from ..git.repository import Repository
from ..orders.listener import Orders
from ..orders.saving import opened_for
from ..save.request import SaveRequest, SaveResult, failed_look_lines, failed_save_lines, save_lines
from ..save.save import save
from ..system.clock import Deadline
from ..system.forkpool import Child, is_any_held
from ..system.process import is_held_by_disk, process
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.settings import OF_SAVE, with_defaults
from .channel import BlockedSignals, Channel, KeeperConfig, is_told_to_hurry
from .checkpoints import Checkpoints, ForkedSave, try_save
from .processes import RunProcesses
from .worktrees import RunWorktrees, SavedWorktrees

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class HasFileno(Protocol):
        """What can be waited for."""

        def fileno(self) -> int: ...


#: Files of more bytes than this wait for the second step of a save under a deadline.
_SMALL = 4 << 20
#: An early save reads files for so long, in seconds, and for this part of the deadline at most.
_EARLY, _EARLY_SHARE = 0.25, 0.2
#: The last save has this many seconds in any case, and is broken off so many seconds after its deadline.
_LEAST, _OVERTIME = 0.1, 0.15
#: For this part of the deadline nothing else is done but the early save. Where none stands, the last one is waited for
#: so many seconds after the deadline, if the disk answers.
_FIRST, _PATIENT = 0.6, 2.0
_GOES_ON = "the disk did not answer within the deadline; the save goes on until the disk answers"
_NOT_ENDED = (
    "the disk did not answer within the deadline; the files are as the agent left them, and the end of the run is "
    "recorded when the disk answers"
)
#: A child that does not say anything is looked at again after so many seconds.
_LOOK_AGAIN = 1.0
#: A save that nobody waits for may take this long to get hold of the workspace, in seconds.
_PATIENCE = 60.0


class RunParts(Record):
    """What a keeper has of its run."""

    channel: Channel
    signals: BlockedSignals
    config: KeeperConfig
    repository: Repository
    processes: RunProcesses
    checkpoints: Checkpoints
    orders: Orders
    worktrees: RunWorktrees
    private: list[int]
    """Descriptors that no child may keep."""


class Ending:
    """Ends one run, in one of three ways: `end`, `end_now` and `leave`."""

    def __init__(self, parts: RunParts) -> None:
        self.channel, self.signals, self.config, self.repository = parts[:4]
        self.processes, self.checkpoints, self.orders, self.worktrees, self.private = parts[4:]
        #: The disk holds a save, or a checkpoint, that was not awaited any longer.
        self.is_held = False

    def end_now(self, reason: Reason) -> None:
        """End the run within the deadline. The agent is told before anything else."""
        deadline = Deadline(self.config.times.deadline)
        self.processes.tell()
        self.worktrees.look()
        self._break_off()
        self._save_within(deadline, reason)

    def _break_off(self) -> None:
        self.orders.close()
        self.checkpoints.break_off()
        self.worktrees.break_off()

    def _save_within(self, deadline: Deadline, reason: Reason) -> None:
        """Save what is known and small while the agent still ends, then the rest, until the deadline."""
        times = self.config.times
        before = pending_save_id(self.repository)
        known_before = self.checkpoints.known()
        request = SaveRequest(
            reason=reason,
            known=known_before,
            touched=self.checkpoints.touched(),
            # A save of a part must not take the marker from one of the whole that was ordered before.
            unseen=before is None and known_before is None and self.checkpoints.is_unseen(),
            largest=_SMALL,
            stay=True,
            wait=times.deadline,
            deadline=times.deadline,
            look=min(_EARLY, times.deadline * _EARLY_SHARE),
            beside=self.checkpoints.destroyed(),
        )
        first = self._start_save(
            request, lambda path, request: save(path, request, opened_for(known_before, self.repository))
        )
        early = self._await(first, deadline.part(_FIRST), listens=False)
        if early is None:
            self._end_late(first, deadline, reason, before)
            return
        self.processes.await_agent(Deadline(min(times.grace, times.deadline / 2)))
        if isinstance(early, str):
            # It may have failed once its marker stood.
            now = pending_save_id(self.repository)
            done, known = (now if now != before else None), None
        else:
            self.checkpoints.saved(early)
            known = early if early.result == "saved" else None
            done = None if known is None else known.save_id
        self.processes.end_leftovers()
        before = pending_save_id(self.repository)
        left = max(_LEAST, deadline.left())
        beside = self.checkpoints.destroyed()
        expected = None if known is None else known.taken
        request = SaveRequest(
            reason=reason,
            wait=left,
            deadline=left,
            replaces=done,
            beside=beside,
            expected=expected,
            older=expected,
            touched=self.checkpoints.touched(),
        )
        worktrees = self.worktrees.start_saving(SaveRequest(reason=reason), Deadline(left + _OVERTIME))
        last = self._start_save(request)
        # What the disk or a git does not end in time is broken off. Where no early save stands, it goes on.
        patience = _PATIENT if isinstance(early, str) else 0.0
        overtime = 0.0 if patience else _OVERTIME
        result = self._await(last, Deadline(left + overtime), listens=False, patience=patience)
        if result is None and isinstance(last, ForkedSave):
            last.leave() if known is None else last.break_off()
        self._conclude(
            result or (_GOES_ON if known is None else "the deadline passed"), before, known, worktrees.finish()
        )

    def _end_late(
        self, first: ForkedSave | SaveResult | str, deadline: Deadline, reason: Reason, before: str | None
    ) -> None:
        """End the run where the disk holds the early save: the agent ends all the same, and nothing else is begun."""
        times = self.config.times
        self.processes.await_agent(Deadline(min(times.grace, times.deadline / 2)))
        self.processes.end_leftovers()
        worktrees = self.worktrees.start_saving(SaveRequest(reason=reason), Deadline(deadline.left() + _OVERTIME))
        early = self._await(first, deadline, listens=False, patience=_PATIENT)
        if early is None and isinstance(first, ForkedSave):
            first.leave()
        stands = None if early is None or isinstance(early, str) or early.result != "saved" else early
        why = early if isinstance(early, str) else _GOES_ON if early is None else "the deadline passed"
        self._conclude(why, before, stands, worktrees.finish())

    def end(self, reason: Reason) -> None:
        """End the run where nobody waits: the agent, or whoever ran it, has ended. Everything is saved at once.

        Where a signal comes meanwhile somebody waits: then it ends within the deadline.
        """
        self.processes.tell()
        self.worktrees.look()
        self._break_off()
        self.processes.await_agent(Deadline(self.config.times.grace))
        self.processes.end_leftovers()
        before = pending_save_id(self.repository)
        beside = self.checkpoints.destroyed()
        child = self._start_save(SaveRequest(reason=reason, wait=_PATIENCE, beside=beside))
        last = self._await(child, Deadline(None), listens=True)
        if last is None and isinstance(child, ForkedSave):
            child.break_off()
        worktrees = None
        if last is not None:
            request = SaveRequest(reason=reason, wait=_PATIENCE)
            worktrees = self.worktrees.start_saving(request, Deadline(None)).finish(self._hears_a_signal)
        if last is None or worktrees is None:
            self._save_within(Deadline(self.config.times.deadline), reason)
        else:
            self._conclude(last, before, worktrees=worktrees)

    def _hears_a_signal(self) -> bool:
        with self.signals.unblocked():
            return is_told_to_hurry(self.signals, self.channel)

    def _start_save(
        self, request: SaveRequest, take: Callable[[bytes, SaveRequest], SaveResult] = save
    ) -> ForkedSave | SaveResult | str:
        """Begin a save in a child: no disk holds this process. Where the system allows no child it is done here."""
        try:
            return ForkedSave(self.repository.toplevel, request, self.private, take)
        except OSError:
            return try_save(self.repository.toplevel, request, take)

    def _await(
        self, child: ForkedSave | SaveResult | str, deadline: Deadline, *, listens: bool, patience: float = 0.0
    ) -> SaveResult | str | None:
        """What came of a save that was started; None where the deadline passes, or a signal comes: `listens`.

        Where no disk holds it, it is late `patience` seconds after the deadline.
        """
        if not isinstance(child, ForkedSave):
            return child
        while not deadline.passed():
            watched: list[HasFileno | int] = [child]
            if listens:
                watched += [self.signals.reader, *([] if self.channel.is_closed else [self.channel])]
            with self.signals.unblocked() if listens else suppress():
                ready, _, _ = select.select(watched, [], [], min(_LOOK_AGAIN, deadline.left()))
            answer = child.receive() if child in ready else None
            if answer is not None:
                return answer[0]
            if listens and is_told_to_hurry(self.signals, self.channel):
                return None
        while patience and child.answers(0.0, patience):
            if (answer := child.receive()) is not None:
                return answer[0]
        return None

    def _conclude(
        self,
        last: SaveResult | str,
        before: str | None,
        early: SaveResult | None = None,
        worktrees: SavedWorktrees | None = None,
    ) -> None:
        """Answer after the last save. If that failed, a recover finds `early`, a save of the same end.

        `before` is the id of the save that was pending before it.
        """
        if isinstance(last, str):
            stands, lines = failed_save(self.repository, last, before, early)
            self._answer(stands, [*lines, *([] if worktrees is None else worktrees.lines)], EXIT_FAILED)
            return
        status = EXIT_PERSON if last.lost or (worktrees is not None and worktrees.lost) else EXIT_DONE
        status = EXIT_FAILED if worktrees is not None and worktrees.failed else status
        lines = save_lines(last, "save")
        self._answer(last.save_id, [*lines, *([] if worktrees is None else worktrees.lines)], status)

    def leave(self, *, finished: bool) -> None:
        """End a run that ended well: no save but a last checkpoint, within the deadline, and no process is left."""
        deadline = Deadline(self.config.times.deadline)
        self.orders.close()
        if self.config.ends_clean_runs:
            self.processes.end_leftovers()
        self.checkpoints.take_last(deadline)
        self.worktrees.take_last(deadline, finished=finished)
        owned_by_front = finished and self.config.owner == process(os.getppid())
        lines, status = self._end_well(deadline, finished=owned_by_front) if finished else ([], EXIT_DONE)
        problem = self.checkpoints.problem
        failed = [] if problem is None else [f"gitstate: the last checkpoint of this run failed: {problem}"]
        self._answer(None, [*failed, *lines], status)

    def _end_well(self, deadline: Deadline, *, finished: bool) -> tuple[list[str], int]:
        """`_end_well` in a child: no disk holds this process past the deadline. Where the system allows no child, here.

        What takes long for another reason is waited for, as where nobody waits.
        """
        toplevel, private = self.repository.toplevel, self.private

        def work(send: Callable[[object], None]) -> None:
            for fd in private:
                os.close(fd)
            send(_end_well(toplevel, finished=finished))

        try:
            child = Child(work)
        except OSError:
            return _end_well(toplevel, finished=finished)
        values: list[tuple[list[str], int]] = []
        more = True
        while more and not values:
            if child.answers(deadline.left(), _PATIENCE):
                values, more = child.receive()
            elif os.getppid() == 1 or is_held_by_disk(child.pid):
                child.leave()
                return [f"gitstate: {_NOT_ENDED}", "  next: gitstate status"], EXIT_FAILED
        child.end(kill=False)
        return values[0] if values else (["gitstate: the process that ended the run was killed"], EXIT_FAILED)

    def _answer(self, saved: str | None, lines: list[str], status: int) -> None:
        """The last word. The lease is free before it comes: whoever reads it may begin the next run at once.

        Where the disk holds a save no file is removed: it would hold this process too. The next run replaces them.
        """
        self.is_held = is_any_held()
        if not self.is_held:
            self.orders.remove()
        if self.config.lease is not None:
            with suppress(OSError):
                os.close(self.config.lease)
        self.channel.send(done=True, saved=saved, lines=lines, status=status, held=self.is_held)


def _end_well(toplevel: bytes, *, finished: bool) -> tuple[list[str], int]:
    """End the run that ended well, with the settings of now; the lines to print, and the status."""
    from ..recover.request import recover_lines
    from .hold import end_well

    try:
        repository = with_defaults(open_repository(toplevel), OF_SAVE)[0]
        result = end_well(repository, finished=finished)
    except GitstateError as error:
        return [f"gitstate: {error.message}"], error.exit_status
    except OSError as error:
        return [f"gitstate: {words_of(error)}"], EXIT_FAILED
    return ([], EXIT_DONE) if result is None else (recover_lines(result), result.exit_status)


def failed_save(
    repository: Repository, why: str, before: str | None, early: SaveResult | None = None
) -> tuple[str | None, list[str]]:
    """The id of the save that stands though the last save of a run failed (None without one), and the lines to print.

    `before` is the id of the save that was pending before that last save, `early` an earlier save of the same end.
    """
    waiting = pending_save_id(repository)
    whole = waiting is not None and waiting != before
    if early is not None and not whole:
        return early.save_id, failed_look_lines(why, early)
    return waiting, failed_save_lines(why, waiting, checkpoint_save_id(repository), whole=whole)
