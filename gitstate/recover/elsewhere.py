"""Work at other places than its own: saves in a new worktree (`--into`), single files of one (`restore SAVE PATH`), and
what git or a manager of hooks put away before it was killed.

What the last recovery or restore wrote is noted in the git directory, so that `undo` can take it back.
"""

from __future__ import annotations

import os
import stat
import time

from ..errors import BadJson, CorruptSave, GitError, GitstateError, NeedsPerson, UnsupportedSave, UsageError
from ..format.archive import read_save, read_stack
from ..format.bounds import read_fetched_stack
from ..format.context import RUN_WORKSPACE
from ..format.find import find_save
from ..format.manifest import Save
from ..format.names import age_key, save_time_ns, workspace_id
from ..format.saves import checkpoint_archives, held_saves, is_dismissed, pending_archive, pending_here
from ..git import gitdir, refs
from ..git.command import Git, Oid, is_oid, object_id
from ..git.entries import differing_paths, split_nul
from ..git.index import is_own_lock
from ..git.refs import RefUpdate
from ..git.repository import Repository, head_of, read_head
from ..objects.reader import ObjectReader
from ..objects.tree import Leaf
from ..save.plan import PathVersions, is_undone
from ..system import files
from ..system.clock import Deadline
from ..system.jsonio import Json, dumps, loads, text_to_json
from ..system.process import boot_id, hostname
from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from ..workspace.lease import presence, work_began_ns
from ..workspace.ownership import clear_journal, locked_workspace, write_journal
from ..workspace.settings import require
from .facts import orphans
from .fetched import is_trusted, refusal, risky_paths
from .files import FileRecovery, save_for_safety, usual_umask
from .paths import SavedPaths, Workspace, is_below, paths_with
from .plan import Choice, Facts, Target, conclude_files, needs_safety_save
from .request import SETTINGS, Outcome, RecoverRequest, RecoverResult, hints_for, located

if TYPE_CHECKING:
    from collections.abc import Sequence


class FoundStack(Record):
    """A save that was named, and those it stands on."""

    stack: tuple[Save, ...]
    """The newest first."""
    remote: str | None
    """The remote that it was fetched from; None for a save of this repository."""


def stack_of(repository: Repository, save_id: str) -> FoundStack:
    """A save by its id, and all that it stands on. Raises NeedsPerson, CorruptSave, UnsupportedSave."""
    with ObjectReader(repository.git) as reader:
        held = find_save(repository, save_id)
        read = read_stack if held.remote is None else read_fetched_stack
        return FoundStack(read(held.archive, reader), held.remote)


def add_worktree(repository: Repository, path: bytes, newest: Save) -> None:
    """A new worktree at `path` on the branch of a save, in which that save can be recovered.

    Raises NeedsPerson where the save's branch is checked out in a worktree that exists, or the save has no commit. A
    save that was set aside, or dismissed, goes beside that worktree: HEAD is detached at its base.
    """
    manifest = newest.manifest
    save_id = manifest.save_id
    aside = is_dismissed(repository, save_id)
    if not aside:
        _refuse_second_checkout(repository, manifest.head_ref)
    commit = newest.wip if manifest.moves_branch and not aside else manifest.head
    if commit is None:
        raise NeedsPerson("the save stands on no commit", hint=f"gitstate restore {save_id} PATH…")
    branch = manifest.head_ref
    if branch is not None and branch.startswith("refs/heads/") and not aside:
        tip = refs.read_refs(repository, [branch]).get(branch)
        if tip is None:
            refs.move_refs(repository, repository.git, [RefUpdate(branch, commit, None)], f"recover {save_id}")
        commit = tip or commit
    else:
        branch = None
    # By its id, and the branch afterwards: as a name git might take it for something else (a branch called HEAD).
    argv = ("worktree", "add", "--force", "--quiet", "--detach", "--no-checkout", "--", path, commit)
    repository.git.run(*argv)
    there = Git(path, repository.git.options)
    if branch is not None:
        there.run("symbolic-ref", "HEAD", branch)
    with usual_umask(repository, newest), suppress(GitError):
        # A filter that fails ends git's checkout: then `recover` writes the files, and goes on without the filter.
        there.run("read-tree", "-m", "-u", "HEAD")


