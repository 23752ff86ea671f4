"""Walk the worktree for what git does not report: untracked files, empty directories, special files, repositories."""

from __future__ import annotations

import os

from ..errors import GitError
from ..git.repository import git_dir_of
from ..git.status import are_ignored, ignores_index, start_check_ignore
from ..objects.tree import parents_of
from ..system.files import discard, temporary_name
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .read import NEVER, special_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..git.repository import Repository
    from ..system.child import Child
    from ..system.clock import Deadline
    from .record import SnapshotBuilder


#: A directory with more untracked files than this was filled by a program; they come after all other small ones.
CROWD = 200
#: Under a deadline paths are sorted for this part of the time in which git is asked about them.
_SORTED = 0.7
#: So many directories are looked into whatever the deadline: it takes no time.
_IN_ANY_CASE = 64
NOT_ASKED = "the deadline passed before git was asked whether it is ignored"
NOT_LISTED = "the deadline passed before this directory was looked into"
#: Repositories in ignored directories are looked for so far down, in so many directories; one with more directories
#: than `_CROWD_IGNORED`, or more names than `_NAMES_IGNORED`, was filled by a program.
_DEPTH_IGNORED, _MOST_IGNORED, _CROWD_IGNORED, _NAMES_IGNORED = 3, 400, 100, 2_000
#: The `st_mode` of a directory with usual permissions.
_USUAL_DIRECTORY = 0o040755


class WalkResult(Record):
    """What the walk met and the index does not explain. Paths are relative to the top."""

    untracked: list[bytes]
    """Untracked files and symlinks, ignored or not. A directory without tracked files ends in a slash."""
    special: list[bytes]
    """Untracked FIFOs, sockets and devices."""
    replaced: list[bytes]
    """Directories that the index has as a file, or as a submodule."""


