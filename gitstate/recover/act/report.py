"""What a recovery tells the agent and its loop: the agent's conversation, `active_state.json`, a briefing."""

from __future__ import annotations

import os

from ...errors import GitstateError
from ...format.manifest import Reason
from ...format.names import conversation_ref, is_save_id, workspace_id
from ...git.refs import read_refs
from ...system.stdlib import TYPE_CHECKING, quote
from ...workspace.live_context import RECOVERED, describe_save, read_live_context, read_state, write_state
from ..request import RecoverRequest, RecoverResult, briefing, instruction, with_messages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ...format.context import Context
    from ...git.repository import Repository
    from ...restore.choices import Outcome
    from ..plan import Facts


class Report:
    """The report on one recovery."""

    def __init__(self, repository: Repository, facts: Facts, request: RecoverRequest) -> None:
        self._repository = repository
        self._facts = facts
        self._request = request

    def of_context(self, result: RecoverResult, context: Context, outcome: Outcome) -> RecoverResult:
        """The run ended without a save: its context is what was brought back."""
        operation = self._facts.operation
        told = briefing(
            context,
            Reason(),
            restored=outcome.restored,
            kept=(),
            left_out=(),
            failed=outcome.failed,
            operation=operation,
            destroyed=result.destroyed,
            is_saved=False,
        )
        return self._write_state(result, context, told)

    def of_save(self, result: RecoverResult, context: Context, outcome: Outcome) -> RecoverResult:
        """A save was recovered. The name of the state file is not durable yet."""
        newest = self._facts.saves[0]
        manifest = newest.manifest
        left_out = (*manifest.left_out, *outcome.failed)
        told = briefing(
            context,
            manifest.reason,
            restored=outcome.restored,
            kept=list(dict.fromkeys(outcome.kept)),
            left_out=manifest.left_out,
            failed=outcome.failed,
            operation=manifest.operation,
            destroyed=result.destroyed,
            is_bare=newest.archive == newest.wip,
            is_buried=result.verdict == "buried",
        )
        described = describe_save(manifest, wip=newest.wip, archive=newest.archive)
        described["base_commit"] = self._facts.saves[-1].manifest.base
        described["left_out"] = [item.to_json() for item in left_out][:1000]
        reason = manifest.reason.to_json()
        return self._write_state(result, context, told, reason=reason, save=described, syncs_names=False)

    def again(self, result: RecoverResult) -> RecoverResult:
        """Tell once more what an earlier recovery has brought back: the loop that starts after a reboot needs it."""
        assert self._facts.recovered is not None
        state = read_state(self._repository)
        if state.get("status") != RECOVERED:  # in a dry run
            state = {}
        save, resume, told = state.get("save"), state.get("resume"), state.get("briefing")
        save_id = save.get("save_id") if isinstance(save, dict) else None
        return result._replace(
            context=self._facts.recovered,
            save_id=save_id if is_save_id(save_id) else None,
            resume=resume if isinstance(resume, str) else None,
            briefing=told if isinstance(told, str) else None,
        )

    def _write_state(self, result: RecoverResult, context: Context, told: str, **more: Any) -> RecoverResult:
        """Give back the agent's conversation, write `active_state.json`, and add what it says to the result."""
        context, result = self._with_conversation(context, result)
        resume = None
        if context.session_id is not None:
            from ...agents.sessions import resume_command

            resume = resume_command(context, os.environ)
        resume = resume or instruction(context)
        told = "\n".join((told, *self._facts.put_away))
        if self._request.depth and read_live_context(self._repository)[1] is None:
            # Nobody ever worked in this nested repository: its save is a part of the one around it.
            return result._replace(resume=resume, briefing=told, context=context)
        try:
            state_file = write_state(self._repository, context, RECOVERED, resume=resume, briefing=told, **more)
        except PermissionError as error:
            # It is a cache; what was recovered is told all the same.
            top = quote(os.fsdecode(self._repository.toplevel))
            why = f"the state file could not be written: {error.strerror}; allow it with: chmod u+w {top}"
            return with_messages(result, why)._replace(resume=resume, briefing=told, context=context)
        return result._replace(state_file=state_file, resume=resume, briefing=told, context=context)

    def _with_conversation(self, context: Context, result: RecoverResult) -> tuple[Context, RecoverResult]:
        """The context with the place of its agent's transcript, which is given back where it is gone or torn."""
        facts = self._facts
        was = facts.saves[0].context if facts.saves else facts.context
        if was is None or was.session_id is None or self._request.depth:
            return context, result
        from ...agents.sessions import is_session_id

        if not is_session_id(was.session_id):
            return context, result
        own = workspace_id(self._repository)
        workspaces = [own, *(save.manifest.workspace_id for save in facts.saves[:1])]
        is_here = facts.remote is None and was.workspace_path == context.workspace_path
        if is_here and not self._may_be_kept([conversation_ref(name, was.session_id) for name in workspaces]):
            # Its place is as it was, too.
            return context, result
        from ...conversation.give_back import give_back

        given = give_back(self._repository, context, was, workspaces, facts.remote)
        return given.context, with_messages(result, given.message)

    def _may_be_kept(self, refs: Sequence[str]) -> bool:
        """Whether one of these refs is there; also where it can't be told, which `give_back` says."""
        try:
            return bool(read_refs(self._repository, refs))
        except (GitstateError, OSError):
            return True
