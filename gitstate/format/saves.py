"""Which saves a repository holds: the pending ones, all by their ids, and the latest checkpoints."""

from __future__ import annotations

from ..errors import GitstateError
from ..git import refs
from ..git.command import Oid
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .archive import read_save
from .names import (
    CHECKPOINTS,
    DISMISSED,
    HISTORY,
    PENDING,
    SAVES,
    checkpoint_ref,
    history_ref,
    own_marker,
    parse_ref,
    save_ref,
    workspace_id,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..git.command import Git


class HeldSave(Record):
    """One save that a ref holds."""

    ref: str
    workspace_id: str
    save_id: str
    archive: Oid
    remote: str | None = None
    """The remote that it was fetched from, as it is named in refs; None for a save of this repository."""


def pending_archive(repository: Repository) -> Oid | None:
    """The archive of the save that is pending in this workspace; None where none is. Raises GitError, OSError."""
    marker = own_marker(repository)
    return refs.read_refs(repository, [marker]).get(marker)


def pending_save_id(repository: Repository) -> str | None:
    """The id of the save that is pending in this workspace; None where none is found. Never raises.

    It is asked where something has just failed: refs are enough as a rule, even where git can read no object.
    """
    with suppress(GitstateError, OSError):
        archive = pending_archive(repository)
        if archive is not None:
            (saves,) = refs.read_refs_below(repository.common_dir, save_ref(workspace_id(repository), ""))
            named = [save_id for save_id, oid in saves.items() if oid == archive]
            return named[0] if named else _id_of(repository, archive)
    return None


def pending_here(repository: Repository) -> dict[str, Oid]:
    """The same as `pending_archives`, without a process where refs are files."""
    if not refs.refs_are_files(repository):
        return pending_archives(repository.git)
    return {workspace: oid for workspace, oid in pending_in_files(repository.common_dir).items() if oid}


def pending_archives(git: Git) -> dict[str, Oid]:
    """The archive of each pending save of the repository, by workspace id."""
    return _by_workspace(git, PENDING)


def pending_in_files(common_dir: bytes) -> dict[str, Oid]:
    """The same from git's files alone: an empty text where a ref's file is damaged; nothing in a reftable."""
    return refs.read_refs_below(common_dir, PENDING)[0]


def checkpoint_archives(git: Git) -> dict[str, Oid]:
    """The archive of each workspace's latest checkpoint, by workspace id."""
    return _by_workspace(git, CHECKPOINTS)


def checkpoint_save_id(repository: Repository) -> str | None:
    """The id of this workspace's latest checkpoint; None where none is found. Never raises."""
    ref = checkpoint_ref(workspace_id(repository))
    with suppress(GitstateError, OSError):
        archive = refs.read_refs(repository, [ref]).get(ref)
        return None if archive is None else _id_of(repository, archive)
    return None


def is_dismissed(repository: Repository, save_id: str) -> bool:
    """Whether a save was dismissed, or set aside, and not recovered since."""
    return any(ref.endswith(f"/{save_id}") for ref in refs.list_refs(repository.git, DISMISSED))


def held_saves(git: Git, workspace: str | None = None) -> list[HeldSave]:
    """Every save below `refs/gitstate/saves/`, or those of one workspace by its id. Checkpoints are not among them."""
    return _held(git, SAVES if workspace is None else save_ref(workspace, ""))


def save_ids(repository: Repository) -> list[str]:
    """The ids of the saves of this workspace. Where refs are files none is opened: `archives_of` tells which are there.

    Raises GitError.
    """
    own = workspace_id(repository)
    if not refs.refs_are_files(repository):
        return [item.save_id for item in held_saves(repository.git, own)]
    return list(refs.read_names_below(repository.common_dir, save_ref(own, "")))


def archives_of(repository: Repository, ids: Sequence[str]) -> dict[str, Oid]:
    """The archive of each save of this workspace that exists, by its id, in the order of `ids`. Raises GitError."""
    by_ref = {save_ref(workspace_id(repository), save_id): save_id for save_id in ids}
    return {by_ref[ref]: oid for ref, oid in refs.read_refs(repository, by_ref).items()}


def history_saves(git: Git, workspace: str | None = None) -> list[HeldSave]:
    """Every earlier checkpoint of the history, or those of one workspace by its id."""
    return _held(git, HISTORY if workspace is None else history_ref(workspace, ""))


def _held(git: Git, prefix: str) -> list[HeldSave]:
    found = ((ref, parse_ref(ref), oid) for ref, oid in refs.list_refs(git, prefix).items())
    return [HeldSave(ref, name.workspace_id, name.save_id, oid) for ref, name, oid in found if name and name.save_id]


def _by_workspace(git: Git, prefix: str) -> dict[str, Oid]:
    found = ((parse_ref(ref), oid) for ref, oid in refs.list_refs(git, prefix).items())
    return {name.workspace_id: oid for name, oid in found if name is not None}


def _id_of(repository: Repository, archive: Oid) -> str:
    with ObjectReader(repository.git) as reader:
        return read_save(archive, reader).manifest.save_id
