"""A checkpoint of a worktree that is gone is offered to the worktree that is made anew on its branch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support.workspace import Workspace, run_gitstate


@pytest.fixture
def there(ws: Workspace) -> Path:
    """A linked worktree with a task, and new and edited files that a checkpoint holds."""
    there = ws.outside / "linked"
    ws.git("worktree", "add", "-q", "-b", "side", str(there))
    assert gitstate(ws, there, "begin", "task_id=T-1") == 0
    (there / "new.py").write_text("precious\n")
    (there / "a.txt").write_text("edited\n")
    assert gitstate(ws, there, "checkpoint") == 0
    return there


def gitstate(ws: Workspace, there: Path, *args: str) -> int:
    return run_gitstate(*args, cwd=there, env=ws.cli_env).exit_status


def removed(ws: Workspace, there: Path) -> None:
    ws.git("worktree", "remove", "--force", str(there))


def made_anew(ws: Workspace, there: Path, *args: str) -> dict[str, Any]:
    """What a recovery in the new worktree says."""
    ws.git("worktree", "add", "-q", *args, str(there), *(() if args else ("side",)))
    return looked_at(ws, there)


def looked_at(ws: Workspace, there: Path) -> dict[str, Any]:
    run = run_gitstate("recover", "--json", cwd=there, env=ws.cli_env)
    assert run.exit_status == 0, run
    (result,) = run.json["workspaces"]
    return dict(result)


@pytest.mark.parametrize("name", ["linked", "elsewhere"])
def test_worktree_made_anew_is_offered_the_checkpoint(name: str, ws: Workspace, there: Path) -> None:
    removed(ws, there)
    there = ws.outside / name
    result = made_anew(ws, there)
    assert (result["verdict"], result["restored"]) == ("nothing", [])
    assert "a checkpoint of a workspace that is gone holds work of this branch" in result["message"]
    command = shlex.split(result["hint"].partition(" (")[0])
    assert gitstate(ws, there, *command[1:]) == 0
    assert ((there / "new.py").read_text(), (there / "a.txt").read_text()) == ("precious\n", "edited\n")
    assert '"task_id": "T-1"' in (there / "active_state.json").read_text()


def test_it_is_not_offered_on_another_branch(ws: Workspace, there: Path) -> None:
    removed(ws, there)
    assert made_anew(ws, there, "-b", "other")["hint"] is None


def test_it_is_not_offered_where_its_work_was_committed(ws: Workspace, there: Path) -> None:
    ws.git("-C", str(there), "add", "-A")
    ws.git("-C", str(there), "commit", "-q", "-m", "all of it")
    removed(ws, there)
    assert made_anew(ws, there)["hint"] is None


def test_it_is_not_offered_while_its_workspace_exists(ws: Workspace, there: Path) -> None:
    ws.git("-C", str(there), "checkout", "-q", "--detach")
    other = ws.outside / "other"
    assert made_anew(ws, other)["hint"] is None


def test_it_is_not_offered_where_somebody_has_worked_since(ws: Workspace, there: Path) -> None:
    removed(ws, there)
    assert made_anew(ws, there)["hint"] is not None
    assert gitstate(ws, there, "begin", "task_id=T-2") == 0
    assert gitstate(ws, there, "finish") == 0
    assert looked_at(ws, there)["hint"] is None


def test_damaged_checkpoint_of_another_workspace_is_in_nobodys_way(ws: Workspace, there: Path) -> None:
    removed(ws, there)
    newer = {"GIT_COMMITTER_DATE": "4000000000 +0000"}
    for number, commit in enumerate(("HEAD", "side")):
        oid = ws.git("commit-tree", f"{commit}^{{tree}}", "-m", f"no save {number}", env=newer).decode().strip()
        ws.git("update-ref", f"refs/gitstate/checkpoints/gone-{number:012}", oid)
    assert made_anew(ws, there)["hint"] is not None
