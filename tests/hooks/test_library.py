"""The shell into which the library is sourced: its traps, options, jobs and streams stay its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time

import pytest

from tests.hooks.stage import SOURCE, Stage, output, run
from tests.support.agents import PATIENCE


def skip_in_zsh(stage: Stage) -> None:
    if stage.is_zsh:
        pytest.skip("bash only; test_zsh.py has the like of it")


def test_existing_traps_run_once_and_in_order(stage: Stage) -> None:
    loop = stage.start(
        stage.script(f"""
        set -euo pipefail
        trap 'echo "exit $?" >>"$STAGE/traps"' EXIT
        trap 'echo "term" >>"$STAGE/traps"; exit 1' TERM
        {SOURCE}{SOURCE}
        gitstate_begin task_id=T-1
        gitstate_run claude
    """)
    )
    stage.ready(loop)
    os.killpg(loop.pid, signal.SIGTERM)
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert (stage.directory / "traps").read_text() == "term\nexit 143\n"


def test_traps_set_later_run_as_well(stage: Stage) -> None:
    skip_in_zsh(stage)
    loop = stage.start(
        stage.script(f"""
        {SOURCE}
        gitstate_begin task_id=T-1
        trap 'echo term >>"$STAGE/traps"' TERM
        gitstate_stage coding
        trap 'echo "exit $?" >>"$STAGE/traps"; exit 0' EXIT
        gitstate_run claude
    """)
    )
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert (stage.directory / "traps").read_text() == "term\nexit 143\n"
    assert stage.saves() == 1


def test_trap_for_a_signal_and_exit_runs_once(stage: Stage) -> None:
    loop = stage.start(
        stage.script(f"""
        {SOURCE}
        trap 'echo "ended" >>"$STAGE/traps"; exit 0' TERM EXIT
        gitstate_begin task_id=T-1
        gitstate_run claude
    """)
    )
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert (stage.directory / "traps").read_text() == "ended\n"


def test_error_under_set_e_is_saved_with_its_status(stage: Stage) -> None:
    done = run(
        stage,
        f"""
        set -euo pipefail
        trap 'echo "exit $?" >>"$STAGE/traps"' EXIT
        {SOURCE}
        gitstate_begin task_id=T-1
        echo work >>work.txt
        (exit 9)
        echo never >>work.txt
    """,
    )
    assert done.returncode == 9
    reason = stage.context()["reason"]
    assert isinstance(reason, dict) and reason["exit_code"] == 9
    assert (stage.directory / "traps").read_text() == "exit 9\n"


@pytest.mark.sample(3)
@pytest.mark.parametrize("way", ["set -o posix", "export POSIXLY_CORRECT=1"])
@pytest.mark.parametrize("end", ["exit 3", "kill -TERM $$", "false"])
def test_posix_mode_of_bash_changes_no_status(way: str, end: str, stage: Stage) -> None:
    """There `trap -p` prints `-` for a signal without a trap, which is no command to run at the end."""
    skip_in_zsh(stage)
    done = run(stage, f"{way}\nset -e\n{SOURCE}\ngitstate_begin task_id=T-1\necho work >>work.txt\n{end}\n")
    assert done.returncode == {"exit 3": 3, "kill -TERM $$": -signal.SIGTERM, "false": 1}[end], stage.said()
    assert "command not found" not in stage.said()
    assert stage.context()["task_id"] == "T-1"


#: Ends of a loop by signals that it does not expect, each with the number of the signal.
UNEXPECTED = {
    "its reader goes away": ("claude; exec > >(:); wait $!; while :; do echo more; done", signal.SIGPIPE),
    "a run is under way": ('(until [ -e "$STAGE/ready" ]; do sleep 0.1; done; kill -USR1 $$) & claude', signal.SIGUSR1),
}


@pytest.mark.parametrize("end", UNEXPECTED)
def test_other_signal_leaves_the_task_to_the_next_start(end: str, stage: Stage) -> None:
    """Bash runs its EXIT trap then, with the status of the last command: the task was marked as done."""
    text, number = UNEXPECTED[end]
    stage.manner("done" if number == signal.SIGPIPE else "stay")
    done = run(stage, f"{SOURCE}gitstate_begin task_id=T-1\n{text.replace('claude', 'gitstate_run claude')}")
    assert done.returncode == -number, stage.said()
    again = 'recover_agent_state\necho "$RECOVERED_TASK_ID"\n'
    assert output(stage, SOURCE + again) == "T-1\n"


def test_commands_of_own_traps_die_of_sigpipe(stage: Stage) -> None:
    """One that writes for ever, as `yes | head` does, would never end."""
    ends = 'sh -c "kill -PIPE \\$\\$"; echo "$?" >>"$STAGE/ends"'
    text = (
        f"{SOURCE}trap '{ends}' TERM\ntrap '{ends}; true' EXIT\ngitstate_begin task_id=T-1\nkill -TERM $$\nsleep 600\n"
    )
    run(stage, text)
    assert (stage.directory / "ends").read_text() == "141\n141\n", stage.said()


def test_own_trap_for_another_signal_runs_alone(stage: Stage) -> None:
    text = f"trap 'echo heard' USR1\n{SOURCE}gitstate_begin task_id=T-1\nkill -USR1 $$\necho goes on\n"
    assert output(stage, text) == "heard\ngoes on\n"


@pytest.mark.parametrize("run_it", ["gitstate_run claude", "gitstate_run claude &\nwait $!"])
def test_script_that_ends_with_0_while_its_agent_works_keeps_the_task(run_it: str, stage: Stage) -> None:
    loop = stage.start(stage.script(f"trap 'exit 0' USR1\n{SOURCE}gitstate_begin task_id=T-1\n{run_it}"))
    stage.ready(loop)
    loop.send_signal(signal.SIGUSR1)
    assert loop.wait(PATIENCE) == 0, stage.said()
    assert output(stage, f'{SOURCE}recover_agent_state\necho "$RECOVERED_TASK_ID"\n') == "T-1\n"


def test_task_is_not_finished_while_its_agent_works_in_the_background(stage: Stage) -> None:
    text = f"""
        {SOURCE}
        gitstate_begin task_id=T-1
        gitstate_run claude &
        until [ -e "$STAGE/ready" ]; do sleep 0.1; done
        gitstate_finish || echo "finish $?"
        gitstate_begin task_id=T-2 || echo "begin $?"
        gitstate show task_id status
        gitstate stop
        gitstate_finish
    """
    assert output(stage, text).startswith("finish 75\nbegin 75\nT-1\nactive\n")
    assert "an agent is still at work" in stage.said()


def test_failed_agent_does_not_end_a_loop_that_checks_its_status(stage: Stage) -> None:
    stage.manner("fail")
    said = output(
        stage,
        f"""
        set -euo pipefail
        {SOURCE}
        gitstate_begin task_id=T-1
        if gitstate_run claude; then echo well; else echo "failed $?"; fi
        printf done >"$STAGE/manner"
        gitstate_run claude
        gitstate_finish
    """,
    )
    assert said == "failed 3\n"
    assert stage.pending() is None


def test_ignored_signal_stays_ignored(stage: Stage) -> None:
    nohup = ["nohup", *stage.script(f"{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n")]
    loop = stage.start(nohup)
    stage.ready(loop)
    os.killpg(loop.pid, signal.SIGHUP)
    time.sleep(1)
    assert loop.poll() is None
    os.killpg(loop.pid, signal.SIGTERM)
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    assert stage.context()["task_id"] == "T-1"


@pytest.mark.sample(3)
@pytest.mark.parametrize("options", ["", "set -euo pipefail", "set -m", "set -f; IFS=:", "set -o posix", "set -E -T"])
def test_sourcing_changes_no_option_and_prints_nothing(stage: Stage, options: str) -> None:
    skip_in_zsh(stage)
    stage.manner("done")
    said = output(
        stage,
        f"""
        {options}
        state() {{ set +o; shopt; printf '%q\\n' "$IFS"; trap -p USR1 DEBUG RETURN ERR; }}
        trap 'echo usr' USR1
        {SOURCE}
        before=$(state)
        recover_agent_state || [ $? -eq 1 ]
        gitstate_begin task_id=T-1
        gitstate_stage coding
        gitstate_run claude
        cleanup_and_save
        gitstate_finish
        [ "$(state)" = "$before" ]
    """,
    )
    assert said == ""


def test_job_control_keeps_working(stage: Stage) -> None:
    skip_in_zsh(stage)
    loop = stage.start(stage.script(f"set -m\n{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n"))
    stage.ready(loop)
    agent = int((stage.directory / "agent").read_text())
    assert os.getpgid(agent) == loop.pid, "the agent has been moved out of the terminal's foreground"
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    assert stage.saves() == 1


def test_agent_reads_stdin_of_the_loop(stage: Stage) -> None:
    assert output(stage, f"{SOURCE}echo hello | {{ gitstate_run cat; }}\n") == "hello\n"


@pytest.mark.sample(2)
@pytest.mark.parametrize("closed", [">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_accepted(stage: Stage, closed: str) -> None:
    loop = stage.start(stage.script(f"exec {closed}\n{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n"))
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    assert stage.context()["task_id"] == "T-1"


def test_signal_between_two_tasks_leaves_nothing_to_recover(stage: Stage) -> None:
    """The next start would continue a task without a name."""
    stage.manner("done")
    text = f"{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\ngitstate_finish\nkill -TERM $$\nsleep 600"
    assert run(stage, text).returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), stage.said()
    assert stage.pending() is None


@pytest.mark.parametrize("end", ["kill -TERM $$; sleep 600", "exit 3"])
def test_own_trap_saves_a_task_that_names_no_begin(end: str, stage: Stage) -> None:
    """A loop of the first sketch, after `gitstate_finish`: its agent runs by itself."""
    text = f"""
        {SOURCE}
        ends() {{ cleanup_and_save; exit; }}
        trap ends TERM EXIT
        CURRENT_TASK_ID=A
        gitstate_run true
        gitstate_finish
        CURRENT_TASK_ID=B
        echo more >>a.txt
        {end}
    """
    run(stage, text)
    context = stage.context()
    signalled = end != "exit 3"
    assert context["task_id"] == "B"
    assert context["reason"] == {
        "signal": "TERM" if signalled else None,
        "exit_code": None if signalled else 3,
        "detail": None,
    }


def test_recovered_work_without_a_task_becomes_that_of_the_loop(stage: Stage) -> None:
    stage.manner("fail")
    assert run(stage, f"{SOURCE}gitstate_run claude").returncode == 3
    stage.manner("done")
    assert stage.start(stage.command("library")).wait(PATIENCE) == 0, stage.said()
    assert stage.arguments() == ["-p", "T-42"]


def test_loop_beside_a_live_one_saves_nothing(stage: Stage) -> None:
    """As cron starts a second one: its end would move the branch below the agent, and rename its task."""
    loop = stage.start(stage.command("library"))
    stage.ready(loop)
    text = f"{SOURCE}CURRENT_TASK_ID=T-2\ntrap cleanup_and_save TERM EXIT\ngitstate_run claude"
    assert run(stage, text).returncode == 75
    assert stage.pending() is None
    assert "another run works in this workspace" in stage.said()
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    assert (stage.context()["task_id"], stage.saves()) == ("T-42", 1)


def test_agent_begins_in_the_directory_of_the_loop(stage: Stage) -> None:
    """Not in that in which the task began, unless the loop has left all worktrees of the repository."""
    text = f"""
        {SOURCE}
        mkdir inner
        git worktree add -q "$STAGE/linked"
        gitstate_begin task_id=T-1
        for place in inner "$STAGE/linked" "$STAGE"; do (cd "$place"; gitstate_run pwd); done
        cd inner
        WORKSPACE_PATH=..
        gitstate_run pwd
    """
    top = str(stage.ws.path)
    assert output(stage, text).splitlines() == [f"{top}/inner", f"{stage.directory}/linked", top, top]


def test_loop_in_the_background_of_a_script_is_saved(stage: Stage) -> None:
    inner = stage.directory / "inner.sh"
    inner.write_text(f"{SOURCE}work() {{ gitstate_begin task_id=T-1; gitstate_run claude; }}\nwork\n")
    outer = stage.start(stage.script(f'bash {shlex.quote(str(inner))} & echo $! >"$STAGE/loop"; wait $!'))
    stage.ready(outer)
    os.kill(int((stage.directory / "loop").read_text()), signal.SIGTERM)
    assert outer.wait(PATIENCE) == 128 + signal.SIGTERM
    assert stage.context()["task_id"] == "T-1"


def test_subshell_has_its_own_traps(stage: Stage) -> None:
    """It does not run the parent's EXIT trap."""
    done = run(
        stage,
        f"""
        trap 'echo parent >>"$STAGE/traps"' EXIT
        {SOURCE}
        gitstate_begin task_id=T-0
        (
          gitstate_begin task_id=T-1
          echo work >>work.txt
          exit 5
        ) || exit 5
    """,
    )
    assert done.returncode == 5
    assert stage.context()["task_id"] == "T-1"
    assert (stage.directory / "traps").read_text() == "parent\n"


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "run_in_subshell",
    [
        "gitstate_run claude | cat",
        "said=$(gitstate_run claude)",
        "(gitstate_run claude)",
        "gitstate_run claude & wait $!",
        "(gitstate_stage testing; true)",
        "( (gitstate_run claude) | cat)",
    ],
)
def test_task_goes_on_after_a_subshell(run_in_subshell: str, stage: Stage) -> None:
    """`gitstate_run … | tee log`: what ends is the subshell alone."""
    stage.manner("done")
    done = run(
        stage,
        f"""
        set -e
        {SOURCE}
        gitstate_begin task_id=T-1 issue_number=7
        {run_in_subshell}
        cp active_state.json "$STAGE/state"
        gitstate_stage review
        kill -TERM $$
    """,
    )
    assert done.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), stage.said()
    assert json.loads((stage.directory / "state").read_text())["status"] == "active"
    context = stage.context()
    assert (context["task_id"], context["issue_number"], context["progress_stage"]) == ("T-1", 7, "review")


