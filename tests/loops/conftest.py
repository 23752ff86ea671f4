"""The stage of the ready loops, for the commands that they call."""

from __future__ import annotations

from tests.hooks.conftest import stage as stage
