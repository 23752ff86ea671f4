"""A watch over the workspace's neighbours: what hostile data must not touch, run or print."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.repositories import three_files
from tests.support.workspace import Run, Workspace

HOOK = b"#!/bin/sh\ntouch PWNED\n"


#: Below `.git`: what a save and a recover may write.
OURS = (
    "objects/",
    "refs/gitstate/",
    "refs/notes/gitstate",
    "refs/heads/",
    "logs/",
    "gitstate/",
    "worktrees/",
    "index",
    "info/exclude",
    "info/refs",
    "packed-refs",
    "ORIG_HEAD",
    "HEAD",
    "sharedindex.",
)


class Watch:
    """The world around the worktree: what may not change."""

    def __init__(self, ws: Workspace, top: Path, home: Path) -> None:
        self.ws, self.tops = ws, (top, home)
        self.before = self._look()

    def _look(self) -> dict[str, bytes]:
        # A save adds its workspace to the list: one file, and nothing else of the user's changes.
        listed = os.fsencode(self.ws.path) + b"\0"
        found = {}
        for top in self.tops:
            for directory, directories, files in os.walk(top):
                if Path(directory) == self.ws.path:
                    directories[:] = [name for name in directories if name == ".git"]
                    files = []
                for name in files + [name for name in directories if os.path.islink(os.path.join(directory, name))]:
                    path = os.path.join(directory, name)
                    inside = os.path.relpath(path, self.ws.path / ".git")
                    if not inside.startswith(OURS):
                        content = os.readlink(path).encode() if os.path.islink(path) else Path(path).read_bytes()
                        if not content.startswith(listed) or not directory.endswith("/gitstate/workspaces"):
                            found[path] = content
        return found

    def check(self) -> None:
        assert self._look() == self.before, "something changed that is not ours"
        assert not list(self.ws.path.rglob("PWNED")), "something was executed"
        assert not [trace for trace in self.ws.canaries if trace.exists()], "a program was run"


def polite(run: Run) -> None:
    assert run.exit_status in (0, 1, 2, 4, 75), str(run)
    assert "Traceback" not in run.stderr and b"Traceback" not in run.stdout, str(run)


def everything(ws: Workspace, save_id: str) -> None:
    """Every command that reads what somebody else wrote."""
    for words in (
        ("recover", "--dry-run"),
        ("log", "--all"),
        ("diff", save_id),
        ("restore", save_id),
        ("recover", "--overwrite"),
        ("save",),
        ("recover",),
    ):
        polite(ws.gitstate(*words))


def dirty_repository(tmp_path: Path) -> Workspace:
    """Three committed files, one of them staged and edited again, and an untracked file."""
    ws = three_files(tmp_path)
    ws.write("a", "staged\n")
    ws.git("add", "a")
    ws.write("a", "a1\n")
    ws.write("new/u", "u\n")
    return ws
