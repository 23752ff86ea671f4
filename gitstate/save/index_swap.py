"""The exchange of the index for one that matches the WIP commit, so that `git status` is clean after a save."""

from __future__ import annotations

import os

from ..errors import GitError
from ..git.index import file_identity, index_lock, kept_index, link_or_copy
from ..system import files
from ..system.stdlib import TYPE_CHECKING
from ..workspace.ownership import frozen_index, next_index

if TYPE_CHECKING:
    from ..git.command import Git
    from ..git.repository import Repository
    from ..snapshot.record import Snapshot
    from ..system.child import Child

#: A write of fewer bytes than this never waits for the reader of an empty pipe.
_PIPE = 32 << 10


def keep_index(repository: Repository, save_id: str, taken: Snapshot) -> bytes | None:
    """Give the index file of a snapshot a second name, for recover to put back. None where there is no index."""
    if taken.index_file is None:
        return None
    kept = kept_index(repository, save_id)
    link_or_copy(frozen_index(repository), kept)
    return kept


class IndexSwap:
    """Git makes the new index in a file of its own while objects come to the disk; then a rename puts it in place."""

    def __init__(self, repository: Repository, git: Git) -> None:
        self.repository = repository
        self.git = git
        self.frozen = frozen_index(repository)
        self.next = next_index(repository)
        self._child: Child | None = None
        #: What the child is still to be told.
        self._given = b""

    def start(self, taken: Snapshot) -> None:
        """Begin to make an index that matches the WIP commit of `taken`."""
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
            return
        self._child = self.git.start(
            *("-c", "core.splitIndex=false", "-c", "core.fsync=index", "update-index", "-z", "--index-info"),
            env={"GIT_INDEX_FILE": os.fsdecode(self.next)},
        )
        self._given = b"".join(lines)
        if len(self._given) < _PIPE:
            # It reads and works while the pack is written.
            self._child.end_input(self._given)
            self._given = b""

    def finish(self, moved: bool) -> str:
        """Put the new index in place where the branch has `moved`. What went wrong, as a sentence."""
        try:
            if self._child is not None:
                self.git.finish(self._child, input=self._given)
            if moved and os.path.exists(self.next):
                self._exchange()
            return ""
        except GitError as error:
            return f"the save is complete, but the index could not be exchanged: {error.message}"

    def _exchange(self) -> None:
        index = os.path.join(self.repository.git_dir, b"index")
        with index_lock(self.repository):
            if file_identity(index) != file_identity(self.frozen):
                return
            os.rename(self.next, index)
            files.fsync_path(self.repository.git_dir)

    def close(self) -> None:
        """End the child, if it still runs."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            self._child.communicate()
