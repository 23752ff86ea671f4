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

from ..agents import launch, sessions  # noqa: F401
from ..agents.registry import all_agents
from ..bundle import hold_own_code
from ..conversation import pieces  # noqa: F401
from ..errors import EXIT_DONE, GitstateError
from ..format.manifest import Reason

# A save imports these where it meets what they are for. The keeper imports them at once: the last save must not fail
# where the agent has changed or removed gitstate's files since.
from ..git import attributes, entries, strange  # noqa: F401
from ..git.damaged import broken, refused  # noqa: F401
from ..git.opening import open_repository
from ..orders.events import start_handling, wait_until_empty
from ..orders.listener import Orders
from ..save import index, inside, keeping, nested, protocol, publish  # noqa: F401
from ..snapshot import convert, hidden  # noqa: F401
from ..system import files
from ..system.clock import Deadline
from ..system.process import is_alive, process, this_process
from ..system.stdlib import TYPE_CHECKING, pickler, suppress
from ..workspace import damage, lease, peek, registry  # noqa: F401
from ..workspace.live_context import read_turn
from ..workspace.run_record import RunRecord, run_file, write_run_file
from ..workspace.settings import OF_SAVE, with_defaults
from .channel import BlockedSignals, Channel, KeeperConfig
from .checkpoints import Checkpoints
from .ending import Ending, RunParts
from .processes import RunProcesses, signal_name
from .worktrees import RunWorktrees

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from .ending import HasFileno


#: An agent that ends within this time after Ctrl-C was ended by it, in seconds.
CTRL_C = 5.0
#: Events of the agent's hooks that nobody has handled yet are waited for so long, in seconds.
_HOOKS = 5.0
#: After this time nobody seems to handle them, in seconds.
_NOBODY = 1.0
#: A path that is missing for a moment may get another directory: `mv shop old && mv copy shop`. In seconds.
_SETTLES = 1.0


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
    hold_own_code()
    # The last save asks where an agent keeps its transcript, and sends what came of it.
    all_agents()
    pickler()
    from ..holding import window  # noqa: F401


