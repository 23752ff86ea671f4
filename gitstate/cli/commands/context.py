"""`begin`, `set`, `show` and `finish`: the task of a workspace and its context."""

from __future__ import annotations

import json
from typing import Any

import click

from ...errors import EXIT_DONE, UsageError
from ...format.context import CONTEXT_TEXTS
from ...system.terminal import escape, quoted
from .. import tasks
from ..command import Call, Count, command, complete_keys, complete_pairs, echo, options_named

_TASK_OPTIONS = (*CONTEXT_TEXTS, "memory_refs", "extra")


@command("begin", params=options_named(_TASK_OPTIONS))
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]…", shell_complete=complete_pairs)
@click.option("--owner-pid", type=Count(1), metavar="PID", help="the process that owns this workspace while it runs")
def begin(call: Call, pairs: tuple[str, ...], owner_pid: int | None, **given: Any) -> int:
    """KEY is one of those of `gitstate set`."""
    return tasks.begin(call.directory, pairs, given, owner_pid, as_json=call.as_json)


@command("set", params=options_named(_TASK_OPTIONS))
@click.argument("pairs", nargs=-1, metavar="[KEY=VALUE]…", shell_complete=complete_pairs)
def set_(call: Call, pairs: tuple[str, ...], **given: Any) -> int:
    """KEY is task_id, issue_number, progress_stage, memory_refs, agent, session_id, or a key of your own."""
    return tasks.set_values(call.directory, pairs, given, as_json=call.as_json)


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
        raise UsageError(f"the context has no key {quoted(unknown[0])}", hint="gitstate show")
    if call.as_json:
        call.answer(context={key: values[key] for key in keys} or {**context.to_json(), "status": state})
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
    return tasks.finish(call.directory, keep_save=keep_save, as_json=call.as_json)


def value_line(value: Any) -> str:
    """A value of the context for a person: text as it is, anything else as JSON."""
    return escape(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