def test_subshell_that_fails_makes_no_save_while_the_shell_around_it_goes_on(stage: Stage) -> None:
    """A WIP commit would move the branch below the loop at work."""
    text = f"""
        set -e
        {SOURCE}
        gitstate_begin task_id=T-1
        echo work >>work.txt
        if (gitstate_stage testing; exit 3); then exit 1; fi
        cp active_state.json "$STAGE/state"
        git for-each-ref refs/gitstate/saves >"$STAGE/saves"
        (gitstate_stage building; exit 4)
    """
    assert run(stage, text).returncode == 4, stage.said()
    assert json.loads((stage.directory / "state").read_text())["status"] == "active"
    assert (stage.directory / "saves").read_text() == ""
    assert (stage.context()["progress_stage"], stage.saves()) == ("building", 1)


@pytest.mark.parametrize("how", ["", " | cat"])
def test_loop_is_at_work_between_two_runs_in_subshells(how: str, stage: Stage) -> None:
    """The shell that goes on owns the workspace, not the subshell that has ended."""
    stage.manner("done")
    text = f"""
        {SOURCE}
        trap cleanup_and_save TERM EXIT
        CURRENT_TASK_ID=T-1
        recover_agent_state
        gitstate_run claude{how}
        gitstate status --json >"$STAGE/status"
    """
    assert run(stage, text).returncode == 0, stage.said()
    (item,) = json.loads((stage.directory / "status").read_text())["workspaces"]
    assert item["status"] == "active"


