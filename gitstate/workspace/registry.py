"""The list of workspaces: one small file for each, in the user's state directory.

    $XDG_STATE_HOME/gitstate/workspaces/<sha256 of the path>

One file holds, each ended by a NUL byte: the absolute path; the mount points that the worktree and its repository were
on, separated by a NUL, and ended by an empty one; the inodes of the directory and of all above it. The last two tell a
workspace that was removed from one that is not mounted yet. Files of older versions hold the path alone.

Adding and removing one costs the same however many there are, and no `git` command of the user reads the list.
Up to version 0.1 it was the setting `gitstate.workspace` of the global git configuration: `registered` takes such
entries over.
"""

from __future__ import annotations

import errno
import os
import stat

from ..errors import GitstateError, NeedsPerson
from ..git.command import Git
from ..git.repository import Repository
from ..system import files, process
from ..system.stdlib import TYPE_CHECKING, Record, digest, suppress
from .settings import boolean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

#: The setting of the global git configuration that held the list up to version 0.1.
OLD_KEY = "gitstate.workspace"
#: No path is longer: PATH_MAX of Linux, and room for file systems that allow more.
_LONGEST_PATH = 65_536
_LONGEST_FILE = 4 * _LONGEST_PATH
#: More than so many files are synced together.
_MANY = 16
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def register(repository: Repository) -> None:
    """Add the workspace to the list, for `recover --all` after a reboot, unless `gitstate.register` is false.

    Never raises.
    """
    try:
        if boolean(repository, "register"):
            _add_all({repository.toplevel: repository.common_dir})
    except (GitstateError, OSError):
        # The work is saved; `gitstate doctor` reports what is wrong with the list.
        return


def add(paths: Iterable[bytes]) -> None:
    """Add absolute paths to the list, durably; idempotent. Raises NeedsPerson, OSError."""
    _add_all(dict.fromkeys(paths))


def _add_all(paths: Mapping[bytes, bytes | None]) -> None:
    """As `add`, for paths with the git directory of the repository, where it is known."""
    directory = _open_list(create=True)
    try:
        # For many, one sync of the file system takes less time than one of each file.
        places = _Places()
        new = {}
        for path, common_dir in paths.items():
            data = _content(directory, path, common_dir, places)
            if data is not None:
                new[os.fsencode(_file_name(path))] = data
        at_once = len(new) > _MANY
        try:
            for name, data in new.items():
                temporary = files.temporary_name(name)
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                files.write_new_file(temporary, (data,), mode=0o600, durable=not at_once, directory=directory)
            if at_once:
                files.sync_filesystem(list_directory())
            for name in new:
                os.rename(files.temporary_name(name), name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            for name in new:
                with suppress(OSError):
                    os.unlink(files.temporary_name(name), dir_fd=directory)
            raise
        if new:
            files.sync(directory)
    finally:
        os.close(directory)


def remove(paths: Iterable[bytes]) -> list[bytes]:
    """Remove absolute paths from the list; returns those that were on it. Raises NeedsPerson, OSError."""
    _take_over_old_entries()
    removed = []
    with suppress(FileNotFoundError):
        directory = _open_list(create=False)
        try:
            for path in paths:
                with suppress(FileNotFoundError):
                    os.unlink(_file_name(path), dir_fd=directory)
                    removed.append(path)
            files.sync(directory)
        finally:
            os.close(directory)
    return removed


def registered() -> list[bytes]:
    """The listed workspaces, sorted by path; their directories may be gone.

    Raises NeedsPerson or OSError where the list can't be read: an unreadable list is not an empty one.
    """
    _take_over_old_entries()
    return sorted(_read_list())


def readable() -> list[bytes]:
    """The same, where a list that can't be read is of no use: none."""
    try:
        return registered()
    except (GitstateError, OSError):
        return []


def list_directory() -> bytes:
    """The directory that holds the list."""
    return os.path.join(files.state_home(), b"gitstate", b"workspaces")


def _open_list(*, create: bool) -> int:
    """A descriptor of the list's directory. Only the state directory itself may be a symlink.

    Raises FileNotFoundError where it is missing, NeedsPerson where it is no directory, or not for this user.
    """
    try:
        return _opened_list(create=create)
    except PermissionError:
        # HOME is that of another user, or of nobody: the owner of that directory is not whom to ask.
        raise NeedsPerson(
            f"the list of workspaces is in {os.fsdecode(list_directory())}, which this user may not "
            f"{'write' if create else 'read'}; nothing was changed",
            hint="export XDG_STATE_HOME=DIR, a directory of yours",
        ) from None


def _opened_list(*, create: bool) -> int:
    path = list_directory()
    state_home = os.path.dirname(os.path.dirname(path))
    if create:
        files.make_directory(os.path.realpath(state_home), top=b"/", mode=0o700)
    directory = os.open(state_home, _DIRECTORY_FLAGS & ~os.O_NOFOLLOW)
    for name in (b"gitstate", b"workspaces"):
        above = directory
        try:
            if create:
                files.make_directory_at(above, name, mode=0o700)
            directory = os.open(name, _DIRECTORY_FLAGS, dir_fd=above)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise NeedsPerson(
                f"{os.fsdecode(path)} is not a directory: the list of workspaces can't be kept there",
                hint="move it away, or set XDG_STATE_HOME",
            ) from None
        finally:
            os.close(above)
    return directory


def _file_name(path: bytes) -> str:
    return digest("sha256", path).hexdigest()


def _content(directory: int, path: bytes, common_dir: bytes | None, places: _Places) -> bytes | None:
    """What the file of one workspace is to hold; None where it holds that already. Raises OSError."""
    name = _file_name(path)
    known = _read(directory, name)
    if known is not None and (known.inodes[:1] == (_inode(path),) or not os.path.isdir(path)):
        return None
    info = None
    with suppress(FileNotFoundError):
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if info is not None and not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EEXIST, f"{name} in the list of workspaces is not a regular file")
    data = path + b"\0"
    if os.path.isdir(path):
        mounts = dict.fromkeys(places.mount_of(place) for place in (path, common_dir or path))
        data += b"".join(mount + b"\0" for mount in (*mounts, b""))
        data += b" ".join(b"%d" % (places.inode(place) or 0) for place in _above(path)) + b"\0"
    return data


