"""What git would write into the worktree for a blob, without writing it: a file that is just that is nobody's work."""

from __future__ import annotations

import os

from ..errors import GitError
from ..git.attributes import Conversions, IndexConversions, attributes_files, governed, only_in_index
from ..git.command import Oid, object_id
from ..objects.tree import GITLINK, SYMLINK, Leaf
from ..system.files import temporary_directory
from ..system.process import limit_memory
from ..system.stdlib import TYPE_CHECKING, suppress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..git.entries import IndexEntry
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
        # `cat-file` does not read the index for attributes either; and git's own may be torn.
        no_index = os.fsdecode(os.path.join(repository.own, b"no-index"))
        self._conversions = Conversions(repository, {"GIT_INDEX_FILE": no_index})
        #: Path and blob → the oid of what git writes there, of those that were asked for at once.
        self._known: dict[tuple[bytes, Oid], Oid] = {}
        #: The filters that took too long for one file: they run for no other.
        self._late: set[bytes | None] = set()
        #: The .gitattributes files of the index; None until somebody asks.
        self._attributes: list[IndexEntry] | None = None

    def changed_by_checkout(self, paths: list[bytes]) -> frozenset[bytes]:
        """Those of the paths at which git may write something else than what it stores."""
        conversions = self._naming()
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
            filtered = self._naming().filters_of([path for path, _ in pairs]) if pairs else {}
            left = [pair for pair in dict.fromkeys(pairs) if pair[0] not in filtered]
            while left:
                # Of each path one blob.
                asked = dict(reversed(left))
                left = [pair for pair in left if asked[pair[0]] != pair[1]]
                found = self._checkout_oids(asked)
                self._known.update({(path, asked[path]): oid for path, oid in found.items()})

    def oids(self, target: Target) -> Iterator[Oid | None]:
        """What git writes for each base of a target; None where its filters fail.

        A base of more bytes than fit into memory easily is passed over: then the disk wins.
        """
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
                yield self._written(target.path, leaf.oid)
            except (GitError, OSError) as error:
                if isinstance(error, GitError) and (error.status == -9 or "ut of memory" in error.message):
                    self._late.add(self._filter_of(target.path))
                yield None

    def _written(self, path: bytes, oid: Oid) -> Oid | None:
        """What git writes for one blob. Raises GitError where its filter fails, or takes too long; or OSError."""
        repository = self._repository
        # Where a filter fails git writes what it stores, as if that were the file.
        required = self._conversions.writing_filters_required()
        limit = repository.filter_limit or _FILTER
        if self._governed_by_index([path]):
            return self._by_index({path: oid}, required, limit).get(path)
        process = repository.git.start(*required, "cat-file", "--filters", b"--path=" + path, oid)
        limit_memory(process.pid)
        out = repository.git.finish(process, timeout=limit)
        return object_id(repository.object_format, "blob", out)

    def _checkout_oids(self, wanted: dict[bytes, Oid]) -> dict[bytes, Oid]:
        """What git writes for these blobs without a filter program, where it can tell. Raises GitError."""
        by_index = self._governed_by_index(wanted)
        found = self._conversions.checkout_oids({path: oid for path, oid in wanted.items() if path not in by_index})
        if by_index:
            with suppress(OSError):
                found.update(self._by_index({path: wanted[path] for path in by_index}))
        return found

    def _naming(self) -> Conversions:
        """Tells the attributes of a path, with those that only the index has."""
        return Conversions(self._repository, {}) if self._in_index() else self._conversions

    def _governed_by_index(self, paths: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the paths of which a .gitattributes file may speak that is in the index and not on the disk."""
        gone = only_in_index(self._repository, [entry.path for entry in self._in_index()])
        return frozenset(governed(paths, gone))

    def _in_index(self) -> list[IndexEntry]:
        """The .gitattributes files of the index; none where it is torn."""
        if self._attributes is None:
            self._attributes = []
            with suppress(GitError):
                self._attributes = attributes_files(self._repository)
        return self._attributes

    def _by_index(
        self, wanted: Mapping[bytes, Oid], options: Iterable[str] = (), limit: float | None = None
    ) -> dict[bytes, Oid]:
        with temporary_directory("gitstate-attributes-") as directory:
            place = os.path.join(os.fsencode(directory), b"git")
            with IndexConversions(self._repository, self._in_index(), place) as by_index:
                return by_index.checkout_oids(wanted, *options, limit=limit)

    def _filter_of(self, path: bytes) -> bytes | None:
        """The name of the filter of a path; None where it has none."""
        return self._naming().filters_of([path]).get(path)


def files_among(leaves: Iterable[Leaf]) -> list[Leaf]:
    """Those of `leaves` that are files."""
    return [leaf for leaf in leaves if leaf.mode not in (SYMLINK, GITLINK)]
