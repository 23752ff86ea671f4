"""The lock of a workspace, and the clean-up after a holder that was killed.

The lock is a flock that its holder and all its children hold. Beside it is a journal of the lock files that a killed
holder may leave. Whoever gets the lock and finds a journal knows that its writer, and all that it started, is gone.
"""

from __future__ import annotations

import os
import stat
import time

from ..format.context import MAX_CONTEXT
from ..format.names import OWN, workspace_id
from ..git import refs
from ..git.command import Git
from ..git.gitdir import is_dead_lock, is_unheld, tables_locks
from ..git.index import file_identity, is_own_lock, link_or_copy, remove_own_lock
from ..git.repository import Repository
from ..system import files
from ..system.clock import Deadline
from ..system.jsonio import text_to_json
from ..system.locks import locked
from ..system.process import is_running
from ..system.stdlib import TYPE_CHECKING, contextmanager, suppress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_JOURNAL = b"journal"


_TABLES_LOCK = b"/reftable/tables.list.lock"
#: How the names of index files begin that saves have kept, and of those that they have left.
_KEPT, _LEFT = b"index.", b"left."


@contextmanager
def locked_workspace(repository: Repository, deadline: Deadline, *, reads: bool = False) -> Iterator[Git]:
    """Lock the workspace against other saves and recoveries, and clean up after one that was killed.

    Yields a Git whose children hold the lock too. Who only `reads` needs no lock on a disk that is mounted read-only.
    Raises TryAgain where another holds it when `deadline` has passed.
    """
    if reads and os.statvfs(repository.git_dir).f_flag & os.ST_RDONLY:
        yield repository.git
        return
    files.make_directory(repository.own, top=repository.git_dir)
    name = text_to_json(os.fsdecode(repository.toplevel))
    with locked(os.path.join(repository.own, b"lock"), deadline, name) as fd:
        clean_up_after_kill(repository)
        try:
            yield Git(repository.toplevel, repository.git.options, fd)
        finally:
            left = _left(repository)
            if left and not os.path.lexists(os.path.join(repository.own, _JOURNAL)):
                _keep_journal(repository, left)
            give_back(repository)


def give_back(repository: Repository, *more: bytes) -> None:
    """Give what root has written in another user's repository, and at the paths `more`, to whom it belongs there."""
    if os.geteuid() == 0 and (more or os.stat(repository.git_dir).st_uid or os.stat(repository.common_dir).st_uid):
        from ..git.damaged.refused import give_back

        give_back(repository.git_dir, repository.common_dir, *more)


def frozen_index(repository: Repository) -> bytes:
    """The hard link to the index that a save reads."""
    return os.path.join(repository.own, b"frozen-index")


def next_index(repository: Repository) -> bytes:
    """The file in which an index is made that replaces git's."""
    return os.path.join(repository.own, b"next-index")


def filling(repository: Repository) -> bytes:
    """What is there while git writes the files of a worktree that was added for a save, and until that is recovered.

    After a kill, or a power cut, a file may be the beginning of one: it is nobody's work.
    """
    return os.path.join(repository.own, b"filling")


def kept_index(repository: Repository, save_id: str) -> bytes:
    """Where the index file that a save exchanged is kept, until `recover` puts it back."""
    return os.path.join(repository.own, _KEPT + save_id.encode("ascii"))


def left_index(repository: Repository, save_id: str, mtime_ns: int) -> bytes:
    """A second name of the index file that a save put in the place of the kept one, which was written at `mtime_ns`."""
    return os.path.join(repository.own, _LEFT + b"%s.%d" % (save_id.encode("ascii"), mtime_ns))


def is_left_index(repository: Repository, save_id: str) -> bool:
    """Whether the index is the file that a save left, as the save wrote it: then nothing was staged since.

    Git puts another file in its place. Others (go-git, isomorphic-git, `cp`) write into it, which changes its mtime.
    """
    there = file_identity(os.path.join(repository.git_dir, b"index"))
    return there is not None and there == file_identity(left_index(repository, save_id, there[1]))


def name_indexes_anew(repository: Repository, old: str, save_id: str) -> None:
    """Give the index files that the save `old` kept and left a further name, for the save that takes its place."""
    kept = kept_index(repository, old)
    if os.path.exists(kept):
        link_or_copy(kept, kept_index(repository, save_id))
    there = file_identity(os.path.join(repository.git_dir, b"index"))
    if there is not None:
        with suppress(OSError):
            os.link(left_index(repository, old, there[1]), left_index(repository, save_id, there[1]))


