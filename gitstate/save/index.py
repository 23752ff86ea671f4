"""The index of a save: staged blobs into the pack, and the exchange for one that matches the WIP commit."""

from __future__ import annotations

import os

from ..errors import GitError, words_of
from ..format.manifest import LeftOut
from ..git.command import try_in_halves
from ..git.entries import differing_paths, hidden_tags
from ..git.index import identify_index_at, index_lock, is_frozen_index, link_or_copy, readable_identity
from ..objects.reader import LARGE
from ..objects.tree import Leaf
from ..system import files
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.ownership import frozen_index, kept_index, left_index, next_index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from ..format.manifest import Save
    from ..git.command import Git, Oid
    from ..git.index import IndexFile
    from ..git.repository import Repository
    from ..objects.pack import PackWriter
    from ..objects.reader import ObjectReader
    from ..snapshot.record import Snapshot
    from ..system.child import Child
    from ..system.clock import Deadline

    T = TypeVar("T")

#: A write of fewer bytes than this never waits for the reader of an empty pipe.
_PIPE = 32 << 10
#: Git has this many seconds for the new index, whatever the deadline.
_LEAST = 0.3
_NOT_EXCHANGED = "the save is complete, but the index could not be exchanged"


def keep_index(repository: Repository, save_id: str, taken: Snapshot) -> bytes | None:
    """Give the index file of a snapshot a second name, for recover to put back. None where there is no index."""
    if taken.index_file is None:
        return None
    kept = kept_index(repository, save_id)
    link_or_copy(frozen_index(repository), kept)
    return kept


def saved_hidden_tags(git: Git, save: Save, copy: bytes, write: Callable[[Oid, bytes], None]) -> dict[bytes, str]:
    """The tags of the entries that the index of a save hides from git, by path. Raises GitError.

    `write` writes the blob of that index to `copy`, which is removed again.
    """
    entry = save.files.get(b"index")
    if save.manifest.index_is_plain or entry is None:
        return {}
    try:
        write(entry[1], copy)
        return hidden_tags(git, copy)
    finally:
        files.discard(copy)


def shown_paths(repository: Repository, save: Save) -> set[bytes]:
    """The paths that the index of a save hid, and that git has seen since because they are in the WIP commit."""
    staged = save.files.get(b"staged")
    return set() if staged is None else set(differing_paths(repository, staged[1], save.wip_tree))


class IndexSwap:
    """Git makes the new index in a file of its own while objects come to the disk; then a rename puts it in place."""

    def __init__(self, repository: Repository, git: Git) -> None:
        self.repository = repository
        self.git = git
        self.frozen = frozen_index(repository)
        self.next = next_index(repository)
        self._index = os.path.join(repository.git_dir, b"index")
        self._child: Child | None = None
        #: What it is told, and what of it is still to come; None where none was started.
        self._told: bytes | None = None
        self._given = b""
        #: The index that the new one takes the place of, as the snapshot saw it.
        self._seen: IndexFile | None = None

    def start(self, taken: Snapshot) -> None:
        """Begin to make an index that matches the WIP commit of `taken`, unless that was begun already."""
        self._seen = taken.index_file
        told = self._entries(taken)
        if told == self._told:
            return
        self.close()
        for path in (self.next, self.next + b".lock"):
            files.remove(path)
        if taken.index_file is not None:
            link_or_copy(self.frozen, self.next)
        self._told = told
        if not told:
            return
        self._child = self.git.start(
            # Git looks into files that are as old as the index: a filter would only run for nothing.
            *self.repository.filters_off(),
            *("-c", "core.splitIndex=false", "-c", "core.fsync=index", "update-index", "-z", "--index-info"),
            env={"GIT_INDEX_FILE": os.fsdecode(self.next)},
        )
        self._given = told
        if len(self._given) < _PIPE:
            # It reads and works while the pack is written.
            self._child.end_input(self._given)
            self._given = b""

    def _entries(self, taken: Snapshot) -> bytes:
        """The lines for `git update-index`: what goes, then what comes."""
        zero = self.repository.zero.encode("ascii")
        entries = {**dict.fromkeys(taken.intent_to_add), **taken.worktree}
        lines = [b"0 %s\t%s\0" % (zero, path) for path, leaf in sorted(entries.items()) if leaf is None]
        lines += [
            b"%o %s\t%s\0" % (leaf.mode, leaf.oid.encode("ascii"), path)
            for path, leaf in sorted(entries.items())
            if leaf is not None
        ]
        return b"".join(lines)

    def finish(self, moved: bool, save_id: str, deadline: Deadline | None = None) -> str:
        """Put the new index in place where the branch has `moved` to a save. What went wrong, as a sentence."""
        timeout = None if deadline is None or deadline.seconds is None else max(_LEAST, deadline.left())
        try:
            if self._child is not None:
                self.git.finish(self._child, input=self._given, timeout=timeout)
            if moved and os.path.exists(self.next):
                self._exchange(save_id)
            return ""
        except GitError as error:
            # What is written in place shows in the frozen index, too: git may have read half of it. It stays as it is.
            is_written = readable_identity(self._index) != self._seen
            return "" if is_written else f"{_NOT_EXCHANGED}: {error.message}"
        except OSError as error:
            return f"{_NOT_EXCHANGED}: {words_of(error)}"

    def _exchange(self, save_id: str) -> None:
        with index_lock(self.repository):
            if not is_frozen_index(self._index, self.frozen) or identify_index_at(self._index) != self._seen:
                return
            if self._told:
                # One with a second name is given to nobody any more: see `give_back`.
                files.give_to(self.next, os.stat(self.repository.git_dir))
            with suppress(OSError):
                # Without it `recover` has to look whether anything was staged since.
                os.link(self.next, left_index(self.repository, save_id, os.stat(self.next).st_mtime_ns))
            os.rename(self.next, self._index)
            files.fsync_path(self.repository.git_dir)

    def close(self) -> None:
        """End the child, if it still runs."""
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            self._child.communicate()


