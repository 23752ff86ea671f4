"""What a recovery is asked for, and what it answers: as data, in words for a person, and for a shell."""

from __future__ import annotations

import os

from ..errors import EXIT_AGAIN, EXIT_BUG, EXIT_DONE, EXIT_FAILED, EXIT_PERSON, EXIT_USAGE, GitstateError
from ..format.context import Context
from ..format.manifest import LeftOut, Reason
from ..system.jsonio import path_to_json, text_to_json
from ..system.stdlib import TYPE_CHECKING, Record, contextmanager, quote
from ..system.terminal import escape, escape_lines, first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, Literal

    #: What the decision on one workspace can be. `changed` is what `restore` becomes where edited files were kept.
    DecidedVerdict = Literal[
        "nothing",
        "live",
        "restore",
        "context_only",
        "recovered",
        "changed",
        "buried",
        "diverged",
        "elsewhere",
        "corrupt",
        "unsupported",
        "damaged",
    ]
    #: The verdict of a result: a decision, `dismissed`, or why a workspace among many was not opened.
    ResultVerdict = DecidedVerdict | Literal["dismissed", "busy", "failed", "foreign", "unreachable", "missing"]

#: The settings that a recovery, and its safety save, read.
SETTINGS = ("stateFile", "includeIgnored", "trust", "filterTimeout")

#: With these the context of the last run is known again, and a loop can continue its task.
SUCCESSES: frozenset[ResultVerdict] = frozenset({"restore", "changed", "context_only", "buried", "recovered"})


class RecoverRequest(Record):
    """How to recover one workspace."""

    save_id: str | None = None
    """The save to recover, pending or not; None: the pending one."""
    dry_run: bool = False
    """Change nothing, only say what would be done."""
    overwrite: bool = False
    """The saved version wins over files that were changed after the save."""
    wait: float = 60.0
    """Seconds to wait for whoever holds the workspace."""
    depth: int = 0
    """How many repositories this one is nested in."""
    ended: bool = False
    """The run has ended in which its latest checkpoint was taken: if the files of that are gone, they come back."""
    runs_filters: bool = True
    """False: run no program that the repository's configuration names: nobody registered it as a submodule."""
    strict: bool = False
    """Nobody named this very workspace: a run counts as ended only where that is proven."""
    waiting_only: bool = False
    """Only a pending save: the run itself goes on, or has reached its end."""
    begins: bool = False
    """A task begins here next: a pending save of another worktree, which is missing, is told, and does not stop it."""
    task_id: str | None = None
    """That task, where it has a name: a save of another task is not taken over from a worktree that is missing."""
    trust: bool = False
    """A save that was fetched is taken even if something of it could run by itself."""
    special_bits: bool = False
    """Set the setuid, setgid and sticky bits that files and directories had."""


class RecoverResult(Record):
    """What was found and done in one workspace."""

    workspace: bytes
    verdict: ResultVerdict
    message: str = ""
    """What happened, for a person; empty where the verdict says it all."""
    hint: str | None = None
    """The command to type next; it works in the current directory."""
    exit_status: int = 0
    save_id: str | None = None
    """The save that was recovered, or that the verdict is about; None where there is none."""
    branch: str | None = None
    """The branch that is checked out, without `refs/heads/`; None where HEAD is detached."""
    restored: tuple[bytes, ...] = ()
    """Paths that were written, or whose permissions were set."""
    deleted: tuple[bytes, ...] = ()
    """Paths that were removed, because the save says that they were gone."""
    kept: tuple[bytes, ...] = ()
    """Paths that were changed after the save, and stay as they are."""
    left_out: tuple[LeftOut, ...] = ()
    """What is not in the save, and what could not be restored from it."""
    safety_save: str | None = None
    """The save of the workspace as it was before the first file was replaced; None where none was."""
    state_file: bytes | None = None
    """Where `active_state.json` was written; None where it was not."""
    resume: str | None = None
    """The agent's own command to continue, or a sentence; None where there is no context."""
    briefing: str | None = None
    """A few lines for the agent; None where there is no context."""
    context: Context = Context()
    nested: tuple[RecoverResult, ...] = ()
    """The results of the repositories inside the workspace."""
    cleared: tuple[bytes, ...] = ()
    """Lock files whose owner is provably gone, and that were removed."""
    dry_run: bool = False
    """Nothing was changed: this is what would be done."""
    runs: tuple[str, ...] = ()
    """What of a save that was fetched could run by itself; empty for any other."""
    partial: bool = False
    """Something could not be restored as it was: `left_out` says what."""
    destroyed: tuple[str, tuple[bytes, ...]] | None = None
    """A checkpoint, and its paths whose work neither the disk nor HEAD nor the save has; None where there is none."""
    files_only: bool = False
    """Files were restored from a save; branch, index and marker were not touched."""

    @property
    def is_nothing(self) -> bool:
        """Whether there was nothing to recover, not even a repository inside."""
        return self.verdict == "nothing" and not self.nested


