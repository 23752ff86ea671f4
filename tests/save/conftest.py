"""The workspace of the tests of a save: a repository of three small files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.repositories import three_files
from tests.support.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return three_files(tmp_path)
