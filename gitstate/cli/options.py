"""The options of the commands that run without click: one table for the parser in this module and for click.

Importing click takes longer than a small save, so a well-formed command line of the crash path is parsed here. Anything
else (an unknown option, `--help`, a bad number) goes to click, which reports it.
"""

from __future__ import annotations

import os

from ..format.context import CONTEXT_TEXTS, exported_values
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Option(Record):
    """One option. `kind` is `text`, `many` (repeatable), `number`, `seconds` or `flag`.

    `help` is empty if the table of settings has it: importing that table here would delay the start of git.
    """

    flag: str
    name: str
    kind: str
    metavar: str
    help: str


OPTIONS = (
    Option("--task-id", "task_id", "text", "ID", "the task of the agent"),
    Option("--issue-number", "issue_number", "text", "NUMBER", "the issue of the task"),
    Option("--progress-stage", "progress_stage", "text", "TEXT", "how far the task is, in words of your own"),
    Option("--memory-ref", "memory_refs", "many", "TEXT", "a reference to notes of the agent (repeatable)"),
    Option("--agent", "agent", "text", "NAME", "the name of the agent program"),
    Option("--session-id", "session_id", "text", "ID", "the session of the agent"),
    Option("--set", "extra", "many", "KEY=VALUE", "another value of the context (repeatable)"),
    Option("--signal", "signal", "text", "NAME", "record the signal that ends the run, such as TERM"),
    Option("--exit-code", "exit_code", "number", "N", "record the exit status that ended the run"),
    Option("--reason", "reason", "text", "TEXT", "record why the save is made"),
    Option("--label", "label", "text", "NAME", "a name of your own for this save: gitstate restore NAME"),
    Option("--deadline", "deadline", "seconds", "SECONDS", "skip what cannot be read in this time"),
    Option("--wait", "wait", "seconds", "SECONDS", "wait this long for another gitstate here  [default: 60]"),
    Option("--include-ignored", "include_ignored", "many", "PATTERN", ""),
    Option("--owner-pid", "owner_pid", "number", "PID", "the process that owns this workspace while it runs"),
    Option("--json", "json", "flag", "", "print JSON on stdout"),
)
_BY_FLAG = {option.flag: option for option in OPTIONS}
#: The options of the context that `run` has too.
RUN_CONTEXT = (*CONTEXT_TEXTS, "memory_refs", "extra")

Value = str | float | int | bool | list[str]


#: The options of `recover` and `status` by flag: the parameter, and the kind as in `Option`. Click has their help.
_OF_BOTH = {"--all": ("everything", "flag"), "--root": ("roots", "many"), "--json": ("json", "flag")}
LOOKS = {
    "status": {
        **_OF_BOTH,
        "--short": ("short", "flag"),
        "--watch": ("watch", "flag"),
        "--interval": ("interval", "seconds"),
        "--prometheus": ("prometheus", "text"),
    },
    "recover": {
        **_OF_BOTH,
        "--worktrees": ("worktrees", "flag"),
        "--dry-run": ("dry_run", "flag"),
        "--overwrite": ("overwrite", "flag"),
        "--into": ("into", "text"),
        "--save": ("save_id", "text"),
        "--trust": ("trust", "flag"),
        "--dismiss": ("dismiss", "flag"),
        "--special-bits": ("special_bits", "flag"),
        "--wait": ("wait", "seconds"),
        "--format": ("style", "style"),
    },
}
STYLES = ("text", "json", "shell")
#: Those of `begin` and `set`, by their names. Words KEY=VALUE stand between them and behind them.
TASKS = {"begin": (*RUN_CONTEXT, "owner_pid", "json"), "set": (*RUN_CONTEXT, "json")}
FINISH = {"--keep-save": ("keep_save", "flag"), "--json": ("json", "flag")}
#: Those of `run`. What follows them is the command to run.
STOP_SIGNALS = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2")
RUN = {
    "--owner-pid": ("owner_pid", "number"),
    "--stop-signal": ("stop_signal", "stop_signal"),
    "--stop-group": ("stop_group", "flag"),
    "--keep": ("keep", "flag"),
    **{f"--{name}": (name, "seconds") for name in ("grace", "deadline", "interval")},
}


class Quick(Record):
    """A command line that is parsed here: `directory` from -C, `given` by option name."""

    command: str
    directory: str
    given: Mapping[str, Value]


