"""What a save is asked for, what it answers, and what it is called."""

from __future__ import annotations

from ..format.manifest import LeftOut, Reason
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..git.oid import Oid
    from ..snapshot.incremental import Baseline
    from ..snapshot.record import Snapshot


class SaveRequest(Record):
    """What the caller knows. `values` are context texts by name; `wait` bounds waiting for locks, in seconds."""

    kind: str = "save"
    values: Mapping[str, str] = {}
    reason: Reason = Reason()
    deadline: float | None = None
    wait: float = 60.0
    keep_ignored: Sequence[str] = ()
    keep_paths: Sequence[bytes] = ()
    """Paths to hold byte for byte whatever git thinks of them."""
    owner_pid: int | None = None
    depth: int = 0
    strict: bool = False
    """Raise UsageError for a setting that can't be read, before anything begins. Else the save stands with the
    default, and its result says what was wrong: at the end of a run the work comes first."""
    problems: Sequence[LeftOut] = ()
    """What the save may not hold because of a setting that can't be read. `save` fills it in."""
    known: Baseline | None = None
    """What the caller knows from its last checkpoint: then only what changed since is looked at."""
    largest: int | None = None
    """Files of more bytes are left out: what is small is safe first."""
    stay: bool = False
    """Leave branch and index where they are: the agent still works on them."""
    replaces: str | None = None
    """The id of an earlier save of the same end of the same run, which this one takes the place of."""


class SaveResult(Record):
    """What happened: `saved`, `unchanged` (an earlier save holds all of this) or `nothing` (there was nothing)."""

    result: str
    workspace: bytes
    branch: str | None
    save_id: str | None = None
    wip_commit: Oid | None = None
    base_commit: Oid | None = None
    index_commit: Oid | None = None
    archive: Oid | None = None
    branch_moved: bool = False
    why_not_moved: str = ""
    """Why a save left the branch where it was on purpose; empty where it moved it, or tried to."""
    left_out: tuple[LeftOut, ...] = ()
    message: str = ""
    taken: Snapshot | None = None
    """What was found, for who watches on."""
    written: int = 0
    """How many bytes went into the object store."""
    warnings: tuple[str, ...] = ()
    """Settings that can't be read, where the default took their place."""

    @property
    def lost(self) -> bool:
        return any(item.lost for item in self.left_out)
