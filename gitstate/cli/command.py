"""What every command shares: its place in the table, `--json`, and one call that ends with words and an exit status."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from ..format.context import CALLER_FIELDS, CONTEXT_FIELDS
from ..system.terminal import OutputClosed, escape, has_colours, print_answer, quoted
from ..workspace.settings import help_text as setting_help
from ..workspace.settings import setting_named
from . import quick
from .options import OPTIONS, Option, plain_number
from .table import BY_NAME, EXAMPLES, TABLE

if TYPE_CHECKING:
    from ..git.repository import Repository

    _ParamType = click.ParamType[Any]
else:
    # Only newer ones are generic.
    _ParamType = click.ParamType

JSON_HELP = "print JSON on stdout"


class _Plain(_ParamType):
    """A number as other programs write one: what click takes for one besides is a slip, or never ends."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(plain_number(value) if isinstance(value, str) else value, param, ctx)
        except ValueError:
            self.fail(f"{quoted(str(value))} is not a valid {self.name}.", param, ctx)


class Seconds(_Plain, click.FloatRange):
    """A time or another number in a range."""


class Whole(_Plain, click.types.IntParamType):
    """A whole number."""


class Count(_Plain, click.IntRange):
    """A whole number in a range."""


_TYPES: dict[str, Any] = {"text": str, "many": str, "number": Whole(), "seconds": Seconds(0, 10**9, min_open=True)}


