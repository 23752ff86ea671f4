"""How refs, workspaces, saves and commits of gitstate are named, and how such a name is taken apart."""

from __future__ import annotations

import os
import time

from ..git import refs
from ..git.command import Oid, is_oid
from ..git.repository import Repository
from ..system.files import fsync_path, open_own, read_limited, remove, sync, write_all
from ..system.process import boot_id, hostname, keeps_inodes, place_of
from ..system.stdlib import TYPE_CHECKING, Record, digest, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Literal, TypeVar

    RefKind = Literal["save", "pending", "checkpoint", "history", "conversation"]
    _Item = TypeVar("_Item")

_NO_PUNCTUATION = dict.fromkeys(map(ord, "._-"))


def is_save_id(value: object) -> bool:
    """Whether a value may be a save id or workspace id in a ref's name: ASCII letters and digits, and `._-` inside."""
    if not isinstance(value, str) or not value.isascii() or len(value) > 128 or ".." in value:
        return False
    return value[:1].isalnum() and value.translate(_NO_PUNCTUATION).isalnum()


NOTES = "refs/notes/gitstate"
OWN = "refs/gitstate/"
SAVES = OWN + "saves/"
PENDING = OWN + "pending/"
CHECKPOINTS = OWN + "checkpoints/"
#: The thinned series of earlier checkpoints of each workspace, for people to go back to. It is not pushed.
HISTORY = OWN + "history/"
DISMISSED = OWN + "dismissed/"
CONVERSATIONS = OWN + "conversations/"
#: What is held of the repositories inside a workspace: for each of its saves, and for its latest save or checkpoint.
INSIDE, LATEST = OWN + "inside/", "latest"
#: Repositories inside a workspace that a recovery could not bring back: see `recover.unfinished`.
UNFINISHED = OWN + "unfinished/"
#: Commits that in a repository inside a workspace only the HEAD of a linked worktree kept: it is made again without.
WORKTREES = OWN + "worktrees/"
#: What was fetched: `refs/gitstate/fetched/<remote>/`, and then what stands behind `refs/gitstate/` on that remote.
FETCHED = OWN + "fetched/"
_MANY_FOR_EACH: tuple[tuple[str, RefKind], ...] = (
    (SAVES, "save"),
    (CONVERSATIONS, "conversation"),
    (HISTORY, "history"),
)
_ONE_FOR_EACH: tuple[tuple[str, RefKind], ...] = ((PENDING, "pending"), (CHECKPOINTS, "checkpoint"))

#: How the subjects of our commits begin.
WIP_SUBJECT, INDEX_SUBJECT, ARCHIVE_SUBJECT = "WIP(gitstate): ", "index(gitstate): ", "archive(gitstate): "
SUBJECT_INSIDE = "inside(gitstate): what is held of the repositories in it"
#: The trailers of our commits: the save that a commit belongs to, and the commit that the branch goes back to.
SAVE_TRAILER, BASE_TRAILER = "Gitstate-Save", "Gitstate-Base"


#: The file in gitstate's own directory of a workspace that holds its id: a name, the numbers of three inodes, and the
#: place of that directory (`place_of`).
ID_FILE = b"workspace-id"


def workspace_id(repository: Repository) -> str:
    """The name of a workspace in refs."""
    return workspace_id_of(repository.git_dir, repository.toplevel)


def workspace_id_of(git_dir: bytes, toplevel: bytes) -> str:
    """The same by the worktree's own git directory and its absolute path, as git resolves them.

    It is random and given once, at the first save. Where none was given yet it is the name that version 0.1 made of
    host and path, which `give_workspace_id` keeps where refs have it.
    """
    return given_workspace_id(git_dir) or old_workspace_id(toplevel)


def given_workspace_id(git_dir: bytes) -> str | None:
    """The id that was given to the worktree of this git directory; None where none was.

    A copy (`cp -a`) has inodes of its own: there the file says nothing, and the copy becomes a workspace of its own. A
    new host name, another device number after a reboot, and a moved directory change no inode. Where a file system does
    not keep inodes, the path tells.
    """
    own = os.path.join(git_dir, b"gitstate")
    data = read_limited(os.path.join(own, ID_FILE), 1024)
    name, *told = (data or b"").decode("ascii", "replace").split("\n")[:-1] or [""]
    if not is_save_id(name):
        return None
    try:
        infos = [os.lstat(path) for path in (git_dir, own, os.path.join(own, ID_FILE))]
    except OSError:
        return None
    if told[:3] == [str(info.st_ino) for info in infos]:
        return name
    return name if told[3:] == [place_of(own)] and not keeps_inodes(*infos[1:]) else None


