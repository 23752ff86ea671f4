"""A small repository with a remote, for the tests of agents' hooks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repositories import Templates
from tests.support.typed import git, with_remote
from tests.support.workspace import Workspace


@pytest.fixture
def repo(templates: Templates, tmp_path: Path) -> Iterator[Workspace]:
    """What `with_remote` makes, copied from a template."""
    templates.copy_built("with remote", with_remote, tmp_path)
    ws = Workspace(tmp_path / "work", tmp_path)
    git(ws, "remote", "set-url", "origin", str(tmp_path / "remote.git"))
    git(ws, "update-index", "-q", "--refresh")
    yield ws
    # A process that waits for the end of an interval sees that the workspace is gone.
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
