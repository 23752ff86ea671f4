"""Many worktrees of one repository are saved at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.look import lock_files
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.workspace import Workspace, run_git


def start_save(path: Path, task_id: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gitstate", "-C", str(path), "save", "--task-id", task_id, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_forty_worktrees_save_at_the_same_moment(ws: Workspace) -> None:
    trees = {}
    for number in range(40):
        path = ws.path.with_name(f"tree-{number}")
        ws.git("worktree", "add", "-q", "-b", f"agent/{number}", path)
        tree = Workspace(path, ws.outside, main=ws.path)
        tree.append("a.txt", f"{number}\n")
        tree.write("untracked.txt", f"{number}\n")
        tree.append("b.txt")
        tree.add("b.txt")
        trees[f"T-{number}"] = (tree, fingerprint(path))
    running = {task: start_save(tree.path, task) for task, (tree, _) in trees.items()}
    for task, process in running.items():
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        document = json.loads(stdout)
        assert document["result"] == "saved"
        note = json.loads(ws.git("notes", "--ref=gitstate", "show", document["wip_commit"]))
        assert note["task_id"] == task
    assert len(ws.refs("refs/gitstate/pending")) == 40
    for task, (tree, before) in list(trees.items())[::8]:
        recovered_from(tree.recover())
        assert before.diff(fingerprint(tree.path)) == []
        assert json.loads((tree.path / "active_state.json").read_text())["task_id"] == task
    run_git(ws.path, "fsck", "--no-dangling", "--no-progress")
    assert lock_files(ws) == frozenset()
