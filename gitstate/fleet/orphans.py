"""Pending saves whose workspaces do not exist: their worktrees were removed, or their repository was copied."""

from __future__ import annotations

from ..errors import CorruptSave, GitstateError
from ..format.archive import pending_archives, pending_in_files, read_stack
from ..format.context import Context
from ..git.command import Oid
from ..git.opening import open_repository
from ..objects.reader import ObjectReader
from ..system import forkpool
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.peek import WorkspacePeek, worktree_ids
from .find import PEEK_DEADLINE, WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..git.repository import Repository

#: Seconds to read the saves of one repository whose workspaces are gone.
_DEADLINE = 6 * PEEK_DEADLINE


class Orphan(Record):
    """A pending save whose workspace does not exist."""

    workspace_id: str
    save_id: str
    workspace_path: str | None
    head_ref: str | None
    beside: bytes
    """A worktree of the same repository that exists, or that repository itself, which is bare."""
    problem: str | None = None
    """Why the save can't be read; then its id and what it holds are empty. None where it can."""
    context: Context = Context()


def find_orphans(looks: Sequence[WorkspacePeek], bare: Repository | None) -> dict[bytes, list[Orphan]]:
    """Map the common directory of each repository to its pending saves whose workspaces do not exist."""
    one_of: dict[bytes, WorkspacePeek] = {}
    for seen in looks:
        if seen.problem is None and (seen.others_pending or seen.unreadable) and seen.common_dir not in one_of:
            one_of[seen.common_dir] = seen
    waiting = [(common, seen.workspace, _pending_in(common, seen)) for common, seen in one_of.items()]
    if bare is not None and bare.common_dir not in one_of:
        waiting.append((bare.common_dir, bare.toplevel, pending_archives(bare.git)))
    queries: list[tuple[bytes, bytes, dict[str, Oid]]] = []
    for common, beside, pending in waiting:
        if pending:
            here = worktree_ids(common)
            lone = {name: oid for name, oid in pending.items() if name not in here}
            if lone:
                queries.append((common, beside, lone))
    tasks = [lambda beside=beside, lone=lone: _read_orphans(beside, lone) for _, beside, lone in queries]
    answers = forkpool.each(tasks, workers=WORKERS, timeout=_DEADLINE)
    return {
        common: answer for (common, _, _), answer in zip(queries, answers, strict=True) if answer is not forkpool.LOST
    }


def _pending_in(common: bytes, seen: WorkspacePeek) -> dict[str, Oid]:
    """The pending saves of the repository of a workspace: from its files, or from git where only git can read them."""
    if not seen.unreadable:
        return pending_in_files(common)
    with suppress(GitstateError, OSError):
        return pending_archives(open_repository(seen.workspace).git)
    return {}


def _read_orphans(beside: bytes, lone: dict[str, Oid]) -> list[Orphan]:
    found = []
    with ObjectReader(open_repository(beside, bare_too=True).git) as reader:
        for name, oid in lone.items():
            try:
                if not oid:
                    raise CorruptSave("its marker is empty")
                save = read_stack(oid, reader)[0]
            except GitstateError as error:
                # Git ends at an object that it can't read.
                reader.restart()
                found.append(Orphan(name, "", None, None, beside, text_to_json(error.message)))
                continue
            manifest, path = save.manifest, save.context.workspace_path
            found.append(Orphan(name, manifest.save_id, path, manifest.head_ref, beside, context=save.context))
    return found
