"""An agent that works in a repository inside of its workspace, and nowhere else: checkpoints hold that work, too."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.agents import Started, keeper_pid, wait_until
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.workspace import GITSTATE, Workspace, run_git

#: Edits a file, edits it again once it is told so, and goes on.
AGENT = """\
echo one >> "$1/inner.txt"
echo $$ > "$2/ready"
while ! [ -e "$2/go" ]; do sleep 0.02; done
echo two >> "$1/inner.txt"
exec sleep 600
"""


def origin(ws: Workspace) -> Path:
    path = ws.outside / "origin"
    run_git(ws.outside, "init", "-q", "-b", "main", path)
    (path / "inner.txt").write_text("committed\n")
    run_git(path, "add", "-A")
    run_git(path, "commit", "-q", "-m", "inner")
    return path


def clone(ws: Workspace) -> None:
    run_git(ws.path, "clone", "-q", origin(ws), "inner")


def ignored_clone(ws: Workspace) -> None:
    ws.write(".git/info/exclude", "/inner/\n")
    clone(ws)


def submodule(ws: Workspace) -> None:
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin(ws)), "inner")
    ws.commit("submodule")


def worktree(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "second", "inner")
    inner = Workspace(ws.path / "inner", ws.outside)
    inner.write("inner.txt", "committed\n")
    inner.commit("inner")


def removed(ws: Workspace, place: Path) -> None:
    ws.remove(place.name)
    wipe(ws)


def reset(ws: Workspace, place: Path) -> None:
    """As `git clean -fd` leaves it, and git in the repository inside."""
    run_git(place, "reset", "-q", "--hard")
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-fdq")


@pytest.mark.sample(4)
@pytest.mark.parametrize("lose", [removed, reset])
@pytest.mark.parametrize("build", [clone, ignored_clone, submodule, worktree])
def test_work_in_a_repository_inside_comes_back_where_everything_was_killed(
    build: Callable[[Workspace], None], lose: Callable[[Workspace, Path], None], ws: Workspace
) -> None:
    build(ws)
    place = ws.path / "inner"
    command = ["sh", "-c", AGENT, "agent", os.fspath(place), os.fspath(ws.outside)]
    started = Started(ws, [*GITSTATE, "run", "--task-id", "T-1", "--interval", "0.2", "--", *command])
    ready = ws.outside / "ready"
    wait_until(lambda: ready.exists() and ready.read_text(), "the agent is ready")
    wait_until(lambda: held(place) == "committed\none\n", "its first checkpoint")
    (ws.outside / "go").touch()
    wait_until(lambda: held(place) == "committed\none\ntwo\n", "its second checkpoint")
    before = fingerprint(place)
    for pid in (keeper_pid(ws), started.process.pid, int(ready.read_text())):
        os.kill(pid, signal.SIGKILL)
    started.status()
    lose(ws, place)
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(place)) == []


def held(place: Path) -> str:
    """The file as the latest checkpoint of the repository inside has it; empty without one."""
    refs = run_git(place, "for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints").decode().split()
    texts = [run_git(place, "show", f"{ref}^1:inner.txt", check=False).decode() for ref in refs]
    return max(texts, key=len, default="")
