"""Workspaces as a reboot leaves them: the builders of every kind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.states import STATES, dirty
from tests.support.workspace import Run, Workspace

LONG_AGO = 978_307_200


def recovered(run: Run) -> dict[str, dict[str, Any]]:
    return {item["workspace"]: item for item in run.json["workspaces"]}


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def context_file(ws: Workspace) -> Path:
    return ws.git_dir / "gitstate" / "context.json"


def edit_context(ws: Workspace, **values: object) -> None:
    context = json.loads(context_file(ws).read_text())
    context_file(ws).write_text(json.dumps({**context, **values}))


def age(path: Path) -> None:
    os.utime(path, (LONG_AGO, LONG_AGO))


def waiting(ws: Workspace) -> None:
    dirty(ws)
    assert ws.save("--signal", "TERM").exit_status == 0


def wiped(ws: Workspace) -> None:
    waiting(ws)
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-fdxq")


def merging(ws: Workspace) -> None:
    STATES["merge_conflict"].build(ws)
    assert ws.save().exit_status == 0


def quiet(ws: Workspace) -> None:
    ws.append("a.txt")


def finished(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-1")
    assert ws.gitstate("finish").exit_status == 0


def crashed(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-1")
    edit_context(ws, boot_id="another boot", pid=1)
    ws.append("a.txt", "what nobody saved\n")


def crashed_and_wiped(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-1")
    dirty(ws)
    assert ws.gitstate("checkpoint").exit_status == 0
    edit_context(ws, boot_id="another boot", pid=1)
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-fdxq")


def alive(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=T-1", "--owner-pid", os.environ["LIVING"])
    ws.append("a.txt")


def locked(ws: Workspace) -> None:
    lock = ws.git_dir / "index.lock"
    lock.touch()
    age(lock)


def held(ws: Workspace) -> None:
    """A lock of this boot: its owner is unknown."""
    (ws.git_dir / "index.lock").touch()


def headless(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-1")
    (ws.git_dir / "HEAD").write_bytes(b"")


def branchless(ws: Workspace) -> None:
    ws.gitstate("set", "task_id=T-1")
    (ws.git_dir / "refs" / "heads" / "agent" / "work").write_bytes(b"\0" * 41)


def corrupt(ws: Workspace) -> None:
    waiting(ws)
    for path in (ws.common_dir / "objects" / "pack").glob("pack-*"):
        path.chmod(0o644)
        path.write_bytes(b"")


def foreign(ws: Workspace) -> None:
    waiting(ws)
    canary = ws.outside / "canary"
    for name in (
        "core.fsmonitor",
        "filter.x.clean",
        "filter.x.smudge",
        "filter.x.process",
        "gpg.program",
        "diff.external",
        "core.sshCommand",
        "core.pager",
    ):
        ws.git("config", name, f"touch {canary}; cat")
    ws.write(".git/info/attributes", "* filter=x\n")
    hook = ws.git_dir / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {canary}\n")
    hook.chmod(0o755)
    give_away(ws.path)


def give_away(path: Path) -> None:
    for directory, names, entries in os.walk(path):
        for name in (*names, *entries, "."):
            os.lchown(Path(directory, name), 12_345, 12_345)


def missing(ws: Workspace) -> None:
    shutil.rmtree(ws.path)


def gutted(ws: Workspace) -> None:
    shutil.rmtree(ws.path / ".git")
