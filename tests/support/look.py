"""Record everything that a save must not change and a recover must restore."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.oracle import Fingerprint, Identity, fingerprint, identities, parents
from tests.support.workspace import Workspace


@dataclass(frozen=True)
class Look:
    """Everything that is compared later."""

    fingerprint: Fingerprint
    identities: Mapping[bytes, Identity]
    index: bytes | None
    status: bytes
    refs: Mapping[str, str]
    locks: frozenset[Path]
    bystanders: tuple[tuple[Fingerprint, Mapping[str, str]], ...]


def index_bytes(ws: Workspace) -> bytes | None:
    index = ws.git_dir / "index"
    return index.read_bytes() if index.exists() else None


def look(ws: Workspace) -> Look:
    return Look(
        fingerprint=fingerprint(ws.path),
        identities=identities(ws.path),
        index=index_bytes(ws),
        status=porcelain(ws),
        refs=ws.refs(),
        locks=lock_files(ws),
        bystanders=look_at_bystanders(ws),
    )


def look_at_bystanders(ws: Workspace) -> tuple[tuple[Fingerprint, Mapping[str, str]], ...]:
    """Repositories that must not change, with their refs; other worktrees of this one, without."""
    found = []
    for path in ws.bystanders:
        other = Workspace(path, ws.outside)
        found.append((replace(fingerprint(path), nested={}), {} if other.common_dir == ws.common_dir else other.refs()))
    return tuple(found)


def porcelain(ws: Workspace) -> bytes:
    """``git status`` to the last detail, without stat data and without writing the index."""
    options = ("--porcelain=v2", "-z", "--untracked-files=all", "--no-renames")
    return ws.git("status", *options, env={"GIT_OPTIONAL_LOCKS": "0"}, check=False)


def lock_files(ws: Workspace) -> frozenset[Path]:
    return frozenset(ws.common_dir.rglob("*.lock"))


def paths_of(listed: Iterable[Mapping[str, Any]]) -> set[bytes]:
    """The paths in a JSON list, as bytes."""
    return {
        base64.b64decode(item["path_base64"]) if item.get("path_base64") else item["path"].encode("utf-8")
        for item in listed
    }


def covers(listed: Iterable[bytes], path: bytes) -> bool:
    """Whether a path or a directory above it is among those listed."""
    names = {name.rstrip(b"/") for name in listed}
    return path in names or any(parent in names for parent in parents(path))
