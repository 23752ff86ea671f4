"""Ways in which a workspace is lost after its save."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.states import Loss
from tests.support.saving import Saved
from tests.support.workspace import Workspace, run_git


def release(ws: Workspace, loss: Loss) -> None:
    """Release held locks, and remove stale ones, which a wipe would not respect."""
    for lock in ws.held_locks:
        lock.unlink(missing_ok=True)
    if loss is not Loss.IN_PLACE:
        for lock in ws.stale_locks:
            lock.unlink(missing_ok=True)


def wipe(ws: Workspace, *commit: str) -> None:
    ws.git("reset", "--hard", "-q", *commit, check=False)
    ws.git("clean", "-ffdxq", check=False)


def wipe_to_base(ws: Workspace, saved: Saved) -> None:
    """As somebody who throws the WIP commit away, its branch included."""
    base = saved.document["base_commit"]
    if saved.moved and base is None:
        ws.git("update-ref", "-d", "HEAD")
        ws.git("read-tree", "--empty")
    wipe(ws, *([base] if saved.moved and base else []))


def strip_operation(ws: Workspace) -> None:
    """Every trace of an unfinished operation goes, as with a ``git worktree`` of the same HEAD made anew."""
    for name in os.listdir(ws.git_dir):
        if name in ("rebase-merge", "rebase-apply", "sequencer", "NOTES_MERGE_WORKTREE"):
            shutil.rmtree(ws.git_dir / name)
        elif name.endswith(("_HEAD", "_MSG", "_MODE", "_MERGE")) or name.startswith(
            ("BISECT_", "MERGE_", "NOTES_MERGE_")
        ):
            (ws.git_dir / name).unlink()
    for ref in ws.refs("refs/bisect", "refs/rewritten"):
        ws.git("update-ref", "-d", ref)


def forget_unreachable(where: Path) -> None:
    """Drop unreachable objects, as gc does after weeks: only objects that our refs keep remain."""
    run_git(where, "reflog", "expire", "--expire=now", "--all")
    run_git(where, "prune", "--expire=now")


def make_writable(top: Path) -> None:
    for directory, _, _ in os.walk(top):
        if not os.path.islink(directory):
            os.chmod(directory, os.stat(directory).st_mode | 0o700)


def each_lost_alone(ws: Workspace, losses: Sequence[Loss]) -> Iterator[tuple[Loss, Workspace]]:
    """The workspace once for each loss, at its own place and as it is now: copies, but the first time.

    All that it consists of is below one directory, which becomes ``WAY-lost`` beside it.
    """
    top = ws.outside.parent
    for position, loss in enumerate(losses):
        following = losses[position + 1 :]
        if following:
            subprocess.run(["cp", "-a", "--", top, top.with_name("next")], check=True)
        yield loss, copy.copy(ws)
        if following:
            top.rename(top.with_name(f"{loss.value}-lost"))
            top.with_name("next").rename(top)


def lose(ws: Workspace, loss: Loss, saved: Saved) -> tuple[Path, tuple[str, ...]]:
    """Destroy the workspace; returns where to recover from, and with which options."""
    release(ws, loss)
    where = ws.cli_path or ws.path
    if loss in (Loss.WIPED, Loss.STRIPPED):
        wipe(ws)
        if loss is Loss.STRIPPED:
            strip_operation(ws)
    elif loss is Loss.BASE:
        wipe_to_base(ws, saved)
    elif loss is Loss.REMOVED and ws.main is not None:
        make_writable(ws.path)
        shutil.rmtree(ws.path)
        run_git(ws.main, "worktree", "prune")
        forget_unreachable(ws.main)
        ws.path = ws.path.with_name("somewhere else")
        return ws.main, ("--into", str(ws.path), "--save", saved.save_id)
    elif loss is Loss.REMOVED:
        make_writable(ws.path)
        for name in os.listdir(ws.path):
            if name != ".git":
                ws.remove(name)
        forget_unreachable(ws.path)
    elif loss is Loss.CLONED:
        original, clone = ws.path, ws.path.with_name("clone")
        wanted = ["refs/gitstate/*:refs/gitstate/*"]
        if ws.refs("refs/notes/gitstate"):
            wanted.append("refs/notes/gitstate:refs/notes/gitstate")
        run_git(ws.outside, "clone", "-q", "--no-local", original, clone)
        run_git(clone, "fetch", "-q", "origin", *wanted, "+refs/heads/*:refs/remotes/origin/*")
        original.rename(ws.outside / "the lost one")
        ws.path = clone
        return clone, ()
    return where, ()
