"""A fleet at a glance: one row for each workspace, worst first, and who looks again and again at a small cost.

A row is made from files alone where that is possible. Whoever watches looks again only where a directory that gitstate
or git writes to has changed, at what is active, and at the rest now and then; all of it within a share of one core.
"""

from __future__ import annotations

import os
import time

from ..errors import GitstateError, words_of
from ..format.names import (
    CHECKPOINTS,
    ID_FILE,
    PENDING,
    UNFINISHED,
    age_key,
    history_ref,
    is_of_future,
    save_ref,
    save_time_ns,
)
from ..git import refs
from ..git.opening import open_repository
from ..system import forkpool
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace import registry
from ..workspace.lease import read_holder
from ..workspace.peek import Peeker, WorkspacePeek
from .find import CORES, PEEK_DEADLINE, trusted_directories
from .status import AT_REST, failures, summarize, summarize_peek

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

#: The states of a row, worst first: those of `gitstate status`, and `failing`, an active one whose checkpoints fail.
STATES = (
    *("damaged", "unreadable", "failing", "crashed", "interrupted", "unreachable", "foreign"),
    # Directories that are gone stay on the list until somebody removes them: they must not hide who works.
    *("active", "missing", "no_repository", "recovered", "idle", "finished"),
)
_PLACES = {state: place for place, state in enumerate(STATES)}
#: States in which a process may end, or fail, without a change of the directories that are looked at.
_LIVELY = ("active", "failing")
#: The share of one core that the looks may take; the list of workspaces takes half of it at most.
SHARE = 0.1
#: Where no directory tells of a change, a workspace is looked at again after this time, in seconds.
AGAIN = 60.0
#: The list of workspaces is read again after this time, in seconds, although it did not change.
_LIST_AGAIN = 5.0
#: Seconds for a look at one workspace that was looked at before: whoever watches waits for it.
_PATIENCE = 3.0
#: A directory that changed so short a time ago may change once more at the same time of its file system, in ns.
_RACY_NS = 2_500_000_000


class Row(Record):
    """One workspace."""

    workspace: bytes
    state: str
    """One of STATES."""
    agent: str | None = None
    task: str | None = None
    stage: str | None = None
    copied_ns: int | None = None
    """When the newest save or checkpoint was made, in nanoseconds since the epoch; None where there is none."""
    is_pending: bool = False
    """A save is pending."""


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """The rows by their states, in each the one first whose newest copy is the oldest, or that has none.

    A workspace that was named in two ways has one row.
    """
    by_path = {row.workspace: row for row in rows}
    return sorted(by_path.values(), key=lambda row: (_PLACES[row.state], row.copied_ns or 0, row.workspace))


def read_rows(paths: Sequence[bytes], looked_at: Callable[[int], None] = lambda _: None) -> list[Row]:
    """A row for each path, in their order; `looked_at` as for `peek_all`."""
    peeker = Peeker(trusted_directories)

    def look(path: bytes) -> Row:
        return row_of(peeker.peek(path))

    answers = forkpool.stream(paths, look, patience=PEEK_DEADLINE, lanes=CORES, done=looked_at)
    return [
        Row(path, "unreachable") if answer is forkpool.LOST else answer
        for path, answer in zip(paths, answers, strict=True)
    ]


def row_of(seen: WorkspacePeek, known: Row | None = None) -> Row:
    """The row of a workspace that was looked at.

    Git is asked only where refs are in a reftable, where they were packed, or where the context of a pending save is
    not on record. `known` is the row of an earlier look, where no ref has changed since.
    """
    is_orphan = bool(seen.marker or seen.unfinished) and seen.status is None
    is_opened = (seen.unreadable or is_orphan) and not seen.damage
    summary = summarize(seen.workspace) if is_opened else summarize_peek(seen)
    state = summary.status or "idle"
    is_pending = summary.waiting is not None or bool(seen.marker)
    if (is_pending and not seen.damage and state != "unreadable") or (seen.unfinished and state in AT_REST):
        state = "interrupted"
    elif state == "active" and failures(seen.git_dir):
        state = "failing"
    agent = summary.context.agent
    if agent is None and seen.git_dir and state in (*_LIVELY, "crashed", "interrupted"):
        holder = read_holder(os.path.join(seen.git_dir, b"gitstate"))
        agent = None if holder is None else holder.agent
    copied = newest_copy(seen) if known is None else known.copied_ns
    context = summary.context
    state = state if state in _PLACES else "unreadable"
    return Row(seen.workspace, state, agent, context.task_id, context.progress_stage, copied, is_pending)


