"""For each path: what it was and what is there → what happens to it, and what became of it. Pure: no git, no disk."""

from __future__ import annotations

from ..errors import MissingObject
from ..format.manifest import LeftOut
from ..objects.tree import GITLINK, SYMLINK, Leaf
from ..system.stdlib import TYPE_CHECKING, Record
from ..workspace.files import FileState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Literal

    from ..workspace.files import Worktree

    #: What happens to one path: nothing, the saved version is written, it is deleted, or the disk wins.
    Action = Literal["same", "write", "delete", "keep"]


class Target(Record):
    """What one path was at the save, and what git may have put there since."""

    path: bytes
    saved: Leaf | None
    """What the save holds; None where nothing was there."""
    permissions: int | None
    """The saved permissions; None where they are those that git gives."""
    bases: frozenset[Leaf]
    """What HEAD, index and WIP commit of each save of the stack hold at this path."""
    is_as_stored: bool = False
    """`saved` is what git stores of the file, not what was on the disk: it is written as git would check it out."""


class Choice(Record):
    """What is going to happen to one path."""

    target: Target
    seen: FileState
    action: Action


def step(
    target: Target, seen: FileState, *, overwrite: bool = False, left_out: bool = False
) -> Action | Literal["look"]:
    """The three-way choice for one path. `look`: the caller has to find out whether git or a power cut made this file.

    Disk equals saved: untouched. Disk equals a base, or nothing is there: the saved version is written, or deleted.
    Otherwise the disk wins. A file that is gone was wiped or deleted, nobody can tell; to write it overwrites nothing.

    `left_out`: the save could not read this path either.
    """
    saved = target.saved
    if seen.kind == "special" and left_out:
        return "same"
    if saved is None:
        if seen.kind in ("missing", "directory"):
            return "same"
        gone = _is_one_of(seen, target.bases) or (overwrite and seen.kind != "special")
        if not gone and seen.kind == "file" and any(leaf.mode not in (SYMLINK, GITLINK) for leaf in target.bases):
            return "look"
        return "delete" if gone else "keep"
    if seen.kind == "directory":
        # A file takes the place of empty directories alone: who writes it fails on all others.
        return "same" if saved.mode == GITLINK else "write"
    if saved.mode == GITLINK:
        return "write" if seen.kind == "missing" or _is_one_of(seen, target.bases) else "keep"
    if _is_one_of(seen, (saved,)):
        return "same"
    if seen.kind == "missing" or _is_one_of(seen, target.bases):
        return "write"
    if seen.kind == "file":
        return "write" if overwrite else "look"
    return "write" if overwrite and seen.kind == "link" else "keep"


def _is_one_of(seen: FileState, leaves: Collection[Leaf]) -> bool:
    kind = {"file": (0o100644, 0o100755), "link": (SYMLINK,)}.get(seen.kind, ())
    return any(leaf.oid == seen.oid and leaf.mode in kind for leaf in leaves)


def needs_safety_save(choices: Iterable[Choice]) -> bool:
    """Whether a file is going to be written or deleted."""
    return any(choice.action in ("write", "delete") for choice in choices)


def is_all_in(choices: Iterable[Choice], commit: Mapping[bytes, Leaf], umask: int) -> bool:
    """Whether each file that is going to be written or deleted is as git writes it from a commit's tree."""
    acts = [choice for choice in choices if choice.action in ("write", "delete")]
    return all(stands_as(choice.seen, commit.get(choice.target.path), umask) for choice in acts)


def stands_as(seen: FileState, leaf: Leaf | None, umask: int) -> bool:
    """Whether what is at a path is what git writes there for an entry of a commit; for None: nothing."""
    if leaf is None or seen.kind == "missing":
        return leaf is None and seen.kind == "missing"
    usual = {mode & ~mask & 0o777 for mask in (0o022, umask) for mode in _widest({leaf.mode})}
    return _is_one_of(seen, (leaf,)) and (leaf.mode == SYMLINK or seen.permissions in usual)


