"""The lease: who works in a workspace. The one answer to "is somebody at work here?".

The keeper of a run holds `flock` on `<git dir>/gitstate/lease` from before the agent starts until its last save is
done. The kernel releases it when the keeper dies, and shows it across pid namespaces and containers that share the
volume. Beside it stands who holds it (`lease.json`), which stays behind after a kill:

    lease held                                  live, whatever the pids say
    lease free, recorded by a keeper            gone, whatever the pids say
    owner without a keeper, on another host     unknown
    owner without a keeper, of another boot     gone
    in another pid namespace                    unknown
    in this one                                 live where pid and start time agree, else gone
"""

from __future__ import annotations

import errno
import fcntl
import os

from ..errors import BadJson, TryAgain
from ..format.context import MAX_CONTEXT, Context
from ..system import files, process
from ..system.clock import Deadline
from ..system.jsonio import dumps, loads, text_to_json
from ..system.process import Process
from ..system.stdlib import TYPE_CHECKING, Record, suppress

if TYPE_CHECKING:
    from typing import Literal

    from ..git.repository import Repository

    State = Literal["live", "gone", "unknown", "nobody"]
    Kind = Literal["keeper", "owner"]

#: The second lock is for a run inside a loop or a guard that holds the first.
_LEASE, _INNER, _RECORD = b"lease", b"lease-run", b"lease.json"
#: Beside the record: the linked worktrees that existed when the work of a keeper began, each key ended by a NUL.
_WORKTREES = b"lease-worktrees"
#: Of a list of more bytes nothing is read.
_LONGEST_LIST = 16 << 20
#: Who asks holds the lock for a moment too: a keeper that begins tries again for this long, in seconds.
_PATIENCE = 2.0
#: The lease is looked at again after this time, in seconds.
_PAUSE = 0.02


class Holder(Record):
    """Who works, or worked last, in a workspace, as it was written down when the work began."""

    kind: Kind
    """`keeper`: it held the lease. `owner`: a process without a keeper, known by its pid alone."""
    owner: Process
    """The process that the work belongs to: the loop, `gitstate run`, or an agent that has hooks alone."""
    keeper: Process | None = None
    run_id: str | None = None
    agent: str | None = None
    host: str | None = None
    boot_id: str | None = None
    pid_namespace: str | None = None
    """None where the kernel has no such namespaces, or an older version wrote the record."""
    inode: int | None = None
    """The inode of gitstate's own directory: in a copy of the workspace (`cp -a`) it is another one."""


class Here(Record):
    """Where the question is asked."""

    host: str
    boot_id: str | None
    pid_namespace: str | None


class Presence(Record):
    """The answer. `holder` is who works or worked last; None where nobody is on record."""

    state: State
    holder: Holder | None = None
    ours: bool = False
    """It is live, and this process belongs to it: one of its ancestors is the owner."""
    why: str = ""
    """Why nothing can be said, in words for a person; empty unless `state` is `unknown`."""

    @property
    def live(self) -> bool:
        return self.state == "live"


def judge(holder: Holder | None, here: Here, *, held: bool, runs: bool) -> State:
    """The rule. `held`: somebody holds the lease; `runs`: this pid namespace has the recorded owner. Pure."""
    if held:
        return "live"
    if holder is None:
        return "nobody"
    if holder.kind == "keeper":
        return "gone"
    other_boot = None not in (holder.boot_id, here.boot_id) and holder.boot_id != here.boot_id
    if holder.host not in (None, here.host) and (other_boot or holder.pid_namespace is None):
        return "unknown"
    if other_boot:
        return "gone"
    if None not in (holder.pid_namespace, here.pid_namespace) and holder.pid_namespace != here.pid_namespace:
        return "unknown"
    return "live" if runs else "gone"


def presence(repository: Repository) -> Presence:
    """Who works in this workspace now."""
    return presence_in(repository.git_dir)


def presence_in(git_dir: bytes, context: Context | None = None) -> Presence:
    """The same by the worktree's git directory. Starts no process, and leaves nothing behind.

    `context` is the live context, where the caller has it: a version that knew no lease wrote its owner there alone. A
    record that is not of this directory says that it is a copy: then its context names another workspace's owner.
    """
    own = os.path.join(git_dir, b"gitstate")
    holder = read_holder(own)
    if holder is None and context is not None and not os.path.lexists(os.path.join(own, _RECORD)):
        holder = _from_context(context)
    here = Here(process.hostname(), process.boot_id(), process.pid_namespace())
    held = is_held(own)
    runs = holder is not None and process.is_alive(holder.owner)
    state = judge(holder, here, held=held, runs=runs)
    ours = state == "live" and holder is not None and runs and holder.owner.pid in process.ancestors()
    return Presence(state, holder, ours, _why_unknown(holder, here) if state == "unknown" else "")