class TableGroup(click.Group):
    """The commands of the table whose names are `prefix` and one word, in the order of the table.

    `help` and a command is the same as that command and `--help`.
    """

    def __init__(self, *args: Any, prefix: str = "", **given: Any) -> None:
        super().__init__(*args, **given)
        self.entries = {
            entry.name.removeprefix(prefix): entry
            for entry in TABLE
            if entry.name.startswith(prefix) and " " not in entry.name.removeprefix(prefix)
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands that are not hidden."""
        return [name for name, entry in self.entries.items() if entry.group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module = import_module(f".commands.{entry.module}", __package__)
        command: click.Command = getattr(module, entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of commands under its heading. No command is imported for that."""
        width = max(len(name) for name in self.list_commands(ctx))
        for group in dict.fromkeys(entry.group for entry in self.entries.values() if entry.group):
            with formatter.section(group):
                formatter.write_dl(
                    [(name.ljust(width), entry.summary) for name, entry in self.entries.items() if entry.group == group]
                )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the command. Without any word the help goes to stderr, and the exit status is 2."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        if args[:1] == ["help"]:
            args = [*(word for word in args[1:] if not word.startswith("-")), "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names. Raises UsageError, with the names that are like it."""
        if args[0] not in self.entries and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            guess = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"No such command '{args[0]}'.{guess}")
        return super().resolve_command(ctx, args)


class TableCommand(click.Command):
    """A command of the table, with its examples below its help."""

    def __init__(self, *args: Any, examples: Iterable[tuple[str, str]] = (), **given: Any) -> None:
        super().__init__(*args, **given)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(formatter, "Examples", self.examples)


def write_examples(formatter: click.HelpFormatter, heading: str, examples: Iterable[tuple[str, str]]) -> None:
    """Write commands, each with what it does."""
    rows = list(examples)
    if rows:
        with formatter.section(heading):
            formatter.write_dl(rows, col_max=44)


class Call(NamedTuple):
    """One call of a command: its name, the directory that it works in, and whether it prints JSON."""

    command: str
    directory: bytes
    as_json: bool

    def absolute(self, paths: Iterable[str]) -> list[bytes]:
        """Paths of the command line, seen from the directory of the call. Raises UsageError for an empty one."""
        return quick.absolute(self.directory, paths)

    def emit(self, **values: Any) -> None:
        """Print what the command has done as one JSON object, with its name."""
        quick.emit({"command": self.command, **values})

    def answer(self, **values: Any) -> None:
        """Print what the command was called for, in the same way. Raises OSError where a full disk does not take it."""
        quick.emit({"command": self.command, **values}, print_answer)


def command(
    name: str, *, json: bool = True, before: str = "", **settings: Any
) -> Callable[[Callable[..., int]], click.Command]:
    """Make a function the command `name` of the table. `settings` go to click.

    The function gets a `Call` and its parameters by name. It returns the exit status; an error becomes words and a
    status. Its docstring, after `before`, is what `--help` says after the summary. `json`: the command has `--json`.
    """

    def make(function: Callable[..., int]) -> click.Command:
        @functools.wraps(function)
        def callback(json_here: bool = False, **given: Any) -> None:
            directory, as_json = click.get_current_context().obj
            # `recover --format json` is the same as `recover --json`.
            as_json = as_json or json_here or given.get("style") == "json"

            def run() -> int:
                return function(Call(name, quick.working_directory(directory), as_json), **given)

            sys.exit(quick.guarded(run, name, as_json, directory))

        short = name.rpartition(" ")[2]
        examples = EXAMPLES.get(name, ())
        decorate: Callable[[Callable[..., None]], click.Command] = click.command(
            short,
            TableCommand,
            help=help_text(name, f"{before} {function.__doc__ or ''}"),
            short_help=BY_NAME[name].summary,
            examples=examples,
            **settings,
        )
        made = decorate(callback)
        if json:
            made.params.append(click.Option(["--json", "json_here"], is_flag=True, help=JSON_HELP))
        return made

    return make


def help_text(name: str, details: str | None = None) -> str:
    """The help of a command: its summary, and the details below it."""
    more = " ".join((details or "").split())
    return f"{BY_NAME[name].summary}\n\n{more}".strip()


def complete_saves(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of saves that begin so: words, labels and ids, each with what it is."""
    from ..errors import GitstateError
    from ..history.listing import list_saves

    try:
        entries = list_saves(_repository_of(context), everything=False, whole=False)
    except (GitstateError, OSError):
        return []
    found = {"latest": "the newest save"} if entries else {}
    for entry in entries:
        if entry.manifest is not None:
            said = " ".join([entry.manifest.kind, *([entry.context.task_id] if entry.context.task_id else [])])
            if entry.manifest.label and " " not in entry.manifest.label:
                found.setdefault(entry.manifest.label, f"{said} {entry.save_id}")
            found[entry.save_id] = said
    return [CompletionItem(name, help=escape(said)) for name, said in found.items() if name.startswith(incomplete)]


def complete_remotes(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The remotes of the repository that begin so."""
    from ..errors import GitstateError

    try:
        names = _repository_of(context).git.run("remote").decode("utf-8", "replace").split("\n")
    except (GitstateError, OSError):
        return []
    return [CompletionItem(name) for name in names if name and name.startswith(incomplete)]


def complete_pairs(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The keys of the context that begin so, as the beginning of KEY=VALUE."""
    return [CompletionItem(f"{key}=") for key in CALLER_FIELDS if f"{key}=".startswith(incomplete)]


def complete_keys(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The keys of the context that begin so."""
    from ..errors import GitstateError
    from ..workspace.live_context import read_live_context

    try:
        extra = read_live_context(_repository_of(context))[0].extra
    except (GitstateError, OSError):
        extra = {}
    return [CompletionItem(key) for key in (*CONTEXT_FIELDS, "status", *extra) if key.startswith(incomplete)]


def _repository_of(context: click.Context) -> Repository:
    """The repository of `-C`, or of the current directory: no command has run yet."""
    from ..git.opening import open_repository

    named = (context.find_root().params.get("directory") or ()) if context.parent is not None else ()
    return open_repository(os.fsencode(os.path.abspath(os.path.join(".", *named))))


_STYLES = {"bold": "1", "yellow": "33", "red": "31", "green": "32", "dim": "2"}


def print_styled(lines: Iterable[str], styles: Iterable[str]) -> None:
    """Print lines on stdout, each escaped; on a terminal each in its style, an empty one for none."""
    colours = has_colours(sys.stdout)
    for line, style in zip(lines, styles, strict=True):
        text = escape(line)
        echo(f"\x1b[{_STYLES[style]}m{text}\x1b[m" if colours and style else text, color=True)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines for a person on stdout, each escaped."""
    for line in lines:
        echo(escape(line))


def echo(text: str, *, color: bool | None = None, nl: bool = True) -> None:
    """Print a line on stdout. Raises OutputClosed where nobody reads any more."""
    try:
        click.echo(text, color=color, nl=nl)
    except BrokenPipeError:
        raise OutputClosed from None


def click_option(option: Option) -> click.Option:
    """An option of the crash path, for click."""
    if option.kind == "flag":
        return click.Option([option.flag, option.name], is_flag=True, help=option.help)
    return click.Option(
        [option.flag, option.name],
        type=_TYPES[option.kind],
        multiple=option.kind == "many",
        metavar=option.metavar,
        help=option.help or setting_help("includeIgnored"),
    )


def setting_option(flag: str, name: str, parameter: str, metavar: str) -> Callable[..., Any]:
    """The option that has the same effect as the setting `name`, which gives its range and its help."""
    setting = setting_named(name)
    kind: Count | Seconds
    if setting.kind == "count":
        kind = Count(int(setting.least), int(setting.most))
    else:
        kind = Seconds(setting.least, setting.most)
    return click.option(flag, parameter, type=kind, metavar=metavar, help=setting_help(name))


def options_named(names: Iterable[str]) -> list[click.Parameter]:
    """Some options of the crash path, for click, in their own order."""
    wanted = set(names)
    return [click_option(option) for option in OPTIONS if option.name in wanted]


everything_option = click.option(
    "--all", "everything", is_flag=True, help="every worktree of this repository, and every registered workspace"
)
roots_option = click.option(
    "--root", "roots", multiple=True, metavar="DIR", help="every workspace found in and below DIR"
)
paths_argument = click.argument("paths", nargs=-1, metavar="[PATH]…")
