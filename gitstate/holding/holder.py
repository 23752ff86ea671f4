"""The holder: a process beside a keeper that does nothing but watch the workspace and hold the files in it.

A keeper is busy at times: it forks, reads what a checkpoint found, asks git. The holder is not, so that a file is held
within a millisecond of being made. It is forked from the keeper, with the code that it needs. Messages are pickled, in
both directions:

    keeper → holder   ("watch", directories, paths)   watch these too, and count these paths as changed
                      ("take", number)                asks for what changed and what was destroyed
                      ("release", epoch, paths)       a checkpoint has it, but for these paths
                      ("end",)
    holder → keeper   ("ready",)                      everything is watched
                      ("taken", number, touched, layers, epoch)

The end of the socket without ("end",) tells that the keeper was killed. Then what was destroyed is handed to
`orphaned`, which takes a checkpoint: the descriptors end with this process.
"""

from __future__ import annotations

# `pickle` and `socket` load `re`, `enum` and `selectors`, which would stay for as long as the agent works.
import _socket
import gc
import os
import select
import time
from _pickle import dumps, loads

from ..errors import GitstateError
from ..git.repository import Repository
from ..git.status import ignored_among
from ..system import forkpool
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record, signal, suppress
from .held import HeldFiles
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import Any

    from .held import Layer

#: An answer is waited for so long, in seconds: the holder may hang on a dead network mount.
_PATIENCE = 2.0
#: Git is asked about new directories when nothing has happened for so long, in milliseconds, or after so many seconds.
_IDLE_MS, _JUDGE = 50, 0.2


class Taken(Record):
    """What the holder knows of the time since the last question."""

    touched: frozenset[bytes] | None
    """The paths that changed; None where that is not known, and the whole tree must be scanned."""
    layers: Sequence[Layer]
    """What was destroyed."""
    epoch: int
    """What `release` needs when a checkpoint has all that."""


#: Where there is no holder, or it does not answer.
NOTHING_KNOWN = Taken(None, (), -1)


class Holder:
    """A holder, as its keeper sees it: the constructor forks it. Only for a process without threads.

    `directories` are watched with all below them that git does not ignore; files that changed after `since_ns` are
    held. It keeps none of the descriptors of the keeper. Raises OSError.
    """

    def __init__(
        self,
        repository: Repository,
        directories: Sequence[bytes],
        since_ns: int,
        orphaned: Callable[[Sequence[Layer]], None],
    ) -> None:
        ours, theirs = _socket.socketpair()
        # A collection of garbage would write to each page that both have, and make it two.
        gc.collect()
        gc.freeze()
        try:
            self.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self.pid == 0:
            try:
                _be_holder(theirs, repository, directories, since_ns, orphaned)
            finally:
                os._exit(0)
        theirs.close()
        self._socket = ours
        self._received = b""
        self._number = 0
        self._is_ready = False
        self.is_gone = False

    def fileno(self) -> int:
        """A descriptor that a child of the keeper must not keep."""
        return self._socket.fileno()

    def watch(self, directories: Iterable[bytes], touched: Iterable[bytes]) -> None:
        """Watch these directories too, and count these paths as changed."""
        self._send("watch", list(directories), list(touched))

    def take(self) -> Taken:
        """What changed and what was destroyed since the last call."""
        while not self._is_ready and self._receive(0.0) is not None:
            continue
        if not self._is_ready or self.is_gone:
            return NOTHING_KNOWN
        self._number += 1
        self._send("take", self._number)
        deadline = Deadline(_PATIENCE)
        while not deadline.passed() and not self.is_gone:
            message = self._receive(deadline.left())
            if message is not None and message[:2] == ("taken", self._number):
                return Taken(*message[2:])
        return NOTHING_KNOWN

    def release(self, epoch: int, kept: Collection[bytes]) -> None:
        """A checkpoint that began at `epoch` has all but these paths."""
        if epoch >= 0:
            self._send("release", epoch, list(kept))

    def close(self) -> None:
        """End it."""
        self._send("end")
        self._socket.close()
        self.is_gone = True
        for _ in range(200):
            with suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                    select.select([], [], [], 0.005)
                    continue
            return
        # It may be stuck in the kernel.
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)

    def _send(self, *message: Any) -> None:
        if self.is_gone:
            return
        try:
            _send(self._socket, message)
        except OSError:
            self.is_gone = True

    def _receive(self, seconds: float) -> Any:
        """The next message; None where none came in this time."""
        deadline = Deadline(seconds)
        while (message := _first(self._received)) is None:
            self._socket.settimeout(max(0.0, deadline.left()))
            try:
                data = self._socket.recv(1 << 20)
            except (BlockingIOError, TimeoutError):
                return None
            except OSError:
                data = b""
            if not data:
                self.is_gone = True
                return None
            self._received += data
        value, self._received = message
        if value[0] == "ready":
            self._is_ready = True
        return value


