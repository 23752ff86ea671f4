"""The events of an agent's hooks that nobody has handled yet, one file each, in the order in which they came.

The command's script (`bin/gitstate`) writes them, so that an agent does not wait for Python. Their names are numbers
that grow until none is left, with the agent's name behind them. A file without its final line end is still being
written, or its writer was killed.
"""

from __future__ import annotations

import os
import time

from ..git.repository import Repository
from ..system import files
from ..system.child import Child, command
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator

_QUEUE = b"agent-hook.events"
#: A larger event is ignored, in bytes: it may hold the whole output of a tool.
MAX_EVENT = 32 << 20
#: Who writes an event is waited for so long, in seconds.
_WRITING = 1.0
#: A keeper that waits for the queue looks again after this time, in seconds.
_PAUSE = 0.01


def make_queue(repository: Repository) -> None:
    """Let the script leave events here. Raises OSError."""
    files.make_directory(os.path.join(repository.own, _QUEUE), top=repository.git_dir, mode=0o700, durable=False)


def queued_events(repository: Repository) -> Iterator[tuple[str, bytes]]:
    """The agent's name and the text of each event, the oldest first. It is removed when the caller asks for the next.

    Whoever is killed while it handles one leaves it to the next caller.
    """
    queue = os.path.join(repository.own, _QUEUE)
    for number, path in sorted(_numbered(queue)):
        text = _whole(path)
        try:
            if text is not None:
                yield path.rpartition(b"%d." % number)[2].decode("ascii", "replace"), text
        finally:
            with suppress(OSError):
                files.remove(path)


def queued(repository: Repository) -> list[tuple[bytes, int]]:
    """The files in the queue, each with its inode."""
    found = []
    for _, path in sorted(_numbered(os.path.join(repository.own, _QUEUE))):
        with suppress(OSError):
            found.append((path, os.lstat(path).st_ino))
    return found


def forget_events(repository: Repository) -> None:
    """A run begins: the events of a session before it do not count."""
    for path, _ in queued(repository):
        with suppress(OSError):
            files.remove(path)


def start_handling(repository: Repository) -> Child | None:
    """Start a process that handles the events in the queue; None where there is none, or no process can be had."""
    agents = [path.rpartition(b".")[2] for path, _ in queued(repository)]
    agent = next((name for name in agents if name.isalnum()), None)
    if agent is None:
        return None
    start: list[str | bytes] = ["sh", "-c", 'cd -- "$1" && shift && exec "$@"', "sh", repository.toplevel]
    with suppress(OSError):
        return Child([*start, *command(), "hook", agent, "background"], os.environ, quiet=True)
    return None


def is_empty(repository: Repository) -> bool:
    """Whether every event has been handled."""
    return not any(_numbered(os.path.join(repository.own, _QUEUE)))


def wait_until_empty(repository: Repository, seconds: float) -> bool:
    """Wait until every event has been handled; False if some are left after so many seconds."""
    deadline = Deadline(seconds)
    while not is_empty(repository):
        if not deadline.pause(_PAUSE):
            return False
    return True


def _numbered(queue: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        names = os.listdir(queue)
    except OSError:
        return
    for name in names:
        number = name.partition(b".")[0]
        if number.isdigit() and len(number) < 10:
            yield int(number), os.path.join(queue, name)


def _whole(path: bytes) -> bytes | None:
    """The text of an event; None where its writer was killed, or it is too large."""
    deadline = Deadline(_WRITING)
    while True:
        data = files.read_limited(path, MAX_EVENT)
        if data is None or data.endswith(b"\n"):
            return data
        if deadline.passed():
            return None
        with suppress(OSError):
            if time.time() > os.lstat(path).st_mtime + _WRITING:
                return None
        time.sleep(_PAUSE)
