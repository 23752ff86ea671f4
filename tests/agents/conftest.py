"""A small repository in which agents' hooks run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.typed import with_remote
from tests.support.workspace import Workspace


@pytest.fixture
def repo(tmp_path: Path) -> Workspace:
    return with_remote(tmp_path)
