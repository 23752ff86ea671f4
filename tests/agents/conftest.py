"""A small repository in which agents' hooks run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.hooked import Hooked, make


@pytest.fixture
def repo(tmp_path: Path) -> Hooked:
    return make(tmp_path)