def _send(connection: _socket.socket, message: tuple[Any, ...]) -> None:
    data = dumps(message)
    connection.settimeout(_PATIENCE)
    connection.sendall(len(data).to_bytes(8, "big") + data)


def _first(received: bytes) -> tuple[Any, bytes] | None:
    """The first message, and what follows it; None where it has not come whole."""
    size = 8 + int.from_bytes(received[:8], "big")
    if len(received) < 8 or len(received) < size:
        return None
    # Only this program is at the other end.
    return loads(received[8:size]), received[size:]


# -- in the process itself


def _be_holder(
    connection: _socket.socket,
    repository: Repository,
    directories: Sequence[bytes],
    since_ns: int,
    orphaned: Callable[[Sequence[Layer]], None],
) -> None:
    # Not of the keeper's session: what kills its group does not kill this. It ends with the socket.
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != connection.fileno():
            with suppress(OSError):
                os.close(int(name))
    # A collection takes longer than a file takes to be held.
    gc.disable()
    server = _Server(connection, repository)
    server.begin(directories, since_ns)
    if not server.serve():
        layers, _ = server.held.take()
        if layers:
            orphaned(layers)


class _Server:
    def __init__(self, connection: _socket.socket, repository: Repository) -> None:
        self._connection = connection
        self._repository = repository
        self.held = HeldFiles(repository.toplevel)
        self._watch = Watch(repository.toplevel, self.held)
        self._received = b""
        self._judging: forkpool.Child | None = None
        self._judged: list[bytes] = []

    def begin(self, directories: Sequence[bytes], since_ns: int) -> None:
        self._watch.add_all(directories, self._ignored, since_ns)
        self._watch.drain()
        _send(self._connection, ("ready",))

    def _ignored(self, paths: list[bytes]) -> set[bytes]:
        return ignored_among(self._repository, paths)

    def serve(self) -> bool:
        """Watch and answer until the end; False where the keeper was killed."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if self._watch.works:
            poll.register(self._watch.fileno(), select.POLLIN)
        asked = time.monotonic()
        while True:
            waits = bool(self._watch.unjudged) and self._judging is None
            ready = {fd for fd, _ in poll.poll(_IDLE_MS if waits else None)}
            # The events first: what a request asks for must not miss what came before it.
            self._watch.drain()
            if self._watch.overflowed:
                self._watch.look_again(self._ignored)
            self._watch.is_up_to_date()
            if self._judging is not None and self._judging.pipe in ready:
                poll.unregister(self._judging.pipe)
                self._end_judging()
            if self._connection.fileno() in ready:
                more = self._answer()
                if more is not None:
                    return more
            if waits and self._judging is None and (not ready or time.monotonic() - asked > _JUDGE):
                asked = time.monotonic()
                self._judge()
                if self._judging is not None:
                    poll.register(self._judging.pipe, select.POLLIN)

    def _judge(self) -> None:
        """Ask which of the new directories git ignores, in a child: events are read meanwhile."""
        self._judged, self._watch.unjudged = self._watch.unjudged, []
        paths, fds = self._judged, [self._connection.fileno(), self._watch.fileno()]

        def work(send: Callable[[Any], None]) -> None:
            for fd in fds:
                os.close(fd)
            with suppress(GitstateError, OSError):
                send(self._ignored(paths))

        with suppress(OSError):
            self._judging = forkpool.Child(work)

    def _end_judging(self) -> None:
        assert self._judging is not None
        values: list[Any] = []
        more = True
        while more and not values:
            values, more = self._judging.receive()
        self._judging.end(kill=False)
        self._judging = None
        for ignored in values:
            # The outermost first: what is in them goes with them.
            self._watch.drop(sorted(ignored))

    def _answer(self) -> bool | None:
        """Carry out what the keeper asks for; None where it goes on, else whether it was told to end."""
        try:
            data = self._connection.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            return False
        self._received += data
        while (message := _first(self._received)) is not None:
            (what, *values), self._received = message
            if what == "end":
                return True
            if what == "watch":
                self._watch.add(values[0])
                self._watch.touch(values[1])
            elif what == "release":
                self.held.release(values[0], frozenset(values[1]))
            elif what == "take":
                touched = self._watch.take()
                layers, epoch = self.held.take()
                try:
                    _send(self._connection, ("taken", values[0], touched, layers, epoch))
                except OSError:
                    return False
        return None