class Place:
    """The directory at `toplevel`, whatever its name becomes. `fd` keeps hold of it; no child may keep that."""

    def __init__(self, toplevel: bytes) -> None:
        self._first = self._current = toplevel
        self._settled: Deadline | None = None
        self.fd = os.open(toplevel, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def go(self, *, at_once: bool) -> bytes | None:
        """The path to go to; None to stay. What stands at the first path is the workspace, else what was moved away.

        Without `at_once` only what has settled counts. None too where no system tells where a directory is.
        """
        if os.path.lexists(self._first):
            self._settled = None
            target: bytes | None = self._first
        else:
            self._settled = self._settled or Deadline(_SETTLES)
            target = self._moved_to() if at_once or self._settled.passed() else None
        if target is None or target == self._current:
            return None
        self._current = target
        return target

    def _moved_to(self) -> bytes | None:
        with suppress(OSError):
            path = os.readlink(os.fsencode(f"/proc/self/fd/{self.fd}"))
            if os.path.samestat(os.stat(path), os.fstat(self.fd)):
                return path
        return None


class Keeper:
    """Keeps one run. Its workspace's settings were read when the run began: one that turns bad costs no save."""

    def __init__(self, channel: Channel, signals: BlockedSignals, config: KeeperConfig) -> None:
        self.channel = channel
        self.signals = signals
        self.config = config
        self.processes = RunProcesses(config.run_id, config.stop, config.owner)
        self._private = [channel.fileno(), *([] if config.lease is None else [config.lease])]
        self._place = Place(os.fsencode(config.workspace))
        self._private.append(self._place.fd)
        self._equip(os.fsencode(config.workspace))
        self.recorded_problem: str | None = None
        self.holder = lease.read_holder(self.repository.own)
        #: Seconds since the epoch; a file's time may be a little older than the clock.
        self.began = time.time() - 0.05
        self.ctrl_c: tuple[str, float] | None = None

    def _equip(self, workspace: bytes) -> None:
        """Get what works in the workspace, where it is now."""
        self.repository, _ = with_defaults(open_repository(workspace), OF_SAVE)
        private, interval = self._private, self.config.times.interval
        self.checkpoints = Checkpoints(self.repository, interval, private)
        self.orders = Orders(self.repository, self.checkpoints, private)
        self.worktrees = RunWorktrees(self.repository, self.config.run_id, interval, private)
        parts = RunParts(
            self.channel,
            self.signals,
            self.config,
            self.repository,
            self.processes,
            self.checkpoints,
            self.orders,
            self.worktrees,
            private,
        )
        self._ending = Ending(parts)

    def _follow(self, *, at_once: bool) -> bool:
        """Go on where the workspace was moved to; whether it was. What is held of destroyed files goes with the watch.

        Where it can't be opened there, all is tried at the old place, and what fails is said.
        """
        path = self._place.go(at_once=at_once)
        if path is None:
            return False
        with suppress(GitstateError, OSError):
            open_repository(path)
            self.orders.close()
            self.checkpoints.close()
            self.worktrees.close()
            self._equip(path)
            self._record_run()
            self.checkpoints.start()
            return True
        return False

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
            if not self._ending.is_held:
                files.remove(run_file(self.repository))

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
            # What wakes it so may end the run.
            if self._follow(at_once=any(one in ready for one in (self.channel, self.signals.reader, owner))):
                running, ready = None, []
            if (came := self.signals.take()) and self._on_signal(signal_name(came[0]), False):
                return
            # Looked at first: a front that starts an agent tells of it, and then looks whether the owner is there.
            owner_died = not is_alive(self.config.owner)
            self.channel.receive(0)
            while (message := self.channel.next_message()) is not None:
                if self._on_message(message):
                    return
            if self.channel.is_closed or owner_died:
                word = "the loop" if owner_died else "gitstate run"
                self._ending.end(Reason("KILL", None, f"{word} was killed"))
                return
            if running in ready:
                self.checkpoints.collect()
            self.orders.serve(ready)
            if not self.orders.saving:
                self.checkpoints.begin_if_due()
            self.worktrees.collect(ready)
            self.worktrees.begin_if_due()
            if self._takes_lease_again() or self.checkpoints.problem != self.recorded_problem:
                self._record_run()

    def _takes_lease_again(self) -> bool:
        """Whether the lease had to be taken again: the agent has removed its file, or replaced the git directory."""
        with suppress(OSError):
            return self.config.lease is not None and lease.take_again(self.repository, self.config.lease, self.holder)
        return False

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
            self._ending.end(Reason(reason.get("signal"), reason.get("exit_code"), reason.get("detail")))
            return True
        elif what == "leave":
            self._ending.leave(finished=bool(message.get("finish")))
            return True
        return False

    def _on_signal(self, name: str, terminal: bool) -> bool:
        """React to a signal; True if the run is over."""
        if terminal and name in ("INT", "QUIT"):
            # The terminal sent it to the agent too, and the agent decides whether it ends.
            self.ctrl_c = (name, time.monotonic())
            self.checkpoints.begin()
            return False
        self._ending.end_now(Reason(name))
        return True

    def _on_ended(self, code: int) -> None:
        if self.ctrl_c is not None and time.monotonic() - self.ctrl_c[1] < CTRL_C:
            self._ending.end(Reason(self.ctrl_c[0]))
        elif code == 0 and self._last_turn() in ("open", "failed"):
            self._ending.end(Reason(None, 0, "the agent ended in the middle of its turn"))
        elif code == 0:
            self._ending.leave(finished=True)
        elif code < 0:
            name = signal_name(-code)
            self._ending.end(Reason(name, None, f"the agent was ended by SIG{name}"))
        else:
            self._ending.end(Reason(None, code))

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
