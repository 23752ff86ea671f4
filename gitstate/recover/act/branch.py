"""Moves the branch, and later deletes the marker, by one git that works while its caller goes on."""

from __future__ import annotations

import os

from ...git.refs import RefUpdate, RefWriter
from ...system import files
from ...system.stdlib import TYPE_CHECKING
from ..plan import branch_move

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...git.command import Git
    from ...git.repository import Repository
    from ..plan import Facts


class BranchMover:
    """Moves the refs of one recovery."""

    def __init__(self, repository: Repository, git: Git, facts: Facts) -> None:
        self._repository = repository
        self._git = git
        self._facts = facts
        #: None before it was asked for.
        self._writer: RefWriter | None = None
        #: How the branch is moved; None where it is not, or that has not begun.
        self._moved: RefUpdate | None = None

    def start(self) -> RefWriter:
        """The git that moves refs. It starts when it is asked for first, and gets ready while the caller goes on."""
        if self._writer is None:
            message = f"recover {self._facts.saves[-1].manifest.save_id}"
            self._writer = RefWriter(self._repository, self._git, message)
        return self._writer

    def begin(self) -> None:
        """Let git lock the branch and write where it goes, while the caller goes on."""
        move = branch_move(self._facts)
        if move is not None and self._moved is None:
            self._moved = RefUpdate(move.ref, move.new, move.old)
            self.start().prepare([self._moved], no_deref=move.detach)

    def undo(self) -> None:
        """Unlock the branch: something that takes longer comes first."""
        if self._moved is not None:
            self._moved = None
            self.start().close()

    def carry_out(self) -> None:
        """Move the branch, where it has to be moved."""
        self.begin()
        if self._moved is not None:
            self.start().carry_out()

    def sync_names(self, state_file: bytes | None) -> None:
        """Make durable under their names what was synced before it took its place: branch, index, `active_state.json`.

        One disk transaction for all of them: a sync of each would wait for one of its own.
        """
        if self._moved is not None:
            self.start().sync([self._moved])
        directories = [self._repository.git_dir, self._repository.own]
        files.fsync_paths([*directories, *([os.path.dirname(state_file)] if state_file else [])])

    def commit(self, updates: Sequence[RefUpdate], *, is_last: bool = True) -> None:
        """Move other refs, durably."""
        self.start().commit(updates, is_last=is_last)

    def close(self) -> None:
        """End git; what was not moved stays where it is."""
        if self._writer is not None:
            self._writer.close()
