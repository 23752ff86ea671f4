"""What a snapshot takes from the git dir: index, files of an unfinished operation, sparse checkout, settings."""

from __future__ import annotations

import os

from ..errors import GitError
from ..format.manifest import MAX_SETTING
from ..git import refs
from ..git.command import Git
from ..git.gitdir import is_operation_ref, operation_paths, operation_place, operation_under_way
from ..git.index import file_identity, identify_index, resolve_undo, shared_index_name
from ..objects.tree import DIRECTORY, EXECUTABLE, REGULAR, Leaf
from ..system.files import read_limited
from ..system.stdlib import TYPE_CHECKING
from .read import read_whole

if TYPE_CHECKING:
    from ..git.repository import Repository
    from .record import SnapshotBuilder

#: An index of at most this many bytes is copied into the archive (some 1,500 entries).
_INDEX_COPIED = 128 << 10
#: Larger files of an operation, in bytes, are skipped.
_LARGEST_FILE = 16 << 20
#: Sections that say who commits, and how git reads and shows files. No setting of theirs names a program or a secret.
_SECTIONS = ("user.", "author.", "committer.", "index.", "feature.", "status.", "rerere.", "checkout.", "advice.")
#: The same of sections that have other settings too.
_NAMES = frozenset(
    (
        *("core.autocrlf", "core.eol", "core.safecrlf", "core.whitespace", "core.attributesfile", "core.excludesfile"),
        *("core.filemode", "core.symlinks", "core.ignorecase", "core.precomposeunicode", "core.checkstat"),
        *("core.sparsecheckout", "core.sparsecheckoutcone", "core.splitindex", "core.untrackedcache"),
        *("core.trustctime", "core.preloadindex", "core.quotepath", "core.bigfilethreshold", "core.commentchar"),
        *("commit.gpgsign", "commit.cleanup", "merge.conflictstyle", "pull.rebase", "pull.ff", "push.default"),
        *("apply.whitespace", "diff.renames", "diff.algorithm", "merge.renames", "rebase.autostash"),
    )
)
#: They say where a worktree is, and do not go with it.
_OF_THE_PLACE = ("core.worktree", "core.bare")
_HEX = b"0123456789abcdef"
#: Keeps hexadecimal digits; every other letter becomes `_`, and what separates words a space.
_WORDS = bytes(c if c in _HEX else 95 if chr(c).isalnum() or c == 95 else 32 for c in range(128)) + b" " * 128


