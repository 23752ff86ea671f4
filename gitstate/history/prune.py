"""`prune`: which old saves are removed.

A save is removed if it is older than `gitstate.keepDays` and not one of the newest `gitstate.keepSaves` there; kept
checkpoints are counted apart, so that they push out no save. Those of all worktrees that are gone are counted together:
an agent makes and removes some for months. Pending saves, the saves that they are stacked on, saves that were never
recovered and dismissed ones are kept, whatever their age. A dismissed save goes only by its name.
The history of checkpoints is thinned out as they are made; here those go that are older than `gitstate.keepDays`, and
all of them without `gitstate.history`. Of worktrees that are gone the latest checkpoints go too, but for as many.
A conversation is removed if it is older than `gitstate.keepDays`, and neither that of the live context nor of a save
that is kept for its own sake. What is held of repositories inside a workspace goes with its save. A fetched save goes
if it is older than `gitstate.keepDays`: see `outdated`. Git's own gc removes the objects later. No pack is unlinked
here, because another git may read it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import CorruptSave, NeedsPerson, UnsupportedSave
from ..format.archive import (
    HeldSave,
    SavesAhead,
    checkpoint_save_id,
    held_saves,
    history_saves,
    pending_archives,
    read_save,
)
from ..format.fetched import FetchedRef, fetched_saves
from ..format.manifest import Save
from ..format.names import (
    CHECKPOINTS,
    CONVERSATIONS,
    DISMISSED,
    HISTORY,
    INSIDE,
    LATEST,
    NOTES,
    PENDING,
    UNFINISHED,
    age_key,
    conversation_ref,
    dismissed_ref,
    newest_first,
    save_time_ns,
    workspace_id,
)
from ..git import refs
from ..git.command import Git, Oid
from ..git.damaged.files import missing_alternate
from ..git.gitdir import linked_worktrees
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.notes import NotesRef
from ..objects.reader import ObjectReader
from ..system.clock import Deadline
from ..system.stdlib import quote
from ..workspace.live_context import forget_pending, pending_in_context, read_live_context
from ..workspace.ownership import locked_workspace
from ..workspace.peek import worktree_ids
from ..workspace.settings import boolean, number


class Held(NamedTuple):
    """One save in the repository. `save` is None if it is unreadable."""

    ref: str
    archive: Oid
    save_id: str
    workspace_id: str
    save: Save | None


class PruneResult(NamedTuple):
    """The saves that were removed (or would be), and how many are kept."""

    pruned: tuple[Held, ...]
    kept: int
    history: tuple[Held, ...] = ()
    """The checkpoints of the history that went too, because of their age."""
    gone: tuple[Held, ...] = ()
    """The latest checkpoints of worktrees that are gone, which went too."""


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
    """Prune the saves of this workspace, or of every workspace of the repository, or those with the ids `names`.

    Raises NeedsPerson for a name that does not exist or must be kept, UsageError for a bad setting, TryAgain.
    """
    saves = number(repository, "keepSaves", keep_saves)
    days = number(repository, "keepDays", keep_days)
    there = frozenset(worktree_ids(repository.common_dir, listed=True)) if everything else None
    rule = Rule(int(saves), time.time() - days * 86_400, boolean(repository, "history"), there)
    if dry_run:
        # It waits for nobody: a save may be at work, and takes as long as it takes.
        with ObjectReader(repository.git) as reader:
            gone, _, left = _what_goes(repository, rule, names, reader, dry_run=True)
            return PruneResult((*gone.saves, *gone.fetched), left, gone.history, gone.latest)
    with locked_workspace(repository, Deadline(wait)) as git, ObjectReader(repository.git) as reader:
        gone, dismissed, left = _what_goes(repository, rule, names, reader, dry_run=False)
        if gone.saves or gone.history:
            _remove(repository, git, [*gone.saves, *gone.history], dismissed)
        inside = _inside_without_save(repository, rule)
        for others in filter(None, (gone.conversations, gone.fetched, gone.latest, inside)):
            updates = [RefUpdate(item.ref, None, item.archive) for item in others]
            refs.move_refs(repository, git, updates, "prune")
        return PruneResult((*gone.saves, *gone.fetched), left, gone.history, gone.latest)


def _what_goes(
    repository: Repository, rule: Rule, names: Sequence[str], reader: ObjectReader, *, dry_run: bool
) -> tuple[Gone, dict[str, Oid], int]:
    """What goes, the archives that were dismissed, and how many saves stay."""
    items = (*held_saves(repository.git), *history_saves(repository.git))
    pending = [*pending_archives(repository.git).values(), *refs.list_refs(repository.git, UNFINISHED).values()]
    dismissed = refs.list_refs(repository.git, DISMISSED)
    if names:
        gone = _named(repository, _held(items, reader), pending, names, reader)
        _refuse_what_may_come_back(repository, gone.saves)
    else:
        gone = _old(repository, items, [*pending, *dismissed.values()], rule, reader, dry_run=dry_run)
    count = sum(not item.ref.startswith(HISTORY) for item in items)
    return gone, dismissed, count - len(gone.saves)


class Rule(NamedTuple):
    """What `prune` removes where no save is named."""

    keep: int
    """So many of the newest saves of each workspace stay."""
    before: float
    """Only what is older goes; in seconds since the epoch."""
    has_history: bool
    there: frozenset[str] | None = None
    """The ids of the worktrees that exist, where every workspace of the repository is pruned."""

    @property
    def everything(self) -> bool:
        """In every workspace of the repository."""
        return self.there is not None

    def counted_as(self, workspace_id: str) -> str:
        """With which workspace the saves of one are counted: the empty text stands for all that are gone."""
        return workspace_id if self.there is None or workspace_id in self.there else ""


class Gone(NamedTuple):
    """What goes."""

    saves: Sequence[Held]
    fetched: Sequence[Held]
    history: tuple[Held, ...] = ()
    conversations: Sequence[Held] = ()
    latest: tuple[Held, ...] = ()


def _old(
    repository: Repository,
    items: Sequence[HeldSave],
    pending: Sequence[Oid],
    rule: Rule,
    reader: ObjectReader,
    *,
    dry_run: bool,
) -> Gone:
    """What goes because of its age. As a rule nothing does, and the names of the saves tell: then none is read."""
    own = workspace_id(repository)
    mine = [item for item in items if rule.everything or item.workspace_id == own]
    saves = [item for item in mine if not item.ref.startswith(HISTORY)]
    past = {item.ref for item in mine if item.ref.startswith(HISTORY)}
    if rule.has_history:
        past = {item.ref for item in mine if item.ref in past and _is_older(item.save_id, rule.before)}
    conversations = [] if dry_run else _old_conversations(repository, rule)
    fetched = _old_fetched(repository, rule.before)
    latest = tuple(_latest_of_gone(repository, rule, {*pending}))
    if not (past or conversations or _may_go(saves, rule)):
        return Gone((), fetched, latest=latest)
    held = _held(items, reader)
    needed = needed_saves(held, pending, reader)
    spared = {item.save.context.session_id for item in held if item.save and item.archive in needed}
    names = {item.ref for item in saves}
    return Gone(
        going_saves([item for item in held if item.ref in names], needed, rule),
        fetched,
        tuple(item for item in held if item.ref in past),
        [item for item in conversations if item.save_id not in spared],
        latest,
    )


def _may_go(saves: Sequence[HeldSave], rule: Rule) -> bool:
    """Whether the rule lets one of the saves go, as far as their names tell."""
    by_workspace: dict[str, list[str]] = {}
    for item in saves:
        by_workspace.setdefault(rule.counted_as(item.workspace_id), []).append(item.save_id)
    for ids in by_workspace.values():
        if len(ids) > rule.keep:
            # They sort by time, but for those that gitstate did not make.
            oldest = next((save_id for save_id in sorted(ids) if save_time_ns(save_id) is not None), "")
            if _is_older(oldest, rule.before):
                return True
    return False


def going_saves(held: Sequence[Held], needed: set[Oid], rule: Rule) -> list[Held]:
    """The saves that are old and not needed, nor among the newest of those that are counted together.

    The id of a save tells its time.
    """
    seen: dict[tuple[str, bool], int] = {}
    going = []
    for item in newest_first(held, lambda item: (item.workspace_id, item.save_id)):
        is_checkpoint = item.save is not None and item.save.manifest.kind == "checkpoint"
        kind = rule.counted_as(item.workspace_id), is_checkpoint
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] > rule.keep and item.archive not in needed and _is_older(item.save_id, rule.before):
            going.append(item)
    return going


class Fetchable(NamedTuple):
    """One save of a remote: what `outdated` asks of it."""

    workspace_id: str
    save_id: str
    archive: Oid


def outdated(saves: Iterable[Fetchable], pending: Mapping[str, Oid], before: float) -> set[Fetchable]:
    """The saves of one remote that are older than `before`, in seconds since the epoch, and not needed.

    `pending` maps a workspace id to the archive that is pending there. That save, and each that is newer than it, is
    needed; all of the workspace are where nobody knows which save it is.
    """
    listed = list(saves)
    oldest = dict.fromkeys(pending, (-1, False, ""))
    for item in listed:
        if pending.get(item.workspace_id) == item.archive:
            oldest[item.workspace_id] = age_key(item.save_id)
    return {
        item
        for item in listed
        if _is_older(item.save_id, before)
        and (item.workspace_id not in oldest or age_key(item.save_id) < oldest[item.workspace_id])
    }


def _old_fetched(repository: Repository, before: float) -> list[Held]:
    """The fetched saves of each remote that are outdated."""
    found = fetched_saves(repository.git)
    going: list[Held] = []
    for remote in dict.fromkeys(item.remote for item in found.saves):
        mine = [item for item in found.saves if item.remote == remote]
        pending = {item.workspace_id: item.archive for item in found.pending if item.remote == remote}
        old = outdated(
            (Fetchable(item.workspace_id, item.save_id or "", item.archive) for item in mine), pending, before
        )
        going += [_held_fetched(item) for item in mine if (item.workspace_id, item.save_id, item.archive) in old]
    return going


def _named_fetched(repository: Repository, names: Sequence[str]) -> list[Held]:
    """The fetched saves of these ids. Raises NeedsPerson for one that is pending on its remote."""
    found = fetched_saves(repository.git)
    pending = {(item.remote, item.archive) for item in found.pending}
    going = [item for item in found.saves if item.save_id in names]
    for item in going:
        if (item.remote, item.archive) in pending:
            take = f"gitstate recover --save {item.save_id}"
            hint = f"{take}; to refuse it: {take} --dismiss"
            raise NeedsPerson(f"the save {item.save_id} is pending on {item.remote}; nothing was pruned", hint=hint)
    return [_held_fetched(item) for item in going]


def _held_fetched(item: FetchedRef) -> Held:
    return Held(item.ref, item.archive, item.save_id or "", item.workspace_id, None)


def needed_saves(held: Sequence[Held], pending: Iterable[Oid], reader: ObjectReader) -> set[Oid]:
    """The archives that must be kept: pending saves, what they are stacked on, and what was never recovered.

    `pending` are archives. An unreadable save is kept, because nobody knows what depends on it.
    """
    by_id = {item.save_id: item for item in held}
    by_archive = {item.archive: item for item in held}
    needed: set[Oid] = set()
    queue = list(pending)
    while queue:
        archive = queue.pop()
        needed.add(archive)
        item = by_archive.get(archive)
        try:
            save = item.save if item is not None else read_save(archive, reader)
        except (CorruptSave, UnsupportedSave):
            continue
        below = save.manifest.below if save is not None else None
        if below is not None and below not in needed:
            queue.append(below)
    needed |= {item.archive for item in held if item.save is None}
    for item in held:
        # This save took the marker from a save that was never recovered. Both are needed to show that.
        previous = item.save.manifest.previous if item.save is not None else None
        if previous in by_id:
            needed |= {item.archive, by_id[previous].archive}
    return needed


def _held(items: Sequence[HeldSave], reader: ObjectReader) -> list[Held]:
    held = []
    ahead = SavesAhead([item.archive for item in items], reader)
    for item in items:
        try:
            read = ahead.read(item.archive)
            save: Save | None = read._replace(manifest=read.manifest.without_paths())
        except (CorruptSave, UnsupportedSave):
            save = None
        held.append(Held(item.ref, item.archive, item.save_id, item.workspace_id, save))
    return held


def _named(
    repository: Repository, held: Sequence[Held], pending: Sequence[Oid], names: Sequence[str], reader: ObjectReader
) -> Gone:
    """The saves of these ids. Raises NeedsPerson for one that does not exist, or must be kept."""
    own = {item.save_id for item in held}
    fetched = _named_fetched(repository, [name for name in names if name not in own])
    theirs = {item.save_id for item in fetched}
    needed = needed_saves(held, pending, reader)
    going: list[Held] = []
    for name in names:
        found = [item for item in held if item.save_id == name]
        if not found and name in theirs:
            continue
        if not found and name == checkpoint_save_id(repository):
            message = f"{name} is the latest checkpoint: it goes once another one has taken its place"
            raise NeedsPerson(f"{message}; nothing was pruned", hint="gitstate checkpoint")
        if not found:
            raise NeedsPerson(f"there is no save {name!r} in this repository", hint="gitstate log --all")
        if any(item.archive in needed and item.save is not None for item in found):
            raise NeedsPerson(f"the save {name} was never recovered; nothing was pruned", hint="gitstate recover")
        going += found
    return Gone(going, fetched)


def _refuse_what_may_come_back(repository: Repository, going: Sequence[Held]) -> None:
    """Raises NeedsPerson for a save that is unreadable here, and that an object store may hold which is away now.

    Without its ref git fetches it from none, and gc removes what is left of it.
    """
    unreadable = [item.save_id for item in going if item.save is None]
    if not unreadable:
        return
    what = f"the save {unreadable[0]} is unreadable here, and may be"
    alternate = missing_alternate(repository.common_dir)
    if alternate is not None:
        named = quote(os.path.join(os.fsdecode(repository.objects), "info/alternates"))
        hint = f"bring it back, or take its line out of {named}"
        raise NeedsPerson(f"{what} in {os.fsdecode(alternate)}, which is gone; nothing was pruned", hint=hint)
    promisor = next(iter(repository.promisors()), None)
    if promisor is not None:
        unset = f"git config --unset {quote(f'remote.{promisor}.promisor')}"
        hint = f"gitstate fetch {quote(promisor)}; where that does not bring it: {unset}"
        raise NeedsPerson(f"{what} on the promisor remote {promisor}; nothing was pruned", hint=hint)


def _remove(repository: Repository, git: Git, going: Sequence[Held], dismissed: Mapping[str, Oid]) -> None:
    _forget(repository, {item.archive for item in going})
    updates = [RefUpdate(item.ref, None, item.archive) for item in going]
    facts = [dismissed_ref(item.workspace_id, item.save_id) for item in going]
    updates += [RefUpdate(ref, None, dismissed[ref]) for ref in facts if ref in dismissed]
    refs.move_refs(repository, git, updates, "prune")
    notes = NotesRef(repository, NOTES, workspace_id(repository))
    notes.drop(git, [item.save.wip for item in going if item.save is not None])


def _forget(repository: Repository, archives: set[Oid]) -> None:
    """Let no live context name a save that goes: it would be taken for one that has lost its refs."""
    for git_dir in (repository.common_dir, *(item.git_dir for item in linked_worktrees(repository.common_dir))):
        if pending_in_context(git_dir) in archives:
            forget_pending(git_dir)


def _old_conversations(repository: Repository, rule: Rule) -> list[Held]:
    """The conversations that are older than the rule says, each with its session as its id; not that of the context."""
    own = workspace_id(repository)
    prefix = CONVERSATIONS if rule.everything else conversation_ref(own, "").rstrip("/")
    out = repository.git.run("for-each-ref", "--format=%(objectname) %(committerdate:unix) %(refname)", prefix)
    live = read_live_context(repository)[0].session_id
    found = []
    for line in out.decode("utf-8", "replace").splitlines():
        tip, ended, ref = line.split(" ", 2)
        session_id = ref.rpartition("/")[2]
        if session_id != live and ended.isdigit() and int(ended) < rule.before:
            found.append(Held(ref, tip, session_id, own, None))
    return found


def _latest_of_gone(repository: Repository, rule: Rule, pending: set[Oid]) -> list[Held]:
    """The latest checkpoints of worktrees that are gone and old: not the newest of them, nor beside a pending save."""
    if rule.there is None:
        return []
    about = "%(objectname) %(committerdate:unix) %(refname) %(trailers:key=Gitstate-Save,valueonly,separator=)"
    out = repository.git.run("for-each-ref", f"--format={about}", CHECKPOINTS)
    waiting = {ref.removeprefix(PENDING) for ref in refs.list_refs(repository.git, PENDING)}
    found = []
    for line in out.decode("utf-8", "replace").splitlines():
        tip, made, ref, save_id = line.split(" ", 3)
        workspace = ref.removeprefix(CHECKPOINTS)
        if workspace not in rule.there:
            found.append((save_id, int(made or 0), Held(ref, tip, save_id, workspace, None)))
    return [
        item
        for _, made, item in sorted(found, reverse=True)[rule.keep :]
        if made < rule.before and item.workspace_id not in waiting and item.archive not in pending
    ]


def _inside_without_save(repository: Repository, rule: Rule) -> list[Held]:
    """What is held of repositories inside beside saves that are gone; the latest too, if older than the rule says."""
    own = workspace_id(repository)
    saves = {(item.workspace_id, item.save_id) for item in held_saves(repository.git)}
    out = repository.git.run("for-each-ref", "--format=%(objectname) %(committerdate:unix) %(refname)", INSIDE)
    found = []
    for line in out.decode("utf-8", "replace").splitlines():
        tip, made, ref = line.split(" ", 2)
        workspace, _, save_id = ref.removeprefix(INSIDE).partition("/")
        goes = int(made) < rule.before if save_id == LATEST else (workspace, save_id) not in saves
        if goes and (rule.everything or workspace == own):
            found.append(Held(ref, tip, save_id, workspace, None))
    return found


def _is_older(save_id: str, seconds: float) -> bool:
    """Whether a save began before a time, in seconds since the epoch; False if its id does not tell."""
    began = save_time_ns(save_id)
    return began is not None and began < seconds * 1e9
