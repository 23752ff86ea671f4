"""Which tracked files on disk differ from an index file: few are looked at here, many by git."""

from __future__ import annotations

import os
import stat

from ..errors import GitError
from ..system.stdlib import TYPE_CHECKING, Record
from .command import object_id
from .index import file_identity, read_plain_index

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ..system.child import Child
    from .repository import Repository

#: By an index of fewer bytes, some 20,000 files, one thread of git's looks at all files before the caller needs it.
_FEW = 2 << 20
_ONE_THREAD = ("-c", "core.preloadIndex=false")


class Differing(Record):
    """How the tracked files on disk differ from an index in which nothing is hidden from git."""

    deleted: list[bytes]
    """Nothing is there."""
    modified: list[bytes]
    """Other bytes may be there, or something else than a file: size, times or type are not those that git noted."""


class WorktreeScan:
    """Looks at all tracked files by one index file: at a few at once, at many by a git beside the caller."""

    def __init__(self, repository: Repository, index: bytes, *, is_plain: bool | None = False) -> None:
        """`is_plain`: it is known that the index hides nothing from git; None: `learn` will tell."""
        self._repository = repository
        self.index = index
        self._is_plain = is_plain
        self._children: list[Child] = []
        self._found: Differing | None = None
        self._is_read = False
        known = file_identity(index)
        #: The entries of a small ordinary index: see `read_plain_index`.
        self.entries = read_plain_index(index, len(repository.zero) // 2)
        #: What may differ; None where git was asked.
        self._suspects = None
        if self.entries is not None and known is not None:
            self._suspects = _suspects(repository, self.entries, known[1])
        if self._suspects is None:
            self._start()

    def _start(self) -> None:
        repository, index = self._repository, self.index
        env = {"GIT_INDEX_FILE": os.fsdecode(index)}
        words = ("diff-files", "-z", "--raw", "--no-renames", "--ignore-submodules=dirty")
        # Twenty threads of git's would keep the caller, and every git that it starts, from the processors.
        known = file_identity(index)
        threads = _ONE_THREAD if known is not None and known[0] < _FEW else ()
        self._children.append(repository.git.start(*threads, *words, env={**env, **repository.filter_env()}))
        if self._is_plain is not None:
            self.learn(self._is_plain)

    def learn(self, is_plain: bool) -> None:
        """Whether it is known that the index hides nothing from git. What hides files is looked for else."""
        self._is_plain = is_plain
        if self._children and not is_plain and self.entries is None:
            env = {"GIT_INDEX_FILE": os.fsdecode(self.index)}
            self._children.append(self._repository.git.start("ls-files", "-z", "-v", "--sparse", env=env))

    def finish(self) -> Differing | None:
        """What git found; None where it failed, or something is hidden from it: then it has to be asked otherwise."""
        if not self._is_read:
            self._is_read = True
            if not self._children:
                self._start()
            differing, *listing = self._children
            finish = self._repository.git.finish
            try:
                hides = any(_hides(finish(child)) for child in listing)
                fields = finish(differing, timeout=self._repository.filter_limit).split(b"\0")
            except GitError:
                self.end()
                return None
            if not hides:
                found = list(zip(fields[0::2], fields[1::2], strict=False))
                deleted = [path for head, path in found if head.endswith(b"D")]
                # Git also calls a file deleted where a directory stands, or behind a symlink.
                gone = [path for path in deleted if not os.path.lexists(os.path.join(self._repository.toplevel, path))]
                replaced = set(deleted).difference(gone)
                changed = [path for head, path in found if head.endswith((b"M", b"T")) or path in replaced]
                self._found = Differing(gone, changed)
        return self._found

    def proves_only(self, paths: Collection[bytes]) -> bool:
        """Whether all files but `paths` are provably as they were when the index was written, whatever filters do."""
        return self._suspects is not None and not self._is_read and self._suspects <= {*paths}

    def shows_only(self, paths: Collection[bytes]) -> bool:
        """Whether nothing but `paths` differs from the index, as far as anybody was able to look."""
        if self.proves_only(paths):
            return True
        found = self.finish()
        return found is not None and all(path in paths for path in (*found.deleted, *found.modified))

    def modifies_only(self, paths: Collection[bytes]) -> bool:
        """The same, but for files that are gone."""
        if self.proves_only(paths):
            return True
        found = self.finish()
        return found is not None and all(path in paths for path in found.modified)

    def end(self) -> None:
        """Nobody reads the answer any more."""
        for child in self._children:
            child.end()


#: A submodule has a HEAD of its own to look at.
_GITLINK = (0o160000).to_bytes(4, "big")


def _suspects(repository: Repository, entries: Mapping[bytes, bytes], written_ns: int) -> set[bytes] | None:
    """The files that are not provably as an index knows them, which was written at `written_ns`; None: ask git.

    Proven: all stat data but the device are the same, in nanoseconds, and older than the index, in seconds. Git asks
    for less, so it would call such a file unchanged.
    """
    top = os.path.join(repository.toplevel, b"")
    empty = bytes.fromhex(object_id(repository.object_format, "blob", b""))
    real: dict[bytes, bool] = {b"": True}
    number = int.from_bytes
    suspects = set()
    for path, entry in entries.items():
        if entry[24:28] == _GITLINK:
            return None
        directory = path.rpartition(b"/")[0]
        if directory not in real:
            _look_at_directories(top, directory, real)
        try:
            info = os.lstat(top + path) if real[directory] else None
        except OSError:
            info = None
        if (
            info is None
            or number(entry[8:12], "big") >= written_ns // 1_000_000_000
            or number(entry[:4], "big") * 1_000_000_000 + number(entry[4:8], "big") != info.st_ctime_ns
            or number(entry[8:12], "big") * 1_000_000_000 + number(entry[12:16], "big") != info.st_mtime_ns
            or number(entry[20:24], "big") != info.st_ino & 0xFFFFFFFF
            or number(entry[24:28], "big") != _mode_in_index(info.st_mode)
            or number(entry[28:32], "big") != info.st_uid
            or number(entry[32:36], "big") != info.st_gid
            or number(entry[36:40], "big") != info.st_size
            # Git notes this size of a file that it will look into.
            or (not info.st_size and entry[40:] != empty)
        ):
            suspects.add(path)
    return suspects


def _mode_in_index(mode: int) -> int:
    """What an index notes of `st_mode`; that itself where it notes no such thing."""
    if stat.S_ISREG(mode):
        return 0o100755 if mode & 0o100 else 0o100644
    return 0o120000 if stat.S_ISLNK(mode) else mode


def _look_at_directories(top: bytes, directory: bytes, real: dict[bytes, bool]) -> None:
    """Note for a directory, and those above it, whether it is one and reached through no symlink."""
    above = directory.rpartition(b"/")[0]
    if above not in real:
        _look_at_directories(top, above, real)
    try:
        real[directory] = real[above] and stat.S_ISDIR(os.lstat(top + directory).st_mode)
    except OSError:
        real[directory] = False


def _hides(out: bytes) -> bool:
    """Whether what `git ls-files -z -v --sparse` printed names a file that git was told not to look at."""
    from .status import parse_listing

    return bool(parse_listing(out).hidden)
