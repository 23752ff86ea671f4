"""Child processes: streams, timeouts, PATH, descriptors and signals."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.git.command import Git
from gitstate.system import child, process
from gitstate.system.child import Child, FilesystemSync
from tests.support.environment import ROOT

ENVIRONMENT = {"PATH": os.environ["PATH"], "LC_ALL": "C"}


def script(text: str) -> list[str | bytes]:
    return [sys.executable, "-c", "import os, sys, time\n" + text]


def test_child_streams_are_read_while_input_is_written() -> None:
    """More than any pipe holds, in all three directions at once."""
    given = os.urandom(1 << 20)
    child = Child(
        script("data = sys.stdin.buffer.read()\nos.write(2, data)\nsys.stdout.buffer.write(data)"), ENVIRONMENT
    )
    assert child.communicate(given) == (given, given)
    assert child.returncode == child.wait() == 0


class LooksEarly(Child):
    """A child that prints, and ends, right after it was looked at for the last time before its time is over."""

    looks = 0

    def ready(self, poll: select.poll, until: float | None = None) -> list[tuple[int, int]]:
        self.looks += 1
        if self.looks > 1:
            return super().ready(poll, until)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return []


def test_what_a_child_printed_at_its_end_is_read() -> None:
    child = LooksEarly(["sh", "-c", "printf all; printf why >&2"], ENVIRONMENT)
    assert child.communicate(idle=60) == (b"all", b"why")
    assert child.returncode == 0


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux: /proc tells who has a pipe open")
@pytest.mark.parametrize("status", [0, 3])
def test_what_a_child_left_behind_is_ended_where_it_failed(status: int) -> None:
    """A filter that prints, say; but a daemon that git has started, and that has the pipes open, lives on."""
    child = Child(["sh", "-c", f"sleep 600 & echo $!; read wait; exit {status}"], ENVIRONMENT)
    poll = select.poll()
    poll.register(child.stdout, select.POLLIN)
    poll.poll(60_000)
    left = int(os.read(child.stdout.fileno(), 100))
    ends = os.pidfd_open(left)
    try:
        child.communicate(b"\n")
        assert child.returncode == status
        assert bool(select.select([ends], [], [], 60 if status else 0.1)[0]) == bool(status)
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(ends, signal.SIGKILL)
        os.close(ends)


def test_child_that_reads_no_input_is_not_an_error() -> None:
    child = Child(script("os.close(0)\nprint('done')\nsys.exit(3)"), ENVIRONMENT)
    assert child.communicate(b"x" * (1 << 20)) == (b"done\n", b"")
    assert child.returncode == 3


def test_child_can_be_killed_after_a_timeout() -> None:
    child = Child(script("os.write(1, b'begun')\ntime.sleep(600)"), ENVIRONMENT, quiet=True)
    with pytest.raises(TimeoutError):
        child.communicate(timeout=0.2)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.kill()


def test_missing_program_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(FileNotFoundError):
        Child(["no-such-program"], ENVIRONMENT)
    assert (os.listdir("/proc/self/fd") if before else []) == before


def test_relative_entry_of_path_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a `git` that an agent puts into its workspace would run."""
    planted = tmp_path / "git"
    planted.write_text("#!/bin/sh\ntouch planted-was-run\n")
    planted.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    child = Child(["git", "version"], ENVIRONMENT)
    assert child.communicate()[0].startswith(b"git version ")
    monkeypatch.setenv("PATH", ".:")
    with pytest.raises(FileNotFoundError):
        Child(["git", "version"], ENVIRONMENT)
    assert not (tmp_path / "planted-was-run").exists()


def test_child_fails_cleanly_without_free_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with pytest.raises(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(4):
            os.close(opened.pop())
        before = sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else []
        with pytest.raises(OSError, match="Too many open files"):
            Child(["git"], ENVIRONMENT)
        assert (sorted(os.listdir("/proc/self/fd")) if before else []) == before
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_child_has_default_signals_and_inherits_only_the_given_descriptor(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        text = f"os.write({fd}, b'held')\ntry: os.write({other}, b'other')\nexcept OSError: print('closed')"
        child = Child(script(text), ENVIRONMENT, inherits=fd)
        assert child.communicate() == (b"closed\n", b"")
        assert ((tmp_path / "held").read_text(), (tmp_path / "other").read_text()) == ("held", "")
        child = Child(["sh", "-c", "kill -PIPE $$; echo ignored"], ENVIRONMENT)
        assert child.communicate() == (b"", b"") and child.returncode == -signal.SIGPIPE
    finally:
        os.close(fd)
        os.close(other)


def test_child_starts_with_closed_standard_streams() -> None:
    text = (
        "from gitstate.system.child import Child\nfor fd in (0, 1, 2): os.close(fd)\n"
        "child = Child(['sh', '-c', 'cat; echo said >&2; exit 5'], os.environ)\n"
        "out, err = child.communicate(b'fed')\n"
        "sys.exit(7 if (out, err, child.returncode) == (b'fed', b'said\\n', 5) else 1)"
    )
    done = subprocess.run(script(text), cwd=ROOT, check=False)
    assert done.returncode == 7


def _sync_that(tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> FilesystemSync:
    tools = tmp_path / "tools"
    tools.mkdir()
    if body:
        (tools / "sync").write_text(f"#!/bin/sh\n{body}\n")
        (tools / "sync").chmod(0o755)
    monkeypatch.setattr(child, "_SYNC", (str(tools / "sync"),))
    return FilesystemSync(os.fsencode(tmp_path))


@pytest.mark.parametrize("body", ["", "echo \"sync: invalid option -- 'f'\" >&2; exit 1", "exit 0"])
def test_file_system_is_synced_with_and_without_the_program(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sync_that(tmp_path, body, monkeypatch).wait()


def test_failed_sync_of_a_file_system_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports it once: a second sync would hide it. The path may hold any word."""
    place = tmp_path / "message of an option"
    place.mkdir()
    sync = _sync_that(place, 'echo "sync: error syncing $2: Input/output error" >&2; exit 1', monkeypatch)
    with pytest.raises(OSError, match="Input/output error"):
        sync.wait()


def test_no_program_of_the_path_is_taken_for_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sync").write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    (tmp_path / "sync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    FilesystemSync(os.fsencode(tmp_path)).wait()
    assert not (tmp_path / "ran").exists()


def test_git_at_a_fifo_goes_on_where_the_system_does_not_tell_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = Git(os.fsencode(tmp_path))
    git.run("init", "-q")
    (tmp_path / "new").touch()
    os.mkfifo(tmp_path / ".gitignore")
    read_proc = process.read_proc
    monkeypatch.setattr(process, "read_proc", lambda path: None if path.endswith("/wchan") else read_proc(path))
    assert b"?? new" in git.run("status", "--porcelain")
