"""What git would write into the worktree for a blob, without writing it: a file that is just that is nobody's work."""

from __future__ import annotations

import os

from ..errors import GitError
from ..git.attributes import Conversions
from ..git.command import Oid, object_id
from ..objects.tree import GITLINK, SYMLINK, Leaf
from ..system.process import limit_memory
from ..system.stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..git.repository import Repository
    from ..objects.reader import ObjectReader
    from .choices import Target

#: So many seconds a filter may take for one file, where no setting was read.
_FILTER = 60.0
#: The result of git's filters is held in memory.
_MOST_CONVERTED = 256 << 20
#: Of fewer files each is asked for by itself; of more at once, those up to this size.
_FEW, _SMALL = 4, 128 << 10


class CheckoutOids:
    """Asks git for them: one by one where a program converts them, else many at once."""

    def __init__(self, repository: Repository, reader: ObjectReader) -> None:
        self._repository = repository
        self._reader = reader
        # What writes a blob out does not read the index for attributes either; and git's own may be torn.
        no_index = os.fsdecode(os.path.join(repository.own, b"no-index"))
        self._conversions = Conversions(repository, {"GIT_INDEX_FILE": no_index})
        #: Path and blob → the oid of what git writes there, of those that were asked for at once.
        self._known: dict[tuple[bytes, Oid], Oid] = {}
        #: The filters that took too long for one file: they run for no other.
        self._late: set[bytes | None] = set()

    def changed_by_checkout(self, paths: list[bytes]) -> frozenset[bytes]:
        """Those of the paths at which git may write something else than what it stores."""
        conversions = self._conversions
        found = conversions.converting_attributes(paths).items()
        return frozenset(
            path
            for path, named in found
            if conversions.filter_writes(named) or conversions.may_change_on_checkout(named)
        )

    def foresee(self, targets: Iterable[Target]) -> None:
        """Ask at once for the bases of these targets which git converts by itself, in line ends and encodings."""
        pairs = [(target.path, leaf.oid) for target in targets for leaf in files_among(target.bases)]
        if len(pairs) < _FEW:
            return
        infos = self._reader.kinds([oid for _, oid in pairs])
        pairs = [pair for pair, info in zip(pairs, infos, strict=True) if info is not None and info[1] <= _SMALL]
        # Where git is killed, as for want of memory, each is asked for by itself.
        with suppress(GitError):
            filtered = self._conversions.filters_of([path for path, _ in pairs]) if pairs else {}
            left = [pair for pair in dict.fromkeys(pairs) if pair[0] not in filtered]
            while left:
                # Of each path one blob.
                asked = dict(reversed(left))
                left = [pair for pair in left if asked[pair[0]] != pair[1]]
                found = self._conversions.checkout_oids(asked)
                self._known.update({(path, asked[path]): oid for path, oid in found.items()})

    def oids(self, target: Target) -> Iterator[Oid | None]:
        """What git writes for each base of a target; None where its filters fail.

        A base of more bytes than fit into memory easily is passed over: then the disk wins.
        """
        repository = self._repository
        for leaf in files_among(target.bases):
            if (target.path, leaf.oid) in self._known:
                yield self._known[target.path, leaf.oid]
                continue
            info = self._reader.kinds([leaf.oid])[0]
            if info is None or info[1] > _MOST_CONVERTED:
                continue
            if self._late and self._filter_of(target.path) in self._late:
                yield None
                continue
            try:
                # Where a filter fails git writes what it stores, as if that were the file.
                required = self._conversions.writing_filters_required()
                process = repository.git.start(*required, "cat-file", "--filters", b"--path=" + target.path, leaf.oid)
                limit_memory(process.pid)
                out = repository.git.finish(process, timeout=repository.filter_limit or _FILTER)
                yield object_id(repository.object_format, "blob", out)
            except GitError as error:
                if error.status == -9 or "ut of memory" in error.message:
                    self._late.add(self._filter_of(target.path))
                yield None

    def _filter_of(self, path: bytes) -> bytes | None:
        """The name of the filter of a path; None where it has none."""
        return self._conversions.filters_of([path]).get(path)


def files_among(leaves: Iterable[Leaf]) -> list[Leaf]:
    """Those of `leaves` that are files."""
    return [leaf for leaf in leaves if leaf.mode not in (SYMLINK, GITLINK)]
