"""Nasty states: named ways in which a workspace can look when a crash comes, each with what must survive.

A builder is a small function on a fresh repository with a few commits, on branch ``agent/work``. It ends by asking git
whether the state really is what its name says (``ws.expect…``). What a builder stores in the ``Workspace`` beyond files
(environment, umask, canaries, locks) is for the run of gitstate that follows.

Each module holds the states of one subject.
"""

from __future__ import annotations

from types import ModuleType

from tests.states import (
    commands,
    conversions,
    environment,
    ignored,
    index_formats,
    merges,
    names,
    nested,
    odd_files,
    ordinary,
    rebases,
    repositories,
    shapes,
)
from tests.states.merges import stop_merging
from tests.states.nested import add_submodule, nested_repository
from tests.states.ordinary import DIRTY, dirty
from tests.states.rebases import stop_rebasing
from tests.states.registry import STATES, Loss, State, make

#: The modules that register states, in the order of a reader.
SUBJECTS: tuple[ModuleType, ...] = (
    *(ordinary, shapes, names, odd_files, ignored, conversions, index_formats),
    *(merges, rebases, commands, repositories, nested, environment),
)

__all__ = [
    "DIRTY",
    "STATES",
    "SUBJECTS",
    "Loss",
    "State",
    "add_submodule",
    "dirty",
    "make",
    "nested_repository",
    "stop_merging",
    "stop_rebasing",
]
