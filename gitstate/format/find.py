"""Which save a name means, of whichever workspace it is: `find_save` by its id, `resolve_save` as people name it."""

from __future__ import annotations

import time

from ..errors import CorruptSave, NeedsPerson, UnsupportedSave
from ..git.command import Oid
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import counted, quoted
from .archive import (
    MAX_FETCHED_MANIFEST,
    HeldSave,
    SavesAhead,
    checkpoint_archives,
    held_saves,
    history_saves,
    read_save,
)
from .fetched import fetched_saves
from .manifest import MAX_MANIFEST, Manifest
from .names import age_key, checkpoint_ref, is_save_id, newest_first, save_time_ns, workspace_id

#: The words that name a save by its place in `gitstate log`, newest first; `~N` counts from there.
_WORDS = ("latest", "checkpoint")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
#: An error names no more saves than this.
_SHOWN = 4

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


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
    raise _no_save(save_id)


def resolve_save(repository: Repository, name: str) -> str:
    """The id of the save that a person names. Raises NeedsPerson where there is none, or no single one.

    A name is an id, `latest` or `checkpoint` (with `~N` for the Nth before it), a time such as `10m` (the newest save
    that is at least so old), a label (of several saves the newest), or the beginning of one id. Of this workspace all
    of them count, but for `latest` the safety saves; of others and of fetched saves their ids alone.
    """
    with ObjectReader(repository.git) as reader:
        own = own_saves(repository, reader)
        if any(held.save_id == name for held in own):
            return name
        saves = SavesAhead([held.archive for held in own], reader)
        word, _, _ = name.partition("~")
        if word in _WORDS:
            return _by_place(own, name, saves) or _refuse(repository, reader, word)
        seconds = parse_age(name)
        if seconds is not None:
            return _by_age(own, seconds) or _refuse(repository, reader, name)
        labelled = next((held for held in own if _label(held, saves) == name), None)
        if labelled is not None:
            return labelled.save_id
        return _by_beginning(name, [held.save_id for held in own], _other_ids(repository, reader))


def is_reserved(label: str) -> bool:
    """Whether a label would name another save than its own."""
    return label.partition("~")[0] in _WORDS or parse_age(label) is not None


def own_saves(repository: Repository, reader: ObjectReader) -> list[HeldSave]:
    """The saves of this workspace, its latest checkpoint and its history, newest first: the order of `gitstate log`."""
    git, own = repository.git, workspace_id(repository)
    held = {item.save_id: item for item in (*history_saves(git, own), *held_saves(git, own))}
    archive = checkpoint_archives(git).get(own)
    latest = None if archive is None else _manifest_of(archive, SavesAhead((), reader))
    if latest is not None and archive is not None:
        held.setdefault(latest.save_id, HeldSave(checkpoint_ref(own), own, latest.save_id, archive))
    return sorted(held.values(), key=lambda item: age_key(item.save_id), reverse=True)


def parse_age(text: str) -> float | None:
    """Seconds of a time such as `90s`, `10m`, `1.5h`, `2d` or `1w`; None for any other text."""
    number, unit = text[:-1], text[-1:]
    whole, _, rest = number.partition(".")
    if unit not in _SECONDS or not (number.isascii() and whole.isdigit() and (rest or "0").isdigit()):
        return None
    return float(number) * _SECONDS[unit] if len(number) <= 12 else None


def _no_save(name: str) -> NeedsPerson:
    return NeedsPerson(f"there is no save {quoted(name)} in this repository", hint="gitstate log --all")


def _refuse(repository: Repository, reader: ObjectReader, name: str) -> str:
    """Raise NeedsPerson where this workspace has no save of the kind that `name` means: others may have."""
    is_age = name not in _WORDS
    kind = "checkpoint" if name == "checkpoint" else "save"
    message = f"no save of this workspace is {name} old" if is_age else f"this workspace has no {kind}"
    fetched = newest_first(
        [item for item in fetched_saves(repository.git).saves if item.save_id is not None],
        lambda item: (item.workspace_id, item.save_id or ""),
    )
    if fetched:
        newest = fetched[0].save_id
        message += f"; the newest that was fetched is {newest}, from {fetched[0].remote}"
        raise NeedsPerson(message, hint=f"gitstate recover --save {newest}; all of them: gitstate log --all")
    if _other_ids(repository, reader):
        raise NeedsPerson(f"{message}; other workspaces of the repository have some", hint="gitstate log --all")
    raise NeedsPerson(message, hint="gitstate log" if is_age else f"gitstate {kind}")


