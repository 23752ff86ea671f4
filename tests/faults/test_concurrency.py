"""Concurrency: saves beside `gc`, `pack-refs` and an agent's git; save against recover; held locks.

No test depends on timing: each starts all processes, waits until all have ended, and checks the result.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.look import lock_files
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.patched import patched
from tests.support.recovering import recovered_from
from tests.support.workspace import Run, Workspace

from .checks import check_integrity, recover_to_the_end
from .sweeps import Say

WAIT = 600.0


def started(ws: Workspace, *args: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "gitstate", "-C", os.fspath(ws.path), *args, "--json"]
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ws.outside
    )


def ended(process: subprocess.Popen[bytes]) -> Run:
    stdout, stderr = process.communicate(timeout=WAIT)
    return Run(process.returncode, stdout, stderr.decode("utf-8", "replace"))


@contextlib.contextmanager
def beside(*works: Callable[[int], None]) -> Iterator[list[int]]:
    """Each of `works` again and again in a thread of its own, with a number; yields how often each came round."""
    over, rounds = threading.Event(), [0] * len(works)
    failures: list[BaseException] = []

    def again(place: int) -> None:
        try:
            while not over.is_set():
                works[place](rounds[place])
                rounds[place] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=again, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    try:
        yield rounds
    finally:
        over.set()
        for thread in threads:
            thread.join(WAIT)
    if failures:
        raise failures[0]


def linked_worktrees(ws: Workspace, number: int) -> list[tuple[Workspace, Fingerprint]]:
    found = []
    for n in range(number):
        path = ws.path.with_name(f"tree-{n}")
        ws.git("worktree", "add", "-q", "-b", f"agent/{n}", path)
        tree = Workspace(path, ws.outside, main=ws.path)
        tree.append("a.txt", f"{n}\n")
        tree.write("untracked.txt", f"{n}\n" * 100)
        tree.append("b.txt", f"staged {n}\n")
        tree.add("b.txt")
        if n % 4 == 0:
            tree.write("large.bin", os.urandom(9 << 20))  # too large for memory: it goes past the pack of the others
        found.append((tree, fingerprint(path)))
    return found


def savers(ws: Workspace, number: int, most: int, *works: Callable[[int], None]) -> list[int]:
    """`number` worktrees are saved at once; then `most` of them recovered, all beside `works`."""
    trees = linked_worktrees(ws, number)
    with beside(*works) as rounds:
        running = [started(tree, "save", "--task-id", f"T-{n}") for n, (tree, _) in enumerate(trees)]
        answers = [ended(process) for process in running]
        for n, run in enumerate(answers):
            assert run.exit_status == 0, str(run)
            assert run.json["result"] == "saved" and run.json["branch_moved"], str(run)
            note = json.loads(ws.git("notes", "--ref=gitstate", "show", run.json["wip_commit"]))
            assert note["task_id"] == f"T-{n}"
        assert len(ws.refs("refs/gitstate/pending")) == number
        chosen = trees[:: max(1, number // most)]
        recovers = [started(tree, "recover") for tree, _ in chosen]
        for process in recovers:
            recovered_from(ended(process))
    for tree, before in chosen:
        assert before.diff(fingerprint(tree.path)) == []
    check_integrity(ws)
    assert lock_files(ws) == frozenset()
    return rounds


NUMBERS = [pytest.param(6, id="6"), pytest.param(40, id="40", marks=pytest.mark.slow)]


@pytest.mark.faults
@pytest.mark.parametrize("number", NUMBERS)
def test_parallel_saves_survive_gc_and_pack_refs(number: int, ws: Workspace, say: Say) -> None:
    """`gc --prune=now` drops what no ref, index or `.keep` holds; `pack-refs` moves every ref into another file."""

    def collect(_: int) -> None:
        ws.git("gc", "-q", "--prune=now", check=False)

    def pack(_: int) -> None:
        ws.git("pack-refs", "--all", check=False)

    rounds = savers(ws, number, 8, collect, pack)
    say(f"{number} savers, beside them {rounds[0]} gc --prune=now and {rounds[1]} pack-refs")


@pytest.mark.faults
@pytest.mark.parametrize("number", NUMBERS)
def test_parallel_saves_survive_commits_and_notes_of_agents(number: int, ws: Workspace, say: Say) -> None:
    """Commits on a branch of the agent's own, notes of its own in its own ref and in the one for everybody."""
    own = ws.path.with_name("own")
    ws.git("worktree", "add", "-q", "-b", "own", own)
    agent = Workspace(own, ws.outside, main=ws.path)
    made: list[str] = []

    def commit(number: int) -> None:
        agent.write("log.txt", f"{number}\n")
        made.append(agent.commit(f"number {number}"))
        for ref in ("own", "commits"):
            agent.git("notes", f"--ref={ref}", "add", "-f", "-m", f"note {number}", "HEAD")

    def pack(_: int) -> None:
        ws.git("pack-refs", "--all", check=False)

    rounds = savers(ws, number, 8, commit, pack)
    assert agent.out("rev-list", "--reverse", f"{made[0]}^..own").split() == made
    for number_of, oid in enumerate(made):
        assert agent.out("notes", "--ref=own", "show", oid) == f"note {number_of}"
    say(f"{number} savers, beside them {rounds[0]} commits with notes and {rounds[1]} pack-refs")


