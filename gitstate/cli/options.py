"""The options of `save` and `checkpoint`, once: for the quick parser here and for click's help, errors and completion.

Importing click costs more than a small save, so a well-formed crash-path command line is read here. Whatever this
parser does not take (an unknown option, `--help`, a bad number) goes to click, which knows how to say so.
"""

from __future__ import annotations

import os

from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Option(Record):
    """One option. `kind` is `text`, `many` (may be given again), `number`, `seconds` or `flag`.

    `help` is empty where the table of settings has the words: reading it here would delay the start of git.
    """

    flag: str
    name: str
    kind: str
    help: str


OPTIONS = (
    Option("--task-id", "task_id", "text", "the task that the agent is on"),
    Option("--issue-number", "issue_number", "text", "the issue that it works for"),
    Option("--progress-stage", "progress_stage", "text", "how far it is, in the loop's own words"),
    Option("--memory-ref", "memory_refs", "many", "a reference to the agent's memory"),
    Option("--agent", "agent", "text", "the name of the agent program"),
    Option("--session-id", "session_id", "text", "the agent's own session"),
    Option("--set", "extra", "many", "KEY=VALUE: another value of the context"),
    Option("--signal", "signal", "text", "the signal that ends the run, as TERM"),
    Option("--exit-code", "exit_code", "number", "the status that ended the run"),
    Option("--reason", "reason", "text", "why this save is made, in words"),
    Option("--deadline", "deadline", "seconds", "leave out what can't be read in this time"),
    Option("--wait", "wait", "seconds", "how long to wait for another gitstate in this workspace"),
    Option("--include-ignored", "include_ignored", "many", ""),
    Option("--owner-pid", "owner_pid", "number", "the process that owns this workspace while it lives"),
    Option("--json", "json", "flag", "print one JSON object"),
)
_BY_FLAG = {option.flag: option for option in OPTIONS}
CONTEXT_TEXTS = ("task_id", "issue_number", "progress_stage", "agent", "session_id")
#: The first sketch's names, where a loop exports them.
_LEGACY = {
    "task_id": "CURRENT_TASK_ID",
    "issue_number": "ISSUE_NUMBER",
    "progress_stage": "PROGRESS_STAGE",
    "memory_refs": "MEMORY_REFS",
}

Value = str | float | int | bool | list[str]


class Quick(Record):
    """A command line of the crash path: `directory` from -C, `given` by option name."""

    command: str
    directory: str
    given: Mapping[str, Value]


def parse(argv: Sequence[str]) -> Quick | None:
    """The command line, if it is a well-formed one of the crash path."""
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
    if not words or words[0] not in ("save", "checkpoint"):
        return None
    command = words.pop(0)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        option = _BY_FLAG.get(flag)
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
    return Quick(command, directory, given)


def _take(given: dict[str, Value], option: Option, value: str) -> None:
    if option.kind == "many":
        if option.name == "extra" and "=" not in value:
            raise ValueError
        known = given.setdefault(option.name, [])
        assert isinstance(known, list)
        known.append(value)
    elif option.kind == "number":
        given[option.name] = int(value)
    elif option.kind == "seconds":
        seconds = float(value)
        if not 0 < seconds < 1e9:
            raise ValueError
        given[option.name] = seconds
    else:
        given[option.name] = value


def context_values(given: Mapping[str, Value], environ: Mapping[str, str]) -> dict[str, str]:
    """Context texts by name: an option wins over GITSTATE_NAME, that over the first sketch's exported name."""
    found: dict[str, str] = {}
    for name in (*CONTEXT_TEXTS, "memory_refs"):
        for variable in (_LEGACY.get(name, ""), f"GITSTATE_{name.upper()}"):
            if environ.get(variable):
                found[name] = environ[variable]
    for name in CONTEXT_TEXTS:
        value = given.get(name)
        if isinstance(value, str):
            found[name] = value
    memory = given.get("memory_refs")
    if isinstance(memory, list) and memory:
        found["memory_refs"] = "\n".join(memory) + "\n"
    extra = given.get("extra")
    for pair in extra if isinstance(extra, list) else ():
        key, _, value = pair.partition("=")
        found[key] = value
    return found
