"""Work at other places than its own: in worktrees of the last run, and what git or a manager of hooks put away before
it was killed.
"""

from __future__ import annotations

import os
import stat
import time

from ..errors import CorruptSave, GitError, UnsupportedSave
from ..format.archive import pending_archive, pending_here, read_save, read_stack
from ..format.context import MAX_CONTEXT, RUN_WORKSPACE
from ..format.manifest import Save
from ..format.names import save_time_ns, workspace_id
from ..git import gitdir, refs
from ..git.command import Git, Oid, split_nul
from ..git.index import is_own_lock
from ..git.permitted import MULTI_PACK_INDEX, has_damaged_pack_index
from ..git.repository import Repository, head_of, read_head
from ..objects.reader import LARGE, ObjectReader, commit_head
from ..objects.tree import TreeReader
from ..system import files
from ..system.jsonio import text_to_json
from ..system.process import boot_id, hostname
from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from ..workspace.lease import presence, work_began_ns
from ..workspace.settings import with_filter_limit
from .plan import Facts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class FoundStack(Record):
    """A save that was named, and those it stands on."""

    stack: tuple[Save, ...]
    """The newest first."""
    remote: str | None
    """The remote that it was fetched from; None for a save of this repository."""


def stack_of(repository: Repository, save_id: str) -> FoundStack:
    """A save by its id, and all that it stands on. Raises NeedsPerson, CorruptSave, UnsupportedSave."""
    from ..format.find import find_save

    with ObjectReader(repository.git) as reader:
        held = find_save(repository, save_id)
        if held.remote is None:
            return FoundStack(read_stack(held.archive, reader), None)
        from ..format.bounds import read_fetched_stack

        return FoundStack(read_fetched_stack(held.archive, reader), held.remote)


def _differs(repository: Repository) -> bool:
    """Whether tracked files differ from HEAD; True where a filter keeps git from telling."""
    env, limit = repository.filter_env(), repository.filter_limit
    try:
        return bool(repository.git.run("status", "--porcelain", "-z", "-uno", env=env, timeout=limit))
    except GitError:
        if limit is None:
            raise
        return True


def reattach(repository: Repository, known: Collection[Oid]) -> None:
    """Put HEAD of a submodule back where its pending save has it, where git has only detached it.

    `git reset --hard` of the repository around it does so with `submodule.recurse`. `known` are the commits that the
    outer repository names for it: at one of them git has put it, if nothing is changed there.
    """
    archive = pending_archive(repository)
    if archive is None or read_head(repository.git_dir) is not None:
        return
    with ObjectReader(repository.git) as reader:
        manifest = read_stack(archive, reader)[-1].manifest
    branch, here = manifest.head_ref, head_of(repository.toplevel)
    if manifest.head is None or here is None:
        return
    is_at = branch is not None and refs.read_refs(repository, [branch]).get(branch) == manifest.head
    if branch is not None and not is_at:
        return
    if here != manifest.head:
        if here not in known or _differs(with_filter_limit(repository)):
            return
        if not repository.git.succeeds("read-tree", "-m", "-u", here, manifest.head):
            return
        repository.git.run("update-ref", "--no-deref", "HEAD", manifest.head, here)
    if branch is not None:
        repository.git.run("symbolic-ref", "HEAD", branch)


# -- what was put away

#: So many worktrees of a run are named one by one.
_NAMED = 3


class RunWorktree(Record):
    """A pending save of a worktree that belongs to the last run of a workspace."""

    path: bytes
    """The top of the worktree, which may be gone."""
    save_id: str


def run_worktrees(repository: Repository) -> list[RunWorktree]:
    """The pending saves of the worktrees that belong to the last run in this workspace, by path. Raises GitError."""
    pending, own = pending_here(repository), workspace_id(repository)
    others = [archive for name, archive in pending.items() if name != own]
    found = []
    if others:
        here = text_to_json(os.fsdecode(repository.toplevel))
        with ObjectReader(repository.git) as reader:
            for archive in others:
                try:
                    save = read_save(archive, reader)
                except (CorruptSave, UnsupportedSave):
                    # Git ends at an object that it can't read.
                    reader.restart()
                    continue
                path = save.context.workspace_path
                if save.context.extra.get(RUN_WORKSPACE) == here and path is not None:
                    found.append(RunWorktree(os.fsencode(path), save.manifest.save_id))
    return sorted(found)


