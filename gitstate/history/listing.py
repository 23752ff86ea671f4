"""`log` and `diff`: what old saves hold. Only `diff`, which makes patches, reads objects with GitPython."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import CorruptSave, GitError, GitstateError, words_of
from ..format.archive import (
    MAX_FETCHED_MANIFEST,
    HeldSave,
    SavesAhead,
    checkpoint_archives,
    held_saves,
    history_saves,
    pending_archives,
)
from ..format.bounds import read_fetched_stack
from ..format.context import MAX_CONTEXT, Context
from ..format.fetched import fetched_saves
from ..format.find import find_save
from ..format.manifest import MAX_MANIFEST, Manifest, read_manifest
from ..format.names import DISMISSED, newest_first, workspace_id
from ..git.command import Git, Oid, environment, object_id
from ..git.entries import each_difference
from ..git.refs import list_refs
from ..git.repository import Repository
from ..objects.reader import ObjectReader, ObjectsAhead, commit_head
from ..system.jsonio import text_to_json
from ..system.stdlib import quote

if TYPE_CHECKING:
    import git


@dataclass(frozen=True)
class Changes:
    """How many paths a save added, changed and deleted, compared with HEAD at that time; `size` of them in bytes."""

    added: int
    changed: int
    deleted: int
    size: int


@dataclass(frozen=True)
class Entry:
    """One line of `gitstate log`. If the save is unreadable, `manifest` is None and `problem` says why."""

    save_id: str
    workspace_id: str
    archive: str
    waiting: bool
    context: Context = Context()
    manifest: Manifest | None = None
    problem: str | None = None
    remote: str | None = None
    """The remote that it was fetched from; None for a save of this repository."""
    dismissed: bool = False
    """It was dismissed, or set aside, and not recovered since."""
    wip_tree: Oid | None = None
    """The tree that it saved; None if it is unreadable."""
    changes: Changes | None = None
    """What it changed; None where nobody asked (`measured`), and for a save that was fetched."""


#: No more saves that were fetched are listed: whoever can push can make any number. Their manifests have one limit.
_MOST_FETCHED = 10_000
#: The sizes of so many objects are asked for together.
_SIZES_AT_ONCE = 1024
#: Where a path of this status is counted in `Changes`; any other is a changed one.
_COLUMNS = {"A": 0, "D": 2}


def list_saves(repository: Repository, *, everything: bool, whole: bool = True) -> list[Entry]:
    """The saves, the latest checkpoint and the history of this workspace, newest first. `everything`: of every one.

    Their manifests are without paths if not `whole`.
    """
    return newest_saves(repository, sys.maxsize, everything=everything, whole=whole)[0]


def newest_saves(repository: Repository, most: int, *, everything: bool, whole: bool = True) -> tuple[list[Entry], int]:
    """The `most` newest of what `list_saves` lists, and how many older ones there are. Only those listed are read."""
    git = repository.git
    pending = pending_archives(git)
    own = workspace_id(repository)
    found = (*held_saves(git), *history_saves(git))
    held = [(save.workspace_id, save.archive, save.save_id) for save in found if everything or save.workspace_id == own]
    held = newest_first(held, lambda item: (item[0], item[2]))
    listed = {archive for _, archive, _ in held}
    latest = [
        (workspace, archive, workspace)
        for workspace, archive in checkpoint_archives(git).items()
        if archive not in listed and (everything or workspace == own)
    ]
    number = len(held) + len(latest)
    dismissed = set(list_refs(git, DISMISSED).values())
    with ObjectReader(git) as reader:
        chosen = (*held[:most], *latest)
        saves = SavesAhead([archive for _, archive, _ in chosen], reader)
        entries = [
            _entry(saves, workspace, archive, pending.get(workspace) == archive, name, whole=whole)
            for workspace, archive, name in chosen
        ]
        if everything:
            fetched = _fetched_entries(git, reader, whole=whole)
            entries += fetched
            number += len(fetched)
    entries = [replace(entry, dismissed=entry.archive in dismissed) for entry in entries]
    entries = newest_first(entries, lambda entry: (entry.workspace_id, entry.save_id))
    return entries[:most], max(0, number - most)


def _fetched_entries(git: Git, reader: ObjectReader, *, whole: bool) -> list[Entry]:
    """The saves that were fetched from every remote."""
    fetched = fetched_saves(git)
    waiting = {(item.remote, item.archive) for item in fetched.pending}
    listed = fetched.saves[:_MOST_FETCHED]
    saves = SavesAhead([item.archive for item in listed], reader)
    entries = []
    left = MAX_FETCHED_MANIFEST
    for item in listed:
        name, is_waiting = item.save_id or "", (item.remote, item.archive) in waiting
        entries.append(_entry(saves, item.workspace_id, item.archive, is_waiting, name, item.remote, left, whole=whole))
        left -= saves.size
    return entries


def with_paths(repository: Repository, entries: Sequence[Entry]) -> Iterator[Entry]:
    """The entries with their whole manifests, one after the other: all of them may not fit into memory."""
    with ObjectReader(repository.git) as reader:
        saves = SavesAhead([entry.archive for entry in entries], reader)
        for entry in entries:
            if entry.manifest is not None:
                with contextlib.suppress(GitstateError):
                    most = MAX_MANIFEST if entry.remote is None else MAX_FETCHED_MANIFEST
                    entry = replace(entry, manifest=saves.read(entry.archive, most).manifest)
            yield entry


def measured(repository: Repository, entries: Sequence[Entry]) -> list[Entry]:
    """The entries with what each changed. Saves that were fetched are not measured: their trees may be of any size."""
    with ObjectReader(repository.git) as reader:
        wanted = [entry for entry in entries if entry.manifest is not None and entry.remote is None]
        heads = _trees_of(reader, [entry.manifest.head for entry in wanted if entry.manifest and entry.manifest.head])
        pairs: dict[str, tuple[Oid, Oid]] = {}
        empty = _EMPTY_TREES[repository.object_format]
        for entry in wanted:
            head = entry.manifest and entry.manifest.head
            tree = empty if head is None else heads.get(head)
            if tree is not None and entry.wip_tree is not None:
                pairs[entry.archive] = tree, entry.wip_tree
        known = _changes(repository, reader, list(dict.fromkeys(pairs.values())))
    return [replace(entry, changes=known.get(pairs.get(entry.archive, ("", "")))) for entry in entries]


#: Git knows it without having it.
_EMPTY_TREES = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}


def _trees_of(reader: ObjectReader, commits: Sequence[Oid]) -> dict[Oid, Oid]:
    """The trees of those of the commits that can be read."""
    objects = ObjectsAhead(reader)
    objects.fetch(commits)
    found = {}
    for commit in dict.fromkeys(commits):
        with contextlib.suppress(GitError, ValueError):
            found[commit] = commit_head(objects.commit(commit, MAX_CONTEXT) or b"").tree
    return found


def _changes(
    repository: Repository, reader: ObjectReader, pairs: Sequence[tuple[Oid, Oid]]
) -> dict[tuple[Oid, Oid], Changes]:
    """How each second tree differs from the first; a pair that can't be compared is missing."""
    try:
        return _count(repository, reader, pairs)
    except GitError:
        found = {}
        for pair in pairs if len(pairs) > 1 else ():
            found.update(_changes(repository, reader, [pair]))
        return found


