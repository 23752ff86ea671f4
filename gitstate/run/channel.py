"""The socket between a keeper and its front: who starts a keeper, what it is told, and what it answers.

Signals tell a keeper something too: they are collected here. The messages stand at the top of `keeper`.
"""

from __future__ import annotations

# `socket` itself loads `selectors` and `enum`: a fifth of the memory of a keeper.
import _socket
import fcntl
import gc
import os

from ..agents.base import StopRule
from ..errors import EXIT_FAILED, BadJson
from ..git.repository import Repository
from ..system.child import interpreter, isolated_python
from ..system.clock import Deadline
from ..system.jsonio import dumps, loads
from ..system.process import Process, inherited_descriptors
from ..system.stdlib import TYPE_CHECKING, Record, contextmanager, signal, suppress
from ..workspace.settings import OF_SAVE, number, require
from .processes import RUN_ID, StartedProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

#: Signals that end a run.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: A keeper that has answered is gone after this many seconds at most.
_EXIT_TIME = 2.0
#: A line of more bytes than this is none of ours.
_LONGEST_LINE = 1 << 20


class Times(Record):
    """The times of a run in seconds: the settings of the same names."""

    grace: float
    deadline: float
    interval: float


def read_times(repository: Repository, given: Mapping[str, float | None], source: str | None = None) -> Times:
    """The times of a run: those that were `given` (`source` says how, where not by option), else the settings.

    Every other setting that a run reads is looked at too. Raises UsageError for the first one that can't be read.
    """
    times = Times(*(number(repository, name, given.get(name), source and f"{source} {name}") for name in Times._fields))
    require(repository, *OF_SAVE)
    return times


class KeeperConfig(Record):
    """What a keeper is told at its start."""

    workspace: str
    run_id: str
    owner: Process
    """Who owns the workspace: the keeper saves when it is gone."""
    stop: StopRule
    times: Times
    ends_clean_runs: bool = True
    """Whether what is left of a run that ended well is ended too."""
    lease: int | None = None
    """The descriptor of the lease, which the keeper holds too."""

    def to_message(self) -> dict[str, Any]:
        return {"do": "keep", **self._asdict()}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> KeeperConfig:
        return cls(
            message["workspace"],
            message["run_id"],
            Process(*message["owner"]),
            StopRule(*message["stop"]),
            Times(*message["times"]),
            message["ends_clean_runs"],
            message["lease"],
        )


class Channel:
    """One end of the socket: one JSON object a line, in both directions."""

    def __init__(self, connection: _socket.socket) -> None:
        self._socket = connection
        self._received = b""
        self.is_closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, **message: Any) -> bool:
        """Send a message; False if the other end is gone."""
        try:
            self._socket.settimeout(None)
            # A line feed inside a text is escaped: these only lay the object out.
            self._socket.sendall(dumps(message).replace(b"\n", b"") + b"\n")
            return True
        except OSError:
            return False

    def receive(self, seconds: float | None) -> bool:
        """Wait for data, so many seconds at most (None: for ever). False if none came in this time.

        At the end of the socket, or of our patience with a line that does not end, the channel is closed.
        """
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(65_536)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError:
            data = b""
        self.is_closed = not data or len(self._received) > _LONGEST_LINE
        self._received += data
        return True

    def next_message(self) -> dict[str, Any] | None:
        """The next message that has come whole, None without one. A line that is no JSON object is skipped."""
        while b"\n" in self._received:
            line, _, self._received = self._received.partition(b"\n")
            with suppress(BadJson):
                return loads(line, _LONGEST_LINE, "a message")
        return None

    def close(self) -> None:
        self._socket.close()


class BlockedSignals:
    """Blocks the signals that end a run, for this process and every git that it starts, except while it waits."""

    def __enter__(self) -> BlockedSignals:
        self.came: list[int] = []
        self.reader, self._writer = os.pipe()
        for end in (self.reader, self._writer):
            os.set_blocking(end, False)
        # Whoever started it may have blocked more than these.
        signal.pthread_sigmask(signal.SIG_SETMASK, SIGNALS)
        for one in SIGNALS:
            signal.signal(one, lambda came, _: self.came.append(came))
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self._writer)

    @contextmanager
    def unblocked(self) -> Iterator[None]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def take(self) -> list[int]:
        """The signals that came since the last call."""
        with suppress(BlockingIOError):
            os.read(self.reader, 4096)
        came, self.came = self.came, []
        return came


def is_told_to_hurry(signals: BlockedSignals, channel: Channel) -> bool:
    """Whether a signal has come, here or to the front."""
    if signals.take():
        return True
    if not channel.is_closed:
        channel.receive(0)
    messages = iter(channel.next_message, None)
    return any(message.get("do") == "signal" for message in messages)


