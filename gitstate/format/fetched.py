"""The saves that were fetched from remotes: refs below `refs/gitstate/fetched/<remote>/`.

    saves/<workspace id>/<save id>    a save of the remote
    pending/<workspace id>            the save that is pending there, and was neither recovered nor dismissed here
    conversations/<workspace id>/<session id>    the transcript of a session, where it was pushed too
    recovered/<workspace id>          the save that was pending there, and was recovered or dismissed here

Whoever can push to the remote has written them. So no command takes one that was not named, unless its remote is
trusted (`gitstate.trust`), and what is read of one has limits.
"""

from __future__ import annotations

import os

from ..git import refs
from ..git.command import Git, Oid, is_oid
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..system.stdlib import TYPE_CHECKING, Record
from .names import CONVERSATIONS, FETCHED, OWN, PENDING, SAVES, parse_ref

if TYPE_CHECKING:
    from collections.abc import Iterable

_RECOVERED = OWN + "recovered/"


class FetchedRef(Record):
    """One ref of a save that was fetched."""

    ref: str
    remote: str
    """The remote as it is named in refs (`names.remote_name`)."""
    workspace_id: str
    save_id: str | None
    """None for a marker, which names its save only through the archive."""
    archive: Oid


class Fetched(Record):
    """Everything that was fetched, by what it is."""

    saves: tuple[FetchedRef, ...] = ()
    pending: tuple[FetchedRef, ...] = ()
    recovered: tuple[FetchedRef, ...] = ()
    conversations: tuple[FetchedRef, ...] = ()
    """Here `save_id` is the session id."""


def fetched_saves(git: Git, remote: str | None = None) -> Fetched:
    """What was fetched from every remote, or from one by its name in refs. Raises GitError."""
    return _sorted_out(refs.list_refs(git, FETCHED if remote is None else f"{FETCHED}{remote}/").items())


def pending_fetched(repository: Repository) -> tuple[FetchedRef, ...]:
    """What is pending on remotes, and was neither recovered nor dismissed here."""
    if refs.refs_are_files(repository):
        return fetched_in_files(repository.common_dir).pending
    return fetched_saves(repository.git).pending


def fetched_in_files(common_dir: bytes) -> Fetched:
    """The markers among it from git's files alone, without a process; nothing in a reftable."""
    top = os.path.join(common_dir, os.fsencode(FETCHED))
    try:
        remotes = [os.fsdecode(name) for name in os.listdir(top)]
    except OSError:
        remotes = []
    # Packed refs stand in one file, whatever the prefix.
    prefixes = [FETCHED, *(f"{FETCHED}{remote}/pending/" for remote in remotes)]
    below = zip(prefixes, refs.read_refs_below(common_dir, *prefixes), strict=True)
    return _sorted_out({prefix + rest: oid for prefix, found in below for rest, oid in found.items()}.items())


def _sorted_out(listed: Iterable[tuple[str, Oid]]) -> Fetched:
    saves, pending, recovered, conversations = [], [], [], []
    for ref, oid in listed:
        remote, _, rest = ref[len(FETCHED) :].partition("/")
        own = OWN + rest
        kind = own.replace(_RECOVERED, PENDING, 1) if own.startswith(_RECOVERED) else own
        name = parse_ref(kind) if is_oid(oid) else None
        if name is None:
            continue
        found = FetchedRef(ref, remote, name.workspace_id, name.save_id, oid)
        if own.startswith(SAVES):
            saves.append(found)
        elif own.startswith(PENDING):
            pending.append(found)
        elif own.startswith(_RECOVERED):
            recovered.append(found)
        elif own.startswith(CONVERSATIONS):
            conversations.append(found)
    return Fetched(tuple(saves), tuple(pending), tuple(recovered), tuple(conversations))


def fetched_markers(repository: Repository, archive: Oid) -> list[str]:
    """The refs that `mark_recovered` would move."""
    mine = [item for item in pending_fetched(repository) if item.archive == archive]
    return [ref for item in mine for ref in (item.ref, recovered_mark(item.remote, item.workspace_id))]


def recovered_mark(remote: str, workspace: str) -> str:
    """The ref that says what of a workspace was pending on a remote, and was recovered or dismissed here."""
    return f"{FETCHED}{remote}/recovered/{workspace}"


def mark_recovered(repository: Repository, git: Git, archive: Oid) -> None:
    """Record that a save which is pending on remotes was recovered here, or dismissed. Raises RefChanged, GitError."""
    found = fetched_saves(repository.git)
    done = {item.ref: item.archive for item in found.recovered}
    updates = []
    for item in found.pending:
        if item.archive == archive:
            mark = recovered_mark(item.remote, item.workspace_id)
            # First what says that it was recovered: a kill in between leaves both, and the next recovery does nothing.
            updates += [RefUpdate(mark, archive, done.get(mark)), RefUpdate(item.ref, None, archive)]
    if updates:
        refs.move_refs(repository, git, updates, "recovered")
