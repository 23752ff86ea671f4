"""A recovery of many files flushes the disk a few times, however many they are, and whatever else waits for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gitstate.objects import durable
from gitstate.recover.recover import recover
from gitstate.recover.request import RecoverRequest
from gitstate.system import files
from gitstate.system.process import filesystem_type
from tests.support.repositories import three_files

FILES = 1200
DIRECTORIES = 450


@pytest.mark.parametrize("loss", ["in place", "wiped"])
def test_files_are_not_flushed_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    ws = three_files(tmp_path)
    for number in range(FILES):
        ws.write(f"new/d{number % DIRECTORIES}/{number}", f"{number}\n")
    base = ws.out("rev-parse", "HEAD")
    assert ws.save().exit_status == 0
    if loss == "wiped":
        ws.git("reset", "-q", "--hard", base)
        shutil.rmtree(ws.path / "new", ignore_errors=True)
    # As on a machine whose disk has much to write for others, where few files are flushed one by one.
    monkeypatch.setattr(durable, "_waiting_to_be_written", lambda: float("inf"))
    monkeypatch.setattr(durable, "_PROVEN", (filesystem_type(os.stat(ws.path).st_dev),))
    flushed = []
    fsync_path = files.fsync_path

    def counted(path: bytes) -> None:
        flushed.append(path)
        fsync_path(path)

    monkeypatch.setattr(files, "fsync_path", counted)
    assert recover(bytes(ws.path), RecoverRequest()).exit_status == 0
    assert len(list((ws.path / "new").glob("*/*"))) == FILES
    # Some dozens are files of git and of gitstate itself, and the last portion of files may be.
    assert len([path for path in flushed if b"/new/" in path]) == 0
    assert len([path for path in flushed if b"/write-" in path]) <= durable._SYNC_MANY
    assert len(flushed) < 300
