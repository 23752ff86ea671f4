"""Disk → objects: one worktree, its index and its unfinished operation. Writes no ref and no file of the worktree.

Git says which tracked files changed and what is ignored; the walk beside it finds what git never mentions (empty
directories, FIFOs, sockets). Only what changed is read. Attributes that name a filter, an encoding or line endings
send a file through git's own way in, and its raw bytes are kept beside, because the way back may not be exact.
"""

from __future__ import annotations

import bisect
import os
import stat

from ..errors import GitError
from ..format.manifest import LeftOut
from ..git import refs
from ..git.attributes import Conversions, quote_c
from ..git.index import IndexFile, file_identity, identify_index, shared_index_name
from ..git.oid import Oid, object_id
from ..git.operation import operation_paths, operation_under_way
from ..git.repository import Repository, head_of, read_head
from ..git.status import (
    StatusQuery,
    are_ignored,
    parse_listing,
    query_status,
    start_check_ignore,
    start_status,
)
from ..objects.pack import ChangedWhileRead, PackWriter
from ..objects.reader import LARGE, ObjectReader
from ..objects.tree import EXECUTABLE, GITLINK, REGULAR, SYMLINK, Leaf, is_safe_path
from ..system import files
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from ..workspace.ownership import quarantine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..format.manifest import RawReason
    from ..system.child import Child

#: Up to this many tracked files, permissions of unchanged ones are looked at too (about 1.5 µs each).
MODES_LIMIT = 8_000
#: An index of at most this many bytes is copied into the archive as it is (about ten thousand entries).
INDEX_COPIED = 1 << 20
#: No more ignored paths than this are listed in a manifest.
IGNORED_LISTED = 1_000
_RETRIES = 3

_OPERATION_LIMIT = 16 << 20
#: The refs of an unfinished operation that do not begin with `refs/`. MERGE_HEAD is a file in any case.
_ROOT_REFS = ("CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD")
_HEX = b"0123456789abcdef"
#: Leaves hexadecimal digits; other letters become `_`, and all that can't be part of a word a space.
_WORDS = bytes(c if c in _HEX else 95 if chr(c).isalnum() or c == 95 else 32 for c in range(128)) + b" " * 128


class Ground(Record):
    """What a look at the whole tree found out and a later one may lean on, while index and settings stay as they are.

    `tracked` and `order` are the index's paths; `plain` says that nothing in it needs git's own eyes again: no gitlink,
    no hidden entry. `settings` is the identity of the files that say what is ignored and converted.
    """

    tracked: frozenset[bytes] | set[bytes]
    order: list[bytes]
    attributes: bool
    plain: bool
    settings: tuple[object, ...]


class Snapshot:
    """What was found. Filled in by `take`, then only read. Leaves in the maps are objects in the writer or the repo."""

    def __init__(self) -> None:
        self.head_ref: str | None = None
        self.head: Oid | None = None
        #: Index against HEAD.
        self.staged: dict[bytes, Leaf | None] = {}
        #: Worktree against the index, untracked files included.
        self.worktree: dict[bytes, Leaf | None] = {}
        self.stages: dict[int, dict[bytes, Leaf]] = {}
        self.intent_to_add: list[bytes] = []
        self.modes: dict[bytes, int] = {}
        self.directories: dict[bytes, int] = {}
        self.raw: dict[bytes, tuple[Leaf, RawReason]] = {}
        self.absent: list[bytes] = []
        self.nested: list[bytes] = []
        self.left_out: list[LeftOut] = []
        self.ignored: list[bytes] = []
        self.operation: str | None = None
        self.operation_files: dict[bytes, Leaf] = {}
        self.keep_commits: list[Oid] = []
        self.keep_others: list[Leaf] = []
        self.index: Oid | None = None
        self.index_file: IndexFile | None = None
        self.shared_index: tuple[str, Oid] | None = None
        self.sparse: dict[str, str] = {}
        self.sparse_file: Oid | None = None
        self.ground: Ground | None = None

    def staged_blobs(self) -> list[Oid]:
        """What the index holds and HEAD may not, each once."""
        leaves = [leaf for leaf in self.staged.values() if leaf is not None]
        leaves += [leaf for stage in self.stages.values() for leaf in stage.values()]
        return list(dict.fromkeys(leaf.oid for leaf in leaves if leaf.mode != GITLINK))

    @property
    def noteworthy(self) -> bool:
        """Whether anything is there that a fresh checkout of HEAD would not have."""
        return bool(self.dirty or self.modes or self.directories or self.absent or self.raw)

    @property
    def dirty(self) -> bool:
        """Whether anything differs from HEAD's tree, or git's own words for it from the ordinary."""
        found = self.staged or self.worktree or self.stages or self.intent_to_add or self.operation
        return bool(found) or any(why != "clean" for _, why in self.raw.values())


