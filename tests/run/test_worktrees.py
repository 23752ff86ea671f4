"""Worktrees that an agent makes for itself: they belong to its run, and are saved with its task."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.run.worktrees import SavedWorktrees
from tests.support.agents import Started, keeper_pid, keepers, members, wait_until
from tests.support.environment import ROOT
from tests.support.oracle import fingerprint
from tests.support.workspace import GITSTATE, Workspace, run_git

#: An agent: adds a worktree that is ignored and one outside, works in both, says so, and goes on.
AGENT = """\
git worktree add -q .agent/inside -b inside || exit 9
git worktree add -q "$1/beside" -b beside || exit 9
echo precious > .agent/inside/new.txt
git -C .agent/inside add new.txt
echo more >> .agent/inside/new.txt
echo changed > "$1/beside/a.txt"
rm "$1/beside/b.txt"
echo $$ > "$1/ready"
"""

GUARD = """\
import subprocess, sys, gitstate
with gitstate.guard(task_id="T-9", agent="fake"):
    sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""


def agent(ws: Workspace, then: str = "sleep 600") -> list[str]:
    ws.write(".git/info/exclude", "/.agent/\n")
    return ["sh", "-c", AGENT + then, "agent", os.fspath(ws.outside)]


def run(ws: Workspace, command: list[str], *options: str) -> Started:
    return Started(ws, [*GITSTATE, "run", "--task-id", "T-9", "--agent", "fake", *options, "--", *command])


def guard(ws: Workspace, command: list[str]) -> Started:
    return Started(ws, [sys.executable, "-c", GUARD, *command], {"PYTHONPATH": os.fspath(ROOT)})


def ready(ws: Workspace) -> int:
    file = ws.outside / "ready"
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"), "the agent is ready")
    return int(file.read_text())


def places(ws: Workspace) -> tuple[Path, Path]:
    return ws.path / ".agent" / "inside", ws.outside / "beside"


def out(where: Path, *args: str) -> str:
    return run_git(where, *args).decode().strip()


def pending(ws: Workspace) -> dict[str, dict[str, object]]:
    """The contexts of the pending saves by the names of their worktrees."""
    found = {}
    for oid in ws.out("for-each-ref", "--format=%(objectname)", "refs/gitstate/pending").split():
        context = json.loads(ws.git("cat-file", "blob", f"{oid}:context.json"))
        found[os.path.basename(context["workspace_path"])] = context
    return found


def over(ws: Workspace) -> None:
    wait_until(lambda: not keepers(ws) and not members(ws), "the run is over")


def kill_agent(started: Started) -> None:
    os.kill(ready(started.ws), signal.SIGKILL)


def kill_front(started: Started) -> None:
    started.send(signal.SIGKILL)


def stop(started: Started) -> None:
    started.send(signal.SIGTERM)


@pytest.mark.sample(3)
@pytest.mark.parametrize("way", [run, guard])
@pytest.mark.parametrize("kill", [stop, kill_agent, kill_front])
def test_worktrees_of_the_agent_are_saved_with_its_task(
    way: Callable[[Workspace, list[str]], Started], kill: Callable[[Started], None], ws: Workspace
) -> None:
    started = way(ws, agent(ws))
    ready(ws)
    keeper_pid(ws)
    before = [fingerprint(place) for place in places(ws)]
    base = ws.out("rev-parse", "HEAD")
    kill(started)
    started.status()
    over(ws)
    saves = pending(ws)
    assert saves.keys() == {ws.path.name, "inside", "beside"}, started.words()
    for place in places(ws):
        context = saves[place.name]
        assert (context["task_id"], context["agent"], context["branch_name"]) == ("T-9", "fake", place.name)
        assert context["extra"] == {"run_workspace": os.fspath(ws.path)}
        assert out(place, "log", "-1", "--format=%s").startswith("WIP(gitstate): ")
        assert out(place, "status", "--porcelain") == ""
    shutil.rmtree(places(ws)[0])
    run_git(ws.path, "worktree", "prune")
    (places(ws)[1] / "a.txt").unlink()
    told = ws.recover()
    assert told.exit_status == 0
    for place in places(ws):
        assert os.fspath(place) in told.text, told
    assert "recover --worktrees" in told.text
    again = ws.recover("--worktrees")
    assert again.exit_status == 0, again
    for place, was in zip(places(ws), before, strict=True):
        assert was.diff(fingerprint(place)) == []
        assert out(place, "rev-parse", "HEAD") == base
    assert pending(ws) == {}


def test_recover_all_brings_them_back(ws: Workspace) -> None:
    started = run(ws, agent(ws))
    ready(ws)
    stop(started)
    started.status()
    done = ws.recover("--all")
    assert done.exit_status == 0, done
    assert pending(ws) == {}
    assert (places(ws)[0] / "new.txt").read_text() == "precious\nmore\n"


