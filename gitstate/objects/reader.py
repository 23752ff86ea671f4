"""Read objects by id through one `git cat-file --batch-command` process; raw commits, parsed and formatted."""

from __future__ import annotations

from ..errors import GitError, MissingObject
from ..git.command import Git, Oid, is_oid, object_id
from ..system.child import Child
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")


class CommitHead(Record):
    """What the header of a commit names."""

    tree: Oid
    parents: list[Oid]


class Info(Record):
    """What git says of an object before its bytes."""

    oid: Oid
    kind: str
    size: int
    """In bytes."""


def commit_head(data: bytes) -> CommitHead:
    """The tree and the parents of a raw commit. Raises ValueError where it is none."""
    tree, parents = "", []
    for line in data.split(b"\n\n", 1)[0].split(b"\n"):
        word, _, value = line.partition(b" ")
        if word == b"tree":
            tree = value.decode("ascii")
        elif word == b"parent":
            parents.append(value.decode("ascii"))
    if not is_oid(tree) or not all(is_oid(parent) for parent in parents):
        raise ValueError("not a commit")
    return CommitHead(tree, parents)


def format_commit(tree: Oid, parents: Iterable[Oid], stamp: str, message: str) -> bytes:
    """A raw commit. `stamp` is identity and time of author and committer: `name <email> seconds +0000`."""
    head = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {stamp}", f"committer {stamp}"]
    return ("\n".join(head) + f"\n\n{message}").encode("utf-8", "surrogateescape")


#: An object of more bytes is never held in memory as a whole.
LARGE = 8 << 20


#: So many commits, of so many bytes, are held by one reader.
_MOST_COMMITS, _SMALL = 64, 16 << 10


class _CutShort(MissingObject):
    """Raised when git ends in the middle of an object."""

    def __init__(self, oid: Oid) -> None:
        super().__init__(oid, "is cut short")


