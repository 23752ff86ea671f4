"""A session that has said something."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conversation.talk import Talk
from tests.support.workspace import Workspace


@pytest.fixture
def talk(ws: Workspace, hermetic: Path) -> Talk:
    found = Talk(ws, hermetic)
    found.begin()
    found.say()
    return found
