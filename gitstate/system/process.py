"""Processes and the boot they belong to: which of them run, since when, and signals to exactly one of them."""

from __future__ import annotations

import os
import select
import stat
import time

from .clock import Deadline
from .stdlib import TYPE_CHECKING, Record, digest, signal, suppress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


#: Coarse kernel clocks and file systems stamp files a little in the past.
_CLOCK_SLACK_NS = 2_000_000_000


def hostname() -> str:
    """The name of this host, as `uname -n` prints it."""
    return os.uname().nodename


def boot_id() -> str | None:
    """Linux's random id of this boot; None on other systems."""
    data = read_proc("/proc/sys/kernel/random/boot_id")
    return None if data is None else data.decode("ascii", "replace").strip()


def pid_namespace() -> str | None:
    """What tells this pid namespace from every other of this boot (`man 7 pid_namespaces`); None without any."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


#: The kernel makes these at the beginning of a boot, and nothing changes their times.
_MADE_AT_BOOT = ("/dev/zero", "/dev/full", "/dev/urandom", "/dev/mem")


def boot_time_ns(places: Iterable[str] = _MADE_AT_BOOT) -> int | None:
    """When this boot began at the latest, by each clock that it had; None where the kernel does not tell.

    Nanoseconds since the epoch. What the kernel tells moves when the clock is set: a minute after a step of an hour it
    is an hour late, and a lock of a living git looks older. The files at `places` keep the time that the clock showed
    when the boot began. Of both the earlier is taken.
    """
    data = read_proc("/proc/stat")
    told = [int(line.split()[1]) * 1_000_000_000 for line in (data or b"").splitlines() if line.startswith(b"btime ")]
    for place in places if told else ():
        with suppress(OSError):
            told.append(os.stat(place).st_mtime_ns)
    return min(told, default=None)


def older_than_boot(path: bytes) -> bool:
    """Whether the file at `path` was last modified before this boot, whatever was done to the clock since."""
    try:
        touched = os.lstat(path).st_mtime_ns
    except OSError:
        return False
    boot = boot_time_ns()
    return boot is not None and touched < boot - _CLOCK_SLACK_NS


def running_before(names: Collection[bytes]) -> list[tuple[int, bytes | None]]:
    """Those of `running` that are older than this process, or began in the same tick.

    A fork of this program counts from the start of the program.
    """
    since = _program_start()
    return [found for found in running(names) if _ticks(found[0]) <= since]


def running(names: Collection[bytes]) -> list[tuple[int, bytes | None]]:
    """The processes with one of these names (proc(5) comm): pid and working directory.

    The directory is None where the kernel does not tell.
    """
    found: list[tuple[int, bytes | None]] = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit() and (read_proc(f"/proc/{name}/comm") or b"").rstrip(b"\n") in names:
            try:
                found.append((int(name), os.readlink(os.fsencode(f"/proc/{name}/cwd"))))
            except PermissionError:
                found.append((int(name), None))
            except OSError:
                continue  # it has ended
    return found


def is_older_than_program(path: bytes) -> bool:
    """Whether the file at `path` was last modified before this program began, as the clock is set now."""
    try:
        touched = os.lstat(path).st_mtime
    except OSError:
        return False
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return touched < boot + _program_start() / os.sysconf("SC_CLK_TCK")


def _program_start() -> float:
    """When this program began, in clock ticks since boot; a fork of it counts from there."""
    mine, since, pid = read_proc("/proc/self/cmdline"), _ticks(os.getpid()), os.getppid()
    while read_proc(f"/proc/{pid}/cmdline") == mine and mine:
        since, pid = min(since, _ticks(pid)), parent(pid)
    return since


def is_open(path: bytes) -> bool:
    """Whether a process whose descriptors this one may see has the file at `path` open."""
    for name in os.listdir("/proc"):
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{name}/fd") if name.isdigit() else ():
                with suppress(OSError):
                    if os.readlink(os.fsencode(f"/proc/{name}/fd/{fd}")) == path:
                        return True
    return False


def _ticks(pid: int | str) -> float:
    start = process_start(int(pid))
    return float("inf") if start is None else float(start)


def parent(pid: int) -> int:
    """The parent of a process; 0 where the system does not tell."""
    data = read_proc(f"/proc/{pid}/stat")
    return 0 if data is None else int(data.rpartition(b")")[2].split()[1])


def writers(pipes: Sequence[int]) -> list[int]:
    """The processes that can write into pipes whose other ends are the descriptors `pipes`, as far as we may see."""
    wanted = {os.readlink(f"/proc/self/fd/{fd}") for fd in pipes}
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{name}/fd") if name.isdigit() else ():
                if os.readlink(f"/proc/{name}/fd/{fd}") in wanted and _is_written(f"/proc/{name}/fdinfo/{fd}"):
                    found.append(int(name))
                    break
    return found


def _is_written(path: str) -> bool:
    """Whether a descriptor was opened for writing alone; `path` is its file of proc(5) fdinfo."""
    flags = next((line for line in (read_proc(path) or b"").split(b"\n") if line.startswith(b"flags:")), b"flags: 0")
    return int(flags.split()[1], 8) & os.O_ACCMODE == os.O_WRONLY


#: A program may always have so many bytes of memory.
_LEAST_MEMORY = 1 << 30


def limit_memory(pid: int) -> None:
    """Let a process, and what it starts from now on, take three quarters of the memory that is free now, not more.

    Git keeps all that a filter prints in memory. No-op where the system has no such limit.
    """
    import resource

    lines = (read_proc("/proc/meminfo") or b"").splitlines()
    free = next((int(line.split()[1]) << 10 for line in lines if line.startswith(b"MemAvailable:")), None)
    if free is not None and hasattr(resource, "prlimit"):
        most = max(_LEAST_MEMORY, free * 3 // 4)
        with suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))


def process_start(pid: int) -> str | None:
    """The start time of a process in clock ticks since boot (field 22 of proc(5) stat); None where it is gone.

    A zombie counts as gone.
    """
    data = read_proc(f"/proc/{pid}/stat")
    if data is None:
        return None
    fields = data.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else fields[19].decode("ascii")


def is_running(pid: int | None, start: str | None, boot: str | None) -> bool:
    """Whether the recorded process still runs: same boot, same pid, same start time."""
    if pid is None or pid <= 0 or (boot is not None and boot != boot_id()):
        return False
    now = process_start(pid)
    if now is not None:
        return start is None or now == start
    if os.path.isdir("/proc/self"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have; none where the system has no /proc."""
    names = os.listdir("/proc") if os.path.isdir("/proc/self") else []
    parents = {int(name): parent(int(name)) for name in names if name.isdigit()}
    found = [pid]
    for above in found:
        found += [one for one, its in parents.items() if its == above and one not in found]
    return found[1:]