def with_messages(result: RecoverResult, *messages: str) -> RecoverResult:
    """The result with more of what happened; an empty message adds nothing."""
    return result._replace(message="; ".join(part for part in (result.message, *messages) if part))


#: What is said where only the WIP commit of a save is left, as in a clone of the branch.
BARE = (
    "only the WIP commit of this save is here, without what no commit holds: flags, permissions, empty directories, "
    "ignored files and repositories inside"
)
#: A list in a briefing, or in a message, names no more than this.
_NAMED = 12
_RUNS_NAMED = 50


#: What to type where repositories inside are not back.
UNFINISHED_HINT = "gitstate recover; to go on without them: gitstate recover --dismiss"


def unfinished_words(save_id: str, paths: Sequence[bytes]) -> str:
    """That the repositories inside a workspace at these paths are not back from a save that was recovered."""
    named = [text_to_json(os.fsdecode(path)) for path in paths[:_NAMED]]
    return (
        f"repositories inside are not recovered yet, and the save {save_id} holds them: {first_of(named, len(paths))}"
    )


# -- for a program and a person


def recover_json(result: RecoverResult) -> dict[str, Any]:
    """One workspace of what `recover --json` prints."""
    from ..save.request import left_out_json

    return {
        "workspace": escape(result.workspace),
        "verdict": result.verdict,
        "message": escape(result.message) or None,
        "hint": result.hint and escape(result.hint),
        "exit_status": result.exit_status,
        "save_id": result.save_id,
        "branch": None if result.branch is None else text_to_json(result.branch),
        "restored": [path_to_json(path) for path in result.restored],
        "deleted": [path_to_json(path) for path in result.deleted],
        "kept": [path_to_json(path) for path in result.kept],
        "left_out": left_out_json(result.left_out),
        "runs_by_itself": [text_to_json(item) for item in result.runs],
        "safety_save": result.safety_save,
        "state_file": None if result.state_file is None else escape(result.state_file),
        "resume": result.resume and escape(result.resume),
        "briefing": result.briefing and escape_lines(result.briefing),
        "context": result.context.to_json(),
        "nested": [recover_json(inner) for inner in result.nested],
        "destroyed": result.destroyed
        and {"save_id": result.destroyed[0], "paths": [path_to_json(path) for path in result.destroyed[1]]},
        "removed_locks": [path_to_json(path) for path in result.cleared],
    }


def recover_lines(result: RecoverResult) -> list[str]:
    """What `recover` says to a person about one workspace."""
    save = f" (save {result.save_id})" if result.save_id else ""
    lines = [f"{escape(result.workspace)}: {summary(result)}{save}"]
    if result.message:
        lines.append(f"  {result.message}")
    lines += [f"  could run by itself: {escape(item)}" for item in result.runs[:_RUNS_NAMED]]
    lines += [f"  … and {len(result.runs) - _RUNS_NAMED} more"] if len(result.runs) > _RUNS_NAMED else []
    if any((result.restored, result.deleted, result.kept, result.left_out, result.cleared)):
        from ..save.request import listed_lines, skipped_lines

        lines += listed_lines("restored:", result.restored) + listed_lines("deleted:", result.deleted)
        lines += listed_lines("kept:", result.kept)
        lines += skipped_lines(result.left_out)
        lines += listed_lines("removed stale lock:", result.cleared)
    if result.destroyed:
        line = destroyed_line(*result.destroyed, result.left_out, is_saved=result.save_id is not None)
        lines.append(f"  {locate(line, result.workspace)}")
    if result.safety_save:
        lines.append(f"  the files as they were before: save {result.safety_save}")
    for inner in result.nested:
        lines += ["  " + line for line in recover_lines(inner)]
    if result.resume:
        task = instruction(result.context)
        lines += [f"  {task}", *([f"  resume its session: {result.resume}"] if result.resume != task else [])]
    if result.hint:
        lines.append(f"  next: {result.hint}")
    return lines


def destroyed_line(save_id: str, paths: Sequence[bytes], left_out: Sequence[LeftOut], *, is_saved: bool = True) -> str:
    """One line about work that was destroyed before the save, or that it skipped, with the command that brings it back
    from an earlier checkpoint. `is_saved`: there is a save.
    """
    listed = first_of([text_to_json(os.fsdecode(paths[0]))], len(paths))
    common = os.path.commonpath(paths) if len(paths) > 1 else paths[0]
    where = f" {quote(os.fsdecode(common))}" if common else ""
    is_skipped = {item.path for item in left_out}.issuperset(paths)
    what = "skipped by the save, and held by a checkpoint before it" if is_skipped else "destroyed before the save"
    what = what if is_saved else "held by a checkpoint, and gone since"
    return f"{what}: {listed}; to bring it back: gitstate restore {save_id}{where}"


