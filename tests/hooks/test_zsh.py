"""The library in zsh, whatever options its user has set, and what other shells say of it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from typing import Any

import pytest

from tests.hooks.stage import FOREGROUND, LIBRARY, SOURCE, Stage, is_waiting, output, run
from tests.hooks.test_terminals import Terminal
from tests.support.agents import PATIENCE, keepers, wait_until
from tests.support.skips import not_installed, why_not_program

pytestmark = [
    pytest.mark.skipif(why_not_program("zsh") is not None, reason=why_not_program("zsh") or ""),
    pytest.mark.parametrize("stage", ["zsh"], indirect=True),
]

#: What users set in their zsh, and what changes the meaning of a word, an array or a trap.
OPTIONS = (
    "errexit nounset pipefail",
    "ksharrays shwordsplit globsubst shnullcmd",
    "nullglob nomatch noglob rcquotes",
    "localtraps localoptions posixtraps",
    "trapsasync errreturn warncreateglobal nopromptpercent",
)

LOOP = """
eval "$(gitstate init zsh)"
work() {
  task=T-42
  recover_agent_state && task=${RECOVERED_TASK_ID:-$task} || [ $? -eq 1 ]
  gitstate_begin "task_id=$task" issue_number=7
  gitstate_stage coding
  gitstate_run claude -p "$task"
  gitstate_finish
}
work
"""


@pytest.mark.parametrize("options", [OPTIONS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in OPTIONS[1:])])
def test_loop_is_saved_and_goes_on_under_every_option(options: str, stage: Stage) -> None:
    text = f"setopt {options}\n{LOOP}"
    loop = stage.start(stage.script(text))
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    context = stage.context()
    assert (context["task_id"], context["issue_number"], context["progress_stage"]) == ("T-42", 7, "coding")
    stage.manner("done")
    run_again = run(stage, text)
    assert run_again.returncode == 0, stage.said()
    assert stage.pending() is None
    assert b"not staged" in stage.ws.read("work.txt")
    assert "command not found" not in stage.said() and "parameter not set" not in stage.said()


def reason_of(stage: Stage) -> dict[str, Any]:
    reason = stage.context()["reason"]
    assert isinstance(reason, dict)
    return reason


def test_interrupt_of_the_group_is_saved(stage: Stage) -> None:
    loop = stage.start(stage.script(f"setopt errexit\n{LOOP}"))
    stage.ready(loop)
    os.killpg(loop.pid, signal.SIGINT)
    assert loop.wait(PATIENCE) == -signal.SIGINT, stage.said()
    assert reason_of(stage)["signal"] == "INT"


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "traps",
    [
        'trap \'echo term >>"$STAGE/traps"\' TERM; trap \'echo "exit $?" >>"$STAGE/traps"; exit 0\' EXIT',
        'TRAPTERM() { echo term >>"$STAGE/traps"; }; TRAPEXIT() { echo "exit $?" >>"$STAGE/traps"; }',
    ],
    ids=["trap", "functions"],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_own_traps_run_after_the_save(traps: str, place: str, stage: Stage) -> None:
    before, after = (traps, "") if place == "before" else ("", traps)
    loop = stage.start(
        stage.script(f"{before}\n{SOURCE}{after}\ngitstate_begin task_id=T-1\ngitstate_run claude\necho no >>after")
    )
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert (stage.directory / "traps").read_text() == "term\nexit 143\n"
    assert stage.context()["task_id"] == "T-1" and not (stage.ws.path / "after").exists()


@pytest.mark.parametrize("end", ["(exit 9)", "ends() { exit 9; }; ends"])
@pytest.mark.parametrize("traps", ["", 'trap \'echo "exit $?" >>"$STAGE/traps"\' EXIT'], ids=["none", "exit"])
def test_failure_is_saved_with_its_status(end: str, traps: str, stage: Stage) -> None:
    script = f"set -eu\n{traps}\n{SOURCE}gitstate_begin task_id=T-1\necho work >>work.txt\n{end}\necho no >>work.txt\n"
    assert run(stage, script).returncode == 9, stage.said()
    assert reason_of(stage)["exit_code"] == 9
    if traps:
        assert (stage.directory / "traps").read_text() == "exit 9\n"


def test_subshell_has_its_own_traps(stage: Stage) -> None:
    text = f"""
        trap 'echo parent >>"$STAGE/traps"' EXIT
        {SOURCE}
        gitstate_begin task_id=T-0
        ( gitstate_begin task_id=T-1; echo work >>work.txt; exit 5 ) || exit 5
    """
    assert run(stage, text).returncode == 5
    assert stage.context()["task_id"] == "T-1"
    assert (stage.directory / "traps").read_text() == "parent\n"


def test_signal_in_a_foreground_command_is_saved_after_it(stage: Stage) -> None:
    loop = stage.start(
        stage.script(f"{SOURCE}gitstate_begin task_id=T-1\necho work >>work.txt\n{FOREGROUND}\necho no >>after\n")
    )
    stage.ready(loop)
    wait_until(lambda: is_waiting(loop), "the shell waits")
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert stage.context()["task_id"] == "T-1" and not (stage.ws.path / "after").exists()


def test_first_sketch_works(stage: Stage) -> None:
    loop = stage.start(
        stage.script(f"""
        set -euo pipefail
        {SOURCE}
        CURRENT_TASK_ID=T-9 ISSUE_NUMBER=7 MEMORY_REFS=(m-1 'm 2')
        trap cleanup_and_save SIGTERM SIGINT EXIT
        if recover_agent_state; then CURRENT_TASK_ID=$RECOVERED_TASK_ID; fi
        gitstate_run claude
    """)
    )
    stage.ready(loop)
    loop.send_signal(signal.SIGINT)
    assert loop.wait(PATIENCE) == -signal.SIGINT, stage.said()
    context = stage.context()
    assert (context["task_id"], context["issue_number"], context["memory_refs"]) == ("T-9", 7, ["m-1", "m 2"])


def test_sourcing_changes_no_option_and_prints_nothing(stage: Stage) -> None:
    stage.manner("done")
    said = output(
        stage,
        f"""
        setopt nullglob extendedglob errexit nounset
        trap 'echo usr' USR1
        alias local=false env=false
        {SOURCE}
        setopt >"$STAGE/before"
        recover_agent_state || [ $? -eq 1 ]
        gitstate_begin task_id=T-1
        gitstate_stage coding
        gitstate_run claude
        cleanup_and_save
        gitstate_finish
        setopt >"$STAGE/after"
        [[ $(<"$STAGE/before") == $(<"$STAGE/after") ]]
    """,
    )
    assert said == ""


def test_ctrl_c_at_a_prompt_ends_the_agent_but_not_the_shell(stage: Stage) -> None:
    terminal = Terminal(stage, ["zsh", "-f", "-i"])
    os.write(terminal.fd, f"{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n".encode())
    terminal.until((stage.directory / "ready").exists, "the agent is ready")
    os.write(terminal.fd, b"\x03")
    terminal.until(lambda: stage.pending() is not None and not keepers(stage.ws), "the save")
    os.write(terminal.fd, b'echo "$?" >"$STAGE/status"\n')
    terminal.until((stage.directory / "status").exists, "the shell lives on")
    assert (stage.directory / "status").read_text() == "130\n"
    assert stage.context()["task_id"] == "T-1"
    os.write(terminal.fd, b"exit\n")
    assert terminal.wait() == 0
    assert stage.pending() is None


def test_directory_for_temporary_files_that_is_gone(stage: Stage) -> None:
    script = f"TMPDIR=/nonexistent\ntrap 'echo mine' EXIT\n{SOURCE}gitstate_begin task_id=T-1\ngitstate_finish\n"
    assert output(stage, script) == "mine\n"
    assert stage.said() == ""


@pytest.mark.sample(3)
@pytest.mark.parametrize("how", ["init bash", "init zsh", "file"])
@pytest.mark.parametrize("program", ["bash", "zsh -f"])
def test_one_text_for_bash_and_zsh(how: str, program: str, stage: Stage) -> None:
    load = SOURCE if how == "file" else f'eval "$(gitstate {how})"'
    script = f"set -eu\n{load}\ngitstate_begin task_id=T-1\ngitstate_finish\necho done\n"
    done = subprocess.run([*program.split(), "-c", script], cwd=stage.ws.path, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("how", ["init bash", "file"])
@pytest.mark.parametrize("program", ["dash", "busybox sh", "ksh", "mksh"])
def test_wrong_shell_says_so_in_one_line_and_goes_on(how: str, program: str, stage: Stage) -> None:
    if shutil.which(program.split()[0]) is None:
        pytest.skip(not_installed(program.split()[0]))
    load = f". {shlex.quote(str(LIBRARY))}" if how == "file" else 'eval "$(gitstate init bash)"'
    argv = [*program.split(), "-c", f'{load}\necho "goes on after $?"']
    done = subprocess.run(argv, cwd=stage.ws.path, capture_output=True, encoding="utf-8")
    assert done.stdout == "goes on after 1\n"
    assert done.stderr == "gitstate: the shell library needs bash or zsh; elsewhere use: gitstate run -- COMMAND\n"
