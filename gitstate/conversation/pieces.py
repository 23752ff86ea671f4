"""Keep what is new of the agent's transcript. It costs a save nothing but the bytes that came since the last time."""

from __future__ import annotations

import os
import stat

from ..errors import BadJson, GitstateError
from ..format.context import MAX_CONTEXT
from ..format.names import conversation_ref, is_save_id, workspace_id
from ..git import refs
from ..git.refs import RefUpdate
from ..objects.edit import edit_tree
from ..objects.pack import PackWriter
from ..objects.reader import ObjectReader, format_commit
from ..objects.tree import DIRECTORY, REGULAR, Leaf, TreeReader
from ..system import files
from ..system.jsonio import dumps, loads
from ..system.stdlib import TYPE_CHECKING, Record, digest, suppress
from ..workspace.ownership import ref_locks, write_journal
from .record import (
    MOST_BYTES,
    PIECE,
    RECORD,
    SUBJECT,
    TAIL,
    Kept,
    KeptFile,
    is_of_lines,
    is_torn_copy,
    kept_from_json,
    piece_path,
    read_file,
    read_kept,
    whole_lines,
)

if TYPE_CHECKING:
    from ..format.context import Context
    from ..git.command import Git, Oid
    from ..git.repository import Repository

#: What was kept last, so that the next save need not ask git.
_MEMORY = b"conversation.json"
#: No more new bytes of one file are kept at once: the next save takes the rest.
_AT_ONCE = 32 << 20
#: A file that is written whole is read whole, and is no larger.
_MOST_WHOLE = 4 << 20
#: So often in a row the text of before stays reachable where it was replaced.
_GENERATIONS = 8


class _New(Record):
    """What is new of one file: `data` follows the kept bytes, or stands in their place where `anew` is true."""

    data: bytes
    tail: str
    """`KeptFile.tail` with the data."""
    anew: bool = False


def keep_conversation(repository: Repository, git: Git, context: Context, stamp: str, *, deflates: bool) -> int:
    """Keep what is new of the session that the context names; returns how many bytes. For who holds the workspace.

    `stamp` is identity and time for the commit. Raises GitstateError, OSError.
    """
    session = context.session_id
    if session is None or not is_save_id(session):
        return 0
    ref = conversation_ref(workspace_id(repository), session)
    tip = refs.read_refs(repository, [ref]).get(ref)
    before = _remembered(repository, tip)
    place = _place(context, before)
    if place is None:
        return 0
    kept = place if before is None else place._replace(files=before.files, generation=before.generation)
    if tip is not None and before is None:
        with ObjectReader(repository.git) as reader, suppress(GitstateError):
            kept = read_kept(reader, tip)[0]
            kept = place._replace(files=kept.files, generation=kept.generation)
    keeper = _Keeper(repository, git, kept, tip)
    found = [keeper.look(number, item) for number, item in enumerate(_items(kept, place))]
    if not any(found):
        return 0
    return keeper.write(ref, found, stamp, deflates=deflates)


def _items(kept: Kept, place: Kept) -> list[KeptFile]:
    """The files to look at: those that are kept, and new ones behind them."""
    known = {item.name: item for item in kept.files}
    names = {item.name for item in place.files}
    kept_in_order = [item for item in kept.files if item.name in names]
    if len(kept_in_order) != len(kept.files):
        # They stand elsewhere now: nothing of before is continued.
        return list(place.files)
    return [*kept_in_order, *(item for item in place.files if item.name not in known)]


def _place(context: Context, before: Kept | None) -> Kept | None:
    """Where the session's files are now, with nothing kept of them; None where there are none."""
    from ..agents.sessions import copy_session, find_transcript

    copy_session(context, os.environ)
    found = find_transcript(context, os.environ, None if before is None else (before.root, before.transcript))
    if found is None:
        return None
    directory = context.extra.get("agent_cwd")
    if not isinstance(directory, str):
        directory = context.workspace_path or "/"
    names = tuple(KeptFile(name) for name in found.files)
    return Kept(context.agent or "", context.session_id or "", found.root, found.transcript, directory, names)


def _remembered(repository: Repository, tip: Oid | None) -> Kept | None:
    """What was kept last, if that is what the ref names."""
    data = files.read_limited(os.path.join(repository.own, _MEMORY), MAX_CONTEXT)
    if data is None or tip is None:
        return None
    try:
        value = loads(data, MAX_CONTEXT, "the memory")
        return kept_from_json(value["kept"]) if value.get("commit") == tip else None
    except (BadJson, KeyError, GitstateError):
        return None


