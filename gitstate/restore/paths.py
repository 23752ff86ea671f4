"""Paths of a save → what each was, what is there now, what is to be done. Read-only."""

from __future__ import annotations

from ..format.archive import refuse_unsafe, replacement_of, stage_paths, tree_of_base
from ..format.manifest import Save
from ..format.names import save_time_ns, workspace_id
from ..git.command import Git, Oid
from ..git.repository import Repository, folds_case
from ..objects.reader import ObjectReader, commit_head
from ..objects.tree import DIRECTORY, GITLINK, REGULAR, SYMLINK, Leaf, TreeReader, parents_of
from ..system.process import boot_id, boot_time_ns
from ..system.stdlib import TYPE_CHECKING, Record
from ..workspace.files import MISSING, FileState, Worktree
from ..workspace.live_context import state_name
from .choices import Choice, Outcome, Target, step
from .differences import TreeDifferences

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from typing import Literal

    from ..git.scan import WorktreeScan
    from ..snapshot.hidden import ListedNames
    from ..system.child import Child
    from .checkout_oids import CheckoutOids
    from .choices import Action

#: The kernel stamps files with the time of its last tick: at most this long ago.
_COARSE_CLOCK_NS = 10_000_000


class Workspace(Record):
    """A workspace that is held, and what its parts are read and written with."""

    repository: Repository
    git: Git
    """Its children hold the workspace too: for everything that writes."""
    reader: ObjectReader
    trees: TreeReader
    disk: Worktree
    """Its `sync` makes durable what was written through it."""
    ahead: WorktreeScan | None = None
    """It looks at all tracked files already, before it is read what is saved: see `index.scan_ahead`."""
    comparing: Child | None = None
    """It gets ready to compare trees: see `differences.compare_ahead`."""

    @classmethod
    def of(
        cls,
        repository: Repository,
        git: Git,
        reader: ObjectReader,
        ahead: WorktreeScan | None = None,
        comparing: Child | None = None,
    ) -> Workspace:
        disk = Worktree(repository.toplevel, repository.own, repository.object_format)
        return cls(repository, git, reader, TreeReader(reader), disk, ahead, comparing)

    @property
    def has_symlinks(self) -> bool:
        """Whether the file system can hold symlinks; git writes regular files in their place where it can't."""
        return self.repository.is_true("core.symlinks", True)


def as_written(workspace: Workspace, leaf: Leaf) -> Leaf:
    """An entry of a tree as it stands in this workspace: a symlink is a regular file where there are none."""
    return Leaf(REGULAR, leaf.oid) if leaf.mode == SYMLINK and not workspace.has_symlinks else leaf


def leaves_of(workspace: Workspace, root: Oid | None, paths: Iterable[bytes]) -> dict[bytes, Leaf]:
    """What a tree holds at each path, directories aside, as `as_written` has it."""
    looked_up = workspace.trees.lookup(root, paths).items()
    return {path: as_written(workspace, leaf) for path, leaf in looked_up if leaf.mode != DIRECTORY}


