"""Holds the repositories inside a workspace in the repository around them: their own saves go where they go.

A small one is held whole. Of a large one what a remote has is not held but for the files of the commits that the rest
stands on: it comes back as a shallow clone. A checkpoint adds a pack of what is new. Nothing of it can cost the save.
"""

from __future__ import annotations

import os
import select
import time

from ..errors import GitstateError, words_of
from ..format.inside import (
    HELD_FILES,
    MOST_HELD,
    MOST_PACKS,
    MOST_REFS,
    PACKS,
    RECORD,
    HeldRepository,
    read_inside,
)
from ..format.manifest import SAVED_INSIDE, LeftOut
from ..format.names import (
    CHECKPOINTS,
    INSIDE,
    NOTES,
    OWN,
    PENDING,
    SAVES,
    SUBJECT_INSIDE,
    UNFINISHED,
    WORKTREES,
    inside_ref,
    workspace_id,
)
from ..git import refs
from ..git.permitted import without_filters
from ..git.refs import RefUpdate
from ..git.repository import head_of, read_head
from ..objects.edit import edit_tree
from ..objects.pack import TooLate
from ..objects.reader import LARGE, format_commit
from ..objects.tree import DIRECTORY, REGULAR, Leaf
from ..system import files
from ..system.clock import Deadline
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, suppress
from .held_parts import has_lfs_objects, held_files, held_settings, stashed, worktree_heads
from .request import until_collected

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ..format.inside import Held
    from ..git.command import Oid
    from ..git.repository import Repository
    from .build import Builder
    from .facts import Scene
    from .request import SaveRequest

#: A repository whose packs have more bytes is not held whole, and none is held in more than `MOST`.
WHOLE, MOST = 16 << 20, 128 << 20
#: Without a deadline git has so many seconds for one of them.
_SECONDS = 60.0
#: So many commits that no remote has are held of a large one.
_MOST_COMMITS = 50_000
#: The packs that were added may grow to so many bytes, or to the size of the first, before all is packed anew.
_LITTLE = 1 << 20
#: So many broken refs are named.
_SHOWN = 4
#: What makes a pack quickly, and reads none of the files that only make that faster.
_PACK = (
    *("-c", "core.commitGraph=false", "-c", "core.multiPackIndex=false", "-c", "pack.useBitmaps=false"),
    *("pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset", "--window=0", "--compression=1"),
)
_TOO_LATE = "there was no time for it"
#: A part of it is held: how a reason begins.
_HOLDS = "this repository holds "
_IN_PART = _HOLDS + "only what no remote has of it: the rest"


