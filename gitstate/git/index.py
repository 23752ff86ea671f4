"""The index as a file: its identity, git's lock on it, and the copy that a save keeps.

Git replaces its index by a rename, so a hard link to the old file keeps the old content.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from ..errors import TryAgain
from ..system import files
from ..system.clock import Deadline
from ..system.stdlib import TYPE_CHECKING, Record, contextmanager, digest, suppress
from .gitdir import is_dead_lock
from .repository import Repository

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from .command import Oid

#: How long a save waits for a git that holds index.lock before it goes on without the lock, in seconds.
_LOCK_PATIENCE = 0.3
#: The content of an index.lock of ours. After a kill no other is removed.
_OURS = b"gitstate\n"


class IndexMoved(TryAgain):
    """Git replaced the index file while the snapshot was taken: take another one."""


class IndexFile(Record):
    """The identity of an index file."""

    size: int
    checksum: str
    """The last 20 bytes in hex: the checksum, or a part of it in a sha256 repository."""
    mtime_ns: int


def identify_index(fd: int) -> IndexFile:
    """The identity of an open index file (`man 5 gitformat-index`)."""
    info = os.fstat(fd)
    return IndexFile(info.st_size, os.pread(fd, 20, max(info.st_size - 20, 0)).hex(), info.st_mtime_ns)


def identify_index_at(path: bytes) -> IndexFile | None:
    """The identity of the index file at `path`; None where there is none."""
    try:
        fd = files.open_at_once(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return identify_index(fd)
    finally:
        os.close(fd)


def readable_identity(path: bytes) -> IndexFile | None:
    """As `identify_index_at`; None also for a file that can't be read."""
    with suppress(OSError):
        return identify_index_at(path)
    return None


def is_torn_index(path: bytes, object_format: str) -> bool:
    """Whether the signature or the checksum of an index file is wrong; False where there is none.

    With `index.skipHash` the checksum is zero, and right.
    """
    checksum_of = digest(object_format)
    size = checksum_of.digest_size
    try:
        with open(path, "rb", opener=files.open_at_once) as file:
            left = os.fstat(file.fileno()).st_size - size
            start = data = file.read(max(0, min(left, 1 << 20)))
            while data:
                checksum_of.update(data)
                left -= len(data)
                data = file.read(min(left, 1 << 20))
            checksum = file.read(size)
    except FileNotFoundError:
        return False
    return not start.startswith(b"DIRC") or (any(checksum) and checksum != checksum_of.digest())


#: A larger index is taken for whole where its number of entries fits its size.
_HASHED = 256 << 10


def is_cut_index(path: bytes, object_format: str) -> bool:
    """Whether an index that git reads without an error was cut, so that git reads beyond its end."""
    head = b""
    with suppress(OSError), open(path, "rb", opener=files.open_at_once) as file:
        head, size = file.read(12), os.fstat(file.fileno()).st_size
    if len(head) < 12:
        return False
    too_short = size < 63 * int.from_bytes(head[8:12], "big")
    return too_short or (size <= _HASHED and is_torn_index(path, object_format))


def looks_torn(path: bytes, object_format: str) -> bool:
    """Whether the index at `path` is there and broken, as far as a look at the file tells."""
    try:
        with open(path, "rb", opener=files.open_at_once) as file:
            return file.read(4) != b"DIRC" or is_cut_index(path, object_format)
    except OSError:
        return False


def file_identity(path: bytes) -> tuple[int, int, int] | None:
    """Size, mtime and inode, one of which changes when git replaces a file; None where there is none."""
    try:
        info = os.lstat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None
    return info.st_size, info.st_mtime_ns, info.st_ino


def is_frozen_index(index: bytes, frozen: bytes) -> bool:
    """Whether `frozen`, which `link_or_copy` made, still is the index: one file, or an equal copy."""
    now, then = file_identity(index), file_identity(frozen)
    if now == then or now is None or then is None or now[:2] != then[:2]:
        return now == then
    try:
        # No hard link could be made: the file system has none, or the index belongs to another user.
        with open(index, "rb") as one, open(frozen, "rb") as other:
            data = one.read(1 << 20)
            while data and data == other.read(1 << 20):
                data = one.read(1 << 20)
            return not data
    except OSError:
        return False


def shared_index_name(index: bytes, oid_bytes: int, git_dir: bytes) -> str | None:
    """The id of the shared index that a split index names in its `link` extension (`man 5 gitformat-index`).

    `link` may also be part of a path in the index, so an id counts only if that shared index exists.
    """
    place = index.rfind(b"link")
    while place > 0:
        name = index[place + 8 : place + 8 + oid_bytes].hex()
        if len(name) == 2 * oid_bytes and os.path.exists(os.path.join(git_dir, b"sharedindex." + name.encode("ascii"))):
            return name
        place = index.rfind(b"link", 0, place)
    return None


