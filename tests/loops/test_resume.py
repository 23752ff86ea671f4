"""The agent runs again after an interruption: once, in its own session, and not for ever."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gitstate.errors import TryAgain
from gitstate.git.opening import open_repository
from gitstate.loops import resume
from gitstate.system import files, locks
from gitstate.system.clock import Deadline
from tests.conversation.talk import SESSION, transcript_of
from tests.hooks.stage import Stage
from tests.loops.interrupted import AGENT, interrupt, words
from tests.support.agents import PATIENCE, wait_until
from tests.support.skips import not_installed
from tests.support.workspace import Workspace


@pytest.fixture
def broken(stage: Stage, hermetic: Path) -> Stage:
    """A workspace whose agent was killed in the middle of a session."""
    agent = stage.directory / "bin" / "claude"
    agent.write_text(AGENT)
    interrupt(stage)
    transcript = transcript_of(stage.ws, hermetic)
    transcript.parent.mkdir(parents=True)
    transcript.write_text('{"text": "hello"}\n')
    return stage


def outcome(stage: Stage, *options: str) -> str:
    done = stage.ws.gitstate("resume", "--json", *options)
    found = done.json["workspaces"]
    return str(found[0]["outcome"]) if found else "none"


def test_session_goes_on_with_the_briefing_and_the_options_that_it_had(broken: Stage) -> None:
    done = broken.ws.gitstate("resume")
    assert done.exit_status == 0, done
    (call,) = words(broken)
    assert call[:3] == ["-p", "--resume", SESSION] and call[-2:] == ["--model", "opus"]
    assert "interrupted" in call[3] and "T-9" in call[3] and "secret prompt" not in " ".join(call)
    assert broken.pending() is None
    assert json.loads((broken.ws.path / "active_state.json").read_text())["status"] == "finished"


def test_an_interruption_starts_it_once(broken: Stage) -> None:
    hold, agent = broken.directory / "hold", broken.directory / "bin" / "claude"
    (broken.directory / "fail").touch()
    (broken.directory / "idle").touch()
    hold.touch()
    # Its end would be another interruption for a command that comes late.
    agent.write_text(AGENT.rstrip().replace("\n", '\nuntil [ ! -e "$STAGE/hold" ]; do sleep 0.05; done\n', 1) + "\n")
    argv = [sys.executable, "-m", "gitstate", "resume", "--detach"]
    running = [broken.start(argv) for _ in range(5)]
    assert [one.wait(PATIENCE) for one in running] == [0] * 5, broken.said()
    hold.unlink()
    wait_until(lambda: len(words(broken)) == 1, "one start")
    wait_until(lambda: not broken.processes(), "it has ended")
    assert len(words(broken)) == 1


def test_command_that_waited_for_a_start_begins_none(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent that was started meanwhile may have failed already: that is another interruption, unasked for."""
    repository = open_repository(os.fsencode(ws.path))
    files.make_directory(repository.own, top=repository.git_dir)
    tried, got, take = threading.Event(), list[bool](), locks.lock

    def lock(path: bytes, deadline: Deadline, what: str) -> int:
        try:
            return take(path, deadline, what)
        except TryAgain:
            tried.set()
            raise

    def ask() -> None:
        with resume.in_turn(repository, force=False) as held:
            got.append(held is not None)

    monkeypatch.setattr(locks, "lock", lock)
    with resume.in_turn(repository, force=False) as held:
        assert held is not None
        late = threading.Thread(target=ask)
        late.start()
        assert tried.wait(PATIENCE)
        os.write(held, resume.STARTED)
    late.join(PATIENCE)
    ask()
    assert got == [False, True], "the one that waited, and one that did not"


def test_stale_session_starts_fresh(broken: Stage, hermetic: Path) -> None:
    transcript_of(broken.ws, hermetic).unlink()
    # Nothing is kept of it: it never had a checkpoint.
    for ref in broken.ws.refs("refs/gitstate/conversations"):
        broken.ws.git("update-ref", "-d", ref)
    assert broken.ws.gitstate("resume").exit_status == 0
    (call,) = words(broken)
    assert call[0] == "-p" and "--resume" not in call and "T-9" in call[1] and "--session-id" in call


def test_stdout_is_the_answer_of_a_program(broken: Stage) -> None:
    agent = broken.directory / "bin" / "claude"
    agent.write_text(AGENT.replace("#!/bin/sh\n", '#!/bin/sh\necho \'{"not": "the answer"}\'; echo wailed >&2\n'))
    done = broken.ws.gitstate("resume", "--json")
    assert done.json["workspaces"][0]["outcome"] == "finished"
    assert done.stderr.count('{"not": "the answer"}') == 1 and "wailed" in done.stderr
    assert done.stdout.count(b"schema_version") == 1 and b"not" not in done.stdout


