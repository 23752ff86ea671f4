"""What gitstate does inside git's own hooks: keep the context true, clear a stale marker, refuse two mistakes.

The shim (`hooks/git/gitstate-hook`) has found by cheap tests that there may be something to do. Whatever goes wrong
here is one line on stderr and never stops the person's git; only the two refusals do. Where no save waits, which is
nearly always, little is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import EXIT_DONE, EXIT_PERSON, GitstateError
from ..format.manifest import Save
from ..format.names import NOTES, OWN, PENDING, branch_name, marker_ref, workspace_id
from ..git import refs
from ..git.command import Git
from ..git.oid import Oid, is_oid
from ..git.refs import RefUpdate
from ..git.repository import Repository, head_of, open_repository, read_head
from ..objects.reader import ObjectReader
from ..objects.tree import DIRECTORY, GITLINK, SYMLINK, Leaf
from ..system import files
from ..workspace.live_context import read_live_context, replace_context, with_measured_fields
from ..workspace.state_file import FINISHED, RECOVERED, write_state

if TYPE_CHECKING:
    from ..workspace.files import Worktree

#: The events that gitstate takes part in.
EVENTS = ("post-commit", "post-checkout", "post-merge", "post-rewrite", "pre-commit", "pre-push")
#: Those to which git says more on stdin.
READ_STDIN = frozenset(("pre-push", "post-rewrite"))
#: No more of what git says about a push is read, in bytes.
_MAX_PUSH = 16 << 20
_NAMED = 10
#: How long a hook waits for another gitstate in the workspace before it leaves the marker to the next hook, in seconds.
_PATIENCE = 1.0

_TRAILER = "%(trailers:key=Gitstate-Save,valueonly,separator=%x20)"


class Refusal(NamedTuple):
    """Why git must not go on: lines for a person."""

    lines: tuple[str, ...]


def run(event: str, arguments: Sequence[str], say: Callable[..., None]) -> int:
    """Carry out one event in the current directory, as git calls a hook; `say` takes lines for a person.

    Returns the status for the shim: 4 where git must not go on, else 0, whatever went wrong.
    """
    try:
        repository = open_repository(os.fsencode(os.getcwd()))
        if event == "pre-commit":
            refusal = refuse_commit(repository)
        elif event == "pre-push":
            pushed = os.fdopen(os.dup(0), "rb").read(_MAX_PUSH)
            refusal = refuse_push(repository, pushed, arguments[0] if arguments else "")
        else:
            follow(repository)
            return EXIT_DONE
    except (GitstateError, OSError, ValueError) as error:
        say(f"gitstate: {event}: {error}; git goes on")
        return EXIT_DONE
    if refusal is None:
        return EXIT_DONE
    say(*refusal.lines)
    return EXIT_PERSON


# -- the two refusals


def refuse_commit(repository: Repository) -> Refusal | None:
    """A commit on top of a WIP commit that waits would bury the work that it holds."""
    head = head_of(repository.toplevel)
    if head is None:
        return None
    save_id = _save_id(repository.git, head)
    if not save_id:
        return None
    waiting = refs.list_refs(repository.git, PENDING)
    with ObjectReader(repository.git) as reader:
        found = next((kind for archive in waiting.values() if (kind := _kind(head, archive, reader)) is not None), None)
    if found is None:
        return None
    ref = read_head(repository.git_dir)
    where = branch_name(ref) if ref else "a detached HEAD"
    by_git = "git reset HEAD~1" if found == "WIP" else "git reset --soft HEAD~1"
    return Refusal(
        (
            f"gitstate: {where} is at {head[:12]}, the {found} commit of a save that waits to be recovered ({save_id})",
            "  a commit on top would bury that work; nothing was changed",
            f"  next: gitstate recover   (or, without gitstate: {by_git})",
            "  to bury it all the same: git commit --no-verify",
        )
    )


def _kind(commit: Oid, archive: Oid, reader: ObjectReader) -> str | None:
    """Whether a commit is the `WIP` or the `index` commit of a save in the stack that a marker names."""
    from ..recover.facts import read_stack

    try:
        stack = read_stack(archive, reader)
    except GitstateError:
        # What can't be read can't be buried either.
        return None
    if any(commit == save.wip for save in stack):
        return "WIP"
    return "index" if any(commit == save.manifest.index_commit for save in stack) else None


def _save_id(git: Git, commit: Oid) -> str:
    """What the trailers of a commit call its save; an empty text where it is no WIP commit."""
    return os.fsdecode(git.run("log", "-1", "--no-show-signature", f"--format={_TRAILER}", commit, "--")).strip()


class Carried(NamedTuple):
    """A ref that would be pushed, and the WIP commit in its history."""

    ref: str
    commit: Oid
    save_id: str


def refuse_push(repository: Repository, pushed: bytes, remote: str) -> Refusal | None:
    """A push of a WIP commit would publish unfinished work. `pushed` is what git says to a pre-push hook.

    Refs of gitstate's own are let through: who names them, means them.
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
    lines.append("  next: gitstate recover, then push again; to publish it all the same: git push --no-verify")
    return Refusal(tuple(lines))


