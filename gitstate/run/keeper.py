"""The keeper: a process beside one run that watches the workspace, takes checkpoints, and saves when the run ends.

It has a session of its own, so that what kills the loop, its group or its terminal does not kill it. Whoever started
it (its *front*: `gitstate run`, or a program with `gitstate.guard`) tells it what happens over a socket, one JSON
object a line; where the front itself is killed, the socket's end and the owner's pidfd tell the same. It ends the
agent, saves once more when nobody writes any more, answers, and goes.

    front → keeper   {"do": "keep", …}            the first line: `Orders`
                     {"do": "agent", "pid": N}    the agent was started
                     {"do": "signal", "name": "TERM", "terminal": false}
                     {"do": "ended", "code": N}   the agent has ended; negative: by that signal
                     {"do": "failed", "reason": {…}}   end with a save, for this reason
                     {"do": "leave", "finish": true}   a clean end: no save
    keeper → front   {"ready": true}
                     {"done": true, "saved": …, "lines": […], "status": N}
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

from ..agents.base import StopRule
from ..errors import EXIT_DONE, GitstateError
from ..format.manifest import Reason
from ..format.saves import checkpoint_save_id, pending_save_id
from ..git.index import file_identity
from ..git.operation import operation_under_way
from ..git.repository import Repository, open_repository
from ..git.status import ignored_among

# `save` imports these when it meets what they are for. Whatever the agent does to gitstate's files until then, the last
# save must not fail for it.
from ..save import after_marker, index_swap, nested, pending, protocol, publish, renew, staged  # noqa: F401
from ..save.request import SaveRequest, SaveResult
from ..save.save import save
from ..save.words import failed_look_lines, failed_save_lines, save_lines
from ..snapshot.incremental import Baseline
from ..snapshot.record import Snapshot
from ..system import files
from ..system.clock import Deadline
from ..system.process import Process, is_alive, process, send, this_process, wait_for
from ..workspace.live_context import finish
from ..workspace.run_record import run_file
from ..workspace.state_file import context_path, state_name
from .channel import SIGNALS, Orders
from .processes import end_leftovers, kill_all, of_run
from .watch import Watch

#: Files of more bytes than this wait for the second step of a save under a deadline.
_SMALL = 4 << 20
#: A checkpoint never makes the object store grow faster than this, in bytes a second.
_GROWTH = 64 << 10
#: Nor does looking at the whole tree take more than this part of a core.
_SHARE = 0.05
#: Events are collected for this long before they are read, in seconds.
_GATHER = 0.2
#: An agent that ends within this time after Ctrl-C was ended by it, in seconds.
CTRL_C = 5.0
#: A save that nobody waits for may take this long to get hold of the workspace, in seconds.
_PATIENCE = 60.0
_LONGEST_LINE = 1 << 20


def keep(fd: int) -> int:
    """Be the keeper whose front is at the other end of the socket `fd`. The front starts another where this one fails.

    Raises GitstateError, OSError.
    """
    with socket.socket(fileno=fd) as connection, _Mask() as mask:
        keeper = _Keeper(connection, mask)
        orders = keeper.orders()
        if orders is not None:
            keeper.run(orders)
    return EXIT_DONE


class _Mask:
    """Signals are blocked, for this process and every git that it starts, except while it waits."""

    def __enter__(self) -> _Mask:
        self.came: list[int] = []
        self.reader, self._writer = os.pipe()
        for end in (self.reader, self._writer):
            os.set_blocking(end, False)
        # Whoever started it may have blocked more than these.
        signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
        for number in SIGNALS:
            signal.signal(number, lambda number, _: self.came.append(number))
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self._writer)

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def taken(self) -> list[int]:
        """The signals that came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.reader, 4096)
        came, self.came = self.came, []
        return came


