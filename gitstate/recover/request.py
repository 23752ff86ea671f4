"""What a recovery is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..format.context import Context
from ..format.manifest import LeftOut

#: What the decision on one workspace can be. `changed` is what `restore` becomes where edited files were kept.
DecidedVerdict = Literal[
    "nothing",
    "live",
    "restore",
    "context_only",
    "recovered",
    "changed",
    "buried",
    "diverged",
    "elsewhere",
    "corrupt",
    "unsupported",
]
#: The verdict of a result: a decision, `dismissed`, or why a workspace among many was not opened.
ResultVerdict = DecidedVerdict | Literal["dismissed", "busy", "failed", "damaged", "foreign", "unreachable", "missing"]

#: The settings that a recovery, and its safety save, read.
SETTINGS = ("stateFile", "includeIgnored", "trust")

#: With these the context of the last run is known again, and a loop can continue its task.
SUCCESSES: frozenset[ResultVerdict] = frozenset({"restore", "changed", "context_only", "buried", "recovered"})


class RecoverRequest(NamedTuple):
    """How to recover one workspace."""

    save_id: str | None = None
    """The save to recover, pending or not; None: the pending one."""
    dry_run: bool = False
    """Change nothing, only say what would be done."""
    overwrite: bool = False
    """The saved version wins over files that were changed after the save."""
    wait: float = 60.0
    """Seconds to wait for whoever holds the workspace."""
    depth: int = 0
    """How many repositories this one is nested in."""
    runs_filters: bool = True
    """False: run no program that the repository's configuration names: nobody registered it as a submodule."""
    strict: bool = False
    """Nobody named this very workspace: a run counts as ended only where that is proven."""
    waiting_only: bool = False
    """Only a pending save: the run itself goes on, or has reached its end."""
    trust: bool = False
    """A save that was fetched is taken even if something of it could run by itself."""


class RecoverResult(NamedTuple):
    """What was found and done in one workspace."""

    workspace: bytes
    verdict: ResultVerdict
    message: str = ""
    """What happened, for a person; empty where the verdict says it all."""
    hint: str | None = None
    """The command to type next; it works in the current directory."""
    exit_status: int = 0
    save_id: str | None = None
    """The save that was recovered, or that the verdict is about; None where there is none."""
    branch: str | None = None
    """The branch that is checked out, without `refs/heads/`; None where HEAD is detached."""
    restored: tuple[bytes, ...] = ()
    """Paths that were written, or whose permissions were set."""
    deleted: tuple[bytes, ...] = ()
    """Paths that were removed, because the save says that they were gone."""
    kept: tuple[bytes, ...] = ()
    """Paths that were changed after the save, and stay as they are."""
    left_out: tuple[LeftOut, ...] = ()
    """What is not in the save, and what could not be restored from it."""
    safety_save: str | None = None
    """The save of the workspace as it was before the first file was replaced; None where none was."""
    state_file: bytes | None = None
    """Where `active_state.json` was written; None where it was not."""
    resume: str | None = None
    """The agent's own command to continue, or a sentence; None where there is no context."""
    briefing: str | None = None
    """A few lines for the agent; None where there is no context."""
    context: Context = Context()
    nested: tuple[RecoverResult, ...] = ()
    """The results of the repositories inside the workspace."""
    cleared: tuple[bytes, ...] = ()
    """Lock files whose owner is provably gone, and that were removed."""
    dry_run: bool = False
    """Nothing was changed: this is what would be done."""
    runs: tuple[str, ...] = ()
    """What of a save that was fetched could run by itself; empty for any other."""
    files_only: bool = False
    """Files were restored from a save; branch, index and marker were not touched."""


@dataclass
class Outcome:
    """What has been done so far. The parts of a recovery add to it, and `conclude` reads it."""

    restored: list[bytes] = field(default_factory=list)
    """Paths that were written, or whose permissions were set; in a dry run those that would be written."""
    deleted: list[bytes] = field(default_factory=list)
    """Paths that were deleted, or would be."""
    kept: list[bytes] = field(default_factory=list)
    """Paths where the disk, the index or the permissions of now win; one may stand here twice."""
    failed: list[LeftOut] = field(default_factory=list)
    """What could not be restored, with the reason."""
    stuck: bool = False
    """One of these reasons can be mended by a person: the save stays pending."""
    safety: str | None = None
    """The safety save; None where none was taken."""
    nested_trouble: bool = False
    """A repository inside the workspace was not recovered."""

    def could_not_write(self, path: bytes, error: OSError) -> None:
        """A path could not be restored, for a reason that a person can mend: the save stays pending."""
        self.failed.append(LeftOut(path, f"could not be written: {error.strerror}", True))
        self.stuck = True

    def could_not_chmod(self, path: bytes, error: OSError) -> None:
        self.failed.append(LeftOut(path, f"permissions could not be set: {error.strerror}", False))
