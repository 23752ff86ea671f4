"""What an agent destroys between two checkpoints of one workspace: the holder, and what it said, for the keeper."""

from __future__ import annotations

import time

from ..errors import GitstateError, words_of
from ..format.names import workspace_id
from ..git.repository import Repository, head_of, read_head
from ..system.stdlib import TYPE_CHECKING, suppress
from .gone import is_gone, save_gone
from .holder import NOTHING_KNOWN, Holder
from .put_back import Destroyed, Last

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ..format.context import Context
    from ..save.request import SaveRequest
    from .held import Layer


class Window:
    """The time since the last checkpoint of a workspace; `context` reads what a checkpoint of it would record.

    `private` are the descriptors of the keeper that no child of it may keep: that of the holder becomes one of them.
    Before `start` nothing is known and nothing is held.
    """

    def __init__(self, repository: Repository, private: list[int], context: Callable[[], Context]) -> None:
        self._repository = repository
        self._private = private
        self._context = context
        self._holder: Holder | None = None
        #: The workspace as it was when the last checkpoint began.
        self._last: Last | None = None
        #: What the holder said then.
        self._taken = NOTHING_KNOWN

    def start(self, orphaned: Callable[[Sequence[Layer]], None]) -> None:
        """Watch the worktree, and hold what is written in it. Raises GitError, OSError.

        The holder calls `orphaned` with what was destroyed when this process is killed.
        """
        repository, began = self._repository, time.time_ns()
        self.note_workspace()
        tracked = repository.git.run("ls-files", "-z").split(b"\0")[:-1]
        self._holder = Holder(repository, directories_above(tracked), began, orphaned)
        self._private.append(self._holder.fileno())

    def close(self) -> None:
        """End what `start` has begun. What is held of destroyed files goes with it."""
        holder, self._holder = self._holder, None
        if holder is not None:
            with suppress(ValueError):
                self._private.remove(holder.fileno())
            holder.close()

    def note_workspace(self) -> None:
        """Note what will be asked for when the worktree is gone."""
        repository = self._repository
        if not is_gone(repository.toplevel):
            with suppress(GitstateError, OSError):
                head = read_head(repository.git_dir), head_of(repository.toplevel)
                own = workspace_id(repository)
                self._last = Last(repository.toplevel, repository.common_dir, own, *head, self._context())

    def look(self) -> frozenset[bytes] | None:
        """The paths that changed since the last look; None if that is not known. `destroyed` says what went."""
        self._taken = NOTHING_KNOWN if self._holder is None else self._holder.take()
        return self._taken.touched

    def destroyed(self) -> Destroyed:
        """What was destroyed before the last look and is in no checkpoint: `beside` of a save."""
        return Destroyed(self._taken.layers, self._last)

    def release(self, kept: Collection[bytes]) -> None:
        """A save or checkpoint has what was destroyed before the last look, but for the paths `kept`."""
        if self._holder is not None:
            self._holder.release(self._taken.epoch, kept)
            self._taken = NOTHING_KNOWN

    def watch(self, directories: Iterable[bytes], touched: Iterable[bytes]) -> None:
        """Watch these directories too, and count these paths as changed."""
        if self._holder is not None:
            self._holder.watch(directories, touched)


def with_rescue(problem: str, path: bytes, request: SaveRequest) -> str:
    """Why a save of the worktree at `path` failed. Where it is gone, what was destroyed with it is kept, and named."""
    destroyed = request.beside
    if not isinstance(destroyed, Destroyed) or destroyed.last is None or not is_gone(path):
        return problem
    try:
        kept = save_gone(destroyed.last, destroyed, request)
    except (GitstateError, OSError) as error:
        return f"{problem}; what was in it could not be kept: {words_of(error)}"
    return f"{problem}; {kept}" if kept is not None else problem


def directories_above(paths: Iterable[bytes]) -> list[bytes]:
    """Every directory above these paths, the top (the empty one) first."""
    found: dict[bytes, None] = {b"": None}
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            if path in found:
                break
            found[path] = None
    return list(found)