def parse(argv: Sequence[str]) -> Quick | None:
    """Parse a command line of `save`, `checkpoint`, `recover`, `status`, `run`, `begin`, `set` or `finish`.

    Returns None for any other, and for one that is not well-formed.
    """
    words = list(argv)
    directory = "."
    given: dict[str, Value] = {}
    while words:
        if words[0] == "-C" and len(words) > 1:
            directory = os.path.join(directory, words[1])
            del words[:2]
        elif words[0] == "--json":
            given["json"] = True
            del words[0]
        else:
            break
    command = words.pop(0) if words else ""
    if command not in ("save", "checkpoint", "run", *LOOKS, *TASKS, "finish"):
        return None
    takes_paths = command in LOOKS or command in TASKS
    by_flag = _BY_FLAG
    if command in LOOKS:
        by_flag = {flag: Option(flag, name, kind, "", "") for flag, (name, kind) in LOOKS[command].items()}
    elif command in TASKS:
        by_flag = {option.flag: option for option in OPTIONS if option.name in TASKS[command]}
    elif command == "finish":
        by_flag = {flag: Option(flag, name, kind, "", "") for flag, (name, kind) in FINISH.items()}
    elif command == "run":
        by_flag = {option.flag: option for option in OPTIONS if option.name in RUN_CONTEXT}
        by_flag |= {flag: Option(flag, name, kind, "", "") for flag, (name, kind) in RUN.items()}
    paths: list[str] = []
    while words:
        if command == "run" and (words[0] == "--" or not words[0].startswith("-")):
            paths = words[1:] if words[0] == "--" else words
            break
        if command in TASKS and words[0] == "--":
            paths += words[1:]
            break
        if takes_paths and not words[0].startswith("-"):
            paths.append(words.pop(0))
            continue
        flag, equals, value = words.pop(0).partition("=")
        option = by_flag.get(flag)
        if option is None and equals and flag and "--set" in by_flag and not flag.startswith("-"):
            _take(given, _BY_FLAG["--set"], f"{flag}={value}")
            continue
        if option is None:
            return None
        if option.kind == "flag":
            if equals:
                return None
            given[option.name] = True
            continue
        if not equals:
            if not words or words[0].startswith("--"):
                return None
            value = words.pop(0)
        try:
            _take(given, option, value)
        except ValueError:
            return None
    owner_pid = given.get("owner_pid", 1)
    if command == "begin" and isinstance(owner_pid, int) and owner_pid < 1:
        return None
    return Quick(command, directory, {**given, "paths": paths} if paths else given)


def _take(given: dict[str, Value], option: Option, value: str) -> None:
    if option.kind == "many":
        if option.name == "extra" and "=" not in value:
            raise ValueError
        known = given.setdefault(option.name, [])
        assert isinstance(known, list)
        known.append(value)
    elif option.kind == "style":
        if value not in STYLES:
            raise ValueError
        given[option.name] = value
    elif option.kind == "stop_signal":
        if value not in STOP_SIGNALS:
            raise ValueError
        given[option.name] = value
    elif option.kind == "number":
        given[option.name] = int(plain_number(value))
    elif option.kind == "seconds":
        seconds = float(plain_number(value))
        if not 0 < seconds < 1e9:
            raise ValueError
        given[option.name] = seconds
    else:
        given[option.name] = value


def plain_number(text: str) -> str:
    """`text`, where it is a number as other programs write one. Raises ValueError for `1_000`, `nan` and `1e999`."""
    if not text.isascii() or "_" in text or not float("-inf") < float(text) < float("inf"):
        raise ValueError(text)
    return text


def context_values(given: Mapping[str, Value], environ: Mapping[str, str]) -> dict[str, str]:
    """Map names of the context to texts. An option wins over what is exported."""
    found = exported_values(environ)
    for name in CONTEXT_TEXTS:
        value = given.get(name)
        if isinstance(value, str):
            found[name] = value
    memory = given.get("memory_refs")
    if isinstance(memory, list) and memory:
        found["memory_refs"] = "\n".join(memory) + "\n"
    extra = given.get("extra")
    return found | pair_values(extra if isinstance(extra, list) else ())


def check_pairs(pairs: Iterable[str], hint: str, more: str = "") -> None:
    """Raise UsageError for a word that is not KEY=VALUE; `more` is what its message ends with."""
    for pair in pairs:
        if "=" not in pair:
            from ..errors import UsageError
            from ..system.terminal import quoted

            raise UsageError(f"{quoted(pair[:80])} is not KEY=VALUE{more}", hint=hint)


def pair_values(pairs: Iterable[str]) -> dict[str, str]:
    """Map keys to values, from words KEY=VALUE. Of several values of one key the last counts; of memory_refs all do."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        found[key] = f"{found[key]}\n{value}" if key == "memory_refs" and found.get(key) and value else value
    return found
