"""Data of one snapshot: the result, what the caller asks for, and what the parts share while they collect it."""

from __future__ import annotations

import os
import stat

from ..format.manifest import REFUSED_NAME, LeftOut
from ..git.repository import has_conversions, is_attributes
from ..objects.tree import GITLINK, Leaf, TreeReader, is_safe_path
from ..system.files import file_stamp
from ..system.stdlib import TYPE_CHECKING, Record, bisect_left

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from typing import Any

    from ..format.manifest import RawReason
    from ..git.command import Oid
    from ..git.index import IndexFile
    from ..git.repository import Repository
    from ..objects.pack import PackWriter
    from ..objects.reader import ObjectReader
    from ..system.clock import Deadline

#: Up to this many tracked files, the permissions of unchanged files are checked too (about 1.5 µs each).
MODES_LIMIT = 8_000
#: A manifest lists at most this many ignored paths.
IGNORED_LISTED = 1_000

#: Of more paths than this for which there was no time, only the directories are listed.
LISTED_BY_NAME = 1_000


class HeldFile(Record):
    """A large file as the last checkpoint holds it."""

    oid: Oid
    identity: tuple[int, int, int, int]
    """Size, mtime, ctime and inode when it was read."""


class Growth:
    """What one checkpoint may add to the object store: `left` bytes, and nothing of a file of `waiting`.

    Files of up to `FREE` bytes are always taken. `held` has the larger ones of the last checkpoint, whose archive is
    `archive`: one that did not change since is not read again.
    """

    FREE = 64 << 10

    def __init__(
        self, left: int, waiting: AbstractSet[bytes], held: Mapping[bytes, HeldFile], archive: Oid | None
    ) -> None:
        self.left = left
        self.waiting = waiting
        self.held = held
        self.archive = archive
        #: The files that were taken from `left`.
        self.taken: dict[bytes, HeldFile] = {}
        #: Path → bytes, of the files that were refused.
        self.refused: dict[bytes, int] = {}
        #: The destroyed files that it has no room for: they wait for one that has. Those of the last one are skipped.
        self.missed: set[bytes] = set()
        self.is_last = False
        self._spent: dict[bytes, int] = {}

    def refusal(self, path: bytes, size: int) -> str:
        """Why a file of `size` bytes is not taken; empty where it is."""
        if size <= self.FREE:
            return ""
        # A file that changes while it is read is asked for again.
        self.left += self._spent.pop(path, 0)
        if path in self.waiting or size > self.left:
            self.refused[path] = size
            return f"{size} bytes: checkpoints take a large file less often; the save at the end of the run takes it"
        self.left -= size
        self._spent[path] = size
        return ""

    def note(self, path: bytes, info: os.stat_result, oid: Oid) -> None:
        """A file was taken."""
        if info.st_size > self.FREE:
            self.taken[path] = HeldFile(oid, file_stamp(info))


class Room:
    """What a nearly full disk has left for files, in bytes, and the reason of those that are not taken."""

    def __init__(self, left: int, why: str) -> None:
        self.left, self._why = left, why

    def refusal(self, size: int) -> str:
        """Why a file of `size` bytes is not taken; empty where it is."""
        if size > self.left:
            return self._why
        self.left -= size
        return ""


class SnapshotOptions(Record):
    """What the caller asks of a snapshot."""

    state_file: bytes
    """The path of the state file, relative to the top. It is never saved."""
    deadline: Deadline
    """What was not read when it passes is skipped."""
    largest: int | None = None
    """Files of more bytes are skipped; None for no limit."""
    growth: Growth | None = None
    """What a checkpoint may add to the object store; None for no limit."""
    include_ignored: Sequence[str] = ()
    """Patterns of ignored files to save, as in .gitignore."""
    include_paths: Sequence[bytes] = ()
    """Paths to save byte for byte, tracked or ignored."""
    tracked: TrackedPaths | None = None
    """The paths in the index, where the caller knows them; none is hidden from git."""
    touched: frozenset[bytes] = frozenset()
    """Paths that changed for all that the caller knows: git is asked about them where it is slow to find changes."""
    end: Deadline | None = None
    """`deadline` of small tracked files that changed, the most precious ones; None: the same."""
    room: Room | None = None
    """What the files may have together; None for no limit."""
    gives_up: bool = False
    """Raise GitError where git has not listed the changes in time: the caller has an earlier snapshot, or none."""
    older: Snapshot | None = None
    """An earlier snapshot whose version is taken of what is not looked at in time."""


