"""A peek at a workspace: its files, read in tens of microseconds and without any process.

After a reboot there may be ten thousand listed workspaces, fifty of them with a pending save: a peek decides which are
worth opening. It reads git's files by git's own rules (`man gitrepository-layout`). Refs in a reftable it can't read,
and says so. It runs nothing that a repository names.
"""

from __future__ import annotations

import os
import stat

from ..errors import words_of
from ..format.context import Context
from ..format.names import (
    CHECKPOINTS,
    DISMISSED,
    FETCHED,
    ID_FILE,
    PENDING,
    UNFINISHED,
    given_workspace_id,
    old_workspace_id,
    workspace_id_of,
)
from ..git import gitdir, refs
from ..git.command import Oid, is_oid
from ..git.gitdir import NO_HEAD, read_head_file
from ..system import files
from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .live_context import CONTEXT_FILE, owner_state, read_context

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Literal

    from .live_context import OwnerState, Status

    Problem = Literal["missing", "no_repository", "foreign", "unreachable"]

_SMALL = 65_536


class WorkspacePeek(Record):
    """What the files of one workspace say. Where there is a problem, the fields after `uid` are empty."""

    workspace: bytes
    """The top of the worktree."""
    problem: Problem | None = None
    """Why there is nothing to read (`foreign`: of another user, `unreachable`: it hangs); None where there is none."""
    uid: int | None = None
    """Another user who owns a part of it; None where all is ours."""
    git_dir: bytes = b""
    """The worktree's own git directory."""
    common_dir: bytes = b""
    """The git directory that all worktrees share."""
    workspace_id: str = ""
    """The workspace's id in refs."""
    branch: str | None = None
    """The full name of the branch that HEAD is on; None where it is detached, damaged, or in a reftable."""
    marker: Oid | None = None
    """The archive of the pending save; None where none is pending, an empty text where the marker is damaged."""
    checkpoint: Oid | None = None
    """The archive of the latest checkpoint; as `marker`."""
    context: Context = Context()
    """The live context; empty where there is none."""
    status: Status | None = None
    """Its status; None where there is none."""
    owner: OwnerState = "unknown"
    """What is known about the owner of the context: see `owner_state`."""
    journal: bool = False
    """Whether a gitstate is at work here, or was killed."""
    dead_locks: tuple[bytes, ...] = ()
    """Locks of git that are older than this boot."""
    damage: tuple[str, ...] = ()
    """What a power cut left empty or as zeros, for people."""
    unreadable: bool = False
    """Whether the refs are in a reftable, which only git can read."""
    others_pending: bool = False
    """Whether a save of another workspace is pending in the same repository."""
    fetched: bool = False
    """Whether refs of the repository hold saves that were fetched from a remote."""
    dismissed: bool = False
    """Whether refs of the repository name saves that were dismissed or set aside."""
    unfinished: bool = False
    """Whether a repository inside is not back from a save that was recovered."""

    @property
    def lives(self) -> bool:
        """Whether an agent works here now: the context is active, and its owner runs."""
        return self.status == "active" and self.owner in ("lives", "ours")

    @property
    def lost(self) -> bool:
        """Whether a save may be pending whose refs are gone: a save writes `interrupted` after its marker."""
        return self.status == "interrupted" and self.marker is None

    @property
    def due(self) -> bool:
        """Whether there may be something to recover: the workspace is worth opening."""
        if self.problem is not None or self.lives:
            return False
        crashed = self.status == "active" and self.owner == "gone"
        orphan = self.status is None and self.checkpoint is not None
        return bool(
            self.marker
            or self.unfinished
            or crashed
            or self.lost
            or orphan
            or self.journal
            or self.dead_locks
            or self.damage
            or self.unreadable
        )


class SharedPeek(Record):
    """What all worktrees of one repository share."""

    pending: dict[str, Oid]
    """The archives of the pending saves by workspace id; an empty text where the ref's file is damaged."""
    checkpoints: dict[str, Oid]
    """The archives of the latest checkpoints, likewise."""
    dead_locks: tuple[bytes, ...]
    """Locks directly in the common directory that are older than this boot."""
    damage: tuple[str, ...]
    """What a power cut left empty or as zeros, for people."""
    reftable: bool
    """Whether the refs are in a reftable."""
    fetched: bool
    """Whether refs hold saves that were fetched from a remote."""
    dismissed: bool
    """Whether refs name saves that were dismissed or set aside."""
    unfinished: frozenset[str]
    """The ids of the workspaces inside which a repository is not back."""


class _Names:
    """The names in a directory, listed once: a look at each would take longer. All may be there if it can't be read."""

    def __init__(self, directory: bytes) -> None:
        self.listed: frozenset[bytes] | None = None
        with suppress(OSError):
            self.listed = frozenset(os.listdir(directory))

    @classmethod
    def none(cls) -> _Names:
        names = cls.__new__(cls)
        names.listed = frozenset()
        return names

    def __contains__(self, name: bytes) -> bool:
        return self.listed is None or name in self.listed