class SavedPaths:
    """The paths of a stack of saves, newest first. With `overwrite` the saved version wins over edited files."""

    def __init__(self, workspace: Workspace, saves: Sequence[Save], *, overwrite: bool = False) -> None:
        self.saves = saves
        self.newest = saves[0]
        self._workspace = workspace
        self._overwrite = overwrite
        #: The paths that the newest save skipped; None until somebody asks.
        self._left_out: frozenset[bytes] | None = None
        #: For a single save: what the commit that it stands on holds at the paths of `targets`.
        self.base: dict[bytes, Leaf] | None = None
        #: For a single save: what each of its trees holds at every path in which one differs from that of the base.
        self.told: dict[Oid | None, dict[bytes, Leaf | None]] = {}
        self._differences: TreeDifferences | None = None
        self._checkout_oids: CheckoutOids | None = None

    # -- what was

    def targets(self) -> list[Target]:
        """Every path that a save of the stack speaks of."""
        trees = self._workspace.trees
        roots: list[Oid | None] = []
        paths: set[bytes] = set()
        told = self.told = {}
        for save in self.saves:
            head_tree = self._tree_of_base(save)
            staged = save.files.get(b"staged")
            mine = [head_tree, save.wip_tree, *([staged[1]] if staged else [])]
            roots += mine
            if len(self.saves) == 1 and head_tree is not None:
                told = self.told = self._differences_from(head_tree).told()
                paths.update(path for path, leaf in told[head_tree].items() if told[save.wip_tree][path] != leaf)
            else:
                paths.update(self._differing(head_tree, save.wip_tree))
            shown = replacement_of(self._workspace.repository, self._workspace.reader, save.manifest.head)
            if shown is not None:
                roots.append(shown)
                paths.update(self._differing(head_tree, shown))
            paths.update(save.manifest.staged)
            paths.update(self._raw_paths(save), save.manifest.absent)
            for stage in (b"1", b"2", b"3"):
                paths.update(stage_paths(self._workspace.repository, trees, save, stage))
        outside = self._outside_of_the_cone()
        paths.update(outside)
        refuse_unsafe(paths)
        lookups = {root: self._leaves_beside(told.get(root, {}), root, paths) for root in dict.fromkeys(roots)}
        wip = lookups[self.newest.wip_tree]
        self.base = lookups[roots[0]] if told else None
        raw = self._raw(wip)
        modes = self._modes(wip)
        absent = {*self.newest.manifest.absent, *outside, *self._staged_outside(lookups)}
        never = state_name(self._workspace.repository)
        # Where only the WIP commit is left, nothing tells what was on the disk.
        is_as_stored = self.newest.archive == self.newest.wip
        targets = []
        for path in sorted(paths):
            if path == never and path not in wip:
                continue
            saved = None if path in absent else raw.get(path) or wip.get(path)
            bases = frozenset(leaf for lookup in lookups.values() if (leaf := lookup.get(path)) is not None)
            targets.append(Target(path, saved, modes.get(path), bases, is_as_stored))
        return targets

    def _differing(self, old: Oid | None, new: Oid) -> list[bytes]:
        from ..git.entries import differing_paths

        return differing_paths(self._workspace.repository, old, new)

    def foresee(self) -> None:
        """Let git read or compare the trees of a single save, while the caller does something else before `targets`."""
        base = self._tree_of_base(self.newest) if len(self.saves) == 1 else None
        if base is not None:
            self._differences_from(base).foresee(self._workspace.reader, self._workspace.comparing)

    def _differences_from(self, base: Oid) -> TreeDifferences:
        if self._differences is None or self._differences.base != base:
            self.end()
            workspace = self._workspace
            self._differences = TreeDifferences(workspace.repository, workspace.trees, self.newest, base)
        return self._differences

    def end(self) -> None:
        """Nobody asks for the targets any more."""
        if self._differences is not None:
            self._differences.end()

    def _outside_of_the_cone(self) -> list[bytes]:
        """The files of a sparse index's directories, where one is there now: no file of it was on the disk."""
        repository, tree = self._workspace.repository, self.newest.wip_tree
        refuse_unsafe(self.newest.manifest.sparse_directories)
        look = self._workspace.disk.look
        there = [path for path in self.newest.manifest.sparse_directories if look(path).kind == "directory"]
        if not there:
            return []
        from ..git.entries import list_tree_paths

        return [name for path in there for name in list_tree_paths(repository.git, tree, path)]

    def _staged_outside(self, lookups: Mapping[Oid | None, Mapping[bytes, Leaf]]) -> list[bytes]:
        """Paths that the index has in a directory outside of it, as after `git reset --soft`: none was on the disk."""
        outside, staged = set(self.newest.manifest.sparse_directories), self.newest.files.get(b"staged")
        if not outside or staged is None:
            return []
        return [path for path in lookups[staged[1]] if not outside.isdisjoint(parents_of(path))]

    def _leaves_beside(
        self, told: Mapping[bytes, Leaf | None], root: Oid | None, paths: Iterable[bytes]
    ) -> dict[bytes, Leaf]:
        """`leaves`, of which `told` are known already."""
        found = self.leaves(root, [path for path in paths if path not in told])
        found.update((path, as_written(self._workspace, leaf)) for path, leaf in told.items() if leaf is not None)
        return found

    def _tree_of_base(self, save: Save) -> Oid | None:
        """The tree that a save stands on; None where it was taken without it, and git still can't read it."""
        reader, head = self._workspace.reader, save.manifest.head
        if head is None:
            return None
        wip = reader.commit(save.wip)
        if wip is not None and not commit_head(wip).parents:
            from ..git.damaged.broken import is_whole

            if not is_whole(self._workspace.repository.git, head):
                return None
        return tree_of_base(reader, head)

    def unchanged(self, path: bytes, known: Iterable[bytes]) -> list[Target]:
        """The files at and below a path that the newest save holds but did not change; `known` are those it did."""
        from ..git.entries import list_tree_paths

        tree = self.newest.wip_tree
        names = list_tree_paths(self._workspace.repository.git, tree, path)
        refuse_unsafe(names)
        leaves = self.leaves(tree, set(names).difference(known))
        modes = self.newest.manifest.modes
        return [Target(name, leaf, modes.get(name), frozenset({leaf}), True) for name, leaf in leaves.items()]

    def leaves(self, root: Oid | None, paths: Iterable[bytes]) -> dict[bytes, Leaf]:
        return leaves_of(self._workspace, root, paths)

    def was_left_out(self, path: bytes) -> bool:
        """Whether the save could not read this path either: then there is nothing to restore."""
        if self._left_out is None:
            # Of tens of thousands of paths each may be asked for.
            self._left_out = frozenset(item.path.rstrip(b"/") for item in self.newest.manifest.left_out if item.path)
        known = self._left_out
        return bool(known) and (path in known or any(above in known for above in parents_of(path)))

    def _raw(self, wip: Mapping[bytes, Leaf]) -> dict[bytes, Leaf]:
        """Raw bytes by path: the newest save's, and those of older ones for files that did not change since."""
        trees = self._workspace.trees
        raw: dict[bytes, Leaf] = {}
        for number, save in enumerate(self.saves):
            names = self._raw_paths(save)
            tree = save.files.get(b"raw")
            mine = trees.lookup(tree[1] if tree else None, names)
            theirs = trees.lookup(save.wip_tree, names)
            for path, leaf in mine.items():
                if number == 0 or theirs.get(path) == wip.get(path) or save.manifest.raw[path] == "ignored":
                    raw.setdefault(path, Leaf(SYMLINK, leaf.oid) if save.manifest.raw[path] == "symlink" else leaf)
        return raw

    def _raw_paths(self, save: Save) -> list[bytes]:
        """Paths whose raw bytes count: each save tells of all hidden and clean files, only the newest's are true."""
        newest = save is self.newest
        return [path for path, why in save.manifest.raw.items() if newest or why not in ("hidden", "clean")]

    def _modes(self, wip: Mapping[bytes, Leaf]) -> dict[bytes, int]:
        """Permissions by path: the newest save's, and those of older ones for files that did not change since."""
        modes: dict[bytes, int] = dict(self.newest.manifest.modes)
        for save in self.saves[1:]:
            theirs = self._workspace.trees.lookup(save.wip_tree, save.manifest.modes)
            for path, mode in save.manifest.modes.items():
                if path in theirs and theirs[path] == wip.get(path):
                    modes.setdefault(path, mode)
        return modes

    # -- what is, and what is to be done

    def choices(self, targets: Iterable[Target], outcome: Outcome) -> list[Choice]:
        """What is to happen to each target. One that can't be read is noted in `outcome`."""
        targets = list(targets)
        theirs = self._in_submodules(targets)
        with self._workspace.disk.held_open():
            looks = [(target, seen, self._first_look(target, seen)) for target, seen in self._look(targets, outcome)]
            stored = [target.path for target, seen, action in looks if action == "same" and _is_stored(target, seen)]
            changing = self._as_git_writes().changed_by_checkout(stored) if stored else frozenset()
            looks = [
                (target, seen, "look" if action == "same" and target.path in changing else action)
                for target, seen, action in looks
            ]
            unclear = [target for target, _, action in looks if action == "look" and target.path not in theirs]
            if unclear:
                self._as_git_writes().foresee(map(self._with_its_commit, unclear))
            return [
                Choice(target, seen, "same" if target.path in theirs else self._action(target, seen, action))
                for target, seen, action in looks
            ]

    def _in_submodules(self, targets: Iterable[Target]) -> frozenset[bytes]:
        """The paths that the commit has as files, and that lie in a submodule by now: what is there is not ours.

        Where the index has the files, git wrote them into that directory since the save.
        """
        links = {target.path for target in targets if target.saved is not None and target.saved.mode == GITLINK}
        gone = [target.path for target in (targets if links else ()) if target.saved is None]
        below = [(path, link) for path in gone for link in parents_of(path) if link in links]
        if not below:
            return frozenset()
        from ..git.entries import list_index
        from ..snapshot.walk import is_nested

        repository = self._workspace.repository
        above = repository.toplevel + b"/"
        listed = list_index(repository.git, sorted({link for _, link in below}))
        there = {entry.path for entry in listed if entry.mode == GITLINK}
        there = {link for link in there if is_nested(repository, above + link, linked=True)}
        return frozenset(path for path, link in below if link in there)

    def _look(self, targets: Iterable[Target], outcome: Outcome) -> Iterator[tuple[Target, FileState]]:
        top = self._workspace.repository.toplevel
        names, targets = None, list(targets)
        if folds_case(top):
            from ..snapshot.hidden import ListedNames

            names, targets = ListedNames(top), _with_bases_of_other_names(targets)
        paths = {target.path for target in targets}
        for target in targets:
            try:
                seen = self._workspace.disk.look(target.path)
                if names is not None and seen.kind != "missing" and self._is_other_name(target, names, paths):
                    seen = MISSING
                yield target, seen
            except OSError as error:
                if not self.was_left_out(target.path):
                    outcome.could_not_write(target.path, error)

    def _is_other_name(self, target: Target, names: ListedNames, paths: Collection[bytes]) -> bool:
        """Whether what is at a target's path is a file of another name: two names of one file are one path.

        It is looked at under that name where the saves speak of it, and it is nothing to delete in any case.
        """
        listed = names.of(target.path)
        if listed is None or listed == target.path:
            return False
        from ..snapshot.hidden import is_same_text

        return listed in paths or (target.saved is None and not is_same_text(listed, target.path))

    def _first_look(self, target: Target, seen: FileState) -> Action | Literal["look"]:
        left_out = seen.kind == "special" and self.was_left_out(target.path)
        # Only git knows whether it has written a file that it converts.
        overwrite = self._overwrite and not (target.is_as_stored and seen.kind == "file")
        return step(target, seen, overwrite=overwrite, left_out=left_out)

    def _action(self, target: Target, seen: FileState, action: Action | Literal["look"]) -> Action:
        """What is to happen, where `_first_look` says that or to look on."""
        if action != "look":
            return action
        if self._is_checked_out(target, seen):
            return "same"
        if _is_stored(target, seen):
            # As after a checkout without the filter. Git has these bytes, and nothing is lost.
            return "write"
        if self._overwrite or seen.oid in self._as_git_writes().oids(target) or self._is_named(target):
            return "delete" if target.saved is None else "write"
        return "write" if target.saved is not None and self.is_cut_short(target) else "keep"

    def _is_checked_out(self, target: Target, seen: FileState) -> bool:
        """Whether only what git stores of the file is known, and the file is what git writes for it."""
        if not target.is_as_stored or target.saved is None:
            return False
        alone = target._replace(bases=frozenset({target.saved}))
        return seen.oid in self._as_git_writes().oids(alone) or self._is_named(alone)

    def _with_its_commit(self, target: Target) -> Target:
        """A target with all that `_action` asks git for among its bases."""
        if not target.is_as_stored or target.saved is None:
            return target
        return target._replace(bases=target.bases | {target.saved})

    def _as_git_writes(self) -> CheckoutOids:
        if self._checkout_oids is None:
            from . import checkout_oids

            self._checkout_oids = checkout_oids.CheckoutOids(self._workspace.repository, self._workspace.reader)
        return self._checkout_oids

    def _is_named(self, target: Target) -> bool:
        from .pointers import holds_what_is_named

        bases = [leaf.oid for leaf in target.bases if leaf.mode not in (SYMLINK, GITLINK)]
        return holds_what_is_named(self._workspace.disk, target.path, bases, self._workspace.reader)

    def is_cut_short(self, target: Target) -> bool:
        """Whether a power cut left only the beginning of a file that the agent had never synced, or that and zeros.

        File systems that allocate late (ext4, xfs, btrfs) then keep its name and times, and often not one byte.
        """
        assert target.saved is not None
        if not may_be_cut_short(self.newest, workspace_id(self._workspace.repository), boot_id()):
            return False
        disk, reader = self._workspace.disk, self._workspace.reader
        stamp = disk.stamp(target.path)
        info = reader.kinds([target.saved.oid])[0]
        if stamp is None or info is None or target.saved.mode in (SYMLINK, GITLINK):
            return False
        if not is_older_and_no_longer(self.newest, stamp, info[1], boot_time_ns()):
            return False
        saved = reader.stream(target.saved.oid)
        return is_what_is_left(saved, disk.read(target.path), same_size=stamp[0] == info[1])


