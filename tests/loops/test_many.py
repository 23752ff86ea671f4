"""Many workspaces after a reboot: each agent works again, and each only once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.hooks.stage import Stage
from tests.support.agents import PATIENCE, wait_until

#: An agent that works for a moment, and writes down where.
AGENT = """\
#!/bin/sh
echo again >>again.txt
pwd -P >>"$STAGE/starts"
"""


def crash(tree: Path, number: int) -> None:
    """Work that was saved, or of which only the context and a checkpoint are there."""
    (tree / "new.txt").write_text(f"{number}\n")
    values = ["agent=claude", f"task_id=T-{number}"]
    options = [f"--{value.replace('_', '-')}" for value in values]
    for words in [["save", *options]] if number % 2 else [["set", *values], ["checkpoint"]]:
        argv = [sys.executable, "-m", "gitstate", *words]
        subprocess.run(argv, cwd=tree, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_each_works_again_exactly_once(count: int, stage: Stage, tmp_path: Path) -> None:
    (stage.directory / "bin" / "claude").write_text(AGENT)
    trees = [tmp_path / "trees" / f"tree-{number}" for number in range(count)]
    for number, tree in enumerate(trees):
        stage.ws.git("worktree", "add", "-q", "-b", f"many/{number}", str(tree), "HEAD")
        crash(tree, number)
    for tree in trees:
        # The boot in which all of it was written is over.
        for name in ("context.json", "lease.json"):
            path = Path(stage.ws.git_dir) / "worktrees" / tree.name / "gitstate" / name
            if path.exists():
                path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "0" * 36}))
    stopped = trees[0]
    (stopped / ".gitstate-stop").touch()
    argv = [sys.executable, "-m", "gitstate", "resume", "--all"]
    running = [stage.start(argv) for _ in range(2)]
    assert [one.wait(4 * PATIENCE) for one in running] == [0, 0], stage.said()
    starts = stage.directory / "starts"
    wait_until(lambda: starts.exists() and len(starts.read_text().splitlines()) >= count - 1, "all have worked")
    wait_until(lambda: not stage.processes(), "all have ended")
    assert stage.start(argv).wait(4 * PATIENCE) == 0
    wait_until(lambda: not stage.processes(), "all have ended")
    found = Counter(starts.read_text().splitlines())
    assert found == {os.path.realpath(tree): 1 for tree in trees[1:]}
    assert {(tree / "new.txt").read_text() for tree in trees} == {f"{number}\n" for number in range(count)}