class Peeker:
    """Peeks at many workspaces, reading shared directories once.

    `trusted` returns the paths that are named in safe.directory. It is called for a workspace of another user alone:
    it starts git.
    """

    def __init__(self, trusted: Callable[[], Collection[bytes]] = tuple) -> None:
        self._ask = trusted
        self._trusted: frozenset[bytes] | None = None
        self._shared: dict[bytes, SharedPeek] = {}
        self._parents: dict[bytes, bytes] = {}

    def peek(self, path: bytes) -> WorkspacePeek:
        """A peek at the workspace whose top is `path`. Never raises for what is there."""
        try:
            return self._peek(path)
        except (OSError, ValueError) as error:
            return WorkspacePeek(path, damage=(f"it can't be read: {words_of(error)}"[:200],))

    def _peek(self, path: bytes) -> WorkspacePeek:
        try:
            top = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return WorkspacePeek(path, "missing")
        path = self._resolved(path)
        dot_git = path + b"/.git"
        try:
            inner = os.stat(dot_git)
        except (FileNotFoundError, NotADirectoryError):
            return WorkspacePeek(path, "no_repository" if stat.S_ISDIR(top.st_mode) else "missing")
        is_plain = stat.S_ISDIR(inner.st_mode)
        git_dir = dot_git if is_plain else gitdir.path_named_in(dot_git, b"gitdir: ", path)
        if git_dir is None:
            return WorkspacePeek(path, "no_repository")
        uid = self._foreign_uid(path, (top, inner) if is_plain else (top, inner, os.stat(git_dir)))
        if uid is not None:
            return WorkspacePeek(path, "foreign", uid)
        return self._peek_inside(path, git_dir, _Names(git_dir))

    def _peek_inside(self, path: bytes, git_dir: bytes, names: _Names) -> WorkspacePeek:
        """A peek at a workspace of ours with its own git directory, whose `names` are listed."""
        common = git_dir
        if b"commondir" in names or b"gitdir" in names:
            common = gitdir.common_dir_by_files(git_dir)
        shared = self._shared.get(common)
        if shared is None:
            shared = self._shared[common] = peek_shared(common, names if common == git_dir else _Names(common))
        own = _Names(git_dir + b"/gitstate") if b"gitstate" in names else _Names.none()
        given = given_workspace_id(git_dir) if ID_FILE in own else None
        own_id = given or old_workspace_id(path)
        head: bytes | None = None
        with suppress(OSError):
            head = read_head_file(git_dir)
        named = head is not None and head.startswith(b"ref: ") and not head.startswith(NO_HEAD)
        branch = os.fsdecode(head[5:].strip()) if head is not None and named else None
        marker = shared.pending.get(own_id)
        context, status = read_context(git_dir) if CONTEXT_FILE in own else (Context(), None)
        dead_locks = gitdir.dead_locks_among(git_dir, names.listed or ()) + (
            () if common == git_dir else shared.dead_locks
        )
        return WorkspacePeek(
            path,
            None,
            None,
            git_dir,
            common,
            own_id,
            branch,
            marker,
            shared.checkpoints.get(own_id),
            context,
            status,
            owner_state(git_dir, context) if status is not None else "unknown",
            b"journal" in own and os.path.lexists(git_dir + b"/gitstate/journal"),
            (*dead_locks, *_dead_branch_lock(common, branch)),
            (*shared.damage, *_damage(git_dir, common, head, branch, marker, shared.reftable)),
            shared.reftable,
            any(name != own_id for name in shared.pending),
            shared.fetched,
            shared.dismissed,
            own_id in shared.unfinished,
        )

    def _resolved(self, path: bytes) -> bytes:
        """`os.path.realpath`, which resolves each directory of many workspaces once."""
        above, name = os.path.split(path)
        if name in (b"", b".", b"..") or os.path.islink(path):
            return os.path.realpath(path)
        known = self._parents.get(above)
        if known is None:
            known = self._parents[above] = os.path.realpath(above)
        return os.path.join(known, name)

    def _foreign_uid(self, path: bytes, infos: Collection[os.stat_result]) -> int | None:
        """The uid of another user who owns a part, as git checks it; None where all is ours, or `path` is trusted."""
        mine = os.geteuid()
        others = [info.st_uid for info in infos if info.st_uid != mine]
        if not others:
            return None
        if self._trusted is None:
            self._trusted = frozenset(self._ask())
        return None if path in self._trusted else others[0]


def peek_shared(common: bytes, names: _Names) -> SharedPeek:
    """What the files of a common git directory say about all its worktrees."""
    prefixes = (PENDING, CHECKPOINTS, FETCHED, DISMISSED, UNFINISHED)
    pending, checkpoints, *others, unfinished = refs.read_refs_below(common, *prefixes)
    damage = []
    config = files.read_limited(common + b"/config", 16 << 20)
    if config is not None and not config.strip(b"\0"):
        damage.append("config is empty")
    reftable = (b"reftable" in names and os.path.isdir(common + b"/reftable")) or _stores_refs_elsewhere(config or b"")
    # Loose refs of these stand deeper below: the directory tells.
    fetched, dismissed = (
        bool(found) or os.path.isdir(os.path.join(common, os.fsencode(prefix)))
        for found, prefix in zip(others, (FETCHED, DISMISSED), strict=True)
    )
    inside = {name.partition("/")[0] for name in unfinished}
    with suppress(OSError):
        inside.update(map(os.fsdecode, os.listdir(os.path.join(common, os.fsencode(UNFINISHED)))))
    dead_locks = gitdir.dead_locks_among(common, names.listed or ())
    found = (pending, checkpoints, dead_locks, tuple(damage), reftable, fetched, dismissed)
    return SharedPeek(*found, frozenset(inside))


