"""An agent is added by one file: nothing else in the package changes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.agents import hooks_are_done, wait_until
from tests.support.environment import ROOT
from tests.support.typed import entries, git, gitstate, run, script, state_file
from tests.support.workspace import Workspace

RECORD = '''
"""Made up for a test."""

import signal

from ..base import Agent, Briefing, Home, HookEvent, HookSettings, Payload, Sessions, StopRule, Transcript

_HOME = Home(".made-up", "MADE_UP_HOME")

AGENT = Agent(
    name="made_up",
    commands=("made-up",),
    events=(
        HookEvent("Began", "session_start", timeout=7),
        HookEvent("Did", "tool", timeout=7, matcher="Write"),
        HookEvent("Ended", "session_end", timeout=7),
    ),
    settings=HookSettings(_HOME, "hooks.json", units_per_second=1000, entry_name="gitstate"),
    briefing=Briefing("Began", format="json"),
    sessions=Sessions(
        resume=("made-up", "resume", "{id}"),
        resume_with_prompt=("made-up", "resume", "{id}", "{prompt}"),
        start_with_prompt=("made-up", "{prompt}"),
        transcripts=(Transcript(_HOME, "log/{id}"),),
    ),
    stop=StopRule(signal.SIGINT),
    payload=Payload(event="type", session_id="id", directory="dir"),
    stub_advice="install the real one",
)
'''


@pytest.fixture
def repo(repo: Workspace, tmp_path: Path) -> Workspace:
    """A repository where `python -m gitstate` starts a copy of the package that has one more file."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "gitstate", copy / "gitstate", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "gitstate" / "agents" / "known" / "made_up.py").write_text(RECORD)
    repo.cli_env["PYTHONPATH"] = str(copy)
    return repo


def event(repo: Workspace, name: str) -> str:
    payload = json.dumps({"type": name, "id": "s-1", "dir": str(repo.path)})
    done = run(repo, sys.executable, "-m", "gitstate", "hook", "made_up", given=payload)
    assert (done.exit_status, done.stderr) == (0, "")
    wait_until(lambda: hooks_are_done(repo.git_dir), "what the hook has begun")
    return done.text


def test_install_and_uninstall(repo: Workspace, hermetic: Path) -> None:
    path = hermetic / ".made-up" / "hooks.json"
    repo.write(str(path), '{"mine": 1}\n')
    before = entries(hermetic)
    diff = run(repo, sys.executable, "-m", "gitstate", "install", "--agent", "made_up", "--dry-run")
    assert diff.exit_status == 0 and f"+++ {path}" in diff.text
    assert entries(hermetic) == before
    gitstate(repo, "install", "--agent", "made_up")
    settings = json.loads(path.read_text())
    assert settings["mine"] == 1 and list(settings["hooks"]) == ["Began", "Did", "Ended"]
    ((group,), hook) = settings["hooks"]["Did"], settings["hooks"]["Did"][0]["hooks"][0]
    assert group["matcher"] == "Write"
    assert (hook["name"], hook["timeout"]) == ("gitstate", 7000) and hook["command"].endswith("hook made_up")
    gitstate(repo, "uninstall", "--agent", "made_up")
    assert entries(hermetic) == before


def test_events_are_recorded_and_the_session_is_resumed(repo: Workspace, hermetic: Path) -> None:
    gitstate(repo, "set", "task_id=T-1", "progress_stage=testing")
    repo.write("new", "new\n")
    answer = json.loads(event(repo, "Began"))["hookSpecificOutput"]
    assert answer["hookEventName"] == "Began" and "T-1" in answer["additionalContext"]
    assert (state_file(repo)["agent"], state_file(repo)["session_id"]) == ("made_up", "s-1")
    assert not git(repo, "for-each-ref", "refs/gitstate/checkpoints")
    assert event(repo, "Did") == ""
    assert git(repo, "for-each-ref", "refs/gitstate/checkpoints")
    (hermetic / ".made-up" / "log").mkdir(parents=True)
    (hermetic / ".made-up" / "log" / "s-1").touch()
    gitstate(repo, "save", "--signal", "TERM")
    assert "made-up resume s-1" in gitstate(repo, "recover")


def test_run_stops_it_with_its_own_signal(repo: Workspace, tmp_path: Path) -> None:
    text = "trap 'echo INT >told; exit 0' INT; trap 'echo TERM >told; exit 0' TERM; kill -TERM $PPID; sleep 60 & wait"
    program = script(tmp_path / "bin" / "made-up", f"#!/bin/sh\n{text}\n")
    done = run(repo, sys.executable, "-m", "gitstate", "run", "--", str(program))
    assert done.exit_status < 0
    assert (repo.path / "told").read_text() == "INT\n"


def test_doctor_finds_its_stub(repo: Workspace, tmp_path: Path) -> None:
    script(tmp_path / "bin" / "made-up", "#!/bin/sh\n")
    repo.cli_env["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = run(repo, sys.executable, "-m", "gitstate", "doctor")
    assert "install the real one" in done.text + done.stderr
