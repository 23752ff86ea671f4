"""Tasks that are no good: said in one line, before an agent starts, and never in the way of the next ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.errors import GitstateError, UsageError
from gitstate.loops import tasks
from gitstate.loops.command import CommandTasks
from gitstate.loops.tasks import FileTasks, parse_task
from tests.hooks.stage import Stage
from tests.support.agents import PATIENCE, wait_until
from tests.support.workspace import Workspace


def never() -> bool:
    return False


def loop(stage: Stage, *options: str, **more: object) -> subprocess.Popen[bytes]:
    return stage.start([sys.executable, "-m", "gitstate", "loop", "claude", *options], **more)


def source(path: Path, text: bytes) -> FileTasks:
    path.write_bytes(text)
    return FileTasks(bytes(path), bytes(path.parent))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (b"\xef\xbb\xbf# a comment\r\nT-1\r\nT-2", b"\xef\xbb\xbf# a comment\r\n"),
        (b"\xef\xbb\xbfT-1\r\n\r\n  # no\r\nT-2\r\n", b"\r\n  # no\r\n"),
        (b"T-1\nT-2", b""),
    ],
    ids=["comment", "task", "no last line end"],
)
def test_mark_of_utf_8_belongs_to_no_task(text: bytes, left: bytes, tmp_path: Path) -> None:
    found = source(tmp_path / "tasks", text)
    for name in ("T-1", "T-2"):
        task = found.take(never)
        assert task is not None and (task.text, task.task_id) == (name, name)
        found.done(task)
    assert found.take(never) is None
    assert (tmp_path / "tasks").read_bytes() == left


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"a\0b", "NUL byte"),
        ("T-1".encode("utf-16"), "NUL byte"),
        (b'{"prompt": "a\\u0000b"}', "NUL byte"),
        (b"x" * 70_000, "longer than 60000 bytes"),
        (b'{"task_id": "T-1", ', "is none"),
        (b'{"task_id": "T-1"} x', "is none"),
        (b'{"x": 1}', "neither task_id nor prompt"),
        (b'{"a":' * 5_000, "is none"),
    ],
    ids=["nul", "utf-16", "nul in json", "long", "torn json", "more than json", "other json", "deep json"],
)
def test_line_that_no_agent_can_be_given_is_named(line: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 2 of the tasks: .*" + said):
        source(tmp_path / "tasks", b"T-1\n" + line + b"\n")


def test_task_in_another_encoding_is_found_again(stage: Stage) -> None:
    """The context holds Unicode, the file does not."""
    stage.tasks.write_bytes(b"caf\xe9 fix\nT-2\n")
    running = loop(stage, "--tasks", str(stage.tasks))
    stage.ready(running)
    running.kill()
    wait_until(lambda: not stage.processes() and stage.pending() is not None, "the keeper has saved")
    stage.manner("done")
    assert loop(stage, "--tasks", str(stage.tasks), "--once").wait(PATIENCE) == 0, stage.said()
    assert stage.tasks.read_bytes() == b"T-2\n"


@pytest.mark.parametrize("task_id", ["T\\u0000-1", pytest.param("T" * 60_000, marks=pytest.mark.slow)])
def test_task_of_an_earlier_run_is_no_bug(task_id: str, stage: Stage) -> None:
    """Contexts come from other programs too."""
    stage.manner("done")
    stage.tasks.write_text("T-2\n")
    stage.ws.append("a.txt")
    assert stage.ws.save().exit_status == 0
    state = stage.ws.path / "active_state.json"
    state.unlink(missing_ok=True)
    script = (
        "import os, sys\n"
        "from gitstate.git.opening import open_repository\n"
        "from gitstate.workspace.live_context import begin\n"
        "begin(open_repository(os.fsencode(sys.argv[1])), {'task_id': eval(sys.argv[2])}, os.getpid())\n"
    )
    assert stage.ws.recover().exit_status == 0
    subprocess.run([sys.executable, "-c", script, stage.ws.path, f"'{task_id}'"], check=True)
    status = loop(stage, "--tasks", str(stage.tasks)).wait(PATIENCE)
    assert status == 0, stage.said()
    assert stage.tasks.read_text() == ""


def test_file_that_is_too_large_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_MOST_FILE", 1 << 20)
    with pytest.raises(GitstateError, match="more than 1 MiB; no task was taken"):
        source(tmp_path / "tasks", b"T-1\n" * 300_000)


@pytest.mark.parametrize("kind", ["fifo", "directory", "missing", "device"])
def test_tasks_that_are_no_file(kind: str, stage: Stage) -> None:
    path = {"device": Path("/dev/null")}.get(kind, stage.tasks)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    assert loop(stage, "--tasks", str(path)).wait(PATIENCE) == 2
    assert ("can't be read" if kind == "missing" else "is no regular file") in stage.said()


def test_tasks_that_are_gone_meanwhile(stage: Stage) -> None:
    stage.tasks.write_text("T-1\n")
    (stage.directory / "bin" / "claude").write_text(f'#!/bin/sh\nrm -f "{stage.tasks}"; echo x >>work.txt\n')
    assert loop(stage, "--tasks", str(stage.tasks)).wait(PATIENCE) == 1
    assert "is gone; the work is on disk" in stage.said() and "bug" not in stage.said()
    assert stage.ws.read("work.txt") == b"x\n"


def test_tasks_in_a_directory_that_cannot_be_written(ws: Workspace, tmp_path: Path) -> None:
    """Root may write everywhere but to /proc."""
    done = ws.gitstate("loop", "claude", "--tasks", "/proc/self/status")
    assert done.exit_status == 2 and "can't be written: no task could be removed" in done.stderr


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (signal.SIGTERM, "echo $$ >{pid}; sleep 600 | cat"),
        (signal.SIGHUP, "echo $$ >{pid}; exec sleep 600"),
    ],
)
def test_command_that_hangs_ends_with_the_loop(number: int, command: str, stage: Stage) -> None:
    pid = stage.directory / "pid"
    running = loop(stage, "--next", command.format(pid=pid))
    wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"), "the command runs")
    running.send_signal(number)
    assert running.wait(PATIENCE) == -number
    wait_until(lambda: not stage.processes(), "the command has ended")


@pytest.mark.parametrize("limit", ["time", "file"])
def test_command_that_hangs_ends_at_the_limits(limit: str, stage: Stage) -> None:
    stop = stage.directory / "stop"
    command = "exec sleep 600" if limit == "time" else f'touch "{stop}"; exec sleep 600'
    options = ["--max-time", "0.5"] if limit == "time" else ["--stop-file", str(stop)]
    assert loop(stage, "--next", command, *options).wait(PATIENCE) == 0
    assert "stopped: " in stage.said() and "no task is left" not in stage.said()
    wait_until(lambda: not stage.processes(), "the command has ended")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("head -c 1000000000 /dev/zero | tr '\\0' x", "printed more than 1048576 bytes"),
        ("echo T-1; exit 1", r"failed: echo T-1; exit 1 \(status 1\)"),
        ("kill -KILL $$", r"status -9"),
        ('printf "a\\0b"', "NUL byte"),
        ('echo \'{"task_id": "T-1", \'', "is none"),
    ],
)
def test_command_that_is_no_good(command: str, said: str) -> None:
    with pytest.raises(GitstateError, match=said):
        CommandTasks(command).take(never)


def test_command_may_leave_a_process_behind(tmp_path: Path) -> None:
    """It holds the other end of the pipe, and is no reason to wait."""
    pid = tmp_path / "pid"
    found = CommandTasks(f'sleep 600 & echo $! >"{pid}"; echo T-1').take(never)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert found == parse_task("T-1")


def test_directory_for_logs_that_cannot_be_made(stage: Stage) -> None:
    stage.tasks.write_text("T-1\n")
    assert loop(stage, "--tasks", str(stage.tasks), "--log-dir", "/proc/none").wait(PATIENCE) == 2
    assert "no agent was started" in stage.said() and not (stage.directory / "arguments").exists()


@pytest.mark.sample(3)
@pytest.mark.parametrize("option", ["--max-time", "--min-seconds"])
@pytest.mark.parametrize("value", ["nan", "-1", "soon"])
def test_time_that_is_none(option: str, value: str, ws: Workspace) -> None:
    done = ws.gitstate("loop", "claude", "--next", "true", option, value)
    assert done.exit_status == 2 and f"Invalid value for '{option}'" in done.stderr