def worktrees_put_away(repository: Repository) -> tuple[str, ...]:
    """Sentences that name the worktrees of the last run whose saves are pending, with the command that helps."""
    found = run_worktrees(repository)
    named = [_run_worktree_words(repository, one) for one in found[:_NAMED]]
    if len(found) > 1:
        of_all = f"gitstate -C {_quoted(repository.toplevel)} recover --worktrees"
        named.append(f"all {len(found)} worktrees of the run: {of_all}")
    return tuple(named)


def _run_worktree_words(repository: Repository, one: RunWorktree) -> str:
    name = text_to_json(os.fsdecode(one.path))
    if os.path.lexists(os.path.join(one.path, b".git")):
        return f"the run's worktree {name} has a pending save: gitstate -C {_quoted(one.path)} recover"
    command = f"gitstate -C {_quoted(repository.toplevel)} recover --save {one.save_id} --into {_quoted(one.path)}"
    return f"the run's worktree {name} is gone, its save is pending: {command}"


#: What is this much older than the save, in seconds, was put away by no run that it saves.
_RUN = 24 * 3600.0
#: Where managers of hooks put unstaged changes while they run, below the git dir and below the user's cache.
_PATCHES = (b"lint-staged_unstaged.patch", b"info/lefthook-unstaged.patch")
_CACHED_PATCHES = ((b"pre-commit", b"patch"), (b"prek/patches", b""))
_STASH = "refs/stash"


def put_away(repository: Repository, reader: ObjectReader, facts: Facts, locks: Collection[bytes]) -> tuple[str, ...]:
    """What a git, a manager of hooks or a run left elsewhere, its `locks` too: sentences with commands that help."""
    found = [*facts.put_away, *worktrees_put_away(repository)]
    if facts.marker is None and facts.context is not None and facts.owner == "gone":
        from .lost_worktrees import lost_worktrees

        found += lost_worktrees(repository, reader)
    # What all worktrees share another git may hold for a moment.
    locks = [
        lock for lock in locks if not is_own_lock(lock) and (lock.endswith(b"/index.lock") or gitdir.is_unheld(lock))
    ]
    if locks:
        stops = f"and {len(locks) - 1} more stop" if len(locks) > 1 else "stops"
        found.append(f"{os.fsdecode(locks[0])} {stops} git; once no git runs here: rm {' '.join(map(_quoted, locks))}")
    if has_damaged_pack_index(repository.common_dir):
        path = os.path.join(repository.common_dir, MULTI_PACK_INDEX)
        found.append(f"{os.fsdecode(path)} is damaged, and stops git: rm -f {_quoted(path)}")
    save_id = facts.saves[0].manifest.save_id if facts.saves else None
    since = ((save_time_ns(save_id) if save_id else None) or time.time_ns()) / 1e9 - _RUN
    for path in _patches(repository, reader, facts, since):
        command = f"git apply {_quoted(path)}"
        found.append(f"unstaged changes that a manager of hooks had hidden are in a patch: {command}")
    base = facts.saves[-1].manifest.head if facts.saves else facts.head
    stash = _stash(repository, reader)
    if stash is not None and stash[0] == base and stash[1] > since:
        found.append("a stash on this commit may hold work of the run: git stash show -p; git stash apply")
    return tuple(found)


def _stash(repository: Repository, reader: ObjectReader) -> tuple[Oid, int] | None:
    """The commit that the newest stash stands on, and when it was made, in seconds; None without one to read."""
    oid = refs.read_refs(repository, [_STASH]).get(_STASH)
    try:
        data = (None if oid is None else reader.commit(oid, MAX_CONTEXT)) or b""
        parents = commit_head(data).parents
        committed = next(line for line in data.split(b"\n") if line.startswith(b"committer "))
        return parents[0], int(committed.split()[-2])
    except GitError:
        # Git ends at an object that it can't read.
        reader.restart()
        return None
    except (ValueError, IndexError, StopIteration):
        return None


#: Without a save the lock of a run that was killed must be so much older than this recovery, in nanoseconds.
_LOCK_AGE_NS = 2_000_000_000


def remove_locks_of_run(repository: Repository, facts: Facts, locks: Collection[bytes]) -> tuple[bytes, ...]:
    """Remove those of the locks whose gits were killed in the last run, where that is proven; returns these.

    The run is gone, and was of this host and boot; the lock was made in it; and no process that could hold it runs.
    """
    return tuple(lock for lock in locks if _remove_lock_of_run(lock, repository, facts))


