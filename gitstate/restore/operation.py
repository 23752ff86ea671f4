"""Puts back the files of an unfinished operation and the patterns of a sparse checkout."""

from __future__ import annotations

import os

from ..errors import GitError
from ..format.manifest import Save
from ..git.gitdir import is_operation_file, is_operation_ref
from ..git.refs import refs_are_files
from ..objects.reader import LARGE
from ..system import files
from ..system.stdlib import TYPE_CHECKING, suppress
from .paths import Workspace

if TYPE_CHECKING:
    pass


def restore_operation(workspace: Workspace, save: Save) -> None:
    """Put the files of the unfinished operation back that are not there; what is there stays."""
    repository = workspace.repository
    tree = save.files.get(b"operation")
    names = [path for path in save.manifest.operation_files if is_operation_file(path)]
    for path, leaf in workspace.trees.lookup(tree[1] if tree else None, names).items():
        full = os.path.join(repository.git_dir, path)
        if os.path.lexists(full):
            continue
        content = workspace.reader.contents([leaf.oid], LARGE * 4)[0]
        if content is None:
            continue
        if is_operation_ref(path) and not refs_are_files(repository):
            with suppress(GitError):
                # Only where it does not exist: what is there stays.
                workspace.git.run("update-ref", "--no-deref", path, content[1].strip(), repository.zero)
            continue
        files.make_directory(os.path.dirname(full), top=repository.git_dir)
        mode = 0o755 if leaf.mode & 0o100 else 0o644
        files.write_atomic(full, content[1], mode=mode, staging=repository.own)


def restore_sparse(workspace: Workspace, save: Save) -> None:
    """Where the save is of a sparse checkout and this worktree is none: make it one, for this worktree alone."""
    repository = workspace.repository
    entry = save.files.get(b"sparse-checkout")
    if entry is None or repository.is_true("core.sparsecheckout"):
        return
    content = workspace.reader.contents([entry[1]], LARGE)[0]
    if content is None:
        return
    path = os.path.join(repository.git_dir, b"info", b"sparse-checkout")
    files.make_directory(os.path.dirname(path), top=repository.git_dir)
    files.write_atomic(path, content[1], mode=0o644, staging=repository.own)
    workspace.git.run("config", "extensions.worktreeConfig", "true")
    for name in ("core.sparseCheckoutCone", "index.sparse", "core.sparseCheckout"):
        value = save.manifest.sparse.get(name.lower())
        if value is not None:
            value = "true" if value.lower() in ("true", "1", "yes", "on") else "false"
            workspace.git.run("config", "--worktree", name, value)
