"""`--help`: groups in the order of need, no line cut or too wide, and errors that point to the help of the command."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from gitstate.agents.registry import agent_names
from gitstate.cli.main import group
from gitstate.cli.table import BY_NAME, EXAMPLES, TABLE
from tests.support.environment import ROOT
from tests.support.workspace import Workspace, run_gitstate

GROUPS = ["Run and recover", "Save", "Task and context", "Old saves", "Set up"]
NAMES = [entry.name for entry in TABLE if entry.group]


@cache
def help_of(name: str, *, columns: int = 80) -> tuple[str, ...]:
    """What one run of the command printed, for all tests of it."""
    run = run_gitstate(*name.split(), "--help", cwd=Path("/"), env={"COLUMNS": str(columns)})
    assert run.exit_status == 0
    return tuple(run.text.splitlines())


def test_main_help_lists_the_groups_in_order_of_need() -> None:
    lines = help_of("")
    headings = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["First steps", "Options", *GROUPS, "Exit status"]
    first = lines[lines.index("Run and recover:") + 1 :][:3]
    assert [line.split()[0] for line in first] == ["run", "recover", "status"]


def test_main_help_lists_each_command_with_its_whole_summary() -> None:
    text = "\n".join(help_of(""))
    for entry in TABLE:
        if entry.group in GROUPS:
            assert f"\n  {entry.name.ljust(10)}  {entry.summary}\n" in f"{text}\n", entry
        else:
            assert f"\n  {entry.name}  " not in text


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_is_at_most_80_columns_wide(name: str) -> None:
    for line in help_of(name, columns=200):
        assert len(line) <= 80, line


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", NAMES)
def test_help_of_command_begins_with_usage_and_summary(name: str) -> None:
    lines = help_of(name)
    assert lines[0].startswith(f"Usage: gitstate {name} ")
    assert lines[2] == f"  {BY_NAME[name].summary}"


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_summary_is_one_short_line_without_a_full_stop(entry: tuple[str, ...]) -> None:
    summary = entry[-1]
    assert len(summary) <= 60 and summary[0].isupper() and not summary.endswith(".") and "\n" not in summary


def command_named(name: str) -> click.Command:
    command: click.Command = group
    for word in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return command


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_help_text(name: str) -> None:
    options = [option for option in command_named(name).params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", [entry.name for entry in TABLE])
def test_numbers_are_those_that_other_programs_write(name: str) -> None:
    """`nan` is neither too small nor too large for a range, and a time that is infinite is a typing error."""
    for parameter in command_named(name).params:
        kind: click.ParamType[Any] = parameter.type
        if isinstance(kind, click.IntRange | click.FloatRange | type(click.INT) | type(click.FLOAT)):
            for text in ("nan", "-inf", "1e999", "1_0", "\uff11", "soon", ""):
                with pytest.raises(click.BadParameter, match="is not"):
                    kind(text, parameter, None)


@pytest.mark.sample(5)
@pytest.mark.parametrize("words", [["save"], ["checkpoint"], ["run"], ["recover"], ["begin", "--owner-pid"]])
@pytest.mark.parametrize("text", ["nan", "1e999", "1_0", "\uff11\uff12"])
def test_number_that_is_none_begins_nothing(words: list[str], text: str, ws: Workspace) -> None:
    ws.append("a.txt")
    option = words[1:] or ["--wait" if words == ["recover"] else "--deadline"]
    run = ws.gitstate(words[0], *option, text, *(["--", "true"] if words == ["run"] else []))
    assert run.exit_status == 2 and f"'{option[0]}': '{text}' is not" in run.stderr, run
    assert ws.refs("refs/gitstate") == {}


@pytest.mark.sample(5)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "boot"])
def test_wrong_option_points_to_the_help_of_its_command(name: str) -> None:
    run = run_gitstate(*name.split(), "--no-such-option", cwd=Path("/"))
    assert run.exit_status == 2
    assert run.stderr.splitlines()[-1] == f"  next: gitstate {name} --help"


@pytest.mark.parametrize(("words", "path"), [("frobnicate", "gitstate"), ("boot frobnicate", "gitstate boot")])
def test_unknown_command_points_to_the_help_of_its_group(words: str, path: str) -> None:
    run = run_gitstate(*words.split(), cwd=Path("/"))
    assert (run.exit_status, run.stderr.splitlines()[-1]) == (2, f"  next: {path} --help")


@pytest.mark.parametrize(("words", "wanted"), [([], "Run and recover:"), (["boot"], "Commands:")])
def test_no_command_prints_help_on_stderr_and_exits_2(words: list[str], wanted: str) -> None:
    run = run_gitstate(*words, cwd=Path("/"))
    assert (run.exit_status, run.stdout) == (2, b"")
    assert f"\n{wanted}\n" in run.stderr


def examples() -> list[str]:
    return sorted({line for rows in EXAMPLES.values() for line, _ in rows if line.startswith("gitstate ")})


@pytest.mark.parametrize("line", examples())
def test_example_is_a_command_line(line: str) -> None:
    program, *words = shlex.split(line)
    with group.make_context(program, words) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        while isinstance(command, click.Group):
            name, command, rest = command.resolve_command(context, rest)
        assert command is not None
        with command.make_context(name, rest, parent=context):
            pass


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name])
def test_help_of_command_ends_with_its_examples(name: str) -> None:
    lines = help_of(name)
    assert [line.split("  ")[1] for line in lines[lines.index("Examples:") + 1 :]] == [row[0] for row in EXAMPLES[name]]


def test_functions_of_the_library_are_in_its_help() -> None:
    library = (ROOT / "hooks" / "gitstate.bash").read_text(encoding="utf-8")
    for line, _ in EXAMPLES["init"][1:]:
        assert f"\n{line.split()[0]}() {{\n" in library, line


def test_help_of_loop_names_every_agent() -> None:
    text = " ".join(" ".join(help_of("loop")).split())
    assert f"AGENT is {', '.join(agent_names()[:-1])} or {agent_names()[-1]}." in text


@pytest.mark.parametrize("name", ["", "run", "boot enable"])
def test_help_is_a_command_too(name: str) -> None:
    run = run_gitstate("help", *name.split(), cwd=Path("/"))
    assert run.exit_status == 0 and tuple(run.text.splitlines()) == help_of(name)


@pytest.mark.parametrize(("word", "meant"), [("resum", "resume"), ("staus", "status"), ("recovr", "recover")])
def test_misspelt_command_is_guessed(word: str, meant: str) -> None:
    run = run_gitstate(word, cwd=Path("/"))
    assert run.exit_status == 2 and f"Did you mean '{meant}'?" in run.stderr


@pytest.mark.parametrize("words", [["loop"], ["completion"]])
def test_missing_choice_is_said_in_one_line(words: list[str]) -> None:
    run = run_gitstate(*words, cwd=Path("/"))
    assert run.exit_status == 2 and len(run.stderr.splitlines()) == 2 and "\\n" not in run.stderr, run


_RUN = """\
import sys
from gitstate.__main__ import main
try:
    main()
except SystemExit:
    print("loaded", *sys.modules, file=sys.stderr)
"""


def loaded_families(*args: str) -> set[str]:
    """The modules of commands that a run of the command line imports."""
    done = subprocess.run([sys.executable, "-c", _RUN, *args], capture_output=True, encoding="utf-8", cwd="/")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("loaded ")]
    above = "gitstate.cli.commands."
    return {name.removeprefix(above) for name in line.split() if name.startswith(above)}


def test_only_the_module_of_the_command_is_imported() -> None:
    assert loaded_families("--help") == set()
    assert loaded_families("log") == {"saves"}
    assert loaded_families("boot", "status", "--help") == {"hooks"}


def test_wrong_pair_of_save_is_answered_with_what_to_type(ws: Workspace) -> None:
    run = ws.gitstate("save", "--set", "no-pair")
    assert run.exit_status == 2 and " save progress_stage=testing;" in run.stderr
    assert not ws.refs("refs/gitstate/")
