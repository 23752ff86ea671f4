"""Puts back what git keeps of a worktree in its git directory: the index, an unfinished operation, sparse patterns.

The index is the very file where it was kept, else its bytes, else rebuilt from trees. What was staged after the save
stays as it is now. An index of git's is only ever replaced by a rename under its own lock, and only if it is still
the one that was looked at.
"""

from __future__ import annotations

import os
import re
import stat
import time

from ..errors import CorruptSave, GitError
from ..format.archive import refuse_unsafe, stage_paths, tree_of_base
from ..format.manifest import LeftOut, Save
from ..git.command import Oid, is_oid, object_id
from ..git.entries import IndexEntry, differing_paths, list_index, list_unmerged, split_nul
from ..git.gitdir import is_operation_file, is_operation_ref
from ..git.index import (
    IndexMoved,
    file_identity,
    identify_index_at,
    index_lock,
    is_cut_index,
    is_torn_index,
    kept_index,
    link_or_copy,
)
from ..git.refs import refs_are_files
from ..git.repository import Repository
from ..objects.reader import LARGE
from ..objects.tree import GITLINK
from ..snapshot.record import is_attributes
from ..system import files
from ..system.stdlib import TYPE_CHECKING, digest, suppress
from ..workspace.ownership import next_index
from .paths import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

#: An index file of more bytes is not taken out of a save: some 5 million entries.
_INDEX_LIMIT = 512 << 20
_STAGES = (b"1", b"2", b"3")
#: What `ls-files -z --debug` prints of one entry: its path, and the stat data, of which the size counts here.
_DEBUG_LINES = re.compile(rb"([^\0]+)\0(?:  (?:ctime|mtime|dev|uid):[^\n]*\n){4}  size: (\d+)[^\n]*\n")


