"""Results and errors → words, JSON and an exit status. The one place that does; nothing here decides.

Data goes to stdout, words for people to stderr. Everything that came from a context, a file name or a repository is
escaped, so that it can't steer a terminal. A terminal that is gone (EIO, a closed pipe) never turns success into
failure: what was to be said comes after the work is durable.
"""

from __future__ import annotations

from ..recover.words import outcome_words
from ..system.jsonio import text_to_json
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import escape, escape_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..fleet.doctor import Finding
    from ..history.listing import Entry
    from ..history.remote import Exchange
    from ..integrations.agent_hooks_install import Change
    from ..integrations.git_hooks_install import Outcome
    from ..integrations.schedulers import BootStatus
    from ..recover.facts import Summary
    from ..recover.request import RecoverResult
    from ..run.stop import StopResult


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


def fleet_lines(results: Sequence[RecoverResult], width: int | None) -> list[str]:
    """What `recover --all` says: a row for each workspace where there was something, then how many there were.

    `width` is the terminal's in columns, None where there is none and nothing is cut.
    """
    from ..system.table import table

    telling = [result for result in results if result.verdict not in ("nothing", "live") or result.cleared]
    rows = [
        (
            result.verdict,
            escape(result.workspace),
            escape(result.branch or "-"),
            escape(result.context.task_id or "-"),
            outcome_words(result),
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


def boot_json(standing: BootStatus) -> dict[str, Any]:
    """How recovery at boot stands, for `boot status --json`."""
    troubles = [{"what": escape(what), "next": escape(command)} for what, command in standing.troubles]
    plain = {name: getattr(standing, name) for name in ("scheduler", "enabled", "files", "linger", "command")}
    return {**plain, "troubles": troubles}


def boot_lines(standing: BootStatus) -> list[str]:
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
    from ..system.table import table

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
