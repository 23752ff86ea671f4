"""What gitstate does in the hooks of git: update the context, clear a stale marker, refuse what buries a pending save
(a commit, a merge, a rebase) and a push of one.

The shim (`hooks/git/gitstate-hook`) calls this only if its cheap tests say that there may be something to do. An error
becomes one line on stderr and never stops git; only the refusals do, and git's own `--no-verify` passes them. While no
save is pending, little is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import EXIT_DONE, EXIT_PERSON, GitstateError, words_of
from ..format.names import NOTES, OWN, SAVE_TRAILER, branch_name, own_marker
from ..git import refs
from ..git.command import Git, Oid, is_oid
from ..git.opening import open_repository
from ..git.repository import Repository, head_of, read_head
from ..objects.reader import ObjectReader, commit_head
from ..workspace.live_context import FINISHED, read_live_context, replace_context, with_measured_fields

if TYPE_CHECKING:
    pass

#: The events whose hooks call gitstate.
EVENTS = (
    *("post-commit", "post-checkout", "post-merge", "post-rewrite", "post-applypatch"),
    *("pre-commit", "pre-push", "pre-merge-commit", "pre-rebase"),
)
#: The events for which git writes to the stdin of the hook.
READ_STDIN = frozenset(("pre-push", "post-rewrite"))
#: How much of the stdin of a pre-push hook is read, in bytes.
_MAX_PUSH = 16 << 20
_NAMED = 10
#: Seconds that a hook waits for another gitstate in the workspace. Then it leaves the marker to the next hook.
_WAIT = 1.0

_SAVE_ID = f"%(trailers:key={SAVE_TRAILER},valueonly,separator=%x20)"


class Refusal(NamedTuple):
    """Why git must stop: lines for a person."""

    lines: tuple[str, ...]


def run(event: str, arguments: Sequence[str], say: Callable[..., None]) -> int:
    """Carry out one event in the current directory, where git calls the hook. `say` takes lines for a person.

    Returns the status for the shim: 4 if git must stop, else 0, even after an error.
    """
    try:
        repository = open_repository(os.fsencode(os.getcwd()))
        if event in _BURYING:
            refusal = refuse_burying(repository, event, arguments)
        elif event == "pre-push":
            pushed = os.fdopen(os.dup(0), "rb").read(_MAX_PUSH)
            refusal = refuse_push(repository, pushed, arguments[0] if arguments else "")
        else:
            say(*follow(repository))
            return EXIT_DONE
    except (GitstateError, OSError, ValueError) as error:
        say(f"gitstate: {event}: {words_of(error)}; git goes on")
        return EXIT_DONE
    if refusal is None:
        return EXIT_DONE
    say(*refusal.lines)
    return EXIT_PERSON


# -- the refusals


class _Burying(NamedTuple):
    """What one event does to the WIP commit of a pending save, and how to go on."""

    what: str
    before: str
    """What undoes the beginning of it, before the recovery; empty where nothing has begun."""
    after: str
    """What is to be said after the recovery; empty where nothing is."""
    anyway: str


_BURYING = {
    "pre-commit": _Burying("a commit on top would bury that work", "", "", "to bury it anyway: git commit --no-verify"),
    "pre-merge-commit": _Burying(
        "the merge would bury that work",
        "git merge --abort && ",
        ", then merge again",
        "to bury it anyway, first abort: git merge --no-verify, git pull --no-verify",
    ),
    "pre-rebase": _Burying(
        "the rebase would rewrite the commits of that save",
        "",
        ", commit or stash the work, then rebase again",
        "to rewrite them anyway: git rebase --no-verify",
    ),
}


def refuse_burying(repository: Repository, event: str, arguments: Sequence[str] = ()) -> Refusal | None:
    """Refuse what would bury the WIP commit of a pending save, or rewrite it. `arguments` are those of the hook."""
    ref = read_head(repository.git_dir)
    head = head_of(repository.toplevel)
    if event == "pre-rebase" and len(arguments) > 1:
        # `git rebase UPSTREAM BRANCH` checks the branch out later.
        ref = arguments[1] if arguments[1].startswith("refs/") else f"refs/heads/{arguments[1]}"
        head = refs.read_refs(repository, [ref]).get(ref)
    found = None if head is None else _pending_at(repository, head)
    if head is None or found is None:
        return None
    kind, save_id = found
    burying = _BURYING[event]
    where = branch_name(ref) if ref else "a detached HEAD"
    by_git = "git reset HEAD~1" if kind == "WIP" else "git reset --soft HEAD~1"
    return Refusal(
        (
            f"gitstate: {where} is at {head[:12]}, the {kind} commit of the pending save {save_id}",
            f"  {burying.what}; nothing was changed",
            f"  next: {burying.before}gitstate recover{burying.after}   (or, without gitstate: {by_git})",
            f"  {burying.anyway}",
        )
    )


def _pending_at(repository: Repository, commit: Oid) -> tuple[str, str] | None:
    """What a commit is to a pending save, `WIP` or `index`, and the id of that save; None if it is neither."""
    save_id = _save_id(repository.git, commit)
    if not save_id:
        return None
    from ..format.archive import pending_archives

    pending = pending_archives(repository.git).values()
    with ObjectReader(repository.git) as reader:
        found = next((kind for archive in pending if (kind := _kind(commit, archive, reader)) is not None), None)
    return None if found is None else (found, save_id)


def _kind(commit: Oid, archive: Oid, reader: ObjectReader) -> str | None:
    """Whether a commit is the `WIP` or the `index` commit of a save in the stack that a marker names."""
    from ..format.archive import read_stack

    try:
        stack = read_stack(archive, reader)
    except GitstateError:
        # An unreadable save cannot be buried.
        return None
    if any(commit == save.wip for save in stack):
        return "WIP"
    return "index" if any(commit == save.manifest.index_commit for save in stack) else None


def _save_id(git: Git, commit: Oid) -> str:
    """The save id in the trailers of a commit; an empty text if it is not a WIP commit."""
    return os.fsdecode(git.run("log", "-1", "--no-show-signature", f"--format={_SAVE_ID}", commit, "--")).strip()


class Carried(NamedTuple):
    """A ref that a push would send, and the WIP commit in its history."""

    ref: str
    commit: Oid
    save_id: str


def refuse_push(repository: Repository, pushed: bytes, remote: str) -> Refusal | None:
    """Refuse a push of a WIP commit, which would publish unfinished work. `pushed` is the stdin of a pre-push hook.

    Refs of gitstate itself are let through: somebody named them on purpose.
    """
    found = carried(repository.git, updates(pushed), remote)
    if not found:
        return None
    lines = ["gitstate: this push would publish unfinished work; nothing was pushed"]
    lines += [
        f"  {branch_name(item.ref)} carries the WIP commit {item.commit[:12]} (save {item.save_id})"
        for item in found[:_NAMED]
    ]
    if len(found) > _NAMED:
        lines.append(f"  and {len(found) - _NAMED} more")
    lines.append("  next: gitstate recover, then push again; to publish it anyway: git push --no-verify")
    return Refusal(tuple(lines))


class Pushed(NamedTuple):
    """One line of the stdin of a pre-push hook."""

    ref: str
    oid: Oid
    known: Oid | None
    """The commit of that ref on the remote; None if the remote has no such ref."""


def updates(pushed: bytes) -> list[Pushed]:
    """What a push would send, without deletions and refs of gitstate (githooks(5), pre-push)."""
    found = []
    for line in pushed.split(b"\n"):
        words = os.fsdecode(line).split(" ")
        if len(words) != 4 or not is_oid(words[1]) or not is_oid(words[3]):
            continue
        local, oid, remote, known = words
        if oid.strip("0") and not local.startswith((OWN, NOTES)):
            # The local name may not be a ref, such as HEAD. Then the name on the remote says more.
            name = local if local.startswith("refs/") else remote
            found.append(Pushed(name, oid, known if known.strip("0") else None))
    return found


def carried(git: Git, pushed: Sequence[Pushed], remote: str) -> list[Carried]:
    """The WIP commits that the remote does not have yet, each with the first of `pushed` that contains it."""
    if not pushed:
        return []
    names = {item.oid: item.ref for item in reversed(pushed)}
    revisions = "".join(f"{oid}\n" for oid in names) + "".join(f"^{item.known}\n" for item in pushed if item.known)
    known = ("--not", f"--remotes={remote}") if remote else ()
    form = f"--format=%H %S {_SAVE_ID}"
    argv = ("log", "--no-show-signature", "--source", form, f"--grep=^{SAVE_TRAILER}: ", "--ignore-missing", "--stdin")
    out = git.run(*argv, *known, input=revisions.encode("ascii"))
    found = []
    for line in os.fsdecode(out).splitlines():
        commit, source, save_id = [*line.split(" ", 2), "", ""][:3]
        if save_id.strip():
            found.append(Carried(names.get(source, source), commit, save_id.strip()))
    return found


# -- keeping the context up to date


def follow(repository: Repository) -> tuple[str, ...]:
    """After HEAD may have moved: clear a marker that is provably stale, or update the context and the state file.

    Returns lines for a person.
    """
    marker = own_marker(repository)
    archive = refs.read_refs(repository, [marker]).get(marker)
    if archive is not None:
        from ..recover.stale import clear_if_stale
        from ..system.clock import Deadline
        from ..workspace.ownership import locked_workspace

        with locked_workspace(repository, Deadline(_WAIT)) as git, ObjectReader(repository.git) as reader:
            clear_if_stale(repository, git, reader, marker, archive)
        # Until the pending save is recovered or cleared, the state file describes that save.
        return _buried_by_a_pick(repository)
    live, status = read_live_context(repository)
    if status is None or status == FINISHED:
        return ()
    ref = read_head(repository.git_dir)
    head = head_of(repository.toplevel)
    context = with_measured_fields(repository, live, ref)
    extra = {**live.extra, "base_commit": head}
    if context.branch_name != live.branch_name or extra != dict(live.extra):
        replace_context(repository, context._replace(extra=extra), status)
    return ()


def _buried_by_a_pick(repository: Repository) -> tuple[str, ...]:
    """What to say of a pick, a revert or a patch on top of a WIP commit: git asks no hook that may refuse it."""
    argv = ("log", "-1", "--no-show-signature", "--walk-reflogs", "--format=%gs", "HEAD", "--")
    what = os.fsdecode(repository.git.run(*argv, ok_codes=(0, 128))).partition(":")[0]
    head = head_of(repository.toplevel)
    if head is None or what not in ("cherry-pick", "revert", "am"):
        return ()
    with ObjectReader(repository.git) as reader:
        parents = commit_head(reader.commit(head) or b"").parents
    found = _pending_at(repository, parents[0]) if parents else None
    if found is None:
        return ()
    return (
        f"gitstate: this git {what} buried the pending save {found[1]}; nothing is lost",
        f"  next: git reset --keep {parents[0][:12]} && gitstate recover, then git {what} again",
    )
