"""`recover` and `status` of one workspace, or of many, without click: a loop waits for one, a prompt for the other."""

from __future__ import annotations

import os
import sys

from ..errors import EXIT_AGAIN, EXIT_DONE, EXIT_FAILED, UsageError
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import Progress, counted, escape, first_of, print_answer, print_to, say, table, terminal_width
from .quick import EXIT_ON_INTERRUPT, absolute, emit, guarded, working_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from ..fleet.find import Found
    from ..fleet.status import Summary
    from ..git.opening import Opening
    from ..objects.reader import ObjectReader
    from ..recover.request import RecoverRequest, RecoverResult
    from .options import Quick

#: Seconds to wait for another gitstate in one workspace; in each of many.
_WAIT, _WAIT_EACH = 60.0, 5.0
#: What `status` says of a path that is no workspace.
_NO_WORKSPACE = ("unreadable", "missing", "no_repository")
#: Seconds between two looks of `status --watch`: the default, the least and the most.
_INTERVAL, _LEAST_INTERVAL, _MOST_INTERVAL = 2.0, 0.1, 86_400.0
_INCOMPLETE = "the search below --root reached its limit: name a directory nearer to the workspaces"


def run_quick(quick: Quick) -> int:
    """Carry out `recover` or `status`. Ctrl-C ends either: what a recovery has begun, the next one completes."""
    as_json = bool(quick.given.get("json")) or quick.given.get("style") == "json"
    run = recover if quick.command == "recover" else status
    where = quick.directory
    try:
        return guarded(lambda: run(working_directory(where), as_json, quick.given), quick.command, as_json, where)
    except KeyboardInterrupt:
        say("")
        return EXIT_ON_INTERRUPT


def recover(directory: bytes, as_json: bool, given: Mapping[str, Any]) -> int:
    """Carry out `recover`: `given` holds its options by their names in `options.LOOKS`, and `paths`."""
    from ..git.opening import start_opening

    paths, roots = given.get("paths", ()), given.get("roots", ())
    worktrees = bool(given.get("worktrees"))
    everything = bool(given.get("everything"))
    many = everything or bool(roots or worktrees)
    _check(paths, many, given, as_json)
    # Git opens the repository while the rest is imported.
    is_plain = not many and len(paths) < 2 and not any(map(given.get, ("into", "dismiss", "save_id")))
    opening = start_opening(_targets(directory, paths)[0]) if is_plain else None
    reader = None
    if opening is not None and opening.is_plain():
        from ..git.command import Git
        from ..objects.reader import ObjectReader

        reader = ObjectReader(Git(os.path.realpath(opening.path)))
        reader.start()
    from ..recover.request import RecoverRequest, recover_json, recover_lines, shell_lines, worst_of

    wait = given.get("wait")
    request = RecoverRequest(
        given.get("save_id"),
        bool(given.get("dry_run")),
        bool(given.get("overwrite")),
        (_WAIT_EACH if many else _WAIT) if wait is None else wait,
        strict=many,
        begins=given.get("style") == "shell",
        trust=bool(given.get("trust")),
        special_bits=bool(given.get("special_bits")),
    )
    if worktrees:
        from ..fleet.recover_all import recover_worktrees

        results, complete = recover_worktrees(directory, request, Progress()), True
    elif many:
        from ..fleet.recover_all import recover_all

        targets, complete, bare = all_workspaces(directory, paths, roots, everything=everything)
        named = set(_named(directory, paths, roots))
        results = recover_all(targets, request, Progress(), bare=bare)
        results = [_no_workspace(each) if each.workspace in named else each for each in results]
    else:
        results, complete = _recover_named(directory, given, request, opening, reader), True
        results = [_with_overwrite_hint(result, request) for result in results]
    statuses = [result.exit_status for result in results]
    # Only on this status the boot service looks again: a workspace that needs a person must not keep it from that.
    status = EXIT_AGAIN if many and EXIT_AGAIN in statuses else worst_of(statuses)
    if as_json:
        workspaces = [recover_json(result) for result in results]
        emit({"command": "recover", "workspaces": workspaces, "complete": complete, "exit_status": status})
    elif given.get("style") == "shell":
        print_to(sys.stdout, "".join(shell_lines(result) for result in results))
    if many:
        say(*fleet_lines(results, terminal_width(sys.stderr)))
    else:
        for result in results:
            say(*recover_lines(result))
    if not complete:
        say(_INCOMPLETE)
    return status


