"""Who asks: `gitstate save`, and the hooks of agents.

A keeper listens at `<git dir>/gitstate/keeper.sock`, and each message is one packet. Whoever asks is sure that it talks
to the keeper of this workspace before it says anything: the kernel names the user of the other end, and somebody holds
the lease. A keeper that died leaves a socket that nobody listens at. Whatever fails, the caller does the work itself.

    client → keeper   {"do": "save", "own": […], "words": {…}, "environ": {…}}
                      {"do": "checkpoint", "own": […], "at_once": …, "waits": …}
    keeper → client   {"begun": true}                 the order was taken
                      {"ends": SECONDS}               a save in a hurry has begun: its deadline, by the settings
                      {"early": ID}                   the marker of a save stands; more follows
                      {"lines": […], "json": {…}, "lost": …}   the answer to a save
                      {"done": true}                  the answer to a checkpoint
"""

from __future__ import annotations

import os
import time
from marshal import dumps, loads

from ..system.clock import Deadline
from ..system.process import comes
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.lease import is_held

if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Mapping
    from typing import Any

#: The keeper's socket, in gitstate's own directory of the worktree.
SOCKET = b"keeper.sock"
#: The keeper says within this time that it has taken an order, in seconds.
_PATIENCE = 2.0
#: A save without a deadline is awaited for this long at most: then its process hangs, in seconds.
_LONGEST = 600.0
#: What a save with a deadline may need past it, in seconds, where no disk holds the keeper.
_MARGIN = 2.0
#: A save in a hurry must have begun after so many seconds more: then its deadline is known.
_BEGUN = 4.0
#: A packet of more bytes is none of ours.
LONGEST_PACKET = 4 << 20


class SaveAnswer(Record):
    """What came of an order to save."""

    last: Mapping[str, Any] | None
    """The keeper's last word; None where the caller has to save by itself."""
    early: str | None = None
    """The id of a save of this order that stands all the same: that of the caller replaces it."""
    left: float | None = None
    """What is left of the deadline, in seconds; None where there is none, or the keeper did not tell it."""


def order_save(own: bytes, words: Mapping[str, Any]) -> SaveAnswer:
    """Have the keeper of a worktree save. `own` is gitstate's own directory there.

    `words` are what a command line says, as `SaveRequest` names it. The keeper takes them with this environment.
    """
    deadline = words.get("deadline")
    patience = _PATIENCE if deadline is None else min(_PATIENCE, deadline / 4)
    connection = _connected(own, {"do": "save", "words": dict(words), "environ": dict(os.environb)}, patience)
    if connection is None:
        return SaveAnswer(None)
    early, known = None, deadline
    if deadline is None and words.get("hurries"):
        deadline = _BEGUN
    begun = time.monotonic()
    end = Deadline(_LONGEST if deadline is None else deadline)
    try:
        pid = peer(connection)[0]
        while comes(connection.fileno(), pid, end.left(), _MARGIN):
            message = receive(connection, 0.0)
            if message is None:
                break
            if "lines" in message:
                return SaveAnswer(message, early)
            if "ends" in message:
                known = message["ends"]
                end = Deadline(known)
            early = message.get("early", early)
    finally:
        connection.close()
    return SaveAnswer(None, early, None if known is None else known - (time.monotonic() - begun))


def order_checkpoint(own: bytes, *, at_once: bool, waits: float | None = None) -> bool:
    """Tell the keeper that the agent's hooks want a checkpoint; False where there is no keeper, or it took none.

    `at_once`: now, not when the next one is due. `waits`: return when it is durable, after so many seconds at most.
    """
    connection = _connected(own, {"do": "checkpoint", "at_once": at_once, "waits": waits is not None})
    if connection is None:
        return False
    try:
        answer = {"done": True} if waits is None else receive(connection, waits)
    finally:
        connection.close()
    return answer is not None and bool(answer.get("done"))


def socket_address(own: int) -> str:
    """The address of the socket in the directory `own`, a descriptor: a path may be too long for one (`man 7 unix`)."""
    return f"/proc/self/fd/{own}/{os.fsdecode(SOCKET)}"


def identity(own: bytes | int) -> tuple[int, int]:
    """Which directory it is: of another workspace it is another one, whatever a link or a copy says."""
    info = os.stat(own)
    return info.st_dev, info.st_ino


def peer(connection: socket) -> tuple[int, int | None]:
    """The process at the other end, and its user; 0 and None where it is in a pid namespace that is not ours."""
    from _socket import SO_PEERCRED, SOL_SOCKET

    credentials = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    pid, user = (int.from_bytes(credentials[at : at + 4], "little") for at in (0, 4))
    return pid, user if pid else None


def send(connection: socket, **message: Any) -> bool:
    """Send one packet; False where the other end is gone, or it is too large."""
    try:
        return connection.send(dumps(message)) > 0
    except OSError:
        return False


def receive(connection: socket, seconds: float) -> dict[str, Any] | None:
    """The next packet within so many seconds; None where the other end is gone, or says nothing in this time."""
    try:
        connection.settimeout(max(0.0, seconds))
        message = loads(connection.recv(LONGEST_PACKET))
    except (OSError, EOFError, ValueError, TypeError):
        return None
    return message if isinstance(message, dict) else None


def _connected(own: bytes, order: dict[str, Any], patience: float = _PATIENCE) -> socket | None:
    """A connection to the keeper, which has taken the order; None where there is none."""
    # The module `socket` takes as long to import as Python takes to start.
    try:
        from _socket import AF_UNIX, SO_SNDBUF, SOCK_SEQPACKET, SOL_SOCKET, socket
    except ImportError:
        return None
    with suppress(OSError, AttributeError):
        connection = socket(AF_UNIX, SOCK_SEQPACKET)
        directory = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            connection.settimeout(patience)
            connection.connect(socket_address(directory))
            order["own"] = identity(directory)
            if peer(connection)[1] == os.geteuid() and is_held(own):
                packet = dumps(order)
                connection.setsockopt(SOL_SOCKET, SO_SNDBUF, 2 * len(packet) + 4096)
                connection.send(packet)
                begun = receive(connection, patience)
                if begun is not None and begun.get("begun"):
                    return connection
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(directory)
        connection.close()
    return None