#: A larger index is listed by git: from some thousand entries on it is the quicker reader.
_SMALL_INDEX = 256 << 10
#: Extensions that change neither which paths an index holds nor what git thinks of them.
_NEUTRAL_EXTENSIONS = frozenset((b"TREE", b"REUC", b"UNTR", b"FSMN", b"EOIE", b"IEOT"))


def list_plain_index(path: bytes, oid_bytes: int) -> list[bytes] | None:
    """The paths of a small index of ordinary entries, in its order; None where git has to be asked."""
    entries = read_plain_index(path, oid_bytes)
    return None if entries is None else [*entries]


def read_plain_index(path: bytes, oid_bytes: int) -> dict[bytes, bytes] | None:
    """The entries of a small index by path, in its order: ten numbers of 4 bytes (the stat data), and an object id.

    None where git has to be asked: not all entries are ordinary. Those are of version 2, without a conflict, hidden
    from git by nothing, and neither is the index split or sparse (`man 5 gitformat-index`). To read it takes a tenth
    of the time that a git process needs. An index that is cut short or inconsistent is left to git as well.
    """
    data = files.read_limited(path, _SMALL_INDEX)
    if data is None:
        return None if os.path.lexists(path) else {}
    if len(data) < 12 + oid_bytes or data[:8] != b"DIRC\0\0\0\2":
        return None
    fixed, end = 42 + oid_bytes, len(data) - oid_bytes
    entries: dict[bytes, bytes] = {}
    place, count = 12, int.from_bytes(data[8:12], "big")
    for _ in range(count):
        name = place + fixed
        stop = data.find(b"\0", name)
        # The flags: assume-valid, extended, two bits of the stage, twelve of the path's length.
        flags = data[name - 2] << 8 | data[name - 1] if name < end else 0xF000
        if flags & 0xF000 or not name < stop < end or min(stop - name, 0xFFF) != flags:
            return None
        entries[data[name:stop]] = data[place : name - 2]
        place = stop + 8 - (stop - place) % 8
    return entries if _ends(data, place, end) and len(entries) == count else None


#: Git compares a larger index with a tree while the caller does something else.
_READ_FOR_TREE = 4 << 20


def cached_tree(path: bytes, oid_bytes: int) -> Oid | None:
    """The tree that holds what an index does, where the index says so; else None.

    Git notes it (`man 5 gitformat-index`, "Cache tree") when it makes the one from the other, for as long as no entry
    changes. Only one that counts all entries of the file is of use: that of a split index counts others, too.
    """
    data = files.read_limited(path, _READ_FOR_TREE) or b""
    end = len(data) - oid_bytes
    place = data.rfind(b"TREE", 12, end) if data[:4] == b"DIRC" else -1
    # A path, too, may contain the word.
    for _ in range(16):
        if place < 0:
            break
        counts, line_end, _ = data[place + 9 : place + 64].partition(b"\n")
        whole = b"%d " % int.from_bytes(data[8:12], "big")
        if data[place + 8 : place + 9] == b"\0" and line_end and counts.startswith(whole) and _ends(data, place, end):
            oid = data[place + 10 + len(counts) : place + 10 + len(counts) + oid_bytes]
            return oid.hex()
        place = data.rfind(b"TREE", 12, place)
    return None


#: The versions of a resolved conflict that an entry of `REUC` names: base, ours, theirs.
_STAGES = 3


#: Behind `REUC` hardly anything stands: it is looked for in so many bytes.
_TAIL = 1 << 20


def resolve_undo(fd: int, oid_bytes: int) -> list[Oid]:
    """The objects that an index names to undo the resolution of a conflict (`man 5 gitformat-index`, "Resolve undo").

    `fd` is the open file. While the index is git's they are kept alive by it: `git checkout -m` needs them, and `git
    gc` fails without them.
    """
    data = os.pread(fd, _TAIL, max(os.fstat(fd).st_size - _TAIL, 0))
    end = max(len(data) - oid_bytes, 0)
    place = data.rfind(b"REUC", 0, end)
    # A path, too, may contain the word.
    for _ in range(16):
        if place < 0:
            break
        if _ends(data, place, end, _NEUTRAL_EXTENSIONS | {b"sdir"}):
            size = int.from_bytes(data[place + 4 : place + 8], "big")
            return list(dict.fromkeys(_undo_oids(data[place + 8 : place + 8 + size], oid_bytes)))
        place = data.rfind(b"REUC", 0, place)
    return []