def is_held(own: bytes) -> bool:
    """Whether a keeper is at work in the worktree with this directory of gitstate's own, by the kernel's word."""
    return _is_held(own, _LEASE) or _is_held(own, _INNER)


def wait_for_last_save(repository: Repository, deadline: Deadline) -> None:
    """Where the last run was killed and its keeper is still at work, wait for the save that it makes.

    Raises TryAgain where the keeper has not ended when the deadline passes.
    """
    holder = read_holder(repository.own)
    if holder is None or not is_visible(holder):
        return
    while not process.is_alive(holder.owner) and _is_held(repository.own, _LEASE):
        if not deadline.pause(_PAUSE):
            raise TryAgain("the keeper of the last run is still saving", hint="gitstate recover (in a moment)")


def is_visible(holder: Holder) -> bool:
    """Whether the pids of a record are those of this pid namespace and boot."""
    return (holder.boot_id, holder.pid_namespace) == (process.boot_id(), process.pid_namespace())


def way_to_end(holder: Holder | None) -> str:
    """The commands for whoever finds a workspace held: `gitstate stop` reaches no process of another container."""
    where = "" if holder is None or holder.pid_namespace is None or is_visible(holder) else ", where it was started"
    return f"gitstate status; to end it: gitstate stop{where}"


def this_holder(
    kind: Kind, owner: Process, *, keeper: Process | None = None, run_id: str | None = None, agent: str | None = None
) -> Holder:
    """A record of work that begins now, in this pid namespace."""
    return Holder(kind, owner, keeper, run_id, agent, process.hostname(), process.boot_id(), process.pid_namespace())


def take(repository: Repository, *, inside: bool = False) -> int:
    """Hold the lease: the descriptor that holds it until its last copy is closed. No child inherits it by itself.

    `inside`: for a run inside a loop or a guard that holds the lease already. Raises TryAgain, with the holder's name,
    where another run holds it.
    """
    files.make_directory(repository.own, top=repository.git_dir)
    fd = files.open_own(os.path.join(repository.own, _INNER if inside else _LEASE), os.O_RDWR)
    try:
        return _lock_patiently(fd)
    except BlockingIOError:
        os.close(fd)
        raise TryAgain(
            f"another run works in this workspace ({describe(read_holder(repository.own))}); nothing was started",
            hint=way_to_end(read_holder(repository.own)),
        ) from None
    except BaseException:
        os.close(fd)
        raise


def _lock_patiently(fd: int) -> int:
    """As `_flock`, exclusively: whoever asks if it is held holds it for a moment."""
    deadline = Deadline(_PATIENCE)
    while True:
        try:
            return _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EINTR) or not deadline.pause(0.01):
                raise


def lease_file(repository: Repository) -> bytes:
    """The file whose lock is the lease."""
    return os.path.join(repository.own, _LEASE)


def take_again(repository: Repository, fd: int, holder: Holder | None) -> bool:
    """Hold the lease by the descriptor `fd` anew, where its file was removed or replaced; whether that was needed.

    An agent may remove gitstate's directory, or put a copy of the git directory in its place: then a lock on the file
    that is gone tells nobody that it works. The work began before, as `holder` says. Raises OSError.
    """
    held = os.fstat(fd)
    if held.st_dev != os.stat(repository.git_dir).st_dev:
        # What stands for a lock on a file system without locks: it does not tell for which file.
        return _take_stand_in_again(repository, fd, holder)
    paths = [os.path.join(repository.own, name) for name in (_LEASE, _INNER)]
    for path in paths:
        with suppress(OSError):
            if os.path.samestat(os.lstat(path), held):
                return False
    files.make_directory(repository.own, top=repository.git_dir)
    for path in paths:
        new = files.open_own(path, os.O_RDWR)
        try:
            _lock_patiently(new)
            os.dup2(new, fd, inheritable=False)
        except BlockingIOError:
            continue
        finally:
            os.close(new)
        if holder is not None and path == paths[0]:
            _write_record(repository, holder)
        return True
    return False


def _take_stand_in_again(repository: Repository, fd: int, holder: Holder | None) -> bool:
    """`take_again` where something else stands for the lock: nobody holds it for a file that was replaced."""
    files.make_directory(repository.own, top=repository.git_dir)
    new = files.open_own(lease_file(repository), os.O_RDWR)
    try:
        new = _flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.dup2(new, fd, inheritable=False)
    except BlockingIOError:
        # As a rule by `fd`.
        return False
    finally:
        os.close(new)
    if holder is not None:
        _write_record(repository, holder)
    return True


