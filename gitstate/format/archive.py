"""The saves of a repository: how one is read from its archive commit (see `manifest`), and which there are."""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, GitstateError, MissingObject
from ..git import refs
from ..git.command import Oid, object_id
from ..git.repository import Repository
from ..objects.reader import ObjectReader, ObjectsAhead, commit_head
from ..objects.tree import Tree, TreeReader, is_safe_path
from ..system.jsonio import loads, text_to_json
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .context import MAX_CONTEXT, Context, context_from_json
from .manifest import MAX_MANIFEST, Save, read_manifest
from .names import (
    CHECKPOINTS,
    DISMISSED,
    HISTORY,
    PENDING,
    SAVES,
    UNFINISHED,
    checkpoint_ref,
    history_ref,
    own_marker,
    parse_ref,
    save_ref,
    workspace_id,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..git.command import Git
    from .manifest import SaveKind


#: As `MAX_MANIFEST`, for a save that was fetched: 300,000 staged files.
MAX_FETCHED_MANIFEST = 48 << 20
#: The tree of an archive has a dozen entries.
_MAX_TREE = 1 << 20


def read_save(archive: Oid, reader: ObjectReader | ObjectsAhead, most: int = MAX_MANIFEST) -> Save:
    """The save that an archive commit holds. Raises CorruptSave, also for a manifest of more than `most` bytes, and
    UnsupportedSave.
    """
    try:
        commit = reader.commit(archive, MAX_CONTEXT)
        if commit is None:
            raise CorruptSave(f"the archive {archive} is missing or no commit")
        tree, parents = commit_head(commit)
        if not parents:
            raise CorruptSave(f"the archive {archive} names no WIP commit")
        wip = reader.commit(parents[0], MAX_CONTEXT)
        if wip is None:
            raise CorruptSave(f"the WIP commit {parents[0]} is missing")
        content = reader.contents([tree], _MAX_TREE)[0]
        if content is None or content[0] != "tree":
            raise CorruptSave(f"the archive's tree {tree} is missing")
        _refuse_other(tree, content)
        entries = Tree(content[1], len(tree) // 2).leaves()

        def load(name: bytes, limit: int) -> bytes | None:
            leaf = entries.get(name)
            found = None if leaf is None else reader.contents([leaf.oid], limit)[0]
            if leaf is None or found is None:
                return None
            _refuse_other(leaf.oid, found)
            return found[1]

        manifest = read_manifest(load(b"manifest.json", most), most)
        lacks_context = False
        try:
            context = context_from_json(loads(load(b"context.json", MAX_CONTEXT), MAX_CONTEXT, "the context"))
        except (GitError, ValueError):
            context, lacks_context = Context(), True
        plain = {name: (leaf.mode, leaf.oid) for name, leaf in entries.items()}
        return Save(archive, parents[0], commit_head(wip).tree, plain, context, manifest, lacks_context)
    except (GitError, ValueError, IndexError) as error:
        raise CorruptSave(f"the save {archive[:12]} is unreadable: {text_to_json(str(error))[:200]}") from None


def _refuse_other(oid: Oid, found: tuple[str, bytes]) -> None:
    """Raises MissingObject where the file of an object holds another one: git does not compare them."""
    if object_id("sha1" if len(oid) == 40 else "sha256", *found) != oid:
        raise MissingObject(oid, "is damaged")


class SavesAhead:
    """Reads many saves in the order of `archives`: the objects of fifty are requested together.

    Git is waited for twice for each fifty, and not ten times for each save. With `few` only the manifests are
    requested so: few of the saves are of the kind that is wanted.
    """

    #: What is read of so many is one request (`ObjectReader`).
    _AT_ONCE = 50
    #: What is read of a save, as git names it from its archive commit on.
    _MANIFEST = (":manifest.json",)
    _WHOLE = (*_MANIFEST, ":context.json", "^{commit}", "^{tree}", "^1")

    def __init__(self, archives: Sequence[Oid], reader: ObjectReader, *, few: bool = False) -> None:
        self._archives = archives
        self._parts = self._MANIFEST if few else self._WHOLE
        self._reader = reader
        self._objects = ObjectsAhead(reader)
        #: How many of the archives were fetched.
        self._count = 0
        self._fetched: frozenset[Oid] = frozenset()
        #: The manifest of each archive that was fetched.
        self._manifests: dict[Oid, Oid] = {}
        #: Bytes of the manifest of the last save that was read; 0 where it could not be.
        self.size = 0

    def foresee(self) -> None:
        """The first of them will be read: git makes ready what it says of them."""
        self._reader.foresee_kinds(self._names(self._archives[: self._AT_ONCE]))

    def expect(self, archives: Sequence[Oid]) -> None:
        """These are read next: with `few`, the rest of each is requested together."""
        for archive in archives:
            self._reach(archive)
        rest = [part for part in self._WHOLE if part not in self._parts]
        self._objects.fetch([archive + part for archive in archives for part in rest])

    def read(self, archive: Oid, most: int = MAX_MANIFEST) -> Save:
        """As `read_save`."""
        self._reach(archive)
        self.size = 0
        save = read_save(archive, self._objects, most)
        self.size = self._objects.size(save.files[b"manifest.json"][1])
        return save

    def is_other_kind(self, archive: Oid, kind: SaveKind) -> bool:
        """Whether a save is certainly not of this kind: its manifest, as we write it, need not be taken apart."""
        self._reach(archive)
        manifest = self._objects.held(self._manifests.get(archive, ""))
        return bool(manifest) and b'"kind": "%s"' % kind.encode("ascii") not in manifest

    def _reach(self, archive: Oid) -> None:
        while archive not in self._fetched and self._count < len(self._archives):
            self._fetch()

    def _fetch(self) -> None:
        some = self._archives[self._count : self._count + self._AT_ONCE]
        self._count += len(some)
        self._fetched = frozenset(some)
        self._objects.forget()
        found = self._objects.fetch(self._names(some))
        manifests = found[:: len(self._parts)]
        self._manifests = {archive: oid for archive, oid in zip(some, manifests, strict=True) if oid}

    def _names(self, archives: Sequence[Oid]) -> list[str]:
        return [archive + part for archive in archives for part in self._parts]


_STACK_LIMIT = 10_000


def read_stack(archive: Oid, reader: ObjectReader, most: int = MAX_MANIFEST) -> tuple[Save, ...]:
    """A save and those it stands on, newest first. Raises CorruptSave or UnsupportedSave.

    The manifests of all of them may have `most` bytes together.
    """
    stack: list[Save] = []
    following: Oid | None = archive
    while following is not None:
        saves = SavesAhead([following], reader)
        save = saves.read(following, most)
        most -= saves.size
        stack.append(save)
        following = save.manifest.below
        if len(stack) > _STACK_LIMIT or any(item.archive == following for item in stack):
            raise CorruptSave(f"the stack of saves below {archive[:12]} has no end")
    return tuple(stack)


def tree_of_base(reader: ObjectReader, commit: Oid | None) -> Oid | None:
    """The tree of a commit that a save stands on; None where it stands on none. Raises CorruptSave."""
    try:
        return None if commit is None else reader.tree_of(commit)
    except MissingObject:
        hint = "git fsck; in a shallow clone: git fetch --unshallow"
        raise CorruptSave(f"the commit {commit} that the save stands on is missing", hint=hint) from None


_REPLACE = "refs/replace/"


def replacement_of(repository: Repository, reader: ObjectReader, head: Oid | None) -> Oid | None:
    """The tree that git takes for a commit's tree (`git replace`); None where that is its own."""
    if refs.refs_are_files(repository):
        (known,) = refs.read_refs_below(repository.common_dir, _REPLACE)
    else:
        known = {ref[len(_REPLACE) :]: oid for ref, oid in refs.list_refs(repository.git, _REPLACE).items()}
    replaced = head
    for _ in known:
        replaced = known.get(replaced or "") or replaced
    return None if replaced == head else tree_of_base(reader, replaced)


def stage_paths(repository: Repository, trees: TreeReader, save: Save, stage: bytes) -> list[bytes]:
    """The paths that are unmerged in a save at one stage (b"1", b"2" or b"3"). Raises GitError."""
    entry = save.files.get(b"stages")
    leaf = None if entry is None else trees.tree(entry[1]).get(stage)
    if leaf is None:
        return []
    from ..git.entries import list_tree_paths

    return list_tree_paths(repository.git, leaf.oid)


#: `man 7 path_resolution`: a path of so many bytes, with the NUL at its end, can be opened; one that is longer can't.
_PATH_MAX = 4096


def refuse_unsafe(paths: Iterable[bytes]) -> None:
    """Raises CorruptSave where git would refuse to check out one of the paths, or could not: no call takes it."""
    for path in paths:
        if len(path) >= _PATH_MAX or not is_safe_path(path):
            raise CorruptSave(f"a save names a path that git would refuse: {os.fsdecode(path)}", hint="gitstate log")


# -- which saves there are


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


def unfinished_here(repository: Repository) -> dict[str, Oid]:
    """Ref → archive of the repositories inside this workspace that are not back: see `recover.unfinished`."""
    prefix = f"{UNFINISHED}{workspace_id(repository)}/"
    if not refs.refs_are_files(repository):
        return refs.list_refs(repository.git, prefix)
    below = refs.read_refs_below(repository.common_dir, prefix)[0]
    return {prefix + name: oid for name, oid in below.items() if oid}


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


def save_ids(repository: Repository, since: str = "") -> list[str]:
    """The ids of the saves of this workspace; none that sorts before `since`. Raises GitError.

    Where refs are files none is opened: `archives_of` tells which are there.
    """
    own = workspace_id(repository)
    if not refs.refs_are_files(repository):
        return [item.save_id for item in held_saves(repository.git, own) if item.save_id >= since]
    return list(refs.read_names_below(repository.common_dir, save_ref(own, ""), since))


def archives_of(repository: Repository, ids: Sequence[str]) -> dict[str, Oid]:
    """The archive of each save of this workspace that exists, by its id, in the order of `ids`. Raises GitError."""
    own = workspace_id(repository)
    by_ref = {save_ref(own, save_id): save_id for save_id in ids}
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
