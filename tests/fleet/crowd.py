"""Many small workspaces, made by copying one, and a git that counts how often it is started."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from gitstate.workspace import registry
from tests.support.workspace import run_git


def crowd(top: Path, number: int) -> list[Path]:
    """So many registered workspaces below `top`, in which nothing was begun."""
    seed = top / "seed"
    run_git(top, "init", "-q", "--template=", str(seed))
    (seed / "a.txt").write_text("a\n")
    run_git(seed, "add", "a.txt")
    run_git(seed, "commit", "-qm", "first")
    made = [top / "crowd" / f"{place:04}" for place in range(number)]
    (top / "crowd").mkdir()
    script = 'seed=$1; shift; for place; do cp -r "$seed" "$place" || exit 1; done'
    subprocess.run(["sh", "-c", script, "sh", seed, *made], check=True)
    registry.add(os.fsencode(path) for path in made)
    return made


def counting_git(directory: Path) -> tuple[dict[str, str], Path]:
    """An environment whose git writes a line to a file each time that it starts, and that file."""
    wrapper, log = directory / "bin" / "git", directory / "started"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o755)
    log.touch()
    return {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}, log