def test_task_that_a_subshell_begins_ends_with_it(stage: Stage) -> None:
    text = f"{SOURCE}gitstate_begin task_id=T-1\n(gitstate_begin task_id=T-2)\ncp active_state.json $STAGE/state"
    assert run(stage, text).returncode == 0, stage.said()
    state = json.loads((stage.directory / "state").read_text())
    assert (state["task_id"], state["status"]) == ("T-2", "finished")


def test_task_that_begins_after_a_failed_one_is_the_task_of_its_run(stage: Stage) -> None:
    stage.manner("fail")
    first = "gitstate_begin task_id=T-1 issue_number=1\ngitstate_stage one\ngitstate_run claude || :\n"
    second = "gitstate_begin task_id=T-2\ngitstate_stage two\ngitstate_run claude"
    assert run(stage, SOURCE + first + second).returncode == 3, stage.said()
    context = stage.context()
    assert (context["task_id"], context["issue_number"], context["progress_stage"]) == ("T-2", None, "two")
    # The next run of the same task, too, has what the loop has set since the save.
    stage.manner("done")
    again = 'gitstate_stage three\ngitstate_run claude\ngitstate show task_id progress_stage >"$STAGE/shown"'
    assert run(stage, SOURCE + second + " || :\n" + again).returncode == 0, stage.said()
    assert (stage.directory / "shown").read_text() == "T-2\nthree\n"


