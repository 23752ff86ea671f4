"""A workspace whose branch a bare remote has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git


@pytest.fixture
def published(templates: Templates, tmp_path: Path) -> Workspace:
    """A workspace whose branch a bare remote has."""
    ws = make(STATES["clean"], templates, tmp_path)
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    ws.git("push", "-q", "origin", "agent/work")
    return ws
