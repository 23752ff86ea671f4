"""What an agent destroys between two checkpoints of one workspace: watched and held by the keeper itself.

A file is held as soon as its event is read, so whoever has a window waits for its descriptors too, and calls `serve` at
once. Nothing here takes longer than the events that have come: git is asked in a child.
"""

from __future__ import annotations

import os
import time

from ..errors import GitstateError, words_of
from ..format.names import workspace_id
from ..git.repository import Repository, head_of, read_head
from ..git.status import ignored_among
from ..system import forkpool
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .gone import is_gone, save_gone
from .held import HeldFiles
from .put_back import Destroyed, Last
from .watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import Any

    from ..format.context import Context
    from ..save.request import SaveRequest
    from ..system.child import Child
    from .held import Layer

#: Git is asked about new directories when none came for so long, or after so many seconds.
_QUIET, _LATEST = 0.05, 0.2
#: So many tracked paths, at most so many directories, are taken between two reads of events.
_PATHS_AT_ONCE = 1000
_DONE = object()
#: So many directories are looked into between two reads of events, after some were lost.
_AT_ONCE = 20


class _Look(Record):
    """What is known of the time since the look before."""

    layers: Sequence[Layer] = ()
    """What was destroyed."""
    epoch: int = -1
    """What tells `HeldFiles.release` that a checkpoint has all that."""


class Window:
    """The time since the last checkpoint of a workspace; `context` reads what a checkpoint of it would record.

    `private` are the descriptors of the keeper that no child of it may keep: that of the watch becomes one of them.
    Before `start` nothing is known and nothing is held.
    """

    def __init__(self, repository: Repository, private: list[int], context: Callable[[], Context]) -> None:
        self._repository = repository
        self._private = private
        self._context = context
        self._held: HeldFiles | None = None
        self._watch: Watch | None = None
        #: The workspace as it was when the last checkpoint began.
        self._last: Last | None = None
        self._look = _Look()
        #: The git that lists the tracked paths, at the start, and the end of what it printed, a part of a path.
        self._listing: Child | None = None
        self._cut = b""
        self._adding = _Directories()
        self._judging: forkpool.Child | None = None
        self._judged: list[bytes] = []
        #: When the first, and the last, of the directories came that git is to be asked about.
        self._unjudged_since = self._unjudged_at = 0.0
        self._unjudged = 0

    def start(self, *, is_new: bool = False) -> None:
        """Begin to watch the worktree, and to hold what is written in it. `is_new`: git is about to fill it.

        `serve` goes on with it: until then `is_starting` is true, and nothing is known. Raises GitError, OSError.
        """
        self.note_workspace()
        held = HeldFiles(self._repository.toplevel)
        watch = Watch(self._repository.toplevel, held)
        if is_new:
            watch.add_all()
        elif watch.works:
            self._adding = _Directories(watch)
            # The top is watched even where git lists nothing.
            self._adding.add_now(())
            self._listing = self._repository.git.start("ls-files", "-z")
        self._held, self._watch = held, watch
        if self._watch.works:
            self._private.append(self._watch.fileno())

    @property
    def is_starting(self) -> bool:
        """Whether directories with tracked files are not watched yet."""
        return self._listing is not None

    def close(self) -> None:
        """End what `start` has begun. What is held of destroyed files goes with it."""
        if self._judging is not None:
            self._judging.end(kill=True)
            self._judging = None
        self.end_start()
        if self._watch is not None:
            if self._watch.works:
                with suppress(ValueError):
                    self._private.remove(self._watch.fileno())
            self._watch.close()
        if self._held is not None:
            self._held.close()
        self._watch = self._held = None

    # -- while the agent works

    def watched(self) -> list[int]:
        """What can be read when `serve` has something to do."""
        found = [] if self._watch is None or not self._watch.works else [self._watch.fileno()]
        found += [] if self._listing is None else [self._listing.stdout.fileno()]
        return found if self._judging is None else [*found, self._judging.pipe]

    def pause(self) -> float:
        """How long `serve` need not be called, in seconds, where nothing can be read."""
        if self._watch is None:
            return float("inf")
        if self._watch.has_to_look or self._adding.waits:
            return 0.0
        return float("inf") if self._judging is not None or not self._watch.unjudged else _QUIET

    def serve(self, ready: Collection[object] = ()) -> None:
        """Hold what was written since, and have git asked about new directories; `ready` are those that can be read."""
        if self._watch is None:
            return
        self._watch.drain()
        self._watch.look_again(_AT_ONCE)
        self._adding.step()
        if self._listing is not None and self._listing.stdout.fileno() in ready:
            self._read_listing(self._listing)
        if self._judging is not None and self._judging.pipe in ready:
            self._end_judging(self._watch, self._judging)
        if self._judging is None and self._watch.unjudged:
            self._judge_if_due(self._watch)

    def _read_listing(self, listing: Child) -> None:
        """Watch the directories of the paths that git has printed: no more than a pipe holds."""
        data = os.read(listing.stdout.fileno(), 1 << 16)
        if data:
            paths = (self._cut + data).split(b"\0")
            self._cut = paths.pop()
            self._adding.add_now(paths)
            return
        self._listing = None
        if listing.wait() and self._watch is not None:
            # What git can't list is looked at as a whole each time.
            self._watch.lose()

    def end_start(self) -> None:
        """Wait no longer for what is not watched yet: nothing is known from now on."""
        listing, self._listing = self._listing, None
        if listing is not None:
            listing.end()
            if self._watch is not None:
                self._watch.lose()

    def _judge_if_due(self, watch: Watch) -> None:
        now = time.monotonic()
        if len(watch.unjudged) != self._unjudged:
            self._unjudged_since = self._unjudged_since if self._unjudged else now
            self._unjudged, self._unjudged_at = len(watch.unjudged), now
        if now - self._unjudged_at < _QUIET and now - self._unjudged_since < _LATEST:
            return
        self._judged, watch.unjudged, self._unjudged = watch.unjudged, [], 0
        repository, paths = self._repository, self._judged

        def work(send: Callable[[Any], None]) -> None:
            with suppress(GitstateError, OSError):
                send(ignored_among(repository, paths))

        with suppress(OSError):
            self._judging = forkpool.Child(work)

    def _end_judging(self, watch: Watch, child: forkpool.Child) -> None:
        values, more = child.receive()
        if values or not more:
            child.end(kill=False)
            self._judging = None
        for ignored in values:
            # The outermost first: what is in them goes with them.
            watch.drop(sorted(ignored))

    # -- for a checkpoint

    def note_workspace(self) -> None:
        """Note what will be asked for when the worktree is gone."""
        repository = self._repository
        if not is_gone(repository.toplevel):
            with suppress(GitstateError, OSError):
                head = read_head(repository.git_dir), head_of(repository.toplevel)
                if head[1] is not None and not head[1].strip("0"):
                    # Git is still making it.
                    return
                own = workspace_id(repository)
                self._last = Last(repository.toplevel, repository.common_dir, own, *head, self._context())

    def look(self) -> frozenset[bytes] | None:
        """The paths that changed since the last look; None if that is not known. `destroyed` says what went."""
        if self._watch is None or self._held is None:
            return None
        self._adding.finish()
        touched = self._watch.take()
        self._look = _Look(*self._held.take())
        return None if self.is_starting else touched

    def touched(self) -> frozenset[bytes]:
        """What a look would find, for all that is known."""
        return frozenset() if self._watch is None else self._watch.touched()

    def destroyed(self) -> Destroyed:
        """What was destroyed before the last look and is in no checkpoint: `beside` of a save."""
        return Destroyed(self._look.layers, self._last)

    def release(self, kept: Collection[bytes], missed: Collection[bytes]) -> None:
        """A save or checkpoint has what was there at the last look, but for the paths `kept`, and what was destroyed
        before it, but for the paths `missed`.
        """
        if self._held is not None and self._look.epoch >= 0:
            self._held.release(self._look.epoch, kept, missed)
            self._look = _Look()

    def watch(
        self, tracked: Sequence[bytes], untracked: Sequence[bytes], directories: Iterable[bytes], since_ns: int
    ) -> None:
        """Watch the directories above these paths of a snapshot, and `directories` too; it began at `since_ns`.

        Some may be known only now. So what is untracked counts as changed, and where files may be new nothing is known.
        `serve` does it, or the next look.
        """
        if self._watch is not None:
            self._adding.add_later(self._watch, [(tracked, 0), (untracked, since_ns)], directories, untracked)