def test_next_run_continues_in_them(ws: Workspace) -> None:
    started = run(ws, agent(ws))
    ready(ws)
    stop(started)
    started.status()
    assert out(places(ws)[0], "log", "-1", "--format=%s").startswith("WIP")
    script = "git -C .agent/inside log -1 --format=%s; git -C .agent/inside status --porcelain"
    again = run(ws, ["sh", "-c", script])
    assert again.status() == 0, again.words()
    assert "WIP(gitstate)" not in again.words()
    assert "AM new.txt" in again.words()


def test_worktree_that_was_there_before_is_left_alone(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", os.fspath(ws.outside / "older"), "-b", "older")
    (ws.outside / "older" / "mine.txt").write_text("of a person\n")
    started = run(ws, agent(ws))
    ready(ws)
    stop(started)
    started.status()
    assert pending(ws).keys() == {ws.path.name, "inside", "beside"}


def test_worktree_in_which_the_run_works_is_saved(ws: Workspace) -> None:
    older = ws.outside / "older"
    ws.git("worktree", "add", "-q", os.fspath(older), "-b", "older")
    script = 'cd "$1/older"; echo work > work.txt; echo $$ > "$1/ready"; trap "" TERM; sleep 600'
    started = run(ws, ["sh", "-c", script, "agent", os.fspath(ws.outside)])
    ready(ws)
    stop(started)
    started.status()
    assert pending(ws)["older"]["task_id"] == "T-9"


def test_worktree_of_a_live_other_agent_is_never_touched(ws: Workspace) -> None:
    started = run(ws, agent(ws), "--interval", "0.2")
    ready(ws)
    beside = places(ws)[1]
    ready_too = ws.outside / "other is ready"
    other = Started(
        Workspace(beside, ws.outside, main=ws.path),
        [*GITSTATE, "run", "--task-id", "other", "--", "sh", "-c", f"touch '{ready_too}'; sleep 600"],
    )
    wait_until(ready_too.exists, "the other agent works")
    tip = out(beside, "rev-parse", "HEAD")
    stop(started)
    started.status()
    assert pending(ws).keys() == {ws.path.name, "inside"}
    assert out(beside, "rev-parse", "HEAD") == tip
    other.send(signal.SIGTERM)
    other.status()
    assert pending(ws)["beside"]["task_id"] == "other"


def test_worktree_of_another_task_is_left_alone(ws: Workspace) -> None:
    script = 'git worktree add -q "$1/beside" -b beside; gitstate -C "$1/beside" begin task_id=other >&2; '
    script = script.replace("gitstate", shlex.join(GITSTATE))
    script += 'echo x > "$1/beside/x"; echo $$ > "$1/ready"; sleep 600'
    started = run(ws, ["sh", "-c", script, "agent", os.fspath(ws.outside)])
    ready(ws)
    stop(started)
    started.status()
    assert pending(ws).keys() == {ws.path.name}


def test_worktree_that_is_not_ignored_is_saved_once_as_nested(ws: Workspace) -> None:
    script = 'git worktree add -q visible -b visible; echo x > visible/x; echo $$ > "$1/ready"; sleep 600'
    started = run(ws, ["sh", "-c", script, "agent", os.fspath(ws.outside)])
    ready(ws)
    stop(started)
    started.status()
    assert pending(ws)["visible"]["extra"] == {}
    assert "worktree " not in started.words()
    saves = ws.out("for-each-ref", "--format=%(refname)", "refs/gitstate/saves").split()
    assert len([ref for ref in saves if "visible" in ref]) == 1
    assert not (ws.path / "visible" / "active_state.json").exists()


def test_clean_worktree_needs_no_save(ws: Workspace) -> None:
    script = 'git worktree add -q "$1/beside" -b beside; echo $$ > "$1/ready"; sleep 600'
    started = run(ws, ["sh", "-c", script, "agent", os.fspath(ws.outside)])
    ready(ws)
    stop(started)
    started.status()
    assert pending(ws).keys() == {ws.path.name}


def killed_with_checkpoints(ws: Workspace) -> list[str]:
    """Kill everything of a run once its worktrees have checkpoints; the refs of these."""
    started = run(ws, agent(ws), "--interval", "0.2")
    pids = [ready(ws), keeper_pid(ws), started.process.pid]
    refs = ("for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints")
    wait_until(lambda: "inside-" in ws.out(*refs) and "beside-" in ws.out(*refs), "their checkpoints")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    started.status()
    return ws.out(*refs).split()


def test_checkpoint_holds_them_when_everything_is_killed(ws: Workspace) -> None:
    for ref in killed_with_checkpoints(ws):
        if "inside-" in ref:
            assert ws.out("show", f"{ref}^1:new.txt") == "precious\nmore"
            assert json.loads(ws.git("cat-file", "blob", f"{ref}:context.json"))["task_id"] == "T-9"


def test_work_that_their_checkpoints_alone_hold_is_named_with_the_commands_that_bring_it_back(ws: Workspace) -> None:
    killed_with_checkpoints(ws)
    before = [fingerprint(place) for place in places(ws)]
    inside, beside = places(ws)
    shutil.rmtree(inside)
    run_git(beside, "reset", "-q", "--hard")
    told = ws.recover()
    assert told.exit_status == 0, told
    (result,) = told.json["workspaces"]
    commands = re.findall(r"work: gitstate (.*?)(?:; |$)|holds them: gitstate (.*?)(?:; |$)", result["message"])
    for command in commands:
        done = ws.gitstate(*shlex.split("".join(command)))
        assert done.exit_status == 0, done
    for place, was in zip(places(ws), before, strict=True):
        assert was.diff(fingerprint(place)) == []


def test_finished_run_leaves_nothing_to_recover_in_them(ws: Workspace) -> None:
    started = run(ws, agent(ws, "exit 0"))
    assert started.status() == 0
    assert pending(ws) == {}
    refs = ws.out("for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints").split()
    assert any("inside-" in ref for ref in refs) and any("beside-" in ref for ref in refs), refs
    for result in ws.recover("--worktrees", "--json").json["workspaces"]:
        assert result["verdict"] == "nothing", result


def test_shell_library_saves_them_too(ws: Workspace) -> None:
    library = ROOT / "gitstate" / "hooks" / "gitstate.bash"
    script = f"""\
. '{library}'
gitstate_begin task_id=T-9
{AGENT}
exit 3
"""
    ws.write(".git/info/exclude", "/.agent/\n")
    ws.script("gitstate", f'exec {shlex.join(GITSTATE)} "$@"\n')
    path = f"{ws.outside}{os.pathsep}{os.environ['PATH']}"
    loop = Started(ws, ["bash", "-c", script, "loop", os.fspath(ws.outside)], {"PATH": path})
    assert loop.status() == 3, loop.words()
    saves = pending(ws)
    assert saves.keys() == {ws.path.name, "inside", "beside"}, loop.words()
    assert saves["inside"]["task_id"] == "T-9"


def test_worktree_that_was_not_saved_is_told_with_a_command_that_works() -> None:
    told = SavedWorktrees({b"/wt/a b": "the disk is full"})
    assert told.failed and "not saved: the disk is full" in told.lines[0]
    command = shlex.split(told.lines[1].partition("next: ")[2])
    assert command == ["gitstate", "-C", "/wt/a b", "save"]


def linked(ws: Workspace, name: str) -> Path:
    """A worktree of an earlier run, with a context of that run."""
    place = ws.outside / name
    ws.git("worktree", "add", "-q", place, "-b", name)
    assert ws.gitstate("begin", "task_id=T-9", f"run_workspace={ws.path}", path=place).exit_status == 0
    return place


def test_waiting_worktrees_are_named_where_nothing_is_pending_here(ws: Workspace) -> None:
    place = linked(ws, "beside")
    (place / "new.txt").write_text("precious\n")
    assert ws.gitstate("save", path=place).exit_status == 0
    answer = ws.recover()
    (result,) = answer.json["workspaces"]
    assert (answer.exit_status, result["verdict"]) == (0, "nothing")
    assert f"{place} has a pending save: gitstate -C {place} recover" in result["message"]
    assert ws.gitstate("recover", path=place).exit_status == 0
    assert "pending save: " not in (ws.recover().json["workspaces"][0]["message"] or "")


def _clean(ws: Workspace, place: Path) -> None:
    """What was changed there was thrown away, and that was saved."""


def _committed_and_merged(ws: Workspace, place: Path) -> None:
    run_git(place, "commit", "-q", "--allow-empty", "-m", "work")
    ws.git("merge", "-q", place.name)


def _committed_alone(ws: Workspace, place: Path) -> None:
    run_git(place, "checkout", "-q", "--detach")
    run_git(place, "commit", "-q", "--allow-empty", "-m", "work")


def _uncommitted(ws: Workspace, place: Path) -> None:
    (place / "new.txt").write_text("precious\n")


def _staged(ws: Workspace, place: Path) -> None:
    _uncommitted(ws, place)
    run_git(place, "add", "new.txt")
    (place / "new.txt").unlink()


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("work", "added"),
    [(_clean, False), (_committed_and_merged, False), (_committed_alone, True), (_uncommitted, True), (_staged, True)],
)
def test_only_a_removed_worktree_with_work_is_added_again(
    work: Callable[[Workspace, Path], None], added: bool, ws: Workspace
) -> None:
    place = linked(ws, "beside")
    work(ws, place)
    before = fingerprint(place)
    assert ws.gitstate("save", path=place).exit_status == 0
    assert pending(ws).keys() == {"beside"}
    ws.git("worktree", "remove", "--force", place)
    if work in (_clean, _committed_and_merged):
        ws.git("branch", "-q", "-D", "beside")
    answer = ws.recover("--worktrees")
    assert place.exists() is added, answer
    assert answer.exit_status == 0, answer
    results = {result["workspace"]: result for result in answer.json["workspaces"]}
    if added:
        assert before.diff(fingerprint(place)) == []
        return
    assert results[os.fspath(place)]["verdict"] == "nothing"
    ws.git("branch", "beside")
    command = shlex.split(results[os.fspath(place)]["hint"])
    assert command[0] == "gitstate"
    assert ws.gitstate(*command[3:]).exit_status == 0, "it can be had all the same"
    assert place.exists()
