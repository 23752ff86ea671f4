"""Flags that were set on index entries after a save: `git update-index --assume-unchanged` and `--skip-worktree`.

They are in the index of now alone. The saved index takes its place, and they go with it into that: who set them wants
them. Where the save has unstaged changes of a path it stays visible, or `git status` would hide work that came back.
"""

from __future__ import annotations

import os

from ..git.entries import differing_paths, hidden_tags, list_index
from ..git.hidden import shows_all
from ..git.repository import lacked_files
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..format.manifest import Save
    from ..git.command import Git
    from ..git.repository import Repository

#: Option of `git update-index` → the tags that `ls-files -v` shows for it.
_OPTIONS = {"--skip-worktree": "Ss", "--assume-unchanged": "sh"}


def flags_since(
    repository: Repository, git: Git, current: bytes, target: bytes, saves: Sequence[Save]
) -> dict[str, set[bytes]]:
    """The paths that the index at `current` hides and the one at `target` has and shows, by option of `update-index`.

    What a sparse checkout hides is not among them: that is its patterns' affair. But what a partial clone lacks of it
    can't be written, and stays hidden. Raises GitError.
    """
    if shows_all(current, len(repository.zero) // 2):
        return {}
    now = hidden_tags(git, current)
    then = hidden_tags(git, target) if now else {}
    is_sparse = repository.is_true("core.sparsecheckout")
    found = {}
    for option, letters in _OPTIONS.items():
        has = {path for path, tag in then.items() if tag in letters}
        paths = {path for path, tag in now.items() if tag in letters} - has
        if is_sparse and option == "--skip-worktree":
            paths = _lacked(repository, git, target, paths)
        if paths:
            found[option] = paths
    if found:
        changed = {path for save in saves for path in _unstaged(repository, save)}
        found = {option: paths - changed for option, paths in found.items() if paths - changed}
    return found


def _lacked(repository: Repository, git: Git, target: bytes, paths: set[bytes]) -> set[bytes]:
    """Those of the paths whose file of the index at `target` is not in this partial clone."""
    if not paths or not repository.promisors():
        return set()
    entries = list_index(git, sorted(paths), env={"GIT_INDEX_FILE": os.fsdecode(target)})
    return lacked_files(repository, {entry.path: entry.oid for entry in entries})


def _unstaged(repository: Repository, save: Save) -> list[bytes]:
    """The paths that the save has changed in the worktree and not staged."""
    staged = save.files.get(b"staged")
    # Of a bare WIP commit the commits below it tell.
    below = save.manifest.index_commit or save.manifest.head if staged is None else staged[1]
    return differing_paths(repository, below, save.wip_tree)
