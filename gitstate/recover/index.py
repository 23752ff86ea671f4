"""Puts the saved index back: the very file where it was kept, else its bytes, else rebuilt from trees.

What was staged after the save stays as it is now. An index of git's is only ever replaced by a rename under its own
lock, and only if it is still the one that was looked at.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence

from ..errors import CorruptSave, GitError
from ..format.archive import refuse_unsafe, stage_paths, tree_of_base
from ..format.manifest import Save
from ..git.command import Git
from ..git.index import (
    IndexMoved,
    file_identity,
    identify_index_at,
    index_lock,
    is_torn_index,
    kept_index,
    link_or_copy,
)
from ..git.oid import Oid, object_id
from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..objects.tree import TreeReader
from ..system import files
from ..workspace.ownership import next_index

_INDEX_LIMIT = 4 << 30


class IndexRecovery:
    """The index of one workspace, and the stack of saves that waits there, newest first.

    `kept` holds, after `restore`, the paths whose entries were staged after the save and stay.
    """

    def __init__(self, repository: Repository, git: Git, reader: ObjectReader, saves: Sequence[Save]) -> None:
        self.repository = repository
        self.git = git
        self.reader = reader
        self.trees = TreeReader(reader)
        self.saves = saves
        self.kept: list[bytes] = []

    def set_broken_aside(self) -> None:
        """An index that git can't read (a power cut tore it) would stop every step: the save has the good one."""
        try:
            self.git.run("ls-files", "-z", "--", "no such file")
        except GitError:
            current = os.path.join(self.repository.git_dir, b"index")
            if not is_torn_index(current, self.repository.object_format):
                raise  # git failed for another reason: no memory, no descriptors, an index that is newer than it
            os.rename(current, os.path.join(self.repository.own, b"broken-index"))

    def restore(self) -> None:
        """Put the index back; where git replaces it meanwhile, look again at what was staged."""
        for pause in (0.05, 0.2, 0.5, None):
            try:
                self._index()
                return
            except IndexMoved:
                if pause is None:
                    raise
                time.sleep(pause)

    def _index(self) -> None:
        """The saved index, byte for byte; entries that were staged after the save stay as they are now."""
        repository = self.repository
        current = os.path.join(repository.git_dir, b"index")
        following = next_index(repository)
        oldest = self.saves[-1]
        self._shared_index(oldest)
        if oldest.archive == oldest.wip:
            self._rebuilt_index(oldest)
            return
        if oldest.manifest.index_size is None:
            self._without_index(current)
            return
        alone = len(self.saves) == 1
        if alone and self._is_saved_index(current, oldest):
            self._forget_kept()
            return
        before = file_identity(current)
        newer = self._staged_since(current)
        if newer is None and alone:
            return
        self._saved_index(oldest, following)
        extra = {"GIT_INDEX_FILE": os.fsdecode(following)}
        lines = self._stacked_lines() + (newer or [])
        if lines:
            self.git.run(
                *("-c", "core.splitIndex=false", "update-index", "-z", "--index-info"),
                input=b"".join(lines),
                env=extra,
            )
        added = [path for save in self.saves[:-1] for path in save.manifest.intent_to_add]
        for path in added:
            with contextlib.suppress(GitError):
                self.git.run("add", "-N", "-f", "--", path, env=extra)
        files.fsync_path(following)
        with index_lock(repository):
            if file_identity(current) != before:
                files.remove(following)
                raise IndexMoved(
                    "the index changed while it was put back; the save still waits", hint="gitstate recover"
                )
            os.rename(following, current)
        files.fsync_path(current)
        files.fsync_path(repository.git_dir)
        self._forget_kept()

    def _forget_kept(self) -> None:
        for save in self.saves:
            files.remove(kept_index(self.repository, save.manifest.save_id))

    def _is_saved_index(self, path: bytes, save: Save) -> bool:
        """Whether the index file at `path` is the one that was saved."""
        entry, manifest = save.files.get(b"index"), save.manifest
        if entry is not None:
            return _file_oid(path, self.repository.object_format) == entry[1]
        there = identify_index_at(path)
        return there == (manifest.index_size, manifest.index_checksum, manifest.index_mtime_ns)

    def _saved_index(self, save: Save, target: bytes) -> None:
        """The saved index at `target`: the very file that was kept, else its copy, else rebuilt from trees."""
        files.remove(target)
        kept = kept_index(self.repository, save.manifest.save_id)
        entry = save.files.get(b"index")
        if self._is_saved_index(kept, save):
            link_or_copy(kept, target)
        elif entry is not None:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            with open(fd, "wb") as file:
                for part in self.reader.stream(entry[1]):
                    file.write(part)
                file.flush()
                os.fsync(fd)
            mtime = save.manifest.index_mtime_ns or 0
            os.utime(target, ns=(mtime, mtime))
            self._verify_index(target)
        else:
            extra = {"GIT_INDEX_FILE": os.fsdecode(target)}
            self.git.run("read-tree", save.files[b"staged"][1], env=extra)
            self.git.run("update-index", "-z", "--index-info", input=b"".join(self._unmerged_lines(save)), env=extra)
            for path in save.manifest.intent_to_add:
                with contextlib.suppress(GitError):
                    self.git.run("add", "-N", "-f", "--", path, env=extra)

    def _shared_index(self, oldest: Save) -> None:
        name = oldest.manifest.shared_index
        entry = oldest.files.get(b"sharedindex")
        if name is None or entry is None:
            return
        path = os.path.join(self.repository.git_dir, b"sharedindex." + name.encode("ascii"))
        if not os.path.exists(path):
            content = self.reader.contents([entry[1]], _INDEX_LIMIT)[0]
            if content is not None:
                files.write_atomic(path, content[1], mode=0o644, staging=self.repository.own)

    def _without_index(self, current: bytes) -> None:
        """There was no index file. One that holds only what git itself put there goes."""
        if os.path.exists(current) and not self._staged_since(current):
            with index_lock(self.repository):
                files.remove(current)

    def _rebuilt_index(self, save: Save) -> None:
        """From a bare WIP commit: what plain git would do, `reset HEAD~1` and `reset --soft HEAD~1`."""
        tree = save.manifest.index_commit or save.manifest.head
        following = next_index(self.repository)
        files.remove(following)
        self.git.run("read-tree", *([tree] if tree else ["--empty"]), env={"GIT_INDEX_FILE": os.fsdecode(following)})
        self._fill_in(following)
        files.fsync_path(following)
        with index_lock(self.repository):
            os.rename(following, os.path.join(self.repository.git_dir, b"index"))
        files.fsync_path(self.repository.git_dir)

    def _stacked_lines(self) -> list[bytes]:
        """What each later save of a stack had staged anew, as `update-index --index-info` reads it."""
        zero = self.repository.zero.encode("ascii")
        lines = []
        for save in reversed(self.saves[:-1]):
            for path, entry in save.manifest.staged.items():
                lines.append(b"0 %s\t%s\0" % (zero, path))
                if entry is not None:
                    lines.append(b"%o %s\t%s\0" % (entry[0], entry[1].encode("ascii"), path))
            lines += self._unmerged_lines(save)
        return lines

    def _verify_index(self, index: bytes) -> None:
        """Refuse an index with paths that git would not have added: it trusts them when it reads the file."""
        listed = self.git.run("ls-files", "-z", "--sparse", env={"GIT_INDEX_FILE": os.fsdecode(index)})
        paths = {path.removesuffix(b"/") for path in listed.split(b"\0")[:-1]}
        try:
            refuse_unsafe(paths)
        except CorruptSave:
            files.remove(index)
            raise

    def _unmerged_lines(self, save: Save) -> list[bytes]:
        """The unmerged entries of a save, as `update-index --index-info` reads them."""
        stages = save.files.get(b"stages")
        if stages is None:
            return []
        zero = self.repository.zero.encode("ascii")
        unset: dict[bytes, None] = {}
        lines = []
        for stage in (b"1", b"2", b"3"):
            names = [stage + b"/" + path for path in stage_paths(self.repository, self.trees, save, stage)]
            for name, leaf in self.trees.lookup(stages[1], names).items():
                unset[b"0 %s\t%s\0" % (zero, name[2:])] = None
                lines.append(b"%o %s %s\t%s\0" % (leaf.mode, leaf.oid.encode("ascii"), stage, name[2:]))
        return [*unset, *lines]

    def _staged_since(self, current: bytes) -> list[bytes] | None:
        """Index entries of now that no save and no base has, as lines for update-index.

        None where the index says the same as the saved one, and only stat data differ: then it stays.
        """
        if not os.path.exists(current):
            return []
        oldest = self.saves[-1]
        if self._same_entries(current, oldest):
            return None
        differing: set[bytes] | None = None
        for save in self.saves:
            staged = save.files.get(b"staged")
            for tree in (save.wip_tree, tree_of_base(self.reader, save.manifest.head), staged[1] if staged else None):
                if tree is None:
                    out = self.git.run("ls-files", "-z")
                else:
                    out = self.git.run(
                        "diff-index", "--cached", "--name-only", "-z", "--no-renames", "--ignore-submodules=none", tree
                    )
                paths = set(out.split(b"\0")[:-1])
                differing = paths if differing is None else differing & paths
                if not differing:
                    return []
        found = sorted(differing or ())
        newest = self.saves[0]
        if b"stages" in newest.files:
            stages = (stage_paths(self.repository, self.trees, newest, stage) for stage in (b"1", b"2", b"3"))
            ours = {path for paths in stages for path in paths}
            listed = self.git.run("ls-files", "-z", "-u").split(b"\0")
            still = {line.partition(b"\t")[2] for line in listed}
            found = [path for path in found if not (path in ours and path in still)]
        ita = {path for save in self.saves for path in save.manifest.intent_to_add}
        if ita:
            empty = object_id(self.repository.object_format, "blob", b"").encode("ascii")
            listed = self._entries([path for path in found if path in ita])
            still_empty = {line.partition(b"\t")[2] for line in listed if empty in line}
            found = [path for path in found if path not in ita or path not in still_empty]
        zero = self.repository.zero.encode("ascii")
        self.kept = found
        return [b"0 %s\t%s\0" % (zero, path) for path in found] + [line + b"\0" for line in self._entries(found)]

    def _entries(self, paths: Sequence[bytes]) -> list[bytes]:
        """Git's index entries of these paths, as `ls-files -s` prints them."""
        found: list[bytes] = []
        for start in range(0, len(paths), 500):
            found += self.git.run("ls-files", "-z", "-s", "--", *paths[start : start + 500]).split(b"\0")[:-1]
        return found

    def _same_entries(self, current: bytes, oldest: Save) -> bool:
        if len(self.saves) > 1:
            return False
        temporary = next_index(self.repository)
        self._saved_index(oldest, temporary)
        try:
            now = self.git.run("ls-files", "-z", "-s", "-v", "--sparse")
            then = self.git.run(
                "ls-files", "-z", "-s", "-v", "--sparse", env={"GIT_INDEX_FILE": os.fsdecode(temporary)}
            )
            return now == then
        finally:
            files.remove(temporary)

    def refresh(self) -> None:
        """Fill in the stat data of files that were written, so that the next `git status` need not read them."""
        current = os.path.join(self.repository.git_dir, b"index")
        if not os.path.exists(current):
            return
        following = next_index(self.repository)
        before = file_identity(current)
        link_or_copy(current, following)
        self._fill_in(following)
        files.fsync_path(following)
        with index_lock(self.repository):
            if file_identity(current) == before != file_identity(following):
                os.rename(following, current)
                files.fsync_path(self.repository.git_dir)
        files.remove(following)

    def _fill_in(self, index: bytes) -> None:
        """Not on git's own index: killed there, its lock would stay, and nobody could tell whose it is."""
        process = self.git.start("update-index", "-q", "--refresh", env={"GIT_INDEX_FILE": os.fsdecode(index)})
        self.git.finish(process, ok_codes=range(256))


def _file_oid(path: bytes, object_format: str) -> Oid | None:
    import hashlib

    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                return None
            digest = hashlib.new(object_format, b"blob %d\0" % info.st_size, usedforsecurity=False)
            while data := file.read(1 << 20):
                digest.update(data)
            return digest.hexdigest()
    except FileNotFoundError:
        return None
