"""What a recovery is asked for, and what it answers."""

from __future__ import annotations

from typing import NamedTuple

from ..format.context import Context
from ..format.manifest import LeftOut


class RecoverRequest(NamedTuple):
    """How to recover: `save_id` names a save, `wait` bounds waiting for locks in seconds."""

    save_id: str | None = None
    dry_run: bool = False
    overwrite: bool = False
    wait: float = 60.0
    depth: int = 0
    strict: bool = False
    """Nobody named this very workspace: a run counts as ended only where that is proven."""
    waiting_only: bool = False
    """Only a save that waits: the run itself goes on, or has reached its end."""


class RecoverResult(NamedTuple):
    """What was found and done in one workspace."""

    workspace: bytes
    verdict: str
    message: str = ""
    hint: str | None = None
    exit_status: int = 0
    save_id: str | None = None
    branch: str | None = None
    restored: tuple[bytes, ...] = ()
    deleted: tuple[bytes, ...] = ()
    kept: tuple[bytes, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    safety_save: str | None = None
    state_file: bytes | None = None
    resume: str | None = None
    briefing: str | None = None
    context: Context = Context()
    nested: tuple[RecoverResult, ...] = ()
    cleared: tuple[bytes, ...] = ()
    """Lock files that were provably dead, and are removed."""
    dry_run: bool = False
    """Nothing was touched: this is what would be done."""
    files_only: bool = False
    """Files were taken out of a save; branch, index and marker stay."""
