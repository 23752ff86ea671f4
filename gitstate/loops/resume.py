"""`gitstate resume`: recover a workspace, then start its agent again, in its own session, with the briefing.

An interruption starts an agent at most once: that it was started is on the disk before it is. Three starts in a row
that changed nothing are the last ones, until a person starts the agent or `--force` is given. Where somebody works, and
where the stop file exists, nothing is started.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ..agents.base import Agent
from ..agents.launch import Launch, with_search_path
from ..agents.registry import agent_named
from ..agents.sessions import resume_command
from ..errors import EXIT_AGAIN, EXIT_DONE, EXIT_PERSON, BadJson, GitstateError, NeedsPerson, TryAgain
from ..format.context import MAX_CONTEXT, Context
from ..format.names import workspace_id
from ..git.opening import open_repository
from ..git.repository import Repository
from ..recover.recover import recover
from ..recover.request import SUCCESSES, RecoverRequest, RecoverResult, instruction
from ..system import files, locks
from ..system.child import command
from ..system.clock import Deadline
from ..system.jsonio import dumps, loads
from ..workspace.lease import presence
from ..workspace.live_context import RECOVERED, read_live_context
from .loop import new_session
from .start import Manner, load_session, require, start, wait_for
from .traces import work_state

#: So many starts that changed nothing are the last ones.
_STARTS = 3
_MEMORY, _LOCK, _STOP = b"resume.json", b"resume.lock", b"stop"
#: What the lock's file holds from the start of an agent until the next command that need not wait for it.
STARTED = b"1"
#: The mark of a workspace whose agent is not to be started again, at its top.
STOP_NAME = ".gitstate-stop"
#: A session that ends so soon, in seconds, with an error and without a change is stale.
_STALE = 10.0

ResumeOutcome = Literal["started", "finished", "nothing", "live", "already", "stopped", "breaker", "failed"]


class ResumeRequest(NamedTuple):
    """How to start."""

    manner: Manner = "foreground"
    agent: str | None = None
    """None: the one of the context."""
    stop_file: bytes | None = None
    force: bool = False
    """Start again for the same interruption, and after starts that changed nothing."""
    strict: bool = False
    """Nobody named this very workspace: a run counts as ended only where that is proven."""
    options: Sequence[str] = ()
    """Arguments of the agent, in the place of those that it had."""
    answers: bool = False
    """A program reads the answer on stdout: what the agent prints goes to stderr."""


class ResumeResult(NamedTuple):
    """What happened in one workspace."""

    workspace: bytes
    outcome: ResumeOutcome
    message: str = ""
    exit_status: int = EXIT_DONE
    argv: tuple[str, ...] = ()
    """What was started; empty where nothing was."""


class _Memory(NamedTuple):
    """What the last start left behind."""

    interruption: str = ""
    state: str = ""
    """What the work was then."""
    idle: int = 0
    """How many starts before it changed nothing."""


def resume(path: bytes, request: ResumeRequest) -> ResumeResult:
    """Resume the workspace that `path` is in. In the foreground it returns when the agent has ended.

    Raises GitstateError where nothing was started, OSError.
    """
    require(request.manner)
    repository = open_repository(path)
    top = repository.toplevel
    if presence(repository).live:
        return ResumeResult(top, "live", "somebody works here")
    stop_files = [request.stop_file, os.path.join(top, STOP_NAME.encode()), os.path.join(repository.own, _STOP)]
    stop = next((file for file in stop_files if file is not None and os.path.lexists(file)), None)
    if stop is not None:
        return ResumeResult(top, "stopped", f"{os.fsdecode(stop)} exists")
    files.make_directory(repository.own, top=repository.git_dir)
    with _search_path(repository):
        return _resume(repository, request)


@contextlib.contextmanager
def _search_path(repository: Repository) -> Iterator[None]:
    """Search programs on the PATH of the agent's last run, too: that of a scheduler is bare."""
    before = os.environ.get("PATH")
    os.environ["PATH"] = with_search_path(repository.own, os.environ)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def _resume(repository: Repository, request: ResumeRequest) -> ResumeResult:
    top = repository.toplevel
    with in_turn(repository, force=request.force) as lock:
        if lock is None:
            return ResumeResult(top, "already", "its agent was started while this command waited")
        # What the recovery at boot has brought back needs no proof any more.
        strict = request.strict and read_live_context(repository)[1] != RECOVERED
        recovered = recover(top, RecoverRequest(strict=strict))
        if recovered.exit_status or recovered.verdict not in SUCCESSES:
            return _not_recovered(recovered)
        if presence(repository).live:
            # It began while this command read what was recovered: then that tells nothing.
            return ResumeResult(top, "live", "somebody works here")
        agent = _agent(recovered.context, request)
        memory = _read(repository)
        mark, state = _interruption(recovered), work_state(repository)
        idle = memory.idle + 1 if memory.interruption and memory.state == state else 0
        if not request.force and memory.interruption == mark:
            return ResumeResult(top, "already", "its agent was started for this interruption: gitstate resume --force")
        if not request.force and idle >= _STARTS:
            what = f"{_STARTS} starts have changed nothing; the agent is not started again"
            return ResumeResult(top, "breaker", f"{what}: gitstate resume --force", EXIT_AGAIN)
        plan = _Plan(repository, recovered, agent, request)
        plan.check()
        plan.load()
        _write(repository, _Memory(mark, state, 0 if request.force else idle))
        os.write(lock, STARTED)
        if request.manner != "foreground":
            name = f"gitstate-{workspace_id(repository)}"
            started = start(repository, request.manner, _unit_name(name), plan.directory, plan.supervised())
            return ResumeResult(top, "started", f"{agent.name} was started: {started.where}", argv=plan.argv)
    return plan.in_foreground()