def _read_list() -> list[bytes]:
    try:
        directory = _open_list(create=False)
    except FileNotFoundError:
        return []
    try:
        found = [_read(directory, name) for name in os.listdir(directory) if len(name) == 64]
    finally:
        os.close(directory)
    return [entry.path for entry in found if entry is not None]


class _Entry(Record):
    """One file of the list."""

    path: bytes
    mounts: tuple[bytes, ...] = ()
    """The mount points that worktree and repository were on; empty where an older version wrote the file."""
    inodes: tuple[int, ...] = ()
    """Of the directory and of all above it; empty as `mounts`."""


def _read(directory: int, name: str) -> _Entry | None:
    """One file of the list; None where it is damaged or not ours."""
    data = files.read_limited(os.fsencode(name), _LONGEST_FILE, directory=directory)
    if data is None or not data.startswith(b"/") or not data.endswith(b"\0"):
        return None
    path, *rest = data[:-1].split(b"\0")
    if _file_name(path) != name or len(path) > _LONGEST_PATH:
        return None
    if len(rest) < 3 or rest[-2] or not all(word.isdigit() and len(word) < 21 for word in rest[-1].split(b" ")):
        return _Entry(path)
    return _Entry(path, tuple(rest[:-2]), tuple(map(int, rest[-1].split(b" "))))


# -- workspaces that are not mounted


def not_mounted(path: bytes) -> bytes | None:
    """The directory at which a listed workspace may be mounted later; None where it was removed, or is there.

    It was removed if its file system is mounted, and the nearest directory that still exists is not an empty one in
    place of the one that it was listed in. Never raises.
    """
    entry = None
    with suppress(GitstateError, OSError):
        directory = _open_list(create=False)
        try:
            entry = _read(directory, _file_name(path))
        finally:
            os.close(directory)
    if entry is None:
        return None
    points = mount_points()
    for mount in entry.mounts:
        if mount not in points:
            return mount
    for number, place in enumerate(_above(path)):
        inode = _inode(place)
        if inode is not None:
            known = entry.inodes[number] if number < len(entry.inodes) else None
            return place if inode != known and _is_empty(place) else None
    return None


