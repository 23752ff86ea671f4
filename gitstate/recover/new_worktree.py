"""A new worktree for a save whose own is gone (`recover --into`, `--worktrees`).

One gitstate at a time adds worktrees to a repository. Whatever is broken off is completed, or taken back, by the next:

| a kill, or a power cut | leaves | who recovers next |
|---|---|---|
| in `git worktree add` | a git directory with which git can list no worktree, and a note of ours | removes it |
| before `git read-tree` | a worktree without files | goes on with it |
| in `git read-tree`, and until its files are on the disk | some files are cut, and `filling` | writes all anew |
"""

from __future__ import annotations

import os

from ..errors import NeedsPerson, TryAgain, UsageError
from ..format.archive import is_dismissed, pending_archive, read_stack
from ..format.manifest import Save
from ..git import gitdir, refs
from ..git.command import Git, split_nul
from ..git.entries import list_tree_paths
from ..git.opening import open_repository
from ..git.refs import RefUpdate
from ..git.repository import LACKED, Repository, git_dir_of, head_of, read_head
from ..objects.durable import bring_files_to_disk
from ..objects.reader import ObjectReader
from ..restore.files import usual_umask
from ..system import files
from ..system.child import OutOfTime
from ..system.clock import Deadline
from ..system.locks import locked
from ..system.process import limit_memory
from ..system.stdlib import TYPE_CHECKING, Record, contextmanager, quote, signal, suppress
from ..workspace.files import Worktree
from ..workspace.live_context import read_live_context
from ..workspace.ownership import filling
from ..workspace.settings import with_filter_limit
from .elsewhere import stack_of
from .facts import orphans

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .request import RecoverRequest


#: No path is longer.
_LONGEST_PATH = 8192


def only_orphan(repository: Repository) -> str:
    """The id of the one pending save that has no worktree, or is pending here. Raises NeedsPerson for none or many."""
    with ObjectReader(repository.git) as reader:
        save_ids = [stack[0].manifest.save_id for _, _, stack in orphans(repository, reader)]
        archive = pending_archive(repository)
        if archive is not None:
            save_ids.append(read_stack(archive, reader)[0].manifest.save_id)
    if not save_ids:
        raise NeedsPerson("no pending save without a workspace", hint="gitstate log --all")
    if len(save_ids) > 1:
        listed = ", ".join(sorted(save_ids))
        raise NeedsPerson(f"several saves are pending: {listed}", hint="gitstate recover --into PATH --save ID")
    return save_ids[0]


def refuse_used_place(repository: Repository, path: bytes, newest: Save) -> None:
    """Raises UsageError where a worktree can't be made at `path`, because something is there."""
    is_free = not os.path.lexists(path) or (os.path.isdir(path) and not os.listdir(path))
    if not is_free and not is_begun(repository, path, newest):
        raise UsageError(f"{os.fsdecode(path)} exists and is not empty", hint="gitstate recover --into ANOTHER-PATH")


@contextmanager
def adding_worktrees(repository: Repository, wait: float) -> Iterator[Repository]:
    """Be the only gitstate that adds a worktree to this repository; yields it with a git that holds the lock as well.

    Two `git worktree add` at once break each other, and a save must not come back twice. Raises TryAgain after `wait`
    seconds.
    """
    path = os.path.join(repository.common_dir, b"gitstate", b"worktrees-turn")
    files.make_directory(os.path.dirname(path), top=repository.common_dir)
    with locked(path, Deadline(wait), "the worktrees of this repository") as fd:
        _remove_half_made(repository)
        try:
            yield repository._replace(git=Git(repository.toplevel, repository.git.options, fd))
        finally:
            _remove_half_made(repository)


def remove_half_made(repository: Repository) -> None:
    """Remove what a killed `git worktree add` of ours has left: git can't list any worktree of the repository with it.

    Where another gitstate adds one at this moment nothing is removed.
    """
    if os.path.lexists(_being_added(repository)):
        with suppress(TryAgain), adding_worktrees(repository, 0.0):
            pass


def _being_added(repository: Repository) -> bytes:
    """The file that has the path of the worktree that is being added."""
    return os.path.join(repository.common_dir, b"gitstate", b"worktree-added")


def _remove_half_made(repository: Repository) -> None:
    """As `remove_half_made`, for who holds the lock: no git of its last holder is left."""
    note = _being_added(repository)
    path = files.read_limited(note, _LONGEST_PATH)
    if path is None:
        return
    dot_git = os.path.join(path, b".git")
    with suppress(FileNotFoundError, PermissionError):
        if os.path.isdir(path) and os.listdir(path) not in ([], [b".git"]):
            # Somebody has begun to work there.
            files.remove(note)
            return
        leads_to = git_dir_of(path)
        if os.path.isfile(dot_git) and (leads_to is None or is_of(repository, leads_to)):
            files.remove(dot_git)
        for entry in os.scandir(os.path.join(repository.common_dir, b"worktrees")):
            file = os.path.join(entry.path, b"gitdir")
            of = gitdir.path_named_in(file, b"", entry.path)
            # An older one may be of a worktree that is mounted again. After a power cut any file may be empty.
            made = os.stat(entry.path).st_ctime_ns if of is None else os.stat(file).st_mtime_ns
            if of in (None, dot_git) and made >= os.stat(note).st_mtime_ns:
                files.remove_tree(entry.path)
    files.remove(note)


