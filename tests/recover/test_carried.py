"""A save whose WIP commit plain git carried to another base, as `git pull --rebase` does before the agent starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.states import dirty
from tests.support.recovering import answer
from tests.support.workspace import Workspace, run_git


def save(ws: Workspace, *args: str) -> str:
    run = ws.save(*args)
    assert run.exit_status == 0, run
    return str(run.json["save_id"])


def upstream(ws: Workspace, tmp_path: Path, **changes: str) -> str:
    """A branch `up` with one commit on top of where the agent began, with other content in the files named."""
    other = tmp_path / "other"
    ws.git("worktree", "add", "-q", "-b", "up", str(other), "HEAD")
    there = Workspace(other, tmp_path)
    for name, content in {"up_txt": "up\n", **changes}.items():
        there.write(name.replace("_", "."), content)
    return there.commit("up")


def state(ws: Workspace) -> tuple[set[bytes], bytes, dict[bytes, bytes]]:
    """What git says of the workspace, what is staged, and the files."""
    names = ws.git("ls-files", "-z", "-c", "-o", "--exclude-standard").split(b"\0")[:-1]
    there = {name: Path(ws.at(name).decode()) for name in names}
    content = {name: path.read_bytes() for name, path in there.items() if path.is_file()}
    return ws.status(), ws.git("diff", "--cached", "--raw", "--no-renames"), content


def without(found: tuple[set[bytes], bytes, dict[bytes, bytes]], *names: bytes) -> Any:
    status, staged, content = found
    return status, staged, {name: data for name, data in content.items() if name not in names}


def test_rebased_wip_commit_goes_back_to_its_new_base(ws: Workspace, tmp_path: Path) -> None:
    up = upstream(ws, tmp_path)
    dirty(ws)
    before = state(ws)
    save(ws)
    ws.git("rebase", "-q", "up")
    assert ws.out("rev-parse", "HEAD~2") == up
    found = answer(ws.recover(), "restore", 0)
    assert up[:12] in found["message"]
    assert ws.out("rev-parse", "HEAD") == up and ws.out("symbolic-ref", "HEAD") == "refs/heads/agent/work"
    assert without(state(ws), b"up.txt") == before
    assert ws.at("hollow/inner") and Path(ws.at("hollow/inner").decode()).is_dir()
    assert Path(ws.at("notes/secret.txt").decode()).stat().st_mode & 0o777 == 0o600
    answer(ws.recover(), "recovered", 0)


def test_file_that_the_new_base_changed_too_is_merged_by_git_and_stays(ws: Workspace, tmp_path: Path) -> None:
    ws.write("a.txt", "".join(f"{number}\n" for number in range(20)))
    ws.commit()
    upstream(ws, tmp_path, a_txt="first\n" + "".join(f"{number}\n" for number in range(20)))
    ws.append("a.txt", "mine\n")
    ws.append("b.txt", "staged\n")
    ws.add("b.txt")
    save(ws)
    ws.git("rebase", "-q", "up")
    merged = ws.read("a.txt")
    assert merged.startswith(b"first\n") and merged.endswith(b"mine\n")
    answer(ws.recover(), "restore", 0)
    assert ws.read("a.txt") == merged
    assert ws.status() == {b" M a.txt", b"M  b.txt"}
    assert ws.out("rev-parse", "HEAD") == ws.out("rev-parse", "up")


def test_stack_of_saves_is_carried_as_a_whole(ws: Workspace, tmp_path: Path) -> None:
    upstream(ws, tmp_path)
    ws.append("a.txt", "staged first\n")
    ws.add("a.txt")
    ws.append("b.txt", "first\n")
    save(ws)
    ws.append("c.txt", "staged second\n")
    ws.add("c.txt")
    ws.write("new.txt", "second\n")
    save(ws)
    ws.git("rebase", "-q", "up")
    answer(ws.recover(), "restore", 0)
    assert ws.status() == {b"M  a.txt", b" M b.txt", b"M  c.txt", b"?? new.txt"}
    assert ws.out("rev-parse", "HEAD") == ws.out("rev-parse", "up")


def test_index_flags_and_intents_survive(ws: Workspace, tmp_path: Path) -> None:
    upstream(ws, tmp_path, b_txt="theirs\n")
    ws.write("intent.txt")
    ws.git("add", "-N", "intent.txt")
    ws.append("a.txt")
    ws.git("update-index", "--assume-unchanged", "c.txt")
    save(ws)
    ws.git("rebase", "-q", "up")
    answer(ws.recover(), "restore", 0)
    assert ws.status() == {b" A intent.txt", b" M a.txt"}
    assert ws.out("ls-files", "-v", "c.txt") == "h c.txt"


def test_edits_after_the_rebase_are_kept(ws: Workspace, tmp_path: Path) -> None:
    upstream(ws, tmp_path)
    ws.append("a.txt", "mine\n")
    save(ws)
    ws.git("rebase", "-q", "up")
    ws.append("a.txt", "later\n")
    found = answer(ws.recover(), "changed", 0)
    assert [item["path"] for item in found["kept"]] == ["a.txt"], found
    assert ws.read("a.txt").endswith(b"mine\nlater\n") and ws.status() == {b" M a.txt"}


def test_wiped_files_of_a_carried_save_are_written(ws: Workspace, tmp_path: Path) -> None:
    upstream(ws, tmp_path)
    ws.append("a.txt", "mine\n")
    ws.write("new.txt", "new\n")
    save(ws)
    ws.git("rebase", "-q", "up")
    ws.git("reset", "-q", "--hard", "up")
    answer(ws.recover(), "restore", 0)
    assert ws.read("a.txt").endswith(b"mine\n") and ws.read("new.txt") == b"new\n"
    assert ws.out("rev-parse", "HEAD") == ws.out("rev-parse", "up")


@pytest.mark.parametrize("steps", [1, 2])
def test_copies_that_somebody_undid_by_hand_end_the_waiting(ws: Workspace, tmp_path: Path, steps: int) -> None:
    up = upstream(ws, tmp_path)
    dirty(ws)
    before = state(ws)
    save(ws)
    ws.git("rebase", "-q", "up")
    ws.git("reset", "-q", "HEAD~1")
    if steps == 2:
        ws.git("reset", "-q", "--soft", "HEAD~1")
    answer(ws.recover(), "restore", 0)
    assert without(state(ws), b"up.txt") == before
    assert ws.out("rev-parse", "HEAD") == up


def test_commit_on_top_of_a_copy_buries_it_and_the_hint_mends_it(ws: Workspace, tmp_path: Path) -> None:
    upstream(ws, tmp_path)
    ws.append("a.txt", "mine\n")
    save(ws)
    ws.git("rebase", "-q", "up")
    ws.write("README.md", "on top\n")
    ws.git("commit", "-qam", "on top")
    found = answer(ws.recover(), "buried", 0)
    for command in found["hint"].partition(" (")[0].split(" && "):
        ws.git(*command.split()[1:])
    assert ws.out("log", "--format=%s", "-2").splitlines() == ["on top", "up"]
    assert ws.status() == {b"M  a.txt"}


def test_copy_that_lacks_saved_work_is_left_alone_and_the_hints_end_it(ws: Workspace, tmp_path: Path) -> None:
    """Only the WIP commit was picked: what was staged is in another commit."""
    up = upstream(ws, tmp_path)
    ws.write("staged.txt", "staged\n")
    ws.add("staged.txt")
    ws.append("a.txt", "mine\n")
    save_id = save(ws)
    wip = ws.out("rev-parse", "HEAD")
    ws.git("reset", "-q", "--hard", "up")
    ws.git("cherry-pick", wip)
    tip = ws.out("rev-parse", "HEAD")
    found = answer(ws.recover(), "diverged", 4)
    assert "carried" in found["message"] and ws.out("rev-parse", "HEAD") == tip and ws.status() == set()
    reset, show, take, dismiss = found["hint"].split("; ")
    ws.git(*reset.partition(" (")[0].split()[1:])
    assert ws.out("rev-parse", "HEAD") == up
    assert b"+staged" in ws.gitstate(*show.split()[1:]).stdout
    assert ws.gitstate(*take.replace("PATH…", "staged.txt").split()[1:]).exit_status == 0
    assert ws.gitstate(*dismiss.split()[1:]).exit_status == 0
    assert ws.status() == {b" M a.txt", b"?? staged.txt"} and save_id


def test_amended_wip_commit_is_not_unwound(ws: Workspace) -> None:
    """It holds more than the save, and nobody knows what."""
    ws.append("a.txt", "mine\n")
    save(ws)
    ws.append("a.txt", "amended\n")
    ws.git("commit", "-q", "-a", "--amend", "--no-edit")
    tip = ws.out("rev-parse", "HEAD")
    answer(ws.recover(), "diverged", 4)
    assert ws.out("rev-parse", "HEAD") == tip


def test_wip_commit_that_was_amended_with_a_new_file_goes_back_to_its_base(ws: Workspace) -> None:
    base = ws.out("rev-parse", "HEAD")
    ws.append("a.txt", "mine\n")
    save(ws)
    ws.write("more.txt")
    ws.git("add", "more.txt")
    ws.git("commit", "-q", "--amend", "--no-edit")
    found = answer(ws.recover(), "restore", 0)
    assert "rewritten" in found["message"] and base[:12] in found["message"]
    assert ws.out("rev-parse", "HEAD") == base
    assert ws.status() == {b" M a.txt", b"?? more.txt"}


def test_commit_of_another_that_names_the_save_is_not_unwound(ws: Workspace, tmp_path: Path) -> None:
    """Save ids are public once they are pushed."""
    upstream(ws, tmp_path)
    ws.append("a.txt", "mine\n")
    save_id = save(ws)
    message = f"WIP(gitstate): T-1\n\nGitstate-Save: {save_id}\nGitstate-Base: {ws.out('rev-parse', 'HEAD~1')}\n"
    ws.git("reset", "-q", "--hard", "up")
    ws.write("b.txt", "forged\n")
    ws.git("commit", "-qam", message)
    tip = ws.out("rev-parse", "HEAD")
    answer(ws.recover(), "diverged", 4)
    assert ws.out("rev-parse", "HEAD") == tip


def test_rebase_in_progress_is_named_and_can_be_finished_or_aborted(ws: Workspace, tmp_path: Path) -> None:
    upstream(ws, tmp_path, a_txt="theirs\n")
    ws.append("a.txt", "mine\n")
    save(ws)
    ws.fails("rebase", "up")
    found = answer(ws.recover(), "elsewhere", 4)
    assert "rebase is in progress" in found["message"] and "git rebase --continue" in found["hint"]
    ws.write("a.txt", "both\n")
    ws.add("a.txt")
    ws.git("rebase", "--continue")
    answer(ws.recover(), "restore", 0)
    assert ws.read("a.txt") == b"both\n" and ws.status() == {b" M a.txt"}


def test_carried_wip_commit_without_any_ref_goes_back_to_its_new_base(ws: Workspace, tmp_path: Path) -> None:
    """The refs of gitstate are gone, as in a clone: only the commits tell of the save."""
    up = upstream(ws, tmp_path)
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.append("b.txt", "mine\n")
    save(ws)
    for ref in ws.refs("refs/gitstate", "refs/notes"):
        ws.git("update-ref", "-d", ref)
    ws.git("rebase", "-q", "up")
    answer(ws.recover(), "restore", 0)
    assert ws.out("rev-parse", "HEAD") == up
    assert ws.status() == {b"M  a.txt", b" M b.txt"}


def test_pull_with_rebase_of_an_unborn_branch(tmp_path: Path) -> None:
    there = tmp_path / "there"
    run_git(tmp_path, "init", "-q", "-b", "main", str(there))
    other = Workspace(there, tmp_path)
    other.write("up.txt", "up\n")
    up = other.commit("up")
    run_git(tmp_path, "init", "-q", "-b", "main", str(tmp_path / "here"))
    here = Workspace(tmp_path / "here", tmp_path)
    here.write("new.txt", "new\n")
    save(here)
    here.git("pull", "-q", "--rebase", str(there), "main")
    answer(here.recover(), "restore", 0)
    assert here.out("rev-parse", "HEAD") == up
    assert here.status() == {b"?? new.txt"} and here.read("up.txt") == b"up\n"