def reattach(repository: Repository) -> None:
    """Put HEAD of a submodule back on the branch of its pending save, where git has only detached it there.

    `git reset --hard` of the repository around it does so with `submodule.recurse`.
    """
    archive = pending_archive(repository)
    if archive is None or read_head(repository.git_dir) is not None:
        return
    with ObjectReader(repository.git) as reader:
        manifest = read_stack(archive, reader)[-1].manifest
    branch = manifest.head_ref
    if branch is None or manifest.head is None or head_of(repository.toplevel) != manifest.head:
        return
    if refs.read_refs(repository, [branch]).get(branch) == manifest.head:
        repository.git.run("symbolic-ref", "HEAD", branch)


def refuse_used_place(path: bytes) -> None:
    """Raises UsageError where a worktree can't be made at `path`, because something is there."""
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise UsageError(f"{os.fsdecode(path)} exists and is not empty", hint="gitstate recover --into ANOTHER-PATH")


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


def _refuse_second_checkout(repository: Repository, branch: str | None) -> None:
    path = b""
    for line in split_nul(repository.git.run("worktree", "list", "--porcelain", "-z")):
        if line.startswith(b"worktree "):
            path = line[9:]
        elif line.startswith(b"branch ") and os.fsdecode(line[7:]) == branch and os.path.isdir(path):
            where = os.fsdecode(path)
            hint = f"gitstate -C {quote(where)} recover"
            raise NeedsPerson(f"the save's branch is checked out in {where}", hint=hint)


def restore_paths(
    repository: Repository, save_id: str, paths: Sequence[bytes], request: RecoverRequest
) -> RecoverResult:
    """Write files of a save into this workspace: all that it changed, or `paths` with all below them.

    Index, branch and marker stay. A file that holds something else is kept unless `request.overwrite`.
    Raises NeedsPerson where there is no such save, UsageError where it holds none of `paths`.
    """
    require(repository, *SETTINGS)
    with (
        hints_for(repository.toplevel),
        locked_workspace(repository, Deadline(request.wait)) as git,
        ObjectReader(repository.git) as reader,
    ):
        found = stack_of(repository, save_id)
        workspace = Workspace.of(repository, git, reader)
        saved = SavedPaths(workspace, found.stack, overwrite=request.overwrite)
        targets = _wanted(saved, paths)
        runs = () if found.remote is None else risky_paths(repository, [target.path for target in targets])
        if runs and not is_trusted(repository, found.remote, request):
            hint = f"gitstate restore {save_id} PATH…; to take all of it: gitstate restore {save_id} --trust"
            return refusal(repository.toplevel, save_id, found.remote, runs, hint)
        return _restore(workspace, saved, targets, request)._replace(runs=runs)


def _wanted(saved: SavedPaths, paths: Sequence[bytes]) -> list[Target]:
    changed = saved.targets()
    if not paths or b"." in paths:
        return changed
    targets = [target for target in changed if any(is_below(target.path, path) for path in paths)]
    known = {target.path for target in targets}
    for path in paths:
        more = saved.unchanged(path, known)
        if not more and not any(is_below(name, path) for name in known):
            save_id = saved.newest.manifest.save_id
            raise UsageError(f"the save {save_id} holds no {os.fsdecode(path)}", hint=f"gitstate diff {save_id}")
        targets += more
    return targets


def _restore(
    workspace: Workspace, saved: SavedPaths, targets: Sequence[Target], request: RecoverRequest
) -> RecoverResult:
    outcome = Outcome()
    choices = saved.choices(targets, outcome)
    outcome.kept = paths_with(choices, "keep")
    if request.dry_run:
        outcome.restored, outcome.deleted = paths_with(choices, "write"), paths_with(choices, "delete")
    else:
        _carry_out(workspace, saved, choices, outcome)
        remember(workspace.repository, Version(saved.newest.manifest.save_id, None), outcome)
        clear_journal(workspace.repository)
    result = conclude_files(workspace.repository.toplevel, saved.newest, outcome)
    return located(result._replace(dry_run=request.dry_run))


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


