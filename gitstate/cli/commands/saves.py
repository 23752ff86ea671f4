"""`save` and `checkpoint`; `log`, `diff`, `restore`, `prune`, `push` and `fetch` for old saves."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ...errors import EXIT_DONE, EXIT_FAILED, EXIT_PERSON, CorruptSave, UsageError
from ...format.find import resolve_save
from ...format.names import save_time_ns
from ...git.opening import open_repository
from ...system.jsonio import Stream
from ...system.terminal import counted, escape, escape_lines, quoted, say, table, terminal_width, write_patch
from .. import quick
from ..command import (
    Call,
    Count,
    click_option,
    command,
    complete_pairs,
    complete_remotes,
    complete_saves,
    help_text,
    print_lines,
    print_styled,
    setting_option,
)
from ..options import OPTIONS, Quick, check_pairs
from ..table import BY_NAME

if TYPE_CHECKING:
    from ...git.repository import Repository
    from ...history.listing import Entry
    from ...history.remote import Exchange

_every_workspace = click.option("--all", "everything", is_flag=True, help="of every workspace of this repository")


@command("log")
@_every_workspace
@click.option("-n", "most", type=Count(1), metavar="N", default=50, show_default=True, help="at most N saves")
@click.option("-p", "--patch", "patches", is_flag=True, help="print what each save changed")
def log(call: Call, everything: bool, most: int, patches: bool) -> int:
    """The latest checkpoint and the history of checkpoints are listed too. SAVE of other commands is an id of this
    list or its beginning, a label, `latest` or `checkpoint` (`latest~2`: two before it), or a time such as `10m`.
    """
    from ...fleet.find import is_bare
    from ...history import listing

    repository = open_repository(call.directory, bare_too=True)
    # It has no workspace of its own.
    everything = everything or is_bare(repository)
    entries, hidden = listing.newest_saves(repository, most, everything=everything, whole=False)
    entries = listing.measured(repository, entries)
    texts = _patches_of(repository, entries) if patches else {}
    status = EXIT_DONE if len(texts) == len(entries) or not patches else EXIT_PERSON
    if call.as_json:
        whole = listing.with_paths(repository, entries)
        call.answer(saves=Stream(entry_json(entry) | _patch_json(texts, entry) for entry in whole))
        return status
    if not entries:
        say(*_nothing_listed(repository, everything))
    elif patches:
        for entry in entries:
            print_lines(log_lines([entry], None)[1:])
            write_patch(texts.get(entry.save_id, ""))
    else:
        styles = ["bold", *("yellow" if entry.waiting else "" for entry in entries)]
        print_styled(log_lines(entries, terminal_width(sys.stdout)), styles)
        if hidden:
            say(f"{hidden} older: gitstate log -n {hidden + most}")
    return status


def _patches_of(repository: Repository, entries: Sequence[Entry]) -> dict[str, str]:
    """What each save changed, by its id. One that can't be compared is told, and missing: it costs no other."""
    from ...history import listing

    texts: dict[str, str] = {}
    for entry in entries:
        try:
            is_read = entry.manifest is not None and not entry.remote
            texts[entry.save_id] = listing.diff(repository, entry.save_id) if is_read else ""
        except CorruptSave as error:
            say(f"gitstate: {entry.save_id}: {error.message}", f"  next: {error.hint}")
    return texts


def _patch_json(texts: dict[str, str], entry: Entry) -> dict[str, str]:
    return {"patch": escape_lines(texts[entry.save_id])} if entry.save_id in texts else {}


def _nothing_listed(repository: Repository, everything: bool) -> list[str]:
    from ...history import listing

    if not everything and listing.newest_saves(repository, 1, everything=True)[0]:
        return ["this workspace has no save; others have", "  next: gitstate log --all"]
    where = "repository" if everything else "workspace"
    return [f"this {where} has no save", "  next: gitstate save"]