def _by_place(own: Sequence[HeldSave], name: str, saves: SavesAhead) -> str | None:
    """The id of the save that is so many places before the newest; None where there is none of this kind."""
    word, tilde, back = name.partition("~")
    number = "0" if not tilde else back or "1"
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise _no_save(name)
    fitting: list[HeldSave] = []
    for held in own:
        kind = _kind(held, saves)
        # A command that restores takes a safety save: the same name means the same save in the next command.
        if kind != "safety" if word == "latest" else kind == "checkpoint":
            fitting.append(held)
        if len(fitting) > int(number):
            break
    if not fitting:
        return None
    if int(number) >= len(fitting):
        what = counted(len(fitting), "save" if word == "latest" else "checkpoint")
        raise NeedsPerson(f"{name}: this workspace has only {what}", hint="gitstate log")
    return fitting[int(number)].save_id


def _by_age(own: Sequence[HeldSave], seconds: float) -> str | None:
    """The id of the newest save that is at least so old; None where there is none."""
    before = time.time_ns() - int(seconds * 1e9)
    for held in own:
        made = save_time_ns(held.save_id)
        if made is not None and made <= before:
            return held.save_id
    return None


def _by_beginning(name: str, *groups: Sequence[str]) -> str:
    for ids in groups:
        fitting = sorted({save_id for save_id in ids if name and save_id.startswith(name)}, reverse=True)
        if name in fitting or len(fitting) == 1:
            return name if name in fitting else fitting[0]
        if fitting:
            shown = ", ".join(fitting[:_SHOWN]) + (", …" if len(fitting) > _SHOWN else "")
            raise NeedsPerson(f"{len(fitting)} saves begin with {quoted(name)}: {shown}", hint="gitstate log --all")
    raise _no_save(name)


def _other_ids(repository: Repository, reader: ObjectReader) -> list[str]:
    """The ids of the saves of other workspaces of the repository, and of fetched ones."""
    git, own = repository.git, workspace_id(repository)
    ids = [held.save_id for held in (*held_saves(git), *history_saves(git)) if held.workspace_id != own]
    for workspace, archive in checkpoint_archives(git).items():
        if workspace != own:
            manifest = _manifest_of(archive, SavesAhead((), reader))
            ids += [] if manifest is None else [manifest.save_id]
    return [*ids, *(item.save_id for item in fetched_saves(git).saves if item.save_id is not None)]


def _label(held: HeldSave, saves: SavesAhead) -> str | None:
    manifest = _manifest_of(held.archive, saves)
    return None if manifest is None else manifest.label


def _kind(held: HeldSave, saves: SavesAhead) -> str | None:
    manifest = _manifest_of(held.archive, saves)
    return None if manifest is None else manifest.kind


def _manifest_of(archive: Oid, saves: SavesAhead) -> Manifest | None:
    """The manifest of a save of this repository; None where it can't be read."""
    try:
        return saves.read(archive).manifest
    except (CorruptSave, UnsupportedSave):
        return None


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
    own, git = workspace_id(repository), repository.git
    named = [held for held in (*held_saves(git), *history_saves(git)) if held.save_id == save_id]
    checkpoints = checkpoint_archives(git)
    for mine in (True, False):
        yield [held for held in named if (held.workspace_id == own) == mine]
        for workspace, archive in checkpoints.items():
            if (workspace == own) == mine:
                yield [HeldSave(checkpoint_ref(workspace), workspace, save_id, archive)]
    fetched = fetched_saves(git).saves
    yield [
        HeldSave(item.ref, item.workspace_id, save_id, item.archive, item.remote)
        for item in fetched
        if item.save_id == save_id
    ]
