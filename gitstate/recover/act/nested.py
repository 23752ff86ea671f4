"""Recovers the repositories inside of a workspace, each as it would be by itself."""

from __future__ import annotations

import os

from ...errors import GitstateError
from ...format.archive import checkpoint_save_id, pending_save_id
from ...format.manifest import LeftOut
from ...format.names import DISMISSED, branch_name, dismissed_ref, workspace_id
from ...git.opening import open_inside
from ...git.refs import list_refs
from ...git.repository import Repository, shares_configuration
from ...restore.inside import add_save, finish, held_repositories, newest_save
from ...restore.nested import (
    check_out_submodule,
    fill_emptied_index,
    is_latest_checkpoint,
    lacks_its_save,
    nested_failure,
    nested_steps,
    other_repository,
    submodules_of,
)
from ...system.stdlib import TYPE_CHECKING, quote
from ..elsewhere import reattach
from ..plan import in_trouble
from ..request import RecoverRequest, RecoverResult

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ...format.manifest import Save
    from ...restore.choices import Outcome, Target
    from ...restore.nested import NestedStep
    from ...restore.paths import SavedPaths, Workspace

    #: What recovers any workspace, and what gives a save a new one.
    Recover = Callable[[bytes, RecoverRequest], RecoverResult]
    RecoverInto = Callable[[Repository, bytes, RecoverRequest], RecoverResult]


class NestedRecovery:
    """The nested repositories of one recovery."""

    def __init__(
        self,
        workspace: Workspace,
        request: RecoverRequest,
        outcome: Outcome,
        recover: Recover,
        recover_into: RecoverInto,
        command: str,
    ) -> None:
        """`command` is what to type to try once more."""
        self._workspace = workspace
        self._repository = workspace.repository
        self._request = request
        self._command = command
        self._outcome = outcome
        self._recover = recover
        self._recover_into = recover_into
        self._saves: Sequence[Save] = ()

    def run(
        self, saved: SavedPaths, targets: Sequence[Target], only: Collection[bytes] | None = None
    ) -> tuple[RecoverResult, ...]:
        """Recover each of them, or those at the paths `only`; what fails is noted in the outcome."""
        results: list[RecoverResult] = []
        self._saves = saved.saves
        submodules = None
        for step in nested_steps(self._workspace, saved, self._request.depth, self._command, only):
            try:
                if submodules is None:
                    submodules = submodules_of(self._workspace)
                if step.path in submodules and step.action == "recover":
                    bases = [leaf for target in targets if target.path == step.path for leaf in target.bases]
                    inside = open_inside(self._repository, os.path.join(self._repository.toplevel, step.path))
                    reattach(inside, {leaf.oid for leaf in bases})
                result = self._carry_out(step, submodules)
                if step.is_new:
                    finish(os.path.join(self._repository.toplevel, step.path))
                if result is not None:
                    results.append(result)
                    self._outcome.unfinished += [step.path] if in_trouble([result]) else []
            except (GitstateError, OSError) as error:
                self._outcome.failed.append(LeftOut(step.path, nested_failure(error), True))
                # Where nothing of it was saved, no later recovery has more to bring back.
                self._outcome.unfinished += [step.path] if step.held is not None or step.is_new else []
        self._outcome.nested_trouble = bool(in_trouble(results))
        return tuple(results)

    def _carry_out(self, step: NestedStep, submodules: Collection[bytes]) -> RecoverResult | None:
        full = os.path.join(self._repository.toplevel, step.path)
        asked = self._request
        request = RecoverRequest(step.save_id, wait=asked.wait, depth=asked.depth + 1, special_bits=asked.special_bits)
        if step.action == "lost":
            self._outcome.failed.append(LeftOut(step.path, step.reason, True))
            self._outcome.unfinished += [step.path] if step.is_held_up else []
            return None
        if step.action == "add":
            return self._recover_into(self._repository, full, request)
        if step.is_cut:
            command = f"git -C {quote(os.fsdecode(full))} fetch --unshallow"
            words = f"made again without the older history that its remote has: {command}"
            self._outcome.failed.append(LeftOut(step.path, words, False))
        for words in step.refused:
            self._outcome.failed.append(LeftOut(step.path, f"made again without its setting {words}", False))
        inside = open_inside(self._repository, full)
        request = request._replace(ended=is_latest_checkpoint(self._repository, self._saves))
        runs_filters = step.path in submodules or shares_configuration(inside, self._repository)
        runs_filters = runs_filters and self._repository.runs_filters
        if step.is_new:
            fill_emptied_index(inside)
            latest = checkpoint_save_id(inside)
            if pending_save_id(inside) is None and latest is not None and (request.ended or latest == step.held):
                # Its directory was wiped: nothing in it is newer than its last checkpoint.
                request = request._replace(save_id=latest)
        result = self._recover(full, request._replace(runs_filters=runs_filters))
        if result.verdict in ("nothing", "recovered"):
            other = self._of_another(step, inside)
            if other is not None:
                self._outcome.failed.append(other)
                return None
        if step.is_new and result.verdict == "nothing":
            below = os.path.join(step.path, b"")
            for item in check_out_submodule(inside, asked.depth + 1, runs_filters=runs_filters):
                self._outcome.failed.append(item._replace(path=below + item.path))
            return None
        return result

    def _of_another(self, step: NestedStep, inside: Repository) -> LeftOut | None:
        """What to report where the repository is another one than that of the save; None where it is the same.

        The save is added to it, if this workspace holds it, and counts as dismissed there until somebody recovers it.
        """
        lacking = lacks_its_save(step, inside.git)
        added = list_refs(inside.git, DISMISSED) if step.held is not None else {}
        if lacking is None and not added:
            return None
        held = held_repositories(self._workspace, self._saves).get(step.path)
        if held is None:
            return lacking
        named = None if step.held is None or step.archive is None else (step.held, step.archive)
        newest = newest_save(held.record) or named
        own = held.record.workspace_id
        is_added = newest is not None and own != workspace_id(inside) and dismissed_ref(own, newest[0]) in added
        if lacking is None and not is_added:
            return None
        self._outcome.unfinished.append(step.path)
        words = other_repository(step)
        if newest is None or not (is_added or add_save(self._workspace, held, inside, *newest)):
            return LeftOut(step.path, f"{words}; move it away, then: {self._command}", True)
        branch = branch_name(held.record.head) if held.record.head.startswith("refs/") else held.record.head
        where = quote(os.fsdecode(inside.toplevel))
        commands = f"git -C {where} checkout {quote(branch)} && gitstate -C {where} recover --save {newest[0]}"
        return LeftOut(step.path, f"{words}; it was added to it: {commands}", True)
