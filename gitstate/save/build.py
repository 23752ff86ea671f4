"""Plan → objects: index commit, WIP commit, archive. They are collected in a pack; `publish` brings it to the disk."""

from __future__ import annotations

import os
import time

from ..errors import BadJson, CorruptSave, GitError, GitstateError, MissingObject, UnsupportedSave
from ..format.manifest import MAX_MANIFEST, LeftOut, Manifest, read_manifest
from ..format.names import (
    ARCHIVE_SUBJECT,
    INDEX_SUBJECT,
    WIP_SUBJECT,
    format_message,
    parse_trailers,
    workspace_id,
)
from ..objects.edit import edit_tree
from ..objects.reader import commit_head, format_commit
from ..objects.tree import DIRECTORY, REGULAR, Leaf, Tree, TreeReader
from ..system import files
from ..system.clock import now
from ..system.jsonio import dumps
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.ownership import frozen_index, kept_index
from .plan import stack_holds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..format.context import Context
    from ..format.manifest import Nested, Save
    from ..git.command import Oid
    from ..git.repository import Repository
    from ..objects.pack import PackWriter
    from ..objects.reader import ObjectReader
    from ..snapshot.record import Snapshot
    from .plan import SavePlan
    from .request import SaveRequest


class Built(Record):
    """The objects of one save, in the pack and not yet on the disk."""

    wip: Oid
    index_commit: Oid | None
    """None where nothing is staged, or nothing that changes HEAD's tree."""
    archive: Oid
    tree: Oid
    """The tree of the WIP commit."""
    manifest: Manifest
    """As it stands in the archive."""
    top: bytes = b""
    """The archive's tree as a raw object; empty where nobody compares it with that of an earlier save."""

    def entries(self) -> dict[bytes, tuple[int, Oid]]:
        """Mode and oid by name at the top of the archive."""
        return {name: (leaf.mode, leaf.oid) for name, leaf in Tree(self.top, len(self.archive) // 2).leaves().items()}


class Builder:
    """Builds the objects of the save `save_id` in `writer`, on top of what `reader` reads."""

    def __init__(self, repository: Repository, save_id: str, writer: PackWriter, reader: ObjectReader) -> None:
        self.repository = repository
        self.save_id = save_id
        self.writer = writer
        self.reader = reader
        self.trees = TreeReader(reader)
        self._commits: dict[Oid, bytes | None] = {}

    # -- what is there

    def commit_content(self, oid: Oid) -> bytes | None:
        """A raw commit, read once; None where there is none."""
        if oid not in self._commits:
            self._commits[oid] = self.reader.commit(oid)
        return self._commits[oid]

    def tree_of(self, commit: Oid | None) -> Oid | None:
        """The tree of a commit; None for None. Raises MissingObject."""
        if commit is None:
            return None
        content = self.commit_content(commit)
        if content is None:
            raise MissingObject(commit)
        return commit_head(content).tree

    def is_wip(self, commit: Oid | None) -> bool:
        """Whether a commit is one of a save, by its trailer."""
        content = None if commit is None else self.commit_content(commit)
        return content is not None and parse_trailers(content).save_id is not None

    def earlier(self, archive: Oid | None) -> Save | None:
        """An earlier save; None where there is none, or none that this gitstate can read."""
        if archive is None:
            return None
        from ..format.archive import SavesAhead

        try:
            return SavesAhead([archive], self.reader).read(archive)
        except (CorruptSave, UnsupportedSave):
            # `git cat-file` ends at an object that it can't read.
            self.reader.restart()
            return None

    # -- what is new

    def omit_held(self, earlier: Save, taken: Snapshot) -> None:
        """Take those files out of the pack that an earlier checkpoint holds: its ref keeps them until ours does."""
        paths = [path for path, leaf in taken.worktree.items() if leaf is not None and leaf.oid in self.writer]
        try:
            there = self.trees.lookup(earlier.wip_tree, paths)
            held = [leaf.oid for path, leaf in there.items() if (now := taken.worktree[path]) and leaf.oid == now.oid]
            infos = self.reader.kinds(held)
        except GitError:
            # An object is missing or damaged: all that was read is written.
            self.reader.restart()
            return
        self.writer.forget([oid for oid, info in zip(held, infos, strict=True) if info and info[0] == "blob"])

    def manifest(self, request: SaveRequest, plan: SavePlan, taken: Snapshot, nested: tuple[Nested, ...]) -> Manifest:
        """The manifest of the planned save, before it is known whether there is an index commit."""
        index = taken.index_file
        return Manifest(
            save_id=self.save_id,
            kind=request.kind,
            workspace_id=workspace_id(self.repository),
            created=now(),
            head_ref=taken.head_ref,
            head=request.broken.head if request.broken is not None and request.broken.head else taken.head,
            base=plan.base,
            index_commit=None,
            moves_branch=plan.branch is not None,
            below=plan.below,
            previous=plan.previous,
            operation=taken.operation,
            operation_files=tuple(taken.operation_files),
            index_size=index.size if index else None,
            index_checksum=index.checksum if index else None,
            index_mtime_ns=index.mtime_ns if index else None,
            shared_index=taken.shared_index[0] if taken.shared_index else None,
            staged={path: None if leaf is None else (leaf.mode, leaf.oid) for path, leaf in taken.staged.items()},
            intent_to_add=tuple(taken.intent_to_add),
            modes=taken.modes,
            directories=taken.directories,
            raw={path: why for path, (_, why) in taken.raw.items()},
            absent=tuple(taken.absent),
            sparse=taken.sparse,
            nested=nested,
            left_out=tuple(taken.left_out),
            ignored=tuple(taken.ignored),
            reason=request.reason,
            index_is_plain=taken.index_is_plain,
            special=taken.special,
            label=request.label,
            sparse_directories=tuple(taken.sparse_directories),
            worktree_settings=taken.worktree_settings,
            absent_submodules=tuple(taken.absent_submodules),
        )

    def build(self, plan: SavePlan, taken: Snapshot, context: Context, manifest: Manifest) -> Built:
        """All objects of one save."""
        add = self.writer.add
        head_tree = self.tree_of(taken.head)
        # The larger one first: it reads all the trees that the other needs.
        tree = edit_tree(head_tree, {**taken.staged, **taken.worktree}, self.trees, add)
        staged_tree = edit_tree(head_tree, taken.staged, self.trees, add)
        subject = subject_of(context)
        parents = [taken.head] if taken.head else []
        index_commit = None
        if plan.index_commit and staged_tree != head_tree:
            index_commit = self.commit(staged_tree, parents, INDEX_SUBJECT + subject, plan.base)
            parents = [index_commit]
        wip = self.commit(tree, parents, WIP_SUBJECT + subject, plan.base)
        manifest = manifest._replace(index_commit=index_commit)
        top = b""

        def add_tree(kind: str, data: bytes) -> Oid:
            """Note the tree that is written last: the top one."""
            nonlocal top
            top = data
            return add(kind, data)

        manifest = readable(manifest, taken)
        archive_tree = edit_tree(None, self._entries(taken, context, manifest, staged_tree), self.trees, add_tree)
        held = [wip, *([plan.below] if plan.below else []), *taken.keep_commits]
        archive = self.commit(archive_tree, held, ARCHIVE_SUBJECT + subject, plan.base)
        return Built(wip, index_commit, archive, tree, manifest, top)

    def described(self, context: Context, manifest: Manifest) -> dict[bytes, Leaf | None]:
        """The two JSON files of an archive, by name."""
        return {
            b"context.json": Leaf(REGULAR, self.writer.add("blob", dumps(context.to_json()))),
            b"manifest.json": Leaf(REGULAR, self.writer.add("blob", dumps(manifest.to_json()))),
        }

    def _entries(
        self, taken: Snapshot, context: Context, manifest: Manifest, staged_tree: Oid
    ) -> dict[bytes, Leaf | None]:
        """What the archive's tree holds, by path."""
        entries = self.described(context, manifest)
        entries[b"staged"] = Leaf(DIRECTORY, staged_tree)
        if taken.index is not None:
            entries[b"index"] = Leaf(REGULAR, taken.index)
        if taken.shared_index is not None:
            entries[b"sharedindex"] = Leaf(REGULAR, taken.shared_index[1])
        if taken.sparse_file is not None:
            entries[b"sparse-checkout"] = Leaf(REGULAR, taken.sparse_file)
        for stage, leaves in taken.stages.items():
            entries.update({b"stages/%d/%s" % (stage, path): leaf for path, leaf in leaves.items()})
        entries.update({b"operation/" + path: leaf for path, leaf in taken.operation_files.items()})
        kept = list(taken.keep_others)
        if taken.intent_to_add:
            # The index names the empty blob for them, and nothing else may hold it.
            kept.append(Leaf(REGULAR, self.writer.add("blob", b"")))
        entries.update({b"keep/%d" % number: leaf for number, leaf in enumerate(kept)})
        entries.update({b"raw/" + path: leaf for path, (leaf, _) in taken.raw.items()})
        return entries

    def commit(self, tree: Oid, parents: Sequence[Oid], subject: str, base: Oid | None) -> Oid:
        """One commit, with the trailers by which recover finds the save where its refs are lost."""
        message = format_message(subject, self.save_id, base or self.repository.zero)
        return self.writer.add("commit", format_commit(tree, parents, self.stamp(), message))

    def stamp(self) -> str:
        """Identity and time for a commit: the user's name where one is configured; nobody is asked for one."""
        name = self.repository.setting("user.name") or "gitstate"
        email = self.repository.setting("user.email") or "gitstate@localhost"
        cleaned = ["".join(c for c in word if c.isprintable() and c not in "<>").strip() for word in (name, email)]
        return f"{cleaned[0] or 'gitstate'} <{cleaned[1] or 'gitstate@localhost'}> {int(time.time())} +0000"


#: Of a manifest that is too large these lists go; of what was skipped so many entries stay.
_MOST_SKIPPED = 1000
#: Fewer entries than this never make one too large: each has a path of 4096 bytes at most.
_FEW = 2000


def readable(manifest: Manifest, taken: Snapshot, most: int = MAX_MANIFEST) -> Manifest:
    """The manifest, without what makes it larger than the `most` bytes that are read; `taken` names that as skipped.

    Raises GitstateError where it is too large all the same: nobody may call that a save.
    """
    entries = sum(map(len, (manifest.staged, manifest.modes, manifest.directories, manifest.left_out, manifest.raw)))
    if entries < _FEW or _is_readable(manifest, most):
        return manifest
    lost = LeftOut(b"", "empty directories, file modes and the rest of this list: too many for one save", True)
    taken.left_out[:] = [lost, *taken.left_out[:_MOST_SKIPPED]]
    smaller = manifest._replace(directories={}, modes={}, left_out=tuple(taken.left_out))
    if not _is_readable(smaller, most):
        raise GitstateError("too many paths for one save; nothing was changed", hint="git stash push -u")
    return smaller


def _is_readable(manifest: Manifest, most: int) -> bool:
    try:
        read_manifest(dumps(manifest.to_json()), most)
    except (BadJson, CorruptSave):
        return False
    return True


def subject_of(context: Context) -> str:
    """Task and stage as one line for a commit's subject, without control characters."""
    words = " ".join(str(word) for word in (context.task_id, context.progress_stage) if word)
    line = "".join(c if c.isprintable() else " " for c in words)
    return " ".join(line.split())[:60] or "work in progress"


def holds_all(save: Save, built: Built, builder: Builder, taken: Snapshot) -> bool:
    """Whether the save on whose WIP commit HEAD is, and whose tree was built again, holds all that was built."""
    raws = builder.trees.lookup(save.files.get(b"raw", (0, None))[1], taken.raw)
    elsewhere = [path for path in save.manifest.modes if path not in built.manifest.modes]
    return stack_holds(
        save.manifest,
        built.manifest,
        unmerged=bool(taken.stages),
        same_raw=all(raws.get(path) == leaf for path, (leaf, _) in taken.raw.items()),
        permissions={path: _permissions(os.path.join(builder.repository.toplevel, path)) for path in elsewhere},
    )


def same_flags(save: Save, manifest: Manifest, builder: Builder, *, stacks: bool) -> bool:
    """Whether the index of now hides from git what the index of an earlier save hides: as a rule neither does.

    With `stacks` what the exchange of the index has brought into the view of git counts as hidden still.
    """
    was = save.manifest
    if (was.index_is_plain and manifest.index_is_plain) or (not was.index_is_plain and b"index" not in save.files):
        return True
    from ..git.entries import hidden_tags
    from .index import saved_hidden_tags, shown_paths

    repository = builder.repository

    def write(oid: Oid, path: bytes) -> None:
        content = builder.reader.contents([oid])[0]
        files.write_new_file(path, () if content is None else (content[1],), mode=0o600, durable=False)

    try:
        copy = files.temporary_name(kept_index(repository, was.save_id))
        then = saved_hidden_tags(repository.git, save, copy, write)
    except GitError:
        # Its shared index is gone.
        return False
    now_hidden = {} if manifest.index_is_plain else hidden_tags(repository.git, frozen_index(repository))
    changed = {path for path in {*then, *now_hidden} if then.get(path) != now_hidden.get(path)}
    if changed and stacks:
        shown = shown_paths(repository, save)
        changed = {path for path in changed if path in now_hidden or path not in shown}
    return not changed


def _permissions(full: bytes) -> int | None:
    with suppress(OSError):
        return os.lstat(full).st_mode & 0o777
    return None
