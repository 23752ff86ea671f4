"""A small repository with a remote, for the tests of agents' hooks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repositories import Templates
from tests.support.typed import copy_with_remote
from tests.support.workspace import Workspace


@pytest.fixture
def repo(templates: Templates, tmp_path: Path) -> Iterator[Workspace]:
    ws = copy_with_remote(templates, tmp_path)
    yield ws
    # A process that waits for the end of an interval sees that the workspace is gone.
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