def _undo_oids(entries: bytes, oid_bytes: int) -> Iterator[Oid]:
    while entries:
        _, *modes, entries = [*entries.split(b"\0", 1 + _STAGES), b""][: 2 + _STAGES]
        for _ in [mode for mode in modes if mode.strip(b"0")]:
            oid, entries = entries[:oid_bytes], entries[oid_bytes:]
            if len(oid) == oid_bytes:
                yield oid.hex()


def _ends(index: bytes, place: int, end: int, known: Collection[bytes] = _NEUTRAL_EXTENSIONS) -> bool:
    """Whether at `place` one extension after the other begins, up to the end, and none that changes the entries."""
    while place < end and index[place : place + 4] in known:
        place += 8 + int.from_bytes(index[place + 4 : place + 8], "big")
    return place == end


#: What the stat data of an index entry keep of a number.
_MASK = 0xFFFFFFFF


def fill_in_stat_data(
    data: bytes, written: Mapping[bytes, tuple[Oid, os.stat_result]], object_format: str
) -> list[memoryview] | None:
    """The pieces of an index file with the stat data of what was `written`: path → oid of its bytes, its `lstat`.

    Only entries of the same blob and mode are filled in: all other files differ from the index. No other byte changes
    but the checksum. The new file must get the mtime of the old one: git then takes what was filled in for racy, and
    looks into these files. None where git has to do it: paths are not stored in full, the index is split, an fsmonitor
    is asked for what changed, or a size does not fit (`man 5 gitformat-index`).
    """
    # An extension stands near the end.
    if data[:8] not in (b"DIRC\0\0\0\2", b"DIRC\0\0\0\3") or data.rfind(b"FSMN") >= 0:
        return None
    view, copied = memoryview(data), 0
    pieces: list[memoryview] = []
    id_size = digest(object_format).digest_size
    paths = sorted(written)
    for path, place in zip(paths, _entries(data, paths, id_size), strict=True):
        oid, info = written[path]
        if info.st_size > _MASK:
            return None
        is_link, is_executable = stat.S_ISLNK(info.st_mode), bool(info.st_mode & 0o100)
        mode = 0o120000 if is_link else 0o100755 if is_executable else 0o100644
        if place is None:
            continue
        behind = place + 40
        # Which blob, and which mode; none of the flags, no other stage.
        is_same = data[behind : behind + id_size + 1] == bytes.fromhex(oid) + min(len(path) >> 8, 0xF).to_bytes(
            1, "big"
        )
        if is_same and data[place + 24 : place + 28] == mode.to_bytes(4, "big"):
            times = (divmod(time_ns, 1_000_000_000) for time_ns in (info.st_ctime_ns, info.st_mtime_ns))
            numbers = [number for pair in times for number in pair] + [info.st_dev, info.st_ino]
            owner = as_words([info.st_uid, info.st_gid, info.st_size])
            changed = as_words(numbers) + data[place + 24 : place + 28] + owner
            if changed != data[place:behind]:
                pieces += [view[copied:place], memoryview(changed)]
                copied = behind
    if not pieces:
        return [view]
    end = len(data) - id_size
    pieces += [view[copied:end], view[end:]]
    if any(data[end:]):
        checksum = digest(object_format, b"", end)
        for piece in pieces[:-1]:
            checksum.update(piece)
        pieces[-1] = memoryview(checksum.digest())
    return pieces


#: The modes of index entries: files, symlinks, gitlinks.
_MODES = frozenset(mode.to_bytes(4, "big") for mode in (0o100644, 0o100755, 0o120000, 0o160000))


#: To look for one in vain is to read all of the index: after so many it is read once, entry by entry.
_IN_VAIN = 16


def _entries(data: bytes, paths: Sequence[bytes], id_size: int) -> Iterator[int | None]:
    """Where the first ordinary entry of each path begins; None where there is none. The paths are sorted."""
    # Entries are in the order of their paths: each is looked for behind the one before.
    behind, in_vain = 12, 0
    walk = _walk(data, id_size)
    name, place = b"", 0
    for path in paths:
        if in_vain < _IN_VAIN:
            found = _entry(data, path, behind, id_size)
            in_vain += found is None
            behind = behind if found is None else found + 40
            yield found
        else:
            while name < path and place >= 0:
                name, place = next(walk, (b"", -1))
            yield place if name == path else None


def _walk(data: bytes, id_size: int) -> Iterator[tuple[bytes, int]]:
    """The path of each ordinary entry, and where it begins."""
    place, fixed = 12, 42 + id_size
    for _ in range(int.from_bytes(data[8:12], "big")):
        # An entry with more flags has two bytes more before its name.
        is_ordinary = not int.from_bytes(data[place + fixed - 2 : place + fixed - 1], "big") & 0x40
        name = place + fixed + (0 if is_ordinary else 2)
        end = data.find(b"\0", name)
        if end < 0:
            return
        if is_ordinary:
            yield data[name:end], place
        place = end + 8 - (end - place) % 8


