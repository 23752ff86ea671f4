"""How refs, workspaces, saves and commits of gitstate are named, and how such a name is taken apart."""

from __future__ import annotations

import os
import time

from ..git.oid import Oid, is_oid
from ..git.repository import Repository
from ..system.process import hostname
from ..system.stdlib import TYPE_CHECKING, Record, digest

if TYPE_CHECKING:
    from typing import Literal

    RefKind = Literal["save", "pending", "checkpoint"]

_NO_PUNCTUATION = dict.fromkeys(map(ord, "._-"))


def is_save_id(value: object) -> bool:
    """Whether a value may be a save id or workspace id in a ref's name: ASCII letters and digits, and `._-` inside."""
    if not isinstance(value, str) or not value.isascii() or len(value) > 128 or ".." in value:
        return False
    return value[:1].isalnum() and value.translate(_NO_PUNCTUATION).isalnum()


NOTES = "refs/notes/gitstate"
OWN = "refs/gitstate/"
SAVES = OWN + "saves/"
PENDING = OWN + "pending/"
CHECKPOINTS = OWN + "checkpoints/"
#: What was fetched: `refs/gitstate/fetched/<remote>/`, and then what stands behind `refs/gitstate/` on that remote.
FETCHED = OWN + "fetched/"
_ONE_FOR_EACH: tuple[tuple[str, RefKind], ...] = ((PENDING, "pending"), (CHECKPOINTS, "checkpoint"))

#: How the subjects of our commits begin.
WIP_SUBJECT, INDEX_SUBJECT, ARCHIVE_SUBJECT = "WIP(gitstate): ", "index(gitstate): ", "archive(gitstate): "
#: The trailers of our commits: the save that a commit belongs to, and the commit that the branch goes back to.
SAVE_TRAILER, BASE_TRAILER = "Gitstate-Save", "Gitstate-Base"


def workspace_id(repository: Repository) -> str:
    """The id of a workspace in refs: its directory's name and a hash of host and path."""
    return workspace_id_at(repository.toplevel)


def workspace_id_at(toplevel: bytes) -> str:
    """The same by the absolute path of the worktree, symlinks resolved."""
    hashed = digest("sha256", os.fsencode(hostname()) + b"\0" + toplevel).hexdigest()
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in os.fsdecode(os.path.basename(toplevel)))
    return f"{name.strip('-')[:40] or 'workspace'}-{hashed[:12]}"


def save_ref(workspace_id: str, save_id: str) -> str:
    """The ref that keeps one save until retention prunes it."""
    return f"{SAVES}{workspace_id}/{save_id}"


def marker_ref(workspace_id: str) -> str:
    """The marker: the ref that says that a save of this workspace is pending. Moving it is the commit point."""
    return f"{PENDING}{workspace_id}"


def checkpoint_ref(workspace_id: str) -> str:
    """The ref of the workspace's latest checkpoint."""
    return f"{CHECKPOINTS}{workspace_id}"


def own_marker(repository: Repository) -> str:
    """The marker of this workspace."""
    return marker_ref(workspace_id(repository))


def remote_name(remote: str) -> str:
    """How a remote is named in refs: by its own name; by a hash where that may not be part of a ref, as a URL's."""
    if is_save_id(remote) and len(remote) <= 64 and not remote.lower().endswith((".lock", ".")):
        return remote
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in remote).strip("-")
    return f"{plain[-40:].strip('-') or 'remote'}-{digest('sha256', os.fsencode(remote)).hexdigest()[:12]}"


def fetched_prefix(remote: str) -> str:
    """Below it stands what was fetched from a remote: a name that git knows, or a URL."""
    return f"{FETCHED}{remote_name(remote)}/"


class SaveName(Record):
    """What the name of a ref of ours says."""

    kind: RefKind
    workspace_id: str
    save_id: str | None
    """None for a marker and for a checkpoint: one ref of a workspace, whichever save it points to."""


def parse_ref(ref: str) -> SaveName | None:
    """The name of a ref of ours taken apart; None for a ref that gitstate would not have written."""
    if ref.startswith(SAVES):
        workspace, slash, save_id = ref[len(SAVES) :].partition("/")
        return SaveName("save", workspace, save_id) if slash and is_save_id(workspace) and is_save_id(save_id) else None
    for prefix, kind in _ONE_FOR_EACH:
        if ref.startswith(prefix) and is_save_id(ref[len(prefix) :]):
            return SaveName(kind, ref[len(prefix) :], None)
    return None


def branch_name(ref: str) -> str:
    """The name of a ref without `refs/heads/`."""
    return ref.removeprefix("refs/heads/")


def new_save_id() -> str:
    """An id that sorts by time (UTC, microseconds), and may be part of a ref's name."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z-{os.urandom(3).hex()}"


def save_time_ns(save_id: str) -> int | None:
    """When the save of this id began, before it read the first file: nanoseconds since the epoch.

    None where the id does not tell, because gitstate did not make it.
    """
    import calendar

    try:
        seconds = calendar.timegm(time.strptime(save_id[:15], "%Y%m%dT%H%M%S"))
        return seconds * 1_000_000_000 + int(save_id[16:22]) * 1000
    except ValueError:
        return None


class Trailers(Record):
    """The trailers of a commit of ours."""

    save_id: str | None
    base: Oid | None
    """The zero oid where the branch was unborn."""


def format_message(subject: str, save_id: str, base: Oid) -> str:
    """The message of a commit of ours; `base` is the zero oid where the branch was unborn."""
    return f"{subject}\n\n{SAVE_TRAILER}: {save_id}\n{BASE_TRAILER}: {base}\n"


def parse_trailers(commit: bytes) -> Trailers:
    """The trailers in the last paragraph of a raw commit, or of a message; None for what is missing or malformed."""
    last = commit.rstrip(b"\n").rpartition(b"\n\n")[2].decode("ascii", "replace")
    found = dict(line.split(": ", 1) for line in last.split("\n") if ": " in line)
    save_id, base = found.get(SAVE_TRAILER, "").strip(), found.get(BASE_TRAILER, "").strip()
    return Trailers(save_id if is_save_id(save_id) else None, base if is_oid(base) else None)
