"""What is reached from commits and trees, and which part of it a partial clone lacks."""

from __future__ import annotations

from ..errors import CorruptSave
from ..system.stdlib import TYPE_CHECKING
from .command import is_oid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .command import Oid
    from .repository import Repository


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
