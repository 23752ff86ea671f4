"""`recover` and `status`: one workspace, or many."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ...errors import EXIT_DONE, UsageError
from ...recover.request import outcome_words, recover_json, recover_lines, shell_lines, worst_of
from ...system.jsonio import text_to_json
from ...system.terminal import escape, progress, say, table, terminal_width
from ..command import Call, command, everything_option, paths_argument, roots_option

if TYPE_CHECKING:
    from ...fleet.status import Summary
    from ...recover.request import RecoverRequest, RecoverResult

#: Seconds to wait for another gitstate in one workspace; in each of many.
_WAIT, _WAIT_EACH = 60.0, 5.0
_INCOMPLETE = "the search below --root reached its limit: name a directory nearer to the workspaces"


@command("recover")
@paths_argument
@everything_option
@roots_option
@click.option("--dry-run", is_flag=True, help="report what would happen, change nothing")
@click.option("--overwrite", is_flag=True, help="overwrite files that were edited after the save")
@click.option("--into", metavar="PATH", help="restore a save whose workspace is gone into a new worktree")
@click.option("--save", "save_id", metavar="ID", help="recover this save instead of the pending one")
@click.option("--trust", is_flag=True, help="take a fetched save although it could run programs")
@click.option("--special-bits", is_flag=True, help="set the setuid, setgid and sticky bits that files had")
@click.option("--dismiss", is_flag=True, help="mark the pending save as resolved, touching no file")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="wait this long for another gitstate  [default: 60; for many workspaces 5]",
)
@click.option("--format", "style", type=click.Choice(["text", "json", "shell"]), default="text", help="what to print")
def recover(call: Call, paths: tuple[str, ...], style: str, **given: Any) -> int:
    """Nothing that is newer than the save is overwritten. The state file active_state.json is written anew."""
    from ...recover.request import RecoverRequest

    many = given["everything"] or bool(given["roots"])
    _check(paths, many, given)
    default = _WAIT_EACH if many else _WAIT
    wait = default if given["wait"] is None else given["wait"]
    request = RecoverRequest(
        given["save_id"],
        given["dry_run"],
        given["overwrite"],
        wait,
        strict=many,
        trust=given["trust"],
        special_bits=given["special_bits"],
    )
    if many:
        results, complete = _recover_known(call, paths, given["roots"], request)
    else:
        results, complete = _recover_named(call, paths, given["into"], given["dismiss"], request), True
    status = worst_of(result.exit_status for result in results)
    if call.as_json:
        workspaces = [recover_json(result) for result in results]
        call.emit(workspaces=workspaces, complete=complete, exit_status=status)
    elif style == "shell":
        for result in results:
            click.echo(shell_lines(result), nl=False)
    if many:
        say(*fleet_lines(results, terminal_width(sys.stderr)))
    else:
        for result in results:
            say(*recover_lines(result))
    if not complete:
        say(_INCOMPLETE)
    return status


def _check(paths: Sequence[str], many: bool, given: dict[str, Any]) -> None:
    """Raise UsageError for options that do not go together."""
    into, save_id = given["into"], given["save_id"]
    if into is not None and (paths or many):
        hint = "gitstate recover --into PATH --save ID"
        raise UsageError("--into goes with one save of one repository", hint=hint)
    if given["dismiss"] and (many or len(paths) > 1 or into is not None):
        raise UsageError("--dismiss goes with one workspace", hint="gitstate recover --dismiss")
    if given["trust"] and many:
        raise UsageError("--trust goes with one workspace", hint="git config --add gitstate.trust REMOTE")
    if save_id is not None and (many or len(paths) > 1):
        raise UsageError("--save goes with one workspace", hint="gitstate recover PATH --save ID")


def _recover_named(
    call: Call, paths: Sequence[str], into: str | None, dismiss: bool, request: RecoverRequest
) -> list[RecoverResult]:
    """Recover the workspaces of the command line."""
    from ...git.repository import open_repository
    from ...recover import recover

    targets = call.absolute(paths) or [call.directory]
    if into is not None:
        (target,) = call.absolute([into])
        return [recover.recover_into(open_repository(call.directory, bare_too=True), target, request)]
    if dismiss:
        return [recover.dismiss(targets[0], request)]
    if len(targets) == 1:
        return [recover.recover(targets[0], request)]
    from ...fleet.recover_all import recover_each

    return recover_each(targets, request)


def _recover_known(
    call: Call, paths: Sequence[str], roots: Sequence[str], request: RecoverRequest
) -> tuple[list[RecoverResult], bool]:
    """Recover all known workspaces, and those of the command line. The flag: the search below `roots` saw all."""
    from ...fleet.recover_all import recover_all

    targets, complete = _all_workspaces(call, paths, roots)
    return recover_all(targets, request, progress), complete


def _all_workspaces(call: Call, paths: Sequence[str], roots: Sequence[str]) -> tuple[list[bytes], bool]:
    from ...fleet.find import workspaces

    known, complete = workspaces(call.directory, [os.path.join(call.directory, os.fsencode(root)) for root in roots])
    return list(dict.fromkeys([*call.absolute(paths), *known])), complete


@command("status")
@paths_argument
@everything_option
@roots_option
def status(call: Call, paths: tuple[str, ...], everything: bool, roots: tuple[str, ...]) -> int:
    """Nothing is changed."""
    from ...fleet.status import summaries

    if everything or roots:
        targets, complete = _all_workspaces(call, paths, roots)
    else:
        targets, complete = call.absolute(paths) or [call.directory], True
    found = summaries(targets)
    if call.as_json:
        call.emit(workspaces=[summary_json(item) for item in found], complete=complete)
    else:
        for line in summary_lines(found, terminal_width(sys.stdout)):
            click.echo(line)
    if not complete:
        say(_INCOMPLETE)
    return EXIT_DONE


# -- words


def fleet_lines(results: Sequence[RecoverResult], width: int | None) -> list[str]:
    """What `recover --all` tells: a row for each workspace with something to tell, then how many there were.

    `width` is the width of the terminal in columns; None cuts nothing.
    """
    shown = [result for result in results if result.verdict not in ("nothing", "live") or result.cleared]
    rows = [
        (
            result.verdict,
            escape(result.workspace),
            escape(result.branch or "-"),
            escape(result.context.task_id or "-"),
            outcome_words(result),
        )
        for result in shown
    ]
    lines = table(("VERDICT", "WORKSPACE", "BRANCH", "TASK", "WHAT"), rows, width) if rows else []
    for result in shown:
        if result.exit_status:
            lines.append(f"{escape(result.workspace)}: {result.message or result.verdict}")
            lines += [f"  next: {result.hint}"] if result.hint else []
    verdicts = [result.verdict for result in results]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
    total = "1 workspace" if len(results) == 1 else f"{len(results)} workspaces"
    return [*lines, total + (f": {counts}" if counts else "")]


def summary_json(item: Summary) -> dict[str, Any]:
    """One workspace of what `status --json` prints."""
    return {
        "workspace": escape(item.workspace),
        "branch": None if item.branch is None else text_to_json(item.branch),
        "status": item.status,
        "waiting": item.waiting,
        "problem": item.problem and escape(item.problem),
        "context": item.context.to_json(),
        "aside": [{"save_id": save_id, "task_id": task_id} for save_id, task_id in item.aside],
    }


def summary_lines(items: Sequence[Summary], width: int | None) -> list[str]:
    """The table of `status`: status, path, branch, task, stage, and a note. `width` as in `fleet_lines`."""
    rows = []
    aside = []
    for item in items:
        for save_id, task_id in item.aside:
            words = f"{escape(item.workspace)}: task {escape(task_id or '-')} is set aside"
            aside.append(f"{words}: gitstate recover --save {escape(save_id)}")
        note = f"save {item.waiting} is pending: gitstate recover" if item.waiting else item.problem or ""
        branch = item.branch or ("-" if item.problem else "(detached)")
        task, stage = item.context.task_id or "-", item.context.progress_stage or "-"
        rows.append([escape(cell) for cell in (item.status or "unknown", item.workspace, branch, task, stage, note)])
    return [*table(("STATUS", "WORKSPACE", "BRANCH", "TASK", "STAGE", ""), rows, width), *aside]