def _count(
    repository: Repository, reader: ObjectReader, pairs: Sequence[tuple[Oid, Oid]]
) -> dict[tuple[Oid, Oid], Changes]:
    """As `_changes`. Raises GitError where one pair can't be compared."""
    counts: dict[tuple[Oid, Oid], list[int]] = {pair: [0, 0, 0, 0] for pair in pairs}
    sizes: list[tuple[list[int], Oid]] = []

    def add_sizes() -> None:
        for (count, _), info in zip(sizes, reader.kinds([oid for _, oid in sizes]), strict=True):
            count[3] += info[1] if info is not None and info[0] == "blob" else 0
        sizes.clear()

    for number, entry in each_difference(repository, pairs):
        count = counts[pairs[number]]
        count[_COLUMNS.get(entry.status, 1)] += 1
        if entry.status != "D":
            sizes.append((count, entry.new_oid))
        if len(sizes) == _SIZES_AT_ONCE:
            add_sizes()
    add_sizes()
    return {pair: Changes(*count) for pair, count in counts.items()}


def diff(repository: Repository, save_id: str, other: str | None = None) -> str:
    """What a save changed, compared with HEAD at that time, as a patch; with `other` what that save has otherwise.

    No program of the configuration is run. Raises NeedsPerson if there is no such save, or an object of it is missing.
    """
    repo = _open(repository)
    from git.exc import ODBError

    try:
        commit = _commit_of(repository, repo, find_save(repository, save_id))
        if other is not None:
            theirs = _commit_of(repository, repo, find_save(repository, other))
            before, after = commit.parents[0].hexsha, theirs.parents[0].hexsha
        else:
            empty = object_id(repository.object_format, "tree", b"")
            base = read_manifest(_load(commit, "manifest.json", MAX_MANIFEST), MAX_MANIFEST).head
            before, after = base or empty, commit.parents[0].hexsha
        return _patch(repository, before, after)
    except ODBError:
        raise _not_compared(repository, "an object is missing or damaged") from None
    finally:
        repo.close()