@command("diff")
@click.argument("save_id", metavar="SAVE", shell_complete=complete_saves)
@click.argument("other", metavar="[SAVE]", required=False, shell_complete=complete_saves)
def diff(call: Call, save_id: str, other: str | None) -> int:
    """The save is compared with the commit that HEAD named when it was made; two saves are compared with each other."""
    from ...history import listing

    repository = open_repository(call.directory, bare_too=True)
    save_id = resolve_save(repository, save_id)
    other = None if other is None else resolve_save(repository, other)
    text = listing.diff(repository, save_id, other)
    if call.as_json:
        call.answer(save_id=save_id, patch=escape_lines(text), **({} if other is None else {"other": other}))
    else:
        write_patch(text)
    return EXIT_DONE


@command("restore")
@click.argument("save_id", metavar="SAVE", shell_complete=complete_saves)
@click.argument("paths", nargs=-1, metavar="[PATH]…")
@click.option("--overwrite", is_flag=True, help="overwrite files with other content, after saving them")
@click.option("--trust", is_flag=True, help="take files of a fetched save although they could run")
@click.option("--dry-run", is_flag=True, help="print what would change as a patch, change nothing")
def restore(call: Call, save_id: str, paths: tuple[str, ...], overwrite: bool, trust: bool, dry_run: bool) -> int:
    """Index, branch and pending save are not touched."""
    from ...recover.request import RecoverRequest, recover_json, recover_lines
    from ...recover.single_files import restore_paths

    repository = open_repository(call.directory)
    inside = [os.path.relpath(path, repository.toplevel) for path in call.absolute(paths)]
    for word, path in zip(paths, inside, strict=True):
        if path == b".." or path.startswith(b"../"):
            raise UsageError(f"{quoted(word)} is outside the workspace", hint="gitstate restore SAVE PATH…")
    save_id = resolve_save(repository, save_id)
    result = restore_paths(repository, save_id, inside, RecoverRequest(save_id, dry_run, overwrite, trust=trust))
    if call.as_json:
        call.emit(workspaces=[recover_json(result)])
    elif dry_run:
        from ...history.preview import preview

        write_patch(preview(repository, save_id, result.restored, result.deleted))
    say(*recover_lines(result))
    return result.exit_status


@command("undo")
@click.option("--overwrite", is_flag=True, help="take back files too that were edited since, after saving them")
@click.option("--dry-run", is_flag=True, help="report what would happen, change nothing")
def undo(call: Call, overwrite: bool, dry_run: bool) -> int:
    """Index, branch and context are not touched."""
    from ...recover.request import RecoverRequest, recover_json, recover_lines
    from ...recover.single_files import undo as undo_last

    result = undo_last(open_repository(call.directory), RecoverRequest(dry_run=dry_run, overwrite=overwrite))
    if call.as_json:
        call.emit(workspaces=[recover_json(result)])
    say(*recover_lines(result))
    return result.exit_status


@command("prune")
@click.argument("names", nargs=-1, metavar="[SAVE]…", shell_complete=complete_saves)
@_every_workspace
@setting_option("--keep", "keepSaves", "keep_saves", "N")
@setting_option("--days", "keepDays", "keep_days", "N")
@click.option("--dry-run", is_flag=True, help="report what would be removed, change nothing")
def prune(call: Call, names: tuple[str, ...], dry_run: bool, **given: Any) -> int:
    """With SAVE, those saves are removed, whatever their age."""
    from ...history import prune

    unused = [flag for flag, name in (("--keep", "keep_saves"), ("--days", "keep_days")) if given[name] is not None]
    if names and unused:
        # A slip: whoever limits what goes has not meant that the saves named go whatever their age.
        what = f"{unused[0]} is about saves that are not named; nothing was pruned"
        raise UsageError(what, hint="gitstate prune SAVE…")
    repository = open_repository(call.directory, bare_too=given["everything"] or bool(names))
    ids = list(dict.fromkeys(resolve_save(repository, name) for name in names))
    result = prune.prune(repository, names=ids, dry_run=dry_run, **given)
    pruned = [item.save_id for item in result.pruned]
    history = [item.save_id for item in (*result.history, *result.gone)]
    if call.as_json:
        call.emit(pruned=pruned, kept=result.kept, dry_run=dry_run, history=history)
    verb = "would be removed" if dry_run else "removed"
    checkpoints = ((result.history, "of the history"), (result.gone, "of worktrees that are gone"))
    more = [f"{counted(len(items), 'checkpoint')} {whose} {verb}" for items, whose in checkpoints if items]
    say(*(f"{verb}: {save_id}" for save_id in pruned), *more, f"{len(pruned)} {verb}, {result.kept} kept")
    return EXIT_DONE