def _check(paths: Sequence[str], many: bool, given: Mapping[str, Any], as_json: bool) -> None:
    """Raise UsageError for options that do not go together."""
    into, save_id = given.get("into"), given.get("save_id")
    if given.get("style") == "shell" and (as_json or many or len(paths) > 1):
        # A shell evaluates it: of several workspaces the last would count.
        what = "--format shell goes with one workspace, and without --json"
        raise UsageError(what, hint="gitstate recover --format shell")
    if into is not None and (paths or many):
        hint = "gitstate recover --into PATH --save ID"
        raise UsageError("--into goes with one save of one repository", hint=hint)
    if given.get("worktrees") and (paths or given.get("everything") or given.get("roots")):
        raise UsageError("--worktrees names the worktrees of one repository", hint="gitstate recover --worktrees")
    if given.get("dismiss") and (many or len(paths) > 1 or into is not None):
        raise UsageError("--dismiss goes with one workspace", hint="gitstate recover --dismiss")
    if given.get("trust") and many:
        raise UsageError("--trust goes with one workspace", hint="git config --add gitstate.trust REMOTE")
    if save_id is not None and (many or len(paths) > 1):
        raise UsageError("--save goes with one workspace", hint="gitstate recover PATH --save ID")


def _targets(directory: bytes, paths: Sequence[str]) -> list[bytes]:
    return absolute(directory, paths) or [directory]


def _recover_named(
    directory: bytes,
    given: Mapping[str, Any],
    request: RecoverRequest,
    opening: Opening | None,
    reader: ObjectReader | None,
) -> list[RecoverResult]:
    """Recover the workspaces of the command line; `opening` and `reader` are of the only one of them."""
    from ..recover import recover

    targets = _targets(directory, given.get("paths", ()))
    into = given.get("into")
    if request.save_id is not None:
        from ..format.find import resolve_save
        from ..git.opening import open_repository

        where = open_repository(directory if into is not None else targets[0], bare_too=into is not None)
        request = request._replace(save_id=resolve_save(where, request.save_id))
    if into is not None:
        from ..git.opening import open_repository

        (target,) = absolute(directory, [into])
        return [recover.recover_into(open_repository(directory, bare_too=True), target, request)]
    if given.get("dismiss"):
        from ..recover.dismissed import dismiss

        return [dismiss(targets[0], request)]
    if len(targets) == 1:
        return [recover.recover(targets[0], request, opening, reader)]
    from ..fleet.recover_all import recover_each

    return recover_each(targets, request)


def _no_workspace(result: RecoverResult) -> RecoverResult:
    """The result for a path that was named: an error where it is no workspace, as it is without `--all`."""
    if result.verdict != "missing":
        return result
    is_there, is_directory = os.path.lexists(result.workspace), os.path.isdir(result.workspace)
    message = "not a git worktree" if is_directory else "not a directory" if is_there else "no such directory"
    hint = "gitstate status --all (the workspaces that are known)"
    return result._replace(message=message, hint=hint, exit_status=EXIT_FAILED)


def _with_overwrite_hint(result: RecoverResult, request: RecoverRequest) -> RecoverResult:
    """Where nothing is pending, `--overwrite` means the files that the last recovery kept: name the command."""
    if not request.overwrite or result.verdict not in ("recovered", "nothing"):
        return result
    from ..format.names import is_save_id
    from ..git.opening import open_repository
    from ..recover.request import locate
    from ..workspace.live_context import read_state

    save = read_state(open_repository(result.workspace)).get("save")
    save_id = result.save_id or (save.get("save_id") if isinstance(save, dict) else None)
    if not is_save_id(save_id):
        return result
    message = "; ".join(part for part in (result.message, "no save is pending, so no file was overwritten") if part)
    hint = f"gitstate restore --overwrite {save_id} PATH… (the saved version)"
    return result._replace(message=message, hint=locate(hint, result.workspace))


