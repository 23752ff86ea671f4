"""Writes the files that the save did not change and that are gone, and those that a power cut left short."""

from __future__ import annotations

import errno
import os

from ..errors import GitError
from ..format.manifest import REFUSED_NAME, LeftOut, Save
from ..git.attributes import Conversions
from ..git.command import split_nul
from ..git.entries import hidden_tags, list_tree_paths
from ..git.permitted import without_filters
from ..git.repository import lacked_files
from ..git.scan import Differing, WorktreeScan
from ..git.status import parse_listing
from ..objects.tree import GITLINK, SYMLINK, Leaf, is_safe_path
from ..system import files
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from ..workspace.files import MISSING, FileState
from ..workspace.live_context import state_name
from ..workspace.ownership import checkout_staging
from .checkout import Checkout, lacks
from .choices import Choice, Outcome, Target, make_writable
from .files import FileRecovery, save_for_safety, usual_umask
from .paths import SavedPaths, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


#: No more files are named one by one of those that may have been gone before a run.
_NAMED = 20


def restore_cut_short(workspace: Workspace, saves: Iterable[Save], outcome: Outcome, *, dry_run: bool) -> None:
    """Write the files that a power cut provably left short, each from the newest of `saves` that holds it.

    All others stay as they are. A safety save is taken first.
    """
    for save in saves:
        saved = SavedPaths(workspace, (save,))
        targets = saved.targets()
        choices = [
            choice._replace(action="write")
            for choice in saved.choices([target for target in targets if target.saved is not None], Outcome())
            if _is_cut_short(choice, saved)
        ]
        missing = MissingFiles(workspace, saved, outcome)
        try:
            tracked = missing.cut_short({target.path for target in targets})
        except GitError:
            tracked = []  # the index is torn, too
        if dry_run:
            found = [*(choice.target.path for choice in choices), *tracked]
            outcome.restored += [path for path in found if path not in outcome.restored]
        elif choices or tracked:
            if outcome.safety is None:
                outcome.safety = save_for_safety(workspace, choices)
            with usual_umask(workspace.repository, save):
                FileRecovery(workspace, saved, outcome).carry_out(choices)
                if tracked:
                    missing.restore(targets, only_cut_short=True)
    outcome.restored = list(dict.fromkeys(outcome.restored))


def _is_cut_short(choice: Choice, saved: SavedPaths) -> bool:
    target, seen, action = choice
    return action in ("write", "keep") and seen.kind == "file" and saved.is_cut_short(target)


