"""Finds agents by name, by command, and among the ancestors of a hook.

An agent exists if its file stands in `known`; there is no list.

A hook loads the file of its own agent only.
"""

from __future__ import annotations

import os

from ..system.process import Process, process, read_proc
from ..system.stdlib import TYPE_CHECKING, Record
from .base import SCRIPT_ENDINGS, Agent, StopRule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Where each agent has its file.
_KNOWN = os.path.join(os.path.dirname(__file__), "known")

_SHELLS = frozenset(
    ("ash", "bash", "busybox", "csh", "dash", "elvish", "fish", "ksh", "mksh", "nu", "pwsh", "sh", "tcsh", "zsh")
)
#: Programs that start another one and wait for it.
_WRAPPERS = frozenset(
    ("chrt", "doas", "env", "flock", "gitstate", "ionice", "nice", "nohup", "setpriv", "setsid", "stdbuf")
) | frozenset(("strace", "su", "sudo", "systemd-run", "taskset", "time", "timeout", "uv", "uvx", "xargs"))
#: Programs that hold terminals and services: an agent is below them, never one of them. The kernel cuts a name.
_HOSTS = frozenset(
    ("atd", "catatonit", "conmon", "containerd-shim", "cron", "crond", "docker-init", "dumb-init", "init")
) | frozenset(("login", "screen", "sshd", "sshd-session", "systemd", "tini", "tmux", "tmux: server"))


def agent_names() -> tuple[str, ...]:
    """The names of all agents, sorted."""
    modules = {name.removesuffix(".py") for name in os.listdir(_KNOWN) if name.endswith(".py")}
    return tuple(sorted(modules - {"__init__"}))


def agent_named(name: str) -> Agent | None:
    """The agent of this name; None where there is none."""
    if name not in agent_names():
        return None
    # `importlib` would take as long as the module itself.
    agent: Agent = __import__(f"{__package__}.known.{name}", fromlist=["AGENT"]).AGENT
    return agent


def all_agents() -> tuple[Agent, ...]:
    """All agents, sorted by name."""
    return tuple(agent for agent in map(agent_named, agent_names()) if agent is not None)


def agent_of_command(argv: Sequence[str]) -> Agent | None:
    """The agent whose program a command starts; None where it is another program."""
    command = os.path.basename(argv[0]).lower() if argv else ""
    return next((agent for agent in all_agents() if command in agent.commands), None)


def stop_rule(name: str | None, argv: Sequence[str]) -> StopRule:
    """How a run is told to stop: by the name of its agent where that was given, else by its command."""
    agent = agent_named(name.lower()) if name else agent_of_command(argv)
    return StopRule() if agent is None else agent.stop


# -- the process of a session


class _Ancestor(Record):
    """One process above the hook."""

    pid: int
    argv: tuple[str, ...]
    names: frozenset[str]
    """What it may be called: its name in the kernel, its program, and the script that it interprets."""
    holds_terminal: bool
    """It leads a session that has a terminal, and was not started for one command."""


def session_owner(agent: Agent) -> Process | None:
    """The process of the agent whose hook this is; None where none can be told from a terminal or a service.

    An agent starts its hooks through a shell, or through a program that starts another one. So its process is the
    nearest ancestor that is neither. A process of the agent that serves several sessions at once is nobody's owner.
    """
    for one in _ancestors():
        if one.names & frozenset(agent.commands):
            return None if set(agent.shared_with) & set(one.argv) else process(one.pid)
        if one.names & _HOSTS:
            return None
        if one.names & _SHELLS:
            if one.holds_terminal:
                # A person has typed the command.
                return None
        elif not (one.names & _WRAPPERS or _is_ours(one.argv)):
            return process(one.pid)
    return None


def _ancestors() -> Iterator[_Ancestor]:
    """The ancestors of this process in this pid namespace, the nearest first."""
    if not os.path.isdir("/proc/self"):
        yield from ancestors_without_proc()
        return
    pid = os.getppid()
    seen = set()
    while pid > 0 and pid not in seen:
        seen.add(pid)
        data = read_proc(f"/proc/{pid}/stat")
        if data is None:
            return
        fields = data.rpartition(b")")[2].split()
        kernel_name = os.fsdecode(data.partition(b"(")[2].rpartition(b")")[0])
        argv = argv_of(pid)
        leads = int(fields[3]) == pid and int(fields[4]) != 0 and "-c" not in argv
        yield _Ancestor(pid, argv, frozenset(_names(kernel_name, argv)), leads)
        pid = int(fields[1])


def argvs_above(owner: Process) -> Iterator[tuple[str, ...]]:
    """The command lines of an agent's process and of those that started it, up to a shell: some start themselves again
    under another name.
    """
    found = False
    for one in _ancestors():
        found = found or one.pid == owner.pid
        if found and one.names & (_SHELLS | _HOSTS):
            return
        if found:
            yield one.argv


def argv_of(pid: int) -> tuple[str, ...]:
    """The command line of a process; an empty one where it is gone or can't be read."""
    data = read_proc(f"/proc/{pid}/cmdline")
    if data is not None:
        return tuple(os.fsdecode(data).split("\0")[:-1])
    return next((one.argv for one in ancestors_without_proc() if one.pid == pid), ())


def ancestors_without_proc() -> Iterator[_Ancestor]:
    """The ancestors of this process where the kernel has no `/proc`; none where psutil is not installed."""
    try:
        import psutil

        for one in psutil.Process().parents():
            argv = tuple(one.cmdline())
            leads = os.getsid(one.pid) == one.pid and one.terminal() is not None and "-c" not in argv
            yield _Ancestor(one.pid, argv, frozenset(_names(one.name(), argv)), leads)
    except (ImportError, OSError, psutil.Error):
        return


def _names(kernel_name: str, argv: tuple[str, ...]) -> Iterator[str]:
    yield kernel_name
    if argv:
        yield os.path.basename(argv[0]).lstrip("-")
    script = next((word for word in argv[1:] if not word.startswith("-")), "")
    if argv[1:2] == (script,):
        name = os.path.basename(script)
        yield next((name.removesuffix(ending) for ending in SCRIPT_ENDINGS if name.endswith(ending)), name)


def _is_ours(argv: tuple[str, ...]) -> bool:
    """Whether a process is Python that runs gitstate."""
    return any(argv[at : at + 2] == ("-m", "gitstate") for at in range(len(argv)))
