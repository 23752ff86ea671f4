"""Retention: which saves go, and their removal.

A save goes where it is both older than `gitstate.keepDays` and not among the newest `gitstate.keepSaves` of its
workspace. What waits to be recovered, what such a save stands on, and what was never recovered stays, however old.
The objects go with git's own gc; packs are folded by `git maintenance`, never unlinked here (another git may be
leaning on what stands in them).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import CorruptSave, NeedsPerson, UnsupportedSave
from ..format.archive import read_save
from ..format.manifest import Save
from ..format.names import NOTES, PENDING, SAVES, save_time_ns, workspace_id
from ..git import refs
from ..git.command import Git
from ..git.oid import Oid
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.notes import NotesRef
from ..objects.reader import ObjectReader
from ..system.clock import Deadline
from ..workspace.ownership import locked_workspace
from ..workspace.settings import number


class Held(NamedTuple):
    """One save as retention sees it. `save` is None where it can't be read."""

    ref: str
    archive: Oid
    save_id: str
    workspace_id: str
    save: Save | None


class PruneResult(NamedTuple):
    """The saves that went (or would go), and how many stay."""

    pruned: tuple[Held, ...]
    kept: int


def prune(
    repository: Repository,
    *,
    everything: bool = False,
    names: Sequence[str] = (),
    keep_saves: int | None = None,
    keep_days: float | None = None,
    dry_run: bool = False,
    wait: float = 60.0,
) -> PruneResult:
    """Prune the saves of this workspace, or of all in the repository, or those that are named by their ids.

    Raises NeedsPerson for a name that is not there or may not go, UsageError for a bad setting, TryAgain.
    """
    saves = number(repository, "keepSaves", keep_saves)
    days = number(repository, "keepDays", keep_days)
    with locked_workspace(repository, Deadline(wait)) as git, ObjectReader(repository.git) as reader:
        held = _held(repository, reader)
        needed = needed_saves(held, refs.list_refs(repository.git, PENDING), reader)
        if names:
            going = _named(held, needed, names)
        else:
            own = workspace_id(repository)
            mine = [item for item in held if everything or item.workspace_id == own]
            going = going_saves(mine, needed, int(saves), time.time() - days * 86_400)
        if not dry_run and going:
            _remove(repository, git, going)
        return PruneResult(tuple(going), len(held) - len(going))


def going_saves(held: Sequence[Held], needed: set[Oid], keep: int, before: float) -> list[Held]:
    """Those that are neither needed, nor among the newest `keep` of their workspace, nor younger than `before`.

    `before` is in seconds since the epoch; a save's time is in its id.
    """
    seen: dict[str, int] = {}
    going = []
    for item in sorted(held, key=lambda item: item.save_id, reverse=True):
        seen[item.workspace_id] = seen.get(item.workspace_id, 0) + 1
        if seen[item.workspace_id] > keep and item.archive not in needed and _is_older(item.save_id, before):
            going.append(item)
    return going


def needed_saves(held: Sequence[Held], pending: dict[str, Oid], reader: ObjectReader) -> set[Oid]:
    """The archives that must stay: what waits, what it stands on, and what another save took the marker from.

    A save that can't be read stays too: nobody knows what it stands for.
    """
    by_id = {item.save_id: item for item in held}
    by_archive = {item.archive: item for item in held}
    needed: set[Oid] = set()
    waiting = list(pending.values())
    while waiting:
        archive = waiting.pop()
        needed.add(archive)
        item = by_archive.get(archive)
        try:
            save = item.save if item is not None else read_save(archive, reader)
        except (CorruptSave, UnsupportedSave):
            continue
        below = save.manifest.below if save is not None else None
        if below is not None and below not in needed:
            waiting.append(below)
    needed |= {item.archive for item in held if item.save is None}
    for item in held:
        # Nobody ever recovered the save that this one took the marker from; without both nobody would know.
        previous = item.save.manifest.previous if item.save is not None else None
        if previous in by_id:
            needed |= {item.archive, by_id[previous].archive}
    return needed


def _held(repository: Repository, reader: ObjectReader) -> list[Held]:
    found = []
    for ref, oid in refs.list_refs(repository.git, SAVES).items():
        workspace, _, save_id = ref.removeprefix(SAVES).rpartition("/")
        try:
            save: Save | None = read_save(oid, reader)
        except (CorruptSave, UnsupportedSave):
            save = None
        found.append(Held(ref, oid, save_id, workspace, save))
    return found


def _named(held: Sequence[Held], needed: set[Oid], names: Sequence[str]) -> list[Held]:
    going = []
    for name in names:
        found = [item for item in held if item.save_id == name]
        if not found:
            raise NeedsPerson(f"there is no save {name!r} in this repository", hint="gitstate log --all")
        if any(item.archive in needed and item.save is not None for item in found):
            raise NeedsPerson(f"the save {name} was never recovered; nothing was pruned", hint="gitstate recover")
        going += found
    return going


def _remove(repository: Repository, git: Git, going: Sequence[Held]) -> None:
    refs.move_refs(repository, git, [RefUpdate(item.ref, None, item.archive) for item in going], "prune")
    notes = NotesRef(repository, NOTES, workspace_id(repository))
    notes.drop(git, [item.save.wip for item in going if item.save is not None])


def _is_older(save_id: str, seconds: float) -> bool:
    """Whether a save began before a time, in seconds since the epoch; False where its id does not tell."""
    began = save_time_ns(save_id)
    return began is not None and began < seconds * 1e9
