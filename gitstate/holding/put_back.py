"""Destroyed files → a checkpoint of the moment before: what is on disk, with these files back at their paths.

It stands beside the save that meets them, and is never what `recover` restores. Where a file vanished or went back to
HEAD, the checkpoint is kept as a save is, and `recover` offers it. Where newer work replaced it, it joins the history.
"""

from __future__ import annotations

import os
import stat
import time

from ..errors import GitstateError, MissingObject, words_of
from ..format.manifest import LeftOut, Reason
from ..format.names import (
    checkpoint_ref,
    history_ref,
    marker_ref,
    new_save_id,
    number_of,
    save_ref,
    save_time_ns,
    workspace_id,
)
from ..git import refs
from ..git.command import is_oid, object_id
from ..git.entries import latest_values
from ..git.refs import RefUpdate
from ..git.status import ignored_among
from ..objects.pack import ChangedWhileRead, TooLate
from ..objects.reader import LARGE, commit_head
from ..objects.tree import EXECUTABLE, REGULAR, Leaf, is_safe_path, parents_of
from ..save.build import Builder
from ..save.keeping import undone_work
from ..save.plan import PathVersions, SavePlan, is_undone
from ..snapshot.read import read_whole
from ..snapshot.record import Snapshot
from ..system import files
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record
from ..workspace.live_context import state_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..format.context import Context
    from ..git.command import Oid
    from ..git.repository import Repository
    from ..save.facts import Scene
    from ..save.request import SaveRequest
    from .held import Gone, Layer

#: What HEAD was on lately is no loss: so many entries of its reflog are looked at.
_LATELY = 20
_LONGEST_REFLOG = 1 << 20
#: The part of a save's deadline in which destroyed files are read.
_SHARE = 0.6


class Last(Record):
    """What was last known of a workspace while it was there."""

    toplevel: bytes
    common_dir: bytes
    own: str
    """Its workspace id."""
    head_ref: str | None
    head: Oid | None
    context: Context


class Destroyed:
    """What is held of destroyed files, for one save: the `beside` of its request."""

    def __init__(self, layers: Sequence[Layer], last: Last | None = None, *, is_gone: bool = False) -> None:
        self._layers = layers
        self.last = last
        """The workspace as it was, should it be gone now."""
        self._is_gone = is_gone

    def when_gone(self) -> Destroyed:
        """The same for a workspace that is gone."""
        return Destroyed(self._layers, self.last, is_gone=True)

    def __bool__(self) -> bool:
        return any(self._layers)

    def __len__(self) -> int:
        return sum(len(layer) for layer in self._layers)

    def __call__(self, builder: Builder, request: SaveRequest, scene: Scene) -> list[RefUpdate]:
        """The refs that keep what `build` builds."""
        return [update for update, _ in self.build(builder, request, scene)]

    def build(self, builder: Builder, request: SaveRequest, scene: Scene) -> list[tuple[RefUpdate, Oid]]:
        """A checkpoint for each layer: the ref that keeps it, and its tree. Raises GitstateError, OSError."""
        if not self:
            return []
        gone = self.last if self._is_gone else None
        elsewhere = _Elsewhere(builder, scene, workspace_id(builder.repository) if gone is None else gone.own)
        made, before = save_time_ns(builder.save_id) or time.time_ns(), elsewhere.undone()
        found = []
        for number, layer in enumerate(self._layers):
            # The one before the last destruction is the newest of them, and all are older than the save itself.
            save_id = new_save_id(number_of(builder.save_id), made - (number + 1) * 1000)
            inner = Builder(builder.repository, save_id, builder.writer, builder.reader)
            update = _Before(inner, request, scene, elsewhere).update(layer, {} if number else before)
            found += [] if update is None else [update]
        return found


