"""What `push` and `fetch` share: a git remote that a person named. Only refs of gitstate are moved.

No branch is pushed or fetched. The commits below a save come along, because the save reaches them. The lock of the
workspace is not held meanwhile: a remote may take minutes, and git may leave a process behind that keeps passwords.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ..errors import GitError, GitstateError, UsageError
from ..format.bounds import check_tree
from ..format.names import NOTES, OWN, PENDING, SAVES, parse_ref, without_password, workspace_id
from ..git import refs
from ..git.command import Git, Oid, is_oid, switch_off
from ..git.refs import RefUpdate
from ..git.repository import Repository
from ..objects.notes import NotesRef
from ..objects.reader import LARGE, ObjectReader
from ..system.process import descendants
from ..system.stdlib import quote
from ..workspace import settings

#: Refspecs on one command line, whose length is limited. Each takes some hundred bytes.
_AT_ONCE = 200
#: Fetches nothing that was not named.
FETCH = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--recurse-submodules=no", "--no-auto-gc")
#: A remote with more refs of gitstate than this is refused.
_MOST = 100_000


class NotSent(NamedTuple):
    """A ref that did not reach the remote."""

    ref: str
    reason: str
    """For a person; it may hold the words of the remote."""
    held_back: bool
    """It was not sent at all. Else the remote, or a pre-push hook, refused it."""

    @property
    def is_marker(self) -> bool:
        """Whether it says that a save is pending."""
        return self.ref.startswith(PENDING)

    @property
    def name(self) -> str:
        """What it is called for a person."""
        name = parse_ref(self.ref)
        if name is None:
            return "the notes" if self.ref == NOTES else "what is inside"
        kind = "the pending save" if name.kind == "pending" else f"the {name.kind}"
        return f"{kind} {name.save_id or ''}".strip()


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
    not_sent: tuple[NotSent, ...] = ()
    """What did not reach the remote, with the reason."""
    held: int = 0
    """How many saves of this workspace the remote had already."""


def exchange(
    remote: str,
    moved: Mapping[str, Oid],
    *,
    done: Sequence[str] = (),
    notes: bool = False,
    not_sent: Sequence[NotSent] = (),
    held: int = 0,
) -> Exchange:
    """The answer for the refs that were moved, by their names on the remote."""
    saves = tuple(sorted(ref.rpartition("/")[2] for ref in moved if ref.startswith(SAVES)))
    waiting = tuple(sorted(ref.removeprefix(PENDING) for ref in moved if ref.startswith(PENDING)))
    recovered = tuple(ref.removeprefix(PENDING) for ref in done)
    return Exchange(without_password(remote), saves, waiting, recovered, notes, tuple(not_sent), held)


def named_remote(repository: Repository, named: str | None, command: str) -> str:
    """The remote that was named to `command`, or that `gitstate.remote` names. Raises UsageError where none is."""
    remote = settings.remote(repository, named)
    if remote is None:
        raise UsageError(
            "no remote is named, and saves may hold secrets: nothing was sent or fetched",
            hint=f"gitstate {command} REMOTE, or: git config gitstate.remote REMOTE",
        )
    return remote


def offered(git: Git, remote: str) -> dict[str, Oid]:
    """The refs of gitstate on a remote. Refs with names that gitstate does not write are ignored."""
    try:
        out = git.run("ls-remote", "--quiet", "--refs", "--", remote, f"{OWN}*", NOTES)
    except GitError as error:
        raise unreachable(remote, error) from None
    found = {}
    for line in out.split(b"\n")[:-1]:
        oid, _, name = line.decode("utf-8", "replace").partition("\t")
        if is_oid(oid) and (name == NOTES or parse_ref(name) is not None):
            found[name] = oid
        if len(found) > _MOST:
            name = without_password(remote)
            raise GitstateError(f"{name} offers more than {_MOST} saves", hint="gitstate prune, on the other host")
    return found


def unreachable(remote: str, error: GitError) -> GitstateError:
    """The error where git could not talk to a remote, with git's own words; where a lock here was in its way, that."""
    if b"Unable to create '" in error.stderr:
        return error
    name = without_password(remote)
    return GitstateError(f"{name}: {reason_of(error)}; nothing was lost", hint=f"git ls-remote {quote(name)}")


#: Words in the stderr of git that say nothing about the cause.
_EMPTY_WORDS = ("Please make sure", "and the repository exists", "error: failed to push some refs", "To ", "Done")
_MOST_REASON = 500


def reason_of(error: GitError) -> str:
    """Why git failed, in one line: what the remote said, else what git said."""
    lines = [line.strip() for line in error.stderr.decode("utf-8", "replace").splitlines()]
    told = [line.removeprefix("remote:").strip() for line in lines if line.startswith("remote:")]
    rest = [line for line in lines if line and not line.startswith(("remote:", *_EMPTY_WORDS))]
    words = [_rejected(line) for line in dict.fromkeys([*told, *rest]) if line]
    return "; ".join(words)[:_MOST_REASON] or f"git ended with status {error.status}"


def _rejected(line: str) -> str:
    """A line of git on a ref that was rejected, without the name of the ref: the reason alone."""
    return line.rpartition(" (")[2].removesuffix(")") if line.startswith("! [") and line.endswith(")") else line


#: What a remote sends may build on objects that a partial clone lacks, and what it is sent may hold them: git fetches
#: them then.
LAZY = {"GIT_NO_LAZY_FETCH": "0"}


@contextmanager
def ended_with_its_gits() -> Iterator[None]:
    """A signal that ends this program ends its gits, and what they started, as ssh: else the exchange would go on."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        for pid in descendants(os.getpid()):
            with suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        os.kill(os.getpid(), number)

    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in heard:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)


def lazy_options(repository: Repository) -> tuple[str, ...]:
    """Options for a git that fetches what a partial clone lacks: else it would write a filter into the settings."""
    names = (f"remote.{promisor}.partialclonefilter" for promisor in repository.promisors())
    return tuple(switch_off(name) for name in names if name not in repository.config)


def fetch_refs(repository: Repository, remote: str, refspecs: Sequence[str]) -> None:
    """Fetch these refspecs, and nothing else. Raises GitstateError."""
    try:
        # The filter of a partial clone would leave out what the refs name.
        argv = (*lazy_options(repository), *FETCH, "--no-filter", "--", remote, *refspecs)
        repository.git.run(*argv, env=LAZY)
    except GitError as error:
        raise unreachable(remote, error) from None


def take_notes(repository: Repository, git: Git, remote: str) -> None:
    """Add the notes of a remote to those of this repository; what both have stays.

    Raises CorruptSave where there are too many, GitstateError.
    """
    theirs = offered(git, remote).get(NOTES)
    if theirs is None:
        return
    # Without a ref of its own: gc leaves objects alone that are as young as these.
    fetch_refs(repository, remote, [NOTES])
    with ObjectReader(git) as reader:
        check_tree(reader, reader.tree_of(theirs, LARGE))
    current = refs.read_refs(repository, [NOTES]).get(NOTES)
    if current == theirs or (current and git.succeeds("merge-base", "--is-ancestor", theirs, current)):
        return
    if current is None or git.succeeds("merge-base", "--is-ancestor", current, theirs):
        refs.move_refs(repository, git, [RefUpdate(NOTES, theirs, current)], "fetch")
    else:
        NotesRef(repository, NOTES, workspace_id(repository)).join(git, theirs)


def chunks(names: Sequence[str]) -> list[Sequence[str]]:
    """The names in portions that fit on one command line."""
    return [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
