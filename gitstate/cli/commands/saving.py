"""`save` and `checkpoint`, for a command line that the parser of the crash path did not take."""

from __future__ import annotations

import sys
from typing import Any

import click

from ...system.terminal import escape
from .. import quick
from ..command import click_option, help_text
from ..options import OPTIONS, Quick


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