@pytest.mark.parametrize("there", [True, False])
def test_session_in_a_database_is_looked_for(there: bool, stage: Stage, hermetic: Path) -> None:
    session, data = "ses_1", hermetic / ".local" / "share" / "opencode"
    data.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(data / "opencode.db")) as database:
        database.execute("CREATE TABLE session (id TEXT PRIMARY KEY)")
        database.execute("INSERT INTO session VALUES (?)", (session if there else "ses_2",))
        database.commit()
    agent = stage.directory / "bin" / "opencode"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    stage.ws.append("a.txt")
    values = ["--agent", "opencode", "--task-id", "T-9", "--session-id", session]
    assert stage.ws.gitstate("save", *values).exit_status == 0
    assert outcome(stage) == "finished"
    (call,) = words(stage)
    assert call[0] == "run" and ("-s" in call) is there and "T-9" in call[-2 if call[-1] == "" else -1]


def test_session_that_the_agent_refuses_starts_fresh(broken: Stage) -> None:
    agent = broken.directory / "bin" / "claude"
    stale = "case $* in *--resume*) exit 1 ;; esac"
    agent.write_text(AGENT.replace('[ -e "$STAGE/idle" ]', f'{stale}\n[ -e "$STAGE/idle" ]'))
    assert broken.ws.gitstate("resume").exit_status == 0, broken.said()
    first, second = words(broken)
    assert "--resume" in first and "--resume" not in second


def test_starts_that_change_nothing_end(broken: Stage) -> None:
    for name in ("fail", "idle"):
        (broken.directory / name).touch()
    found = [outcome(broken, "--force" if number == 0 else "--json") for number in range(5)]
    assert found == ["finished"] * 3 + ["breaker"] * 2
    count = len(words(broken))
    assert broken.ws.gitstate("resume").exit_status == 75 and len(words(broken)) == count
    (broken.directory / "fail").unlink()
    assert outcome(broken, "--force") == "finished"


def test_stop_file_is_respected(broken: Stage) -> None:
    mine = broken.directory / "stop"
    mine.touch()
    assert outcome(broken, "--stop-file", str(mine)) == "stopped"
    (broken.ws.path / ".gitstate-stop").touch()
    assert outcome(broken) == "stopped"
    assert broken.pending() is not None and words(broken) == []


def test_live_one_is_left_alone(broken: Stage) -> None:
    (broken.directory / "stay").touch()
    running = broken.start([sys.executable, "-m", "gitstate", "resume"])
    wait_until(lambda: len(words(broken)) == 1, "it works again")
    assert outcome(broken) == "live"
    running.terminate()
    assert running.wait(PATIENCE) == -signal.SIGTERM
    assert broken.pending() is not None, "a signal to resume ends the run with a save"
    assert len(words(broken)) == 1


def test_nothing_to_resume(stage: Stage) -> None:
    assert outcome(stage) == "nothing"


def test_unknown_agent_is_one_clear_line(stage: Stage) -> None:
    stage.ws.append("a.txt")
    assert stage.ws.save().exit_status == 0
    done = stage.ws.gitstate("resume")
    assert done.exit_status == 4 and " resume --agent NAME" in done.stderr


def test_all_start_each_once_after_a_reboot(broken: Stage, tmp_path: Path) -> None:
    trees = []
    for number in range(3):
        tree = tmp_path / f"tree {number}"
        broken.ws.git("worktree", "add", "-q", "-b", f"agent/{number}", str(tree), "HEAD~1")
        (tree / "new.txt").write_text("new\n")
        argv = [sys.executable, "-m", "gitstate", "save", "--agent", "claude", "--task-id", f"T-{number}"]
        subprocess.run(argv, cwd=tree, check=True, stdout=subprocess.DEVNULL)
        trees.append(tree)
    assert broken.ws.gitstate("recover", "--all").exit_status == 0
    for _ in range(2):
        done = broken.ws.gitstate("resume", "--all")
        assert done.exit_status == 0, done
    wait_until(lambda: len(words(broken)) == 4 and not broken.processes(), "all have ended")
    names = ("T-0", "T-1", "T-2", "T-9")
    assert sorted(name for call in words(broken) for name in names if name in " ".join(call)) == list(names)


def test_in_tmux(broken: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmux = tmp_path / "tmux-dir"
    tmux.mkdir()
    program = broken.directory / "bin" / "tmux"
    if subprocess.run(["sh", "-c", "command -v tmux"], capture_output=True).returncode:
        done = broken.ws.gitstate("resume", "--tmux")
        assert done.exit_status == 4 and "there is no tmux" in done.stderr
        assert outcome(broken) == "finished", "nothing counted as started"
        pytest.skip(not_installed("tmux"))
    assert not program.exists()
    monkeypatch.setenv("TMUX_TMPDIR", str(tmux))
    broken.ws.cli_env["TMUX_TMPDIR"] = str(tmux)
    try:
        assert outcome(broken, "--tmux") == "started"
        wait_until(lambda: len(words(broken)) == 1, "it works in tmux")
    finally:
        subprocess.run(["tmux", "kill-server"], env={**os.environ, "TMUX_TMPDIR": str(tmux)}, capture_output=True)


def test_context_keeps_no_prompt(broken: Stage) -> None:
    context = broken.context()
    extra = context["extra"]
    assert isinstance(extra, dict) and shlex.split(extra["agent_argv"]) == ["claude", "-p", "--model", "opus"]
