"""Objects → disk → refs: what must be durable before the marker, the marker, and what follows it."""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, GitstateError, RefChanged, TryAgain, words_of
from ..format.names import (
    ARCHIVE_SUBJECT,
    NOTES,
    WIP_SUBJECT,
    checkpoint_ref,
    inside_ref,
    marker_ref,
    save_ref,
    workspace_id,
)
from ..git import refs
from ..git.refs import RefUpdate, RefWriter
from ..objects.durable import OthersToDisk
from ..objects.edit import edit_tree
from ..objects.notes import NotesRef, add_note
from ..objects.pack import PackWriter
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import TreeReader
from ..system import files
from ..system.clock import now
from ..system.jsonio import dumps, path_to_json
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.live_context import INTERRUPTED, describe_save, write_state
from ..workspace.ownership import forget_other_indexes, name_indexes_anew, ref_locks, remove_ref_locks, write_journal
from .build import Built, subject_of
from .plan import first_refs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..format.context import Context
    from ..format.manifest import Manifest, Save
    from ..git.command import Git, Oid
    from ..git.repository import Repository
    from ..system.clock import Deadline
    from .build import Builder
    from .facts import Scene
    from .plan import SavePlan
    from .request import SaveRequest


class Publisher:
    """Brings the objects of the save `save_id` to the disk, then moves refs to them, in one `git update-ref`."""

    def __init__(
        self, repository: Repository, git: Git, save_id: str, writer: PackWriter, reader: ObjectReader
    ) -> None:
        self.repository = repository
        self.git = git
        self.save_id = save_id
        self.workspace_id = workspace_id(repository)
        self.writer = writer
        self.reader = reader
        #: When git has to have moved the refs.
        self.until: Deadline | None = None
        self._refs: RefWriter | None = None
        #: What others wrote is being brought to the disk.
        self._others: OthersToDisk | None = None

    @property
    def refs(self) -> RefWriter:
        """The process that moves refs; `make_durable` starts it."""
        assert self._refs is not None
        return self._refs

    def journal_locks(self, *others: str | None) -> None:
        """Write down which lock files a kill may leave from here on: those of our refs, and of `others`."""
        own = (
            save_ref(self.workspace_id, self.save_id),
            marker_ref(self.workspace_id),
            checkpoint_ref(self.workspace_id),
            inside_ref(self.workspace_id),
            inside_ref(self.workspace_id, self.save_id),
        )
        names = [*own, NOTES, *(ref for ref in others if ref is not None)]
        write_journal(self.repository, ref_locks(self.repository, names))

    def begin(self) -> None:
        """Start git, and begin to bring to the disk what others wrote, while the caller does something else.

        All that the save relies on, but for what is given to its own pack, must be there when this is called.
        """
        self._start_git()
        self._others = OthersToDisk(self.repository, self.workspace_id)

    def begin_again(self) -> None:
        """More was there than `begin` knew of: bring it to the disk when all is."""
        if self._others is not None:
            self._others.end()
            self._others = None

    def _start_git(self) -> None:
        if self._refs is None:
            self._refs = RefWriter(self.repository, self.git, f"save {self.save_id}", self.until)

    def make_durable(self, updates: Sequence[RefUpdate], kept: bytes | None = None) -> None:
        """Bring to the disk all that `updates` will reach, and the file `kept`. `refs.carry_out` then moves them."""
        self.reader.end()
        # What others wrote is then brought to the disk with the directory of the packs, while git prepares the refs.
        # Git starts not earlier: a child may have to wait for the one that was started before it, and so does who
        # starts it.
        self.writer.finish(syncs_name=self._others is not None, meanwhile=self._start_git)
        self._start_git()
        writer = self.refs
        # To delete a ref git locks `packed-refs`, and a reftable for any change. Others wait for both: lock them only
        # when the objects are on the disk.
        at_once = refs.refs_are_files(self.repository) and all(update.new is not None for update in updates)
        if at_once:
            writer.prepare(updates)
        ours = () if kept is None else (kept, self.repository.own)
        if self._others is None:
            OthersToDisk(self.repository, self.workspace_id, ours).finish()
        else:
            files.fsync_paths(ours)
            self._others.finish()
        if not at_once:
            writer.prepare(updates)

    def move(self, updates: Sequence[RefUpdate]) -> None:
        """Objects, then `updates`: all of it is durable when this returns."""
        self.make_durable(updates)
        self.refs.carry_out()
        self.refs.sync(updates)

    def move_each(self, updates: Sequence[RefUpdate]) -> None:
        """Move refs of which each counts by itself, after the others. Raises GitstateError, OSError if none moved."""
        if not updates:
            return
        self.journal_locks(*(update.ref for update in updates))
        self.writer.finish()
        if self._refs is not None:
            self._refs.close()
        self._start_git()
        failures: list[Exception] = []
        for update in updates:
            try:
                self.refs.commit([update])
            except (GitstateError, OSError) as error:
                failures.append(error)
        if len(failures) == len(updates):
            raise failures[0]

    def replace(self, latest: Save | None, builder: Builder, scene: Scene, updates: Sequence[RefUpdate]) -> None:
        """Move the refs of a checkpoint or a safety save. First keep the checkpoint `latest`, where that is needed."""
        keeping = []
        if latest is not None:
            from .keeping import history_updates, keeping_updates

            keeping = keeping_updates(latest, builder, scene) or history_updates(latest, builder)
        self.journal_locks(*(update.ref for update in keeping))
        self.move([*keeping, *updates])

    def close(self) -> None:
        """End the children; what was not moved stays where it is."""
        if self._refs is not None:
            self._refs.close()
        if self._others is not None:
            self._others.end()


