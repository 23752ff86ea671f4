"""What a save tells a person and a program."""

from __future__ import annotations

from ..format.manifest import LeftOut
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import escape

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .request import SaveResult

_SHOWN = 20


def left_out_json(items: Iterable[LeftOut]) -> list[dict[str, Any]]:
    return [item.to_json() for item in items]


def _list(title: str, paths: Iterable[bytes]) -> list[str]:
    known = list(paths)
    lines = [f"  {title} {escape(path)}" for path in known[:_SHOWN]]
    return lines + ([f"  {title} … and {len(known) - _SHOWN} more"] if len(known) > _SHOWN else [])


def _left_out_lines(items: Iterable[LeftOut]) -> list[str]:
    known = list(items)
    lines = [f"  left out: {escape(item.path) or 'the workspace'}: {escape(item.reason)}" for item in known[:_SHOWN]]
    return lines + ([f"  left out: … and {len(known) - _SHOWN} more"] if len(known) > _SHOWN else [])


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
        "incomplete": bool(result.left_out),
        "left_out": left_out_json(result.left_out),
        "message": escape(result.message) or None,
        "warnings": [escape(line) for line in result.warnings],
    }


def save_lines(result: SaveResult, command: str) -> list[str]:
    """What `save` says to a person."""
    if result.result == "saved":
        where = f"on {result.branch}" if result.branch_moved else "beside the branch, which was not moved"
        if command == "checkpoint":
            where = "as a checkpoint"
        first = f"saved {result.save_id} ({(result.wip_commit or '')[:12]} {where})"
        if result.left_out:
            first += f" -- incomplete: {len(result.left_out)} left out"
    else:
        first = result.message
    more = [result.message] if result.message and result.result == "saved" else []
    warnings = [f"  {line}; the default was used" for line in result.warnings]
    return [first, *more, *_left_out_lines(result.left_out), *warnings]


def failed_save_lines(why: str, waiting: str | None, checkpoint: str | None, *, whole: bool = False) -> list[str]:
    """What to tell where the save at the end of a run failed: what stands all the same, and what to do next.

    `waiting` is the save that waits, `checkpoint` the latest one; `whole`: that save is of this very look, and only
    what comes after its marker failed.
    """
    if waiting is not None:
        what = "what follows a save failed" if whole else "what changed after it is not saved"
        return [f"gitstate: saved {waiting}; {what}: {why}", "  next: gitstate recover, which brings back that save"]
    files = "  the files are left as they are on the disk"
    if checkpoint is not None:
        files += f"; the checkpoint {checkpoint} stands (gitstate diff {checkpoint})"
    return [f"gitstate: not saved: {why}", files, "  next: gitstate save"]


def failed_look_lines(why: str, early: SaveResult) -> list[str]:
    """The same where the early save of this end is known: what it holds, and what it left to the look that failed."""
    return [
        f"gitstate: the last look failed: {why}",
        *save_lines(early, "save"),
        "  what was left to this second step, and what changed since, is not saved",
        "  next: gitstate recover",
    ]
