"""The ready loops: tasks, options, sessions."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.hooks.stage import HOOKS, HOSTILE, Stage
from tests.support.agents import PATIENCE, wait_until


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


@pytest.mark.parametrize("streams", ["<&- >&-", ">/dev/full"])
def test_loop_works_where_its_output_goes_nowhere(streams: str, stage: Stage) -> None:
    """As a scheduler starts it, or with its log on a full disk."""
    (stage.directory / "bin" / "claude").write_text("#!/bin/sh\necho said\necho more >>work.txt\n")
    loop = stage.start(["sh", "-c", f'exec "$@" {streams}', "sh", *stage.command("claude")])
    assert loop.wait(PATIENCE) == 0, stage.said()
    assert stage.tasks.read_text() == ""
    assert stage.ws.read("work.txt") == b"more\nmore\n"


def test_task_is_passed_as_a_prompt_and_never_as_an_option(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text("--version $(touch pwned) {}\n")
    options = ["--prompt", "--do {} && report {}", "--", "--model", "opus"]
    assert loop_with(stage, "--tasks", str(stage.tasks), *options).returncode == 0, stage.said()
    first, prompt, *rest = stage.arguments()
    task = "--version $(touch pwned) {}"
    assert (first, prompt) == ("-p", f" --do {task} && report {task}")
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
    options = ["--tasks", str(stage.tasks), "--min-seconds", "100"]
    assert loop_with(stage, *options, agent="kimi").returncode == 75, stage.said()
    assert stage.tasks.read_text() == "T-1\nT-2\n"
    assert "kimi ended 3 times within 100 seconds and changed nothing" in stage.said()


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


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no tasks: give --tasks FILE or --next COMMAND"),
        (["--tasks"], "'--tasks' requires an argument"),
        (["--tasks", "nowhere"], "can't be read"),
        (["--next", "true", "--max", "many"], "'many' is not an integer."),
        (["--next", "true", "--tasks", "x"], "exclude each other"),
        (["--what", "1"], "No such option"),
    ],
)
def test_unknown_option_is_reported_and_nothing_runs(stage: Stage, options: list[str], said: str) -> None:
    assert loop_with(stage, *options).returncode == 2
    assert said in stage.said() and "--help" in stage.said()


@pytest.mark.parametrize("name", ["claude", "kimi"])
def test_script_is_the_command(stage: Stage, name: str) -> None:
    script = str(HOOKS / f"{name}-loop.sh")
    done = subprocess.run([script, "--help"], capture_output=True, encoding="utf-8", check=True)
    assert "--tasks FILE" in done.stdout and "--max-time SECONDS" in done.stdout
    assert len(Path(script).read_text().splitlines()) == 3


def test_several_loops_take_each_line_once(stage: Stage, tmp_path: Path) -> None:
    """Each works in a worktree of its own, and all of them read one file through a symlink."""
    stage.ws.git("worktree", "prune")
    agent = stage.directory / "bin" / "claude"
    agent.write_text('#!/bin/sh\nprintf "%s\\n" "$CURRENT_TASK_ID" >>"$STAGE/taken"; sleep 0.3; echo x >>work.txt\n')
    real = stage.directory / "real tasks"
    real.write_bytes(b"# what is to do\r\nT-1\r\n\r\nT-2\r\nT-3\r\nT-4\r\nT-5\r\nT-6\r\n")
    stage.tasks.symlink_to(real)
    loops = []
    for number in range(3):
        place = tmp_path / f"place {number}"
        stage.ws.git("worktree", "add", "-q", "-b", f"agent/{number}", str(place))
        command = [str(HOOKS / "claude-loop.sh"), "--workspace", str(place), "--tasks", str(stage.tasks)]
        loops.append(stage.start(command))
    assert [loop.wait(PATIENCE) for loop in loops] == [0, 0, 0], stage.said()
    assert sorted((stage.directory / "taken").read_text().split()) == [f"T-{n}" for n in range(1, 7)]
    assert stage.tasks.is_symlink() and real.read_bytes() == b"# what is to do\r\n\r\n"


def test_task_brings_values_and_the_environment_fills_in(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISSUE_NUMBER", "1")
    monkeypatch.setenv("MEMORY_REFS", "general.md")
    stage.manner("fail")
    stage.tasks.write_text("task_id=T-7 issue_number=42 'not a value' Fix it\n")
    assert loop_with(stage, "--tasks", str(stage.tasks), "--retries", "0").returncode == 3
    context = stage.context()
    assert (context["task_id"], context["issue_number"], context["memory_refs"]) == ("T-7", 42, ["general.md"])
    assert stage.arguments()[1] == "'not a value' Fix it"
    stage.manner("done")
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 0, stage.said()
    assert stage.tasks.read_text() == ""


def test_command_may_print_json(stage: Stage) -> None:
    stage.manner("fail")
    text = '{"task_id": "T-8", "issue_number": 9, "memory_refs": ["a, b", "c"], "prompt": "Do $(touch pwned)"}'
    (stage.directory / "next").write_text(text)
    assert loop_with(stage, "--next", 'cat "$STAGE/next"', "--retries", "0").returncode == 3
    context = stage.context()
    assert (context["task_id"], context["issue_number"], context["memory_refs"]) == ("T-8", 9, ["a, b", "c"])
    assert stage.arguments()[1] == "Do $(touch pwned)" and not (stage.ws.path / "pwned").exists()


def test_failed_agent_is_tried_again_within_the_budget(stage: Stage) -> None:
    agent = stage.directory / "bin" / "claude"
    agent.write_text('#!/bin/sh\necho x >>"$STAGE/tries"; echo y >>work.txt; [ "$(wc -l <"$STAGE/tries")" -ge 3 ]\n')
    stage.tasks.write_text("T-1\n")
    assert loop_with(stage, "--tasks", str(stage.tasks), "--retries", "1").returncode == 1
    assert stage.tasks.read_text() == "T-1\n" and "try 1 of 1 more" in stage.said()
    assert loop_with(stage, "--tasks", str(stage.tasks), "--retries", "1").returncode == 0, stage.said()
    assert stage.tasks.read_text() == ""


def test_usage_limit_is_waited_out_to_the_time_that_the_agent_named(stage: Stage) -> None:
    agent = stage.directory / "bin" / "claude"
    limit = 'echo "Claude AI usage limit reached|$(($(date +%s) + $(cat "$STAGE/limit")))"'
    limit += '; date +%s >"$STAGE/met"; exit 1'
    agent.write_text(f'#!/bin/sh\necho y >>work.txt\n[ -e "$STAGE/met" ] || {{ {limit}; }}\ndate +%s >"$STAGE/again"\n')
    stage.tasks.write_text("T-1\n")
    (stage.directory / "limit").write_text("3")
    assert loop_with(stage, "--tasks", str(stage.tasks), "--retries", "0").returncode == 0, stage.said()
    assert "usage limit: waiting until" in stage.said()
    met, again = (int((stage.directory / name).read_text()) for name in ("met", "again"))
    assert again - met >= 2
    (stage.directory / "met").unlink()
    stage.tasks.write_text("T-2\n")
    (stage.directory / "limit").write_text("3600")
    assert loop_with(stage, "--tasks", str(stage.tasks), "--max-time", "600").returncode == 75
    assert "later than --max-time" in stage.said() and stage.tasks.read_text() == "T-2\n"


def test_killed_loop_leaves_no_agent_and_its_task_is_not_given_away(stage: Stage, tmp_path: Path) -> None:
    stage.tasks.write_text("T-1\nT-2\n")
    place = tmp_path / "other place"
    stage.ws.git("worktree", "add", "-q", "-b", "agent/other", str(place))
    loop = stage.start([str(HOOKS / "claude-loop.sh"), "--tasks", str(stage.tasks)])
    stage.ready(loop)
    loop.kill()
    wait_until(lambda: not stage.processes(), "the keeper has saved and ended all of it")
    assert stage.pending() is not None
    stage.manner("done")
    assert loop_with(stage, "--workspace", str(place), "--tasks", str(stage.tasks)).returncode == 0, stage.said()
    assert stage.tasks.read_text() == "T-1\n", "the workspace of before holds its work"
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 0, stage.said()
    assert stage.tasks.read_text() == ""
