"""The commits of a pending save that plain git carried to another base: `git pull --rebase`, `git rebase`.

Git copies them like any other commits, their trailers included. What the copies hold together with the save is the
stack as it would have been made on the new base.
"""

from __future__ import annotations

from ..errors import GitError
from ..git.command import Oid
from ..git.entries import differing_paths
from ..git.repository import Repository
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import Leaf, TreeReader
from ..system.stdlib import TYPE_CHECKING, Record
from .names import INDEX_SUBJECT, SAVE_TRAILER, WIP_SUBJECT, parse_trailers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .manifest import Save

#: So many copies of one WIP commit are looked at, each in the history of HEAD and in its reflog.
_MOST_COPIES = 16
#: Seconds for a walk through the history.
_TIMEOUT = 60.0


class Carried(Record):
    """The stack of a pending save on another base."""

    saves: tuple[Save, ...]
    """Newest first: the archives of the save, and the commits that git made."""
    original: tuple[Save, ...]
    """The same as it was made."""
    at_rest: bool
    """HEAD is on one of these commits, or on their base; else there are commits on top."""
    faithful: bool
    """Each path holds the saved version, or is one that the new base changed, too."""

    @property
    def base(self) -> Oid:
        """The commit that they were carried to."""
        base = self.saves[-1].manifest.head
        assert base is not None
        return base


class _Copy(Record):
    """The commits of one save of the stack, as git copied them."""

    wip: Oid
    index_commit: Oid | None
    parent: Oid


def find_carried(repository: Repository, reader: ObjectReader, head: Oid, stack: Sequence[Save]) -> Carried | None:
    """Where plain git carried the commits of this stack, newest first; None where it did not.

    They are in the history of `head`; or in the reflog of HEAD, if `head` is the base that they were carried to: then
    somebody has already undone the copies. Raises GitError, CorruptSave.
    """
    if not all(save.manifest.moves_branch for save in stack):
        return None
    own = {save.wip for save in stack}
    for in_history in (True, False):
        for commit in _with_trailer(repository, head, stack, in_history=in_history):
            copies = None if commit in own else _copies(reader, commit, stack)
            if copies is None:
                continue
            places = {copies[-1].parent, *(oid for copy in copies for oid in (copy.wip, copy.index_commit))}
            if in_history or head in places:
                saves, faithful = _on_new_base(repository, reader, stack, copies)
                return Carried(saves, tuple(stack), head in places, faithful)
    return None


def _with_trailer(repository: Repository, head: Oid, stack: Sequence[Save], *, in_history: bool) -> list[Oid]:
    """The commits that name the newest save of the stack, newest first."""
    newest, oldest = stack[0].manifest, stack[-1].manifest
    argv = ["log", "--no-show-signature", "--format=%H", "-F", f"--grep={SAVE_TRAILER}: {newest.save_id}"]
    argv.append(f"--max-count={_MOST_COPIES}")
    if not in_history:
        argv += ["--walk-reflogs", "HEAD"]
    else:
        argv += [head, *([f"^{oldest.head}"] if oldest.head is not None else [])]
    try:
        out = repository.git.run(*argv, "--", timeout=_TIMEOUT)
    except GitError:
        if in_history:
            raise
        return []  # HEAD has no reflog
    return list(dict.fromkeys(out.decode("ascii").split()))


def _copies(reader: ObjectReader, commit: Oid, stack: Sequence[Save]) -> list[_Copy] | None:
    """The copies of the whole stack, newest first, if `commit` is that of its newest WIP commit."""
    found = []
    for save in stack:
        save_id = save.manifest.save_id
        parent = _parent_of(reader, commit, save_id, WIP_SUBJECT)
        if parent is None:
            return None
        # Git drops a copy that changes nothing: the new base has what was staged.
        below = None if save.manifest.index_commit is None else _parent_of(reader, parent, save_id, INDEX_SUBJECT)
        found.append(_Copy(commit, None if below is None else parent, below or parent))
        commit = below or parent
    return found


