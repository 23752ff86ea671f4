"""A staged file whose object a power cut left empty is written again, or reported: git would commit it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.repositories import three_files
from tests.support.workspace import Run, Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A run of an earlier boot that staged a file; its object is empty now."""
    ws = three_files(tmp_path)
    ws.gitstate("set", "task_id=T-1")
    ws.write("staged.txt", "staged\n")
    ws.git("add", "staged.txt")
    return ws


def power_fails(ws: Workspace) -> Path:
    context = ws.path / ".git" / "gitstate" / "context.json"
    context.write_text(json.dumps(json.loads(context.read_text()) | {"boot_id": "the boot before"}))
    oid = ws.out("rev-parse", ":staged.txt")
    empty = ws.path / ".git" / "objects" / oid[:2] / oid[2:]
    empty.chmod(0o644)
    empty.write_bytes(b"")
    return empty


def skipped(run: Run) -> list[str]:
    (item,) = run.json["workspaces"]
    return [left["path"] for left in item["left_out"]]


def test_object_is_written_again_from_the_file(ws: Workspace) -> None:
    power_fails(ws)
    run = ws.recover()
    assert (run.exit_status, skipped(run)) == (0, []), run
    ws.git("commit", "-q", "-m", "staged")
    assert ws.git("show", "HEAD:staged.txt") == b"staged\n"
    ws.git("fsck", "--strict")


def test_object_is_read_from_the_pack_of_a_checkpoint(ws: Workspace) -> None:
    ws.write("staged.txt", "edited after that\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    ws.git("repack", "-q", "-a", "--keep-unreachable")
    oid = ws.out("rev-parse", ":staged.txt")
    loose = ws.path / ".git" / "objects" / oid[:2] / oid[2:]
    loose.parent.mkdir(exist_ok=True)
    if not loose.exists():
        loose.write_bytes(b"")
    empty = power_fails(ws)
    run = ws.recover()
    assert (run.exit_status, skipped(run)) == (0, []), run
    assert not empty.exists()
    assert ws.git("show", ":staged.txt") == b"staged\n"


def test_lost_staged_version_is_reported(ws: Workspace) -> None:
    ws.write("staged.txt", "edited after that\n")
    empty = power_fails(ws)
    dry = ws.recover("--dry-run")
    assert empty.exists()
    run = ws.recover()
    assert skipped(dry) == skipped(run) == ["staged.txt"]
    assert run.exit_status == 4
    assert ws.read("staged.txt") == b"edited after that\n"
    ws.git("add", "staged.txt")
    ws.git("commit", "-q", "-m", "staged again")
    ws.git("fsck", "--strict")