def newest_copy(seen: WorkspacePeek) -> int | None:
    """When the newest save or checkpoint of a workspace was made, in nanoseconds since the epoch; None without any."""
    if not seen.git_dir:
        return None
    has_id = os.path.lexists(os.path.join(seen.git_dir, b"gitstate", ID_FILE))
    if not (has_id or seen.marker or seen.checkpoint or seen.unreadable):
        return None
    kept = (save_ref(seen.workspace_id, ""), history_ref(seen.workspace_id, ""))
    if seen.unreadable:
        return _asked_of_git(seen, [CHECKPOINTS + seen.workspace_id, PENDING + seen.workspace_id, *kept])
    times: list[int] = []
    asked: list[str] = []
    for prefix, oid in ((CHECKPOINTS, seen.checkpoint), (PENDING, seen.marker)):
        if oid:
            ref = prefix + seen.workspace_id
            try:
                # Git writes a loose ref once: when it was moved.
                times.append(os.lstat(os.path.join(seen.common_dir, os.fsencode(ref))).st_mtime_ns)
            except OSError:
                asked.append(ref)
    names = [name for found in refs.read_refs_below(seen.common_dir, *kept) for name in found]
    # One of the future was made by a wrong clock, and says nothing about now.
    newest = max((name for name in names if not is_of_future(name)), key=age_key, default="")
    times.append(save_time_ns(newest) or 0)
    if asked:
        times.append(_asked_of_git(seen, asked) or 0)
    return max(times, default=0) or None


def _asked_of_git(seen: WorkspacePeek, asked: Sequence[str]) -> int | None:
    """The time of the newest commit that some refs, or the refs below them, point to."""
    with suppress(GitstateError, OSError):
        git = open_repository(seen.workspace).git
        out = git.run("for-each-ref", "--format=%(committerdate:unix)", *asked)
        return max((int(word) for word in out.split() if word.isdigit()), default=0) * 1_000_000_000 or None
    return None


# -- who watches


class _Known(Record):
    """What the last look at a workspace left."""

    row: Row
    places: tuple[bytes, ...]
    """The directories and files whose times tell of a change: first those of refs, see `_REFS`."""
    times: tuple[int | None, ...]
    """When each was modified, before the look."""
    full: float
    """When it was looked at, on the monotonic clock."""
    is_racy: bool
    """One of them had been modified just before: the next look must not trust its time."""
    are_refs_racy: bool
    """The same of those of refs alone."""


#: So many of the places are those of refs.
_REFS = 6


