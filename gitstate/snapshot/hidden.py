"""Files that git does not report: hidden index entries, other names of tracked files, and ignored files to save.

Imported only where there are such.
"""

from __future__ import annotations

import os

from ..errors import GitError
from ..git.command import Git, split_nul
from ..git.entries import list_index
from ..git.index import link_or_copy
from ..git.status import parse_listing
from ..objects.tree import GITLINK, SYMLINK, Leaf, is_safe_path
from ..system import files
from ..system.stdlib import TYPE_CHECKING, suppress
from ..workspace.ownership import checkout_staging
from .read import has_content, read_file

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from .record import SnapshotBuilder


def store_hidden(builder: SnapshotBuilder, hidden: Sequence[tuple[bytes, bytes]]) -> None:
    """Save files with a hidden index entry where they differ from it, and note those that are missing.

    `hidden` has (tag, path) of each, the tags as `git ls-files -v` prints them.
    """
    present = []
    for tag, path in hidden:
        if tag == b"m":
            continue
        if builder.is_reached(path.rpartition(b"/")[0]) and os.path.lexists(os.path.join(builder.top, path)):
            present.append(path)
        else:
            builder.snapshot.absent.append(path)
    object_format = builder.repository.object_format
    for entry in list_index(builder.repository.git, present, env=builder.env):
        path = entry.path
        builder.index_modes[path] = entry.mode
        if entry.mode == GITLINK or has_content(os.path.join(builder.top, path), object_format, entry.oid):
            continue
        leaf = read_file(builder, path)
        if leaf is not None:
            builder.snapshot.raw[path] = (leaf, "hidden")


def note_other_names(builder: SnapshotBuilder, untracked: Sequence[bytes]) -> None:
    """Where case is folded, an untracked file may be a tracked one that was renamed: then its old name is gone.

    For git nothing happened: the old name still leads to the file.
    """
    names = ListedNames(builder.top)
    tracked = {folded(path): path for path in builder.tracked.order}
    snapshot = builder.snapshot
    for path in untracked:
        old = tracked.get(folded(path))
        if old is not None and old != path and names.of(old) == path:
            snapshot.worktree[old] = None
            snapshot.modes.pop(old, None)
            snapshot.raw.pop(old, None)


def store_real_symlinks(builder: SnapshotBuilder) -> None:
    """Save symlinks as such where git writes a regular file in the place of each (`core.symlinks` is false)."""
    snapshot = builder.snapshot
    changed = {path for path, leaf in {**snapshot.staged, **snapshot.worktree}.items() if leaf and leaf.mode == SYMLINK}
    tracked = list_index(builder.repository.git, env=builder.env) if builder.tracked.are_few else ()
    clean = {entry.path for entry in tracked if entry.mode == SYMLINK} - changed - snapshot.worktree.keys()
    for path in sorted(changed | clean):
        full = os.path.join(builder.top, path)
        if os.path.islink(full) and path not in snapshot.raw:
            leaf = Leaf(SYMLINK, builder.writer.add("blob", os.readlink(full)))
            snapshot.raw[path] = (leaf, "filter" if path in changed else "clean")


def store_ignored(builder: SnapshotBuilder, untracked: Container[bytes]) -> None:
    """Save ignored files that match the options' patterns, but for those among `untracked`, which are saved anyway."""
    patterns = [word for pattern in builder.options.include_ignored for word in ("-x", pattern)]
    output = builder.repository.git.run("ls-files", "-z", "-o", "-i", *patterns, env=builder.env)
    kept = set()
    for path in split_nul(output):
        is_saved = path in untracked or path == builder.options.state_file
        if is_saved or path.endswith(b"/") or not is_safe_path(path):
            continue
        leaf = read_file(builder, path)
        if leaf is not None:
            builder.snapshot.raw[path] = (leaf, "ignored")
            kept.add(path)
    builder.snapshot.ignored = [path for path in builder.snapshot.ignored if path not in kept]


def store_paths(builder: SnapshotBuilder) -> None:
    """Save the paths that the options name, byte for byte, where nothing else holds them."""
    snapshot = builder.snapshot
    for path in builder.options.include_paths:
        held = path in builder.tracked.paths or path in snapshot.worktree or path in snapshot.raw
        if not held and (leaf := read_file(builder, path)) is not None:
            snapshot.raw[path] = (leaf, "ignored")


def store_outside_sparse(builder: SnapshotBuilder) -> None:
    """Save tracked files that the sparse patterns exclude and that are there: the next checkout applies the patterns.

    Git applies them to a copy of the index, in an empty worktree.
    """
    repository, snapshot = builder.repository, builder.snapshot
    if snapshot.head is None or snapshot.stages or not os.path.lexists(builder.index_path):
        return
    empty = checkout_staging(repository)
    index = os.path.join(empty, b"index")
    where = (f"--git-dir={os.fsdecode(repository.git_dir)}", "--work-tree=.")
    place = Git(empty, (*repository.git.options, *repository.filters_off(), *where))
    files.make_directory(empty, top=repository.git_dir, durable=False)
    try:
        link_or_copy(builder.index_path, index)
        env = {"GIT_INDEX_FILE": os.fsdecode(index)}
        with suppress(GitError):
            place.run("read-tree", "-m", "-u", "HEAD", env=env)
            listing = parse_listing(place.run("ls-files", "-z", "-v", env=env))
            excluded = [path for tag, path in listing.hidden if tag in b"Ss"]
            for entry in list_index(repository.git, [path for path in excluded if _is_there(builder, path)], env=env):
                builder.index_modes[entry.path] = entry.mode
                leaf = read_file(builder, entry.path)
                if leaf is not None:
                    snapshot.raw[entry.path] = (leaf, "clean")
    finally:
        files.remove_tree(empty)


def _is_there(builder: SnapshotBuilder, path: bytes) -> bool:
    snapshot = builder.snapshot
    known = path in snapshot.worktree or path in snapshot.raw or path in snapshot.absent
    return (
        not known and builder.is_reached(path.rpartition(b"/")[0]) and os.path.lexists(os.path.join(builder.top, path))
    )


# -- names where case is folded


def folded(path: bytes) -> str:
    """What two names of one file have in common on a file system that folds case or normalises Unicode."""
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", os.fsdecode(path)).casefold())


def is_same_text(one: bytes, other: bytes) -> bool:
    """Whether two paths differ at most in how Unicode writes their letters (NFC, NFD)."""
    from unicodedata import normalize

    return normalize("NFC", os.fsdecode(one)) == normalize("NFC", os.fsdecode(other))


class ListedNames:
    """Names as directories list them. Where case is folded, a file answers to names that no directory lists."""

    def __init__(self, top: bytes) -> None:
        self._top = top
        #: Directory, as it is listed → its entries: by name, and by folded name.
        self._known: dict[bytes, tuple[frozenset[bytes], dict[str, bytes]]] = {}

    def of(self, path: bytes) -> bytes | None:
        """The path under which a path that leads to a file is listed: itself, as a rule. None where nothing fits."""
        listed = b""
        for name in path.split(b"/"):
            names, by_folded = self._entries(listed)
            there = name if name in names else by_folded.get(folded(name))
            if there is None:
                return None
            listed = os.path.join(listed, there)
        return listed

    def _entries(self, directory: bytes) -> tuple[frozenset[bytes], dict[str, bytes]]:
        if directory not in self._known:
            try:
                names = os.listdir(os.path.join(self._top, directory))
            except OSError:
                names = []
            self._known[directory] = frozenset(names), {folded(name): name for name in names}
        return self._known[directory]