def _carry_out(workspace: Workspace, saved: SavedPaths, choices: Sequence[Choice], outcome: Outcome) -> None:
    """Take the safety save, then write and delete. The journal is for the caller to clear."""
    write_journal(workspace.repository, [])
    if needs_safety_save(choices):
        outcome.safety = save_for_safety(workspace, choices)
        write_journal(workspace.repository, [])
    recovery = FileRecovery(workspace, saved, outcome)
    recovery.carry_out(choices)
    recovery.permissions([choice.target for choice in choices])
    workspace.disk.sync()


# -- what was destroyed before the save

#: Of the kept checkpoints only so many of the newest are looked at, and none that is older than a day at the save.
_LOOKED_AT = 4
_RECENT_NS = 86_400 * 1_000_000_000


def find_destroyed(workspace: Workspace, save: Save) -> tuple[str, tuple[bytes, ...]] | None:
    """The newest checkpoint before `save` with work that neither the disk, nor HEAD, nor the save has, and its paths.

    A path counts where it vanished or went back to HEAD, without a commit of it since. Only checkpoints of the same
    task count, not older than a day. Raises nothing: it is an offer.
    """
    with suppress(GitstateError, OSError, ValueError):
        own = workspace_id(workspace.repository)
        made = save_time_ns(save.manifest.save_id) or 0
        held = [item.archive for item in held_saves(workspace.repository.git, own)]
        held += [oid for name, oid in checkpoint_archives(workspace.repository.git).items() if name == own]
        found = [read_save(oid, workspace.reader) for oid in held if oid != save.archive]
        found = [
            item
            for item in found
            if item.manifest.kind == "checkpoint"
            and item.context.task_id in (None, save.context.task_id)
            and 0 <= made - (save_time_ns(item.manifest.save_id) or 0) < _RECENT_NS
        ]
        found.sort(key=lambda item: age_key(item.manifest.save_id), reverse=True)
        for item in found[:_LOOKED_AT]:
            paths = _destroyed_paths(workspace, item, save)
            if paths:
                return item.manifest.save_id, tuple(paths)
    return None


def _destroyed_paths(workspace: Workspace, old: Save, save: Save) -> list[bytes]:
    repository, reader, trees = workspace.repository, workspace.reader, workspace.trees
    commit = head_of(repository.toplevel)
    before, head = (None if oid is None else reader.tree_of(oid) for oid in (old.manifest.head, commit))
    then = old.manifest.head
    follows = then == commit or then is None
    if not follows and commit is not None and then is not None:
        follows = repository.git.succeeds("merge-base", "--is-ancestor", then, commit)
    paths = differing_paths(repository, before, old.wip_tree)
    of_old, of_before, of_head, of_save = (
        {path: leaf.oid for path, leaf in trees.lookup(root, paths).items()}
        for root in (old.wip_tree, before, head, save.wip_tree)
    )
    empty = object_id(repository.object_format, "blob", b"")
    destroyed = []
    for path in sorted(paths):
        there = workspace.disk.look(path)
        versions = PathVersions(of_old.get(path), there.oid, of_before.get(path), of_head.get(path), of_save.get(path))
        if there.kind in ("missing", "file", "link") and is_undone(versions, empty, follows=follows):
            destroyed.append(path)
    return destroyed


# -- undo

#: The file in gitstate's own directory that says what the last recovery, restore or undo wrote.
LAST_FILE = b"last-restore.json"
_MOST_BYTES = 64 << 20


class Version(Record):
    """What a set of paths held: as in a save, or, where there was nothing but a commit, as in that."""

    save_id: str | None
    commit: Oid | None


class LastRestore(Record):
    """What the last recovery, restore or undo wrote."""

    paths: tuple[bytes, ...]
    before: Version
    """What they held before."""
    after: Version
    """What was written."""


def remember(repository: Repository, after: Version, outcome: Outcome) -> None:
    """Note for `undo` which paths were written or deleted: what they hold now, and what they held before.

    It is a note, not the work: where the disk takes it no more, there is nothing to take back by name.
    """
    paths = dict.fromkeys([*outcome.restored, *outcome.deleted])
    if not paths:
        return
    before = Version(outcome.safety, None if outcome.safety else head_of(repository.toplevel))
    value = {"paths": [path.hex() for path in paths], "before": _version_json(before), "after": _version_json(after)}
    with suppress(OSError):
        files.write_atomic(os.path.join(repository.own, LAST_FILE), dumps(value), staging=repository.own)


