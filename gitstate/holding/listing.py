"""When git adds or removes a linked worktree, as the kernel tells it: what is written there is held from the start."""

from __future__ import annotations

import os

from ..system.stdlib import suppress
from .watch import ADDED_OR_REMOVED, Inotify


class WorktreeListing:
    """Watches `worktrees` in the git directory that all worktrees share, and that directory itself without it."""

    def __init__(self, common_dir: bytes) -> None:
        self._common_dir = common_dir
        self._around: int | None = None
        self._inotify: Inotify | None = None
        with suppress(ImportError, OSError, AttributeError):
            self._inotify = Inotify()
        self._begin()

    def watched(self) -> list[int]:
        """What can be read when `has_changed` has something to say."""
        return [] if self._inotify is None else [self._inotify.fileno()]

    def has_changed(self) -> bool:
        """Whether something was added or removed since the last call."""
        if self._inotify is None or not any(True for _ in list(self._inotify.read())):
            return False
        self._begin()
        return True

    def close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _begin(self) -> None:
        if self._inotify is None:
            return
        around, self._around = self._around, None
        try:
            self._inotify.add(os.path.join(self._common_dir, b"worktrees"), ADDED_OR_REMOVED)
        except OSError:
            # Git makes it for the first one, and removes it with the last.
            with suppress(OSError):
                self._around = self._inotify.add(self._common_dir, ADDED_OR_REMOVED)
        if around is not None and self._around is None:
            with suppress(OSError):
                self._inotify.remove(around)
