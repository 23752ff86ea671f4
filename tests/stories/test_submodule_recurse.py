"""A submodule with work, in a repository where git commands go into submodules (`submodule.recurse`)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace


@pytest.mark.parametrize("way", ["in place", "reset"])
def test_save_moves_nothing_in_a_submodule(way: str, ws: Workspace, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", "--bare", str(ws.path), str(tmp_path / "library.git")], check=True)
    allow = ("-c", "protocol.file.allow=always")
    ws.git(*allow, "submodule", "--quiet", "add", str(tmp_path / "library.git"), "sm")
    ws.git("commit", "-qm", "with a submodule")
    ws.git("config", "submodule.recurse", "true")
    ws.git("-C", "sm", "checkout", "-q", "-B", "work")
    ws.write("sm/new", "new\n")
    ws.append("sm/a.txt")
    ws.append("a.txt")
    inside = ws.out("-C", "sm", "rev-parse", "HEAD", "work")
    before = fingerprint(ws.path)
    assert ws.out("status", "--porcelain", "--ignore-submodules=dirty") == "M a.txt"
    assert ws.gitstate("save", "--signal", "TERM").exit_status == 0
    assert ws.out("status", "--porcelain", "--ignore-submodules=dirty") == ""
    assert ws.out("-C", "sm", "rev-parse", "HEAD", "work") == inside
    if way == "reset":
        ws.git("reset", "-q", "--hard")
    done = ws.recover()
    assert done.exit_status == 0, done
    assert ws.out("-C", "sm", "rev-parse", "HEAD", "work") == inside
    assert before.diff(fingerprint(ws.path)) == []
