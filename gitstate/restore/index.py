"""Puts the index back: the saved one takes its place, and what was staged after the save stays as it is now.

 An index of git's is only ever replaced by a rename under its own lock, and only if it is still
the one that was looked at.
"""

from __future__ import annotations

import os
import time

from ..errors import GitError
from ..format.archive import replacement_of, tree_of_base
from ..format.manifest import Save
from ..git.command import Oid, object_id, split_nul
from ..git.index import (
    IndexMoved,
    cached_tree,
    file_identity,
    fill_in_stat_data,
    index_lock,
    is_cut_index,
    is_torn_index,
    link_or_copy,
    read_plain_index,
)
from ..git.repository import Repository, has_conversions, is_attributes
from ..git.scan import WorktreeScan
from ..objects.tree import parents_with_top
from ..system import files
from ..system.process import boot_id
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.ownership import is_left_index, kept_index, kept_indexes, next_index
from .paths import Workspace
from .saved_index import SavedIndex, removal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ..objects.tree import Leaf
    from ..system.child import Child

    #: Files that were written from the save: path → blob of their bytes, `lstat` then.
    Written = Mapping[bytes, tuple[Oid, os.stat_result]]

_COMPARE = ("diff-index", "--cached", "--name-only", "-z", "--no-renames", "--ignore-submodules=none")


#: A larger index is left to git, which holds less of it in memory.
_FILLED_IN = 256 << 20
#: While git looks at the files of an index of more bytes, others may have to wait.
_QUICK = 4 << 20
#: With these settings a file of the right bytes, mode and kind is clean.
_USUAL = ("core.fileMode", "core.symlinks")


def scan_ahead(repository: Repository) -> WorktreeScan | None:
    """Look at all tracked files by the one index that a save has kept here, before it is read which save is pending.

    None where there is no such index, or several; and where a filter might run for a save that is not recovered.
    """
    if any(key.startswith("filter.") for key in repository.config):
        return None
    kept = kept_indexes(repository)
    return WorktreeScan(repository, kept[0], is_plain=None) if len(kept) == 1 else None