def walk(builder: SnapshotBuilder, start: Iterable[bytes], deadline: Deadline = NEVER) -> WalkResult:
    """Walk the directories in `start` (absolute paths) as far down as files are tracked, until the deadline.

    Fills `directories`, `modes`, `nested` and `left_out` of the snapshot.
    """
    found = WalkResult([], [], [])
    stack, looked = list(start), 0
    cut = len(builder.top) + 1
    while stack:
        looked += 1
        if looked > _IN_ANY_CASE and deadline.passed():
            builder.skip_late([directory[cut:] for directory in stack], NOT_LISTED)
            break
        directory = stack.pop()
        try:
            with os.scandir(directory) as entries:
                is_empty = sort_entries(builder, entries, found, stack)
            if is_empty and directory != builder.top:
                path = directory[cut:]
                builder.snapshot.directories[path] = builder.permissions(path, os.lstat(directory).st_mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            builder.skip(directory[cut:], f"unreadable directory: {error.strerror}", lost=True)
    return found


def add_touched(builder: SnapshotBuilder, untracked: list[bytes]) -> None:
    """Not all directories were looked into: add the untracked files in them that the caller knows of."""
    late = set(builder.unread)
    for path in builder.options.touched - builder.tracked.paths - set(untracked):
        above = list(parents_of(path))
        full = os.path.join(builder.top, path)
        if late.isdisjoint(above) or path == builder.options.state_file or not builder.is_reached(above[0]):
            continue
        if (os.path.isfile(full) or os.path.islink(full)) and not any(
            directory in builder.own_git_dirs or os.path.lexists(os.path.join(builder.top, directory, b".git"))
            for directory in above
        ):
            untracked.append(path)


def sort_entries(
    builder: SnapshotBuilder, entries: Iterable[os.DirEntry[bytes]], found: WalkResult, stack: list[bytes]
) -> bool:
    """Sort the entries of one directory into `found` and the snapshot, directories to walk next onto `stack`.

    Returns whether there are no entries.
    """
    tracked, snapshot = builder.tracked, builder.snapshot
    paths, checks_modes = tracked.paths, tracked.are_few
    usual = (0o644, 0o755) if builder.filemode else ()
    cut = len(builder.top) + 1
    is_empty = True
    for entry in entries:
        is_empty = False
        path = entry.path[cut:]
        try:
            if entry.is_dir(follow_symlinks=False):
                if tracked.has_below(path):
                    stack.append(entry.path)
                    if checks_modes:
                        _note_mode(builder, path, entry.stat(follow_symlinks=False).st_mode)
                elif path in paths:
                    found.replaced.append(path)
                    if checks_modes:
                        _note_mode(builder, path, entry.stat(follow_symlinks=False).st_mode)
                elif path in builder.own_git_dirs:
                    continue
                elif entry.name == b".git":
                    _note_dot_git(builder, path)
                else:
                    found.untracked.append(path + b"/")
            elif path in paths:
                if checks_modes and entry.is_file(follow_symlinks=False):
                    mode = builder.permissions(path, entry.stat(follow_symlinks=False).st_mode)
                    if mode not in usual:
                        snapshot.modes[path] = mode
            elif entry.name == b".git":
                _note_dot_git(builder, path)
            elif path == builder.options.state_file:
                continue
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                found.untracked.append(path)
            else:
                found.special.append(path)
        except FileNotFoundError:
            # Deleted since the directory was listed: the other entries are still there.
            continue
    return is_empty


def start_asking(builder: SnapshotBuilder, found: WalkResult) -> Child | None:
    """Start the git that `without_ignored` asks; None where it asks nothing. `end_asking` ends it."""
    if not found.untracked and not found.special:
        return None
    repository = builder.repository
    if builder.left_out_ignores:
        with suppress(GitError):
            env = ignores_index(repository, builder.left_out_ignores, builder.env, _own_index(builder))
            return start_check_ignore(repository, env, reads_index=True)
    # Git answers nothing on a file in the place of a submodule that the index has.
    no_index = {"GIT_INDEX_FILE": os.fsdecode(os.path.join(repository.own, b"no-index"))}
    return start_check_ignore(repository, no_index if builder.in_submodules else builder.env)


def end_asking(builder: SnapshotBuilder, asking: Child | None) -> None:
    """End what `start_asking` has started."""
    if asking is not None:
        asking.communicate()
    if builder.left_out_ignores:
        discard(_own_index(builder))


def _own_index(builder: SnapshotBuilder) -> bytes:
    return temporary_name(os.path.join(builder.repository.own, b"ignores-index"))


def without_ignored(
    builder: SnapshotBuilder,
    found: WalkResult,
    meanwhile: Callable[[], None] = lambda: None,
    deadline: Deadline = NEVER,
    query: Child | None = None,
) -> tuple[list[bytes], list[bytes]]:
    """Untracked files that are not ignored, and ignored paths. Directories are opened level by level.

    What is not reached before the deadline is skipped; a file of it may be one that git ignores.

    `query` is what `start_asking` gave for `found`, where the caller had something else to do meanwhile. `meanwhile` is
    called while git starts. Fills `directories`, `nested` and `left_out` of the snapshot.
    """
    plain: list[bytes] = []
    ignored: list[bytes] = []
    opened: dict[bytes, int] = {}
    level = [*found.untracked, *found.special]
    special = set(found.special)
    query = query or start_asking(builder, found)
    try:
        meanwhile()
        while query is not None and level:
            level = _most_precious_first(builder, level, deadline)
            inside: list[bytes] = []
            answers = are_ignored(query, level, deadline)
            builder.skip_late(level[len(answers) :], NOT_ASKED)
            late: list[bytes] = []
            for path, is_ignored in zip(level, answers, strict=False):
                if is_ignored:
                    ignored.append(path)
                elif path in special:
                    builder.skip(path, special_reason(os.path.join(builder.top, path)), lost=False)
                elif not path.endswith(b"/"):
                    plain.append(path)
                elif len(opened) > _IN_ANY_CASE and deadline.passed():
                    late.append(path[:-1])
                else:
                    _open_untracked(builder, path[:-1], inside, special, opened)
            builder.skip_late(late, NOT_LISTED)
            level = inside
    finally:
        end_asking(builder, query)
    full = _directories_above(plain)
    for path, mode in opened.items():
        if path not in full or mode != 0o755:
            builder.snapshot.directories[path] = mode
    return plain, ignored


def _most_precious_first(builder: SnapshotBuilder, paths: list[bytes], deadline: Deadline) -> list[bytes]:
    """The paths in the order in which git is asked about them: not all may be asked before the deadline.

    Those in directories with few of them come first: a directory with very many was filled by a program. Of the very
    many the newest come first.
    """
    if deadline.seconds is None or len(paths) <= CROWD:
        return paths
    inside: dict[bytes, list[bytes]] = {}
    for path in paths:
        inside.setdefault(path.removesuffix(b"/").rpartition(b"/")[0], []).append(path)
    end = deadline.part(_SORTED)
    sorted_ones = (
        below if len(below) <= CROWD else _newest_first(builder, below, end)
        for below in sorted(inside.values(), key=len)
    )
    return [path for below in sorted_ones for path in below]


def _newest_first(builder: SnapshotBuilder, paths: list[bytes], deadline: Deadline) -> list[bytes]:
    """The paths sorted by their times; those that are not looked at before the deadline come last."""
    times: dict[bytes, int] = {}
    for number, path in enumerate(paths):
        if number % 256 == 0 and deadline.passed():
            break
        with suppress(OSError):
            times[path] = os.lstat(os.path.join(builder.top, path)).st_mtime_ns
    return sorted(paths, key=lambda path: -times.get(path, 0))


def _note_mode(builder: SnapshotBuilder, path: bytes, mode: int) -> None:
    """Note the permissions of a directory that is not empty, where they are not the usual ones; `mode`: `st_mode`."""
    if mode != _USUAL_DIRECTORY:
        builder.snapshot.directories[path] = builder.permissions(path, mode)


def _open_untracked(
    builder: SnapshotBuilder, path: bytes, below: list[bytes], special: set[bytes], opened: dict[bytes, int]
) -> None:
    """Add the entries of an untracked directory to `below` and `special`, and its permissions to `opened`."""
    full = os.path.join(builder.top, path)
    cut = len(builder.top) + 1
    try:
        if is_nested(builder.repository, full):
            builder.snapshot.nested.append(path)
            _note_mode(builder, path, os.lstat(full).st_mode)
            return
        opened[path] = builder.permissions(path, os.lstat(full).st_mode)
        with os.scandir(full) as entries:
            for entry in entries:
                name = entry.path[cut:]
                if entry.name == b".git":
                    _note_dot_git(builder, name)
                elif name == builder.options.state_file or name in builder.own_git_dirs:
                    continue
                elif entry.is_dir(follow_symlinks=False):
                    below.append(name + b"/")
                else:
                    below.append(name)
                    if not (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                        special.add(name)
    except FileNotFoundError:
        return
    except OSError as error:
        builder.skip(path, f"unreadable directory: {error.strerror}", lost=True)


def _note_dot_git(builder: SnapshotBuilder, path: bytes) -> None:
    """An entry named `.git` below the top: its directory is a repository, or git refuses the path."""
    directory = path.rpartition(b"/")[0]
    if not directory:
        return
    if is_nested(builder.repository, os.path.join(builder.top, directory)):
        builder.snapshot.nested.append(directory)
    else:
        builder.skip(path, "git refuses any path named .git", lost=True)


def _directories_above(paths: Iterable[bytes]) -> set[bytes]:
    """Every directory that holds one of `paths`, at any depth."""
    above: set[bytes] = set()
    for path in paths:
        while path := path.rpartition(b"/")[0]:
            if path in above:
                break
            above.add(path)
    return above


def is_nested(repository: Repository, directory: bytes, *, linked: bool = False) -> bool:
    """Whether a directory (its absolute path) is the worktree of another repository, or another worktree of this one.

    What leads back to the git directory of `repository` is none. A stale `.git` makes none either, unless the index
    has the directory as a submodule (`linked`): then git looks at no file in it.
    """
    if not os.path.lexists(os.path.join(directory, b".git")):
        return False
    git_dir = git_dir_of(directory)
    if git_dir is None:
        return linked
    return git_dir not in map(os.path.realpath, (repository.git_dir, repository.common_dir))


def ignored_repositories(repository: Repository, ignored: Iterable[bytes]) -> list[bytes]:
    """The repositories in ignored directories, or that are such, near the top of them; not the worktrees of this one.

    `ignored` are paths as the snapshot lists them. No process is started, and the number of looks is limited.
    """
    level = [path[:-1] for path in ignored if path.endswith(b"/")]
    found: list[bytes] = []
    linked = os.path.join(os.path.realpath(repository.common_dir), b"worktrees", b"")
    looks = 0
    for _ in range(_DEPTH_IGNORED):
        below: list[bytes] = []
        for path in level[: max(0, _MOST_IGNORED - looks)]:
            looks += 1
            directory = os.path.join(repository.toplevel, path)
            names = _names_ignored(directory)
            if b".git" not in names:
                below += [os.path.join(path, name) for name in names]
            elif is_nested(repository, directory) and not (git_dir_of(directory) or b"").startswith(linked):
                found.append(path)
        level = below
    return found


def _names_ignored(directory: bytes) -> list[bytes]:
    """The directories in an ignored one, none where it is crowded; `.git` alone of a repository, whatever that is."""
    names: list[bytes] = []
    if os.path.lexists(os.path.join(directory, b".git")):
        return [b".git"]
    with suppress(OSError), os.scandir(directory) as entries:
        for number, entry in enumerate(entries):
            if number > _NAMES_IGNORED or len(names) > _CROWD_IGNORED:
                return []
            if entry.is_dir(follow_symlinks=False):
                names.append(entry.name)
    return sorted(names)
