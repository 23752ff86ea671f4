"""What a save is asked for, and what it answers: as data, and in words for a person and a program."""

from __future__ import annotations

from ..format.manifest import LeftOut, Reason, is_incomplete
from ..system.clock import Deadline
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, Record
from ..system.terminal import escape, first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Literal

    from ..format.manifest import SaveKind
    from ..git.command import Oid
    from ..git.damaged.broken import Broken
    from ..git.refs import RefUpdate
    from ..snapshot.incremental import Baseline
    from ..snapshot.record import Growth, Snapshot

    #: `unchanged`: an earlier save holds all of it. `nothing`: there is nothing to save.
    SaveOutcome = Literal["saved", "unchanged", "nothing"]


class SaveRequest(Record):
    """What a caller asks for."""

    kind: SaveKind = "save"
    values: Mapping[str, str] = {}
    """Texts for the context, by field name or `extra` key; an empty one means unknown."""
    reason: Reason = Reason()
    label: str | None = None
    """How the user calls it; a save that has another label, or none, does not count as the same."""
    deadline: float | None = None
    """Seconds that the whole save may take; None: as long as it takes. What it does not reach is skipped."""
    hurries: bool = False
    """A signal ended what worked here: `gitstate.deadline` is the deadline where `deadline` is None."""
    wait: float = 60.0
    """Seconds to wait for each lock."""
    keep_ignored: Sequence[str] = ()
    """Patterns of ignored files to save too."""
    keep_paths: Sequence[bytes] = ()
    """Paths to hold byte for byte, whatever git does with them."""
    owner_pid: int | None = None
    """The process that owns the workspace while it lives; None: as the live context says."""
    depth: int = 0
    """How many repositories this one is nested in."""
    even_clean: bool = False
    """Save even where there is nothing but HEAD: the save then tells how to make the worktree again."""
    runs_filters: bool = True
    """False: run no program that the repository's configuration names: nobody registered it as a submodule."""
    strict: bool = False
    """Raise UsageError for an unreadable setting before anything begins.

    Otherwise the save uses the default and its result names the setting: at the end of a run the work comes first.
    """
    problems: Sequence[LeftOut] = ()
    """What the save may lack because of an unreadable setting. `save` fills it in."""
    broken: Broken | None = None
    """What can't be read of the repository. `save` fills it in."""
    known: Baseline | None = None
    """The caller's last checkpoint and what may have changed since: only that is looked at."""
    touched: frozenset[bytes] = frozenset()
    """Paths that changed for all that the caller knows, where it has no `known`: git may be too slow to find them."""
    unseen: bool = False
    """Nobody has looked at the worktree yet, which is large: only what is `touched` is looked at."""
    growth: Growth | None = None
    """What a checkpoint may add to the object store; None: whatever there is."""
    look: float | None = None
    """Seconds in which files are read, however long the deadline is; None: what it leaves. Repositories inside have
    no others.
    """
    look_end: Deadline | None = None
    """`look` as it runs. `save` fills it in."""
    end: Deadline | None = None
    """`deadline` as it runs. `save` fills it in."""
    largest: int | None = None
    """Skip files of more bytes: an early save takes the small ones first."""
    room: int | None = None
    """Bytes that the files may have together: the disk is full. `save` fills it in."""
    room_ends: str = "the disk is full"
    """Why files are skipped that have no room. `save` fills it in."""
    stay: bool = False
    """Leave branch and index where they are: the agent is still at work."""
    replaces: str | None = None
    """The id of the early save of the same end of the same run: this one takes its place."""
    beside: Callable[..., Sequence[RefUpdate]] | None = None
    """Builds what is to stand beside this save in its pack, and returns the refs for it; None as a rule.

    It is called with the save's builder, this request and the scene when the workspace was looked at, whether there is
    anything to save or not.
    """
    expected: Snapshot | None = None
    """What that early save took: git makes the new index from it while everything is looked at.

    `save` drops it where the index is another one.
    """
    older: Snapshot | None = None
    """The same, whatever the index: of what is not looked at in time its version is taken."""


#: The part of a deadline, and the most seconds, that are kept for what follows when all has been read.
_KEPT_SHARE, _KEPT_SECONDS = 0.4, 3.0
#: Small tracked files that changed are read until this part of it.
PRECIOUS = 0.85


def until_collected(request: SaveRequest) -> Deadline:
    """When the last file must have been read: then objects are written, synced and named."""
    if request.look_end is not None:
        return request.look_end
    end = Deadline(request.deadline) if request.end is None else request.end
    return end.earlier(min(_KEPT_SHARE * (end.seconds or 0.0), _KEPT_SECONDS))


