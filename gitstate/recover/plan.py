"""Facts → verdict. Pure: no git, no disk, no clock. The rules of recovery stand here and nowhere else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..errors import EXIT_AGAIN, EXIT_DONE, EXIT_PERSON
from ..format.context import Context
from ..format.manifest import Save
from ..git.oid import Oid
from ..objects.tree import GITLINK, SYMLINK, Leaf
from ..workspace.files import Seen


@dataclass(frozen=True)
class Facts:
    """What was found out about one workspace. `saves` is the stack that waits, newest first."""

    head_ref: str | None
    head: Oid | None
    operation: str | None
    saves: tuple[Save, ...] = ()
    problem: str | None = None
    """Why the waiting save can't be read, if it can't."""
    unsupported: bool = False
    owner_lives: bool = False
    contains_wip: bool = False
    """HEAD's commit stands on the WIP commit."""
    detach: bool = False
    """HEAD stands on a branch at the commit on which it was detached: a clone does that."""
    operation_differs: bool = False
    """The unfinished operation on disk is not the one that was saved."""
    elsewhere: str | None = None
    """Saves of workspaces that are not here."""
    checkpoint: Save | None = None
    """The latest checkpoint, for where nothing waits."""
    context: Context | None = None
    """What the last run was doing, where no save says that it ended: the live context, or the checkpoint's."""
    owner: str = "unknown"
    """Who is known of that run's process: see `live_context.owner_state`."""
    strict: bool = False
    """Nobody named this very workspace: only what is proven counts as ended."""
    disk: str = "same"
    """How the disk stands to that checkpoint: it has all of it (`same`), all of it is `gone`, or it `differs`."""
    earlier: str | None = None
    """The id of the newest readable save before one that can't be read."""
    marker: str | None = None
    """The ref under which a save waits that can't be read."""


@dataclass(frozen=True)
class Verdict:
    """What to do, in one word of the design, and what to tell a person."""

    verdict: str
    message: str = ""
    exit_status: int = EXIT_DONE
    hint: str | None = None

    @property
    def acts(self) -> bool:
        """Whether the workspace is going to be touched."""
        return self.verdict in ("restore", "context_only", "buried")


def decide(facts: Facts) -> Verdict:
    """The verdict on one workspace. `changed` is not known here: `restore` turns into it when files were edited."""
    if facts.problem is not None:
        return _unreadable(facts)
    if not facts.saves:
        if facts.context is not None:
            return _without_save(facts, facts.context)
        if facts.elsewhere and not facts.strict:
            return Verdict("elsewhere", facts.elsewhere, EXIT_PERSON, "gitstate recover --into PATH --save ID")
        held = facts.checkpoint.manifest.save_id if facts.checkpoint else None
        hint = f"gitstate recover --save {held} (the latest checkpoint)" if held else None
        return Verdict("nothing", "nothing waits to be recovered", hint=hint)
    newest, oldest = facts.saves[0], facts.saves[-1]
    manifest = newest.manifest
    if facts.owner_lives:
        return Verdict(
            "live",
            f"the agent that made this save still runs (pid {newest.context.pid})",
            EXIT_AGAIN,
            "gitstate status",
        )
    if facts.head_ref != manifest.head_ref and not facts.detach:
        here = "a detached HEAD" if facts.head_ref is None else facts.head_ref
        there = f"detached at {(manifest.head or 'nothing')[:12]}" if manifest.head_ref is None else manifest.head_ref
        return Verdict(
            "elsewhere",
            f"the save is of {there}; here is {here}",
            EXIT_PERSON,
            f"gitstate recover --into PATH --save {manifest.save_id}",
        )
    if facts.head not in resting_places(facts.saves):
        if facts.contains_wip:
            words = f"commits were made on top of the WIP commit {newest.wip[:12]}: history was left alone"
            back = f"gitstate restore {manifest.save_id}"
            if oldest.manifest.head is None:
                return Verdict("buried", words, hint=f"git rebase -i --root (drop the WIP commit), then: {back}")
            onto = f"git rebase --onto {oldest.manifest.head[:12]} {newest.wip[:12]}"
            return Verdict("buried", words, hint=f"{onto} && {back} (to have its work uncommitted again)")
        return Verdict(
            "diverged",
            f"the branch went elsewhere since the save {manifest.save_id}: nothing was touched",
            EXIT_PERSON,
            f"gitstate diff {manifest.save_id}; gitstate restore {manifest.save_id} PATH…; gitstate recover --dismiss",
        )
    if facts.operation is not None and (facts.operation_differs or manifest.operation is None):
        return Verdict(
            "diverged",
            f"a {facts.operation} is under way here that the save knows nothing of: nothing was touched",
            EXIT_PERSON,
            f"finish or abort the {facts.operation}, then: gitstate recover",
        )
    return Verdict("restore")


