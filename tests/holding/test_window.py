"""What an agent destroys under `gitstate run`, at any moment after it was held: no checkpoint had seen it before."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from pathlib import Path

import pytest

from gitstate.format.context import Context
from gitstate.git.opening import open_repository
from gitstate.holding.window import Window
from gitstate.run.checkpoints import Checkpoints
from tests.support.agents import (
    Started,
    descriptors,
    has_checkpoint,
    keeper_pid,
    keepers,
    members,
    wait_until,
)
from tests.support.workspace import GITSTATE, Workspace, run_git

#: Each destroys `a.txt`, which is tracked, or `new.txt`, or both.
VERBS = {
    "rm": "rm a.txt new.txt",
    "mv over": "echo other > o; mv o a.txt; echo other > o; mv o new.txt",
    "reset": "git reset -q --hard; git clean -fdq",
    "clean": "rm a.txt; git clean -fdq",
    "checkout": "git checkout -q .; rm new.txt",
    "restore": "git restore .; rm new.txt",
    "stash": "git stash -q -u",
    "directory": "rm -r deep; rm a.txt new.txt",
}
#: Those of the ordinary run: each has events of another kind.
ORDINARY = ("mv over", "reset", "directory")
AGENT = """\
until [ -e "$1/begin" ]; do sleep 0.01; done
echo "precious a" > t; mv t a.txt; echo "precious new" > new.txt
mkdir -p deep/er; echo "precious deep" > deep/er/file
echo > "$1/written"
until [ -e "$1/go" ]; do sleep 0.01; done
"""


def held(keeper: int) -> set[str]:
    """The files that are held, by their absolute paths."""
    return {path.removesuffix(" (deleted)") for path in descriptors(keeper)}


def watches(keeper: int) -> int:
    """By how many descriptors a keeper watches worktrees, and the list of them."""
    return descriptors(keeper).count("anon_inode:inotify")


def kept(ws: Workspace) -> set[str]:
    """Every `precious` line in a save, a checkpoint or the history."""
    found: set[str] = set()
    for ref in ws.out("for-each-ref", "--format=%(refname)", "refs/gitstate").split():
        for commit in ws.out("rev-list", "--parents", "-n", "1", ref).split():
            lines = run_git(ws.path, "grep", "-h", "precious", commit, check=False).decode()
            found.update(line.rpartition(":")[2] for line in lines.splitlines())
    return found


ALL = {"precious a", "precious new", "precious deep"}


def start(ws: Workspace, then: str, where: Path | None = None) -> tuple[Started, int]:
    """A run whose agent has written, when the keeper has hold of it: no checkpoint is due for an hour."""
    command = ["sh", "-c", AGENT + then, "agent", os.fspath(ws.outside)]
    started = Started(ws, [*GITSTATE, "run", "--interval", "3600", "--task-id", "T-9", "--", *command])
    keeper = keeper_pid(ws)
    wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
    (ws.outside / "begin").touch()
    wait_until((ws.outside / "written").exists, "the agent has written")
    files = {os.fspath(ws.path / name) for name in ("a.txt", "new.txt", "deep/er/file")}
    wait_until(lambda: files <= held(keeper), "the files are held")
    return started, keeper


def let_go(ws: Workspace) -> None:
    (ws.outside / "go").touch()


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[] if verb in ORDINARY else pytest.mark.slow) for verb in VERBS]
)
def test_what_is_destroyed_after_it_was_held_is_kept(ws: Workspace, verb: str) -> None:
    started, _ = start(ws, f"{VERBS[verb]}\nexit 7")
    let_go(ws)
    assert started.status() == 7
    expected = ALL if verb in ("reset", "clean", "stash", "directory") else {"precious a", "precious new"}
    assert expected <= kept(ws), started.words()
    wait_until(lambda: not keepers(ws) and not members(ws), "the run is over")


def test_recover_offers_it_and_pours_nothing_in(ws: Workspace) -> None:
    started, _ = start(ws, "git reset -q --hard; git clean -fdq\nexit 7")
    let_go(ws)
    assert started.status() == 7
    done = ws.gitstate("recover")
    assert (ws.path / "a.txt").read_text() != "precious a\n" and not (ws.path / "new.txt").exists()
    words = done.stdout.decode() + done.stderr
    assert "destroyed before the save" in words
    named = re.search(r" restore (\S+)", words)
    assert named is not None, words
    save_id = named[1]
    ws.gitstate("restore", save_id, "a.txt", "new.txt", "deep/er/file")
    assert (ws.path / "a.txt").read_text() == "precious a\n"
    assert (ws.path / "new.txt").read_text() == "precious new\n"
    assert (ws.path / "deep" / "er" / "file").read_text() == "precious deep\n"


def test_signal_keeps_what_was_destroyed_before_it(ws: Workspace) -> None:
    started, _ = start(ws, 'git reset -q --hard; git clean -fdq; echo > "$1/gone"; sleep 600')
    let_go(ws)
    wait_until((ws.outside / "gone").exists, "the agent has destroyed it")
    started.send(signal.SIGTERM)
    started.status()
    assert kept(ws) >= ALL, started.words()


def test_after_a_keeper_that_is_killed_the_next_one_holds(ws: Workspace) -> None:
    started, keeper = start(ws, 'git reset -q --hard; git clean -fdq; echo > "$1/gone"; sleep 600')
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: keeper_pid(ws) != keeper, "another keeper is there")
    # It looks at the whole tree first: what is there is in a checkpoint, and what is newer is held.
    wait_until(lambda: kept(ws) >= ALL, "its first checkpoint")
    let_go(ws)
    wait_until((ws.outside / "gone").exists, "the agent has destroyed it")
    started.send(signal.SIGTERM)
    started.status()
    assert kept(ws) >= ALL
    wait_until(lambda: not keepers(ws) and not members(ws), "the run is over")


def test_descriptors_are_closed_once_a_checkpoint_has_the_files(ws: Workspace) -> None:
    started = Started(ws, [*GITSTATE, "run", "--interval", "0.2", "--", "sh", "-c", AGENT, "agent", str(ws.outside)])
    keeper = keeper_pid(ws)
    wait_until(lambda: has_checkpoint(ws), "the first checkpoint")
    (ws.outside / "begin").touch()
    wait_until((ws.outside / "written").exists, "the agent has written")
    files = {os.fspath(ws.path / name) for name in ("a.txt", "new.txt", "deep/er/file")}
    wait_until(lambda: kept(ws) >= ALL and not files & held(keeper), "all is let go")
    let_go(ws)
    assert started.status() == 0


def test_ignored_files_are_in_no_checkpoint(ws: Workspace) -> None:
    ws.write(".gitignore", "*.log\nbuild/\n")
    started, _ = start(
        ws, "mkdir build; echo precious o > build/o; echo precious l > x.log; rm -r build x.log a.txt\nexit 7"
    )
    let_go(ws)
    assert started.status() == 7
    assert "precious a" in kept(ws) and not {"precious o", "precious l"} & kept(ws)


def test_worktree_that_is_removed_is_kept(ws: Workspace) -> None:
    tree = ws.outside / "tree"
    agent = f'git worktree add -q "{tree}" -b tree\n' + AGENT.replace(
        'echo > "$1/written"', f'echo "precious tree" > "{tree}/file"; echo > "$1/written"'
    )
    command = ["sh", "-c", f'{agent}git worktree remove --force "{tree}"\nexit 7', "agent", os.fspath(ws.outside)]
    started = Started(ws, [*GITSTATE, "run", "--interval", "3600", "--task-id", "T-9", "--", *command])
    keeper = keeper_pid(ws)
    wait_until(lambda: watches(keeper) == 3, "both worktrees are watched, and the list of them")
    (ws.outside / "begin").touch()
    wait_until((ws.outside / "written").exists, "the agent has written")
    file = os.fspath(tree / "file")
    wait_until(lambda: file in held(keeper) or "precious tree" in kept(ws), "the file is held")
    let_go(ws)
    assert started.status() == 7
    assert "precious tree" in kept(ws), started.words()


def test_what_is_written_into_a_worktree_just_added_is_held(ws: Workspace) -> None:
    tree = ws.outside / "tree"
    agent = f"""
