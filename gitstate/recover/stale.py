"""Whether plain git has recovered a pending save, or left it behind, so that its marker is stale, and goes."""

from __future__ import annotations

import os

from ..format.archive import read_stack, tree_of_base
from ..format.context import Context
from ..format.manifest import Save
from ..format.names import SAVE_TRAILER
from ..git import refs
from ..git.command import Git, Oid
from ..git.entries import diff_trees, list_index, list_tree
from ..git.refs import RefUpdate
from ..git.repository import Repository, head_of, read_head
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY, GITLINK, SYMLINK, Leaf, TreeReader
from ..system.stdlib import TYPE_CHECKING
from ..workspace.files import Worktree
from ..workspace.live_context import RECOVERED, describe_save, with_measured_fields, write_state
from ..workspace.ownership import forget_index
from .plan import resting_places
from .request import briefing, instruction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def clear_if_stale(
    repository: Repository, git: Git, reader: ObjectReader, marker: str, archive: Oid, *, dry_run: bool = False
) -> bool:
    """Delete the marker of a pending save whose every version is in HEAD, in the index or on the disk.

    Returns whether it is one; with `dry_run` nothing is deleted.
    """
    stack = read_stack(archive, reader)
    ref, head = read_head(repository.git_dir), head_of(repository.toplevel)
    if head is None or not may_be_stale(stack, ref, head):
        return False
    newest, oldest = stack[0], stack[-1]
    if any(git.succeeds("merge-base", "--is-ancestor", save.wip, head) for save in stack):
        return False
    base = oldest.manifest.base
    if base is not None and not git.succeeds("merge-base", "--is-ancestor", base, head):
        return False
    if _is_carried(git, stack, head) or not _all_held(repository, git, reader, stack, head):
        return False
    if dry_run:
        return True
    context = with_measured_fields(repository, newest.context, ref)
    described = describe_save(newest.manifest, wip=newest.wip, archive=newest.archive)
    described["base_commit"] = base
    reason = newest.manifest.reason
    write_state(
        repository,
        context._replace(extra={**context.extra, "base_commit": head}),
        RECOVERED,
        reason=reason.to_json(),
        save=described,
        resume=_resume(context),
        briefing=briefing(context, reason, restored=(), kept=(), left_out=newest.manifest.left_out, by_git=True),
    )
    refs.move_refs(repository, git, [RefUpdate(marker, None, archive)], "recovered by plain git")
    for save in stack:
        forget_index(repository, save.manifest.save_id)
    return True


def _resume(context: Context) -> str:
    """How the agent's next run goes on: the command of its session if that still exists, else a sentence."""
    command = None
    if context.session_id is not None:
        from ..agents.sessions import resume_command

        command = resume_command(context, os.environ)
    return command or instruction(context)


def _is_carried(git: Git, stack: Sequence[Save], head: Oid) -> bool:
    """Whether git has carried WIP commits of the stack to another base: their work is in HEAD, but not of the agent's
    own making.
    """
    base = stack[-1].manifest.base
    ids = (f"--grep={SAVE_TRAILER}: {save.manifest.save_id}" for save in stack)
    return bool(git.run("rev-list", "--max-count=1", "-F", *ids, head, *([f"^{base}"] if base else []), "--"))


def may_be_stale(stack: Sequence[Save], head_ref: str | None, head: Oid) -> bool:
    """Whether HEAD has left these saves behind, and plain git is able to recover saves of this kind.

    HEAD must be on the branch of the save, and on none of its commits. Plain git cannot recover an operation, unmerged
    entries, raw bytes, hidden paths and repositories inside: then the marker stays until `recover` or a person clears
    it.
    """
    if head in resting_places(stack):
        return False
    for save in stack:
        manifest = save.manifest
        if manifest.head_ref != head_ref or head_ref is None or not manifest.moves_branch:
            return False
        if manifest.operation or manifest.raw or manifest.absent or manifest.sparse or b"stages" in save.files:
            return False
        if any(one.save_id is not None for one in manifest.nested):
            return False
    return True


def wanted(differing: Mapping[bytes, Leaf | None], stack: Sequence[Save]) -> set[tuple[bytes, Leaf | None]]:
    """Every version of a path that may exist only in the saves: `differing` from the base, or staged.

    None stands for a deleted path.
    """
    found: set[tuple[bytes, Leaf | None]] = set(differing.items())
    for save in stack:
        for path, entry in save.manifest.staged.items():
            found.add((path, None if entry is None else Leaf(*entry)))
    return found


def _all_held(repository: Repository, git: Git, reader: ObjectReader, stack: Sequence[Save], head: Oid) -> bool:
    """Whether each version in the saves is in HEAD, in the index or on the disk, with its mode."""
    newest, oldest = stack[0], stack[-1]
    trees = TreeReader(reader)
    versions = wanted(_differing(repository, tree_of_base(reader, oldest.manifest.base), newest.wip_tree), stack)
    paths = sorted({path for path, _ in versions})
    committed = trees.lookup(tree_of_base(reader, head), paths)
    missing = {(path, leaf) for path, leaf in versions if _file(committed.get(path)) != leaf}
    if missing:
        index = _index(git)
        missing = {(path, leaf) for path, leaf in missing if index.get(path) != leaf}
    disk = Worktree(repository.toplevel, repository.own, repository.object_format)
    if any(not _on_disk(disk, path, leaf) for path, leaf in missing):
        return False
    for path in newest.manifest.directories:
        if disk.look(path).kind != "directory":
            return False
    return all(disk.permissions(path) in (None, mode) for path, mode in newest.manifest.modes.items())


def _file(leaf: Leaf | None) -> Leaf | None:
    """The file at a path of a tree; None if there is a directory."""
    return None if leaf is None or leaf.mode == DIRECTORY else leaf


def _on_disk(disk: Worktree, path: bytes, leaf: Leaf | None) -> bool:
    seen = disk.look(path)
    if leaf is None:
        return seen.kind == "missing"
    if leaf.mode == GITLINK:
        return False
    if leaf.mode == SYMLINK:
        return seen.kind == "link" and seen.oid == leaf.oid
    executable = bool(seen.permissions & 0o100)
    return seen.kind == "file" and seen.oid == leaf.oid and executable == (leaf.mode == 0o100755)


def _differing(repository: Repository, base: Oid | None, tree: Oid) -> dict[bytes, Leaf | None]:
    """Map each path whose version in `tree` differs from `base` to that version; None if it is deleted."""
    if base is None:
        return {entry.path: Leaf(entry.mode, entry.oid) for entry in list_tree(repository.git, tree)}
    return {
        entry.path: Leaf(entry.new_mode, entry.new_oid) if entry.new_mode else None
        for entry in diff_trees(repository, base, tree)
    }


def _index(git: Git) -> dict[bytes, Leaf]:
    """The merged entries of the index by path."""
    return {entry.path: Leaf(entry.mode, entry.oid) for entry in list_index(git) if entry.stage == 0}
