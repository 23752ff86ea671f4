"""Checkpoints of workspaces that are gone, for a new one on the same branch: a removed worktree that was made anew."""

from __future__ import annotations

from itertools import islice

from ..errors import CorruptSave, GitError, UnsupportedSave
from ..format import names
from ..format.archive import read_save
from ..git import refs
from ..restore.destroyed import gone_since
from ..restore.paths import Workspace
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.live_context import read_live_context
from ..workspace.peek import worktree_ids
from .plan import Facts, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..format.manifest import Save

#: Of such checkpoints only so many of the newest on this branch are compared with the disk, and so many read.
_COMPARED, _READ = 4, 64


def with_gone(verdict: Verdict, workspace: Workspace, facts: Facts) -> Verdict:
    """The verdict `nothing` on a workspace in which nobody worked yet, with the checkpoint that its user may miss.

    That is the newest one of this branch with work that neither the disk nor HEAD has. It is offered only: the work may
    have been given up with its worktree.
    """
    repository = workspace.repository
    if facts.head_ref is None or read_live_context(repository)[1] is not None:
        return verdict
    with suppress(GitError):
        for save in islice(_on_branch(workspace, facts.head_ref), _COMPARED):
            if gone_since(workspace, save):
                message = "no pending save; a checkpoint of a workspace that is gone holds work of this branch"
                hint = f"gitstate recover --save {save.manifest.save_id} (that checkpoint)"
                return verdict._replace(message=message, hint=hint)
    return verdict


def _on_branch(workspace: Workspace, head_ref: str) -> Iterator[Save]:
    for archive in _of_others(workspace):
        try:
            save = read_save(archive, workspace.reader)
        except (CorruptSave, UnsupportedSave):
            # Git ends at an object that it can't read.
            workspace.reader.restart()
            continue
        if save.manifest.head_ref == head_ref:
            yield save


def _of_others(workspace: Workspace) -> list[str]:
    """The latest checkpoints of workspaces that are gone, the newest first."""
    repository = workspace.repository
    if refs.refs_are_files(repository):
        ids = refs.read_names_below(repository.common_dir, names.CHECKPOINTS)
        gone = ids - worktree_ids(repository.common_dir) if ids else ids
        found = refs.read_refs(repository, [names.checkpoint_ref(one) for one in sorted(gone)])
    else:
        found = refs.list_refs(repository.git, names.CHECKPOINTS)
        here = {names.checkpoint_ref(one) for one in worktree_ids(repository.common_dir)}
        found = {ref: oid for ref, oid in found.items() if ref not in here}
    if not found:
        return []
    lines = repository.git.run("rev-list", "--no-walk=sorted", f"--max-count={_READ}", "--stdin", input=_lines(found))
    return lines.decode("ascii").split()


def _lines(found: dict[str, str]) -> bytes:
    return "".join(f"{oid}\n" for oid in found.values()).encode("ascii")
