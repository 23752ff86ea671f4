"""`recover --all` after a reboot: workspaces of every kind at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fleet.crashes import (
    alive,
    branchless,
    corrupt,
    crashed,
    crashed_and_wiped,
    finished,
    foreign,
    gutted,
    headless,
    held,
    locked,
    merging,
    missing,
    quiet,
    recovered,
    waiting,
    wiped,
)
from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_gitstate

KINDS: dict[Callable[[Workspace], None], tuple[str, int]] = {
    waiting: ("restore", 0),
    wiped: ("restore", 0),
    merging: ("restore", 0),
    quiet: ("nothing", 0),
    finished: ("nothing", 0),
    crashed: ("context_only", 0),
    crashed_and_wiped: ("restore", 0),
    alive: ("live", 0),
    locked: ("nothing", 0),
    held: ("nothing", 0),
    headless: ("damaged", 4),
    branchless: ("damaged", 4),
    corrupt: ("corrupt", 4),
    foreign: ("foreign", 4),
    missing: ("missing", 0),
    gutted: ("missing", 0),
}


@pytest.mark.parametrize("many", [pytest.param(30, id="30"), pytest.param(304, id="304", marks=pytest.mark.slow)])
def test_recover_all_gives_each_kind_of_workspace_its_verdict(
    many: int, templates: Templates, tmp_path: Path, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVING", str(sleeper.pid))
    kinds = [kind for kind in KINDS if kind is not foreign or os.geteuid() == 0]
    made: list[tuple[Callable[[Workspace], None], Workspace]] = []
    for number in range(many):
        kind = kinds[number % len(kinds)]
        top = tmp_path / f"{number:03} {kind.__name__}"
        top.mkdir()
        ws = make(STATES["clean"], templates, top, linked=number % 5 == 4 and kind in (waiting, wiped, crashed))
        assert run_gitstate("register", cwd=ws.path).exit_status == 0
        kind(ws)
        made.append((kind, ws))
    run = run_gitstate("recover", "--all", "--json", cwd=tmp_path)
    assert run.exit_status == 4
    items = recovered(run)
    for kind, ws in made:
        item = items[str(ws.path)]
        assert (item["verdict"], item["exit_status"]) == KINDS[kind], (kind.__name__, item)
        assert kind not in (waiting, wiped, crashed, crashed_and_wiped) or item["context"]["task_id"] == "T-1"
        assert kind is not locked or not (ws.git_dir / "index.lock").exists()
        assert kind is not held or (ws.git_dir / "index.lock").exists()
        assert not (ws.outside / "canary").exists(), "something that a repository names was run"
        assert item["hint"] or not item["exit_status"], item
    assert len(items) == len(made)
    again = recovered(run_gitstate("recover", "--all", "--json", cwd=tmp_path))
    left = {again[str(ws.path)]["verdict"] for kind, ws in made if not KINDS[kind][1]}
    assert left <= {"nothing", "live", "missing"}
    table = run_gitstate("status", "--all", cwd=tmp_path)
    assert table.exit_status == 0
    lines = table.stdout.decode().splitlines()
    assert len(lines) == len(made) + 1
    assert len({line.index("WORKSPACE") for line in lines[:1]} | {line.index(str(tmp_path)) for line in lines[1:]}) == 1
