"""What git is asked about a worktree before anything else is ready: what is tracked, and what changed."""

from __future__ import annotations

import os

from ..errors import GitError
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..system.child import Child
    from .repository import Repository


class StatusQuery(Record):
    """Git, asked what is tracked and what changed: it works while the caller goes on."""

    listing: Child
    status: Child

    def end(self) -> None:
        """Nobody waits for the answers any more."""
        for child in self:
            child.kill()
            child.wait()


def ask(repository: Repository, frozen_index: bytes) -> StatusQuery:
    """Ask both about the index at `frozen_index`."""
    extra = {"GIT_INDEX_FILE": os.fsdecode(frozen_index)}
    listing = repository.git.start("ls-files", "-z", "-v", "--sparse", env=extra)
    return StatusQuery(listing, start_status(repository, extra))


def start_status(repository: Repository, extra: Mapping[str, str], *options: str, submodules: bool = True) -> Child:
    """Begin `git status` under `options`; without `submodules` it looks into none."""
    # One thread for git: with its twenty it takes every core, and the walk beside it waits.
    return repository.git.start(
        *("-c", "core.preloadIndex=false", *options),
        *("status", "--porcelain=v2", "-z", "--branch", "--no-ahead-behind", "-uno", "--no-renames"),
        "--ignore-submodules=none" if submodules else "--ignore-submodules=dirty",
        env=extra,
    )


def ignored_among(repository: Repository, paths: Sequence[bytes]) -> set[bytes]:
    """Which of `paths` (relative to the top) git ignores, whether they are tracked or not.

    A path behind a symlink or in a submodule makes git refuse the whole question: such a one is not ignored.
    """
    if not paths:
        return set()
    try:
        out = repository.git.run(
            "check-ignore",
            "--no-index",
            "-z",
            "--stdin",
            input=b"".join(b"./%s\0" % path for path in paths),
            env={"GIT_LITERAL_PATHSPECS": "0"},
            ok_codes=(0, 1),
        )
    except GitError:
        middle = len(paths) // 2
        halves = (paths[:middle], paths[middle:]) if middle else ()
        return {path for half in halves for path in ignored_among(repository, half)}
    return {path.removeprefix(b"./") for path in out.split(b"\0")[:-1]}


def are_ignored(asking: Child, paths: list[bytes]) -> list[bool]:
    """Whether each path is ignored. Small portions, so that neither side of the pipes fills up."""
    assert asking.stdin is not None and asking.stdout is not None
    answers: list[bool] = []
    pending: list[bytes] = []
    size = 0
    rest = b""

    def collect() -> None:
        nonlocal rest
        assert asking.stdin is not None and asking.stdout is not None
        asking.stdin.write(b"".join(path + b"\0" for path in pending))
        asking.stdin.flush()
        fields: list[bytes] = []
        while len(fields) < 4 * len(pending):
            data = os.read(asking.stdout.fileno(), 1 << 16)
            if not data:
                raise GitError(["check-ignore"], -1, asking.stderr.read() if asking.stderr else b"")
            *whole, rest = (rest + data).split(b"\0")
            fields += whole
        for place in range(0, len(fields), 4):
            pattern = fields[place + 2]
            answers.append(bool(pattern) and not pattern.startswith(b"!"))

    for path in paths:
        # The dot slash keeps a leading colon from being read as pathspec magic.
        path = b"./" + path.removesuffix(b"/")
        pending.append(path)
        size += len(path) + 1
        if size > 8192:
            collect()
            pending, size = [], 0
    if pending:
        collect()
    return answers
