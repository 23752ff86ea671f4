"""Objects that a partial clone lacks (`git clone --filter`).

Git fetches them from a promisor remote where a command needs them. Nothing of gitstate does so, but `fetch`.
"""

from __future__ import annotations

from ..errors import CorruptSave
from ..git.command import Oid, is_oid
from ..system.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..git.command import Git
    from ..git.repository import Repository


def here(git: Git, oids: Collection[Oid]) -> set[Oid]:
    """Those of the objects that are in this clone. Another git that may fetch nothing ends where it is asked for them.

    Of a tree, what is below it is named, too. Raises GitError.
    """
    if not oids:
        return set()
    argv = ("rev-list", "--objects", "--no-object-names", "--no-walk", "--ignore-missing", "--missing=allow-any")
    lines = "".join(f"{oid}\n" for oid in oids).encode("ascii")
    return {*git.run(*argv, "--stdin", input=lines).decode("ascii").split()}


def reached(
    repository: Repository, names: Sequence[str], *options: str, hidden: Sequence[str] = ()
) -> tuple[list[Oid], list[Oid]]:
    """The objects that `names` reach and `hidden` don't: those that are here, and those that are missing.

    Raises GitError, CorruptSave.
    """
    if not names:
        return [], []
    lines = "".join(f"{name}\n" for name in (*names, *(f"^{name}" for name in hidden))).encode("ascii")
    argv = ("rev-list", "--objects", "--no-object-names", "--missing=print", "--stdin", *options)
    listed = repository.git.run(*argv, input=lines).decode("ascii").split()
    for name in listed:
        if not is_oid(name.removeprefix("?")):
            raise CorruptSave(f"git lists {name[:40]!r} as an object")
    return (
        [name for name in listed if not name.startswith("?")],
        [name[1:] for name in listed if name.startswith("?")],
    )
