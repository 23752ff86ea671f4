"""What git is asked about a worktree before anything else is ready: what is tracked, and what changed."""

from __future__ import annotations

import os

from .light import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .git import Repository
    from .spawn import Child


class Asked(Record):
    """Git, asked what is tracked and what changed: it works while the caller goes on."""

    listing: Child
    status: Child

    def end(self) -> None:
        """Nobody waits for the answers any more."""
        for child in self:
            child.kill()
            child.wait()


def ask(repository: Repository, frozen_index: bytes) -> Asked:
    """Ask both about the index at `frozen_index`."""
    extra = {"GIT_INDEX_FILE": os.fsdecode(frozen_index)}
    listing = repository.git.start("ls-files", "-z", "-v", "--sparse", extra=extra)
    return Asked(listing, start_status(repository, extra))


def start_status(repository: Repository, extra: Mapping[str, str], *options: str, submodules: bool = True) -> Child:
    """Begin `git status` under `options`; without `submodules` it looks into none."""
    # One thread for git: with its twenty it takes every core, and the walk beside it waits.
    return repository.git.start(
        *("-c", "core.preloadIndex=false", *options),
        *("status", "--porcelain=v2", "-z", "--branch", "--no-ahead-behind", "-uno", "--no-renames"),
        "--ignore-submodules=none" if submodules else "--ignore-submodules=dirty",
        extra=extra,
    )