class ObjectReader:
    """Reads objects by id with one `git cat-file --batch-command` (git 2.36).

    It starts at the first request, or by `start`.

    `foresee_kinds` and `foresee_contents` send requests whose answers git makes ready while the caller does something
    else; `kinds` and `contents` then use them.
    """

    _AT_ONCE = 256

    def __init__(self, git: Git, env: Mapping[str, str] | None = None) -> None:
        self._git = git
        self._env = env
        self._started: Child | None = None
        #: Those that were told to end, and were not waited for yet.
        self._ending: list[Child] = []
        #: Requests whose answers were not read yet, in their order: (command, oid).
        self._ahead: list[tuple[bytes, Oid]] = []
        #: Answers that were read before they were wanted.
        self._foreseen: dict[tuple[bytes, Oid], object] = {}
        #: Commits that were read: the same few are asked for by each part of a recovery.
        self._commits: dict[Oid, bytes] = {}

    @property
    def _process(self) -> Child:
        self.start()
        assert self._started is not None
        return self._started

    def __enter__(self) -> ObjectReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Let git start while the caller does something else."""
        if self._started is None:
            self._started = self._git.start("cat-file", "--batch-command", "--buffer", env=self._env, quiet=True)

    def started_for(self, git: Git) -> ObjectReader:
        """The same reader, where it was started as `git` would start it; else another one, and this one's git ends."""
        if git == self._git:
            return self
        if self._started is not None:
            self._started.kill()
            self.close()
        return ObjectReader(git)

    def end(self) -> None:
        """Let git end while the caller does something else: another one starts if more is read after all."""
        if self._started is not None:
            if self._started.returncode is None:
                self._started.end_input()
            self._ending.append(self._started)
            self._started = None
            self._ahead.clear()

    def close(self) -> None:
        """End the process."""
        for child in (*self._ending, *([self._started] if self._started is not None else [])):
            child.wait()

    def restart(self) -> None:
        """Start another git after a GitError: git ends at an object that it can't read."""
        self.close()
        self._started = None
        self._ahead.clear()

    def foresee_kinds(self, oids: Iterable[Oid]) -> None:
        """`kinds` of these will be asked for."""
        self._foresee(b"info", oids)

    def foresee_contents(self, oids: Iterable[Oid]) -> None:
        """`contents` of these will be asked for. They are held until then, so they should be small."""
        self._foresee(b"contents", oids)

    def _foresee(self, verb: bytes, oids: Iterable[Oid]) -> None:
        # No more than fit into a pipe: git may wait until its answers are read, and read no request meanwhile.
        some = list(oids)[: self._AT_ONCE - len(self._ahead)]
        self._ask(verb, some)
        self._ahead += [(verb, oid) for oid in some]

    def kinds(self, oids: Sequence[Oid]) -> list[tuple[str, int] | None]:
        """Kind and size in bytes of each object; None for one that is missing."""
        return [None if info is None else (info.kind, info.size) for info in self.infos(oids)]

    def infos(self, names: Sequence[str]) -> list[Info | None]:
        """What git finds by each name, an id or such as `<commit>:<path>`; None where it finds nothing."""
        return self._answers(b"info", names, self._info)

    def contents(self, oids: Sequence[Oid], limit: int | None = None) -> list[tuple[str, bytes] | None]:
        """Kind and bytes of each object; None for one that is missing.

        Raises MissingObject where one is larger than `limit` bytes or damaged, GitError.
        """
        if limit is not None:
            for oid, info in zip(oids, self.kinds(oids), strict=True):
                if info is not None and info[1] > limit:
                    raise MissingObject(oid, f"has {info[1]} bytes; the limit is {limit}")
        return self._answers(b"contents", oids, self._content)

    def commit(self, oid: Oid, limit: int | None = None) -> bytes | None:
        """A raw commit; None where there is no such object, or it is no commit. Raises as `contents` does.

        Git moves no branch to a commit whose file holds another object, and says so only then.
        """
        known = self._commits.get(oid)
        if known is not None and (limit is None or len(known) <= limit):
            return known
        return self.proven(oid, self.contents([oid], limit)[0])

    def proven(self, oid: Oid, found: tuple[str, bytes] | None) -> bytes | None:
        """The commit that was found as `oid`, held where it is small. Raises MissingObject where it is another one."""
        if found is None or found[0] != "commit":
            return None
        if object_id("sha1" if len(oid) == 40 else "sha256", *found) != oid:
            raise MissingObject(oid, "is damaged")
        if len(found[1]) <= _SMALL and len(self._commits) < _MOST_COMMITS:
            self._commits[oid] = found[1]
        return found[1]

    def head(self) -> Oid | None:
        """The commit of HEAD; None on an unborn branch, or where it can't be read."""
        try:
            self._catch_up()
            self._ask(b"info", ["HEAD^{commit}"])
            fields = self._process.stdout.readline().split()
        except GitError:
            fields = []
        if not fields:
            # Git ends at an object that it can't read.
            self.restart()
        return fields[0].decode("ascii") if len(fields) == 3 else None

    def tree_of(self, commit: Oid, limit: int | None = None) -> Oid:
        """The tree of a commit. Raises MissingObject where there is no such commit, or as `contents` does, GitError."""
        data = self.commit(commit, limit)
        try:
            return commit_head(data or b"").tree
        except ValueError:
            raise MissingObject(commit, "is missing or no commit") from None

    def _answers(self, verb: bytes, oids: Sequence[Oid], read: Callable[[Oid], T]) -> list[T]:
        self._catch_up()
        found: list[T] = []
        for start in range(0, len(oids), self._AT_ONCE):
            found += self._portion(verb, oids[start : start + self._AT_ONCE], read)
        return found

    def _portion(self, verb: bytes, some: Sequence[Oid], read: Callable[[Oid], T]) -> list[T]:
        ready = {oid: self._foreseen.pop((verb, oid)) for oid in {*some} if (verb, oid) in self._foreseen}
        self._ask(verb, [oid for oid in some if oid not in ready])
        try:
            return [ready[oid] if oid in ready else read(oid) for oid in some]  # type: ignore[misc]
        except _CutShort as error:
            if not self._is_mended(error.oid):
                raise
        return self._portion(verb, some, read)

    def _is_mended(self, oid: Oid) -> bool:
        """Whether git can read an object now at which it has ended."""
        from ..git.damaged.broken import discard_torn

        return not self._env and discard_torn(self._git, oid)

    def _catch_up(self) -> None:
        ahead, self._ahead = self._ahead, []
        try:
            for verb, oid in ahead:
                self._foreseen[verb, oid] = self._info(oid) if verb == b"info" else self._content(oid)
        except GitError:
            # Raised when that object is requested; the others are requested again.
            self.restart()

    def _ask(self, verb: bytes, oids: Sequence[Oid]) -> None:
        if not oids:
            return
        try:
            # Without a buffer git writes three times for each object, and we are woken as often.
            lines = [b"%s %s\n" % (verb, oid.encode("ascii")) for oid in oids]
            self._process.stdin.write(b"".join((*lines, b"flush\n")))
            self._process.stdin.flush()
        except BrokenPipeError:
            status = self._process.wait()
            self.restart()
            raise GitError(["cat-file"], status, b"it ended early") from None

    def _info(self, name: str) -> Info | None:
        fields = self._process.stdout.readline().split()
        if len(fields) == 3:
            return Info(fields[0].decode("ascii"), fields[1].decode("ascii"), int(fields[2]))
        if len(fields) == 2 and fields[1] == b"missing":
            return None
        # Git ended at it. The next request starts another.
        self.restart()
        raise MissingObject(name, "can't be read")

    def _content(self, oid: Oid) -> tuple[str, bytes] | None:
        info = self._info(oid)
        if info is None:
            return None
        data = self._process.stdout.read(info.size)
        self._process.stdout.read(1)
        if len(data) != info.size:
            self.restart()
            raise _CutShort(oid)
        return info.kind, data

    def stream(self, oid: Oid) -> Iterable[bytes]:
        """The bytes of one object in pieces, for objects too large for memory. To be read to its end.

        Raises MissingObject, GitError.
        """
        self._catch_up()
        self._ask(b"contents", [oid])
        info = self._info(oid)
        if info is None:
            raise MissingObject(oid)
        left = info.size
        while left:
            data = self._process.stdout.read(min(left, 1 << 20))
            if not data:
                self.restart()
                if not self._is_mended(oid):
                    raise _CutShort(oid)
                yield from self._rest(oid, info.size - left)
                return
            left -= len(data)
            yield data
        self._process.stdout.read(1)

    def _rest(self, oid: Oid, given: int) -> Iterable[bytes]:
        """What `stream` gives after its first `given` bytes."""
        for data in self.stream(oid):
            yield data[given:]
            given = max(0, given - len(data))


