"""Rules that a shell needs and Python decides: each test ties the two."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from gitstate.agents.registry import agent_names
from gitstate.cli.options import context_values
from gitstate.format.context import CALLER_FIELDS
from gitstate.recover.request import RecoverResult, shell_lines
from gitstate.run.channel import SIGNALS
from tests.hooks.stage import HOOKS, LIBRARY

if TYPE_CHECKING:
    from gitstate.recover.request import ResultVerdict

#: The other signals of which bash runs its EXIT trap.
OTHERS = ("ABRT", "ALRM", "PIPE", "USR1", "USR2", "VTALRM", "XCPU", "XFSZ")

VARIABLE = re.compile(r"\bRECOVERED_[A-Z_]+")
NAMES = [line.split("=")[0] for line in shell_lines(RecoverResult(b"/w", "nothing")).splitlines()]


def bash(text: str, *, path: str = "/usr/bin:/bin") -> str:
    """What a script prints that ends well."""
    argv = ["bash", "-uc", text]
    return subprocess.run(argv, capture_output=True, encoding="utf-8", check=True, env={"PATH": path}).stdout


def test_library_empties_exactly_the_variables_that_python_prints() -> None:
    assert len(NAMES) == len(set(NAMES)) > 10
    given = " ".join(f"{name}=stale" for name in NAMES)
    printed = bash(
        f". {shlex.quote(str(LIBRARY))}; _gitstate_program=false; {given}; recover_agent_state || :\n"
        'for name in ${!RECOVERED_*}; do printf "%s=%s\\n" "$name" "${!name}"; done'
    )
    assert sorted(printed.splitlines()) == sorted(f"{name}=" for name in NAMES)


def test_readme_and_loops_name_no_other_variable() -> None:
    documented = VARIABLE.findall((HOOKS / "README.md").read_text(encoding="utf-8"))
    assert set(documented) == set(NAMES)
    for script in (LIBRARY,):
        assert set(VARIABLE.findall(script.read_text(encoding="utf-8"))) <= set(NAMES)


@pytest.mark.parametrize("verdict", ["nothing", "restore", "changed", "context_only", "buried", "recovered"])
def test_recover_agent_state_fails_only_where_there_was_nothing(verdict: ResultVerdict) -> None:
    lines = shell_lines(RecoverResult(b"/w", verdict))
    status = bash(
        f". {shlex.quote(str(LIBRARY))}; answer() {{ printf %s {shlex.quote(lines)}; }}; _gitstate_program=answer\n"
        'status=0; recover_agent_state || status=$?; printf "%s %s" "$status" "$RECOVERED_VERDICT"'
    )
    assert status == f"{int(verdict == 'nothing')} {verdict}"


def test_library_traps_the_signals_that_end_a_run() -> None:
    script = f". {shlex.quote(str(LIBRARY))}; _gitstate_arm; trap -p"
    trapped = {signal.Signals(int(number)) for number in re.findall(r"_gitstate_caught (\d+);", bash(script))}
    others = {getattr(signal, f"SIG{name}") for name in OTHERS}
    assert trapped == {*SIGNALS, *others}


def test_variables_of_the_first_sketch_reach_python_as_the_same_values() -> None:
    sketch = {"CURRENT_TASK_ID": "T 1", "ISSUE_NUMBER": "7", "PROGRESS_STAGE": "a=b", "MEMORY_REFS": "m-1"}
    given = "; ".join(f"{name}={shlex.quote(value)}" for name, value in sketch.items())
    script = f'. {shlex.quote(str(LIBRARY))}; {given}; _gitstate_command save; printf "%s\\0" "${{_gitstate_argv[@]}}"'
    program, *pairs = bash(script).split("\0")[: 1 + len(sketch)]
    assert program == "env"
    environment = dict(pair.split("=", 1) for pair in pairs)
    assert context_values({}, environment) == context_values({}, sketch)
    assert len(context_values({}, sketch)) == len(sketch)


def test_begin_that_is_cut_short_empties_every_field_of_the_task_before() -> None:
    """The library saves with these pairs when a signal ends it before `gitstate begin` has answered."""
    script = (
        f". {shlex.quote(str(LIBRARY))}\n"
        "answer() { printf '%s\\n' \"${_gitstate_pairs[@]}\" >&2; }; _gitstate_program=answer\n"
        "gitstate_begin task_id=T-1 2>&1"
    )
    pairs = dict(line.split("=", 1) for line in bash(script).splitlines())
    assert pairs.pop("task_id") == "T-1"
    assert pairs == {name: "" for name in CALLER_FIELDS if name not in ("task_id", "agent")}


LOOPS = {path.name.removesuffix("-loop.sh"): path for path in HOOKS.glob("*-loop.sh")}


def test_ready_loops_are_for_known_agents() -> None:
    assert len(LOOPS) >= 2 and LOOPS.keys() <= set(agent_names())


@pytest.mark.parametrize("name", LOOPS)
def test_ready_loop_is_the_command_for_its_agent(name: str) -> None:
    script = (
        f'gitstate() {{ printf "%s " "$@"; }}; exec() {{ "$@"; }}; set -- --once; . {shlex.quote(str(LOOPS[name]))}'
    )
    assert bash(script) == f"loop {name} --once "
