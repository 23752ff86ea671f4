"""Objects → disk → refs: what must be durable before the marker stands, and the marker."""

from __future__ import annotations

from ..format.names import NOTES, checkpoint_ref, marker_ref, save_ref, workspace_id
from ..git import refs
from ..git.refs import RefWriter
from ..objects.durable import bring_to_disk
from ..system import files
from ..system.stdlib import TYPE_CHECKING
from ..workspace.ownership import ref_locks, write_journal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..git.command import Git
    from ..git.refs import RefUpdate
    from ..git.repository import Repository
    from ..objects.pack import PackWriter
    from ..objects.reader import ObjectReader


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
        self._refs: RefWriter | None = None

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
        )
        names = [*own, NOTES, *(ref for ref in others if ref is not None)]
        write_journal(self.repository, ref_locks(self.repository, names))

    def make_durable(self, updates: Sequence[RefUpdate], kept: bytes | None = None) -> None:
        """Bring to the disk all that `updates` will reach, and the file `kept`. `refs.carry_out` then moves them."""
        self.reader.end()
        self.writer.finish()
        # Not earlier: a child may have to wait for the one that was started before it, and so does who starts it.
        writer = self._refs = RefWriter(self.repository, self.git, f"save {self.save_id}")
        # To delete a ref git locks `packed-refs`, and a reftable for any change. Others wait for both: lock them only
        # when the objects are on the disk.
        at_once = refs.refs_are_files(self.repository) and all(update.new is not None for update in updates)
        if at_once:
            writer.prepare(updates)
        bring_to_disk(self.repository, self.workspace_id)
        if kept is not None:
            files.fsync_path(kept)
            files.fsync_path(self.repository.own)
        if not at_once:
            writer.prepare(updates)

    def move(self, updates: Sequence[RefUpdate]) -> None:
        """Objects, then `updates`: all of it is durable when this returns."""
        self.make_durable(updates)
        self.refs.carry_out()
        self.refs.sync(updates)

    def close(self) -> None:
        """End the child; what was not moved stays where it is."""
        if self._refs is not None:
            self._refs.close()