def all_workspaces(directory: bytes, paths: Sequence[str], roots: Sequence[str], *, everything: bool) -> Found:
    """Those below `roots`, with `everything` all known ones, and `paths`; a root that is no directory is among them."""
    from ..fleet.find import Found, workspaces

    below = [root for root in absolute(directory, roots) if os.path.isdir(root)]
    known = workspaces(directory, below, everything=everything) if below or everything else Found((), True)
    return known._replace(paths=tuple(dict.fromkeys((*_named(directory, paths, roots), *known.paths))))


def _named(directory: bytes, paths: Sequence[str], roots: Sequence[str]) -> list[bytes]:
    """What the command line names as a workspace: `paths`, and a root in which none can be."""
    return [*absolute(directory, paths), *(root for root in absolute(directory, roots) if not os.path.isdir(root))]


def status(directory: bytes, as_json: bool, given: Mapping[str, Any]) -> int:
    """Carry out `status`, as `recover`."""
    _check_status(given, as_json)
    paths, roots = given.get("paths", ()), given.get("roots", ())
    if given.get("short"):
        from ..fleet.status import short_line

        line = short_line((absolute(directory, paths) or [directory])[0])
        print_answer(f"{escape(line)}\n" if line else "")
        return EXIT_DONE
    from ..fleet.status import summaries

    is_watched = bool(given.get("watch") or given.get("prometheus"))
    everything = bool(given.get("everything"))
    many = everything or bool(roots)

    def find() -> Found:
        return all_workspaces(directory, paths, roots, everything=everything)

    if is_watched and many:
        return _watch(directory, as_json, given, lambda: find()[:2])
    targets: Sequence[bytes]
    if many:
        targets, complete, bare = find()
    else:
        targets, complete, bare = absolute(directory, paths) or [directory], True, None
    # One that was named, or the current directory, and is no workspace: an error as with every other command.
    named = set(_named(directory, paths, roots) if many else targets)
    found = summaries(targets, Progress(), with_gone=many, bare=bare)
    failed = any(item.status in _NO_WORKSPACE and item.workspace in named for item in found)
    if is_watched and not failed:
        tops = [item.workspace for item in found]
        return _watch(directory, as_json, given, lambda: (tops, True))
    if as_json:
        print_answer(_summaries_json(found, complete).decode("utf-8"))
    else:
        print_answer("".join(f"{line}\n" for line in summary_lines(found, terminal_width(sys.stdout))))
    if not complete:
        say(_INCOMPLETE)
    return EXIT_FAILED if failed else EXIT_DONE


def _check_status(given: Mapping[str, Any], as_json: bool) -> None:
    """Raise UsageError for options of `status` that do not go together."""
    is_watched = bool(given.get("watch") or given.get("prometheus"))
    many = bool(given.get("everything") or given.get("roots") or len(given.get("paths", ())) > 1)
    if given.get("short") and (as_json or many or is_watched):
        raise UsageError("--short prints one line for one workspace", hint="gitstate status")
    if given.get("prometheus") == "":
        raise UsageError("--prometheus needs the name of a file", hint="gitstate status --all --prometheus FILE")
    if given.get("prometheus") == "-" and (given.get("watch") or as_json):
        hint = "gitstate status --all --prometheus -"
        raise UsageError("--prometheus - prints the metrics once, and nothing else", hint=hint)
    interval = given.get("interval")
    if interval is not None and not given.get("watch"):
        raise UsageError("--interval goes with --watch", hint="gitstate status --all --watch")
    if interval is not None and not _LEAST_INTERVAL <= interval <= _MOST_INTERVAL:
        limits = f"{_LEAST_INTERVAL:g} to {_MOST_INTERVAL:g} seconds"
        raise UsageError(f"--interval takes {limits}", hint="gitstate status --all --watch --interval 5")


def _watch(
    directory: bytes, as_json: bool, given: Mapping[str, Any], find: Callable[[], tuple[Sequence[bytes], bool]]
) -> int:
    """`status` with `--watch` or `--prometheus`: `find` returns the workspaces, and whether the search saw all."""
    from ..fleet.status import summaries
    from .watch import live

    def as_one_json() -> bytes:
        targets, complete = find()
        return _summaries_json(summaries(targets), complete)

    query = live.WatchQuery(
        lambda: list(find()[0]),
        _INTERVAL if given.get("interval") is None else given["interval"],
        _metrics_file(directory, given.get("prometheus")),
        as_one_json if as_json else None,
    )
    return live.watch(query) if given.get("watch") else live.write_once(query)