def give_workspace_id(repository: Repository, *, old_id: Callable[[], str | None]) -> str:
    """The workspace's id, given now where it has none. Only for who holds the workspace; raises OSError.

    `old_id` answers with the name that version 0.1 made of host and path, where refs of this repository have it: that
    stays. The file comes to the disk with all else that a save syncs.
    """
    given = given_workspace_id(repository.git_dir)
    if given is not None:
        return given
    name = old_id() or f"{_readable_name(repository.toplevel)}-{os.urandom(6).hex()}"
    path = os.path.join(repository.own, ID_FILE)
    temporary = path + b".tmp-%d" % os.getpid()
    for left in os.listdir(repository.own):
        # Of one that was killed here. No journal names it: that is written only when the workspace has an id.
        if left.startswith(ID_FILE + b".tmp-"):
            remove(os.path.join(repository.own, left))
    fd = open_own(temporary, os.O_RDWR)
    try:
        inodes = [os.stat(repository.git_dir).st_ino, os.stat(repository.own).st_ino, os.fstat(fd).st_ino]
        write_all(fd, "\n".join([name, *map(str, inodes), place_of(repository.own), ""]).encode("ascii"))
        sync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    fsync_path(repository.own)
    return name


def old_workspace_id(toplevel: bytes) -> str:
    """The id that version 0.1 gave: the directory's name, and a hash of host and path."""
    hashed = digest("sha256", os.fsencode(hostname()) + b"\0" + toplevel).hexdigest()
    return f"{_readable_name(toplevel)}-{hashed[:12]}"


def _readable_name(toplevel: bytes) -> str:
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in os.fsdecode(os.path.basename(toplevel)))
    return name.strip("-")[:40] or "workspace"


def save_ref(workspace_id: str, save_id: str) -> str:
    """The ref that keeps one save until retention prunes it."""
    return f"{SAVES}{workspace_id}/{save_id}"


def marker_ref(workspace_id: str) -> str:
    """The marker: the ref that says that a save of this workspace is pending. Moving it is the commit point."""
    return f"{PENDING}{workspace_id}"


def checkpoint_ref(workspace_id: str) -> str:
    """The ref of the workspace's latest checkpoint."""
    return f"{CHECKPOINTS}{workspace_id}"


def history_ref(workspace_id: str, save_id: str) -> str:
    """The ref that keeps an earlier checkpoint in the history of its workspace."""
    return f"{HISTORY}{workspace_id}/{save_id}"


def dismissed_ref(workspace_id: str, save_id: str) -> str:
    """The ref that says that a pending save was dismissed and not recovered: retention keeps it."""
    return f"{DISMISSED}{workspace_id}/{save_id}"


def conversation_ref(workspace_id: str, session_id: str) -> str:
    """The ref of what is kept of the transcript of one agent's session."""
    return f"{CONVERSATIONS}{workspace_id}/{session_id}"


def inside_ref(workspace_id: str, save_id: str = LATEST) -> str:
    """The ref of what is held of the repositories inside a workspace, beside one save or the latest."""
    return f"{INSIDE}{workspace_id}/{save_id}"


def unfinished_ref(workspace_id: str, save_id: str, path: bytes) -> str:
    """The ref that says that the repository at a path inside a workspace is not back from a save that was recovered."""
    return f"{UNFINISHED}{workspace_id}/{save_id}.{digest('sha256', path).hexdigest()[:16]}"


def own_marker(repository: Repository) -> str:
    """The marker of this workspace."""
    return marker_ref(workspace_id(repository))


def remote_name(remote: str) -> str:
    """How a remote is named in refs: by its own name; by a hash where that may not be part of a ref, as a URL's."""
    if is_save_id(remote) and len(remote) <= 64 and not remote.lower().endswith((".lock", ".")):
        return remote
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in without_password(remote)).strip("-")
    return f"{plain[-40:].strip('-') or 'remote'}-{digest('sha256', os.fsencode(remote)).hexdigest()[:12]}"


def without_password(remote: str) -> str:
    """A URL without the part that may hold a password or a token; another name as it is."""
    scheme, slashes, rest = remote.partition("://")
    host, slash, path = rest.partition("/")
    who, at, host = host.rpartition("@")
    if not slashes or not at:
        return remote
    # The name of an ssh user is part of the address; that of an https user may be the token itself.
    who = who.partition(":")[0] + at if scheme.startswith(("ssh", "git+ssh")) else ""
    return f"{scheme}://{who}{host}{slash}{path}"


