"""A torn file of an object goes where a pack has the object, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gitstate.git.damaged.broken import discard_torn
from gitstate.git.opening import open_repository
from tests.support.repositories import initialized
from tests.support.workspace import Workspace


def _object(tmp_path: Path, left: int | None, *, packed: bool) -> tuple[Workspace, str, Path]:
    """A workspace, a blob in it, and the blob's file, of which the first `left` bytes are left."""
    ws = initialized(tmp_path)
    ws.write("f", "a line\n" * 100)
    oid = ws.out("hash-object", "-w", "f")
    path = ws.git_dir / "objects" / oid[:2] / oid[2:]
    if packed:
        ws.git("pack-objects", "-q", ws.git_dir / "objects" / "pack" / "pack", stdin=f"{oid}\n".encode())
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:left])
    return ws, oid, path


@pytest.mark.parametrize("left", [0, 12, 20])
def test_torn_file_goes_where_a_pack_has_the_object(left: int, tmp_path: Path) -> None:
    ws, oid, path = _object(tmp_path, left, packed=True)
    assert discard_torn(open_repository(os.fsencode(ws.path)).git, oid)
    assert not path.exists() and ws.git("cat-file", "blob", oid) == b"a line\n" * 100


@pytest.mark.parametrize(("left", "packed"), [(12, False), (None, True), (None, False)])
def test_file_stays_that_is_whole_or_all_there_is(left: int | None, packed: bool, tmp_path: Path) -> None:
    ws, oid, path = _object(tmp_path, left, packed=packed)
    before = path.read_bytes()
    assert not discard_torn(open_repository(os.fsencode(ws.path)).git, oid)
    assert path.read_bytes() == before


def test_object_whose_pack_is_torn_too_keeps_its_file(tmp_path: Path) -> None:
    ws, oid, path = _object(tmp_path, 12, packed=True)
    for pack in (ws.git_dir / "objects" / "pack").glob("*.pack"):
        pack.chmod(0o644)
        pack.write_bytes(pack.read_bytes()[:20])
    assert not discard_torn(open_repository(os.fsencode(ws.path)).git, oid)
    assert path.exists()
