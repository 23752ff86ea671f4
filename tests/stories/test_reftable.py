"""A workspace whose refs are in a reftable, which only git can read: all that is told from files elsewhere holds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from gitstate.git.opening import open_repository
from gitstate.git.refs import is_checked_out_elsewhere
from gitstate.git.repository import read_head
from gitstate.objects.durable import _control_files
from tests.support.oracle import fingerprint
from tests.support.patched import patched
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.skips import NO_MIGRATION, NO_REF_STORAGE, NOT_ROOT
from tests.support.tables import in_tables
from tests.support.workspace import Workspace, run_git

OLD = 1_500_000_000


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """One commit of two files, one of which was edited since."""
    ws = in_tables(tmp_path)
    ws.write("a.txt", "a\n")
    ws.write("b.txt", "b\n")
    ws.commit("base")
    ws.append("a.txt")
    return ws


def _linked(ws: Workspace, branch: str) -> Workspace:
    ws.git("worktree", "add", "-q", "-b", branch, ws.path.parent / branch)
    return Workspace(ws.path.parent / branch, ws.outside, main=ws.path)


@pytest.mark.parametrize("default", ["files", "reftable"])
def test_save_is_proven_whatever_git_makes_by_default(default: str, ws: Workspace, tmp_path: Path) -> None:
    plain = Workspace(tmp_path / "plain", ws.outside)
    run_git(tmp_path, "init", "-q", "--ref-format=files", plain.path)
    plain.write("a.txt")
    ws.git("config", "--global", "init.defaultRefFormat", default)
    for one in (ws, plain):
        saved_from(one.save())
        run = one.gitstate("verify", "--json")
        assert run.exit_status == 0 and run.json["workspaces"][0]["proven"], run


@pytest.mark.parametrize("then", ["save", "recover"])
def test_save_that_was_killed_stops_no_later_command(then: str, ws: Workspace) -> None:
    saved_from(ws.save())
    recovered_from(ws.recover())
    ws.write("c.txt")
    before = fingerprint(ws.path)
    hold = "gitstate.save.publish.Publisher.make_durable = lambda self, *given: os.kill(os.getpid(), 9)"
    assert patched(ws, hold, "save").returncode == -signal.SIGKILL
    assert (ws.git_dir / "gitstate" / "journal").exists()
    # As a git does that was killed with it.
    lock = ws.git_dir / "reftable" / "tables.list.lock"
    lock.touch()
    if then == "recover":
        ws.recover()
    else:
        saved_from(ws.save())
        recovered_from(ws.recover())
    assert not lock.exists() and before.diff(fingerprint(ws.path)) == []
    assert not (ws.git_dir / "gitstate" / "journal").exists()


def test_lock_that_is_older_than_this_boot_is_removed(ws: Workspace) -> None:
    saved_from(ws.save())
    lock = ws.git_dir / "reftable" / "tables.list.lock"
    lock.touch()
    os.utime(lock, (OLD, OLD))
    assert [item for item in ws.gitstate("doctor", "--json").json["findings"] if item["check"] == "lock"]
    recovered_from(ws.recover())
    assert not lock.exists()


def test_lock_of_a_git_that_was_killed_costs_no_save(ws: Workspace) -> None:
    lock = ws.git_dir / "reftable" / "tables.list.lock"
    lock.touch()
    assert saved_from(ws.save()).moved and not lock.exists()


def test_lock_that_somebody_holds_is_named_with_the_way_out(ws: Workspace) -> None:
    lock = ws.git_dir / "reftable" / "tables.list.lock"
    with open(lock, "w"):
        run = ws.save("--deadline", "1")
        assert run.exit_status == 1 and f"rm {lock}" in run.json["hint"], run
        assert lock.exists()


def _lose_commit(git_dir: Path) -> Path:
    oid = run_git(git_dir, "rev-parse", "HEAD").decode().strip()
    return git_dir / "objects" / oid[:2] / oid[2:]


@pytest.mark.parametrize("what", ["HEAD", "refs", "commit"])
def test_save_is_taken_though_a_part_of_the_git_directory_is_gone(what: str, ws: Workspace) -> None:
    ws.git("commit", "-q", "--allow-empty", "-m", "next")
    ws.write("new.txt")
    ws.add("new.txt")
    before = fingerprint(ws.path)
    part = _lose_commit(ws.git_dir) if what == "commit" else ws.git_dir / what
    part.rename(ws.outside / "part")
    saved_from(ws.save(), exits=(4,))
    (ws.outside / "part").rename(part)
    ws.git("reset", "-q", "--hard")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


def test_save_is_taken_though_the_configuration_is_damaged(ws: Workspace) -> None:
    before = fingerprint(ws.path)
    config = ws.git_dir / "config"
    content = config.read_text()
    config.write_text(f"{content}[status]\n\tshowUntrackedFiles = some\n")
    saved_from(ws.save(), exits=(4,))
    config.write_text(content)
    ws.git("reset", "-q", "--hard")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


def test_doctor_mends_the_head_that_is_gone(ws: Workspace) -> None:
    (ws.git_dir / "HEAD").unlink()
    (told,) = [item["next"] for item in ws.gitstate("doctor", "--json").json["findings"] if "HEAD" in item["what"]]
    subprocess.run(told, shell=True, check=True)
    assert ws.out("symbolic-ref", "HEAD") == "refs/heads/main"


def test_save_of_a_worktree_that_is_gone_is_told(ws: Workspace) -> None:
    other = _linked(ws, "other")
    other.write("c.txt")
    save_id = saved_from(other.save()).save_id
    shutil.rmtree(other.path)
    ws.git("checkout", "-q", "a.txt")
    told = ws.gitstate("recover")
    assert told.exit_status == 4 and "recover --into" in told.stderr, told
    all_of_them = ws.gitstate("recover", "--all", "--json").json["workspaces"]
    assert [item["save_id"] for item in all_of_them if item["verdict"] == "elsewhere"] == [save_id]


def test_branch_that_another_worktree_is_on_does_not_move(ws: Workspace, tmp_path: Path) -> None:
    repository = open_repository(os.fsencode(ws.path))
    assert not is_checked_out_elsewhere(repository, "refs/heads/main")
    ws.git("worktree", "add", "-q", "--force", tmp_path / "two", "main")
    assert is_checked_out_elsewhere(repository, "refs/heads/main")
    assert not is_checked_out_elsewhere(repository, "refs/heads/mai")
    assert not saved_from(ws.save()).moved
    (tmp_path / "two").rename(tmp_path / "gone")
    assert not is_checked_out_elsewhere(repository, "refs/heads/main")


def test_branch_that_is_a_symbolic_ref_is_the_branch(ws: Workspace) -> None:
    ws.git("branch", "-q", "topic")
    ws.git("symbolic-ref", "refs/heads/main", "refs/heads/topic")
    assert read_head(os.fsencode(ws.git_dir)) == "refs/heads/main"


@pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT)
def test_branch_of_a_repository_that_is_trusted_by_its_path_is_read(ws: Workspace) -> None:
    for directory, _, names in os.walk(ws.path):
        for name in ("", *names):
            os.lchown(os.path.join(directory, name), 54321, 54321)
    ws.git("config", "--global", "safe.directory", ws.path)
    assert saved_from(ws.save()).moved


def test_run_that_crashed_is_called_so(ws: Workspace) -> None:
    owner = subprocess.Popen(["sleep", "600"])
    assert ws.gitstate("begin", "--task-id", "T-1", "--owner-pid", str(owner.pid)).exit_status == 0
    owner.kill()
    owner.wait()
    (status,) = ws.gitstate("status", "--json").json["workspaces"]
    assert status["status"] == "crashed"


def test_all_stashes_and_heads_of_a_repository_inside_come_back(ws: Workspace, tmp_path: Path) -> None:
    inner = Workspace(ws.path / "lib", ws.outside)
    run_git(ws.path, "init", "-q", "--ref-format=reftable", "lib")
    inner.write("f.txt", "f\n")
    inner.commit("base")
    for number in range(3):
        inner.append("f.txt", f"{number}\n")
        inner.git("stash", "-q")
    stashes = inner.out("stash", "list", "--format=%H %gs")
    inner.git("worktree", "add", "-q", "--detach", tmp_path / "detached")
    alone = Workspace(tmp_path / "detached", ws.outside)
    alone.write("alone.txt")
    commit = alone.commit("alone")
    saved_from(ws.save(), exits=(0, 4))
    shutil.rmtree(inner.path)
    recovered_from(ws.recover())
    assert len(stashes.splitlines()) == 3 and inner.out("stash", "list", "--format=%H %gs") == stashes
    inner.git("stash", "show", "-p", "stash@{2}")
    assert inner.git("cat-file", "-t", commit) == b"commit\n"


def test_tables_are_among_what_a_save_brings_to_the_disk(ws: Workspace) -> None:
    other = _linked(ws, "other")
    for place in (ws, other):
        found = [*_control_files(open_repository(os.fsencode(place.path)))]
        for tables in {ws.git_dir / "reftable", place.git_dir / "reftable"}:
            assert {os.fsencode(tables), *(os.fsencode(path) for path in tables.iterdir())} <= {*found}


def test_pending_save_is_migrated_with_its_repository(ws: Workspace) -> None:
    for other in ("files", "reftable"):
        ws.append("a.txt", f"before {other}\n")
        before = fingerprint(ws.path)
        saved_from(ws.save())
        ws.git("refs", "migrate", f"--ref-format={other}", check=False)
        if (ws.git_dir / "reftable").exists() == (other == "files"):
            pytest.skip(NO_MIGRATION)
        assert recovered_from(ws.recover())["verdict"] == "restore"
        assert before.files == fingerprint(ws.path).files


@pytest.mark.parametrize("kind", ["files", "reftable"])
def test_refs_may_be_outside_of_the_repository(kind: str, tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "repo", tmp_path)
    (tmp_path / "refs").mkdir()
    environment = {"GIT_REFERENCE_BACKEND": f"{kind}://{tmp_path}/refs"}
    run_git(tmp_path, "init", "-q", "-b", "main", ws.path, env=environment)
    if "refstorage" not in (ws.path / ".git" / "config").read_text():
        pytest.skip(NO_REF_STORAGE)
    ws.write("a.txt", "a\n")
    ws.commit("base")
    ws.git("checkout", "-q", "-b", "topic")
    ws.append("a.txt")
    before = fingerprint(ws.path)
    assert saved_from(ws.save()).document["branch"] == "topic"
    (status,) = ws.gitstate("status", "--json").json["workspaces"]
    assert status["status"] == "interrupted"
    assert ws.gitstate("verify").exit_status == 0
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []
    ws.git("checkout", "-q", "--detach")
    assert saved_from(ws.save()).document["branch"] is None
