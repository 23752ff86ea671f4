"""Saves are pushed to a git remote and fetched on another host, where pending ones can be recovered."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.states import STATES, dirty, make
from tests.support.forgery import Entry, forged
from tests.support.oracle import fingerprint
from tests.support.remotes import clone, remote_refs
from tests.support.repositories import Templates
from tests.support.workspace import Workspace, run_git


@pytest.fixture
def ws(published: Workspace) -> Workspace:
    return published


def test_pushed_save_is_recovered_on_another_host(ws: Workspace) -> None:
    dirty(ws)
    before = fingerprint(ws.path)
    saved = ws.save().json
    branch = remote_refs(ws)["refs/heads/agent/work"]
    run = ws.gitstate("push", "origin", "--json")
    assert (run.exit_status, len(run.json["saves"]), len(run.json["waiting"])) == (0, 1, 1), run
    assert remote_refs(ws)["refs/heads/agent/work"] == branch, "the WIP commit went to the branch"
    there = clone(ws)
    fetched = there.gitstate("fetch", "origin", "--json")
    assert (fetched.exit_status, len(fetched.json["waiting"])) == (0, 1), fetched
    run = there.gitstate("recover", "--save", "latest")
    assert run.exit_status == 4 and f" recover --save {saved['save_id']}" in run.stderr, run
    there.git("config", "gitstate.trust", "origin")
    (item,) = there.recover().json["workspaces"]
    assert (item["verdict"], item["context"]["task_id"]) == ("restore", "T-1")
    after = fingerprint(there.path)
    assert (after.files, after.commit) == (before.files, before.commit)
    assert "T-1" in there.out("notes", "--ref=gitstate", "list") or there.refs("refs/notes/gitstate")


@pytest.mark.parametrize("took_newer", [False, True])
def test_older_save_of_a_remote_is_not_taken_for_the_newest(took_newer: bool, ws: Workspace) -> None:
    """Its marker was not moved, as by a push that was broken off, or it came back from a backup."""
    dirty(ws)
    older = ws.save().json["save_id"]
    ws.gitstate("push", "origin")
    (marker,) = (ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/"))
    was = remote_refs(ws)[marker]
    assert ws.recover().exit_status == 0
    ws.write("newer.txt")
    newer = ws.save().json["save_id"]
    ws.gitstate("push", "origin")
    there = clone(ws)
    there.git("config", "gitstate.trust", "origin")
    if took_newer:
        assert there.gitstate("fetch", "origin").exit_status == 0 and there.recover().exit_status == 0
        assert there.gitstate("finish").exit_status == 0
    ws.git("push", "-q", "--force", "--no-verify", "origin", f"{was}:{marker}")
    assert there.gitstate("fetch", "origin").exit_status == 0
    before = fingerprint(there.path)
    run = there.recover()
    (item,) = run.json["workspaces"]
    assert (run.exit_status, item["verdict"]) == (4, "elsewhere")
    assert newer in item["hint"].partition(";")[0] and older in item["message"]
    assert before.diff(fingerprint(there.path)) == []
    assert there.recover("--save", newer).exit_status == 0
    assert there.read("newer.txt") == b"text\n"


@pytest.mark.parametrize("refuses", [False, True])
def test_shallow_clone_that_ends_at_the_wip_commit_gets_its_base(refuses: bool, ws: Workspace) -> None:
    """A remote sends nothing below the commits at which a clone ends, unless it is asked by name."""
    ws.append("a.txt", "staged\n")
    ws.add("a.txt")
    ws.write("new.txt")
    before = fingerprint(ws.path)
    ws.save()
    ws.gitstate("push", "origin")
    ws.git("push", "-q", "--no-verify", "origin", "agent/work")
    there = Workspace(ws.outside / "shallow", ws.outside)
    url = f"file://{ws.out('remote', 'get-url', 'origin')}"
    ws.git("clone", "-q", "--depth=1", "--branch", "agent/work", url, there.path)
    there.git("config", "gitstate.trust", "origin")
    if refuses:
        there.git("config", "protocol.version", "0")
    assert there.gitstate("fetch", "origin").exit_status == 0
    run = there.gitstate("recover")
    if refuses:
        assert run.exit_status == 4 and "fetch --unshallow" in run.stderr, run
        there.git("fetch", "-q", "--unshallow")
        run = there.gitstate("recover")
    assert run.exit_status == 0, run
    after = fingerprint(there.path)
    assert (after.files, after.commit, after.index) == (before.files, before.commit, before.index)


def test_save_recovered_elsewhere_is_not_pending_again(ws: Workspace) -> None:
    dirty(ws)
    ws.save()
    ws.gitstate("push", "origin")
    there = clone(ws)
    there.git("config", "gitstate.trust", "origin")
    there.gitstate("fetch", "origin")
    assert there.recover().exit_status == 0
    assert there.gitstate("fetch", "origin", "--json").json["waiting"] == []
    assert there.recover().json["workspaces"][0]["verdict"] == "recovered"
    pushed = there.gitstate("push", "origin", "--json").json
    assert len(pushed["recovered"]) == 1
    assert not [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/")]


def test_save_that_was_recovered_is_not_pending_by_another_name_of_its_remote(ws: Workspace) -> None:
    dirty(ws)
    ws.save()
    ws.gitstate("push", "origin")
    there = clone(ws)
    there.git("remote", "add", "other", there.out("remote", "get-url", "origin"))
    for name in ("origin", "other"):
        there.git("config", "--add", "gitstate.trust", name)
    there.gitstate("fetch", "origin")
    assert there.recover().exit_status == 0
    there.git("reset", "-q", "--hard")
    there.git("clean", "-fdxq")
    assert there.gitstate("fetch", "other", "--json").json["waiting"] == []
    assert there.recover().exit_status == 0 and there.status() == set()
    assert len(there.gitstate("push", "other", "--json").json["recovered"]) == 1
    assert not [ref for ref in remote_refs(ws) if ref.startswith("refs/gitstate/pending/")]


def test_rebase_is_ended_on_another_host(ws: Workspace) -> None:
    """The branch that is being rebased is on no remote, and git moves it at the end."""
    ws.git("checkout", "-q", "-b", "topic", "HEAD~1")
    ws.append("docs/guide.md")
    ws.commit("topic")
    ws.git("rebase", "-q", "-i", "agent/work", env={"GIT_SEQUENCE_EDITOR": "sed -i 1ibreak"})
    ws.expect_operation("rebase-merge")
    save_id = ws.save("--json").json["save_id"]
    ws.gitstate("push", "origin")
    there = clone(ws)
    there.git("checkout", "-q", "--detach")
    there.gitstate("fetch", "origin")
    run = there.gitstate("recover", "--trust", "--save", save_id, "--json")
    assert run.exit_status == 0, run
    (reason,) = (item["reason"] for item in run.json["workspaces"][0]["left_out"])
    command = reason.rpartition("; ")[2]
    subprocess.run(shlex.split(command), check=True)
    there.git("rebase", "--continue")
    assert there.out("log", "-1", "--format=%s", "topic") == "topic"
    assert there.out("symbolic-ref", "HEAD") == "refs/heads/topic"


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["-f", "-D", "a b", "../../x", "a\nb", "x;touch${IFS}y"])
def test_name_of_a_rebased_branch_is_no_option_and_no_path(name: str, ws: Workspace) -> None:
    ws.git("checkout", "-q", "-b", "topic", "HEAD~1")
    ws.append("docs/guide.md")
    ws.commit("topic")
    ws.git("rebase", "-q", "-i", "agent/work", env={"GIT_SEQUENCE_EDITOR": "sed -i 1ibreak"})
    (ws.git_dir / "rebase-merge" / "head-name").write_text(f"refs/heads/{name}\n")
    save_id = ws.save("--json").json["save_id"]
    ws.gitstate("push", "origin")
    there = clone(ws)
    there.git("checkout", "-q", "--detach")
    there.gitstate("fetch", "origin")
    before = there.refs("refs/heads/")
    run = there.gitstate("recover", "--trust", "--save", save_id, "--json")
    assert run.exit_status == 0, run
    reasons = [item["reason"] for item in run.json["workspaces"][0]["left_out"]]
    commands = [reason.rpartition("not here; ")[2] for reason in reasons if "rebase" in reason]
    assert bool(commands) == name.startswith("x;"), commands
    for command in commands:
        subprocess.run(["sh", "-c", command], cwd=there.path, check=True)
    assert before.items() <= there.refs("refs/heads/").items()
    assert there.refs("refs/heads/").keys() <= {*before, f"refs/heads/{name}"} and not (there.path / "y").exists()


def test_fetch_names_the_lock_that_a_killed_git_left(ws: Workspace) -> None:
    ws.write("work.txt")
    save_id = ws.save("--json").json["save_id"]
    ws.gitstate("push", "origin")
    there = clone(ws)
    (ref,) = (ref for ref in remote_refs(ws) if ref.endswith(save_id))
    lock = there.git_dir / f"{ref.replace('refs/gitstate', 'refs/gitstate/fetched/origin')}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    run = there.gitstate("fetch", "origin")
    assert run.exit_status == 1 and f"once no git runs here: rm '{lock}'" in run.stderr, run
    lock.unlink()
    assert there.gitstate("fetch", "origin").exit_status == 0


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


def test_names_of_a_hostile_remote_do_no_harm(ws: Workspace, tmp_path: Path) -> None:
    dirty(ws)
    ws.save()
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


def test_push_to_a_missing_remote_fails_and_loses_nothing(ws: Workspace) -> None:
    dirty(ws)
    ws.save()
    before = ws.refs("refs/")
    for command in ("push", "fetch"):
        run = ws.gitstate(command, os.fspath(ws.path.parent / "nowhere"))
        assert run.exit_status == 1 and "Traceback" not in run.stderr
    assert ws.refs("refs/") == before


def only_save(ws: Workspace) -> str:
    (ref,) = ws.refs("refs/gitstate/fetched/origin/saves/")
    return ref.rpartition("/")[2]


def pushed_by_somebody(ws: Workspace, write: dict[str, str]) -> Workspace:
    """A clone in which a save waits that another clone has pushed, with these files."""
    other = clone(ws, "other")
    for name, text in write.items():
        other.write(name, text)
    other.save()
    assert other.gitstate("push", "origin").exit_status == 0
    there = clone(ws, "there")
    assert there.gitstate("fetch", "origin").exit_status == 0
    return there


def test_fetched_save_is_offered_and_not_taken(ws: Workspace) -> None:
    there = pushed_by_somebody(ws, {"work.txt": "work\n"})
    assert all(ref.startswith("refs/gitstate/fetched/origin/") for ref in there.refs("refs/gitstate/"))
    before = fingerprint(there.path)
    run = there.recover()
    (item,) = run.json["workspaces"]
    assert (run.exit_status, item["verdict"]) == (4, "elsewhere")
    assert f"recover --save {only_save(there)}" in item["hint"]
    assert there.gitstate("recover", "--all").exit_status == 4
    assert before.diff(fingerprint(there.path)) == []


def test_fetched_save_that_is_named_is_recovered(ws: Workspace) -> None:
    there = pushed_by_somebody(ws, {"work.txt": "work\n"})
    (item,) = there.recover("--save", only_save(there)).json["workspaces"]
    assert (item["verdict"], item["runs_by_itself"]) == ("restore", [])
    assert (there.path / "work.txt").read_text() == "work\n"
    assert there.recover().json["workspaces"][0]["verdict"] == "recovered"


@pytest.mark.parametrize("options", [(), ("--all",)])
def test_save_of_a_trusted_remote_is_recovered(options: tuple[str, ...], ws: Workspace) -> None:
    there = pushed_by_somebody(ws, {"work.txt": "work\n"})
    there.git("config", "--add", "gitstate.trust", "upstream")
    there.git("config", "--add", "gitstate.trust", "origin")
    assert there.gitstate("recover", *options).exit_status == 0
    assert (there.path / "work.txt").read_text() == "work\n"


def test_fetched_save_that_is_dismissed_is_not_offered_again(ws: Workspace) -> None:
    there = pushed_by_somebody(ws, {"work.txt": "work\n"})
    assert there.recover("--save", only_save(there), "--dismiss").exit_status == 0
    assert there.gitstate("fetch", "origin", "--json").json["waiting"] == []
    assert there.recover().json["workspaces"][0]["verdict"] == "nothing"
    assert len(there.gitstate("push", "origin", "--json").json["recovered"]) == 1


RISKY = [".claude/settings.json", "sub/.codex/hooks.json", ".GEMINI/settings.json", ".envrc", ".husky/pre-commit"]


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", RISKY)
def test_fetched_save_that_could_run_programs_is_refused(name: str, ws: Workspace) -> None:
    there = pushed_by_somebody(ws, {name: "touch canary\n", "work.txt": "work\n"})
    save_id, before = only_save(there), fingerprint(there.path)
    into = str(there.path.parent / "into")
    for command in (
        ("recover", "--save", save_id),
        ("restore", save_id),
        ("recover", "--into", into, "--save", save_id),
    ):
        run = there.gitstate(*command, "--json")
        (item,) = run.json["workspaces"]
        assert (run.exit_status, item["runs_by_itself"]) == (4, [name]), run
        assert name in run.stderr and "--trust" in item["hint"]
    assert before.diff(fingerprint(there.path)) == [] and not os.path.exists(into)
    assert there.recover("--save", save_id, "--trust").exit_status == 0
    assert (there.path / name).read_text() == "touch canary\n"


@pytest.mark.parametrize("options", [(), ("--trust",)])
def test_command_line_of_a_fetched_save_is_used_only_with_trust(options: tuple[str, ...], ws: Workspace) -> None:
    """It names the program that `gitstate resume` starts, which may be a file of the save."""
    other = clone(ws, "other")
    line = "./tools/claude --dangerously-skip-permissions"
    assert other.gitstate("begin", "task_id=T-1", "agent=claude", f"agent_argv={line}", "other=kept").exit_status == 0
    other.write("tools/claude", "#!/bin/sh\n", 0o755)
    other.save()
    assert other.gitstate("push", "origin").exit_status == 0
    there = clone(ws, "there")
    assert there.gitstate("fetch", "origin").exit_status == 0
    run = there.recover("--save", only_save(there), *options)
    (item,) = run.json["workspaces"]
    assert item["context"]["extra"] == {"other": "kept", **({"agent_argv": line} if options else {})}
    assert ("command line of the agent is not used" in item["message"]) == (not options), run


def test_rebase_that_would_run_a_command_is_refused(ws: Workspace) -> None:
    other = clone(ws, "other")
    other.write("second.txt", "2\n")
    other.commit()
    other.git("push", "-q", "origin", "agent/work")
    there = clone(ws, "there")
    other.fails("rebase", "-x", "false", "-x", "touch canary", "HEAD~1")
    assert (other.git_dir / "rebase-merge" / "git-rebase-todo").read_text().startswith("exec touch canary")
    save_id = other.save().json["save_id"]
    assert other.gitstate("push", "origin").exit_status == 0
    there.gitstate("fetch", "origin")
    there.git("checkout", "-q", "--detach")
    (item,) = there.recover("--save", save_id).json["workspaces"]
    assert item["runs_by_itself"] == ["rebase-merge/git-rebase-todo: exec touch canary"]
    assert not (there.git_dir / "rebase-merge").exists()


def test_id_of_an_own_save_never_means_the_archive_of_somebody_else(ws: Workspace) -> None:
    """Whoever can push can put any archive under an id that was pushed once, in a list that sorts first."""
    ws.write("a.txt", "mine\n")
    save_id = ws.save().json["save_id"]
    ws.gitstate("push", "origin")
    ws.recover()
    other = clone(ws, "other")
    other.write("a.txt", "theirs\n")
    theirs = other.save().json["archive"]
    other.git("push", "-q", "origin", f"{theirs}:refs/gitstate/saves/0000-000000000000/{save_id}")
    assert ws.gitstate("fetch", "origin").exit_status == 0
    ws.git("checkout", "-q", "a.txt")
    assert ws.gitstate("restore", save_id, "a.txt").exit_status == 0
    assert (ws.path / "a.txt").read_text() == "mine\n"
    # Where the save is not here, the archive that only bears its name is none either.
    there = clone(ws, "there")
    there.git("fetch", "-q", "origin", "refs/gitstate/saves/0000*:refs/gitstate/fetched/origin/saves/0000*")
    assert there.gitstate("restore", save_id, "a.txt").exit_status == 4


def test_marker_that_waits_here_is_not_replaced(templates: Templates, tmp_path: Path) -> None:
    ws = make(STATES["clean"], templates, tmp_path, linked=True)
    assert ws.main is not None
    run_git(tmp_path, "init", "-q", "--bare", "origin.git")
    ws.git("remote", "add", "origin", str(tmp_path / "origin.git"))
    ws.write("work.txt", "old\n")
    ws.save()
    ws.gitstate("push", "origin")
    ws.recover()
    ws.write("work.txt", "new\n")
    newest = ws.save().json["archive"]
    run_git(tmp_path, "-C", str(ws.main), "worktree", "remove", "--force", str(ws.path))
    assert ws.gitstate("fetch", "origin", path=ws.main).exit_status == 0
    out = run_git(ws.main, "for-each-ref", "--format=%(objectname)", "refs/gitstate/pending/").decode()
    assert out.split() == [newest]


def test_save_with_too_large_a_manifest_is_not_read(ws: Workspace) -> None:
    """A manifest of 256 MB is pushed in one of 2 MB, and takes 4.5 GB when it is parsed."""
    other = clone(ws, "other")
    other.write("work.txt", "work\n")
    other.save()
    with forged(other) as parts:
        parts.raw[b"manifest.json"] = b'{"format": 1' + b" " * (49 << 20) + b"}"
    refused(ws, other, str(parts.manifest["save_id"]), "the limit is")


def test_save_with_billions_of_paths_is_not_read(ws: Workspace) -> None:
    other = clone(ws, "other")
    other.write("work.txt", "work\n")
    other.save()
    with forged(other) as parts:
        tree = parts.tree(*(Entry(b"100644", b"file%d" % number, parts.blob(b"")) for number in range(10)))
        for _ in range(9):
            tree = parts.tree(*(Entry(b"40000", b"dir%d" % number, tree) for number in range(10)))
        parts.wip.append(Entry(b"40000", b"zzz", tree))
    refused(ws, other, str(parts.manifest["save_id"]), "paths")


def refused(ws: Workspace, other: Workspace, save_id: str, why: str) -> None:
    """Push a save that no command reads: each ends soon with 4, and says why."""
    other.git("push", "-q", "origin", "refs/gitstate/*:refs/gitstate/*")
    there = clone(ws, "there")
    assert there.gitstate("fetch", "origin").exit_status == 0
    there.git("config", "gitstate.trust", "origin")
    assert there.recover().json["workspaces"][0]["verdict"] == "nothing"
    for command in ("recover", "--save"), ("restore",), ("diff",):
        begun = time.monotonic()
        run = there.gitstate(*command, save_id)
        assert run.exit_status == 4 and why in run.stderr and time.monotonic() - begun < 30, run
    assert save_id in there.gitstate("log", "--all").text


def test_fetched_saves_are_listed_with_their_remote(ws: Workspace) -> None:
    there = pushed_by_somebody(ws, {"work.txt": "work\n"})
    assert there.gitstate("log", "--json").json["saves"] == []
    (entry,) = there.gitstate("log", "--all", "--json").json["saves"]
    assert (entry["remote"], entry["waiting"], entry["save_id"]) == ("origin", True, only_save(there))