class IndexRecovery:
    """The index of one workspace, which takes the saved one's place or keeps its own entries."""

    def __init__(self, workspace: Workspace, saves: Sequence[Save], original: Sequence[Save] = ()) -> None:
        """`original`: the saves as they were made, where plain git carried them to another base."""
        self._repository = workspace.repository
        # Git clears the flag skip-worktree of a file that is there, and would write that down with the stat data.
        options = (*workspace.git.options, "-c", "sparse.expectFilesOutsideOfPatterns=true")
        self._git = workspace.git._replace(options=options)
        self._reader = workspace.reader
        self._saves = saves
        self._is_carried = bool(original)
        self.saved = SavedIndex(workspace, saves, original)
        self._current = os.path.join(self._repository.git_dir, b"index")
        #: The index of now stays: its stat data are those of files that git has written since the save.
        self._kept_current = False
        #: What is compared with the index: the tree, the index that it began with, and git, while the caller does
        #: something else; no git where both indexes are small.
        self._comparing: tuple[Oid, object, Child | None] | None = None
        #: The entries of the index (see `read_plain_index`), where no git compares it.
        self._entries: dict[bytes, bytes] = {}
        self._told: Mapping[Oid | None, Mapping[bytes, Leaf | None]] = {}
        self._compared: set[bytes] | None = None
        #: What git sees by the saved index, and the file that it goes by; None where it does not look.
        self.scan: WorktreeScan | None = None
        self._scanned = b""
        self._ahead = workspace.ahead
        #: The index has the stat data of these files, with the `lstat` of each; None: git has to look at all of them.
        self._filled_in: Written | None = None
        #: The files that the saves kept are of no more use.
        self._kept_is_spent = False

    def foresee(self, head: Oid | None) -> None:
        """Let git compare the index with the commit of HEAD meanwhile: as a rule it is one of the saves'."""
        before = file_identity(self._current)
        if head is None or before is None or self._is_left():
            return
        tree = self._reader.tree_of(head)
        entries = None
        if self.scan is not None and self.scan.entries is not None and self.saved.is_at(self._scanned):
            # By the saved index, whose tree is known, it is compared here.
            entries = read_plain_index(self._current, len(self._repository.zero) // 2)
        if entries is not None:
            self._entries, self._comparing = entries, (tree, before, None)
        elif self._is_whole() and cached_tree(self._current, len(self._repository.zero) // 2) == tree:
            self._compared, self._comparing = set(), (tree, before, None)
        else:
            self._comparing = tree, before, self._repository.git.start(*_COMPARE, tree)

    def _is_left(self) -> bool:
        """Whether the index is still the file that the newest save left: nothing was staged since."""
        return is_left_index(self._repository, self._saves[0].manifest.save_id) and self._is_whole()

    def _is_whole(self) -> bool:
        """Whether no power cut can have torn the index since the save: nothing else is read of a large one."""
        return self.saved.oldest.context.boot_id == boot_id() is not None

    def learn(self, told: Mapping[Oid | None, Mapping[bytes, Leaf | None]]) -> None:
        """What each tree of the save holds at every path in which one of them differs from another."""
        self._told = told

    def start_scan(self) -> None:
        """Let git look at all tracked files by the saved index meanwhile, where that is there as a file."""
        save = self.saved.oldest
        told = save.archive != save.wip and save.manifest.index_size is not None and not save.manifest.intent_to_add
        if not told or len(self._saves) > 1 or self._is_carried or b"stages" in save.files:
            return
        kept = kept_index(self._repository, save.manifest.save_id)
        index = next((path for path in (kept, self._current) if self.saved.seems_at(path)), None)
        if index is None:
            return
        self._scanned = index
        ahead = self._ahead
        if ahead is not None and ahead.index == index:
            self.scan = ahead
            ahead.learn(save.manifest.index_is_plain)
        else:
            self.scan = WorktreeScan(self._repository, index, is_plain=save.manifest.index_is_plain)

    def is_as_in(self, head: Oid) -> bool:
        """Whether the index holds nothing that the commit `head` lacks, as far as is known already."""
        tree = self._foreseen_tree()
        return tree is not None and tree == self._reader.tree_of(head) and not self._differing_from(tree)

    def end(self) -> None:
        """Nobody reads any more what git compares, and what it looks at."""
        if self.scan is not None:
            self.scan.end()
        child = None if self._comparing is None else self._comparing[2]
        if child is not None:
            child.end()

    def set_broken_aside(self) -> None:
        """An index that git can't read (a power cut tore it) would stop every step: the save has the good one."""
        object_format = self._repository.object_format
        try:
            if self._comparing is not None:
                self._differing_from(self._comparing[0])
            elif not self._is_left():
                self._git.run("ls-files", "-z", "--", "no such file")
            is_broken = is_cut_index(self._current, object_format)
        except GitError as error:
            is_broken = True
            # A split index is of no use without the file that holds most of it.
            if b"/sharedindex." not in error.stderr and not is_torn_index(self._current, object_format):
                raise  # git failed for another reason: no memory, no descriptors, an index that is newer than it
        if is_broken:
            os.rename(self._current, os.path.join(self._repository.own, b"broken-index"))

    def restore(
        self,
        written: Written,
        known: Collection[bytes],
        begin: Callable[[], None] = lambda: None,
        undo: Callable[[], None] = lambda: None,
    ) -> list[bytes]:
        """Put the index back; where git replaces it meanwhile, look again at what was staged.

        `written` are files that were written from the save: see `fill_in_stat_data`. Only those of them that are in
        `known` can be as the index has them. Returns the paths whose entries were staged after the save, and stay as
        they are. `begin` may be called while the new index comes to the disk, and `undo` where it takes no place then.
        """
        for pause in (0.05, 0.2, 0.5):
            try:
                return self._restore(written, known, begin)
            except IndexMoved:
                undo()
                time.sleep(pause)
        return self._restore(written, known, begin)

    def _restore(self, written: Written, known: Collection[bytes], begin: Callable[[], None]) -> list[bytes]:
        repository, saved = self._repository, self.saved
        if self.scan is not None and not saved.is_at(self._scanned):
            self.scan.end()
            self.scan = None
        oldest, alone = saved.oldest, len(self._saves) == 1 and not self._is_carried
        saved.write_shared()
        if oldest.archive == oldest.wip:
            self._from_wip_commit(oldest)
            self._kept_is_spent = True
            return []
        if oldest.manifest.index_size is None:
            kept = self._without_index()
            self._kept_is_spent = True
            return kept
        if alone and saved.is_at(self._current):
            self._kept_is_spent = True
            return []
        before = file_identity(self._current)
        if alone and not self._has_other_entries() and self._has_same_entries():
            self._kept_current = self._kept_is_spent = True
            return []
        kept = self._staged_since()
        following = next_index(repository)
        saved.write(following)
        saved.add_later(following, self._lines(kept))
        is_flagged = self._set_flags_of_now(following)
        is_whole = alone and not kept and not is_flagged and not oldest.manifest.shared_index
        # To look for an entry in vain is to read the whole index.
        tracked = {path: state for path, state in written.items() if path in known}
        if is_whole and _fill_in_written(repository, following, tracked):
            self._filled_in = written
        is_held = os.path.lexists(os.path.join(repository.git_dir, b"index.lock"))
        if not is_held and os.stat(following).st_size < _QUICK:
            # Who holds the lock may be about to commit; nobody else waits for the branch for long.
            begin()
        files.fsync_path(following)
        with index_lock(repository):
            if file_identity(self._current) != before:
                files.discard(following)
                message = "the index was changed while it was being restored; the save is still pending"
                raise IndexMoved(message, hint="gitstate recover")
            os.rename(following, self._current)
        self._kept_is_spent = True
        return kept

    def _set_flags_of_now(self, target: bytes) -> bool:
        """Hide from git, in the index at `target`, what was hidden after the save; whether anything was."""
        now = file_identity(self._current)
        # What was read of an index in which nothing is hidden may be known.
        is_plain = bool(self._entries) and self._comparing is not None and self._comparing[1] == now
        if now is None or is_plain or self._is_left():
            return False
        from .flags import flags_since

        found = flags_since(self._repository, self._git, self._current, target, self._saves)
        for option, paths in found.items():
            self.saved.flag(option, paths, target)
        return bool(found)

    def forget_kept(self) -> None:
        """Remove the index files that the saves kept, once the index is back and nothing reads them any more."""
        if self._kept_is_spent:
            self.saved.forget_kept()

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
        self._set_flags_of_now(following)
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
            # With what `git checkout -m` makes a resolved conflict from again.
            argv = ("ls-files", "-z", "-s", "-v", "--sparse", "--resolve-undo")
            then = {"GIT_INDEX_FILE": os.fsdecode(temporary)}
            return self._git.run(*argv) == self._git.run(*argv, env=then)
        finally:
            files.discard(temporary)

    def _has_other_entries(self) -> bool:
        """Whether the index is that of a commit, and the saved one is not: then no listing has to show it."""
        staged, tree = self.saved.oldest.files.get(b"staged"), self._foreseen_tree()
        if self._is_left():
            return staged is not None and staged[1] != self.saved.oldest.wip_tree
        return tree is not None and staged is not None and staged[1] != tree and not self._differing_from(tree)

    def _foreseen_tree(self) -> Oid | None:
        """The tree that git has compared the index with; None where it was not, or git replaced the index since."""
        if self._comparing is None or file_identity(self._current) != self._comparing[1]:
            return None
        return self._comparing[0]

    def _staged_since(self) -> list[bytes]:
        """The paths whose index entries of now are in no save and no base."""
        if not os.path.exists(self._current) or self._is_left():
            return []
        trees: list[Oid | None] = []
        for save in self._saves:
            staged = save.files.get(b"staged")
            trees += [save.wip_tree, tree_of_base(self._reader, save.manifest.head), staged[1] if staged else None]
            replacement = replacement_of(self._repository, self._reader, save.manifest.head)
            trees += [] if replacement is None else [replacement]
        foreseen = self._foreseen_tree()
        differing: set[bytes] | None = None
        # First the one that git has compared already: as a rule nothing differs from it.
        for tree in sorted(trees, key=lambda tree: tree is None or tree != foreseen):
            paths = self._differing_from(tree)
            differing = paths if differing is None else differing & paths
            if not differing:
                return []
        kept = sorted(differing or ())
        newest = self._saves[0]
        if b"stages" in newest.files:
            from ..git.entries import list_unmerged

            ours = self.saved.unmerged_paths(newest)
            still = {entry.path for entry in list_unmerged(self._git)}
            kept = [path for path in kept if not (path in ours and path in still)]
        intents = {path for save in self._saves for path in save.manifest.intent_to_add}
        if intents:
            from ..git.entries import list_index

            empty = object_id(self._repository.object_format, "blob", b"")
            listed = list_index(self._git, [path for path in kept if path in intents])
            still = {entry.path for entry in listed if entry.oid == empty}
            kept = [path for path in kept if path not in intents or path not in still]
        return kept

    def _differing_from(self, tree: Oid | None) -> set[bytes]:
        """The paths whose index entries differ from a tree; all of them where there is none."""
        if self._comparing is not None and tree is not None and tree == self._foreseen_tree():
            if self._compared is None:
                child = self._comparing[2]
                compared = self._differing_here(tree) if child is None else set(split_nul(self._git.finish(child)))
                self._compared = set(split_nul(self._git.run(*_COMPARE, tree))) if compared is None else compared
            return self._compared
        out = self._git.run("ls-files", "-z") if tree is None else self._git.run(*_COMPARE, tree)
        return set(split_nul(out))

    def _differing_here(self, tree: Oid) -> set[bytes] | None:
        """The paths whose index entries differ from a tree of the save; None where it is none.

        Where no tree of the save differs from another, the saved index holds what they hold.
        """
        then = self.scan.entries if self.scan is not None else None
        staged = self.saved.oldest.files.get(b"staged")
        told, told_staged = self._told.get(tree), None if staged is None else self._told.get(staged[1])
        if then is None or told is None or told_staged is None:
            return None
        leaves_then = {path: entry[24:28] + entry[40:] for path, entry in then.items()}
        if any(leaves_then.get(path) != _as_in_index(leaf) for path, leaf in told_staged.items()):
            return None
        leaves = {path: entry[24:28] + entry[40:] for path, entry in self._entries.items()}
        differing = {path for path, _ in leaves.items() ^ leaves_then.items() if path not in told}
        return differing | {path for path, leaf in told.items() if leaves.get(path) != _as_in_index(leaf)}

    def _lines(self, paths: Sequence[bytes]) -> list[bytes]:
        """The index entries of now of these paths, as `update-index --index-info` reads them."""
        if not paths:
            return []
        from ..git.entries import list_index

        entries = list_index(self._git, paths)
        return [*(removal(self._repository, path) for path in paths), *(entry.info_line() for entry in entries)]

    def _is_filled_in(self, written: Sequence[bytes], deleted: Sequence[bytes]) -> bool:
        """Whether the index has the stat data of all files that were `written`, and no other file's are out of date."""
        known = self._filled_in
        if known is None or self.scan is None or not known.keys() >= set(written):
            return False
        if not self.scan.modifies_only({*known, *deleted}):
            return False
        top = self._repository.toplevel
        with suppress(OSError):
            # Permissions may have been set meanwhile.
            now = (files.file_stamp(os.lstat(os.path.join(top, path))) for path in known)
            return all(stamp == files.file_stamp(info) for stamp, (_, info) in zip(now, known.values(), strict=True))
        return False

    def refresh(self, written: Sequence[bytes], deleted: Sequence[bytes]) -> None:
        """Fill in the stat data of files that were `written`, where `restore` has not done it: git would read them."""
        if not os.path.exists(self._current) or self._is_filled_in(written, deleted):
            return
        following = next_index(self._repository)
        before = file_identity(self._current)
        link_or_copy(self._current, following)
        if self._kept_current:
            self._forget_sizes(self._sized_otherwise([*written, *deleted]), following)
        self._fill_in(following)
        files.fsync_path(following)
        with index_lock(self._repository):
            if file_identity(self._current) == before != file_identity(following):
                os.rename(following, self._current)
        files.discard(following)

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
        if not paths:
            return
        from ..git.entries import list_index

        env = {"GIT_INDEX_FILE": os.fsdecode(index)}
        empty = object_id(self._repository.object_format, "blob", b"")  # perhaps intent-to-add, and nothing to convert
        entries = list_index(self._git, paths, tags=True, env=env)
        lines = [entry.info_line() for entry in entries if entry.tag == "H" and entry.oid != empty]
        if lines:
            argv = ("-c", "core.splitIndex=false", "update-index", "-z", "--index-info")
            self._git.run(*argv, input=b"".join(lines), env=env)

    def _fill_in(self, index: bytes) -> None:
        """Not on git's own index: killed there, its lock would stay, and nobody could tell whose it is."""
        env = {"GIT_INDEX_FILE": os.fsdecode(index), **self._repository.filter_env()}
        process = self._git.start("update-index", "-q", "--refresh", env=env)
        with suppress(GitError):
            # A filter may hang: then git reads those files later.
            self._git.finish(process, ok_codes=range(256), timeout=self._repository.filter_limit)
        files.discard(index + b".lock")


def _fill_in_written(repository: Repository, index: bytes, written: Written) -> bool:
    """Fill in the stat data of files in the index that a save kept, which is at `index`; whether git need not do it."""
    if has_conversions(repository) or not all(repository.is_true(name, True) for name in _USUAL):
        return False
    if not written:
        # Not one of many bytes is read.
        return True
    directories = {
        os.path.join(repository.toplevel, directory) for path in written for directory in parents_with_top(path)
    }
    data = files.read_limited(index, _FILLED_IN)
    if data is None or b".gitattributes" in data:
        return False
    if any(os.path.lexists(os.path.join(directory, b".gitattributes")) for directory in directories):
        return False
    pieces = fill_in_stat_data(data, written, repository.object_format)
    if pieces is None:
        return False
    if len(pieces) > 1:
        info = os.stat(index)
        # Another name of the file that the save kept, which stays as it is.
        files.remove(index)
        files.write_new_file(index, pieces, mode=info.st_mode & 0o777, durable=False)
        os.utime(index, ns=(info.st_mtime_ns, info.st_mtime_ns))
    return True


def _as_in_index(leaf: Leaf | None) -> bytes | None:
    """Mode and blob as an index entry has them; None where there is none."""
    return None if leaf is None else leaf.mode.to_bytes(4, "big") + bytes.fromhex(leaf.oid)