def test_end_of_a_task_that_begins_after_a_failed_one_keeps_its_work(stage: Stage) -> None:
    stage.manner("fail")
    first = "gitstate_begin task_id=T-1\ngitstate_run claude || :\n"
    # An agent without a supervisor.
    second = "gitstate_begin task_id=T-2\nrm 'a new file'\necho more >>work.txt\ngitstate_finish"
    assert run(stage, SOURCE + first + second).returncode == 0, stage.said()
    assert not (stage.ws.path / "a new file").exists()
    assert stage.ws.read("work.txt") == b"staged\nnot staged\nmore\n"
    shown = stage.ws.gitstate("show").text
    assert "task_id: T-2" in shown and "status: finished" in shown


def test_supervisor_killed_at_once_loses_nothing(stage: Stage) -> None:
    loop = stage.start(stage.command("library"))
    stage.ready(loop)
    for pid, words in stage.processes().items():
        if " run --owner-pid" in words or " keep " in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert loop.wait(PATIENCE) == 128 + signal.SIGKILL
    assert stage.context()["task_id"] == "T-42"
    assert stage.ws.recover().exit_status == 0
    assert b"not staged" in stage.ws.read("work.txt")


@pytest.mark.parametrize("name", ["INT", "QUIT"])
def test_interrupt_before_the_supervisor_listens_ends_the_loop(name: str, stage: Stage) -> None:
    program = stage.directory / "bin" / "gitstate"
    interrupt = f"case $* in *' run '*) ulimit -c 0; kill -{name} 0 ;; esac"
    program.write_text(program.read_text().replace("exec ", f"{interrupt}\nexec "))
    loop = stage.start(stage.command("library"))
    assert loop.wait(PATIENCE) == -getattr(signal, f"SIG{name}"), stage.said()
    assert stage.context()["reason"] == {"signal": name, "exit_code": None, "detail": None}
    assert not (stage.directory / "ready").exists()