def _entry(data: bytes, path: bytes, behind: int, id_size: int) -> int | None:
    """Where the first ordinary entry of `path` begins, whatever it holds; None where there is none from `behind` on.

    It is found by its name alone: to look for its blob, too, is to read all of the index where that is another one.
    """
    length = min(len(path), 0xFFF)
    # Its length is stored in the bits before the name.
    ending = (length & 0xFF).to_bytes(1, "big") + path + b"\0"
    found = data.find(ending, behind)
    while found >= 0:
        place = found - 41 - id_size
        # Within the name of another entry no mode stands there: it holds a NUL.
        is_entry = place >= behind and (place - 12) % 8 == 0 and data[place + 24 : place + 28] in _MODES
        if is_entry and data[found - 1] & 0xF == length >> 8:
            return place
        found = data.find(ending, found + 1)
    return None


def as_words(numbers: Sequence[int]) -> bytes:
    """Numbers as the stat data of an index hold them."""
    return b"".join([(number & _MASK).to_bytes(4, "big") for number in numbers])


def link_or_copy(source: bytes, target: bytes, *, links: bool = True) -> None:
    """Make `target` a hard link to `source`, or a copy with its mtime where the file system has no hard links, or
    without `links`.

    Without the mtime git would take racy entries for clean. A link of another size is no link: gocryptfs answers with
    the size of the encrypted file, and git then reads more than the index.
    """
    files.remove(target)
    info = os.stat(source)
    try:
        if links:
            os.link(source, target)
            if os.stat(target).st_size == info.st_size:
                return
            files.remove(target)
    except FileNotFoundError:
        raise
    except OSError:
        pass
    with open(source, "rb", opener=files.open_at_once) as file:
        # Git may have replaced the index meanwhile: the content and the times are those of one file.
        info = os.fstat(file.fileno())
        files.write_new_file(target, (file.read(),), mode=info.st_mode & 0o777, durable=False)
    os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns))


@contextmanager
def index_lock(repository: Repository) -> Iterator[None]:
    """Hold git's index.lock while the body runs, or run it without the lock where it is held for long.

    A stale lock must not stop a save. A git that holds it and goes on later replaces our index, and `recover` then
    compares the two entry by entry.
    """
    lock = os.path.join(repository.git_dir, b"index.lock")
    patience = Deadline(_LOCK_PATIENCE)
    # Written beside, then linked: a lock of ours has its content from the first moment.
    mark = os.path.join(repository.own, b"index-lock.tmp-%d" % os.getpid())
    files.remove(mark)
    files.write_new_file(mark, (_OURS,), mode=0o600, durable=False)
    held = False
    try:
        while not held:
            try:
                os.link(mark, lock)
                held = True
            except FileExistsError:
                if not _remove_stale(lock) and not patience.pause(0.01):
                    break
            except OSError:
                # No hard links here: the lock is empty for a moment, as every lock of git's own is.
                held = _create_lock(lock)
                if held or patience.passed():
                    break
                if not _remove_stale(lock):
                    time.sleep(0.01)
        yield
    finally:
        if held:
            # Whoever holds the workspace tries again: see `remove_own_lock`.
            with suppress(OSError):
                files.remove(lock)
        files.discard(mark)


def _remove_stale(lock: bytes) -> bool:
    """Remove an index.lock that nobody holds: a dead one, or one of ours. Whether it is gone."""
    if is_own_lock(lock):
        return not remove_own_lock(os.path.dirname(lock))
    if not is_dead_lock(lock):
        return False
    files.remove(lock)
    return True


def remove_own_lock(git_dir: bytes) -> bytes | None:
    """Remove the index.lock of a git directory, if it is one of ours; its path where the disk does not remove it.

    The caller holds the workspace: no other process of ours holds the lock. It may have stayed because the disk did not
    remove it.
    """
    lock = os.path.join(git_dir, b"index.lock")
    if not is_own_lock(lock):
        return None
    try:
        files.remove(lock)
    except OSError:
        return lock
    return None


def _create_lock(lock: bytes) -> bool:
    """Create index.lock where nobody holds it. False where somebody does, or nothing can be created."""
    try:
        fd = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.write(fd, _OURS)
    finally:
        os.close(fd)
    return True


def is_own_lock(path: bytes) -> bool:
    """Whether the index.lock at `path` was made by `index_lock`."""
    return files.read_limited(path, 64) == _OURS
