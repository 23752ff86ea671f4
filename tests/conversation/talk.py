"""A session of Claude Code in a workspace, whose transcript grows by whole lines."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.support.workspace import Workspace

SESSION = "0a1b2c3d-1111-2222-3333-444455556666"


def encoded(directory: Path) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in str(directory))


def transcript_of(ws: Workspace, home: Path, session: str = SESSION) -> Path:
    return home / ".claude" / "projects" / encoded(ws.path) / f"{session}.jsonl"


class Talk:
    """One session; `said` is all that its transcript held."""

    def __init__(self, ws: Workspace, home: Path) -> None:
        self.ws = ws
        self.path = transcript_of(ws, home)
        self.path.parent.mkdir(parents=True)
        self.said = b""
        self._random = random.Random(1)

    def say(self, size: int = 1000, *, lines: int = 1) -> None:
        for _ in range(lines):
            words = "".join(self._random.choices("abcdefghijklmnopqrstuvwxyz ", k=size))
            self.said += json.dumps({"cwd": str(self.ws.path), "text": words}).encode() + b"\n"
        self.path.write_bytes(self.said)

    def begin(self) -> None:
        """What the agent's hook writes down."""
        values = {"session_id": SESSION, "agent": "claude", "transcript_path": str(self.path)}
        done = self.ws.gitstate("begin", "task_id=T-1", *(f"{name}={value}" for name, value in values.items()))
        assert done.exit_status == 0, done

    def kept(self) -> bytes:
        """What the repository holds of it."""
        refs = self.ws.refs("refs/gitstate/conversations")
        if not refs:
            return b""
        (ref,) = refs
        names = self.ws.out("ls-tree", "-r", "--name-only", ref, "0").splitlines()
        return b"".join(self.ws.git("cat-file", "blob", f"{ref}:{name}") for name in sorted(names))