class Watched:
    """Workspaces that are looked at again and again."""

    def __init__(self, find: Callable[[], list[bytes]], interval: float) -> None:
        """`find` returns the paths of the workspaces; `look` will be called about every `interval` seconds."""
        self._find = find
        self._interval = interval
        self._paths: list[bytes] = []
        self._listed = self._list_cost = 0.0
        self._list_time: int | None = None
        #: Why the list of workspaces, which was read before, can't be read now.
        self.problem: str | None = None
        self._known: dict[bytes, _Known] = {}
        #: When each was looked at last, or nothing had changed, on the monotonic clock.
        self._looked: dict[bytes, float] = {}

    def look(
        self, begins: Callable[[int], None] = lambda _: None, progress: Callable[[int], None] | None = None
    ) -> int:
        """Look where something may have changed, as far as the budget goes: the longest ago comes first.

        The first look sees all, whatever it takes: `begins` is called with the number of workspaces, and `progress` as
        `looked_at` of `read_rows`. Returns how many workspaces were read: the others had not changed, or must wait.
        """
        is_first = not self._listed
        self._read_list()
        begins(len(self._paths))
        begun = time.monotonic()
        order = sorted(self._paths, key=lambda path: self._looked.get(path, 0.0))
        budget, until = max(0.05, SHARE * self._interval), begun + max(1.0, self._interval)

        def one(path: bytes) -> _Known | bool | None:
            if not is_first and (_processor_time() > budget or time.monotonic() > until):
                return None
            return self._look_at(path, begun)

        answers = forkpool.stream(
            order,
            one,
            patience=PEEK_DEADLINE if is_first else _PATIENCE,
            lanes=CORES if is_first else 1,
            done=progress or (lambda _: None),
        )
        read = 0
        for path, answer in zip(order, answers, strict=True):
            if answer is None:
                continue
            read += answer is not True
            self._looked[path] = begun
            if answer is forkpool.LOST:
                self._known[path] = _Known(Row(path, "unreachable"), (), (), begun, False, False)
            elif answer is not True:
                self._known[path] = answer
        return read

    def rows(self) -> list[Row]:
        """A row for each workspace that was looked at, worst first."""
        return worst_first(known.row for known in self._known.values())

    def oldest(self) -> float:
        """How long ago, in seconds, the workspace was looked at whose look is the oldest."""
        return time.monotonic() - min((self._looked.get(path, 0.0) for path in self._paths), default=time.monotonic())

    def _read_list(self) -> None:
        """Read the list of workspaces where it may have changed; those that left it are forgotten."""
        begun, changed = time.monotonic(), _modified(registry.list_directory())
        elapsed = begun - self._listed
        pause = _LIST_AGAIN if changed == self._list_time else 0.0
        if self._listed and elapsed < max(2 / SHARE * self._list_cost, pause):
            return
        try:
            self._paths = list(dict.fromkeys(self._find()))
            self.problem = None
        except (GitstateError, OSError) as error:
            if not self._listed:
                raise
            self.problem = f"the list of workspaces is unreadable: {words_of(error)}"
        self._list_time = changed
        self._listed = time.monotonic()
        self._list_cost = self._listed - begun
        for path in self._known.keys() - set(self._paths):
            del self._known[path]
            self._looked.pop(path, None)

    def _look_at(self, path: bytes, now: float) -> _Known | bool:
        """A new look at a workspace; True where nothing has changed."""
        old = self._known.get(path)
        plain = _places_in(path, path + b"/.git", path + b"/.git")
        places = old.places if old is not None and old.places else plain
        times = tuple(map(_modified, places))
        is_due = old is None or now >= old.full + AGAIN
        if old is not None and not is_due:
            if not old.places:
                # It did not answer.
                return True
            if times == old.times and not old.is_racy and old.row.state not in _LIVELY:
                # A process that ends changes no file: what is active is looked at each time.
                return True
        seen = Peeker(trusted_directories).peek(path)
        # What is no workspace has nothing inside: it may go, or come back, as a whole.
        inside = _places_in(seen.workspace, seen.git_dir, seen.common_dir) if seen.git_dir else (*plain, path)
        if inside != places:
            # Their times must be older than the look.
            places, times = inside, tuple(map(_modified, inside))
            seen = Peeker(trusted_directories).peek(path)
        known = None
        if old is not None and not old.are_refs_racy and _of_refs(places, times) == _of_refs(old.places, old.times):
            known = old.row
        return _Known(row_of(seen, known), places, times, now, _is_racy(times), _is_racy(times[:_REFS]))


def _is_racy(times: Iterable[int | None]) -> bool:
    return max((modified for modified in times if modified is not None), default=0) > time.time_ns() - _RACY_NS


def _of_refs(*columns: tuple[object, ...]) -> list[tuple[object, ...]]:
    return [column[:_REFS] for column in columns]


def _processor_time() -> float:
    """What this process, and those that it has started and waited for, have taken of the processor, in seconds."""
    return sum(os.times()[:4])


def _places_in(path: bytes, git_dir: bytes, common_dir: bytes) -> tuple[bytes, ...]:
    """Where a change of a workspace shows."""
    named = ("packed-refs", "reftable", PENDING, CHECKPOINTS, UNFINISHED)
    of_refs = [os.path.join(common_dir, os.fsencode(name)) for name in named]
    return (git_dir + b"/gitstate/" + ID_FILE, *of_refs, path + b"/.git", git_dir, git_dir + b"/gitstate")


def _modified(path: bytes) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