class MissingFiles:
    """Tracked files that the save did not change, and that are gone or cut short: git writes them."""

    def __init__(
        self, workspace: Workspace, paths: SavedPaths, outcome: Outcome, scan: WorktreeScan | None = None
    ) -> None:
        """`scan`: what git sees by the index that will be git's when `restore` is called; None: it is asked then."""
        self._scan = scan
        self._workspace = workspace
        self._disk = workspace.disk
        self._paths = paths
        self._outcome = outcome
        self._staging = os.path.join(checkout_staging(workspace.repository), b"")

    def cut_short(self, known: set[bytes]) -> list[bytes]:
        """The files that a power cut left short; `known` are paths that are dealt with already."""
        return list(self._find(known)[1])

    def sizes_at_save(
        self, targets: Sequence[Target], sizes: Callable[[list[bytes]], Mapping[bytes, int]]
    ) -> Mapping[bytes, int]:
        """The sizes of unchanged files that a filter writes, as the index of the save knows them: `sizes` asks it.

        `targets` are the paths that are dealt with already.
        """
        repository, known = self._workspace.repository, {target.path for target in targets}
        conversions = Conversions(repository, {})
        if not conversions.has_writing_filters():
            return {}
        differing = None if self._scan is None else self._scan.finish()
        # What is of the size that the index of the save knows needs no look.
        tree = self._paths.newest.wip_tree
        listed = list_tree_paths(repository.git, tree) if differing is None else differing.modified
        tracked = [path for path in listed if path not in known]
        if not tracked:
            return {}
        named = conversions.converting_attributes(tracked)
        paths = [path for path, names in named.items() if conversions.filter_writes(names)]
        return sizes(paths) if paths else {}

    def restore(
        self,
        targets: Sequence[Target],
        sizes: Mapping[bytes, int] | None = None,
        *,
        only_cut_short: bool = False,
    ) -> None:
        """Git writes them beside, each is moved in whole. `targets` are the paths that are dealt with already.

        So are files that git wrote without their filter since the save: they hold their blob, and had another size
        (see `sizes_at_save`).
        """
        gone, present, edited = self._find({target.path for target in targets})
        if only_cut_short:
            gone = {path: leaf for path, leaf in gone.items() if path in present}
        elif self._may_have_been_gone(targets):
            gone = self._leave_gone(gone, present)
        gone = self._leave_lacked(gone)
        if not only_cut_short:
            kept = [target.path for target in self._not_as_saved(edited)]
            self._outcome.kept += [path for path in kept if path not in self._outcome.kept]
        bare = self._unfiltered(sizes or {})
        gone = {**bare, **gone}
        present.update(
            (path, FileState("file", leaf.oid, self._disk.permissions(path) or 0)) for path, leaf in bare.items()
        )
        if not gone:
            return
        files.remove_tree(self._staging)
        self._check_out([path for path, leaf in gone.items() if leaf.mode != GITLINK])
        files.sync_filesystem(self._workspace.repository.own)
        waiting = [*gone]
        while waiting:
            path = waiting.pop(0)
            leaf = gone[path]
            try:
                if leaf.mode == GITLINK:
                    self._disk.make_directory(path)
                    self._outcome.links.append(path)
                elif not self._is_unfiltered(path, leaf, sizes or {}) or path not in bare:
                    self._disk.take_in(self._staging + path, path, present.get(path, MISSING))
                else:
                    continue
                self._outcome.restored.append(path)
            except FileExistsError:
                if not self._is_as_staged(path):
                    self._outcome.kept.append(path)
            except OSError as error:
                saved = self._paths.newest.manifest.directories
                if error.errno == errno.EACCES and make_writable(self._disk, path, saved, self._outcome):
                    waiting.insert(0, path)
                else:
                    self._outcome.could_not_write(path, error)
        files.remove_tree(self._staging)

    def _may_have_been_gone(self, targets: Sequence[Target]) -> bool:
        """Whether what is gone may have been gone before the run began.

        A save of what changed since then does not tell. But where all of that is here as it was saved, nothing was
        wiped.
        """
        from ..snapshot.incremental import NOT_LOOKED

        is_part = any(item.reason == NOT_LOOKED for item in self._paths.newest.manifest.left_out)
        return is_part and not self._outcome.restored and any(target.saved is not None for target in targets)

    def _leave_gone(self, gone: Mapping[bytes, Leaf], present: Mapping[bytes, FileState]) -> dict[bytes, Leaf]:
        """Name the files that are gone; those of them that are left to write."""
        left = {path: leaf for path, leaf in gone.items() if path in present}
        missing = [path for path in gone if path not in present]
        for path in missing[:_NAMED]:
            back = f"git checkout -- {quote(os.fsdecode(path))}"
            why = f"it is gone, and the save does not tell since when; to bring it back: {back}"
            self._outcome.failed.append(LeftOut(path, why, False))
        if len(missing) > _NAMED:
            why = f"{len(missing) - _NAMED} more files are gone, and the save does not tell since when"
            self._outcome.failed.append(LeftOut(b"", why, False))
        return left

    def _leave_lacked(self, gone: Mapping[bytes, Leaf]) -> dict[bytes, Leaf]:
        """Name the files that this partial clone lacks; those of them that are left to write.

        Those outside of a sparse checkout stay hidden: git fetches them once they belong to it.
        """
        repository = self._workspace.repository
        lacked = lacked_files(repository, {path: leaf.oid for path, leaf in gone.items() if leaf.mode != GITLINK})
        if not lacked:
            return dict(gone)
        tags = hidden_tags(self._workspace.git, os.path.join(repository.git_dir, b"index"))
        hidden = {path for path in lacked if tags.get(path, "") in ("S", "s")}
        missing = sorted(lacked - hidden)
        failed = self._outcome.failed
        failed += [LeftOut(path, lacks(repository, path), True) for path in missing[:_NAMED]]
        top = quote(os.fsdecode(repository.toplevel))
        if len(missing) > _NAMED:
            back = f"git -C {top} checkout-index --all --quiet"
            why = f"this partial clone lacks {len(missing) - _NAMED} more files; to fetch them: {back}"
            failed.append(LeftOut(b"", why, True))
        if hidden:
            which = "1 file" if len(hidden) == 1 else f"{len(hidden)} files"
            why = f"what this partial clone lacks stays out: {which} outside of the sparse checkout"
            failed.append(LeftOut(b"", why, False))
        self._outcome.stuck = self._outcome.stuck or bool(missing)
        return {path: leaf for path, leaf in gone.items() if path not in lacked}

    def _is_as_staged(self, path: bytes) -> bool:
        """Whether a filter has filled in the file meanwhile, as git-annex does: with what was to be written."""
        import filecmp

        with suppress(OSError):
            top = self._workspace.repository.toplevel
            return filecmp.cmp(os.path.join(top, path), self._staging + path, shallow=False)
        return False

    def _unfiltered(self, sizes: Mapping[bytes, int]) -> dict[bytes, Leaf]:
        """The files that hold their blob as it is, and had another size at the save: LFS pointers, for one."""
        leaves = self._paths.leaves(self._paths.newest.wip_tree, sizes)
        kinds = self._workspace.reader.kinds([leaf.oid for leaf in leaves.values()])
        found = {}
        for (path, leaf), info in zip(leaves.items(), kinds, strict=True):
            stamp = self._disk.stamp(path)
            if info is None or stamp is None or stamp[0] != info[1] or sizes[path] == info[1]:
                continue
            if self._disk.look(path).oid == leaf.oid:
                found[path] = leaf
        return found

    def _is_unfiltered(self, path: bytes, leaf: Leaf, sizes: Mapping[bytes, int]) -> bool:
        """Whether git wrote the blob as it is, and not what the save had; that is reported."""
        if path not in sizes:
            return False
        from ..snapshot.read import has_content

        if not has_content(self._staging + path, self._workspace.repository.object_format, leaf.oid):
            return False
        if os.path.getsize(self._staging + path) == sizes[path]:
            return False
        if not any(item.path == path for item in self._outcome.failed):
            why = "its filter wrote what git holds, a pointer; to fetch its content is up to the filter's own program"
            self._outcome.failed.append(LeftOut(path, why, False))
        return True

    def edited(self, targets: Sequence[Target]) -> list[Target]:
        """The files that hold something else since the save; `targets` are the paths that are dealt with already."""
        return self._not_as_saved(self._find({target.path for target in targets})[2])

    def gone(self, targets: Sequence[Target]) -> list[bytes]:
        """The files that nothing is left of, where `restore` would write them; `targets` as above."""
        gone, present, _ = self._find({target.path for target in targets})
        if self._may_have_been_gone(targets):
            return []
        return list(self._leave_lacked({path: leaf for path, leaf in gone.items() if path not in present}))

    def _not_as_saved(self, leaves: Mapping[bytes, Leaf]) -> list[Target]:
        """Those of the files, which may have been edited, that were. Git tells first: it reads many in little time."""
        if not leaves:
            return []
        differing = self._differing()
        targets = [
            Target(path, leaf, None, frozenset({leaf}), True)
            for path, leaf in leaves.items()
            if differing is None or path in differing
        ]
        named = self._paths.newest.manifest.modes
        return [
            choice.target
            for choice in self._paths.choices(targets, Outcome())
            if choice.action != "same" or (choice.target.path not in named and _is_other_class(choice))
        ]

    def _differing(self) -> set[bytes] | None:
        """The tracked files that git takes for changed once it has read them; None where it can't tell."""
        repository = self._workspace.repository
        # `git diff` would write the index, or the one that a save kept: the next try would not find it as it was.
        words = ("ls-files", "-z", "--modified", "--sparse")
        env = dict(repository.filter_env())
        # By then it may be git's own.
        if self._scan is not None and os.path.exists(self._scan.index):
            env["GIT_INDEX_FILE"] = os.fsdecode(self._scan.index)
        with suppress(GitError):
            return {*split_nul(self._workspace.git.run(*words, env=env, timeout=repository.filter_limit))}
        return None

    def _find(self, known: set[bytes]) -> tuple[dict[bytes, Leaf], dict[bytes, FileState], dict[bytes, Leaf]]:
        """What is to be written; of it, as it is now, what a power cut left short; what else may have been edited."""
        repository = self._workspace.repository
        if self._scan is None:
            self._scan = WorktreeScan(repository, os.path.join(repository.git_dir, b"index"))
        differing = self._scan.finish() or self._asked_one_by_one()
        modified = [path for path in dict.fromkeys(differing.modified) if path not in known]
        names = dict.fromkeys(differing.deleted)
        gone = [path for path in names if path not in known and not self._paths.was_left_out(path)]
        leaves = self._paths.leaves(self._paths.newest.wip_tree, {*gone, *modified})
        for path in [path for path in leaves if not is_safe_path(path)]:
            # It is in the commit that the save stands on: git has added it, and may write it.
            del leaves[path]
            if not self._paths.was_left_out(path):
                self._outcome.failed.append(LeftOut(path, REFUSED_NAME, True))
        cut_short = {
            path: self._disk.look(path)
            for path in modified
            if path in leaves and self._paths.is_cut_short(Target(path, leaves[path], None, frozenset()))
        }
        # A save of what changed since the run began, or that had no time for all, does not tell what the others held.
        # A submodule is looked at by the recovery of what is in it.
        is_whole = all(item.path for item in self._paths.newest.manifest.left_out)
        never = (*cut_short, state_name(repository))
        edited = {
            path: leaves[path]
            for path in (modified if is_whole else ())
            if path in leaves
            and path not in never
            and leaves[path].mode != GITLINK
            and not self._paths.was_left_out(path)
        }
        written = {path: leaves[path] for path in dict.fromkeys((*gone, *cut_short)) if path in leaves}
        return written, cut_short, edited

    def _asked_one_by_one(self) -> Differing:
        """The same where something is hidden from git, or git failed."""
        deleted = split_nul(self._workspace.git.run("ls-files", "-z", "-d"))
        return Differing([*deleted, *self._hidden_and_gone()], self._modified())

    def _modified(self) -> list[bytes]:
        """Tracked files that git takes for changed. A required filter that fails ends it: then without filters."""
        argv = ("diff-files", "-z", "--name-only", "--diff-filter=M", "--ignore-submodules=all")
        try:
            repository = self._workspace.repository
            env = repository.filter_env()
            out = self._workspace.git.run(*argv, env=env, timeout=repository.filter_limit)
        except GitError:
            out = without_filters(self._workspace.repository).git.run(*argv)
        return split_nul(out)

    def _hidden_and_gone(self) -> list[bytes]:
        """Files with a skip-worktree flag that were there: git does not miss them."""
        absent = set(self._paths.newest.manifest.absent)
        listing = parse_listing(self._workspace.git.run("ls-files", "-z", "-v", "--sparse"))
        hidden = [path for tag, path in listing.hidden if tag in b"Ss"]
        top = self._workspace.repository.toplevel
        return [path for path in hidden if path not in absent and not os.path.lexists(os.path.join(top, path))]

    def _check_out(self, paths: Sequence[bytes]) -> None:
        """Let git write tracked files below the staging directory."""
        checkout = Checkout(self._workspace.repository, self._workspace.git, self._staging)
        self._outcome.failed += checkout.write(paths)
        self._name_unfiltered(paths)

    def _name_unfiltered(self, paths: Sequence[bytes]) -> None:
        """Report the files that a filter of the configuration would have written otherwise."""
        repository = self._workspace.repository
        if repository.runs_filters or not repository.filters_off():
            return
        for path, named in Conversions(repository, {}).converting_attributes(list(paths)).items():
            name = os.fsdecode(named.get(b"filter", b""))
            if any(key.startswith(f"filter.{name}.") for key in repository.config):
                why = "no filter of this repository runs here; written without it"
                self._outcome.failed.append(LeftOut(path, why, False))


def _is_other_class(choice: Choice) -> bool:
    """Whether a file was made executable, or no longer is."""
    target, seen, _ = choice
    is_file = seen.kind == "file" and target.saved is not None and target.saved.mode != SYMLINK
    return is_file and target.saved is not None and (seen.permissions ^ target.saved.mode) & 0o100 != 0
