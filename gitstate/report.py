"""Results and errors → words, JSON and an exit status. The one place that does; nothing here decides.

Data goes to stdout, words for people to stderr. Everything that came from a context, a file name or a repository is
escaped, so that it can't steer a terminal. A terminal that is gone (EIO, a closed pipe) never turns success into
failure: what was to be said comes after the work is durable.
"""

from __future__ import annotations

import os
import sys

from .arguments import Quick, context_values
from .errors import EXIT_BUG, EXIT_DONE, EXIT_FAILED, EXIT_PERSON, GitstateError
from .json_data import dumps
from .light import TYPE_CHECKING, signal, suppress
from .model import SCHEMA_VERSION, LeftOut, Reason, path_to_json, text_to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, TextIO

    from .boot import Status
    from .doctor import Finding
    from .history import Entry
    from .install_agents import Change
    from .install_git import Outcome
    from .remote import Exchange
    from .request import SaveResult
    from .restore import RecoverResult
    from .scan import Summary
    from .stop import StopResult

_SHOWN = 20


def escape(text: str | bytes) -> str:
    """Text that is safe on a terminal: control characters and undecodable bytes stand as escapes."""
    plain = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text_to_json(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)


def say(*lines: str) -> None:
    """Words for people, on stderr; each line is escaped."""
    _print(sys.stderr, "".join(escape(line) + "\n" for line in lines))


def emit(value: Mapping[str, Any]) -> None:
    """Data: one JSON object on stdout, with its schema version."""
    _print(sys.stdout, dumps({"schema_version": SCHEMA_VERSION, **value}).decode("utf-8"))


