"""Whether gitstate reads a small ordinary index as git reads it."""

from __future__ import annotations

import os

from gitstate.git.index import list_plain_index
from tests.support.workspace import Workspace


def listed(ws: Workspace) -> list[bytes] | None:
    """The paths that gitstate reads; None where it leaves the index to git."""
    oid_bytes = 32 if ws.out("rev-parse", "--show-object-format") == "sha256" else 20
    return list_plain_index(os.path.join(os.fsencode(ws.git_dir), b"index"), oid_bytes)


def check_plain_index(ws: Workspace) -> None:
    """Git lists the same paths, none of them with a flag, or gitstate leaves the index to git."""
    try:
        tagged = ws.git("ls-files", "-z", "-v", "--sparse").split(b"\0")[:-1]
    except AssertionError:
        return
    paths = listed(ws)
    assert paths is None or [b"H " + path for path in paths] == tagged