class Pushed(NamedTuple):
    """One line of what git says to a pre-push hook."""

    ref: str
    oid: Oid
    known: Oid | None
    """What the remote has at that place; None where it has nothing."""


def updates(pushed: bytes) -> list[Pushed]:
    """What a push would send: deletions and gitstate's own refs are not among it (githooks(5), pre-push)."""
    found = []
    for line in pushed.split(b"\n"):
        words = os.fsdecode(line).split(" ")
        if len(words) != 4 or not is_oid(words[1]) or not is_oid(words[3]):
            continue
        local, oid, remote, known = words
        if oid.strip("0") and not local.startswith((OWN, NOTES)):
            # What is pushed may be named otherwise than by a ref, HEAD for one: then its name over there says more.
            name = local if local.startswith("refs/") else remote
            found.append(Pushed(name, oid, known if known.strip("0") else None))
    return found


def carried(git: Git, pushed: Sequence[Pushed], remote: str) -> list[Carried]:
    """The WIP commits that the remote does not have yet, each under the first of `pushed` that carries it."""
    if not pushed:
        return []
    names = {item.oid: item.ref for item in reversed(pushed)}
    told = "".join(f"{oid}\n" for oid in names) + "".join(f"^{item.known}\n" for item in pushed if item.known)
    known = ("--not", f"--remotes={remote}") if remote else ()
    form = f"--format=%H %S {_TRAILER}"
    argv = ("log", "--no-show-signature", "--source", form, "--grep=^Gitstate-Save: ", "--ignore-missing", "--stdin")
    out = git.run(*argv, *known, input=told.encode("ascii"))
    found = []
    for line in os.fsdecode(out).splitlines():
        commit, source, save_id = [*line.split(" ", 2), "", ""][:3]
        if save_id.strip():
            found.append(Carried(names.get(source, source), commit, save_id.strip()))
    return found


# -- keeping the context true


def follow(repository: Repository) -> None:
    """HEAD may have moved: clear a marker that is provably stale, then let context and state file say where HEAD is."""
    marker = marker_ref(workspace_id(repository))
    archive = refs.read_refs(repository, [marker]).get(marker)
    if archive is not None:
        from ..system.clock import Deadline
        from ..workspace.ownership import locked_workspace

        with locked_workspace(repository, Deadline(_PATIENCE)) as git, ObjectReader(repository.git) as reader:
            _clear_if_stale(repository, git, reader, marker, archive)
        # Until it is recovered or cleared, the state file speaks of the save that waits.
        return
    live, status = read_live_context(repository)
    if status is None or status == FINISHED:
        return
    ref = read_head(repository.git_dir)
    head = head_of(repository.toplevel)
    context = with_measured_fields(repository, live, ref)
    extra = {**live.extra, "base_commit": head}
    if context.branch_name == live.branch_name and extra == dict(live.extra):
        return
    replace_context(repository, context._replace(extra=extra), status)


def _clear_if_stale(repository: Repository, git: Git, reader: ObjectReader, marker: str, archive: Oid) -> None:
    from ..git.index import kept_index
    from ..recover.facts import read_stack
    from ..workspace.state_file import describe_save

    stack = read_stack(archive, reader)
    ref, head = read_head(repository.git_dir), head_of(repository.toplevel)
    if head is None or not may_be_stale(stack, ref, head):
        return
    newest, oldest = stack[0], stack[-1]
    if any(git.succeeds("merge-base", "--is-ancestor", save.wip, head) for save in stack):
        return
    base = oldest.manifest.base
    if base is not None and not git.succeeds("merge-base", "--is-ancestor", base, head):
        return
    if not _all_held(repository, git, reader, stack, head):
        return
    context = with_measured_fields(repository, newest.context, ref)
    described = describe_save(newest.manifest, wip=newest.wip, archive=newest.archive)
    described["base_commit"] = base
    write_state(
        repository,
        context._replace(extra={**context.extra, "base_commit": head}),
        RECOVERED,
        reason=newest.manifest.reason.to_json(),
        save=described,
    )
    refs.move_refs(repository, git, [RefUpdate(marker, None, archive)], "recovered by plain git")
    for save in stack:
        files.remove(kept_index(repository, save.manifest.save_id))