#: Runs `git gc --prune=now` at the last moment at which no ref holds what a save wrote.
COLLECT_BEFORE_THE_MARKER = """\
import subprocess
from gitstate.git import refs
carry_out, done = refs.RefWriter.carry_out, []
def collect(self):
    if not done:
        done.append(True)
        subprocess.run(["git", "gc", "-q", "--prune=now"], cwd=self._repository.toplevel, check=True)
    carry_out(self)
refs.RefWriter.carry_out = collect"""


@pytest.mark.faults
def test_gc_before_the_refs_move_loses_no_object(ws: Workspace) -> None:
    ws.write("untracked.txt", "new\n")
    ws.write("large.bin", os.urandom(9 << 20))
    before = fingerprint(ws.path)
    done = patched(ws, COLLECT_BEFORE_THE_MARKER, "save")
    assert done.returncode == 0, done.stderr
    check_integrity(ws)
    ws.git("clean", "-ffdxq")
    assert recovered_from(ws.recover())["verdict"] == "restore"
    assert before.diff(fingerprint(ws.path)) == []


#: The agent's own git, at the last moment before the save's refs are moved.
AGENT_BEFORE_THE_MARKER = """\
import subprocess
from gitstate.git import refs
carry_out, done = refs.RefWriter.carry_out, []
def interrupted(self):
    if not done:
        done.append(True)
        for words in ({}):
            subprocess.run(["git", *words], cwd=self._repository.toplevel, check=True)
    carry_out(self)
refs.RefWriter.carry_out = interrupted"""


@pytest.mark.faults
def test_branch_that_moves_during_a_save_is_kept(ws: Workspace) -> None:
    """The agent's commit stays on its branch; the save does not move the branch."""
    ws.append("a.txt")
    work = ws.read("a.txt")
    words = '["commit", "-q", "--allow-empty", "-m", "the agent\'s own"],'
    done = patched(ws, AGENT_BEFORE_THE_MARKER.format(words), "save")
    assert done.returncode == 0, done.stderr
    assert ws.out("log", "-1", "--format=%s") == "the agent's own"
    assert ws.read("a.txt") == work
    (archive,) = ws.refs("refs/gitstate/pending").values()
    assert ws.git("cat-file", "blob", f"{archive}^1:a.txt") == work
    check_integrity(ws)


#: Somebody else's note, put into our notes ref between the look at it and the move of it, twice.
NOTE_BEFORE_OURS = """\
import subprocess
from gitstate.format.names import NOTES
from gitstate.git import refs
prepare, done = refs.RefWriter.prepare, []
def interrupted(self, updates, **options):
    if any(update.ref == NOTES for update in updates) and len(done) < 2:
        done.append(True)
        words = ["git", "notes", "--ref=gitstate", "add", "-f", "-m", "somebody's", "HEAD~" + str(len(done) - 1)]
        subprocess.run(words, cwd=self._repository.toplevel, check=True)
    return prepare(self, updates, **options)
refs.RefWriter.prepare = interrupted"""


