"""The index as a stack of saves holds it: the very file where it was kept, else its bytes, else rebuilt from trees."""

from __future__ import annotations

import os
import stat

from ..errors import CorruptSave, GitError
from ..format.archive import refuse_unsafe, stage_paths
from ..format.manifest import Save
from ..git.command import Oid, split_nul
from ..git.index import file_identity, identify_index_at, link_or_copy
from ..git.repository import Repository
from ..system import files
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, digest, suppress
from ..workspace.ownership import forget_index, kept_index, next_index
from .paths import Workspace

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


#: An index file of more bytes is not taken out of a save: some 5 million entries.
_INDEX_LIMIT = 512 << 20
_STAGES = (b"1", b"2", b"3")
#: What `ls-files -z --debug` prints of one entry: its path, and the stat data, of which the size counts here.
_DEBUG_LINES = rb"([^\0]+)\0(?:  (?:ctime|mtime|dev|uid):[^\n]*\n){4}  size: (\d+)[^\n]*\n"


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
        #: The index files that were read to their end, by `file_identity`: whether each is the one that was saved.
        self._read: dict[object, bool] = {}
        #: What the save holds of its index is damaged: what was staged is taken from its trees.
        self.is_rebuilt = False

    def is_at(self, path: bytes) -> bool:
        """Whether the index file at `path` is the one that was saved."""
        there, entry, manifest = identify_index_at(path), self.oldest.files.get(b"index"), self.oldest.manifest
        if entry is None or there is None:
            return there == (manifest.index_size, manifest.index_checksum, manifest.index_mtime_ns)
        if (there.size, there.checksum) != (manifest.index_size, manifest.index_checksum):
            return False
        if self.seems_at(path) and self.oldest.context.boot_id == boot_id() is not None:
            return True
        # Since the last boot a power cut may have torn what lies before its end.
        identity = file_identity(path)
        if identity not in self._read:
            self._read[identity] = _file_oid(path, self._repository.object_format) == entry[1]
        return self._read[identity]

    def seems_at(self, path: bytes) -> bool:
        """The same by size, time and checksum alone, which is at once: as a rule `is_at` says the same."""
        manifest = self.oldest.manifest
        told = (manifest.index_size, manifest.index_checksum, manifest.index_mtime_ns)
        # With `index.skipHash` the checksum is zero, and tells nothing.
        return bool((manifest.index_checksum or "").strip("0")) and identify_index_at(path) == told

    def write(self, target: bytes) -> None:
        """The oldest save's index at `target`: the very file that was kept, else its copy, else rebuilt from trees."""
        save = self.oldest
        files.remove(target)
        kept = kept_index(self._repository, save.manifest.save_id)
        entry = save.files.get(b"index")
        if self.is_at(kept):
            link_or_copy(kept, target)
        elif entry is None or not self._is_taken_out(entry[1], target):
            extra = {"GIT_INDEX_FILE": os.fsdecode(target)}
            self._git.run("read-tree", save.files[b"staged"][1], env=extra)
            lines = b"".join(self._unmerged_lines(save))
            self._git.run("update-index", "-z", "--index-info", input=lines, env=extra)
            self._add_intents(save.manifest.intent_to_add, target)

    def _is_taken_out(self, oid: Oid, target: bytes) -> bool:
        """Write the bytes of the oldest save's index at `target`; False where they are damaged: trees have the rest."""
        mtime = self.oldest.manifest.index_mtime_ns or 0
        try:
            self._write_copy(oid, target)
            os.utime(target, ns=(mtime, mtime))
            self._verify(target)
            return True
        except GitError:
            if b"staged" not in self.oldest.files:
                raise
            files.remove(target)
            self._reader.restart()
            self.is_rebuilt = True
            return False

    def _write_copy(self, oid: Oid, target: bytes) -> None:
        """The bytes of a saved index at `target`."""
        self._refuse_large(oid)
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            for part in self._reader.stream(oid):
                file.write(part)
            file.flush()
            files.sync(fd)

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
        self._set_flags(target)

    def _set_flags(self, target: bytes) -> None:
        """Hide from git, in the index at `target`, what the newest save of a stack hides, and nothing else.

        What an earlier save hid, and git has seen since because that save brought it into the WIP commit, stays hidden.
        """
        newest, below = self._saves[0], self._saves[1:]
        is_known = newest.manifest.index_is_plain or b"index" in newest.files
        if not below or not is_known or all(save.manifest.index_is_plain for save in self._saves):
            return
        from ..git.entries import hidden_tags
        from ..save.index import saved_hidden_tags, shown_paths

        wanted = saved_hidden_tags(self._git, newest, files.temporary_name(target), self._write_copy)
        there = hidden_tags(self._git, target)
        shown = {path for save in below for path in shown_paths(self._repository, save)}
        for flag, letters in (("skip-worktree", "Ss"), ("assume-unchanged", "sh")):
            has = {path for path, tag in there.items() if tag in letters}
            wants = {path for path, tag in wanted.items() if tag in letters}
            for option, paths in ((f"--{flag}", wants - has), (f"--no-{flag}", has - wants - shown)):
                if paths:
                    self.flag(option, paths, target)

    def flag(self, option: str, paths: Collection[bytes], target: bytes) -> None:
        """Give paths a flag, or take it from them, in the index at `target`; `option` is one of `git update-index`."""
        argv = ("-c", "core.splitIndex=false", "update-index", "-z", option, "--stdin")
        env = {"GIT_INDEX_FILE": os.fsdecode(target)}
        self._git.run(*argv, input=b"".join(path + b"\0" for path in sorted(paths)), env=env, ok_codes=(0, 128))

    def sizes(self, paths: Sequence[bytes]) -> dict[bytes, int]:
        """The size of each file when git looked at it last before the save; one that git does not know is missing."""
        if b"staged" not in self.oldest.files or self.oldest.manifest.index_size is None:
            return {}
        # As a rule no filter writes anything, and nobody asks.
        import re

        self.write_shared()
        target = next_index(self._repository)
        self.write(target)
        try:
            env = {"GIT_INDEX_FILE": os.fsdecode(target)}
            found = dict(re.findall(_DEBUG_LINES, self._git.run("ls-files", "-z", "--debug", env=env)))
        finally:
            files.discard(target)
        return {path: int(found[path]) for path in paths if found.get(path, b"0") != b"0"}

    def unmerged_paths(self, save: Save) -> set[bytes]:
        """The paths that are unmerged in a save, at any stage."""
        stages = (stage_paths(self._repository, self._trees, save, stage) for stage in _STAGES)
        return {path for paths in stages for path in paths}

    def forget_kept(self) -> None:
        """Remove the index files that the saves kept and left."""
        for save in self._saves:
            forget_index(self._repository, save.manifest.save_id)

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
        from ..git.entries import IndexEntry, differing_paths, list_index

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
        lines: list[bytes] = []
        if len(self._saves) == 1:
            return lines
        from ..git.entries import IndexEntry

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
        from ..git.entries import IndexEntry

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
            try:
                # Git has added such a path to the index of now: no setting forbids it here.
                refuse_unsafe(paths.difference(split_nul(self._git.run("ls-files", "-z"))))
            except CorruptSave:
                files.remove(index)
                raise


def removal(repository: Repository, path: bytes) -> bytes:
    """A line for `update-index --index-info` that removes all entries of a path."""
    from ..git.entries import IndexEntry

    return IndexEntry(path, 0, repository.zero).info_line()


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
