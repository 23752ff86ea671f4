"""Clones of one bare remote, and what it holds."""

from __future__ import annotations

from tests.support.workspace import Workspace, run_git


def clone(ws: Workspace, name: str = "clone", *options: str) -> Workspace:
    path = ws.path.parent / name
    origin = f"file://{path.parent / 'origin.git'}"
    run_git(path.parent, "clone", "-q", "-b", "agent/work", *options, origin, str(path))
    return Workspace(path, ws.outside)


def remote_refs(ws: Workspace) -> dict[str, str]:
    out = run_git(ws.path.parent / "origin.git", "for-each-ref", "--format=%(refname) %(objectname)").decode()
    return dict(line.split() for line in out.splitlines())
