"""Writes and deletes the files of a save: the safety save first, then files, directories, permissions.

No file is replaced or deleted that holds what is in no save and no commit: there is a safety save, or all of them are
as the commit of HEAD has them. A file that is not what was seen any more is kept.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import GitError, GitstateError, MissingObject
from ..format.manifest import LeftOut, Save
from ..git.repository import Repository, is_attributes
from ..objects.durable import sync_new
from ..objects.reader import LARGE
from ..objects.tree import GITLINK, SYMLINK, Leaf
from ..system import files
from ..system.files import walk
from ..system.stdlib import TYPE_CHECKING, contextmanager, expect_digest, suppress
from ..workspace.files import FileState
from ..workspace.ownership import checkout_staging
from .choices import Choice, Outcome, Target, make_writable, step, wanted_permissions
from .paths import SavedPaths, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ..git.command import Oid

#: So many files are written beside before they are synced, by one `syncfs` (`durable.sync_each`), and moved into place.
_AT_ONCE = 512
#: A file of no more bytes is read together with others.
_SMALL = 32 << 10
#: A symlink's target has fewer bytes than `PATH_MAX`, 4,096 on Linux, on every system.
_LONGEST_TARGET = 64 << 10
#: The disk takes nothing more: to go on with the next path is of no use.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def endangered(choices: Sequence[Choice]) -> list[bytes]:
    """The files that may be replaced or deleted: the safety save has to hold them, ignored ones too."""
    return [target.path for target, seen, action in choices if action != "same" and seen.kind in ("file", "link")]


def save_for_safety(workspace: Workspace, choices: Sequence[Choice]) -> str | None:
    """Save the workspace as it is now, and by name every file that may be replaced or deleted. Returns the save's id.

    The journal is the save's own afterwards: write it again.
    """
    from ..save.request import SaveRequest
    from ..save.save import save_owned

    request = SaveRequest(kind="safety", keep_paths=endangered(choices), depth=99)
    return save_owned(workspace.repository, workspace.git, request).save_id


def umask_now() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def usual_umask(repository: Repository, save: Save) -> Iterator[None]:
    """Permissions that a save does not mention are 644 and 755, whatever the umask of who recovers."""
    mask, usual = umask_now(), 0o022
    if mask == usual or save.archive == save.wip:
        yield
        return
    from ..git.entries import list_tree_paths
    from ..snapshot.record import MODES_LIMIT

    count = len(list_tree_paths(repository.git, save.wip_tree))
    os.umask(usual if count <= MODES_LIMIT else mask)
    try:
        yield
    finally:
        os.umask(mask)


class FileRecovery:
    """Carries out what was chosen for each path of a stack of saves, and notes in `outcome` what became of it."""

    def __init__(self, workspace: Workspace, paths: SavedPaths, outcome: Outcome) -> None:
        self._workspace = workspace
        self._disk = workspace.disk
        self._paths = paths
        self._outcome = outcome
        self._directories = paths.newest.manifest.directories
        #: Directories that stay where they are empty: they were there at the save, or are the places of submodules.
        self._kept_empty: set[bytes] = {*self._directories}
        #: Directories in which something was deleted.
        self._emptied: dict[bytes, None] = {}
        #: The files and symlinks that were written: path → blob of their bytes, `lstat` then.
        self.written: dict[bytes, tuple[Oid, os.stat_result]] = {}
        #: The permissions of the files that were found as they were saved.
        self._permissions: dict[bytes, int] = {}
        #: Where `core.fileMode` is off, or a written file has not the permissions that it was given: those of all files
        #: that were met. One alone is that of a file system that holds none, as FAT: nobody has set it.
        self._uniform: set[int] = set()
        #: The directories that were looked at, and made writable if need be.
        self._opened: set[bytes] = set()
        #: Small blobs that were read together, by oid.
        self._small: dict[Oid, bytes] = {}
        #: Where git has checked out the files that it converts, by path.
        self._converted: dict[bytes, bytes] = {}

    def carry_out(self, choices: Sequence[Choice]) -> None:
        """Delete first, so that a file can become a directory and the other way round; then write.

        What says how git converts files comes last: a second run after a kill still knows what git wrote here.
        """
        choices = sorted(choices, key=lambda choice: is_attributes(choice.target.path))
        targets = [choice.target for choice in choices]
        same = (choice for choice in choices if choice.action == "same" and choice.seen.kind == "file")
        self._permissions = {choice.target.path: choice.seen.permissions for choice in same}
        links = {target.path for target in targets if target.saved is not None and target.saved.mode == GITLINK}
        self._kept_empty = {*self._directories, *links}
        for choice in choices:
            if choice.action == "delete":
                self._try_delete(choice)
        for choice in choices:
            if choice.target.saved is None:
                self._remove_left_directory(choice.target, choice.seen)
        self._remove_emptied()
        left = [choice for choice in choices if choice.action == "write"]
        while left:
            del left[: self._write_some(left[:_AT_ONCE])]

    def _write_some(self, choices: Sequence[Choice]) -> int:
        """Write the new content of all beside, make it durable at once, and move each into its place.

        Returns how many were dealt with: the first ones, where the disk is full.
        """
        staged: dict[bytes, bytes] = {}
        tried = 0
        ready: list[Choice] = []
        if any(choice.target.is_as_stored for choice in choices):
            from .checkout import check_out_stored

            self._converted = check_out_stored(self._workspace, [choice.target for choice in choices], self._outcome)
        self._small = self._read_small(choices)
        try:
            try:
                for choice in choices:
                    try:
                        if self._try_stage(choice.target, staged):
                            ready.append(choice)
                    except GitstateError:
                        if not ready:
                            raise
                        # What these replace gives its room back: the rest may fit then. Git stopped in an object.
                        self._workspace.reader.restart()
                        break
                    tried += 1
            finally:
                # Also where the disk is full: what was written is right.
                if staged:
                    sync_new(list(staged.values()), self._load_digest)
                for choice in ready:
                    self._place(choice, staged.pop(choice.target.path, None))
        finally:
            for temporary in staged.values():
                self._disk.discard(temporary)
            if self._converted:
                files.remove_tree(checkout_staging(self._workspace.repository))
        return tried

    def _load_digest(self) -> None:
        """The checksum of the index is taken next, over all of its bytes."""
        expect_digest(self._paths.newest.manifest.index_size or 0)

    def _read_small(self, choices: Sequence[Choice]) -> dict[Oid, bytes]:
        """The small files among those that will be written: with an answer of git's for each, it would be asked twice.

        None of them where git ends at one that it can't read: then each is asked for.
        """
        reader = self._workspace.reader
        leaves = (choice.target.saved for choice in choices)
        oids = list({leaf.oid: None for leaf in leaves if leaf is not None and leaf.mode not in (GITLINK, SYMLINK)})
        try:
            kinds = reader.kinds(oids)
            few = [oid for oid, info in zip(oids, kinds, strict=True) if info and info[1] <= _SMALL]
            return {oid: found[1] for oid, found in zip(few, reader.contents(few), strict=True) if found is not None}
        except GitError:
            reader.restart()
            return {}

    def _try_delete(self, choice: Choice) -> None:
        self._try(choice.target, lambda: self._delete(choice.target, choice.seen))

    def _try_stage(self, target: Target, staged: dict[bytes, bytes]) -> bool:
        return self._try(target, lambda: self._stage(target, staged))

    def _place(self, choice: Choice, temporary: bytes | None) -> None:
        is_done = False
        try:
            is_done = self._try(choice.target, lambda: self._write(choice.target, choice.seen, temporary))
        finally:
            if temporary is not None and not is_done:
                self._disk.discard(temporary)

    def _try(self, target: Target, act: Callable[[], None]) -> bool:
        """Whether `act`, which writes or deletes at a path, has done so; else it is noted why not."""
        path = target.path
        self._open_above(path)
        try:
            act()
            return True
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            # A filter may have written the same meanwhile: git-annex fills in files by itself.
            (self._outcome.restored if self._is_as_saved(target) else self._outcome.kept).append(path)
        except MissingObject as error:
            self._outcome.could_not_read(path, error)
            # Git ends at an object that it can't read.
            self._workspace.reader.restart()
        except OSError as error:
            if error.errno in _FULL:
                raise GitstateError(
                    f"{os.fsdecode(path)}: {error.strerror}; the save is still pending, nothing was lost",
                    hint="make room, then: gitstate recover",
                ) from None
            self._outcome.could_not_write(path, error)
        return False

    def _open_above(self, path: bytes) -> None:
        """Make the directories above a path writable, where their permissions would stop whoever writes there."""
        directory = path.rpartition(b"/")[0]
        if directory in self._opened:
            return
        self._opened.add(directory)
        place = os.path.join(self._workspace.repository.toplevel, directory)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
        if os.path.isdir(place) and not os.access(place, os.W_OK | os.X_OK):
            make_writable(self._disk, path, self._directories, self._outcome)

    def _is_as_saved(self, target: Target) -> bool:
        """Whether the saved version is there by now."""
        with suppress(OSError):
            return target.saved is not None and step(target, self._disk.look(target.path)) == "same"
        return False

    def _delete(self, target: Target, seen: FileState) -> None:
        self._disk.delete(target.path, seen)
        self._outcome.deleted.append(target.path)
        self._emptied[target.path.rpartition(b"/")[0]] = None

    def _remove_left_directory(self, target: Target, seen: FileState) -> None:
        """Remove the empty directories that git left where the save has nothing."""
        linked = any(leaf.mode == GITLINK for leaf in target.bases) and target.path not in self._directories
        if seen.kind == "directory" and linked and self._disk.remove_directory(target.path):
            # The empty place that git makes for a submodule; it was deleted.
            self._outcome.deleted.append(target.path)
        elif seen.kind == "directory" and linked and self._is_new_repository(target.path):
            reason = "a submodule was checked out here since the save: remove the directory if you need nothing in it"
            self._outcome.failed.append(LeftOut(target.path, reason, False))
        elif seen.kind == "missing":
            self._emptied[target.path.rpartition(b"/")[0]] = None

    def _is_new_repository(self, path: bytes) -> bool:
        """Whether a repository stands at `path` that was not there at the save: `git reset` goes into submodules."""
        from ..snapshot.walk import is_nested

        repository = self._workspace.repository
        if any(item.path == path for item in self._paths.newest.manifest.nested):
            return False
        return is_nested(repository, os.path.join(repository.toplevel, path))

    def _remove_emptied(self) -> None:
        """Remove the directories above deleted paths that are empty now and were not there at the save."""
        # What is below another comes before it.
        for emptied in sorted(self._emptied, reverse=True):
            directory = emptied
            while directory and directory not in self._kept_empty and self._disk.remove_directory(directory):
                directory = directory.rpartition(b"/")[0]
        self._emptied.clear()

    def _stage(self, target: Target, staged: dict[bytes, bytes]) -> None:
        """Write the content of a regular file beside; `staged` gets its place."""
        saved, reader = target.saved, self._workspace.reader
        assert saved is not None
        if saved.mode in (GITLINK, SYMLINK):
            return
        permissions = _usual_permissions(target, saved)
        place = self._converted.get(target.path)
        if place is not None:
            with open(place, "rb") as file:
                staged[target.path] = self._disk.stage(iter(lambda: file.read(LARGE), b""), permissions, durable=False)
            return
        small = self._small.get(saved.oid)
        if small is not None:
            staged[target.path] = self._disk.stage((small,), permissions or 0o644, durable=False)
            return
        info = reader.kinds([saved.oid])[0]
        if info is None:
            raise MissingObject(saved.oid)
        # A large file is synced as it grows.
        durable = info[1] > LARGE
        staged[target.path] = self._disk.stage(reader.stream(saved.oid), permissions or 0o644, durable=durable)

    def _write(self, target: Target, seen: FileState, temporary: bytes | None) -> None:
        saved = target.saved
        assert saved is not None
        if seen.kind == "directory":
            self._remove_empty_directories(target.path)
            if not self._disk.remove_directory(target.path) and self._disk.look(target.path).kind == "directory":
                raise FileExistsError
            seen = self._disk.look(target.path)
        reader = self._workspace.reader
        if saved.mode == GITLINK:
            if seen.kind in ("file", "link"):
                self._disk.delete(target.path, seen)
            self._disk.make_directory(target.path)
        elif saved.mode == SYMLINK:
            info = reader.kinds([saved.oid])[0]
            if info is not None and info[1] > _LONGEST_TARGET:
                raise OSError(errno.ENAMETOOLONG, f"no symlink has a target of {info[1]} bytes", target.path)
            content = reader.contents([saved.oid])[0]
            if content is None:
                raise MissingObject(saved.oid)
            self.written[target.path] = saved.oid, self._disk.write_link(target.path, content[1], seen)
        elif temporary is not None:
            written = self._disk.place(temporary, target.path, seen)
            if target.path not in self._converted:
                self.written[target.path] = saved.oid, written
        self._outcome.restored.append(target.path)

    def _remove_empty_directories(self, path: bytes) -> None:
        top = self._workspace.repository.toplevel
        for directory in [directory for directory, _, _ in walk(os.path.join(top, path))][::-1]:
            self._disk.remove_directory(os.path.relpath(directory, top))

    def directories(self) -> None:
        """Make the saved directories that are missing; give permissions back to those that have the usual ones."""
        there: list[bytes] = []
        inside = {item.path for item in self._paths.newest.manifest.nested}
        for path in sorted(self._directories.keys() - inside):
            try:
                self._disk.make_directory(path)
                there.append(path)
            except NotADirectoryError:
                # Something else stands there now, or above it: it is kept.
                continue
            except OSError as error:
                self._outcome.could_not_write(path, error)
        self._give_permissions(reversed(there))

    def directories_of_repositories(self) -> None:
        """The permissions of the directories of repositories inside, which were made again by now, or are there."""
        self._give_permissions(
            item.path for item in self._paths.newest.manifest.nested if item.path in self._directories
        )

    def _give_permissions(self, paths: Iterable[bytes]) -> None:
        for path in paths:
            mode = self._directories[path]
            try:
                current = self._disk.permissions(path)
                # A recovery that was killed may have left it writable.
                usual = (0o755, 0o775, 0o700, 0o777, mode | 0o300)
                if current is not None and current != mode and current in usual:
                    self._disk.set_permissions(path, mode)
            except OSError as error:
                self._outcome.could_not_chmod(path, error)

    def permissions(self, targets: Sequence[Target]) -> None:
        """Permissions of files whose content is the saved one, the unchanged tracked ones among them."""
        umask = umask_now()
        written = {path: info.st_mode & 0o777 for path, (_, info) in self.written.items() if stat.S_ISREG(info.st_mode)}
        known = {**self._permissions, **written}
        asked = {
            target.path: _usual_permissions(target, target.saved) for target in targets if target.saved is not None
        }
        has_others = any(mode != asked.get(path, mode) for path, mode in written.items())
        if has_others or not self._workspace.repository.is_true("core.filemode", True):
            self._uniform = {*known.values()}
        for target in targets:
            if target.saved is not None and known.get(target.path) != _usual_permissions(target, target.saved):
                self._set_permissions(target, umask, only_saved=True)
        for target in self._unusual_ones(targets):
            self._set_permissions(target, umask, only_saved=False)
        self._outcome.restored = list(dict.fromkeys(self._outcome.restored))

    def special_bits(self, *, sets: bool) -> None:
        """Set the setuid, setgid and sticky bits that files and directories had, or report which had them.

        A file that was kept is not what had them.
        """
        manifest = self._paths.newest.manifest
        for path, bits in manifest.special.items():
            now, permissions = self._disk.special_bits(path), self._disk.permissions(path)
            if now is None or permissions is None or now & bits == bits or path in self._outcome.kept:
                continue
            if not sets:
                command = f"gitstate recover --save {manifest.save_id} --special-bits"
                why = f"it was {_names_of(bits)}, which was not set again: {command}"
                self._outcome.failed.append(LeftOut(path, why, False))
                continue
            try:
                self._disk.set_permissions(path, permissions, special=now | bits)
                self._outcome.restored.append(path)
            except OSError as error:
                self._outcome.could_not_chmod(path, error)

    def _unusual_ones(self, targets: Sequence[Target]) -> list[Target]:
        """Files that the save did not change, and whose permissions differ from those it names."""
        known = {target.path for target in targets}
        newest = self._paths.newest
        modes = newest.manifest.modes
        leaves = self._workspace.trees.lookup(newest.wip_tree, [path for path in modes if path not in known])
        return [
            Target(path, leaf, modes[path], frozenset({leaf}))
            for path, leaf in leaves.items()
            if self._disk.permissions(path) not in (None, modes[path])
        ]

    def _set_permissions(self, target: Target, umask: int, *, only_saved: bool) -> None:
        try:
            now = self._disk.permissions(target.path)
            if target.saved is None or now is None or now == _usual_permissions(target, target.saved):
                # As a rule: then its content need not be read once more.
                return
            seen = self._disk.look(target.path)
            if only_saved and seen.oid != target.saved.oid:
                return
            wanted, from_git = wanted_permissions(target, seen, umask)
            if wanted is not None and from_git:
                self._disk.set_permissions(target.path, wanted)
                self._outcome.restored.append(target.path)
            elif wanted is not None and self._uniform != {now}:
                self._outcome.kept.append(target.path)
        except OSError as error:
            self._outcome.could_not_chmod(target.path, error)


def _usual_permissions(target: Target, saved: Leaf) -> int:
    """The permissions of a target as it was saved."""
    return target.permissions if target.permissions is not None else saved.mode & 0o777


def _names_of(bits: int) -> str:
    """Setuid, setgid and sticky bits in words."""
    names = ((0o4000, "setuid"), (0o2000, "setgid"), (0o1000, "sticky"))
    return " and ".join(name for bit, name in names if bits & bit)
