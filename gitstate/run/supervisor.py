"""`gitstate run`: one agent in the foreground, in the caller's terminal and process group, with a keeper beside it.

This process only starts the agent, waits for it, and tells the keeper what happens. The keeper watches, ends and saves.
All signals are blocked and taken one by one, so that none is lost and none interrupts a step.
"""

from __future__ import annotations

import errno
import os
import time

from ..agents.base import ARGV_KEY, StopRule
from ..agents.launch import recorded_argv, write_search_path
from ..agents.registry import agent_of_command, stop_rule
from ..bundle import hold_own_code
from ..errors import EXIT_DONE, EXIT_FAILED, EXIT_PERSON, GitstateError, NeedsPerson, UsageError
from ..format.archive import pending_save_id
from ..format.context import Context, is_of_other_task
from ..format.manifest import Reason
from ..format.names import new_save_id
from ..git.opening import open_repository
from ..git.repository import Repository
from ..orders.events import forget_events
from ..recover.facts import waiting_task
from ..recover.recover import recover
from ..recover.request import RecoverRequest, recover_lines
from ..save.request import SaveRequest, save_lines
from ..system.clock import Deadline
from ..system.jsonio import text_to_json
from ..system.process import inherited_descriptors, is_alive, process, send, this_process
from ..system.stdlib import TYPE_CHECKING, Record, quote, signal, suppress
from ..system.terminal import say
from ..workspace.lease import wait_for_last_save
from ..workspace.live_context import ACTIVE, RECOVERED, begin, forget_turn, read_live_context, refuse_while_others_work
from .channel import SIGNALS, KeeperConfig, KeeperProcess, Times, read_times
from .checkpoints import try_save
from .ending import failed_save
from .hold import Hold, end_well, set_aside
from .keeper import CTRL_C, keep
from .processes import RUN_ID, StartedProcess, end_leftovers, signal_name
from .worktrees import recover_worktrees, save_worktrees

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

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
#: Between two looks for signals the answer of the keeper is waited for so long, in seconds.
_LISTENED = 0.1
#: So many keepers are started for one run, should somebody kill them.
_KEEPERS = 4


class RunRequest(Record):
    """How to run. `stop_signal` and `stop_group` override how the agent is told to stop."""

    command: Sequence[str]
    values: Mapping[str, str] = {}
    owner_pid: int | None = None
    agent: str | None = None
    stop_signal: str | None = None
    stop_group: bool = False
    keep: bool = False
    """Set another task that waits here aside."""
    times: Mapping[str, float | None] = {}
    """`grace`, `deadline` and `interval` in seconds, where the caller named them."""


def run(path: bytes, request: RunRequest) -> int:
    """Run the command in the directory `path` of a workspace; the status to exit with.

    Does not return if a signal ended the run: then this process dies of it, once all is saved. Raises GitstateError
    if nothing was started; UsageError for a setting that can't be read, before anything begins.
    """
    hold_own_code()
    request = request._replace(command=_supervisable(request.command))
    heard = _heard(request)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*heard, signal.SIGCHLD})
    repository = open_repository(path)
    times = read_times(repository, request.times)
    config = _config(repository, request, times)
    status, begun = _prepare(repository, request)
    if status:
        return status
    hold = Hold(repository, config.owner, config.run_id, request.agent)
    forget_turn(repository)
    forget_events(repository)
    _begin(repository, request, begun)
    try:
        directory = path if request.owner_pid is None else _directory_of_loop(repository, path)
        return Supervisor(repository, directory, request, config._replace(lease=hold.lease), heard).run(hold)
    finally:
        hold.release()


def _directory_of_loop(repository: Repository, path: bytes) -> bytes:
    """Where the agent of a loop begins: where the loop is, if that is in a worktree of the repository, else `path`."""
    with suppress(OSError, GitstateError):
        here = os.getcwdb()
        if os.path.join(here, b"").startswith(os.path.join(os.path.realpath(repository.toplevel), b"")):
            return here
        if open_repository(here).common_dir == repository.common_dir:
            return here
    return path


def _supervisable(command: Sequence[str]) -> Sequence[str]:
    """The command line as this run starts it. Raises UsageError for one whose work would not be part of the run."""
    agent = agent_of_command(command)
    refused = None if agent is None or agent.refused is None else agent.refused(command)
    if refused is not None:
        why, word = refused
        rest = " ".join(quote(one) for one in command if one != word)
        raise UsageError(f"{why}; nothing was started", hint=f"gitstate run -- {rest}")
    option = None if agent is None or agent.supervised is None else agent.supervised(command)
    if option is None or not _knows(command[0], option):
        return command
    say(f"gitstate: {command[0]} is started with {option}: else its work would go on when this run ends")
    return [command[0], option, *command[1:]]


