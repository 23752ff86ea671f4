"""The processes of one run: found by an id that they inherit, signalled, waited for, and ended.

An agent's commands outlive it, and change their parent and their process group, but they keep their environment. So
the processes of a run are those with its id in the variable `GITSTATE_RUN_ID` (read from `/proc/PID/environ`, proc(5))
and their descendants. Without `/proc` only processes that are named by their pid are reached.
"""

from __future__ import annotations

import os

from ..agents.base import StopRule
from ..agents.registry import all_agents
from ..system.clock import Deadline
from ..system.process import POLL_INTERVAL, Process, process, read_proc, send, wait_for, wait_for_one
from ..system.stdlib import TYPE_CHECKING, signal, suppress

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

#: The variable that every process of a run inherits.
RUN_ID = "GITSTATE_RUN_ID"
#: The time between SIGTERM and SIGKILL for the processes that a dead agent left behind, in seconds.
_LEFTOVER_GRACE = 0.3
#: For waits without a limit.
_NEVER = Deadline(None)
#: So many times processes that start new ones while they are killed are looked for again.
_ROUNDS = 40


def signal_name(number: int) -> str:
    """The name of a signal without `SIG`; its number where it has none."""
    names = (name for name in dir(signal) if name.startswith("SIG") and name[3:4].isalpha())
    return next((name[3:] for name in sorted(names) if getattr(signal, name) == number), str(number))


class StartedProcess:
    """A child of this process: whether it has ended, and how."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        #: Its exit status, minus the number of the signal where one killed it; None until it was waited for.
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, None while it runs; 0 where another part of this program has waited for it."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, deadline: Deadline = _NEVER) -> int | None:
        """Wait for its end, and return its exit status; None where the deadline passes first."""
        one = process(self.pid)
        while self.poll() is None and not deadline.passed():
            wait_for_one(one, min(deadline.left(), POLL_INTERVAL * 10))
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL, unless it was waited for already."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def of_run(run_id: str, *, but: Collection[int] = (), since: Process | None = None) -> list[Process]:
    """Every living process of a run and its descendants, without the pids in `but`.

    `since` is a process that was there before the run: an older one is of it only as a descendant.
    """
    wanted = f"{RUN_ID}={run_id}".encode()
    oldest = 0 if since is None or since.start is None else int(since.start)
    parents: dict[int, int] = {}
    members: set[int] = set()
    for name in _proc():
        pid = int(name)
        told = _parent_and_start(pid)
        if told is None:
            continue
        parents[pid], start = told
        if start >= oldest and wanted in (read_proc(f"/proc/{pid}/environ") or b"").split(b"\0"):
            members.add(pid)
    for pid in _descendants(members, parents):
        members.add(pid)
    shared = {pid for pid in members if _serves_others(pid)}
    members -= _descendants(shared, parents)
    found = [process(pid) for pid in sorted(members) if pid not in but]
    return [one for one in found if one.start is not None]


def _serves_others(pid: int) -> bool:
    """Whether a process serves all sessions of its user's agent: the run that happened to start it never ends it."""
    with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = {os.fsdecode(word) for word in file.read(65_536).split(b"\0")}
        return any(words & {*agent.outlives_runs} for agent in all_agents())
    return False


def descendants(one: Process) -> list[Process]:
    """Every living descendant of a process."""
    parents = {int(name): told[0] for name in _proc() if (told := _parent_and_start(int(name))) is not None}
    found = [process(pid) for pid in sorted(_descendants({one.pid}, parents) - {one.pid})]
    return [below for below in found if below.start is not None]


def _proc() -> list[str]:
    try:
        return [name for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError:
        return []


def _parent_and_start(pid: int) -> tuple[int, int] | None:
    """The parent of a process, and the time of its start (fields 4 and 22 of proc(5) stat); None where it is gone."""
    fields = (read_proc(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()
    try:
        return int(fields[1]), int(fields[19])
    except (ValueError, IndexError):
        return None


def _descendants(roots: Iterable[int], parents: Mapping[int, int]) -> set[int]:
    known = set(roots)
    grew = True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in known and pid not in known}
        known |= more
        grew = bool(more)
    return known


def end_leftovers(run_id: str, *, but: Collection[int] = (), since: Process | None = None) -> int:
    """End every living process of a run: SIGTERM, a moment, then SIGKILL until none is left. Returns their number.

    `since` as for `of_run`.
    """
    found = of_run(run_id, but=but, since=since)
    if not found:
        return 0
    for one in found:
        send(one, signal.SIGTERM)
        send(one, signal.SIGCONT)
    wait_for(found, Deadline(_LEFTOVER_GRACE))
    kill_all(run_id, but=but)
    return len(found)


def kill_all(run_id: str, *, but: Collection[int] = ()) -> None:
    """Send SIGKILL to every process of a run, until none is left: some may start new ones meanwhile."""
    for _ in range(_ROUNDS):
        found = of_run(run_id, but=but)
        if not found:
            return
        for one in found:
            send(one, signal.SIGKILL)
        wait_for(found, Deadline(POLL_INTERVAL * 5))


class RunProcesses:
    """The processes of one run, as its keeper ends them: the agent is told, awaited, and killed. `spared` never are."""

    def __init__(self, run_id: str, stop: StopRule, owner: Process) -> None:
        """`owner` is the loop, which was there before the run."""
        self.run_id = run_id
        self.stop = stop
        self.owner = owner
        self.spared = (os.getpid(), owner.pid)
        #: The process that was started; None until the front has named it, or where none was.
        self.agent: Process | None = None

    def tell(self) -> None:
        """Tell the agent to end."""
        if self.agent is not None:
            send(self.agent, self.stop.signal)
            # One that was stopped from its terminal would not get it.
            send(self.agent, signal.SIGCONT)
        if self.stop.everyone or self.agent is None:
            for one in of_run(self.run_id, but=self.spared, since=self.owner):
                if self.agent is None or one.pid != self.agent.pid:
                    send(one, self.stop.signal)

    def await_agent(self, deadline: Deadline) -> None:
        """Wait until the agent has ended. When the deadline passes, it and all of the run is killed."""
        agents = [self.agent] if self.agent is not None else of_run(self.run_id, but=self.spared, since=self.owner)
        if not wait_for(agents, deadline):
            for one in agents:
                send(one, signal.SIGKILL)
            kill_all(self.run_id, but=self.spared)
            wait_for(agents, Deadline(1.0))

    def end_leftovers(self) -> None:
        """End every process that is left."""
        end_leftovers(self.run_id, but=self.spared, since=self.owner)
