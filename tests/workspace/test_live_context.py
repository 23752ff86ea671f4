"""Who owns a context, and what a run record and a status say, by tables."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from gitstate.format.context import Context
from gitstate.git.opening import open_repository
from gitstate.system.process import Process, boot_id, hostname, process_start
from gitstate.workspace.live_context import owner_state, parse_status, with_owner
from gitstate.workspace.run_record import RunRecord, read_run_record
from tests.support.workspace import Workspace

#: A pid that no process has: above the most that Linux gives out.
NOBODY = (1 << 22) + 1
HERE = Context(host=hostname(), boot_id=boot_id())
OWNERS = [
    (HERE._replace(pid=os.getpid(), pid_start=process_start(os.getpid())), "ours"),
    (HERE._replace(pid=os.getpid(), pid_start="1"), "gone"),
    (HERE._replace(pid=NOBODY, pid_start="1"), "gone"),
    (HERE._replace(pid=os.getpid(), boot_id="an earlier boot"), "gone"),
    (HERE._replace(pid=os.getpid(), host="elsewhere"), "unknown"),
    (HERE, "unknown"),
    (Context(), "unknown"),
    (Context(timestamp="1999-01-01T00:00:00Z"), "gone"),
    (Context(timestamp="1999-01-01T00:00:00Z", host="elsewhere"), "unknown"),
    (Context(timestamp="9999-01-01T00:00:00Z"), "unknown"),
    (Context(timestamp="a long time ago, in a text"), "unknown"),
]


@pytest.mark.parametrize(("context", "state"), OWNERS)
def test_owner_of_a_context(context: Context, state: str, tmp_path: Path) -> None:
    assert owner_state(os.fsencode(tmp_path), context) == state


def test_process_that_is_no_ancestor_lives_until_it_has_ended(tmp_path: Path) -> None:
    git_dir = os.fsencode(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as child:
        context = with_owner(HERE, child.pid)
        assert owner_state(git_dir, context) == "lives"
        child.kill()
    assert owner_state(git_dir, context) == "gone"
    assert owner_state(git_dir, with_owner(context, None)) == "unknown"


@pytest.mark.parametrize("value", [None, 1, True, "", "paused", "Active", ["active"]])
def test_any_other_status_is_unknown(value: object) -> None:
    assert parse_status(value) is None


@pytest.mark.parametrize("value", ["active", "interrupted", "recovered", "finished"])
def test_status_is_read_back(value: str) -> None:
    assert parse_status(value) == value


RECORDS: list[tuple[object, RunRecord]] = [
    ({"run_id": "r", "keeper": [1, "2"]}, RunRecord("r", Process(1, "2"))),
    ({"run_id": 1, "keeper": [1]}, RunRecord()),
    ({"run_id": "r", "keeper": ["1", "2"]}, RunRecord("r")),
    ({"keeper": [1, None]}, RunRecord()),
    ({}, RunRecord()),
    ([], RunRecord()),
]


@pytest.mark.parametrize(("value", "record"), RECORDS)
def test_run_record(value: object, record: RunRecord, tmp_path: Path) -> None:
    Workspace(tmp_path, tmp_path).git("init", "-q", ".")
    repository = open_repository(os.fsencode(tmp_path))
    assert read_run_record(repository) == RunRecord()
    (tmp_path / ".git/gitstate").mkdir()
    (tmp_path / ".git/gitstate/run.json").write_text(json.dumps(value))
    assert read_run_record(repository) == record