def _parent_of(reader: ObjectReader, commit: Oid, save_id: str, subject: str) -> Oid | None:
    """The only parent of a commit of this save with such a subject; None for any other commit."""
    data = reader.commit(commit)
    if data is None or parse_trailers(data).save_id != save_id:
        return None
    parents = commit_head(data).parents
    named = data.partition(b"\n\n")[2].startswith(subject.encode("ascii"))
    return parents[0] if named and len(parents) == 1 else None


def base_below(reader: ObjectReader, commit: Oid | None, most: int = 10_000) -> Oid | None:
    """The first commit from `commit` on, by first parents, that is none of gitstate's; None where there is none."""
    for _ in range(most):
        data = None if commit is None else reader.commit(commit)
        if data is None:
            return commit
        ours = data.partition(b"\n\n")[2].startswith((WIP_SUBJECT.encode("ascii"), INDEX_SUBJECT.encode("ascii")))
        if not ours or parse_trailers(data).save_id is None:
            return commit
        parents = commit_head(data).parents
        commit = parents[0] if parents else None
    return commit


def _on_new_base(
    repository: Repository, reader: ObjectReader, stack: Sequence[Save], copies: Sequence[_Copy]
) -> tuple[tuple[Save, ...], bool]:
    """The stack with the commits of now, and whether they hold what was saved."""
    trees = TreeReader(reader)
    head = stack[-1].manifest.head
    bases = (None if head is None else reader.tree_of(head)), reader.tree_of(copies[-1].parent)
    saves, faithful = [], True
    for save, copy in zip(stack, copies, strict=True):
        below = save.manifest.head
        old_below = None if below is None else reader.tree_of(below)
        old_staged = save.files[b"staged"][1] if b"staged" in save.files else old_below
        staged = reader.tree_of(copy.index_commit or copy.parent)
        wip = reader.tree_of(copy.wip)
        for old, new in ((save.wip_tree, wip), (old_staged, staged)):
            paths = [] if old is None else differing_paths(repository, old_below, old)
            faithful = faithful and _holds(trees, paths, (old, new), bases)
        rewritten = _rewritten(trees, save, copy, staged, wip)
        saves.append(rewritten._replace(manifest=rewritten.manifest._replace(base=copies[-1].parent)))
    return tuple(saves), faithful


def _holds(
    trees: TreeReader, paths: Sequence[bytes], trees_of: tuple[Oid | None, Oid], bases: tuple[Oid | None, Oid]
) -> bool:
    """Whether both trees hold the same at each path, those aside that differ between the two bases."""
    old, new = (trees.lookup(tree, paths) for tree in trees_of)
    differing = [path for path in paths if old.get(path) != new.get(path)]
    before, after = (trees.lookup(tree, differing) for tree in bases)
    return all(before.get(path) != after.get(path) for path in differing)


def _rewritten(trees: TreeReader, save: Save, copy: _Copy, staged: Oid, wip: Oid) -> Save:
    """A save as if it had been made on the new base.

    Raw bytes and permissions of a file that git merged with the new base are not those of the merged file.
    """
    manifest = save.manifest
    named = {*manifest.raw, *manifest.modes}
    before, after = trees.lookup(save.wip_tree, named), trees.lookup(wip, named)
    same = {path for path in named if before.get(path) == after.get(path)}
    entries = trees.lookup(staged, manifest.staged)
    return save._replace(
        wip=copy.wip,
        wip_tree=wip,
        files={**save.files, b"staged": (0o040000, staged)},
        manifest=manifest._replace(
            head=copy.parent,
            index_commit=copy.index_commit,
            # There was no index: on a base with files one is made from the trees.
            index_size=-1 if manifest.index_size is None else manifest.index_size,
            staged={path: _entry(entries.get(path)) for path in manifest.staged},
            raw={path: why for path, why in manifest.raw.items() if path in same},
            modes={path: mode for path, mode in manifest.modes.items() if path in same},
        ),
    )


def _entry(leaf: Leaf | None) -> tuple[int, Oid] | None:
    return None if leaf is None else (leaf.mode, leaf.oid)
