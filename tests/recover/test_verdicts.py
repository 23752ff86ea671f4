"""Every verdict of `recover` is true, and the command in its hint works."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.states import STATES, add_submodule, dirty, make, stop_merging
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.patched import patient
from tests.support.recovering import answer
from tests.support.repositories import Templates
from tests.support.workspace import Run, Workspace, run_git


def save(ws: Workspace, *args: str, task_id: str = "T-1") -> str:
    run = ws.save(*args, task_id=task_id)
    assert run.exit_status in (0, 4), run
    return str(run.json["save_id"])


def follow(ws: Workspace, command: str) -> Run | None:
    """Run the command in a hint, without the text in parentheses."""
    words = shlex.split(command.partition(" (")[0])
    if words[0] == "gitstate":
        return ws.gitstate(*words[1:])
    assert words[0] == "git"
    ws.git(*words[1:])
    return None


def test_verdict_nothing_names_the_latest_checkpoint(ws: Workspace) -> None:
    ws.append("a.txt")
    assert ws.gitstate("checkpoint", "--task-id", "T-1").exit_status == 0
    answer(ws.recover(), "context_only", 0)
    answer(ws.recover(), "recovered", 0)
    assert ws.gitstate("finish").exit_status == 0
    before = fingerprint(ws.path)
    assert answer(ws.recover(), "nothing", 0)["hint"] is None, "all of it is on the disk"
    ws.git("checkout", "-q", "--", "a.txt")
    found = answer(ws.recover(), "nothing", 0)
    run = follow(ws, found["hint"])
    assert run is not None and run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path)) == []


def test_checkpoint_of_work_that_was_committed_is_not_named(ws: Workspace) -> None:
    ws.append("a.txt")
    assert ws.gitstate("checkpoint", "--task-id", "T-1").exit_status == 0
    assert ws.gitstate("finish").exit_status == 0
    base = ws.out("rev-parse", "HEAD")
    ws.git("checkout", "-q", "-b", "next")
    assert "the latest checkpoint" in answer(ws.recover(), "nothing", 0)["hint"], "its work may be here"
    ws.git("checkout", "-q", "-")
    ws.commit("done")
    assert answer(ws.recover(), "nothing", 0)["hint"] is None
    # A loop with a branch for each task.
    ws.git("checkout", "-q", "next")
    assert answer(ws.recover(), "nothing", 0)["hint"] is None
    ws.git("checkout", "-q", "-")
    ws.git("reset", "-q", "--hard", f"{base}~1")
    assert "the latest checkpoint" in answer(ws.recover(), "nothing", 0)["hint"]


def test_verdict_live_waits_for_the_owner(ws: Workspace, sleeper: subprocess.Popen[bytes]) -> None:
    dirty(ws)
    save(ws, "--owner-pid", str(sleeper.pid))
    before = fingerprint(ws.path)
    found = answer(ws.recover(), "live", 75)
    assert str(sleeper.pid) in found["message"]
    assert before.diff(fingerprint(ws.path)) == []
    sleeper.kill()
    sleeper.wait()
    answer(ws.recover(), "restore", 0)


def test_hint_of_verdict_buried_recovers_the_save(ws: Workspace) -> None:
    dirty(ws)
    unsaved = {record[3:] for record in ws.status()}
    save(ws)
    ws.append("README.md", "committed on top\n")
    ws.git("commit", "-qam", "on top")
    found = answer(ws.recover(), "buried", 0)
    rebase, _, back = found["hint"].partition(" && ")
    follow(ws, rebase)
    assert ws.out("log", "--format=%s", "-2").splitlines() == ["on top", "work 3"]
    run = follow(ws, back)
    assert run is not None and run.exit_status == 0, run
    assert {part for record in ws.status() for part in record[3:].split(b" <- ")} == {
        part for path in unsaved for part in path.split(b" <- ")
    }


def test_hints_of_verdict_diverged_show_restore_and_dismiss(ws: Workspace) -> None:
    ws.append("c.txt", "saved\n")
    save_id = save(ws)
    ws.git("reset", "-q", "--hard", "main")
    found = answer(ws.recover(), "diverged", 4)
    assert save_id in found["message"] and "nothing was touched" in found["message"]
    show, take, dismiss = found["hint"].split("; ")
    shown = follow(ws, show)
    assert shown is not None and b"+saved" in shown.stdout
    taken = follow(ws, take.replace("PATH…", "c.txt"))
    assert taken is not None and taken.exit_status == 0, taken
    assert ws.read("c.txt").endswith(b"saved\n")
    before = fingerprint(ws.path)
    gone = follow(ws, dismiss)
    assert gone is not None and gone.exit_status == 0, gone
    assert before.diff(fingerprint(ws.path)) == []
    answer(ws.recover(), "nothing", 0)
    assert save_id.encode() in ws.gitstate("log").stdout


def test_hint_for_a_branch_that_was_moved_back_restores_its_commits_too(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    older = ws.out("rev-parse", "HEAD~1")
    save_id = save(ws)
    ws.git("reset", "-q", "--hard", older)
    ws.git("clean", "-fdxq")
    found = answer(ws.recover(), "diverged", 4)
    assert f"moved back after the save {save_id}" in found["message"]
    reset, _, back = found["hint"].partition("; ")[0].partition(" && ")
    follow(ws, reset)
    run = follow(ws, back)
    assert run is not None and run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path)) == []


@pytest.mark.parametrize("is_whole", [True, False])
def test_commit_of_what_plain_git_brought_back_is_no_divergence(is_whole: bool, ws: Workspace) -> None:
    ws.append("c.txt", "saved\n")
    ws.write("new.txt")
    save(ws)
    ws.git("reset", "-q", "HEAD~1")
    ws.commit("done")
    if is_whole:
        ws.write("later.txt")
    else:
        ws.git("rm", "-q", "new.txt")
    ws.commit("went on")
    verdict, status = ("recovered", 0) if is_whole else ("diverged", 4)
    for options in (("--dry-run",), ()):
        assert ws.refs("refs/gitstate/pending")
        found = answer(ws.recover(*options), verdict, status)
    assert bool(ws.refs("refs/gitstate/pending")) is not is_whole
    assert not is_whole or "see `git log`" in found["briefing"]


def test_work_in_a_repository_inside_is_not_brought_back_by_plain_git(ws: Workspace) -> None:
    run_git(ws.path, "init", "-q", "inner")
    inner = Workspace(ws.path / "inner", ws.outside)
    inner.write("f.txt")
    inner.commit()
    inner.append("f.txt", "work\n")
    ws.append("c.txt", "saved\n")
    save(ws)
    ws.git("reset", "-q", "HEAD~1")
    ws.remove("inner")
    ws.commit("done")
    answer(ws.recover(), "diverged", 4)
    assert ws.refs("refs/gitstate/pending")


def test_dismiss_rejects_a_save_at_head(ws: Workspace) -> None:
    ws.append("c.txt", "saved\n")
    save(ws)
    run = ws.recover("--dismiss")
    assert run.exit_status == 4, run
    answer(ws.recover(), "restore", 0)


def test_hint_of_verdict_elsewhere_recovers_into_a_new_worktree(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    save(ws)
    ws.git("checkout", "-q", "main")
    found = answer(ws.recover(), "elsewhere", 4)
    assert "agent/work" in found["message"] and "main" in found["message"]
    place = ws.path.with_name("a place")
    run = follow(ws, found["hint"].replace("PATH", shlex.quote(str(place))))
    assert run is not None and run.exit_status == 0, run
    assert before.diff(fingerprint(place)) == []


def test_hint_where_the_branch_is_checked_out_elsewhere_recovers_there(ws: Workspace) -> None:
    """That worktree is another workspace: without its name the save is not pending there."""
    dirty(ws)
    before = fingerprint(ws.path)
    save_id = save(ws)
    ws.git("checkout", "-q", "main")
    place = ws.path.with_name("a place")
    ws.git("worktree", "add", "-q", str(place), "agent/work")
    there = Workspace(place, ws.outside)
    found = answer(there.recover("--dry-run"), "elsewhere", 4)
    assert found["hint"].endswith(f" recover --save {save_id}") and "in another worktree" in found["message"]
    refused = ws.recover("--into", str(place.with_name("third")), "--save", save_id)
    assert refused.exit_status == 4, refused
    run = follow(ws, refused.json["hint"])
    assert run is not None and run.exit_status == 0, run
    assert before.diff(fingerprint(place)) == []
    answer(there.recover(), "recovered", 0)


@pytest.mark.parametrize("saves", [1, 2])
def test_save_is_recovered_on_its_renamed_branch_beside_a_new_one_of_the_old_name(saves: int, ws: Workspace) -> None:
    dirty(ws)
    base, before = ws.out("rev-parse", "HEAD"), fingerprint(ws.path)
    save(ws)
    ws.git("branch", "-m", "agent/renamed")
    ws.git("branch", "agent/work", "main")
    if saves == 2:
        ws.write("later.txt")
        save(ws)
    assert answer(ws.recover(), "restore", 0)["context"]["branch_name"] == "agent/renamed"
    differing = [line for line in before.diff(fingerprint(ws.path)) if "agent/" not in line and "later.txt" not in line]
    assert differing == [] and ws.out("rev-parse", "HEAD") == base
    assert ws.out("rev-parse", "agent/work") == ws.out("rev-parse", "main")


def test_save_is_recovered_on_its_branch_under_a_new_name(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    save(ws)
    ws.git("branch", "-m", "agent/renamed")
    found = answer(ws.recover(), "restore", 0)
    assert found["context"]["branch_name"] == "agent/renamed"
    differing = [line for line in before.diff(fingerprint(ws.path)) if "agent/" not in line]
    assert differing == [] and "agent/work" not in ws.out("branch", "--format=%(refname:short)").split()


@pytest.mark.parametrize("merging", [False, True])
def test_save_is_recovered_on_its_renamed_branch_after_a_wipe(merging: bool, ws: Workspace) -> None:
    """The log of the branch tells its earlier names: HEAD is not on the WIP commit."""
    base = ws.out("rev-parse", "HEAD")
    if merging:
        stop_merging(ws, "side-content", "UU a.txt")
    else:
        dirty(ws)
    before = fingerprint(ws.path)
    save(ws)
    ws.git("branch", "-m", "agent/renamed")
    ws.git("branch", "-m", "agent/once-more")
    wipe(ws, base)
    found = answer(ws.recover(), "restore", 0)
    assert found["context"]["branch_name"] == "agent/once-more"
    assert [line for line in before.diff(fingerprint(ws.path)) if "agent/" not in line] == []
    assert ws.out("rev-parse", "HEAD") == base


def test_save_of_a_deleted_branch_stays_away_from_another(ws: Workspace) -> None:
    stop_merging(ws, "side-content", "UU a.txt")
    save(ws)
    ws.git("merge", "--abort")
    ws.git("checkout", "-q", "-b", "other")
    ws.git("branch", "-q", "-D", "agent/work")
    answer(ws.recover(), "elsewhere", 4)


def test_branch_at_a_wip_commit_does_not_wait_after_the_save_was_recovered_elsewhere(ws: Workspace) -> None:
    dirty(ws)
    base = ws.out("rev-parse", "HEAD")
    save_id = save(ws)
    ws.git("branch", "-m", "agent/renamed")
    ws.git("branch", "agent/work", base)
    run = ws.recover("--into", str(ws.path.with_name("a place")), "--save", save_id)
    assert run.exit_status == 0, run
    answer(ws.recover(), "nothing", 0)


def test_hints_of_verdict_corrupt_restore_the_earlier_save(ws: Workspace) -> None:
    ws.append("a.txt", "first\n")
    first = save(ws)
    answer(ws.recover(), "restore", 0)
    ws.append("a.txt", "second\n")
    save(ws, task_id="T-2")
    (archive,) = ws.refs("refs/gitstate/pending").values()
    tree = ws.git("ls-tree", f"{archive}^{{tree}}").splitlines(keepends=True)
    torn = ws.git("mktree", stdin=b"".join(line for line in tree if b"manifest.json" not in line)).strip()
    commit = ws.git("commit-tree", torn, "-p", f"{archive}^1", "-m", "torn").strip()
    for ref, oid in ws.refs("refs/gitstate").items():
        if oid == archive:
            ws.git("update-ref", ref, commit)
    found = answer(ws.recover(), "corrupt", 4)
    back, _, drop = found["hint"].partition("; to discard the unreadable save: ")
    assert first in back
    ws.git("reset", "-q", "--hard", "HEAD~1")
    run = follow(ws, back.replace("PATH…", "a.txt"))
    assert run is not None and run.exit_status == 0, run
    assert ws.read("a.txt").endswith(b"first\n")
    follow(ws, drop)
    answer(ws.recover(), "nothing", 0)


def test_status_reports_an_unreadable_save_and_its_branch(ws: Workspace) -> None:
    dirty(ws)
    save(ws)
    ((marker, archive),) = ws.refs("refs/gitstate/pending").items()
    ws.git("update-ref", marker, f"{archive}^1")
    line = ws.gitstate("status").stdout.decode()
    assert "unreadable" in line and "agent/work" in line and "(detached)" not in line


def test_recover_names_an_earlier_save_that_was_reset(ws: Workspace) -> None:
    ws.append("a.txt", "first\n")
    first = save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.append("c.txt", "second\n")
    save(ws, task_id="T-2")
    found = answer(ws.recover(), "restore", 0)
    assert first in found["message"]
    run = follow(ws, found["hint"].partition("; ")[2].replace("PATH…", "a.txt"))
    assert run is not None and run.exit_status == 0, run
    assert ws.read("a.txt").endswith(b"first\n") and ws.read("c.txt").endswith(b"second\n")


def test_hint_of_verdict_changed_restores_the_saved_version(ws: Workspace) -> None:
    ws.append("a.txt", "saved\n")
    ws.append("b.txt", "saved\n")
    save(ws)
    ws.append("a.txt", "mine\n")
    ws.git("checkout", "-q", "HEAD~1", "--", "b.txt")
    found = answer(ws.recover(), "changed", 0)
    assert [item["path"] for item in found["kept"]] == ["a.txt"]
    assert ws.read("a.txt").endswith(b"mine\n") and ws.read("b.txt").endswith(b"saved\n")
    run = follow(ws, found["hint"].replace("PATH…", "a.txt"))
    assert run is not None and run.exit_status == 0, run
    assert ws.read("a.txt").endswith(b"line 20\nsaved\n")


def test_messages_claim_no_more_than_was_done(ws: Workspace) -> None:
    dirty(ws)
    save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~2")
    said = ws.gitstate("recover", "--dry-run").stderr
    assert "would be recovered" in said and "everything is as it was saved" not in said
    said = ws.gitstate("recover").stderr
    assert "everything is as it was saved" in said
    save_id = save(ws, task_id="T-2")
    ws.git("checkout", "-q", "HEAD~2", "--", "b.txt")
    said = ws.gitstate("restore", save_id, "b.txt").stderr
    assert "restored from the save" in said and "everything" not in said


def test_unreadable_submodule_costs_no_other_file(ws: Workspace) -> None:
    add_submodule(ws)
    ws.append("a.txt", "mine\n")
    shutil.rmtree(ws.git_dir / "modules" / "sub")
    run = ws.save()
    assert run.exit_status == 4, run
    assert [item["path"] for item in run.json["left_out"]] == ["sub"]
    ws.remove("sub")
    ws.git("reset", "-q", "--hard", "HEAD~1")
    said = ws.gitstate("recover").stderr
    assert ws.read("a.txt").endswith(b"mine\n")
    assert "recovered in part" in said and re.search(r"skipped: sub\b", said)


def test_recover_into_a_worktree_with_a_failing_filter_restores_everything(
    templates: Templates, tmp_path: Path
) -> None:
    ws = make(STATES["filter_that_cannot_smudge"], templates, tmp_path, linked=True)
    assert ws.main is not None
    before = fingerprint(ws.path)
    save_id = save(ws)
    shutil.rmtree(ws.path)
    run_git(ws.main, "worktree", "prune")
    place = tmp_path / "again"
    run = ws.recover("--into", str(place), "--save", save_id, path=ws.main)
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(place)) == []
    assert "its filter failed" in run.stderr


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_recover_into_a_new_worktree_ignores_the_umask(umask: int, templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["edited"], templates, tmp_path, linked=True)
    assert ws.main is not None
    before = fingerprint(ws.path)
    save_id = save(ws)
    shutil.rmtree(ws.path)
    place = tmp_path / "again"
    ws.cli_umask = umask
    run = ws.recover("--into", str(place), "--save", save_id, path=ws.main)
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(place)) == []


def test_recover_works_after_pack_refs_and_gc(ws: Workspace) -> None:
    STATES["merge_conflict"].build(ws)
    ws.write("new.txt")
    ws.git("add", "-N", "new.txt")
    before = fingerprint(ws.path)
    save(ws)
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-ffdxq")
    ws.git("reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all")
    ws.git("pack-refs", "--all")
    ws.git("gc", "-q", "--prune=now")
    answer(ws.recover(), "restore", 0)
    assert before.diff(fingerprint(ws.path)) == []


def test_save_inside_a_rebase_that_is_killed_is_recovered(ws: Workspace) -> None:
    """A command of `git rebase --exec` saves; then git is killed and the worktree is wiped."""
    python = shlex.quote(sys.executable)
    script = ws.script("save.sh", f"{python} -m gitstate save --task-id T-1 || exit\nkill -9 $PPID\nsleep 1\n")
    ws.write("untracked.txt")
    ws.fails("rebase", "-q", "-i", "--exec", str(script), "HEAD~2")
    before = fingerprint(ws.path)
    assert "rebase-merge/git-rebase-todo" in before.operation
    ws.git("reset", "-q", "--hard")
    ws.git("clean", "-ffdxq")
    shutil.rmtree(ws.git_dir / "rebase-merge")
    answer(ws.recover(), "restore", 0)
    assert before.diff(fingerprint(ws.path)) == []


def test_git_directory_on_another_file_system_is_recovered(ws: Workspace, tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev or not os.access(shm, os.W_OK):
        pytest.skip("needs a writable second file system: mount a tmpfs on /dev/shm")
    place = shm / f"gitstate-test-{os.getpid()}"
    try:
        shutil.move(ws.path / ".git", place)
        (ws.path / ".git").write_text(f"gitdir: {place}\n")
        dirty(ws)
        ws.symlink("nowhere", "dangling")
        before = fingerprint(ws.path)
        save(ws)
        for name in os.listdir(ws.path):
            if name != ".git":
                ws.remove(name)
        answer(ws.recover(), "restore", 0)
        assert before.diff(fingerprint(ws.path)) == []
        assert not [name for name in os.listdir(ws.path) if name.startswith(".gitstate-")]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_stack_unwound_halfway_by_hand_is_recovered(ws: Workspace) -> None:
    """A stack whose saves are unwound by hand, one and a half of them, is recovered in full."""
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.append("a.txt", "not staged\n")
    save(ws)
    ws.append("b.txt")
    before_files = fingerprint(ws.path).files
    save(ws, task_id="T-2")
    ws.git("reset", "-q", "HEAD~1")
    ws.git("reset", "-q", "HEAD~1")
    answer(ws.recover(), "restore", 0)
    assert fingerprint(ws.path).files == before_files
    assert ws.status() == {b"MM a.txt", b" M b.txt"}


def test_newer_format_is_reported_and_stays_pending(ws: Workspace) -> None:
    dirty(ws)
    save(ws)
    ((marker, archive),) = ws.refs("refs/gitstate/pending").items()
    manifest = json.loads(ws.git("cat-file", "blob", f"{archive}:manifest.json"))
    newer = json.dumps({**manifest, "format": 99}).encode()
    blob = ws.git("hash-object", "-w", "--stdin", stdin=newer).decode().strip()
    tree = ws.git("ls-tree", f"{archive}^{{tree}}").decode().splitlines()
    lines = [line for line in tree if not line.endswith("\tmanifest.json")] + [f"100644 blob {blob}\tmanifest.json"]
    forged = ws.git("mktree", stdin="".join(f"{line}\n" for line in lines).encode()).decode().strip()
    ws.git("update-ref", marker, ws.out("commit-tree", forged, "-p", f"{archive}^1", "-m", "newer"))
    before = fingerprint(ws.path)
    found = answer(ws.recover(), "unsupported", 4)
    assert "99" in found["message"] and "newer gitstate" in found["hint"]
    assert before.diff(fingerprint(ws.path)) == []
    assert marker in ws.refs("refs/gitstate/pending")


def test_deadline_that_passes_at_once_names_every_unread_file(ws: Workspace) -> None:
    """The marker and the context are durable; every unread file is named, and none is changed."""
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.append("b.txt", "more\n" * 20_000)
    ws.write("new.txt", "new\n" * 20_000)
    before = fingerprint(ws.path)
    run = patient(ws, "save", "--task-id", "T-1", "--json", "--deadline", "0.000001")
    assert run.exit_status == 4 and run.json["incomplete"], run
    assert {item["path"] for item in run.json["left_out"]} == {"b.txt", "new.txt"}
    assert all("deadline" in item["reason"] for item in run.json["left_out"])
    found = answer(ws.recover(), "restore", 0)
    assert found["context"]["task_id"] == "T-1"
    assert before.diff(fingerprint(ws.path)) == []
