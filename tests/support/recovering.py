"""Recover a workspace, and check all that a recover promises."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from tests.states import Loss, State
from tests.support.look import Look, porcelain
from tests.support.oracle import fingerprint
from tests.support.saving import Saved, check_index_bytes, check_no_trace, check_untouched
from tests.support.workspace import Run, Workspace, run_git

RECOVER_KEYS = {
    "workspace",
    "verdict",
    "save_id",
    "restored",
    "kept",
    "left_out",
    "state_file",
    "resume",
    "message",
}

RESTORED = {"restore", "context_only"}


def recovered_from(run: Run, *, exits: Iterable[int] = (0,)) -> dict[str, Any]:
    """What recover says about the one workspace that it was asked for."""
    assert run.exit_status in exits, str(run)
    document = run.json
    assert document["command"] == "recover"
    assert document["schema_version"] >= 1
    assert len(document["workspaces"]) == 1, str(run)
    answer = document["workspaces"][0]
    assert isinstance(answer, dict)
    assert answer.keys() >= RECOVER_KEYS, RECOVER_KEYS - answer.keys()
    return answer


def answer(run: Run, verdict: str, status: int) -> dict[str, Any]:
    """What recover says about the one workspace, with this verdict and exit status."""
    assert run.exit_status == status, run
    (found,) = run.json["workspaces"]
    assert found["verdict"] == verdict, run
    assert isinstance(found, dict)
    return found


def check_state_file(ws: Workspace, saved: Saved | None = None) -> bytes:
    """Check the state file; what `git status` says, which must not name it."""
    path = ws.path / "active_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    assert state["task_id"] == "T-1"
    assert str(state["issue_number"]) == "7"
    assert state["progress_stage"] == "coding"
    assert state["status"] == "recovered"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    status = porcelain(ws)
    assert b"active_state.json" not in status
    if saved is not None:
        assert state["save"]["save_id"] == saved.save_id
    return status


def check_repository(ws: Workspace) -> None:
    run_git(ws.path, "fsck", "--no-dangling", "--no-progress")
    names = ws.refs("refs/gitstate/pending", "refs/gitstate/saves")
    assert not any(name.startswith("refs/gitstate/pending/") for name in names), "the marker is still there"
    assert any(name.startswith("refs/gitstate/saves/") for name in names), "the save is gone, before its time"


def check_recovered(ws: Workspace, kind: State, before: Look, saved: Saved, loss: Loss) -> None:
    after = fingerprint(ws.path)
    expected = before.fingerprint
    if loss is Loss.CLONED:
        expected, after = replace(expected, settings={}), replace(after, settings={})
    if loss is not Loss.IN_PLACE:
        expected, after = expected.without(saved.left_out), after.without(saved.left_out)
    assert expected.diff(after) == []
    status = check_state_file(ws, saved)
    check_repository(ws)
    check_no_trace(ws, before)
    if loss is Loss.IN_PLACE:
        check_untouched(ws, before)
        check_index_bytes(ws, before)
        assert status == before.status
    elif loss is not Loss.CLONED and not saved.left_out and not kind.status_says_more:
        assert status == before.status
