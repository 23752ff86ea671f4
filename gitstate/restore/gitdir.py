"""Puts back what git keeps beside the index: an unfinished operation, sparse patterns, objects of staged files."""

from __future__ import annotations

import os

from ..errors import GitError, words_of
from ..format.manifest import LeftOut, Save
from ..format.names import NOTES, branch_name
from ..git.command import is_oid
from ..git.damaged.head import is_well_formed
from ..git.gitdir import (
    RECORDED_CONFLICTS,
    is_operation_file,
    is_operation_ref,
    is_preimage,
    operation_place,
    preimages,
)
from ..git.refs import read_refs, refs_are_files
from ..git.repository import parse_bool
from ..objects.reader import LARGE
from ..objects.tree import GITLINK
from ..system import files
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from .paths import Workspace

if TYPE_CHECKING:
    from ..git.repository import Repository


def restore_operation(workspace: Workspace, save: Save) -> list[LeftOut]:
    """Put the files of the unfinished operation back that are not there; what is there stays.

    Returns what could not be written, where git can do without it.
    """
    repository = workspace.repository
    git_dir, common_dir = repository.git_dir, repository.common_dir
    tree = save.files.get(b"operation")
    names = [path for path in save.manifest.operation_files if is_operation_file(path)]
    places = {path: operation_place(git_dir, common_dir, path) for path in names}
    gone = [path for path, place in places.items() if not os.path.lexists(place)]
    # What git crashes without goes first.
    gone.sort(key=lambda path: path == RECORDED_CONFLICTS)
    leaves = workspace.trees.lookup(tree[1] if tree else None, gone)
    failed: list[LeftOut] = []
    for path in gone:
        full, leaf = places[path], leaves.get(path)
        content = None if leaf is None else workspace.reader.contents([leaf.oid], LARGE * 4)[0]
        if leaf is None or content is None or not _is_of_use(repository, path, content[1]):
            continue
        if is_operation_ref(path) and not refs_are_files(repository):
            with suppress(GitError):
                # Only where it does not exist: what is there stays.
                _restore_ref(workspace, path, content[1].strip())
            continue
        mode = 0o755 if leaf.mode & 0o100 else 0o644
        try:
            files.make_directory(os.path.dirname(full), top=full.removesuffix(b"/" + path))
            files.write_atomic(full, content[1], mode=mode, staging=repository.own)
        except OSError as error:
            if not is_preimage(path):
                raise
            # One of them tells as much as all.
            why = f"the records of git rerere are not back: {words_of(error)}; git takes no note of how it is resolved"
            failed = [LeftOut(b"", why, False)]
    return failed


def _is_of_use(repository: Repository, path: bytes, content: bytes) -> bool:
    """False for what `git rerere` does not use here: it would be turned on by it, or crash for want of the rest."""
    if path == RECORDED_CONFLICTS:
        return all(os.path.isfile(os.path.join(repository.common_dir, name)) for name in preimages(content))
    if is_preimage(path):
        # As git does: the directory stands for the setting.
        has_directory = os.path.isdir(os.path.join(repository.common_dir, b"rr-cache"))
        return repository.is_true("rerere.enabled", default=has_directory)
    return True


#: Where git keeps refs of notes.
_ALL_NOTES = os.path.dirname(os.fsencode(NOTES)) + b"/"


def _restore_ref(workspace: Workspace, name: bytes, content: bytes) -> None:
    """Make a ref of an unfinished operation where there is none. Raises GitError."""
    target = content.removeprefix(b"ref: ")
    if target == content:
        workspace.git.run("update-ref", "--no-deref", name, content, workspace.repository.zero)
    elif target.startswith(_ALL_NOTES) and not workspace.git.succeeds("symbolic-ref", "-q", name):
        # The merge of notes names the ref that it will move.
        workspace.git.run("symbolic-ref", name, target)


#: The settings of a sparse checkout; that which turns it on is the last.
_SPARSE = ("core.sparseCheckoutCone", "index.sparse", "core.sparseCheckout")