def mount_points(table: str = "/proc/self/mountinfo") -> frozenset[bytes]:
    """The directories at which something is mounted (proc(5)); the root alone where the system does not tell."""
    data = process.read_proc(table) or b""
    fields = (line.split(b" ") for line in data.splitlines())
    return frozenset([b"/", *(_unescaped(words[4]) for words in fields if len(words) > 4)])


def _unescaped(word: bytes) -> bytes:
    """A path of mountinfo, in which blanks, line ends and backslashes are octal numbers."""
    first, *rest = word.split(b"\\")
    return first + b"".join(
        bytes([int(part[:3], 8)]) + part[3:] if part[:3].isdigit() else b"\\" + part for part in rest
    )


def mount_of(path: bytes, points: Collection[bytes]) -> bytes:
    """The mount point that a path is below."""
    for place in _above(path):
        if place in points or os.path.ismount(place):
            return place
    return b"/"


class _Places:
    """Mount points and inodes of the directories above many workspaces, each looked at once."""

    def __init__(self) -> None:
        self._points: frozenset[bytes] | None = None
        self._mounts: dict[bytes, bytes] = {}
        self._inodes: dict[bytes, int | None] = {}

    def mount_of(self, path: bytes) -> bytes:
        """The mount point that a path is below."""
        if self._points is None:
            self._points = mount_points()
        if path in self._points or os.path.ismount(path):
            return path
        above = os.path.dirname(path)
        if above not in self._mounts:
            self._mounts[above] = mount_of(above, self._points)
        return self._mounts[above]

    def inode(self, path: bytes) -> int | None:
        """The inode of a directory; None where it is missing."""
        if path not in self._inodes:
            self._inodes[path] = _inode(path)
        return self._inodes[path]


def _above(path: bytes) -> list[bytes]:
    """A path and all directories above it, up to the root."""
    found = [path]
    while (above := os.path.dirname(found[-1])) != found[-1]:
        found.append(above)
    return found


def _inode(path: bytes) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _is_empty(path: bytes) -> bool:
    try:
        return not os.listdir(path)
    except OSError:
        return False


# -- the entries of version 0.1


def _take_over_old_entries() -> None:
    """Move the entries of the global git configuration to the list.

    The configuration is changed only where it is a regular file of ours. Elsewhere the entries stay there, are copied
    once, and are never read again. Raises NeedsPerson, OSError.
    """
    # Git may be unable to read the configuration: then it has no entries to take over.
    out = Git(b"/").run("config", "--global", "--includes", "-z", "--get-all", OLD_KEY, ok_codes=range(256))
    paths = [path for path in dict.fromkeys(out.split(b"\0")[:-1]) if path.startswith(b"/")]
    if not paths:
        return
    config = config_file()
    taken_over = os.path.join(os.path.dirname(list_directory()), b"taken-over-" + os.fsencode(_file_name(config)))
    if os.path.lexists(taken_over):
        return
    add(paths)
    if _is_regular_file_of_ours(config):
        process = Git(b"/").start("config", "--global", "--unset-all", OLD_KEY)
        process.communicate()
        if process.returncode == 0:
            files.fsync_path(config)
            return
        if os.path.lexists(config + b".lock"):
            # Another git holds the lock on the configuration: the next call tries again.
            return
    # The entries can't be removed. Without this file they would undo every `unregister`.
    files.write_atomic(taken_over, b"", staging=os.path.dirname(taken_over))


def config_file() -> bytes:
    """The file that `git config --global` writes: GIT_CONFIG_GLOBAL, ~/.gitconfig, or the one below XDG_CONFIG_HOME."""
    named = os.environb.get(b"GIT_CONFIG_GLOBAL")
    if named:
        return named
    plain = os.path.join(files.home(), b".gitconfig")
    config_home = os.environb.get(b"XDG_CONFIG_HOME") or os.path.join(files.home(), b".config")
    other = os.path.join(config_home, b"git", b"config")
    return other if os.path.exists(other) and not os.path.exists(plain) else plain


def _is_regular_file_of_ours(path: bytes) -> bool:
    try:
        info = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid()
