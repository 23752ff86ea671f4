"""What a user types in a workspace: git with its hooks at work, gitstate, any other program."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.repositories import Templates
from tests.support.workspace import Run, Workspace, run_gitstate

EVENTS = (
    *("post-commit", "post-checkout", "post-merge", "post-rewrite", "post-applypatch"),
    *("pre-commit", "pre-push", "pre-merge-commit", "pre-rebase"),
)
TIMEOUT = 300


def run(ws: Workspace, *argv: str, given: str = "", env: Mapping[str, str] | None = None) -> Run:
    """Run a program in the workspace; `given` is its standard input."""
    done = subprocess.run(
        argv,
        cwd=ws.path,
        input=given.encode(),
        capture_output=True,
        timeout=TIMEOUT,
        env={**os.environ, **ws.cli_env, **(env or {})},
    )
    return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def git(ws: Workspace, *args: str, fails: bool = False) -> str:
    """What git prints; `fails` says which way it has to end, and returns its standard error."""
    done = run(ws, "git", *args)
    assert (done.exit_status != 0) == fails, (args, done)
    return done.stderr if fails else done.text.strip()


def gitstate(ws: Workspace, *args: str, given: str = "", status: int = 0, env: Mapping[str, str] | None = None) -> str:
    """What gitstate prints on its standard error."""
    done = run_gitstate(*args, cwd=ws.path, env={**ws.cli_env, **(env or {})}, given=given.encode())
    assert done.exit_status == status, (args, done)
    return done.stderr


def outcomes(ws: Workspace, command: str = "install", *args: str, status: int = 0) -> dict[str, str]:
    """What `install --json` or `uninstall --json` did, by event."""
    done = run_gitstate(command, "--json", *args, cwd=ws.path, env=ws.cli_env)
    assert done.exit_status == status, done
    return {hook["event"]: hook["outcome"] for hook in done.json["hooks"]}


def commit(ws: Workspace, name: str, text: str) -> str:
    """Commit one file, hooks included; the commit's id."""
    ws.write(name, text)
    git(ws, "add", name)
    git(ws, "commit", "-q", "-m", name)
    return git(ws, "rev-parse", "HEAD")


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def hooks(ws: Workspace) -> Path:
    """The directory of the hooks of a main worktree."""
    return ws.path / ".git" / "hooks"


def markers(ws: Workspace) -> list[str]:
    """The refs of pending saves."""
    return git(ws, "for-each-ref", "--format=%(refname)", "refs/gitstate/pending").split()


def state_file(ws: Workspace) -> dict[str, Any]:
    state = json.loads((ws.path / "active_state.json").read_text())
    assert isinstance(state, dict)
    return state


def with_remote(top: Path) -> Workspace:
    """A repository on branch agent/1 with one commit, which is also in the remote `origin`."""
    subprocess.run(["git", "init", "-q", "--bare", str(top / "remote.git")], check=True)
    subprocess.run(["git", "init", "-q", str(top / "work")], check=True)
    ws = Workspace(top / "work", top)
    git(ws, "remote", "add", "origin", str(top / "remote.git"))
    commit(ws, "a", "one\n")
    git(ws, "push", "-q", "origin", "main")
    git(ws, "checkout", "-q", "-b", "agent/1")
    return ws


def copy_with_remote(templates: Templates, top: Path) -> Workspace:
    """What `with_remote` makes, copied from a template."""
    templates.copy_built("with remote", with_remote, top)
    ws = Workspace(top / "work", top)
    git(ws, "remote", "set-url", "origin", str(top / "remote.git"))
    git(ws, "update-index", "-q", "--refresh")
    return ws


def entries(top: Path) -> dict[str, tuple[int, bytes]]:
    """Every path at and below a directory: its mode, and its bytes or the target of a link."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        info = path.lstat()
        content = b""
        if stat.S_ISLNK(info.st_mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        found[str(path.relative_to(top))] = (info.st_mode, content)
    return found
