"""Start a run of an agent where nobody waits for it: in tmux, as a unit of the user's systemd, or detached."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..agents.sessions import load_command
from ..errors import GitstateError, NeedsPerson
from ..format.context import Context
from ..git.repository import Repository
from ..system import files

Manner = Literal["foreground", "tmux", "unit", "detached"]
_LOG = b"resume.log"
#: A larger log begins anew.
_MOST_LOG = 1 << 20
#: What a unit needs of this environment; the agents' own variables are those of the user manager.
_PASSED = ("PATH", "HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL")
_TIMEOUT = 60.0


class Started(NamedTuple):
    """Where a run was started."""

    where: str
    """For a person."""


def require(manner: Manner) -> None:
    """Raise NeedsPerson where nothing can be started in this way, before anything begins."""
    program = {"tmux": "tmux", "unit": "systemd-run"}.get(manner)
    if program is not None and shutil.which(program) is None:
        raise NeedsPerson(f"there is no {program} on the PATH; nothing was started", hint="gitstate resume")


def start(repository: Repository, manner: Manner, name: str, directory: bytes, argv: Sequence[str]) -> Started:
    """Start `argv` in `directory`. Raises GitstateError where it could not be started, OSError."""
    if manner == "tmux":
        # The server has the environment of whoever started it first.
        passed = [word for variable in _PASSED if variable in os.environ for word in ("-e", _pair(variable))]
        _call(["tmux", "new-session", "-d", "-s", name, "-c", os.fsdecode(directory), *passed, "--", *argv])
        return Started(f"tmux session {name}: tmux attach -t {name}")
    if manner == "unit":
        passed = [f"--setenv={_pair(variable)}" for variable in _PASSED if variable in os.environ]
        where = f"--working-directory={os.fsdecode(directory)}"
        options = ["--user", "--collect", f"--unit={name}", where, "--property=KillMode=mixed", *passed]
        _call(["systemd-run", *options, "--", *argv])
        return Started(f"unit {name}: journalctl --user -u {name}")
    files.make_directory(repository.own, top=repository.git_dir)
    log = os.path.join(repository.own, _LOG)
    fd = files.open_own(log, os.O_WRONLY | os.O_APPEND)
    try:
        if os.fstat(fd).st_size > _MOST_LOG:
            os.ftruncate(fd, 0)
        subprocess.Popen(
            list(argv), cwd=directory, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True
        )
    finally:
        os.close(fd)
    return Started(f"in the background; its output is in {os.fsdecode(log)}")


def _pair(variable: str) -> str:
    return f"{variable}={os.environ[variable]}"


def _call(words: Sequence[str], directory: bytes | None = None) -> None:
    try:
        done = subprocess.run(
            words, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise GitstateError(f"{words[0]} did not answer for a minute", hint="gitstate resume") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitstateError(f"{words[0]} failed: {said[-1] if said else done.returncode}", hint="gitstate resume")


def load_session(context: Context, directory: bytes) -> bool:
    """Bring a session back into its agent's database where that lacks it; whether it can be continued."""
    argv = load_command(context, os.environ)
    if argv is None:
        return True
    try:
        _call(argv, directory)
    except (GitstateError, OSError):
        return False
    return load_command(context, os.environ) is None


def wait_for(argv: Sequence[str], *, stdout: int | None = None) -> int:
    """Run a command in the foreground, in this terminal; its status as a shell tells it. Signals are passed on.

    `stdout` is the descriptor for what it prints; None: the one of this process.
    """
    number = 0
    process: subprocess.Popen[bytes] | None = None

    def pass_on(came: int, _: object = None) -> None:
        nonlocal number
        # The terminal sends those two to everybody who is there.
        if process is None or came not in (signal.SIGINT, signal.SIGQUIT):
            number = came
        if process is not None and number:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    ends = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    before = {one: signal.signal(one, pass_on) for one in ends if signal.getsignal(one) is not signal.SIG_IGN}
    process = subprocess.Popen(list(argv), stdout=stdout)
    if number:
        # It came while the command was started.
        pass_on(number)
    code = process.wait()
    for one, handler in before.items():
        signal.signal(one, handler)
    if number:
        os.kill(os.getpid(), number)
    return 128 - code if code < 0 else code
