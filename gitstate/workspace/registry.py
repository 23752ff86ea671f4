"""The list of workspaces: one small file for each, in the user's state directory.

    $XDG_STATE_HOME/gitstate/workspaces/<sha256 of the path>    the absolute path, then a NUL byte

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
from ..system import files
from ..system.stdlib import TYPE_CHECKING, digest, suppress
from .settings import boolean

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The setting of the global git configuration that held the list up to version 0.1.
OLD_KEY = "gitstate.workspace"
#: No path is longer: PATH_MAX of Linux, and room for file systems that allow more.
_LONGEST_PATH = 65_536
#: More than so many files are synced together.
_MANY = 16
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def register(repository: Repository) -> None:
    """Add the workspace to the list, for `recover --all` after a reboot, unless `gitstate.register` is false.

    Never raises.
    """
    try:
        if boolean(repository, "register"):
            add([repository.toplevel])
    except (GitstateError, OSError):
        # The work is saved; `gitstate doctor` reports what is wrong with the list.
        return


def add(paths: Iterable[bytes]) -> None:
    """Add absolute paths to the list, durably; idempotent. Raises NeedsPerson, OSError."""
    directory = _open_list(create=True)
    try:
        new = [path for path in dict.fromkeys(paths) if _is_new(directory, path)]
        # For many, one sync of the file system takes less time than one of each file.
        at_once = len(new) > _MANY
        names = [(os.fsencode(_file_name(path)), path) for path in new]
        try:
            for name, path in names:
                temporary = files.temporary_name(name)
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=directory)
                files.write_new_file(temporary, (path + b"\0",), mode=0o600, durable=not at_once, directory=directory)
            if at_once:
                files.sync_filesystem(list_directory())
            for name, _ in names:
                os.rename(files.temporary_name(name), name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            for name, _ in names:
                with suppress(OSError):
                    os.unlink(files.temporary_name(name), dir_fd=directory)
            raise
        if new:
            os.fsync(directory)
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
            os.fsync(directory)
        finally:
            os.close(directory)
    return removed


def registered() -> list[bytes]:
    """The listed workspaces, sorted by path; their directories may be gone.

    Raises NeedsPerson or OSError where the list can't be read: an unreadable list is not an empty one.
    """
    _take_over_old_entries()
    return sorted(_read_list())


def list_directory() -> bytes:
    """The directory that holds the list. A relative XDG_STATE_HOME is ignored, as the specification demands."""
    state_home = os.environb.get(b"XDG_STATE_HOME", b"")
    if not state_home.startswith(b"/"):
        state_home = os.path.join(files.home(), b".local", b"state")
    return os.path.join(state_home, b"gitstate", b"workspaces")


def _open_list(*, create: bool) -> int:
    """A descriptor of the list's directory. Only the state directory itself may be a symlink.

    Raises FileNotFoundError where it is missing, NeedsPerson where it is no directory.
    """
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


def _is_new(directory: int, path: bytes) -> bool:
    """Whether a workspace has no file yet. Raises OSError where something else has its name."""
    name = _file_name(path)
    if _read(directory, name) == path:
        return False
    info = None
    with suppress(FileNotFoundError):
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if info is not None and not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EEXIST, f"{name} in the list of workspaces is not a regular file")
    return True


def _read_list() -> list[bytes]:
    try:
        directory = _open_list(create=False)
    except FileNotFoundError:
        return []
    try:
        found = [_read(directory, name) for name in os.listdir(directory) if len(name) == 64]
    finally:
        os.close(directory)
    return [path for path in found if path is not None]


def _read(directory: int, name: str) -> bytes | None:
    """The path in one file of the list; None where the file is damaged or not ours."""
    data = files.read_limited(os.fsencode(name), _LONGEST_PATH, directory=directory)
    if data is None or not data.startswith(b"/") or not data.endswith(b"\0"):
        return None
    path = data[:-1]
    return path if _file_name(path) == name else None


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