def _print(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.buffer.write(text.encode("utf-8", "backslashreplace"))
        stream.buffer.flush()
    except (OSError, ValueError):
        _give_up(stream)


def _give_up(stream: TextIO) -> None:
    """Nothing more can be said here: what is still buffered goes nowhere, else Python ends with status 120 for it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def guarded(run: Callable[[], int], command: str, as_json: bool) -> int:
    """Run one command; an error becomes one line, a hint and its exit status. No traceback reaches a person."""
    try:
        return run()
    except GitstateError as error:
        said, hint, status = error.message, error.hint, error.exit_status
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        said, hint, status = f"{where}{error.strerror or error}; nothing was lost", None, EXIT_FAILED
    except RecursionError:
        said, hint, status = "the data is nested too deeply; nothing was changed", None, EXIT_FAILED
    except Exception as error:
        said, hint, status = _bug(error)
    if as_json:
        emit({"command": command, "error": escape(said), "hint": hint and escape(hint), "exit_status": status})
    say(f"gitstate: {said}", *([f"  next: {hint}"] if hint else []))
    return status


def _bug(error: Exception) -> tuple[str, str | None, int]:
    import tempfile
    import traceback

    path = None
    with suppress(OSError):
        fd, path = tempfile.mkstemp(prefix="gitstate-bug-", suffix=".log")
        with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exc(file=file)
    return f"this is a bug in gitstate ({type(error).__name__}); the details are in {path}", None, EXIT_BUG


def left_out_json(items: Iterable[LeftOut]) -> list[dict[str, Any]]:
    return [item.to_json() for item in items]


def _list(title: str, paths: Iterable[bytes]) -> list[str]:
    known = list(paths)
    lines = [f"  {title} {escape(path)}" for path in known[:_SHOWN]]
    return lines + ([f"  {title} … and {len(known) - _SHOWN} more"] if len(known) > _SHOWN else [])


def _left_out_lines(items: Iterable[LeftOut]) -> list[str]:
    known = list(items)
    lines = [f"  left out: {escape(item.path) or 'the workspace'}: {escape(item.reason)}" for item in known[:_SHOWN]]
    return lines + ([f"  left out: … and {len(known) - _SHOWN} more"] if len(known) > _SHOWN else [])


# -- save


def run_save(quick: Quick) -> int:
    """Carry out `save` or `checkpoint`. Signals wait until it is done: a save that was begun is finished."""
    from .files import ignoring_signals

    as_json = bool(quick.given.get("json"))
    with ignoring_signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)):
        return guarded(lambda: _save(quick, as_json), quick.command, as_json)


def _save(quick: Quick, as_json: bool) -> int:
    from .git import start_opening

    path = os.fsencode(os.path.abspath(quick.directory))
    # Git looks for the repository while this imports the rest: a quarter of a small save goes into imports.
    opening = start_opening(path)
    from .request import SaveRequest
    from .save import save

    given: Mapping[str, Any] = quick.given
    request = SaveRequest(
        kind=quick.command,
        values=context_values(quick.given, os.environ),
        reason=Reason(given.get("signal"), given.get("exit_code"), given.get("reason")),
        deadline=given.get("deadline"),
        wait=given.get("wait", 60.0),
        keep_ignored=given.get("include_ignored", ()),
        owner_pid=given.get("owner_pid"),
    )
    result = save(path, request, opening)
    if as_json:
        emit(save_json(result, quick.command))
    say(*save_lines(result, quick.command))
    return EXIT_PERSON if result.lost else EXIT_DONE


def save_json(result: SaveResult, command: str) -> dict[str, Any]:
    """What `save --json` prints."""
    return {
        "command": command,
        "result": result.result,
        "save_id": result.save_id,
        "workspace": escape(result.workspace),
        "branch": None if result.branch is None else text_to_json(result.branch),
        "wip_commit": result.wip_commit,
        "base_commit": result.base_commit,
        "index_commit": result.index_commit,
        "archive": result.archive,
        "branch_moved": result.branch_moved,
        "incomplete": bool(result.left_out),
        "left_out": left_out_json(result.left_out),
        "message": escape(result.message) or None,
    }


def save_lines(result: SaveResult, command: str) -> list[str]:
    """What `save` says to a person."""
    if result.result == "saved":
        where = f"on {result.branch}" if result.branch_moved else "beside the branch, which was not moved"
        if command == "checkpoint":
            where = "as a checkpoint"
        first = f"saved {result.save_id} ({(result.wip_commit or '')[:12]} {where})"
        if result.left_out:
            first += f" -- incomplete: {len(result.left_out)} left out"
    else:
        first = result.message
    more = [result.message] if result.message and result.result == "saved" else []
    return [first, *more, *_left_out_lines(result.left_out)]


def failed_save_lines(why: str, waiting: str | None, checkpoint: str | None, *, whole: bool = False) -> list[str]:
    """What to tell where the save at the end of a run failed: what stands all the same, and what to do next.

    `waiting` is the save that waits, `checkpoint` the latest one; `whole`: that save is of this very look, and only
    what comes after its marker failed.
    """
    if waiting is not None:
        what = "what follows a save failed" if whole else "what changed after it is not saved"
        return [f"gitstate: saved {waiting}; {what}: {why}", "  next: gitstate recover, which brings back that save"]
    files = "  the files are left as they are on the disk"
    if checkpoint is not None:
        files += f"; the checkpoint {checkpoint} stands (gitstate diff {checkpoint})"
    return [f"gitstate: not saved: {why}", files, "  next: gitstate save"]


def failed_look_lines(why: str, early: SaveResult) -> list[str]:
    """The same where the early save of this end is known: what it holds, and what it left to the look that failed."""
    return [
        f"gitstate: the last look failed: {why}",
        *save_lines(early, "save"),
        "  what was left to this second step, and what changed since, is not saved",
        "  next: gitstate recover",
    ]


# -- hooks


def run_hook(name: str, arguments: Sequence[str]) -> int:
    """Carry out `hook NAME`: `git EVENT …`, or an agent's event on stdin. Nothing of ours stops git or the agent."""
    try:
        if name == "git":
            from . import git_hook

            return git_hook.run(arguments[0] if arguments else "", arguments[1:], say)
        from . import agent_hook

        answer = agent_hook.run(name, escape_lines)
        if answer:
            _print(sys.stdout, answer)
        return EXIT_DONE
    except Exception as error:
        said = _bug(error)[0]
        if name == "git":
            # An agent would take these words for its own.
            say(f"gitstate: {said}; git goes on")
        return EXIT_DONE


def install_json(command: str, outcome: Outcome) -> dict[str, Any]:
    """What `install --json` and `uninstall --json` print for git's hooks."""
    return {
        "command": command,
        "manner": outcome.manner,
        "directory": escape(outcome.directory),
        "hooks": [
            {
                "event": step.event,
                "outcome": step.outcome,
                "path": None if step.path is None else escape(step.path),
                "lines": list(step.lines),
            }
            for step in outcome.steps
        ],
        "notes": [escape(note) for note in outcome.notes],
        "exit_status": outcome.exit_status,
    }


def install_lines(outcome: Outcome) -> list[str]:
    """What `install` and `uninstall` say to a person about git's hooks."""
    where = "git's configuration" if outcome.manner == "config" else escape(outcome.directory)
    by_outcome: dict[str, list[str]] = {}
    for step in outcome.steps:
        by_outcome.setdefault(step.outcome, []).append(step.event)
    words = {"installed": "installed", "already": "already there", "removed": "removed", "absent": "not installed"}
    lines = [
        f"{word}: {', '.join(by_outcome[name])}" + (f" ({where})" if name in ("installed", "already") else "")
        for name, word in words.items()
        if name in by_outcome
    ]
    lines += [f"  {escape(note)}" for note in outcome.notes]
    for step in outcome.steps:
        if step.outcome == "by hand":
            lines.append(f"by hand, in {escape(step.path or b'')}:")
            lines += [f"  {line}" for line in step.lines]
    return lines


def change_json(command: str, change: Change, dry_run: bool) -> dict[str, Any]:
    """What `install --agent --json` and `uninstall --agent --json` print."""
    return {
        "command": command,
        "agent": change.agent,
        "path": escape(change.path),
        "outcome": change.outcome,
        "dry_run": dry_run,
        "diff": escape_lines(change.diff()),
        "notes": list(change.notes),
    }


def change_lines(change: Change, dry_run: bool) -> list[str]:
    """What `install --agent` and `uninstall --agent` say to a person."""
    words = {
        "installed": "would be installed in" if dry_run else "installed in",
        "already": "already in",
        "removed": "would be removed from" if dry_run else "removed from",
        "absent": "not in",
    }
    return [f"{change.agent}: {words[change.outcome]} {escape(change.path)}", *(f"  {note}" for note in change.notes)]


# -- recover


def recover_json(result: RecoverResult) -> dict[str, Any]:
    """One workspace of what `recover --json` prints."""
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
        "safety_save": result.safety_save,
        "state_file": None if result.state_file is None else escape(result.state_file),
        "resume": result.resume and escape(result.resume),
        "briefing": result.briefing and escape_lines(result.briefing),
        "context": result.context.to_json(),
        "nested": [recover_json(inner) for inner in result.nested],
        "removed_locks": [path_to_json(path) for path in result.cleared],
    }


