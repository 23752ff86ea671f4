"""Repositories inside a workspace that are destroyed with it: the one around them holds what makes them again."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gitstate.format.names import given_workspace_id
from gitstate.recover.act.nested import NestedRecovery
from gitstate.recover.recover import recover
from gitstate.recover.request import RecoverRequest
from gitstate.save.held_parts import kept_setting
from gitstate.save.request import SaveRequest
from gitstate.save.save import save
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.workspace import Workspace, run_git


def upstream(ws: Workspace, name: str = "upstream") -> Path:
    """A repository to clone from, with two commits."""
    path = ws.outside / name
    run_git(ws.outside, "init", "-q", "-b", "main", path)
    for number in range(2):
        (path / "f.txt").write_text("line\n" * (number + 1))
        run_git(path, "add", "-A")
        run_git(path, "commit", "-q", "-m", f"{number}")
    return path


def work_in(inner: Workspace) -> Workspace:
    """A commit that no remote has, and edited, staged, deleted and untracked files."""
    inner.git("checkout", "-q", "-b", "topic")
    inner.write("kept.txt", "kept\n")
    inner.commit("only here")
    inner.append("f.txt", "edited\n")
    inner.write("staged.txt", "one\n")
    inner.add("staged.txt")
    inner.append("staged.txt", "two\n")
    inner.remove("kept.txt")
    inner.write("deep/new.txt", "untracked\n", mode=0o600)
    inner.mkdir("hollow")
    return inner


def a_clone(ws: Workspace, path: str = "vendor/lib") -> Workspace:
    run_git(ws.outside, "clone", "-q", upstream(ws), ws.path / path)
    return work_in(Workspace(ws.path / path, ws.outside))


def a_submodule(ws: Workspace) -> Workspace:
    origin = upstream(ws)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--name", "a name/x", str(origin), "sub")
    ws.commit("submodule")
    return work_in(Workspace(ws.path / "sub", ws.outside))


def a_new_one(ws: Workspace) -> Workspace:
    """Of no remote, and without a commit."""
    run_git(ws.path, "init", "-q", "-b", "first", "fresh")
    inner = Workspace(ws.path / "fresh", ws.outside)
    inner.write("f.txt", "one\n")
    inner.write("g.txt", "two\n")
    inner.add("g.txt")
    return inner


def a_shallow_clone(ws: Workspace) -> Workspace:
    run_git(ws.outside, "clone", "-q", "--depth", "1", f"file://{upstream(ws)}", ws.path / "lib")
    return work_in(Workspace(ws.path / "lib", ws.outside))


def a_detached_one(ws: Workspace) -> Workspace:
    inner = a_clone(ws)
    inner.git("checkout", "-q", "--detach")
    return inner


def in_another(ws: Workspace) -> Workspace:
    """A repository inside of one that is inside the workspace."""
    outer = a_clone(ws, "outer")
    run_git(ws.outside, "clone", "-q", ws.outside / "upstream", outer.path / "inner")
    return work_in(Workspace(outer.path / "inner", ws.outside))


KINDS = [a_clone, a_submodule, a_new_one, a_shallow_clone, a_detached_one, in_another]


def wiped(ws: Workspace) -> Workspace:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)
    return ws


def wiped_with_modules(ws: Workspace) -> Workspace:
    shutil.rmtree(ws.git_dir / "modules", ignore_errors=True)
    return wiped(ws)


def cloned(ws: Workspace) -> Workspace:
    """The host is lost; a clone that was given the refs of gitstate is all there is."""
    clone = ws.path.with_name("clone")
    run_git(ws.outside, "clone", "-q", "--no-local", ws.path, clone)
    run_git(clone, "fetch", "-q", "origin", "refs/gitstate/*:refs/gitstate/*", "+refs/heads/*:refs/remotes/origin/*")
    shutil.rmtree(ws.path)
    return Workspace(clone, ws.outside)


def in_place(ws: Workspace) -> Workspace:
    return ws


LOSSES = [in_place, wiped, wiped_with_modules, cloned]


def state_of(inner: Workspace) -> tuple[Fingerprint, dict[str, str], bytes]:
    """Its files and index, its refs but for those of gitstate, and where HEAD is."""
    refs = {name: oid for name, oid in inner.refs("refs").items() if not name.endswith("/HEAD")}
    return (
        fingerprint(inner.path),
        {name: oid for name, oid in refs.items() if "gitstate" not in name},
        (inner.git_dir / "HEAD").read_bytes(),
    )


@pytest.mark.sample(6)
@pytest.mark.parametrize("lose", LOSSES)
@pytest.mark.parametrize("build", KINDS)
def test_repository_inside_comes_back(
    build: Callable[[Workspace], Workspace], lose: Callable[[Workspace], Workspace], ws: Workspace
) -> None:
    inner = build(ws)
    before, place = state_of(inner), inner.path.relative_to(ws.path)
    ws.append("a")
    run = ws.save("--task-id", "T")
    assert run.exit_status == 0, run
    assert run.json["left_out"] == []
    own = (inner.git_dir / "gitstate" / "workspace-id").read_text().splitlines()[0]
    there = lose(ws)
    run = there.recover()
    assert run.exit_status == 0, run
    back = Workspace(there.path / place, ws.outside)
    assert given_workspace_id(os.fsencode(back.git_dir)) == own, "it is the same workspace"
    after = state_of(back)
    assert before[0].diff(after[0]) == []
    assert after[1:] == before[1:]
    back.git("fsck", "--strict")
    assert not back.refs("refs/gitstate/pending")
    assert (back.path / ".git").is_dir() == (build is not a_submodule)
    again = there.recover()
    assert again.exit_status == 0, again
    assert before[0].diff(fingerprint(back.path)) == []


@pytest.mark.sample(2)
@pytest.mark.parametrize("build", [a_clone, a_submodule, in_another])
def test_repository_inside_a_removed_worktree_comes_back(
    build: Callable[[Workspace], Workspace], ws: Workspace, tmp_path: Path
) -> None:
    run_git(ws.path, "worktree", "add", "-q", "-b", "agent/two", tmp_path / "linked")
    linked = Workspace(tmp_path / "linked", ws.outside, main=ws.path)
    inner = build(linked)
    before, place = state_of(inner), inner.path.relative_to(linked.path)
    assert linked.save("--task-id", "T").exit_status == 0
    run_git(ws.path, "worktree", "remove", "--force", linked.path)
    run_git(ws.path, "worktree", "prune")
    run = ws.recover("--into", str(tmp_path / "again"))
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(tmp_path / "again" / place)) == []
    assert state_of(Workspace(tmp_path / "again" / place, ws.outside))[1:] == before[1:]


def test_commit_of_a_clean_submodule_that_no_remote_has_comes_back(ws: Workspace, tmp_path: Path) -> None:
    """A removed worktree takes the git directories of its submodules along."""
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(upstream(ws)), "sub")
    ws.commit("submodule")
    run_git(ws.path, "worktree", "add", "-q", "-b", "agent/two", tmp_path / "linked")
    linked = Workspace(tmp_path / "linked", ws.outside, main=ws.path)
    linked.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
    sub = Workspace(linked.path / "sub", ws.outside)
    assert linked.gitstate("save", "--json").json["result"] == "nothing", "a remote has all of it"
    sub.append("f.txt")
    sub.git("commit", "-q", "-a", "-m", "only here")
    linked.git("commit", "-q", "-a", "-m", "with it")
    before, commit = fingerprint(sub.path), sub.out("rev-parse", "HEAD")
    assert linked.save("--task-id", "T").exit_status == 0
    run_git(ws.path, "worktree", "remove", "--force", linked.path)
    run = ws.recover("--into", str(tmp_path / "again"))
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(tmp_path / "again" / "sub")) == []
    assert run_git(tmp_path / "again" / "sub", "rev-parse", "HEAD").decode().strip() == commit
    assert run_git(tmp_path / "again", "status", "--porcelain") == b""


@pytest.mark.sample(2)
@pytest.mark.parametrize("lose", [wiped, cloned])
def test_what_a_remote_has_of_a_large_repository_is_not_held(
    lose: Callable[[Workspace], Workspace], ws: Workspace
) -> None:
    """It comes back as a shallow clone, with its own commits."""
    origin = upstream(ws)
    for number in range(3):
        (origin / "large").write_bytes(os.urandom(6 << 20))
        run_git(origin, "add", "-A")
        run_git(origin, "commit", "-q", "-m", f"large {number}")
    run_git(ws.outside, "clone", "-q", origin, ws.path / "lib")
    inner = Workspace(ws.path / "lib", ws.outside)
    for commit in ("HEAD~3", "main"):
        inner.git("checkout", "-q", commit)
        inner.append("f.txt", f"{commit}\n")
        inner.git("stash", "-q")
    stashes = inner.out("stash", "list", "--format=%H %gs")
    work_in(inner)
    count = len(inner.out("rev-list", "HEAD").split())
    before = state_of(inner)
    assert ws.save().exit_status == 0
    [size] = held(ws, "lib")["sizes"]
    assert 6 << 20 < size < 8 << 20
    there = lose(ws)
    run = there.recover()
    assert run.exit_status == 0, run
    back = Workspace(there.path / "lib", ws.outside)
    assert before[0].diff(fingerprint(back.path)) == []
    assert len(back.out("rev-list", "HEAD").split()) == 2 < count
    assert back.out("stash", "list", "--format=%H %gs") == stashes
    back.git("stash", "show", "-p", "stash@{1}")
    assert len(back.out("rev-list", "stash@{1}").split()) == 3, "its base has no parents either"
    [word] = [item["reason"] for item in run.json["workspaces"][0]["left_out"] if item["path"] == "lib"]
    subprocess.run(word.partition(": ")[2], shell=True, check=True, capture_output=True)
    assert len(back.out("rev-list", "HEAD").split()) == count
    assert back.out("rev-parse", "origin/main") == run_git(origin, "rev-parse", "main").decode().strip()


def make_large(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An upstream whose files are too large to be held."""
    origin = upstream(ws)
    (origin / "large").write_bytes(os.urandom(2 << 20))
    run_git(origin, "add", "-A")
    run_git(origin, "commit", "-q", "-m", "large")
    monkeypatch.setattr("gitstate.save.inside.WHOLE", 1 << 20)
    monkeypatch.setattr("gitstate.save.inside.MOST", 1 << 20)
    return origin