def _stores_refs_elsewhere(config: bytes) -> bool:
    """Whether a configuration says that refs are no files here: from git 2.54 on it may name a place for them."""
    if b"refstorage" not in config.lower():
        return False
    lines = (line.lower().partition(b"=") for line in config.split(b"\n"))
    return any(b"refstorage" in name and value.strip() != b"files" for name, _, value in lines)


def plain_toplevel(path: bytes) -> bytes | None:
    """The top of the worktree at `path`, symlinks resolved, where files alone tell it: for many, without a process.

    None where git has to be asked: it is below the top or linked, a part belongs to another user, or its configuration
    has more than plain lines, an included file, or a word about where the worktree is.
    """
    try:
        infos = [os.lstat(path + name) for name in (b"/.git", b"/.git/objects", b"/.git/refs", b"/.git/config")]
        mine = {info.st_uid for info in (*infos, os.stat(path))} == {os.geteuid()}
    except OSError:
        return None
    head = files.read_limited(os.path.join(path, b".git", b"HEAD"), _SMALL) or b""
    config = files.read_limited(os.path.join(path, b".git", b"config"), _SMALL)
    is_head = head.startswith(b"ref: refs/") or is_oid(head.strip().decode("latin-1"))
    all_directories = all(stat.S_ISDIR(info.st_mode) for info in infos[:3])
    if not mine or not is_head or not all_directories or config is None or not _is_plain_config(config):
        return None
    return os.path.realpath(path)


def _is_plain_config(config: bytes) -> bool:
    """Whether each line is a section or `name = value` without a quote or an escape, and none moves the worktree."""
    for line in map(bytes.strip, config.lower().split(b"\n")):
        name, equals, value = (part.strip() for part in line.partition(b"="))
        if line.startswith(b"["):
            plain = line.endswith(b"]") and line[1:-1].isalnum() and line not in (b"[include]", b"[includeif]")
        elif name == b"bare":
            plain = value == b"false"
        else:
            plain = bool(equals) and name[:1].isalpha() and name.isalnum() and value.isalnum() and name != b"worktree"
        if line and not plain:
            return False
    return True


def worktree_ids(common: bytes, *, listed: bool = False) -> set[str]:
    """The workspace ids of the worktrees of a repository that exist, from its files.

    `listed`: those too that git lists, and whose directory is missing: it may be on a disk that is not mounted.
    """
    main = given_workspace_id(common)
    ids = set() if main is None else {main}
    if os.path.basename(common) == b".git":
        ids.add(workspace_id_of(common, os.path.realpath(os.path.dirname(common))))
    try:
        for name in os.listdir(os.path.join(common, b"worktrees")):
            admin = os.path.join(common, b"worktrees", name)
            dot_git = gitdir.path_named_in(os.path.join(admin, b"gitdir"), b"", admin)
            given = given_workspace_id(admin) if listed else None
            ids |= set() if given is None else {given}
            if dot_git is not None and os.path.lexists(dot_git):
                ids.add(workspace_id_of(admin, os.path.realpath(os.path.dirname(dot_git))))
    except OSError:
        pass
    return ids


def _dead_branch_lock(common: bytes, branch: str | None) -> tuple[bytes, ...]:
    lock = os.path.join(common, os.fsencode(branch or "HEAD") + b".lock")
    there = branch is not None and os.path.lexists(lock)
    return (lock,) if there and gitdir.is_dead_lock(lock) else ()


def _is_below_refs(branch: str) -> bool:
    return len(branch) > 5 and branch.startswith("refs/") and "\0" not in branch and ".." not in branch


def _damage(
    git_dir: bytes, common: bytes, head: bytes | None, branch: str | None, marker: Oid | None, reftable: bool
) -> list[str]:
    found = []
    is_elsewhere = reftable and head is not None and head.startswith(NO_HEAD)
    if head is None or not (branch is not None or is_elsewhere or is_oid(head.strip().decode("latin-1"))):
        found.append("HEAD is empty or names nothing" if head is not None else "HEAD is missing")
    if not reftable and branch is not None and _is_below_refs(branch):
        value = files.read_limited(os.path.join(common, os.fsencode(branch)), _SMALL)
        if value is not None and not value.startswith(b"ref: ") and not is_oid(value.strip().decode("latin-1")):
            found.append(f"{branch} is empty")
    if marker == "":
        found.append("the marker of the pending save is empty")
    with suppress(OSError):
        index = os.open(git_dir + b"/index", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if os.read(index, 4) != b"DIRC":
                found.append("the index is empty or torn")
        finally:
            os.close(index)
    return found