def _remove_lock_of_run(lock: bytes, repository: Repository, facts: Facts) -> bool:
    context = facts.saves[0].context if facts.saves else facts.context
    try:
        seen = os.lstat(lock)
    except OSError:
        return False
    is_plain = stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid() and not is_own_lock(lock)
    if context is None or not is_plain or (context.host, context.boot_id) != (hostname(), boot_id()):
        return False
    began, ended = work_began_ns(repository), time.time_ns() - _LOCK_AGE_NS
    if facts.saves:
        ended = save_time_ns(facts.saves[0].manifest.save_id) or ended
    was_in_run = began is not None and began <= seen.st_mtime_ns <= ended
    if not was_in_run or presence(repository).state not in ("gone", "nobody") or not gitdir.is_unheld(lock):
        return False
    try:
        if os.lstat(lock).st_ino == seen.st_ino:
            files.remove(lock)
            return True
    except OSError:
        pass
    return False


def _patches(repository: Repository, reader: ObjectReader, facts: Facts, since: float) -> list[bytes]:
    """The patches of managers of hooks that are younger than `since`; of the user's cache those that a save lacks.

    They stay in the cache for good, after their changes came back too.
    """
    cache = os.environb.get(b"XDG_CACHE_HOME") or os.path.expanduser(b"~/.cache")
    inside = [os.path.join(repository.git_dir, name) for name in _PATCHES]
    shared = []
    for directory, beginning in _CACHED_PATCHES:
        with suppress(OSError):
            names = sorted(os.listdir(os.path.join(cache, directory)))
            names = [name for name in names if name.startswith(beginning) and not name.startswith(b".")]
            shared += [os.path.join(cache, directory, name) for name in names]
    young = [path for path in (*inside, *shared) if _is_young(path, since)]
    return [path for path in young if path in inside or _is_for(path, repository, reader, facts)]


def _is_young(path: bytes, since: float) -> bool:
    with suppress(OSError):
        info = os.stat(path)
        return info.st_size > 0 and info.st_mtime > since
    return False


#: Of a patch for more files only the first are looked at, and whether it applies is not asked.
_MOST_PATCHED = 100


def _is_for(path: bytes, repository: Repository, reader: ObjectReader, facts: Facts) -> bool:
    """Whether all files that a patch begins with are tracked here, and it applies to them as they will be."""
    data = files.read_limited(path, 16 << 20) or b""
    names = [line[6:] for line in data.split(b"\n") if line.startswith(b"--- a/")]
    first = names[:_MOST_PATCHED]
    listed = split_nul(repository.git.run("ls-files", "-z", "--", *first, ok_codes=(0, 128))) if names else []
    if not names or not set(first) <= set(listed):
        return False
    if len(names) > len(first):
        return True
    with suppress(OSError, GitError), files.temporary_directory("gitstate-patch-") as place:
        top = os.fsencode(place)
        _write_patched(top, first, repository, reader, facts)
        return _applies(path, top) and not _applies(path, top, "--reverse")
    return True


def _write_patched(
    top: bytes, names: Sequence[bytes], repository: Repository, reader: ObjectReader, facts: Facts
) -> None:
    """Write files below `top`, as git stores them in the save; as they are on the disk where there is no save."""
    leaves = TreeReader(reader).lookup(facts.saves[0].wip_tree, names) if facts.saves else {}
    for name in names:
        if facts.saves:
            held = reader.contents([leaves[name].oid], LARGE)[0] if name in leaves else None
            data = None if held is None else held[1]
        else:
            data = files.read_limited(os.path.join(repository.toplevel, name), LARGE)
        if data is not None:
            os.makedirs(os.path.dirname(os.path.join(top, name)), exist_ok=True)
            with open(os.path.join(top, name), "wb") as file:
                file.write(data)


def _applies(patch: bytes, top: bytes, *options: str) -> bool:
    """Whether a patch applies to the files below `top`, which belong to no repository."""
    env = {"GIT_CEILING_DIRECTORIES": os.fsdecode(os.path.dirname(top))}
    try:
        # Line ends may be others on the disk.
        Git(top).run("apply", "--check", "--ignore-whitespace", *options, "--", patch, env=env)
    except GitError:
        return False
    return True


def _quoted(path: bytes) -> str:
    return quote(os.fsdecode(path))
