"""The record of the run that is, or was last, under way in a workspace."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..errors import BadJson
from ..format.context import MAX_CONTEXT
from ..git.repository import Repository
from ..system.files import read_limited
from ..system.jsonio import loads
from ..system.process import Process

_RUN_FILE = b"run.json"


def run_file(repository: Repository) -> bytes:
    """The file in which a run says which processes it has, for `gitstate stop`."""
    return os.path.join(repository.own, _RUN_FILE)


class RunRecord(NamedTuple):
    """A run, as its keeper wrote it down."""

    run_id: str | None = None
    """None where no run is recorded, or the record is damaged."""
    keeper: Process | None = None
    """None as `run_id`."""


def read_run_record(repository: Repository) -> RunRecord:
    """The record of the workspace; an empty one where there is none that can be read."""
    try:
        value = loads(read_limited(run_file(repository), MAX_CONTEXT), MAX_CONTEXT, "the run's file")
    except BadJson:
        return RunRecord()
    run_id, keeper = value.get("run_id"), value.get("keeper")
    pid, start = keeper if isinstance(keeper, list) and len(keeper) == 2 else (None, None)
    named = Process(pid, start) if isinstance(pid, int) and isinstance(start, str) else None
    return RunRecord(run_id if isinstance(run_id, str) else None, named)
