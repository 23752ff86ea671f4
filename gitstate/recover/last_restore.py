"""What the last recovery, restore or undo wrote, noted in the git directory so that `undo` can take it back."""

from __future__ import annotations

import os

from ..errors import BadJson
from ..git.command import Oid, is_oid
from ..git.repository import Repository
from ..restore.choices import Outcome
from ..restore.paths import Workspace
from ..system import files
from ..system.jsonio import Json, dumps, loads
from ..system.stdlib import Record

#: The file in gitstate's own directory that says what the last recovery, restore or undo wrote.
LAST_FILE = b"last-restore.json"
_MOST_BYTES = 64 << 20


class Version(Record):
    """What a set of paths held: as in a save, or, where there was nothing but a commit, as in that."""

    save_id: str | None
    commit: Oid | None


class LastRestore(Record):
    """What the last recovery, restore or undo wrote."""

    paths: tuple[bytes, ...]
    before: Version
    """What they held before."""
    after: Version
    """What was written."""


def remember(workspace: Workspace, after: Version, outcome: Outcome, *, syncs_name: bool = True) -> None:
    """Note for `undo` which paths were written or deleted: what they hold now, and what they held before.

    Without `syncs_name` the caller syncs `repository.own`. It is a note, not the work: where the disk takes it no more,
    there is nothing to take back by name.
    """
    paths = dict.fromkeys([*outcome.restored, *outcome.deleted])
    if not paths:
        return
    before = Version(outcome.safety, None if outcome.safety else workspace.reader.head())
    value = {"paths": [path.hex() for path in paths], "before": _version_json(before), "after": _version_json(after)}
    own = workspace.repository.own
    path = os.path.join(own, LAST_FILE)
    try:
        files.write_atomic(path, dumps(value), staging=own, syncs_name=syncs_name)
    except OSError:
        # That of an earlier restore would be taken for it.
        files.discard(path)


def _version_json(version: Version) -> dict[str, Json]:
    return {"save_id": version.save_id, "commit": version.commit}


def last_restore(repository: Repository) -> LastRestore | None:
    """What `remember` noted last; None where there is no such note."""
    data = files.read_limited(os.path.join(repository.own, LAST_FILE), _MOST_BYTES)
    try:
        value = loads(data, _MOST_BYTES, "the last restore")
        versions = [Version(value[name]["save_id"], value[name]["commit"]) for name in ("before", "after")]
        if any(version.commit is not None and not is_oid(version.commit) for version in versions):
            return None
        return LastRestore(tuple(map(bytes.fromhex, value["paths"])), *versions)
    except (BadJson, KeyError, TypeError, ValueError):
        return None