def fetched_prefix(remote: str) -> str:
    """Below it stands what was fetched from a remote: a name that git knows, or a URL."""
    return f"{FETCHED}{remote_name(remote)}/"


class SaveName(Record):
    """What the name of a ref of ours says."""

    kind: RefKind
    workspace_id: str
    save_id: str | None
    """None for a marker and for a checkpoint: one ref of a workspace, whichever save it points to. Of a conversation
    the session id."""


def parse_ref(ref: str) -> SaveName | None:
    """The name of a ref of ours taken apart; None for a ref that gitstate would not have written."""
    for above, of_two in _MANY_FOR_EACH:
        if ref.startswith(above):
            workspace, slash, one = ref[len(above) :].partition("/")
            if one[8:9] == "t" and one[22:23] == "z":
                # As a file system lists it that knows lower case alone; it answers to the id as it was made.
                one = f"{one[:8]}T{one[9:22]}Z{one[23:]}"
            return SaveName(of_two, workspace, one) if slash and is_save_id(workspace) and is_save_id(one) else None
    for prefix, kind in _ONE_FOR_EACH:
        if ref.startswith(prefix) and is_save_id(ref[len(prefix) :]):
            return SaveName(kind, ref[len(prefix) :], None)
    return None


def branch_name(ref: str) -> str:
    """The name of a ref without `refs/heads/`."""
    return ref.removeprefix("refs/heads/")


def new_save_id(number: int | None = None, at_ns: int | None = None) -> str:
    """An id that may be part of a ref's name: the time (UTC, microseconds), and the number of the save: see `age_key`.

    That of a run has no number. `at_ns` is the time, in nanoseconds since the epoch, where it is not that of now.
    """
    seconds, rest = divmod(time.time_ns() if at_ns is None else at_ns, 1_000_000_000)
    text = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds))
    last = "" if number is None else f"-{min(number, _HIGHEST)}"
    return f"{text}.{rest // 1000:06d}Z-{os.urandom(3).hex()}{last}"


#: The file in gitstate's own directory of a workspace that holds the number of its last save, and in which boot.
_NUMBER_FILE = b"save-number"
#: Its size in bytes. It is written over: ext4 takes ten times as long to write one anew that was made empty.
_NUMBER_SIZE = 64
#: So many digits at most: another number is none of ours.
_DIGITS = 12
#: No id has a higher number. Those that have this one sort by time.
_HIGHEST = 10**_DIGITS - 1


def number_of(save_id: str) -> int:
    """The number of a save in its workspace; 0 where its id has none, as those of version 0.1."""
    parts = save_id.rsplit("-", 2)
    last = parts[-1]
    return int(last) if len(parts) == 3 and parts[0][-1:] == "Z" and _is_number(last) else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS


def next_number(repository: Repository, id_of: Callable[[Oid], str | None]) -> int:
    """The number of the next save of this workspace: it is higher than that of each before. Raises GitError.

    Only for who holds the workspace. `id_of` answers with the save id of an archive. The file is not synced, so that of
    another boot it tells nothing, and the refs are read.
    """
    path, boot = os.path.join(repository.own, _NUMBER_FILE), boot_id()
    words = (read_limited(path, _NUMBER_SIZE) or b"").decode("ascii", "replace").split()
    is_told = boot is not None and len(words) == 2 and words[0] == boot and _is_number(words[1])
    last = int(words[1]) if is_told else last_number(repository, workspace_id(repository), id_of)
    try:
        _write_number(path, f"{boot} {last + 1}".encode("ascii").ljust(_NUMBER_SIZE - 1) + b"\n")
    except OSError:
        # It would tell the same number again and again. Without the file the refs are read each time.
        with suppress(OSError):
            remove(path)
        if is_told:
            last = max(last, last_number(repository, workspace_id(repository), id_of))
    return last + 1


def _write_number(path: bytes, data: bytes) -> None:
    fd = open_own(path, os.O_WRONLY)
    try:
        write_all(fd, data)
        if os.fstat(fd).st_size > len(data):
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def last_number(repository: Repository, workspace_id: str, id_of: Callable[[Oid], str | None]) -> int:
    """The highest number of a save of a workspace, by the refs of this repository. Raises GitError."""
    kept = (save_ref(workspace_id, ""), history_ref(workspace_id, ""))
    if refs.refs_are_files(repository):
        ids = [name for found in refs.read_refs_below(repository.common_dir, *kept) for name in found]
    else:
        ids = [ref.rpartition("/")[2] for ref in refs.list_refs(repository.git, *kept)]
    latest = refs.read_refs(repository, [checkpoint_ref(workspace_id)]).values()
    return max(map(number_of, (*ids, *(save_id for oid in latest if (save_id := id_of(oid))))), default=0)


