"""The manual page as roff, made from what the command line says about itself (`man 7 man`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..format import names


class Option(NamedTuple):
    """One option: its flags with the value they take, and what it does."""

    flags: str
    help: str


class Command(NamedTuple):
    """One command: its name, how it is called after that, what it does, and its options."""

    name: str
    usage: str
    help: str
    options: tuple[Option, ...]


_STATUSES = (
    ("0", "done, and durable"),
    ("1", "failed; nothing was lost"),
    ("2", "the command line or a setting is wrong"),
    ("3", "a bug in gitstate; the message names a log"),
    ("4", "manual intervention required; or a save had to skip bytes of a file"),
    ("75", "another process works in this workspace; try again later"),
    ("128+n", "ended by signal n"),
)
_FILES = (
    ("active_state.json", "in the root of the workspace: what the last run was doing; git ignores it"),
    (names.SAVES, "every save, until it is pruned"),
    (names.PENDING, "the pending save of each workspace"),
    (names.CHECKPOINTS, "the latest checkpoint of each workspace"),
    (names.NOTES, "the context of each save, for git log --notes=gitstate"),
)


def page(version: str, summary: str, text: str, options: Sequence[Option], commands: Sequence[Command]) -> str:
    """The whole page."""
    lines = [
        f'.TH GIT\\-GITSTATE 1 "" "gitstate {_plain(version)}" "Git Manual"',
        ".SH NAME",
        f"git\\-gitstate, gitstate \\- {_plain(summary)}",
        ".SH SYNOPSIS",
        ".B gitstate",
        "[\\fB\\-C\\fR \\fIPATH\\fR] [\\fB\\-\\-json\\fR] \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]",
        ".br",
        ".B git gitstate",
        "\\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]",
        ".SH DESCRIPTION",
        _plain(text),
        ".SH OPTIONS",
        *_options(options),
        ".SH COMMANDS",
    ]
    for command in commands:
        lines += [f".SS gitstate {_plain(command.name)} {_plain(command.usage)}".rstrip(), _plain(command.help)]
        lines += _options(command.options)
    lines.append(".SH EXIT STATUS")
    for status, meaning in _STATUSES:
        lines += [".TP", f".B {_plain(status)}", _plain(meaning)]
    lines.append(".SH FILES")
    for name, meaning in _FILES:
        lines += [".TP", f".I {_plain(name)}", _plain(meaning)]
    lines += [".SH SEE ALSO", ".BR git (1),", ".BR git\\-notes (1),", ".BR git\\-worktree (1)"]
    return "\n".join(lines) + "\n"


def _options(options: Iterable[Option]) -> list[str]:
    lines = []
    for option in options:
        lines += [".TP", f".B {_plain(option.flags)}", _plain(option.help)]
    return lines


def _plain(text: str) -> str:
    """Words that roff takes as they stand: no request at a line's start, a hyphen as it is typed, ASCII only."""
    words = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    for letter, escape in (("…", "..."), ("'", "\\(aq"), ("`", "\\(ga")):
        words = words.replace(letter, escape)
    return "\\&" + words if words.startswith(".") else words