class _Keeper:
    """Looks at the files of one session, and writes what is new of them."""

    def __init__(self, repository: Repository, git: Git, kept: Kept, tip: Oid | None) -> None:
        self.repository = repository
        self.git = git
        self.kept = kept
        self.tip = tip

    def look(self, number: int, item: KeptFile) -> tuple[KeptFile, _New] | None:
        """What is new of one file; None where nothing is, or where it can't be read."""
        try:
            fd = _open(self.kept.root, item.name)
        except OSError:
            return None
        try:
            info = os.fstat(fd)
            owners = (os.geteuid(), os.stat(self.repository.git_dir).st_uid)
            if not stat.S_ISREG(info.st_mode) or info.st_uid not in owners:
                return None
            new = self._lines(fd, info.st_size, number, item) if is_of_lines(item.name) else _whole(fd, info, item)
        finally:
            os.close(fd)
        return None if new is None else (item, new)

    def _lines(self, fd: int, size: int, number: int, item: KeptFile) -> _New | None:
        """New whole lines. A file that was cut short or zeroed has none."""
        start = max(0, item.size - TAIL)
        before = _read(fd, start, item.size - start)
        if size >= item.size and (not item.size or _hash(before) == item.tail):
            room = min(size - item.size, _AT_ONCE, MOST_BYTES - item.size)
            data = whole_lines(_read(fd, item.size, room)) if room > 0 else b""
            return _New(data, _hash((before + data)[-TAIL:])) if data else None
        data = _read(fd, 0, min(size, MOST_BYTES))
        if not whole_lines(data) or self.tip is None:
            return None
        with ObjectReader(self.repository.git) as reader:
            kept, tree = read_kept(reader, self.tip)
            if number < len(kept.files) and is_torn_copy(data, read_file(reader, tree, kept, number)):
                return None
        data = whole_lines(data[:_AT_ONCE])
        return _New(data, _hash(data[-TAIL:]), anew=True)

    def write(self, ref: str, found: list[tuple[KeptFile, _New] | None], stamp: str, *, deflates: bool) -> int:
        """Write the new pieces and move the ref: durable when this returns."""
        repository = self.repository
        own = workspace_id(repository)
        mode = 0o440 if files.is_shared(os.stat(repository.objects)) else 0o400
        writer = PackWriter(repository.objects, repository.object_format, own, deflates=deflates, mode=mode)
        reader = ObjectReader(repository.git)
        try:
            trees = TreeReader(reader)
            base = None if self.tip is None else _tree_of(reader, self.tip)
            changes: dict[bytes, Leaf | None] = {}
            items = list(self.kept.files)
            replaced = False
            for number, one in enumerate(found):
                if one is None:
                    continue
                item, new = one
                replaced |= new.anew and is_of_lines(item.name)
                item = _add(number, item, new, writer, changes, base, trees)
                items[number : number + 1] = [item]
            kept = self.kept._replace(
                files=tuple(items), generation=self.kept.generation + 1 if replaced else self.kept.generation
            )
            changes[RECORD] = Leaf(REGULAR, writer.add("blob", kept.to_bytes()))
            tree = edit_tree(base, changes, trees, writer.add)
            linked = replaced and self.tip is not None and kept.generation % _GENERATIONS
            parents = [self.tip] if linked and self.tip is not None else []
            commit = writer.add("commit", format_commit(tree, parents, stamp, SUBJECT + kept.session_id + "\n"))
            writer.finish()
            write_journal(repository, ref_locks(repository, [ref]))
            refs.move_refs(repository, self.git, [RefUpdate(ref, commit, self.tip)], "conversation")
            self._remember(kept, commit)
        finally:
            reader.close()
            writer.release()
        return sum(len(one[1].data) for one in found if one is not None)

    def _remember(self, kept: Kept, commit: Oid) -> None:
        path = os.path.join(self.repository.own, _MEMORY)
        value = {"commit": commit, "kept": loads(kept.to_bytes(), MAX_CONTEXT, "the record")}
        with suppress(OSError):
            files.write_atomic(path, dumps(value), staging=self.repository.own, durable=False)


def _add(
    number: int,
    item: KeptFile,
    new: _New,
    writer: PackWriter,
    changes: dict[bytes, Leaf | None],
    base: Oid | None,
    trees: TreeReader,
) -> KeptFile:
    """Add the pieces of one file to `changes`; returns what is kept of it then."""
    if new.anew:
        old = None if base is None else trees.tree(base).get(b"%d" % number)
        if old is not None and old.mode == DIRECTORY:
            changes.update({piece_path(number, piece): None for piece in range(item.pieces)})
        item = KeptFile(item.name)
    pieces = item.pieces
    for start in range(0, len(new.data), PIECE):
        blob = writer.add("blob", new.data[start : start + PIECE])
        changes[piece_path(number, pieces)] = Leaf(REGULAR, blob)
        pieces += 1
    return KeptFile(item.name, item.size + len(new.data), pieces, new.tail)


def _whole(fd: int, info: os.stat_result, item: KeptFile) -> _New | None:
    """A file that its agent writes whole, where it differs from what is kept; not one that a power cut left blank."""
    if not 0 < info.st_size <= _MOST_WHOLE:
        return None
    data = _read(fd, 0, info.st_size)
    tail = _hash(data)
    if len(data) != info.st_size or b"\0" in data or (tail, len(data)) == (item.tail, item.size):
        return None
    return _New(data, tail, anew=True)


def _open(root: str, name: str) -> int:
    """Open a file below `root`. No part of `name` may be a symlink. Raises OSError."""
    *parents, last = os.fsencode(name).split(b"/")
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = below
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)


def _read(fd: int, start: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(fd, min(size, PIECE), start)):
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return b"".join(parts)


def _hash(data: bytes) -> str:
    return digest("sha256", data).hexdigest()


def _tree_of(reader: ObjectReader, commit: Oid) -> Oid | None:
    """The tree of what is kept; None where it can't be read: then everything is kept anew."""
    try:
        return reader.tree_of(commit, MAX_CONTEXT)
    except GitstateError:
        reader.restart()
        return None
