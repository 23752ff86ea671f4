"""`save` and `checkpoint`; `log`, `diff`, `restore`, `prune`, `push` and `fetch` for old saves."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ...errors import EXIT_DONE, EXIT_FAILED, EXIT_PERSON, UsageError
from ...git.repository import open_repository
from ...system.terminal import escape, escape_lines, say, write_patch
from .. import quick
from ..command import Call, click_option, command, help_text, setting_option
from ..options import OPTIONS, Quick

if TYPE_CHECKING:
    from ...history.listing import Entry
    from ...history.remote import Exchange

_every_workspace = click.option("--all", "everything", is_flag=True, help="of every workspace of this repository")


@command("log")
@_every_workspace
@click.option("-n", "most", type=click.IntRange(1), metavar="N", default=50, show_default=True, help="at most N saves")
def log(call: Call, everything: bool, most: int) -> int:
    """The latest checkpoint is listed too."""
    from ...history.listing import list_saves

    entries = list_saves(open_repository(call.directory), everything=everything, whole=call.as_json)[:most]
    if call.as_json:
        call.emit(saves=[entry_json(entry) for entry in entries])
    else:
        for entry in entries:
            click.echo(entry_line(entry))
    return EXIT_DONE


@command("diff")
@click.argument("save_id", metavar="SAVE")
def diff(call: Call, save_id: str) -> int:
    """The save is compared with the commit that HEAD named when it was made."""
    from ...history import listing

    text = listing.diff(open_repository(call.directory), save_id)
    if call.as_json:
        call.emit(save_id=save_id, patch=escape_lines(text))
    else:
        write_patch(text)
    return EXIT_DONE


@command("restore")
@click.argument("save_id", metavar="SAVE")
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--overwrite", is_flag=True, help="overwrite files with other content, after saving them")
@click.option("--trust", is_flag=True, help="take files of a fetched save although they could run")
@click.option("--dry-run", is_flag=True, help="report what would happen, change nothing")
def restore(call: Call, save_id: str, paths: tuple[str, ...], overwrite: bool, trust: bool, dry_run: bool) -> int:
    """Index, branch and pending save are not touched."""
    from ...recover.elsewhere import restore_paths
    from ...recover.request import RecoverRequest, recover_json, recover_lines

    repository = open_repository(call.directory)
    inside = [os.path.relpath(path, repository.toplevel) for path in call.absolute(paths)]
    for word, path in zip(paths, inside, strict=True):
        if path == b".." or path.startswith(b"../"):
            raise UsageError(f"{word!r} is outside the workspace", hint="gitstate restore SAVE PATH…")
    result = restore_paths(repository, save_id, inside, RecoverRequest(save_id, dry_run, overwrite, trust=trust))
    if call.as_json:
        call.emit(workspaces=[recover_json(result)])
    say(*recover_lines(result))
    return result.exit_status


@command("prune")
@click.argument("names", nargs=-1, metavar="[SAVE]…")
@_every_workspace
@setting_option("--keep", "keepSaves", "keep_saves", "N")
@setting_option("--days", "keepDays", "keep_days", "N")
@click.option("--dry-run", is_flag=True, help="report what would be removed, change nothing")
def prune(call: Call, dry_run: bool, **given: Any) -> int:
    """With SAVE, those saves are removed, whatever their age."""
    from ...history import prune

    result = prune.prune(open_repository(call.directory), dry_run=dry_run, **given)
    pruned = [item.save_id for item in result.pruned]
    if call.as_json:
        call.emit(pruned=pruned, kept=result.kept, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    say(*(f"{verb}: {save_id}" for save_id in pruned), f"{len(pruned)} {verb}, {result.kept} kept")
    return EXIT_DONE


@command("push")
@click.argument("remote", required=False)
@click.option("--allow-secrets", is_flag=True, help="send saves in which a scanner finds secrets")
@click.option("--with-conversation", is_flag=True, help="send the agent's transcripts too")
@click.option("--dry-run", is_flag=True, help="report what would be sent, send nothing")
def push(call: Call, remote: str | None, allow_secrets: bool, with_conversation: bool, dry_run: bool) -> int:
    """No branch is pushed. Saves may hold secrets, so a remote must be named, here or in gitstate.remote."""
    from ...history.push import push

    repository = open_repository(call.directory)
    done = push(repository, remote, dry_run=dry_run, allow_secrets=allow_secrets, with_conversation=with_conversation)
    return _report_exchange(call, done, dry_run)


@command("fetch")
@click.argument("remote", required=False)
@click.option("--dry-run", is_flag=True, help="report what would be fetched, fetch nothing")
def fetch(call: Call, remote: str | None, dry_run: bool) -> int:
    """No branch is fetched. `gitstate recover --save ID` takes a save that is pending there."""
    from ...history.fetch import fetch

    return _report_exchange(call, fetch(open_repository(call.directory), remote, dry_run=dry_run), dry_run)


def _report_exchange(call: Call, exchange: Exchange, dry_run: bool) -> int:
    status = exchange_status(exchange)
    if call.as_json:
        call.emit(**exchange_json(exchange), dry_run=dry_run, exit_status=status)
    say(*exchange_lines(exchange, call.command, dry_run))
    return status


# -- words


def entry_json(entry: Entry) -> dict[str, Any]:
    """One save of what `log --json` prints."""
    return {
        "save_id": entry.save_id,
        "workspace_id": entry.workspace_id,
        "archive": entry.archive,
        "waiting": entry.waiting,
        "dismissed": entry.dismissed,
        "remote": entry.remote,
        "problem": entry.problem and escape(entry.problem),
        "context": entry.context.to_json(),
        "manifest": None if entry.manifest is None else entry.manifest.to_json(),
    }


def entry_line(entry: Entry) -> str:
    """One save on one line."""
    from ...run.hold import is_aside

    if entry.manifest is None:
        return f"{escape(entry.save_id)}  unreadable: {escape(entry.problem or '')}"
    cells = [
        entry.save_id,
        entry.manifest.kind,
        entry.context.branch_name or "(detached)",
        entry.context.task_id or "-",
        entry.context.progress_stage or "-",
        "pending" if entry.waiting else "",
        ("set aside" if is_aside(entry.manifest) else "dismissed") if entry.dismissed else "",
        "incomplete" if entry.manifest.incomplete else "",
        f"fetched from {entry.remote}" if entry.remote else "",
    ]
    return "  ".join(escape(cell) for cell in cells if cell)


def exchange_status(exchange: Exchange) -> int:
    """0 where something reached the remote, or nothing had to; else why nothing did. A pending save has to go."""
    needed = [item for item in exchange.not_sent if item.is_marker or not (exchange.saves or exchange.waiting)]
    if any(item.held_back for item in needed):
        return EXIT_PERSON
    return EXIT_FAILED if needed else EXIT_DONE


def exchange_json(exchange: Exchange) -> dict[str, Any]:
    """What was sent to or fetched from a remote, as JSON."""
    not_sent = [
        {"ref": item.ref, "reason": escape(item.reason), "held_back": item.held_back} for item in exchange.not_sent
    ]
    return {**exchange._asdict(), "remote": escape(exchange.remote), "not_sent": not_sent}


def exchange_lines(exchange: Exchange, command: str, dry_run: bool) -> list[str]:
    """What `push` and `fetch` tell a person, with the command to type next."""
    verb = {"push": "sent to", "fetch": "fetched from"}[command]
    verb = f"would be {verb}" if dry_run else verb
    lines = [f"{_saves(len(exchange.saves))} {verb} {exchange.remote}; {len(exchange.waiting)} pending"]
    told = {item.reason for item in exchange.not_sent if not item.is_marker}
    for item in exchange.not_sent:
        if item.is_marker and item.reason in told:
            continue
        how = "held back" if item.held_back else "refused"
        lines.append(f"  {how}: {item.name}: {item.reason}")
    if command == "push" and not exchange.saves and not exchange.not_sent:
        nothing = "this workspace has no save"
        lines.append(f"  {_saves(exchange.held)} there already" if exchange.held else f"  {nothing}: gitstate save")
    lines += [f"no longer pending on {exchange.remote}, recovered here: {name}" for name in exchange.recovered]
    if command == "fetch" and exchange.waiting and not dry_run:
        lines.append("  next: gitstate recover, on the branch of the save; it names what it does not take by itself")
    return lines


def _saves(number: int) -> str:
    return "1 save" if number == 1 else f"{number} saves"


def _save_command(name: str, details: str) -> click.Command:
    def callback(**given: Any) -> None:
        directory, as_json = click.get_current_context().obj
        for pair in given["extra"]:
            if "=" not in pair:
                raise click.UsageError(f"--set wants KEY=VALUE, not {escape(pair)}")
        given = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        given = {key: value for key, value in given.items() if value not in (None, [], False)}
        if as_json:
            given["json"] = True
        sys.exit(quick.run_save(Quick(name, directory, given)))

    params: list[click.Parameter] = [click_option(option) for option in OPTIONS]
    return click.Command(name, callback=callback, params=params, help=help_text(name, details))


save = _save_command(
    "save",
    "The save is durable when the command returns. It is a WIP commit on the branch; during a merge or the like, or "
    "with a detached HEAD, the branch is not moved.",
)
checkpoint = _save_command(
    "checkpoint", "A checkpoint is durable when the command returns. `recover` uses it if a run ends without a save."
)
