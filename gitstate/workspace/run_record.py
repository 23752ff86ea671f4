"""The file in which a run's keeper says which run is under way: for `gitstate stop`, `status` and `doctor`."""

from __future__ import annotations

import os

from ..errors import BadJson
from ..format.context import MAX_CONTEXT
from ..system import files, process
from ..system.jsonio import Json, dumps, loads, text_to_json
from ..system.process import Process
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from ..git.repository import Repository

_RUN_FILE = b"run.json"


def run_file(repository: Repository) -> bytes:
    """The file in which a run says which processes it has, for `gitstate stop`."""
    return os.path.join(repository.own, _RUN_FILE)


class RunRecord(Record):
    """A run, as its keeper wrote it down."""

    run_id: str | None = None
    """None where no run is recorded, or the record is damaged."""
    keeper: Process | None = None
    """None as `run_id`."""
    problem: str | None = None
    """Why the last checkpoint of the run failed; None if it did not."""


def read_run_record(repository: Repository) -> RunRecord:
    """The record of the workspace; an empty one where there is none that can be read."""
    return _read(repository.git_dir)


def failing_checkpoints(git_dir: bytes) -> str | None:
    """Why the last checkpoint of the run that is under way failed; None if it did not, or nothing runs."""
    record = _read(git_dir)
    return record.problem if record.keeper is not None and process.is_alive(record.keeper) else None


def _read(git_dir: bytes) -> RunRecord:
    path = os.path.join(git_dir, b"gitstate", _RUN_FILE)
    try:
        value = loads(files.read_limited(path, MAX_CONTEXT), MAX_CONTEXT, "the run's file")
    except BadJson:
        return RunRecord()
    run_id, keeper = value.get("run_id"), value.get("keeper")
    pid, start = keeper if isinstance(keeper, list) and len(keeper) == 2 else (None, None)
    named = Process(pid, start) if isinstance(pid, int) and isinstance(start, str) else None
    problem = value.get("problem")
    return RunRecord(run_id if isinstance(run_id, str) else None, named, problem if isinstance(problem, str) else None)


def write_run_file(repository: Repository, record: RunRecord, owner: Process) -> None:
    """Record the run that is under way. Raises OSError."""
    files.make_directory(repository.own, top=repository.git_dir)
    keeper = None if record.keeper is None else list(record.keeper)
    value: dict[str, Json] = {"run_id": record.run_id, "owner": list(owner), "keeper": keeper}
    value["problem"] = None if record.problem is None else text_to_json(record.problem[:1000])
    files.write_report(run_file(repository), dumps(value), staging=repository.own)