def kept_indexes(repository: Repository) -> list[bytes]:
    """The index files that saves have kept here."""
    return _indexes_named(repository, _KEPT)


def forget_other_indexes(repository: Repository, save_id: str) -> None:
    """Remove the index files that saves have kept or left here, but those of one save."""
    mine = set(_indexes_of(repository, save_id))
    for path in _indexes_named(repository, _KEPT, _LEFT):
        if path not in mine:
            files.discard(path)


#: How the paths of files begin that are of no more use, and that could not be listed.
_unlisted: set[bytes] = set()


def forget_index(repository: Repository, save_id: str) -> None:
    """Remove the index files that a save kept and left."""
    files.discard(kept_index(repository, save_id))
    _discard_all(left_index(repository, save_id, 0).removesuffix(b"0"))


def _discard_all(beginning: bytes) -> None:
    """`files.discard` all whose path begins so. What can't be listed is in `_unlisted` then."""
    directory, start = os.path.split(beginning)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    except OSError:
        _unlisted.add(beginning)
        return
    for name in names:
        if name.startswith(start):
            files.discard(os.path.join(directory, name))


def _indexes_of(repository: Repository, save_id: str) -> list[bytes]:
    left = _indexes_named(repository, _LEFT + save_id.encode("ascii") + b".")
    return [kept_index(repository, save_id), *left]


def _indexes_named(repository: Repository, *beginnings: bytes) -> list[bytes]:
    try:
        names = os.listdir(repository.own)
    except OSError:
        return []
    return [os.path.join(repository.own, name) for name in names if name.startswith(beginnings)]


def quarantine(repository: Repository) -> bytes:
    """The object directory to which git writes converted files, before they are packed."""
    return os.path.join(repository.own, b"quarantine")


def checkout_staging(repository: Repository) -> bytes:
    """The directory to which git checks out files, each of which is then renamed into the worktree."""
    return os.path.join(repository.own, b"checkout")


def stand_in_git_dir(repository: Repository) -> bytes:
    """The git directory that stands in for one whose HEAD can't be read, while a save is taken."""
    return os.path.join(repository.own, b"stand-in")


def clean_up_after_kill(repository: Repository) -> None:
    """Remove the temporary files and the locks of a holder that was killed, or whose disk did not remove them.

    The caller holds the workspace.
    """
    remove_own_lock(repository.git_dir)
    if not remove_ref_locks(repository):
        return
    for path in (frozen_index(repository), next_index(repository), next_index(repository) + b".lock"):
        files.discard(path)
    for path in (quarantine(repository), checkout_staging(repository), stand_in_git_dir(repository)):
        files.remove_tree(path)
    _remove_temporaries(repository.own)
    from ..objects.pack import sweep_litter

    sweep_litter(repository.objects, workspace_id(repository))
    clear_journal(repository)


def remove_ref_locks(repository: Repository) -> bool:
    """Remove the locks that a killed git left, and that the journal names; False where there is no journal.

    The caller holds the workspace, so that no git that could hold the locks of our own refs runs. A lock that other
    gits take too, as that of the branch, is removed only if it stays for a second.
    """
    data = files.read_limited(os.path.join(repository.own, _JOURNAL), MAX_CONTEXT)
    if data is None:
        return False
    first, *locks = data.split(b"\0")
    if first.isdigit() and len(first) < 20:
        for lock in locks[:-1]:
            _remove_dead_lock(lock, int(first), repository)
    return True


def _remove_dead_lock(path: bytes, begun_ns: int, repository: Repository) -> None:
    if os.path.dirname(path) == repository.own and os.path.basename(path).startswith((_KEPT, _LEFT)):
        # An index that a save kept or left, and that nobody needs any more: see `clear_journal`.
        if path.endswith(b"."):
            _discard_all(path)
        else:
            files.discard(path)
        return
    inside = path.startswith(repository.common_dir + b"/") and path == os.path.normpath(path)
    if not inside or not path.endswith(b".lock"):
        return
    if path.endswith(b"/index.lock"):
        # One of ours is gone, or the disk does not remove it: see `remove_own_lock`.
        return
    seen = None
    for _ in range(20):
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            if refs.refs_are_files(repository):
                raise
            # A journal of an older version names locks of refs that are no files.
            return
        if info.st_mtime_ns < begun_ns - 2_000_000_000 or not stat.S_ISREG(info.st_mode):
            return
        if path.endswith(b"/packed-refs.lock") and info.st_size:
            return
        if path.endswith(_TABLES_LOCK) and not is_unheld(path):
            # It is that of all refs: other worktrees wait for it, too, as long as a hook of theirs runs.
            return
        if seen is not None and seen != info.st_ino:
            return
        if os.fsencode(f"/{OWN}") in path:
            break
        seen = info.st_ino
        time.sleep(0.05)
    files.remove(path)
    if path.endswith(b"/packed-refs.lock"):
        files.remove(path.removesuffix(b"lock") + b"new")