def recover_lines(result: RecoverResult) -> list[str]:
    """What `recover` says to a person about one workspace."""
    from .resume import instruction

    words = {
        "restore": "recovered: everything is as it was saved",
        "context_only": "recovered: the context; there was nothing uncommitted to restore",
    }
    first = words.get(result.verdict, result.verdict)
    if result.files_only and result.verdict == "restore":
        first = "taken out of the save; branch and index stay as they are"
    elif result.verdict == "restore" and result.exit_status:
        first = "recovered, but not all of it"
    if result.dry_run and result.verdict in words:
        first = "would be recovered; nothing was touched"
    lines = [f"{escape(result.workspace)}: {first}" + (f" (save {result.save_id})" if result.save_id else "")]
    if result.message:
        lines.append(f"  {result.message}")
    lines += (
        _list("restored:", result.restored) + _list("deleted:", result.deleted) + _list("kept as it is:", result.kept)
    )
    lines += _left_out_lines(result.left_out)
    lines += _list("removed, a lock of a process that is gone:", result.cleared)
    if result.safety_save:
        lines.append(f"  what was there before is in save {result.safety_save}")
    for inner in result.nested:
        lines += ["  " + line for line in recover_lines(inner)]
    if result.resume:
        task = instruction(result.context)
        lines += [f"  {task}", *([f"  its session goes on with: {result.resume}"] if result.resume != task else [])]
    if result.hint:
        lines.append(f"  next: {result.hint}")
    return lines


def worst_of(statuses: Iterable[int]) -> int:
    """One exit status for many workspaces: a person first, then failures, then what passes by itself."""
    found = set(statuses)
    return next((status for status in (4, 3, 2, 1, 75) if status in found), EXIT_DONE)


def fleet_lines(results: Sequence[RecoverResult], width: int | None) -> list[str]:
    """What `recover --all` says: a row for each workspace where there was something, then how many there were.

    `width` is the terminal's in columns, None where there is none and nothing is cut.
    """
    from .table import table

    telling = [result for result in results if result.verdict not in ("nothing", "live") or result.cleared]
    rows = [
        (
            result.verdict,
            escape(result.workspace),
            escape(result.branch or "-"),
            escape(result.context.task_id or "-"),
            _what(result),
        )
        for result in telling
    ]
    lines = table(("VERDICT", "WORKSPACE", "BRANCH", "TASK", "WHAT"), rows, width) if rows else []
    for result in telling:
        if result.exit_status:
            lines.append(f"{escape(result.workspace)}: {result.message or result.verdict}")
            lines += [f"  next: {result.hint}"] if result.hint else []
    verdicts = [result.verdict for result in results]
    told = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
    count = "1 workspace" if len(results) == 1 else f"{len(results)} workspaces"
    return [*lines, count + (f": {told}" if told else "")]