class SavedIndex:
    """The index as a stack of saves holds it, newest first: the oldest save's, and what later ones staged anew."""

    def __init__(self, workspace: Workspace, saves: Sequence[Save], original: Sequence[Save] = ()) -> None:
        self._repository = workspace.repository
        self._git = workspace.git
        self._reader = workspace.reader
        self._trees = workspace.trees
        self._saves = saves
        self._original = original
        self.oldest = saves[-1]

    def is_at(self, path: bytes) -> bool:
        """Whether the index file at `path` is the one that was saved."""
        entry, manifest = self.oldest.files.get(b"index"), self.oldest.manifest
        if entry is not None:
            return _file_oid(path, self._repository.object_format) == entry[1]
        there = identify_index_at(path)
        return there == (manifest.index_size, manifest.index_checksum, manifest.index_mtime_ns)

    def write(self, target: bytes) -> None:
        """The oldest save's index at `target`: the very file that was kept, else its copy, else rebuilt from trees."""
        save = self.oldest
        files.remove(target)
        kept = kept_index(self._repository, save.manifest.save_id)
        entry = save.files.get(b"index")
        if self.is_at(kept):
            link_or_copy(kept, target)
        elif entry is not None:
            self._refuse_large(entry[1])
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with open(fd, "wb") as file:
                for part in self._reader.stream(entry[1]):
                    file.write(part)
                file.flush()
                os.fsync(fd)
            mtime = save.manifest.index_mtime_ns or 0
            os.utime(target, ns=(mtime, mtime))
            self._verify(target)
        else:
            extra = {"GIT_INDEX_FILE": os.fsdecode(target)}
            self._git.run("read-tree", save.files[b"staged"][1], env=extra)
            lines = b"".join(self._unmerged_lines(save))
            self._git.run("update-index", "-z", "--index-info", input=lines, env=extra)
            self._add_intents(save.manifest.intent_to_add, target)

    def write_shared(self) -> None:
        """The shared index file that the saved index leans on, where it is gone."""
        name = self.oldest.manifest.shared_index
        entry = self.oldest.files.get(b"sharedindex")
        if name is None or entry is None:
            return
        path = os.path.join(self._repository.git_dir, b"sharedindex." + name.encode("ascii"))
        if not os.path.exists(path):
            self._refuse_large(entry[1])
            content = self._reader.contents([entry[1]])[0]
            if content is not None:
                files.write_atomic(path, content[1], mode=0o644, staging=self._repository.own)

    def _refuse_large(self, oid: Oid) -> None:
        for info in self._reader.kinds([oid]):
            if info is not None and info[1] > _INDEX_LIMIT:
                raise CorruptSave(f"the save holds an index of {info[1]} bytes; the limit is {_INDEX_LIMIT}")

    def add_later(self, target: bytes, more: Sequence[bytes]) -> None:
        """Add to the index at `target` what later saves staged anew, and `more` lines for `update-index`."""
        self._carry(target)
        lines = [*self._stacked_lines(), *more]
        if lines:
            self._git.run(
                *("-c", "core.splitIndex=false", "update-index", "-z", "--index-info"),
                input=b"".join(lines),
                env={"GIT_INDEX_FILE": os.fsdecode(target)},
            )
        self._add_intents([path for save in self._saves[:-1] for path in save.manifest.intent_to_add], target)

    def sizes(self, paths: Sequence[bytes]) -> dict[bytes, int]:
        """The size of each file when git looked at it last before the save; one that git does not know is missing."""
        if b"staged" not in self.oldest.files or self.oldest.manifest.index_size is None:
            return {}
        self.write_shared()
        target = next_index(self._repository)
        self.write(target)
        try:
            env = {"GIT_INDEX_FILE": os.fsdecode(target)}
            found = dict(_DEBUG_LINES.findall(self._git.run("ls-files", "-z", "--debug", env=env)))
        finally:
            files.remove(target)
        return {path: int(found[path]) for path in paths if found.get(path, b"0") != b"0"}

    def unmerged_paths(self, save: Save) -> set[bytes]:
        """The paths that are unmerged in a save, at any stage."""
        stages = (stage_paths(self._repository, self._trees, save, stage) for stage in _STAGES)
        return {path for paths in stages for path in paths}

    def forget_kept(self) -> None:
        """Remove the index files that the saves kept."""
        for save in self._saves:
            files.remove(kept_index(self._repository, save.manifest.save_id))

    def _add_intents(self, paths: Sequence[bytes], target: bytes) -> None:
        for path in paths:
            with suppress(GitError):
                self._git.run("add", "-N", "-f", "--", path, env={"GIT_INDEX_FILE": os.fsdecode(target)})

    def _carry(self, target: bytes) -> None:
        """Put into the index at `target` what another base has made of the staged tree, where plain git carried the
        save to one. Flags of entries stay.
        """
        if not self._original:
            return
        before, after = self._original[-1].files.get(b"staged"), self.oldest.files[b"staged"][1]
        paths = differing_paths(self._repository, None if before is None else before[1], after)
        if not paths:
            return
        env = {"GIT_INDEX_FILE": os.fsdecode(target)}
        entries = self._trees.lookup(after, paths)
        tags = {entry.path: entry.tag for entry in list_index(self._git, paths, tags=True, env=env)}
        lines = [removal(self._repository, path) for path in paths]
        lines += [IndexEntry(path, *leaf).info_line() for path, leaf in entries.items()]
        update = ("-c", "core.splitIndex=false", "update-index", "-z")
        self._git.run(*update, "--index-info", input=b"".join(lines), env=env)
        for flag, letters in (("--skip-worktree", "Ss"), ("--assume-unchanged", "hs")):
            flagged = b"".join(path + b"\0" for path, tag in tags.items() if path in entries and tag in letters)
            if flagged:
                self._git.run(*update, flag, "--stdin", input=flagged, env=env)

    def _stacked_lines(self) -> list[bytes]:
        """What each later save of a stack had staged anew, as `update-index --index-info` reads it."""
        lines = []
        for save in reversed(self._saves[:-1]):
            for path, entry in save.manifest.staged.items():
                lines.append(removal(self._repository, path))
                if entry is not None:
                    lines.append(IndexEntry(path, *entry).info_line())
            lines += self._unmerged_lines(save)
        return lines

    def _unmerged_lines(self, save: Save) -> list[bytes]:
        """The unmerged entries of a save, as `update-index --index-info` reads them."""
        stages = save.files.get(b"stages")
        if stages is None:
            return []
        removals: dict[bytes, None] = {}
        lines = []
        for stage in _STAGES:
            names = [stage + b"/" + path for path in stage_paths(self._repository, self._trees, save, stage)]
            for name, leaf in self._trees.lookup(stages[1], names).items():
                removals[removal(self._repository, name[2:])] = None
                lines.append(IndexEntry(name[2:], leaf.mode, leaf.oid, int(stage)).info_line())
        return [*removals, *lines]

    def _verify(self, index: bytes) -> None:
        """Refuse an index with paths that git would not have added: it trusts them when it reads the file."""
        listed = self._git.run("ls-files", "-z", "--sparse", env={"GIT_INDEX_FILE": os.fsdecode(index)})
        paths = {path.removesuffix(b"/") for path in split_nul(listed)}
        try:
            refuse_unsafe(paths)
        except CorruptSave:
            files.remove(index)
            raise


