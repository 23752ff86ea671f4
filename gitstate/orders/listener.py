"""The keeper's side: it takes orders, one save at a time, and no checkpoint begins beside a save that was ordered."""

from __future__ import annotations

# `socket` itself loads `selectors` and `enum`, which a keeper would hold for as long as its agent works.
import _socket
import os
import select

from ..git.repository import Repository
from ..system import files, forkpool
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .announced import CALL_FILES, Announcement, Call, await_order, forget, hand_over, hear, open_call, wake_script
from .client import SOCKET, identity, peer, receive, send, socket_address
from .saving import Announced, carry_out, carry_out_announced

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any, Protocol

    from ..snapshot.incremental import Baseline
else:
    Protocol = object

#: So many clients are listened to at once; others wait in the kernel.
_MOST = 64


class TakesCheckpoints(Protocol):
    """What the keeper's checkpoints do for whoever asks."""

    looks: int
    """How many times they have looked whether anything changed."""
    problem: str | None

    def known(self) -> Baseline | None: ...

    def begin(self) -> None: ...

    def break_off(self) -> None: ...

    def hasten(self) -> None: ...

    def is_running(self) -> bool: ...


class _Awaited(Record):
    """A checkpoint that somebody waits for: it is durable when that many looks were taken, and none is under way."""

    connection: _socket.socket
    looks: int


class _Begun(Record):
    """A save that was announced, and begun; `link` leads to the child that takes it."""

    announcement: Announcement
    link: _socket.socket


