"""Repositories inside the workspace: none of their programs runs, and a save changes nothing of them but refs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gitstate.save.request import SaveRequest, SaveResult
from gitstate.save.save import save
from tests.support.oracle import fingerprint
from tests.support.workspace import Workspace, run_git


def inside(ws: Workspace, path: str = "vendor/inner") -> Workspace:
    """A nested repository with one commit and a changed file, whose attributes name the filter `x`."""
    run_git(ws.path, "init", "-q", "-b", "inner", path)
    inner = Workspace(ws.path / path, ws.outside)
    inner.write(".gitattributes", "*.txt filter=x\n")
    inner.write("f.txt", "one\n")
    inner.commit("inner")
    inner.append("f.txt")
    inner.write("new.txt", "new\n")
    return inner


def with_filter(inner: Workspace, canary: Path, name: str = "x") -> None:
    inner.write(".git/info/attributes", f"*.txt filter={name}\n")
    for setting in ("clean", "smudge", "process"):
        inner.config(f"filter.{name}.{setting}", f"touch {canary}; cat")
    inner.config(f"filter.{name}.required", "true")


def with_odd_filter(inner: Workspace, canary: Path) -> None:
    """`-c` takes the name of a setting to end at its first `=`."""
    with_filter(inner, canary, "a=b.c")


def with_hooks(inner: Workspace, canary: Path) -> None:
    for name in ("x", "a=b"):
        inner.config(f"hook.{name}.command", f"touch {canary}")
        for event in ("reference-transaction", "post-index-change", "pre-auto-gc"):
            inner.git("config", "--add", f"hook.{name}.event", event)
    for event in ("reference-transaction", "post-index-change"):
        inner.write(f".git/hooks/{event}", f"#!/bin/sh\ntouch {canary}\n", mode=0o755)


def with_fsmonitor(inner: Workspace, canary: Path) -> None:
    inner.config("core.fsmonitor", f"touch {canary}; false")


def with_lazy_fetch(inner: Workspace, canary: Path) -> None:
    """A blob of the index is missing; the remote that has promised it is a program."""
    inner.write("g.txt", "two\n")
    inner.git("add", "g.txt")
    oid = inner.out("rev-parse", ":g.txt")
    (inner.git_dir / "objects" / oid[:2] / oid[2:]).unlink()
    inner.append("g.txt")
    inner.config("core.repositoryformatversion", "1")
    inner.config("extensions.partialClone", "o")
    inner.config("remote.o.promisor", "true")
    inner.config("remote.o.url", f"ext::touch {canary}")
    inner.config("protocol.ext.allow", "always")


def with_submodule(inner: Workspace, canary: Path) -> None:
    """Git runs the filters of a submodule when it looks for changes in it."""
    origin = inner.outside / "origin"
    run_git(inner.outside, "init", "-q", "-b", "main", origin)
    (origin / "f.txt").write_text("one\n")
    run_git(origin, "add", "-A")
    run_git(origin, "commit", "-q", "-m", "origin")
    inner.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "sub")
    inner.commit("submodule")
    inner.append("f.txt")
    sub = Workspace(inner.path / "sub", inner.outside)
    run_git(sub.path, "config", "filter.x.clean", f"touch {canary}; cat")
    (sub.git_dir / "info" / "attributes").write_text("*.txt filter=x\n")
    sub.append("f.txt")


PLANTS = [with_filter, with_odd_filter, with_hooks, with_fsmonitor, with_lazy_fetch, with_submodule]


@pytest.mark.sample(5)
@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("command", ["checkpoint", "save"])
def test_no_program_of_an_unregistered_nested_repository_runs(
    ws: Workspace, plant: Callable[[Workspace, Path], None], command: str
) -> None:
    inner = inside(ws)
    canary = ws.outside / "canary"
    plant(inner, canary)
    run = ws.gitstate(command)
    # A missing object is said.
    assert run.exit_status in ((0, 4) if plant is with_lazy_fetch else (0,)), run
    assert not canary.exists()
    if command == "save":
        before = inner.read("f.txt")
        inner.write("f.txt", inner.git("show", "HEAD:f.txt"))
        (inner.path / "new.txt").unlink(missing_ok=True)
        canary.unlink(missing_ok=True)
        assert ws.recover().exit_status == 0 or plant is with_lazy_fetch
        assert (inner.read("f.txt"), inner.read("new.txt")) == (before, b"new\n")
        assert not canary.exists()


def test_filters_of_a_submodule_of_the_index_run(ws: Workspace) -> None:
    """Plain git runs them as well, and without them every file of it would look changed."""
    inner = inside(ws)
    ws.git("-c", "advice.addEmbeddedRepo=false", "add", "vendor/inner")
    with_filter(inner, ws.outside / "canary")
    assert ws.gitstate("checkpoint").exit_status == 0
    assert (ws.outside / "canary").exists()


def test_filters_of_a_nested_worktree_of_the_same_repository_run(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "second", "wt")
    canary = ws.outside / "canary"
    ws.write(".git/info/attributes", "a filter=x\n")
    ws.config("filter.x.clean", f"touch {canary}; cat")
    ws.append("wt/a")
    assert ws.gitstate("checkpoint").exit_status == 0
    assert canary.exists()


def test_save_changes_nothing_of_a_nested_repository_but_refs(ws: Workspace) -> None:
    inner = inside(ws)
    inner.git("add", "new.txt")
    before, index = fingerprint(inner.path), (inner.git_dir / "index").read_bytes()
    run = ws.save("--task-id", "T-outer", "--json")
    assert run.exit_status == 0, run
    assert fingerprint(inner.path) == before
    assert (inner.git_dir / "index").read_bytes() == index
    assert not (inner.path / "active_state.json").exists()
    assert not (inner.git_dir / "gitstate" / "context.json").exists()
    (archive,) = inner.refs("refs/gitstate/pending").values()
    context = json.loads(inner.git("show", f"{archive}:context.json"))
    manifest = json.loads(inner.git("show", f"{archive}:manifest.json"))
    assert (context["task_id"], context["pid"], manifest["moves_branch"]) == (None, None, False)
    assert ws.recover().exit_status == 0
    assert fingerprint(inner.path) == before and not inner.refs("refs/gitstate/pending")
    assert not (inner.path / "active_state.json").exists()


def test_task_of_an_agent_in_a_nested_repository_stays_its_own(ws: Workspace) -> None:
    inner = inside(ws)
    assert inner.gitstate("set", "task_id=T-inner").exit_status == 0
    assert ws.save("--task-id", "T-outer", "--signal", "TERM").exit_status == 0
    assert inner.gitstate("show", "task_id").text.strip() == "T-inner"
    (archive,) = inner.refs("refs/gitstate/pending").values()
    assert json.loads(inner.git("show", f"{archive}:context.json"))["task_id"] == "T-inner"
    assert json.loads(inner.git("show", f"{archive}:manifest.json"))["reason"]["signal"] is None


def test_branch_of_a_submodule_does_not_move(ws: Workspace) -> None:
    inner = inside(ws)
    ws.git("-c", "advice.addEmbeddedRepo=false", "add", "vendor/inner")
    ws.git("commit", "-q", "-m", "link")
    head = inner.out("rev-parse", "inner")
    assert ws.save().exit_status == 0
    assert inner.out("rev-parse", "inner") == head
    assert ws.git("status", "--porcelain", "--ignore-submodules=dirty") == b""


def test_work_in_a_submodule_comes_back_after_deinit(ws: Workspace) -> None:
    origin = ws.outside / "origin"
    run_git(ws.outside, "clone", "-q", ws.path, origin)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "--name", "a=b/c", str(origin), "sub")
    ws.commit("submodule")
    sub = Workspace(ws.path / "sub", ws.outside)
    sub.append("a")
    sub.write("new")
    before, settings = fingerprint(sub.path), set(ws.git("config", "--get-regexp", "^submodule").splitlines())
    assert ws.save().exit_status == 0
    ws.git("submodule", "--quiet", "deinit", "-f", "sub")
    assert not any(sub.path.iterdir())
    run = ws.recover()
    assert run.exit_status == 0, run
    assert fingerprint(sub.path) == before
    assert set(ws.git("config", "--get-regexp", "^submodule").splitlines()) == settings


def test_submodule_without_work_stays_deinitialised(ws: Workspace) -> None:
    origin = ws.outside / "origin"
    run_git(ws.outside, "clone", "-q", ws.path, origin)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "sub")
    ws.commit("submodule")
    ws.append("a")
    assert ws.save().exit_status == 0
    ws.git("submodule", "--quiet", "deinit", "-f", "sub")
    assert ws.recover().exit_status == 0
    assert not any((ws.path / "sub").iterdir())


@pytest.mark.parametrize("is_clean", [True, False])
def test_nested_repository_saved_whole_leaves_the_save_complete(ws: Workspace, is_clean: bool) -> None:
    inner = inside(ws, "inner")
    if is_clean:
        inner.commit("all of it")
    ws.append("a.txt")
    document = ws.save().json
    assert document["left_out"] == []
    assert document["incomplete"] is False
    manifest = json.loads(ws.git("cat-file", "blob", f"{document['archive']}:manifest.json"))
    assert manifest["incomplete"] is False
    assert json.loads(ws.read("active_state.json"))["save"]["incomplete"] is False


def test_what_is_skipped_beside_a_nested_repository_makes_the_save_incomplete(ws: Workspace) -> None:
    inside(ws, "inner")
    os.mkfifo(ws.at("inner/pipe"))
    os.mkfifo(ws.at("pipe"))
    assert ws.save().json["incomplete"] is True


def submodule_with_work(ws: Workspace) -> Workspace:
    """A submodule with edited, staged, deleted and untracked files; its repository is in `.git/modules`."""
    origin = ws.outside / "origin"
    run_git(ws.outside, "clone", "-q", ws.path, origin)
    ws.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(origin), "deep/sub")
    ws.commit("submodule")
    sub = Workspace(ws.path / "deep" / "sub", ws.outside)
    sub.append("a")
    sub.write("new/file", "untracked\n")
    sub.write("staged", "one\n")
    sub.add("staged")
    sub.append("staged")
    sub.remove("b")
    return sub


#: How the directory of a submodule goes, with the tree around it.
WIPES: dict[str, list[tuple[str, ...]]] = {
    "removed alone": [("rm", "-rf", "deep/sub")],
    "removed with all": [
        ("find", ".", "-mindepth", "1", "-maxdepth", "1", "!", "-name", ".git", "-exec", "rm", "-rf", "{}", "+")
    ],
    "reset to the base": [
        ("rm", "-rf", "deep"),
        ("git", "reset", "-q", "--hard", "HEAD~1"),
        ("git", "clean", "-qffdx"),
    ],
    "reset to the tip": [("rm", "-rf", "deep"), ("git", "reset", "-q", "--hard"), ("git", "clean", "-qffdx")],
    "before the submodule": [
        ("git", "checkout", "-q", "-f", "--detach", "HEAD~2"),
        ("git", "clean", "-qffdx"),
        ("git", "checkout", "-q", "main"),
    ],
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("wipe", WIPES)
def test_work_in_a_submodule_comes_back_after_a_wipe(wipe: str, ws: Workspace) -> None:
    sub = submodule_with_work(ws)
    ws.append("a")
    before = fingerprint(sub.path)
    run = ws.save("--task-id", "T")
    assert run.exit_status == 0, run
    assert not (sub.path / "active_state.json").exists()
    for argv in WIPES[wipe]:
        subprocess.run(argv, cwd=ws.path, check=True, capture_output=True)
    assert not (sub.path / "new").exists()
    run = ws.recover()
    assert run.exit_status == 0, run
    assert before.diff(fingerprint(sub.path)) == []
    assert not (sub.path / "active_state.json").exists()
    assert not sub.refs("refs/gitstate/pending")


@pytest.mark.parametrize("registered", [True, False])
def test_save_says_that_a_repository_it_does_not_hold_goes_with_its_directory(
    registered: bool, ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gitstate.save.inside.WHOLE", 0)
    monkeypatch.setattr("gitstate.save.inside.MOST", 0)
    inner = inside(ws, "inner")
    if registered:
        ws.git("-c", "advice.addEmbeddedRepo=false", "add", "inner")
        ws.git("commit", "-q", "-m", "link")
    ws.append("a")
    done = save(os.fsencode(ws.path), SaveRequest())
    [(path, reason, lost)] = [(item.path, item.reason, item.lost) for item in done.left_out]
    assert (path, lost, done.incomplete) == (b"inner", False, False)
    assert reason.startswith(
        "it is a repository of its own: its save is inside it, and goes where the repository goes; "
        "this repository does not hold it: it has more than"
    )
    subprocess.run(["rm", "-rf", inner.path], check=True)
    run = ws.recover()
    assert run.exit_status == 4, run
    assert any(item["path"] == "inner" and item["lost"] for item in run.json["workspaces"][0]["left_out"])


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_no_save_writes_a_state_file_into_nested_repositories(command: str, ws: Workspace) -> None:
    sub, inner = submodule_with_work(ws), inside(ws)
    deeper = inside(inner, "deeper")
    for number in range(2):
        ws.append("a", f"{number}\n")
        run = ws.gitstate(command, "--task-id", "T", "--signal", "TERM")
        assert run.exit_status == 0, run
        for repository in (sub, inner, deeper):
            assert not (repository.path / "active_state.json").exists()
            assert not (repository.git_dir / "gitstate" / "context.json").exists()


def test_early_save_of_a_part_looks_at_all_of_a_repository_inside(ws: Workspace) -> None:
    """What the keeper knows to have changed are paths of the workspace, not of what is inside it."""
    inner = inside(ws)
    request = SaveRequest(unseen=True, touched=frozenset([b"vendor/inner"]), stay=True, deadline=60.0)
    done = save(os.fsencode(ws.path), request)
    assert done.result == "saved", done
    (archive,) = inner.refs("refs/gitstate/pending").values()
    assert json.loads(inner.git("show", f"{archive}:manifest.json"))["left_out"] == []
    assert inner.out("show", f"{archive}^1:new.txt") == "new"


def early(ws: Workspace) -> SaveResult:
    """An early save that has no time for the repositories inside."""
    return save(os.fsencode(ws.path), SaveRequest(stay=True, look=0.0, deadline=60.0))


def test_repository_that_an_early_save_does_not_reach_stays_as_in_the_checkpoint(ws: Workspace) -> None:
    inner, sub = inside(ws), submodule_with_work(ws)
    assert ws.gitstate("checkpoint").exit_status == 0
    ws.append("a", "edited\n")
    done = early(ws)
    assert {(os.fsdecode(item.path), item.lost) for item in done.left_out} >= {
        ("vendor/inner", True),
        ("deep/sub", True),
    }
    assert ws.out("show", f"{done.archive}^1:a").endswith("edited")
    nested = json.loads(ws.git("show", f"{done.archive}:manifest.json"))["nested"]
    held = {"vendor/inner": inner.refs("refs/gitstate"), "deep/sub": sub.refs("refs/gitstate")}
    assert {item["path"]: [item["archive"]] for item in nested} == {
        path: [*refs.values()] for path, refs in held.items()
    }
    before = [fingerprint(one.path) for one in (ws, inner, sub)]
    run = ws.recover()
    assert run.json["workspaces"][0]["verdict"] == "restore", run
    assert [fingerprint(one.path) for one in (ws, inner, sub)] == before
    assert "is not the one" not in json.dumps(run.json)


@pytest.mark.parametrize("is_early", [True, False])
def test_wiped_submodule_comes_back_as_its_last_checkpoint_has_it(ws: Workspace, is_early: bool) -> None:
    sub = submodule_with_work(ws)
    ws.append("a", "edited\n")
    before = fingerprint(sub.path)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as agent:
        assert ws.gitstate("begin", "task_id=T", "--owner-pid", str(agent.pid)).exit_status == 0
        assert ws.gitstate("checkpoint").exit_status == 0
    if is_early:
        assert early(ws).result == "saved"
    for argv in WIPES["removed with all"]:
        subprocess.run(argv, cwd=ws.path, check=True)
    run = ws.recover()
    assert before.diff(fingerprint(sub.path)) == [], run


def test_submodules_that_git_had_no_time_for_are_saved(ws: Workspace) -> None:
    """A filter hangs in the workspace: git is asked again in a way that looks into no submodule."""
    sub = submodule_with_work(ws)
    ws.config("filter.slow.clean", "sleep 20; cat")
    ws.write(".gitattributes", "b filter=slow\n")
    ws.git("-c", "filter.slow.clean=cat", "add", ".gitattributes", "b")
    ws.git("-c", "filter.slow.clean=cat", "commit", "-q", "-m", "attributes")
    ws.write("b", "b1\n")
    done = save(os.fsencode(ws.path), SaveRequest(stay=True, deadline=2.0))
    nested = json.loads(ws.git("show", f"{done.archive}:manifest.json"))["nested"]
    assert [item["path"] for item in nested] == ["deep/sub"]
    assert sub.refs("refs/gitstate/pending") or any(item.path == b"deep/sub" and item.lost for item in done.left_out)


def test_early_save_comes_to_the_repositories_inside_when_its_marker_stands(ws: Workspace) -> None:
    inner = inside(ws)
    ws.append("a", "edited\n")
    done = save(os.fsencode(ws.path), SaveRequest(stay=True, look=60.0, deadline=100.0))
    (archive,) = inner.refs("refs/gitstate/pending").values()
    assert inner.out("show", f"{archive}^1:new.txt") == "new"
    manifest = json.loads(ws.git("show", f"{done.archive}:manifest.json"))
    assert manifest["created"] < json.loads(inner.git("show", f"{archive}:manifest.json"))["created"]
    assert [(item.path, item.lost) for item in done.left_out] == [(b"vendor/inner", True)]
    before = [fingerprint(ws.path), fingerprint(inner.path)]
    assert ws.recover().json["workspaces"][0]["verdict"] == "restore"
    assert [fingerprint(ws.path), fingerprint(inner.path)] == before
    assert not inner.refs("refs/gitstate/pending")
