"""What the process of an agent tells: the options that a resumed session gets again, and which session it is."""

from __future__ import annotations

from ..agents.base import ARGV_KEY, Agent
from ..agents.registry import argvs_above, session_owner
from ..format.context import Context
from .event import EventData


def argv_values(agent: Agent, data: EventData, live: Context, *, begins: bool) -> dict[str, str]:
    """What an event's process tells of the context: the agent's program and options; nothing where they are on record.

    `begins` says whether the session begins, or is resumed: then it may have other options than before.
    """
    known = live.extra.get(ARGV_KEY)
    if data.session_id is None or (known and live.session_id == data.session_id and not begins):
        return {}
    from ..agents.launch import recorded_argv, same_options, typed_argv

    owner = session_owner(agent)
    above = () if owner is None else argvs_above(owner)
    argv = next((typed for argv in above if (typed := typed_argv(agent, argv)) is not None), None)
    line = None if argv is None else recorded_argv(agent, argv)
    if line is None:
        # The options of another session are not those of this one.
        return {ARGV_KEY: ""} if known and live.session_id not in (None, data.session_id) else {}
    return {} if isinstance(known, str) and same_options(known, line) else {ARGV_KEY: line}


def session_mark(agent: Agent, data: EventData) -> str | None:
    """What tells a session from every other one, and from the same one resumed in another process."""
    owner = session_owner(agent) if agent.briefing.once else None
    return data.session_id if owner is None else f"{data.session_id} {owner.pid} {owner.start}"
