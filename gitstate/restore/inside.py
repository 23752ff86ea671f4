"""Makes a repository inside a workspace again that was destroyed with the tree, from what is held of it.

Nothing of it runs: it gets no hook, no setting that may name a program, no alternates; git itself checks each object
against its id. The directory gets its name when all of it is there, so a recovery that was killed makes it anew.
"""

from __future__ import annotations

import os

from ..errors import CorruptSave, GitError, GitstateError
from ..format.inside import HELD_FILES, MOST_FILE, PACKS, held_for
from ..format.names import dismissed_ref, give_workspace_id, marker_ref, save_ref
from ..git import refs
from ..git.command import Git, hooks_off
from ..git.refs import RefUpdate
from ..git.repository import Repository, git_dir_of, module_place
from ..system import files
from ..system.files import strange_kind
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.ownership import give_back

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..format.inside import Held, HeldRepository
    from ..format.manifest import Save
    from ..git.command import Oid
    from .paths import Workspace

#: How the git directory is called beside the place of a repository until all of it is there.
_UNFINISHED = b".git.gitstate"
#: The file of ours in its git directory until its files are back.
_MARK = b"made-again"
#: The configuration that is written for it has no more bytes.
_MOST_CONFIG = 4 << 20
#: Git has so many seconds for a pack.
_SECONDS = 600.0


def held_repositories(workspace: Workspace, saves: Sequence[Save]) -> dict[bytes, Held]:
    """The held repositories of a stack of saves, by their paths; of each the newest."""
    found: dict[bytes, Held] = {}
    for save in reversed(saves):
        if save.manifest.nested:
            found.update(held_for(workspace.repository, workspace.reader, save))
    return found


def is_vacant(directory: bytes) -> bool:
    """Whether a repository can be made at `directory`: nothing is there, or only what a killed recovery left."""
    try:
        names = set(os.listdir(directory))
    except FileNotFoundError:
        return not os.path.lexists(directory)
    except OSError:
        return False
    return not os.path.islink(directory) and names <= {_UNFINISHED}


def make_again(workspace: Workspace, held: Held, name: str | None) -> list[str]:
    """Make a held repository at its path, without its files. `name` is that of the submodule which it is; else None.

    Returns the settings that it does not get, each with the reason. Raises GitstateError, OSError.
    """
    repository, record = workspace.repository, held.record
    source = None if name is None else os.path.join(repository.common_dir, b"modules", os.fsencode(name))
    if source is not None and not _is_below(source, os.path.join(repository.common_dir, b"modules")):
        source = None
    if record.needs and (source is None or not os.path.isdir(os.path.join(source, b"objects"))):
        raise GitstateError("what no remote has of it is held; the rest was too large")
    full = os.path.join(os.path.realpath(repository.toplevel), record.path)
    is_new = not os.path.lexists(full)
    workspace.disk.make_directory(record.path)
    if os.path.realpath(full) != full:
        raise CorruptSave("a symlink stands on the way to the nested repository")
    unfinished = os.path.join(full, _UNFINISHED)
    files.remove_tree(unfinished)
    modules = os.path.join(repository.git_dir, b"modules")
    store = None if name is None else module_place(repository, name)
    if store is not None and (os.path.lexists(store) or not _is_module(store, modules)):
        store = None
    if store is not None:
        files.make_directory(os.path.dirname(store), top=repository.git_dir)
        unfinished = os.path.join(repository.own, b"inside.unfinished")
        files.remove_tree(unfinished)
    place = os.path.join(full, b".git") if store is None else store
    try:
        kept, refused = _usable(held.record.settings, full)
        _fill(workspace, held, unfinished, kept, None if store is None else os.path.relpath(full, store), source)
        made = Repository(full, unfinished, unfinished, record.object_format, {}, Git(full))
        files.make_directory(made.own, top=unfinished)
        # It is the same workspace: its pending save is its own.
        give_workspace_id(made, old_id=lambda: record.workspace_id)
        files.write_atomic(os.path.join(made.own, _MARK), b"", mode=0o644, staging=made.own)
        files.sync_filesystem(unfinished)
        os.rename(unfinished, place)
    except (GitstateError, OSError):
        # The disk may be full of it, and the next save would take it for files of the workspace.
        files.remove_tree(unfinished)
        if is_new:
            with suppress(OSError):
                os.rmdir(full)
        raise
    files.fsync_path(os.path.dirname(place))
    if store is not None:
        link = b"gitdir: %s\n" % os.path.relpath(store, full)
        files.write_atomic(os.path.join(full, b".git"), link, mode=0o644, staging=repository.own)
    give_back(repository, full, *([store] if store is not None else []))
    return refused


