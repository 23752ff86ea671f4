"""Where the workspace of a run is now: somebody may move or rename its directory while the agent works."""

from __future__ import annotations

import os

from ..system.clock import Deadline
from ..system.stdlib import suppress

#: A path that is missing for a moment may get another directory: `mv shop old && mv copy shop`. In seconds.
_SETTLES = 1.0


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
            self._settled, target = None, self._first
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
