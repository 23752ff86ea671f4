"""`fetch`: what a git remote has of gitstate, under names of its own: nothing of this repository is replaced."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..format.fetched import Fetched, fetched_saves, recovered_mark
from ..format.names import CONVERSATIONS, FETCHED, NOTES, OWN, PENDING, SAVES, parse_ref, remote_name
from ..git import refs
from ..git.command import Git, Oid
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..workspace.settings import number
from .partial_clone import fetch_history, fetch_whole
from .prune import Fetchable, outdated
from .remote import Exchange, chunks, exchange, fetch_refs, named_remote, offered, take_notes


def fetch(repository: Repository, named: str | None, *, dry_run: bool = False) -> Exchange:
    """Fetch the saves of every workspace, the markers, the notes, and conversations that were pushed.

    A marker is left where its save is known here already: it was made, recovered or dismissed here, from whatever
    remote it came. A marker that the remote no longer has is removed.

    Raises UsageError if no remote is named, GitError if git cannot reach it.
    """
    remote = named_remote(repository, named, "fetch")
    git = repository.git
    theirs = offered(git, remote)
    held = fetched_saves(git, remote_name(remote))
    ours = set(refs.list_refs(git, SAVES, CONVERSATIONS).values())
    coming = _coming(theirs, held, ours)
    for ref in _outdated(theirs, time.time() - number(repository, "keepDays") * 86_400):
        coming.pop(ref, None)
    done = _done_from_others(git, remote_name(remote), held, coming)
    coming = {ref: oid for ref, oid in coming.items() if ref not in done}
    gone = [item for item in held.pending if theirs.get(PENDING + item.workspace_id) != item.archive]
    notes = NOTES in theirs
    if not dry_run:
        fetch_whole(repository, remote, coming, (item.archive for item in (*held.saves, *held.pending)))
        # The marker is last: whoever sees it must find the save.
        for some in chunks(sorted(coming, key=lambda ref: ref.startswith(PENDING))):
            fetch_refs(repository, remote, [f"+{ref}:{_local(remote, ref)}" for ref in some])
        fetch_history(repository, remote, {*coming.values(), *(item.archive for item in held.pending)})
        stale = [item for item in gone if PENDING + item.workspace_id not in coming]
        stale += [item for item in held.recovered if theirs.get(PENDING + item.workspace_id) != item.archive]
        updates = {item.ref: RefUpdate(item.ref, None, item.archive) for item in stale}
        updates |= {update.ref: update for update in done.values()}
        if updates:
            refs.move_refs(repository, git, list(updates.values()), "fetch")
        if notes:
            take_notes(repository, git, remote)
    return exchange(remote, coming, notes=notes)


def _coming(theirs: Mapping[str, Oid], held: Fetched, ours: set[Oid]) -> dict[str, Oid]:
    """The refs of the remote that are news here."""
    known = {
        (item.workspace_id, item.save_id): item.archive for item in (*held.saves, *held.pending, *held.conversations)
    }
    done = {item.workspace_id: item.archive for item in held.recovered}
    coming = {}
    for ref, oid in theirs.items():
        name = parse_ref(ref)
        if name is None or name.kind == "checkpoint" or oid in ours:
            continue
        if known.get((name.workspace_id, name.save_id)) == oid:
            continue
        if name.kind in ("save", "conversation") or done.get(name.workspace_id) != oid:
            coming[ref] = oid
    return coming


def _done_from_others(git: Git, remote: str, held: Fetched, coming: Mapping[str, Oid]) -> dict[str, RefUpdate]:
    """The markers that come although their save was recovered or dismissed here, from another remote or under another
    name of this one; each with what says so for this name: `push` tells the remote then.
    """
    markers = {ref: oid for ref, oid in coming.items() if ref.startswith(PENDING)}
    done = {item.archive for item in fetched_saves(git).recovered} if markers else set()
    known = {item.ref: item.archive for item in held.recovered}
    marks = {ref: recovered_mark(remote, ref.removeprefix(PENDING)) for ref, oid in markers.items() if oid in done}
    return {ref: RefUpdate(mark, markers[ref], known.get(mark)) for ref, mark in marks.items()}


def _outdated(theirs: Mapping[str, Oid], before: float) -> list[str]:
    """The refs of saves that `prune` would remove again."""
    named = ((ref, parse_ref(ref), oid) for ref, oid in theirs.items())
    saves = {Fetchable(name.workspace_id, name.save_id, oid): ref for ref, name, oid in named if name and name.save_id}
    pending = {ref.removeprefix(PENDING): oid for ref, oid in theirs.items() if ref.startswith(PENDING)}
    return [saves[item] for item in outdated(saves, pending, before)]


def _local(remote: str, ref: str) -> str:
    """Where a ref of the remote stands here."""
    return f"{FETCHED}{remote_name(remote)}/{ref.removeprefix(OWN)}"
