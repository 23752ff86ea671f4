"""What a state declares: its builder, the losses it must survive, what may be skipped; and the table of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git, to_bytes


class Loss(Enum):
    """What happens to the workspace between save and recover."""

    IN_PLACE = "in_place"  # nothing: the process died, the files are there
    WIPED = "wiped"  # git reset --hard, git clean -ffdx: the files of the WIP commit, where the branch was moved
    BASE = "base"  # the same, and the branch is back where it was before the save
    STRIPPED = "stripped"  # the same, and every file of an unfinished operation is gone as well
    REMOVED = "removed"  # the worktree's directory is gone
    CLONED = "cloned"  # the host is lost; a clone that fetched gitstate's refs is all there is
    PLAIN = "plain"  # no gitstate any more, only git: the two resets


EVERYWHERE = frozenset({Loss.IN_PLACE, Loss.WIPED, Loss.BASE, Loss.REMOVED, Loss.CLONED, Loss.PLAIN})

LOCAL = EVERYWHERE - {Loss.CLONED}  # leans on the repository's own config, which no clone has

HERE = frozenset({Loss.IN_PLACE, Loss.WIPED})

#: What a run without the slow tests tries on each state; the other combinations are marked slow.
QUICK = HERE

Builder = Callable[[Workspace], None]


@dataclass(frozen=True)
class State:
    name: str
    build: Builder
    #: What this state must survive exactly, but for what is listed as left out.
    losses: frozenset[Loss] = EVERYWHERE
    #: Losses that a quick run tries as well.
    quick: frozenset[Loss] = QUICK
    #: Whether a save moves the branch; None where either is right.
    moves: bool | None = True
    #: Paths that cannot be saved and must be listed as left out (they, or a directory above them).
    left_out: frozenset[bytes] = frozenset()
    #: Paths that may be listed as left out; where they are not, they must survive.
    may_leave_out: frozenset[bytes] = frozenset()
    save_exits: frozenset[int] = frozenset({0})
    recover_exits: frozenset[int] = frozenset({0})
    template: str = "sha1"
    #: The name of the workspace's directory.
    directory: str = "repo"
    #: Also tried in a linked worktree.
    linked: bool = False
    #: ``git status`` may not be empty after a save that moved the branch, or cannot be asked without running a filter.
    status_says_more: bool = False
    #: Git leaves its files alone while their stat data is the index's, and would fail at a copy, or write it anew.
    no_copies: bool = False
    slow: bool = False
    why_not: Callable[[], str | None] = lambda: None


STATES: dict[str, State] = {}


def state(**metadata: Any) -> Callable[[Builder], Builder]:
    """Register a builder under its function's name."""
    for name in ("left_out", "may_leave_out"):
        if name in metadata:
            metadata[name] = frozenset(to_bytes(path) for path in metadata[name])
    for name in ("save_exits", "recover_exits", "losses", "quick"):
        if name in metadata:
            metadata[name] = frozenset(metadata[name])

    def register(build: Builder) -> Builder:
        name = build.__name__
        assert name not in STATES, name
        STATES[name] = State(name=name, build=build, **metadata)
        return build

    return register


def operation(**metadata: Any) -> Callable[[Builder], Builder]:
    """Register a state with an unfinished operation: no branch moves, and the operation's files may be gone too."""
    losses = {Loss.IN_PLACE, Loss.WIPED, Loss.STRIPPED, Loss.REMOVED, Loss.CLONED}
    return state(**{"moves": False, "losses": losses, "quick": HERE | {Loss.STRIPPED}} | metadata)


def make(kind: State, templates: Templates, top: Path, *, linked: bool = False) -> Workspace:
    """A fresh workspace in the given state."""
    outside = top / "outside"
    outside.mkdir(parents=True)
    path = top / kind.directory
    if linked:
        main = top / "main"
        templates.copy(kind.template, main)
        run_git(main, "checkout", "-q", "main")
        run_git(main, "worktree", "add", "-q", "--", path, "agent/work")
        ws = Workspace(path, outside, main=main)
    else:
        templates.copy(kind.template, path)
        ws = Workspace(path, outside)
    kind.build(ws)
    return ws


NO_PLAIN = EVERYWHERE - {Loss.PLAIN}