until [ -e "$1/begin" ]; do sleep 0.01; done
git worktree add -q "{tree}" -b tree
mkdir "{tree}/deep"; echo "precious tree" > "{tree}/deep/file"; echo > "$1/written"
until [ -e "$1/go" ]; do sleep 0.01; done
git worktree remove --force "{tree}"
exit 7
"""
    command = ["sh", "-c", agent, "agent", os.fspath(ws.outside)]
    started = Started(ws, [*GITSTATE, "run", "--interval", "3600", "--task-id", "T-9", "--", *command])
    keeper = keeper_pid(ws)
    wait_until(lambda: has_checkpoint(ws) and watches(keeper) == 2, "the keeper watches")
    (ws.outside / "begin").touch()
    wait_until((ws.outside / "written").exists, "the agent has written")
    wait_until(lambda: watches(keeper) == 3, "the worktree is watched")
    file = os.fspath(tree / "deep" / "file")
    wait_until(lambda: file in held(keeper) or "precious tree" in kept(ws), "the file is held")
    let_go(ws)
    assert started.status() == 7
    assert "precious tree" in kept(ws), started.words()
    wait_until(lambda: not keepers(ws) and not members(ws), "the run is over")


#: What destroys what the sweep has written: tracked files were `base` before.
SWEEP = {
    "rm": "find . -name 'new*' -delete",
    "mv over": "mkdir o; cp new* o; for file in o/*; do echo other > $file; done; mv -f o/* .",
    "reset": "git reset -q --hard",
    "clean": "git clean -fdq",
    "checkout": "git checkout -q .",
    "restore": "git restore .",
    "stash": "git stash -q",
    "worktree remove": "git worktree remove --force $1/tree",
}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 100, 5000])
@pytest.mark.parametrize("delay", [0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("verb", SWEEP)
def test_nothing_is_lost_from_five_milliseconds_on(ws: Workspace, verb: str, delay: float, count: int) -> None:
    """Not for a machine that stalls: it measures."""
    assert not sweep(ws, verb, delay, count)


@pytest.mark.slow
@pytest.mark.parametrize("verb", SWEEP)
def test_next_to_nothing_is_lost_at_once(ws: Workspace, verb: str) -> None:
    """Not for a machine that stalls: it measures."""
    assert len(sweep(ws, verb, 0.0, 5000)) <= 5


def sweep(ws: Workspace, verb: str, delay: float, count: int) -> set[int]:
    """Write files in a run, destroy them after so many seconds; those that are in no save and no checkpoint."""
    is_tracked = verb not in ("rm", "clean", "worktree remove")
    if is_tracked:
        for number in range(count):
            ws.write(f"new{number}", "base\n")
        ws.git("add", "-A")
        ws.git("commit", "-qm", "many")
    code = f"""
