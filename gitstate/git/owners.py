"""Repositories and files of other users: whose they are, what is refused there, and what root gives back.

Imported only where a part of a repository belongs to somebody else.
"""

from __future__ import annotations

import os
import stat

from ..errors import NeedsPerson
from ..system.stdlib import TYPE_CHECKING, suppress
from .command import Git

if TYPE_CHECKING:
    from collections.abc import Iterator


def trusted_directories() -> list[bytes]:
    """The paths that the user's own configuration names in safe.directory: a person decided to trust each.

    `*` trusts no repository in particular, and does not count. Nor does the repository's own configuration, as in git.
    """
    found = []
    for scope in ("--system", "--global"):
        out = Git(b"/").run("config", scope, "--includes", "-z", "--get-all", "safe.directory", ok_codes=range(256))
        named = (path for path in out.split(b"\0")[:-1] if path not in (b"", b"*"))
        found += [os.path.realpath(os.path.expanduser(path)) for path in named]
    return found


def is_trusted(toplevel: bytes, common_dir: bytes) -> bool:
    """Whether the user trusts a worktree by its path. Root's trust in the main worktree counts for all others."""
    trusted = trusted_directories()
    return toplevel in trusted or (os.geteuid() == 0 and os.path.dirname(common_dir) in trusted)


def refuse_links(stranger: int, *git_dirs: bytes) -> None:
    """Raises NeedsPerson where a link in a stranger's git directory leads what is written there somewhere else."""
    for top in dict.fromkeys(git_dirs):
        for directory, names, entries in os.walk(top):
            for name in (*names, *entries):
                path = os.path.join(directory, name)
                if os.path.islink(path):
                    raise NeedsPerson(
                        f"this repository belongs to user {stranger}, and {os.fsdecode(path)} is a symbolic "
                        "link; nothing was run, nothing was changed",
                        hint="run gitstate as that user",
                    )


def give_back(*places: bytes) -> None:
    """Give what root has written at or below `places` to the owner of the directory around it, as far as possible.

    Git can't be told to whom its files shall belong. Links are not followed, and no file with several names changes
    its owner: another name may be somebody else's. No-op for other users.
    """
    if os.geteuid() != 0:
        return
    for place in dict.fromkeys(places):
        with suppress(OSError):
            parent = os.open(os.path.dirname(place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _give_below(parent, os.path.basename(place))
            finally:
                os.close(parent)


def _give_below(parent: int, name: bytes) -> None:
    """Give the entry `name` of an open directory, and all below it, to whom the directory belongs."""
    owner = os.fstat(parent)
    info = os.lstat(name, dir_fd=parent)
    is_directory = stat.S_ISDIR(info.st_mode)
    if info.st_uid == 0 != owner.st_uid and (is_directory or info.st_nlink == 1):
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=parent, follow_symlinks=False)
    if not is_directory:
        return
    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        for inside in _names(below):
            with suppress(OSError):
                _give_below(below, inside)
    finally:
        os.close(below)


def _names(directory: int) -> Iterator[bytes]:
    return map(os.fsencode, os.listdir(directory))