#: A disk holds who waits for it at so many looks in a row, so many seconds apart.
_HELD, _HELD_AGAIN = 3, 0.05


def comes(fd: int, pid: int, seconds: float, patience: float) -> bool:
    """Whether `fd` can be read within so many seconds; or `patience` more, where no disk holds the process `pid`.

    Who was started by process 1 is patient in any case: all of its container ends with that one.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if poll.poll(None if seconds == float("inf") else min(int(seconds * 1000), 1 << 30) + 1):
        return True
    late = Deadline(patience)
    held = 0
    while (held < _HELD or os.getppid() == 1) and not late.passed():
        if poll.poll(int(min(_HELD_AGAIN, late.left()) * 1000) + 1):
            return True
        held = held + 1 if is_held_by_disk(pid) else 0
    return False


def is_held_by_disk(pid: int) -> bool:
    """Whether a process, or one that it has started, waits for a disk at this moment (`D` in proc(5) stat)."""
    stats = (read_proc(f"/proc/{one}/stat") for one in (pid, *descendants(pid)))
    return any(data.rpartition(b")")[2].split()[:1] == [b"D"] for data in stats if data)


#: What the kernel calls the wait for the other end of a FIFO.
_AT_A_FIFO = (b"wait_for_partner", b"fifo_open")
#: What it says where it does not tell.
_UNTOLD = (None, b"", b"0")


def let_go_at_fifos(pid: int, paths: Iterable[bytes], *, unseen: bool) -> None:
    """Let a program go on that waits for the writer of a FIFO, one of `paths`: it reads an empty file.

    No-op where it waits for something else. `unseen`: also where the system does not tell what it waits for.
    """
    waits = [read_proc(f"/proc/{one}/wchan") for one in (pid, *descendants(pid))]
    if not any(wait in _AT_A_FIFO for wait in waits) and not (unseen and waits[0] in _UNTOLD):
        return
    for path in paths:
        _open_for_reader(path)


def _open_for_reader(path: bytes) -> None:
    """Open and close a FIFO as a writer, so that its reader goes on; no-op for other files."""
    with suppress(OSError):
        if stat.S_ISFIFO(os.lstat(path).st_mode):
            # Where nobody waits it fails at once.
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))


def ancestors() -> set[int]:
    """The pids of this process and all its ancestors."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 0 and pid not in found:
        found.add(pid)
        data = read_proc(f"/proc/{pid}/stat")
        pid = int(data.rpartition(b")")[2].split()[1]) if data is not None else 0
    return found


#: So many bytes of a file of proc(5) are read at once.
_PROC_AT_ONCE = 1 << 16


def read_proc(path: str) -> bytes | None:
    """The content of a file of proc(5); None where it can't be read."""
    # A file object would ask for its size, which none of these has.
    parts = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(fd, _PROC_AT_ONCE):
                parts.append(part)
        finally:
            os.close(fd)
    except OSError:
        return None
    return b"".join(parts)