def _without_save(facts: Facts, context: Context) -> Verdict:
    """A run that is known only by what it said it was doing: it lives, or it ended and nobody saved."""
    if facts.owner == "lives" or (facts.strict and facts.owner == "ours"):
        return Verdict("live", f"the agent still runs (pid {context.pid})", EXIT_AGAIN, "gitstate status")
    if facts.strict and facts.owner != "gone":
        return Verdict("nothing", "nobody can tell whether the last run has ended", hint="gitstate recover")
    if facts.owner == "gone":
        words = "the last run ended without a save: the files are as they were on the disk"
    else:
        words = "no save waits: the files are as they are on the disk"
    if facts.checkpoint is None or facts.disk == "same":
        return Verdict("context_only", words)
    held = facts.checkpoint.manifest.save_id
    if facts.disk == "gone" and facts.owner == "gone":
        # Nothing stands where its work was, so that nothing can be overwritten.
        return Verdict("restore", "the last run ended without a save and its work was wiped: this is its checkpoint")
    if facts.disk == "gone":
        words += f"; what the checkpoint {held} holds is gone from it"
        return Verdict("context_only", words, hint=f"gitstate recover --save {held}")
    return Verdict(
        "context_only",
        f"{words}; the checkpoint {held} has other content in some of them",
        hint=f"gitstate diff {held}; gitstate restore {held} PATH…",
    )


def resting_places(saves: Collection[Save]) -> set[Oid | None]:
    """Commits on which a workspace may be found whose stack of saves waits."""
    found: set[Oid | None] = set()
    for save in saves:
        found.update((save.manifest.head, save.wip) if save.manifest.moves_branch else (save.manifest.head,))
        if save.manifest.moves_branch and save.manifest.index_commit is not None:
            found.add(save.manifest.index_commit)
    return found


def _unreadable(facts: Facts) -> Verdict:
    if facts.unsupported:
        return Verdict("unsupported", facts.problem or "", EXIT_PERSON, "install a newer gitstate")
    hint = f"gitstate restore {facts.earlier} PATH… (the save before it)" if facts.earlier else "gitstate log"
    if facts.marker:
        hint += f"; to give the unreadable one up: git update-ref -d {facts.marker}"
    return Verdict("corrupt", facts.problem or "", EXIT_PERSON, hint)


@dataclass(frozen=True)
class Target:
    """What one path was (`saved`, None: not there) and what git may have put there since (`bases`)."""

    path: bytes
    saved: Leaf | None
    permissions: int | None
    bases: frozenset[Leaf]


def step(target: Target, seen: Seen, *, overwrite: bool = False) -> str:
    """The three-way choice for one path: `same`, `write`, `delete`, `keep` (the disk wins), or `look` closer.

    Disk equals saved: untouched. Disk equals a base, or nothing is there: the saved version is written, or deleted.
    Otherwise the disk wins. A file that is gone was wiped or deleted, nobody can tell; to write it overwrites nothing.
    """
    saved = target.saved
    if saved is not None and saved.mode == GITLINK:
        return {"directory": "same", "missing": "write"}.get(seen.kind, "keep")
    if saved is None:
        if seen.kind in ("missing", "directory"):
            return "same"
        gone = _is_one_of(seen, target.bases) or (overwrite and seen.kind != "special")
        return "delete" if gone else "keep"
    if _is_one_of(seen, (saved,)):
        return "same"
    if seen.kind == "missing" or _is_one_of(seen, target.bases):
        return "write"
    if seen.kind == "file":
        return "write" if overwrite else "look"
    return "write" if overwrite and seen.kind == "link" else "keep"


def wanted_permissions(target: Target, seen: Seen, umask: int) -> tuple[int | None, bool]:
    """Permissions that a file whose content is the saved one should have, None where it has them.

    The flag says whether git may have set those of now; otherwise someone did, and the disk wins there too.
    """
    if target.saved is None or target.saved.mode == SYMLINK or seen.kind != "file":
        return None, False
    wanted = target.permissions if target.permissions is not None else target.saved.mode & 0o777
    if seen.permissions == wanted:
        return None, False
    classes = {leaf.mode for leaf in (*target.bases, target.saved)}
    usual = {mode & ~mask & 0o777 for mask in (0o022, umask) for mode in _widest(classes)}
    return wanted, seen.permissions in usual


def _widest(modes: set[int]) -> set[int]:
    return {0o777 if mode & 0o100 else 0o666 for mode in modes}


def _is_one_of(seen: Seen, leaves: Collection[Leaf]) -> bool:
    kind = {"file": (0o100644, 0o100755), "link": (SYMLINK,)}.get(seen.kind, ())
    return any(leaf.oid == seen.oid and leaf.mode in kind for leaf in leaves)