def _what(result: RecoverResult) -> str:
    words = [
        f"{len(paths)} {verb}"
        for verb, paths in (
            ("restored", result.restored),
            ("deleted", result.deleted),
            ("kept", result.kept),
            ("dead locks removed", result.cleared),
        )
        if paths
    ]
    if result.left_out:
        words.append(f"{len(result.left_out)} left out")
    usual = {"restore": "all is as it was saved", "context_only": "the context"}
    if result.dry_run and words:
        words[0] = f"would be: {words[0]}"
    elif result.dry_run:
        usual = {"restore": "branch and index would be put back", "context_only": "the context would be"}
    return ", ".join(words) or escape(result.message.partition(";")[0]) or usual.get(result.verdict, "")


def progress(done: int, total: int) -> None:
    """How far many recoveries are, on a line that is written over; only on a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        end = "\r\x1b[K" if done >= total else ""
        _print(sys.stderr, f"\r{done} of {total} workspaces {end}")


# -- push and fetch


def exchange_json(exchange: Exchange) -> dict[str, Any]:
    """What went to or came from a remote, as JSON."""
    return {**exchange._asdict(), "remote": escape(exchange.remote)}


def exchange_lines(exchange: Exchange, command: str, dry_run: bool) -> list[str]:
    """The same for a person, and what to type next."""
    verb = {"push": "went to", "fetch": "came from"}[command]
    verb = {"went to": "would go to", "came from": "would come from"}[verb] if dry_run else verb
    lines = [f"{len(exchange.saves)} saves {verb} {exchange.remote}; {len(exchange.waiting)} of them wait"]
    lines += [f"recovered here, and no longer marked there: {name}" for name in exchange.recovered]
    if command == "fetch" and exchange.waiting and not dry_run:
        lines.append("  next: gitstate recover, on the branch of the save; or: gitstate recover --into PATH --save ID")
    return lines


# -- boot and doctor


def boot_json(standing: Status) -> dict[str, Any]:
    """How recovery at boot stands, for `boot status --json`."""
    troubles = [{"what": escape(what), "next": escape(command)} for what, command in standing.troubles]
    plain = {name: getattr(standing, name) for name in ("scheduler", "enabled", "files", "linger", "command")}
    return {**plain, "troubles": troubles}


def boot_lines(standing: Status) -> list[str]:
    """The same for a person."""
    first = f"enabled with {standing.scheduler}: `{' '.join(standing.command)} recover --all` runs at boot"
    lines = [first if standing.enabled else "recovery at boot is not enabled"]
    lines += [f"  {path}" for path in standing.files]
    if not standing.enabled:
        lines.append("  next: gitstate boot enable")
    for what, command in standing.troubles:
        lines += [f"{what}", f"  next: {command}"]
    return lines


def finding_json(finding: Finding) -> dict[str, Any]:
    """One finding of what `doctor --json` prints."""
    return {
        "check": finding.check,
        "what": escape(finding.what),
        "next": escape(finding.command),
        "serious": finding.serious,
        "fixable": finding.fix is not None,
    }


def doctor_lines(found: Sequence[Finding], mended: Sequence[Finding]) -> list[str]:
    """What `doctor` says to a person: what was mended, what is wrong, then advice."""
    lines = [f"mended: {item.what}" for item in mended]
    for item in sorted(found, key=lambda item: not item.serious):
        lines += [f"{'wrong' if item.serious else 'advice'}: {item.what}", f"  next: {item.command}"]
    if any(item.fix is not None for item in found):
        lines.append("gitstate doctor --fix mends what can be mended without losing anything")
    return lines or ["nothing is wrong here"]


def shell_lines(result: RecoverResult) -> str:
    """Assignments for a shell's `eval`: every value in single quotes, so that it stays data."""
    from .resume import resume_command

    context = result.context
    values = {
        "RECOVERED_TASK_ID": context.task_id,
        "RECOVERED_ISSUE_NUMBER": context.issue_number,
        "RECOVERED_WORKSPACE_PATH": escape(result.workspace),
        "RECOVERED_BRANCH_NAME": context.branch_name,
        "RECOVERED_PROGRESS_STAGE": context.progress_stage,
        "RECOVERED_MEMORY_REFS": "\n".join(context.memory_refs),
        "RECOVERED_AGENT": context.agent,
        "RECOVERED_SESSION_ID": context.session_id,
        "RECOVERED_TRANSCRIPT_PATH": _text(context.extra.get("transcript_path")),
        "RECOVERED_AGENT_CWD": _text(context.extra.get("agent_cwd")),
        "RECOVERED_RESUME_COMMAND": resume_command(context, os.environ),
        "RECOVERED_VERDICT": result.verdict,
        "RECOVERED_SAVE_ID": result.save_id,
        "RECOVERED_RESUME": result.resume,
        "RECOVERED_BRIEFING": result.briefing,
    }
    return "".join(f"{name}={_shell_quote(value)}\n" for name, value in values.items())


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _shell_quote(value: object) -> str:
    text = "" if value is None else str(value).replace("\0", "")
    return "'" + text.replace("'", "'\\''") + "'"


