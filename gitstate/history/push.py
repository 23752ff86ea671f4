"""`push`: the saves of this workspace to a git remote. Nothing is held back, refused or lost without a word.

Each save goes on its own where not all are taken at once, so that one which the remote refuses blocks no other. If a
pending save of the remote was recovered here, its marker is removed there, so that no third host recovers it again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence

from ..errors import GitError, GitstateError
from ..format.fetched import Fetched, fetched_saves
from ..format.names import (
    CHECKPOINTS,
    CONVERSATIONS,
    INSIDE,
    NOTES,
    PENDING,
    SAVES,
    parse_ref,
    remote_name,
    workspace_id,
)
from ..git import refs
from ..git.command import Git, Oid, hooks_off, try_in_halves
from ..git.repository import Repository, hooks_path
from .guarded import held_back
from .remote import (
    LAZY,
    Exchange,
    NotSent,
    chunks,
    exchange,
    lazy_options,
    named_remote,
    offered,
    reason_of,
    take_notes,
)

#: How often the notes are merged and pushed again, where other hosts push theirs at the same time.
_TRIES = 40
#: What git says where another push holds a lock: the same push works in a moment.
_BUSY = ("cannot lock ref", "unable to lock", "failed to lock", "unable to create", "fetch first", "non-fast-forward")
#: A refusal is looked at more closely by at most so many pushes.
_MOST_PUSHES = 200


def push(
    repository: Repository,
    named: str | None,
    *,
    dry_run: bool = False,
    allow_secrets: bool = False,
    with_conversation: bool = False,
) -> Exchange:
    """Push the saves, the marker and the checkpoint of this workspace, and the notes; its conversations where asked.

    Raises UsageError if no remote is named, GitstateError if git cannot reach it.
    """
    remote = named_remote(repository, named, "push")
    git = with_hooks(repository)
    place = _pushed_to(repository.git, remote)
    theirs = offered(repository.git, place)
    ours = refs.list_refs(git, SAVES, PENDING, CHECKPOINTS)
    talks = refs.list_refs(git, CONVERSATIONS) if with_conversation else {}
    mine = {ref: oid for ref, oid in ours.items() if _workspace_of(ref) == workspace_id(repository)}
    going = {ref: oid for ref, oid in mine.items() if theirs.get(ref) != oid}
    back = held_back(repository, set(going.values()), allow_secrets=allow_secrets)
    not_sent = [NotSent(ref, back[oid], True) for ref, oid in going.items() if oid in back]
    going = {ref: oid for ref, oid in going.items() if oid not in back}
    in_the_way = [ref for ref in going if ref.startswith(PENDING) and _is_strange(theirs.get(ref), ours)]
    not_sent += [NotSent(ref, _IN_THE_WAY, True) for ref in in_the_way]
    going = {ref: oid for ref, oid in going.items() if ref not in in_the_way}
    going |= {
        ref: oid
        for ref, oid in talks.items()
        if _workspace_of(ref) == workspace_id(repository) and theirs.get(ref) != oid
    }
    done = recovered_here(theirs, ours, fetched_saves(git, remote_name(remote)))
    notes = refs.read_refs(repository, [NOTES]).get(NOTES)
    if not dry_run:
        sender = _Sender(git, remote, place, theirs, lazy_options(repository))
        sender.send(going)
        stays = sender.remove(done)
        done = [ref for ref in done if ref not in stays]
        not_sent += [NotSent(ref, f"{_STAYS}: {reason}", False) for ref, reason in stays.items()]
        not_sent += [NotSent(ref, reason, False) for ref, reason in sender.refused.items()]
        going = {ref: oid for ref, oid in going.items() if ref not in sender.refused}
        if notes is not None and (reason := _push_notes(repository, sender)) is not None:
            not_sent.append(NotSent(NOTES, reason, False))
    sent = {ref.removeprefix(SAVES) for ref in going if ref.startswith(SAVES)}
    inside = refs.list_refs(git, INSIDE) if sent else {}
    not_sent += [NotSent(ref, _INSIDE, True) for ref in inside if ref.removeprefix(INSIDE) in sent]
    held = sum(ref.startswith(SAVES) for ref, oid in mine.items() if theirs.get(ref) == oid)
    return exchange(remote, going, done=done, notes=notes is not None, not_sent=not_sent, held=held)


_INSIDE = "the repositories inside the workspace are not sent with its save: push their branches to their own remotes"
_STAYS = "it is still pending there, although it was recovered here"
_IN_THE_WAY = "another save is pending there under the name of this workspace: gitstate fetch, then gitstate recover"


def _pushed_to(git: Git, remote: str) -> str:
    """Where a push to a remote goes: its URL where that is not the one to fetch from (`remote.<name>.pushurl`)."""
    urls = [git.run("remote", "get-url", *option, "--", remote, ok_codes=(0, 2)) for option in ((), ("--push",))]
    fetched, pushed = (os.fsdecode(out).strip() for out in urls)
    return remote if fetched == pushed else pushed


def _is_strange(oid: Oid | None, ours: Mapping[str, Oid]) -> bool:
    """Whether a marker on the remote names a save that this repository does not have."""
    return oid is not None and oid not in ours.values()


def with_hooks(repository: Repository) -> Git:
    """How git is run for a push: with the pre-push hook of the repository, which may refuse it.

    Hooks of a repository that belongs to somebody else are not run.
    """
    if repository.stranger is not None:
        return repository.git
    hooks = os.fsdecode(hooks_path(repository).directory)
    # Those of the configuration run as well (`man git-hook`).
    off = hooks_off(repository.config)
    options = [option for option in repository.git.options if option not in off]
    return Git(repository.toplevel, (*options, "-c", f"core.hooksPath={hooks}"))


def recovered_here(theirs: Mapping[str, Oid], ours: Mapping[str, Oid], fetched: Fetched) -> list[str]:
    """The markers of a remote whose save was made or fetched here, and was recovered or dismissed here."""
    held = {oid for ref, oid in ours.items() if ref.startswith(SAVES)}
    done = {PENDING + item.workspace_id: item.archive for item in fetched.recovered}
    return [
        ref
        for ref, oid in theirs.items()
        if ref.startswith(PENDING) and ((ref not in ours and oid in held) or done.get(ref) == oid)
    ]


def _workspace_of(ref: str) -> str | None:
    """The workspace id in the name of a ref of gitstate; None for any other ref."""
    name = parse_ref(ref)
    return None if name is None else name.workspace_id


class _Sender:
    """Pushes refs to one remote, in as few pushes as it takes."""

    def __init__(self, git: Git, remote: str, place: str, theirs: Mapping[str, Oid], lazy: Sequence[str]) -> None:
        """`theirs` are the refs of the remote, at `place`; `lazy` options for a git that may fetch what is not here."""
        self._git = git
        self._lazy = lazy
        self._theirs = theirs
        self._remote = remote
        #: Where a push goes, to be read from.
        self.place = place
        self._pushes = 0
        self._reason = ""
        #: The refs that did not go, with the reason.
        self.refused: dict[str, str] = {}

    def send(self, going: Mapping[str, Oid]) -> None:
        """Push these refs: first the saves, then the checkpoint and the marker of those that went."""
        # The marker is last: a host that sees it must find the save.
        for markers in (False, True):
            some = sorted(ref for ref in going if ref.startswith((SAVES, CONVERSATIONS)) != markers)
            refused = {going[ref]: reason for ref, reason in self.refused.items()}
            self.refused |= {ref: refused[going[ref]] for ref in some if going[ref] in refused}
            for portion in chunks([ref for ref in some if ref not in self.refused]):
                for refs_tried, went in try_in_halves(portion, self._push):
                    if went is None:
                        self.refused.setdefault(refs_tried[0], self._reason)

    def remove(self, markers: Sequence[str]) -> dict[str, str]:
        """Remove markers from the remote, if no other host has done so meanwhile; returns why one is still there."""
        stays = {}
        for ref in markers:
            reason = self.run(f"--force-with-lease={ref}:{self._theirs[ref]}", refspecs=[f":{ref}"])
            if reason is not None and offered(self._git, self.place).get(ref) == self._theirs[ref]:
                stays[ref] = reason
        return stays

    def _push(self, some: Sequence[str]) -> bool | None:
        """Whether all of these refs went; None where one did not."""
        if self._pushes >= _MOST_PUSHES:
            self._reason = "not tried: the remote refused too many others"
            return None
        self._pushes += 1
        # None is replaced that another host has moved meanwhile.
        leases = [f"--force-with-lease={ref}:{self._theirs.get(ref, '')}" for ref in some]
        reason = self.run(*leases, refspecs=[f"{ref}:{ref}" for ref in some])
        if reason is None:
            return True
        self._reason = reason
        return None

    def run(self, *options: str, refspecs: Sequence[str]) -> str | None:
        """Push once, and again where another push was in the way; returns why it failed, None where it did not."""
        for attempt in range(_TRIES):
            try:
                self.once(*options, refspecs=refspecs)
                return None
            except GitError as error:
                if not is_busy(error) or attempt == _TRIES - 1:
                    return reason_of(error)
                pause(attempt)
        return None

    def once(self, *options: str, refspecs: Sequence[str]) -> None:
        """One push. Raises GitError."""
        # The environment goes to the hook too, which is the user's program: it gets git as the user knows it.
        env = {"GIT_LITERAL_PATHSPECS": "0", "GIT_OPTIONAL_LOCKS": "1", **LAZY}
        # A remote that is a mirror takes no refspecs, and what is pushed here is named.
        mirror = () if "=" in self._remote else ("-c", f"remote.{self._remote}.mirror=false")
        self._git.run(*mirror, *self._lazy, "push", "--quiet", *options, "--", self._remote, *refspecs, env=env)


def is_busy(error: GitError) -> bool:
    """Whether a push failed because another was faster."""
    said = error.stderr.decode("utf-8", "replace").lower()
    return any(words in said for words in _BUSY)


def pause(attempt: int) -> None:
    """Wait before another attempt; not as long as the others that were in the way."""
    time.sleep(random.uniform(0.01, min(2.0, 0.05 * 1.5**attempt)))


def _push_notes(repository: Repository, sender: _Sender) -> str | None:
    """Push the notes, merged with those of the remote as often as it takes; returns why they did not go."""
    reason = "others kept changing the notes of the remote"
    for attempt in range(_TRIES):
        try:
            take_notes(repository, repository.git, sender.place)
            sender.once(refspecs=[f"{NOTES}:{NOTES}"])
            return None
        except GitError as error:
            reason = reason_of(error)
            if not is_busy(error):
                return reason
            pause(attempt)
        except GitstateError as error:
            return error.message
    return reason