def newest_save(record: HeldRepository) -> tuple[str, Oid] | None:
    """Id and archive of the save that was pending in a repository; None where none was.

    It may be newer than the one that the save around it names: that holds all still where only this one is new.
    """
    known, saves = dict(record.refs), save_ref(record.workspace_id, "")
    marker = known.get(marker_ref(record.workspace_id))
    named = [ref.removeprefix(saves) for ref, oid in known.items() if oid == marker and ref.startswith(saves)]
    return None if marker is None or not named else (named[0], marker)


def add_save(workspace: Workspace, held: Held, inside: Repository, save_id: str, archive: Oid) -> bool:
    """Add a save to a repository that stands in the place of the one that held it, with the branches that it lacks.

    It counts as dismissed there, until somebody recovers it. Whether that can be done: a large repository is held
    without what its remotes have.
    """
    if held.record.object_format != inside.object_format:
        return False
    try:
        add_objects(workspace, held, inside.git)
        inside.git.run("rev-list", "--objects", "--quiet", archive, "--not", "--all", timeout=_SECONDS)
        own = held.record.workspace_id
        added = {ref: oid for ref, oid in held.record.refs if ref.startswith("refs/heads/")}
        kept = save_ref(own, save_id), dismissed_ref(own, save_id)
        added.update(dict.fromkeys(kept, archive))
        there = refs.list_refs(inside.git, "refs/heads/", *kept)
        updates = [RefUpdate(ref, oid, None) for ref, oid in added.items() if ref not in there]
        refs.move_refs(inside, inside.git, updates, f"recover {save_id}")
    except (GitstateError, OSError):
        return False
    return True


def is_made_again(directory: bytes) -> bool:
    """Whether the repository in a directory was made again, and a killed recovery has not brought back its files."""
    git_dir = git_dir_of(directory)
    return git_dir is not None and os.path.lexists(os.path.join(git_dir, b"gitstate", _MARK))


def finish(directory: bytes) -> None:
    """The files of a repository that was made again are back: make them durable, and forget that it was."""
    git_dir = git_dir_of(directory) if is_made_again(directory) else None
    if git_dir is not None:
        files.sync_filesystem(directory)
        files.remove(os.path.join(git_dir, b"gitstate", _MARK))


def _is_below(path: bytes, directory: bytes) -> bool:
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(directory), b""))


def _is_module(store: bytes, modules: bytes) -> bool:
    return store.startswith(os.path.join(modules, b"")) and _is_plain_place(store, modules)


def _is_plain_place(path: bytes, directory: bytes) -> bool:
    """Whether no link and no `..` leads to `path`, below `directory` in a git directory."""
    real = os.path.join(os.path.realpath(os.path.dirname(directory)), os.path.basename(directory))
    return os.path.realpath(path) == os.path.join(real, os.path.relpath(path, directory))


def _usable(settings: Sequence[tuple[str, str]], toplevel: bytes) -> tuple[list[tuple[str, str]], list[str]]:
    """The settings that a repository in `toplevel` gets; and those that name what git would wait for, or refuse."""
    from ..save.held_parts import kept_setting

    kept: list[tuple[str, str]] = []
    refused = []
    for key, held in settings:
        value = kept_setting(key, held)
        if value is None:
            continue
        names_file = key.lower() in ("core.excludesfile", "core.attributesfile")
        # Git takes it relative to the top of the worktree.
        path = os.path.join(toplevel, os.path.expanduser(os.fsencode(value)))
        kind = strange_kind(path) if names_file and value else None
        if kind is None:
            kept.append((key, value))
        else:
            refused.append(f"{key} = {value}, which is {kind}")
    return kept, refused


