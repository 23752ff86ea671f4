"""`recover` and `status` for click: their options, their help, and every error of usage."""

from __future__ import annotations

from typing import Any

import click

from .. import recovering
from ..command import Call, command, everything_option, paths_argument, roots_option


@command("recover")
@paths_argument
@everything_option
@roots_option
@click.option("--worktrees", is_flag=True, help="this repository's worktrees, with saved ones that are gone")
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
def recover(call: Call, **given: Any) -> int:
    """Nothing that is newer than the save is overwritten. The state file active_state.json is written anew."""
    return recovering.recover(call.directory, call.as_json, given)


@command("status")
@paths_argument
@everything_option
@roots_option
@click.option("--short", is_flag=True, help="one line for a prompt, from files alone: status and task")
def status(call: Call, **given: Any) -> int:
    """Nothing is changed."""
    return recovering.status(call.directory, call.as_json, given)
