"""People's commands that look into saves: log and diff. GitPython is the object layer here, and only here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import CorruptSave, GitstateError, NeedsPerson
from ..format import names
from ..format.context import MAX_CONTEXT, Context, context_from_json
from ..format.manifest import MAX_MANIFEST, Manifest, manifest_from_json
from ..format.names import is_save_id, workspace_id
from ..git import refs
from ..git.command import environment
from ..git.repository import Repository
from ..system.jsonio import loads

if TYPE_CHECKING:
    import git


@dataclass(frozen=True)
class Entry:
    """One line of `gitstate log`. `manifest` is None where the save can't be read, and `problem` says why."""

    save_id: str
    workspace_id: str
    archive: str
    waiting: bool
    context: Context = Context()
    manifest: Manifest | None = None
    problem: str | None = None


def list_saves(repository: Repository, *, everything: bool) -> list[Entry]:
    """The saves of this workspace (or of all in the repository), newest first, the latest checkpoint among them."""
    repo = _open(repository)
    waiting = {ref.rpartition("/")[2]: oid for ref, oid in refs.list_refs(repository.git, names.PENDING).items()}
    own = workspace_id(repository)
    found = []
    for ref, oid in refs.list_refs(repository.git, names.SAVES, names.CHECKPOINTS).items():
        workspace = ref.split("/")[3]
        if everything or workspace == own:
            found.append(_entry(repo, workspace, oid, waiting.get(workspace) == oid, ref.rpartition("/")[2]))
    repo.close()
    return sorted(found, key=lambda entry: entry.save_id, reverse=True)


def diff(repository: Repository, save_id: str) -> str:
    """What a save changed against the commit it stands on, as a patch. No program that the repository names is run.

    Raises NeedsPerson where there is no such save.
    """
    repo = _open(repository)
    try:
        commit = repo.commit(archive_of(repository, save_id))
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


def archive_of(repository: Repository, save_id: str) -> str:
    """The archive commit of a save, or of a checkpoint, by its id. Raises NeedsPerson."""
    for entry in refs.list_refs(repository.git, names.SAVES).items():
        if is_save_id(save_id) and entry[0].endswith("/" + save_id):
            return entry[1]
    for item in list_saves(repository, everything=True):
        if item.save_id == save_id:
            return item.archive
    raise NeedsPerson(f"there is no save {save_id!r} in this repository", hint="gitstate log --all")


def _open(repository: Repository) -> git.Repo:
    import git

    # GitPython hands this process's environment to git: scrub it here, once, for good.
    clean = environment()
    os.environ.clear()
    os.environ.update(clean)
    return git.Repo(os.fsdecode(repository.toplevel))


def _entry(repo: git.Repo, workspace: str, oid: str, waiting: bool, name: str) -> Entry:
    try:
        commit = repo.commit(oid)
        manifest = manifest_from_json(_load(commit, "manifest.json", MAX_MANIFEST))
        context = context_from_json(_load(commit, "context.json", MAX_CONTEXT))
        return Entry(manifest.save_id, workspace, oid, waiting, context, manifest)
    except (GitstateError, KeyError, ValueError, OSError, RecursionError) as error:
        return Entry(name, workspace, oid, waiting, problem=str(error)[:200])


def _load(commit: git.Commit, name: str, limit: int) -> dict[str, Any]:
    """A JSON object of the archive. Raises CorruptSave, also where GitPython refuses a tree for a name in it."""
    try:
        blob = commit.tree / name
        data = blob.data_stream.read() if blob.size <= limit else None
        return loads(data, limit, name)
    except (KeyError, ValueError, OSError) as error:
        raise CorruptSave(f"the save {commit.hexsha[:12]} can't be read: {str(error)[:200]}") from None
