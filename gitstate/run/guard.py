"""`gitstate.guard`: a loop written in Python, with the promises of `gitstate run`.

    with gitstate.guard(task_id="T-1") as task:
        task.stage("testing")
        subprocess.run(["my-agent", "fix the rounding"])

A keeper runs beside the program: it saves whatever ends the program, SIGKILL included. On a signal the program waits
for the save, then runs the handler that was there before; without one it dies of the signal. An exception that leaves
the block ends the run with a save. A clean exit finishes the task, as `gitstate finish` does.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from ..agents.registry import stop_rule
from ..bundle import hold_own_code
from ..errors import NeedsPerson, TryAgain, words_of
from ..format.archive import pending_save_id
from ..format.context import Context, is_of_other_task
from ..format.manifest import Reason
from ..format.names import new_save_id
from ..git.opening import open_repository
from ..recover.recover import recover
from ..recover.request import RecoverRequest, RecoverResult, recover_lines
from ..save.request import SaveRequest
from ..save.save import save
from ..system.process import this_process
from ..system.stdlib import suppress
from ..system.terminal import say
from ..workspace.live_context import RECOVERED, begin, read_live_context, set_values
from .channel import SIGNALS, KeeperConfig, KeeperProcess, read_times
from .ending import failed_save
from .hold import Hold, end_well
from .processes import RUN_ID
from .worktrees import recover_worktrees, save_worktrees

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[[int, FrameType | None], Any] | int | None

#: What a keeper may need past its deadline until it answers, in seconds.
_MARGIN = 30.0


class guard:
    """Guard a block, or as a decorator each call of a function. Values are those of `gitstate begin`.

    `workspace` is a directory in the worktree. `recovered` is what was recovered at the beginning, None if no save was
    pending. `grace`, `deadline` and `interval` are those of `gitstate run`, in seconds; None: the settings decide.

    The constructor takes more than five arguments, because they are the values that a caller writes down.

    Entering raises NotAWorkspace, UsageError for a setting that can't be read, NeedsPerson if a person must decide on
    a pending save, TryAgain if another run works here. Signals are handled if the main thread enters; elsewhere the
    keeper alone sees the end.
    """

    def __init__(
        self,
        task_id: str | None = None,
        *,
        workspace: str | os.PathLike[str] = ".",
        issue_number: int | str | None = None,
        progress_stage: str | None = None,
        memory_refs: tuple[str, ...] | list[str] = (),
        agent: str | None = None,
        session_id: str | None = None,
        grace: float | None = None,
        deadline: float | None = None,
        interval: float | None = None,
        **extra: str,
    ) -> None:
        named = {
            "task_id": task_id,
            "issue_number": issue_number,
            "progress_stage": progress_stage,
            "memory_refs": "\n".join(memory_refs) + "\n" if memory_refs else None,
            "agent": agent,
            "session_id": session_id,
            **extra,
        }
        self._values = {name: str(value) for name, value in named.items() if value is not None}
        self._path = os.fsencode(os.path.abspath(workspace))
        self._stop = stop_rule(agent, ())
        self._given = {"grace": grace, "deadline": deadline, "interval": interval}
        self._before: dict[int, Handler] = {}
        self._keeper: KeeperProcess | None = None
        self._pid = 0
        self._saved = False
        #: No disk holds the keeper: the record of who works here can be removed.
        self._clears = True
        self._reason = Reason()
        self.recovered: RecoverResult | None = None

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """As a decorator: every call runs in a guard of its own with these values."""

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._again():
                return function(*args, **kwargs)

        return guarded

    def _again(self) -> guard:
        other = object.__new__(guard)
        other.__dict__.update(self.__dict__, _before={}, _keeper=None, _saved=False, recovered=None)
        return other

    def __enter__(self) -> Self:
        hold_own_code()
        repository = open_repository(self._path)
        self._times = read_times(repository, self._given, "the argument")
        request = RecoverRequest(begins=True, task_id=self._values.get("task_id"))
        result = recover(repository.toplevel, request)
        if result.exit_status:
            kind = TryAgain if result.verdict == "live" else NeedsPerson
            raise kind(result.message or result.verdict, hint=result.hint)
        if result.verdict == "elsewhere":
            say(*recover_lines(result))
        self.recovered = None if result.verdict in ("nothing", "elsewhere") else result
        say(*recover_worktrees(repository))
        run_id = new_save_id()
        hold = Hold(repository, this_process(), run_id, self._values.get("agent"))
        known, status = read_live_context(repository)
        goes_on = status == RECOVERED and not is_of_other_task(known, self._values)
        begin(repository, self._values, os.getpid(), before=known if goes_on else Context())
        self._repository = repository
        self._pid = os.getpid()
        self._hold = hold
        workspace = os.fsdecode(repository.toplevel)
        self._keeper = KeeperProcess(
            KeeperConfig(
                workspace, run_id, this_process(), self._stop, self._times, ends_clean_runs=False, lease=hold.lease
            )
        )
        self._outer = os.environ.get(RUN_ID)
        os.environ[RUN_ID] = run_id
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                before = signal.getsignal(number)
                if before != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def stage(self, name: str) -> None:
        """Set `progress_stage`: how far the work is."""
        self.set(progress_stage=name)

    def set(self, **values: str) -> None:
        """Change values of the context, as `gitstate set` does. Raises UsageError."""
        set_values(self._repository, values)

    @property
    def context(self) -> Context:
        """The context that the next run would recover now."""
        return read_live_context(self._repository)[0]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper is None or os.getpid() != self._pid:
            # A forked child leaves the block too; the guard is its parent's.
            return
        try:
            if self._saved:
                # An earlier handler let the program go on after the save: what it did since belongs to it too.
                save(self._path, SaveRequest(reason=self._reason))
                say(*save_worktrees(self._repository, self._reason).lines)
                return
            reason = _reason(error)
            if reason is None:
                self._keeper.tell(do="leave", finish=False)
                self._keeper.answer(_MARGIN)
                result = end_well(self._repository, finished=True)
                say(*([] if result is None else recover_lines(result)))
            else:
                self._save(do="failed", reason=reason)
        finally:
            self._leave()

    def _save(self, **message: Any) -> None:
        """Have the keeper save at the end of the run, and print its answer."""
        assert self._keeper is not None
        self._saved = True
        self._keeper.tell(**message)
        answer = self._keeper.answer(self._times.grace + self._times.deadline + _MARGIN)
        if answer is not None:
            self._clears = not answer.get("held")
            say(*answer["lines"])
            return
        waiting = pending_save_id(self._repository)
        say(*failed_save(self._repository, "the keeper of this run is gone", waiting)[1])

    def _leave(self) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, before)
        self._before.clear()
        if self._outer is None:
            os.environ.pop(RUN_ID, None)
        else:
            os.environ[RUN_ID] = self._outer
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        self._hold.release(clears=self._clears)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Save once, however many signals come. Then run the handler that was there before."""
        before = self._before.get(number, signal.SIG_DFL)
        if os.getpid() == self._pid and not self._saved:
            held = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                name = signal.Signals(number).name.removeprefix("SIG")
                self._reason = Reason(name)
                self._save(do="signal", name=name, terminal=False)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            with suppress(AttributeError, OSError, ValueError):
                # It may be closed, or its reader gone.
                sys.stdout.flush()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _reason(error: BaseException | None) -> Mapping[str, object] | None:
    """Why a block was left; None for a clean end."""
    if error is None:
        return None
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return {"exit_code": code} if code else None
    if isinstance(error, KeyboardInterrupt):
        return {"signal": "INT"}
    return {"detail": f"{type(error).__name__}: {words_of(error)}"[:1000], "exit_code": 1}