class Note(Record):
    """A note on a WIP commit: the blob `blob`, and `new`, the commit for the notes ref that adds it to `tip`."""

    wip: Oid
    blob: Oid
    tip: Oid | None
    new: Oid


class AfterMarker:
    """Moves the notes ref and the branch for one save, and writes its state file."""

    def __init__(self, publisher: Publisher, builder: Builder, request: SaveRequest) -> None:
        self.publisher = publisher
        self.builder = builder
        self.repository = publisher.repository
        self.request = request
        #: What went wrong, as sentences.
        self.troubles: list[str] = []
        #: A git that was killed may have left locks on the notes and the branch.
        self.child_killed = False
        self.notes = NotesRef(self.repository, NOTES, publisher.workspace_id)
        #: The lock on the notes, while this save holds it.
        self._lock: int | None = None

    def build_note(self, built: Built, context: Context, tip: Oid | None) -> Note:
        """Add the objects of the note; `tip` is where the notes ref is now."""
        add = self.builder.writer.add
        blob = add("blob", dumps(note_json(context, built.manifest, built.archive)))
        new = add_note(tip, built.wip, blob, self.builder.stamp(), self.builder.reader, self.builder.trees, add)
        return Note(built.wip, blob, tip, new)

    def carry_out(self, branch: RefUpdate | None, note: Note, built: Built, context: Context) -> bool:
        """Move note and branch, and write the state file while git does so. Whether the branch has moved.

        Call it only when the refs of the save are on the disk: with the branch locked while the disk is waited for, a
        concurrent `git commit` would time out on the lock.
        """
        moved = False
        joined = branch is not None and self._begin_both(branch, note)
        try:
            self.write_state(context, built)
            if joined and branch is not None:
                moved = self._end_both(branch, note)
        finally:
            self._unlock()
        if not moved:
            self.move_notes(note)
            moved = branch is not None and self._move_branch(branch)
        return moved

    def write_state(self, context: Context, built: Built) -> None:
        """Say in the state file that a save is pending; not in a nested repository, whose context is not ours."""
        if not self.request.depth:
            write_interrupted(self.repository, context, built)

    def _begin_both(self, branch: RefUpdate, note: Note) -> bool:
        """Begin to move the notes ref and the branch in one transaction; False where someone holds either."""
        if any(map(os.path.lexists, ref_locks(self.repository, (NOTES, branch.ref)))):
            # Git would wait for it here, and then once more for each of them alone.
            return False
        try:
            self._lock = self.notes.lock(0.0)
        except (GitstateError, OSError):
            return False
        self.publisher.refs.prepare([RefUpdate(NOTES, note.new, note.tip), branch])
        return True

    def _end_both(self, branch: RefUpdate, note: Note) -> bool:
        """Whether both have moved; False where others moved either."""
        writer = self.publisher.refs
        try:
            writer.carry_out()
            try:
                writer.sync([RefUpdate(NOTES, note.new, note.tip), branch])
            except OSError as error:
                # Both have moved. A second sync would hide the failure: the kernel reports it once (`man 2 fsync`).
                why = words_of(error)
                self.troubles.append(f"the save is complete, but its note may not be on the disk: {why}")
            return True
        except GitError as error:
            if error.status < 0:
                self.child_killed = True
                # The next git would find both locked by one that is gone.
                with suppress(OSError):
                    remove_ref_locks(self.repository)
        except (GitstateError, OSError):
            pass
        return False

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def move_notes(self, note: Note) -> None:
        """Move the notes ref alone; build the note again on top of those that other saves added meanwhile."""
        why = ""
        try:
            move = self.publisher.refs.commit
            self.notes.change(
                lambda tip: self._note_on(tip, note), lambda update: move([update]), wait=self.request.wait
            )
        except TryAgain:
            why = "another gitstate held the lock on the notes"
        except GitstateError as error:
            self.child_killed |= isinstance(error, GitError) and error.status < 0
            why = error.message
        except OSError as error:
            why = words_of(error)
        if why:
            self.troubles.append(f"the save is complete, but its note could not be added: {why}")

    def _note_on(self, tip: Oid | None, note: Note) -> Oid:
        """The commit that adds a note to `tip`, on the disk."""
        if tip == note.tip:
            return note.new
        repository = self.repository
        with ObjectReader(repository.git) as reader:
            writer = PackWriter(repository.objects, repository.object_format, self.publisher.workspace_id)
            new = add_note(tip, note.wip, note.blob, self.builder.stamp(), reader, TreeReader(reader), writer.add)
            writer.finish()
        self.builder.writer.adopt(writer)
        return new

    def _move_branch(self, branch: RefUpdate) -> bool:
        try:
            self.publisher.refs.commit([branch])
            return True
        except RefChanged:
            if refs.read_refs(self.repository, [branch.ref]).get(branch.ref) == branch.new:
                # A git that was killed after it had moved it.
                return True
            self.troubles.append("the save is complete, but the branch was left alone: others moved it meanwhile")
        except GitError as error:
            self.child_killed |= error.status < 0
            self.troubles.append(f"the save is complete, but the branch could not be moved: {error.message}")
        except OSError as error:
            why = words_of(error)
            self.troubles.append(f"the save is complete, but the branch could not be moved: {why}")
        return False


