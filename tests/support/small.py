"""Short commands on a small repository of three files, each with the checks that always hold."""

from __future__ import annotations

import os
import stat

from tests.support.workspace import Run, Workspace


def done(run: Run, status: int = 0) -> Run:
    assert run.exit_status == status, run
    return run


def save(ws: Workspace, *args: str) -> str:
    """Save, for which there must be a reason; the save's id."""
    run = done(ws.save(*args))
    assert run.json["result"] == "saved", run
    save_id = run.json["save_id"]
    assert isinstance(save_id, str)
    return save_id


def recover(ws: Workspace, *args: str) -> Run:
    return done(ws.recover(*args))


def kept_somewhere(ws: Workspace, data: bytes) -> bool:
    """Whether any object holds these bytes."""
    return data in ws.git("cat-file", "--batch-all-objects", "--batch")


def empty(ws: Workspace, *but: str) -> None:
    """`rm -rf *`, hidden names aside."""
    for name in os.listdir(ws.path):
        if name not in but and not name.startswith("."):
            ws.remove(name)


def mode(ws: Workspace, path: str) -> int:
    return stat.S_IMODE(os.lstat(ws.at(path)).st_mode)


def left_out(run: Run) -> dict[str, bool]:
    """What the save says it left out, and whether that is lost."""
    return {item["path"].rstrip("/"): item["lost"] for item in run.json["left_out"]}
