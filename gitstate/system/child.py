"""Start one program with pipes on its streams: the part of `subprocess` that git needs; and gitstate itself.

Importing `subprocess` takes longer than any git process runs on a small repository, and each save starts a new
interpreter.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import sys
import time

from .stdlib import TYPE_CHECKING, signal, suppress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import BinaryIO

#: Python ignores these signals; in a child they have their default effect.
_USUAL_IN_CHILD = (signal.SIGPIPE, signal.SIGXFSZ)
_AT_ONCE = 64 << 10
#: A program that has printed nothing for so long, in seconds, may wait for the other end of a FIFO.
_SILENT = 1.0


class Child:
    """A program that runs or has ended; `stdin`, `stdout` and `stderr` are our ends of its pipes."""

    def __init__(
        self,
        argv: list[str | bytes],
        env: Mapping[str, str],
        *,
        quiet: bool = False,
        inherits: int | None = None,
        may_wait_at: Callable[[], Iterable[bytes]] | None = None,
    ) -> None:
        """Start `argv`, whose first word is looked up in PATH.

        With `quiet` its stderr goes to /dev/null. `inherits` is a descriptor that it keeps, under the same number.
        `may_wait_at` returns the files that it opens whatever they are: at a FIFO among them it is let go on.
        Raises OSError where it can't be started.
        """
        self.argv = argv
        self._may_wait_at = may_wait_at
        #: Its exit status, minus the number of the signal where one killed it; None until it was waited for.
        self.returncode: int | None = None
        ours: list[int] = []
        theirs: list[int] = []
        try:
            for stream in range(3):
                if stream == 2 and quiet:
                    theirs.append(_above_streams(os.open(os.devnull, os.O_WRONLY)))
                    continue
                reading, writing = os.pipe()
                theirs.append(_above_streams(writing if stream else reading))
                ours.append(_above_streams(reading if stream else writing))
            actions = [(os.POSIX_SPAWN_DUP2, fd, stream) for stream, fd in enumerate(theirs)]
            if inherits is not None:
                # By way of another number: duplicated onto itself it would stay close-on-exec in older C libraries.
                theirs.append(fcntl.fcntl(inherits, fcntl.F_DUPFD_CLOEXEC, 3))
                actions.append((os.POSIX_SPAWN_DUP2, theirs[-1], inherits))
            self.pid = os.posix_spawn(_found(argv[0]), argv, env, file_actions=actions, setsigdef=_USUAL_IN_CHILD)
        except BaseException:
            for fd in ours:
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.stdin: BinaryIO = os.fdopen(ours[0], "wb")
        self.stdout: BinaryIO = os.fdopen(ours[1], "rb")
        self.stderr: BinaryIO | None = None if quiet else os.fdopen(ours[2], "rb")

    def communicate(
        self,
        input: bytes = b"",
        timeout: float | None = None,
        *,
        idle: float | None = None,
        progress: Callable[[], object] | None = None,
    ) -> tuple[bytes, bytes]:
        """Write `input`, read both streams to their end, and wait; returns what it wrote to stdout and to stderr.

        Returns nothing where it was waited for already. Raises OutOfTime after `timeout` seconds, or where it has
        printed nothing for `idle` seconds, and what `progress` returns has not changed in them: it still runs.
        """
        if self.returncode is not None:
            return b"", b""
        end = None if timeout is None else time.monotonic() + timeout
        left = memoryview(input)
        into = self.stdin.fileno() if left else -1
        poll = select.poll()
        if left:
            os.set_blocking(into, False)
            poll.register(into, select.POLLOUT)
        else:
            self._close(self.stdin)
        got: dict[int, list[bytes]] = {}
        for stream in (self.stdout, *([self.stderr] if self.stderr else [])):
            got[stream.fileno()] = []
            poll.register(stream, select.POLLIN)
        parts = list(got.values())
        printed = time.monotonic()
        reached = None if progress is None else progress()
        while got or left:
            until = end if idle is None else min(end or float("inf"), printed + idle)
            found = self.ready(poll, until)
            if not found and self._has_ended():
                # It may have printed, and ended, since it was looked at.
                found = poll.poll(0)
                if not found:
                    self._end_filter([*got])
                    break
            for fd, _ in found:
                if fd == into:
                    left = _written(fd, left)
                    if not left:
                        poll.unregister(fd)
                        self._close(self.stdin)
                    continue
                data = os.read(fd, _AT_ONCE)
                printed = time.monotonic()
                got[fd].append(data)
                if not data:
                    poll.unregister(fd)
                    del got[fd]
            until = end if idle is None else min(end or float("inf"), printed + idle)
            if until is not None and (got or left) and time.monotonic() >= until:
                before, reached = reached, None if progress is None else progress()
                if reached != before and (end is None or time.monotonic() < end):
                    printed = time.monotonic()
                    continue
                raise OutOfTime(b"".join(parts[0]))
        self.wait()
        return b"".join(parts[0]), b"".join(parts[1]) if self.stderr else b""

    def ready(self, poll: select.poll, until: float | None = None) -> list[tuple[int, int]]:
        """What can be read or written, as soon as something can; nothing where it is not so at `until`, or where it has
        ended and another process keeps its pipes open.

        A program that stands at a FIFO meanwhile is let go on.
        """
        looks = 0
        while True:
            left = _SILENT if until is None else min(_SILENT, max(0.0, until - time.monotonic()))
            found = poll.poll(left * 1000)
            if found or (until is not None and time.monotonic() >= until):
                return found
            if self._has_ended():
                # What it printed at its end is there by now.
                return poll.poll(0)
            if self._may_wait_at is not None:
                from .process import let_go_at_fifos

                looks += 1
                with suppress(OSError):
                    # To look everywhere takes long in a large worktree: after 2, 4, 8 seconds, and so on.
                    let_go_at_fifos(self.pid, self._may_wait_at(), unseen=looks > 1 and not looks & (looks - 1))

    def _has_ended(self) -> bool:
        """Whether it has ended, waited for or not."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def _end_filter(self, pipes: list[int]) -> None:
        """It has ended. Where it failed, kill who still has its end of the pipes: nothing ends a filter of a git that
        died while the filter was printing, since git has let it inherit the other end of its own pipe.
        """
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            if ended is not None and ended.si_status:
                from .process import writers

                for pid in writers(pipes):
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)

    def end_input(self, input: bytes = b"") -> None:
        """Write `input` and close its stdin. Where it has ended already its status tells, and nothing is raised."""
        with suppress(BrokenPipeError):
            self.stdin.write(input)
        self._close(self.stdin)

    def wait(self) -> int:
        """Close our ends of its pipes, wait for its end, and return its exit status.

        Raises ChildProcessError where another part of this process waited for it: its status is then unknown.
        """
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                self._close(stream)
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL, unless it was waited for already."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill it, unless it was waited for already: nobody reads any more what it prints."""
        if self.returncode is None:
            self.kill()
            self.wait()

    def kill_all(self) -> None:
        """Send SIGKILL to it and to all that it has started: a filter that hangs would outlive its git."""
        if self.returncode is None:
            from .process import descendants

            below = descendants(self.pid)
            self.kill()
            for pid in below:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    @staticmethod
    def _close(stream: BinaryIO) -> None:
        # A child that has ended reads nothing more: its status tells.
        with suppress(BrokenPipeError):
            stream.close()