def summary(result: RecoverResult) -> str:
    """The verdict in a few words; the verdict itself where its message says the rest."""
    if result.verdict == "nothing" and result.nested:
        return "recovered: repositories inside"
    if result.verdict not in ("restore", "context_only"):
        return result.verdict
    if result.dry_run:
        return f"would be {'restored' if result.files_only else 'recovered'}; nothing was touched"
    if result.verdict == "context_only":
        # Without a save nothing is known of them.
        return f"recovered: the context{' (there were no uncommitted changes)' if result.save_id else ''}"
    if result.files_only:
        return f"restored from {'the save' if result.save_id else 'the commit'}; branch and index were not touched"
    return "recovered in part" if result.exit_status or result.partial else "recovered: everything is as it was saved"


def outcome_words(result: RecoverResult) -> str:
    """What was done in one workspace, for a column of a table."""
    counts = (
        (len(result.restored), "restored"),
        (len(result.deleted), "deleted"),
        (len(result.kept), "kept"),
        (len(result.cleared), "stale locks removed"),
        (len(result.left_out), "skipped"),
    )
    parts = [f"{count} {what}" for count, what in counts if count]
    usual = {"restore": summary(result).removeprefix("recovered: "), "context_only": "the context"}
    if result.dry_run and parts:
        parts[0] = f"would be: {parts[0]}"
    elif result.dry_run:
        usual = {"restore": "branch and index would be restored", "context_only": "the context would be"}
    return ", ".join(parts) or escape(result.message.partition(";")[0]) or usual.get(result.verdict, "")


#: What a person must see first. What passes by itself comes last.
_WORST_FIRST = (EXIT_PERSON, EXIT_BUG, EXIT_USAGE, EXIT_FAILED, EXIT_AGAIN)


def worst_of(statuses: Iterable[int]) -> int:
    """One exit status for many workspaces: that of the worst of them."""
    present = set(statuses)
    return next((status for status in _WORST_FIRST if status in present), EXIT_DONE)


# -- hints

#: A command in a hint is at its beginning, or behind a word with one of these at its end.
_BEFORE_COMMAND = (";", ":", "&")


def located(result: RecoverResult) -> RecoverResult:
    """The result with a hint that works in the current directory."""
    return result._replace(hint=locate(result.hint, result.workspace))


@contextmanager
def hints_for(workspace: bytes) -> Iterator[None]:
    """The same for the hint of an error that is raised in the block."""
    try:
        yield
    except GitstateError as error:
        error.hint = locate(error.hint, workspace)
        raise


def locate(hint: str | None, workspace: bytes) -> str | None:
    """A hint whose commands are for `workspace`, so that they work in the current directory: with `-C` elsewhere.

    Without `re`: each recovery of an agent's session by a loop comes here, and loading that takes 5 ms.
    """
    if hint is None or _is_here(workspace):
        return hint
    where = quote(os.fsdecode(workspace))
    words = hint.split(" ")
    for place, word in enumerate(words[:-1]):
        begins = place == 0 or words[place - 1].endswith(_BEFORE_COMMAND)
        if begins and word in ("gitstate", "git") and words[place + 1] != "-C":
            words[place] = f"{word} -C {where}"
    return " ".join(words)


def _is_here(workspace: bytes) -> bool:
    """Whether the current directory is in this workspace, and in no repository inside it."""
    try:
        directory, top = os.getcwdb(), os.path.realpath(workspace)
    except OSError:
        return False
    while directory != top and len(directory) > 1 and not os.path.lexists(os.path.join(directory, b".git")):
        directory = os.path.dirname(directory)
    return directory == top


# -- for a shell

#: What `recover --format shell` sets, and from what. The library empties these, and hooks/README.md describes them.
_SHELL_VARIABLES: Mapping[str, Callable[[RecoverResult], object]] = {
    "RECOVERED_TASK_ID": lambda result: result.context.task_id,
    "RECOVERED_ISSUE_NUMBER": lambda result: result.context.issue_number,
    "RECOVERED_WORKSPACE_PATH": lambda result: escape(result.workspace),
    "RECOVERED_BRANCH_NAME": lambda result: result.context.branch_name,
    "RECOVERED_PROGRESS_STAGE": lambda result: result.context.progress_stage,
    "RECOVERED_MEMORY_REFS": lambda result: "\n".join(result.context.memory_refs),
    "RECOVERED_AGENT": lambda result: result.context.agent,
    "RECOVERED_SESSION_ID": lambda result: result.context.session_id,
    "RECOVERED_TRANSCRIPT_PATH": lambda result: _text(result.context.extra.get("transcript_path")),
    "RECOVERED_AGENT_CWD": lambda result: _text(result.context.extra.get("agent_cwd")),
    "RECOVERED_RESUME_COMMAND": lambda result: _resume_command(result.context),
    # Saves of other workspaces, which stop nobody: the loop has nothing to go on with.
    "RECOVERED_VERDICT": lambda result: result.verdict if _is_of_here(result) else "nothing",
    "RECOVERED_SAVE_ID": lambda result: result.save_id,
    "RECOVERED_RESUME": lambda result: result.resume,
    "RECOVERED_BRIEFING": lambda result: result.briefing,
}


