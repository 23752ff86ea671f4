"""One save, from the look at the workspace to the last ref: context + snapshot + note → objects → refs → index.

The order is the protocol, each step durable before the next. Objects, then the marker (the commit point), then the
note and the branch, and the index. A kill between any two leaves a state that `recover` completes; nothing before the
marker changes what anyone sees.
"""

from __future__ import annotations

import os
import time

from ..errors import CorruptSave, GitError, GitstateError, RefChanged, TryAgain, UnsupportedSave
from ..format.archive import read_save
from ..format.context import Context, with_values
from ..format.manifest import LeftOut, Manifest, Nested, Save
from ..format.names import NOTES, PENDING, branch_name, checkpoint_ref, marker_ref, new_save_id, save_ref, workspace_id
from ..git import refs
from ..git.command import Git
from ..git.index import IndexMoved, identity, index_lock, kept_index, link_or_copy
from ..git.oid import Oid
from ..git.refs import RefUpdate, RefWriter
from ..git.repository import Repository, open_repository
from ..objects.durable import bring_to_disk
from ..objects.notes import add_note
from ..objects.pack import PackWriter
from ..objects.reader import LARGE, ObjectReader, commit_head
from ..objects.tree import DIRECTORY, REGULAR, Leaf, Tree, TreeReader, edit_tree
from ..snapshot import snapshot
from ..snapshot.snapshot import Snapshot
from ..system import files
from ..system.clock import Deadline, now
from ..system.jsonio import dumps, path_to_json
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.live_context import measured, owned_by, read_live_context
from ..workspace.ownership import frozen_index, next_index, ref_locks, remove_ref_locks, write_journal
from ..workspace.settings import patterns
from ..workspace.state_file import FINISHED, INTERRUPTED, describe_save, state_name, write_state
from .request import SaveResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..git.status import Asked
    from ..system.child import Child
    from .request import SaveRequest

#: Nested repositories deeper than this are listed, not saved.
_NESTING = 8
_TORN = "what is staged of it can't be read"
_PROMISED = "what is staged of it is not in this partial clone: its remote has to give it"
#: A write of fewer bytes than this never waits for the reader of an empty pipe.
_PIPE = 32 << 10


