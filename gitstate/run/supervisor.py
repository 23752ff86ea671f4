"""`gitstate run`: one agent in the foreground, in the caller's terminal and process group, with a keeper beside it.

This process only starts the agent, waits for it, and tells the keeper what happens; watching, ending and saving are
the keeper's. All signals are blocked and taken one by one, so that none is lost and none interrupts a step.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..agents.base import StopRule
from ..agents.registry import stop_rule
from ..errors import EXIT_PERSON, GitstateError, TryAgain, UsageError
from ..format.context import Context
from ..format.manifest import Reason
from ..format.names import new_save_id
from ..format.saves import pending_save_id
from ..git.repository import Repository, open_repository
from ..recover.recover import recover
from ..recover.request import RecoverRequest
from ..recover.words import recover_lines
from ..save import words
from ..save.request import SaveRequest
from ..save.save import save
from ..system.jsonio import text_to_json
from ..system.process import ancestors, is_running, process, send, this_process
from ..system.terminal import say
from ..workspace.live_context import begin, read_live_context
from ..workspace.state_file import ACTIVE, RECOVERED
from .channel import SIGNALS, Front, Orders
from .keeper import CTRL_C, failed_save
from .processes import RUN_ID, end_leftovers

#: Grace of an agent, deadline of a save, and interval between checkpoints, in seconds, where nobody names them.
TIMES = {"grace": 1.5, "deadline": 4.0, "interval": 10.0}
#: Where a shell says that a command was not found, or could not be started.
_NOT_FOUND, _NOT_STARTED = 127, 126
#: A group's signal reaches the agent and this process in any order, this far apart in seconds.
_TOGETHER = 0.05
#: A loop's trap passes a Ctrl-C on within this time, in seconds.
_ECHO = 2.0
#: si_code of a signal that the kernel itself sent, as a terminal's Ctrl-C (`man 2 sigaction`).
_SI_KERNEL = 0x80
#: What a keeper may need past its deadline until it answers, in seconds.
_MARGIN = 30.0
#: So many keepers are started for one run, should somebody kill them.
_KEEPERS = 4


class RunRequest(NamedTuple):
    """How to run. `stop_signal` and `stop_group` override how the agent is told to stop."""

    command: Sequence[str]
    values: Mapping[str, str] = {}
    owner_pid: int | None = None
    agent: str | None = None
    stop_signal: str | None = None
    stop_group: bool = False
    times: Mapping[str, float | None] = {}
    """`grace`, `deadline` and `interval` in seconds, where the caller named them."""


def run(path: bytes, request: RunRequest) -> int:
    """Run the command in the directory `path` of a workspace; the status to exit with.

    Does not return where a signal ended the run: then this process dies of it, once all is saved. Raises
    GitstateError where nothing was started.
    """
    heard = _heard(request)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*heard, signal.SIGCHLD})
    repository = open_repository(path)
    refused = _make_ready(repository, request)
    if refused:
        return refused
    return _Run(repository, path, request, heard).run()


def seconds(repository: Repository, name: str, given: float | None) -> float:
    """A time by its name: what was given, else `GITSTATE_NAME`, else the setting `gitstate.name`, else the default.

    Raises UsageError for one that is no positive number.
    """
    text = os.environ.get(f"GITSTATE_{name.upper()}") or repository.setting(f"gitstate.{name}")
    if given is not None or text is None:
        return TIMES[name] if given is None else given
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise UsageError(
            f"gitstate.{name} is a number of seconds, not {text_to_json(text)}",
            hint=f"git config gitstate.{name} {TIMES[name]}",
        )
    return value


def _heard(request: RunRequest) -> set[signal.Signals]:
    """The signals that end the run: not those that were ignored from the start, as under nohup.

    A shell without job control starts what is in the background with SIGINT and SIGQUIT ignored; behind a loop's
    library that means nothing.
    """
    mine = {signal.SIGINT, signal.SIGQUIT} if request.owner_pid is not None else set()
    heard = {number for number in SIGNALS if number in mine or signal.getsignal(number) != signal.SIG_IGN}
    for number in heard:
        signal.signal(number, signal.SIG_DFL)
    return heard


def _make_ready(repository: Repository, request: RunRequest) -> int:
    """Recover what waits, and say in the context who works here now; a status where a person must decide first."""
    live, status = read_live_context(repository)
    mine = {*ancestors(), request.owner_pid}
    if status == ACTIVE and live.pid not in mine and is_running(live.pid, live.pid_start, live.boot_id):
        raise TryAgain(f"another run works in this workspace (pid {live.pid})", hint="gitstate status")
    # A run that our own loop has begun has not ended: only a save of it may wait.
    goes_on = status == ACTIVE and live.pid is not None and live.pid in mine
    result = recover(repository.toplevel, RecoverRequest(waiting_only=goes_on))
    if result.verdict != "nothing":
        say(*recover_lines(result))
    if result.exit_status:
        return result.exit_status
    owner = request.owner_pid or os.getpid()
    values = {"agent": request.agent, **request.values} if request.agent else request.values
    known, now = read_live_context(repository)
    if status == ACTIVE and request.owner_pid is not None:
        # What the loop has begun stands, whatever was on before it.
        begin(repository, values, owner, before=live)
    else:
        begin(repository, values, owner, before=known if now == RECOVERED else Context())
    return 0


class _Run:
    def __init__(
        self, repository: Repository, directory: bytes, request: RunRequest, heard: set[signal.Signals]
    ) -> None:
        self.repository = repository
        self.directory = directory
        self.request = request
        self.heard = heard
        self.run_id = new_save_id()
        owner = process(request.owner_pid) if request.owner_pid is not None else this_process()
        rule = stop_rule(request.agent, request.command)
        number = rule.signal if request.stop_signal is None else signal.Signals[f"SIG{request.stop_signal}"]
        grace, deadline, interval = (seconds(repository, name, request.times.get(name)) for name in TIMES)
        self.orders = Orders(
            os.fsdecode(repository.toplevel),
            self.run_id,
            owner,
            StopRule(number, request.stop_group or rule.everyone),
            grace,
            deadline,
            interval,
        )
        self.keepers = 1
        self.died_of: signal.Signals | None = None
        self.ctrl_c: tuple[signal.Signals, float] | None = None
        self.ended = 0.0

    def run(self) -> int:
        self.front = Front(self.orders)
        try:
            self.agent = self._start()
        except OSError as error:
            self.front.tell(do="leave", finish=True)
            self.front.answer(_MARGIN)
            say(f"gitstate: {self.request.command[0]}: {error.strerror}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED
        self.front.tell(do="agent", pid=self.agent.pid)
        self._wait()
        said = self.front.answer(self.orders.deadline + self.orders.grace + _MARGIN if self.died_of else None)
        if said is None:
            said = self._without_keeper()
        say(*said["lines"])
        return self._status(int(said["status"]))

    def _start(self) -> subprocess.Popen[bytes]:
        reset = self.heard if self.request.owner_pid is not None else set()

        def before() -> None:
            for number in reset:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())

        environment = {**os.environ, RUN_ID: self.run_id}
        return subprocess.Popen(list(self.request.command), cwd=self.directory, env=environment, preexec_fn=before)

    def _wait(self) -> None:
        """Until the agent has ended, and the keeper knows how."""
        while True:
            info = signal.sigwaitinfo({*self.heard, signal.SIGCHLD})
            if info.si_signo != signal.SIGCHLD:
                self._on_signal(info)
            elif self.agent.poll() is not None:
                self.ended = time.monotonic()
                self._collect_late_signals()
                if self.died_of is None:
                    self.front.tell(do="ended", code=self.agent.returncode)
                return
            elif self.front.process.poll() is not None:
                if self.died_of is not None or self.keepers == _KEEPERS:
                    return
                self._start_another_keeper()

    def _start_another_keeper(self) -> None:
        self.keepers += 1
        self.front.close()
        self.front = Front(self.orders)
        self.front.tell(do="agent", pid=self.agent.pid)

    def _on_signal(self, info: signal.struct_siginfo) -> None:
        number = signal.Signals(info.si_signo)
        keyboard = number in (signal.SIGINT, signal.SIGQUIT)
        terminal = keyboard and info.si_code == _SI_KERNEL
        if keyboard and info.si_pid == self.orders.owner.pid and self._ctrl_c_just_came():
            return
        if terminal:
            self.ctrl_c = (number, time.monotonic())
        elif self.died_of is None:
            self.died_of = number
        else:
            return
        self.front.tell(do="signal", name=number.name.removeprefix("SIG"), terminal=terminal)

    def _ctrl_c_just_came(self) -> bool:
        """The loop passes on what it gets, so a Ctrl-C comes twice: from the terminal, and from the loop."""
        return self.ctrl_c is not None and time.monotonic() - self.ctrl_c[1] < _ECHO

    def _collect_late_signals(self) -> None:
        """What killed the agent may have been sent to this process too, and arrive a moment later."""
        if self.died_of is None and (info := signal.sigtimedwait(self.heard, _TOGETHER)) is not None:
            self._on_signal(info)

    def _without_keeper(self) -> dict[str, Any]:
        """One keeper after the other was killed: end the agent and save from here."""
        if self.agent.poll() is None:
            self.died_of = self.died_of or signal.SIGTERM
            send(process(self.agent.pid), self.orders.stop.signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.agent.wait(self.orders.grace)
            if self.agent.poll() is None:
                self.agent.kill()
        code = self.agent.wait()
        end_leftovers(self.run_id, but=(os.getpid(), self.orders.owner.pid))
        name = None if self.died_of is None else self.died_of.name.removeprefix("SIG")
        if name is None and code == 0:
            return {"lines": [], "status": 0}
        reason = Reason(name, None if name else code, "the keeper of this run was killed")
        before = pending_save_id(self.repository)
        try:
            result = save(self.repository.toplevel, SaveRequest(reason=reason))
        except (GitstateError, OSError) as error:
            why = error.message if isinstance(error, GitstateError) else error.strerror or str(error)
            return {"lines": failed_save(self.repository, why, before)[1], "status": 1}
        return {"lines": words.save_lines(result, "save"), "status": EXIT_PERSON if result.lost else 0}

    def _status(self, saving: int) -> int:
        """The agent's own status; where a signal ended the run this process dies of it."""
        fatal = self.died_of
        if fatal is None and self.ctrl_c is not None and self.ended - self.ctrl_c[1] < CTRL_C:
            fatal = self.ctrl_c[0]
        if fatal is not None:
            signal.signal(fatal, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {fatal})
            os.kill(os.getpid(), fatal)
        code = self.agent.wait()
        return 128 - code if code < 0 else code or saving
