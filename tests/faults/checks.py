"""Checks after every fault: the repository is intact, no litter is left, messages are true, recovery is complete."""

from __future__ import annotations

import os
from typing import Any

from tests.support.look import index_bytes, lock_files
from tests.support.oracle import fingerprint, identities
from tests.support.recovering import check_state_file, recovered_from
from tests.support.workspace import Run, Workspace, run_git

from .scenes import Scene, control_files, gone

#: What may stand in a directory of gitstate's own when nothing is under way and nothing waits.
OWN_FILES = frozenset(
    {
        *("lock", "durable", "context.json", "notes-turn", "worktrees-turn"),
        *("workspace-id", "last-restore.json", "save-number"),
    }
)


def check_integrity(ws: Workspace) -> None:
    run_git(ws.path, "fsck", "--no-dangling", "--no-progress")


def litter(scene: Scene) -> list[str]:
    """Files that nobody needs any more."""
    ws = scene.ws
    common = ws.common_dir
    found = [str(path.relative_to(common)) for path in lock_files(ws) - scene.locks]
    for path in (common / "objects").rglob("*"):
        if path.name.startswith(("tmp_", "gitstate_tmp_")) or path.suffix == ".keep":
            found.append(str(path.relative_to(common)))
    for own in {common / "gitstate", ws.git_dir / "gitstate"}:
        if own.is_dir():
            found += [str(path.relative_to(common)) for path in own.iterdir() if path.name not in OWN_FILES]
    found += sorted(set(control_files(ws)) - scene.usual - {"ORIG_HEAD", *found} - _of_a_safety_save(scene))
    found += [os.fsdecode(path) for path in identities(ws.path).keys() - scene.files]
    if scene.lose is gone:
        # The worktree may have another name in there than it had; git prunes what a killed git has left of the old one.
        mine = f"{ws.git_dir.relative_to(common)}/"
        usual = {name.partition("/")[2].partition("/")[2] for name in scene.usual if name.startswith("worktrees/")}
        found = [
            name
            for name in found
            if not name.startswith("worktrees/") or (name.startswith(mine) and name.removeprefix(mine) not in usual)
        ]
    return found


def _of_a_safety_save(scene: Scene) -> set[str]:
    """The number of the save that a recovery takes where it finds files that an earlier one has begun."""
    return {str((scene.ws.git_dir / "gitstate/save-number").relative_to(scene.ws.common_dir))}


def check_done(scene: Scene, *, in_place: bool) -> None:
    """After the last recover: the workspace is as it was, and no temporary file is left."""
    ws = scene.ws
    assert scene.fingerprint.diff(fingerprint(ws.path)) == []
    check_state_file(ws)
    check_integrity(ws)
    assert not ws.refs("refs/gitstate/pending"), "the marker is still there"
    assert ws.refs("refs/gitstate/saves"), "the save is gone, before its time"
    if in_place and index_bytes(ws) != scene.index:
        raise AssertionError("the index file is not what it was, byte for byte")
    left = litter(scene)
    assert not left, left


def recover_to_the_end(ws: Workspace) -> dict[str, Any]:
    answer = recovered_from(ws.recover())
    assert answer["verdict"] in ("restore", "context_only", "recovered", "nothing"), answer
    assert answer["kept"] == [], answer
    return answer


def is_honest(run: Run) -> None:
    """The run succeeded, or printed one clear line; never an internal error, never a traceback."""
    assert run.exit_status in (0, 1, 4, 75), str(run)
    assert "Traceback" not in run.stderr and "Error:" not in run.stderr, str(run)
    if run.exit_status == 0:
        return
    said = [line for line in run.stderr.splitlines() if line.startswith("gitstate: ")]
    assert len(said) == 1 or (run.stdout and "workspaces" in run.json) or "result" in run.json, str(run)