def _patch(repository: Repository, before: Oid, after: Oid) -> str:
    """Not with GitPython, which runs git without our options: the configuration may name a FIFO, or what a submodule
    runs.
    """
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--submodule=short", "--binary")
    try:
        return repository.git.run("diff", *plain, before, after).decode("utf-8", "surrogateescape")
    except GitError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _not_compared(repository, lines[-1] if lines else f"git ended with {error.status}") from None


def _not_compared(repository: Repository, why: str) -> CorruptSave:
    hint = f"git -C {quote(os.fsdecode(repository.toplevel))} fsck"
    return CorruptSave(f"the save can't be compared: {text_to_json(why)}", hint=hint)


def _commit_of(repository: Repository, repo: git.Repo, held: HeldSave) -> git.Commit:
    """The archive of a save. Of one that was fetched the limits are looked at first."""
    if held.remote is not None:
        with ObjectReader(repository.git) as reader:
            read_fetched_stack(held.archive, reader)
    return _commit(repo, held.archive)


def _open(repository: Repository) -> git.Repo:
    import git

    # GitPython passes the environment of this process to git, so it is cleaned for good.
    clean = environment()
    os.environ.clear()
    os.environ.update(clean)
    return git.Repo(os.fsdecode(repository.toplevel))


def _entry(
    saves: SavesAhead,
    workspace: str,
    oid: str,
    waiting: bool,
    name: str,
    remote: str | None = None,
    most: int = MAX_MANIFEST,
    *,
    whole: bool,
) -> Entry:
    try:
        save = saves.read(oid, most)
        manifest = save.manifest if whole else save.manifest.without_paths()
        # A save that was fetched may give itself any id.
        save_id = manifest.save_id if remote is None else name
        return Entry(save_id, workspace, oid, waiting, save.context, manifest, remote=remote, wip_tree=save.wip_tree)
    except (GitstateError, KeyError, ValueError, OSError, RecursionError) as error:
        return Entry(name, workspace, oid, waiting, problem=words_of(error)[:200], remote=remote)


def _commit(repo: git.Repo, oid: str) -> git.Commit:
    """A commit of a size that GitPython may read, and with such a tree. Raises CorruptSave."""
    try:
        _refuse_large(repo, oid)
        commit = repo.commit(oid)
        _refuse_large(repo, commit.tree.hexsha)
    except ValueError:
        raise CorruptSave(f"the save {oid[:12]} is unreadable: its archive is missing or damaged") from None
    return commit


def _refuse_large(repo: git.Repo, oid: str) -> None:
    size = repo.odb.info(bytes.fromhex(oid)).size
    if size > MAX_CONTEXT:
        raise CorruptSave(f"the object {oid} has {size} bytes; the limit is {MAX_CONTEXT}")


def _load(commit: git.Commit, name: str, limit: int) -> bytes | None:
    """The bytes of a file of the archive; None where it has more than `limit`.

    Raises CorruptSave, also if GitPython rejects a tree for a name in it.
    """
    try:
        blob = commit.tree / name
        data: bytes | None = blob.data_stream.read() if blob.size <= limit else None
        return data
    except (KeyError, ValueError, OSError) as error:
        raise CorruptSave(f"the save {commit.hexsha[:12]} is unreadable: {words_of(error)[:200]}") from None