def test_of_a_too_large_repository_what_no_remote_has_is_held(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remote gives the rest, and the save is added to that."""
    origin = make_large(ws, monkeypatch)
    run_git(ws.outside, "clone", "-q", origin, ws.path / "lib")
    inner = work_in(Workspace(ws.path / "lib", ws.outside))
    before = state_of(inner)
    done = save(os.fsencode(ws.path), SaveRequest())
    [item] = done.left_out
    assert (item.path, item.lost, done.incomplete) == (b"lib", False, False)
    assert item.reason.endswith("this repository holds only what no remote has of it: the rest has more than 1 MiB")
    assert sum(held(ws, "lib")["sizes"]) < 10_000
    inner.write("later.txt", "later\n")
    before = state_of(inner)
    assert save(os.fsencode(ws.path), SaveRequest()).result in ("saved", "unchanged")
    run = wiped(ws).recover()
    assert run.exit_status == 4, run
    [reason] = [
        item["reason"] for item in run.json["workspaces"][0]["left_out"] if "could not be made" in item["reason"]
    ]
    clone, recovery = reason.partition("get it with: ")[2].split(" && ")
    subprocess.run(clone, shell=True, check=True, capture_output=True)
    run = ws.gitstate(*shlex.split(recovery)[1:], "--json")
    assert run.exit_status == 4, run
    [reason] = [item["reason"] for item in run.json["workspaces"][0]["left_out"] if "was added" in item["reason"]]
    checkout, recovery = reason.partition("it was added to it: ")[2].split(" && ")
    subprocess.run(checkout, shell=True, check=True, capture_output=True)
    run = inner.gitstate(*shlex.split(recovery)[3:], "--json")
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert inner.out("rev-parse", "topic") == before[1]["refs/heads/topic"]


def test_too_large_submodule_of_a_removed_worktree_comes_back_by_that_of_the_main_one(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = make_large(ws, monkeypatch)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "sub")
    ws.commit("submodule")
    run_git(ws.path, "worktree", "add", "-q", "-b", "agent/two", tmp_path / "linked")
    linked = Workspace(tmp_path / "linked", ws.outside, main=ws.path)
    linked.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
    sub = work_in(Workspace(linked.path / "sub", ws.outside))
    before = state_of(sub)
    assert save(os.fsencode(linked.path), SaveRequest()).result == "saved"
    assert held(ws, "sub")["needs"]
    run_git(ws.path, "worktree", "remove", "--force", linked.path)
    run = ws.recover("--into", str(tmp_path / "again"))
    assert run.exit_status == 0, run
    back = Workspace(tmp_path / "again" / "sub", ws.outside)
    assert before[0].diff(fingerprint(back.path)) == []
    assert state_of(back)[2] == before[2]
    back.git("fsck")


def held(ws: Workspace, path: str) -> dict[str, Any]:
    """What the latest save or checkpoint holds of a repository inside."""
    [tip] = [oid for name, oid in ws.refs("refs/gitstate/inside").items() if name.endswith("/latest")]
    records = [
        json.loads(ws.git("show", f"{tip}:{name}/repository.json"))
        for name in ws.out("ls-tree", "--name-only", tip).splitlines()
    ]
    return next(record for record in records if record["path"] == path)


def test_a_checkpoint_adds_what_is_new(ws: Workspace) -> None:
    inner = a_clone(ws)
    sizes = []
    for number in range(4):
        inner.append("f.txt", f"{number}\n")
        inner.git("commit", "-q", "-a", "-m", f"{number}")
        assert ws.gitstate("checkpoint").exit_status == 0
        sizes.append(held(ws, "vendor/lib")["sizes"])
    assert [len(one) for one in sizes] == [1, 2, 3, 4]
    assert sizes[3][:3] == sizes[2]
    tip = ws.refs("refs/gitstate/inside")
    assert ws.gitstate("checkpoint").exit_status == 0
    assert ws.refs("refs/gitstate/inside") == tip, "nothing changed"
    before = state_of(inner)
    assert ws.save().exit_status == 0
    assert wiped(ws).recover().exit_status == 0
    assert before[0].diff(fingerprint(inner.path)) == []
    assert before[1:] == state_of(inner)[1:]


def test_save_that_only_the_inner_repository_needs_holds_it(ws: Workspace) -> None:
    """The save around it is unchanged, and still holds what is new inside."""
    inner = a_clone(ws)
    ws.append("a")
    assert ws.save("--task-id", "T").exit_status == 0
    inner.write("later.txt", "later\n")
    before = state_of(inner)
    assert ws.save("--task-id", "T").exit_status == 0
    run = wiped(ws).recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []


def test_nothing_that_a_repository_inside_names_comes_back(ws: Workspace) -> None:
    """No hook, no filter, no program, no password."""
    inner = a_clone(ws)
    canary = ws.outside / "canary"
    for name, value in {
        "remote.origin.url": "https://me:secret@example.com/x.git",
        "remote.evil.url": f"ext::touch {canary}",
        "remote.origin.uploadpack": f"touch {canary}",
        "remote.token.url": "https://example.com/x.git?access_token=secret",
        "core.sshCommand": f"touch {canary}",
        "core.fsmonitor": f"touch {canary}",
        "alias.x": f"!touch {canary}",
        "filter.x.smudge": f"touch {canary}; cat",
        "include.path": str(canary),
        "http.extraheader": "secret",
        "core.hooksPath": str(ws.outside),
    }.items():
        inner.config(name, value)
    inner.write(".git/hooks/post-checkout", f"#!/bin/sh\ntouch {canary}\n", mode=0o755)
    inner.write(".git/info/attributes", "* filter=x\n")
    assert ws.save().exit_status == 0
    for one in ws.refs("refs/gitstate").values():
        for line in ws.out("rev-list", "--objects", one).splitlines():
            assert b"secret" not in ws.git("cat-file", "-p", line.split()[0])
    canary.unlink(missing_ok=True)
    run = wiped(ws).recover()
    assert run.exit_status == 0, run
    assert not canary.exists()
    told = inner.out("config", "--local", "--list")
    assert "canary" not in told and "secret" not in told
    assert "remote.origin.url=https://example.com/x.git" in told
    assert not list((inner.git_dir / "hooks").iterdir() if (inner.git_dir / "hooks").exists() else ())


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("remote.o.url", "git@example.com:x.git", "git@example.com:x.git"),
        ("remote.o.url", "ssh://git@example.com/x", "ssh://git@example.com/x"),
        ("remote.o.url", "../x", "../x"),
        ("remote.o.url", "ext::sh -c x", None),
        ("remote.o.url", "--upload-pack=x", None),
        ("remote.o.url", "a\nb", None),
        ("remote.a.b.fetch", "+refs/heads/*:refs/remotes/a.b/*", "+refs/heads/*:refs/remotes/a.b/*"),
        ("remote.o.vcs", "x", None),
        ("branch.x.merge", "refs/heads/x", "refs/heads/x"),
        ("branch.x.mergeoptions", "--x", None),
        ("branch.x.remote", "origin", "origin"),
        ("branch.x.remote", "https://me:secret@example.com/x", "https://example.com/x"),
        ("branch.x.pushremote", "https://secret@example.com/x", "https://example.com/x"),
        ("branch.x.remote", "ext::sh -c x", None),
        ("remote.https://me:secret@example.com/x.fetch", "+refs/heads/*:refs/remotes/x/*", None),
        ("submodule.x.update", "!x", None),
        ("user.name", "A", "A"),
        ("core.editor", "x", None),
        ("core.filemode", "false", None),
    ],
)
def test_settings_of_a_repository_inside(name: str, value: str, kept: str | None) -> None:
    assert kept_setting(name, value) == kept


def test_repository_that_can_not_be_made_leaves_nothing(ws: Workspace) -> None:
    """A tampered record: git refuses the name of a ref."""
    inner = a_clone(ws)
    ws.append("a")
    assert ws.save().exit_status == 0
    [name] = [name for name in ws.refs("refs/gitstate/inside") if not name.endswith("/latest")]
    record = held(ws, "vendor/lib")
    record["refs"].append(["refs/heads/../x", record["refs"][0][1]])
    data = json.dumps(record).encode()
    blob = ws.git("hash-object", "-w", "--stdin", stdin=data).decode().strip()
    listed = ws.git("ls-tree", f"{name}:0").decode().splitlines()
    lines = [f"100644 blob {blob}\trepository.json" if "repository.json" in line else line for line in listed]
    tree = ws.git("mktree", stdin="\n".join(lines).encode()).decode().strip()
    top = ws.git("mktree", stdin=f"040000 tree {tree}\t0\n".encode()).decode().strip()
    ws.git("update-ref", name, ws.out("commit-tree", "-m", "x", top))
    run = wiped(ws).recover()
    assert run.exit_status == 4, run
    assert any("could not be made again" in item["reason"] for item in run.json["workspaces"][0]["left_out"])
    assert not inner.path.exists()


def test_save_is_added_to_a_repository_that_was_cloned_again(ws: Workspace) -> None:
    inner = a_clone(ws)
    before = state_of(inner)
    assert ws.save().exit_status == 0
    wiped(ws)
    run_git(ws.outside, "clone", "-q", ws.outside / "upstream", inner.path)
    run = ws.recover()
    assert run.exit_status == 4, run
    [reason] = [item["reason"] for item in run.json["workspaces"][0]["left_out"] if item["path"] == "vendor/lib"]
    assert "the repository here is not the one that holds the save" in reason
    run = ws.recover()
    assert run.exit_status == 4, "until somebody does that"
    assert inner.recover().exit_status == 0, "nobody who works there is held up"
    assert ws.recover().exit_status == 4
    assert [item["reason"] for item in run.json["workspaces"][0]["left_out"] if item["path"] == "vendor/lib"] == [
        reason
    ]
    checkout, recovery = reason.partition("it was added to it: ")[2].split(" && ")
    subprocess.run(checkout, shell=True, check=True, capture_output=True)
    run = inner.gitstate(*shlex.split(recovery)[3:], "--json")
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert inner.out("rev-parse", "topic") == before[1]["refs/heads/topic"]
    assert ws.recover().exit_status == 0


@pytest.mark.parametrize("lose", [wiped, cloned])
def test_all_stashes_come_back(lose: Callable[[Workspace], Workspace], ws: Workspace) -> None:
    """Git has no ref for those under the newest."""
    inner = a_clone(ws)
    for number in range(3):
        inner.append("f.txt", f"{number}\n")
        inner.git("stash", "-q")
    stashes = inner.out("stash", "list", "--format=%H %gs")
    assert len(stashes.splitlines()) == 3
    assert ws.save().exit_status == 0
    there = lose(ws)
    assert there.recover().exit_status == 0
    back = Workspace(there.path / "vendor/lib", ws.outside)
    assert back.out("stash", "list", "--format=%H %gs") == stashes
    back.git("stash", "show", "-p", "stash@{2}")


def test_directory_of_a_repository_inside_has_its_permissions_again(ws: Workspace) -> None:
    a_submodule(ws)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(ws.outside / "upstream"), "empty")
    ws.commit("one that is not checked out")
    ws.git("submodule", "--quiet", "deinit", "-f", "empty")
    run_git(ws.outside, "clone", "-q", ws.outside / "upstream", ws.path / "vendor/lib")
    ws.git("worktree", "add", "-q", "-b", "second", "wt")
    places = ["vendor/lib", "sub", "wt", "empty"]
    for path in places:
        ws.chmod(path, 0o700)
    assert ws.save().exit_status == 0
    wiped(ws)
    assert ws.recover().exit_status == 0
    assert [stat.S_IMODE(os.stat(ws.at(path)).st_mode) for path in places] == [0o700] * len(places)


@pytest.mark.parametrize("newer", [False, True])
def test_worktree_inside_comes_back_from_its_checkpoint(newer: bool, ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "second", "wt")
    inner = Workspace(ws.path / "wt", ws.outside, main=ws.path)
    for text in ("one\n", "two\n"):
        inner.write("f.txt", text)
        assert ws.gitstate("checkpoint").exit_status == 0
    if newer:
        # It takes the place of the one that the outer checkpoint names.
        inner.write("f.txt", "three\n")
        assert inner.gitstate("checkpoint").exit_status == 0
    before = fingerprint(inner.path)
    wiped(ws)
    run = ws.recover("--save", "checkpoint")
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(inner.path)) == []


def test_worktree_of_another_repository_is_named_with_the_command_that_brings_it_back(ws: Workspace) -> None:
    origin = upstream(ws)
    run_git(origin, "worktree", "add", "-q", "-b", "other", ws.path / "other")
    inner = Workspace(ws.path / "other", ws.outside)
    inner.append("f.txt", "edited\n")
    before = fingerprint(inner.path)
    assert ws.save().exit_status == 0
    wiped(ws)
    run = ws.recover()
    assert run.exit_status == 4, run
    [reason] = [item["reason"] for item in run.json["workspaces"][0]["left_out"] if item["path"] == "other"]
    words = "it was a worktree of another repository, which has its save: "
    assert reason.startswith(words)
    run = ws.gitstate(*shlex.split(reason.removeprefix(words))[1:])
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(inner.path)) == []


def test_push_says_that_it_does_not_send_what_is_held(ws: Workspace) -> None:
    """A pack may hold secrets that no scanner sees."""
    run_git(ws.outside, "init", "-q", "--bare", "remote.git")
    ws.git("remote", "add", "away", str(ws.outside / "remote.git"))
    a_clone(ws)
    assert ws.save().exit_status == 0
    run = ws.gitstate("push", "away", "--json")
    assert run.exit_status == 0, run
    [item] = run.json["not_sent"]
    assert item["ref"].startswith("refs/gitstate/inside/") and item["held_back"]
    assert "the repositories inside the workspace are not sent" in item["reason"]
    assert b"inside" not in run_git(ws.outside / "remote.git", "for-each-ref", "--format=%(refname)")


@pytest.mark.sample(2)
@pytest.mark.parametrize("name", ["../../../x", "a/../../..", ""])
def test_name_of_a_submodule_leads_to_no_other_place(name: str, ws: Workspace) -> None:
    """`.gitmodules` was written by who worked in the workspace."""
    inner = a_submodule(ws)
    before = state_of(inner)
    assert ws.save().exit_status == 0
    wiped_with_modules(ws)
    there = sorted(ws.path.parent.iterdir())
    hostile = f'[submodule "{name}"]\n\tpath = sub\n\turl = ../x\n'
    ws.write(".gitmodules", hostile)
    assert ws.recover().exit_status in (0, 4)
    assert before[0].diff(fingerprint(inner.path)) == []
    assert sorted(ws.path.parent.iterdir()) == there
    assert (inner.path / ".git").is_dir()


@pytest.mark.sample(2)
@pytest.mark.parametrize("damage", ["", "0123456789" * 4 + "\n", "nonsense\n"])
def test_damaged_ref_of_what_is_held_costs_no_save(damage: str, ws: Workspace) -> None:
    inner = a_clone(ws)
    assert ws.gitstate("checkpoint").exit_status == 0
    [name] = ws.refs("refs/gitstate/inside")
    (ws.git_dir / name).write_text(damage)
    inner.write("later.txt", "later\n")
    before = state_of(inner)
    ws.append("a")
    run = ws.save()
    assert run.exit_status == 0, run
    run = wiped(ws).recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []


def test_what_is_held_goes_with_the_save(ws: Workspace) -> None:
    inner = a_clone(ws)
    ws.append("a")
    assert ws.save().exit_status == 0
    assert ws.recover().exit_status == 0
    [first] = [name for name in ws.refs("refs/gitstate/inside") if not name.endswith("/latest")]
    inner.append("f.txt")
    ws.append("a")
    assert ws.save().exit_status == 0
    run = ws.gitstate("prune", "--keep", "1", "--days", "0")
    assert run.exit_status == 0, run
    saves = {name.rpartition("/")[2] for name in ws.refs("refs/gitstate/saves")}
    assert first.rpartition("/")[2] not in saves and len(saves) == 1
    assert {name.rpartition("/")[2] for name in ws.refs("refs/gitstate/inside")} - {"latest"} == saves


def test_directory_that_is_in_use_again_is_left_alone(ws: Workspace) -> None:
    inner = a_clone(ws)
    assert ws.save().exit_status == 0
    wiped(ws)
    inner.path.mkdir(parents=True)
    (inner.path / "mine").write_text("mine\n")
    run = ws.recover()
    assert run.exit_status == 4, run
    assert os.listdir(inner.path) == ["mine"]


@pytest.mark.sample(3)
@pytest.mark.parametrize("is_clean", [True, False])
@pytest.mark.parametrize("build", [a_clone, a_submodule])
def test_recovery_that_was_killed_before_the_files_goes_on(
    build: Callable[[Workspace], Workspace], is_clean: bool, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = build(ws)
    if is_clean:
        inner.commit("all of it")
    ws.append("a")
    before = state_of(inner)
    assert ws.save().exit_status == 0
    wiped_with_modules(ws)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NestedRecovery, "_carry_out", killed)
        recover(os.fsencode(ws.path), RecoverRequest())
    assert os.listdir(inner.path) == [".git"]
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    assert state_of(inner)[1:] == before[1:]
    assert not (inner.git_dir / "gitstate" / "made-again").exists()


def test_recovery_that_was_killed_makes_the_repository_anew(ws: Workspace) -> None:
    inner = a_clone(ws)
    before = state_of(inner)
    assert ws.save().exit_status == 0
    wiped(ws)
    unfinished = inner.path / ".git.gitstate"
    unfinished.mkdir(parents=True)
    (unfinished / "refs" / "heads" / "topic").mkdir(parents=True)
    (unfinished / "refs" / "heads" / "topic" / "x").write_text("0" * 40 + "\n")
    assert ws.recover().exit_status == 0
    assert before[0].diff(fingerprint(inner.path)) == []
    assert not unfinished.exists()
