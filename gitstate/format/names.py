"""How gitstate's refs, workspaces and saves are named."""

from __future__ import annotations

import os
import time

from ..git.repository import Repository
from ..system.process import hostname
from ..system.stdlib import digest

_NO_PUNCTUATION = dict.fromkeys(map(ord, "._-"))


def is_save_id(value: object) -> bool:
    """Whether a text may stand where a save id stands in a ref's name: ASCII letters and digits, and `._-` inside."""
    if not isinstance(value, str) or not value.isascii() or len(value) > 128 or ".." in value:
        return False
    return value[:1].isalnum() and value.translate(_NO_PUNCTUATION).isalnum()


NOTES = "refs/notes/gitstate"
OWN = "refs/gitstate/"
SAVES = OWN + "saves/"
PENDING = OWN + "pending/"
CHECKPOINTS = OWN + "checkpoints/"


def workspace_id(repository: Repository) -> str:
    """The name of a workspace in refs: its directory's name and a hash of host and path."""
    return workspace_id_at(repository.toplevel)


def workspace_id_at(toplevel: bytes) -> str:
    """The same from the worktree's absolute path, as git resolves it."""
    hashed = digest("sha256", os.fsencode(hostname()) + b"\0" + toplevel).hexdigest()
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in os.fsdecode(os.path.basename(toplevel)))
    return f"{name.strip('-')[:40] or 'workspace'}-{hashed[:12]}"


def save_ref(workspace_id: str, save_id: str) -> str:
    """The ref that keeps one save until retention prunes it."""
    return f"{SAVES}{workspace_id}/{save_id}"


def marker_ref(workspace_id: str) -> str:
    """The ref that says a save of this workspace waits to be recovered: the commit point."""
    return f"{PENDING}{workspace_id}"


def checkpoint_ref(workspace_id: str) -> str:
    """The ref of the workspace's latest checkpoint."""
    return f"{CHECKPOINTS}{workspace_id}"


def branch_name(ref: str) -> str:
    """A branch without `refs/heads/`; any other ref as it is."""
    return ref.removeprefix("refs/heads/")


def new_save_id() -> str:
    """An id that sorts by time (UTC, microseconds) and may stand in a ref's name."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z-{os.urandom(3).hex()}"


def save_time_ns(save_id: str) -> int:
    """When the save of this id began, before it read the first file: nanoseconds since the epoch.

    Zero, before which nothing was, where the id is none of ours.
    """
    import calendar

    try:
        seconds = calendar.timegm(time.strptime(save_id[:15], "%Y%m%dT%H%M%S"))
        return seconds * 1_000_000_000 + int(save_id[16:22]) * 1000
    except ValueError:
        return 0
