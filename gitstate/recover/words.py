"""What a recovery tells a person, a program and a shell."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import EXIT_DONE
from ..format.context import Context
from ..format.manifest import LeftOut, Reason
from ..save.words import left_out_json, listed_lines, skipped_lines
from ..system.jsonio import path_to_json, text_to_json
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import escape, escape_lines

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .request import RecoverResult

#: A list in a briefing names no more than this.
_NAMED = 12


# -- recover


def recover_json(result: RecoverResult) -> dict[str, Any]:
    """One workspace of what `recover --json` prints."""
    return {
        "workspace": escape(result.workspace),
        "verdict": result.verdict,
        "message": escape(result.message) or None,
        "hint": result.hint and escape(result.hint),
        "exit_status": result.exit_status,
        "save_id": result.save_id,
        "branch": None if result.branch is None else text_to_json(result.branch),
        "restored": [path_to_json(path) for path in result.restored],
        "deleted": [path_to_json(path) for path in result.deleted],
        "kept": [path_to_json(path) for path in result.kept],
        "left_out": left_out_json(result.left_out),
        "safety_save": result.safety_save,
        "state_file": None if result.state_file is None else escape(result.state_file),
        "resume": result.resume and escape(result.resume),
        "briefing": result.briefing and escape_lines(result.briefing),
        "context": result.context.to_json(),
        "nested": [recover_json(inner) for inner in result.nested],
        "removed_locks": [path_to_json(path) for path in result.cleared],
    }


def recover_lines(result: RecoverResult) -> list[str]:
    """What `recover` says to a person about one workspace."""

    words = {
        "restore": "recovered: everything is as it was saved",
        "context_only": "recovered: the context; there was nothing uncommitted to restore",
    }
    first = words.get(result.verdict, result.verdict)
    if result.files_only and result.verdict == "restore":
        first = "taken out of the save; branch and index stay as they are"
    elif result.verdict == "restore" and result.exit_status:
        first = "recovered, but not all of it"
    if result.dry_run and result.verdict in words:
        first = "would be recovered; nothing was touched"
    lines = [f"{escape(result.workspace)}: {first}" + (f" (save {result.save_id})" if result.save_id else "")]
    if result.message:
        lines.append(f"  {result.message}")
    lines += listed_lines("restored:", result.restored) + listed_lines("deleted:", result.deleted)
    lines += listed_lines("kept as it is:", result.kept)
    lines += skipped_lines(result.left_out)
    lines += listed_lines("removed, a lock of a process that is gone:", result.cleared)
    if result.safety_save:
        lines.append(f"  what was there before is in save {result.safety_save}")
    for inner in result.nested:
        lines += ["  " + line for line in recover_lines(inner)]
    if result.resume:
        task = instruction(result.context)
        lines += [f"  {task}", *([f"  its session goes on with: {result.resume}"] if result.resume != task else [])]
    if result.hint:
        lines.append(f"  next: {result.hint}")
    return lines


def worst_of(statuses: Iterable[int]) -> int:
    """One exit status for many workspaces: a person first, then failures, then what passes by itself."""
    found = set(statuses)
    return next((status for status in (4, 3, 2, 1, 75) if status in found), EXIT_DONE)


def shell_lines(result: RecoverResult) -> str:
    """Assignments for a shell's `eval`: every value in single quotes, so that it stays data."""
    from ..agents.sessions import resume_command

    context = result.context
    values = {
        "RECOVERED_TASK_ID": context.task_id,
        "RECOVERED_ISSUE_NUMBER": context.issue_number,
        "RECOVERED_WORKSPACE_PATH": escape(result.workspace),
        "RECOVERED_BRANCH_NAME": context.branch_name,
        "RECOVERED_PROGRESS_STAGE": context.progress_stage,
        "RECOVERED_MEMORY_REFS": "\n".join(context.memory_refs),
        "RECOVERED_AGENT": context.agent,
        "RECOVERED_SESSION_ID": context.session_id,
        "RECOVERED_TRANSCRIPT_PATH": _text(context.extra.get("transcript_path")),
        "RECOVERED_AGENT_CWD": _text(context.extra.get("agent_cwd")),
        "RECOVERED_RESUME_COMMAND": resume_command(context, os.environ),
        "RECOVERED_VERDICT": result.verdict,
        "RECOVERED_SAVE_ID": result.save_id,
        "RECOVERED_RESUME": result.resume,
        "RECOVERED_BRIEFING": result.briefing,
    }
    return "".join(f"{name}={_shell_quote(value)}\n" for name, value in values.items())


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _shell_quote(value: object) -> str:
    text = "" if value is None else str(value).replace("\0", "")
    return "'" + text.replace("'", "'\\''") + "'"


def instruction(context: Context) -> str:
    """What to go on with, in one sentence, for an agent that starts a new session."""
    words = [f"Continue {context.task_id}" if context.task_id else "Continue"]
    if context.issue_number is not None:
        words.append(f"(issue {context.issue_number})")
    if context.progress_stage:
        words.append(f"at stage {context.progress_stage}")
    if context.branch_name:
        words.append(f"on branch {context.branch_name}")
    words.append(f"in {context.workspace_path}")
    return " ".join(words)


def briefing(
    context: Context,
    reason: Reason,
    *,
    restored: Sequence[bytes],
    kept: Sequence[bytes],
    left_out: Sequence[LeftOut],
    operation: str | None = None,
) -> str:
    """A few lines for the agent: what the last run was on, what is back on the disk, and what is not."""
    how = f" by SIG{reason.signal}" if reason.signal else ""
    how = f": it ended with status {reason.exit_code}" if reason.exit_code is not None else how
    lines = [f"Your last run in this workspace was interrupted{how}."]
    lines.append(instruction(context) + ".")
    if context.memory_refs:
        lines.append("Notes of the last run: " + ", ".join(context.memory_refs[:_NAMED]))
    if operation:
        lines.append(f"A {operation} is under way and not finished: look at `git status` first.")
    lines += _listed("Restored from the save", restored)
    lines += _listed("Changed after the save, and left as they are", kept)
    lines += _listed("Not in the save", [item.path or b"the workspace" for item in left_out])
    if not restored and not kept:
        lines.append("All files are as the last run left them; uncommitted work is in the worktree.")
    return "\n".join(lines)


def _listed(title: str, paths: Sequence[bytes]) -> list[str]:
    if not paths:
        return []
    named = ", ".join(text_to_json(os.fsdecode(path)) for path in paths[:_NAMED])
    return [f"{title}: {named}" + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")]