@pytest.mark.sample(3)
@pytest.mark.parametrize("export", ["", "export CURRENT_TASK_ID MEMORY_REFS BRANCH_NAME; "])
@pytest.mark.parametrize("end", ["exit 3", 'kill -TERM "$$"'])
def test_value_of_megabytes_costs_no_save(export: str, end: str, stage: Stage) -> None:
    long = 'long=$(head -c 5000000 /dev/zero | tr "\\0" x)\n'
    values = f"CURRENT_TASK_ID=T-$long MEMORY_REFS=$long BRANCH_NAME=$long\n{export}\n"
    run(stage, f"{SOURCE}{long}{values}gitstate_begin note=n$long\ngitstate_stage s$long\necho work >>work.txt\n{end}")
    context = stage.context()
    assert context["task_id"] == "T-" + "x" * 29_998
    assert context["progress_stage"] == "s" + "x" * (29_999 - len("progress_stage="))
    assert "CURRENT_TASK_ID is longer than 30000 characters; it was cut" in stage.said()
    archive = stage.pending()
    assert stage.ws.out("show", f"{archive}^1:work.txt") == "work"


@pytest.mark.parametrize("key", ["deadline", "interval", "grace", "register", "stateFile", "trust"])
def test_loop_with_a_wrong_setting_begins_nothing(key: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITSTATE_REGISTER", raising=False)
    stage.ws.git("config", f"gitstate.{key}", {"stateFile": "../../x", "trust": ""}.get(key, "soon"))
    loop = run(stage, f"set -e\n{SOURCE}gitstate_begin task_id=T-1\necho work >>work.txt\n")
    assert loop.returncode == 2
    assert f"gitstate.{key} is" in stage.said()
    assert not (stage.ws.path / "work.txt").exists() and not (stage.ws.path / "active_state.json").exists()
    stage.ws.git("config", "--unset", f"gitstate.{key}")
    assert stage.ws.recover().json["workspaces"][0]["verdict"] == "nothing"


#: Puts a command of this user into PATH, which `gone` takes away as an upgrade does, for a second or for good.
UPGRADE = f"""
set -euo pipefail
mkdir "$STAGE/own"
printf '#!/bin/sh\\nexec "%s" "$@"\\n' "$(command -v gitstate)" >"$STAGE/own/gitstate"
chmod +x "$STAGE/own/gitstate"
PATH=$STAGE/own:$PATH
gone() {{
  mv "$STAGE/own/gitstate" "$STAGE/taken"
  [ "$1" = for_good ] || (sleep 1; mv "$STAGE/taken" "$STAGE/own/gitstate") &
}}
{SOURCE}
"""


def test_command_that_an_upgrade_takes_away_is_waited_for(stage: Stage) -> None:
    stage.manner("done")
    calls = ("gitstate_begin task_id=T-1", "gitstate_stage coding", "gitstate_run claude", "gitstate_finish")
    lines = "\n".join(f"gone for_a_second; {call}" for call in (*calls, "! recover_agent_state"))
    assert run(stage, UPGRADE + lines).returncode == 0, stage.said()
    assert "T-1" in stage.ws.gitstate("show").text and "finished" in stage.ws.gitstate("status").text


@pytest.mark.parametrize("end", ["exit 3", 'kill -TERM "$$"'])
def test_end_in_the_midst_of_an_upgrade_is_saved(end: str, stage: Stage) -> None:
    run(
        stage,
        f"{UPGRADE}gitstate_begin task_id=T-1\ngitstate_stage coding\necho more >>a.txt\ngone for_a_second; {end}",
    )
    assert stage.context()["progress_stage"] == "coding"


def test_command_that_is_gone_for_good_is_waited_for_once(stage: Stage) -> None:
    text = f"""{UPGRADE}
    printf '#!/bin/sh\\necho waited >>"$STAGE/waited"; exec %s "$@"\\n' "$(command -v sleep)" >"$STAGE/own/sleep"
    chmod +x "$STAGE/own/sleep"
    gitstate_begin task_id=T-1
    gone for_good
    gitstate_stage one || rm "$STAGE/waited"
    gitstate_stage two || exit "$?"
    """
    assert run(stage, text).returncode == 127, stage.said()
    assert not (stage.directory / "waited").exists()