def wanted_permissions(target: Target, seen: FileState, umask: int) -> tuple[int | None, bool]:
    """Permissions that a file whose content is the saved one should have, None where it has them.

    The flag says whether git may have set those of now; otherwise someone did, and the disk wins there too.
    """
    if target.saved is None or target.saved.mode == SYMLINK or seen.kind != "file":
        return None, False
    wanted = target.permissions if target.permissions is not None else target.saved.mode & 0o777
    if seen.permissions == wanted:
        return None, False
    classes = {leaf.mode for leaf in (*target.bases, target.saved)}
    usual = {mode & ~mask & 0o777 for mask in (0o022, umask) for mode in _widest(classes)}
    return wanted, seen.permissions in usual


def _widest(modes: set[int]) -> set[int]:
    return {0o777 if mode & 0o100 else 0o666 for mode in modes}


class Outcome:
    """What has been done so far. The parts of a recovery add to it, and `conclude` reads it."""

    def __init__(self) -> None:
        #: Paths that were written, or whose permissions were set; in a dry run those that would be written.
        self.restored: list[bytes] = []
        #: Paths that were deleted, or would be.
        self.deleted: list[bytes] = []
        #: Paths where the disk, the index or the permissions of now win; one may stand here twice.
        self.kept: list[bytes] = []
        #: Places of submodules that were made: nothing was there.
        self.links: list[bytes] = []
        #: What could not be restored, with the reason.
        self.failed: list[LeftOut] = []
        #: One of these reasons can be mended by a person: the save stays pending.
        self.stuck = False
        #: The safety save; None where none was taken.
        self.safety: str | None = None
        #: Directories that were made writable, with the permissions that they had.
        self.opened: dict[bytes, int] = {}
        #: A repository inside the workspace was not recovered.
        self.nested_trouble = False
        #: Paths of those of them that a later recovery can bring back.
        self.unfinished: list[bytes] = []

    def could_not_write(self, path: bytes, error: OSError) -> None:
        """A path could not be restored, for a reason that a person can mend: the save stays pending."""
        self.failed.append(LeftOut(path, f"could not be written: {error.strerror}", True))
        self.stuck = True

    def could_not_read(self, path: bytes, error: MissingObject) -> None:
        """What the save holds of a path is damaged: it stays pending, since a copy of the object may turn up."""
        self.failed.append(LeftOut(path, f"could not be restored: {error.message}; look for it with: git fsck", True))
        self.stuck = True

    def could_not_chmod(self, path: bytes, error: OSError) -> None:
        self.failed.append(LeftOut(path, f"permissions could not be set: {error.strerror}", False))


def make_writable(disk: Worktree, path: bytes, saved: Mapping[bytes, int], outcome: Outcome) -> bool:
    """Let the owner write in the directories above a path. Whether any was changed; `close_directories` undoes it.

    One that was made read-only since the save (`saved` are its permissions of directories) stays so: somebody wants it.
    """
    changed = False
    names = path.split(b"/")[:-1]
    for depth in range(1, len(names) + 1):
        directory = b"/".join(names[:depth])
        mode = disk.permissions(directory)
        if mode is None:
            break
        if mode & 0o300 != 0o300:
            if saved.get(directory) != mode:
                break
            try:
                disk.set_permissions(directory, mode | 0o300)
            except OSError:
                # Somebody else's; or one that may not be read.
                break
            outcome.opened.setdefault(directory, mode)
            changed = True
    return changed


def close_directories(disk: Worktree, outcome: Outcome) -> None:
    """Give the directories that `make_writable` opened the permissions that they had."""
    for directory in sorted(outcome.opened, reverse=True):
        try:
            disk.set_permissions(directory, outcome.opened[directory])
        except OSError as error:
            outcome.could_not_chmod(directory, error)
    outcome.opened.clear()
