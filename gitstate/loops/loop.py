"""`gitstate loop`: an agent on one task after the other. What an earlier run left is recovered first.

Each run of the agent is a `gitstate run` in a process of its own, whose owner is this loop: whatever ends the loop, its
keeper saves and ends the agent.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

from ..agent_hooks.stop import last_stop
from ..agents.base import Agent
from ..agents.launch import Launch
from ..agents.sessions import resume_command
from ..bundle import hold_own_code
from ..errors import EXIT_AGAIN, EXIT_DONE, NeedsPerson, TryAgain, UsageError
from ..format.archive import pending_save_id
from ..format.context import Context
from ..git.opening import open_repository
from ..git.repository import Repository
from ..recover.recover import recover
from ..recover.request import RecoverRequest, RecoverResult, recover_lines
from ..run.hold import Hold
from ..system.child import command
from ..system.process import this_process
from ..system.terminal import escape, say
from ..workspace.live_context import begin, finish
from .limits import Limit, find_limit
from .signals import ENDING, LoopSignals
from .start import load_session
from .tasks import FileTasks, Task, TaskSource
from .traces import work_state

#: So many runs in a row that end at once and change nothing end the loop.
_IDLE = 3
#: The last bytes of an agent's output, in which a usage limit is looked for.
_LAST_WORDS = 16_384
_MOST_PAUSE = 60.0
#: Linux passes no longer word to a command.
_MOST_WORD = 128 << 10
#: The variables that tell an agent its task. Those of before are not the task's.
_VARIABLES = {"task_id": "CURRENT_TASK_ID", "issue_number": "ISSUE_NUMBER", "memory_refs": "MEMORY_REFS"}
_STALE = ("PROGRESS_STAGE", *(f"GITSTATE_{name.upper()}" for name in (*_VARIABLES, "progress_stage")))


class LoopRequest(NamedTuple):
    """What to run, and how long."""

    agent: Agent
    source: TaskSource
    template: str = "{}"
    """The prompt; `{}` stands for the task."""
    options: Sequence[str] = ()
    """Arguments of the agent."""
    retries: int = 2
    """How often in a row one task is tried again after the agent has failed."""
    max_runs: int = 0
    """0: as many as it takes."""
    max_time: float | None = None
    brake: float = 5.0
    """A run that is shorter, in seconds, and changes nothing does not count as work."""
    stop_file: bytes | None = None
    log_dir: bytes | None = None
    values: Mapping[str, str] = {}
    """Values of the context for every task that has none of its own."""


class _Run(NamedTuple):
    """How one run ended."""

    status: int
    seconds: float
    changed: bool
    last_words: str
    interrupted: bool
    """Whether its work was saved as that of an interrupted run."""


class Loop:
    """One loop in one workspace."""

    def __init__(self, repository: Repository, directory: bytes, request: LoopRequest) -> None:
        self.repository = repository
        self.directory = directory
        self.request = request
        self.began = time.monotonic()
        self.runs = 0
        self.failures = 0
        self.idle = 0
        self.limits = 0
        self.task: Task | None = None
        self.values: dict[str, str] = {}
        self.session: str | None = None
        self.told = ""
        self.context = Context()
        self.signals = LoopSignals()

    def run(self) -> int:
        """Run until no task is left; the status to exit with. Raises GitstateError."""
        hold_own_code()
        with self.signals:
            self._recover(first=True)
            while True:
                if self._is_over():
                    return EXIT_DONE
                if self.task is None:
                    self.task = self.request.source.take(self._is_over_meanwhile)
                    if self.signals.came is not None:
                        self.signals.die()
                    if self.task is None:
                        if not self._is_over():
                            self._say("no task is left")
                        return EXIT_DONE
                    self.values = {**self.request.values, **self.task.values}
                self.runs += 1
                status = self._once(self.task)
                if status is not None:
                    return status

    def _is_over(self) -> bool:
        request = self.request
        if self._is_stopped():
            assert request.stop_file is not None
            self._say(f"stopped: {os.fsdecode(request.stop_file)} exists")
            return True
        if self._is_late():
            self._say(f"stopped: {request.max_time:g} seconds have passed")
            return True
        if request.max_runs and self.runs >= request.max_runs:
            self._say(f"stopped: {self.runs} {'run has' if self.runs == 1 else 'runs have'} ended")
            return True
        return False

    def _is_stopped(self) -> bool:
        return self.request.stop_file is not None and os.path.lexists(self.request.stop_file)

    def _is_late(self) -> bool:
        return self.request.max_time is not None and time.monotonic() - self.began >= self.request.max_time

    def _is_over_meanwhile(self) -> bool:
        """Whether no task has to be waited for any more."""
        return self.signals.came is not None or self._is_stopped() or self._is_late()

    def _say(self, text: str) -> None:
        say(f"gitstate loop: {escape(text)}")

    # -- recovery

    def _recover(self, *, first: bool) -> None:
        """Bring back what the last run left; its task comes first. Raises NeedsPerson, TryAgain."""
        result = recover(self.repository.toplevel, RecoverRequest(begins=True))
        if result.is_nothing:
            return
        say(*recover_lines(result))
        if result.exit_status:
            kind = TryAgain if result.exit_status == EXIT_AGAIN else NeedsPerson
            what = "manual intervention required" if kind is NeedsPerson else "the workspace could not be recovered"
            raise kind(f"{what} (see above); no agent was started", hint=result.hint or "gitstate status")
        if result.verdict != "elsewhere":
            self._continue(result, first=first)

    def _continue(self, result: RecoverResult, *, first: bool) -> None:
        context = self.context = result.context
        self.told = result.briefing or ""
        if first and context.task_id:
            known = self.request.source.claim(context.task_id)
            self.task = known or Task(context.task_id, {"task_id": context.task_id})
            self._say(f"continuing the task of an earlier run: {context.task_id}")
        if self.task is None:
            return
        self.values = {**self.request.values, **self.task.values, **_values_of(context)}
        cwd = context.extra.get("agent_cwd")
        here = not isinstance(cwd, str) or os.path.realpath(cwd) == os.path.realpath(os.fsdecode(self.directory))
        same = (context.agent or "").lower() == self.request.agent.name
        # An agent finds a session only from the directory in which it began.
        exists = same and here and resume_command(context, os.environ) is not None
        if exists and load_session(context, self.directory):
            self.session = context.session_id

    # -- one run

    def _once(self, task: Task) -> int | None:
        """Run the agent once; the status to exit with, None where the loop goes on."""
        if self.signals.came is not None:
            self.signals.die()
        resumed = self.session
        left = f", {self.request.source.left()} in the file" if isinstance(self.request.source, FileTasks) else ""
        how = f", resuming session {resumed}" if resumed else ""
        self._say(f"run {self.runs}: {self.request.agent.name} works on {task.task_id[:200]}{how}{left}")
        run = self._start(task, resumed)
        if self.signals.came is not None:
            self.signals.die()
        name, worked = self.request.agent.name, run.changed or run.seconds >= self.request.brake
        if run.status == 0 and worked and not run.interrupted:
            finish(self.repository)
            self.request.source.done(task)
            self.task, self.session, self.told = None, None, ""
            self.failures = self.idle = self.limits = 0
            return None
        limit = find_limit(run.last_words, times=self.limits) if run.status or run.interrupted or not worked else None
        if limit is not None:
            self._recover(first=False)
            return self._wait_out(limit, task)
        if resumed and not worked:
            self._say(f"{name} did nothing in its earlier session {resumed} (status {run.status}); starting a new one")
            self._recover(first=False)
            self.session = None
            return None
        if run.status == 0 and not run.interrupted:
            return self._count_idle(task)
        return self._retry(task, run)

    def _count_idle(self, task: Task) -> int | None:
        self.idle += 1
        self.session = None
        if self.idle >= _IDLE:
            name, brake = self.request.agent.name, self.request.brake
            what = f"{name} ended {self.idle} times within {brake:g} seconds and changed nothing"
            self._say(f"{what}; is it the right command?")
            self._say(f"the task stays first: {task.task_id}")
            return EXIT_AGAIN
        self._pause(float(self.idle))
        return None

    def _retry(self, task: Task, run: _Run) -> int | None:
        name, status = self.request.agent.name, run.status
        self.failures += 1
        words = f"{name} ended with status {status}" if status else f"{name} ended in the middle of its turn"
        if self.failures > self.request.retries:
            self._say(f"{words}; the task stays first: {task.task_id}")
            return status or 1
        pause = min(_MOST_PAUSE, 2.0 ** min(self.failures - 1, 16))
        self._say(f"{words}; try {self.failures} of {self.request.retries} more in {pause:g} s: {task.task_id}")
        self._pause(pause)
        self._recover(first=False)
        return None

    def _wait_out(self, limit: Limit, task: Task) -> int | None:
        self.limits += 0 if limit.named else 1
        seconds = max(1.0, limit.until - time.time())
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(limit.until))
        ends = None if self.request.max_time is None else self.began + self.request.max_time
        if ends is not None and time.monotonic() + seconds > ends:
            self._say(f"usage limit until {at}, later than --max-time; the task stays first: {task.task_id}")
            return EXIT_AGAIN
        self._say(f"usage limit: waiting until {at} ({seconds / 60:.0f} min): {task.task_id}")
        self._pause(seconds)
        return None

    def _pause(self, seconds: float) -> None:
        """Wait, but not for a signal or the stop file."""
        ends = time.time() + seconds
        while (left := ends - time.time()) > 0 and self.signals.came is None:
            if self._is_stopped():
                break
            # The clock of the wall decides: a suspended machine has waited too.
            time.sleep(min(left, 0.2))
        if self.signals.came is not None:
            self.signals.die()

    # -- the agent's process

    def _start(self, task: Task, resumed: str | None) -> _Run:
        launch = Launch(self.request.agent, self.context)
        if self.request.options:
            launch.options = list(self.request.options)
        session = resumed or new_session(self.request.agent)
        prompt = self._prompt(task)
        words = launch.resume(session, prompt) if resumed else launch.start(session, prompt)
        if max(len(os.fsencode(word)) for word in words) >= _MOST_WORD:
            what = f"the prompt is longer than {_MOST_WORD >> 10} KiB, which the system passes to no command"
            raise UsageError(f"{what}; no agent was started", hint="gitstate loop --help")
        fields = ("task_id", "issue_number", "progress_stage", "memory_refs")
        values = {name: self.values.get(name, "") for name in fields}
        known = {"agent": self.request.agent.name, "session_id": session}
        hold = Hold(self.repository, this_process(), None, self.request.agent.name)
        try:
            begin(self.repository, {**values, **known}, os.getpid())
            before, began, since = work_state(self.repository), time.monotonic(), time.time()
            argv = [*command(), "-C", os.fsdecode(self.directory), "run", "--owner-pid", str(os.getpid())]
            status, last = self._supervised([*argv, "--agent", self.request.agent.name, "--", *words])
        finally:
            hold.release()
        seconds = time.monotonic() - began
        last += last_stop(self.repository, since)
        interrupted = pending_save_id(self.repository) is not None
        return _Run(status, seconds, work_state(self.repository) != before, last, interrupted)

    def _prompt(self, task: Task) -> str:
        template = self.request.template
        prompt = template.replace("{}", task.text) if "{}" in template else f"{template}\n\n{task.text}"
        # What a context holds may hold a NUL byte, which no command can be given.
        return (f"{prompt}\n\n{self.told}" if self.told else prompt).replace("\0", " ")

    def _supervised(self, argv: Sequence[str]) -> tuple[int, str]:
        """Run to the end; the status as a shell tells it, and the last words on both streams."""
        with self._log() as log:
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment())
            self.signals.follow(process)
            assert process.stdout is not None and process.stderr is not None
            last: collections.deque[bytes] = collections.deque(maxlen=64)
            # Unbuffered: at its end Python fails for what a full disk did not take. A closed stream is /dev/null here.
            streams = (open(fd, "wb", buffering=0, closefd=False) for fd in (1, 2))  # noqa: SIM115
            pairs = zip((process.stdout, process.stderr), streams, strict=True)
            more = {"last": last}
            copies = [threading.Thread(target=_copy, args=(*pair, log), kwargs=more, daemon=True) for pair in pairs]
            for copy in copies:
                copy.start()
            code = process.wait()
            self.signals.child = None
            if self.signals.came is None and -code in ENDING:
                # Ctrl-C, which the run gets from the terminal too: it died of it, and so does this loop.
                self.signals.came = signal.Signals(-code)
            for copy in copies:
                # A process that outlived the agent may hold the other end.
                copy.join(2.0)
        words = b"".join(last)[-_LAST_WORDS:].decode("utf-8", "replace")
        return (128 - code if code < 0 else code), words

    @contextlib.contextmanager
    def _log(self) -> Iterator[IO[bytes] | None]:
        if self.request.log_dir is None:
            yield None
            return
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}-{self.runs}.log"
        with open(os.path.join(self.request.log_dir, name.encode()), "ab", buffering=0) as file:
            yield file

    def _environment(self) -> dict[str, str]:
        env = {name: value for name, value in os.environ.items() if name not in _STALE}
        for name, variable in _VARIABLES.items():
            env.pop(variable, None)
            if self.values.get(name):
                env[variable] = self.values[name].replace("\0", " ")
        return env


def _copy(source: IO[bytes], *targets: IO[bytes] | None, last: collections.deque[bytes]) -> None:
    while data := os.read(source.fileno(), 4096):
        last.append(data)
        for target in targets:
            # A full disk ends the log, not the agent, which would wait for ever to be read.
            with contextlib.suppress(OSError):
                if target is not None:
                    target.write(data)


def new_session(agent: Agent) -> str:
    """An id for a new session where the agent lets others choose it."""
    return str(uuid.uuid4()) if "{id}" in agent.sessions.start_with_prompt else ""


def _values_of(context: Context) -> dict[str, str]:
    found = {
        "issue_number": None if context.issue_number is None else str(context.issue_number),
        "progress_stage": context.progress_stage,
        "memory_refs": "\n".join(context.memory_refs) + "\n" if context.memory_refs else None,
    }
    return {name: value for name, value in found.items() if value}


def loop(directory: bytes, request: LoopRequest) -> int:
    """Run a loop in a workspace; the status to exit with. Raises GitstateError."""
    import shutil

    program = request.agent.commands[0]
    if shutil.which(program) is None:
        say(f"gitstate loop: there is no command {program} on the PATH")
        return 127
    if request.log_dir is not None:
        try:
            os.makedirs(request.log_dir, exist_ok=True)
        except OSError as error:
            what = f"{os.fsdecode(request.log_dir)}: {error.strerror}"
            raise UsageError(f"{what}; no agent was started", hint="gitstate loop --help") from None
    return Loop(open_repository(directory), directory, request).run()