def filesystem_type(device: int) -> bytes:
    """The type of a mounted file system by its device number; empty where Linux does not tell (`man 5 proc`)."""
    number = b"%d:%d" % (os.major(device), os.minor(device))
    for line in (read_proc("/proc/self/mountinfo") or b"").split(b"\n"):
        fields = line.split(b" ")
        if fields[2:3] == [number]:
            return fields[fields.index(b"-") + 1]
    return b""


#: File systems that make up inodes anew at each mount, if not within one; those of FUSE may, too.
_FLEETING = (b"vfat", b"msdos", b"exfat", b"vboxsf", b"cifs", b"smb3")


def keeps_inodes(directory: os.stat_result, inside: os.stat_result) -> bool:
    """Whether a directory, with a file that it holds, has the same inode at the next mount.

    overlayfs makes up those of directories where its layers are on several file systems: then files have other devices.
    """
    kind = filesystem_type(directory.st_dev)
    return directory.st_dev == inside.st_dev and kind not in _FLEETING and not kind.startswith(b"fuse")


def place_of(directory: bytes) -> str:
    """The path of a directory, as a hash: what tells it where `keeps_inodes` does not hold."""
    return digest("sha256", os.path.realpath(directory)).hexdigest()


def inherited_descriptors() -> list[int]:
    """The descriptors above those of the standard streams that a program started from here would inherit."""
    found = []
    for name in os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else map(str, range(256)):
        with suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


#: How often a process is looked at where the system does not tell of its end, in seconds.
POLL_INTERVAL = 0.02


class Process(Record):
    """One certain process: its pid may belong to another one later."""

    pid: int
    start: str | None
    """As `process_start` tells; None where it was gone already, or the system does not tell."""


def user_of(one: Process) -> int | None:
    """The user that a process belongs to; None where it is gone or the kernel does not tell."""
    try:
        return os.stat(f"/proc/{one.pid}").st_uid
    except OSError:
        return None


def this_process() -> Process:
    """The process that runs this."""
    return Process(os.getpid(), process_start(os.getpid()))


def process(pid: int) -> Process:
    """The process that has this pid now."""
    return Process(pid, process_start(pid))


def is_alive(one: Process) -> bool:
    """Whether the process still runs; a zombie does not."""
    now = process_start(one.pid)
    if now is None and not os.path.isdir("/proc/self"):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, 0)
            return True
        return False
    return now is not None and (one.start is None or now == one.start)


def send(one: Process, number: int) -> bool:
    """Send a signal to exactly this process; False where it is gone or belongs to another user."""
    if not is_alive(one):
        return False
    try:
        if hasattr(signal, "pidfd_send_signal"):
            fd = os.pidfd_open(one.pid)
            try:
                if not is_alive(one):
                    return False
                signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)
        else:
            os.kill(one.pid, number)
    except (ProcessLookupError, PermissionError, OSError):
        return False
    return True


def wait_for(some: Collection[Process], deadline: Deadline) -> bool:
    """Wait until none of the processes runs; False where the deadline passes first."""
    while True:
        living = [one for one in some if is_alive(one)]
        if not living:
            return True
        if deadline.passed():
            return False
        wait_for_one(living[0], min(deadline.left(), 0.2))


def wait_for_one(one: Process, seconds: float) -> None:
    """Wait for the end of a process, so many seconds at most."""
    try:
        fd = os.pidfd_open(one.pid)
    except (AttributeError, OSError):
        time.sleep(min(seconds, POLL_INTERVAL))
        return
    try:
        import select

        select.select([fd], [], [], seconds)
    finally:
        os.close(fd)


#: In a process that `forkpool` forked: who forked it, and the pipe through which that one says that it leaves it alone.
_forked_by: tuple[int, int] | None = None
_was_left = False


#: With two processes on each processor there is a seventh of one left for that: half a second for a checkpoint.
_NICE = 5


def give_way() -> None:
    """Let other processes go first: nobody waits for this one, or for what it starts."""
    with suppress(OSError):
        os.nice(_NICE)


def forked_by(pid: int, leaving: int) -> None:
    """This process was forked by `pid`, which writes into the pipe `leaving` where it leaves this one to go on."""
    global _forked_by
    _forked_by = pid, leaving


def is_orphan() -> bool:
    """Whether the process that forked this one has ended."""
    return _forked_by is not None and os.getppid() != _forked_by[0]


def was_left() -> bool:
    """Whether an orphan was left to go on: its parent was not killed."""
    global _was_left
    if _forked_by is not None and not _was_left:
        poll = select.poll()
        poll.register(_forked_by[1], select.POLLIN)
        _was_left = bool(poll.poll(0)) and bool(os.read(_forked_by[1], 1))
    return _was_left
