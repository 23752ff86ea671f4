"""Find a save by its id, of whichever workspace it is, and read it with all that it stands on."""

from __future__ import annotations

from ..errors import CorruptSave, NeedsPerson, UnsupportedSave
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..system.stdlib import TYPE_CHECKING
from .archive import MAX_FETCHED_MANIFEST, read_save
from .fetched import fetched_saves
from .manifest import MAX_MANIFEST
from .names import checkpoint_ref, is_save_id, workspace_id
from .saves import HeldSave, checkpoint_archives, held_saves

if TYPE_CHECKING:
    from collections.abc import Iterator


def find_save(repository: Repository, save_id: str) -> HeldSave:
    """A save, or a workspace's latest checkpoint, by its id. Raises NeedsPerson where there is none, or no single one.

    A save of this workspace is preferred, then one of another workspace of the repository, then one that was fetched.
    It has to say itself that it has this id: whoever can push to a remote can push any archive under any name.
    """
    if is_save_id(save_id):
        with ObjectReader(repository.git) as reader:
            for group in _candidates(repository, save_id):
                fitting = [held for held in group if _agrees(held, reader)]
                if len({held.archive for held in fitting}) > 1:
                    raise NeedsPerson(f"different saves have the id {save_id}", hint="gitstate log --all")
                if fitting:
                    return fitting[0]
    raise NeedsPerson(f"there is no save {save_id!r} in this repository", hint="gitstate log --all")


def _agrees(held: HeldSave, reader: ObjectReader) -> bool:
    """Whether a save says itself what its ref says. One that can't be read does: its reader says what is wrong."""
    try:
        most = MAX_MANIFEST if held.remote is None else MAX_FETCHED_MANIFEST
        manifest = read_save(held.archive, reader, most).manifest
    except (CorruptSave, UnsupportedSave):
        reader.restart()
        return held.ref.endswith(f"/{held.save_id}")
    if manifest.save_id != held.save_id:
        return False
    return held.remote is None or manifest.workspace_id == held.workspace_id


def _candidates(repository: Repository, save_id: str) -> Iterator[list[HeldSave]]:
    """The saves that may have this id, in groups, those of this workspace first and those that were fetched last."""
    own = workspace_id(repository)
    named = [held for held in held_saves(repository.git) if held.save_id == save_id]
    checkpoints = checkpoint_archives(repository.git)
    for mine in (True, False):
        yield [held for held in named if (held.workspace_id == own) == mine]
        for workspace, archive in checkpoints.items():
            if (workspace == own) == mine:
                yield [HeldSave(checkpoint_ref(workspace), workspace, save_id, archive)]
    fetched = fetched_saves(repository.git).saves
    yield [
        HeldSave(item.ref, item.workspace_id, save_id, item.archive, item.remote)
        for item in fetched
        if item.save_id == save_id
    ]
