"""What git or a manager of hooks put away before it was killed is named, with the command that brings it back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.states import dirty
from tests.support.agents import Started, wait_until
from tests.support.forgery import forged
from tests.support.losing import wipe
from tests.support.recovering import recovered_from
from tests.support.saving import saved_from
from tests.support.workspace import GITSTATE, Workspace, run_git


def told(ws: Workspace) -> str:
    """What recover says after a save: it stands in the message, and in the agent's briefing."""
    saved_from(ws.save())
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "restore"
    message = answer["message"] or ""
    assert all(part in answer["briefing"] for part in message.split("; a stash")[0].split("; unstaged"))
    return str(message)


def run_command(ws: Workspace, command: str) -> None:
    run_git(ws.path, "-c", f"alias.do=!{command}", "do")


def test_nothing_is_named_where_nothing_was_put_away(ws: Workspace) -> None:
    dirty(ws)
    assert told(ws) == ""


def test_lock_of_a_killed_git_is_named(ws: Workspace) -> None:
    """It is younger than this boot, so nobody can prove that its git is gone."""
    dirty(ws)
    ws.write(".git/index.lock", "")
    message = told(ws)
    assert os.path.exists(ws.at(".git/index.lock"))
    command = message.partition("once no git runs here: ")[2]
    run_command(ws, command)
    ws.add("b.txt")


#: A commit stands in its hook while it holds index.lock; then the agent fails.
KILLED_GIT = 'echo work >> a.txt; git commit -qam x & echo $! > "$1/git"; wait; exit 3'


def lock_of_a_run(ws: Workspace) -> Started:
    """A run whose git is killed while it holds index.lock."""
    hook = ws.common_dir / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{ws.outside}/in-hook'\nsleep 600\n")
    hook.chmod(0o755)
    command = [*GITSTATE, "run", "--task-id", "T", "--", "bash", "-c", KILLED_GIT, "agent", os.fspath(ws.outside)]
    started = Started(ws, command)
    wait_until((ws.outside / "in-hook").exists, "git runs the hook")
    wait_until(lambda: (ws.outside / "git").exists() and (ws.outside / "git").read_text(), "the agent names its git")
    assert os.path.exists(ws.at(".git/index.lock"))
    return started


def kill_git(ws: Workspace) -> None:
    os.kill(int((ws.outside / "git").read_text()), signal.SIGKILL)


def test_lock_of_a_git_that_was_killed_in_the_run_is_removed(ws: Workspace) -> None:
    started = lock_of_a_run(ws)
    kill_git(ws)
    assert started.status() == 3
    assert os.path.exists(ws.at(".git/index.lock"))
    answer = recovered_from(ws.recover())
    assert answer["removed_locks"] == [{"path": os.fspath(ws.path / ".git" / "index.lock")}]
    assert "index.lock" not in (answer["message"] or "")
    assert ws.read("a.txt").endswith(b"work\n")
    ws.add("a.txt")


LOCKS = ("HEAD.lock", "refs/heads/{}.lock", "packed-refs.lock", "config.lock")
#: A save waits some seconds for each lock of a ref.
SLOW = [(name, in_run) for name in LOCKS for in_run in (True, False) if (name, in_run) != ("packed-refs.lock", True)]


#: Waits until the first checkpoint of a run stands, and its transaction has ended.
CHECKPOINTED = """\
echo work >>b.txt
until git for-each-ref refs/gitstate/checkpoints | grep -q . && [ ! -e .git/gitstate/journal ]; do sleep 0.05; done"""