import os, subprocess, sys, time
outside = sys.argv[1]
if {verb == "worktree remove"}:
    subprocess.run(["git", "worktree", "add", "-q", outside + "/tree"], check=True)
    os.chdir(outside + "/tree")
while not os.path.exists(outside + "/begin"): time.sleep(0.01)
for number in range({count}):
    with open("t", "w") as file: file.write(f"precious {{number}}\\n")
    os.replace("t", f"new{{number}}")
time.sleep({delay})
subprocess.run(["sh", "-c", {SWEEP[verb]!r}, "sh", outside])
raise SystemExit(7)
"""
    command = [sys.executable, "-c", code, os.fspath(ws.outside)]
    started = Started(ws, [*GITSTATE, "run", "--interval", "3600", "--", *command])
    keeper = keeper_pid(ws)
    watched = 3 if verb == "worktree remove" else 2
    wait_until(lambda: has_checkpoint(ws) and watches(keeper) == watched, "the keeper watches")
    (ws.outside / "begin").touch()
    assert started.status() == 7
    found = {line.removeprefix("precious ") for line in kept(ws)}
    return {number for number in range(count) if str(number) not in found}


def test_directories_are_watched_in_steps(ws: Workspace) -> None:
    """The keeper reads events and hears signals between them; a look does not miss what was to be watched."""
    window = Window(open_repository(os.fsencode(ws.path)), [], Context)
    window.start()
    while window.is_starting:
        assert window.look() is None
        window.serve(select.select(window.watched(), [], [])[0])
    ws.write("a.txt", "changed\n")
    assert window.look() == frozenset({b"a.txt"})
    window.watch([b"%d/file" % number for number in range(5_000)], [b"new"], [b"empty"], 0)
    steps = 0
    while window.pause() == 0.0:
        window.serve()
        steps += 1
    assert steps >= 5
    assert window.look() == frozenset({b"new"})
    ws.write("later/file", "")
    window.look()
    window.watch([b"later/file"], [b"newer"], [], 0)
    assert window.look() == frozenset({b"newer"})
    ws.write("later/file", "changed\n")
    assert window.look() == frozenset({b"later/file"})
    window.close()


def test_changes_are_told_though_no_checkpoint_is_known(ws: Workspace) -> None:
    """The first one takes its time in a large worktree; git may be too slow to find them at the end of the run."""
    checkpoints = Checkpoints(open_repository(os.fsencode(ws.path)), 3600.0)
    checkpoints.start()
    checkpoints.begin()
    # What changed before the watch stands would be in no later one.
    assert checkpoints.is_starting() and not checkpoints.is_running()
    while checkpoints.is_starting():
        checkpoints.serve(select.select(checkpoints.watched(), [], [])[0])
    ws.write("a.txt", "changed\n")
    assert checkpoints.known() is None
    ws.write("new.txt", "new\n")
    assert checkpoints.known() is None
    assert checkpoints.touched() == frozenset({b"a.txt", b"new.txt"})
    checkpoints.close()


@pytest.mark.parametrize("state", ["nothing tracked", "untracked directory", "index replaced"])
def test_next_checkpoints_have_what_was_written_beside_the_first_one(ws: Workspace, state: str) -> None:
    """In directories that the keeper knows only when the first one has found them."""
    names = {
        "nothing tracked": ["new.txt"],
        "untracked directory": ["own/new.txt", "own/deep/new.txt"],
        "index replaced": ["own/known.txt"],
    }[state]
    if state == "nothing tracked":
        ws.git("rm", "-rq", ".")
    else:
        ws.write("own/known.txt", "base\n")
    checkpoints = Checkpoints(open_repository(os.fsencode(ws.path)), 3600.0)
    checkpoints.start()
    while checkpoints.is_starting():
        checkpoints.serve(select.select(checkpoints.watched(), [], [])[0])
    if state == "index replaced":
        ws.git("add", "-A")
    checkpoints.begin()
    assert checkpoints.running is not None
    select.select([checkpoints.running], [], [])
    for text in ("precious beside it\n", "precious later\n"):
        for name in names:
            ws.write(name, text)
        take(checkpoints)
        checkpoints.begin()
        take(checkpoints)
        found = ws.out("for-each-ref", "--format=%(refname)", "refs/gitstate/checkpoints")
        assert [ws.out("show", f"{found}^1:{name}") for name in names] == [text.strip()] * len(names)
    checkpoints.close()


def take(checkpoints: Checkpoints) -> None:
    """Wait for the checkpoint under way."""
    while checkpoints.running is not None:
        checkpoints.collect()
