"""Git checks out files of an index, and converts them: line ends, encodings, filters. A filter may fail, or take long.

So are files written of which only what git stores is known, and not what was on the disk.
"""

from __future__ import annotations

import os

from ..errors import GitError
from ..format.manifest import LeftOut
from ..git.attributes import Conversions
from ..git.command import try_in_halves
from ..git.entries import IndexEntry, list_index
from ..git.index import link_or_copy
from ..git.repository import lacked_files
from ..objects.tree import GITLINK, SYMLINK
from ..system import files
from ..system.child import OutOfTime
from ..system.process import limit_memory
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from ..workspace.ownership import checkout_staging
from .saved_index import removal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..git.command import Git
    from ..git.repository import Repository
    from ..system.child import Child
    from .choices import Outcome, Target
    from .paths import Workspace


class Checkout:
    """Git writes files of the index. One whose filter fails, or takes too long, is written without it."""

    def __init__(self, repository: Repository, git: Git, prefix: bytes, env: Mapping[str, str] | None = None) -> None:
        """`prefix` is what each path is appended to: a directory with its slash, or empty for the worktree itself.

        `env` is added to the environment of the git that writes, as which index to use.
        """
        self._repository = repository
        self._git = git
        self._prefix = prefix
        self._env = env
        self._conversions = Conversions(repository, {})
        self._failed: list[LeftOut] = []

    def write(self, paths: Sequence[bytes]) -> list[LeftOut]:
        """Write them, those that are there excepted; returns the files that were written without their filter, or that
        this partial clone lacks.
        """
        self._write_filtered(self._unwritten(paths))
        for portion, done in try_in_halves(self._held(self._unwritten(paths)), self._written):
            if done is None:
                self._write_bare(portion, "its filter failed")
        return self._failed

    def _held(self, paths: Sequence[bytes]) -> list[bytes]:
        """Those of the paths whose file is in this clone; the others are noted."""
        repository = self._repository
        if not paths or not repository.promisors():
            return list(paths)
        entries = list_index(self._git, paths, env=self._env)
        lacked = lacked_files(repository, {entry.path: entry.oid for entry in entries if entry.mode != GITLINK})
        self._failed += [LeftOut(path, lacks(repository, path), True) for path in sorted(lacked)]
        return [path for path in paths if path not in lacked]

    def _written(self, paths: Sequence[bytes]) -> bool | None:
        """Whether git has written all of these; None where it stopped at one."""
        left = self._unwritten(paths)
        if left:
            self._write_filtered(left)
        return None if self._unwritten(left) else True

    def _write_filtered(self, paths: Sequence[bytes]) -> None:
        """Let git write until a filter fails. A filter that takes too long for one file runs for no other."""
        left = list(paths)
        while left and self._takes_too_long(left):
            filters = self._filters_of(left)
            # Git works in the order of its input: it was at the first that is not there, or not yet done with the last.
            there = next((number for number, path in enumerate(left) if not self._is_there(path)), len(left))
            at_work = left[max(0, there - 1) : there + 1]
            unfiltered = [path for path in at_work if path not in filters]
            if unfiltered:
                for path in unfiltered:
                    files.remove(os.path.join(self._repository.toplevel, self._prefix + path))
                unfiltered += [path for path in self._unwritten(left) if path not in filters and path not in at_work]
                self._finish(self._start(unfiltered), unfiltered)
                left = [path for path in self._unwritten(left) if path in filters]
                continue
            left = self._unwritten(left)
            late = [path for path in left if filters.get(path) == filters.get(left[0])]
            limit = self._repository.filter_limit
            self._write_bare(late, f"its filter took longer than {limit:g} s (gitstate.filterTimeout)")
            left = self._unwritten(left)

    def _filters_of(self, paths: list[bytes]) -> dict[bytes, bytes]:
        """The filter of each path, by the attributes of the index and, where they name none, by those on disk."""
        return {**self._conversions.filters_of(paths), **self._conversions.filters_of(paths, cached=True)}

    def _write_bare(self, paths: Sequence[bytes], why: str) -> None:
        said = self._finish(self._start(paths, *self._repository.filters_off()), paths)
        top = quote(os.fsdecode(self._repository.toplevel))
        for path in paths:
            if not self._is_there(path):
                words = said.decode("utf-8", "replace").strip().splitlines()
                self._failed.append(
                    LeftOut(path, f"git could not write it: {words[-1] if words else why}"[:1000], True)
                )
                continue
            name = quote(os.fsdecode(path))
            full = quote(os.path.join(os.fsdecode(self._repository.toplevel), os.fsdecode(path)))
            command = f"rm -f {full} && git -C {top} checkout -- {name}"
            self._failed.append(LeftOut(path, f"{why}; written without the filter; when it works: {command}", False))

    def _unwritten(self, paths: Sequence[bytes]) -> list[bytes]:
        return [path for path in paths if not self._is_there(path)]

    def _is_there(self, path: bytes) -> bool:
        return os.path.lexists(os.path.join(self._repository.toplevel, self._prefix + path))

    def _size(self, path: bytes) -> int:
        with suppress(OSError):
            return os.lstat(os.path.join(self._repository.toplevel, self._prefix + path)).st_size
        return 0

    def _takes_too_long(self, paths: Sequence[bytes]) -> bool:
        """Whether git was ended because a filter took too long, or too much memory, for the first that is not there."""
        process = self._start(paths, *self._conversions.writing_filters_required())
        limit = self._repository.filter_limit
        if limit is not None:
            limit_memory(process.pid)
        reached = 0

        def progress() -> tuple[int, int]:
            nonlocal reached
            while reached < len(paths) and self._is_there(paths[reached]):
                reached += 1
            return reached, self._size(paths[reached - 1]) if reached else 0

        try:
            said = self._finish(process, paths, limit, progress)
        except OutOfTime:
            process.kill_all()
            process.wait()
            return True
        return limit is not None and b"ut of memory" in said and bool(self._unwritten(paths))

    def _finish(
        self,
        process: Child,
        paths: Sequence[bytes],
        idle: float | None = None,
        progress: Callable[[], object] | None = None,
    ) -> bytes:
        """Wait until git has written the paths, none of which was there; returns what it said. Raises OutOfTime.

        Raises GitError where it could not bring all of a file to the disk, or was killed: it leaves what it has
        written of that file, and nothing tells that from a whole one. Then none of them is there; nor is one where git
        ended by itself, but for a filter that failed.
        """
        _, said = process.communicate(_joined(paths), idle=idle, progress=progress)
        status = process.wait()
        # Of a path that it does not write, as one that is unmerged, it says nothing either; but that one is not there.
        is_silent = not said.strip() and not self._unwritten(paths)
        # Before a filter it has not yet made the file; at a blob that a partial clone lacks it has.
        has_died = status == 128 and any(b" filter " not in line for line in _last_words(said))
        is_cut = status < 0 or (status == 1 and (is_silent or any(words in said for words in _NOT_WRITTEN)))
        if is_cut or has_died:
            for path in paths:
                files.remove(os.path.join(self._repository.toplevel, self._prefix + path))
        if is_cut:
            hint = f"df {quote(os.fsdecode(self._repository.toplevel))}; once it can be written: gitstate recover"
            raise GitError(["checkout-index"], status, said or b"it could not write", hint=hint)
        return said

    def _start(self, paths: Sequence[bytes], *options: str) -> Child:
        place = [b"--prefix=" + self._prefix] if self._prefix else []
        return self._git.start(*options, *_CHECKOUT, *place, env=self._env)