class TrackedPaths(Record):
    """The paths in the index."""

    paths: AbstractSet[bytes]
    order: list[bytes]
    """The same paths, sorted by bytes as in the index. A sparse directory ends in a slash."""
    attributes: bool
    """Whether there is a .gitattributes file, tracked or not: an untracked one, or an ignored one, counts as much."""

    def __reduce__(self) -> tuple[object, tuple[bytes, bool]]:
        """One text, for a keeper that listens: it would be deaf while hundreds of thousands of values are read."""
        return _tracked_paths, (b"\0".join(self.order), self.attributes)

    @property
    def are_few(self) -> bool:
        """Whether the permissions of unchanged files and directories are checked."""
        return len(self.paths) <= MODES_LIMIT

    def has_below(self, directory: bytes) -> bool:
        """Whether a tracked path is below a directory."""
        prefix = directory + b"/"
        place = bisect_left(self.order, prefix)
        return place < len(self.order) and self.order[place].startswith(prefix)

    def at_or_below(self, path: bytes) -> Iterator[bytes]:
        """The tracked paths that are `path` or below it."""
        if path in self.paths:
            yield path
        prefix = path + b"/"
        place = bisect_left(self.order, prefix)
        while place < len(self.order) and self.order[place].startswith(prefix):
            yield self.order[place]
            place += 1


def _tracked_paths(order: bytes, attributes: bool) -> TrackedPaths:
    paths = order.split(b"\0") if order else []
    return TrackedPaths(set(paths), paths, attributes)


class ScanFacts(Record):
    """What a full scan learned that an incremental snapshot reuses while index and settings stay the same."""

    tracked: TrackedPaths
    plain: bool
    """Whether the index has neither hidden entries nor submodules: then only changed paths need another look."""
    settings: tuple[object, ...]
    """The identity of the files that configure what is ignored and converted (see `gitdir.settings_identity`)."""