class ObjectsAhead:
    """Small objects that are requested many at once, so that git is not waited for at each; others as `reader` does."""

    #: An object of more bytes is not held.
    _SMALL = 32 << 10

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self._held: dict[Oid, tuple[str, bytes] | None] = {}

    def fetch(self, names: Sequence[str]) -> list[Oid | None]:
        """Read the small ones of the objects of these names (see `ObjectReader.infos`); `contents` finds them then.

        Returns their ids; None for a name by which git finds nothing.
        """
        try:
            infos = self._reader.infos(names)
            small = dict.fromkeys(info.oid for info in infos if info is not None and info.size <= self._SMALL)
            wanted = [oid for oid in small if oid not in self._held]
            self._held.update(zip(wanted, self._reader.contents(wanted), strict=True))
            return [None if info is None else info.oid for info in infos]
        except GitError:
            # Raised when that object is requested; the others are requested one by one.
            return [None] * len(names)

    def held(self, oid: Oid) -> bytes:
        """The bytes of an object that is held; nothing of another."""
        found = self._held.get(oid)
        return b"" if found is None else found[1]

    def size(self, oid: Oid) -> int:
        """Bytes of an object; 0 of one that is missing. Raises GitError."""
        found = self._held.get(oid)
        info = self._reader.kinds([oid])[0] if found is None else None
        return len(found[1]) if found is not None else info[1] if info is not None else 0

    def forget(self) -> None:
        """Hold nothing any more."""
        self._held.clear()

    def contents(self, oids: Sequence[Oid], limit: int | None = None) -> list[tuple[str, bytes] | None]:
        """As `ObjectReader.contents`."""
        found = [self._held.get(oid) for oid in oids]
        if any(content is None or (limit is not None and len(content[1]) > limit) for content in found):
            return self._reader.contents(oids, limit)
        return found

    def commit(self, oid: Oid, limit: int | None = None) -> bytes | None:
        """As `ObjectReader.commit`."""
        return self._reader.proven(oid, self.contents([oid], limit)[0])
