"""Retention: `prune` drops old saves with their notes, but never one that was not recovered."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gitstate.git.opening import open_repository
from gitstate.history.prune import Fetchable, outdated
from gitstate.system.clock import Deadline
from gitstate.workspace.ownership import locked_workspace
from tests.states import STATES, dirty, make
from tests.support.oracle import fingerprint
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git


def saved_and_recovered(ws: Workspace, times: int) -> list[str]:
    """Make so many saves and recover each; oldest first."""
    found = []
    for number in range(times):
        ws.write("work.txt", f"{number}\n")
        found.append(ws.save().json["save_id"])
        assert ws.recover().exit_status == 0
    return found


def saves(ws: Workspace) -> set[str]:
    return {ref.rpartition("/")[2] for ref in ws.refs("refs/gitstate/saves/")}


def notes(ws: Workspace) -> set[str]:
    return {line.split()[1] for line in ws.out("notes", "--ref=gitstate", "list").splitlines()}


def prune(ws: Workspace, *args: str) -> list[str]:
    run = ws.gitstate("prune", "--json", *args)
    assert run.exit_status == 0, run
    pruned: list[str] = run.json["pruned"]
    return pruned


def test_prune_keeps_the_newest_saves_and_drops_the_rest_with_notes(ws: Workspace) -> None:
    made = saved_and_recovered(ws, 4)
    assert len(notes(ws)) == 4
    assert set(prune(ws, "--keep", "2", "--days", "0", "--dry-run")) == set(made[:2])
    assert saves(ws) == set(made)
    assert set(prune(ws, "--keep", "2", "--days", "0")) == set(made[:2])
    assert saves(ws) == set(made[2:])
    assert len(notes(ws)) == 2
    assert prune(ws, "--keep", "2", "--days", "0") == []


def test_dry_run_waits_for_no_save_at_work(ws: Workspace) -> None:
    (made,) = saved_and_recovered(ws, 1)
    with locked_workspace(open_repository(os.fsencode(ws.path)), Deadline(0)):
        assert prune(ws, "--keep", "0", "--days", "0", "--dry-run") == [made]


def test_latest_checkpoint_goes_by_name_when_another_one_has_its_place(ws: Workspace) -> None:
    """`log` lists it: that there is no such save was no answer."""
    ws.write("secret", "hunter2\n")
    made = ws.gitstate("checkpoint", "--label", "mine", "--json").json["save_id"]
    run = ws.gitstate("prune", "mine")
    assert run.exit_status == 4 and f"{made} is the latest checkpoint" in run.stderr, run
    ws.remove("secret")
    assert ws.gitstate("checkpoint").exit_status == 0
    assert prune(ws, "mine") == [made]


def test_prune_keeps_all_young_saves(ws: Workspace) -> None:
    saved_and_recovered(ws, 3)
    assert prune(ws, "--keep", "0") == []
    ws.git("config", "gitstate.keepSaves", "1")
    ws.git("config", "gitstate.keepDays", "0")
    assert len(prune(ws)) == 2
    ws.git("config", "gitstate.keepDays", "soon")
    assert ws.gitstate("prune").exit_status == 2


def test_prune_keeps_pending_saves_and_their_bases(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    ws.save()
    ws.append("b.txt", "later\n")
    ws.save()
    later = fingerprint(ws.path)
    assert len(saves(ws)) == 2
    assert prune(ws, "--keep", "0", "--days", "0") == []
    name = sorted(saves(ws))[0]
    assert ws.gitstate("prune", name).exit_status == 4
    ws.git("gc", "-q", "--prune=now")
    assert ws.recover().json["workspaces"][0]["verdict"] == "restore"
    assert before.files != later.files
    assert len(prune(ws, "--keep", "0", "--days", "0")) == 2


def test_prune_keeps_a_save_superseded_before_recovery(ws: Workspace) -> None:
    dirty(ws)
    first = ws.save().json["save_id"]
    ws.git("stash", "-q", "-u", check=False)
    ws.git("reset", "-q", "--hard", "HEAD~2")
    ws.write("other.txt", "other\n")
    second = ws.save(task_id="T-2").json
    held = {item["save_id"]: item["manifest"] for item in ws.gitstate("log", "--json").json["saves"]}
    assert held[second["save_id"]]["previous"] == first
    ws.recover()
    assert prune(ws, "--keep", "0", "--days", "0") == []
    assert first in saves(ws)


def test_prune_drops_saves_of_other_workspaces_only_with_all(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    saved_and_recovered(ws, 2)
    assert ws.main is not None
    ws.cli_path = ws.main
    assert prune(ws, "--keep", "0", "--days", "0") == []
    assert len(prune(ws, "--keep", "1", "--days", "0", "--all")) == 1


def worktree_that_goes(ws: Workspace, name: str, *, pending: bool = False) -> None:
    """Saves, checkpoints and removes a worktree, as an agent does that makes one for each of its tasks."""
    assert ws.main is not None
    path = ws.main.parent / name
    run_git(ws.main, "worktree", "add", "-q", "-b", name, str(path))
    one = Workspace(path, ws.outside, main=ws.main)
    saved_and_recovered(one, 1)
    one.write("work.txt", "more\n")
    assert one.gitstate("checkpoint").exit_status == 0
    if pending:
        one.save()
    run_git(ws.main, "worktree", "remove", "--force", "--force", str(path))


def test_worktrees_that_are_gone_leave_no_more_than_one_workspace(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    saved_and_recovered(ws, 1)
    for number in range(3):
        worktree_that_goes(ws, f"agent-{number}")
    here = {ref for ref in ws.refs("refs/gitstate/checkpoints/") if "agent-" not in ref}
    assert len(ws.refs("refs/gitstate/checkpoints/")) == len(here) + 3 and len(saves(ws)) == 4
    dry = ws.gitstate("prune", "--json", "--all", "--keep", "1", "--days", "0", "--dry-run").json
    assert len(dry["pruned"]) == 2 and len(dry["history"]) == 2
    assert prune(ws, "--keep", "1", "--days", "0") == []
    assert prune(ws, "--all", "--keep", "1", "--days", "30") == []
    assert set(prune(ws, "--all", "--keep", "1", "--days", "0")) == set(dry["pruned"])
    left = [ref for ref in ws.refs("refs/gitstate/saves/", "refs/gitstate/checkpoints/") if "agent-" in ref]
    assert len(left) == 2 and all("agent-2" in ref for ref in left)
    assert here < ws.refs("refs/gitstate/").keys()


def test_checkpoint_of_a_gone_worktree_stays_beside_its_pending_save(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    worktree_that_goes(ws, "agent-1", pending=True)
    before = ws.refs("refs/gitstate/checkpoints/")
    assert before and ws.refs("refs/gitstate/pending/")
    ws.gitstate("prune", "--all", "--keep", "0", "--days", "0")
    assert ws.refs("refs/gitstate/checkpoints/") == before and ws.refs("refs/gitstate/pending/")


def test_worktree_on_a_disk_that_is_not_mounted_is_not_gone(templates: Templates, tmp_path: Path) -> None:
    """Git lists it as long as nobody prunes it."""
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    ws.write("work.txt", "more\n")
    assert ws.gitstate("checkpoint").exit_status == 0
    before = ws.refs("refs/gitstate/checkpoints/")
    assert before and ws.main is not None
    ws.path.rename(ws.path.parent / "elsewhere")
    ws.cli_path = ws.main
    ws.gitstate("prune", "--all", "--keep", "0", "--days", "0")
    assert run_git(ws.main, "for-each-ref", "refs/gitstate/checkpoints").split()[0].decode() in before.values()


def test_prune_drops_a_named_save_and_rejects_an_unknown_one(ws: Workspace) -> None:
    made = saved_and_recovered(ws, 2)
    assert prune(ws, made[1]) == [made[1]]
    assert saves(ws) == {made[0]}
    assert ws.gitstate("prune", "no-such-save").exit_status == 4


def test_prune_keeps_notes_of_other_commits(ws: Workspace) -> None:
    saved_and_recovered(ws, 1)
    ws.git("notes", "--ref=gitstate", "add", "-m", "mine", "HEAD")
    assert len(prune(ws, "--keep", "0", "--days", "0")) == 1
    assert ws.out("notes", "--ref=gitstate", "show", "HEAD").strip() == "mine"
    assert notes(ws) == {ws.out("rev-parse", "HEAD").strip()}


def test_prune_keeps_a_dismissed_save_until_it_is_named(ws: Workspace) -> None:
    ws.write("precious.txt", "precious\n")
    save_id = ws.save().json["save_id"]
    ws.git("reset", "-q", "--hard", "HEAD~1")
    assert ws.recover("--dismiss").exit_status == 0
    assert prune(ws, "--keep", "0", "--days", "0") == []
    assert saves(ws) == {save_id}
    assert prune(ws, save_id) == [save_id]
    assert ws.refs("refs/gitstate/saves", "refs/gitstate/dismissed") == {}


def test_prune_drops_a_dismissed_save_that_was_recovered(ws: Workspace) -> None:
    ws.write("precious.txt", "precious\n")
    save_id = ws.save().json["save_id"]
    ws.git("reset", "-q", "--hard", "HEAD~1")
    assert ws.recover("--dismiss").exit_status == 0
    assert ws.recover("--save", save_id).exit_status == 0
    assert ws.read("precious.txt") == b"precious\n"
    assert prune(ws, "--keep", "0", "--days", "0") == [save_id]


def dated(ws: Workspace, save_id: str, year: int) -> str:
    """The save gets the id that it has under a clock of another year."""
    (old,) = ws.refs(f"refs/gitstate/saves/*/{save_id}")
    new = f"{year}{save_id[4:]}"
    ws.git("update-ref", old.replace(save_id, new), ws.refs(old)[old])
    ws.git("update-ref", "-d", old)
    return new


def test_prune_takes_saves_of_a_clock_that_was_ahead_for_the_oldest(ws: Workspace) -> None:
    future, *made = saved_and_recovered(ws, 4)
    future = dated(ws, future, 2999)
    assert prune(ws, "--keep", "2", "--days", "0") == made[:1]
    assert saves(ws) == {future, *made[1:]}


def test_kept_checkpoints_push_out_no_save(ws: Workspace) -> None:
    made = saved_and_recovered(ws, 1)
    for number in range(3):
        ws.write("new.txt", f"{number}\n")
        assert ws.gitstate("checkpoint").exit_status == 0
        ws.remove("new.txt")
        assert ws.gitstate("checkpoint").exit_status == 0
    assert len(saves(ws)) == 4
    assert len(prune(ws, "--keep", "1", "--days", "0")) == 2
    assert set(made) < saves(ws)


# -- saves that were fetched

OLD, NEW = "20200101T000000.000000Z-aaaaaa", "20200301T000000.000000Z-cccccc"
WAITING = "20200201T000000.000000Z-bbbbbb"


def test_fetched_saves_are_outdated_by_age_but_not_what_is_pending_or_newer() -> None:
    saves = [Fetchable("a", OLD, "1"), Fetchable("a", WAITING, "2"), Fetchable("a", NEW, "3"), Fetchable("b", OLD, "4")]
    now = time.time()
    assert outdated(saves, {"a": "2"}, now) == {saves[0], saves[3]}
    assert outdated(saves, {}, now) == set(saves)
    assert outdated(saves, {"a": "unknown"}, now) == {saves[3]}
    assert outdated(saves, {}, 0.0) == set()


def test_prune_removes_old_fetched_saves_and_fetch_does_not_bring_them_again(
    templates: Templates, tmp_path: Path
) -> None:
    ws = make(STATES["clean"], templates, tmp_path)
    remote = tmp_path / "remote.git"
    run_git(tmp_path, "init", "-q", "--bare", str(remote))
    dirty(ws)
    assert ws.save().exit_status == 0
    archive = ws.out("for-each-ref", "--format=%(objectname)", "refs/gitstate/pending")
    for name in (f"saves/other-1/{OLD}", f"saves/other-1/{WAITING}", "pending/other-2", f"saves/other-2/{WAITING}"):
        ws.git("push", "-q", str(remote), f"{archive}:refs/gitstate/{name}")
    ws.git("remote", "add", "origin", str(remote))
    here = Workspace(tmp_path / "here", tmp_path)
    run_git(tmp_path, "clone", "-q", str(ws.path), str(here.path))
    here.git("remote", "set-url", "origin", str(remote))

    def fetched() -> set[str]:
        return {ref.removeprefix("refs/gitstate/fetched/origin/") for ref in here.refs("refs/gitstate/fetched")}

    waiting = {"pending/other-2", f"saves/other-2/{WAITING}"}
    old = {f"saves/other-1/{OLD}", f"saves/other-1/{WAITING}"}
    here.config("gitstate.keepDays", "100000")
    assert here.gitstate("fetch", "origin").exit_status == 0
    assert fetched() == waiting | old
    assert here.gitstate("prune").exit_status == 0
    assert fetched() == waiting | old
    here.config("gitstate.keepDays", "30")
    assert here.gitstate("prune", "--dry-run").exit_status == 0
    assert fetched() == waiting | old
    assert here.gitstate("prune").exit_status == 0
    assert fetched() == waiting
    assert here.gitstate("fetch", "origin").exit_status == 0
    assert fetched() == waiting
    refused = here.gitstate("prune", WAITING)
    assert refused.exit_status == 4 and "pending on origin" in refused.stderr, refused
    assert fetched() == waiting


def _away(ws: Workspace, archive: str) -> Path:
    """Move the objects of a save to another object store, which then is gone; returns where it was."""
    store = ws.outside / "store"
    (store / "pack").mkdir(parents=True)
    for index in (ws.common_dir / "objects/pack").glob("*.idx"):
        if archive in ws.out("verify-pack", "-v", index):
            for part in index.parent.glob(index.stem + ".*"):
                part.rename(store / "pack" / part.name)
    (ws.common_dir / "objects/info").mkdir(exist_ok=True)
    (ws.common_dir / "objects/info/alternates").write_text(f"{store}\n")
    store.rename(ws.outside / "away")
    return store


def test_save_that_another_store_may_give_back_is_not_pruned(ws: Workspace) -> None:
    made = saved_and_recovered(ws, 2)
    archive = next(oid for ref, oid in ws.refs("refs/gitstate/saves/").items() if ref.endswith(made[0]))
    store = _away(ws, archive)
    run = ws.gitstate("prune", made[0])
    assert run.exit_status == 4 and "nothing was pruned" in run.stderr and str(store) in run.stderr, run
    assert saves(ws) == set(made)
    (ws.outside / "away").rename(store)
    assert prune(ws, made[0]) == [made[0]]


def test_save_that_a_promisor_remote_may_hold_is_not_pruned(ws: Workspace) -> None:
    made = saved_and_recovered(ws, 2)
    archive = next(oid for ref, oid in ws.refs("refs/gitstate/saves/").items() if ref.endswith(made[0]))
    _away(ws, archive)
    (ws.common_dir / "objects/info/alternates").unlink()
    ws.config("remote.far.promisor", "true")
    run = ws.gitstate("prune", made[0])
    assert run.exit_status == 4 and "promisor remote far" in run.stderr, run
    assert saves(ws) == set(made)
    ws.git("config", "--unset", "remote.far.promisor")
    assert prune(ws, made[0]) == [made[0]], "no other place may hold it: its name is all there is"
