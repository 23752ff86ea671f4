"""The ready loops: tasks, options, sessions."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.hooks.stage import HOOKS, HOSTILE, Stage
from tests.support.agents import PATIENCE


def loop_with(stage: Stage, *options: str, agent: str = "claude") -> subprocess.Popen[bytes]:
    process = stage.start([str(HOOKS / f"{agent}-loop.sh"), *options])
    process.wait(PATIENCE)
    return process


def test_loop_does_every_task_and_removes_it(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text(f"\n  \n-first\n{HOSTILE.splitlines()[0]}\nlast, without a line's end")
    stage.tasks.chmod(0o640)
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 0, stage.said()
    assert stage.tasks.read_text() == "\n  \n"
    assert stage.tasks.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in stage.directory.glob("tasks*")) == ["tasks"]
    assert "no task is left" in stage.said()
    assert not (stage.ws.path / "pwned").exists()
    assert stage.pending() is None


def test_task_is_passed_as_a_prompt_and_never_as_an_option(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text("--version $(touch pwned)\n")
    options = ["--prompt", "--do {} && report", "--", "--model", "opus"]
    assert loop_with(stage, "--tasks", str(stage.tasks), *options).returncode == 0, stage.said()
    first, prompt, *rest = stage.arguments()
    assert (first, prompt) == ("-p", " --do --version $(touch pwned) && report")
    assert rest[-2:] == ["--model", "opus"]
    assert not (stage.ws.path / "pwned").exists()


def test_task_of_a_failed_agent_stays_first(stage: Stage) -> None:
    stage.manner("fail")
    stage.tasks.write_text("T-1\nT-2\n")
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 3
    assert stage.tasks.read_text() == "T-1\nT-2\n"
    stage.tasks.write_text("T-0\nT-1\nT-2\n")
    stage.manner("done")
    assert loop_with(stage, "--tasks", str(stage.tasks), "--once").returncode == 0, stage.said()
    assert stage.tasks.read_text() == "T-0\nT-2\n", "what was begun comes before what is new"


def test_loop_takes_tasks_from_a_command(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text("one\ntwo\n")
    take = 'head -n 1 "$STAGE/tasks"; sed -i 1d "$STAGE/tasks"'
    assert loop_with(stage, "--next", take, agent="kimi").returncode == 0, stage.said()
    assert stage.tasks.read_text() == ""
    assert stage.arguments()[:2] == ["-p", "two"]
    assert loop_with(stage, "--next", "exit 9").returncode == 1
    assert "this command failed: exit 9" in stage.said()


def test_idle_agent_is_not_restarted_for_ever(stage: Stage) -> None:
    stage.manner("nothing")
    stage.tasks.write_text("T-1\nT-2\n")
    assert loop_with(stage, "--tasks", str(stage.tasks), agent="kimi").returncode == 75, stage.said()
    assert stage.tasks.read_text() == "T-1\nT-2\n"
    assert "kimi ended 3 times within 5 seconds and changed nothing" in stage.said()


def test_loop_stops_at_its_limits(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text("T-1\nT-2\nT-3\n")
    assert loop_with(stage, f"--tasks={stage.tasks}", "--max", "2").returncode == 0
    assert stage.tasks.read_text() == "T-3\n"
    (stage.directory / "stop").touch()
    assert loop_with(stage, "--tasks", str(stage.tasks), "--stop-file", str(stage.directory / "stop")).returncode == 0
    assert stage.tasks.read_text() == "T-3\n"


def test_loop_works_in_another_directory_and_writes_a_log(stage: Stage, tmp_path: Path) -> None:
    agent = stage.directory / "bin" / "claude"
    agent.write_text("#!/bin/sh\necho said; echo wailed >&2; echo more >>work.txt\n")
    options = ["--workspace", str(stage.ws.path), "--tasks", "tasks", "--log-dir", "logs"]
    command = [str(HOOKS / "claude-loop.sh"), *options]
    stage.tasks.write_text("T-1\nT-2\n")
    done = subprocess.run(command, cwd=stage.directory, capture_output=True, encoding="utf-8", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "said\nsaid\n"
    logs = sorted((stage.directory / "logs").iterdir())
    assert [sorted(log.read_text().split()) for log in logs] == [["said", "wailed"]] * 2
    assert stage.ws.read("work.txt") == b"more\nmore\n"


@pytest.mark.parametrize("agent", ["claude", "kimi"])
def test_loop_resumes_an_existing_session_of_the_agent(stage: Stage, agent: str, hermetic: Path) -> None:
    stage.tasks.write_text("T-1\n")
    command = [str(HOOKS / f"{agent}-loop.sh"), "--tasks", str(stage.tasks)]
    loop = stage.start(command)
    stage.ready(loop)
    if agent == "claude":
        session = stage.arguments()[stage.arguments().index("--session-id") + 1]
        transcript = hermetic / ".claude" / "projects" / "somewhere" / f"{session}.jsonl"
    else:
        session = "0a1b2c3d"
        assert stage.ws.gitstate("set", f"session_id={session}").exit_status == 0
        transcript = hermetic / ".kimi-code" / "sessions" / "somewhere" / session / "state.json"
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM

    stage.manner("look")
    stale = stage.start(command)
    stage.ready(stale)
    assert session not in stage.arguments(), "a session that is gone is not resumed"
    assert not any(argument in ("--resume", "-S") for argument in stage.arguments())
    if agent == "claude":
        session = stage.arguments()[stage.arguments().index("--session-id") + 1]
        transcript = transcript.with_name(f"{session}.jsonl")
    else:
        assert stage.ws.gitstate("set", f"session_id={session}").exit_status == 0
    transcript.parent.mkdir(parents=True)
    transcript.write_text("{}\n")
    stale.terminate()
    assert stale.wait(PATIENCE) == -signal.SIGTERM

    stage.manner("look")
    loop = stage.start(command)
    stage.ready(loop)
    *before, prompt = stage.arguments()[:4]
    assert before == (["-p", "--resume", session] if agent == "claude" else ["-S", session, "-p"])
    assert prompt.startswith("T-1\n\nYour last run in this workspace was interrupted by SIGTERM")


def test_loop_starts_no_agent_when_manual_intervention_is_required(stage: Stage) -> None:
    stage.tasks.write_text("T-1\n")
    stage.ws.append("a.txt")
    assert stage.ws.save().exit_status == 0
    stage.ws.git("checkout", "-q", "-b", "other", "HEAD~1")
    stage.ws.append("b.txt")
    stage.ws.commit("elsewhere")
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 4
    assert "manual intervention required" in stage.said()
    assert not (stage.directory / "arguments").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no tasks: give --tasks FILE or --next COMMAND"),
        (["--tasks"], "--tasks needs a value"),
        (["--tasks", "nowhere"], "can't be read"),
        (["--next", "true", "--max", "many"], "--max needs a number"),
        (["--next", "true", "--tasks", "x"], "exclude each other"),
        (["--what", "1"], "--what is no option"),
    ],
)
def test_unknown_option_is_reported_and_nothing_runs(stage: Stage, options: list[str], said: str) -> None:
    assert loop_with(stage, *options).returncode == 2
    assert said in stage.said() and "next: claude-loop.sh --help" in stage.said()


@pytest.mark.parametrize("name", ["claude", "kimi"])
def test_help_lists_every_option(stage: Stage, name: str) -> None:
    done = subprocess.run([str(HOOKS / f"{name}-loop.sh"), "--help"], capture_output=True, encoding="utf-8", check=True)
    source = (HOOKS / "agent-loop.bash").read_text(encoding="utf-8")
    parsed = {word for line in source.splitlines() for word in line.split() if line.strip().startswith("--")}
    for option in {word.rstrip(")") for word in parsed if word.startswith("--") and word.endswith(")")} - {"--"}:
        if "*" not in option:
            assert option in done.stdout, option