@pytest.mark.faults
def test_note_written_during_a_save_is_kept(ws: Workspace) -> None:
    """Both notes exist: ours is rebuilt on top of the other one."""
    head = ws.out("rev-parse", "HEAD")
    ws.append("a.txt")
    done = patched(ws, NOTE_BEFORE_OURS, "save", "--task-id", "T-1", "--json")
    assert done.returncode == 0, done.stderr
    wip = json.loads(done.stdout)["wip_commit"]
    assert json.loads(ws.git("notes", "--ref=gitstate", "show", wip))["task_id"] == "T-1"
    assert ws.out("notes", "--ref=gitstate", "show", head) == "somebody's"


@pytest.mark.faults
def test_file_staged_during_a_save_stays_staged(ws: Workspace) -> None:
    """A file that the agent stages during a save stays staged."""
    ws.append("a.txt")
    blob = ws.out("rev-parse", "HEAD:c.txt")
    words = f'["update-index", "--add", "--cacheinfo", "100644,{blob},late.txt"],'
    done = patched(ws, AGENT_BEFORE_THE_MARKER.format(words), "save")
    assert done.returncode == 0, done.stderr
    assert ws.out("rev-parse", ":late.txt") == blob
    assert ws.recover().exit_status in (0, 4)
    assert ws.out("rev-parse", ":late.txt") == blob
    assert ws.read("a.txt").endswith(b"one more line\n")


@pytest.mark.faults
def test_index_written_in_place_during_a_save_is_read_again(ws: Workspace) -> None:
    """As by go-git: the file stays the same one, and what git has listed of it is out of date."""
    ws.write(".gitattributes", "a.txt filter=slow\n")
    ws.add(".gitattributes")
    ws.commit()
    index, other, blob = ws.git_dir / "index", ws.git_dir / "other", ws.out("rev-parse", "HEAD:c.txt")
    shutil.copy2(index, other)
    staging = ("update-index", "--add", "--cacheinfo", f"100644,{blob},late.txt")
    ws.git(*staging, env={"GIT_INDEX_FILE": os.fspath(other)})
    ws.config("filter.slow.clean", f"test ! -e '{other}' || {{ cat '{other}' > '{index}' && rm '{other}'; }}; cat")
    ws.append("a.txt")
    saved = ws.save()
    assert saved.exit_status == 0 and not other.exists(), saved
    assert ws.out("rev-parse", f"{saved.json['wip_commit']}^:late.txt") == blob
    assert ws.recover().exit_status == 0
    assert ws.out("rev-parse", ":late.txt") == blob
    assert ws.read("a.txt").endswith(b"one more line\n")


def index_that_moves_once(ws: Workspace) -> Path:
    """Work that a save can't read without git replacing the index; the file that is there until that has happened."""
    ws.write(".gitattributes", "a.txt filter=slow\n")
    ws.add(".gitattributes")
    ws.commit()
    once = ws.git_dir / "once"
    once.touch()
    ws.config("filter.slow.clean", f"test ! -e '{once}' || {{ rm '{once}' && git update-index --add b.txt; }}; cat")
    ws.append("b.txt")
    ws.append("a.txt")
    return once


#: Another save, begun where this one waits until git lets the index alone.
SAVE_BESIDE = """\
import subprocess, types
from gitstate.save import save
from gitstate.system.child import command
def sleep(seconds):
    subprocess.run([*command(), *sys.argv[1:3], "save", "--task-id", "T-2", "--wait", "1"], check=True)
save.time = types.SimpleNamespace(sleep=sleep)"""


@pytest.mark.faults
def test_checkpoint_that_waits_for_git_keeps_no_save_waiting(ws: Workspace) -> None:
    """The workspace is not locked between two attempts."""
    once = index_that_moves_once(ws)
    done = patched(ws, SAVE_BESIDE, "checkpoint", "--task-id", "T-1")
    assert done.returncode == 0, done.stderr
    assert not once.exists()
    assert ws.refs("refs/gitstate/pending")
    assert ws.recover().exit_status == 0


#: A save that cleans up after a holder that was killed, begun where this command is about to move a file into place.
CLEAN_UP_BESIDE = """\
import subprocess
from gitstate.system.child import command
move = os.rename
def rename(source, target, **options):
    if target.endswith({name!r}):
        with open(os.path.join(os.path.dirname(source), b"journal"), "wb") as journal:
            journal.write(b"0\\0")
        subprocess.run([*command(), *sys.argv[1:3], "checkpoint", "--task-id", "T-2"], check=True)
    move(source, target, **options)
os.rename = rename"""


