"""The workspace of the tests of many workspaces, and a process that lives on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.states import STATES, make
from tests.support.repositories import Templates
from tests.support.workspace import Workspace


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives, for an owner."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    return make(STATES["clean"], templates, tmp_path)