def restore_sparse(workspace: Workspace, save: Save, *, overwrite: bool) -> str:
    """Where the save is of a sparse checkout and this worktree is none: make it one, for this worktree alone.

    The patterns of a checkout that is sparse no more come back where there are none. Those of another one stay, unless
    told to `overwrite` them. Returns what to say of it.
    """
    repository = workspace.repository
    entry = save.files.get(b"sparse-checkout")
    path = _patterns(repository)
    is_sparse = _was_sparse(save)
    is_like_save = repository.is_true("core.sparsecheckout") or not is_sparse
    if entry is None or (is_like_save and os.path.lexists(path) and not (overwrite and is_sparse)):
        return ""
    content = workspace.reader.contents([entry[1]], LARGE)[0]
    if content is None:
        return ""
    files.make_directory(os.path.dirname(path), top=repository.git_dir)
    files.write_atomic(path, content[1], mode=0o644, staging=repository.own)
    if is_like_save:
        return ""
    workspace.git.run("config", "extensions.worktreeConfig", "true")
    for name in _SPARSE:
        value = save.manifest.sparse.get(name.lower())
        if value is not None:
            value = "true" if value.lower() in ("true", "1", "yes", "on") else "false"
            workspace.git.run("config", "--worktree", name, value)
    return "the checkout is sparse again, as it was saved"


def _patterns(repository: Repository) -> bytes:
    return os.path.join(repository.git_dir, b"info", b"sparse-checkout")


def _was_sparse(save: Save) -> bool:
    return bool(parse_bool(save.manifest.sparse.get("core.sparsecheckout") or "false"))


def forget_copied_sparse(repository: Repository, save: Save) -> None:
    """Let a worktree that was just added be sparse as the save is: git copies that of the one in which it adds it."""
    files.remove(_patterns(repository))
    if not _was_sparse(save) and repository.is_true("extensions.worktreeconfig"):
        for name in _SPARSE:
            repository.git.run("config", "--worktree", "--unset-all", name, ok_codes=range(256))


def other_sparse_checkout(workspace: Workspace, save: Save) -> list[LeftOut]:
    """That this checkout is sparse in another way than at the save: somebody has changed that since, and it stays.

    The next command of git that applies the patterns removes the unchanged files that they leave out.
    """
    repository = workspace.repository
    entry = save.files.get(b"sparse-checkout")
    if save.archive == save.wip or not repository.is_true("core.sparsecheckout"):
        return []
    git = f"git -C {quote(os.fsdecode(repository.toplevel))}"
    if not _was_sparse(save):
        words = f"the checkout is sparse since the save; as it was: {git} sparse-checkout disable"
        return [LeftOut(b"", words, False)]
    path = _patterns(repository)
    saved = None if entry is None else workspace.reader.contents([entry[1]], LARGE)[0]
    if entry is None or saved is None or files.read_limited(path, LARGE) == saved[1]:
        return []
    command = f"{git} cat-file blob {entry[1]} >{quote(os.fsdecode(path))} && {git} sparse-checkout reapply"
    return [
        LeftOut(
            b"",
            f"the sparse-checkout patterns were changed after the save, and stay; those of the save: {command}",
            False,
        )
    ]


def restore_settings(repository: Repository, save: Save) -> None:
    """Make the settings that were of a removed worktree alone those of this new one."""
    path = os.path.join(repository.git_dir, b"config.worktree")
    if not repository.is_true("extensions.worktreeconfig") or os.path.lexists(path):
        return
    from ..snapshot.gitdir import is_harmless_setting

    new = os.path.join(repository.git_dir, b"config.worktree.new")
    files.remove(new)
    # `restore_sparse` sets these, and writes the patterns.
    is_sparse = parse_bool(save.manifest.sparse.get("core.sparsecheckout") or "false")
    later = save.manifest.sparse.keys() if is_sparse and b"sparse-checkout" in save.files else ()
    for name, value in save.manifest.worktree_settings.items():
        if value is not None and name not in later and is_harmless_setting(name):
            # A name that git does not accept.
            with suppress(GitError):
                repository.git.run("config", "--file", new, name, value)
    if os.path.lexists(new):
        os.rename(new, path)