def add_worktree(repository: Repository, path: bytes, newest: Save, *, is_own: bool) -> None:
    """A new worktree without files at `path`, on the branch of a save; or one whose making was broken off here.

    Where the save `is_own`, and was not fetched, the worktree has the settings that were of the old one alone: they
    decide how git writes files. It is sparse as that was; else as the one in which git adds it.

    Raises NeedsPerson where the save's branch is checked out in a worktree that exists, or the save has no commit. A
    save that was set aside, or dismissed, goes beside that worktree: HEAD is detached at its base.
    """
    manifest = newest.manifest
    save_id = manifest.save_id
    aside = is_dismissed(repository, save_id)
    there, begun = _existing(path), is_begun(repository, path, newest)
    if not aside and not begun:
        _refuse_second_checkout(repository, manifest.head_ref, save_id)
    commit = newest.wip if manifest.moves_branch and not aside else manifest.head
    is_unborn = commit is None and not aside and _is_new_branch(repository, manifest.head_ref)
    # Git adds no worktree without a commit.
    commit = newest.wip if is_unborn else commit
    if commit is None:
        raise NeedsPerson("the save stands on no commit", hint=f"gitstate restore {save_id} PATH…")
    branch = manifest.head_ref
    if branch is None or not branch.startswith("refs/heads/") or aside:
        branch = None
    elif not is_unborn:
        tip = refs.read_refs(repository, [branch]).get(branch)
        if tip is None:
            refs.move_refs(repository, repository.git, [RefUpdate(branch, commit, None)], f"recover {save_id}")
        commit = tip or commit
    if not begun:
        # By its id, and the branch afterwards: as a name git might take it for something else (a branch called HEAD).
        argv = ("worktree", "add", "--force", "--quiet", "--detach", "--no-checkout", "--", path, commit)
        note = _being_added(repository)
        files.write_new_file(note, (os.path.realpath(path),), mode=0o600)
        files.fsync_path(os.path.dirname(note))
        repository.git.run(*argv)
    if branch is not None:
        repository.git._replace(directory=path).run("symbolic-ref", "HEAD", branch)
    from ..restore.gitdir import forget_copied_sparse, restore_settings

    made = open_repository(path)
    if is_own and made.is_true("core.sparsecheckout") and newest.archive != newest.wip:
        forget_copied_sparse(made, newest)
    if is_own and manifest.worktree_settings:
        restore_settings(made, newest)
    # Git syncs none of it.
    inside = [os.path.join(made.git_dir, name) for name in (*os.listdir(made.git_dir), b"", b"..")]
    files.fsync_paths([*inside, repository.common_dir, os.path.join(path, b".git"), *_up_to(there, path)])
    files.remove(_being_added(repository))


def _existing(path: bytes) -> bytes:
    """The lowest directory at or above a path that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _up_to(top: bytes, path: bytes) -> list[bytes]:
    """The directories from `path` up to `top` that may be read."""
    found = [path]
    while found[-1] != top:
        found.append(os.path.dirname(found[-1]))
    return [directory for directory in found if os.access(directory, os.R_OK)]


def fill_worktree(made: Repository, git: Git, newest: Save) -> None:
    """Let git write the files into a worktree that `add_worktree` made, and that is locked: `git` holds the lock.

    `filling` tells of it until all is on the disk. Raises NeedsPerson where a partial clone lacks one of the files:
    the worktree has none then.
    """
    if head_of(made.toplevel) is None:
        # An unborn branch.
        return
    mark = filling(made)
    if os.path.lexists(mark):
        # It was broken off, and is not what is recovered now.
        return
    files.write_new_file(mark, (newest.manifest.save_id.encode("ascii"),), mode=0o600)
    files.fsync_path(made.own)
    with usual_umask(made, newest):
        status, said = _check_out(with_filter_limit(open_repository(made.toplevel)), git)
    lacks_files = status > 0 and made.promisors() and LACKED in said
    if status < 0 or lacks_files:
        # Of a file it may have written the beginning.
        files.remove(os.path.join(made.git_dir, b"index.lock"))
        _empty(made.toplevel)
    bring_files_to_disk(made, ())
    forget_filling(made)
    if lacks_files:
        top = quote(os.fsdecode(made.toplevel))
        what = "this partial clone lacks files of the commit that the save stands on"
        hint = f"git -C {top} reset -q --hard && gitstate -C {top} recover --save {newest.manifest.save_id}"
        raise NeedsPerson(f"{what}; the worktree {os.fsdecode(made.toplevel)} was made without files", hint=hint)


def forget_filling(made: Repository) -> None:
    """Remove the file that tells of `fill_worktree`: what differs from the save from now on is somebody's work."""
    files.remove(filling(made))
    files.fsync_path(made.own)


