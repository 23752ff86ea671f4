"""Files of other programs are synced, even while those programs change them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstate.objects.durable import sync_since
from gitstate.system import files


def test_file_that_vanishes_during_the_scan_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git renames each new object, so a directory listing may name a file that is gone."""
    for name in ("tmp_obj_1", "tmp_obj_2", "written", "written before"):
        (tmp_path / name).write_text(name)
    listed, synced = os.scandir, list[bytes]()

    @contextlib.contextmanager
    def scandir(directory: bytes) -> Iterator[list[os.DirEntry[bytes]]]:
        with listed(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for number in (1, 2):
            (tmp_path / f"tmp_obj_{number}").unlink()
        yield found

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(files, "fsync_path", synced.append)
    sync_since([os.fsencode(tmp_path)], 0)
    assert {os.path.basename(path) for path in synced} >= {b"written", b"written before"}
