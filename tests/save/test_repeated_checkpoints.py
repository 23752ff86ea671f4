"""A checkpoint that looks at the whole worktree writes what changed since the last one, not since the last commit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace

FILES = 30
SIZE = 20_000


@pytest.fixture
def ws(ws: Workspace) -> Workspace:
    """A workspace with many new files, which a checkpoint holds."""
    for number in range(FILES):
        ws.write(f"many/d{number % 5}/{number}", os.urandom(SIZE))
    assert ws.gitstate("checkpoint").exit_status == 0
    return ws


def written(ws: Workspace) -> int:
    """The bytes of the packs that the next checkpoint writes."""
    before = packs(ws)
    assert ws.gitstate("checkpoint").exit_status == 0
    return sum(path.stat().st_size for path in packs(ws) - before)


def packs(ws: Workspace) -> set[Path]:
    return set((ws.common_dir / "objects/pack").glob("*.pack"))


def test_files_that_the_last_checkpoint_holds_are_not_written_again(ws: Workspace) -> None:
    ws.write("many/d1/1", os.urandom(SIZE))
    assert SIZE < written(ws) < 2 * SIZE
    # Nothing but the checkpoint holds them.
    ws.git("reflog", "expire", "--expire=now", "--all")
    ws.git("gc", "-q", "--prune=now")
    before = fingerprint(ws.path)
    ws.remove("many/d2/2")
    ws.write("many/d3/3", b"destroyed")
    assert ws.gitstate("restore", "checkpoint", "--overwrite").exit_status == 0
    assert before.files == fingerprint(ws.path).files
    ws.git("fsck", "--strict", "--connectivity-only")


def test_file_that_moved_is_written_again_and_held(ws: Workspace) -> None:
    data = ws.read("many/d1/1")
    ws.remove("many/d1/1")
    ws.write("elsewhere", data)
    assert written(ws) > SIZE


def test_files_of_a_checkpoint_that_is_damaged_are_written_again(ws: Workspace) -> None:
    ws.write("many/d1/1", os.urandom(SIZE))
    for path in packs(ws):
        # Its index stays: git knows of the objects, and can't read one of them.
        path.chmod(0o644)
        os.truncate(path, 40)
    run = ws.gitstate("checkpoint")
    assert run.exit_status in (0, 4), run
    saved = ws.out("rev-parse", next(iter(ws.refs("refs/gitstate/checkpoints"))) + "^1")
    assert ws.git("cat-file", "blob", f"{saved}:many/d2/2") == ws.read("many/d2/2")
