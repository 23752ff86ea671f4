"""A front's end of the socket to its keeper: starts one, tells it what happens, and waits for its last word.

The protocol stands at the top of `keeper`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any, NamedTuple

from ..agents.base import StopRule
from ..system.clock import Deadline
from ..system.process import Process
from .processes import RUN_ID

#: Signals that end a run.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
#: A keeper that has given its last word is gone after this many seconds at most.
_GOING = 2.0


class Orders(NamedTuple):
    """What a keeper is told at its start. Times in seconds; `owner` is who owns the workspace."""

    workspace: str
    run_id: str
    owner: Process
    stop: StopRule
    grace: float
    deadline: float
    interval: float
    ends_clean_runs: bool = True
    """Whether what is left of a run that ended well is ended too."""


class Front:
    """A front's end of the socket to its keeper."""

    def __init__(self, orders: Orders) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name != RUN_ID}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gitstate", "keep", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=environment,
                cwd="/",
            )
        self._socket = ours
        self._received = b""
        self.tell(do="keep", **orders._replace(owner=Process(*orders.owner))._asdict())

    def tell(self, **words: Any) -> bool:
        """Tell the keeper something; False where it is gone."""
        try:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
            return True
        except OSError:
            return False

    def answer(self, seconds: float | None) -> dict[str, Any] | None:
        """The keeper's last word; None where it is gone, or says nothing in this time."""
        deadline = Deadline(seconds)
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if isinstance(said, dict) and said.get("done"):
                        return said
                continue
            left = deadline.left()
            if left <= 0:
                return None
            self._socket.settimeout(None if left == float("inf") else left)
            try:
                data = self._socket.recv(65_536)
            except OSError:
                return None
            if not data:
                return None
            self._received += data

    def close(self) -> None:
        """Hang up. A keeper that has answered goes by itself."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_GOING)
