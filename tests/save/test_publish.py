"""Refs and locks of a save: failures after the marker, the lock of the branch, reftables."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.oracle import fingerprint
from tests.support.patched import patched
from tests.support.skips import NO_REFTABLE
from tests.support.small import kept_somewhere, recover, save
from tests.support.workspace import Workspace

FAILS_ONCE = """\
from gitstate.git.refs import RefWriter
sync = RefWriter.sync
def once(self, updates):
    if any(update.ref.startswith("refs/heads/") for update in updates):
        RefWriter.sync = sync
        raise OSError(5, "Input/output error")
    sync(self, updates)
RefWriter.sync = once
"""


def test_fsync_failure_after_marker_is_reported(ws: Workspace) -> None:
    """The kernel reports a lost write once; a retry succeeds and would hide it."""
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
from gitstate.git import refs
sync = refs.fsync_paths
def slowly(paths):
    time.sleep(0.3)
    paths = list(paths)
    top = paths[0].partition(b"/.git/")[0] + b"/.git/"
    held = [name for name in (b"HEAD.lock", b"refs/heads/main.lock") if os.path.lexists(top + name)]
    assert not held, held
    sync(paths)
refs.fsync_paths = slowly
"""


def test_branch_is_not_locked_during_fsync(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    run = patched(ws, SLOW_DISK, "save")
    assert run.returncode == 0, run
    assert "Gitstate-Save" in ws.out("log", "-1", "--format=%B")


SLOW_OBJECTS = """\
import time
from gitstate.save import publish
class Slowly(publish.OthersToDisk):
    def __init__(self, repository, tag, others=()):
        time.sleep(0.3)
        assert not os.path.lexists(os.path.join(repository.common_dir, b"reftable", b"tables.list.lock"))
        super().__init__(repository, tag, others)
publish.OthersToDisk = Slowly
"""


@pytest.fixture
def tables(ws: Workspace) -> Workspace:
    """A workspace whose refs, HEAD among them, stand in a reftable."""
    path = ws.outside / "tables"
    ws.git("init", "-q", "--ref-format=reftable", str(path), check=False)
    if not (path / ".git" / "reftable").exists():
        pytest.skip(NO_REFTABLE)
    found = Workspace(path, ws.outside)
    found.write("a", "a0\n")
    found.commit("base")
    found.write("a", "a1\n")
    return found


def test_reftable_is_not_locked_during_fsync(tables: Workspace) -> None:
    run = patched(tables, SLOW_OBJECTS, "save")
    assert run.returncode == 0, run
    assert tables.refs("refs/gitstate/pending")


def test_branch_of_a_reftable_is_read_through_git(tables: Workspace) -> None:
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


def test_killed_save_leaves_the_lock_of_a_live_git(ws: Workspace) -> None:
    ws.write("a", "a1\n")
    ws.add("a")
    save(ws)
    recover(ws)
    ws.write("zz", "zz\n")
    run = patched(
        ws, "gitstate.save.publish.Publisher.make_durable = lambda self, *given: os.kill(os.getpid(), 9)", "save"
    )
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


def test_save_beside_a_committing_agent_succeeds(ws: Workspace) -> None:
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


@pytest.mark.parametrize(("lock", "asked"), [("refs/heads/main.lock", 1), ("refs/notes/gitstate.lock", 2)])
def test_held_lock_is_waited_for_once(ws: Workspace, hermetic: Path, lock: str, asked: int) -> None:
    """Each `git update-ref` waits for seconds; the count of its starts is the count of waits."""
    trace = ws.outside / "trace"
    with (hermetic / ".gitconfig").open("a") as config:
        config.write(f"[trace2]\n\teventTarget = {trace}\n")
    ws.write("a", "a2\n")
    held = ws.common_dir / lock
    held.parent.mkdir(parents=True, exist_ok=True)
    held.touch()
    save(ws)
    assert trace.read_text().count('"update-ref","-m"') == asked
