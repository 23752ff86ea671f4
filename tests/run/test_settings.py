"""A run reads its settings before it begins, and no bad setting costs a save; failed checkpoints are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import gitstate
from gitstate.errors import UsageError
from gitstate.git.opening import open_repository
from gitstate.run.channel import Times, read_times
from tests.run.commands import WORK, run_command
from tests.support.agents import Started, agent_pid, check_recovered, check_saved, keeper_pid, marker, wait_until
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace

BAD = {
    **{"grace": "soon", "deadline": "0.1", "interval": "-1"},
    **{"stateFile": "../x", "includeIgnored": "x\\", "register": "maybe"},
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", BAD)
def test_run_with_a_bad_setting_begins_nothing(ws: Workspace, name: str) -> None:
    ws.config(f"gitstate.{name}", BAD[name])
    canary = ws.outside / "canary"
    run = ws.gitstate("run", "--task-id", "T-9", "--", "touch", os.fspath(canary))
    assert run.exit_status == 2 and f"gitstate.{name}" in run.stderr, run
    assert not canary.exists() and not (ws.git_dir / "gitstate" / "context.json").exists()
    ws.git("config", "--unset-all", f"gitstate.{name}")
    (workspace,) = ws.gitstate("status", "--json").json["workspaces"]
    assert workspace["status"] == "idle", "no crashed run of nothing"


def test_bad_setting_leaves_a_pending_save_pending(ws: Workspace) -> None:
    ws.write("a.txt", "edited\n")
    assert ws.save().exit_status == 0
    ws.config("gitstate.grace", "soon")
    assert ws.gitstate("run", "--", "true").exit_status == 2
    assert marker(ws)


def test_times_come_from_option_environment_setting_default(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ws.config("gitstate.grace", "2")
    ws.config("gitstate.deadline", "6")
    monkeypatch.setenv("GITSTATE_DEADLINE", "7")
    repository = open_repository(os.fsencode(ws.path))
    assert read_times(repository, {}) == Times(2, 7, 10)
    assert read_times(repository, {"grace": 0, "deadline": None, "interval": 3}) == Times(0, 7, 3)


# --------------------------------------------------------------------------------------------------------------------
# guard
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD)
def test_guard_with_a_bad_setting_begins_nothing(ws: Workspace, name: str) -> None:
    ws.config(f"gitstate.{name}", BAD[name])
    with pytest.raises(UsageError, match=f"gitstate.{name}"), gitstate.guard(task_id="T-9", workspace=ws.path):
        raise AssertionError("the block was entered")
    assert not (ws.git_dir / "gitstate" / "context.json").exists()


def test_guard_checks_its_arguments_as_settings(ws: Workspace) -> None:
    with pytest.raises(UsageError, match=r'gitstate.deadline is "0" \(the argument deadline\)'):
        gitstate.guard(workspace=ws.path, deadline=0).__enter__()


def test_guard_follows_the_settings(ws: Workspace) -> None:
    ws.config("gitstate.grace", "0.5")
    ws.config("gitstate.deadline", "9")
    ws.config("gitstate.interval", "77")
    with gitstate.guard(task_id="T-9", workspace=ws.path) as task:
        assert task._times == Times(0.5, 9, 77)
    with gitstate.guard(task_id="T-9", workspace=ws.path, grace=1) as task:
        assert task._times == Times(1, 9, 77)


# --------------------------------------------------------------------------------------------------------------------
# Meanwhile
# --------------------------------------------------------------------------------------------------------------------


def test_setting_that_turns_bad_during_a_run_costs_no_save(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    keeper_pid(ws)
    before = fingerprint(ws.path)
    for name, value in BAD.items():
        ws.config(f"gitstate.{name}", value)
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    said = started.words()
    assert "saved 2" in said and 'gitstate.stateFile is "../x"' in said and "the default was used" in said
    check_saved(ws, before, **WORK)
    ws.git("config", "--remove-section", "gitstate")
    check_recovered(ws, before)


def test_keeper_that_starts_with_a_bad_setting_keeps_all_the_same(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, ""))
    agent_pid(ws)
    first = keeper_pid(ws)
    before = fingerprint(ws.path)
    ws.config("gitstate.stateFile", "../x")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: keeper_pid(ws) != first, "another keeper")
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    check_saved(ws, before, **WORK)
    ws.git("config", "--remove-section", "gitstate")
    check_recovered(ws, before)


def test_run_that_ends_well_says_that_its_last_checkpoint_failed(ws: Workspace) -> None:
    checkpoints = ws.git_dir / "refs" / "gitstate" / "checkpoints"
    checkpoints.parent.mkdir()
    checkpoints.write_text("a file where a directory has to go")
    argv = ("run", "--interval", "0.2", "--", "sh", "-c", "echo work >>a.txt; sleep 2")
    run = ws.gitstate(*argv)
    assert run.exit_status == 0 and "the last checkpoint of this run failed: " in run.stderr, run
    assert "(since 2" in run.stderr


def test_failed_checkpoint_of_a_run_is_reported_by_status_and_doctor(ws: Workspace) -> None:
    checkpoints = ws.git_dir / "refs" / "gitstate" / "checkpoints"
    checkpoints.parent.mkdir()
    checkpoints.write_text("a file where a directory has to go")
    started = Started(ws, run_command(ws, "", "--interval", "0.2"))
    agent_pid(ws)

    def problems() -> tuple[list[str], list[str | None]]:
        findings = ws.gitstate("doctor", "--json").json["findings"]
        workspaces = ws.gitstate("status", "--json").json["workspaces"]
        reported = [item["what"] for item in findings if item["check"] == "checkpoint"]
        return reported, [item["problem"] for item in workspaces]

    wait_until(lambda: problems()[0], "doctor reports it")
    (what,), (problem,) = problems()
    assert what.startswith("the last checkpoint of this run failed: ")
    assert problem is not None and problem.startswith("the last checkpoint failed: ")
    assert "(since 2" in what and what.partition("(since ")[2] == problem.partition("(since ")[2]
    checkpoints.unlink()
    wait_until(lambda: problems() == ([], [None]), "nothing is reported any more")
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()


def test_failed_checkpoint_of_an_agents_hook_is_reported_by_doctor(ws: Workspace) -> None:
    def stop_event() -> None:
        argv = [sys.executable, "-m", "gitstate", "hook", "claude"]
        subprocess.run(argv, cwd=ws.path, input=b'{"hook_event_name": "Stop", "session_id": "s-1"}', check=True)

    def reported() -> list[str]:
        findings = ws.gitstate("doctor", "--json").json["findings"]
        return [item["what"] for item in findings if item["check"] == "checkpoint"]

    refs = ws.git_dir / "refs" / "gitstate" / "checkpoints"
    refs.parent.mkdir(exist_ok=True)
    refs.write_text("a file where a directory has to go")
    ws.write("new", "new\n")
    stop_event()
    # The agent has gone on meanwhile.
    wait_until(reported, "the checkpoint that fails")
    (what,) = reported()
    assert what.startswith("an agent's hook took no checkpoint: Stop: ")
    refs.unlink()
    stop_event()
    # What the first event has begun may try once more beside this one.
    wait_until(lambda: reported() == [], "the checkpoint that succeeds")


def test_bad_setting_does_not_cost_the_checkpoint_of_an_agents_hook(ws: Workspace) -> None:
    for name, value in {**BAD, "hookInterval": "often"}.items():
        ws.config(f"gitstate.{name}", value)
    ws.write("new", "new\n")
    argv = [sys.executable, "-m", "gitstate", "hook", "claude"]
    event = b'{"hook_event_name": "PostToolUse", "session_id": "s-1"}'
    done = subprocess.run(argv, cwd=ws.path, input=event, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    wait_until(lambda: ws.refs("refs/gitstate/checkpoints"), "the checkpoint goes on by itself")
