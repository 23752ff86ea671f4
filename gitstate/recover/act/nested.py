"""Recovers the repositories inside of a workspace, each as it would be by itself."""

from __future__ import annotations

import os

from ...errors import GitstateError
from ...format.archive import checkpoint_save_id, pending_save_id
from ...format.manifest import LeftOut
from ...format.names import branch_name
from ...git.opening import open_inside
from ...git.repository import Repository, shares_configuration
from ...restore.inside import add_save, finish, held_repositories, newest_save
from ...restore.nested import (
    check_out_submodule,
    fill_emptied_index,
    lacks_its_save,
    nested_failure,
    nested_steps,
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
    ) -> None:
        self._workspace = workspace
        self._repository = workspace.repository
        self._request = request
        self._outcome = outcome
        self._recover = recover
        self._recover_into = recover_into
        self._saves: Sequence[Save] = ()

    def run(self, saved: SavedPaths, targets: Sequence[Target]) -> tuple[RecoverResult, ...]:
        """Recover each of them; what fails is noted in the outcome."""
        results: list[RecoverResult] = []
        self._saves = saved.saves
        submodules = None
        for step in nested_steps(self._workspace, saved, self._request.depth):
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
            except (GitstateError, OSError) as error:
                self._outcome.failed.append(LeftOut(step.path, nested_failure(error), True))
        self._outcome.nested_trouble = bool(in_trouble(results))
        return tuple(results)

    def _carry_out(self, step: NestedStep, submodules: Collection[bytes]) -> RecoverResult | None:
        full = os.path.join(self._repository.toplevel, step.path)
        asked = self._request
        request = RecoverRequest(step.save_id, wait=asked.wait, depth=asked.depth + 1, special_bits=asked.special_bits)
        if step.action == "lost":
            self._outcome.failed.append(LeftOut(step.path, step.reason, True))
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
        runs_filters = step.path in submodules or shares_configuration(inside, self._repository)
        runs_filters = runs_filters and self._repository.runs_filters
        if step.is_new:
            fill_emptied_index(inside)
            if pending_save_id(inside) is None and checkpoint_save_id(inside) == step.held:
                # Its directory was wiped: nothing in it is newer than its last checkpoint.
                request = request._replace(save_id=step.held)
        result = self._recover(full, request._replace(runs_filters=runs_filters))
        if result.verdict == "nothing":
            lacking = lacks_its_save(step, inside.git)
            self._outcome.failed += [self._with_save(lacking, step, inside)] if lacking else []
        if step.is_new and result.verdict == "nothing":
            below = os.path.join(step.path, b"")
            for item in check_out_submodule(inside, asked.depth + 1, runs_filters=runs_filters):
                self._outcome.failed.append(item._replace(path=below + item.path))
            return None
        return result

    def _with_save(self, lacking: LeftOut, step: NestedStep, inside: Repository) -> LeftOut:
        """What to report of a repository that lacks its save, after that was added where this one holds it."""
        held = held_repositories(self._workspace, self._saves).get(step.path)
        named = None if step.held is None or step.archive is None else (step.held, step.archive)
        newest = named if held is None else newest_save(held.record) or named
        if held is None or newest is None or not add_save(self._workspace, held, inside, *newest):
            return lacking
        branch = branch_name(held.record.head) if held.record.head.startswith("refs/") else held.record.head
        where = quote(os.fsdecode(inside.toplevel))
        commands = f"git -C {where} checkout {quote(branch)} && gitstate -C {where} recover --save {newest[0]}"
        return lacking._replace(reason=f"{lacking.reason}; it was added to it: {commands}")