@pytest.mark.faults
@pytest.mark.parametrize("name", [b"/info/exclude", b"/context.json"])
def test_clean_up_takes_no_file_from_who_is_writing_it(name: bytes, ws: Workspace) -> None:
    """`begin` and hooks write theirs while the workspace is somebody else's."""
    ws.append("a.txt")
    own = ws.git_dir / "gitstate"
    own.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = own / f"context.json.tmp-{gone.pid}"
    left.touch()
    done = patched(ws, CLEAN_UP_BESIDE.format(name=name), "begin", "--task-id", "T-1")
    assert done.returncode == 0, done.stderr
    assert not left.exists() and not list(own.glob("*.tmp-*"))
    assert ws.gitstate("show", "task_id").text.strip() == "T-1"


#: Another checkpoint, begun where this save waits until git lets the index alone; it would last for long.
CHECKPOINT_BESIDE = """\
import subprocess, types
from gitstate.save import save
from gitstate.system.child import command
def sleep(seconds):
    beside = [*command(), *sys.argv[1:3], "checkpoint", "--task-id", "T-2", "--deadline", "0.2"]
    assert subprocess.run(beside).returncode == 75
save.time = types.SimpleNamespace(sleep=sleep)"""


@pytest.mark.faults
def test_save_that_waits_for_git_keeps_the_workspace(ws: Workspace) -> None:
    """Who came between could hold it longer than the save has time."""
    once = index_that_moves_once(ws)
    done = patched(ws, CHECKPOINT_BESIDE, "save", "--task-id", "T-1")
    assert done.returncode == 0, done.stderr
    assert not once.exists()
    assert ws.recover().exit_status == 0


@pytest.mark.faults
@pytest.mark.parametrize("times", [pytest.param(4, id="4"), pytest.param(20, id="20", marks=pytest.mark.slow)])
def test_save_and_recover_in_one_workspace_take_turns(times: int, ws: Workspace) -> None:
    """They take turns in any order; in the end the work is either saved or recovered."""
    ws.append("a.txt")
    ws.add("a.txt")
    ws.append("a.txt", "and more\n")
    ws.write("untracked.txt", "new\n")
    before = fingerprint(ws.path)
    commands = [word for _ in range(times) for word in (("save", "--task-id", "T-1"), ("recover",), ("checkpoint",))]
    for run in [ended(process) for process in [started(ws, *words) for words in commands]]:
        assert run.exit_status in (0, 75), str(run)
    if ws.refs("refs/gitstate/pending"):
        recover_to_the_end(ws)
    assert before.diff(fingerprint(ws.path)) == []
    check_integrity(ws)
    assert lock_files(ws) == frozenset()


LOCKS = {
    "index": "index.lock",
    "HEAD": "HEAD.lock",
    "branch": "refs/heads/agent/work.lock",
    "notes": "refs/notes/gitstate.lock",
    "packed-refs": "packed-refs.lock",
    "config": "config.lock",
}


@pytest.mark.sample(2)
@pytest.mark.faults
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "refs" not in LOCKS[name] else ()) for name in LOCKS]
)
def test_save_succeeds_beside_a_held_lock(name: str, ws: Workspace) -> None:
    """The save succeeds, the lock stays, and recovery works once the lock is free."""
    ws.append("a.txt")
    ws.write("untracked.txt", "new\n")
    before = fingerprint(ws.path)
    lock = ws.common_dir / LOCKS[name]
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_bytes(b"somebody's")
    run = ws.save()
    assert run.exit_status == 0, str(run)
    assert len(ws.refs("refs/gitstate/pending")) == 1
    assert lock.read_bytes() == b"somebody's"
    tried = ws.recover()
    assert tried.exit_status in (0, 1, 75), str(tried)
    assert "Traceback" not in tried.stderr
    assert lock.read_bytes() == b"somebody's"
    lock.unlink()
    if tried.exit_status:
        recover_to_the_end(ws)
    assert before.diff(fingerprint(ws.path)) == []
    check_integrity(ws)
