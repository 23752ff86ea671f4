"""Promises that were broken once: each test is a short story that ended in lost bytes, a wrong answer or a dead end."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from tests.states import Run, Workspace, three_files, why_permissions_cannot_be_tested
from tests.support.oracle import fingerprint


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A repository with one commit of three small files."""
    return three_files(tmp_path)


def done(run: Run, status: int = 0) -> Run:
    assert run.exit_status == status, run
    return run


def save(ws: Workspace, *args: str) -> str:
    """Save, for which there must be a reason; the save's id."""
    run = done(ws.save(*args))
    assert run.json["result"] == "saved", run
    save_id = run.json["save_id"]
    assert isinstance(save_id, str)
    return save_id


def recover(ws: Workspace, *args: str) -> Run:
    return done(ws.recover(*args))


def kept_somewhere(ws: Workspace, data: bytes) -> bool:
    """Whether any object holds these bytes."""
    return data in ws.git("cat-file", "--batch-all-objects", "--batch")


def empty(ws: Workspace, *but: str) -> None:
    """`rm -rf *`, hidden names aside."""
    for name in os.listdir(ws.path):
        if name not in but and not name.startswith("."):
            ws.remove(name)


def mode(ws: Workspace, path: str) -> int:
    return stat.S_IMODE(os.lstat(ws.at(path)).st_mode)


def left_out(run: Run) -> dict[str, bool]:
    """What the save says it left out, and whether that is lost."""
    return {item["path"].rstrip("/"): item["lost"] for item in run.json["left_out"]}


# -- nothing newer is lost


def test_kept_ignored_file_survives_overwrite(ws: Workspace) -> None:
    ws.write(".gitignore", "*.env\n")
    ws.commit()
    ws.write("k.env", "s1\n")
    ws.write("a", "a1\n")
    save(ws, "--include-ignored", "*.env")
    ws.write("k.env", "s2-precious\n")
    ws.write("a", "a2\n")
    save(ws)
    recover(ws, "--overwrite")
    assert kept_somewhere(ws, b"s2-precious") or ws.read("k.env") == b"s2-precious\n"
    assert os.path.exists(ws.at("k.env"))


@pytest.mark.parametrize("command", ["restore", "recover"])
def test_ignored_file_is_saved_before_it_is_overwritten(ws: Workspace, command: str) -> None:
    ws.write(".gitignore", "*.log\n")
    ws.commit()
    ws.write("x.log", "L1\n")
    ws.add("x.log")
    save_id = save(ws)
    recover(ws)
    ws.git("rm", "-q", "--cached", "-f", "x.log")
    ws.write("x.log", "L2-precious\n")
    where = (save_id, "x.log") if command == "restore" else ("--save", save_id)
    ws.gitstate(command, *where, "--overwrite")
    assert kept_somewhere(ws, b"L2-precious") or ws.read("x.log") == b"L2-precious\n"


@pytest.mark.parametrize("kind", ["untracked", "tracked", "configured"])
def test_foreign_file_where_our_state_goes(ws: Workspace, kind: str) -> None:
    name = "mine.json" if kind == "configured" else "active_state.json"
    if kind == "configured":
        ws.config("gitstate.stateFile", name)
    if kind != "untracked":
        ws.write(name, '{"mine":1}\n')
        ws.add(name)
        ws.commit()
    ws.write(name, '{"mine":2}\n')
    ws.write("a", "a1\n")
    save(ws)
    recover(ws)
    assert ws.read(name) == b'{"mine":2}\n'
    assert ws.read("a") == b"a1\n"


