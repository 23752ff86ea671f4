"""Finds agents by name and by command. An agent exists if its file stands in this package; there is no list.

A hook loads the file of its own agent only.
"""

from __future__ import annotations

import os
from importlib import import_module

from ..system.stdlib import TYPE_CHECKING
from .base import Agent, StopRule

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The modules of this package that describe no agent.
_SHARED = frozenset(("__init__", "base", "launch", "registry", "sessions", "transcripts"))


def agent_names() -> tuple[str, ...]:
    """The names of all agents, sorted."""
    modules = {name.removesuffix(".py") for name in os.listdir(os.path.dirname(__file__)) if name.endswith(".py")}
    return tuple(sorted(modules - _SHARED))


def agent_named(name: str) -> Agent | None:
    """The agent of this name; None where there is none."""
    if name not in agent_names():
        return None
    agent: Agent = import_module(f"{__package__}.{name}").AGENT
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