class IndexRecovery:
    """The index of one workspace, which takes the saved one's place or keeps its own entries."""

    def __init__(self, workspace: Workspace, saves: Sequence[Save], original: Sequence[Save] = ()) -> None:
        """`original`: the saves as they were made, where plain git carried them to another base."""
        self._repository = workspace.repository
        self._git = workspace.git
        self._reader = workspace.reader
        self._saves = saves
        self._is_carried = bool(original)
        self.saved = SavedIndex(workspace, saves, original)
        self._current = os.path.join(self._repository.git_dir, b"index")
        #: The index of now stays: its stat data are those of files that git has written since the save.
        self._kept_current = False

    def set_broken_aside(self) -> None:
        """An index that git can't read (a power cut tore it) would stop every step: the save has the good one."""
        object_format = self._repository.object_format
        try:
            self._git.run("ls-files", "-z", "--", "no such file")
            is_broken = is_cut_index(self._current, object_format)
        except GitError:
            is_broken = True
            if not is_torn_index(self._current, object_format):
                raise  # git failed for another reason: no memory, no descriptors, an index that is newer than it
        if is_broken:
            os.rename(self._current, os.path.join(self._repository.own, b"broken-index"))

    def restore(self) -> list[bytes]:
        """Put the index back; where git replaces it meanwhile, look again at what was staged.

        Returns the paths whose entries were staged after the save, and stay as they are.
        """
        for pause in (0.05, 0.2, 0.5):
            try:
                return self._restore()
            except IndexMoved:
                time.sleep(pause)
        return self._restore()

    def _restore(self) -> list[bytes]:
        repository, saved = self._repository, self.saved
        oldest, alone = saved.oldest, len(self._saves) == 1 and not self._is_carried
        saved.write_shared()
        if oldest.archive == oldest.wip:
            self._from_wip_commit(oldest)
            return []
        if oldest.manifest.index_size is None:
            return self._without_index()
        if alone and saved.is_at(self._current):
            saved.forget_kept()
            return []
        before = file_identity(self._current)
        if alone and self._has_same_entries():
            self._kept_current = True
            return []
        kept = self._staged_since()
        following = next_index(repository)
        saved.write(following)
        saved.add_later(following, self._lines(kept))
        files.fsync_path(following)
        with index_lock(repository):
            if file_identity(self._current) != before:
                files.remove(following)
                message = "the index was changed while it was being restored; the save is still pending"
                raise IndexMoved(message, hint="gitstate recover")
            os.rename(following, self._current)
        files.fsync_path(self._current)
        files.fsync_path(repository.git_dir)
        saved.forget_kept()
        return kept

    def _without_index(self) -> list[bytes]:
        """There was no index file. One that holds only what git itself put there goes."""
        if not os.path.exists(self._current):
            return []
        kept = self._staged_since()
        if not kept:
            with index_lock(self._repository):
                files.remove(self._current)
        return kept

    def _from_wip_commit(self, save: Save) -> None:
        """From a bare WIP commit: what plain git would do, `reset HEAD~1` and `reset --soft HEAD~1`."""
        tree = save.manifest.index_commit or save.manifest.head
        following = next_index(self._repository)
        files.remove(following)
        argv = ("read-tree", *([tree] if tree else ["--empty"]))
        self._git.run(*argv, env={"GIT_INDEX_FILE": os.fsdecode(following)})
        self._fill_in(following)
        files.fsync_path(following)
        with index_lock(self._repository):
            os.rename(following, self._current)
        files.fsync_path(self._repository.git_dir)

    def _has_same_entries(self) -> bool:
        """Whether the index says the same as the saved one, and only stat data differ: then it stays."""
        if not os.path.exists(self._current) or self.saved.oldest.manifest.intent_to_add:
            # No listing shows an intent to add.
            return False
        temporary = next_index(self._repository)
        self.saved.write(temporary)
        try:
            argv = ("ls-files", "-z", "-s", "-v", "--sparse")
            then = {"GIT_INDEX_FILE": os.fsdecode(temporary)}
            return self._git.run(*argv) == self._git.run(*argv, env=then)
        finally:
            files.remove(temporary)

    def _staged_since(self) -> list[bytes]:
        """The paths whose index entries of now are in no save and no base."""
        if not os.path.exists(self._current):
            return []
        differing: set[bytes] | None = None
        for save in self._saves:
            staged = save.files.get(b"staged")
            for tree in (save.wip_tree, tree_of_base(self._reader, save.manifest.head), staged[1] if staged else None):
                paths = self._differing_from(tree)
                differing = paths if differing is None else differing & paths
                if not differing:
                    return []
        kept = sorted(differing or ())
        newest = self._saves[0]
        if b"stages" in newest.files:
            ours = self.saved.unmerged_paths(newest)
            still = {entry.path for entry in list_unmerged(self._git)}
            kept = [path for path in kept if not (path in ours and path in still)]
        intents = {path for save in self._saves for path in save.manifest.intent_to_add}
        if intents:
            empty = object_id(self._repository.object_format, "blob", b"")
            listed = list_index(self._git, [path for path in kept if path in intents])
            still = {entry.path for entry in listed if entry.oid == empty}
            kept = [path for path in kept if path not in intents or path not in still]
        return kept

    def _differing_from(self, tree: Oid | None) -> set[bytes]:
        """The paths whose index entries differ from a tree; all of them where there is none."""
        argv = ("diff-index", "--cached", "--name-only", "-z", "--no-renames", "--ignore-submodules=none")
        out = self._git.run("ls-files", "-z") if tree is None else self._git.run(*argv, tree)
        return set(split_nul(out))

    def _lines(self, paths: Sequence[bytes]) -> list[bytes]:
        """The index entries of now of these paths, as `update-index --index-info` reads them."""
        entries = list_index(self._git, paths)
        return [*(removal(self._repository, path) for path in paths), *(entry.info_line() for entry in entries)]

    def refresh(self, written: Sequence[bytes]) -> None:
        """Fill in the stat data of files that were `written`, so that the next `git status` need not read them."""
        if not os.path.exists(self._current):
            return
        following = next_index(self._repository)
        before = file_identity(self._current)
        link_or_copy(self._current, following)
        if self._kept_current:
            self._forget_sizes(self._sized_otherwise(written), following)
        self._fill_in(following)
        files.fsync_path(following)
        with index_lock(self._repository):
            if file_identity(self._current) == before != file_identity(following):
                os.rename(following, self._current)
                files.fsync_path(self._repository.git_dir)
        files.remove(following)

    def _sized_otherwise(self, written: Sequence[bytes]) -> list[bytes]:
        """Files that git called clean, and whose size may not be the one that it saw when it checked them out.

        A file that it called changed for its size alone, whatever a conversion makes of it, stays so.
        """
        if any(is_attributes(path) for path in written):
            paths = set(written)
        else:
            paths = {*self._saves[0].manifest.raw, *self._saves[0].manifest.staged}.intersection(written)
        raw, staged = self._saves[0].manifest.raw, self._saves[0].manifest.staged
        return sorted(path for path in paths if path in staged or raw.get(path) != "filter")

    def _forget_sizes(self, paths: Sequence[bytes], index: bytes) -> None:
        """Let git compare these files by content: one of another size than the index says is changed, for git.

        It takes no second look then, whatever a conversion makes of the file, and no refresh mends that.
        """
        env = {"GIT_INDEX_FILE": os.fsdecode(index)}
        empty = object_id(self._repository.object_format, "blob", b"")  # perhaps intent-to-add, and nothing to convert
        entries = list_index(self._git, paths, tags=True, env=env) if paths else []
        lines = [entry.info_line() for entry in entries if entry.tag == "H" and entry.oid != empty]
        if lines:
            argv = ("-c", "core.splitIndex=false", "update-index", "-z", "--index-info")
            self._git.run(*argv, input=b"".join(lines), env=env)

    def _fill_in(self, index: bytes) -> None:
        """Not on git's own index: killed there, its lock would stay, and nobody could tell whose it is."""
        process = self._git.start("update-index", "-q", "--refresh", env={"GIT_INDEX_FILE": os.fsdecode(index)})
        self._git.finish(process, ok_codes=range(256))


