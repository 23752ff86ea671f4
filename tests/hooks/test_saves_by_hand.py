"""A save by hand: in a script it stays until it is recovered, in a run that ends with 0 until that end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hooks.stage import SOURCE, Stage, output
from tests.support.agents import PATIENCE
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace, run_gitstate

BY_HAND = {"the library": "cleanup_and_save 'before lunch'", "the command": 'gitstate save --reason "before lunch"'}


@pytest.mark.sample(2)
@pytest.mark.parametrize("way", BY_HAND)
@pytest.mark.parametrize("traps", ["", "trap cleanup_and_save TERM INT EXIT\n"])
def test_script_that_ends_with_0_leaves_its_save_pending(way: str, traps: str, stage: Stage) -> None:
    begin = f"set -euo pipefail\n{SOURCE}{traps}gitstate_begin task_id=T-9\necho work >>work.txt\n"
    output(stage, f"{begin}{BY_HAND[way]}")
    assert stage.context()["task_id"] == "T-9"
    assert "stays pending" in stage.said() and "gitstate recover" in stage.said()
    (item,) = stage.ws.recover().json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "T-9")
    assert (stage.ws.path / "work.txt").read_text() == "work\n"


@pytest.mark.sample(3)
@pytest.mark.parametrize("way", BY_HAND)
@pytest.mark.parametrize("then", ["gitstate_finish", "recover_agent_state", "gitstate_run true"])
def test_save_by_hand_that_was_taken_up_is_finished(way: str, then: str, stage: Stage) -> None:
    begin = f"set -euo pipefail\n{SOURCE}gitstate_begin task_id=T-9\necho work >>work.txt\n"
    output(stage, f"{begin}{BY_HAND[way]}\n{then}")
    assert stage.pending() is None and stage.saves() == 1
    assert status(stage.ws) == "finished"
    assert (stage.ws.path / "work.txt").read_text() == "work\n"


@pytest.mark.parametrize("way", BY_HAND)
def test_file_deleted_after_a_save_by_hand_stays_deleted(way: str, stage: Stage) -> None:
    begin = f"set -euo pipefail\n{SOURCE}gitstate_begin task_id=T-9\necho work >>work.txt; echo new >new.txt\n"
    output(stage, f"{begin}{BY_HAND[way]}\nrm work.txt new.txt\ngitstate_finish")
    assert stage.pending() is None and status(stage.ws) == "finished"
    assert stage.ws.status() == set() and "WIP" not in stage.ws.out("log", "-1", "--format=%s")


def test_file_deleted_after_a_save_that_was_typed_stays_deleted(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-9")
    ws.write("new.txt")
    assert ws.gitstate("save").exit_status == 0
    ws.remove("new.txt")
    done = ws.gitstate("finish")
    assert done.exit_status == 0 and not ws.refs("refs/gitstate/pending"), done
    assert ws.status() == set()


def test_save_of_a_failed_agent_does_not_outlive_a_script_that_ends_with_0(stage: Stage) -> None:
    stage.manner("fail")
    output(stage, f"set -euo pipefail\n{SOURCE}gitstate_begin task_id=T-9\ngitstate_run claude || :")
    assert stage.pending() is None and status(stage.ws) == "finished"


def status(ws: Workspace) -> object:
    return json.loads((ws.path / "active_state.json").read_bytes())["status"]


SAVE = f"{sys.executable} -m gitstate save"
GUARD = """\
import gitstate, subprocess, sys
with gitstate.guard(task_id="T-9"):
    subprocess.run(["sh", "-c", sys.argv[1]], check=True)
"""


def ways(ws: Workspace, script: str, tmp_path: Path) -> dict[str, list[str]]:
    """How a run of `script` may be started: its command line."""
    loop = tmp_path / "loop.sh"
    loop.write_text(f'{SOURCE}gitstate_begin task_id=T-9\ngitstate_run sh -c "$1"\n')
    return {
        "run": [sys.executable, "-m", "gitstate", "run", "--task-id", "T-9", "--", "sh", "-c", script],
        "library": ["bash", str(loop), script],
        "guard": [sys.executable, "-c", GUARD, script],
    }


@pytest.mark.sample(5)
@pytest.mark.parametrize("way", ["run", "library", "guard"])
@pytest.mark.parametrize("then", ["", "echo more >>a.txt", "git add -A", "git rm -q --cached new", "rm new"])
def test_save_in_a_run_that_ends_with_0(way: str, then: str, stage: Stage, tmp_path: Path) -> None:
    ws = stage.ws
    head = ws.out("rev-parse", "HEAD")
    work = "echo work >>a.txt; echo new >new"
    argv = ways(ws, f"{work}; {SAVE}; {then or ':'}", tmp_path)[way]
    done = subprocess.run(argv, cwd=ws.path, capture_output=True, timeout=PATIENCE, encoding="utf-8")
    assert done.returncode == 0, done
    assert status(ws) == "finished"
    assert not ws.refs("refs/gitstate/pending")
    assert ws.out("rev-parse", "HEAD") == head
    assert (ws.path / "a.txt").read_text().endswith("work\nmore\n" if "more" in then else "work\n")
    assert (ws.path / "new").exists() is (then != "rm new")
    saves = [name.rpartition("/")[2] for name in ws.refs("refs/gitstate/saves")]
    assert saves and all(save in ws.gitstate("log").text for save in saves)


def test_what_was_said_after_such_a_save_counts(ws: Workspace) -> None:
    script = f"echo work >>a.txt; {SAVE}; {sys.executable} -m gitstate set progress_stage=done"
    assert run_gitstate("run", "--task-id", "T-9", "--", "sh", "-c", script, cwd=ws.path).exit_status == 0
    shown = ws.gitstate("show", "--json").json["context"]
    assert (shown["task_id"], shown["progress_stage"], shown["status"]) == ("T-9", "done", "finished")


def test_run_that_moves_its_branch_away_from_its_save_is_not_finished(ws: Workspace) -> None:
    script = f"echo work >>a.txt; {SAVE}; git checkout -q -b other HEAD~1"
    done = run_gitstate("run", "--task-id", "T-9", "--", "sh", "-c", script, cwd=ws.path)
    assert done.exit_status == 4 and "the save was made on" in done.stderr, done
    assert ws.refs("refs/gitstate/pending") and status(ws) == "interrupted"


def test_failed_run_saves_on_top_of_a_save_by_hand(ws: Workspace) -> None:
    script = f"echo work >>a.txt; {SAVE}; echo more >>a.txt; exit 3"
    assert run_gitstate("run", "--task-id", "T-9", "--", "sh", "-c", script, cwd=ws.path).exit_status == 3
    before = fingerprint(ws.path)
    assert ws.recover().json["workspaces"][0]["verdict"] == "restore"
    assert before.files == fingerprint(ws.path).files