def _knows(program: str, option: str) -> bool:
    """Whether the help of a program names an option."""
    import subprocess

    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run([program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
        return option.encode() in done.stdout
    return False


def _config(repository: Repository, request: RunRequest, times: Times) -> KeeperConfig:
    """What the keeper of this run is told at its start."""
    owner = process(request.owner_pid) if request.owner_pid is not None else this_process()
    rule = stop_rule(request.agent, request.command)
    number = rule.signal if request.stop_signal is None else int(getattr(signal, f"SIG{request.stop_signal}"))
    stop = StopRule(number, request.stop_group or rule.everyone)
    return KeeperConfig(os.fsdecode(repository.toplevel), new_save_id(), owner, stop, times)


#: What LXC and systemd send to process 1 of a container to end it (`man lxc.container.conf`, `man systemd`). They would
#: end any other process, and what worked for it; process 1 gets no signal that it does not listen to.
_OF_A_CONTAINER = (signal.SIGPWR, signal.SIGRTMIN + 3) if hasattr(signal, "SIGPWR") else ()


def _heard(request: RunRequest) -> set[int]:
    """The signals that end the run: not those that were ignored from the start, as under nohup.

    A shell without job control starts background commands with SIGINT and SIGQUIT ignored. With an owner (the shell
    library of a loop) those two count all the same. Process 1 of a container is ended by others, too.
    """
    mine = {signal.SIGINT, signal.SIGQUIT} if request.owner_pid is not None else set()
    ends = (*SIGNALS, *_OF_A_CONTAINER) if os.getpid() == 1 else SIGNALS
    heard: set[int] = {number for number in ends if number in mine or signal.getsignal(number) != signal.SIG_IGN}
    for number in heard:
        signal.signal(number, signal.SIG_DFL)
    return heard


def _prepare(repository: Repository, request: RunRequest) -> tuple[int, Context | None]:
    """Recover a pending save. Returns a status other than 0 where a person must decide first, and the task that our
    loop has begun: the save may be one of its last task, whose context recovery puts in the place of that.

    Raises TryAgain where another run works here, or where nobody can tell.
    """
    wait_for_last_save(repository, Deadline(_MARGIN))
    # A task that our own loop has begun has not ended: only a save of it may be pending.
    goes_on = refuse_while_others_work(repository, request.owner_pid).ours
    live, live_status = read_live_context(repository)
    begun = live if goes_on and live_status == ACTIVE else None
    task_id = request.values.get("task_id")
    waiting = None if goes_on or not task_id else waiting_task(repository)
    if task_id and waiting is not None and waiting != task_id:
        if not request.keep:
            raise _another_task(waiting, task_id)
        return _set_aside(repository, task_id), None
    result = recover(repository.toplevel, RecoverRequest(waiting_only=goes_on, begins=True, task_id=task_id))
    if not result.is_nothing:
        say(*recover_lines(result))
    if not result.exit_status:
        say(*recover_worktrees(repository))
    return result.exit_status, begun


def _another_task(waiting: str, task_id: str) -> NeedsPerson:
    """Another task than `task_id` waits here: the run would take its files for its own."""
    name, other = text_to_json(waiting), quote(task_id)
    return NeedsPerson(
        f"task {name} is not finished in this workspace, and its work is here; nothing was started",
        hint=f"gitstate run --task-id {quote(waiting)} -- … (continue it); "
        f"gitstate run --keep --task-id {other} -- … (set it aside); or, where it is done: "
        "gitstate recover && gitstate finish",
    )


def _set_aside(repository: Repository, task_id: str) -> int:
    """Set the task that waits here aside, and say how to bring it back; a status other than 0 where it is not."""
    result = set_aside(repository, task_id)
    if result.exit_status or result.save_id is None:
        say(*recover_lines(result))
        return result.exit_status
    name = text_to_json(result.context.task_id or "-")
    say(
        f"task {name} is set aside as {result.save_id}",
        f"  to bring it back: gitstate recover --save {result.save_id} (where its branch is on the same commit)",
        f"  or, beside this one: gitstate recover --into PATH --save {result.save_id}",
    )
    return EXIT_DONE


def _begin(repository: Repository, request: RunRequest, begun: Context | None) -> None:
    """Write into the context who works here now. A task that the loop has begun keeps its context."""
    owner = request.owner_pid or os.getpid()
    values = {**_agent_values(request), **request.values}
    known, status = (begun, ACTIVE) if begun is not None else read_live_context(repository)
    goes_on = status == RECOVERED or (status == ACTIVE and request.owner_pid is not None)
    goes_on = goes_on and not is_of_other_task(known, values)
    begin(repository, values, owner, before=known if goes_on else Context())
    write_search_path(repository.own, os.environ.get("PATH", ""))


def _agent_values(request: RunRequest) -> dict[str, str]:
    """What the command line tells of the agent: its name, and the options that a resumed session gets again."""
    agent = agent_of_command(request.command)
    values = {"agent": request.agent or ("" if agent is None else agent.name)}
    argv = None if agent is None else recorded_argv(agent, request.command)
    if argv is not None:
        values[ARGV_KEY] = argv
    return {name: value for name, value in values.items() if value}


class Supervisor:
    """Runs one agent: starts it and its keeper, tells the keeper what happens, and answers with the agent's status."""

    def __init__(
        self,
        repository: Repository,
        directory: bytes,
        request: RunRequest,
        config: KeeperConfig,
        heard: set[int],
    ) -> None:
        self.repository = repository
        self.directory = directory
        self.request = request
        self.config = config
        self.heard = heard
        self.keepers = 1
        #: The last keeper has ended too: this process saves when the agent has ended.
        self.is_alone = False
        self.died_of: int | None = None
        self.ctrl_c: tuple[int, float] | None = None
        self.ended = 0.0

    def run(self, hold: Hold) -> int:
        """`hold` is released before this process dies of the signal that ended the run."""
        self.keeper = KeeperProcess(self.config, keep)
        try:
            self.agent = self._start()
        except OSError as error:
            self.keeper.tell(do="leave", finish=True)
            self.keeper.answer(_MARGIN)
            first, *rest = self.request.command
            say(f"gitstate: {first}: {error.strerror}")
            if "--" in rest:
                words = " ".join(map(quote, rest))
                say(f"  next: options stand before --, such as: gitstate run --task-id {quote(first)} {words}")
            elif rest and "=" in first:
                say(f"  next: gitstate run {quote(first)} -- {' '.join(map(quote, rest))}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED
        self._wait()
        answer = self._await_answer()
        if answer is None:
            answer = self._save_without_keeper()
        say(*answer["lines"])
        hold.release(clears=not answer.get("held"))
        return self._status(int(answer["status"]))

    def _start(self) -> StartedProcess:
        """Start the agent with the standard streams and the signal mask of a shell's command. Raises OSError.

        It begins when the keeper was told of it, and not where the owner is gone: the last save may be taken already.
        Nor does it where a signal has come already: that of a terminal was sent to it before it was there.
        """
        reading, writing = os.pipe()
        waiting, begin = os.pipe()
        pid = os.fork()
        if pid == 0:
            number = errno.EINVAL
            try:
                os.close(begin)
                if not os.read(waiting, 1):
                    os._exit(_NOT_STARTED)
                self._become_agent()
            except OSError as error:
                number = error.errno or number
            except BaseException:
                # A word of the command that no program can be given.
                pass
            finally:
                os.write(writing, b"%d" % number)
                os._exit(_NOT_FOUND)
        os.close(writing)
        os.close(waiting)
        self.keeper.tell(do="agent", pid=pid)
        # In this order: a keeper that sees the end of the owner reads what it was told after that.
        if is_alive(self.config.owner) and self.heard.isdisjoint(signal.sigpending()):
            os.write(begin, b"\n")
        os.close(begin)
        with open(reading, "rb") as pipe:
            failed = pipe.read()
        if failed:
            os.waitpid(pid, 0)
            raise OSError(int(failed), os.strerror(int(failed)))
        return StartedProcess(pid)

    def _become_agent(self) -> None:
        """In the child: nothing of this process is inherited that is not the caller's."""
        os.chdir(self.directory)
        reset = self.heard if self.request.owner_pid is not None else set()
        # Python ignores these two.
        for number in (*reset, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        for fd in inherited_descriptors():
            os.close(fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        command = self.request.command
        os.execvpe(command[0], list(command), {**os.environ, RUN_ID: self.config.run_id})

    def _wait(self) -> None:
        """Wait until the agent has ended, and the keeper was told how."""
        while True:
            info = signal.sigwaitinfo({*self.heard, signal.SIGCHLD})
            if info.si_signo != signal.SIGCHLD:
                self._on_signal(info)
                if self.is_alone and self.died_of is not None:
                    return
                continue
            if os.getpid() == 1:
                self._reap_orphans()
            if self.agent.poll() is not None:
                self.ended = time.monotonic()
                self._collect_late_signals()
                if self.died_of is None:
                    self.keeper.tell(do="ended", code=self.agent.returncode)
                return
            elif self.keeper.process.poll() is not None:
                if self.died_of is not None:
                    return
                if self.keepers < _KEEPERS:
                    self._start_another_keeper()
                elif not self.is_alone:
                    self.is_alone = True
                    say(f"gitstate: the keeper of this run has ended {_KEEPERS} times: no checkpoint is taken any more")
                    say("  the agent goes on; its work is saved when it ends")

    def _await_answer(self) -> dict[str, Any] | None:
        """The keeper's answer; None if it is gone. A signal that comes meanwhile is passed on: then it hurries."""
        times = self.config.times
        while self.died_of is None:
            answer = self.keeper.answer(_LISTENED)
            if answer is not None or self.keeper.is_gone:
                return answer
            if (info := signal.sigtimedwait(self.heard, 0)) is not None:
                self._on_signal(info)
        return self.keeper.answer(times.deadline + times.grace + _MARGIN)

    def _reap_orphans(self) -> None:
        """As process 1 of a container: take the status of every process that nobody else waits for."""
        ours = (self.agent.pid, self.keeper.process.pid)
        with suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in ours:
                    return
                os.waitpid(ended.si_pid, os.WNOHANG)

    def _start_another_keeper(self) -> None:
        self.keepers += 1
        self.keeper.close()
        self.keeper = KeeperProcess(self.config, keep)
        self.keeper.tell(do="agent", pid=self.agent.pid)

    def _on_signal(self, info: signal.struct_siginfo) -> None:
        number = info.si_signo
        keyboard = number in (signal.SIGINT, signal.SIGQUIT)
        terminal = keyboard and info.si_code == _SI_KERNEL
        if keyboard and info.si_pid == self.config.owner.pid and self._ctrl_c_just_came():
            return
        if terminal:
            self.ctrl_c = (number, time.monotonic())
        elif self.died_of is None:
            self.died_of = number
        else:
            return
        self.keeper.tell(do="signal", name=signal_name(number), terminal=terminal)

    def _ctrl_c_just_came(self) -> bool:
        """The loop passes on what it gets, so a Ctrl-C comes twice: from the terminal, and from the loop."""
        return self.ctrl_c is not None and time.monotonic() - self.ctrl_c[1] < _ECHO

    def _collect_late_signals(self) -> None:
        """Take the signal that killed the agent, if this process got it too: it may arrive a moment later."""
        if self.died_of is None and (info := signal.sigtimedwait(self.heard, _TOGETHER)) is not None:
            self._on_signal(info)

    def _save_without_keeper(self) -> dict[str, Any]:
        """End the agent and save from this process: every keeper was killed. Returns what a keeper would answer."""
        if self.agent.poll() is None:
            self.died_of = self.died_of or signal.SIGTERM
            send(process(self.agent.pid), self.config.stop.signal)
            self.agent.wait(Deadline(self.config.times.grace))
            if self.agent.poll() is None:
                self.agent.kill()
        code = self.agent.wait() or 0
        end_leftovers(self.config.run_id, but=(os.getpid(), self.config.owner.pid))
        name = None if self.died_of is None else signal_name(self.died_of)
        if name is None and code == 0:
            recovered = end_well(self.repository, finished=self.config.owner == this_process())
            if recovered is None:
                return {"lines": [], "status": EXIT_DONE}
            return {"lines": recover_lines(recovered), "status": recovered.exit_status}
        reason = Reason(name, None if name else code, "the keeper of this run was killed")
        before = pending_save_id(self.repository)
        result = try_save(self.repository.toplevel, SaveRequest(reason=reason))
        worktrees = save_worktrees(self.repository, reason)
        if isinstance(result, str):
            lines = [*failed_save(self.repository, result, before)[1], *worktrees.lines]
            return {"lines": lines, "status": EXIT_FAILED}
        status = EXIT_PERSON if result.lost or worktrees.lost else EXIT_DONE
        lines = [*save_lines(result, "save"), *worktrees.lines]
        return {"lines": lines, "status": EXIT_FAILED if worktrees.failed else status}

    def _status(self, saving: int) -> int:
        """The agent's own status. If a signal ended the run, this process dies of it instead."""
        fatal = self.died_of
        if fatal is None and self.ctrl_c is not None and self.ended - self.ctrl_c[1] < CTRL_C:
            fatal = self.ctrl_c[0]
        if fatal is not None:
            signal.signal(fatal, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {fatal})
            os.kill(os.getpid(), fatal)
            # Process 1 of a container does not die of a signal of its own.
            return 128 + fatal
        code = self.agent.wait() or 0
        return 128 - code if code < 0 else code or saving
