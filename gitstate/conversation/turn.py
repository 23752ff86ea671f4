"""Whether the agent is in the middle of a turn, as its hooks tell: status 0 is no end of the work while it is."""

from __future__ import annotations

import os

from ..git.repository import Repository
from ..system import files
from ..system.stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from typing import Literal

    Turn = Literal["open", "closed", "failed"]

_FILE = b"turn"


def write_turn(repository: Repository, turn: Turn) -> None:
    """A hook says so. A write that fails is ignored: then the exit status alone decides."""
    path = os.path.join(repository.own, _FILE)
    with suppress(OSError):
        if turn != read_turn(repository, 0.0):
            files.make_directory(repository.own, top=repository.git_dir)
            files.write_atomic(path, turn.encode("ascii"), staging=repository.own, durable=False)


def read_turn(repository: Repository, since: float) -> str | None:
    """What the last hook said since a time, in seconds since the epoch; None where none said anything."""
    path = os.path.join(repository.own, _FILE)
    with suppress(OSError):
        if os.stat(path).st_mtime >= since:
            data = files.read_limited(path, 64)
            return None if data is None else data.decode("ascii", "replace")
    return None


def forget_turn(repository: Repository) -> None:
    """A run begins: what an earlier one said does not count."""
    with suppress(OSError):
        files.remove(os.path.join(repository.own, _FILE))