class Orders:
    """Listens for the orders of others while a run goes on.

    `private` are the descriptors of the keeper that no child of it may keep; those that wake it become some of them.
    Without a socket (on another system than Linux, on a full disk) everybody saves by himself.
    """

    def __init__(self, repository: Repository, checkpoints: TakesCheckpoints, private: list[int]) -> None:
        self._repository = repository
        self._checkpoints = checkpoints
        self._private = private
        self._arrived: list[_socket.socket] = []
        self._saves: list[tuple[_socket.socket, dict[str, Any]]] = []
        self._awaited: list[_Awaited] = []
        #: Files to remove, of what was closed.
        self._names: list[bytes] = []
        self._child: forkpool.Child | None = None
        self._begun: _Begun | None = None
        self._call: Call | None = None
        self._listening = _listen(repository)
        if self._listening is not None:
            private.append(self._listening.fileno())
            self._call = open_call(repository)
        if self._call is not None:
            private += self._call

    @property
    def saving(self) -> bool:
        """Whether a save that was ordered is under way: it holds the workspace."""
        return self._child is not None

    def watched(self) -> list[_socket.socket | int]:
        """What can be read when there is something to do."""
        found: list[_socket.socket | int] = [*self._arrived]
        if self._listening is not None and len(self._arrived) < _MOST:
            found.append(self._listening)
        if self._call is not None:
            found.append(self._call.heard)
        return found if self._child is None else [*found, self._child.pipe]

    def serve(self, ready: Collection[object]) -> None:
        """Take the orders that have come, begin the next save, and answer those whose checkpoint was taken."""
        if self._child is not None and self._child.pipe in ready:
            self._child.end(kill=False)
            self._child = None
            if self._begun is not None and self._call is not None:
                # It was killed, and its script may wait.
                wake_script(self._call.answer)
            self._end_link()
            # The save has moved what the last checkpoint stands on: the next one looks at everything.
            self._checkpoints.hasten()
        if self._call is not None and self._call.heard in ready:
            self._hear(self._call)
        if self._listening in ready:
            self._accept()
        for connection in [one for one in self._arrived if one in ready]:
            self._arrived.remove(connection)
            self._take(connection)
        while self._saves and self._child is None:
            self._save(*self._saves.pop(0))
        for one in self._awaited[:]:
            if self._checkpoints.looks >= one.looks and not self._checkpoints.is_running():
                self._awaited.remove(one)
                send(one.connection, done=self._checkpoints.problem is None)
                one.connection.close()

    def close(self) -> None:
        """The run ends. Who waits reads no answer, and saves by himself where the last save does not hold it all.

        No file is touched: a disk might hold this process. `remove` does that.
        """
        if self._listening is not None:
            self._private.remove(self._listening.fileno())
            self._listening.close()
            self._listening = None
            self._names.append(SOCKET)
        if self._call is not None:
            for fd in self._call:
                self._private.remove(fd)
            self._call.close()
            self._call = None
            self._names += CALL_FILES
        child, self._child = self._child, None
        if child is not None:
            child.end(kill=True)
        self._end_link()
        for connection in self._connections():
            connection.close()
        self._arrived, self._saves, self._awaited = [], [], []

    def remove(self) -> None:
        """Remove the files of what was closed."""
        while self._names:
            with suppress(OSError):
                files.remove(os.path.join(self._repository.own, self._names.pop()))

    def _connections(self) -> list[_socket.socket]:
        return [*self._arrived, *(one for one, _ in self._saves), *(one.connection for one in self._awaited)]

    def _hear(self, call: Call) -> None:
        """Begin the save that was announced, if none is under way: its client gives the order in any case."""
        call.read()
        announcement = hear(self._repository)
        if announcement is not None and self._child is None and not self._saves:
            call.begin()
            self._begin(announcement, call)
        if self._begun is None or self._begun.announcement is not announcement:
            wake_script(call.answer)

    def _end_link(self) -> None:
        if self._begun is not None:
            self._begun.link.close()
            self._begun = None

    def _accept(self) -> None:
        assert self._listening is not None
        with suppress(OSError):
            connection = _accepted(self._listening)
            if peer(connection)[1] == os.geteuid():
                self._arrived.append(connection)
            else:
                connection.close()

    def _take(self, connection: _socket.socket) -> None:
        """Read an order, and say that it was taken. Who has lost patience has gone, and does it by himself."""
        message = receive(connection, 0.0)
        what = None if message is None or not self._is_here(message) else message.get("do")
        if message is None or what not in ("save", "checkpoint") or not send(connection, begun=True):
            connection.close()
        elif what == "save":
            if self._is_begun(connection, message):
                connection.close()
            else:
                self._saves.append((connection, message))
                # A client that announced a save, and has not ordered it, may be stopped: no longer wait for it.
                self._end_link()
            # As long as the file of a script that died before it woke the keeper is there, no other can announce.
            forget(self._repository)
        else:
            looks = self._checkpoints.looks + 1
            if message.get("at_once") and self.saving:
                self._checkpoints.hasten()
            elif message.get("at_once"):
                self._checkpoints.begin()
            if message.get("waits"):
                self._awaited.append(_Awaited(connection, looks))
            else:
                connection.close()

    def _is_here(self, message: dict[str, Any]) -> bool:
        """Whether the client means this workspace, and it is where it was."""
        try:
            return tuple(message["own"]) == identity(self._repository.own)
        except (OSError, TypeError, KeyError):
            return False

    def _is_begun(self, connection: _socket.socket, order: dict[str, Any]) -> bool:
        """Whether the save that a client orders was begun when it was announced: its child goes on with the order."""
        begun = self._begun
        if begun is None or peer(connection)[0] != begun.announcement.client.pid:
            return False
        handed = hand_over(begun.link, connection, order)
        self._end_link()
        return handed

    def _save(self, connection: _socket.socket, order: dict[str, Any]) -> None:
        """Begin a save in a child, which answers."""
        if not _has_gone(connection):
            self._fork(lambda known: carry_out(connection, order, self._repository, known))
        connection.close()

    def _begin(self, announcement: Announcement, call: Call) -> None:
        """Begin a save in a child, which waits for the order itself when all is saved."""
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            answer = os.dup(call.answer)
        except OSError:
            return

        def work(known: Baseline | None) -> None:
            ours.close()
            client = Announced(lambda: wake(answer), lambda: await_order(theirs, announcement.client))
            carry_out_announced(client, announcement.order, self._repository, known)

        def wake(fd: int) -> None:
            wake_script(fd)
            os.close(fd)

        self._begun = _Begun(announcement, ours)
        self._fork(work)
        theirs.close()
        os.close(answer)
        if self._child is None:
            self._end_link()

    def _fork(self, save: Callable[[Baseline | None], None]) -> None:
        """Have a child save. A checkpoint under way is broken off: the save holds more."""
        self._checkpoints.break_off()
        # Who waits for the checkpoint that was broken off waits for the next one.
        again = self._checkpoints.looks + 1
        self._awaited = [one._replace(looks=again) for one in self._awaited]
        known = self._checkpoints.known()

        def work(_: object) -> None:
            for fd in self._private:
                os.close(fd)
            for other in self._connections():
                other.close()
            save(known)

        with suppress(OSError):
            self._child = forkpool.Child(work)


def _listen(repository: Repository) -> _socket.socket | None:
    """The socket at which the keeper listens, in the place of one that a dead keeper left; None where none can be."""
    listening = None
    directory = -1
    try:
        directory = os.open(repository.own, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        path = os.path.join(repository.own, SOCKET)
        files.remove(path)
        listening = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        listening.bind(socket_address(directory))
        os.chmod(path, 0o600)
        files.give_to(path, os.stat(directory))
        listening.listen(_MOST)
        listening.setblocking(False)
        return listening
    except (OSError, AttributeError):
        if listening is not None:
            listening.close()
        return None
    finally:
        if directory >= 0:
            os.close(directory)


def _accepted(listening: Any) -> _socket.socket:
    """The next client: `socket.accept` is made of this."""
    fd, _ = listening._accept()
    return _socket.socket(fileno=fd)


def _has_gone(connection: _socket.socket) -> bool:
    """Whether the other end was closed."""
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))
