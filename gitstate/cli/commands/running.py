"""`run` and `stop`: a run from begin to end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ...errors import NeedsPerson
from ...git.opening import open_repository
from ...recover.request import worst_of
from ...system.terminal import escape, say
from .. import quick, running
from ..command import (
    Call,
    Count,
    Seconds,
    command,
    everything_option,
    options_named,
    paths_argument,
    setting_option,
)
from ..options import RUN_CONTEXT, STOP_SIGNALS

if TYPE_CHECKING:
    from ...fleet.stop import StopResult

_STOP_SIGNALS = click.Choice(STOP_SIGNALS)


@command(
    "run",
    json=False,
    context_settings={"allow_interspersed_args": False},
    params=options_named(RUN_CONTEXT),
)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND…")
@click.option("--owner-pid", type=Count(1), metavar="PID", help="the loop that this run belongs to")
@click.option("--stop-signal", type=_STOP_SIGNALS, help="signal that asks the agent to stop  [default: by agent]")
@click.option("--stop-group", is_flag=True, help="send that signal to all processes of the agent")
@click.option("--keep", is_flag=True, help="set another task that waits here aside, with its work")
@setting_option("--grace", "grace", "grace", "SECONDS")
@setting_option("--deadline", "deadline", "deadline", "SECONDS")
@setting_option("--interval", "interval", "interval", "SECONDS")
def run(call: Call, argv: tuple[str, ...], **given: Any) -> int:
    """The agent runs in the foreground, with checkpoints meanwhile. `run` exits with the agent's own status."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return running.run(call.directory, argv, values)


@command("stop")
@paths_argument
@everything_option
@click.option(
    "--wait",
    type=Seconds(0),
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="time from SIGTERM to SIGKILL",
)
def stop(call: Call, paths: tuple[str, ...], everything: bool, wait: float) -> int:
    """Without PATH, the run of the current workspace is stopped."""
    from ...fleet.find import workspaces
    from ...fleet.stop import stop as stop_run

    known = workspaces(call.directory).paths if everything else ()
    results: list[StopResult] = []
    rows: list[Mapping[str, Any]] = []

    def stop_one(path: bytes) -> int:
        stranger = open_repository(path).stranger
        if stranger is not None:
            # What its context names may be anybody's process.
            message = f"{os.fsdecode(path)} belongs to user {stranger}; no process was stopped"
            raise NeedsPerson(message, hint="run gitstate as that user")
        results.append(stop_run(path, wait))
        rows.append(stop_json(results[-1]))
        return results[-1].exit_status

    targets = dict.fromkeys([*call.absolute(paths), *known]) if paths or everything else [call.directory]
    statuses = [quick.each_of_many("stop", path, stop_one, rows) for path in targets]
    if call.as_json:
        call.emit(workspaces=rows)
    say(*(line for result in results for line in stop_lines(result)))
    return worst_of(statuses)


# -- words


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
    """What `stop` tells a person about one workspace."""
    how = "killed, because it did not end in time" if result.killed else "stopped"
    first = f"{escape(result.workspace)}: {how if result.result == 'stopped' else result.result}"
    lines = [first + (f"; saved as {result.save_id}" if result.save_id else "")]
    return [*lines, *([f"  {result.message}"] if result.message else [])]