def _version_json(version: Version) -> dict[str, Json]:
    return {"save_id": version.save_id, "commit": version.commit}


def last_restore(repository: Repository) -> LastRestore | None:
    """What `remember` noted last; None where there is no such note."""
    data = files.read_limited(os.path.join(repository.own, LAST_FILE), _MOST_BYTES)
    try:
        value = loads(data, _MOST_BYTES, "the last restore")
        versions = [Version(value[name]["save_id"], value[name]["commit"]) for name in ("before", "after")]
        if any(version.commit is not None and not is_oid(version.commit) for version in versions):
            return None
        return LastRestore(tuple(map(bytes.fromhex, value["paths"])), *versions)
    except (BadJson, KeyError, TypeError, ValueError):
        return None


def undo(repository: Repository, request: RecoverRequest) -> RecoverResult:
    """Take the last recovery, restore or undo back: each path that it wrote holds what it held before.

    Index, branch, marker and context stay. A file that was edited since is kept unless `request.overwrite`. What is
    taken back is saved first, so that a second undo brings it again. Raises NeedsPerson where there is nothing to undo.
    """
    require(repository, *SETTINGS)
    with (
        hints_for(repository.toplevel),
        locked_workspace(repository, Deadline(request.wait)) as git,
        ObjectReader(repository.git) as reader,
    ):
        last = last_restore(repository)
        if last is None:
            raise NeedsPerson("nothing was recovered or restored here that could be undone", hint="gitstate log")
        workspace = Workspace.of(repository, git, reader)
        named = [version.save_id for version in (last.before, last.after) if version.save_id is not None]
        if not named:
            raise NeedsPerson("the last restore names no save; nothing was changed", hint="gitstate log")
        saved = SavedPaths(workspace, stack_of(repository, named[0]).stack, overwrite=request.overwrite)
        before, after = (_held(workspace, version, last.paths) for version in (last.before, last.after))
        targets = []
        for path in last.paths:
            leaf, permissions = before.get(path, (None, None))
            targets.append(Target(path, leaf, permissions, frozenset({after[path][0]} if path in after else ())))
        outcome = Outcome()
        choices = saved.choices(targets, outcome)
        outcome.kept = paths_with(choices, "keep")
        if request.dry_run:
            outcome.restored, outcome.deleted = paths_with(choices, "write"), paths_with(choices, "delete")
        else:
            _carry_out(workspace, saved, choices, outcome)
            remember(repository, last.before, outcome)
            clear_journal(repository)
        result = conclude_files(repository.toplevel, saved.newest, outcome)
        hint = "gitstate undo --overwrite" if outcome.kept else result.hint
        message = result.message or ("" if request.dry_run else "gitstate undo once more brings back what was undone")
        return located(result._replace(dry_run=request.dry_run, hint=hint, message=message))


def _held(workspace: Workspace, version: Version, paths: Sequence[bytes]) -> dict[bytes, tuple[Leaf, int | None]]:
    """What a version holds at each of the paths, and the permissions where they are known; a path may be missing."""
    reader, repository = workspace.reader, workspace.repository
    if version.save_id is None:
        tree = None if version.commit is None else reader.tree_of(version.commit)
        return {path: (leaf, None) for path, leaf in workspace.trees.lookup(tree, paths).items()}
    saved = SavedPaths(workspace, stack_of(repository, version.save_id).stack)
    changed = {target.path: target for target in saved.targets()}
    modes = saved.newest.manifest.modes
    held = {path: (leaf, modes.get(path)) for path, leaf in saved.leaves(saved.newest.wip_tree, paths).items()}
    for path in paths:
        if path in changed:
            target = changed[path]
            held.pop(path, None)
            if target.saved is not None:
                held[path] = target.saved, target.permissions
    return held


# -- what was put away

