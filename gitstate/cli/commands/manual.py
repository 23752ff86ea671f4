"""`manual`: the manual page as roff (`man 7 man`), made from what the command line knows about itself."""

from __future__ import annotations

from collections.abc import Iterable

import click

from ... import __version__
from ...errors import EXIT_DONE, EXIT_STATUSES
from ...format import names
from ..command import Call, command
from ..reference import describe_commands, describe_options

_SUMMARY = "save what an agent was doing into git, and bring it back"
_FILES = (
    ("active_state.json", "in the root of the workspace: what the last run was doing; git ignores it"),
    (names.SAVES, "every save, until it is pruned"),
    (names.PENDING, "the pending save of each workspace"),
    (names.CHECKPOINTS, "the latest checkpoint of each workspace"),
    (names.HISTORY, "earlier checkpoints of each workspace, thinned out with their age"),
    (names.DISMISSED, "pending saves that were dismissed and not recovered: retention keeps them"),
    (names.NOTES, "the context of each save, for git log --notes=gitstate"),
)


@command("manual", json=False)
def manual(_: Call) -> int:
    """Packagers put it where `man gitstate` finds it."""
    click.echo(page(), nl=False)
    return EXIT_DONE


def page() -> str:
    """The whole page."""
    from ..main import group

    lines = [
        f'.TH GIT\\-GITSTATE 1 "" "gitstate {_roff(__version__)}" "Git Manual"',
        ".SH NAME",
        f"git\\-gitstate, gitstate \\- {_roff(_SUMMARY)}",
        ".SH SYNOPSIS",
        ".B gitstate",
        "[\\fB\\-C\\fR \\fIPATH\\fR] [\\fB\\-\\-json\\fR] \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]",
        ".br",
        ".B git gitstate",
        "\\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]",
        ".SH DESCRIPTION",
        _roff(group.help or ""),
        ".SH OPTIONS",
        *_items("B", describe_options(group, click.Context(group))),
        ".SH COMMANDS",
    ]
    for described in describe_commands(group):
        lines += [
            f".SS {_roff(described.usage)}",
            _roff(f"{described.summary}. {described.details}"),
            *_items("B", described.options),
        ]
    lines += [".SH EXIT STATUS", *_items("B", EXIT_STATUSES), ".SH FILES", *_items("I", _FILES)]
    lines += [".SH SEE ALSO", ".BR git (1),", ".BR git\\-notes (1),", ".BR git\\-worktree (1)"]
    return "\n".join(lines) + "\n"


def _items(font: str, items: Iterable[tuple[str, str]]) -> list[str]:
    """Paragraphs with a tag: the first text of each item in `font`, the second below it."""
    return [line for tag, text in items for line in (".TP", f".{font} {_roff(tag)}", _roff(text))]


def _roff(text: str) -> str:
    """Text that roff prints as it is: no request at the start of a line, hyphens as they are typed, only ASCII."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    for character, escape in (("…", "..."), ("'", "\\(aq"), ("`", "\\(ga")):
        escaped = escaped.replace(character, escape)
    return "\\&" + escaped if escaped.startswith(".") else escaped
