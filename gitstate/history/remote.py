"""`push` and `fetch`: saves to and from a git remote that a person named. Only refs of gitstate are moved.

No branch is pushed or fetched. The commits below a save come along, because the save reaches them. If a pending save of
the remote was recovered here, the next push removes its marker there, so that no third host recovers it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import GitstateError, UsageError
from ..format.names import CHECKPOINTS, NOTES, OWN, PENDING, SAVES, parse_ref, workspace_id
from ..git import refs
from ..git.command import Git
from ..git.oid import Oid, is_oid
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.notes import NotesRef
from ..system.clock import Deadline
from ..workspace import settings
from ..workspace.ownership import locked_workspace
from ..workspace.peek import worktree_ids

#: Refspecs on one command line, whose length is limited. Each takes some hundred bytes.
_AT_ONCE = 200
#: A remote with more refs of gitstate than this is refused.
_MOST = 100_000
_THEIRS = OWN + "remote-notes"


class Exchange(NamedTuple):
    """What was sent or fetched."""

    remote: str
    saves: tuple[str, ...]
    """The ids of the saves."""
    waiting: tuple[str, ...]
    """The ids of the workspaces whose pending save was sent or fetched."""
    recovered: tuple[str, ...] = ()
    """The ids of the workspaces whose marker was removed from the remote."""
    notes: bool = False
    """Whether there are notes."""


def push(repository: Repository, named: str | None, *, dry_run: bool = False, wait: float = 60.0) -> Exchange:
    """Push the saves, the marker and the checkpoint of this workspace, and the notes.

    Raises UsageError if no remote is named, GitError if git cannot reach it, TryAgain.
    """
    remote = _remote(repository, named)
    own = workspace_id(repository)
    with locked_workspace(repository, Deadline(wait)) as git:
        theirs = _offered(git, remote)
        ours = refs.list_refs(git, SAVES, PENDING, CHECKPOINTS)
        mine = {ref: oid for ref, oid in ours.items() if _workspace_of(ref) == own}
        going = {ref: oid for ref, oid in mine.items() if theirs.get(ref) != oid}
        held = {oid for ref, oid in ours.items() if ref.startswith(SAVES)}
        done = [ref for ref, oid in theirs.items() if ref.startswith(PENDING) and ref not in ours and oid in held]
        notes = refs.read_refs(repository, [NOTES]).get(NOTES)
        if not dry_run:
            if notes is not None and theirs.get(NOTES) not in (None, notes):
                _take_notes(repository, git, remote)
            # The marker is last: a host that sees it must find the save.
            ordered = sorted(going, key=lambda ref: ref.startswith(PENDING))
            for some in _chunks(ordered):
                git.run("push", "--quiet", "--no-verify", "--", remote, *(f"+{ref}:{ref}" for ref in some))
            for ref in done:
                lease = f"--force-with-lease={ref}:{theirs[ref]}"
                git.run("push", "--quiet", "--no-verify", lease, "--", remote, f":{ref}")
            if notes is not None:
                git.run("push", "--quiet", "--no-verify", "--", remote, f"{NOTES}:{NOTES}")
    return _exchange(remote, going, done, notes is not None)


def fetch(repository: Repository, named: str | None, *, dry_run: bool = False, wait: float = 60.0) -> Exchange:
    """Fetch the saves of every workspace, the notes, and the markers of workspaces on other hosts.

    A marker is not fetched if its workspace is on this host, or if its save was recovered here. Raises as `push`.
    """
    remote = _remote(repository, named)
    with locked_workspace(repository, Deadline(wait)) as git:
        theirs = _offered(git, remote)
        ours = refs.list_refs(git, SAVES, PENDING)
        known = {oid for ref, oid in ours.items() if ref.startswith(SAVES)}
        here = worktree_ids(repository.common_dir)
        coming = {
            ref: oid
            for ref, oid in theirs.items()
            if (ref.startswith(SAVES) and ref not in ours)
            or (ref.startswith(PENDING) and _workspace_of(ref) not in here and _is_new(ref, oid, ours, known))
        }
        notes = NOTES in theirs
        if not dry_run:
            for some in _chunks(sorted(coming, key=lambda ref: ref.startswith(PENDING))):
                _fetch(git, remote, [f"+{ref}:{ref}" for ref in some])
            if notes:
                _take_notes(repository, git, remote)
    return _exchange(remote, coming, (), notes)


def _workspace_of(ref: str) -> str | None:
    """The workspace id in the name of a ref of gitstate; None for any other ref."""
    name = parse_ref(ref)
    return None if name is None else name.workspace_id


def _is_new(ref: str, oid: Oid, ours: Mapping[str, Oid], known: set[Oid]) -> bool:
    """Whether a marker of the remote is news: its save is neither pending here already, nor was it recovered here."""
    return ours.get(ref) != oid and (ref in ours or oid not in known)


def _take_notes(repository: Repository, git: Git, remote: str) -> None:
    _fetch(git, remote, [f"+{NOTES}:{_THEIRS}"])
    theirs = refs.list_refs(git, _THEIRS).get(_THEIRS)
    if theirs is None:
        return
    current = refs.read_refs(repository, [NOTES]).get(NOTES)
    if current is None:
        refs.move_refs(repository, git, [RefUpdate(NOTES, theirs, None)], "fetch")
    elif current != theirs and not git.succeeds("merge-base", "--is-ancestor", theirs, current):
        NotesRef(repository, NOTES, workspace_id(repository)).join(git, theirs)
    refs.move_refs(repository, git, [RefUpdate(_THEIRS, None, theirs)], "fetch")


def _fetch(git: Git, remote: str, refspecs: Sequence[str]) -> None:
    argv = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--no-auto-gc")
    git.run(*argv, "--", remote, *refspecs)


def _offered(git: Git, remote: str) -> dict[str, Oid]:
    """The refs of gitstate on a remote. Refs with names that gitstate does not write are ignored."""
    out = git.run("ls-remote", "--quiet", "--refs", "--", remote, f"{OWN}*", NOTES)
    found = {}
    for line in out.split(b"\n")[:-1]:
        oid, _, name = line.decode("utf-8", "replace").partition("\t")
        if is_oid(oid) and (name == NOTES or parse_ref(name) is not None):
            found[name] = oid
        if len(found) > _MOST:
            raise GitstateError(f"{remote} offers more than {_MOST} saves", hint="gitstate prune, on the other host")
    return found


def _remote(repository: Repository, named: str | None) -> str:
    remote = settings.remote(repository, named)
    if remote is None:
        raise UsageError(
            "no remote is named, and saves may hold secrets: nothing was sent or fetched",
            hint="gitstate push REMOTE, or: git config gitstate.remote REMOTE",
        )
    return remote


def _chunks(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]


def _exchange(remote: str, moved: Mapping[str, Oid], done: Sequence[str], notes: bool) -> Exchange:
    saves = tuple(sorted(ref.rpartition("/")[2] for ref in moved if ref.startswith(SAVES)))
    waiting = tuple(sorted(ref.removeprefix(PENDING) for ref in moved if ref.startswith(PENDING)))
    return Exchange(remote, saves, waiting, tuple(ref.removeprefix(PENDING) for ref in done), notes)