@contextlib.contextmanager
def in_turn(repository: Repository, *, force: bool) -> Iterator[int | None]:
    """Hold the lock of resumptions; None where the command that held it before has started the agent.

    How that run ended is nothing that this command was asked for.
    """
    path, what = os.path.join(repository.own, _LOCK), "the resumption"
    waited = False
    try:
        lock = locks.lock(path, Deadline(0.0), what)
    except TryAgain:
        waited, lock = True, locks.lock(path, Deadline(60.0), what)
    try:
        if waited and not force and os.pread(lock, 1, 0) == STARTED:
            yield None
        else:
            os.ftruncate(lock, 0)
            yield lock
    finally:
        os.close(lock)


def _not_recovered(result: RecoverResult) -> ResumeResult:
    if result.verdict == "live":
        return ResumeResult(result.workspace, "live", result.message)
    if result.verdict == "nothing":
        return ResumeResult(result.workspace, "nothing", "no run was interrupted here")
    hint = f": {result.hint}" if result.hint else ""
    return ResumeResult(result.workspace, "failed", f"{result.message}{hint}", result.exit_status or EXIT_PERSON)


def _agent(context: Context, request: ResumeRequest) -> Agent:
    name = request.agent or context.agent
    agent = None if name is None else agent_named(name.lower())
    if agent is None:
        what = "no agent is on record here" if name is None else f"gitstate does not know how to start {name}"
        raise NeedsPerson(f"{what}; nothing was started", hint="gitstate resume --agent NAME")
    return agent


def _interruption(result: RecoverResult) -> str:
    """What tells one interruption from another: its save, else the run that ended."""
    context = result.context
    run = f"{context.boot_id} {context.pid} {context.pid_start} {context.session_id} {context.task_id}"
    return result.save_id or hashlib.sha256(run.encode("utf-8", "replace")).hexdigest()


def _unit_name(text: str) -> str:
    return "".join(c if c.isalnum() or c == "-" else "-" for c in text)


class _Plan:
    """What to start for one interruption."""

    def __init__(self, repository: Repository, result: RecoverResult, agent: Agent, request: ResumeRequest) -> None:
        self.repository = repository
        self.context = result.context
        self.agent = agent
        self.launch = Launch(agent, result.context)
        if request.options:
            self.launch.options = list(request.options)
        same = (result.context.agent or "").lower() == agent.name
        found = same and resume_command(result.context, os.environ) is not None
        self.session = result.context.session_id if found else None
        self.prompt = result.briefing or instruction(result.context)
        self.at_terminal = not self.launch.is_headless and (
            request.manner == "tmux" or (request.manner == "foreground" and self._has_terminal(request))
        )
        self.stdout = 2 if request.answers else None
        self.argv = self._argv(self.session)

    @staticmethod
    def _has_terminal(request: ResumeRequest) -> bool:
        return not request.answers and os.isatty(0) and os.isatty(1)

    @property
    def directory(self) -> bytes:
        cwd = self.context.extra.get("agent_cwd")
        inside = isinstance(cwd, str) and os.path.isdir(cwd) and self.session is not None
        return os.fsencode(str(cwd)) if inside else self.repository.toplevel

    def check(self) -> None:
        """Raises NeedsPerson where the program is missing: then nothing counts as started."""
        if shutil.which(self.launch.program) is None:
            raise NeedsPerson(f"there is no command {self.launch.program} on the PATH; nothing was started")

    def load(self) -> None:
        """Bring the session back into the agent's database. Where that fails, a new one begins."""
        if self.session is not None and not load_session(self.context, self.directory):
            self.session = None
            self.argv = self._argv(None)

    def _argv(self, session: str | None) -> tuple[str, ...]:
        if session is None:
            self.fresh = new_session(self.agent)
            return tuple(self.launch.start(self.fresh, self.prompt))
        return tuple(self.launch.resume(session, None if self.at_terminal else self.prompt))

    def supervised(self) -> list[str]:
        """The command that runs the agent under a keeper."""
        where = ["-C", os.fsdecode(self.directory)]
        return [*command(), *where, "run", "--agent", self.agent.name, *self._session(), "--", *self.argv]

    def _session(self) -> list[str]:
        session = self.session or self.fresh
        return ["--session-id", session] if session else []

    def in_foreground(self) -> ResumeResult:
        """Run the agent here. One whose session turns out to be stale starts once more, in a new one."""
        before, began = work_state(self.repository), time.monotonic()
        status = wait_for(self.supervised(), stdout=self.stdout)
        stale = self.session is not None and 0 < status < 126 and time.monotonic() - began < _STALE
        if stale and work_state(self.repository) == before:
            with contextlib.suppress(GitstateError, OSError):
                recover(self.repository.toplevel, RecoverRequest())
            self.session = None
            self.argv = self._argv(None)
            status = wait_for(self.supervised(), stdout=self.stdout)
        return ResumeResult(self.repository.toplevel, "finished", exit_status=status, argv=self.argv)


def _read(repository: Repository) -> _Memory:
    try:
        value = loads(files.read_limited(os.path.join(repository.own, _MEMORY), MAX_CONTEXT), MAX_CONTEXT, "the start")
        return _Memory(str(value["interruption"]), str(value["state"]), int(value["idle"]))
    except (BadJson, KeyError, TypeError, ValueError):
        return _Memory()


def _write(repository: Repository, memory: _Memory) -> None:
    path = os.path.join(repository.own, _MEMORY)
    files.write_atomic(path, dumps(memory._asdict()), staging=repository.own)