def write_holder(repository: Repository, holder: Holder) -> None:
    """Write down who works here from now on. Raises OSError."""
    files.make_directory(repository.own, top=repository.git_dir)
    if holder.kind == "keeper":
        # Whoever only asks needs none of it.
        from ..git.gitdir import linked_worktrees

        listed = b"".join(item.key + b"\0" for item in linked_worktrees(repository.common_dir))
        there = os.path.join(repository.own, _WORKTREES)
        files.write_atomic(there, listed, staging=repository.own, durable=False)
    _write_record(repository, holder)


def _write_record(repository: Repository, holder: Holder) -> None:
    keeper = holder.keeper
    value = {**holder._asdict(), "owner": list(holder.owner), "keeper": None if keeper is None else list(keeper)}
    value["inode"], value["place"] = os.stat(repository.own).st_ino, process.place_of(repository.own)
    path = os.path.join(repository.own, _RECORD)
    files.write_atomic(path, dumps(value), staging=repository.own, durable=False)


def worktrees_at_begin(repository: Repository) -> frozenset[bytes] | None:
    """The keys of the linked worktrees that existed when the work of the last keeper began; None where unknown."""
    data = files.read_limited(os.path.join(repository.own, _WORKTREES), _LONGEST_LIST)
    return None if data is None or (data and not data.endswith(b"\0")) else frozenset(data.split(b"\0")[:-1])


def work_began_ns(repository: Repository) -> int | None:
    """When the work of the last keeper began, in nanoseconds since the epoch; None where that is unknown."""
    with suppress(OSError):
        return os.lstat(os.path.join(repository.own, _WORKTREES)).st_mtime_ns
    return None


def clear_holder(repository: Repository, holder: Holder | None = None) -> None:
    """The work has ended: nobody works here. With `holder` only where it is still the one on record."""
    known = read_holder(repository.own)
    if holder is None or (known is not None and known._replace(inode=None) == holder._replace(inode=None)):
        with suppress(OSError):
            files.remove(os.path.join(repository.own, _RECORD))


def read_holder(own: bytes) -> Holder | None:
    """The record in gitstate's own directory of a workspace; None where there is none to read."""
    try:
        value = loads(files.read_limited(os.path.join(own, _RECORD), MAX_CONTEXT), MAX_CONTEXT, "the lease's record")
    except BadJson:
        return None
    kind, owner, inode = value.get("kind"), _process(value.get("owner")), value.get("inode")
    if kind not in ("keeper", "owner") or owner is None or not _is_of(own, inode, value.get("place")):
        return None

    def text(name: str) -> str | None:
        found = value.get(name)
        return found if isinstance(found, str) and len(found) < 4096 else None

    return Holder(
        kind,
        owner,
        _process(value.get("keeper")),
        text("run_id"),
        text("agent"),
        text("host"),
        text("boot_id"),
        text("pid_namespace"),
        inode if isinstance(inode, int) else None,
    )


def describe(holder: Holder | None) -> str:
    """A holder in words for a person."""
    if holder is None:
        return "its process is not on record"
    parts = [holder.agent or "", f"pid {holder.owner.pid}", f"on {holder.host}" if holder.host else ""]
    return text_to_json(" ".join(part for part in parts if part))


def _process(value: object) -> Process | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    pid, start = value
    if not isinstance(pid, int) or isinstance(pid, bool) or pid <= 0 or not isinstance(start, str | None):
        return None
    return Process(pid, start)


def _from_context(context: Context) -> Holder | None:
    if context.pid is None or context.pid <= 0:
        return None
    owner = Process(context.pid, context.pid_start)
    return Holder("owner", owner, host=context.host, boot_id=context.boot_id, agent=context.agent)


def _is_of(own: bytes, inode: object, place: object) -> bool:
    """Whether a record with this inode and place is of the directory that it stands in: it came with no copy."""
    with suppress(OSError):
        info = os.lstat(own)
        if inode == info.st_ino:
            return True
        record = os.lstat(os.path.join(own, _RECORD))
        return place == process.place_of(own) and not process.keeps_inodes(info, record)
    return False


def _is_held(own: bytes, name: bytes) -> bool:
    """Whether a process holds the lease. A file that can't be read or locked counts as free."""
    try:
        fd = os.open(os.path.join(own, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fd = _flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(fd)


def _flock(fd: int, operation: int) -> int:
    """As `flock` of `system.locks`, which is loaded only where the file system has no locks."""
    try:
        fcntl.flock(fd, operation)
        return fd
    except BlockingIOError:
        raise
    except OSError:
        from ..system.locks import flock

        return flock(fd, operation)


def _why_unknown(holder: Holder | None, here: Here) -> str:
    if holder is None:
        return ""
    where = f"on the host {holder.host}" if holder.host not in (None, here.host) else "in another container"
    return text_to_json(f"its process (pid {holder.owner.pid}) was started {where}: nobody here can tell if it runs")