class _Directories:
    """The directories above some paths, which are watched step by step: whoever waits for events listens meanwhile."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._watch = watch
        self._known: dict[bytes, None] = {}
        self._later: Iterator[None] = iter(())
        self.waits = False
        """Whether `step` has something to do."""

    def add_now(self, paths: Iterable[bytes]) -> None:
        """Watch the directories above these paths, but for those that this did before."""
        assert self._watch is not None
        self._watch.add(directories_above(paths, self._known))

    def add_later(
        self,
        watch: Watch,
        portions: Sequence[tuple[Sequence[bytes], int]],
        directories: Iterable[bytes],
        touched: Iterable[bytes],
    ) -> None:
        """Have `step` watch the directories above paths, each portion with the time since which nothing of a directory
        that was not watched is known, and `directories`; then what is `touched` counts as changed.
        """
        self.finish()
        self._watch, self._known, self.waits = watch, {}, True

        def steps() -> Iterator[None]:
            since = 0
            for paths, since in portions:
                for first in range(0, len(paths), _PATHS_AT_ONCE):
                    watch.add_since(directories_above(paths[first : first + _PATHS_AT_ONCE], self._known), since)
                    yield
            watch.add_since(directories, since)
            watch.touch(touched)

        self._later = steps()

    def step(self) -> None:
        """Watch some more of them."""
        if self.waits:
            self.waits = next(self._later, _DONE) is not _DONE

    def finish(self) -> None:
        """Watch the rest."""
        while self.waits:
            self.step()


class Rescued(str):
    """Why a save of a worktree failed: it is gone, and what was destroyed with it is kept."""


def with_rescue(problem: str, path: bytes, request: SaveRequest) -> str:
    """Why a save of the worktree at `path` failed. Where it is gone, what was destroyed with it is kept, and named."""
    destroyed = request.beside
    if not isinstance(destroyed, Destroyed) or destroyed.last is None or not is_gone(path):
        return problem
    try:
        kept = save_gone(destroyed.last, destroyed, request)
    except (GitstateError, OSError) as error:
        return f"{problem}; what was in it could not be kept: {words_of(error)}"
    return Rescued(f"{problem}; {kept}" if kept is not None else problem)


def directories_above(paths: Iterable[bytes], known: dict[bytes, None] | None = None) -> list[bytes]:
    """Every directory above these paths, the top (the empty one) first, that is not `known`; from then on they are."""
    known = {} if known is None else known
    found = [] if b"" in known else [b""]
    known[b""] = None
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            if path in known:
                break
            known[path] = None
            found.append(path)
    return found
