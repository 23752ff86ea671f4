"""Every command with its usage, help and options, as data for the manual page and docs/commands.md."""

from __future__ import annotations

from typing import NamedTuple

import click

from .table import BY_NAME, EXAMPLES


class Described(NamedTuple):
    """One command: its heading in `--help`, its usage, its help in two parts.

    `options` and `examples` map each line to what it does.
    """

    name: str
    group: str
    usage: str
    summary: str
    details: str
    options: tuple[tuple[str, str], ...]
    examples: tuple[tuple[str, str], ...]


def describe_commands(main: click.Group) -> list[Described]:
    """All commands that are not hidden, in the order of `--help`. A group is replaced by its commands."""
    with click.Context(main, info_name="gitstate") as top:
        return _describe(main, top, None)


def _describe(group: click.Group, context: click.Context, above: str | None) -> list[Described]:
    described = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        heading = above or BY_NAME[name].group
        with click.Context(command, parent=context, info_name=name) as inner:
            if isinstance(command, click.Group):
                described += _describe(command, inner, heading)
                continue
            usage = " ".join([inner.command_path, *command.collect_usage_pieces(inner)])
            summary, _, details = (command.help or "").partition("\n\n")
            path = inner.command_path.partition(" ")[2]
            options = tuple(describe_options(command, inner))
            described.append(Described(path, heading, usage, summary, details, options, EXAMPLES.get(path, ())))
    return described


def describe_options(command: click.Command, context: click.Context) -> list[tuple[str, str]]:
    """Each option of a command as `--help` shows it, and what it does; `--help` itself is left out."""
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    records = [option.get_help_record(context) for option in options if "--help" not in option.opts]
    return [record for record in records if record is not None]
