"""What a save tells a person and a program."""

from __future__ import annotations

from ..format.manifest import LeftOut, is_incomplete
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .request import SaveRequest, SaveResult

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
    named = ", ".join(escape(path) for path in paths[:_SHOWN])
    rest = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    what = "a filter or an encoding failed or took too long, so the WIP commit lacks the edits of"
    return f"{what} {named}{rest}; the archive holds them (gitstate recover)"


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