#: What git says of a file that it has written in part: in one process, and in one of several (`checkout.workers`).
_NOT_WRITTEN = (b"unable to write file", b"failed to write")
_CHECKOUT = ("checkout-index", "-q", "-z", "--ignore-skip-worktree-bits", "--stdin")


def _last_words(said: bytes) -> list[bytes]:
    """Why git ended by itself."""
    return [line for line in said.splitlines() if line.startswith(b"fatal: ")]


def lacks(repository: Repository, path: bytes) -> str:
    """The reason why a file that a partial clone lacks was not written."""
    top, name = quote(os.fsdecode(repository.toplevel)), quote(os.fsdecode(path))
    return f"this partial clone lacks it; to fetch it: git -C {top} checkout -- {name}"


def _joined(paths: Iterable[bytes]) -> bytes:
    return b"".join(path + b"\0" for path in paths)


def check_out_all(repository: Repository) -> list[LeftOut]:
    """Let git write all files of the index that are not there; returns those that were written without their filter."""
    entries = list_index(repository.git, tags=True)
    paths = [entry.path for entry in entries if entry.mode != GITLINK and entry.tag not in ("S", "s")]
    return Checkout(repository, repository.git, b"").write(list(dict.fromkeys(paths)))


def check_out_stored(workspace: Workspace, targets: Sequence[Target], outcome: Outcome) -> dict[bytes, bytes]:
    """Let git write those of the targets that it converts beside; path → where its file is, or should be.

    What was written without its filter is noted in `outcome`. Raises GitError where the disk takes nothing.
    """
    leaves = {
        target.path: target.saved
        for target in targets
        if target.is_as_stored and target.saved is not None and target.saved.mode not in (GITLINK, SYMLINK)
    }
    if not leaves:
        return {}
    repository = workspace.repository
    converting = Conversions(repository, {}).converting_attributes(list(leaves))
    if not converting:
        return {}
    staging = checkout_staging(repository)
    files.remove_tree(staging)
    os.makedirs(staging)
    # Attributes that are not on the disk come from the index: it is that of the workspace, but for these files.
    index, current = os.path.join(staging, b"index"), os.path.join(repository.git_dir, b"index")
    env = {"GIT_INDEX_FILE": os.fsdecode(index)}
    if os.path.exists(current):
        link_or_copy(current, index)
    lines = [removal(repository, path) for path in converting]
    lines += [IndexEntry(path, leaves[path].mode, leaves[path].oid).info_line() for path in converting]
    argv = ("-c", "core.splitIndex=false", "update-index", "-z", "--index-info")
    workspace.git.run(*argv, input=b"".join(lines), env=env)
    place = os.path.join(staging, b"files", b"")
    outcome.failed += Checkout(repository, workspace.git, place, env).write(list(converting))
    return {path: place + path for path in converting}