class Snapshot:
    """One worktree, its index and its unfinished operation. Each leaf is an object in the writer or the repository.

    Paths are relative to the top of the worktree. Modes of `modes` and `directories` are permissions (0 to 0o777).
    """

    #: The full name of the branch that HEAD is on; None where HEAD is detached.
    head_ref: str | None = None
    #: The commit of HEAD; None on an unborn branch.
    head: Oid | None = None
    #: The unfinished operation, such as `merge`; None where there is none.
    operation: str | None = None
    #: The bytes of the index file as a blob; None where it is large and trees can rebuild it, or missing.
    index: Oid | None = None
    #: Which index file it was; None where there was none.
    index_file: IndexFile | None = None
    #: Whether it hides nothing from git; False where there was none.
    index_is_plain: bool = False
    #: Name and bytes of the shared index of a split index; None where the index is not split.
    shared_index: tuple[str, Oid] | None = None
    #: The bytes of info/sparse-checkout as a blob, which stays where a checkout is sparse no more; None without it.
    sparse_file: Oid | None = None
    #: What an incremental snapshot reuses. None only while the snapshot is being taken.
    scan: ScanFacts | None = None

    def __init__(self) -> None:
        #: Path → index entry that differs from HEAD, None where its deletion is staged. Empty where nothing is staged.
        self.staged: dict[bytes, Leaf | None] = {}
        #: Path → file that differs from the index, None where it was deleted; untracked files too. Empty when clean.
        self.worktree: dict[bytes, Leaf | None] = {}
        #: Stage (1, 2, 3) → path → unmerged index entry. Empty where nothing is unmerged.
        self.stages: dict[int, dict[bytes, Leaf]] = {}
        #: Paths added with `git add --intent-to-add`. Empty as a rule.
        self.intent_to_add: list[bytes] = []
        #: File → permissions that git does not store (neither 644 nor 755). Empty as a rule.
        self.modes: dict[bytes, int] = {}
        #: Directory → permissions: empty directories, and those with other permissions than 755.
        self.directories: dict[bytes, int] = {}
        #: File or directory → its setuid, setgid and sticky bits (0o7000), where it has any. Empty as a rule.
        self.special: dict[bytes, int] = {}
        #: Path → (bytes of the file as a blob, why they are kept: see `Manifest.raw`). Empty as a rule.
        self.raw: dict[bytes, tuple[Leaf, RawReason]] = {}
        #: Changed files that git could not convert: only `raw` holds them. Empty as a rule.
        self.unconverted: list[bytes] = []
        #: Tracked paths that are hidden from git (skip-worktree, assume-unchanged) and missing on the disk.
        self.absent: list[bytes] = []
        #: Directories of a sparse index: git knows none of their files, and none is on the disk.
        self.sparse_directories: list[bytes] = []
        #: Directories that are repositories of their own. Empty where there are none.
        self.nested: list[bytes] = []
        #: Those of `nested` that are submodules of the index. Empty where there are none.
        self.submodules: set[bytes] = set()
        #: The submodules of the index that are checked out, changed or not.
        self.checked_out: list[bytes] = []
        #: Submodules of the index of which only the empty directory is there: not checked out.
        self.absent_submodules: list[bytes] = []
        #: Skipped paths, each with its reason. Empty where the snapshot is complete.
        self.left_out: list[LeftOut] = []
        #: The first `IGNORED_LISTED` ignored paths that are not saved; a directory ends in a slash.
        self.ignored: list[bytes] = []
        #: File of the unfinished operation, relative to the git dir → its bytes. ORIG_HEAD may be here at any time.
        self.operation_files: dict[bytes, Leaf] = {}
        #: Commits that the files of the operation name. Empty where they name none.
        self.keep_commits: list[Oid] = []
        #: Trees and blobs that the files of the operation name. Empty where they name none.
        self.keep_others: list[Leaf] = []
        #: Setting → value, of those that configure a sparse checkout. Empty where none is set.
        self.sparse: dict[str, str] = {}
        #: Setting → value of the configuration of a linked worktree alone; None for one that is not kept.
        self.worktree_settings: dict[str, str | None] = {}

    def staged_blobs(self) -> list[Oid]:
        """The blobs that the index has and HEAD may not have, each once."""
        leaves = [leaf for leaf in self.staged.values() if leaf is not None]
        leaves += [leaf for stage in self.stages.values() for leaf in stage.values()]
        return list(dict.fromkeys(leaf.oid for leaf in leaves if leaf.mode != GITLINK))

    def drop_refused_names(self) -> None:
        """Drop, and list, what has a name that git refuses on some file system, though it may be tracked here.

        Nobody reads a manifest with such a path, and nothing is restored to one.
        """
        listed = {path for paths in (self.staged, self.intent_to_add, *self.stages.values()) for path in paths}
        refused = {path for path in listed if not is_safe_path(path)}
        if refused:
            # Those who read it would meet them. Trees can rebuild it without them.
            self.index = None
        others: list[dict[bytes, Any]] = [self.worktree, self.raw, self.modes, self.directories, self.special]
        several = (self.nested, self.absent, self.absent_submodules, self.sparse_directories, self.intent_to_add)
        refused.update(path for paths in (*others, *several) for path in paths if not is_safe_path(path))
        holding: list[dict[bytes, Any]] = [self.staged, *self.stages.values(), *others]
        for path in refused:
            for paths in holding:
                paths.pop(path, None)
        for names in several:
            names[:] = [path for path in names if path not in refused]
        self.ignored = [path for path in self.ignored if is_safe_path(path.removesuffix(b"/"))]
        known = {item.path for item in self.left_out}
        self.left_out += [LeftOut(path, REFUSED_NAME, True) for path in sorted(refused - known)]

    @property
    def noteworthy(self) -> bool:
        """Whether anything is here that a fresh checkout of HEAD would not have."""
        return bool(self.dirty or self.modes or self.directories or self.absent or self.raw or self.special)

    @property
    def dirty(self) -> bool:
        """Whether index, worktree or operation differ from a clean checkout of HEAD."""
        changes = self.staged or self.worktree or self.stages or self.intent_to_add or self.operation
        return bool(changes) or any(why != "clean" for _, why in self.raw.values())