def _remove_temporaries(directory: bytes) -> None:
    for name in os.listdir(directory):
        _, mark, writer = name.rpartition(b".tmp-")
        if (mark and not _is_at_work(writer)) or name.startswith(b"write-"):
            files.discard(os.path.join(directory, name))


def _is_at_work(writer: bytes) -> bool:
    """Whether the process that a temporary file is named after is another one that lives.

    The context of a task, the exclude file and what hooks tell are written while the workspace is somebody else's.
    """
    is_other = writer.isdigit() and len(writer) < 10 and int(writer) != os.getpid()
    return is_other and is_running(int(writer), None, None)


def write_journal(repository: Repository, locks: Sequence[bytes]) -> None:
    """Write down which lock files this process may leave if it is killed: the time in nanoseconds, then their paths,
    each ended by a NUL.

    Of those paths, locks that are provably nobody's are removed.
    """
    for path in locks:
        if is_dead_lock(path):
            with suppress(OSError):
                files.remove(path)
    path = os.path.join(repository.own, _JOURNAL)
    data = b"".join(item + b"\0" for item in (b"%d" % time.time_ns(), *locks))
    # As a rule it is new, or grows: ext4 takes ten times as long to write one that was made empty.
    fd = files.open_own(path, os.O_WRONLY)
    try:
        if os.fstat(fd).st_size > len(data):
            os.ftruncate(fd, 0)
        files.write_all(fd, data)
    finally:
        os.close(fd)


def clear_journal(repository: Repository) -> None:
    """Remove the journal: nothing is left to clean up. Where the disk removed no files, the next holder tries again."""
    left = _left(repository)
    if left or os.path.lexists(quarantine(repository)) or os.path.lexists(checkout_staging(repository)):
        _keep_journal(repository, left)
        return
    with suppress(OSError):
        files.remove(os.path.join(repository.own, _JOURNAL))


def _left(repository: Repository) -> list[bytes]:
    """The temporary files and the lock of ours that are still there after one more try to remove them."""
    lock = remove_own_lock(repository.git_dir)
    again = [path for path in _unlisted if os.path.dirname(path) == repository.own]
    _unlisted.difference_update(again)
    for path in again:
        _discard_all(path)
    unlisted = [path for path in again if path in _unlisted]
    return [*files.unremoved(repository.own, repository.objects), *unlisted, *([] if lock is None else [lock])]


def _keep_journal(repository: Repository, left: Sequence[bytes]) -> None:
    """Let the next holder clean up. The journal names what is left: of what a save kept, nothing else tells."""
    with suppress(OSError):
        write_journal(repository, left)


def left_behind(repository: Repository) -> tuple[str, ...]:
    """What the disk did not remove, as a sentence; the next holder tries again. The caller holds the workspace."""
    if not os.path.lexists(os.path.join(repository.own, _JOURNAL)):
        return ()
    lock = os.path.join(repository.git_dir, b"index.lock")
    if is_own_lock(lock):
        what = f"{os.fsdecode(lock)} could not be removed, and stops git"
        return (f"{what}; once the disk is mended, this removes it: gitstate recover",)
    own = os.fsdecode(repository.own)
    return (f"temporary files in {own} or of its packs could not be removed; a later command of gitstate does it",)


def ref_locks(repository: Repository, names: Sequence[str]) -> list[bytes]:
    """The absolute paths of the locks that transactions over these refs, and an exchange of the index, take."""
    if refs.refs_are_files(repository):
        found = [os.path.join(repository.common_dir, os.fsencode(name)) for name in refs.lock_files(names)]
    else:
        found = tables_locks(repository.git_dir, repository.common_dir)
    return [*found, *(os.path.join(repository.git_dir, name) for name in (b"HEAD.lock", b"index.lock"))]
