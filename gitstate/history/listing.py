"""`log` and `diff`: what old saves hold. Only this module reads objects with GitPython."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import CorruptSave, GitstateError, words_of
from ..format.archive import MAX_FETCHED_MANIFEST
from ..format.bounds import read_fetched_stack
from ..format.context import MAX_CONTEXT, Context, context_from_json
from ..format.fetched import fetched_saves
from ..format.find import find_save
from ..format.manifest import MAX_MANIFEST, Manifest, manifest_from_json
from ..format.names import DISMISSED, age_key, workspace_id
from ..format.saves import checkpoint_archives, held_saves, pending_archives
from ..git.command import environment
from ..git.refs import list_refs
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..system.jsonio import loads

if TYPE_CHECKING:
    import git


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


#: No more saves that were fetched are listed: whoever can push can make any number. Their manifests have one limit.
_MOST_FETCHED = 10_000


def list_saves(repository: Repository, *, everything: bool) -> list[Entry]:
    """The saves and the latest checkpoint of this workspace, newest first. `everything`: of every workspace."""
    git = repository.git
    pending = pending_archives(git)
    held = [(save.workspace_id, save.archive, save.save_id) for save in held_saves(git)]
    held += [(workspace, archive, workspace) for workspace, archive in checkpoint_archives(git).items()]
    own = workspace_id(repository)
    dismissed = set(list_refs(git, DISMISSED).values())
    repo = _open(repository)
    entries = [
        _entry(repo, workspace, archive, pending.get(workspace) == archive, name)
        for workspace, archive, name in held
        if everything or workspace == own
    ]
    if everything:
        fetched = fetched_saves(git)
        waiting = {(item.remote, item.archive) for item in fetched.pending}
        left = MAX_FETCHED_MANIFEST
        for item in fetched.saves[:_MOST_FETCHED]:
            name, is_waiting = item.save_id or "", (item.remote, item.archive) in waiting
            entry = _entry(repo, item.workspace_id, item.archive, is_waiting, name, item.remote, left)
            left -= entry.size
            entries.append(entry)
    repo.close()
    entries = [replace(entry, dismissed=entry.archive in dismissed) for entry in entries]
    return sorted(entries, key=lambda entry: age_key(entry.save_id), reverse=True)


def diff(repository: Repository, save_id: str) -> str:
    """What a save changed, compared with HEAD at that time, as a patch. No program of the configuration is run.

    Raises NeedsPerson if there is no such save.
    """
    repo = _open(repository)
    try:
        held = find_save(repository, save_id)
        commit = repo.commit(held.archive)
        if held.remote is not None:
            with ObjectReader(repository.git) as reader:
                read_fetched_stack(held.archive, reader)
        base = manifest_from_json(_load(commit, "manifest.json", MAX_MANIFEST)).head
        empty = str(repo.git.hash_object("-t", "tree", "--stdin", istream=open(os.devnull, "rb")))  # noqa: SIM115
        text: Any = repo.git.diff(
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--no-renames",
            "--binary",
            base or empty,
            commit.parents[0].hexsha,
            stdout_as_string=False,
            strip_newline_in_stdout=False,
        )
        return bytes(text).decode("utf-8", "surrogateescape")
    finally:
        repo.close()


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
) -> Entry:
    try:
        commit = repo.commit(oid)
        manifest = manifest_from_json(_load(commit, "manifest.json", most))
        context = context_from_json(_load(commit, "context.json", MAX_CONTEXT))
        # A save that was fetched may give itself any id.
        save_id = manifest.save_id if remote is None else name
        size = (commit.tree / "manifest.json").size
        return Entry(save_id, workspace, oid, waiting, context, manifest, remote=remote, size=size)
    except (GitstateError, KeyError, ValueError, OSError, RecursionError) as error:
        return Entry(name, workspace, oid, waiting, problem=words_of(error)[:200], remote=remote)


def _load(commit: git.Commit, name: str, limit: int) -> dict[str, Any]:
    """A JSON object of the archive. Raises CorruptSave, also if GitPython rejects a tree for a name in it."""
    try:
        blob = commit.tree / name
        data = blob.data_stream.read() if blob.size <= limit else None
        return loads(data, limit, name)
    except (KeyError, ValueError, OSError) as error:
        raise CorruptSave(f"the save {commit.hexsha[:12]} is unreadable: {words_of(error)[:200]}") from None
