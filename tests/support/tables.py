"""A repository whose refs are in a reftable (git 2.45)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.skips import NO_REFTABLE
from tests.support.workspace import Workspace


def in_tables(tmp_path: Path) -> Workspace:
    """A repository without a commit in `repo`, and a directory outside of it; skips where git knows no reftable."""
    ws = Workspace(tmp_path / "repo", tmp_path / "outside")
    for directory in (ws.path, ws.outside):
        directory.mkdir()
    ws.git("init", "-q", "-b", "main", "--ref-format=reftable", ".", check=False)
    if not (ws.path / ".git" / "reftable").exists():
        pytest.skip(NO_REFTABLE)
    return ws