class SnapshotBuilder:
    """What the parts of a snapshot share: where they read, where objects go, and the snapshot so far."""

    def __init__(
        self,
        repository: Repository,
        writer: PackWriter,
        reader: ObjectReader,
        frozen_index: bytes,
        options: SnapshotOptions,
    ) -> None:
        self.repository = repository
        self.top = repository.toplevel
        self.writer = writer
        self.reader = reader
        #: The trees that were read: whoever builds a save from the snapshot needs the same ones.
        self.trees = TreeReader(reader)
        self.options = options
        #: What is read now is skipped when it passes.
        self.deadline = options.deadline
        self.end = options.end or options.deadline
        self.index_path = frozen_index
        #: Variables for each git that reads the index.
        self.env = {"GIT_INDEX_FILE": os.fsdecode(frozen_index)}
        self.filemode = repository.is_true("core.filemode", True)
        self.symlinks = repository.is_true("core.symlinks", True)
        #: Our own git directory where it is in the worktree under another name: as `.git` it is no part of it.
        above = os.path.join(self.top, b"")
        places = (repository.git_dir, repository.common_dir)
        self.own_git_dirs = frozenset(place[len(above) :] for place in places if place.startswith(above))
        self.tracked = TrackedPaths(frozenset(), [], False)
        #: Mode of the index entry, by path, as far as git reported or was asked for it.
        self.index_modes: dict[bytes, int] = {}
        #: The tracked paths that git was asked about, where there was no time for all; None: all.
        self.asked: frozenset[bytes] | None = None
        #: Git was asked which submodules have changes.
        self.knows_submodules = True
        #: Plain files stand where the index has a submodule.
        self.in_submodules = False
        #: The .gitignore files that a sparse checkout leaves out.
        self.left_out_ignores: list[bytes] = []
        self.snapshot = Snapshot()
        #: Files of which this snapshot lacks bytes, and directories that were not looked into.
        self.unread: list[bytes] = []
        self._reached: dict[bytes, bool] = {}

    def skip(self, path: bytes, reason: str, *, lost: bool) -> None:
        """List a path as skipped. `lost` says that bytes of a regular file are missing from the snapshot."""
        skipped = self.snapshot.left_out
        if not any(item.path == path and item.reason == reason for item in skipped[-3:]):
            skipped.append(LeftOut(path, reason, lost))

    def skip_late(self, paths: Sequence[bytes], why: str) -> None:
        """List paths for which there was no time. Of very many the uppermost directories, with their number."""
        self.unread += paths
        if len(paths) <= LISTED_BY_NAME:
            for path in paths:
                self.skip(path, why, lost=True)
            return
        counts: dict[bytes, int] = {}
        for path in paths:
            top = path.partition(b"/")[0]
            counts[top] = counts.get(top, 0) + 1
        for top, count in list(counts.items())[:LISTED_BY_NAME]:
            self.skip(top, why if count == 1 else f"{why}: {count} paths in it", lost=True)
        if len(counts) > LISTED_BY_NAME:
            self.skip(b"", f"{why}: {len(counts) - LISTED_BY_NAME} more at the top of the worktree", lost=True)

    def permissions(self, path: bytes, mode: int) -> int:
        """The permissions of a file or directory of this `st_mode`; setuid, setgid and sticky bits are noted."""
        if mode & 0o7000:
            self.snapshot.special[path] = mode & 0o7000
        return mode & 0o777

    def note_attributes(self, untracked: Iterable[bytes]) -> None:
        """Look for a .gitattributes file among untracked paths, ignored or not."""
        if not self.tracked.attributes and any(is_attributes(path) for path in untracked):
            self.tracked = self.tracked._replace(attributes=True)

    def may_convert(self) -> bool:
        """Whether attributes or settings could convert any file: then git is asked."""
        return self.tracked.attributes or has_conversions(self.repository)

    def is_reached(self, directory: bytes) -> bool:
        """Whether every part of a directory's path is a directory: what is behind a symlink is not in the worktree."""
        if not directory:
            return True
        known = self._reached
        # Without a recursion: a tree may be deeper than Python's stack.
        below: list[bytes] = []
        while directory and directory not in known:
            below.append(directory)
            directory = directory.rpartition(b"/")[0]
        reached = known[directory] if directory else True
        for path in reversed(below):
            if reached:
                try:
                    reached = stat.S_ISDIR(os.lstat(os.path.join(self.top, path)).st_mode)
                except OSError:
                    reached = False
            known[path] = reached
        return reached