# -- stop


def stop_json(result: StopResult) -> dict[str, Any]:
    """One workspace of what `stop --json` prints."""
    return {
        "workspace": escape(result.workspace),
        "result": result.result,
        "killed": result.killed,
        "save_id": result.save_id,
        "message": escape(result.message) or None,
    }


def stop_lines(result: StopResult) -> list[str]:
    """What `stop` says to a person about one workspace."""
    how = "killed, it did not end by itself" if result.killed else "stopped"
    first = f"{escape(result.workspace)}: {how if result.result == 'stopped' else result.result}"
    words = [first + (f"; saved as {result.save_id}" if result.save_id else "")]
    return [*words, *([f"  {result.message}"] if result.message else [])]


# -- status, show, log, diff


def summary_json(item: Summary) -> dict[str, Any]:
    """One workspace of what `status --json` prints."""
    return {
        "workspace": escape(item.workspace),
        "branch": None if item.branch is None else text_to_json(item.branch),
        "status": item.status,
        "waiting": item.waiting,
        "problem": item.problem and escape(item.problem),
        "context": item.context.to_json(),
    }


def summary_lines(items: Sequence[Summary], width: int | None) -> list[str]:
    """The table of `status`: state, path, branch, task, stage, and what there is to know beside it."""
    from .table import table

    rows = []
    for item in items:
        note = f"save {item.waiting} waits: gitstate recover" if item.waiting else item.problem or ""
        words = (item.branch or ("-" if item.problem else "(detached)"), item.context.task_id or "-")
        stage = item.context.progress_stage or "-"
        rows.append([escape(word) for word in (item.status or "unknown", item.workspace, *words, stage, note)])
    return table(("STATUS", "WORKSPACE", "BRANCH", "TASK", "STAGE", ""), rows, width)


def value_line(value: Any) -> str:
    """A context value for a person: text as it is, anything else as JSON."""
    import json

    return escape(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)


def entry_json(entry: Entry) -> dict[str, Any]:
    """One save of what `log --json` prints."""
    return {
        "save_id": entry.save_id,
        "workspace_id": entry.workspace_id,
        "archive": entry.archive,
        "waiting": entry.waiting,
        "problem": entry.problem and escape(entry.problem),
        "context": entry.context.to_json(),
        "manifest": None if entry.manifest is None else entry.manifest.to_json(),
    }


def entry_line(entry: Entry) -> str:
    """One save on one line."""
    if entry.manifest is None:
        return f"{escape(entry.save_id)}  can't be read: {escape(entry.problem or '')}"
    words = [
        entry.save_id,
        entry.manifest.kind,
        entry.context.branch_name or "(detached)",
        entry.context.task_id or "-",
    ]
    words.append(entry.context.progress_stage or "-")
    words += ["waits" if entry.waiting else "", "incomplete" if entry.manifest.incomplete else ""]
    return "  ".join(escape(word) for word in words if word)


def escape_lines(text: str) -> str:
    """A text of several lines, safe for a terminal line by line; tabs stay."""
    return "\n".join("\t".join(escape(cell) for cell in line.split("\t")) for line in text.split("\n"))


def write_patch(text: str) -> None:
    """A patch on stdout: its very bytes where a program reads them, escaped on a terminal."""
    if sys.stdout.isatty():
        _print(sys.stdout, escape_lines(text))
    else:
        try:
            sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            _give_up(sys.stdout)
