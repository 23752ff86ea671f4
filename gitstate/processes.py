"""The processes of one run: found by an id that they inherit, signalled, waited for, and ended.

An agent's commands outlive it, change their parent and their process group; what they keep is their environment. So a
run is known by the variable `GITSTATE_RUN_ID`, read from `/proc/PID/environ` (proc(5)), and by descent from those.
Where there is no `/proc` only processes that were named are reached.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from .files import Deadline, process_start

#: The variable that every process of a run inherits.
RUN_ID = "GITSTATE_RUN_ID"
#: How long what a dead agent left behind has between SIGTERM and SIGKILL, in seconds.
_LEFTOVER_GRACE = 0.3
#: Processes that make new ones while they are killed are looked for again this often.
_ROUNDS = 40
_PAUSE = 0.02


class Process(NamedTuple):
    """One process for sure: a pid alone may have been given to another since. `start` as `files.process_start`."""

    pid: int
    start: str | None


def this_process() -> Process:
    return Process(os.getpid(), process_start(os.getpid()))


def process(pid: int) -> Process:
    """The process that has this pid now."""
    return Process(pid, process_start(pid))


def is_alive(one: Process) -> bool:
    """Whether it still runs; a zombie does not."""
    now = process_start(one.pid)
    if now is None and not os.path.isdir("/proc/self"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one.pid, 0)
            return True
        return False
    return now is not None and (one.start is None or now == one.start)


def send(one: Process, number: int) -> bool:
    """Send a signal to this very process; False where it is gone or not ours to signal."""
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


def of_run(run_id: str, *, but: Collection[int] = ()) -> list[Process]:
    """Every living process of a run, and all that descend from one. `but` names pids that are never counted."""
    wanted = f"{RUN_ID}={run_id}".encode()
    parents: dict[int, int] = {}
    members: set[int] = set()
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return []
    for name in names:
        if not name.isdigit():
            continue
        pid = int(name)
        parent = _parent(pid)
        if parent is None:
            continue
        parents[pid] = parent
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                members.add(pid)
    for pid in _descendants(members, parents):
        members.add(pid)
    found = [process(pid) for pid in sorted(members) if pid not in but]
    return [one for one in found if one.start is not None]


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _descendants(roots: Iterable[int], parents: Mapping[int, int]) -> set[int]:
    known = set(roots)
    grew = True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in known and pid not in known}
        known |= more
        grew = bool(more)
    return known


def wait_for(some: Collection[Process], deadline: Deadline) -> bool:
    """Wait until none of them lives; False where the deadline passes first."""
    while True:
        living = [one for one in some if is_alive(one)]
        if not living:
            return True
        if deadline.passed():
            return False
        _wait_for_one(living[0], min(deadline.left(), 0.2))


def _wait_for_one(one: Process, seconds: float) -> None:
    try:
        fd = os.pidfd_open(one.pid)
    except (AttributeError, OSError):
        time.sleep(min(seconds, _PAUSE))
        return
    try:
        select.select([fd], [], [], seconds)
    finally:
        os.close(fd)


def end_leftovers(run_id: str, *, but: Collection[int] = ()) -> int:
    """End whatever of a run still lives: SIGTERM, a moment, SIGKILL until nothing is left. How many there were."""
    found = of_run(run_id, but=but)
    if not found:
        return 0
    for one in found:
        send(one, signal.SIGTERM)
        send(one, signal.SIGCONT)
    wait_for(found, Deadline(_LEFTOVER_GRACE))
    kill_all(run_id, but=but)
    return len(found)


def kill_all(run_id: str, *, but: Collection[int] = ()) -> None:
    """SIGKILL to all of a run, again and again until none is left: some may be making new ones meanwhile."""
    for _ in range(_ROUNDS):
        found = of_run(run_id, but=but)
        if not found:
            return
        for one in found:
            send(one, signal.SIGKILL)
        wait_for(found, Deadline(_PAUSE * 5))


class StopRule(NamedTuple):
    """How an agent wants to be told to stop: which signal, and whether all its processes get it."""

    signal: int = signal.SIGTERM
    everyone: bool = False


#: Codex ends cleanly on SIGINT alone; Gemini starts itself again as a child, so both have to hear it.
STOP_RULES: Mapping[str, StopRule] = {
    "codex": StopRule(signal.SIGINT),
    "gemini": StopRule(signal.SIGTERM, True),
}


def stop_rule(agent: str | None, command: str) -> StopRule:
    """The rule for an agent by its name, else by the name of its command; SIGTERM for all others."""
    name = (agent or os.path.basename(command)).lower()
    return STOP_RULES.get(name, StopRule())
