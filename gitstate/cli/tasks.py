"""`begin`, `set` and `finish`. A loop calls them at each task and stage; click takes three times as long as they do."""

from __future__ import annotations

from ..errors import EXIT_DONE, UsageError
from ..format.context import CALLER_FIELDS, CONTEXT_FIELDS, Context
from ..system.stdlib import TYPE_CHECKING, quote
from ..system.terminal import quoted, say
from .options import context_values, pair_values
from .quick import emit, guarded, working_directory
from .running import unknown_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .options import Quick


def run_quick(quick: Quick) -> int:
    """Carry out `begin`, `set` or `finish`."""
    given: dict[str, Any] = dict(quick.given)
    pairs, as_json, owner_pid = given.pop("paths", []), bool(given.pop("json", False)), given.pop("owner_pid", None)

    def run() -> int:
        directory = working_directory(quick.directory)
        if quick.command == "begin":
            return begin(directory, pairs, given, owner_pid, as_json=as_json)
        if quick.command == "finish":
            return finish(directory, keep_save=bool(given.get("keep_save")), as_json=as_json)
        return set_values(directory, pairs, given, as_json=as_json)

    return guarded(run, quick.command, as_json, quick.directory)


def begin(
    directory: bytes, pairs: Sequence[str], given: Mapping[str, Any], owner_pid: int | None, *, as_json: bool
) -> int:
    """Begin a task; `given` holds the options of the context by their names."""
    from ..git.opening import open_repository
    from ..workspace import live_context

    task = next((pair for pair in pairs if "=" not in pair), "T-1")
    values = _values(pairs, given, f"gitstate begin task_id={quote(task)}")
    repository = open_repository(directory)
    say(*unknown_settings(repository), *_guesses(values, live_context.read_live_context(repository)[0]))
    if owner_pid is None:
        context = live_context.begin(repository, values, None)
    else:
        from ..run.hold import begin_loop

        context = begin_loop(repository, values, owner_pid)
    if as_json:
        emit({"command": "begin", "context": context.to_json()})
    return EXIT_DONE


def set_values(directory: bytes, pairs: Sequence[str], given: Mapping[str, Any], *, as_json: bool) -> int:
    """Set values of the context."""
    from ..git.opening import open_repository
    from ..workspace import live_context

    values = _values(pairs, given, "gitstate set progress_stage=testing")
    if not values:
        raise UsageError("no KEY=VALUE is given", hint="gitstate set progress_stage=testing")
    repository = open_repository(directory)
    say(*_guesses(values, live_context.read_live_context(repository)[0]))
    context = live_context.set_values(repository, values)
    if as_json:
        emit({"command": "set", "context": context.to_json()})
    return EXIT_DONE


def finish(directory: bytes, *, keep_save: bool, as_json: bool) -> int:
    """Finish the task."""
    from ..git.opening import open_repository
    from ..recover.recover import recover
    from ..recover.request import RecoverRequest, recover_lines
    from ..run.hold import end_well, finish_task, made_by_hand, refuse_while_own_run_works
    from ..workspace.lease import presence
    from ..workspace.live_context import ACTIVE, read_live_context, refuse_while_others_work

    repository = open_repository(directory)
    refuse_while_own_run_works(repository)
    by_hand = made_by_hand(repository)
    kept = by_hand if keep_save else None
    if kept is not None:
        say(f"gitstate: the task is not done: the save {kept} stays pending", "  next: gitstate recover")
        if as_json:
            emit({"command": "finish", "context": None})
        return EXIT_DONE
    result = None
    if by_hand is not None and presence(repository).state in ("live", "nobody"):
        # The work went on after it: what was deleted since is not to come back.
        refuse_while_others_work(repository)
        result = end_well(repository, finished=False)
    elif read_live_context(repository)[1] == ACTIVE and refuse_while_others_work(repository).ours:
        # The loop has begun its next task since the save.
        result = end_well(repository, finished=False)
    if result is None:
        result = recover(directory, RecoverRequest(waiting_only=True))
    if not result.is_nothing:
        say(*recover_lines(result))
    context = None if result.exit_status else finish_task(repository)
    if as_json:
        emit({"command": "finish", "context": None if context is None else context.to_json()})
    return result.exit_status


def _values(pairs: Sequence[str], given: Mapping[str, Any], example: str) -> dict[str, str]:
    """Map names of the context to texts, from options and words KEY=VALUE; a word wins over an option.

    Raises UsageError for a word that is not KEY=VALUE, with `example` as what to type.
    """
    for pair in (*pairs, *given.get("extra", ())):
        key, equals, _ = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{quoted(pair[:80])} is not KEY=VALUE", hint=example)
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    return context_values(options, {}) | pair_values(pairs)


def _guesses(values: Mapping[str, str], context: Context) -> list[str]:
    """A line for each new key that looks like a mistyped one: it is kept, as any key of the caller."""
    lines = []
    for key in values:
        if key in CONTEXT_FIELDS or key in context.extra:
            continue
        import difflib

        near = [name for name in CALLER_FIELDS if key in name.split("_")]
        near += difflib.get_close_matches(key, CALLER_FIELDS, 1, 0.7)
        if near:
            lines.append(f"{key} is no field of the context, and kept as a key of your own; did you mean {near[0]}?")
    return lines