class BrokenOff(Record):
    """A `fill_worktree` that a kill or a power cut broke off, and whose files were removed."""

    save_id: str
    """The save for which the worktree was made; it is to be recovered now."""
    words: str
    """What was done, for a person."""


def empty_broken_off(made: Repository, git: Git, reader: ObjectReader, request: RecoverRequest) -> BrokenOff | None:
    """Remove what git had written into a worktree when `fill_worktree` was broken off: some of it may be cut.

    Whoever recovers then writes every file. All is in a safety save before. Nothing is removed, and None returned,
    where `request` is about something else. Once the save was recovered, or a commit or a task was made here, the
    files are somebody's.
    """
    save_id = (files.read_limited(filling(made), 256) or b"").decode("ascii", "replace")
    pending = [stack for _, _, stack in orphans(made, reader) if stack[0].manifest.save_id == save_id]
    newest = stack_of(made, save_id).stack[0] if request.save_id == save_id else pending[0][0] if pending else None
    is_at_rest = newest is not None and reader.head() in (newest.wip, newest.manifest.head)
    if newest is None or not is_at_rest or read_live_context(made)[1] is not None:
        forget_filling(made)
        return None
    if request.save_id not in (None, save_id) or (request.task_id and request.task_id != newest.context.task_id):
        return None
    from ..save.request import SaveRequest
    from ..save.save import save_owned

    lock = os.path.join(made.git_dir, b"index.lock")
    if gitdir.is_unheld(lock):
        files.remove(lock)
    safety = save_owned(made, git, SaveRequest(kind="safety", depth=99)).save_id
    disk = Worktree(made.toplevel, made.own, made.object_format)
    for path in list_tree_paths(made.git, "HEAD"):
        state = disk.look(path)
        if state.kind in ("file", "link"):
            disk.delete(path, state)
    words = f"a recovery that was broken off here had left files that may be cut; as they were: save {safety}"
    return BrokenOff(save_id, words)


def is_of(repository: Repository, git_dir: bytes) -> bool:
    """Whether a git directory, symlinks resolved, is that of a linked worktree of the repository."""
    return os.path.dirname(git_dir) == os.path.join(os.path.realpath(repository.common_dir), b"worktrees")


def is_begun(repository: Repository, path: bytes, newest: Save) -> bool:
    """Whether at `path` is a worktree that was begun for a save by one who was killed: git wrote what is in it."""
    git_dir = None if os.path.islink(path) else git_dir_of(path)
    if git_dir is None or not is_of(repository, git_dir):
        return False
    is_empty = os.listdir(path) == [b".git"] and not os.path.lexists(os.path.join(git_dir, b"index"))
    if not is_empty and not os.path.lexists(filling(repository._replace(git_dir=git_dir))):
        return False
    branch = read_head(git_dir)
    return branch == newest.manifest.head_ref if branch else head_of(path) in (newest.wip, newest.manifest.head)


def _is_new_branch(repository: Repository, branch: str | None) -> bool:
    """Whether a save was on a branch without a commit, and there is none of that name today."""
    return branch is not None and branch.startswith("refs/heads/") and not refs.read_refs(repository, [branch])


def _check_out(made: Repository, git: Git) -> tuple[int, bytes]:
    """Let git write all files of a worktree that was just made; its status, below 0 where it was killed, and its words.

    A filter that fails, or hangs, ends that: then `recover` writes the files, and goes on without the filter.
    """

    def progress() -> tuple[int, int]:
        count = size = 0
        for directory, _, names in files.walk(made.toplevel):
            for name in names:
                with suppress(OSError):
                    size += os.lstat(os.path.join(directory, name)).st_size
                    count += 1
        return count, size

    from ..git.attributes import Conversions

    process = git.start(*Conversions(made, {}).writing_filters_required(), "read-tree", "-m", "-u", "HEAD")
    if made.filter_limit is not None:
        limit_memory(process.pid)
    try:
        _, said = process.communicate(idle=made.filter_limit, progress=progress)
    except OutOfTime:
        process.kill_all()
        process.wait()
        return -signal.SIGKILL, b""
    return process.wait(), said


def _empty(top: bytes) -> None:
    """Remove what git has written into a worktree that was just made: of one file it may be the beginning."""
    for entry in os.scandir(top):
        if entry.is_dir(follow_symlinks=False):
            files.remove_tree(entry.path)
        elif entry.name != b".git":
            files.remove(entry.path)


def _is_there(path: bytes) -> bool:
    """Whether a worktree that git lists exists: of one that is gone an empty directory may be left."""
    return os.path.lexists(os.path.join(path, b".git"))


def _refuse_second_checkout(repository: Repository, branch: str | None, save_id: str) -> None:
    path = b""
    for line in split_nul(repository.git.run("worktree", "list", "--porcelain", "-z")):
        if line.startswith(b"worktree "):
            path = line[9:]
        elif line.startswith(b"branch ") and os.fsdecode(line[7:]) == branch and _is_there(path):
            where = os.fsdecode(path)
            # By its name: it may be pending in another workspace than that one.
            hint = f"gitstate -C {quote(where)} recover --save {save_id}"
            raise NeedsPerson(f"the save's branch is checked out in {where}", hint=hint)
