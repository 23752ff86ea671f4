"""A small repository with a remote, for the tests of hooks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.hooked import Hooked, make


@pytest.fixture
def repo(tmp_path: Path) -> Hooked:
    return make(tmp_path)