def _is_stored(target: Target, seen: FileState) -> bool:
    """Whether a file holds what git stores of it, and only that is known of the save."""
    return target.is_as_stored and target.saved is not None and (seen.kind, seen.oid) == ("file", target.saved.oid)


def _with_bases_of_other_names(targets: list[Target]) -> list[Target]:
    """Where case is folded git may have written what it has at one path into a file that is listed under another."""
    from ..snapshot.hidden import folded

    bases: dict[str, frozenset[Leaf]] = {}
    for target in targets:
        key = folded(target.path)
        bases[key] = bases.get(key, frozenset()) | target.bases
    return [target._replace(bases=bases[folded(target.path)]) for target in targets]


def paths_with(choices: Iterable[Choice], action: Action) -> list[bytes]:
    """The paths to which `action` happens."""
    return [choice.target.path for choice in choices if choice.action == action]


def is_below(path: bytes, top: bytes) -> bool:
    """Whether `path` is `top`, or stands below it."""
    return path == top or path.startswith(top.rstrip(b"/") + b"/")


def may_be_cut_short(save: Save, workspace_id: str, boot: str | None) -> bool:
    """Whether a power cut can have left files of this workspace shorter than they were when they were saved.

    The save has to be of another boot, where it is known of which: files of a directory that was moved, or edited
    under a clock that was set back, look as if they were cut. And it has to have read the files of this very
    directory: what stands elsewhere was never whole there. A save made up from its WIP commit alone does not know
    where it was made.
    """
    if boot is not None and boot == save.context.boot_id:
        return False
    return save.archive != save.wip and save.manifest.workspace_id == workspace_id