class InsideHolder:
    """Holds the repositories that the save of `scene` met; then `updates` are the refs to move with those of the save.

    Notes in the snapshot which of them are not held, and why.
    """

    def __init__(self, builder: Builder, request: SaveRequest, scene: Scene) -> None:
        self._builder = builder
        self._repository = builder.repository
        self._kind, self._replaces = request.kind, request.replaces
        self._taken = scene.taken
        self._own = workspace_id(builder.repository)
        self._before = self._read(inside_ref(self._own))
        self._tip = refs.read_refs(builder.repository, [inside_ref(self._own)]).get(inside_ref(self._own))
        self._entries: dict[bytes, Leaf] = {}
        end = until_collected(request)
        paths = [item.path for item in scene.nested]
        for number, path in enumerate(paths[:MOST_HELD]):
            seconds = min(_SECONDS, end.left() / (len(paths) - number))
            why, lost = self._hold(path, scene.inside.get(path), seconds)
            self._note(path, why, is_opened=path in scene.inside, lost=lost)
        for path in paths[MOST_HELD:]:
            self._note(path, "there are too many", is_opened=path in scene.inside)

    def _note(self, path: bytes, why: str | None, *, is_opened: bool, lost: bool = False) -> None:
        """Note that the repository at a path is held now, or `why` not; None where nothing is to be said of it."""
        left_out = self._taken.left_out
        if why is not None and path in self._before:
            self._entries.setdefault(path, Leaf(DIRECTORY, self._before[path].tree))
        if why is None or not is_opened:
            return
        left_out[:] = [item for item in left_out if (item.path, item.reason) != (path, SAVED_INSIDE)]
        if why:
            words = why if why.startswith(_HOLDS) else f"this repository does not hold it: {why}"
            left_out.append(LeftOut(path, f"{SAVED_INSIDE}; {words}"[:1000], lost))

    def _hold(self, path: bytes, inside: Repository | None, seconds: float) -> tuple[str | None, bool]:
        """Why it is not held as `_note` takes it, and whether something is lost with it."""
        if inside is None:
            # Its save failed, and that was said.
            return "", False
        if inside.common_dir == self._repository.common_dir:
            # A worktree of this repository: no save of it goes with the directory.
            return None, False
        if seconds <= 0.0:
            return _TOO_LATE, False
        deadline = Deadline(seconds)
        try:
            packer = _Packer(self._builder, inside, self._before.get(path), deadline)
            self._entries[path] = packer.hold(path)
            rest = [f"{_IN_PART} has more than {MOST >> 20} MiB"] if packer.needs_more else []
            return "; ".join([*rest, *packer.missed]), packer.lost
        except TooLate:
            return _TOO_LATE, False
        except _NotHeld as error:
            return words_of(error)[:300], False
        except (GitstateError, OSError, ValueError) as error:
            self._builder.reader.restart()
            return (_TOO_LATE, False) if deadline.passed() else (words_of(error)[:300], True)

    def _read(self, ref: str) -> dict[bytes, Held]:
        """What a ref holds; what can't be read is held anew."""
        try:
            return read_inside(self._repository, self._builder.reader, ref)
        except (GitstateError, OSError, ValueError):
            self._builder.reader.restart()
            return {}

    def updates(self, save_id: str | None) -> list[RefUpdate]:
        """Move the ref of the latest, and the one beside the save of this id, to what is held now."""
        names = [inside_ref(self._own)]
        if self._kind == "save" and save_id is not None:
            names.append(inside_ref(self._own, save_id))
        if not self._entries:
            return []
        early = None if self._replaces in (None, save_id) else inside_ref(self._own, self._replaces or "")
        seen = refs.read_refs(self._repository, [*names, *([early] if early else [])])
        latest = self._commit(self._entries, self._tip)
        found = [RefUpdate(names[0], latest, seen.get(names[0]))]
        for name in names[1:]:
            old = seen.get(name)
            # A save that holds all still may hold one that is gone by now.
            kept = {} if old is None else self._read(name)
            entries = {path: Leaf(DIRECTORY, held.tree) for path, held in kept.items()} | self._entries
            found.append(RefUpdate(name, latest if entries == self._entries else self._commit(entries, old), old))
        if early in seen:
            found.append(RefUpdate(early or "", None, seen[early or ""]))
        return [update for update in found if update.new != update.old]

    def _commit(self, entries: dict[bytes, Leaf], old: Oid | None) -> Oid:
        """The commit that holds these; `old` where that one does."""
        builder = self._builder
        changes = {b"%d" % number: leaf for number, (_, leaf) in enumerate(sorted(entries.items()))}
        tree = edit_tree(None, changes, builder.trees, builder.writer.add)
        with suppress(GitstateError):
            if old is not None and builder.tree_of(old) == tree:
                return old
        return builder.writer.add("commit", format_commit(tree, [], builder.stamp(), SUBJECT_INSIDE + "\n"))


