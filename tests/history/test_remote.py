"""Saves are pushed to a git remote and fetched on another host, where pending ones can be recovered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.states import STATES, dirty, make
from tests.support.oracle import fingerprint
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    """A workspace whose branch a bare remote has."""
    ws = make(STATES["clean"], templates, tmp_path)
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    ws.git("push", "-q", "origin", "agent/work")
    return ws


def clone(ws: Workspace, name: str = "clone") -> Workspace:
    path = ws.path.parent / name
    run_git(path.parent, "clone", "-q", "-b", "agent/work", str(path.parent / "origin.git"), str(path))
    return Workspace(path, ws.outside)


def remote_refs(ws: Workspace) -> dict[str, str]:
    out = run_git(ws.path.parent / "origin.git", "for-each-ref", "--format=%(refname) %(objectname)").decode()
    return dict(line.split() for line in out.splitlines())


def test_pushed_save_is_recovered_on_another_host(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    ws.save()
    branch = remote_refs(ws)["refs/heads/agent/work"]
    run = ws.gitstate("push", "origin", "--json")
    assert (run.exit_status, len(run.json["saves"]), len(run.json["waiting"])) == (0, 1, 1), run
    assert remote_refs(ws)["refs/heads/agent/work"] == branch, "the WIP commit went to the branch"
    there = clone(ws)
    fetched = there.gitstate("fetch", "origin", "--json")
    assert (fetched.exit_status, len(fetched.json["waiting"])) == (0, 1), fetched
    (item,) = there.recover().json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "T-1")
    after = fingerprint(there.path)
    assert (after.files, after.commit) == (before.files, before.commit)
    assert "T-1" in there.out("notes", "--ref=gitstate", "list") or there.refs("refs/notes/gitstate")


def test_save_recovered_elsewhere_is_not_pending_again(ws: Workspace) -> None:
    dirty(ws)
    ws.save()
    ws.gitstate("push", "origin")
    there = clone(ws)
    there.gitstate("fetch", "origin")
    assert there.recover().exit_status == 0
    assert there.gitstate("fetch", "origin", "--json").json["waiting"] == []
    assert there.recover().json["workspaces"][0]["verdict"] == "recovered"
    pushed = there.gitstate("push", "origin", "--json").json
    assert len(pushed["recovered"]) == 1
    assert not [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/")]


def test_fetch_keeps_the_marker_of_a_local_workspace(ws: Workspace) -> None:
    dirty(ws)
    ws.save()
    ws.gitstate("push", "origin")
    assert ws.recover().exit_status == 0
    ws.gitstate("fetch", "origin")
    assert ws.refs("refs/gitstate/pending/") == {}


def test_fetch_merges_notes_of_both_hosts(ws: Workspace) -> None:
    there = clone(ws)
    for one in (ws, there):
        one.write("work.txt", f"{one.path}\n")
        one.save()
    ws.gitstate("push", "origin")
    assert there.gitstate("push", "origin").exit_status == 0
    assert ws.gitstate("fetch", "origin").exit_status == 0
    assert len(ws.out("notes", "--ref=gitstate", "list").splitlines()) == 2
    assert ws.gitstate("push", "origin").exit_status == 0
    assert ws.refs("refs/gitstate/remote-notes") == {}


def test_push_without_a_remote_sends_nothing(ws: Workspace) -> None:
    dirty(ws)
    ws.save()
    before = remote_refs(ws)
    assert ws.gitstate("push").exit_status == 2
    assert ws.gitstate("push", "origin", "--dry-run").exit_status == 0
    assert ws.gitstate("push", "--", "--mirror").exit_status == 2
    assert remote_refs(ws) == before
    ws.git("config", "gitstate.remote", "origin")
    assert ws.gitstate("push").exit_status == 0
    assert remote_refs(ws) != before


def test_push_sends_only_saves_of_this_workspace(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    assert ws.main is not None
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    (ws.main / "a.txt").write_text("main's\n")
    ws.gitstate("save", path=ws.main)
    dirty(ws)
    mine = ws.save().json["save_id"]
    ws.gitstate("push", "origin")
    assert [ref.rpartition("/")[2] for ref in remote_refs(ws) if "/saves/" in ref] == [mine]


def test_hooks_and_names_of_a_hostile_remote_do_no_harm(ws: Workspace, tmp_path: Path) -> None:
    dirty(ws)
    ws.save()
    hook = ws.git_dir / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    hook.chmod(0o755)
    origin = tmp_path / "origin.git"
    head = run_git(origin, "rev-parse", "refs/heads/agent/work").decode().strip()
    for ref in ("saves/a/b/c", "pending/-option", "else", "pending/x/y", "saves/short"):
        name = origin / "refs" / "gitstate" / ref
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(head + "\n")
    before = ws.refs("refs/gitstate/")
    assert ws.gitstate("fetch", "origin").exit_status == 0
    assert ws.refs("refs/gitstate/") == before
    assert ws.gitstate("push", "origin").exit_status == 0
    assert not (tmp_path / "canary").exists()


def test_push_to_a_missing_remote_fails_and_loses_nothing(ws: Workspace) -> None:
    dirty(ws)
    ws.save()
    before = ws.refs("refs/")
    for command in ("push", "fetch"):
        run = ws.gitstate(command, os.fspath(ws.path.parent / "nowhere"))
        assert run.exit_status == 1 and "Traceback" not in run.stderr
    assert ws.refs("refs/") == before