class SaveResult(Record):
    """What a save did, and where the work is now."""

    result: SaveOutcome
    workspace: bytes
    """The top of the worktree."""
    branch: str | None
    """The branch without `refs/heads/`; None where HEAD is detached."""
    save_id: str | None = None
    """The id of the save that holds the work, an earlier one for `unchanged`; None, as what follows, for `nothing`."""
    wip_commit: Oid | None = None
    base_commit: Oid | None = None
    """The commit that the branch goes back to; None on an unborn branch."""
    index_commit: Oid | None = None
    """None where nothing is staged, and for an earlier save."""
    archive: Oid | None = None
    branch_moved: bool = False
    """Whether the branch is on the WIP commit."""
    why_not_moved: str = ""
    """Why the plan left the branch where it was; empty where it was to move."""
    left_out: tuple[LeftOut, ...] = ()
    """What was skipped, and nested repositories, whose saves are inside them."""
    message: str = ""
    """For a person: why nothing was saved, or what failed after the marker."""
    taken: Snapshot | None = None
    """What was found, for a caller that watches for changes."""
    written: int = 0
    """Bytes that went into the object store."""
    warnings: tuple[str, ...] = ()
    """What a person should know beside the save: unreadable settings, filters that were not run."""

    @property
    def incomplete(self) -> bool:
        """Whether something was skipped; a nested repository that was saved whole was not."""
        return is_incomplete(self.left_out)

    @property
    def lost(self) -> bool:
        """Whether bytes that a save should hold were skipped."""
        return any(item.lost for item in self.left_out)


# -- in words

#: No more lines than this are printed of one list.
_SHOWN = 20


def left_out_json(items: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """What was skipped, for a program."""
    return [item.to_json() for item in items]


def listed_lines(title: str, paths: Sequence[bytes]) -> list[str]:
    """One line for each of the first paths, after `title`, and one that counts the rest."""
    return _cut(title, [escape(path) for path in paths[:_SHOWN]], len(paths))


def skipped_lines(items: Sequence[LeftOut]) -> list[str]:
    """What was skipped, and why, for a person."""
    shown = [f"{escape(item.path) or 'the workspace'}: {escape(item.reason)}" for item in items[:_SHOWN]]
    return _cut("skipped:", shown, len(items))


def unconverted_words(paths: Sequence[bytes]) -> str:
    """What to say of changed files that only the archive holds."""
    named = first_of([escape(path) for path in paths[:_SHOWN]], len(paths))
    what = "a filter or an encoding failed or took too long, so the WIP commit lacks the edits of"
    return f"{what} {named}; the archive holds them (gitstate recover)"


def _cut(title: str, shown: Sequence[str], count: int) -> list[str]:
    lines = [f"  {title} {text}" for text in shown]
    return lines + ([f"  {title} … and {count - len(shown)} more"] if count > len(shown) else [])


def save_json(result: SaveResult, command: str) -> dict[str, Any]:
    """What `save --json` prints."""
    return {
        "command": command,
        "result": result.result,
        "save_id": result.save_id,
        "workspace": escape(result.workspace),
        "branch": None if result.branch is None else text_to_json(result.branch),
        "wip_commit": result.wip_commit,
        "base_commit": result.base_commit,
        "index_commit": result.index_commit,
        "archive": result.archive,
        "branch_moved": result.branch_moved,
        "incomplete": result.incomplete,
        "left_out": left_out_json(result.left_out),
        "message": escape(result.message) or None,
        "warnings": [escape(line) for line in result.warnings],
    }


def save_answer(result: SaveResult, request: SaveRequest) -> dict[str, Any]:
    """All that a command prints of a save, whoever took it: `json`, `lines`, and whether bytes were `lost`."""
    told = result
    if result.result == "unchanged" and not request.strict:
        # The trap of a loop whose supervisor has just said "saved": "nothing changed" would sound like a failure.
        told = result._replace(message=f"already saved as {result.save_id}")
    return {
        "json": save_json(result, request.kind),
        "lines": save_lines(told, request.kind),
        "lost": result.lost,
    }


def save_lines(result: SaveResult, command: str) -> list[str]:
    """What `save` and `checkpoint` print for a person."""
    rest = [*skipped_lines(result.left_out), *(f"  {line}" for line in result.warnings)]
    if result.result != "saved":
        return [result.message, *rest]
    first = f"saved {result.save_id} ({(result.wip_commit or '')[:12]}{_where(result, command)})"
    if result.incomplete:
        skipped = [item for item in result.left_out if is_incomplete((item,))]
        first += f" -- incomplete: {len(skipped)} skipped"
    return [first, *([result.message] if result.message else []), *rest]


def _where(result: SaveResult, command: str) -> str:
    """Where the WIP commit is; if not on the branch, why."""
    if command == "checkpoint":
        return " as a checkpoint"
    if result.branch_moved:
        return f" on {result.branch}"
    return "; branch not moved" + (f": {result.why_not_moved}" if result.why_not_moved else "")


def failed_save_lines(why: str, waiting: str | None, checkpoint: str | None, *, whole: bool = False) -> list[str]:
    """What to print where the save at the end of a run failed: what is saved all the same, and what to do next.

    `waiting` is the id of the pending save, `checkpoint` that of the latest one. `whole`: the pending save is the one
    that failed, and only a step after its marker did.
    """
    if waiting is not None:
        what = "a later step failed" if whole else "later changes are not saved"
        return [f"gitstate: saved {waiting}; {what}: {why}", "  next: gitstate recover (brings back that save)"]
    files = "  the files are as they are on the disk"
    if checkpoint is not None:
        files += f"; the latest checkpoint is {checkpoint} (gitstate diff {checkpoint})"
    return [f"gitstate: not saved: {why}", files, "  next: gitstate save"]


def failed_look_lines(why: str, early: SaveResult) -> list[str]:
    """The same where an early save of this end of the run was taken, and the second one, of all files, failed."""
    return [
        f"gitstate: the second save of this run's end failed: {why}",
        *save_lines(early, "save"),
        "  files skipped above and later changes are not saved",
        "  next: gitstate recover",
    ]
