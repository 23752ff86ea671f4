"""The file of an object that a power cut tore, while a pack has the object whole."""

from __future__ import annotations

import os
import zlib

from ...errors import GitError
from ...system import files
from ...system.stdlib import TYPE_CHECKING, suppress
from ..command import object_id

if TYPE_CHECKING:
    from ..command import Git, Oid

#: A larger object is left to a person.
_LARGEST_OBJECT = 256 << 20


def discard_torn(git: Git, oid: Oid) -> bool:
    """Remove the file of an object where it holds something else, and a pack holds the object; whether it is removed.

    From git 2.55 on the file is read first, and git ends at it. An older git reads the pack.
    """
    with suppress(GitError, OSError):
        objects = git.run("rev-parse", "--path-format=absolute", "--git-path", "objects").removesuffix(b"\n")
        name = oid.encode("ascii")
        path = os.path.join(objects, name[:2], name[2:])
        if os.path.isfile(path) and not _is_whole(path, oid) and _is_packed(git, objects, oid):
            files.remove(path)
            files.fsync_path(os.path.dirname(path))
            return True
    return False


def _is_whole(path: bytes, oid: Oid) -> bool:
    """Whether the file of an object holds it. Raises OSError."""
    data = files.read_limited(path, _LARGEST_OBJECT)
    if data is None:
        return True
    unpacker = zlib.decompressobj()
    try:
        header, end, content = unpacker.decompress(data, _LARGEST_OBJECT).partition(b"\0")
    except zlib.error:
        return False
    kind = header.partition(b" ")[0].decode("latin-1")
    return bool(end) and unpacker.eof and object_id(_format(oid), kind, content) == oid


def _is_packed(git: Git, objects: bytes, oid: Oid) -> bool:
    """Whether the packs alone hold an object. Raises GitError, OSError."""
    with files.temporary_directory("gitstate-packs-") as directory:
        os.symlink(os.path.join(objects, b"pack"), os.path.join(os.fsencode(directory), b"pack"))
        env = {"GIT_OBJECT_DIRECTORY": os.fsdecode(directory)}
        if int(git.run("cat-file", "-s", oid, env=env)) > _LARGEST_OBJECT:
            return False
        kind = git.run("cat-file", "-t", oid, env=env).decode("ascii").strip()
        return object_id(_format(oid), kind, git.run("cat-file", kind, oid, env=env)) == oid


def _format(oid: Oid) -> str:
    return "sha1" if len(oid) == 40 else "sha256"
