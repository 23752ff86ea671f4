"""The checkpoints of one run: when one is due, what changed since the last one, and what went wrong."""

from __future__ import annotations

import os
import time

from ..errors import GitstateError
from ..git.gitdir import operation_under_way
from ..git.index import file_identity
from ..git.repository import Repository
from ..git.status import ignored_among
from ..save.request import SaveRequest, SaveResult
from ..save.save import save
from ..snapshot.incremental import Baseline
from ..snapshot.record import Snapshot
from ..system.clock import now
from ..workspace.live_context import read_live_context
from ..workspace.state_file import context_path, state_name
from .watch import Watch

#: Checkpoints never make the object store grow faster than this, in bytes a second.
_GROWTH = 64 << 10
#: Nor do they take more than this part of a core.
_SHARE = 0.05
#: Events are collected for this long before they are read, in seconds.
_GATHER = 0.2
#: A checkpoint waits this long for another gitstate in the workspace, in seconds.
_WAIT = 1.0
#: One that failed is tried again after this time, in seconds, where the next one is due later than that.
_RETRY = 2.0


class Checkpoints:
    """Takes checkpoints of one workspace, at least `interval` seconds apart. `start` begins to watch its files."""

    def __init__(self, repository: Repository, interval: float) -> None:
        self._repository = repository
        self._interval = interval
        self._state_file = state_name(repository)
        self._watch: Watch | None = None
        self._known: Baseline | None = None
        self._unwatched: tuple[object, ...] = ()
        self._next = 0.0
        self._failing_since: str | None = None
        self.problem: str | None = None
        """Why the last checkpoint failed, and since when they do; None if it did not."""

    def start(self) -> None:
        """Watch the directories that hold tracked files. Raises GitError, OSError."""
        repository = self._repository
        self._watch = Watch(repository.toplevel, lambda paths: ignored_among(repository, paths))
        self._watch.add(directories_above(repository.git.run("ls-files", "-z").split(b"\0")[:-1]))

    def pause(self) -> float:
        """How long to wait for something else, in seconds: the queue of file events must not overflow meanwhile."""
        return max(0.01, min(_GATHER, self._next - time.monotonic()))

    def drain(self) -> None:
        """Read the file events that have come."""
        if self._watch is not None and self._watch.works:
            self._watch.drain()

    def take_if_due(self) -> None:
        if time.monotonic() >= self._next:
            self.take()

    def take(self) -> None:
        """Take a checkpoint, if anything may have changed. What it costs decides when the next one is due."""
        begun, used = time.monotonic(), _cpu_seconds()
        known, unwatched = self.known(), _unwatched_files(self._repository)
        self._next = begun + self._interval
        if known is not None and not known.touched and unwatched == self._unwatched:
            return
        result = try_save(self._repository.toplevel, SaveRequest(kind="checkpoint", known=known, wait=_WAIT))
        self._note_problem(result if isinstance(result, str) else None)
        if self.problem is not None:
            self._next = min(self._next, begun + _RETRY)
        # Not the time that passed: another gitstate at work or a slow disk would put off the next one by minutes.
        self._next = max(self._next, begun + (_cpu_seconds() - used) / _SHARE)
        if isinstance(result, str) or result.taken is None or result.archive is None:
            return
        self._next = max(self._next, begun + result.written / _GROWTH)
        self._unwatched = unwatched
        whole = known is None or result.taken.scan is not known.snapshot.scan
        self._known = Baseline(result.taken, result.archive, frozenset())
        if whole:
            self._watch_untracked(result.taken)

    def _note_problem(self, why: str | None) -> None:
        self._failing_since = None if why is None else self._failing_since or now()
        self.problem = None if why is None else f"{why} (since {self._failing_since})"

    def known(self) -> Baseline | None:
        """The last checkpoint and what changed since; None if that is not known."""
        if self._known is None or self._watch is None:
            return None
        touched = self._watch.take()
        if touched is None:
            self._known = None
            return None
        self._known = self._known._replace(touched=self._known.touched | (touched - {self._state_file}))
        return self._known

    def _watch_untracked(self, taken: Snapshot) -> None:
        """Watch the directories without a tracked file, which are known only now. Their files count as changed: they
        may have changed before the watch began.
        """
        assert self._watch is not None and taken.scan is not None
        tracked = taken.scan.tracked
        new = [path for path, leaf in taken.worktree.items() if leaf is not None and path not in tracked.paths]
        self._watch.add([*directories_above([*tracked.order, *new]), *taken.directories])
        self._watch.touch(new)


def _cpu_seconds() -> float:
    """What this process and the gits that it waited for have used."""
    return sum(os.times()[:4])


def try_save(path: bytes, request: SaveRequest) -> SaveResult | str:
    """Save the workspace at `path`; the message of the error where that fails."""
    try:
        return save(path, request)
    except GitstateError as error:
        return error.message
    except OSError as error:
        return f"{error.strerror or error}"


def _unwatched_files(repository: Repository) -> tuple[object, ...]:
    """The identity of what is not watched: HEAD, the index, an operation under way and the context."""
    places = [
        *(os.path.join(repository.git_dir, name) for name in (b"HEAD", b"index", b"logs/HEAD")),
        context_path(repository),
        *_transcript(repository),
    ]
    return (*(file_identity(place) for place in places), operation_under_way(repository.git_dir))


def _transcript(repository: Repository) -> list[bytes]:
    """The transcript of the agent, which its hook named."""
    path = read_live_context(repository)[0].extra.get("transcript_path")
    return [os.fsencode(path)] if isinstance(path, str) and "\0" not in path else []


def directories_above(paths: list[bytes]) -> list[bytes]:
    """Every directory above these paths, the top (the empty one) first."""
    found: dict[bytes, None] = {b"": None}
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            if path in found:
                break
            found[path] = None
    return list(found)