class Saving:
    """One attempt. With `insist` an index that keeps changing is saved as it was seen, and the branch not moved.

    `save` is for the repositories inside.
    """

    def __init__(
        self,
        repository: Repository,
        git: Git,
        request: SaveRequest,
        asked: Asked | None,
        save: Callable[[bytes, SaveRequest], SaveResult],
        *,
        insist: bool,
    ) -> None:
        self.asked = asked
        self.save = save
        self.insist = insist
        self.foreign_marker: RefUpdate | None = None
        self.repository = repository
        self.git = git
        self.request = request
        self.deadline = Deadline(request.deadline)
        self.id = workspace_id(repository)
        self.save_id = new_save_id()
        # Nobody waits for a checkpoint, and there are many of them.
        deflates = request.kind == "checkpoint"
        self.writer = PackWriter(repository.objects, repository.object_format, self.id, deflates=deflates)
        self.frozen = frozen_index(repository)
        self.next = next_index(repository)
        self.reader = ObjectReader(repository.git)
        self.trees = TreeReader(self.reader)
        self.commits: dict[Oid, bytes | None] = {}
        self.staged: list[list[Oid]] = []
        self.updates: RefWriter | None = None
        self.indexing: Child | None = None
        self.child_killed = False
        #: The lock on the notes, while this save holds it.
        self.turn: int | None = None

    def run(self) -> SaveResult:
        repository, request = self.repository, self.request
        marker = marker_ref(self.id)
        checkpoint = checkpoint_ref(self.id)
        try:
            taken = self._take()
            self._ask_for_staged(taken)
            self._check_index()
            self._check_head(taken)
            seen = refs.read_refs(repository, (marker, checkpoint, NOTES))
            context, too_long = self._context(taken)
            taken.left_out += [LeftOut(b"", f"{name}: longer than a context value may be", True) for name in too_long]
            taken.left_out += request.problems
            pending = self._read(seen.get(marker)) or self._adopted(taken)
            nested = self._nested(taken)
            self._pack_staged(taken)
            if request.kind == "checkpoint":
                earlier = self._read(seen.get(checkpoint))
                return self._checkpoint(taken, context, earlier, seen.get(checkpoint), nested)
            if request.kind == "safety":
                return self._safety(taken, context, nested)
            return self._save(taken, context, pending, seen, nested)
        finally:
            self._end_children()
            self.writer.release()

    def _end_children(self) -> None:
        self._end_turn()
        self.reader.close()
        if self.updates is not None:
            self.updates.close()
        if self.indexing is not None and self.indexing.returncode is None:
            self.indexing.kill()
            self.indexing.communicate()

    # -- the snapshot

    def _take(self) -> Snapshot:
        repository, request = self.repository, self.request
        known, never = request.known, state_name(repository)
        # The checkpoint keeps alive what the caller knows: without it nothing vouches for those objects.
        if known is not None and known.archive in refs.read_refs(repository, [checkpoint_ref(self.id)]).values():
            from ..snapshot.incremental import take_since

            taken = take_since(
                known,
                repository,
                self.writer,
                self.reader,
                self.frozen,
                never=never,
                largest=request.largest,
                deadline=self.deadline,
            )
            if taken is not None:
                return taken
        return snapshot.take(
            repository,
            self.writer,
            self.reader,
            self.frozen,
            never=never,
            keep_ignored=[*patterns(repository, "includeIgnored"), *request.keep_ignored],
            keep_paths=request.keep_paths,
            largest=request.largest,
            deadline=self.deadline,
            asked=self.asked,
        )

    def _check_index(self) -> None:
        """Raises IndexMoved where git replaced the index since it was frozen."""
        moved = identity(os.path.join(self.repository.git_dir, b"index")) != identity(self.frozen)
        if moved and not self.insist:
            raise IndexMoved("the index kept changing; nothing was changed", hint="gitstate save")

    def _check_head(self, taken: Snapshot) -> None:
        """Raises IndexMoved where the branch has a commit after all: git takes one that it can't read for unborn."""
        if taken.head is None:
            ref = taken.head_ref
            if ref is None or ref in refs.read_refs(self.repository, [ref]):
                raise IndexMoved("git could not read where HEAD is; nothing was changed", hint="gitstate save")

    def _context(self, taken: Snapshot) -> tuple[Context, list[str]]:
        live, status = read_live_context(self.repository)
        if status == FINISHED:
            live = Context()
        context, too_long = with_values(live, self.request.values)
        pid = self.request.owner_pid
        if pid is not None:
            context = owned_by(context, pid)
        elif context.boot_id is None:
            context = context._replace(boot_id=boot_id())
        return measured(self.repository, context, taken.head_ref), too_long

    def _read(self, archive: Oid | None) -> Save | None:
        if archive is None:
            return None
        try:
            return read_save(archive, self.reader)
        except (CorruptSave, UnsupportedSave):
            # Git ends where it meets an object that it can't read.
            self.reader.restart()
            return None

    def _adopted(self, taken: Snapshot) -> Save | None:
        """The save of a WIP commit that HEAD stands on, under another name of this workspace: its host was renamed."""
        content = self._commit_content(taken.head) if taken.head is not None else None
        if content is None or b"\nGitstate-Save: " not in content:
            return None
        for ref, oid in refs.list_refs(self.repository.git, PENDING).items():
            save = self._read(oid)
            if save is not None and _stands_on(taken, save):
                self.foreign_marker = RefUpdate(ref, None, oid)
                return save
        return None

    def _nested(self, taken: Snapshot) -> tuple[Nested, ...]:
        """Save every repository inside the workspace as a workspace of its own."""
        found = []
        for path in taken.nested:
            full = os.path.join(self.repository.toplevel, path)
            try:
                if self.request.depth >= _NESTING:
                    raise GitstateError("nested too deeply")
                inner = self.request._replace(depth=self.request.depth + 1, strict=False, problems=())
                inner_repository = open_repository(full)
                if inner_repository.toplevel != os.path.realpath(full):
                    raise GitstateError("its .git leads elsewhere")
                result = self.save(full, inner)
                found.append(Nested(path, result.save_id, result.archive))
                if inner_repository.common_dir.startswith(os.path.realpath(full) + b"/"):
                    why = "it is a repository of its own: its save stands in itself, and goes where it goes"
                    taken.left_out.append(LeftOut(path, why, False))
                if result.lost:
                    taken.left_out.append(LeftOut(path, "the repository in it was saved, but not in full", True))
            except (GitstateError, OSError) as error:
                taken.left_out.append(LeftOut(path, f"the repository in it can't be saved: {error}"[:300], True))
                found.append(Nested(path, None, None))
        return tuple(found)

    # -- the three kinds

    def _save(
        self,
        taken: Snapshot,
        context: Context,
        pending: Save | None,
        seen: Mapping[str, Oid],
        nested: tuple[Nested, ...],
    ) -> SaveResult:
        marker = marker_ref(self.id)
        early = pending if pending is not None and pending.manifest.save_id == self.request.replaces else None
        if early is not None:
            if self._is_emptied(taken, early, False):
                early = None
            else:
                pending = self._beneath(early)
        stacked = pending is not None and pending.manifest.moves_branch and _stands_on(taken, pending)
        head_tree = self._tree_of(taken.head)
        if pending is None and not taken.noteworthy and not nested and context.work() == Context().work():
            words = "nothing to save: the worktree is clean and has no context"
            if any(item.lost for item in taken.left_out):
                words = "nothing was saved: all that there is was left out"
            return self._answer("nothing", taken, message=words)
        if pending is not None and self._is_emptied(taken, pending, stacked):
            if stacked:
                # Deletions that a wipe made say nothing; what is new does.
                taken.worktree = {path: leaf for path, leaf in taken.worktree.items() if leaf is not None}
            if not taken.worktree and pending.context.work() == context.work():
                words = "this workspace was emptied or reset: the save that waits holds its work and was left as it is"
                return self._answer(
                    "unchanged",
                    taken,
                    pending.manifest,
                    wip=pending.wip,
                    archive=pending.archive,
                    moved=stacked,
                    message=words,
                )
            if not stacked:
                return self._renew(taken, pending, context, seen)
        moves = taken.head_ref is not None and taken.head_ref.startswith("refs/heads/") and taken.operation is None
        moves = moves and not self.insist and not self.request.stay
        manifest = self._manifest(taken, nested, moves=moves)
        if stacked and pending is not None:
            manifest = manifest._replace(base=pending.manifest.base, below=pending.archive)
        elif pending is not None:
            manifest = manifest._replace(previous=pending.manifest.save_id)
        wip, index_commit, archive, tree, manifest = self._build(taken, context, manifest, head_tree)
        if pending is not None and self._already_held(pending, taken, context, manifest, tree, archive, stacked):
            held = pending.manifest
            return self._answer(
                "unchanged",
                taken,
                held,
                wip=pending.wip,
                archive=pending.archive,
                moved=pending.manifest.moves_branch and stacked,
                message="nothing changed since the last save",
            )
        # Git works on the index while the objects come to the disk.
        exchange = self._start_exchange(taken) if moves else None
        note = self.writer.add("blob", dumps(_note(context, manifest, archive)))
        notes_tip = seen.get(NOTES)
        notes_new = self._note(notes_tip, wip, note)
        dropped = [] if early is None else [(save_ref(self.id, early.manifest.save_id), early.archive)]
        self._journal_locks(taken.head_ref if moves else None, *(ref for ref, _ in dropped))
        kept = None if self.request.stay else self._keep_index(taken)
        marked = [
            RefUpdate(save_ref(self.id, self.save_id), archive, None),
            RefUpdate(marker, archive, seen.get(marker)),
            *([self.foreign_marker] if self.foreign_marker else []),
            *(RefUpdate(ref, None, oid) for ref, oid in dropped),
        ]
        branch = RefUpdate(taken.head_ref, wip, taken.head) if moves and taken.head_ref is not None else None
        updates = self._make_durable(marked, kept)
        self._check_index()
        updates.carry_out()
        # The marker stands: what fails from here on is said, and takes nothing back.
        updates.sync(marked)
        # Only now: a commit of the agent would wait for the branch as long as the disk takes, and fail.
        joined = branch is not None and self._begin_both(branch, notes_tip, notes_new)
        self._publish(context, manifest, wip, archive)
        moved, trouble = self._end_both(branch, notes_tip, notes_new) if joined and branch else (False, "")
        troubles = [trouble]
        if not moved:
            troubles.append(self._move_notes(notes_tip, notes_new, wip, note))
            if branch is not None:
                moved, trouble = self._move_branch(branch)
                troubles.append(trouble)
        updates.end()
        if exchange is not None:
            troubles.append(self._finish_exchange(exchange, moved))
        message = "; ".join(trouble for trouble in troubles if trouble)
        return self._answer(
            "saved", taken, manifest, wip=wip, archive=archive, index_commit=index_commit, moved=moved, message=message
        )

    def _beneath(self, early: Save) -> Save | None:
        """What waited before an early save of the same end of a run."""
        if early.manifest.below is not None:
            return self._read(early.manifest.below)
        if early.manifest.previous is None:
            return None
        ref = save_ref(self.id, early.manifest.previous)
        return self._read(refs.read_refs(self.repository, [ref]).get(ref))

    def _checkpoint(
        self,
        taken: Snapshot,
        context: Context,
        earlier: Save | None,
        old: Oid | None,
        nested: tuple[Nested, ...],
    ) -> SaveResult:
        head_tree = self._tree_of(taken.head)
        manifest = self._manifest(taken, nested, moves=False)
        wip, index_commit, archive, tree, manifest = self._build(taken, context, manifest, head_tree)
        if earlier is not None and self._same(earlier, context, manifest, tree, archive):
            return self._answer(
                "unchanged",
                taken,
                earlier.manifest,
                wip=earlier.wip,
                archive=earlier.archive,
                message="nothing changed since the last checkpoint",
            )
        self._journal_locks(None)
        self._move([RefUpdate(checkpoint_ref(self.id), archive, old)])
        return self._answer("saved", taken, manifest, wip=wip, archive=archive, index_commit=index_commit)

    def _safety(self, taken: Snapshot, context: Context, nested: tuple[Nested, ...]) -> SaveResult:
        if not taken.dirty:
            return self._answer("nothing", taken)
        manifest = self._manifest(taken, nested, moves=False)
        wip, index_commit, archive, _, manifest = self._build(taken, context, manifest, self._tree_of(taken.head))
        self._journal_locks(None)
        self._move([RefUpdate(save_ref(self.id, self.save_id), archive, None)])
        return self._answer("saved", taken, manifest, wip=wip, archive=archive, index_commit=index_commit)

    # -- objects

    def _tree_of(self, commit: Oid | None) -> Oid | None:
        if commit is None:
            return None
        content = self._commit_content(commit)
        if content is None:
            raise GitError(["cat-file"], -1, f"commit {commit} is missing".encode())
        return commit_head(content)[0]

    def _commit_content(self, oid: Oid) -> bytes | None:
        """A raw commit, read once; None where there is none."""
        if oid not in self.commits:
            found = self.reader.contents([oid])[0]
            self.commits[oid] = found[1] if found is not None and found[0] == "commit" else None
        return self.commits[oid]

    def _manifest(self, taken: Snapshot, nested: tuple[Nested, ...], *, moves: bool) -> Manifest:
        return Manifest(
            save_id=self.save_id,
            kind=self.request.kind,
            workspace_id=self.id,
            created=now(),
            head_ref=taken.head_ref,
            head=taken.head,
            base=taken.head,
            index_commit=None,
            moves_branch=moves,
            below=None,
            previous=None,
            operation=taken.operation,
            operation_files=tuple(taken.operation_files),
            index_size=taken.index_file.size if taken.index_file else None,
            index_checksum=taken.index_file.checksum if taken.index_file else None,
            index_mtime_ns=taken.index_file.mtime_ns if taken.index_file else None,
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
            reason=self.request.reason,
        )

    def _build(
        self, taken: Snapshot, context: Context, manifest: Manifest, head_tree: Oid | None
    ) -> tuple[Oid, Oid | None, Oid, Oid, Manifest]:
        """WIP commit, index commit, archive commit, the WIP's tree, and the manifest as it was written."""
        add = self.writer.add
        # The larger first: it reads all the trees that the other needs.
        tree = edit_tree(head_tree, {**taken.staged, **taken.worktree}, self.trees, add)
        staged_tree = edit_tree(head_tree, taken.staged, self.trees, add)
        parent, index_commit = taken.head, None
        if taken.staged and taken.head is not None and staged_tree != head_tree:
            subject = f"index(gitstate): {_subject(context)}"
            parent = index_commit = self._commit(staged_tree, [taken.head], subject, manifest.save_id, manifest.base)
        subject = f"WIP(gitstate): {_subject(context)}"
        wip = self._commit(tree, [parent] if parent else [], subject, manifest.save_id, manifest.base)
        manifest = manifest._replace(index_commit=index_commit)
        entries: dict[bytes, Leaf | None] = {
            b"context.json": Leaf(REGULAR, add("blob", dumps(context.to_json()))),
            b"manifest.json": Leaf(REGULAR, add("blob", dumps(manifest.to_json()))),
            b"staged": Leaf(DIRECTORY, staged_tree),
        }
        if taken.index is not None:
            entries[b"index"] = Leaf(REGULAR, taken.index)
        if taken.shared_index is not None:
            entries[b"sharedindex"] = Leaf(REGULAR, taken.shared_index[1])
        if taken.sparse_file is not None:
            entries[b"sparse-checkout"] = Leaf(REGULAR, taken.sparse_file)
        for stage, leaves in taken.stages.items():
            entries.update({b"stages/%d/%s" % (stage, path): leaf for path, leaf in leaves.items()})
        entries.update({b"operation/" + path: leaf for path, leaf in taken.operation_files.items()})
        entries.update({b"keep/%d" % number: leaf for number, leaf in enumerate(taken.keep_others)})
        entries.update({b"raw/" + path: leaf for path, (leaf, _) in taken.raw.items()})
        parents = [wip, *([manifest.below] if manifest.below else []), *taken.keep_commits]
        archive_tree = edit_tree(None, entries, self.trees, add)
        subject = f"archive(gitstate): {_subject(context)}"
        archive = self._commit(archive_tree, parents, subject, manifest.save_id, manifest.base)
        return wip, index_commit, archive, tree, manifest

    def _ask_for_staged(self, taken: Snapshot) -> None:
        """Ask for the staged blobs: the agent's `git add` may not have reached the disk, so our pack holds them too.

        In portions of few bytes, the first of which git makes ready while the rest of the save is thought out.
        """
        oids = [oid for oid in taken.staged_blobs() if oid not in self.writer]
        left = 0
        for oid, info in zip(oids, self._kinds(oids), strict=True):
            size = 0 if info is None else info[1]
            if size > LARGE or (info is not None and info[0] != "blob"):
                continue
            if not self.staged or size > left:
                self.staged.append([])
                left = LARGE
            self.staged[-1].append(oid)
            left -= size
        if self.staged:
            self.reader.foresee_contents(self.staged[0])

    def _kinds(self, oids: Sequence[Oid]) -> list[tuple[str, int] | None]:
        """Kind and size of each object; None for one that git can't read."""
        try:
            return self.reader.kinds(oids)
        except GitError:
            self.reader.restart()
            middle = len(oids) // 2
            return self._kinds(oids[:middle]) + self._kinds(oids[middle:]) if middle else [None] * len(oids)

    def _pack_staged(self, taken: Snapshot) -> None:
        """Put the staged blobs into our pack. A power cut may have torn one that was never synced: it is left out."""
        torn = {oid for portion in self.staged for oid in self._unreadable(portion)}
        promised = any(key.startswith("remote.") and key.endswith(".promisor") for key in self.repository.config)
        for path, leaf in list(taken.staged.items()) if torn else ():
            if leaf is None or leaf.oid not in torn:
                continue
            there = self._small_file(path)
            if there is not None and self.writer.add("blob", there) == leaf.oid:
                continue
            if promised:
                taken.left_out.append(LeftOut(path, _PROMISED, False))
                continue
            del taken.staged[path]
            if there is not None and path not in taken.worktree:
                taken.worktree[path] = Leaf(leaf.mode, self.writer.add("blob", there))
            taken.left_out.append(LeftOut(path, _TORN, True))
        for leaves in () if promised else taken.stages.values():
            for path in [path for path, leaf in leaves.items() if leaf.oid in torn]:
                del leaves[path]
                taken.left_out.append(LeftOut(path, _TORN, True))

    def _unreadable(self, oids: Sequence[Oid]) -> list[Oid]:
        """Put blobs into our pack; those that git can't read."""
        try:
            found = self.reader.contents(oids)
        except GitError:
            self.reader.restart()
            middle = len(oids) // 2
            return self._unreadable(oids[:middle]) + self._unreadable(oids[middle:]) if middle else list(oids)
        for content in found:
            if content is not None:
                self.writer.add("blob", content[1])
        return [oid for oid, content in zip(oids, found, strict=True) if content is None]

    def _small_file(self, path: bytes) -> bytes | None:
        """What is in the file or symlink at `path` itself, where it is reached through no symlink and not large."""
        full = os.path.join(self.repository.toplevel, path)
        if os.path.realpath(os.path.dirname(full)) != os.path.dirname(full):
            return None
        return os.readlink(full) if os.path.islink(full) else files.read_limited(full, LARGE)

    def _commit(self, tree: Oid, parents: Sequence[Oid], subject: str, save_id: str, base: Oid | None) -> Oid:
        stamp = self._stamp()
        head = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {stamp}", f"committer {stamp}"]
        trailers = f"Gitstate-Save: {save_id}\nGitstate-Base: {base or self.repository.zero}\n"
        text = "\n".join(head) + f"\n\n{subject}\n\n{trailers}"
        return self.writer.add("commit", text.encode("utf-8", "surrogateescape"))

    def _stamp(self) -> str:
        """Identity and time for a commit: the user's name where one is configured, never asked for."""
        name = self.repository.setting("user.name") or "gitstate"
        email = self.repository.setting("user.email") or "gitstate@localhost"
        cleaned = ["".join(c for c in word if c.isprintable() and c not in "<>").strip() for word in (name, email)]
        return f"{cleaned[0] or 'gitstate'} <{cleaned[1] or 'gitstate@localhost'}> {int(time.time())} +0000"

    def _note(self, tip: Oid | None, wip: Oid, note: Oid) -> Oid:
        return add_note(tip, wip, note, self._stamp(), self.reader, self.trees, self.writer.add)

    def _make_durable(self, updates: Sequence[RefUpdate], kept: bytes | None = None) -> RefWriter:
        """Everything that `updates` will reach is on the disk when this returns; `carry_out` then moves them.

        So is the file `kept`.
        """
        self.reader.end()
        self.writer.finish()
        # Only now: a child may have to wait for the one that was started before it, and so does who starts it.
        writer = self.updates = RefWriter(self.repository, self.git, f"save {self.save_id}")
        # To delete a ref git locks `packed-refs`, and a reftable in any case, for which others wait: not for as long as
        # the disk takes.
        at_once = refs.are_files(self.repository) and all(update.new is not None for update in updates)
        if at_once:
            writer.prepare(updates)
        bring_to_disk(self.repository, self.id)
        if kept is not None:
            files.fsync_path(kept)
            files.fsync_path(self.repository.own)
        if not at_once:
            writer.prepare(updates)
        return writer

    # -- refs

    def _move(self, updates: Sequence[RefUpdate]) -> None:
        """Objects, then `updates`: durable, both."""
        writer = self._make_durable(updates)
        writer.carry_out()
        writer.sync(updates)

    def _journal_locks(self, *others: str | None) -> None:
        own = (save_ref(self.id, self.save_id), marker_ref(self.id), checkpoint_ref(self.id))
        names = [*own, NOTES, *(ref for ref in others if ref is not None)]
        write_journal(self.repository, ref_locks(self.repository, names))

    def _begin_both(self, branch: RefUpdate, tip: Oid | None, new: Oid) -> bool:
        """Begin to move the notes ref and the branch in one transaction; False where someone holds either."""
        if any(map(os.path.lexists, ref_locks(self.repository, (NOTES, branch.ref)))):
            # Git would wait for it here, and then once more for each of them alone.
            return False
        try:
            self.turn = files.lock(*self._notes_turn(0.0))
        except (GitstateError, OSError):
            return False
        assert self.updates is not None
        self.updates.prepare([RefUpdate(NOTES, new, tip), branch], and_move=True)
        return True

    def _end_both(self, branch: RefUpdate, tip: Oid | None, new: Oid) -> tuple[bool, str]:
        """What came of what `_begin_both` began; False where others moved either."""
        assert self.updates is not None
        try:
            self.updates.carry_out()
            try:
                self.updates.sync([RefUpdate(NOTES, new, tip), branch])
                return True, ""
            except OSError as error:
                # Moved, but not synced: and the kernel tells of a write that failed only once (`man 2 fsync`).
                return True, f"the save is whole, but its note may not be on the disk: {error.strerror or error}"
        except GitError as error:
            if error.status < 0:
                self.child_killed = True
                # The next git would find both locked by one that is gone.
                with suppress(OSError):
                    remove_ref_locks(self.repository)
        except (GitstateError, OSError):
            pass
        finally:
            self._end_turn()
        return False, ""

    def _end_turn(self) -> None:
        if self.turn is not None:
            os.close(self.turn)
            self.turn = None

    def _move_notes(self, tip: Oid | None, new: Oid, wip: Oid, note: Oid) -> str:
        """Move the notes ref, or say why not: the marker stands, and the save with it."""
        try:
            why = self._add_note(tip, new, wip, note)
        except TryAgain:
            why = "another gitstate held the notes"
        except GitError as error:
            self.child_killed |= error.status < 0
            why = error.message
        except OSError as error:
            why = error.strerror or str(error)
        return why and f"the save is whole, but its note could not be added: {why}"

    def _add_note(self, tip: Oid | None, new: Oid, wip: Oid, note: Oid) -> str:
        """Where another save was faster, build the note again on top of what it left; why that was in vain."""
        repository = self.repository
        with files.locked(*self._notes_turn(self.request.wait)):
            for _ in range(50):
                current = refs.read_refs(repository, [NOTES]).get(NOTES)
                if current != tip:
                    tip = current
                    with ObjectReader(repository.git) as reader:
                        writer = PackWriter(repository.objects, repository.object_format, self.id)
                        new = add_note(tip, wip, note, self._stamp(), reader, TreeReader(reader), writer.add)
                        writer.finish()
                        self.writer.adopt(writer)
                try:
                    assert self.updates is not None
                    self.updates.commit([RefUpdate(NOTES, new, tip)])
                    return ""
                except RefChanged:
                    continue
        return "others kept moving the notes"

    def _notes_turn(self, wait: float) -> tuple[bytes, Deadline, str]:
        """A lock keeps savers of one repository from spinning; git processes of others are met by compare and swap."""
        return os.path.join(self.repository.common_dir, b"gitstate", b"notes-turn"), Deadline(wait), "the notes"

    def _move_branch(self, branch: RefUpdate) -> tuple[bool, str]:
        try:
            assert self.updates is not None
            self.updates.commit([branch])
            return True, ""
        except RefChanged:
            if refs.read_refs(self.repository, [branch.ref]).get(branch.ref) == branch.new:
                # A git that was killed after it had moved it.
                return True, ""
            return False, "the branch moved while it was saved: the save is whole, the branch was left alone"
        except GitError as error:
            self.child_killed |= error.status < 0
            return False, f"the save is whole, but the branch could not be moved: {error.message}"
        except OSError as error:
            return False, f"the save is whole, but the branch could not be moved: {error.strerror or error}"

    # -- the index

    def _keep_index(self, taken: Snapshot) -> bytes | None:
        """Keep the very index file that is saved, until `recover` puts it back or a later save takes its place."""
        kept = kept_index(self.repository, self.save_id)
        if taken.index_file is None:
            return None
        link_or_copy(self.frozen, kept)
        return kept

    def _start_exchange(self, taken: Snapshot) -> Callable[[], None]:
        """Begin to make an index that matches the WIP commit; the answer waits for it to be ready."""
        files.remove(self.next)
        if taken.index_file is not None:
            link_or_copy(self.frozen, self.next)
        zero = self.repository.zero.encode("ascii")
        entries = {**dict.fromkeys(taken.intent_to_add), **taken.worktree}
        lines = [b"0 %s\t%s\0" % (zero, path) for path, leaf in entries.items() if leaf is None]
        lines += [
            b"%o %s\t%s\0" % (leaf.mode, leaf.oid.encode("ascii"), path)
            for path, leaf in sorted(entries.items())
            if leaf is not None
        ]
        if not lines:
            return lambda: None
        process = self.git.start(
            *("-c", "core.splitIndex=false", "-c", "core.fsync=index", "update-index", "-z", "--index-info"),
            extra={"GIT_INDEX_FILE": os.fsdecode(self.next)},
        )
        self.indexing = process
        given = b"".join(lines)
        if len(given) < _PIPE:
            # It reads and works while the pack is written.
            process.end_input(given)
            given = b""

        def wait() -> None:
            self.git.finish(process, given=given)

        return wait

    def _finish_exchange(self, wait: Callable[[], None], moved: bool) -> str:
        """Put the new index in place of the one that was saved, which was kept for `recover`."""
        try:
            wait()
            if moved and os.path.exists(self.next):
                self._exchange()
            return ""
        except GitError as error:
            return f"the save is whole, but the index could not be exchanged: {error.message}"

    def _exchange(self) -> None:
        git_dir = self.repository.git_dir
        index = os.path.join(git_dir, b"index")
        with index_lock(self.repository):
            if identity(index) != identity(self.frozen):
                return
            os.rename(self.next, index)
            files.fsync_path(git_dir)

    # -- what is said

    def _publish(self, context: Context, manifest: Manifest, wip: Oid, archive: Oid) -> None:
        described = describe_save(manifest, wip=wip, archive=archive)
        with suppress(OSError):
            if manifest.below is None:
                mine = os.path.basename(kept_index(self.repository, manifest.save_id))
                for name in os.listdir(self.repository.own):
                    if name.startswith(b"index.") and name != mine:
                        files.remove(os.path.join(self.repository.own, name))
            write_state(
                self.repository,
                context,
                INTERRUPTED,
                reason=manifest.reason.to_json(),
                save=described,
                resume="gitstate recover",
                durable=False,
            )

    def _answer(
        self,
        result: str,
        taken: Snapshot,
        manifest: Manifest | None = None,
        *,
        wip: Oid | None = None,
        archive: Oid | None = None,
        index_commit: Oid | None = None,
        moved: bool = False,
        message: str = "",
    ) -> SaveResult:
        return SaveResult(
            result=result,
            workspace=self.repository.toplevel,
            branch=None if taken.head_ref is None else branch_name(taken.head_ref),
            save_id=manifest.save_id if manifest else None,
            wip_commit=wip,
            base_commit=manifest.base if manifest else None,
            index_commit=index_commit,
            archive=archive,
            branch_moved=moved,
            left_out=tuple(taken.left_out),
            message=message,
            taken=taken,
            written=self.writer.written,
        )

    def _is_emptied(self, taken: Snapshot, pending: Save, stacked: bool) -> bool:
        """Whether the work that a waiting save holds is gone from the disk: wiped, or reset to what it stands on.

        A save of that as it is would take the marker from the one that matters.
        """
        if stacked:
            names = [name for name in self.trees.tree(pending.wip_tree).records if not name.startswith(b".")]
            return bool(names) and not any(
                os.path.lexists(os.path.join(self.repository.toplevel, name)) for name in names
            )
        holds = pending.wip_tree != self._tree_of(pending.manifest.head) or bool(pending.manifest.staged)
        return holds and taken.head == pending.manifest.head and not taken.dirty and not taken.nested

    def _renew(self, taken: Snapshot, pending: Save, context: Context, seen: Mapping[str, Oid]) -> SaveResult:
        """The waiting save once more under a new context."""
        old = pending.manifest
        manifest = old._replace(save_id=self.save_id, created=now(), reason=self.request.reason)
        add = self.writer.add
        commits = [self.reader.contents([oid])[0] for oid in (pending.archive, pending.wip)]
        if commits[0] is None or commits[1] is None:
            raise CorruptSave(f"the save {old.save_id} can't be read", hint="gitstate log")
        subject = _subject(context)
        wip_tree, wip_parents = commit_head(commits[1][1])
        wip = self._commit(wip_tree, wip_parents, f"WIP(gitstate): {subject}", self.save_id, manifest.base)
        tree, parents = commit_head(commits[0][1])
        changes: dict[bytes, Leaf | None] = {
            b"context.json": Leaf(REGULAR, add("blob", dumps(context.to_json()))),
            b"manifest.json": Leaf(REGULAR, add("blob", dumps(manifest.to_json()))),
        }
        archive_tree = edit_tree(tree, changes, self.trees, add)
        archive = self._commit(
            archive_tree, [wip, *parents[1:]], f"archive(gitstate): {subject}", self.save_id, manifest.base
        )
        note = add("blob", dumps(_note(context, manifest, archive)))
        tip = seen.get(NOTES)
        notes_new = self._note(tip, wip, note)
        self._journal_locks(None)
        kept = kept_index(self.repository, old.save_id)
        if os.path.exists(kept):
            link_or_copy(kept, kept_index(self.repository, self.save_id))
        marker = marker_ref(self.id)
        self._move(
            [
                RefUpdate(save_ref(self.id, self.save_id), archive, None),
                RefUpdate(marker, archive, seen.get(marker)),
            ]
        )
        trouble = self._move_notes(tip, notes_new, wip, note)
        self._publish(context, manifest, wip, archive)
        words = "this workspace was reset: the work of the save that waits was taken over into this one"
        message = "; ".join(word for word in (words, trouble) if word)
        return self._answer("saved", taken, manifest, wip=wip, archive=archive, message=message)

    def _already_held(
        self,
        pending: Save,
        taken: Snapshot,
        context: Context,
        manifest: Manifest,
        tree: Oid,
        archive: Oid,
        stacked: bool,
    ) -> bool:
        """Whether the waiting save holds all of this, so that another one would say nothing new."""
        if pending.context.work() != context.work():
            return False
        if stacked:
            old = pending.manifest
            raws = self.trees.lookup(pending.files.get(b"raw", (0, None))[1], taken.raw)
            return (
                tree == pending.wip_tree
                and taken.operation == old.operation
                and not taken.operation_files.keys() - set(old.operation_files) - {b"ORIG_HEAD"}
                and not taken.stages
                and manifest.absent == old.absent
                and manifest.sparse == old.sparse
                and not taken.staged
                and not taken.intent_to_add
                and all(raws.get(path) == leaf for path, (leaf, _) in taken.raw.items())
                and all(old.modes.get(path) == mode for path, mode in manifest.modes.items())
                and all(path in manifest.modes or self._permissions(path) == mode for path, mode in old.modes.items())
                and old.directories == manifest.directories
                and old.left_out == manifest.left_out
            )
        return pending.manifest.head == taken.head and self._same(pending, context, manifest, tree, archive)

    def _permissions(self, path: bytes) -> int | None:
        with suppress(OSError):
            return os.lstat(os.path.join(self.repository.toplevel, path)).st_mode & 0o777
        return None

    def _same(self, earlier: Save, context: Context, manifest: Manifest, tree: Oid, archive: Oid) -> bool:
        if earlier.wip_tree != tree or earlier.context.work() != context.work():
            return False
        volatile = dict.fromkeys(
            (
                "save_id",
                "created",
                "index_size",
                "index_checksum",
                "index_mtime_ns",
                "index_commit",
                "reason",
                "previous",
                "below",
                "base",
                "nested",
            )
        )
        if {**earlier.manifest.to_json(), **volatile} != {**manifest.to_json(), **volatile}:
            return False
        ours = self._archive_entries(archive)
        return all(
            earlier.files.get(name) == ours.get(name)
            for name in (b"raw", b"stages", b"operation", b"staged", b"sparse-checkout", b"sharedindex")
        )

    def _archive_entries(self, archive: Oid) -> dict[bytes, tuple[int, Oid]]:
        tree = commit_head(self.writer.content(archive))[0]
        entries = Tree(self.writer.content(tree), len(tree) // 2).leaves()
        return {name: (leaf.mode, leaf.oid) for name, leaf in entries.items()}


def _stands_on(taken: Snapshot, pending: Save) -> bool:
    return taken.head == pending.wip and taken.head_ref == pending.manifest.head_ref


def _subject(context: Context) -> str:
    """One line for a commit's subject: control characters and line ends of a caller's words are gone."""
    words = " ".join(str(word) for word in (context.task_id, context.progress_stage) if word)
    line = "".join(c if c.isprintable() else " " for c in words)
    return " ".join(line.split())[:60] or "work in progress"


def _note(context: Context, manifest: Manifest, archive: Oid) -> dict[str, object]:
    """The note on the WIP commit: the context, and enough to find and to judge the save."""
    return {
        "schema_version": 1,
        **context.to_json(),
        "reason": manifest.reason.to_json(),
        "save_id": manifest.save_id,
        "base_commit": manifest.base,
        "archive": archive,
        "incomplete": manifest.incomplete,
        "left_out": [{**path_to_json(item.path), "reason": item.reason} for item in manifest.left_out[:1000]],
    }
