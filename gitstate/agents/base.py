"""Facts that every agent program has: how it is told to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import NamedTuple


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
