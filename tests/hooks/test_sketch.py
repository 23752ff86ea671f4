"""The function names of the first sketch, which scripts may still use."""

from __future__ import annotations

import shlex
import signal

import pytest

from tests.hooks.stage import FOREGROUND, HOSTILE, SOURCE, WAIT, Stage, is_waiting, output, run
from tests.support.agents import PATIENCE, wait_until


@pytest.mark.parametrize("way", ["sketch", "library"])
def test_hostile_values_are_never_evaluated(stage: Stage, way: str) -> None:
    value = shlex.quote(HOSTILE)
    if way == "sketch":
        tell = f"""
            CURRENT_TASK_ID={value} ISSUE_NUMBER={value} BRANCH_NAME={value} PROGRESS_STAGE={value}
            MEMORY_REFS=({value} --second)
            cleanup_and_save
        """
    else:
        tell = f"""
            gitstate_begin task_id={value} issue_number={value} memory_refs={value}
            gitstate_stage {value}
        """
    run(stage, f"{SOURCE}echo work >>work.txt\n{tell}\nexit 1\n")
    said = output(
        stage,
        f"""
        set -euo pipefail
        {SOURCE}
        recover_agent_state
        printf '%s\\0' "$RECOVERED_TASK_ID" "$RECOVERED_ISSUE_NUMBER" "$RECOVERED_PROGRESS_STAGE" \\
          "$RECOVERED_BRANCH_NAME" "$RECOVERED_WORKSPACE_PATH" "$RECOVERED_MEMORY_REFS"
    """,
    )
    assert said.split("\0")[:5] == [HOSTILE, HOSTILE, HOSTILE, "agent/work", str(stage.ws.path)]
    assert said.split("\0")[5].startswith("-n 'one'")
    assert not (stage.ws.path / "pwned").exists()


def test_variables_are_read_when_the_signal_arrives(stage: Stage) -> None:
    elsewhere = stage.directory
    loop = stage.start(
        stage.script(f"""
        {SOURCE}
        trap cleanup_and_save TERM
        CURRENT_TASK_ID=first PROGRESS_STAGE=planning WORKSPACE_PATH=$PWD
        cd {shlex.quote(str(elsewhere))}
        CURRENT_TASK_ID=second PROGRESS_STAGE=coding
        echo work >>"$WORKSPACE_PATH/work.txt"
        : >ready
        while :; do sleep 0.05; done
    """)
    )
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    context = stage.context()
    assert (context["task_id"], context["progress_stage"]) == ("second", "coding")


@pytest.mark.parametrize("end", ['echo fail >"$STAGE/manner"; gitstate_run claude', "cleanup_and_save"])
def test_next_task_has_no_values_of_the_one_before(end: str, stage: Stage) -> None:
    """A loop that begins a task by its variables alone, one that has no issue."""
    stage.manner("done")
    first = "CURRENT_TASK_ID=A ISSUE_NUMBER=7 PROGRESS_STAGE=coding MEMORY_REFS=m-1\ngitstate_run claude\n"
    second = f"CURRENT_TASK_ID=B ISSUE_NUMBER= PROGRESS_STAGE= MEMORY_REFS=\n{end}\nexit 3\n"
    assert run(stage, SOURCE + first + second).returncode == 3, stage.said()
    context = stage.context()
    assert context["task_id"] == "B"
    assert [context[name] for name in ("issue_number", "progress_stage", "memory_refs")] == [None, None, []]


def test_bash_trapsig_decides_the_signal(stage: Stage) -> None:
    """Bash 5.3 sets this variable; an older bash cannot derive the signal from the status."""
    loop = stage.start(stage.script(f"{SOURCE}trap cleanup_and_save TERM INT EXIT\nBASH_TRAPSIG=2\n{FOREGROUND}\n"))
    stage.ready(loop)
    wait_until(lambda: is_waiting(loop), "the shell waits")
    loop.send_signal(signal.SIGINT)
    assert loop.wait(PATIENCE) == -signal.SIGINT


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    ("ending", "number", "status"),
    [
        (WAIT, signal.SIGTERM, -signal.SIGTERM),
        (WAIT, signal.SIGINT, -signal.SIGINT),
        (FOREGROUND, signal.SIGTERM, -signal.SIGTERM),
        ("exit 3", None, 3),
        ("exit 0", None, 0),
        ("set -e; false", None, 1),
    ],
    ids=["wait-term", "wait-int", "foreground-term", "exit-3", "exit-0", "set-e"],
)
@pytest.mark.parametrize(
    "trap",
    [
        "trap cleanup_and_save SIGTERM SIGINT EXIT",
        "ended() { cleanup_and_save; exit 0; }; trap ended TERM INT; trap cleanup_and_save EXIT",
        "ended() { cleanup_and_save \"$1\"; exit 0; }; trap 'ended SIGTERM' TERM; trap 'ended INT' INT; trap "
        "'cleanup_and_save EXIT' EXIT",
    ],
    ids=["whole", "function", "named"],
)
def test_cleanup_and_save_works_as_a_trap(
    stage: Stage, trap: str, ending: str, number: int | None, status: int
) -> None:
    """Nothing else of the library is called: only this trap tells it that the script ends."""
    begin = f"{SOURCE}CURRENT_TASK_ID=T-9\necho work >>work.txt\n"
    loop = stage.start(stage.script(f"{begin}{trap}\n{ending}\necho no >>after\n"))
    if number is not None:
        stage.ready(loop)
        wait_until(lambda: is_waiting(loop), "the shell waits")
        loop.send_signal(number)
    if stage.is_zsh and ending == WAIT:
        # Zsh runs this trap while the signal is blocked, and tells it no signal.
        assert loop.wait(PATIENCE) in (status, -signal.SIGTERM, 128 - status), stage.said()
    else:
        assert loop.wait(PATIENCE) == status, stage.said()
    assert not (stage.ws.path / "after").exists()
    if status == 0:
        assert stage.pending() is None
    else:
        assert stage.context()["task_id"] == "T-9"
        assert stage.saves() == 1


def test_cleanup_and_save_inside_a_script_does_not_end_it(stage: Stage) -> None:
    said = output(
        stage,
        f"""
        set -euo pipefail
        {SOURCE}
        trap cleanup_and_save SIGTERM SIGINT EXIT
        CURRENT_TASK_ID=T-9
        echo work >>work.txt
        cleanup_and_save
        cleanup_and_save 'before the risky part'
        git log -1 --format=%s
    """,
    )
    assert said.startswith("WIP(gitstate): T-9")
    assert stage.context()["task_id"] == "T-9", "the save stays until it is recovered"
    assert "stays pending" in stage.said()


def test_recover_agent_state_distinguishes_nothing_pending_from_manual_intervention(stage: Stage) -> None:
    ask = f"""
        set -euo pipefail
        {SOURCE}
        ended=0
        recover_agent_state || ended=$?
        echo "$ended ${{RECOVERED_VERDICT:--}} ${{RECOVERED_TASK_ID:--}}"
    """
    assert output(stage, ask) == "1 nothing -\n"
    stage.ws.append("a.txt")
    assert stage.ws.save().exit_status == 0
    stage.ws.git("checkout", "-q", "-b", "other", "HEAD~1")
    stage.ws.append("b.txt")
    stage.ws.commit("elsewhere")
    assert output(stage, ask) == "4 - -\n"
    assert "next: " in stage.said()
    stage.ws.git("checkout", "-q", "agent/work")
    assert output(stage, ask) == "0 restore T-1\n"
    assert output(stage, f"cd /\n{ask}") == "70 - -\n"
