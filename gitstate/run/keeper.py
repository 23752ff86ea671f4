"""The keeper: a process beside one run that watches the workspace, takes checkpoints, and saves when the run ends.

It has a session of its own, so that what kills the loop, its group or its terminal does not kill it. Its *front*
started it: `gitstate run`, or a program with `gitstate.guard`. The front tells it what happens over a socket, one JSON
object a line. If the front is killed, the end of the socket and the pidfd of the owner tell the same. At the end of
the run the keeper ends the agent, waits until nobody writes any more, saves, answers, and exits.

    front → keeper   {"do": "keep", …}            the first line: `KeeperConfig`
                     {"do": "agent", "pid": N}    the agent was started
                     {"do": "signal", "name": "TERM", "terminal": false}
                     {"do": "ended", "code": N}   the agent has ended; negative: by that signal
                     {"do": "failed", "reason": {…}}   end with a save, for this reason
                     {"do": "leave", "finish": true}   a clean end: no save
    keeper → front   {"ready": true}
                     {"done": true, "saved": …, "lines": […], "status": N, "held": …}   `held`: by the disk
"""

from __future__ import annotations

# As in `channel`.
import _socket
import os
import select
import time

from ..agents import launch, transcripts  # noqa: F401
from ..agents.registry import all_agents
from ..conversation import pieces  # noqa: F401
from ..conversation.turn import read_turn
from ..errors import EXIT_DONE, EXIT_FAILED, EXIT_PERSON, GitstateError, words_of
from ..format.manifest import Reason
from ..format.saves import checkpoint_save_id, pending_save_id

# A save imports these where it meets what they are for. The keeper imports them at once: the last save must not fail
# where the agent has changed or removed gitstate's files since.
from ..git import attributes, entries, unusable  # noqa: F401
from ..git.repository import Repository, open_repository
from ..orders.events import start_handling, wait_until_empty
from ..orders.listener import Orders
from ..orders.saving import opened_for
from ..save import index, protocol, publish  # noqa: F401
from ..save.request import SaveRequest, SaveResult
from ..save.save import save
from ..save.words import failed_look_lines, failed_save_lines, save_lines
from ..snapshot import convert, hidden  # noqa: F401
from ..system import files
from ..system.clock import Deadline
from ..system.forkpool import is_any_held
from ..system.process import is_alive, process, this_process
from ..system.stdlib import TYPE_CHECKING, pickler, suppress
from ..workspace import damage, lease, peek, registry  # noqa: F401
from ..workspace.ownership import RunRecord, run_file, write_run_file
from ..workspace.settings import OF_SAVE, with_defaults
from .channel import BlockedSignals, Channel, KeeperConfig, is_told_to_hurry
from .checkpoints import Checkpoints, ForkedSave, try_save
from .processes import RunProcesses, signal_name
from .worktrees import RunWorktrees, SavedWorktrees

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class HasFileno(Protocol):
        """What can be waited for."""

        def fileno(self) -> int: ...


#: Files of more bytes than this wait for the second step of a save under a deadline.
_SMALL = 4 << 20
#: An early save reads files for so long, in seconds, and for this part of the deadline at most.
_EARLY, _EARLY_SHARE = 0.3, 0.2
#: The last save has this many seconds in any case, and is broken off so many seconds after its deadline.
_LEAST, _OVERTIME = 0.1, 0.15
#: For this part of the deadline nothing else is done but the early save. Where none stands, the last one is waited for
#: so many seconds after the deadline, if the disk answers.
_FIRST, _PATIENT = 0.6, 2.0
_GOES_ON = "the disk did not answer within the deadline; the save goes on until the disk answers"
#: A child that does not say anything is looked at again after so many seconds.
_LOOK_AGAIN = 1.0
#: An agent that ends within this time after Ctrl-C was ended by it, in seconds.
CTRL_C = 5.0
#: Events of the agent's hooks that nobody has handled yet are waited for so long, in seconds.
_HOOKS = 5.0
#: After this time nobody seems to handle them, in seconds.
_NOBODY = 1.0
#: A save that nobody waits for may take this long to get hold of the workspace, in seconds.
_PATIENCE = 60.0