def save_time_ns(save_id: str) -> int | None:
    """When the save of this id began, before it read the first file: nanoseconds since the epoch.

    None where the id does not tell, because gitstate did not make it.
    """
    # By hand: each checkpoint asks it of a whole series, and `time.strptime` loads `re`, `locale` and `datetime`.
    digits = save_id[:8] + save_id[9:15] + save_id[16:22]
    if len(digits) != 20 or not (digits.isascii() and digits.isdigit()) or save_id[8] != "T":
        return None
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:8])
    hour, minute, second = int(digits[8:10]), int(digits[10:12]), int(digits[12:14])
    if not (year and 1 <= month <= 12 and 1 <= day <= _days_in(year, month)):
        return None
    if hour > 23 or minute > 59 or second > 61:
        return None
    seconds = ((_days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    return seconds * 1_000_000_000 + int(digits[14:]) * 1000


def _days_in(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _days_since_1970(year: int, month: int, day: int) -> int:
    """Days of the Gregorian calendar. A year begins with March here, so that the leap day is its last."""
    year, month = (year - 1, month + 9) if month < 3 else (year, month - 3)
    return year * 365 + year // 4 - year // 100 + year // 400 + (month * 153 + 2) // 5 + day - 719_469


#: A clock that is so far ahead is wrong, in nanoseconds.
_WRONG_CLOCK_NS = 86_400_000_000_000


#: A time, in nanoseconds since the epoch, and the id that was given then: what sorts before it was past.
_past = 0, ""


def is_of_future(save_id: str) -> bool:
    """Whether the time of a save is that of a wrong clock."""
    global _past
    now = time.time_ns()
    # Of thousands of ids the text alone tells, unless the clock was set back.
    if now >= _past[0] and save_id < _past[1]:
        return False
    _past = now, time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 1_000_000_000))
    return (save_time_ns(save_id) or 0) > now + _WRONG_CLOCK_NS


def age_key(save_id: str) -> tuple[int, bool, str]:
    """Sorts the save ids of one workspace from the oldest to the newest, whatever its clock said.

    Those without a number are older than all others. They sort by time; one of the future comes first.
    """
    number = number_of(save_id)
    return number, bool(number) or not is_of_future(save_id), save_id


def newest_first(items: Iterable[_Item], name: Callable[[_Item], tuple[str, str]]) -> list[_Item]:
    """`items` from the newest to the oldest: those of one workspace in their order, several workspaces by the time.

    `name` answers with the workspace id and the save id of an item.
    """
    groups: dict[str, list[_Item]] = {}
    for item in items:
        groups.setdefault(name(item)[0], []).append(item)
    for group in groups.values():
        group.sort(key=lambda item: age_key(name(item)[1]), reverse=True)
    if len(groups) < 2:
        return [item for group in groups.values() for item in group]
    from heapq import merge

    return list(merge(*groups.values(), key=lambda item: _time_key(name(item)[1]), reverse=True))


def _time_key(save_id: str) -> tuple[bool, str]:
    return not is_of_future(save_id), save_id


class Trailers(Record):
    """The trailers of a commit of ours."""

    save_id: str | None
    base: Oid | None
    """The zero oid where the branch was unborn."""


def format_message(subject: str, save_id: str, base: Oid) -> str:
    """The message of a commit of ours; `base` is the zero oid where the branch was unborn."""
    return f"{subject}\n\n{SAVE_TRAILER}: {save_id}\n{BASE_TRAILER}: {base}\n"


def parse_trailers(commit: bytes) -> Trailers:
    """The trailers in the last paragraph of a raw commit, or of a message; None for what is missing or malformed."""
    last = commit.rstrip(b"\n").rpartition(b"\n\n")[2].decode("ascii", "replace")
    found = dict(line.split(": ", 1) for line in last.split("\n") if ": " in line)
    save_id, base = found.get(SAVE_TRAILER, "").strip(), found.get(BASE_TRAILER, "").strip()
    return Trailers(save_id if is_save_id(save_id) else None, base if is_oid(base) else None)