def store_index(builder: SnapshotBuilder, *, has_hidden: bool) -> None:
    """Note which index file it is, and store its bytes where the index is small, split, or has hidden entries.

    A large plain index is not copied: the save keeps that very file, and trees can rebuild one that is lost.
    """
    snapshot, repository = builder.snapshot, builder.repository
    try:
        fd = os.open(builder.index_path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        info = os.fstat(fd)
        snapshot.index_file = identify_index(fd)
        # In a sparse checkout git shows no flag of a file that is there, and hides it once it is gone.
        snapshot.index_is_plain = not has_hidden and not repository.is_true("core.sparsecheckout")
        is_split = any(name.startswith(b"sharedindex.") for name in os.listdir(repository.git_dir))
        undo = resolve_undo(fd, len(repository.zero) // 2)
        for oid, kind in zip(undo, builder.reader.kinds(undo), strict=True) if undo else ():
            if kind is not None and kind[0] == "blob":
                snapshot.keep_others.append(Leaf(REGULAR, oid))
        if snapshot.index_is_plain and not is_split and info.st_size > _INDEX_COPIED:
            return
        data = read_whole(fd, info.st_size)
    finally:
        os.close(fd)
    snapshot.index = builder.writer.add("blob", data)
    shared = shared_index_name(data, len(repository.zero) // 2, repository.git_dir) if is_split else None
    if shared is not None:
        with open(os.path.join(repository.git_dir, b"sharedindex." + shared.encode("ascii")), "rb") as file:
            snapshot.shared_index = (shared, builder.writer.add("blob", file.read()))


def store_operation(builder: SnapshotBuilder) -> None:
    """Store the files of an unfinished operation, and note the objects that they name."""
    snapshot, git_dir, common_dir = builder.snapshot, builder.repository.git_dir, builder.repository.common_dir
    snapshot.operation = operation_under_way(git_dir) or ("conflict" if snapshot.stages else None)
    named: set[bytes] = set()
    digits = len(builder.repository.zero)
    for path in operation_paths(git_dir, common_dir):
        place = operation_place(git_dir, common_dir, path)
        data = read_limited(place, _LARGEST_FILE)
        if data is None:
            builder.skip(b"", f"unreadable file of the unfinished operation: {os.fsdecode(path)}", lost=True)
            continue
        executable = os.access(place, os.X_OK)
        leaf = Leaf(EXECUTABLE if executable else REGULAR, builder.writer.add("blob", data))
        snapshot.operation_files[path] = leaf
        named.update(word for word in data.translate(_WORDS).split() if len(word) == digits and b"_" not in word)
    if not refs.refs_are_files(builder.repository):
        named.update(_store_root_refs(builder))
    oids = [oid.decode("ascii") for oid in sorted(named)]
    for oid, info in zip(oids, builder.reader.kinds(oids), strict=True):
        if info is None:
            continue
        if info[0] == "commit":
            snapshot.keep_commits.append(oid)
        elif info[0] == "tree":
            snapshot.keep_others.append(Leaf(DIRECTORY, oid))
        elif info[0] == "blob":
            snapshot.keep_others.append(Leaf(REGULAR, oid))


def _store_root_refs(builder: SnapshotBuilder) -> set[bytes]:
    """Store the refs of an unfinished operation that are in a reftable as the files that they are elsewhere.

    Returns the objects that they name.
    """
    snapshot = builder.snapshot
    words = ("--include-root-refs", "--format=%(objectname) %(refname) %(symref)")
    found = set()
    for line in builder.repository.git.run("for-each-ref", *words).split(b"\n")[:-1]:
        oid, name, target = line.split(b" ", 2)
        if is_operation_ref(name):
            content = b"ref: %s\n" % target if target else oid + b"\n"
            snapshot.operation_files[name] = Leaf(REGULAR, builder.writer.add("blob", content))
            found.add(oid)
    if snapshot.operation in (None, "conflict", "sequence"):
        for name, operation in ((b"CHERRY_PICK_HEAD", "cherry-pick"), (b"REVERT_HEAD", "revert")):
            snapshot.operation = operation if name in snapshot.operation_files else snapshot.operation
    return found


def store_sparse(builder: SnapshotBuilder) -> None:
    """Note the settings of a sparse checkout, and store its patterns; note those of a linked worktree alone."""
    repository = builder.repository
    for name in ("core.sparsecheckout", "core.sparsecheckoutcone", "index.sparse"):
        value = repository.setting(name)
        if value is not None:
            builder.snapshot.sparse[name] = value
    data = read_limited(os.path.join(repository.git_dir, b"info", b"sparse-checkout"), _LARGEST_FILE)
    if data is not None:
        builder.snapshot.sparse_file = builder.writer.add("blob", data)
    path = os.path.join(repository.git_dir, b"config.worktree")
    if (
        repository.git_dir != repository.common_dir
        and repository.is_true("extensions.worktreeconfig")
        and os.path.isfile(path)
    ):
        builder.snapshot.worktree_settings = _worktree_settings(path)


def is_harmless_setting(name: str) -> bool:
    """Whether a setting names no program, and holds no secret."""
    return name.startswith(_SECTIONS) or name in _NAMES


def _worktree_settings(path: bytes) -> dict[str, str | None]:
    """The settings in `config.worktree` at `path`; None for one that may name a program or hold a secret."""
    try:
        listed = Git(b"/").run("config", "--file", path, "--list", "-z")
    except GitError:
        return {}
    settings: dict[str, str | None] = {}
    for item in listed.split(b"\0")[:-1]:
        key, line_end, value = item.partition(b"\n")
        name = key.decode("utf-8", "replace")
        if name in _OF_THE_PLACE:
            continue
        try:
            text = value.decode("utf-8") if line_end else "true"
        except UnicodeDecodeError:
            text = None
        settings[name] = text if is_harmless_setting(name) and text is not None and len(text) <= MAX_SETTING else None
    return settings


def settings_identity(repository: Repository) -> tuple[object, ...]:
    """A value that changes when the repository's configuration, exclude, attributes or sparse file changes."""
    paths = (
        os.path.join(repository.common_dir, b"config"),
        os.path.join(repository.git_dir, b"config.worktree"),
        os.path.join(repository.common_dir, b"info", b"exclude"),
        os.path.join(repository.common_dir, b"info", b"attributes"),
        os.path.join(repository.git_dir, b"info", b"sparse-checkout"),
    )
    return tuple(file_identity(path) for path in paths)
