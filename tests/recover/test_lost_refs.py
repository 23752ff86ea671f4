"""Another program deletes the branch of a pending save, or every ref of it, as a fetch that prunes does."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import pytest

from tests.states import dirty
from tests.support.losing import wipe
from tests.support.oracle import fingerprint
from tests.support.patched import patched
from tests.support.recovering import answer
from tests.support.workspace import Workspace, run_git

OURS = ("refs/gitstate", "refs/notes/gitstate")


def worktree_of_bare_clone(ws: Workspace, tmp_path: Path, *options: str, refspec: str | None) -> Workspace:
    """A worktree with a branch of its own in a bare clone, as many agents have one each."""
    bare, path = tmp_path / "bare", tmp_path / "agent"
    run_git(tmp_path, "clone", "-q", *options, str(ws.path), str(bare))
    if refspec is not None:
        run_git(bare, "config", "remote.origin.fetch", refspec)
    run_git(bare, "worktree", "add", "-q", "-b", "agent/7", str(path), "agent/work")
    return Workspace(path, ws.outside)


def delete_our_refs(ws: Workspace) -> None:
    for ref in ws.refs(*OURS):
        ws.git("update-ref", "-d", ref)


def save(ws: Workspace, *args: str) -> str:
    run = ws.save(*args)
    assert run.exit_status == 0, run
    return str(run.json["save_id"])


def staged(ws: Workspace) -> bytes:
    return ws.git("ls-files", "-s", "-z")


@pytest.mark.sample(2)
@pytest.mark.parametrize("wiped", [False, True], ids=["in place", "wiped"])
@pytest.mark.parametrize(
    ("option", "refspec"),
    [("--bare", "+refs/heads/*:refs/heads/*"), ("--mirror", None)],
    ids=["branches", "all refs"],
)
def test_fetch_that_prunes_costs_no_save(
    ws: Workspace, tmp_path: Path, option: str, refspec: str | None, wiped: bool
) -> None:
    agent = worktree_of_bare_clone(ws, tmp_path, option, refspec=refspec)
    dirty(agent)
    base, before, status, index = agent.out("rev-parse", "HEAD"), fingerprint(agent.path), agent.status(), staged(agent)
    save_id = save(agent)
    if wiped:
        wipe(agent, base)
    run_git(tmp_path / "bare", "fetch", "-q", "--prune")
    assert not agent.refs("refs/heads/agent/7")
    assert bool(agent.refs("refs/gitstate")) is (option == "--bare")
    found = answer(agent.recover(), "restore", 0)
    assert found["save_id"] == save_id and "another program had deleted the branch" in found["message"]
    assert before.diff(fingerprint(agent.path)) == []
    assert (agent.status(), staged(agent)) == (status, index)
    assert (agent.out("rev-parse", "HEAD"), agent.out("symbolic-ref", "HEAD")) == (base, "refs/heads/agent/7")
    assert any(ref.endswith(f"/{save_id}") for ref in agent.refs("refs/gitstate/saves"))
    answer(agent.recover(), "recovered", 0)


def test_commit_after_the_save_is_not_left_behind_by_a_branch_that_is_gone(ws: Workspace) -> None:
    dirty(ws)
    save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~2")
    ws.append("README.md", "later\n")
    later = ws.commit("later")
    ws.git("update-ref", "-d", "refs/heads/agent/work")
    found = answer(ws.recover(), "diverged", 4)
    assert "there is a commit after the save" in found["message"]
    ws.git(*shlex.split(found["hint"].partition(", then")[0])[1:])
    assert ws.out("rev-parse", "HEAD") == later
    assert ws.read("README.md").endswith(b"later\n")


def test_status_and_doctor_name_a_save_that_has_lost_its_refs(ws: Workspace) -> None:
    dirty(ws)
    save_id = save(ws)
    delete_our_refs(ws)
    (found,) = ws.gitstate("status", "--json").json["workspaces"]
    assert (found["status"], found["waiting"]) == ("interrupted", save_id)
    assert "deleted its refs" in found["problem"]
    assert "deleted its refs" in ws.gitstate("doctor").text
    answer(ws.recover("--dry-run"), "restore", 0)
    assert not ws.refs(*OURS), "who only looks writes none"
    answer(ws.recover(), "restore", 0)
    assert "deleted its refs" not in ws.gitstate("doctor").text


#: Killed when it has moved refs for the first time.
KILLED = """
import signal
from gitstate.git import refs
move = refs.move_refs
def move_and_die(*args, **options):
    move(*args, **options)
    os.kill(os.getpid(), signal.SIGKILL)
