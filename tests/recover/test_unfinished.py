"""Repositories inside a workspace that a recovery could not bring back: each later one tries again, until they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitstate.recover import steps, unfinished
from gitstate.recover.act.branch import BranchMover
from gitstate.recover.recover import recover
from gitstate.recover.request import RecoverRequest
from tests.fleet.crashes import context_file, dead_pid, edit_context
from tests.recover.test_inside import a_clone, a_submodule, in_another, state_of, wiped, wiped_with_modules
from tests.support.oracle import fingerprint
from tests.support.recovering import answer
from tests.support.workspace import Run, Workspace, run_git


def refs_left(ws: Workspace) -> dict[str, str]:
    return ws.refs("refs/gitstate/pending", "refs/gitstate/unfinished")


def told(run: Run) -> str:
    """All that is said of what is not back."""
    found = run.json["workspaces"][0]
    return " ".join([found["message"] or "", *(item["reason"] for item in found["left_out"])])


def with_its_place_taken(ws: Workspace, place: str) -> Path:
    """Wiped, and a file of the user stands where the repository was."""
    wiped_with_modules(ws)
    path = ws.path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine\n")
    return path


def a_worktree(ws: Workspace) -> Workspace:
    """Of the very repository in whose worktree it is."""
    ws.git("worktree", "add", "-q", "-b", "side", "side")
    inner = Workspace(ws.path / "side", ws.outside, main=ws.path)
    inner.append("README.md", "edited\n")
    return inner


@pytest.mark.sample(2)
@pytest.mark.parametrize(("build", "top"), [(a_submodule, "sub"), (in_another, "outer"), (a_worktree, "side")])
def test_it_comes_back_when_its_place_is_free(build: Callable[[Workspace], Workspace], top: str, ws: Workspace) -> None:
    inner = build(ws)
    before = state_of(inner)
    assert ws.save("--task-id", "T").exit_status == 0
    taken = with_its_place_taken(ws, top)
    for _ in range(2):
        run = ws.recover()
        assert run.exit_status == 4 and f"holds them: {top}" in told(run), run
        # Also where nothing is known of the run that was recovered.
        context_file(ws).unlink(missing_ok=True)
    taken.unlink()
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert state_of(inner)[1:] == before[1:]


def test_newer_work_around_it_stays_and_each_command_that_looks_names_it(ws: Workspace) -> None:
    inner = a_clone(ws)
    before = state_of(inner)
    ws.append("README.md", "edited\n")
    ws.write("new.txt", "new\n")
    assert ws.save("--task-id", "T").exit_status == 0
    taken = with_its_place_taken(ws, "vendor/lib")
    first = ws.recover()
    assert first.exit_status == 4 and f"move it away, then gitstate -C {ws.path} recover" in told(first), first
    # Work goes on around it: a saved file is back at its base, one is deleted, one is committed.
    ws.git("checkout", "-q", "--", "README.md")
    ws.remove("new.txt")
    ws.write("later.txt", "later\n")
    ws.add("later.txt")
    ws.git("commit", "-q", "-m", "later", "later.txt")
    around, head = fingerprint(ws.path), ws.out("rev-parse", "HEAD")
    for run in (ws.recover(), ws.gitstate("recover", "--all", "--root", str(ws.path), "--json")):
        assert run.exit_status == 4 and "holds them: vendor/lib" in told(run), run
    assert around.diff(fingerprint(ws.path)) == []
    assert f"holds them: vendor/lib: gitstate -C {ws.path} recover" in ws.gitstate("status").text
    assert "holds them: vendor/lib" in ws.gitstate("doctor").text
    assert ws.gitstate("status", "--short").text.startswith("interrupted")
    assert ws.gitstate("prune", "--keep", "0", "--days", "0").exit_status == 0
    taken.unlink()
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert (ws.out("rev-parse", "HEAD"), (ws.path / "new.txt").exists(), refs_left(ws)) == (head, False, {})
    assert "interrupted" not in ws.gitstate("status").text
    inner.remove("staged.txt")
    assert ws.recover().exit_status == 0
    assert not (inner.path / "staged.txt").exists(), "it was recovered once"


def test_one_in_place_comes_back_when_its_objects_do(ws: Workspace) -> None:
    inner = a_clone(ws)
    before = fingerprint(inner.path)
    ws.append("a")
    assert ws.save().exit_status == 0
    packs, away = inner.git_dir / "objects", ws.outside / "objects"
    packs.rename(away)
    packs.mkdir()
    for _ in range(2):
        run = ws.recover()
        assert run.exit_status == 4 and "holds them: vendor/lib" in told(run), run
    packs.rmdir()
    away.rename(packs)
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(inner.path)) == []
    assert refs_left(ws) == refs_left(inner) == {}


def test_one_in_another_comes_back_without_what_is_around_it(ws: Workspace) -> None:
    inner = in_another(ws)
    before, middle = fingerprint(inner.path), Workspace(inner.path.parent, ws.outside)
    assert ws.save().exit_status == 0
    shutil.rmtree(inner.path)
    inner.path.write_text("mine\n")
    for _ in range(2):
        run = ws.recover()
        assert run.exit_status == 4 and "holds them: outer" in told(run), run
    assert refs_left(middle) and not middle.refs("refs/gitstate/pending")
    inner.path.unlink()
    middle.append("f.txt", "later\n")
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(inner.path)) == []
    assert middle.read("f.txt").endswith(b"later\n")
    assert refs_left(ws) == refs_left(middle) == {}


def test_one_that_came_back_and_was_deleted_does_not_return_with_the_other(ws: Workspace) -> None:
    """The user has deleted it after the first recovery."""
    there, missing = a_clone(ws, "one"), ws.path / "two"
    run_git(ws.outside, "clone", "-q", ws.outside / "upstream", missing)
    (missing / "f.txt").write_text("edited\n")
    assert ws.save().exit_status == 0
    with_its_place_taken(ws, "two")
    assert ws.recover().exit_status == 4
    assert there.path.is_dir()
    shutil.rmtree(there.path)
    missing.unlink()
    assert ws.recover().exit_status == 0
    assert (missing / "f.txt").read_text() == "edited\n" and not there.path.exists()


def test_they_are_given_up_by_name(ws: Workspace) -> None:
    a_clone(ws)
    assert ws.save().exit_status == 0
    with_its_place_taken(ws, "vendor/lib")
    first = ws.recover()
    save_id = first.json["workspaces"][0]["save_id"]
    assert first.exit_status == 4
    assert ws.gitstate("prune", "--json", save_id).exit_status == 4, "nothing else has that work"
    answer(ws.recover("--dismiss"), "dismissed", 0)
    assert ws.recover().exit_status == 0
    assert refs_left(ws) == {}
    assert ws.gitstate("prune", "--keep", "0", "--days", "0").exit_status == 0
    assert [name for name in ws.refs("refs/gitstate/saves") if name.endswith(save_id)]


def test_what_a_checkpoint_holds_of_it_outlives_the_next_one(ws: Workspace) -> None:
    """The run died without a save, and its files were wiped."""
    inner = a_clone(ws)
    before = state_of(inner)
    ws.gitstate("begin", "task_id=T-1", "--owner-pid", str(dead_pid()))
    ws.append("README.md", "edited\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    edit_context(ws, boot_id="another boot")
    taken = with_its_place_taken(ws, "vendor/lib")
    run = ws.recover()
    assert run.exit_status == 4 and "holds them: vendor/lib" in told(run), run
    ws.append("README.md", "later\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    assert ws.gitstate("prune", "--keep", "0", "--days", "0").exit_status == 0
    taken.unlink()
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []


def test_those_of_two_saves_come_back_together(ws: Workspace) -> None:
    """The second one is made, and recovered, while the first one is not back."""
    first, taken = a_clone(ws, "one"), ws.path / "one"
    before = state_of(first)
    assert ws.save().exit_status == 0
    with_its_place_taken(ws, "one")
    assert ws.recover().exit_status == 4
    run_git(ws.outside, "clone", "-q", ws.outside / "upstream", ws.path / "two")
    ws.write("two/new.txt", "new\n")
    assert ws.save().exit_status == 0
    shutil.rmtree(ws.path / "two")
    ws.write("two", "mine\n")
    run = ws.recover()
    assert run.exit_status == 4 and "holds them: two" in told(run) and "holds them: one" in told(run), run
    taken.unlink()
    ws.remove("two")
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(first.path)) == []
    assert ws.read("two/new.txt") == b"new\n" and refs_left(ws) == {}


def test_commits_on_top_of_the_wip_commit_leave_none_behind(ws: Workspace) -> None:
    inner = a_clone(ws)
    before = state_of(inner)
    ws.append("a")
    assert ws.save().exit_status == 0
    ws.write("later.txt")
    ws.commit("on top")
    wiped(ws)
    ws.git("checkout", "-q", "--", ".")
    answer(ws.recover(), "buried", 0)
    assert before[0].diff(fingerprint(inner.path)) == []
    assert refs_left(inner) == {}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["before the refs", "before the marker goes", "before the ref goes"])
def test_recovery_that_was_killed_between_its_steps_goes_on(
    step: str, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = a_clone(ws)
    before = state_of(inner)
    ws.append("a")
    assert ws.save().exit_status == 0
    taken = with_its_place_taken(ws, "vendor/lib")

    def killed(*_: object, **__: object) -> None:
        raise Killed

    if step == "before the ref goes":
        assert ws.recover().exit_status == 4
        taken.unlink()
    commit = BranchMover.commit

    def committed(*given: Any, **named: Any) -> None:
        commit(*given, **named)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == "before the refs":
            patch.setattr(steps.Recovery, "_move_others", killed)
        elif step == "before the marker goes":
            patch.setattr(BranchMover, "commit", committed)
        else:
            patch.setattr(unfinished, "move", killed)
        recover(os.fsencode(ws.path), RecoverRequest())
    assert refs_left(ws), "nobody forgets it"
    if step != "before the ref goes":
        assert any("/pending/" in name for name in refs_left(ws))
        assert ws.recover().exit_status == 4
        assert all("/unfinished/" in name for name in refs_left(ws))
        taken.unlink()
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert state_of(inner)[1:] == before[1:]
    assert refs_left(ws) == {}