#: What is this much older than the save, in seconds, was put away by no run that it saves.
_RUN = 24 * 3600.0
#: Where managers of hooks put unstaged changes while they run, below the git dir and below the user's cache.
_PATCHES = (b"lint-staged_unstaged.patch", b"info/lefthook-unstaged.patch")
_CACHED_PATCHES = (b"pre-commit/patch*", b"prek/patches/*")


def put_away(repository: Repository, facts: Facts) -> tuple[str, ...]:
    """What a git, a manager of hooks or a run left elsewhere: sentences, each with the command that helps."""
    git_dir = repository.git_dir
    found = [*worktrees_put_away(repository)]
    lock = os.path.join(git_dir, b"index.lock")
    if os.path.lexists(lock) and not is_own_lock(lock):
        found.append(f"{os.fsdecode(lock)} stops git; once no git runs here: rm {_quoted(lock)}")
    save_id = facts.saves[0].manifest.save_id if facts.saves else None
    since = ((save_time_ns(save_id) if save_id else None) or time.time_ns()) / 1e9 - _RUN
    for path in _patches(repository):
        with suppress(OSError):
            if os.stat(path).st_size and os.stat(path).st_mtime > since:
                command = f"git apply {_quoted(path)}"
                found.append(f"unstaged changes that a manager of hooks had hidden are in a patch: {command}")
    base = facts.saves[-1].manifest.head if facts.saves else facts.head
    stash = repository.git.run("log", "-1", "--format=%ct %P", "refs/stash", "--", ok_codes=(0, 128)).split()
    if len(stash) > 1 and stash[1].decode("ascii") == base and int(stash[0]) > since:
        found.append("a stash on this commit may hold work of the run: git stash show -p; git stash apply")
    return tuple(found)


#: Without a save the lock of a run that was killed must be so much older than this recovery, in nanoseconds.
_LOCK_AGE_NS = 2_000_000_000


def remove_lock_of_run(repository: Repository, facts: Facts) -> tuple[bytes, ...]:
    """Remove the index.lock of a git that was killed in the last run, where that is proven; returns what was removed.

    The run is gone, and was of this host and boot; the lock was made in it; and no process that could hold it runs.
    """
    lock = os.path.join(repository.git_dir, b"index.lock")
    context = facts.saves[0].context if facts.saves else facts.context
    try:
        seen = os.lstat(lock)
    except OSError:
        return ()
    is_plain = stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid() and not is_own_lock(lock)
    if context is None or not is_plain or (context.host, context.boot_id) != (hostname(), boot_id()):
        return ()
    began, ended = work_began_ns(repository), time.time_ns() - _LOCK_AGE_NS
    if facts.saves:
        ended = save_time_ns(facts.saves[0].manifest.save_id) or ended
    was_in_run = began is not None and began <= seen.st_mtime_ns <= ended
    if not was_in_run or presence(repository).state not in ("gone", "nobody") or not gitdir.is_unheld(lock):
        return ()
    try:
        if os.lstat(lock).st_ino == seen.st_ino:
            files.remove(lock)
            return (lock,)
    except OSError:
        pass
    return ()


def _patches(repository: Repository) -> list[bytes]:
    """The patches of managers of hooks that there are; of the user's cache those for files of this worktree."""
    import glob

    cache = os.environb.get(b"XDG_CACHE_HOME") or os.path.expanduser(b"~/.cache")
    inside = [os.path.join(repository.git_dir, name) for name in _PATCHES]
    shared = [path for name in _CACHED_PATCHES for path in glob.glob(os.path.join(glob.escape(cache), name))]
    return [*inside, *(path for path in shared if _is_for(path, repository))]


def _is_for(path: bytes, repository: Repository) -> bool:
    """Whether all files that a patch begins with are tracked here, and no other."""
    data = files.read_limited(path, 16 << 20) or b""
    names = [line[6:] for line in data.split(b"\n") if line.startswith(b"--- a/")]
    listed = split_nul(repository.git.run("ls-files", "-z", "--", *names[:100], ok_codes=(0, 128))) if names else []
    return bool(names) and set(names[:100]) <= set(listed)


def _quoted(path: bytes) -> str:
    return quote(os.fsdecode(path))
