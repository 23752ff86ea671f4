"""The other worktrees of a repository that a command is about to destroy files in: it goes there, or names them."""

from __future__ import annotations

import os

from ..git.gitdir import linked_worktrees
from ..git.repository import Repository
from .destroying import named_paths


def threatened_worktrees(
    repository: Repository, command: str, directory: str, home: Repository | None = None
) -> list[bytes]:
    """The tops of the worktrees beside this one in which a command that runs in `directory` may destroy files.

    Those that it names, that a named path is in, or that are in a named directory. Where it removes worktrees and names
    none of them, it may be any. `home` is the repository in which the session began, and counts as one of them.
    """
    tops = [linked.toplevel for linked in linked_worktrees(repository.common_dir)]
    own = os.path.realpath(repository.toplevel)
    above = os.path.dirname(os.path.realpath(repository.common_dir))
    if tops and os.path.isdir(os.path.join(above, b".git")):
        tops.append(above)
    if home is not None and os.path.realpath(home.toplevel) != own:
        tops += [own, os.path.realpath(home.toplevel)]
    if not tops:
        return []
    words = named_paths(command)
    paths = {path for word in words if (path := _real_path(directory, word)) is not None}
    found = {_innermost(path, tops) for path in paths}
    found |= {top for top in tops if any(_is_in(top, path) for path in paths)}
    if "worktree" in command:
        # Git takes the last parts of its path for a worktree.
        ends = tuple("/" + word.strip("/") for word in words if word.strip("/."))
        found |= {top for top in tops if os.fsdecode(top).endswith(ends)}
        if not found - {own, None} and ("remove" in command or "move" in command):
            found |= {*tops}
    return sorted(top for top in found if top is not None and top != own)


def _real_path(directory: str, word: str) -> bytes | None:
    try:
        return os.path.realpath(os.fsencode(os.path.join(directory, os.path.expanduser(word))))
    except (OSError, ValueError):
        # It can be the name of no file.
        return None


def _innermost(path: bytes, tops: list[bytes]) -> bytes | None:
    """The worktree that a path is in; None where it is in none of them."""
    return max((top for top in tops if _is_in(path, top)), key=len, default=None)


def _is_in(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory.rstrip(b"/") + b"/")