def removal(repository: Repository, path: bytes) -> bytes:
    """A line for `update-index --index-info` that removes all entries of a path."""
    return IndexEntry(path, 0, repository.zero).info_line()


def restore_operation(workspace: Workspace, save: Save) -> None:
    """Put the files of the unfinished operation back that are not there; what is there stays."""
    repository = workspace.repository
    tree = save.files.get(b"operation")
    names = [path for path in save.manifest.operation_files if is_operation_file(path)]
    for path, leaf in workspace.trees.lookup(tree[1] if tree else None, names).items():
        full = os.path.join(repository.git_dir, path)
        if os.path.lexists(full):
            continue
        content = workspace.reader.contents([leaf.oid], LARGE * 4)[0]
        if content is None:
            continue
        if is_operation_ref(path) and not refs_are_files(repository):
            with suppress(GitError):
                # Only where it does not exist: what is there stays.
                workspace.git.run("update-ref", "--no-deref", path, content[1].strip(), repository.zero)
            continue
        files.make_directory(os.path.dirname(full), top=repository.git_dir)
        mode = 0o755 if leaf.mode & 0o100 else 0o644
        files.write_atomic(full, content[1], mode=mode, staging=repository.own)


def restore_sparse(workspace: Workspace, save: Save) -> None:
    """Where the save is of a sparse checkout and this worktree is none: make it one, for this worktree alone."""
    repository = workspace.repository
    entry = save.files.get(b"sparse-checkout")
    if entry is None or repository.is_true("core.sparsecheckout"):
        return
    content = workspace.reader.contents([entry[1]], LARGE)[0]
    if content is None:
        return
    path = os.path.join(repository.git_dir, b"info", b"sparse-checkout")
    files.make_directory(os.path.dirname(path), top=repository.git_dir)
    files.write_atomic(path, content[1], mode=0o644, staging=repository.own)
    workspace.git.run("config", "extensions.worktreeConfig", "true")
    for name in ("core.sparseCheckoutCone", "index.sparse", "core.sparseCheckout"):
        value = save.manifest.sparse.get(name.lower())
        if value is not None:
            value = "true" if value.lower() in ("true", "1", "yes", "on") else "false"
            workspace.git.run("config", "--worktree", name, value)