def keep(fd: int) -> int:
    """Be the keeper whose front is at the other end of the socket `fd`. The front starts another where this one fails.

    Raises GitstateError, OSError.
    """
    os.chdir("/")
    with BlockedSignals() as signals:
        channel = Channel(_socket.socket(fileno=fd))
        while not channel.is_closed:
            channel.receive(None)
            message = channel.next_message()
            if message is not None:
                load()
                Keeper(channel, signals, KeeperConfig.from_message(message)).run()
                break
    return EXIT_DONE


def load() -> None:
    """Load what the front of a run, which loads this module too, has no use for."""
    # The last save asks where an agent keeps its transcript, and sends what came of it.
    all_agents()
    pickler()
    from ..holding import listing, window  # noqa: F401


class Keeper:
    """Keeps one run. Its workspace's settings were read when the run began: one that turns bad costs no save."""

    def __init__(self, channel: Channel, signals: BlockedSignals, config: KeeperConfig) -> None:
        self.channel = channel
        self.signals = signals
        self.config = config
        self.processes = RunProcesses(config.run_id, config.stop, (os.getpid(), config.owner.pid))
        self.repository, _ = with_defaults(open_repository(os.fsencode(config.workspace)), OF_SAVE)
        private = [channel.fileno(), *([] if config.lease is None else [config.lease])]
        self.private = private
        self.checkpoints = Checkpoints(self.repository, config.times.interval, private)
        self.orders = Orders(self.repository, self.checkpoints, private)
        self.worktrees = RunWorktrees(self.repository, config.run_id, config.times.interval, private)
        self.recorded_problem: str | None = None
        #: The disk holds a save, or a checkpoint, that was not awaited any longer.
        self.is_held = False
        #: Seconds since the epoch; a file's time may be a little older than the clock.
        self.began = time.time() - 0.05
        self.ctrl_c: tuple[str, float] | None = None

    def run(self) -> None:
        """Keep until the run ends."""
        self._record_run()
        try:
            self.channel.send(ready=True)
            self.checkpoints.start()
            self._loop()
        finally:
            self.checkpoints.close()
            self.worktrees.close()
            if not self.is_held:
                files.remove(run_file(self.repository))

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

    def _record_run(self) -> None:
        """Write which processes this run has, and whether its checkpoints fail: for `stop`, `status` and `doctor`."""
        self.recorded_problem = self.checkpoints.problem
        record = RunRecord(self.config.run_id, this_process(), self.recorded_problem)
        with suppress(OSError):
            write_run_file(self.repository, record, self.config.owner)

    # -- what happens

    def _loop(self) -> None:
        owner = self._owner_descriptor()
        while True:
            running = self.checkpoints.running
            watched: list[HasFileno | int] = [self.channel, self.signals.reader]
            watched += [one for one in (owner, running, *self.worktrees.running()) if one is not None]
            watched += [*self.orders.watched(), *self.worktrees.listing()]
            with self.signals.unblocked():
                ready = self._wait(watched)
            if (came := self.signals.take()) and self._on_signal(signal_name(came[0]), False):
                return
            self.channel.receive(0)
            while (message := self.channel.next_message()) is not None:
                if self._on_message(message):
                    return
            owner_died = not is_alive(self.config.owner)
            if self.channel.is_closed or owner_died:
                word = "the loop" if owner_died else "gitstate run"
                self._end(Reason("KILL", None, f"{word} was killed"))
                return
            if running in ready:
                self.checkpoints.collect()
            self.orders.serve(ready)
            if not self.orders.saving:
                self.checkpoints.begin_if_due()
            self.worktrees.collect(ready)
            self.worktrees.begin_if_due()
            if self.checkpoints.problem != self.recorded_problem:
                self._record_run()

    def _wait(self, watched: Sequence[HasFileno | int]) -> list[HasFileno | int]:
        """Wait until one of these can be read, or something is due. Events of files are taken meanwhile, at once."""
        due = Deadline(min(self.checkpoints.pause(), self.worktrees.is_due()))
        while True:
            files = [*self.checkpoints.watched(), *self.worktrees.watched()]
            pause = min(due.left(), self.checkpoints.pause(), self.worktrees.pause())
            ready, _, _ = select.select([*watched, *files], [], [], pause)
            self.checkpoints.serve(ready)
            self.worktrees.serve(ready)
            others = [one for one in ready if one not in files]
            if others or due.passed():
                return others

    def _owner_descriptor(self) -> int | None:
        with suppress(AttributeError, OSError):
            return os.pidfd_open(self.config.owner.pid)
        return None

    def _on_message(self, message: dict[str, Any]) -> bool:
        """React to a message of the front; True if the run is over."""
        what = message.get("do")
        if what == "agent":
            self.processes.agent = process(int(message["pid"]))
        elif what == "signal":
            return self._on_signal(str(message["name"]), bool(message.get("terminal")))
        elif what == "ended":
            self._on_ended(int(message["code"]))
            return True
        elif what == "failed":
            reason = message["reason"]
            self._end(Reason(reason.get("signal"), reason.get("exit_code"), reason.get("detail")))
            return True
        elif what == "leave":
            self._leave(finished=bool(message.get("finish")))
            return True
        return False

    def _on_signal(self, name: str, terminal: bool) -> bool:
        """React to a signal; True if the run is over."""
        if terminal and name in ("INT", "QUIT"):
            # The terminal sent it to the agent too, and the agent decides whether it ends.
            self.ctrl_c = (name, time.monotonic())
            self.checkpoints.begin()
            return False
        self._end_now(Reason(name))
        return True

    def _on_ended(self, code: int) -> None:
        if self.ctrl_c is not None and time.monotonic() - self.ctrl_c[1] < CTRL_C:
            self._end(Reason(self.ctrl_c[0]))
        elif code == 0 and self._last_turn() in ("open", "failed"):
            self._end(Reason(None, 0, "the agent ended in the middle of its turn"))
        elif code == 0:
            self._leave(finished=True)
        elif code < 0:
            name = signal_name(-code)
            self._end(Reason(name, None, f"the agent was ended by SIG{name}"))
        else:
            self._end(Reason(None, code))

    def _last_turn(self) -> str | None:
        """What the agent's hooks say of its turn: those that were called last may still be at work, or were killed."""
        if not wait_until_empty(self.repository, _NOBODY):
            child = start_handling(self.repository)
            wait_until_empty(self.repository, _HOOKS)
            if child is not None:
                # What it still wants is in the save that comes, or the run is finished.
                child.kill()
                child.wait()
        return read_turn(self.repository, self.began)

    # -- the end of a run

    def _end_now(self, reason: Reason) -> None:
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

    def _end(self, reason: Reason) -> None:
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

    def _leave(self, *, finished: bool) -> None:
        """End a run that ended well: no save but a last checkpoint, within the deadline, and no process is left."""
        deadline = Deadline(self.config.times.deadline)
        self.orders.close()
        if self.config.ends_clean_runs:
            self.processes.end_leftovers()
        self.checkpoints.take_last(deadline)
        self.worktrees.take_last(deadline, finished=finished)
        owned_by_front = finished and self.config.owner == process(os.getppid())
        lines, status = _end_well(self.repository.toplevel, finished=owned_by_front) if finished else ([], EXIT_DONE)
        problem = self.checkpoints.problem
        failed = [] if problem is None else [f"gitstate: the last checkpoint of this run failed: {problem}"]
        self._answer(None, [*failed, *lines], status)


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
