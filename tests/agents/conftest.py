"""A small repository in which agents' hooks run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.repositories import Templates
from tests.support.typed import copy_with_remote
from tests.support.workspace import Workspace


@pytest.fixture
def repo(templates: Templates, tmp_path: Path) -> Workspace:
    return copy_with_remote(templates, tmp_path)
