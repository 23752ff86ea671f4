"""What the agent destroyed before the save is offered by `recover`, in one line; nothing of it is written unasked."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import Any

import pytest

from tests.support.oracle import fingerprint
from tests.support.permissions import why_permissions_cannot_be_tested
from tests.support.workspace import Workspace


@pytest.fixture
def destroyed(ws: Workspace) -> Workspace:
    """New and edited files that a checkpoint holds."""
    ws.write("made/new.py", "precious\n")
    ws.write("made/more.py", "precious\n")
    ws.write("a.txt", "edited\n")
    assert ws.gitstate("checkpoint", "--task-id", "T-1").exit_status == 0
    return ws


def recovered(ws: Workspace) -> tuple[dict[str, Any], str]:
    run = ws.gitstate("recover", "--json")
    (result,) = run.json["workspaces"]
    return result, run.stderr


def paths(result: dict[str, Any]) -> list[str]:
    return [item["path"] for item in result["destroyed"]["paths"]]


def test_files_that_were_removed_before_the_save_are_offered(destroyed: Workspace) -> None:
    destroyed.git("clean", "-fdq", "made")
    destroyed.save()
    result, words = recovered(destroyed)
    assert paths(result) == ["made/more.py", "made/new.py"]
    (line,) = [line for line in words.splitlines() if "destroyed before the save" in line]
    assert not (destroyed.path / "made").exists()
    assert "Destroyed before the save: made/more.py and 1 more" in result["briefing"]
    command = line.partition("to bring it back: gitstate ")[2]
    words_of = shlex.split(command)
    if words_of[0] == "-C":
        del words_of[:2]
    assert destroyed.gitstate(*words_of).exit_status == 0
    assert destroyed.read("made/new.py") == b"precious\n" == destroyed.read("made/more.py")


@pytest.mark.skipif(why_permissions_cannot_be_tested() is not None, reason=str(why_permissions_cannot_be_tested()))
def test_file_that_the_save_skipped_is_not_called_destroyed_before_it(destroyed: Workspace) -> None:
    destroyed.without_override = True
    destroyed.chmod("made/new.py", 0)
    assert destroyed.save().exit_status == 4
    destroyed.remove("made/new.py")
    result, words = recovered(destroyed)
    assert paths(result) == ["made/new.py"]
    assert "skipped by the save, and held by a checkpoint before it: made/new.py; to bring it back: gitstate" in words
    assert "destroyed" not in words and "estroyed" not in result["briefing"]


def test_edits_that_were_reset_are_offered(destroyed: Workspace) -> None:
    destroyed.git("checkout", "-q", "--", "a.txt")
    destroyed.save()
    assert paths(recovered(destroyed)[0]) == ["a.txt"]


@pytest.mark.parametrize("committed", [False, True])
def test_unstaged_edits_that_went_back_to_what_was_staged_are_offered(committed: bool, destroyed: Workspace) -> None:
    """As under a manager of hooks that hides them while a commit is made, and is killed."""
    destroyed.write("b.txt", "staged\n")
    destroyed.add("b.txt")
    destroyed.write("b.txt", "staged\nunstaged\n")
    assert destroyed.gitstate("checkpoint").exit_status == 0
    destroyed.git("checkout", "-q", "--", "b.txt")
    destroyed.append("c.txt")
    assert destroyed.gitstate("checkpoint").exit_status == 0
    if committed:
        destroyed.git("commit", "-q", "--no-verify", "-m", "the staged part")
    destroyed.save()
    result, words = recovered(destroyed)
    assert paths(result) == ["b.txt"]
    command = shlex.split(words.partition("to bring it back: gitstate ")[2].splitlines()[0])
    assert destroyed.gitstate(*command[2:] if command[0] == "-C" else command).exit_status == 0
    assert destroyed.read("b.txt") == b"staged\nunstaged\n"


def test_unstaged_edits_that_were_staged_since_are_not_offered(destroyed: Workspace) -> None:
    destroyed.write("b.txt", "staged\n")
    destroyed.add("b.txt")
    destroyed.write("b.txt", "staged\nunstaged\n")
    assert destroyed.gitstate("checkpoint").exit_status == 0
    destroyed.add("b.txt")
    destroyed.save()
    assert recovered(destroyed)[0]["destroyed"] is None


def test_it_is_offered_though_later_checkpoints_replaced_it(destroyed: Workspace) -> None:
    destroyed.git("clean", "-fdq", "made")
    for number in range(3):
        destroyed.write("b.txt", f"{number}\n")
        assert destroyed.gitstate("checkpoint").exit_status == 0
    destroyed.save()
    assert paths(recovered(destroyed)[0]) == ["made/more.py", "made/new.py"]


def test_committed_work_is_not_offered(destroyed: Workspace) -> None:
    destroyed.git("add", "-A")
    destroyed.git("commit", "-q", "-m", "done")
    destroyed.write("b.txt", "more\n")
    destroyed.save()
    assert recovered(destroyed)[0]["destroyed"] is None


def test_replaced_work_is_not_offered(destroyed: Workspace) -> None:
    for name in ("made/new.py", "made/more.py", "a.txt"):
        destroyed.write(name, "rewritten\n")
    destroyed.save()
    assert recovered(destroyed)[0]["destroyed"] is None


def test_another_task_is_not_offered(destroyed: Workspace) -> None:
    destroyed.git("clean", "-fdq", "made")
    destroyed.git("checkout", "-q", "--", "a.txt")
    destroyed.write("b.txt", "other\n")
    destroyed.save("--task-id", "T-other")
    assert recovered(destroyed)[0]["destroyed"] is None


def test_run_without_a_task_that_removed_its_files_gets_none_of_them_unasked(ws: Workspace) -> None:
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-fdq")
    ws.write("made/new.py", "precious\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    ws.git("clean", "-fdq", "made")
    assert ws.gitstate("save", "--exit-code", "3").exit_status == 0
    result, _ = recovered(ws)
    assert paths(result) == ["made/new.py"]
    assert not (ws.path / "made").exists()
    # By hand, and where nothing was checkpointed, there is nothing to save.
    assert "nothing to save" in ws.gitstate("save").stderr


@pytest.fixture
def crashed(ws: Workspace) -> Workspace:
    """A task whose run will end without a save, with new and edited files that a checkpoint holds."""
    assert ws.gitstate("begin", "task_id=T-1").exit_status == 0
    ws.write("new.py", "precious\n")
    ws.write("a.txt", "edited\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    return ws


def commit_elsewhere(ws: Workspace) -> None:
    ws.git("commit", "-q", "--allow-empty", "-m", "moved on")


@pytest.mark.sample(2)
@pytest.mark.parametrize("way", ["commit", "rename", "detach", "amend", "later checkpoint"])
def test_without_a_save_work_that_a_checkpoint_holds_is_offered(crashed: Workspace, way: str) -> None:
    if way == "later checkpoint":
        crashed.git("checkout", "-q", "a.txt")
        crashed.remove("new.py")
        assert crashed.gitstate("checkpoint").exit_status == 0
    elif way == "rename":
        crashed.git("branch", "-m", "renamed")
    elif way == "detach":
        crashed.git("checkout", "-q", "--detach")
    elif way == "amend":
        crashed.git("commit", "-q", "--amend", "-m", "amended")
    else:
        commit_elsewhere(crashed)
    crashed.git("reset", "-q", "--hard")
    crashed.git("clean", "-fdq")
    run = crashed.gitstate("recover", "--dry-run", "--json")
    assert paths(run.json["workspaces"][0]) == ["a.txt", "new.py"]
    result, words = recovered(crashed)
    assert (result["verdict"], paths(result)) == ("context_only", ["a.txt", "new.py"])
    assert "no uncommitted changes" not in words and "All files are" not in result["briefing"]
    assert "Held by a checkpoint, and gone since: a.txt and 1 more" in result["briefing"]
    (line,) = [line for line in words.splitlines() if "held by a checkpoint, and gone since" in line]
    command = shlex.split(line.partition("to bring it back: gitstate ")[2])
    assert crashed.gitstate(*command[2:] if command[0] == "-C" else command).exit_status == 0
    assert crashed.read("new.py") == b"precious\n" and crashed.read("a.txt") == b"edited\n"


def test_without_a_save_work_on_the_disk_is_not_called_gone(crashed: Workspace) -> None:
    commit_elsewhere(crashed)
    result, words = recovered(crashed)
    assert result["destroyed"] is None
    assert "no uncommitted changes" not in words
    assert "uncommitted changes are in the worktree" in result["briefing"]


def test_work_that_was_committed_on_the_branch_that_was_left_is_not_called_gone(crashed: Workspace) -> None:
    crashed.git("branch", "other")
    crashed.git("add", "-A")
    crashed.git("commit", "-q", "-m", "all of it")
    crashed.git("checkout", "-q", "other")
    assert recovered(crashed)[0]["destroyed"] is None


def test_without_a_save_and_without_changes_files_that_are_all_gone_come_back(ws: Workspace) -> None:
    with subprocess.Popen(["sleep", "600"]) as owner:
        assert ws.gitstate("begin", "task_id=T-1", "--owner-pid", str(owner.pid)).exit_status == 0
        assert ws.gitstate("checkpoint").exit_status == 0
        owner.kill()
    before = fingerprint(ws.path)
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)
    result, _ = recovered(ws)
    assert result["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []
