"""Facts → verdict. Pure: no git, no disk, no clock.

`decide` is for a workspace, `disk_state` for the latest checkpoint, `conclude` for the result.
"""

from __future__ import annotations

from ..errors import EXIT_AGAIN, EXIT_DONE, EXIT_PERSON
from ..format.context import Context
from ..format.manifest import Manifest, Save
from ..format.names import branch_name
from ..git.command import Oid
from ..restore.choices import Outcome
from ..system.stdlib import TYPE_CHECKING, Record, quote
from ..system.terminal import counted
from .request import BARE, SUCCESSES, UNFINISHED_HINT, RecoverResult, unfinished_words, with_messages

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Literal

    from ..format.carried import Carried
    from ..git.damaged.files import Damage
    from ..restore.choices import Action
    from .request import DecidedVerdict, RecoverRequest

    #: How the files on disk compare with the latest checkpoint: nothing is missing, they differ, or all are gone.
    DiskState = Literal["same", "differs", "gone"]


class Facts(Record):
    """What was found out about one workspace."""

    head_ref: str | None
    """The full name of the checked-out branch; None where HEAD is detached."""
    head: Oid | None
    """The commit that HEAD is on; None on an unborn branch."""
    operation: str | None
    """The merge, rebase, cherry-pick, … that is in progress on disk; None without one."""
    saves: tuple[Save, ...] = ()
    """The stack of the pending save, newest first; empty where none is pending, or it can't be read."""
    marker: str | None = None
    """The ref that says that the save is pending; None where only its WIP commit or its id was found."""
    problem: str | None = None
    """Why the pending save can't be read; None where it can."""
    unsupported: bool = False
    """That problem is a format that is newer than this program."""
    earlier: str | None = None
    """The id of the newest readable save before one that can't be read; None where there is none."""
    lost_base: bool = False
    """That problem is a tree of the commit that the save stands on: what the save holds may be whole."""
    rest: Oid | None = None
    """The WIP commit of which git can still read other files, where that problem is one of several trees."""
    owner_lives: bool = False
    """The process that made the pending save still runs on this host."""
    contains_wip: bool = False
    """HEAD's commit is a descendant of the WIP commit, and not the WIP commit."""
    moved_back: bool = False
    """HEAD's commit is an ancestor of the commit that the save stands on, and not that commit."""
    carried: Carried | None = None
    """Where plain git carried the WIP commit to another base; None where it did not. If it is faithful, `saves` are
    those of the new base."""
    last_head: Oid | None = None
    """The commit that HEAD was on last, where its branch is no more; None if unknown, or there is a branch."""
    detach: bool = False
    """HEAD has to be detached: a clone has put it on a branch at the commit on which it was detached."""
    operation_differs: bool = False
    """The operation in progress on disk is not the one that was saved."""
    remote: str | None = None
    """The remote that the save was fetched from; None for a save of this repository."""
    fetched: tuple[str, str] | None = None
    """A sentence on untrusted saves that were fetched, and the command that takes one; None without any."""
    damage: tuple[Damage, ...] = ()
    """What git can't read of HEAD and, where no save is pending, of the index."""
    put_away: tuple[str, ...] = ()
    """Sentences on what a git or a manager of hooks left when it was killed, each with the command that helps."""
    elsewhere: str | None = None
    """A sentence about pending saves whose workspace is missing; None where there are none."""
    concerns: bool = False
    """One of those may be of this workspace: of its path or branch, and of no other task than the one that begins."""
    begins: bool = False
    """A task begins here next: those saves do not stop it, unless one of them may be of this workspace."""
    left_here: str | None = None
    """The pending save of another worktree that HEAD is on the WIP commit of, where only this one has the branch."""
    newer_save: str | None = None
    """The id of a save of this workspace that is newer than the latest checkpoint; None where there is none."""
    checkpoint: Save | None = None
    """The latest checkpoint, where no save is pending; None where there is none to read."""
    context: Context | None = None
    """What the last run was doing, where no save is pending: the live context, else the checkpoint's."""
    recovered: Context | None = None
    """What was recovered earlier, where no task has begun since; None without such a context."""
    owner: str = "unknown"
    """What is known about the process of that context: see `live_context.owner_state`."""
    worker: str = ""
    """Who works here, or worked last, in words for a person."""
    strict: bool = False
    """Nobody named this very workspace: only what is proven counts as ended."""
    ended: bool = False
    """The workspace around it has lost its files since that checkpoint, and gets them back."""
    disk: DiskState = "same"
    """How the files on disk compare with the checkpoint; `same` where they were not compared."""


class Verdict(Record):
    """What to do, and what to tell a person. Commands in `hint` are for the workspace's own directory."""

    verdict: DecidedVerdict
    message: str = ""
    exit_status: int = EXIT_DONE
    hint: str | None = None

    @property
    def acts(self) -> bool:
        """Whether the workspace is going to be changed."""
        return self.verdict in SUCCESSES and self.verdict != "recovered"

    @property
    def clears_locks(self) -> bool:
        """Whether stale locks are removed: not where an agent is at work, whose git may be the next to take one."""
        return self.verdict != "live"


# -- the workspace


def decide(facts: Facts) -> Verdict:
    """The verdict on one workspace. It is never `changed`: `final_verdict` knows whether files were kept."""
    return _with_damage(_decide(facts), facts)


def _decide(facts: Facts) -> Verdict:
    if facts.problem is not None:
        return _unreadable(facts, facts.problem)
    if not facts.saves:
        return _without_save(facts)
    newest = facts.saves[0]
    if facts.owner_lives:
        message = f"an agent is still running here ({_worker(facts, newest.context)}); the save stays pending"
        return Verdict("live", message, EXIT_AGAIN, "gitstate status")
    if facts.head_ref != newest.manifest.head_ref and not facts.detach:
        return _on_another_branch(facts, newest.manifest)
    if facts.head not in resting_places(facts.saves) and not _has_lost_branch(facts):
        return _buried(facts) if facts.contains_wip else _diverged(facts)
    if facts.operation is not None and (facts.operation_differs or newest.manifest.operation is None):
        return Verdict(
            "diverged",
            f"a {facts.operation} that is not in the save is in progress here; nothing was touched",
            EXIT_PERSON,
            f"finish or abort the {facts.operation}, then: gitstate recover",
        )
    if facts.carried is not None:
        base = facts.carried.base[:12]
        how = f"git had carried the WIP commit to another base; the branch is on that base, {base}"
        if facts.carried.original[-1].manifest.head == facts.carried.base:
            how = f"git had rewritten the WIP commit; the branch is on its base commit {base}"
        return Verdict("restore", how)
    if _has_lost_branch(facts):
        base = (facts.saves[-1].manifest.head or "")[:12]
        return Verdict("restore", f"another program had deleted the branch; it is on {base} again")
    return Verdict("restore")


def _has_lost_branch(facts: Facts) -> bool:
    """Whether another program has deleted the branch, as `git fetch --prune` does, and HEAD was on the save last.

    Without that proof a commit that was made after the save could be left behind.
    """
    if facts.head is not None or facts.last_head is None or facts.remote is not None:
        return False
    return facts.saves[-1].manifest.head is not None and facts.last_head in resting_places(facts.saves)


def _with_damage(verdict: Verdict, facts: Facts) -> Verdict:
    """The verdict where git can't read HEAD or the index, and `facts.damage` says what and which command mends it.

    Without HEAD no file can be compared with its base: the save stays pending. The context alone needs neither, nor
    do the files that `gitstate restore` writes.
    """
    damage = facts.damage
    if not damage or verdict.verdict == "live":
        return verdict
    what = "; ".join(item.what for item in damage)
    hint = "; ".join(item.command for item in damage)
    if verdict.verdict == "corrupt" and any(item.stops_git for item in damage):
        return Verdict("damaged", f"{what}; nothing was touched", EXIT_PERSON, f"{hint}, then: gitstate recover")
    if verdict.verdict in ("corrupt", "unsupported"):
        return verdict._replace(
            message=f"{verdict.message}; {what}", hint=f"{hint}, then: {verdict.hint or 'gitstate log'}"
        )
    if verdict.verdict == "context_only":
        return verdict._replace(message=f"{verdict.message}; {what}", hint=hint, exit_status=EXIT_PERSON)
    if verdict.verdict in ("nothing", "recovered"):
        return Verdict("damaged", what, EXIT_PERSON, hint)
    files = f"; until then, its files: gitstate restore {facts.saves[0].manifest.save_id}" if facts.saves else ""
    hint = f"{hint}, then: gitstate recover{files}"
    return Verdict("damaged", f"{what}; nothing was touched", EXIT_PERSON, hint)


def _without_save(facts: Facts) -> Verdict:
    if facts.context is not None:
        return _last_run(facts, facts.context)
    if facts.recovered is not None and not facts.strict:
        return Verdict("recovered", "the work of the last run was recovered earlier; no task has begun since")
    if facts.fetched:
        return Verdict("elsewhere", facts.fetched[0], EXIT_PERSON, facts.fetched[1])
    if facts.left_here and not facts.strict:
        message = f"HEAD is on the WIP commit of the save {facts.left_here}, which is pending in another worktree"
        return Verdict("elsewhere", message, EXIT_PERSON, f"gitstate recover --save {facts.left_here}")
    if facts.elsewhere and not facts.strict:
        status = EXIT_DONE if facts.begins and not facts.concerns else EXIT_PERSON
        return Verdict("elsewhere", facts.elsewhere, status, "gitstate recover --into PATH --save ID")
    is_offered = facts.checkpoint and not facts.newer_save and facts.disk != "same"
    held = facts.checkpoint.manifest.save_id if facts.checkpoint and is_offered else None
    hint = f"gitstate recover --save {held} (the latest checkpoint)" if held else None
    return Verdict("nothing", "no pending save", hint=hint)


def _last_run(facts: Facts, context: Context) -> Verdict:
    """A run that is known only by its context: it still runs, or it ended and nobody saved."""
    if facts.owner == "lives" or (facts.strict and facts.owner == "ours"):
        return Verdict("live", f"the agent is still running ({_worker(facts, context)})", EXIT_AGAIN, "gitstate status")
    if facts.strict and facts.owner != "gone":
        return Verdict("nothing", "cannot determine whether the last run has ended", hint="gitstate recover")
    message = "the last run ended without a save" if facts.owner == "gone" else "no pending save"
    untouched = f"{message}; the files were left as they are on disk"
    if facts.checkpoint is None or facts.disk == "same":
        return Verdict("context_only", untouched)
    held = facts.checkpoint.manifest.save_id
    if facts.disk == "gone" and (facts.owner == "gone" or facts.ended):  # so nothing can be overwritten
        return Verdict("restore", f"{message} and its files are gone; its latest checkpoint is used instead")
    if facts.disk == "gone":
        message = f"{untouched}; those of the checkpoint {held} are gone"
        return Verdict("context_only", message, hint=f"gitstate recover --save {held}")
    return Verdict(
        "context_only",
        f"{untouched}; some differ from the checkpoint {held}",
        hint=f"gitstate diff {held}; gitstate restore {held} PATH…",
    )


def _worker(facts: Facts, context: Context) -> str:
    return facts.worker or f"pid {context.pid}"


def _on_another_branch(facts: Facts, manifest: Manifest) -> Verdict:
    here = "a detached HEAD" if facts.head_ref is None else facts.head_ref
    there = manifest.head_ref or f"a HEAD detached at {(manifest.head or 'nothing')[:12]}"
    if facts.operation == "rebase" and facts.head_ref is None and manifest.operation is None:
        message = f"the save was made on {there}, and a rebase is in progress here; nothing was touched"
        hint = "finish or abort the rebase (git rebase --continue, git rebase --abort), then: gitstate recover"
        return Verdict("elsewhere", message, EXIT_PERSON, hint)
    return Verdict(
        "elsewhere",
        f"the save was made on {there}, and this workspace is on {here}",
        EXIT_PERSON,
        f"gitstate recover --into PATH --save {manifest.save_id}",
    )


def _buried(facts: Facts) -> Verdict:
    newest, oldest = facts.saves[0], facts.saves[-1]
    message = f"there are commits on top of the WIP commit {newest.wip[:12]}; history was not changed"
    back = f"gitstate restore {newest.manifest.save_id}"
    if facts.carried is not None:
        back = f"git cherry-pick --no-commit {facts.carried.base[:12]}..{newest.wip[:12]}"
    if oldest.manifest.head is None:
        return Verdict("buried", message, hint=f"git rebase -i --root (drop the WIP commit), then: {back}")
    onto = f"git rebase --onto {oldest.manifest.head[:12]} {newest.wip[:12]}"
    return Verdict("buried", message, hint=f"{onto} && {back}")


def _diverged(facts: Facts) -> Verdict:
    carried, save_id, base = facts.carried, facts.saves[0].manifest.save_id, facts.saves[-1].manifest.head
    if facts.head is None and facts.head_ref is not None and facts.last_head is not None:
        message = f"another program has deleted the branch, on which there is a commit after the save {save_id}"
        hint = f"git update-ref {quote(facts.head_ref)} {facts.last_head[:12]}, then: gitstate recover"
        return Verdict("diverged", f"{message}; nothing was touched", EXIT_PERSON, hint)
    what = "deleted" if facts.head is None else "moved to another commit"
    message = f"the branch was {what} after the save {save_id}; nothing was touched"
    hint = f"gitstate diff {save_id}; gitstate restore {save_id} PATH…; gitstate recover --dismiss"
    if facts.moved_back and base is not None:
        which = "" if facts.remote is None else f" --save {save_id}"
        message = f"the branch was moved back after the save {save_id}, to before its base commit {base[:12]}"
        message += "; nothing was touched"
        hint = f"git reset --keep {base[:12]} && gitstate recover{which}; or, without its commits: {hint}"
    if carried is not None:
        message = f"git carried the WIP commit of the save {save_id} to another base, and it does not hold all of it"
        message += "; nothing was touched"
        hint = f"git reset {carried.base[:12]} (keeps the files); {hint}" if carried.at_rest else hint
    return Verdict("diverged", message, EXIT_PERSON, hint)


def _unreadable(facts: Facts, problem: str) -> Verdict:
    if facts.unsupported:
        return Verdict(
            "unsupported", problem, EXIT_PERSON, "install a newer gitstate, in the way in which this one was installed"
        )
    hint = way_out(facts.earlier, facts.rest, lost_base=facts.lost_base)
    if facts.marker and not facts.lost_base:
        hint += f"; to discard the unreadable save: git update-ref -d {facts.marker}"
    return Verdict("corrupt", problem, EXIT_PERSON, hint)


def way_out(earlier: str | None, rest: Oid | None, *, lost_base: bool) -> str:
    """What to type where a save can't be read: see `Facts`."""
    before = f"gitstate restore {earlier} PATH… (the save before it)" if earlier else "gitstate log"
    left = f"; its {'' if lost_base else 'other '}files: git checkout {rest[:12]} -- PATH…" if rest else ""
    return ("git fsck" if lost_base else before) + left


def resting_places(saves: Collection[Save]) -> set[Oid | None]:
    """The commits that HEAD may be on while this stack of saves is pending."""
    places: set[Oid | None] = set()
    for save in saves:
        places.add(save.manifest.head)
        if save.manifest.moves_branch:
            places |= {save.wip, save.manifest.index_commit or save.wip}
    return places


# -- the latest checkpoint, where no save is pending


def can_compare(facts: Facts, checkpoint: Save) -> bool:
    """Whether HEAD is where it was then. Else its files were committed since, or belong to other commits."""
    return (facts.head_ref, facts.head) == (checkpoint.manifest.head_ref, checkpoint.manifest.head)


def lacks_checkpoint(facts: Facts, checkpoint: Save, actions: Iterable[Action]) -> bool:
    """Whether anything of the checkpoint is not on disk: `actions` are what a recovery of it would do."""
    return bool(set(actions) - {"same"}) or (checkpoint.manifest.operation is not None and facts.operation is None)


def disk_state(facts: Facts, *, lacks: bool, is_wiped: bool) -> DiskState:
    """How the files on disk compare with the checkpoint.

    `lacks`: see `lacks_checkpoint`. `is_wiped`: no tracked file is left, or none differs from HEAD.
    """
    if not lacks:
        return "same"
    return "gone" if is_wiped and facts.operation is None else "differs"


def with_checkpoint(facts: Facts, verdict: Verdict) -> Facts:
    """The facts with the checkpoint as the save to restore, where the last run made none and its files are gone."""
    if verdict.verdict != "restore" or facts.saves or facts.checkpoint is None or facts.context is None:
        return facts
    return facts._replace(saves=(facts.checkpoint._replace(context=facts.context),))


# -- the end


class BranchMove(Record):
    """A ref that goes back to where it was at the oldest save."""

    ref: str
    new: Oid | None
    """None: the branch was unborn."""
    old: Oid | None
    detach: bool
    """HEAD itself is moved, not the branch that it is on."""


def branch_move(facts: Facts) -> BranchMove | None:
    """How branch and HEAD go back to where they were; None where they are there."""
    oldest = facts.saves[-1].manifest
    if facts.detach:
        return BranchMove("HEAD", facts.head, facts.head, True)
    if oldest.head_ref is None or facts.head == oldest.head:
        return None
    return BranchMove(oldest.head_ref, oldest.head, facts.head, False)


def marker_goes(outcome: Outcome) -> bool:
    """Whether the save is no longer pending."""
    return not outcome.stuck


def in_trouble(nested: Iterable[RecoverResult]) -> list[RecoverResult]:
    """The repositories inside the workspace, at any depth, that need a person."""
    fine = ("restore", "context_only", "recovered", "nothing", "changed")
    found = []
    for result in nested:
        found += [result] if result.verdict not in fine or result.exit_status else []
        found += in_trouble(result.nested)
    return found


def final_verdict(newest: Save, base_tree: Oid | None, outcome: Outcome) -> DecidedVerdict:
    """What `restore` has become. `base_tree`: the tree of the commit that the oldest save of the stack stands on."""
    if outcome.kept:
        return "changed"
    manifest = newest.manifest
    is_raw = any(why != "clean" for why in manifest.raw.values())
    uncommitted = newest.wip_tree != base_tree or manifest.staged or manifest.operation or is_raw
    return "restore" if uncommitted or outcome.restored or outcome.deleted else "context_only"


def conclude(
    workspace: bytes, verdict: Verdict, final: DecidedVerdict, newest: Save | None, outcome: Outcome
) -> RecoverResult:
    """The result: `verdict` is what was decided, `final` what it has become, `newest` the save that it is about."""
    message, hint, status = verdict.message, verdict.hint, verdict.exit_status
    # Its refs are lost, as in a clone of the branch.
    is_bare = newest is not None and newest.archive == newest.wip
    if final == "changed" and newest is not None:
        message = "files that were changed after the save are kept; all else is restored"
        hint = f"gitstate restore --overwrite {newest.manifest.save_id} PATH… (the saved version)"
    elif newest is not None and newest.manifest.previous and not message:
        message = f"an earlier save was never recovered: {newest.manifest.previous}"
        hint = f"gitstate diff {newest.manifest.previous}; gitstate restore {newest.manifest.previous} PATH…"
    message = "; ".join(filter(None, (message, BARE))) if is_bare else message
    if outcome.stuck:
        message, hint = "some paths could not be restored; the save is still pending", "gitstate recover"
    elif newest is not None and outcome.unfinished:
        message = "; ".join(filter(None, (message, unfinished_words(newest.manifest.save_id, outcome.unfinished))))
        hint = "; ".join(filter(None, (hint, UNFINISHED_HINT)))
    if status == EXIT_DONE and (any(item.lost for item in outcome.failed) or outcome.nested_trouble):
        status = EXIT_PERSON
    said = (workspace, final, message, hint, status)
    result = RecoverResult(
        *said,
        restored=tuple(outcome.restored),
        deleted=tuple(outcome.deleted),
        kept=tuple(dict.fromkeys(outcome.kept)),
        left_out=(*(newest.manifest.left_out if newest else ()), *outcome.failed),
        safety_save=outcome.safety,
        partial=bool(outcome.failed) or is_bare,
    )
    return result._replace(save_id=newest.manifest.save_id, context=newest.context) if newest else result


def result_of(
    workspace: bytes,
    facts: Facts,
    verdict: Verdict,
    request: RecoverRequest,
    final: DecidedVerdict,
    outcome: Outcome | None = None,
) -> RecoverResult:
    """The same by the facts; without `outcome` nothing was done."""
    newest = facts.saves[0] if facts.saves else None
    result = conclude(workspace, verdict, final, newest, outcome or Outcome())
    branch = None if facts.head_ref is None else branch_name(facts.head_ref)
    return with_messages(result, *facts.put_away)._replace(branch=branch, dry_run=request.dry_run)


def conclude_files(workspace: bytes, newest: Save, outcome: Outcome) -> RecoverResult:
    """The same where files alone were restored from a save: each that was kept was asked for."""
    if not outcome.kept:
        result = conclude(workspace, Verdict("restore"), "restore", newest, outcome)._replace(files_only=True)
        if not outcome.stuck:
            return result
        # Whether the save is pending is none of its business.
        hint = f"gitstate restore {newest.manifest.save_id} PATH…"
        return result._replace(message="some paths could not be restored", hint=hint)
    return conclude(workspace, Verdict("restore"), "changed", newest, outcome)._replace(
        message=f"{counted(len(outcome.kept), 'path')} kept, with other content than the save has",
        hint=f"gitstate restore --overwrite {newest.manifest.save_id} PATH…",
        exit_status=EXIT_PERSON,
        files_only=True,
    )
