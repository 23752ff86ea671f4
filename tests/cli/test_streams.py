"""Standard streams that are closed or broken never turn success into failure; an answer that is cut is one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gitstate.cli.quick import guarded
from tests.support.repositories import three_files
from tests.support.workspace import Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files."""
    return three_files(tmp_path)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("options", "redirection"),
    [
        ("", ">&-"),
        ("", "2>&-"),
        ("", "2>/dev/full"),
        ("--json", ">&-"),
        ("--json", ">/dev/full"),
        ("--json", "<&- >&- 2>&-"),
    ],
)
def test_closed_or_full_streams_keep_exit_status_0(ws: Workspace, options: str, redirection: str) -> None:
    ws.write("a", "a1\n")
    for command in ("save", "recover"):
        words = f'"$0" -m gitstate -C "$1" {command} {options} {redirection}'
        run = subprocess.run(["sh", "-c", words, sys.executable, ws.path], capture_output=True, timeout=60)
        assert run.returncode == 0, (command, run)
        assert b"Traceback" not in run.stdout + run.stderr
    assert ws.status() == {b" M a"}


def test_usage_without_a_command_is_printed_in_lines(ws: Workspace) -> None:
    run = ws.gitstate()
    assert b"\\n" not in run.stdout + run.stderr.encode()
    assert run.stderr.count("\n") > 1


@pytest.mark.parametrize("options", [[], ["--deadline", "20"], ["--signal", "TERM"]], ids=" ".join)
def test_save_whose_git_was_killed_does_not_succeed(ws: Workspace, options: list[str]) -> None:
    """A pipe to a git that is gone breaks as that to `head` does."""
    ws.write("new", "new\n")
    real = shutil.which("git")
    program = ws.script("git", f"""case " $* " in *" check-ignore "*) kill -KILL $$;; esac\nexec {real} "$@"\n""")
    ws.cli_env["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    run = ws.gitstate("save", *options)
    assert run.exit_status == 1 and "check-ignore" in run.stderr, str(run)
    assert not ws.refs("refs/gitstate")


def test_broken_pipe_that_is_not_ours_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks() -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    assert guarded(breaks, "save", as_json=False) == 1
    assert "Broken pipe" in capsys.readouterr().err


#: Only these; what changes something has changed it, and says so by its exit status.
READING = (
    "status",
    "status --json",
    "status --short",
    "log --json",
    "show --json",
    "diff latest --json",
    "verify --json",
)


@pytest.mark.sample(5)
@pytest.mark.parametrize("command", ["log", "diff latest", "log --help", "--version", *READING])
def test_answer_that_a_full_disk_does_not_take_is_one_line_and_status_1(ws: Workspace, command: str) -> None:
    ws.write("a", "a1\n")
    assert ws.save().exit_status == 0
    words = f'cd "$1" && exec "$0" -m gitstate {command} >/dev/full'
    run = subprocess.run(["sh", "-c", words, sys.executable, ws.path], capture_output=True, timeout=60)
    assert run.returncode == 1, run
    assert run.stderr.startswith(b"gitstate: ") and b"No space left" in run.stderr, run
    assert len(run.stderr.splitlines()) == 1, run


@pytest.mark.sample(3)
@pytest.mark.parametrize("command", ["prune", "restore latest a", "push", "fetch"])
def test_what_was_done_is_done_though_a_full_disk_does_not_take_its_json(ws: Workspace, command: str) -> None:
    ws.git("remote", "add", "origin", ws.outside / "origin.git")
    ws.git("init", "-q", "--bare", ws.outside / "origin.git")
    ws.config("gitstate.remote", "origin")
    ws.write("a", "a1\n")
    assert ws.save().exit_status == 0
    assert ws.recover().exit_status == 0
    ws.remove("a")
    words = f'cd "$1" && exec "$0" -m gitstate {command} --json >/dev/full'
    run = subprocess.run(["sh", "-c", words, sys.executable, ws.path], capture_output=True, timeout=60)
    plain = ws.gitstate(*command.split())
    assert run.returncode == plain.exit_status == 0, (run, plain)


def test_patch_for_a_closed_stdout_is_no_bug(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    assert ws.save().exit_status == 0
    words = '"$0" -m gitstate -C "$1" diff latest >&-'
    run = subprocess.run(["sh", "-c", words, sys.executable, ws.path], capture_output=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, b""), run