def _metrics_file(directory: bytes, named: str | None) -> bytes | None:
    """The absolute path of the file of metrics, or `-` for stdout."""
    if named is None or named == "-":
        return None if named is None else b"-"
    return absolute(directory, [named])[0]


def _summaries_json(found: Sequence[Summary], complete: bool) -> bytes:
    from ..format.context import SCHEMA_VERSION
    from ..system.jsonio import dumps

    workspaces = [summary_json(item) for item in found]
    return dumps(
        {"schema_version": SCHEMA_VERSION, "command": "status", "workspaces": workspaces, "complete": complete}
    )


# -- words

#: So many repositories inside a workspace are named.
_NAMED = 10


def fleet_lines(results: Sequence[RecoverResult], width: int | None) -> list[str]:
    """What `recover --all` tells: a row for each workspace with something to tell, then how many there were.

    A repository inside a workspace has a row where it needs a person. `width` is the width of the terminal in columns;
    None cuts nothing.
    """
    from ..recover.plan import in_trouble
    from ..recover.request import outcome_words, summary
    from ..save.request import skipped_lines

    told = [result for result in results if (result.verdict != "live" and not result.is_nothing) or result.cleared]
    shown = [each for result in told for each in (result, *in_trouble(result.nested))]
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
            lines.append(f"{escape(result.workspace)}: {result.message or summary(result)}")
            lines += skipped_lines([item for item in result.left_out if item.lost])
            lines += [f"  next: {result.hint}"] if result.hint else []
    verdicts = [result.verdict for result in results]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
    total = counted(len(results), "workspace")
    return [*lines, total + (f": {counts}" if counts else "")]


def summary_json(item: Summary) -> dict[str, Any]:
    """One workspace of what `status --json` prints."""
    from ..system.jsonio import path_to_json, text_to_json

    return {
        "workspace": escape(item.workspace),
        "branch": None if item.branch is None else text_to_json(item.branch),
        "status": item.status,
        "waiting": item.waiting,
        "problem": item.problem and escape(item.problem),
        "context": item.context.to_json(),
        "proven": item.proven and {"save_id": item.proven[0], "at": escape(item.proven[1]), "problems": item.proven[2]},
        "repositories": [path_to_json(path) for path in item.inside],
        "aside": [{"save_id": save_id, "task_id": task_id} for save_id, task_id in item.aside],
    }


def _located(note: str, workspace: bytes) -> str:
    """A note whose commands work in the current directory."""
    if "gitstate " not in note or os.path.realpath(".") == os.fsdecode(workspace):
        return note
    from ..recover.request import locate

    return locate(note, workspace) or ""


def summary_lines(items: Sequence[Summary], width: int | None) -> list[str]:
    """The table of `status`: status, path, branch, task, stage, and a note. `width` as in `fleet_lines`."""
    rows = []
    aside = []
    for item in items:
        for save_id, task_id in item.aside:
            words = f"{escape(item.workspace)}: task {escape(task_id or '-')} is set aside"
            aside.append(f"{words}: gitstate recover --save {escape(save_id)}")
        if item.inside:
            named = first_of([escape(path) for path in item.inside[:_NAMED]], len(item.inside))
            aside.append(f"{escape(item.workspace)}: the save has repositories inside: {named}")
        waiting = f"save {item.waiting} is pending" if item.waiting else None
        if waiting and item.status != "missing":
            waiting += ": gitstate recover"
        note = "; ".join(text for text in (waiting, item.problem) if text)
        if item.proven is not None and item.proven[0] == item.waiting and not item.proven[2]:
            note += f" (proven at {item.proven[1]})"
        if len(items) == 1:
            note = _located(note, item.workspace)
        branch = item.branch or ("-" if item.problem else "(detached)")
        task, stage = item.context.task_id or "-", item.context.progress_stage or "-"
        rows.append([escape(cell) for cell in (item.status or "unknown", item.workspace, branch, task, stage, note)])
    return [*table(("STATUS", "WORKSPACE", "BRANCH", "TASK", "STAGE", ""), rows, width), *aside]
