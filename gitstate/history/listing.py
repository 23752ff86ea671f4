"""`log` and `diff`: what old saves hold. Only this module reads objects with GitPython."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import CorruptSave, GitError, GitstateError, words_of
from ..format.archive import MAX_FETCHED_MANIFEST, read_save
from ..format.bounds import read_fetched_stack
from ..format.context import MAX_CONTEXT, Context, context_from_json
from ..format.fetched import fetched_saves
from ..format.find import find_save
from ..format.manifest import MAX_MANIFEST, Manifest, read_manifest
from ..format.names import DISMISSED, age_key, workspace_id
from ..format.saves import HeldSave, checkpoint_archives, held_saves, history_saves, pending_archives
from ..git.command import Oid, environment
from ..git.entries import diff_trees, list_tree
from ..git.refs import list_refs
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..system.jsonio import loads

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
    size: int = 0
    """Bytes of its manifest."""
    changes: Changes | None = None
    """What it changed; None where nobody asked (`measured`), and for a save that was fetched."""


#: No more saves that were fetched are listed: whoever can push can make any number. Their manifests have one limit.
_MOST_FETCHED = 10_000


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
    held.sort(key=lambda item: age_key(item[2]), reverse=True)
    listed = {archive for _, archive, _ in held}
    latest = [
        (workspace, archive, workspace)
        for workspace, archive in checkpoint_archives(git).items()
        if archive not in listed and (everything or workspace == own)
    ]
    number = len(held) + len(latest)
    dismissed = set(list_refs(git, DISMISSED).values())
    repo = _open(repository)
    entries = [
        _entry(repo, workspace, archive, pending.get(workspace) == archive, name, whole=whole)
        for workspace, archive, name in (*held[:most], *latest)
    ]
    if everything:
        fetched = fetched_saves(git)
        waiting = {(item.remote, item.archive) for item in fetched.pending}
        left = MAX_FETCHED_MANIFEST
        for item in fetched.saves[:_MOST_FETCHED]:
            name, is_waiting = item.save_id or "", (item.remote, item.archive) in waiting
            entry = _entry(repo, item.workspace_id, item.archive, is_waiting, name, item.remote, left, whole=whole)
            left -= entry.size
            entries.append(entry)
            number += 1
    repo.close()
    entries = [replace(entry, dismissed=entry.archive in dismissed) for entry in entries]
    entries.sort(key=lambda entry: age_key(entry.save_id), reverse=True)
    return entries[:most], max(0, number - most)


def measured(repository: Repository, entries: Sequence[Entry]) -> list[Entry]:
    """The entries with what each changed. Saves that were fetched are not measured: their trees may be of any size."""
    known: dict[tuple[Oid | None, Oid], Changes] = {}
    with ObjectReader(repository.git) as reader:

        def one(entry: Entry) -> Entry:
            if entry.manifest is None or entry.remote is not None:
                return entry
            try:
                head = None if entry.manifest.head is None else reader.tree_of(entry.manifest.head)
                pair = head, read_save(entry.archive, reader).wip_tree
                if pair not in known:
                    known[pair] = _changes(repository, reader, *pair)
                return replace(entry, changes=known[pair])
            except (CorruptSave, GitError):
                reader.restart()
                return entry

        return [one(entry) for entry in entries]


def _changes(repository: Repository, reader: ObjectReader, head: Oid | None, wip: Oid) -> Changes:
    if head is None:
        oids = [entry.oid for entry in list_tree(repository.git, wip)]
        statuses = ["A"] * len(oids)
    else:
        entries = diff_trees(repository, head, wip)
        statuses = [entry.status for entry in entries]
        oids = [entry.new_oid for entry in entries if entry.status != "D"]
    size = sum(info[1] for info in reader.kinds(oids) if info is not None and info[0] == "blob")
    added, deleted = statuses.count("A"), statuses.count("D")
    return Changes(added, len(statuses) - added - deleted, deleted, size)


def diff(repository: Repository, save_id: str, other: str | None = None) -> str:
    """What a save changed, compared with HEAD at that time, as a patch; with `other` what that save has otherwise.

    No program of the configuration is run. Raises NeedsPerson if there is no such save.
    """
    repo = _open(repository)
    try:
        commit = _commit_of(repository, repo, find_save(repository, save_id))
        if other is not None:
            theirs = _commit_of(repository, repo, find_save(repository, other))
            before, after = commit.parents[0].hexsha, theirs.parents[0].hexsha
        else:
            empty = str(repo.git.hash_object("-t", "tree", "--stdin", istream=open(os.devnull, "rb")))  # noqa: SIM115
            base = read_manifest(_load(commit, "manifest.json", MAX_MANIFEST), MAX_MANIFEST).head
            before, after = base or empty, commit.parents[0].hexsha
        text: Any = repo.git.diff(
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--no-renames",
            "--binary",
            before,
            after,
            stdout_as_string=False,
            strip_newline_in_stdout=False,
        )
        return bytes(text).decode("utf-8", "surrogateescape")
    finally:
        repo.close()


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
    repo: git.Repo,
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
        commit = _commit(repo, oid)
        manifest = read_manifest(_load(commit, "manifest.json", most), most)
        manifest = manifest if whole else manifest.without_paths()
        context = context_from_json(loads(_load(commit, "context.json", MAX_CONTEXT), MAX_CONTEXT, "context.json"))
        # A save that was fetched may give itself any id.
        save_id = manifest.save_id if remote is None else name
        size = (commit.tree / "manifest.json").size
        return Entry(save_id, workspace, oid, waiting, context, manifest, remote=remote, size=size)
    except (GitstateError, KeyError, ValueError, OSError, RecursionError) as error:
        return Entry(name, workspace, oid, waiting, problem=words_of(error)[:200], remote=remote)


def _commit(repo: git.Repo, oid: str) -> git.Commit:
    """A commit of a size that GitPython may read, and with such a tree. Raises CorruptSave."""
    _refuse_large(repo, oid)
    commit = repo.commit(oid)
    _refuse_large(repo, commit.tree.hexsha)
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
