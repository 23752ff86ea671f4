"""The command line for everything that is not on the crash path: click parses it, and the table names its commands."""

from __future__ import annotations

import os
import sys
from itertools import pairwise

import click

from .. import __version__
from ..errors import EXIT_FAILED, EXIT_STATUSES, EXIT_USAGE, words_of
from ..system import terminal
from . import quick
from .command import JSON_HELP, TableGroup, write_examples
from .quick import EXIT_ON_INTERRUPT
from .table import BY_NAME, EXAMPLES


def main() -> None:
    """Run the command line, and exit with its status: 2 for an error of its usage, 130 for Ctrl-C."""
    try:
        sys.exit(group.main(prog_name="gitstate", standalone_mode=False))
    except click.Abort:
        sys.exit(EXIT_ON_INTERRUPT)
    except click.UsageError as error:
        _report(error, _named_command() if error.ctx is None else error.ctx.command_path)
    except click.ClickException as error:
        _report(error, "gitstate")
    except OSError as error:
        # The help could not be written.
        quick.drop_unwritten()
        terminal.say(f"gitstate: {words_of(error)}")
        sys.exit(EXIT_FAILED)
    sys.exit(EXIT_USAGE)


def _named_command() -> str:
    """The command that was called: click does not tell it of an option whose value is missing."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    for number in range(len(words)):
        for name in (" ".join(words[number : number + 2]), words[number]):
            if name in BY_NAME:
                return f"gitstate {name}"
    return "gitstate"


#: What click says, and the words for it here; the last is a byte that is no text.
_PLAIN_WORDS = (
    ("a valid integer range", "an integer"),
    ("a valid float range", "a number"),
    ("a valid integer", "an integer"),
    ("\\udc", "\\x"),
)


def _report(error: click.ClickException, path: str) -> None:
    """Say what is wrong with the command line, in JSON too where that was asked for; `path` is the command."""
    # Click puts the choices of an argument on lines of their own.
    message, hint = " ".join(error.format_message().split()), f"{path} --help"
    for said, meant in _PLAIN_WORDS:
        message = message.replace(said, meant)
    words = sys.argv[1:]
    words = words[: words.index("--")] if "--" in words else words
    if "--json" in words or "--format=json" in words or ("--format", "json") in pairwise(words):
        command = path.removeprefix("gitstate").strip() or None
        told = {"error": terminal.escape(message), "hint": hint, "exit_status": EXIT_USAGE}
        quick.emit({"command": command, **told})
    terminal.say(f"gitstate: {message}", f"  next: {hint}")


class _MainGroup(TableGroup):
    """All commands, above them the first steps, and below them the exit statuses that they share."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what gitstate is for, and the first steps."""
        super().format_help_text(ctx, formatter)
        write_examples(formatter, "First steps", EXAMPLES[""])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit statuses."""
        with formatter.section("Exit status"):
            formatter.write_dl([(status, meaning) for status, meaning in EXIT_STATUSES])


@click.group(cls=_MainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "directory", multiple=True, metavar="PATH", help="run as if started in PATH")
@click.option("--json", "as_json", is_flag=True, help=JSON_HELP)
@click.version_option(__version__, prog_name="gitstate")
@click.pass_context
def group(context: click.Context, directory: tuple[str, ...], as_json: bool) -> None:
    """Save what an agent was doing into git, and bring it back exactly."""
    context.obj = (os.path.join(".", *directory), as_json)
