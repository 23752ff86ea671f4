"""Repositories in ignored directories: their unsaved work belongs to the save, all else in those does not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.save import nested
from gitstate.save.request import SaveRequest
from gitstate.save.save import save
from gitstate.snapshot.walk import ignored_repositories
from tests.support.agents import Started, has_checkpoint, keepers, members, wait_until
from tests.support.oracle import fingerprint
from tests.support.workspace import GITSTATE, Workspace, run_git


@pytest.fixture
def origin(ws: Workspace) -> Path:
    """A repository to clone from; `tmp` and `out` are ignored in the workspace."""
    ws.write(".gitignore", "/tmp/\nout\n")
    ws.commit("ignored")
    path = ws.outside / "origin"
    run_git(ws.outside, "init", "-q", "-b", "main", path)
    (path / "f.txt").write_text("one\n")
    run_git(path, "add", "-A")
    run_git(path, "commit", "-q", "-m", "one")
    return path


def clone(ws: Workspace, origin: Path, path: str) -> Workspace:
    run_git(ws.outside, "clone", "-q", origin, ws.path / path)
    return Workspace(ws.path / path, ws.outside)


def saved_repositories(ws: Workspace) -> list[str]:
    [archive] = ws.refs("refs/gitstate/pending").values()
    return [item["path"] for item in json.loads(ws.git("show", f"{archive}:manifest.json"))["nested"]]


def edit(inner: Workspace) -> None:
    inner.append("f.txt")


def add(inner: Workspace) -> None:
    inner.write("new.txt", "new\n")


def commit(inner: Workspace) -> None:
    inner.append("f.txt")
    inner.git("commit", "-q", "-a", "-m", "only here")


def stash(inner: Workspace) -> None:
    inner.append("f.txt")
    inner.git("stash", "-q")


def on_another_branch(inner: Workspace) -> None:
    inner.git("checkout", "-q", "-b", "other")
    commit(inner)
    inner.git("checkout", "-q", "main")


@pytest.mark.sample(5)
@pytest.mark.parametrize("path", ["tmp/lib", "out", "tmp/a/b"])
@pytest.mark.parametrize("work", [edit, add, commit, stash, on_another_branch])
def test_work_in_an_ignored_repository_comes_back(
    work: Callable[[Workspace], None], path: str, ws: Workspace, origin: Path
) -> None:
    inner = clone(ws, origin, path)
    work(inner)
    before = fingerprint(inner.path), {name: oid for name, oid in inner.refs("refs").items() if "gitstate" not in name}
    ws.append("a")
    run = ws.save("--task-id", "T")
    assert run.exit_status == 0, run
    assert run.json["left_out"] == []
    assert saved_repositories(ws) == [path]
    [workspace] = ws.gitstate("status", "--json").json["workspaces"]
    assert [item["path"] for item in workspace["repositories"]] == [path]
    assert f"the save has repositories inside: {path}" in ws.gitstate("status").text
    shutil.rmtree(ws.path / path.partition("/")[0])
    ws.git("clean", "-ffdxq")
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before[0].diff(fingerprint(inner.path)) == []
    refs = {name: oid for name, oid in inner.refs("refs").items() if "gitstate" not in name}
    assert {name: oid for name, oid in before[1].items() if not name.endswith("/HEAD")} == refs


def test_work_in_a_submodule_of_an_ignored_repository_counts(ws: Workspace, origin: Path) -> None:
    outer = ws.outside / "outer"
    run_git(ws.outside, "clone", "-q", origin, outer)
    run_git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "sub")
    run_git(outer, "commit", "-q", "-m", "submodule")
    clone(ws, outer, "tmp/lib").git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
    ws.append("a")
    assert ws.save().exit_status == 0
    assert saved_repositories(ws) == [] and ws.recover().exit_status == 0
    sub = Workspace(ws.path / "tmp/lib/sub", ws.outside)
    edit(sub)
    before = fingerprint(sub.path)
    assert ws.save().exit_status == 0
    assert saved_repositories(ws) == ["tmp/lib"]
    shutil.rmtree(ws.path / "tmp")
    assert ws.recover().exit_status == 0
    assert before.diff(fingerprint(sub.path)) == []


def test_clean_clone_in_an_ignored_directory_is_left_alone(ws: Workspace, origin: Path) -> None:
    inner = clone(ws, origin, "tmp/lib")
    ws.append("a")
    before = sorted(path for path in inner.git_dir.rglob("*"))
    assert ws.save().exit_status == 0
    assert saved_repositories(ws) == []
    assert sorted(path for path in inner.git_dir.rglob("*")) == before


def test_ignored_repository_alone_is_worth_a_save(ws: Workspace, origin: Path) -> None:
    edit(clone(ws, origin, "tmp/lib"))
    assert ws.save().json["result"] == "saved"
    assert saved_repositories(ws) == ["tmp/lib"]


def test_worktree_of_an_agent_in_an_ignored_directory_is_not_saved_as_nested(ws: Workspace, origin: Path) -> None:
    ws.git("worktree", "add", "-q", "-b", "second", "tmp/second")
    ws.append("tmp/second/a")
    ws.append("a")
    assert ws.save().exit_status == 0
    assert saved_repositories(ws) == []


def test_no_program_of_an_ignored_repository_runs(ws: Workspace, origin: Path) -> None:
    inner, canary = clone(ws, origin, "tmp/lib"), ws.outside / "canary"
    inner.write(".git/info/attributes", "* filter=x\n")
    # Of the same size: git has to look into it.
    inner.write("f.txt", "two\n")
    for key in ("filter.x.clean", "filter.x.process", "core.fsmonitor", "core.sshCommand", "core.alternateRefsCommand"):
        inner.config(key, f"touch {canary}; cat")
    inner.write(".git/hooks/post-index-change", f"#!/bin/sh\ntouch {canary}\n", mode=0o755)
    canary.unlink(missing_ok=True)
    run = ws.save()
    assert run.exit_status == 0, run
    assert saved_repositories(ws) == ["tmp/lib"]
    assert not canary.exists()


def test_what_is_no_repository_is_passed_over(ws: Workspace, origin: Path) -> None:
    """A FIFO, a link, a loop of links, an empty file and a broken directory in the place of `.git`."""
    for name in ("fifo", "link", "loop", "file", "broken", "up"):
        ws.mkdir(f"tmp/{name}")
    os.mkfifo(ws.at("tmp/fifo/.git"))
    ws.symlink("../../nothing", "tmp/link/.git")
    ws.symlink(".git", "tmp/loop/.git")
    ws.write("tmp/file/.git", "")
    ws.mkdir("tmp/broken/.git/refs")
    ws.symlink("../..", "tmp/up/above")
    ws.write("tmp/up/.git", "gitdir: ../../.git\n")
    edit(clone(ws, origin, "tmp/lib"))
    run = ws.save()
    assert run.exit_status == 0, run
    assert saved_repositories(ws) == ["tmp/lib"]


def test_crowded_ignored_directories_are_not_looked_into(ws: Workspace, origin: Path) -> None:
    clone(ws, origin, "tmp/lib")
    clone(ws, origin, "tmp/many/lib")
    for number in range(120):
        ws.mkdir(f"tmp/many/{number}")
    clone(ws, origin, "tmp/a/b/c")
    repository = open_repository(os.fsencode(ws.path))
    assert ignored_repositories(repository, [b"tmp/", b"a"]) == [b"tmp/lib"]


def test_ignored_repositories_that_nobody_looked_at_are_named_if_they_changed_in_the_run(
    ws: Workspace, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = clone(ws, origin, "tmp/old"), clone(ws, origin, "tmp/new")
    edit(old)
    edit(new)
    began = time.time_ns()
    for path in (old.git_dir, *(old.git_dir / name for name in ("HEAD", "index", "logs/HEAD"))):
        os.utime(path, ns=(began - 10**12, began - 10**12))
    monkeypatch.setattr(nested, "work_began_ns", lambda _: began - 10**11)
    monkeypatch.setattr(nested, "_MOST_ASKED", 0)
    done = save(os.fsencode(ws.path), SaveRequest(even_clean=True))
    [item] = done.left_out
    assert (item.path, item.lost) == (b"tmp/new", True)
    assert "nobody looked whether the repository in it has unsaved work: there are too many" in item.reason


def test_clone_of_an_agent_in_an_ignored_directory_is_saved_at_sigterm(ws: Workspace, origin: Path) -> None:
    script = f"git clone -q {origin} tmp/lib && cd tmp/lib && echo x >>f.txt && git commit -qam x && echo y >new && "
    argv = [
        *GITSTATE,
        "run",
        "--task-id",
        "T",
        "--",
        "sh",
        "-c",
        f"{script} touch {ws.outside}/ready && exec sleep 600",
    ]
    started = Started(ws, argv)
    wait_until(lambda: (ws.outside / "ready").exists() and has_checkpoint(ws), "the agent is ready")
    started.send(signal.SIGTERM)
    started.status()
    wait_until(lambda: not keepers(ws) and not members(ws), "the run is over")
    assert saved_repositories(ws) == ["tmp/lib"]
    before = fingerprint(ws.path / "tmp/lib")
    shutil.rmtree(ws.path / "tmp")
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(ws.path / "tmp/lib")) == []
