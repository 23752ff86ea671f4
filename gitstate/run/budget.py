"""What the checkpoints of one run may add to the object store: large files are taken less often than small ones."""

from __future__ import annotations

import time

from ..snapshot.record import Growth
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from ..git.command import Oid
    from ..save.request import SaveResult
    from ..snapshot.record import HeldFile, Snapshot

#: No large file, nor all of them together, makes the object store grow faster than this, in bytes a second.
_GROWTH = 64 << 10
#: But for so many bytes, which a run may need at once.
_BURST = 256 << 20


class Budget:
    """What the checkpoints of one run may add to the object store: each large file by itself, and all together.

    It knows only of files that the last checkpoint has or was refused: an agent makes and removes some for weeks.
    """

    def __init__(self) -> None:
        self._credit = float(_BURST)
        self._credited = time.monotonic()
        #: Path → when a file may be taken again.
        self._again: dict[bytes, float] = {}
        #: Path → bytes, of the files whose last change is in no checkpoint.
        self.refused: dict[bytes, int] = {}
        self._held: dict[bytes, HeldFile] = {}

    def due(self) -> frozenset[bytes]:
        """Files that were refused and may be taken now."""
        at = time.monotonic()
        return frozenset(path for path in self.refused if self._again.get(path, 0.0) <= at)

    def growth(self, archive: Oid | None, due: frozenset[bytes]) -> Growth:
        """What the next checkpoint may add; `archive` is that of the last one. It looks at the files that are `due`."""
        at = time.monotonic()
        self._credit = min(_BURST, self._credit + (at - self._credited) * _GROWTH)
        self._credited = at
        self._again = {path: when for path, when in self._again.items() if when > at or path in self.refused}
        waiting = {path for path, when in self._again.items() if when > at or path in self.refused} - due
        left = max([self._credit, *(self.refused[path] for path in due)])
        return Growth(int(left), waiting, self._held, archive)

    def spend(self, growth: Growth, result: SaveResult, taken: Snapshot) -> None:
        """A checkpoint was taken."""
        at = time.monotonic()
        for path, file in growth.taken.items():
            size = file.identity[0]
            self._credit = max(0.0, self._credit - size)
            self._again[path] = at + size / _GROWTH
        for path, size in growth.refused.items():
            self._again.setdefault(path, at + max(0.0, size - self._credit) / _GROWTH)
        # What it looked at and neither took nor refused is gone, or as the last one has it.
        unseen = growth.waiting | {item.path for item in result.left_out}
        self.refused = {path: size for path, size in self.refused.items() if path in unseen - growth.taken.keys()}
        self.refused.update(growth.refused)
        self._held = {path: file for path, file in self._held.items() if path in taken.worktree} | growth.taken