refs.move_refs = move_and_die
"""


def test_kill_while_the_refs_are_made_again_costs_no_save(ws: Workspace) -> None:
    """A save whose marker alone is gone counts as resolved by hand."""
    dirty(ws)
    base, before = ws.out("rev-parse", "HEAD"), fingerprint(ws.path)
    save_id = save(ws)
    wipe(ws, base)
    delete_our_refs(ws)
    assert patched(ws, KILLED, "recover").returncode == -signal.SIGKILL
    assert ws.refs(*OURS)
    assert answer(ws.recover(), "restore", 0)["save_id"] == save_id
    assert before.diff(fingerprint(ws.path)) == []
    assert any(ref.endswith(f"/{save_id}") for ref in ws.refs("refs/gitstate/saves"))


def test_save_stands_on_one_that_has_lost_its_refs(ws: Workspace) -> None:
    dirty(ws)
    base, index = ws.out("rev-parse", "HEAD"), staged(ws)
    first = save(ws)
    delete_our_refs(ws)
    ws.write("later.txt", "later\n")
    second = save(ws)
    assert answer(ws.recover(), "restore", 0)["save_id"] == second
    assert (ws.out("rev-parse", "HEAD"), staged(ws)) == (base, index)
    assert {ref.rsplit("/", 1)[1] for ref in ws.refs("refs/gitstate/saves")} >= {first, second}


@pytest.mark.parametrize("resolved", ["dismissed", "by hand"])
def test_save_that_was_resolved_and_pruned_does_not_come_back(ws: Workspace, resolved: str) -> None:
    ws.append("a.txt", "given up\n")
    save_id = save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    if resolved == "dismissed":
        answer(ws.recover("--dismiss"), "dismissed", 0)
    else:
        (marker,) = ws.refs("refs/gitstate/pending")
        ws.git("update-ref", "-d", marker)
    run = ws.gitstate("prune", save_id)
    assert run.exit_status == 0, run
    answer(ws.recover(), "nothing", 0)
    assert ws.status() == set()


def test_save_that_was_resolved_does_not_come_back(ws: Workspace) -> None:
    """Whoever removes its marker by hand has resolved it; and so has a dismissal, whatever becomes of its refs."""
    ws.append("a.txt", "given up\n")
    save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    (marker,) = ws.refs("refs/gitstate/pending")
    archive = ws.out("rev-parse", marker)
    ws.git("update-ref", "-d", marker)
    answer(ws.recover(), "nothing", 0)
    ws.git("update-ref", marker, archive)
    answer(ws.recover("--dismiss"), "dismissed", 0)
    delete_our_refs(ws)
    answer(ws.recover(), "nothing", 0)
    assert ws.status() == set()


def test_archive_that_git_has_dropped_is_not_looked_for_again(ws: Workspace) -> None:
    dirty(ws)
    save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~2")
    delete_our_refs(ws)
    ws.git("reflog", "expire", "--expire=now", "--all")
    ws.git("gc", "-q", "--prune=now")
    answer(ws.recover(), "nothing", 0)


def test_remedy_of_doctor_keeps_the_refs_of_a_mirror(ws: Workspace, tmp_path: Path) -> None:
    agent = worktree_of_bare_clone(ws, tmp_path, "--mirror", refspec=None)
    (found,) = [item for item in agent.gitstate("doctor", "--json").json["findings"] if item["check"] == "refs"]
    for command in found["next"].split("; "):
        agent.git(*shlex.split(command)[1:])
    assert "into the refs of the saves" not in agent.gitstate("doctor").text
    dirty(agent)
    save(agent)
    kept = agent.refs(*OURS)
    run_git(tmp_path / "bare", "fetch", "-q", "--prune")
    assert kept and agent.refs(*OURS) == kept


def test_clone_that_has_the_wip_commit_alone_is_told_what_it_lacks(ws: Workspace, tmp_path: Path) -> None:
    dirty(ws)
    save(ws)
    run_git(tmp_path, "clone", "-q", str(ws.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone", ws.outside)
    run = clone.gitstate("recover")
    assert run.exit_status == 0 and clone.out("rev-parse", "HEAD") == ws.out("rev-parse", "HEAD~2"), run
    assert "recovered in part" in run.stderr and "only the WIP commit of this save is here" in run.stderr
    told = json.loads((clone.path / "active_state.json").read_text())["briefing"]
    assert "All files are" not in told and "Only the WIP commit of this save is here" in told