class _Packer:
    """Packs one repository, until the deadline. `before` is what is held of it."""

    def __init__(self, builder: Builder, inside: Repository, before: Held | None, deadline: Deadline) -> None:
        self._builder = builder
        self._inside = without_filters(inside)
        self._git = self._inside.git
        self._before = before
        self._deadline = deadline
        #: Whether what is held needs commits that are not.
        self.needs_more = False
        #: What is said of it beside: what is not held of it, each as a sentence. Whether something is lost with that.
        self.missed: list[str] = []
        self.lost = False
        self._stashes: list[Oid] = []
        self._files: dict[bytes, bytes] = {}

    def hold(self, path: bytes) -> Leaf:
        """The directory that holds it now. Raises TooLate, GitstateError, OSError, ValueError."""
        own = workspace_id(self._inside)
        head = read_head(self._inside.git_dir) or head_of(self._inside.toplevel)
        elsewhere = None
        if self._inside.git_dir != self._inside.common_dir:
            place = self._inside.common_dir
            place = os.path.dirname(place) if os.path.basename(place) == b".git" else place
            elsewhere = text_to_json(os.fsdecode(place))
        if head is None:
            raise GitstateError("its HEAD can't be read")
        is_submodule = not self._inside.git_dir.startswith(os.path.join(self._inside.toplevel, b""))
        self._files, too_large = held_files(self._inside)
        found = self._refs()
        commit = found.get(head, head if not head.startswith("refs/") else None)
        if elsewhere is None:
            self._miss(too_large, lost=True)
            found = self._with_tips(found, commit)
        shallow = (files.read_limited(os.path.join(self._inside.git_dir, b"shallow"), 4 << 20) or b"").decode("ascii")
        whole = HeldRepository(
            path,
            own,
            self._inside.object_format,
            is_submodule,
            head,
            tuple(sorted(found.items())),
            tuple(sorted(shallow.split())),
            held_settings(self._run("config", "--local", "--no-includes", "--list", "-z")),
            is_cut=False,
            needs=(),
            elsewhere=elsewhere,
            sizes=(),
        )
        if elsewhere is not None:
            # The saves of a worktree stand in the repository that it is of.
            return self._written(whole._replace(refs=(), shallow=(), settings=()), {})
        if not self._is_large(found):
            with suppress(_TooLarge):
                return self._packed(whole, commit, WHOLE)
        kept, local, ends = self._without_remote(found, commit)
        cut = {*ends, *(oid for oid in whole.shallow if oid in local)}
        record = whole._replace(refs=tuple(sorted(kept.items())), shallow=tuple(sorted(cut)), is_cut=True)
        tips = sorted({*kept.values(), *([commit] if commit else []), *self._stashes})
        if self._size_on_disk([f"{oid}^{{tree}}" for oid in ends]) > MOST:
            record = record._replace(needs=tuple(sorted(ends)))
        if self._size_on_disk([*tips, *(f"^{oid}" for oid in ends)]) <= MOST:
            with suppress(_TooLarge):
                return self._packed(record, commit, MOST)
        raise _NotHeld(f"it has more than {MOST >> 20} MiB that its remotes do not have")

    def _size_on_disk(self, asked: Sequence[str]) -> int:
        """The bytes of these objects and all that they reach, as git keeps them."""
        lines = "".join(f"{line}\n" for line in asked).encode("ascii")
        return int(self._run("rev-list", "--objects", "--disk-usage", "--stdin", input=lines)) if asked else 0

    def _run(self, *args: str, input: bytes = b"") -> bytes:
        return self._git.run(*args, input=input, timeout=self._deadline.left())

    def _refs(self) -> dict[str, Oid]:
        """Its refs, but for symbolic ones and those of saves that are not pending."""
        out = self._run("for-each-ref", "--format=%(objectname) %(symref) %(refname)")
        found = {}
        for line in out.decode("utf-8", "surrogateescape").split("\n")[:-1]:
            oid, target, ref = line.split(" ", 2)
            if not target:
                found[ref] = oid
        own = (PENDING, CHECKPOINTS, INSIDE, UNFINISHED, WORKTREES)
        alive = {oid for ref, oid in found.items() if ref.startswith(own)}
        return {
            ref: oid
            for ref, oid in found.items()
            if not ref.startswith(OWN) or ref.startswith(own) or (ref.startswith(SAVES) and oid in alive)
        }

    def _with_tips(self, found: dict[str, Oid], commit: Oid | None) -> dict[str, Oid]:
        """The refs that name an object, and one for each commit that only the HEAD of a linked worktree keeps.

        Finds the stashes too, and names what is not held.
        """
        stashes, heads = stashed(self._files), worktree_heads(self._inside)
        there = {*self._existing({*found.values(), *stashes, *heads, *([commit] if commit else [])})}
        at_head = [commit] if commit is not None and commit in there else []
        self._stashes = [oid for oid in stashes if oid in there]
        broken = sorted(ref for ref, oid in found.items() if oid not in there)
        named = ", ".join(broken[:_SHOWN]) + (", …" if len(broken) > _SHOWN else "")
        self._miss([f"{named} (the object is missing)"] if broken else [], lost=False)
        found = {ref: oid for ref, oid in found.items() if oid in there}
        kept = {*found.values(), *self._stashes, *at_head}
        if alone := [oid for oid in heads if oid in there and oid not in kept]:
            asked = "".join(f"{line}\n" for line in [*alone, *(f"^{oid}" for oid in sorted(kept))]).encode("ascii")
            listed = {*self._run("rev-list", "--stdin", input=asked).decode("ascii").split()}
            found.update({WORKTREES + oid: oid for oid in alone if oid in listed})
        if has_lfs_objects(self._inside.common_dir):
            words = "the objects of git-lfs, which only its remote may have"
            # A save is of what the worktree has, and none of its commits is in a remote.
            tips = {oid for ref, oid in found.items() if ref.startswith(WORKTREES) or not ref.startswith((OWN, NOTES))}
            asked = "".join(f"{oid}\n" for oid in sorted({*tips, *self._stashes, *at_head})).encode("ascii")
            local = self._run("rev-list", "--max-count=1", "--stdin", "--not", "--remotes", input=asked)
            self._miss([words], lost=bool(local))
        return found

    def _miss(self, names: Sequence[str], *, lost: bool) -> None:
        """Note what is not held of it."""
        self.missed += [f"{_HOLDS}it without {name}" for name in names]
        self.lost = self.lost or bool(names and lost)

    def _is_large(self, found: Collection[str]) -> bool:
        """Whether it is not held whole: its packs are large, some of its objects are elsewhere, or it has many refs."""
        if len(found) > MOST_REFS or self._inside.promisors():
            return True
        size = 0
        with suppress(FileNotFoundError), os.scandir(os.path.join(self._inside.objects, b"pack")) as entries:
            for entry in entries:
                size += entry.stat(follow_symlinks=False).st_size if entry.name.endswith(b".pack") else 0
        return size > WHOLE

    def _without_remote(
        self, found: dict[str, Oid], commit: Oid | None
    ) -> tuple[dict[str, Oid], Collection[Oid], Collection[Oid]]:
        """The refs that are held of a large repository, the commits that no remote has, and those they stand on."""
        remote = ("refs/remotes/", "refs/tags/")
        tips = {oid for ref, oid in found.items() if not ref.startswith(remote)}
        tips.update(self._stashes, [commit] if commit else [])
        there = {oid for ref, oid in found.items() if ref.startswith("refs/remotes/")}
        asked = "".join(f"{line}\n" for line in [*sorted(tips), *(f"^{oid}" for oid in sorted(there))]).encode("ascii")
        most = f"--max-count={_MOST_COMMITS}"
        listed = self._run("rev-list", "--parents", most, "--stdin", input=asked).decode("ascii").split("\n")[:-1]
        if len(listed) == _MOST_COMMITS:
            raise _NotHeld("too many of its commits are in no remote")
        local = {line.split(" ", 1)[0] for line in listed}
        parents = {parent for line in listed for parent in line.split(" ")[1:]}
        ends = (parents | ({commit} if commit else set())) - local
        return {ref: oid for ref, oid in found.items() if oid in local or oid in ends}, local, ends

    def _same_info(self) -> bool:
        held = {} if self._before is None else self._before.files
        now = {name: self._builder.writer.add("blob", data) for name, data in self._files.items()}
        return all((held[name].oid if name in held else None) == now.get(name) for name in HELD_FILES)

    def _packed(self, record: HeldRepository, commit: Oid | None, limit: int) -> Leaf:
        """Pack what is not held yet. Raises as `hold` does, and _TooLarge."""
        builder, before = self._builder, self._before
        self.needs_more = bool(record.needs)
        if before is not None and record._replace(sizes=before.record.sizes) == before.record and self._same_info():
            return Leaf(DIRECTORY, before.tree)
        sizes: list[int] = []
        packs: dict[bytes, Leaf] = {}
        held: Iterable[Oid] = ()
        if before is not None and _continues(before.record, record):
            sizes = [*before.record.sizes]
            packs = builder.trees.tree(before.files[PACKS].oid).leaves()
            held = self._existing({*dict(before.record.refs).values()})
            record = record._replace(
                shallow=tuple(sorted({*record.shallow, *before.record.shallow})),
                needs=tuple(sorted({*record.needs, *before.record.needs})),
            )
        tips = {*dict(record.refs).values(), *([commit] if commit else []), *self._stashes}
        cut = [f"--shallow {oid}" for oid in record.shallow if oid not in record.needs]
        asked = [*cut, *sorted(tips), *(f"^{oid}" for oid in (*held, *record.needs))]
        leaf, size = self._pack("".join(f"{line}\n" for line in asked).encode("ascii"), limit - sum(sizes))
        if leaf is not None:
            packs[b"%d" % len(sizes)] = leaf
            sizes.append(size)
        return self._written(record._replace(sizes=tuple(sizes)), packs)

    def _written(self, record: HeldRepository, packs: Mapping[bytes, Leaf]) -> Leaf:
        builder = self._builder
        entries: dict[bytes, Leaf | None] = {PACKS + b"/" + name: leaf for name, leaf in packs.items()}
        entries[RECORD] = Leaf(REGULAR, builder.writer.add("blob", record.to_bytes()))
        for name, data in self._files.items():
            entries[name] = Leaf(REGULAR, builder.writer.add("blob", data))
        return Leaf(DIRECTORY, edit_tree(None, entries, builder.trees, builder.writer.add))

    def _existing(self, oids: Iterable[Oid]) -> list[Oid]:
        """Those of the objects that the repository has."""
        tips = sorted(oids)
        asked = "".join(f"{oid}\n" for oid in tips).encode("ascii")
        lines = self._run("cat-file", "--batch-check=%(objecttype)", input=asked).split(b"\n")
        return [oid for oid, kind in zip(tips, lines, strict=False) if not kind.endswith(b" missing")]

    def _pack(self, asked: bytes, limit: int) -> tuple[Leaf | None, int]:
        """A pack as a blob, and its size; None for one without objects. Raises as `_packed`."""
        path = files.temporary_name(os.path.join(self._builder.repository.own, b"inside"))
        fd = files.open_own(path, os.O_RDWR)
        try:
            files.discard(path)
            size = self._write(fd, asked, limit)
            head = os.pread(fd, 12, 0)
            if head[8:12] == b"\0\0\0\0":
                return None, 0
            os.lseek(fd, 0, os.SEEK_SET)
            writer = self._builder.writer
            if size > LARGE:
                return Leaf(REGULAR, writer.add_file(fd, size, self._deadline)), size
            return Leaf(REGULAR, writer.add("blob", os.pread(fd, size, 0))), size
        finally:
            os.close(fd)

    def _write(self, fd: int, asked: bytes, limit: int) -> int:
        """Let git write a pack of no more than `limit` bytes to a file; returns its size."""
        process = self._git.start(*_PACK)
        size = 0
        try:
            process.end_input(asked)
            poll = select.poll()
            poll.register(process.stdout, select.POLLIN)
            while True:
                if not process.ready(poll, time.monotonic() + self._deadline.left()) and self._deadline.passed():
                    raise TooLate
                data = os.read(process.stdout.fileno(), 1 << 20)
                if not data:
                    break
                size += len(data)
                if size > limit:
                    raise _TooLarge
                files.write_all(fd, data)
        except BaseException:
            process.kill_all()
            process.wait()
            raise
        self._git.finish(process)
        return size


class _NotHeld(GitstateError):
    """A limit of ours keeps a repository that is whole from being held."""


class _TooLarge(Exception):
    """A pack has more bytes than it may have."""


def _continues(before: HeldRepository, record: HeldRepository) -> bool:
    """Whether one more pack is enough: else all is packed anew, and the packs of before need not be kept."""
    first, *more = before.sizes or (0,)
    same = (before.workspace_id, before.object_format) == (record.workspace_id, record.object_format)
    same = same and bool(record.needs or not before.needs)
    return same and 0 < len(before.sizes) < MOST_PACKS and sum(more) <= max(first, _LITTLE)