_TORN = "its staged version is unreadable"
_PROMISED = "its staged version is not in this partial clone: only its remote has it"


class StagedBlobs:
    """The staged blobs of one snapshot. Git makes the first portion ready while the save is planned."""

    def __init__(self, repository: Repository, writer: PackWriter, reader: ObjectReader, taken: Snapshot) -> None:
        """Ask for the blobs, in portions of few bytes."""
        self.repository = repository
        self.writer = writer
        self.reader = reader
        self.taken = taken
        self._portions: list[list[Oid]] = []
        oids = [oid for oid in taken.staged_blobs() if oid not in writer]
        left = 0
        for oid, info in zip(oids, self._kinds(oids), strict=True):
            size = 0 if info is None else info[1]
            if size > LARGE or (info is not None and info[0] != "blob"):
                continue
            if not self._portions or size > left:
                self._portions.append([])
                left = LARGE
            self._portions[-1].append(oid)
            left -= size
        if self._portions:
            reader.foresee_contents(self._portions[0])

    def _kinds(self, oids: Sequence[Oid]) -> list[tuple[str, int] | None]:
        """Kind and size of each object; None for one that git can't read."""
        found: list[tuple[str, int] | None] = []
        for _, kinds in try_in_halves(oids, lambda portion: self._unless_git_ends(self.reader.kinds, portion)):
            found += kinds or [None]
        return found

    def _unless_git_ends(self, ask: Callable[[Sequence[Oid]], T], oids: Sequence[Oid]) -> T | None:
        """What `ask` answers; None where git met an object that it can't read."""
        try:
            return ask(oids)
        except GitError:
            self.reader.restart()
            return None

    def pack(self) -> None:
        """Put the blobs into our pack. Entries of the snapshot whose blob a power cut has torn are replaced or go."""
        torn = {oid for portion in self._portions for oid in self._unreadable(portion)}
        if torn:
            self._replace(torn)

    def _unreadable(self, oids: Sequence[Oid]) -> list[Oid]:
        """Put blobs into our pack; those that git can't read."""
        torn = []
        for portion, contents in try_in_halves(oids, lambda some: self._unless_git_ends(self.reader.contents, some)):
            for oid, content in zip(portion, contents or [None], strict=True):
                if content is None:
                    torn.append(oid)
                else:
                    self.writer.add("blob", content[1])
        return torn

    def _replace(self, torn: set[Oid]) -> None:
        """Take torn staged versions from the files themselves where these are equal; else skip them."""
        taken = self.taken
        promised = bool(self.repository.promisors())
        for path, leaf in list(taken.staged.items()):
            if leaf is None or leaf.oid not in torn:
                continue
            there = self._small_file(path)
            if there is not None and self.writer.add("blob", there) == leaf.oid:
                continue
            if promised:
                taken.left_out.append(LeftOut(path, _PROMISED, False))
                continue
            del taken.staged[path]
            if there is not None and path not in taken.worktree:
                taken.worktree[path] = Leaf(leaf.mode, self.writer.add("blob", there))
            taken.left_out.append(LeftOut(path, _TORN, True))
        for leaves in () if promised else taken.stages.values():
            for path in [path for path, leaf in leaves.items() if leaf.oid in torn]:
                del leaves[path]
                taken.left_out.append(LeftOut(path, _TORN, True))

    def _small_file(self, path: bytes) -> bytes | None:
        """What is in the file or symlink at `path` itself, where it is reached through no symlink and not large."""
        full = os.path.join(self.repository.toplevel, path)
        if os.path.realpath(os.path.dirname(full)) != os.path.dirname(full):
            return None
        return os.readlink(full) if os.path.islink(full) else files.read_limited(full, LARGE)
