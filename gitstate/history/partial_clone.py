"""What fetched saves need and a partial clone lacks.

A remote sends nothing that a clone has by its commits. A partial clone lacks much of that, and what saves need is asked
for by name: their own objects, the trees of the commits that they stand on, and both versions of each changed file.
Other files of those commits stay where they are, on the promisor remote.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..errors import CorruptSave, GitError, GitstateError, UnsupportedSave
from ..format.archive import MAX_FETCHED_MANIFEST, read_save
from ..format.bounds import read_fetched_stack
from ..format.manifest import Save
from ..format.names import CONVERSATIONS
from ..git.command import Oid
from ..git.entries import diff_trees
from ..git.reached import reached
from ..git.repository import Repository, held_here
from ..objects.reader import LARGE, ObjectReader
from ..objects.tree import DIRECTORY, GITLINK, Leaf, Tree
from ..system.stdlib import suppress
from .remote import FETCH, LAZY, chunks, fetch_refs, lazy_options, unreachable

_NO_FILES = "--filter=blob:none"
#: Leaves out the commits that some remote has. It does not turn round what `--stdin` gives.
_OWN_COMMITS = ("--not", "--remotes", "--tags")
#: What is asked for may name something else that is missing: a tree its files, a save the one below it.
_MOST_ROUNDS = 100


def fetch_whole(repository: Repository, remote: str, coming: Mapping[str, Oid], held: Iterable[Oid]) -> None:
    """Fetch what refs of a remote name, without refs here; then what the saves among them, and `held` ones, lack.

    Nothing is done where the clone is whole. Raises GitstateError where a remote can't be reached: what can't be made
    whole is as if it was never here.
    """
    promisors = repository.promisors()
    if not promisors:
        return
    for some in chunks(sorted(coming)):
        if remote in promisors:
            # Git takes for granted that this remote has what is left out.
            _fetch(repository, remote, some)
        else:
            fetch_refs(repository, remote, some)
    talks = {oid for ref, oid in coming.items() if ref.startswith(CONVERSATIONS)}
    archives = sorted({*coming.values(), *held} - talks)
    asked: set[Oid] = set()
    for _ in range(_MOST_ROUNDS if archives or talks else 0):
        missing = _missing(repository, archives, sorted(talks)) - asked
        if not missing:
            break
        _ask(repository, promisors, sorted(missing))
        asked |= missing


def fetch_history(repository: Repository, remote: str, archives: Iterable[Oid]) -> None:
    """Fetch the commits below WIP commits that a shallow clone ends at: it has them already, as it has their branch.

    A remote sends nothing below such a commit, unless it is asked by name. One that refuses that is asked no more.
    """
    if not os.path.exists(os.path.join(repository.common_dir, b"shallow")):
        return
    with ObjectReader(repository.git) as reader:
        saves, _ = _read(archives, reader)
        below: set[Oid] = {save.manifest.head for save in saves if save.manifest.head is not None}
        below |= {save.manifest.index_commit for save in saves if save.manifest.index_commit is not None}
    missing = below - held_here(repository, below)
    for some in chunks(sorted(missing)):
        with suppress(GitstateError):
            fetch_refs(repository, remote, some)


def _ask(repository: Repository, promisors: Sequence[str], missing: Sequence[Oid]) -> None:
    """Fetch objects from the first promisor remote that has them all. Raises GitstateError where none has."""
    for promisor in promisors:
        try:
            return _fetch(repository, promisor, missing, "-c", "fetch.negotiationAlgorithm=noop")
        except GitstateError:
            if promisor == promisors[-1]:
                raise


def _fetch(repository: Repository, promisor: str, names: Sequence[str], *options: str) -> None:
    """Fetch without files that are not named, as git itself does it where it lacks an object."""
    lines = "".join(f"{name}\n" for name in names).encode("utf-8")
    argv = (*options, *lazy_options(repository), *FETCH, _NO_FILES, "--stdin", "--", promisor)
    try:
        repository.git.run(*argv, input=lines, env=LAZY)
    except GitError as error:
        raise unreachable(promisor, error) from None


def _missing(repository: Repository, archives: Sequence[Oid], talks: Sequence[Oid]) -> set[Oid]:
    """What is not here of what saves and conversations need, in steps: files are told when all trees are here."""
    with ObjectReader(repository.git) as reader:
        saves, told = _read(archives, reader)
        missing = told - held_here(repository, told)
        if missing:
            return missing
        bases = {save.manifest.head: _tree_of(save.manifest.head, reader) for save in saves}
        trees = sorted({tree for tree in bases.values() if tree is not None})
        hidden = sorted({commit for commit, tree in bases.items() if commit is not None and tree is not None})
        own = [*dict.fromkeys(save.archive for save in saves), *talks]
        # A server with bitmaps leaves out a file that is asked for together with a tree that has it.
        missing = {*reached(repository, own, _NO_FILES, *_OWN_COMMITS, hidden=hidden)[1]}
        here, lacked = reached(repository, trees, "--ignore-missing", _NO_FILES)
        missing.update(lacked, set(trees).difference(here))
        if missing:
            return missing
        missing.update(reached(repository, own, *_OWN_COMMITS, hidden=hidden)[1])
        changed = {oid for archive in archives for oid in _changed(repository, reader, archive)}
    return missing | (changed - held_here(repository, changed))


def _read(archives: Iterable[Oid], reader: ObjectReader) -> tuple[list[Save], set[Oid]]:
    """The saves that can be read, with those that they stand on, and the objects that tell of them all."""
    saves, told, seen = list[Save](), set[Oid](), set[Oid]()
    left = [*archives]
    while left:
        archive = left.pop()
        seen.add(archive)
        told.update(_own_files(archive, reader))
        # One that can't be read is told to be corrupt where somebody looks at it.
        with suppress(CorruptSave, UnsupportedSave):
            save = read_save(archive, reader, MAX_FETCHED_MANIFEST)
            saves.append(save)
            if save.manifest.below is not None and save.manifest.below not in seen:
                left.append(save.manifest.below)
    return saves, told


def _tree_of(commit: Oid | None, reader: ObjectReader) -> Oid | None:
    """The tree of the commit that a save stands on; None where that is none: it came from another host."""
    with suppress(GitError):
        return None if commit is None else reader.tree_of(commit)
    return None


def _own_files(archive: Oid, reader: ObjectReader) -> list[Oid]:
    """An archive's tree, and the files beside the trees in it: what is to be known of a save stands there."""
    tree, leaves = None, dict[bytes, Leaf]()
    with suppress(GitError, ValueError):
        tree = reader.tree_of(archive)
        content = reader.contents([tree], LARGE)[0]
        leaves = {} if content is None else Tree(content[1], len(tree) // 2).leaves()
    return [*([tree] if tree else []), *(leaf.oid for leaf in leaves.values() if leaf.mode not in (DIRECTORY, GITLINK))]


def _changed(repository: Repository, reader: ObjectReader, archive: Oid) -> Iterator[Oid]:
    """The files of a save that differ from the commit that it stands on, as both have them."""
    with suppress(CorruptSave, UnsupportedSave, GitError):
        for save in read_fetched_stack(archive, reader):
            if save.manifest.head is None:
                continue
            base, staged = reader.tree_of(save.manifest.head), save.files.get(b"staged")
            for tree in [save.wip_tree, *([] if staged is None else [staged[1]])]:
                for entry in diff_trees(repository, base, tree):
                    sides = ((entry.old_mode, entry.old_oid), (entry.new_mode, entry.new_oid))
                    yield from (oid for mode, oid in sides if mode not in (0, GITLINK))
