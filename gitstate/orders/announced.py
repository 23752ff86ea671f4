"""A save that its command announces before its Python starts: the keeper begins at once, the marker comes sooner.

`bin/gitstate` writes the line of its process in /proc into the file `keeper.called`, which no other may have made, and
a byte into the FIFO `keeper.call`. The keeper removes the file, reads what the process has in its environment, and its
child saves what is known to have changed. The script waits for a byte from the FIFO `keeper.answer` meanwhile: a Python
that starts takes the processor from that save. When the marker stands, or no child saves, the byte comes, and Python
starts in that same process and gives the order itself. The keeper hands it over to the child, which has looked at
everything then. An announcement that nobody hears changes nothing: the script waits a second at most.
"""

from __future__ import annotations

import _socket
import os
import stat
import sys
import time
from marshal import dumps, loads

from ..format.context import exported_values
from ..git.repository import Repository
from ..system import files, process
from ..system.process import Process
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .client import LONGEST_PACKET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_FIFO, _ANSWER, _CALLED = CALL_FILES = b"keeper.call", b"keeper.answer", b"keeper.called"
#: No line in /proc of a process, and no environment, is longer, in bytes.
_LONGEST_LINE, _LONGEST_ENVIRONMENT = 4096, LONGEST_PACKET // 2
#: A process that is just replacing its program has no environment for a moment: so often one is looked for, after so
#: many seconds each.
_LOOKS, _PAUSE = 5, 0.001
#: A client that announced a save and lives gives its order within this time, in seconds; so often it is looked at.
_PATIENCE, _LOOK_AGAIN = 10.0, 0.2
#: The size of a descriptor in a message.
_DESCRIPTOR = 4


class Announcement(Record):
    """What the keeper knows of the client that announced a save."""

    client: Process
    order: Mapping[str, Any]
    """As the client would give it: the environment, and what it means without an option."""


class Call(Record):
    """Two FIFOs: the script wakes the keeper through one, and is woken through the other."""

    heard: int
    answer: int

    def read(self) -> None:
        """Read what has come, so that it wakes the keeper once."""
        _read_all(self.heard)

    def begin(self) -> None:
        """Nobody waits now: forget the answer to a script that was killed."""
        _read_all(self.answer)

    def close(self) -> None:
        for fd in self:
            os.close(fd)


def open_call(repository: Repository) -> Call | None:
    """Make the FIFOs, in the place of those that a dead keeper left; None where none can be had.

    They belong to the keeper's own user: nobody else announces anything, or is answered.
    """
    opened: list[int] = []
    try:
        for name in CALL_FILES:
            files.remove(os.path.join(repository.own, name))
        for name in (_FIFO, _ANSWER):
            path = os.path.join(repository.own, name)
            os.mkfifo(path, 0o600)
            # With a writer of its own it is at its end only when the keeper is gone.
            opened.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
            info = os.fstat(opened[-1])
            if not stat.S_ISFIFO(info.st_mode) or info.st_uid != os.geteuid():
                raise FileExistsError
        return Call(*opened)
    except OSError:
        for fd in opened:
            os.close(fd)
    return None


def wake_script(answer: int) -> None:
    """Let a script that waits start Python; `answer` is the FIFO of a call."""
    # It is full only where nobody reads from it.
    with suppress(OSError):
        os.write(answer, b"\n")


def _read_all(fd: int) -> None:
    with suppress(OSError):
        os.read(fd, _LONGEST_LINE)


def forget(repository: Repository) -> None:
    """Forget what was announced and not heard, so that the next one can be."""
    with suppress(OSError):
        files.remove(os.path.join(repository.own, _CALLED))


def hear(repository: Repository) -> Announcement | None:
    """What has been announced; None where nothing was, or not by a living process of this user that we see."""
    line = files.read_limited(os.path.join(repository.own, _CALLED), _LONGEST_LINE)
    client = None if line is None else _process_of(line)
    environ = None if client is None else _environment_of(client)
    forget(repository)
    if client is None or environ is None:
        return None
    values = exported_values({os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()})
    return Announcement(client, {"words": {"values": values, "strict": True}, "environ": environ})


def _process_of(line: bytes) -> Process | None:
    """The process that a line of `/proc/PID/stat` tells of; None where we see none that began at that time.

    In another pid namespace the same number is another process.
    """
    try:
        found = Process(int(line.split(b" ", 1)[0]), line.rpartition(b")")[2].split()[19].decode("ascii"))
    except (ValueError, IndexError):
        return None
    return found if process.process_start(found.pid) == found.start else None


def _environment_of(client: Process) -> dict[bytes, bytes] | None:
    """The environment of a process of this user; None for any other."""
    with suppress(OSError):
        for _ in range(_LOOKS):
            if process.user_of(client) != os.geteuid():
                return None
            with open(f"/proc/{client.pid}/environ", "rb", buffering=0) as file:
                data = _whole(file.fileno())
            if data and process.process_start(client.pid) == client.start:
                pairs = (pair.partition(b"=") for pair in data.split(b"\0"))
                return {name: value for name, equals, value in pairs if name and equals}
            time.sleep(_PAUSE)
    return None


def _whole(fd: int) -> bytes:
    """What can be read; nothing where that is too much."""
    parts = []
    left = _LONGEST_ENVIRONMENT
    while left > 0 and (part := os.read(fd, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts) if left > 0 else b""


def hand_over(link: _socket.socket, connection: _socket.socket, order: dict[str, Any]) -> bool:
    """Give the order that a client has sent, and the connection to it, to the child at the other end of `link`."""
    packet = dumps(order)
    try:
        link.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 2 * len(packet) + 4096)
        descriptor = connection.fileno().to_bytes(_DESCRIPTOR, sys.byteorder)
        return link.sendmsg([packet], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor)]) == len(packet)
    except OSError:
        return False


def await_order(link: _socket.socket, client: Process) -> tuple[_socket.socket, dict[str, Any]] | None:
    """The connection and the order that the keeper hands over; None where the client is gone, or gives none."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        link.settimeout(_LOOK_AGAIN)
        try:
            packet, rights, _, _ = link.recvmsg(LONGEST_PACKET, _socket.CMSG_SPACE(_DESCRIPTOR))
        except TimeoutError:
            if process.process_start(client.pid) != client.start:
                return None
            continue
        except OSError:
            return None
        if not packet or not rights:
            return None
        fd = int.from_bytes(rights[0][2][:_DESCRIPTOR], sys.byteorder)
        os.set_inheritable(fd, False)
        return _socket.socket(fileno=fd), loads(packet)
    return None