class OutOfTime(TimeoutError):
    """A child that took too long; `output` is what it has printed until then."""

    def __init__(self, output: bytes) -> None:
        super().__init__("it took too long")
        self.output = output


#: Where systems have `sync`.
_SYNC = ("/usr/bin/sync", "/bin/sync", "/run/current-system/sw/bin/sync")


class FilesystemSync:
    """`sync -f`: syncfs(2) of the file system that holds `path`, while the caller does something else."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._child: Child | None = None
        # Importing `ctypes` takes longer than this program.
        # Not by PATH: an agent's may have another program of this name before it.
        program = next((one for one in _SYNC if os.access(one, os.X_OK)), None)
        if program is not None:
            with suppress(OSError):
                self._child = Child([program, "-f", path], {**os.environ, "LC_ALL": "C"})

    def wait(self) -> None:
        """Return when all that was written before is durable. Raises OSError."""
        message = b"usage"
        if self._child is not None:
            message = self._child.communicate()[1]
            if self._child.returncode == 0:
                return
        # The message of a disk that fails names the path, which may hold any word; a second look would find no error.
        told = message.replace(self._path, b"")
        if b"option" in told or b"sage" in told:
            from .files import sync_filesystem

            # No such program, or one that knows no `-f`.
            sync_filesystem(self._path)
            return
        raise OSError(errno.EIO, f"sync failed: {message.decode(errors='replace').strip()[:200]}")


_places: dict[tuple[str, str | bytes], str] = {}


def _found(name: str | bytes) -> str:
    """The path of a program by PATH, whose relative entries are ignored: an agent could put a program there.

    The C library would try each directory in the child, and this process would wait for it longer.
    """
    places = os.environ.get("PATH", os.defpath)
    known = _places.get((places, name))
    if known is not None and os.access(known, os.X_OK):
        return known
    for directory in places.split(os.pathsep):
        path = os.path.join(directory, os.fsdecode(name))
        if os.path.isabs(path) and os.access(path, os.X_OK) and os.path.isfile(path):
            _places[places, name] = path
            return path
    raise FileNotFoundError(errno.ENOENT, "not found in PATH", os.fsdecode(name))


def is_in_path(name: str) -> bool:
    """Whether a program of this name can be started."""
    try:
        return bool(_found(name))
    except FileNotFoundError:
        return False


def _above_streams(fd: int) -> int:
    """The descriptor under a number above those of the standard streams, which the child's own streams get."""
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _written(fd: int, data: memoryview) -> memoryview:
    """What is left of `data` after a write that does not block; nothing where the reader is gone."""
    try:
        return data[os.write(fd, data[:_AT_ONCE]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


# -- this installation of gitstate: the command that starts it, and the files that it ships
#
# Schedulers, hooks and agents start it with an empty environment, so every path is absolute. Python is started isolated
# (`-I`): nothing is imported from the current directory, a repository that may hold a `gitstate/` of its own.

#: The program of an isolated Python; its first argument is the directory that holds the package.
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gitstate.__main__ import main; main()"


def interpreter() -> str:
    """The absolute path of the Python that runs this; in a virtual environment, that environment's."""
    return os.path.abspath(sys.executable)


def packages() -> str:
    """The directory that holds the package."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def isolated_python() -> tuple[str, ...]:
    """The argv that starts this gitstate in this Python, whatever the environment and the current directory hold."""
    return (interpreter(), "-I", "-c", START, packages())


def command() -> tuple[str, ...]:
    """The argv that starts this gitstate from anywhere: its script where there is one, else Python."""
    script = os.path.join(os.path.dirname(interpreter()), "gitstate")
    if os.path.isfile(script) and os.access(script, os.X_OK):
        return (script,)
    return isolated_python()


def shell_command(*arguments: str) -> str:
    """A line for sh that starts this gitstate; no-op once it is uninstalled."""
    from shlex import quote

    argv = command()
    return f"[ ! -x {quote(argv[0])} ] || {' '.join(map(quote, (*argv, *arguments)))}"


def shipped(name: str) -> bytes:
    """The content of a file below `hooks/` of the package, in a checkout a link to `hooks/` at the top.

    Raises OSError.
    """
    with open(os.path.join(packages(), "gitstate", "hooks", name), "rb") as file:
        return file.read()