@command("push")
@click.argument("remote", required=False, shell_complete=complete_remotes)
@click.option("--allow-secrets", is_flag=True, help="send saves in which a scanner finds secrets")
@click.option("--with-conversation", is_flag=True, help="send the agent's transcripts too")
@click.option("--dry-run", is_flag=True, help="report what would be sent, send nothing")
def push(call: Call, remote: str | None, allow_secrets: bool, with_conversation: bool, dry_run: bool) -> int:
    """No branch is pushed. Saves may hold secrets, so a remote must be named, here or in gitstate.remote."""
    from ...history.push import push
    from ...history.remote import ended_with_its_gits

    options = {"dry_run": dry_run, "allow_secrets": allow_secrets, "with_conversation": with_conversation}
    with ended_with_its_gits():
        done = push(open_repository(call.directory), remote, **options)
    return _report_exchange(call, done, dry_run)


@command("fetch")
@click.argument("remote", required=False, shell_complete=complete_remotes)
@click.option("--dry-run", is_flag=True, help="report what would be fetched, fetch nothing")
def fetch(call: Call, remote: str | None, dry_run: bool) -> int:
    """No branch is fetched. `gitstate recover --save ID` takes a save that is pending there."""
    from ...history.fetch import fetch
    from ...history.remote import ended_with_its_gits

    with ended_with_its_gits():
        done = fetch(open_repository(call.directory, bare_too=True), remote, dry_run=dry_run)
    return _report_exchange(call, done, dry_run)


def _report_exchange(call: Call, exchange: Exchange, dry_run: bool) -> int:
    status = exchange_status(exchange)
    if call.as_json:
        call.emit(**exchange_json(exchange), dry_run=dry_run, exit_status=status)
    say(*exchange_lines(exchange, call.command, dry_run))
    return status


# -- words


def entry_json(entry: Entry) -> dict[str, Any]:
    """One save of what `log --json` prints."""
    changes = entry.changes
    return {
        "save_id": entry.save_id,
        "workspace_id": entry.workspace_id,
        "archive": entry.archive,
        "waiting": entry.waiting,
        "dismissed": entry.dismissed,
        "remote": entry.remote,
        "problem": entry.problem and escape(entry.problem),
        "label": entry.manifest and entry.manifest.label and escape(entry.manifest.label),
        "changes": changes and {"added": changes.added, "changed": changes.changed, "deleted": changes.deleted},
        "size": changes and changes.size,
        "context": entry.context.to_json(),
        "manifest": None if entry.manifest is None else entry.manifest.to_json(Stream),
    }


_HEADER = ("SAVE", "KIND", "AGE", "LABEL", "BRANCH", "TASK", "STAGE", "CHANGES", "SIZE", "")


def log_lines(entries: Sequence[Entry], width: int | None) -> list[str]:
    """The table of `log`: a header, and a row for each save. A column that says nothing is left out.

    `width` is the width of the terminal in columns: with it ages are in words, and what is too wide is cut.
    """
    rows = [_cells(entry, in_words=width is not None) for entry in entries]
    used = [number for number in range(len(_HEADER)) if number < 3 or any(row[number] for row in rows)]
    shown = [[escape(row[number]) for number in used] for row in rows]
    return table([_HEADER[number] for number in used], shown, width)


