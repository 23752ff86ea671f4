"""What a partial clone lacks: its promisor remotes have it, and no git of ours fetches it by itself.

A git that may fetch nothing ends where it needs such an object. Of a file that it was writing an empty one is left.
"""

from __future__ import annotations

from ..errors import CorruptSave
from ..system.stdlib import TYPE_CHECKING
from .command import is_oid

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .command import Oid
    from .repository import Repository

#: What git says where it ends so.
LACKED = b"from promisor remote"


def held_here(repository: Repository, oids: Collection[Oid]) -> set[Oid]:
    """Those of the objects that are in this clone. Raises GitError."""
    argv = ("rev-list", "--objects", "--no-object-names", "--no-walk", "--ignore-missing", "--missing=allow-any")
    lines = "".join(f"{oid}\n" for oid in oids).encode("ascii")
    return {*repository.git.run(*argv, "--stdin", input=lines).decode("ascii").split()} if oids else set()


def lacked_files(repository: Repository, blobs: Mapping[bytes, Oid]) -> set[bytes]:
    """Those of these paths whose blob a partial clone lacks; none of a whole clone. Raises GitError."""
    if not blobs or not repository.promisors():
        return set()
    here = held_here(repository, {*blobs.values()})
    return {path for path, oid in blobs.items() if oid not in here}


def reached(
    repository: Repository, names: Sequence[str], *options: str, hidden: Sequence[str] = ()
) -> tuple[list[Oid], list[Oid]]:
    """The objects that `names` reach and `hidden` don't: those that are here, and those that are missing.

    Raises GitError, CorruptSave.
    """
    if not names:
        return [], []
    lines = "".join(f"{name}\n" for name in (*names, *(f"^{name}" for name in hidden))).encode("ascii")
    argv = ("rev-list", "--objects", "--no-object-names", "--missing=print", *options, "--stdin")
    listed = repository.git.run(*argv, input=lines).decode("ascii").split()
    for name in listed:
        if not is_oid(name.removeprefix("?")):
            raise CorruptSave(f"git lists {name[:40]!r} as an object")
    here = [name for name in listed if not name.startswith("?")]
    return here, [name[1:] for name in listed if name.startswith("?")]