class KeeperProcess:
    """A keeper, as its front sees it: the constructor starts one.

    With `keep`, the keeper's own function, it is a fork that shares the memory of this process, which must have no
    thread: where nothing speaks against that.
    """

    def __init__(self, config: KeeperConfig, keep: Callable[[int], int] | None = None) -> None:
        ours, theirs = _socket.socketpair()
        # A fork of this process lets go of its own descriptor of the lease (`Hold`).
        lease = None if config.lease is None else fcntl.fcntl(config.lease, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            kept = [theirs.fileno(), *([] if lease is None else [lease])]
            accounted = [ours.fileno(), *kept, *([] if config.lease is None else [config.lease])]
            pid = _fork(keep, ours, kept) if keep is not None and _may_fork(accounted) else _spawn(kept)
        finally:
            theirs.close()
            if lease is not None:
                os.close(lease)
        self.process = StartedProcess(pid)
        self._channel = Channel(ours)
        self._channel.send(**config._replace(lease=lease).to_message())

    def tell(self, **message: Any) -> bool:
        """Tell the keeper what happens; False if it is gone."""
        return self._channel.send(**message)

    @property
    def is_gone(self) -> bool:
        """Whether it will say nothing more."""
        return self._channel.is_closed

    def answer(self, seconds: float | None) -> dict[str, Any] | None:
        """The keeper's answer at the end of the run; None if it is gone, or gives none in this time."""
        deadline = Deadline(seconds)
        while True:
            while (message := self._channel.next_message()) is not None:
                if message.get("done"):
                    return message
            left = deadline.left()
            if self._channel.is_closed or left <= 0:
                return None
            if not self._channel.receive(None if left == float("inf") else left):
                return None

    def close(self) -> None:
        """Close the socket. A keeper that has answered ends by itself."""
        self._channel.close()
        self.process.wait(Deadline(_EXIT_TIME))


#: The name under which a forked keeper is listed.
_NAME = b"gitstate\0keep\0"


def _may_fork(accounted: Iterable[int]) -> bool:
    """Whether a fork of this process can be a keeper of its own. Of the descriptors these are `accounted` for."""
    # The end of an outer run ends whoever has its id in the environment that it was started with.
    if RUN_ID in os.environ:
        return False
    with suppress(OSError, ValueError, IndexError):
        # A file object of this process would close the number of its descriptor in the keeper, whatever that is then.
        mine = {int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2}.difference(accounted)
        owned = [fd for fd in mine if _is_open(fd) and not os.get_inheritable(fd)]
        return not owned and _set_name(None)
    return False


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _set_name(name: bytes | None) -> bool:
    """List this process under another name than its program's; with None, tell whether that is possible.

    Whoever kills an agent by its command line (`pkill -f`) must not kill the keeper with it. Raises OSError,
    ValueError, IndexError.
    """
    with open("/proc/self/stat", "rb") as file:
        start, end = map(int, file.read().rpartition(b")")[2].split()[45:47])
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        room = end - start
        data = os.pread(memory, 1, start) if name is None else name.ljust(room, b"\0")
        return len(_NAME) < room and os.pwrite(memory, data[:room], start) > 0
    finally:
        os.close(memory)


def _fork(keep: Callable[[int], int], connection: _socket.socket, kept: list[int]) -> int:
    """Fork a keeper that has the descriptors `kept` and no other, in a session of its own; its pid. Raises OSError.

    `connection` is the front's end of the socket.
    """
    # What both share is to stay shared: no search for garbage looks at it any more.
    gc.collect()
    gc.freeze()
    pid = os.fork()
    if pid:
        return pid
    status = EXIT_FAILED
    try:
        os.setsid()
        _set_name(_NAME)
        connection.close()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd not in kept:
                with suppress(OSError):
                    os.close(fd)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_IGN)
        status = keep(kept[0])
    finally:
        os._exit(status)


def _spawn(kept: list[int]) -> int:
    """Start a keeper that has the descriptors `kept` and no other, in a session of its own; its pid. Raises OSError."""
    environment = {name: value for name, value in os.environ.items() if name != RUN_ID}
    # Without `site`: a keeper needs nothing but Python and gitstate.
    argv = [interpreter(), "-S", *isolated_python()[1:], "keep", str(kept[0])]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
    actions += [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in inherited_descriptors() if fd not in kept]
    # By way of another number: duplicated onto itself it would stay close-on-exec in older C libraries.
    others = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in kept]
    try:
        actions += [(os.POSIX_SPAWN_DUP2, other, fd) for other, fd in zip(others, kept, strict=True)]
        return os.posix_spawn(
            argv[0], argv, environment, file_actions=actions, setsid=True, setsigdef=(signal.SIGPIPE, signal.SIGXFSZ)
        )
    finally:
        for fd in others:
            os.close(fd)
