"""Gitstate is upgraded or removed while a run is at work: its end is that of the version that began it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.agents import PATIENCE, Started, keepers, marker, wait_until
from tests.support.environment import ROOT
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gitstate.__main__ import main; main()"
GUARD = """\
import subprocess, sys
sys.path.insert(0, sys.argv.pop(1))
import gitstate
with gitstate.guard(task_id="T-9"):
    subprocess.run(sys.argv[1:], check=True)
"""
#: An agent that saves in the midst of its work, and ends well when it is told to.
AGENT = """\
import os, subprocess, sys, time
ready, go, save = sys.argv[1], sys.argv[2], sys.argv[3:]
open("a.txt", "a").write("staged\\n")
subprocess.run(["git", "add", "a.txt"], check=True)
open("a.txt", "a").write("more\\n")
os.remove("b.txt")
subprocess.run(save, check=True)
open("new.txt", "w").write("after the save\\n")
open(ready, "w").write("ready")
while not os.path.exists(go):
    time.sleep(0.01)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, as an upgrade finds it; its parent directory."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gitstate", tmp_path / "copy" / "gitstate", ignore=ignored)
    return tmp_path / "copy"


def upgrade(package: Path, path: Path) -> None:
    """Every module is another one now, and tells when it is imported."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gitstate", package, ignore=ignored, dirs_exist_ok=True)
    for source in package.rglob("*.py"):
        source.write_text(f"open({os.fspath(path)!r}, 'a').write(__name__ + '\\n')\nraise RuntimeError('new code')\n")


@pytest.mark.sample(5)
@pytest.mark.parametrize("becomes", ["another version", "no version"])
@pytest.mark.parametrize("way", ["run", "run in a run", "guard"])
def test_run_ends_with_the_code_that_it_began_with(way: str, becomes: str, copy: Path, ws: Workspace) -> None:
    script, ready, go, imported = (ws.outside / name for name in ("agent.py", "ready", "go", "imported"))
    script.write_text(AGENT)
    base = ws.out("rev-parse", "HEAD")
    start = [sys.executable, "-P", "-c", START, os.fspath(copy)]
    agent = [sys.executable, *map(os.fspath, (script, ready, go)), *start, "save"]
    run = [*start, "run", "--task-id", "T-9", "--interval", "3600", "--"]
    if way == "guard":
        run = [sys.executable, "-P", "-c", GUARD, os.fspath(copy)]
    # Its keeper is no fork of it, and has loaded less.
    env = {"GITSTATE_RUN_ID": "outer"} if way == "run in a run" else {}
    started = Started(ws, [*run, *agent], env)
    wait_until(lambda: ready.exists() or started.process.poll() is not None, "the agent is ready")
    before = fingerprint(ws.path)
    # A process of the run may just write what it has compiled.
    os.rename(copy / "gitstate", copy / "replaced")
    if becomes == "another version":
        upgrade(copy / "gitstate", imported)
    go.touch()
    assert started.process.wait(PATIENCE) == 0, started.words()
    wait_until(lambda: not keepers(ws), "the keeper has ended")
    assert not imported.exists(), imported.read_text()
    # The save of the agent was recovered: it is no commit of the branch, and no files of the end are lost.
    assert not marker(ws)
    assert ws.out("rev-parse", "HEAD") == base
    ws.expect_exactly("MM a.txt", " D b.txt", "?? new.txt")
    assert fingerprint(ws.path).files == before.files
    assert "T-9" in ws.gitstate("show", "--json").text and "finished" in ws.gitstate("status", "--json").text
