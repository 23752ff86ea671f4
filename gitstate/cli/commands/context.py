"""`begin`, `set`, `show` and `finish`: the task of a workspace and its context."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ...errors import EXIT_DONE, UsageError
from ...format.context import CALLER_FIELDS, CONTEXT_FIELDS, CONTEXT_TEXTS, Context
from ...system.terminal import escape, say
from ..command import Call, command, complete_keys, complete_pairs, echo, options_named
from ..options import context_values, pair_values
from ..running import unknown_settings

_TASK_OPTIONS = (*CONTEXT_TEXTS, "memory_refs", "extra")


@command("begin", params=options_named(_TASK_OPTIONS))
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]…", shell_complete=complete_pairs)
@click.option(
    "--owner-pid", type=click.IntRange(1), metavar="PID", help="the process that owns this workspace while it runs"
)
def begin(call: Call, pairs: tuple[str, ...], owner_pid: int | None, **given: Any) -> int:
    """KEY is one of those of `gitstate set`."""
    from ...git.opening import open_repository
    from ...run.hold import begin_loop
    from ...workspace import live_context

    task = next((pair for pair in pairs if "=" not in pair), "T-1")
    values = _values(pairs, given, f"gitstate begin task_id={shlex.quote(task)}")
    repository = open_repository(call.directory)
    say(*unknown_settings(repository), *_guesses(values, live_context.read_live_context(repository)[0]))
    if owner_pid is None:
        context = live_context.begin(repository, values, None)
    else:
        context = begin_loop(repository, values, owner_pid)
    if call.as_json:
        call.emit(context=context.to_json())
    return EXIT_DONE


@command("set", params=options_named(_TASK_OPTIONS))
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]…", shell_complete=complete_pairs)
def set_(call: Call, pairs: tuple[str, ...], **given: Any) -> int:
    """KEY is task_id, issue_number, progress_stage, memory_refs, agent, session_id, or a key of your own."""
    from ...git.opening import open_repository
    from ...workspace import live_context

    values = _values(pairs, given, "gitstate set progress_stage=testing")
    if not values:
        raise UsageError("no KEY=VALUE is given", hint="gitstate set progress_stage=testing")
    repository = open_repository(call.directory)
    say(*_guesses(values, live_context.read_live_context(repository)[0]))
    context = live_context.set_values(repository, values)
    if call.as_json:
        call.emit(context=context.to_json())
    return EXIT_DONE


@command("show")
@click.argument("keys", nargs=-1, metavar="[KEY]…", shell_complete=complete_keys)
def show(call: Call, keys: tuple[str, ...]) -> int:
    """With KEY only its value is printed, one value on a line."""
    from ...git.opening import open_repository
    from ...workspace.live_context import read_live_context

    context, state = read_live_context(open_repository(call.directory))
    fields = context.to_json()
    values = {**fields.pop("extra"), **fields, "status": state}
    unknown = [key for key in keys if key not in values]
    if unknown:
        raise UsageError(f"the context has no key {unknown[0]!r}", hint="gitstate show")
    if call.as_json:
        call.emit(context={key: values[key] for key in keys} or {**context.to_json(), "status": state})
    elif keys:
        for key in keys:
            echo(value_line(values[key]))
    else:
        for key, value in values.items():
            echo(f"{escape(key)}: {value_line(value)}")
    return EXIT_DONE


@command("finish")
@click.option("--keep-save", is_flag=True, help="do nothing if a save that was made by hand is pending")
def finish(call: Call, keep_save: bool) -> int:
    """Afterwards no save of this workspace is pending."""
    from ...git.opening import open_repository
    from ...recover.recover import recover
    from ...recover.request import RecoverRequest, recover_lines
    from ...run.hold import end_well, finish_task, made_by_hand
    from ...workspace.lease import presence
    from ...workspace.live_context import refuse_while_others_work

    repository = open_repository(call.directory)
    by_hand = made_by_hand(repository)
    kept = by_hand if keep_save else None
    if kept is not None:
        say(f"gitstate: the task is not done: the save {kept} stays pending", "  next: gitstate recover")
        if call.as_json:
            call.emit(context=None)
        return EXIT_DONE
    result = None
    if by_hand is not None and presence(repository).state in ("live", "nobody"):
        # The work went on after it: what was deleted since is not to come back.
        refuse_while_others_work(repository)
        result = end_well(repository, finished=False)
    if result is None:
        result = recover(call.directory, RecoverRequest(waiting_only=True))
    if result.verdict != "nothing":
        say(*recover_lines(result))
    context = None if result.exit_status else finish_task(repository)
    if call.as_json:
        call.emit(context=None if context is None else context.to_json())
    return result.exit_status


def _values(pairs: Sequence[str], given: Mapping[str, Any], example: str) -> dict[str, str]:
    """Map names of the context to texts, from options and words KEY=VALUE; a word wins over an option.

    Raises UsageError for a word that is not KEY=VALUE, with `example` as what to type.
    """
    for pair in (*pairs, *given["extra"]):
        key, equals, _ = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{pair[:80]!r} is not KEY=VALUE", hint=example)
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    return context_values(options, {}) | pair_values(pairs)


def _guesses(values: Mapping[str, str], context: Context) -> list[str]:
    """A line for each new key that looks like a mistyped one: it is kept, as any key of the caller."""
    lines = []
    for key in values:
        if key in CONTEXT_FIELDS or key in context.extra:
            continue
        near = [name for name in CALLER_FIELDS if key in name.split("_")]
        near += difflib.get_close_matches(key, CALLER_FIELDS, 1, 0.7)
        if near:
            lines.append(f"{key} is no field of the context, and kept as a key of your own; did you mean {near[0]}?")
    return lines


def value_line(value: Any) -> str:
    """A value of the context for a person: text as it is, anything else as JSON."""
    return escape(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