class _Elsewhere:
    """Where else the version of a path may be, so that nothing was lost with it."""

    def __init__(self, builder: Builder, scene: Scene, own: str) -> None:
        self._builder = builder
        self._scene = scene
        self.own = own
        self._latest, self._pending = (
            builder.earlier(scene.seen.get(ref)) for ref in (checkpoint_ref(own), marker_ref(own))
        )

    def undone(self) -> dict[bytes, Leaf]:
        """What the latest checkpoint has and the worktree lost since."""
        if self._latest is None:
            return {}
        try:
            return undone_work(self._latest, self._builder, self._scene)
        except GitstateError:
            self._builder.reader.restart()
            return {}

    def versions(self, paths: Sequence[bytes]) -> Iterator[tuple[Mapping[bytes, Leaf], bool]]:
        """Path → leaf, for each place; and whether it is HEAD's tree."""
        builder, taken = self._builder, self._scene.taken
        head = builder.tree_of(taken.head)
        yield builder.trees.lookup(head, paths), True
        yield {path: leaf for path in paths if (leaf := taken.staged.get(path)) is not None}, False
        yield {path: leaf for path in paths if (leaf := taken.worktree.get(path)) is not None}, False
        trees = [save.wip_tree for save in (self._latest, self._pending) if save is not None]
        for commit in _lately(builder.repository):
            content = builder.commit_content(commit)
            trees += [] if content is None else [commit_head(content).tree]
        for tree in dict.fromkeys(trees):
            if tree != head:
                try:
                    yield builder.trees.lookup(tree, paths), False
                except MissingObject:
                    continue


def _lately(repository: Repository) -> list[Oid]:
    """The commits that HEAD was on lately."""
    if not refs.refs_are_files(repository):
        return list(dict.fromkeys(latest_values(repository.git, "HEAD")[:_LATELY]))
    data = files.read_limited(os.path.join(repository.git_dir, b"logs", b"HEAD"), _LONGEST_REFLOG) or b""
    found = [line.split(b" ", 2)[1].decode("ascii", "replace") for line in data.split(b"\n") if line.count(b" ") > 1]
    return [oid for oid in dict.fromkeys(reversed(found[-_LATELY:])) if is_oid(oid)]