def _cells(entry: Entry, *, in_words: bool) -> tuple[str, ...]:
    age = age_of(entry.save_id, in_words=in_words)
    from ...run.hold import is_aside

    if entry.manifest is None:
        return (entry.save_id, "-", age, "", "", "", "", "", "", f"unreadable: {entry.problem or ''}")
    changes = entry.changes
    notes = [
        "pending" if entry.waiting else "",
        ("set aside" if is_aside(entry.manifest) else "dismissed") if entry.dismissed else "",
        "incomplete" if entry.manifest.incomplete else "",
        f"fetched from {entry.remote}" if entry.remote else "",
    ]
    return (
        entry.save_id,
        entry.manifest.kind,
        age,
        entry.manifest.label or "",
        entry.context.branch_name or "(detached)",
        entry.context.task_id or "",
        entry.context.progress_stage or "",
        "" if changes is None else f"+{changes.added} ~{changes.changed} \N{MINUS SIGN}{changes.deleted}",
        "" if changes is None else size_words(changes.size),
        "  ".join(note for note in notes if note),
    )


def age_of(save_id: str, *, in_words: bool) -> str:
    """How old a save is: `12m`, which also names it; in words for a terminal."""
    made = save_time_ns(save_id)
    if made is None:
        return "-"
    seconds = max(0, (time.time_ns() - made) // 1_000_000_000)
    if in_words:
        # Only here: who reads a pipe types the short form, and no program pays for the import.
        with contextlib.suppress(ImportError):
            from humanize import naturaldelta

            return str(naturaldelta(seconds))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def size_words(size: int) -> str:
    """A number of bytes, rounded for a person."""
    number, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1000 and len(units) > 1:
        number /= 1024
        del units[0]
    return f"{number:.0f} {units[0]}" if units[0] == "B" or number >= 10 else f"{number:.1f} {units[0]}"


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
    lines = [f"{counted(len(exchange.saves), 'save')} {verb} {exchange.remote}; {len(exchange.waiting)} pending"]
    if not exchange.saves and not exchange.waiting and not exchange.not_sent:
        lines = [f"nothing {'to send to' if command == 'push' else 'new on'} {exchange.remote}"]
    told = {item.reason for item in exchange.not_sent if not item.is_marker}
    for item in exchange.not_sent:
        if item.is_marker and item.reason in told:
            continue
        how = "held back" if item.held_back else "refused"
        lines.append(f"  {how}: {item.name}: {item.reason}")
    if command == "push" and not exchange.saves and not exchange.not_sent:
        nothing = "this workspace has no save"
        there = f"{counted(exchange.held, 'save')} there already"
        lines.append(f"  {there if exchange.held else f'{nothing}: gitstate save'}")
    lines += [f"no longer pending on {exchange.remote}, recovered here: {name}" for name in exchange.recovered]
    if command == "fetch" and exchange.waiting and not dry_run:
        lines.append("  next: gitstate recover, on the branch of the save; it names what it does not take by itself")
    return lines


def _save_command(name: str, details: str) -> click.Command:
    def callback(**given: Any) -> None:
        directory, as_json = click.get_current_context().obj
        as_json = as_json or given["json"]
        given["extra"] = (*given["extra"], *given.pop("pairs"))
        hint = f"gitstate {name} progress_stage=testing; a name for it: gitstate {name} --label before-merge"

        def check() -> int:
            check_pairs(given["extra"], hint, "; nothing was saved")
            return EXIT_DONE

        status = quick.guarded(check, name, as_json, directory)
        if status != EXIT_DONE:
            sys.exit(status)
        given = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        given = {key: value for key, value in given.items() if value not in (None, [], False)}
        if as_json:
            given["json"] = True
        sys.exit(quick.run_save(Quick(name, directory, given)))

    params: list[click.Parameter] = [click_option(option) for option in OPTIONS]
    params.append(click.Argument(["pairs"], nargs=-1, metavar="[KEY=VALUE]…", shell_complete=complete_pairs))
    words, summary = help_text(name, details), BY_NAME[name].summary
    return click.Command(name, callback=callback, params=params, help=words, short_help=summary)


save = _save_command(
    "save",
    "The save is durable when the command returns. It is a WIP commit on the branch; during a merge or the like, or "
    "with a detached HEAD, the branch is not moved.",
)
checkpoint = _save_command(
    "checkpoint", "A checkpoint is durable when the command returns. `recover` uses it if a run ends without a save."
)