def _fill(
    workspace: Workspace,
    held: Held,
    git_dir: bytes,
    settings: Sequence[tuple[str, str]],
    worktree: bytes | None,
    source: bytes | None,
) -> None:
    """Make the git directory. `worktree` is where that is, relative to its last place; None for the one around it.

    From the git directory `source` come the commits that it needs and that are not held.
    """
    record = held.record
    init = ("init", "--quiet", "--bare", "--template=", f"--object-format={record.object_format}", "--", git_dir)
    workspace.git.run(*init, env={"GIT_DEFAULT_REF_FORMAT": "files"})
    git = Git(git_dir, ("--git-dir=.", *hooks_off(workspace.repository.config)))
    _set(git_dir, "core.bare", "false")
    _set(git_dir, "core.logallrefupdates", "true")
    _add_settings(git, git_dir, settings)
    add_objects(workspace, held, git)
    if record.needs and source is not None:
        _borrow(source, git, record.needs)
    if record.shallow:
        lines = b"".join(b"%s\n" % oid.encode("ascii") for oid in record.shallow)
        files.write_atomic(os.path.join(git_dir, b"shallow"), lines, mode=0o644, staging=git_dir)
    git.run("update-ref", "--stdin", input=b"".join(b"create %s %s\n" % _encoded(*ref) for ref in record.refs))
    # After the refs: git adds a line to a log of stashes that is there.
    for name, place in HELD_FILES.items():
        leaf = held.files.get(name)
        content = None if leaf is None else workspace.reader.contents([leaf.oid], MOST_FILE)[0]
        if content is not None:
            files.make_directory(os.path.join(git_dir, os.path.dirname(place)), top=git_dir)
            files.write_atomic(os.path.join(git_dir, place), content[1], mode=0o644, staging=git_dir)
    if record.head.startswith("refs/"):
        git.run("symbolic-ref", "HEAD", record.head)
    else:
        git.run("update-ref", "--no-deref", "HEAD", record.head)
    # What a pack lacks would be found out when it is needed.
    git.run("rev-list", "--objects", "--quiet", "--all", "--reflog", timeout=_SECONDS)
    if worktree is not None:
        # From here on git works only at its last place.
        _set(git_dir, "core.worktree", os.fsdecode(worktree))


def _borrow(source: bytes, git: Git, commits: Sequence[Oid]) -> None:
    """Add commits of another repository with their files, and nothing of their history. Raises GitError."""
    asked = "".join(f"--shallow {oid}\n{oid}\n" for oid in commits).encode("ascii")
    other = Git(source, ("--git-dir=.", "--work-tree=.", "-c", "core.commitGraph=false"))
    reading = other.start("pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset")
    reading.end_input(asked)
    writing = git.start("index-pack", "--stdin")
    with suppress(BrokenPipeError):
        while data := os.read(reading.stdout.fileno(), 1 << 20):
            writing.stdin.write(data)
    other.finish(reading, timeout=_SECONDS)
    git.finish(writing, timeout=_SECONDS)


def _add_settings(git: Git, git_dir: bytes, settings: Sequence[tuple[str, str]]) -> None:
    """Add those settings that git accepts: at one that it can't read, as a home of an unknown user, it ends."""
    config = os.path.join(git_dir, b"config")
    before = files.read_limited(config, _MOST_CONFIG) or b""
    try:
        for key, value in settings:
            _set(git_dir, key, value)
        # Reads all of what nearly every command reads, and what a newer git reads with the first file only.
        git.run("hash-object", "--no-filters", "--", config)
    except GitError:
        files.write_atomic(config, before, mode=0o644, staging=git_dir)
        half = len(settings) // 2
        for part in (settings[:half], settings[half:]) if half else ():
            _add_settings(git, git_dir, part)


def _set(git_dir: bytes, key: str, value: str) -> None:
    how = "--replace-all" if key == "core.bare" else "--add"
    Git(b"/").run("config", "--file", os.path.join(git_dir, b"config"), how, "--", key, value)


def _encoded(ref: str, oid: str) -> tuple[bytes, bytes]:
    return os.fsencode(ref), oid.encode("ascii")


def add_objects(workspace: Workspace, held: Held, git: Git) -> None:
    """Add the objects of a held repository to another one. Raises GitstateError, OSError."""
    packs = workspace.trees.tree(held.files[PACKS].oid).leaves() if PACKS in held.files else {}
    for number, size in enumerate(held.record.sizes):
        leaf = packs.get(b"%d" % number)
        if leaf is None or workspace.reader.kinds([leaf.oid])[0] != ("blob", size):
            raise CorruptSave("a pack of the nested repository is missing")
        process = git.start("index-pack", "--stdin", f"--max-input-size={size}")
        with suppress(BrokenPipeError):
            for piece in workspace.reader.stream(leaf.oid):
                process.stdin.write(piece)
        git.finish(process, timeout=_SECONDS)