def test_checkpoint_can_be_got_back(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    ws.write("u", "new\n")
    save_id = done(ws.gitstate("checkpoint", "--json")).json["save_id"]
    ws.git("checkout", "-q", "a")
    ws.remove("u")
    done(ws.gitstate("restore", save_id, "u"))
    assert ws.read("u") == b"new\n"
    ws.remove("u")
    recover(ws, "--save", save_id)
    assert (ws.read("a"), ws.read("u")) == (b"a1\n", b"new\n")


@pytest.mark.parametrize("new", [None, "log"])
def test_save_of_a_wiped_workspace_hides_nothing(ws: Workspace, new: str | None) -> None:
    """A loop's trap saves once more after the wipe."""
    ws.write("a", "a1\n")
    ws.write("u", "u\n")
    save(ws)
    empty(ws)
    if new:
        ws.write(new, "new\n")
    done(ws.save())
    recover(ws)
    assert {name: ws.read(name) for name in ("a", "b", "d/x", "u")} == {
        "a": b"a1\n", "b": b"b0\n", "d/x": b"x0\n", "u": b"u\n"
    }  # fmt: skip
    assert new is None or ws.read(new) == b"new\n"


def test_context_of_a_save_that_takes_an_edit_back(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    ws.write("a", "a1\n")
    done(ws.save(task_id="T1"))
    ws.write("a", "a0\n")
    done(ws.save(task_id="T2"))
    recover(ws)
    assert done(ws.gitstate("show", "task_id")).stdout == b"T2\n"


def test_wipe_that_spares_hidden_files(ws: Workspace) -> None:
    ws.write(".gitignore", "o\n")
    ws.commit()
    ws.write("a", "a1\n")
    ws.add("a")
    ws.write("a", "a2\n")
    ws.write("u", "u\n")
    save(ws)
    empty(ws)
    recover(ws)
    assert ws.status() == {b"MM a", b"?? u"}
    assert (ws.read("a"), ws.git("cat-file", "blob", ":a"), ws.read("u")) == (b"a2\n", b"a1\n", b"u\n")


def test_staged_after_intent_to_add(ws: Workspace) -> None:
    ws.write("f", "one\n")
    ws.git("add", "-N", "f")
    save(ws)
    ws.write("f", "two\n")
    ws.git("add", "f")
    ws.write("f", "three\n")
    ws.recover()
    assert ws.git("cat-file", "blob", ":f") == b"two\n"
    assert ws.read("f") == b"three\n"


def test_permissions_set_after_the_save_stay(ws: Workspace) -> None:
    ws.write("a", "secret\n")
    save(ws)
    ws.chmod("a", 0o600)
    ws.recover()
    assert mode(ws, "a") == 0o600


# -- what could not be done is said, and can be done later


def test_path_that_cannot_be_written(ws: Workspace) -> None:
    if reason := why_permissions_cannot_be_tested():
        pytest.skip(reason)
    ws.without_override = True
    ws.write("d/x", "dd\n")
    save(ws)
    ws.git("reset", "-q", "--hard", "HEAD~1")
    ws.chmod("d", 0o555)
    try:
        run = ws.recover()
    finally:
        ws.chmod("d", 0o755)
    assert run.exit_status in (1, 4), run
    assert "d/x" in left_out_of_recover(run), run
    recover(ws)
    assert ws.read("d/x") == b"dd\n"


def left_out_of_recover(run: Run) -> set[str]:
    return {item["path"] for one in run.json["workspaces"] for item in one["left_out"]}


def test_foreign_git_directory_is_left_out_aloud(ws: Workspace) -> None:
    ws.write("x/.git/file", "data\n")
    ws.write("x/a", "a\n")
    run = done(ws.save(), 4)
    assert left_out(run)["x/.git"], run


def test_repository_in_a_tracked_directory(ws: Workspace) -> None:
    inner = Workspace(ws.path / "d", ws.outside)
    inner.git("init", "-q")
    inner.add("x")
    inner.commit("inner")
    ws.write("d/x", "d1\n")
    run = done(ws.save())
    manifest = ws.git("cat-file", "blob", run.json["archive"] + ":manifest.json")
    assert b'"path":"d"' in manifest.replace(b" ", b""), (run, manifest)
    shutil.rmtree(ws.path / "d" / ".git")
    ws.write("d/x", "x0\n")
    ws.recover()
    assert ws.read("d/x") == b"d1\n"


def test_files_where_a_submodule_is_not_checked_out(ws: Workspace) -> None:
    ws.git("update-index", "--add", "--cacheinfo", f"160000,{ws.out('rev-parse', 'HEAD')},sub")
    ws.git("commit", "-q", "-m", "sub")
    ws.write("sub/f", "precious\n")
    ws.write("a", "a1\n")
    run = done(ws.save(), 4)
    assert left_out(run)["sub"], run


def test_named_paths_of_restore(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    save_id = save(ws)
    recover(ws)
    ws.remove("d")
    done(ws.gitstate("restore", save_id, "d"))
    assert ws.read("d/x") == b"x0\n"
    ws.remove("a")
    done(ws.gitstate("restore", save_id, "a"))
    assert ws.read("a") == b"a1\n"
    assert ws.gitstate("restore", save_id, "nope", "a").exit_status not in (0, 3)


def test_a_worktree_of_which_all_was_left_out_is_not_called_clean(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    run = done(ws.gitstate("save", "--json", "--deadline", "0.000001"), 4)
    assert left_out(run) == {"a": True} and "clean" not in run.json["message"]
    ws.git("checkout", "--", "a")
    assert "clean" in done(ws.gitstate("save", "--json")).json["message"]


# -- what counts as a change


def test_operation_begun_after_the_save(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    save(ws)
    ws.git("bisect", "start")
    ws.git("bisect", "bad")
    save(ws)
    for trace in ws.git_dir.glob("BISECT_*"):
        trace.unlink()
    recover(ws)
    assert (ws.git_dir / "BISECT_LOG").exists()
    assert ws.read("a") == b"a1\n"


def test_permissions_and_empty_directories_alone(ws: Workspace) -> None:
    ws.chmod("a", 0o600)
    ws.mkdir("empty")
    save(ws)
    ws.chmod("a", 0o644)
    ws.remove("empty")
    recover(ws)
    assert mode(ws, "a") == 0o600
    assert os.path.isdir(ws.at("empty"))


def test_permissions_set_back_before_a_second_save(ws: Workspace) -> None:
    ws.chmod("a", 0o600)
    ws.write("b", "b1\n")
    save(ws)
    ws.chmod("a", 0o644)
    save(ws)
    empty(ws)
    recover(ws)
    assert mode(ws, "a") == 0o644
    assert ws.read("b") == b"b1\n"


def test_nested_worktree_saved_twice(ws: Workspace) -> None:
    ws.git("worktree", "add", "-q", "-b", "wt", ".worktrees/x")
    ws.write(".worktrees/x/a", "n1\n")
    ws.write("b", "p1\n")
    save(ws)
    ws.write(".worktrees/x/a", "n2\n")
    ws.write(".worktrees/x/nu", "nu\n")
    done(ws.save())
    ws.remove(".worktrees")
    ws.recover()
    assert (ws.read(".worktrees/x/a"), ws.read(".worktrees/x/nu"), ws.read("b")) == (b"n2\n", b"nu\n", b"p1\n")
    inner = Workspace(ws.path / ".worktrees" / "x", ws.outside)
    assert inner.status() == {b" M a", b"?? nu"}


# -- after a crash, on another machine, beside others


@pytest.mark.parametrize("torn", [b"", b"DIRC\0\0"])
def test_torn_index(ws: Workspace, torn: bytes) -> None:
    ws.write("a", "a1\n")
    ws.add("a")
    ws.write("a", "a2\n")
    save(ws)
    (ws.git_dir / "index").write_bytes(torn)
    ws.remove("a")
    recover(ws)
    assert (ws.read("a"), ws.git("cat-file", "blob", ":a")) == (b"a2\n", b"a1\n")


def test_torn_index_in_a_dry_run(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    save(ws)
    index = ws.git_dir / "index"
    index.write_bytes(b"")
    ws.remove("a")
    run = recover(ws, "--dry-run")
    assert [item["path"] for item in run.json["workspaces"][0]["restored"]] == ["a"], run
    assert index.read_bytes() == b"" and not os.path.exists(ws.at("a"))


PATCHED = """\
import os, sys
import gitstate.files, gitstate.saving
{}
from gitstate.__main__ import main
main()
"""


def patched(ws: Workspace, patch: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", PATCHED.format(patch), "-C", os.fspath(ws.path), *args]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)


def test_host_name_changed_between_two_saves(ws: Workspace) -> None:
    base = ws.out("rev-parse", "HEAD")
    ws.write("a", "a1\n")
    ws.add("a")
    ws.write("u", "u\n")
    save(ws)
    ws.write("a", "a2\n")
    for command in ("save", "recover"):
        run = patched(ws, "gitstate.files.hostname = lambda: 'otherhost'", command)
        assert run.returncode == 0, run
    assert ws.out("rev-parse", "HEAD") == base
    assert ws.status() == {b"MM a", b"?? u"}
    assert ws.git("cat-file", "blob", ":a") == b"a1\n"


FAILS_ONCE = """\
from gitstate.refs import RefWriter
sync = RefWriter.sync
def once(self, updates):
    if any(update.ref.startswith("refs/heads/") for update in updates):
        RefWriter.sync = sync
        raise OSError(5, "Input/output error")
    sync(self, updates)
RefWriter.sync = once
"""


def test_a_sync_after_the_marker_that_fails_is_said(ws: Workspace) -> None:
    """The kernel tells of a lost write once: trying again succeeds, and would hide it."""
    ws.write("a", "a1\n")
    before = fingerprint(ws.path)
    run = patched(ws, FAILS_ONCE, "save")
    assert run.returncode == 0 and b"saved" in run.stderr, run
    assert b"its note may not be on the disk: Input/output error" in run.stderr, run
    assert "Gitstate-Save" in ws.out("log", "-1", "--format=%B") and ws.status() == set()
    assert ws.out("notes", "--ref=gitstate", "list").count("\n") == 0, "one note"
    recover(ws)
    assert before.diff(fingerprint(ws.path)) == []


SLOW_DISK = """\
import time
from gitstate import refs
sync = refs.fsync_path
def slowly(path):
    time.sleep(0.3)
    top = path.partition(b"/.git/")[0] + b"/.git/"
    held = [name for name in (b"HEAD.lock", b"refs/heads/main.lock") if os.path.lexists(top + name)]
    assert not held, held
    sync(path)
refs.fsync_path = slowly
"""


def test_nobody_waits_for_the_branch_while_the_disk_is_waited_for(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    run = patched(ws, SLOW_DISK, "save")
    assert run.returncode == 0, run
    assert "Gitstate-Save" in ws.out("log", "-1", "--format=%B")


SLOW_OBJECTS = """\
import time
from gitstate import saving
bring = saving.bring_to_disk
def slowly(repository, tag):
    time.sleep(0.3)
    assert not os.path.lexists(os.path.join(repository.common_dir, b"reftable", b"tables.list.lock"))
    bring(repository, tag)
saving.bring_to_disk = slowly
"""


@pytest.fixture
def tables(ws: Workspace) -> Workspace:
    """A workspace whose refs, HEAD among them, stand in a reftable."""
    path = ws.outside / "tables"
    ws.git("init", "-q", "--ref-format=reftable", str(path), check=False)
    if not (path / ".git" / "reftable").exists():
        pytest.skip("this git has no reftable: it came with 2.45")
    found = Workspace(path, ws.outside)
    found.write("a", "a0\n")
    found.commit("base")
    found.write("a", "a1\n")
    return found


def test_a_reftable_which_has_one_lock_for_all_is_not_locked_meanwhile(tables: Workspace) -> None:
    run = patched(tables, SLOW_OBJECTS, "save")
    assert run.returncode == 0, run
    assert tables.refs("refs/gitstate/pending")


def test_what_a_reftable_keeps_of_a_cherry_pick_is_named(tables: Workspace) -> None:
    tables.git("checkout", "-q", "-b", "theirs")
    tables.commit("theirs")
    tables.git("checkout", "-q", "-")
    tables.write("a", "ours\n")
    tables.commit("ours")
    tables.fails("cherry-pick", "theirs")
    before = fingerprint(tables.path)
    run = tables.save()
    assert run.exit_status == 0, run
    assert "CHERRY_PICK_HEAD: git keeps it in the reftable" in run.stderr
    recover(tables)
    assert before.diff(fingerprint(tables.path)) == []
    assert tables.out("rev-parse", "CHERRY_PICK_HEAD") == tables.out("rev-parse", "theirs")


def test_the_branch_of_a_reftable_is_the_one_that_git_knows(tables: Workspace) -> None:
    tables.add("a")
    tables.write("a", "a2\n")
    before = fingerprint(tables.path)
    branch = tables.out("symbolic-ref", "--short", "HEAD")
    assert tables.save().json["branch"] == branch
    assert tables.status() == set() and "Gitstate-Save" in tables.out("log", "-1", "--format=%B")
    tables.git("reset", "-q", "--hard", "HEAD~2")
    recover(tables)
    assert before.diff(fingerprint(tables.path)) == []
    tables.git("checkout", "-q", "--detach")
    assert tables.save().json["branch"] is None


def test_a_waiting_save_that_can_not_be_read_stops_no_other(ws: Workspace) -> None:
    ws.git("checkout", "-q", "--detach")
    ws.write("a", "a1\n")
    save(ws)
    (archive,) = ws.refs("refs/gitstate/pending").values()
    manifest = ws.out("rev-parse", f"{archive}:manifest.json")
    for index in (ws.git_dir / "objects" / "pack").glob("*.idx"):
        for line in ws.git("show-index", stdin=index.read_bytes()).decode().splitlines():
            if manifest in line:
                pack = index.with_suffix(".pack")
                pack.chmod(0o644)
                with pack.open("r+b") as file:
                    file.seek(int(line.split()[0]) + 5)
                    file.write(b"no deflate")
    ws.fails("cat-file", "-p", manifest)
    ws.write("b", "b1\n")
    save(ws)
    (later,) = ws.refs("refs/gitstate/pending").values()
    assert later != archive and ws.git("show", f"{later}^1:a") == b"a1\n"


def tear(ws: Workspace, oid: str, left: int | bytes) -> None:
    """Leave of a loose object what a power cut may leave of one that was never synced: a beginning, or other bytes."""
    path = ws.git_dir / "objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:left] if isinstance(left, int) else left)


@pytest.mark.parametrize("left", [0, 12, bytes(40), zlib.compress(b"bogus 3\0abc"), zlib.compress(b"no kind 3\0abc")])
def test_what_is_staged_and_torn_is_saved_from_the_file_itself(ws: Workspace, left: int | bytes) -> None:
    for name in ("s", "t", "u"):
        ws.write(name, f"{name}\n" * 100)
        ws.add(name)
    before = fingerprint(ws.path)
    tear(ws, ws.out("rev-parse", ":t"), left)
    save(ws)
    for name in ("s", "t", "u"):
        ws.remove(name)
    ws.git("reset", "-q", "--hard", "HEAD~2")
    recover(ws)
    assert before.diff(fingerprint(ws.path)) == []
    assert ws.git("cat-file", "blob", ":t") == b"t\n" * 100


def test_what_a_partial_clone_has_staged_and_not_here_stays_staged(ws: Workspace) -> None:
    ws.config("uploadpack.allowFilter", "true")
    ws.config("uploadpack.allowAnySHA1InWant", "true")
    blob = ws.out("rev-parse", "HEAD:a")
    partial = Workspace(ws.outside / "partial", ws.outside)
    url = f"file://{ws.path}"
    ws.git("clone", "-q", "--filter=blob:none", "--no-checkout", url, str(partial.path))
    partial.git("read-tree", "--empty")
    partial.git("update-index", "--add", "--info-only", "--cacheinfo", f"100644,{blob},elsewhere")
    partial.write("here", "here\n")
    run = partial.save()
    assert run.exit_status == 0, run
    assert "can't be read" not in run.stderr, run
    assert f"100644 blob {blob}\telsewhere" in partial.out("ls-tree", "-r", "HEAD~1")


def test_what_is_staged_torn_and_nowhere_else_is_left_out_aloud(ws: Workspace) -> None:
    for name in ("a", "s"):
        ws.write(name, "staged\n" * 100)
        ws.add(name)
        tear(ws, ws.out("rev-parse", f":{name}"), 12)
        ws.write(name, "edited\n")
        ws.write(name + "2", "staged too\n")
        ws.add(name + "2")
    run = ws.save()
    assert run.exit_status == 4 and "left out: s: what is staged of it can't be read" in run.stderr, run
    assert ws.git("show", "HEAD:a") == ws.git("show", "HEAD:s") == b"edited\n"
    assert ws.git("show", "HEAD~1:a2") == b"staged too\n"
    ws.git("reset", "-q", "--hard", "HEAD~2")
    assert "left out: a: what is staged of it can't be read" in recover(ws).stderr
    assert ws.read("a") == ws.read("s") == b"edited\n"


NO_ROOM = """\
mkdir = os.mkdir
def full(path, *mode, **where):
    if path == b"inner":
        raise OSError(28, "No space left on device")
    mkdir(path, *mode, **where)
os.mkdir = full
"""


def test_an_empty_directory_that_can_not_be_made_is_said(ws: Workspace) -> None:
    ws.mkdir("hollow/inner")
    before = fingerprint(ws.path)
    save(ws)
    shutil.rmtree(ws.path / "hollow")
    run = patched(ws, NO_ROOM, "recover")
    assert run.returncode not in (0, 3) and b"hollow/inner: it could not be written: No space" in run.stderr, run
    assert ws.refs("refs/gitstate/pending"), "it waits on"
    recover(ws)
    assert before.diff(fingerprint(ws.path)) == []


KEEPS_MODES = """\
fchmod = os.fchmod
def refuses(fd, mode):
    if mode == 0o711:
        raise OSError(30, "Read-only file system")
    fchmod(fd, mode)
os.fchmod = refuses
"""


def test_permissions_of_a_directory_that_can_not_be_set_are_said(ws: Workspace) -> None:
    ws.mkdir("hollow", 0o711)
    save(ws)
    (ws.path / "hollow").rmdir()
    run = patched(ws, KEEPS_MODES, "recover")
    assert b"hollow: its permissions can't be set: Read-only" in run.stderr, run


def test_a_file_where_a_directory_was_keeps_its_permissions(ws: Workspace) -> None:
    ws.mkdir("hollow", 0o711)
    save(ws)
    (ws.path / "hollow").rmdir()
    ws.write("hollow", "newer\n")
    (ws.path / "hollow").chmod(0o755)
    ws.recover()
    assert (ws.path / "hollow").read_text() == "newer\n"
    assert (ws.path / "hollow").stat().st_mode & 0o777 == 0o755


STAYS = """\
import shutil
shutil.rmtree = lambda path, **how: None
"""


def test_what_a_disk_would_not_remove_the_next_command_removes(ws: Workspace) -> None:
    ws.write("u", "u\n")
    save(ws)
    ws.remove("a")
    assert patched(ws, STAYS, "recover").returncode == 0
    left = ws.git_dir / "gitstate" / "checkout"
    assert left.exists() and (ws.path / "a").exists()
    assert recover(ws).json["workspaces"][0]["verdict"] == "nothing"
    assert not left.exists() and not (ws.git_dir / "gitstate" / "journal").exists()


def test_lock_of_a_living_git_stays_after_a_killed_save(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    ws.add("a")
    save(ws)
    recover(ws)
    ws.write("zz", "zz\n")
    run = patched(ws, "gitstate.saving.Saving._make_durable = lambda self, *given: os.kill(os.getpid(), 9)", "save")
    assert run.returncode == -signal.SIGKILL, run
    assert (ws.git_dir / "gitstate" / "journal").exists()
    ws.write("a", "a7\n")
    ws.add("a")
    lock, before, after = ws.git_dir / "index.lock", ws.outside / "before", ws.outside / "after"
    editor = ws.script(
        "editor",
        f"ls -i '{lock}' >'{before}'; '{sys.executable}' -m gitstate -C '{ws.path}' save --wait 5\n"
        f"ls -i '{lock}' >'{after}'; exit 1\n",
    )
    ws.git("commit", "-a", check=False, env={"GIT_EDITOR": os.fspath(editor)})
    assert before.read_text() and before.read_text() == after.read_text()


def test_save_beside_a_busy_agent(ws: Workspace) -> None:
    ws.write("u", "u\n")
    loop = ws.script(
        "agent",
        "i=0; while [ $i -lt 2000 ]; do i=$((i + 1)); echo $i >n$i; git add n$i; git commit -q -m $i; done\n",
    )
    with subprocess.Popen([loop], cwd=ws.path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as agent:
        try:
            time.sleep(0.1)
            runs = [ws.save("--wait", "5") for _ in range(3)]
        finally:
            agent.kill()
    assert [run.exit_status for run in runs] == [0] * 3, "\n".join(map(str, runs))
    assert kept_somewhere(ws, b"u\n")


# -- a terminal that is gone never turns success into failure


@pytest.mark.parametrize(
    ("options", "redirection"),
    [
        ("", ">&-"),
        ("", "2>&-"),
        ("", "2>/dev/full"),
        ("--json", ">&-"),
        ("--json", ">/dev/full"),
        ("--json", "<&- >&- 2>&-"),
    ],
)
def test_streams_that_are_gone(ws: Workspace, options: str, redirection: str) -> None:
    ws.write("a", "a1\n")
    for command in ("save", "recover"):
        words = f'"$0" -m gitstate -C "$1" {command} {options} {redirection}'
        run = subprocess.run(["sh", "-c", words, sys.executable, ws.path], capture_output=True, timeout=60)
        assert run.returncode == 0, (command, run)
        assert b"Traceback" not in run.stdout + run.stderr
    assert ws.status() == {b" M a"}


def test_answer_to_no_command_has_lines(ws: Workspace) -> None:
    run = ws.gitstate()
    assert b"\\n" not in run.stdout + run.stderr.encode()
    assert run.stderr.count("\n") > 1


def test_files_that_are_new_to_git_but_the_same_are_not_written_again(ws: Workspace) -> None:
    """As after a restore from a backup: every inode is another one, no byte is."""
    ws.write("a", "edited\n")
    save(ws)
    for name in ("a", "b", "d/x"):
        shutil.copy2(ws.path / name, ws.outside / "copy")
        os.replace(ws.outside / "copy", ws.path / name)
    before = {name: (ws.path / name).stat().st_ino for name in ("a", "b", "d/x")}
    (found,) = recover(ws).json["workspaces"]
    assert found["restored"] == []
    assert {name: (ws.path / name).stat().st_ino for name in before} == before


@pytest.mark.parametrize(("lock", "asked"), [("refs/heads/main.lock", 1), ("refs/notes/gitstate.lock", 2)])
def test_a_lock_that_is_held_is_waited_for_once(ws: Workspace, hermetic: Path, lock: str, asked: int) -> None:
    """Git waits for seconds, and what fails there ends it: one that was started more often has waited more often."""
    trace = ws.outside / "trace"
    with (hermetic / ".gitconfig").open("a") as config:
        config.write(f"[trace2]\n\teventTarget = {trace}\n")
    ws.write("a", "a2\n")
    held = ws.common_dir / lock
    held.parent.mkdir(parents=True, exist_ok=True)
    held.touch()
    save(ws)
    assert trace.read_text().count('"update-ref","-m"') == asked
