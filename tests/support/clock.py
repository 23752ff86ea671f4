"""A clock that was set, for what `gitstate` runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from tests.support.workspace import GITSTATE, START, Workspace

#: Its first argument is how far the clock is ahead, in seconds; then comes the command that would run without it.
_SET = f"""\
import sys, time
ahead, time_ns, now = int(sys.argv[1]), time.time_ns, time.time
time.time_ns, time.time = lambda: time_ns() + ahead * 10**9, lambda: now() + ahead
del sys.argv[1:{len(GITSTATE) + 2}]
{START}
"""


@contextlib.contextmanager
def clock_ahead(ws: Workspace, seconds: int) -> Iterator[None]:
    """What `gitstate` runs sees a clock that is so far ahead, or back."""
    before = ws.cli_prefix
    ws.cli_prefix = (sys.executable, "-S", "-P", "-c", _SET, str(seconds))
    try:
        yield
    finally:
        ws.cli_prefix = before
