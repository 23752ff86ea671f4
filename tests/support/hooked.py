"""A small repository with a remote, and what tests of hooks do in it: git as a person types it, gitstate beside it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

EVENTS = ("post-commit", "post-checkout", "post-merge", "post-rewrite", "pre-commit", "pre-push")
LONG = 300


class Done(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


class Hooked:
    """One worktree. `env` is added to the environment of all that runs in it."""

    def __init__(self, path: Path, env: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.env = dict(env or {})

    def run(self, *argv: str, given: str = "", env: Mapping[str, str] | None = None) -> Done:
        done = subprocess.run(
            argv,
            cwd=self.path,
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LONG,
            env={**os.environ, **self.env, **(env or {})},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def git(self, *args: str, fails: bool = False) -> str:
        """What git prints; `fails` says which way it has to end."""
        done = self.run("git", *args)
        assert (done.status != 0) == fails, (args, done)
        return done.err if fails else done.out.strip()

    def gitstate(self, *args: str, given: str = "", status: int = 0, env: Mapping[str, str] | None = None) -> str:
        """What gitstate says on stderr."""
        done = self.run(sys.executable, "-m", "gitstate", *args, given=given, env=env)
        assert done.status == status, (args, done)
        return done.err

    def outcomes(self, command: str = "install", *args: str, status: int = 0) -> dict[str, str]:
        """What `install --json` or `uninstall --json` did, by event."""
        done = self.run(sys.executable, "-m", "gitstate", command, "--json", *args)
        assert done.status == status, done
        return {hook["event"]: hook["outcome"] for hook in json.loads(done.out)["hooks"]}

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def commit(self, name: str, text: str) -> str:
        """A commit of one file; its id."""
        self.write(name, text)
        self.git("add", name)
        self.git("commit", "-q", "-m", name)
        return self.git("rev-parse", "HEAD")

    def script(self, path: Path, text: str, mode: int = 0o755) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    @property
    def hooks(self) -> Path:
        return self.path / ".git" / "hooks"

    def markers(self) -> list[str]:
        return self.git("for-each-ref", "--format=%(refname)", "refs/gitstate/pending").split()

    def state(self) -> dict[str, Any]:
        found = json.loads((self.path / "active_state.json").read_text())
        assert isinstance(found, dict)
        return found


def make(top: Path) -> Hooked:
    """A repository on branch agent/1 with one commit, which is also in the remote `origin`."""
    subprocess.run(["git", "init", "-q", "--bare", str(top / "remote.git")], check=True)
    subprocess.run(["git", "init", "-q", str(top / "work")], check=True)
    repo = Hooked(top / "work")
    repo.git("remote", "add", "origin", str(top / "remote.git"))
    repo.commit("a", "one\n")
    repo.git("push", "-q", "origin", "main")
    repo.git("checkout", "-q", "-b", "agent/1")
    return repo


def entries(top: Path) -> dict[str, tuple[int, bytes]]:
    """All below a directory: mode, and bytes or the target of a link."""
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