def take(
    repository: Repository,
    writer: PackWriter,
    reader: ObjectReader,
    frozen_index: bytes,
    *,
    never: bytes,
    keep_ignored: Sequence[str] = (),
    keep_paths: Sequence[bytes] = (),
    largest: int | None = None,
    deadline: Deadline,
    asked: StatusQuery | None = None,
) -> Snapshot:
    """Take one snapshot; `asked` is what `query_status` returned for the same index, where the caller had something else to do.

    `frozen_index` is a hard link to the index (or a path where nothing is, where there is none): git replaces the
    index by rename, so that all of one snapshot sees one index, with the time stamp that racy entries need. `never`
    is the state file's name; `keep_paths` are held byte for byte in any case; a file of more than `largest` bytes is
    left out.

    Raises GitError, OSError; one bad file is left out instead.
    """
    taking = Taking(repository, writer, reader, frozen_index, never, keep_ignored, largest, deadline)
    return taking.run(keep_paths, asked or query_status(repository, frozen_index))


class Taking:
    """One look at a worktree; `run` looks at all of it, `snapshot_since` at what changed."""

    def __init__(
        self,
        repository: Repository,
        writer: PackWriter,
        reader: ObjectReader,
        frozen_index: bytes,
        never: bytes,
        keep_ignored: Sequence[str],
        largest: int | None,
        deadline: Deadline,
    ) -> None:
        self.repository = repository
        self.top = repository.toplevel
        self.writer = writer
        self.reader = reader
        self.index_path = frozen_index
        self.extra = {"GIT_INDEX_FILE": os.fsdecode(frozen_index)}
        self.never = never
        self.keep_ignored = keep_ignored
        self.largest = largest
        self.deadline = deadline
        self.conversions = Conversions(repository, self.extra)
        self.filemode = repository.is_true("core.filemode", True)
        self.links = repository.is_true("core.symlinks", True)
        self.found = Snapshot()
        self.index_modes: dict[bytes, int] = {}
        self.tracked: set[bytes] = set()
        self.order: list[bytes] = []
        self.attributes = False
        self.staged_only: list[bytes] = []
        self.reached: dict[bytes, bool] = {}

    def run(self, keep_paths: Sequence[bytes], asked: StatusQuery) -> Snapshot:
        listed = self.repository.git.finish(asked.listing)
        hidden = self._tracked(listed)
        self._take_index(hides=bool(hidden))
        settings = settings_identity(self.repository)
        untracked, specials, swapped = self._walk([self.top])
        # What `status` prints is read here and not before: it works beside the walk on the other core.
        changed = self._status(self._status_output(asked.status))
        for path in swapped:
            if self.index_modes.get(path, GITLINK) != GITLINK:
                untracked.append(path + b"/")
            elif not is_repository(os.path.join(self.top, path)) and os.listdir(os.path.join(self.top, path)):
                self._leave_out(
                    path, "it stands where a submodule should be, and git looks at nothing in it", lost=True
                )
        # Where time is short, or git's own way in may be needed, all files are looked at together.
        at_once = self.deadline.seconds is None and not self._may_convert([*changed, *untracked])
        early = changed if at_once else []
        plain, listed_ignored = self._sort_out(untracked, specials, lambda: self._read_all(early))
        self.found.ignored = listed_ignored[:IGNORED_LISTED]
        self.reader.foresee_contents([self.found.head] if self.found.head else [])
        self.reader.foresee_kinds(self.found.staged_blobs())
        self._read_all([*changed[len(early) :], *plain])
        if self.staged_only and self._may_convert(self.staged_only):
            converted = self.conversions.converting_attributes(self.staged_only)
            reached = [path for path in converted if self._is_reached(path.rpartition(b"/")[0])]
            self._read_by_git(sorted(path for path in reached if os.path.isfile(os.path.join(self.top, path))))
        self._hidden(hidden)
        if len(self.tracked) <= MODES_LIMIT and self._may_convert([*changed, *plain]):
            known = {*changed, *plain, *self.found.raw, *(path for _, path in hidden)}
            self._clean_but_other([path for path in self.order if path not in known and not path.endswith(b"/")])
        if self.keep_ignored:
            self._keep_ignored(set(plain))
        for path in keep_paths:
            held = path in self.tracked or path in self.found.worktree or path in self.found.raw
            if not held and (leaf := self._read(path)) is not None:
                self.found.raw[path] = (leaf, "ignored")
        self._operation()
        self._sparse()
        plain_index = not (hidden or swapped or self.found.absent)
        self.found.ground = Ground(self.tracked, self.order, self.attributes, plain_index, settings)
        return self.found

    # -- what is there

    def _status_output(self, status: Child) -> bytes:
        """What `git status` prints. A required filter that fails ends it: then it runs again with filters off.

        A submodule that git can't open ends it too: then git looks into none of them, and each is tried here.
        """
        git = self.repository.git
        off = self.repository.filters_off()
        try:
            return git.finish(status)
        except GitError:
            with suppress(GitError):
                if off:
                    return git.finish(start_status(self.repository, self.extra, *off))
        out = git.finish(start_status(self.repository, self.extra, *off, submodules=False))
        for line in git.run("ls-files", "-z", "-s", env=self.extra).split(b"\0"):
            if not line.startswith(b"160000 "):
                continue
            path = line.partition(b"\t")[2]
            if is_repository(os.path.join(self.top, path)):
                self.found.nested.append(path)
        return out

    def _tracked(self, listed: bytes) -> list[tuple[bytes, bytes]]:
        """Fill `tracked`; returns (tag, path) of entries that git was told not to look at."""
        self.attributes = b".gitattributes\0" in listed
        self.order, hidden = parse_listing(listed)
        self.tracked = set(self.order)
        return hidden

    def _holds_tracked(self, directory: bytes) -> bool:
        """Whether the index has an entry below a directory: `order` is sorted by bytes, as the index is."""
        prefix = directory + b"/"
        place = bisect.bisect_left(self.order, prefix)
        return place < len(self.order) and self.order[place].startswith(prefix)

    def _walk(self, stack: list[bytes]) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """Untracked candidates (directories end in a slash), special files, and tracked names that are directories.

        `stack` names the directories to begin with, as absolute paths.
        """
        tracked = self.tracked
        untracked: list[bytes] = []
        specials: list[bytes] = []
        swapped: list[bytes] = []
        looked = len(tracked) <= MODES_LIMIT
        usual = (0o644, 0o755) if self.filemode else ()
        cut = len(self.top) + 1
        while stack:
            directory = stack.pop()
            empty = True
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        empty = False
                        path = entry.path[cut:]
                        if entry.is_dir(follow_symlinks=False):
                            if self._holds_tracked(path):
                                stack.append(entry.path)
                                if looked and (mode := entry.stat(follow_symlinks=False).st_mode & 0o777) != 0o755:
                                    self.found.directories[path] = mode
                            elif path in tracked:
                                swapped.append(path)
                            elif entry.name == b".git":
                                self._inner_git(path)
                            else:
                                untracked.append(path + b"/")
                        elif path in tracked:
                            if looked and entry.is_file(follow_symlinks=False):
                                mode = entry.stat(follow_symlinks=False).st_mode & 0o777
                                if mode not in usual:
                                    self.found.modes[path] = mode
                        elif entry.name == b".git":
                            self._inner_git(path)
                        elif path == self.never:
                            continue
                        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                            untracked.append(path)
                        else:
                            specials.append(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._leave_out(directory[cut:], f"the directory can't be read: {error.strerror}", lost=True)
                continue
            if empty and directory != self.top:
                self.found.directories[directory[cut:]] = os.lstat(directory).st_mode & 0o777
        return untracked, specials, swapped

    def _sort_out(
        self, untracked: list[bytes], specials: list[bytes], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[list[bytes], list[bytes]]:
        """Untracked files that are not ignored, and what is ignored; directories are opened level by level.

        `meanwhile` is called while git gets ready to answer.
        """
        plain: list[bytes] = []
        ignored: list[bytes] = []
        holders: dict[bytes, int] = {}
        level = [*untracked, *specials]
        special = set(specials)
        asking: Child | None = None
        try:
            if level:
                asking = start_check_ignore(self.repository, self.extra)
            meanwhile()
            while asking is not None and level:
                verdicts = are_ignored(asking, level)
                below: list[bytes] = []
                for path, is_ignored in zip(level, verdicts, strict=True):
                    if is_ignored:
                        ignored.append(path)
                    elif path in special:
                        self._leave_out(path, _special_reason(os.path.join(self.top, path)), lost=False)
                    elif not path.endswith(b"/"):
                        plain.append(path)
                    else:
                        self._open_directory(path[:-1], below, special, holders)
                level = below
        finally:
            if asking is not None:
                asking.communicate()
        full = set()
        for path in plain:
            while path := path.rpartition(b"/")[0]:
                if path in full:
                    break
                full.add(path)
        for path, mode in holders.items():
            if path not in full or mode != 0o755:
                self.found.directories[path] = mode
        return plain, ignored

    def _inner_git(self, path: bytes) -> None:
        """What is named `.git` below the top: a repository of its own, or something that git refuses to hold."""
        directory = path.rpartition(b"/")[0]
        if not directory:
            return
        if is_repository(os.path.join(self.top, directory)):
            self.found.nested.append(directory)
        else:
            self._leave_out(path, "git holds nothing that is named .git", lost=True)

    def _open_directory(self, path: bytes, below: list[bytes], special: set[bytes], holders: dict[bytes, int]) -> None:
        full = os.path.join(self.top, path)
        try:
            if is_repository(full):
                self.found.nested.append(path)
                return
            holders[path] = os.lstat(full).st_mode & 0o777
            with os.scandir(full) as entries:
                for entry in entries:
                    name = entry.path[len(self.top) + 1 :]
                    if entry.name == b".git":
                        self._inner_git(name)
                        continue
                    if name == self.never:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        below.append(name + b"/")
                    else:
                        below.append(name)
                        if not (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                            special.add(name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave_out(path, f"the directory can't be read: {error.strerror}", lost=True)

    def _status(self, out: bytes) -> list[bytes]:
        """Take git's word on HEAD, index and tracked files; returns the paths to read."""
        found = self.found
        changed: list[bytes] = []
        for line in out.split(b"\0"):
            kind = line[:2]
            if kind == b"1 ":
                _, states, sub, mode_head, mode_index, _, _, oid_index, path = line.split(b" ", 8)
                self.index_modes[path] = int(mode_index, 8)
                if states[:1] == b"." and mode_head == b"000000":
                    found.intent_to_add.append(path)
                elif states[:1] != b".":
                    gone = states[:1] == b"D"
                    found.staged[path] = None if gone else Leaf(int(mode_index, 8), oid_index.decode("ascii"))
                    if not gone and states[1:] == b"." and sub[:1] != b"S":
                        self.staged_only.append(path)
                if sub[:1] == b"S":
                    self._submodule(path, sub, new=states[:1] != b".")
                if states[1:] != b"." and (sub[:1] != b"S" or sub[1:2] == b"C" or states[1:] in (b"D", b"T")):
                    changed.append(path)
            elif kind == b"u ":
                words = line.split(b" ", 10)
                path = words[10]
                self.index_modes[path] = max(int(mode, 8) for mode in words[3:6])
                for stage in (1, 2, 3):
                    if words[2 + stage] != b"000000":
                        leaf = Leaf(int(words[2 + stage], 8), words[6 + stage].decode("ascii"))
                        found.stages.setdefault(stage, {})[path] = leaf
                changed.append(path)
            elif line.startswith(b"# branch.oid ") and line[13:] != b"(initial)":
                found.head = line[13:].decode("ascii")
        found.head_ref = read_head(self.repository.git_dir)
        return changed

    def _submodule(self, path: bytes, sub: bytes, *, new: bool) -> None:
        """Work in a submodule, or one that was staged and has its repository inside: it is a workspace of its own."""
        full = os.path.join(self.top, path)
        inside = new and os.path.isdir(os.path.join(full, b".git"))
        if (b"M" in sub or b"U" in sub or inside) and is_repository(full):
            self.found.nested.append(path)

    # -- reading

    def _read_all(self, paths: list[bytes]) -> None:
        if self.deadline.seconds is not None:
            # What fits into the time that is left is as much of the work as can be: small files first.
            paths = sorted(paths, key=self._size)
        convert = self.conversions.converting_attributes(paths) if self._may_convert(paths) else {}
        by_git: list[bytes] = []
        for path in paths:
            if not is_safe_path(path):
                self._leave_out(path, "git can't hold a file of this name", lost=True)
                continue
            mode_index = self.index_modes.get(path)
            try:
                if not self._is_reached(path.rpartition(b"/")[0]):
                    raise NotADirectoryError
                info = os.lstat(os.path.join(self.top, path))
            except (FileNotFoundError, NotADirectoryError):
                if mode_index is not None:
                    self.found.worktree[path] = None
                continue
            if stat.S_ISDIR(info.st_mode):
                self._directory(path, mode_index)
            elif stat.S_ISREG(info.st_mode) and path in convert:
                by_git.append(path)
            else:
                leaf = self._read(path)
                if leaf is not None:
                    self.found.worktree[path] = leaf
        if by_git:
            self._read_by_git(by_git)

    def _size(self, path: bytes) -> int:
        try:
            return os.lstat(os.path.join(self.top, path)).st_size
        except OSError:
            return 0

    def _is_reached(self, directory: bytes) -> bool:
        """Whether a directory is reached from the top through directories alone: behind a symlink nothing is ours."""
        if not directory:
            return True
        known = self.reached.get(directory)
        if known is None:
            above = self._is_reached(directory.rpartition(b"/")[0])
            full = os.path.join(self.top, directory)
            known = self.reached[directory] = above and os.path.isdir(full) and not os.path.islink(full)
        return known

    def _directory(self, path: bytes, mode_index: int | None) -> None:
        if mode_index is None:
            return
        if mode_index == GITLINK:
            head = head_of(os.path.join(self.top, path))
            if head is not None:
                self.found.worktree[path] = Leaf(GITLINK, head)
        else:
            self.found.worktree[path] = None

    def _read(self, path: bytes) -> Leaf | None:
        """The file's bytes as a blob; None where it is gone or was left out."""
        full = os.path.join(self.top, path)
        if self.deadline.passed():
            self._leave_out(path, "the deadline had passed", lost=True)
            return None
        for attempt in range(_RETRIES):
            try:
                info = os.lstat(full)
                if stat.S_ISLNK(info.st_mode):
                    return Leaf(SYMLINK, self.writer.add("blob", os.readlink(full)))
                if not stat.S_ISREG(info.st_mode):
                    self._leave_out(path, _special_reason(full), lost=False)
                    if path in self.index_modes:
                        self.found.worktree[path] = None
                    return None
                fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                if path in self.index_modes:
                    self.found.worktree[path] = None
                return None
            except OSError as error:
                self._leave_out(path, f"it can't be read: {error.strerror}", lost=True)
                return None
            try:
                before = os.fstat(fd)
                if self.largest is not None and before.st_size > self.largest:
                    self._leave_out(path, f"it has more than {self.largest} bytes: a second step saves it", lost=True)
                    return None
                if before.st_size > LARGE:
                    oid = self.writer.add_file(fd, before.st_size)
                else:
                    oid = self.writer.add("blob", _read_whole(fd, before.st_size))
                after = os.fstat(fd)
            except ChangedWhileRead:
                continue
            except OSError as error:
                self._leave_out(path, f"it can't be read: {error.strerror}", lost=True)
                return None
            finally:
                os.close(fd)
            if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                break
            if attempt == _RETRIES - 1:
                self._leave_out(path, "it kept changing while it was read: one of its states is saved", lost=True)
        else:
            self._leave_out(path, "it kept changing while it was read", lost=True)
            return None
        return Leaf(self._mode(path, before), oid)

    def _mode(self, path: bytes, info: os.stat_result) -> int:
        """The mode that git gives a regular file, as `ce_mode_from_stat` does; other permissions are noted."""
        known = self.index_modes.get(path)
        permissions = info.st_mode & 0o777
        if not self.links and known == SYMLINK:
            return SYMLINK
        if self.filemode:
            mode = EXECUTABLE if permissions & 0o100 else REGULAR
        else:
            mode = known if known in (REGULAR, EXECUTABLE) else REGULAR
        if permissions != mode & 0o777:
            self.found.modes[path] = permissions
        else:
            self.found.modes.pop(path, None)
        return mode

    def _hidden(self, entries: list[tuple[bytes, bytes]]) -> None:
        """Files that git was told not to look at: saved where they are not what the index says."""
        present = []
        for tag, path in entries:
            if tag == b"m":
                continue
            here = self._is_reached(path.rpartition(b"/")[0]) and os.path.lexists(os.path.join(self.top, path))
            if not here:
                self.found.absent.append(path)
            else:
                present.append(path)
        for start in range(0, len(present), 500):
            out = self.repository.git.run("ls-files", "-z", "-s", "--", *present[start : start + 500], env=self.extra)
            for line in out.split(b"\0")[:-1]:
                words, _, path = line.partition(b"\t")
                mode, oid, _ = words.split(b" ")
                self.index_modes[path] = int(mode, 8)
                if self.index_modes[path] == GITLINK:
                    continue
                full = os.path.join(self.top, path)
                if same_content(full, self.repository.object_format, oid.decode("ascii")):
                    continue
                leaf = self._read(path)
                if leaf is not None:
                    self.found.raw[path] = (leaf, "hidden")

    def _keep_ignored(self, plain: set[bytes]) -> None:
        patterns = [word for pattern in self.keep_ignored for word in ("-x", pattern)]
        out = self.repository.git.run("ls-files", "-z", "-o", "-i", *patterns, env=self.extra)
        kept = set()
        for path in out.split(b"\0")[:-1]:
            if path in plain or path == self.never or path.endswith(b"/") or not is_safe_path(path):
                continue
            leaf = self._read(path)
            if leaf is not None:
                self.found.raw[path] = (leaf, "ignored")
                kept.add(path)
        self.found.ignored = [path for path in self.found.ignored if path not in kept]

    # -- git's own way in

    def _may_convert(self, paths: list[bytes]) -> bool:
        return self.conversions.are_possible(paths, attributes=self.attributes)

    def _clean_but_other(self, paths: list[bytes], entries: Mapping[bytes, Leaf] | None = None) -> None:
        """Files that git calls clean although a checkout would write other bytes: mixed line ends, an old encoding.

        `paths` are tracked and as the index says (`entries`; None: git is asked). Where git gives text out as it holds
        it, the size tells; else git is asked for what it would write. What a filter program makes is not looked at:
        to run it for every file would cost more than the save.
        """
        named = self.conversions.converting_attributes(paths)
        conversions = {path: attributes for path, attributes in named.items() if b"filter" not in attributes}
        if not conversions:
            return
        if entries is None:
            entries = self._index_leaves()
        leaves = {path: leaf for path in conversions if (leaf := entries.get(path)) is not None and leaf.oid}
        oids = {path: leaf.oid for path, leaf in leaves.items() if leaf.mode in (REGULAR, EXECUTABLE)}
        suspects: dict[bytes, Oid] = {}
        for path, kind in zip(oids, self.reader.kinds([*oids.values()]), strict=True):
            size = _file_size(os.path.join(self.top, path)) if self._is_reached(path.rpartition(b"/")[0]) else None
            if kind is None or size is None or max(size, kind[1]) > LARGE:
                continue
            if self.conversions.may_change_on_checkout(conversions[path]):
                suspects[path] = oids[path]
            elif size != kind[1]:
                self._keep_clean(path)
        written = self.conversions.checkout_oids(suspects)
        for path in suspects:
            if not same_content(os.path.join(self.top, path), self.repository.object_format, written.get(path, "")):
                self._keep_clean(path)

    def _index_leaves(self) -> dict[bytes, Leaf]:
        """What the index says of every path."""
        found: dict[bytes, Leaf] = {}
        for line in self.repository.git.run("ls-files", "-z", "-s", env=self.extra).split(b"\0")[:-1]:
            words, _, path = line.partition(b"\t")
            mode, oid, _ = words.split(b" ")
            found[path] = Leaf(int(mode, 8), oid.decode("ascii"))
        return found

    def _keep_clean(self, path: bytes) -> None:
        leaf = self._read(path)
        if leaf is not None:
            self.found.raw[path] = (leaf, "clean")

    def _read_by_git(self, paths: list[bytes]) -> None:
        """Send files through git's conversions into a quarantine, and take the blobs from there."""
        place = quarantine(self.repository)
        files.make_directory(place, top=self.repository.git_dir)
        extra = {
            **self.extra,
            "GIT_OBJECT_DIRECTORY": os.fsdecode(place),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": _quoted(self.repository.objects),
        }
        clean = self.conversions.hash_files(paths, extra, self.deadline)
        with ObjectReader(self.repository.git, extra) as reader:
            for path in paths:
                raw = self._read(path)
                if raw is None:
                    continue
                oid = clean.get(path)
                if oid != raw.oid:
                    self.found.raw[path] = (raw, "filter")
                if oid is None or self.found.staged.get(path) == (raw.mode, oid):
                    # Clean against the index: an entry here would only cost the index its stat data.
                    continue
                if oid == raw.oid:
                    self.found.worktree[path] = raw
                else:
                    content = reader.contents([oid])[0]
                    if content is None:
                        raise GitError(["hash-object"], -1, b"a converted file did not arrive")
                    self.found.worktree[path] = Leaf(raw.mode, self.writer.add("blob", content[1]))
        files.remove_tree(place)

    # -- index, operation, sparse checkout

    def _take_index(self, *, hides: bool) -> None:
        """Note which index file it is, and take its bytes where they are few or say what no tree can say.

        A large plain index is not copied: `save` keeps the very file beside, and trees rebuild one that is lost.
        """
        try:
            fd = os.open(self.index_path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            info = os.fstat(fd)
            self.found.index_file = identify_index(fd)
            git_dir = self.repository.git_dir
            split = any(name.startswith(b"sharedindex.") for name in os.listdir(git_dir))
            if not (split or hides or info.st_size <= INDEX_COPIED):
                return
            data = _read_whole(fd, info.st_size)
        finally:
            os.close(fd)
        self.found.index = self.writer.add("blob", data)
        shared = shared_index_name(data, len(self.repository.zero) // 2, git_dir) if split else None
        if shared is not None:
            with open(os.path.join(git_dir, b"sharedindex." + shared.encode("ascii")), "rb") as file:
                self.found.shared_index = (shared, self.writer.add("blob", file.read()))

    def _operation(self) -> None:
        found = self.found
        git_dir = self.repository.git_dir
        found.operation = operation_under_way(git_dir) or ("conflict" if found.stages else None)
        named: set[bytes] = set()
        digits = len(self.repository.zero)
        for path in operation_paths(git_dir):
            data = files.read_limited(os.path.join(git_dir, path), _OPERATION_LIMIT)
            if data is None:
                self._leave_out(b"", f"{os.fsdecode(path)} of the unfinished operation can't be read", lost=True)
                continue
            executable = os.access(os.path.join(git_dir, path), os.X_OK)
            found.operation_files[path] = Leaf(EXECUTABLE if executable else REGULAR, self.writer.add("blob", data))
            named.update(word for word in data.translate(_WORDS).split() if len(word) == digits and b"_" not in word)
        if not refs.refs_are_files(self.repository):
            self._operation_refs()
        oids = [oid.decode("ascii") for oid in sorted(named)]
        for oid, info in zip(oids, self.reader.kinds(oids), strict=True):
            if info is None:
                continue
            if info[0] == "commit":
                found.keep_commits.append(oid)
            elif info[0] == "tree":
                found.keep_others.append(Leaf(0o040000, oid))
            elif info[0] == "blob":
                found.keep_others.append(Leaf(REGULAR, oid))

    def _operation_refs(self) -> None:
        """What git keeps of an unfinished operation in a reftable, where it keeps files else: it stays there."""
        out = self.repository.git.run("for-each-ref", "--include-root-refs", "--format=%(refname)")
        for name in out.decode("utf-8", "replace").splitlines():
            if name in _ROOT_REFS or name.startswith(("refs/bisect/", "refs/rewritten/")):
                self._leave_out(b"", f"{name}: git keeps it in the reftable, and it goes to no other place", lost=False)

    def _sparse(self) -> None:
        for name in ("core.sparsecheckout", "core.sparsecheckoutcone", "index.sparse"):
            value = self.repository.setting(name)
            if value is not None:
                self.found.sparse[name] = value
        data = files.read_limited(os.path.join(self.repository.git_dir, b"info", b"sparse-checkout"), _OPERATION_LIMIT)
        if data is not None and self.repository.is_true("core.sparsecheckout"):
            self.found.sparse_file = self.writer.add("blob", data)

    def _leave_out(self, path: bytes, reason: str, *, lost: bool) -> None:
        if not any(item.path == path and item.reason == reason for item in self.found.left_out[-3:]):
            self.found.left_out.append(LeftOut(path, reason, lost))


def settings_identity(repository: Repository) -> tuple[object, ...]:
    """What changes when someone edits the repository's own settings, exclude or attributes file."""
    places = (
        os.path.join(repository.common_dir, b"config"),
        os.path.join(repository.git_dir, b"config.worktree"),
        os.path.join(repository.common_dir, b"info", b"exclude"),
        os.path.join(repository.common_dir, b"info", b"attributes"),
        os.path.join(repository.git_dir, b"info", b"sparse-checkout"),
    )
    return tuple(file_identity(place) for place in places)


def is_repository(directory: bytes) -> bool:
    """Whether a directory is the worktree of a repository of its own."""
    dot_git = os.path.join(directory, b".git")
    return os.path.isfile(dot_git) or os.path.isfile(os.path.join(dot_git, b"HEAD"))


def _quoted(path: bytes) -> str:
    """A directory as GIT_ALTERNATE_OBJECT_DIRECTORIES wants it: quoted where a colon would split it."""
    return os.fsdecode(quote_c(path) if b":" in path or path.startswith(b'"') else path)


def _read_whole(fd: int, size: int) -> bytes:
    """All of an open file that had `size` bytes; raises ChangedWhileRead where it grew past `LARGE` meanwhile."""
    parts = []
    got = 0
    while data := os.read(fd, max(size - got, 0) + 1):
        parts.append(data)
        got += len(data)
        if got > max(size, LARGE) + LARGE:
            raise ChangedWhileRead
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _file_size(full: bytes) -> int | None:
    """The size of a regular file; None for anything else."""
    try:
        info = os.lstat(full)
    except OSError:
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else None


def same_content(full: bytes, object_format: str, oid: Oid) -> bool:
    try:
        info = os.lstat(full)
        if stat.S_ISLNK(info.st_mode):
            return object_id(object_format, "blob", os.readlink(full)) == oid
        if not stat.S_ISREG(info.st_mode) or info.st_size > LARGE:
            return False
        with open(full, "rb") as file:
            return object_id(object_format, "blob", file.read()) == oid
    except OSError:
        return False


def _special_reason(full: bytes) -> str:
    try:
        mode = os.lstat(full).st_mode
    except OSError:
        return "it is neither a file, a symlink nor a directory"
    kinds: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    name = next((word for matches, word in kinds if matches(mode)), "neither a file, a symlink nor a directory")
    return f"it is {name}: git can't hold one"
