"""What a new session is told of the workspace, in the form that its agent hands to the model."""

from __future__ import annotations

import json

from ..format import names
from ..format.context import Context
from ..format.names import is_save_id
from ..git import refs
from ..git.repository import Repository
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import escape
from ..workspace.live_context import RECOVERED, read_live_context, read_state

if TYPE_CHECKING:
    from ..agents.base import Briefing


def format_briefing(how: Briefing, text: str) -> str:
    """`text` for the model in the form that the agent reads from a hook; an empty text if there is nothing to tell."""
    if not text:
        return ""
    if how.format == "json":
        answer = {"hookSpecificOutput": {"hookEventName": how.event, "additionalContext": text}}
        return json.dumps(answer, ensure_ascii=True) + "\n"
    if how.format != "text":
        return json.dumps({how.format: text}, ensure_ascii=True) + "\n"
    return text + "\n"


def briefing(repository: Repository, pending: str | None) -> str:
    """What a new session should know of the workspace; an empty text if there is nothing to tell.

    `pending` is the archive of the pending save.
    """
    if pending is not None:
        return _of_pending_save(repository, pending)
    # The live context stands in the git directory. The state file stands in the worktree, and a repository may contain
    # one: its briefing is used only if it names a save of this repository.
    live, status = read_live_context(repository)
    state = read_state(repository) if status == RECOVERED else {}
    told, save = state.get("briefing"), state.get("save")
    save_id = save.get("save_id") if isinstance(save, dict) else None
    if isinstance(told, str) and is_save_id(save_id):
        known = refs.list_refs(repository.git, names.SAVES)
        if any(ref.endswith(f"/{save_id}") for ref in known):
            return told
    return _task(live)


def _of_pending_save(repository: Repository, archive: str) -> str:
    from ..format.archive import read_save
    from ..objects.reader import ObjectReader

    with ObjectReader(repository.git) as reader:
        save = read_save(archive, reader)
    lines = [
        f"This workspace has interrupted work in pending save {save.manifest.save_id}.",
        "Before you change anything here, run `gitstate recover`: it restores the files as they were.",
        _task(save.context),
    ]
    return "\n".join(line for line in lines if line)


def _task(context: Context) -> str:
    fields = {
        "task": context.task_id,
        "issue": context.issue_number,
        "stage": context.progress_stage,
        "branch": context.branch_name,
        "notes": ", ".join(context.memory_refs[:12]) or None,
    }
    known = [f"{name} {escape(str(value))}" for name, value in fields.items() if value is not None]
    return f"Current work: {'; '.join(known)}." if context.task_id or context.progress_stage else ""