def write_interrupted(repository: Repository, context: Context, built: Built) -> None:
    """Write the state file of a workspace with a pending save. It is a cache: what the disk refuses is not there.

    At the bottom of a stack remove the index files of earlier saves: nothing puts them back any more.
    """
    manifest = built.manifest
    with suppress(OSError):
        if manifest.below is None:
            forget_other_indexes(repository, manifest.save_id)
        write_state(
            repository,
            context,
            INTERRUPTED,
            reason=manifest.reason.to_json(),
            save=describe_save(manifest, wip=built.wip, archive=built.archive),
            resume="gitstate recover",
            durable=False,
        )


def note_json(context: Context, manifest: Manifest, archive: Oid) -> dict[str, object]:
    """The note on the WIP commit: the context, and enough to find the save and see whether it is complete."""
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


def renew(
    old: Save,
    plan: SavePlan,
    scene: Scene,
    request: SaveRequest,
    publisher: Publisher,
    builder: Builder,
    beside: Sequence[RefUpdate] = (),
) -> tuple[Built, AfterMarker]:
    """Write and publish the save `old` under another id, context and reason. Raises CorruptSave."""
    built = _build(builder, old, scene.context, request)
    after = AfterMarker(publisher, builder, request)
    note = after.build_note(built, scene.context, scene.seen.get(NOTES))
    publisher.journal_locks()
    name_indexes_anew(builder.repository, old.manifest.save_id, builder.save_id)
    publisher.move([*beside, *first_refs(plan, built.archive, scene.seen)])
    after.move_notes(note)
    after.write_state(scene.context, built)
    return built, after


def _build(builder: Builder, old: Save, context: Context, request: SaveRequest) -> Built:
    manifest = old.manifest._replace(save_id=builder.save_id, created=now(), reason=request.reason, label=request.label)
    archive, wip = builder.reader.commit(old.archive), builder.reader.commit(old.wip)
    if archive is None or wip is None:
        raise CorruptSave(f"the save {old.manifest.save_id} is unreadable", hint="gitstate log")
    subject = subject_of(context)
    wip_tree, wip_parents = commit_head(wip)
    new_wip = builder.commit(wip_tree, wip_parents, WIP_SUBJECT + subject, manifest.base)
    tree, parents = commit_head(archive)
    new_tree = edit_tree(tree, builder.described(context, manifest), builder.trees, builder.writer.add)
    new_archive = builder.commit(new_tree, [new_wip, *parents[1:]], ARCHIVE_SUBJECT + subject, manifest.base)
    return Built(new_wip, None, new_archive, wip_tree, manifest)