@pytest.mark.parametrize(
    ("name", "in_run"),
    [("packed-refs.lock", True), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_lock_of_refs_that_a_killed_git_left_is_removed_or_named(name: str, in_run: bool, ws: Workspace) -> None:
    """A kill between a transaction's locks and its end leaves them, and no commit can be made any more."""
    branch = ws.out("symbolic-ref", "--short", "HEAD")
    lock = ws.common_dir / name.format(branch)
    script = 'echo work >>a.txt; : >"$1"; exit 3' if in_run else "echo work >>a.txt; exit 3"
    if not in_run:
        lock.touch()
    # A checkpoint that is ended in its transaction leaves the lock too, and the next save takes it for one of its own.
    script = f"{CHECKPOINTED}; {script}" if in_run else script
    command = [*GITSTATE, "run", "--task-id", "T", "--interval", "3600", "--", "sh", "-c", script]
    Started(ws, [*command, "agent", os.fspath(lock)]).status()
    run = ws.recover()
    if name == "packed-refs.lock" and not in_run:
        # No ref can be moved: the save stays pending.
        assert run.exit_status == 1 and run.json["hint"] == f"once no git runs here: rm '{lock}'", run
        run_command(ws, run.json["hint"].partition(": ")[2])
        recovered_from(ws.recover())
    elif in_run:
        assert recovered_from(run)["removed_locks"] == [{"path": os.fspath(lock)}], run
    else:
        command = recovered_from(run)["message"].partition("once no git runs here: ")[2].partition(";")[0]
        assert command == f"rm {lock}" and lock.exists(), run
        run_command(ws, command)
    assert ws.read("a.txt").endswith(b"work\n")
    ws.commit("goes on")


#: Locks that stop a fetch, a reset, a stash, `git gc` and `git config --worktree`, and no commit.
MORE_LOCKS = (
    "refs/remotes/origin/main.lock",
    "refs/stash.lock",
    "ORIG_HEAD.lock",
    "shallow.lock",
    "objects/info/commit-graph.lock",
    "config.worktree.lock",
)


def test_locks_that_stop_other_commands_than_a_commit_are_removed_after_a_run(ws: Workspace) -> None:
    locks = [os.fspath(ws.common_dir / name) for name in MORE_LOCKS]
    script = f'{CHECKPOINTED}; for lock; do mkdir -p "$(dirname "$lock")"; : >"$lock"; done; exit 3'
    command = [*GITSTATE, "run", "--task-id", "T", "--interval", "3600", "--", "sh", "-c", script]
    assert Started(ws, [*command, "agent", *locks]).status() == 3
    answer = recovered_from(ws.recover())
    removed = [item["path"] for item in answer["removed_locks"]]
    assert sorted(removed) == sorted(locks)
    assert not any(map(os.path.lexists, locks))


def test_locks_that_stop_other_commands_than_a_commit_are_named(ws: Workspace) -> None:
    dirty(ws)
    for name in MORE_LOCKS:
        ws.write(f".git/{name}", "")
    run_command(ws, told(ws).partition("once no git runs here: ")[2])
    assert not any(os.path.lexists(ws.common_dir / name) for name in MORE_LOCKS)


def test_dry_run_leaves_the_lock_of_a_killed_git(ws: Workspace) -> None:
    started = lock_of_a_run(ws)
    kill_git(ws)
    started.status()
    ws.recover("--dry-run")
    assert os.path.exists(ws.at(".git/index.lock"))


def test_lock_is_named_while_a_git_runs_in_the_repository(ws: Workspace) -> None:
    started = lock_of_a_run(ws)
    kill_git(ws)
    started.status()
    with subprocess.Popen(["git", "hash-object", "--stdin"], cwd=ws.path, stdin=subprocess.PIPE) as other:
        answer = recovered_from(ws.recover())
        other.communicate(b"")
    assert answer["removed_locks"] == [] and "index.lock stops git" in answer["message"]
    assert os.path.exists(ws.at(".git/index.lock"))


def test_lock_is_named_while_another_program_has_it_open(ws: Workspace) -> None:
    started = lock_of_a_run(ws)
    kill_git(ws)
    started.status()
    with open(ws.at(".git/index.lock"), "rb"):
        answer = recovered_from(ws.recover())
    assert answer["removed_locks"] == [] and "index.lock stops git" in answer["message"]


@pytest.mark.parametrize("field", ["host", "boot_id"])
def test_lock_of_a_run_that_this_host_did_not_see_is_named(field: str, ws: Workspace) -> None:
    """On a volume that several hosts share its git may still run where nobody here sees it."""
    script = 'echo work >>a.txt; : >"$1"; exit 3'
    lock = os.fspath(ws.path / ".git" / "index.lock")
    assert Started(ws, [*GITSTATE, "run", "--task-id", "T", "--", "sh", "-c", script, "agent", lock]).status() == 3
    with forged(ws) as save:
        save.context[field] = "00000000-1111-2222-3333-444444444444"
    answer = recovered_from(ws.recover())
    assert answer["removed_locks"] == [] and "index.lock stops git" in answer["message"]
    assert os.path.exists(lock)


def test_lock_that_all_worktrees_share_is_not_named_while_it_is_held(ws: Workspace) -> None:
    """A git in another worktree holds it for a moment; to remove it then would break what that git does."""
    dirty(ws)
    lock = ws.common_dir / "config.lock"
    with lock.open("w"):
        assert "config.lock" not in told(ws)
    ws.append("a.txt")
    assert f"once no git runs here: rm {lock}" in told(ws)


@pytest.mark.parametrize("after", [True, False])
def test_lock_from_outside_of_the_run_is_named(after: bool, ws: Workspace) -> None:
    if not after:
        ws.write(".git/index.lock", "")
    script = "echo work >> a.txt; exit 3"
    started = Started(ws, [*GITSTATE, "run", "--task-id", "T", "--", "bash", "-c", script])
    assert started.status() == 3
    if after:
        ws.write(".git/index.lock", "")
    answer = recovered_from(ws.recover())
    assert answer["removed_locks"] == [] and "index.lock stops git" in answer["message"]


def test_lock_is_named_where_no_save_is_pending(ws: Workspace) -> None:
    ws.write(".git/index.lock", "")
    answer = recovered_from(ws.recover())
    assert answer["verdict"] == "nothing" and "index.lock" in answer["message"]


def patch_of(ws: Workspace, path: str) -> bytes:
    """The unstaged change of a file, which is then hidden."""
    ws.append(path, "unstaged\n")
    patch = ws.git("diff", "--binary", path)
    ws.git("checkout", "-q", "--", path)
    ws.append("a.txt")
    ws.add("a.txt")
    return patch


@pytest.mark.parametrize("name", ["lint-staged_unstaged.patch", "info/lefthook-unstaged.patch"])
def test_patch_in_the_git_dir_is_named(name: str, ws: Workspace) -> None:
    ws.write(f".git/{name}", patch_of(ws, "b.txt"))
    message = told(ws)
    run_command(ws, message[message.index("git apply") :])
    assert ws.read("b.txt").endswith(b"unstaged\n")


@pytest.mark.parametrize("name", ["pre-commit/patch1700000000-42", "prek/patches/1700000000-42.patch"])
def test_patch_in_the_cache_is_named(name: str, ws: Workspace, hermetic: Path) -> None:
    patch = hermetic / ".cache" / name
    patch.parent.mkdir(parents=True)
    patch.write_bytes(patch_of(ws, "b.txt"))
    message = told(ws)
    run_command(ws, message[message.index("git apply") :])
    assert ws.read("b.txt").endswith(b"unstaged\n")


@pytest.mark.sample(3)
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("later", [None, "", "later\n"])
def test_patch_is_named_until_its_changes_are_back(
    later: str | None, saved: bool, ws: Workspace, hermetic: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    """pre-commit leaves each of its patches in the cache."""
    ws.gitstate("begin", "task_id=T-9", "--owner-pid", str(sleeper.pid))
    patch = hermetic / ".cache/pre-commit/patch1700000000-42"
    patch.parent.mkdir(parents=True)
    patch.write_bytes(patch_of(ws, "b.txt"))
    base = ws.commit()
    ws.append("c.txt")
    if later is not None:
        ws.append("b.txt", "unstaged\n" + later)
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    if saved:
        saved_from(ws.save())
        wipe(ws, base)
    run = ws.gitstate("recover")
    assert run.exit_status == 0 and "recovered" in run.stderr, run
    assert ("that a manager of hooks had hidden" in run.stderr) == (later is None), run


def test_patch_of_another_repository_is_not_named(ws: Workspace, hermetic: Path) -> None:
    patch = hermetic / ".cache/pre-commit/patch1-1"
    patch.parent.mkdir(parents=True)
    patch.write_bytes(patch_of(ws, "b.txt").replace(b"b.txt", b"other.txt"))
    assert told(ws) == ""


def test_old_patch_is_not_named(ws: Workspace) -> None:
    ws.write(".git/lint-staged_unstaged.patch", patch_of(ws, "b.txt"))
    old = time.time() - 3 * 86_400
    os.utime(ws.at(".git/lint-staged_unstaged.patch"), (old, old))
    assert told(ws) == ""


def test_stash_on_the_commit_of_the_save_is_named(ws: Workspace) -> None:
    ws.append("b.txt", "stashed\n")
    ws.git("stash", "push", "-q")
    ws.append("a.txt")
    assert "git stash apply" in told(ws)
    run_command(ws, "git stash apply")
    assert ws.read("b.txt").endswith(b"stashed\n")


def test_stash_on_another_commit_is_not_named(ws: Workspace) -> None:
    ws.append("b.txt", "stashed\n")
    ws.git("stash", "push", "-q")
    ws.append("a.txt")
    ws.commit("later")
    ws.append("a.txt")
    assert told(ws) == ""


def test_hint_of_a_locked_branch_removes_its_lock(ws: Workspace) -> None:
    """Git names the ref first, and then the file."""
    ws.write("a.txt", "work\n")
    ws.save()
    lock = ws.common_dir / f"{ws.out('symbolic-ref', 'HEAD')}.lock"
    lock.touch()
    run = ws.recover()
    assert run.exit_status == 1 and run.json["hint"] == f"once no git runs here: rm '{lock}'", run
    run_command(ws, run.json["hint"].partition(": ")[2])
    recovered_from(ws.recover())