def missing_settings(workspace: Workspace, save: Save) -> list[LeftOut]:
    """The settings of a removed worktree alone that this one does not have, because no save keeps them."""
    repository = workspace.repository
    if repository.git_dir == repository.common_dir:
        return []
    path = os.path.join(repository.git_dir, b"config.worktree")
    listed = workspace.git.run("config", "--file", path, "--name-only", "--list", "-z", ok_codes=range(256))
    names = sorted(save.manifest.worktree_settings.keys() - {os.fsdecode(name) for name in listed.split(b"\0")})
    if not names:
        return []
    shown = ", ".join(text_to_json(name) for name in names)
    where, name = quote(os.fsdecode(repository.toplevel)), quote(names[0])
    command = f"git -C {where} config --worktree {name} VALUE"
    return [LeftOut(b"", f"settings of the removed worktree that a save does not keep: {shown}; {command}", False)]


def missing_branch(workspace: Workspace, save: Save) -> list[LeftOut]:
    """The branch that an unfinished rebase would move at its end, where this repository has none of that name."""
    tree = save.files.get(b"operation")
    names = [(b"%s/head-name" % state, b"%s/orig-head" % state) for state in (b"rebase-merge", b"rebase-apply")]
    leaves = workspace.trees.lookup(tree[1] if tree else None, [name for pair in names for name in pair])
    for pair in names:
        if not leaves.keys() >= {*pair}:
            continue
        contents = workspace.reader.contents([leaves[name].oid for name in pair], LARGE)
        branch, tip = (b"" if content is None else content[1].strip() for content in contents)
        name, oid = os.fsdecode(branch), tip.decode("ascii", "replace")
        # The save may be another host's. Git makes no branch of another name, nor of one that looks like an option.
        if not name.startswith("refs/heads/") or name.startswith("refs/heads/-") or not is_well_formed(branch):
            continue
        if not is_oid(oid) or read_refs(workspace.repository, [name]):
            continue
        top = quote(os.fsdecode(workspace.repository.toplevel))
        command = f"git -C {top} branch -- {quote(branch_name(name))} {oid}"
        return [LeftOut(b"", f"git can't end the rebase: the branch that it moves is not here; {command}", False)]
    return []


LOST = "the staged version is lost: a power cut left its object empty; stage the file again (git add)"


def restore_staged_objects(workspace: Workspace, *, dry_run: bool) -> list[LeftOut]:
    """Write the empty objects of staged files again; those for which that is impossible are returned."""
    empty = _empty_objects(workspace.repository.objects)
    if not empty:
        return []
    try:
        from ..git.entries import list_index

        entries = list_index(workspace.git)
    except GitError:
        return []  # the index is torn: the save's is put back
    staged = [(entry.path, entry.oid) for entry in entries if entry.oid in empty and entry.mode != GITLINK]
    if dry_run:
        return [LeftOut(path, LOST, True) for path, _ in staged]
    for path in {empty[oid] for _, oid in staged}:
        files.remove(path)
    workspace.reader.restart()
    return [LeftOut(path, LOST, True) for path, oid in staged if not _is_back(workspace, path, oid)]


def _is_back(workspace: Workspace, path: bytes, oid: str) -> bool:
    """Whether the object can be read, from a pack or after it was written from the worktree's file."""
    if workspace.reader.kinds([oid])[0] is not None:
        return True
    full = os.path.join(workspace.repository.toplevel, path)
    if os.path.islink(full) or not os.path.isfile(full):
        return False
    with suppress(GitError):
        argv = ("-c", "core.fsync=loose-object", "hash-object", "-w", b"--path=" + path, "--", full)
        env, limit = workspace.repository.filter_env(os.lstat(full).st_size), workspace.repository.filter_limit
        return workspace.git.run(*argv, env=env, timeout=limit).strip() == oid.encode("ascii")
    return False


def _empty_objects(objects: bytes) -> dict[str, bytes]:
    """The empty loose objects of a repository: their ids, and the paths of their files."""
    found = {}
    for number in range(256):
        directory = os.path.join(objects, b"%02x" % number)
        try:
            with os.scandir(directory) as listing:
                empty = [entry for entry in listing if entry.stat(follow_symlinks=False).st_size == 0]
        except OSError:
            continue
        for entry in empty:
            oid = os.fsdecode(b"%02x" % number + entry.name)
            if is_oid(oid):
                found[oid] = entry.path
    return found