def shell_lines(result: RecoverResult) -> str:
    """Assignments for a shell's `eval`: every value in single quotes, so that it stays data."""
    return "".join(f"{name}={_shell_quote(value(result))}\n" for name, value in _SHELL_VARIABLES.items())


def _is_of_here(result: RecoverResult) -> bool:
    return result.verdict != "elsewhere" or result.exit_status != EXIT_DONE


def _resume_command(context: Context) -> str | None:
    from ..agents.sessions import resume_command

    return resume_command(context, os.environ, instruction(context))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _shell_quote(value: object) -> str:
    text = "" if value is None else str(value).replace("\0", "")
    return "'" + text.replace("'", "'\\''") + "'"


# -- for the agent


def instruction(context: Context) -> str:
    """What to continue with, in one sentence and one line, for an agent that starts a new session."""
    parts = [f"Continue {context.task_id}" if context.task_id else "Continue"]
    if context.issue_number is not None:
        parts.append(f"(issue {context.issue_number})")
    if context.progress_stage:
        parts.append(f"at stage {context.progress_stage}")
    if context.branch_name:
        parts.append(f"on branch {context.branch_name}")
    parts.append(f"in {context.workspace_path}")
    # A line end in a value would begin a line that nobody but the briefing should write.
    return escape(" ".join(parts))


def briefing(
    context: Context,
    reason: Reason,
    *,
    restored: Sequence[bytes],
    kept: Sequence[bytes],
    left_out: Sequence[LeftOut],
    operation: str | None = None,
    destroyed: tuple[str, tuple[bytes, ...]] | None = None,
    failed: Sequence[LeftOut] = (),
    is_saved: bool = True,
    is_bare: bool = False,
    is_buried: bool = False,
    by_git: bool = False,
) -> str:
    """A few lines for the agent: what the last run was doing, what is on disk again, and what is not.

    `left_out` is what the save lacks, `failed` what could not be restored from it. `is_bare`: only its WIP commit was
    there. `is_buried`: there are commits on top of that. `by_git`: plain git has brought the save back, and newer
    commits stand on that.
    """
    how = f" by SIG{reason.signal}" if reason.signal else ""
    how = f": it ended with status {reason.exit_code}" if reason.exit_code is not None else how
    lines = [f"Your last run in this workspace was interrupted{how}."]
    lines.append(instruction(context) + ".")
    if context.memory_refs:
        lines.append("Notes of the last run: " + ", ".join(map(escape, context.memory_refs[:_NAMED])))
    if operation:
        lines.append(f"A {operation} is in progress: run `git status` first.")
    lines += _named("Restored from the save", restored)
    lines += _named("Changed after the save, and kept", kept)
    lines += _named("Not in the save", [item.path or b"the workspace" for item in left_out])
    lines += _named("Not restored, or not as it was", [item.path or b"the workspace" for item in failed])
    if destroyed:
        line = escape(destroyed_line(*destroyed, left_out, is_saved=is_saved))
        lines.append(line[:1].upper() + line[1:])
    if by_git:
        lines.append("Its files were brought back with git, and there are commits since: see `git log`.")
    elif is_bare:
        lines.append(f"{BARE[:1].upper()}{BARE[1:]}: `git status` may differ from that of the last run.")
    elif is_buried:
        lines.append(
            "Commits were made on top of the saved work: its files are in them, and none was written or deleted."
        )
    elif not is_saved and not restored and not destroyed:
        lines.append("No file was written or deleted; uncommitted changes are in the worktree.")
    elif is_saved and not restored and not kept:
        which = "All other files" if left_out or failed else "All files"
        lines.append(f"{which} are as the last run left them; uncommitted changes are in the worktree.")
    return "\n".join(lines)


def _named(title: str, paths: Sequence[bytes]) -> list[str]:
    if not paths:
        return []
    named = [escape(path) for path in paths[:_NAMED]]
    return [f"{title}: {first_of(named, len(paths))}"]