def _file_oid(path: bytes, object_format: str) -> Oid | None:
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                return None
            whole = digest(object_format, b"blob %d\0" % info.st_size, info.st_size)
            while data := file.read(1 << 20):
                whole.update(data)
            return whole.hexdigest()
    except FileNotFoundError:
        return None


LOST = "the staged version is lost: a power cut left its object empty; stage the file again (git add)"


def restore_staged_objects(workspace: Workspace, *, dry_run: bool) -> list[LeftOut]:
    """Write the empty objects of staged files again; those for which that is impossible are returned."""
    empty = _empty_objects(workspace.repository.objects)
    if not empty:
        return []
    try:
        entries = list_index(workspace.git)
    except GitError:
        return []  # the index is torn: the save's is put back
    staged = [(entry.path, entry.oid) for entry in entries if entry.oid in empty and entry.mode != GITLINK]
    if dry_run:
        return [LeftOut(path, LOST, True) for path, _ in staged]
    for path in {empty[oid] for _, oid in staged}:
        files.remove(path)
    workspace.reader.restart()
    return [LeftOut(path, LOST, True) for path, oid in staged if not _is_back(workspace, path, oid)]


def _is_back(workspace: Workspace, path: bytes, oid: str) -> bool:
    """Whether the object can be read, from a pack or after it was written from the worktree's file."""
    if workspace.reader.kinds([oid])[0] is not None:
        return True
    full = os.path.join(workspace.repository.toplevel, path)
    if os.path.islink(full) or not os.path.isfile(full):
        return False
    with suppress(GitError):
        argv = ("-c", "core.fsync=loose-object", "hash-object", "-w", b"--path=" + path, "--", full)
        return workspace.git.run(*argv).strip() == oid.encode("ascii")
    return False


def _empty_objects(objects: bytes) -> dict[str, bytes]:
    """The empty loose objects of a repository: their ids, and the paths of their files."""
    found = {}
    for number in range(256):
        directory = os.path.join(objects, b"%02x" % number)
        try:
            with os.scandir(directory) as listing:
                empty = [entry for entry in listing if entry.stat(follow_symlinks=False).st_size == 0]
        except OSError:
            continue
        for entry in empty:
            oid = os.fsdecode(b"%02x" % number + entry.name)
            if is_oid(oid):
                found[oid] = entry.path
    return found
