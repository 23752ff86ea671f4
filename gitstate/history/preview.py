"""What a restore would change, as a patch: each file of now against the version of the save."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator

from ..git.repository import Repository
from ..objects.reader import ObjectReader
from ..objects.tree import GITLINK
from ..recover.elsewhere import stack_of
from ..restore.paths import SavedPaths, Workspace

#: A file of more bytes is only named.
_LARGE = 1 << 20


def preview(repository: Repository, save_id: str, restored: Iterable[bytes], deleted: Iterable[bytes]) -> str:
    """The patch from the files of now to those of a save, for the paths that would be written and deleted."""
    with ObjectReader(repository.git) as reader:
        workspace = Workspace.of(repository, repository.git, reader)
        saved = SavedPaths(workspace, stack_of(repository, save_id).stack)
        paths = sorted({*restored, *deleted})
        leaves = saved.leaves(saved.newest.wip_tree, paths)
        leaves |= {target.path: target.saved for target in saved.targets() if target.saved is not None}
        parts: list[str] = []
        for path in paths:
            leaf = leaves.get(path)
            if leaf is not None and leaf.mode == GITLINK:
                continue
            info = None if leaf is None else reader.kinds([leaf.oid])[0]
            after = b"" if leaf is None else None
            if leaf is not None and info is not None and info[1] <= _LARGE:
                after = b"".join(reader.stream(leaf.oid))
            parts += _file(path, _now(workspace, path), after, is_new=leaf is not None, is_gone=leaf is None)
    return "".join(parts)


def _now(workspace: Workspace, path: bytes) -> bytes | None:
    """The content on the disk: empty where there is none, None where it is too large."""
    full = os.path.join(workspace.repository.toplevel, path)
    seen = workspace.disk.look(path)
    if seen.kind == "link":
        return os.readlink(full)
    if seen.kind != "file":
        return b""
    return b"".join(workspace.disk.read(path)) if os.lstat(full).st_size <= _LARGE else None


def _file(path: bytes, before: bytes | None, after: bytes | None, *, is_new: bool, is_gone: bool) -> Iterator[str]:
    name = os.fsdecode(path)
    yield f"diff --git a/{name} b/{name}\n"
    texts = [
        None if data is None or b"\0" in data else data.decode("utf-8", "surrogateescape") for data in (before, after)
    ]
    old, new = texts
    if old is None or new is None:
        yield f"Binary files a/{name} and b/{name} differ\n"
        return
    names = ("/dev/null" if not before and is_new and not old else f"a/{name}", "/dev/null" if is_gone else f"b/{name}")
    for line in difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), *names):
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