class _Before:
    """One checkpoint: the snapshot of now, with the files of one layer put back."""

    def __init__(self, builder: Builder, request: SaveRequest, scene: Scene, elsewhere: _Elsewhere) -> None:
        self._builder = builder
        self._request = request
        self._scene = scene
        self._elsewhere = elsewhere
        self._now = scene.taken
        self._skipped: list[LeftOut] = []

    def update(self, layer: Layer, undone: Mapping[bytes, Leaf]) -> tuple[RefUpdate, Oid] | None:
        """The ref that keeps it, and its tree; None where nothing was lost."""
        read = self._read(layer)
        lost, is_kept = self._lost(read)
        if not lost and not self._skipped:
            return None
        taken = self._put_back({**undone, **{path: leaf for path, (leaf, _) in lost.items()}})
        for path, (leaf, permissions) in lost.items():
            if permissions != leaf.mode & 0o777:
                taken.modes[path] = permissions
            if self._converts():
                # The bytes as they were: git may have stored others.
                taken.raw[path] = (leaf, "filter")
        taken.left_out = [*taken.left_out, *self._skipped]
        builder = self._builder
        plan = SavePlan("saved", index_commit=bool(taken.staged) and taken.head is not None, base=taken.head)
        count = len(lost)
        detail = f"before {count} {'file was' if count == 1 else 'files were'} destroyed or replaced"
        request = self._request._replace(kind="checkpoint", reason=Reason(None, None, detail), label=None)
        own = self._elsewhere.own
        manifest = builder.manifest(request, plan, taken, self._scene.nested)._replace(workspace_id=own)
        built = builder.build(plan, taken, self._scene.context, manifest)
        ref = save_ref(own, builder.save_id) if is_kept else history_ref(own, builder.save_id)
        return RefUpdate(ref, built.archive, None), built.tree

    def _read(self, layer: Layer) -> dict[bytes, tuple[Leaf, int]]:
        """Path → blob and permissions, of the files that a checkpoint would hold."""
        builder, now = self._builder, self._now
        state_file = state_name(builder.repository)
        # What is in a submodule can't stand in the tree of the repository around it.
        inner = tuple(path.removesuffix(b"/") + b"/" for path in now.submodules)
        paths = [path for path in layer if is_safe_path(path) and path != state_file and not path.startswith(inner)]
        tracked: frozenset[bytes] | set[bytes] = frozenset()
        if now.scan is not None:
            tracked = {path for path in paths if path in now.scan.tracked.paths}
        ignored = ignored_among(builder.repository, [path for path in paths if path not in tracked])
        end = self._request.end
        deadline = Deadline(None) if end is None else end.part(_SHARE)
        found = {}
        for path in paths:
            if path in ignored:
                continue
            if deadline.passed():
                self._skip(path, "the deadline passed before it was read")
                continue
            read = self._read_one(path, layer[path], deadline)
            if read is not None:
                found[path] = read
        return found

    def _read_one(self, path: bytes, gone: Gone, deadline: Deadline) -> tuple[Leaf, int] | None:
        builder, growth = self._builder, self._request.growth
        top = os.path.join(builder.repository.toplevel, b"")
        try:
            if not os.fsencode(os.readlink(gone.link)).startswith(top):
                # It was moved out of the worktree, and is there; or a symlink led elsewhere.
                return None
            fd = os.open(gone.link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self._skip(path, f"unreadable: {words_of(error)}")
            return None
        try:
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) != gone.identity or not stat.S_ISREG(info.st_mode):
                return None
            size = info.st_size
            if growth is not None and size > growth.FREE:
                if size > growth.left and growth.is_last:
                    self._skip(path, f"{size} bytes: more than a checkpoint takes now")
                    return None
                if size > growth.left:
                    growth.missed.add(path)
                    return None
                growth.left -= size
            if size > LARGE:
                oid = builder.writer.add_file(fd, size, deadline)
            else:
                oid = builder.writer.add("blob", read_whole(fd, size))
        except (OSError, ChangedWhileRead, TooLate) as error:
            self._skip(path, f"unreadable: {words_of(error) if isinstance(error, OSError) else type(error).__name__}")
            return None
        finally:
            os.close(fd)
        permissions = stat.S_IMODE(info.st_mode) & 0o777
        if not builder.repository.is_true("core.filemode", True):
            permissions = 0o644
        return Leaf(EXECUTABLE if permissions & 0o100 else REGULAR, oid), permissions

    def _skip(self, path: bytes, why: str) -> None:
        self._skipped.append(LeftOut(path, f"destroyed before the save: {why}", True))

    def _lost(self, read: Mapping[bytes, tuple[Leaf, int]]) -> tuple[dict[bytes, tuple[Leaf, int]], bool]:
        """What of it is in no other place, and whether any of that was undone, not replaced by newer work."""
        empty = object_id(self._builder.repository.object_format, "blob", b"")
        left = {path: item for path, item in read.items() if item[0].oid != empty}
        head: Mapping[bytes, Leaf] = {}
        for leaves, is_head in self._elsewhere.versions([*left]):
            head = leaves if is_head else head
            same = [path for path, leaf in leaves.items() if path in left and leaf.oid == left[path][0].oid]
            for path in same:
                del left[path]
        is_kept = bool(self._skipped)
        for path, (leaf, _) in left.items():
            new = self._now_at(path, head)
            of_head = head[path].oid if path in head else None
            is_kept = is_kept or is_undone(PathVersions(leaf.oid, new, of_head, of_head), empty, follows=True)
        return left, is_kept

    def _now_at(self, path: bytes, head: Mapping[bytes, Leaf]) -> Oid | None:
        """What is at a path now, as the save has it."""
        for leaves in (self._now.worktree, self._now.staged, head):
            if path in leaves:
                leaf = leaves[path]
                return None if leaf is None else leaf.oid
        return None

    def _converts(self) -> bool:
        scan = self._now.scan
        repository = self._builder.repository
        return (scan is not None and scan.tracked.attributes) or bool(
            repository.autocrlf or repository.setting("core.attributesfile")
        )

    def _put_back(self, leaves: Mapping[bytes, Leaf]) -> Snapshot:
        """The snapshot of now with these files. What stands in their way, as a file or as a directory, gives way."""
        now, taken = self._now, Snapshot()
        vars(taken).update(vars(now))
        taken.worktree, taken.modes, taken.raw = dict(now.worktree), dict(now.modes), dict(now.raw)
        tracked = None if now.scan is None else now.scan.tracked
        above = {parent for path in leaves for parent in parents_of(path)}
        # Of a file and a directory of one name the directory stays.
        leaves = {path: leaf for path, leaf in leaves.items() if path not in above}
        for path in above:
            if taken.worktree.get(path) is not None or (tracked is not None and path in tracked.paths):
                taken.worktree[path] = None
        for path in [path for path, leaf in taken.worktree.items() if leaf is not None]:
            if _is_below(path, leaves):
                taken.worktree[path] = None
        for path in leaves:
            below = () if tracked is None else tracked.at_or_below(path)
            taken.worktree.update(dict.fromkeys((other for other in below if other != path), None))
            taken.modes.pop(path, None)
            taken.raw.pop(path, None)
        taken.worktree.update(leaves)
        # An empty directory that holds a file again is no longer one.
        taken.directories = {
            path: mode for path, mode in now.directories.items() if path not in above and path not in leaves
        }
        return taken


def _is_below(path: bytes, tops: Mapping[bytes, Leaf]) -> bool:
    return any(parent in tops for parent in parents_of(path))
