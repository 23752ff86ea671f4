"""What a push holds back: saves with the plain text of files that a filter guards, and saves in which a scanner found
secrets.

A save keeps the bytes of a changed file as they were on disk, also of one that git encrypts before it stores it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from ..errors import GitError, GitstateError
from ..format.archive import read_stack
from ..format.manifest import Save
from ..git.attributes import Conversions
from ..git.command import Oid
from ..git.entries import differing_paths
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY, GITLINK, SYMLINK, Leaf, TreeReader, is_safe_path
from ..system.files import temporary_directory
from ..system.terminal import first_of
from .scanners import find_secrets

#: A filter that stores large files elsewhere; it hides nothing.
_NO_SECRET = frozenset((b"lfs",))
#: A filter of this kind, git-crypt or transcrypt, encrypts; and so begins what they make.
_CRYPT, _ENCRYPTED = b"crypt", (b"\0GITCRYPT\0", b"Salted__", b"U2FsdGVkX1", b"age-encryption.org/", b"-----BEGIN ")
#: A blob of more bytes is not compared with what the filter makes of it, and not scanned.
_MOST_BLOB, _MOST_SCANNED = 16 << 20, 256 << 20
_NAMED = 3


def held_back(repository: Repository, archives: Collection[Oid], *, allow_secrets: bool) -> dict[Oid, str]:
    """Why each of these archives must not leave this host; one that may is missing."""
    found: dict[Oid, str] = {}
    with ObjectReader(repository.git) as reader:
        for archive in archives:
            try:
                reason = _reason(repository, reader, read_stack(archive, reader), allow_secrets)
            except GitstateError as error:
                reader.restart()
                reason = f"it could not be checked: {error.message}"
            if reason is not None:
                found[archive] = reason
    return found


def _reason(repository: Repository, reader: ObjectReader, stack: Iterable[Save], allow_secrets: bool) -> str | None:
    for save in stack:
        held = _Held(repository, reader, save)
        plain = held.plain_text()
        if plain:
            return f"it holds the plain text of files that a filter guards: {_named(plain)}"
        secrets = [] if allow_secrets else held.secrets()
        if secrets:
            return f"{_named(secrets)}; to send it anyway: gitstate push --allow-secrets"
    return None


def _named(items: list[str]) -> str:
    return first_of(items[:_NAMED], len(items))


class _Held:
    """The files that one save of a stack brings with it."""

    def __init__(self, repository: Repository, reader: ObjectReader, save: Save) -> None:
        self._repository = repository
        self._reader = reader
        self._save = save
        head = save.manifest.head
        self._base = None if head is None else reader.tree_of(head)
        self._changed = differing_paths(repository, self._base, save.wip_tree)

    def plain_text(self) -> list[str]:
        """The paths that a filter guards, and whose bytes the save holds as they were on disk."""
        manifest = self._save.manifest
        guarded = self._guarded([*self._changed, *manifest.raw, *manifest.staged])
        if not guarded:
            return []
        found = {path for path in guarded if path in manifest.raw}
        trees = TreeReader(self._reader)
        blobs = [(path, leaf.oid) for path, leaf in trees.lookup(self._save.wip_tree, self._changed).items()]
        blobs += [(path, entry[1]) for path, entry in manifest.staged.items() if entry is not None]
        # Where the attributes of now name no filter any more, nobody can say what a filter would have made.
        compared, locked = self._filtered(sorted(guarded), {}), self._locked(sorted(guarded))
        found.update(
            path
            for path, oid in blobs
            if path in guarded
            and path not in found
            and (path not in compared or path in locked or self._is_plain(path, oid))
            and not (path in locked and self._is_encrypted(oid))
        )
        return [os.fsdecode(path) for path in sorted(found)]

    def _guarded(self, paths: list[bytes]) -> set[bytes]:
        """The paths with a filter: by the attributes of now, of the save, and of the commit that it stands on."""
        guarded = self._filtered(paths, {})
        for tree in {self._base, self._save.wip_tree} - {None}:
            with self._index_of(str(tree)) as env:
                guarded |= self._filtered(paths, env)
        return guarded

    def _filtered(self, paths: list[bytes], env: Mapping[str, str]) -> set[bytes]:
        if not paths:
            return set()
        conversions = Conversions(self._repository, env)
        named = conversions.converting_attributes(paths, cached=bool(env)).items()
        return {path for path, values in named if values.get(b"filter", b"lfs") not in _NO_SECRET}

    def _locked(self, paths: list[bytes]) -> set[bytes]:
        """The paths whose filter encrypts, and is not set up here: as in a clone that nobody unlocked."""
        named = Conversions(self._repository, {}).converting_attributes(paths, cached=False).items() if paths else ()
        names = {path: values.get(b"filter", b"") for path, values in named}
        return {path for path, name in names.items() if _CRYPT in name and not self._is_set_up(os.fsdecode(name))}

    def _is_set_up(self, name: str) -> bool:
        return any(self._repository.config.get(f"filter.{name}.{kind}") for kind in ("clean", "process"))

    def _is_encrypted(self, oid: Oid) -> bool:
        content = self._reader.contents([oid], _MOST_BLOB)[0]
        return content is not None and content[1].startswith(_ENCRYPTED)

    @contextmanager
    def _index_of(self, tree: Oid) -> Iterator[dict[str, str]]:
        with temporary_directory("gitstate-push-") as directory:
            env = {"GIT_INDEX_FILE": os.path.join(directory, "index")}
            self._repository.git.run("read-tree", tree, env=env)
            yield env

    def _is_plain(self, path: bytes, oid: Oid) -> bool:
        """Whether a blob of a guarded path is not what its filter makes: it would change it, and a checkout would not.

        A blob that can't be compared counts as plain.
        """
        git = self._repository.git
        if self._repository.stranger is not None:
            # No filter of this repository is run, also not by the save.
            return True
        try:
            content = self._reader.contents([oid], _MOST_BLOB)[0]
            if content is None or content[0] != "blob":
                return False
            if git.run("cat-file", "--filters", b"--path=" + path, oid, timeout=60) != content[1]:
                return False
            cleaned = git.run("hash-object", "--stdin", b"--path=" + path, input=content[1], timeout=60)
        except GitError:
            return True
        return cleaned.strip().decode("ascii") != oid

    def secrets(self) -> list[str]:
        """What the scanners that are installed find in the files. Raises GitstateError where one fails."""
        trees = TreeReader(self._reader)
        raw = self._save.files.get(b"raw")
        held = (
            trees.lookup(self._save.wip_tree, self._changed),
            trees.lookup(raw[1] if raw else None, self._save.manifest.raw),
        )
        with temporary_directory("gitstate-push-") as directory:
            return find_secrets(directory, lambda: self._export(directory, held))

    def _export(self, directory: str, held: Iterable[Mapping[bytes, Leaf]]) -> None:
        left = _MOST_SCANNED
        for number, leaves in enumerate(held):
            files = {path: leaf for path, leaf in leaves.items() if leaf.mode not in (DIRECTORY, GITLINK, SYMLINK)}
            infos = self._reader.kinds([leaf.oid for leaf in files.values()])
            for (path, leaf), info in zip(files.items(), infos, strict=True):
                left -= info[1] if info and info[1] <= _MOST_BLOB else 0
                if info is None or info[1] > _MOST_BLOB or left < 0 or not is_safe_path(path):
                    continue
                full = os.path.join(os.fsencode(directory), b"%d" % number, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                content = self._reader.contents([leaf.oid])[0]
                with open(full, "xb") as file:
                    file.write(b"" if content is None else content[1])