class _Keeper:
    def __init__(self, connection: socket.socket, mask: _Mask) -> None:
        self.connection = connection
        self.mask = mask
        self.received = b""
        self.agent: Process | None = None
        self.known: Baseline | None = None
        self.watch: Watch | None = None
        self.pulse: tuple[object, ...] = ()
        self.next_look = 0.0
        self.ctrl_c: tuple[str, float] | None = None
        self.front_gone = False

    def orders(self) -> Orders | None:
        """The first line; None where the front went away before it came."""
        self.connection.setblocking(True)
        while not self.front_gone:
            self._receive()
            words = self._next_line()
            if words is not None:
                self.connection.setblocking(False)
                return Orders(
                    workspace=words["workspace"],
                    run_id=words["run_id"],
                    owner=Process(*words["owner"]),
                    stop=StopRule(*words["stop"]),
                    grace=words["grace"],
                    deadline=words["deadline"],
                    interval=words["interval"],
                    ends_clean_runs=words["ends_clean_runs"],
                )
        return None

    def run(self, orders: Orders) -> None:
        """Keep until the run ends."""
        self.told = orders
        self.path = os.fsencode(orders.workspace)
        self.spared = (os.getpid(), orders.owner.pid)
        self.repository = open_repository(self.path)
        self.never = state_name(self.repository)
        self._write_run_file()
        try:
            self._say({"ready": True})
            self._start_watch()
            self._loop()
        finally:
            files.remove(run_file(self.repository))

    # -- what happens

    def _loop(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.connection, selectors.EVENT_READ)
            selector.register(self.mask.reader, selectors.EVENT_READ)
            owner = self._owner_descriptor()
            if owner is not None:
                selector.register(owner, selectors.EVENT_READ)
            while True:
                watching = self.watch is not None and self.watch.works
                with self.mask.lifted():
                    selector.select(self._pause())
                if (came := self.mask.taken()) and self._on_signal(signal.Signals(came[0]).name[3:], False):
                    return
                self._receive()
                while (words := self._next_line()) is not None:
                    if self._on_words(words):
                        return
                owner_died = not is_alive(self.told.owner)
                if self.front_gone or owner_died:
                    word = "the loop" if owner_died else "gitstate run"
                    self._end(Reason("KILL", None, f"{word} was killed"))
                    return
                if watching and self.watch is not None:
                    self.watch.drain()
                if time.monotonic() >= self.next_look:
                    self._checkpoint()

    def _owner_descriptor(self) -> int | None:
        with contextlib.suppress(AttributeError, OSError):
            return os.pidfd_open(self.told.owner.pid)
        return None

    def _pause(self) -> float:
        """How long to wait for news: events are read often enough that their queue does not overflow."""
        return max(0.01, min(_GATHER, self.next_look - time.monotonic()))

    def _on_words(self, words: dict[str, Any]) -> bool:
        """React to a line of the front; True where the run is over."""
        what = words.get("do")
        if what == "agent":
            self.agent = process(int(words["pid"]))
        elif what == "signal":
            return self._on_signal(str(words["name"]), bool(words.get("terminal")))
        elif what == "ended":
            self._on_ended(int(words["code"]))
            return True
        elif what == "failed":
            reason = words["reason"]
            self._end(Reason(reason.get("signal"), reason.get("exit_code"), reason.get("detail")))
            return True
        elif what == "leave":
            self._leave(finished=bool(words.get("finish")))
            return True
        return False

    def _on_signal(self, name: str, terminal: bool) -> bool:
        if terminal and name in ("INT", "QUIT"):
            # The terminal told the agent too, and whether it ends is the agent's affair.
            self.ctrl_c = (name, time.monotonic())
            self._checkpoint()
            return False
        self._end_now(Reason(name))
        return True

    def _on_ended(self, code: int) -> None:
        if self.ctrl_c is not None and time.monotonic() - self.ctrl_c[1] < CTRL_C:
            self._end(Reason(self.ctrl_c[0]))
        elif code == 0:
            self._leave(finished=True)
        elif code < 0:
            name = signal.Signals(-code).name[3:]
            self._end(Reason(name, None, f"the agent was ended by SIG{name}"))
        else:
            self._end(Reason(None, code))

    # -- the end of a run

    def _end_now(self, reason: Reason) -> None:
        """Someone wants the run gone, and may not wait: first what is known and small, while the agent still ends."""
        deadline = Deadline(self.told.deadline)
        self._tell_agent()
        before = pending_save_id(self.repository)
        early = self._try_save(
            SaveRequest(
                reason=reason,
                known=self._known(),
                largest=_SMALL,
                stay=True,
                wait=self.told.deadline,
                deadline=self.told.deadline,
            )
        )
        self._await_agent(Deadline(min(self.told.grace, self.told.deadline / 2)))
        if isinstance(early, str):
            # It may have failed once its marker stood.
            now = pending_save_id(self.repository)
            done, known = (now if now != before else None), None
        else:
            known = early if early.result == "saved" else None
            done = None if known is None else known.save_id
        left = max(1.0, deadline.left())
        self._last_save(SaveRequest(reason=reason, wait=left, deadline=left, replaces=done), known)

    def _end(self, reason: Reason) -> None:
        """The run has ended, or whoever ran it: nobody waits, so all of it is saved at once."""
        self._tell_agent()
        self._await_agent(Deadline(self.told.grace))
        self._last_save(SaveRequest(reason=reason, wait=_PATIENCE))

    def _last_save(self, request: SaveRequest, early: SaveResult | None = None) -> None:
        """Save what there is now. Where that fails, `early`, a save of the same end, is what a recover finds."""
        end_leftovers(self.told.run_id, but=self.spared)
        before = pending_save_id(self.repository)
        last = self._try_save(request)
        if isinstance(last, str):
            stands, lines = failed_save(self.repository, last, before, early)
            self._say({"done": True, "saved": stands, "lines": lines, "status": 1})
            return
        lines = save_lines(last, "save")
        self._say({"done": True, "saved": last.save_id, "lines": lines, "status": 4 if last.lost else 0})

    def _tell_agent(self) -> None:
        if self.agent is not None:
            send(self.agent, self.told.stop.signal)
            # One that was stopped from its terminal would not hear it.
            send(self.agent, signal.SIGCONT)
        if self.told.stop.everyone or self.agent is None:
            for one in of_run(self.told.run_id, but=self.spared):
                if self.agent is None or one.pid != self.agent.pid:
                    send(one, self.told.stop.signal)

    def _await_agent(self, deadline: Deadline) -> None:
        agents = [self.agent] if self.agent is not None else of_run(self.told.run_id, but=self.spared)
        if not wait_for(agents, deadline):
            for one in agents:
                send(one, signal.SIGKILL)
            kill_all(self.told.run_id, but=self.spared)
            wait_for(agents, Deadline(1.0))

    def _leave(self, *, finished: bool) -> None:
        """A clean end: no save, and nothing is left running."""
        if self.told.ends_clean_runs:
            end_leftovers(self.told.run_id, but=self.spared)
        owned_by_front = finished and self.told.owner == self._front()
        if owned_by_front:
            with contextlib.suppress(GitstateError, OSError):
                finish(open_repository(self.path))
        self._say({"done": True, "saved": None, "lines": [], "status": 0})

    def _front(self) -> Process:
        return process(os.getppid())

    def _try_save(self, request: SaveRequest) -> SaveResult | str:
        """A save, or why there is none, in words."""
        try:
            return save(self.path, request)
        except GitstateError as error:
            return error.message
        except OSError as error:
            return f"{error.strerror or error}"

    # -- checkpoints

    def _start_watch(self) -> None:
        repository = self.repository
        self.watch = Watch(self.path, lambda paths: ignored_among(repository, paths))
        self.watch.add(directories_above(repository.git.run("ls-files", "-z").split(b"\0")[:-1]))

    def _known(self) -> Baseline | None:
        """The last checkpoint and what changed since; None where that is not known."""
        if self.known is None or self.watch is None:
            return None
        touched = self.watch.take()
        if touched is None:
            self.known = None
            return None
        self.known = self.known._replace(touched=self.known.touched | (touched - {self.never}))
        return self.known

    def _checkpoint(self) -> None:
        """One checkpoint, if anything may have changed. What it cost says when the next one may come."""
        begun = time.monotonic()
        known, pulse = self._known(), _pulse(self.repository)
        self.next_look = begun + self.told.interval
        if known is not None and not known.touched and pulse == self.pulse:
            return
        result = self._try_save(SaveRequest(kind="checkpoint", known=known, wait=1.0))
        spent = time.monotonic() - begun
        self.next_look = max(self.next_look, begun + spent / _SHARE)
        if isinstance(result, str) or result.taken is None or result.archive is None:
            return
        self.next_look = max(self.next_look, begun + result.written / _GROWTH)
        self.pulse = pulse
        whole = known is None or result.taken.scan is not known.snapshot.scan
        self.known = Baseline(result.taken, result.archive, frozenset())
        if whole:
            self._watch_untracked(result.taken)

    def _watch_untracked(self, taken: Snapshot) -> None:
        """Directories without a tracked file are known only now; what changed in them meanwhile counts as changed."""
        assert self.watch is not None and taken.scan is not None
        tracked = taken.scan.tracked
        new = [path for path, leaf in taken.worktree.items() if leaf is not None and path not in tracked.paths]
        self.watch.add([*directories_above([*tracked.order, *new]), *taken.directories])
        self.watch.touch(new)

    # -- the socket

    def _receive(self) -> None:
        """Take in what has come; at the end of the socket the front is gone."""
        try:
            data = self.connection.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.front_gone = not data or len(self.received) > _LONGEST_LINE
        self.received += data

    def _next_line(self) -> dict[str, Any] | None:
        """The next whole line that has come, if there is one."""
        line, newline, rest = self.received.partition(b"\n")
        if not newline:
            return None
        self.received = rest
        words = json.loads(line)
        assert isinstance(words, dict)
        return words

    def _say(self, words: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.connection.setblocking(True)
            self.connection.sendall(json.dumps(words).encode() + b"\n")
        self.connection.setblocking(False)

    def _write_run_file(self) -> None:
        repository = self.repository
        files.make_directory(repository.own, top=repository.git_dir)
        value = {"run_id": self.told.run_id, "owner": self.told.owner, "keeper": this_process()}
        with contextlib.suppress(OSError):
            files.write_atomic(run_file(repository), json.dumps(value).encode(), staging=repository.own, durable=False)


def failed_save(
    repository: Repository, why: str, before: str | None, early: SaveResult | None = None
) -> tuple[str | None, list[str]]:
    """The save that stands though the last one of a run failed, None without one, and what to tell of it.

    `before` is the id of the save that waited before that last one was tried, `early` an earlier save of this end.
    """
    waiting = pending_save_id(repository)
    whole = waiting is not None and waiting != before
    if early is not None and not whole:
        return early.save_id, failed_look_lines(why, early)
    return waiting, failed_save_lines(why, waiting, checkpoint_save_id(repository), whole=whole)


def _pulse(repository: Repository) -> tuple[object, ...]:
    """What changes with HEAD, the index, an operation or the context: none of these files is watched."""
    places = [
        *(os.path.join(repository.git_dir, name) for name in (b"HEAD", b"index", b"logs/HEAD")),
        context_path(repository),
    ]
    return (*(file_identity(place) for place in places), operation_under_way(repository.git_dir))


def directories_above(paths: list[bytes]) -> list[bytes]:
    """Every directory above these paths, the top (the empty one) first."""
    found: dict[bytes, None] = {b"": None}
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            if path in found:
                break
            found[path] = None
    return list(found)