def may_be_stale(stack: Sequence[Save], head_ref: str | None, head: Oid) -> bool:
    """Whether these saves are of a kind whose recovery by plain git can be proved, and HEAD has left them behind.

    HEAD must be on the branch of the save and on none of its commits. What plain git does not bring back (an
    operation, unmerged entries, raw bytes, hidden paths) keeps a marker until `recover` or a person clears it.
    """
    from ..recover.plan import resting_places

    if head in resting_places(stack):
        return False
    for save in stack:
        manifest = save.manifest
        if manifest.head_ref != head_ref or head_ref is None or not manifest.moves_branch:
            return False
        if manifest.operation or manifest.raw or manifest.absent or manifest.sparse or b"stages" in save.files:
            return False
    return True


def wanted(differing: Mapping[bytes, Leaf | None], stack: Sequence[Save]) -> set[tuple[bytes, Leaf | None]]:
    """Every version of a path that only the saves may hold: `differing` (worktree against base), and what was staged.

    None stands for a path that was deleted.
    """
    found: set[tuple[bytes, Leaf | None]] = set(differing.items())
    for save in stack:
        for path, entry in save.manifest.staged.items():
            found.add((path, None if entry is None else Leaf(*entry)))
    return found


def _all_held(repository: Repository, git: Git, reader: ObjectReader, stack: Sequence[Save], head: Oid) -> bool:
    """Whether each version that the saves hold is in HEAD, in the index or on the disk; modes too."""
    from ..format.archive import tree_of_base
    from ..objects.tree import TreeReader
    from ..workspace.files import Worktree

    newest, oldest = stack[0], stack[-1]
    trees = TreeReader(reader)
    versions = wanted(_differing(git, tree_of_base(reader, oldest.manifest.base), newest.wip_tree), stack)
    paths = sorted({path for path, _ in versions})
    committed = trees.lookup(tree_of_base(reader, head), paths)
    missing = {(path, leaf) for path, leaf in versions if _file(committed.get(path)) != leaf}
    if missing:
        index = _index(git)
        missing = {(path, leaf) for path, leaf in missing if index.get(path) != leaf}
    disk = Worktree(repository.toplevel, repository.own, repository.object_format)
    if any(not _on_disk(disk, path, leaf) for path, leaf in missing):
        return False
    for path in newest.manifest.directories:
        if disk.look(path).kind != "directory":
            return False
    return all(disk.permissions(path) in (None, mode) for path, mode in newest.manifest.modes.items())


def _file(leaf: Leaf | None) -> Leaf | None:
    """What git keeps at a path as a file; a directory there means that there is none."""
    return None if leaf is None or leaf.mode == DIRECTORY else leaf


def _on_disk(disk: Worktree, path: bytes, leaf: Leaf | None) -> bool:
    seen = disk.look(path)
    if leaf is None:
        return seen.kind == "missing"
    if leaf.mode == GITLINK:
        return False
    if leaf.mode == SYMLINK:
        return seen.kind == "link" and seen.oid == leaf.oid
    executable = bool(seen.permissions & 0o100)
    return seen.kind == "file" and seen.oid == leaf.oid and executable == (leaf.mode == 0o100755)


def _differing(git: Git, base: Oid | None, tree: Oid) -> dict[bytes, Leaf | None]:
    """What `tree` holds that `base` does not, by path; None for what it lacks."""
    if base is None:
        out = git.run("ls-tree", "-r", "-z", "--full-tree", tree)
        found: dict[bytes, Leaf | None] = {}
        for item in out.split(b"\0")[:-1]:
            head, _, path = item.partition(b"\t")
            mode, _, oid = head.split(b" ")
            found[path] = Leaf(int(mode, 8), oid.decode("ascii"))
        return found
    words = git.run("diff-tree", "-r", "-z", "--no-renames", base, tree).split(b"\0")[:-1]
    found = {}
    for told, path in zip(words[::2], words[1::2], strict=True):
        _, mode, _, oid, _ = told[1:].split(b" ")
        found[path] = None if int(mode, 8) == 0 else Leaf(int(mode, 8), oid.decode("ascii"))
    return found


def _index(git: Git) -> dict[bytes, Leaf]:
    found = {}
    for item in git.run("ls-files", "--stage", "-z").split(b"\0")[:-1]:
        head, _, path = item.partition(b"\t")
        mode, oid, stage = head.split(b" ")
        if stage == b"0":
            found[path] = Leaf(int(mode, 8), oid.decode("ascii"))
    return found