def is_older_and_no_longer(save: Save, stamp: tuple[int, int], size: int, boot_ns: int | None) -> bool:
    """Whether a file with this `stamp` (see `Worktree.stamp`) is what is left of a saved file of `size` bytes.

    What was edited, or moved into place, after the save changed later. What did not, and was read in full, was cut.
    The save may have been made under a clock that was ahead: what changed since this boot began, at `boot_ns`, no power
    cut has left so.
    """
    length, changed_ns = stamp
    if boot_ns is not None and changed_ns >= boot_ns:
        return False
    return length <= size and changed_ns < (save_time_ns(save.manifest.save_id) or 0) - _COARSE_CLOCK_NS


def is_what_is_left(saved: Iterable[bytes], disk: Iterator[bytes], *, same_size: bool) -> bool:
    """Whether `disk` is a beginning of `saved`, and zeros after it, but not all of it. Reads `saved` to its end."""
    buffer = b""
    whole = fits = True  # so far: the same; the same, or zeros after that
    for part in saved:
        while fits and len(buffer) < len(part) and (more := next(disk, b"")):
            buffer += more
        mine, buffer = buffer[: len(part)], buffer[len(part) :]
        kept = mine.rstrip(b"\0")
        fits = fits and (part.startswith(kept) if whole else not kept)
        whole = whole and part.startswith(mine)
    return fits and not (whole and same_size)
