"""The workspace of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    return make(STATES["clean"], templates, tmp_path)
