"""A run over large, many, deep and sparse files: the agent is told first, then the small files are safe, then the rest.

No time is asserted: the order of events and what was named count.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.agents import Started, agent_pid, check_recovered, ends, keeper_pid, keepers, marker, wait_until
from tests.support.oracle import fingerprint
from tests.support.workspace import GITSTATE, Workspace

#: An agent: makes what its argument says, says that it is ready, and notes when it hears SIGTERM.
AGENT = """\
import os, signal, sys, time
ready, heard, what, then = sys.argv[1:]
def on_term(*_):
    open(heard, "w").write("TERM")
    os._exit(1)
signal.signal(signal.SIGTERM, on_term)
open("a.txt", "a").write("by the agent\\n")
open("new by agent.txt", "w").write("new\\n")
exec(what)
open(ready, "w").write(str(os.getpid()))
if then:
    sys.exit(int(then))
while True:
    time.sleep(1)
"""
MEGABYTES = "open('large.bin', 'wb').writelines(os.urandom(1 << 20) for _ in range({}))"
MANY = """
for number in range(20_000):
    if number % 100 == 0:
        os.makedirs(f"made/{number // 100}")
    open(f"made/{number // 100}/{number}", "w").close()
"""
DEEP = """
top = os.getcwd()
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
open("f", "w").close()
os.chdir(top)
"""
SPARSE = "open('disk.img', 'wb').truncate(1 << 40)"


def start(ws: Workspace, what: str, *options: str, then: str = "") -> Started:
    script = ws.outside / "agent.py"
    script.write_text(AGENT)
    names = (script, ws.outside / "ready", ws.outside / "heard")
    agent = [sys.executable, *map(os.fspath, names), what, then]
    return Started(ws, [*GITSTATE, "run", "--interval", "0.2", *options, "--", *agent])


def checkpoint(ws: Workspace) -> str:
    return ws.out("for-each-ref", "--format=%(objectname)", "refs/gitstate/checkpoints")


def text_in(ws: Workspace, archive: str, name: str) -> str:
    return ws.git("cat-file", "-p", f"{archive}^1:{name}", check=False).decode() if archive else ""


def names_in(ws: Workspace, archive: str) -> set[str]:
    return set(ws.out("ls-tree", "-r", "-z", "--name-only", f"{archive}^1").split("\0"))


def skipped(ws: Workspace, archive: str) -> dict[str, str]:
    """Path → reason, of what an archive names as skipped."""
    manifest = json.loads(ws.git("cat-file", "-p", f"{archive}:manifest.json"))
    return {item["path"]: item["reason"] for item in manifest["left_out"]}


def holds(ws: Workspace, text: str) -> bool:
    return text_in(ws, checkpoint(ws), "a.txt") == text


def kept(ws: Workspace) -> list[str]:
    """The checkpoints that are kept as saves are."""
    return ws.out("for-each-ref", "--format=%(objectname)", "refs/gitstate/saves").split()


def held(keeper: int) -> list[str]:
    """What the descriptors of a keeper lead to."""
    found = []
    for link in Path(f"/proc/{keeper}/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(link))
    return found


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.sample(2)
@pytest.mark.parametrize("what", [MEGABYTES.format(300), MANY, DEEP, SPARSE], ids=["large", "many", "deep", "sparse"])
def test_agent_is_told_and_small_files_are_safe_before_the_rest(ws: Workspace, what: str) -> None:
    """The signal comes as soon as the agent has written: the keeper is in the middle of a checkpoint, or begins one."""
    started = start(ws, what, "--deadline", "100")
    agent_pid(ws)
    started.send(signal.SIGTERM)
    wait_until((ws.outside / "heard").exists, "the agent hears of it")
    wait_until(lambda: marker(ws), "the early save")
    early = marker(ws)
    assert text_in(ws, early, "new by agent.txt") == "new\n"
    assert "by the agent\n" in text_in(ws, early, "a.txt")
    assert started.status() == 143, started.words()
    last = marker(ws)
    assert text_in(ws, last, "new by agent.txt") == "new\n"
    if "large" in what:
        # A checkpoint may have taken it when it was small.
        assert "large.bin" in skipped(ws, early) and "large.bin" not in skipped(ws, last)
        assert ws.out("cat-file", "-s", f"{last}^1:large.bin") == str(300 << 20)
    if what == SPARSE:
        assert "sparse" in skipped(ws, last)["disk.img"]
    if what == MANY:
        assert len(names_in(ws, last)) > 20_000
    subprocess.run(["rm", "-rf", ws.at("d")], check=True)


def test_run_ends_within_its_deadline_whatever_lies_in_the_tree(ws: Workspace) -> None:
    """The file is sparse, so that to read it takes longer than any deadline here, and no disk is filled."""
    started = start(ws, "open('large.bin', 'wb').truncate(15 << 30)", "--deadline", "5")
    agent_pid(ws)
    started.send(signal.SIGTERM)
    assert started.status() == 143
    assert "large.bin" in started.words() and "deadline" in started.words()
    assert text_in(ws, marker(ws), "new by agent.txt") == "new\n"


def test_checkpoints_go_on_beside_large_files(ws: Workspace) -> None:
    """One of 60 MB is taken once; one of 300 MB is named; what is edited afterwards is taken at the interval."""
    started = start(ws, MEGABYTES.format(60) + "; " + MEGABYTES.format(300).replace("large", "huge"))
    agent_pid(ws)
    wait_until(lambda: "large.bin" in names_in(ws, checkpoint(ws)) if checkpoint(ws) else False, "a checkpoint")
    taken = ws.out("rev-parse", f"{checkpoint(ws)}^1:large.bin")
    for text in ("one\n", "two\n", "three\n"):
        ws.write("a.txt", text)
        wait_until(partial(holds, ws, text), f"a checkpoint with {text}")
    ws.append("large.bin", "more\n")
    ws.write("a.txt", "four\n")
    wait_until(partial(holds, ws, "four\n"), "a checkpoint with four")
    latest = checkpoint(ws)
    assert "huge.bin" in skipped(ws, latest)
    # Its version of before stays in the checkpoint until it may be taken again.
    assert ws.out("rev-parse", f"{latest}^1:large.bin") == taken
    assert "before is saved" in skipped(ws, latest)["large.bin"]
    # A commit of the agent makes the keeper look at the whole tree: the file is not lost from the checkpoint.
    ws.git("add", "a.txt")
    ws.git("commit", "-q", "-m", "by the agent")
    ws.write("a.txt", "five\n")
    wait_until(partial(holds, ws, "five\n"), "a checkpoint with five")
    assert ws.out("rev-parse", f"{checkpoint(ws)}^1:large.bin") == taken
    before = fingerprint(ws.path)
    started.send(signal.SIGTERM)
    assert started.status() == 143
    check_recovered(ws, before)


def test_removed_file_that_was_refused_is_kept_once_and_let_go(ws: Workspace) -> None:
    """An agent makes and removes large files for weeks: nothing is left of one in the keeper, nor taken again."""
    started = start(ws, MEGABYTES.format(40))
    agent_pid(ws)
    keeper = keeper_pid(ws)
    wait_until(lambda: "large.bin" in names_in(ws, checkpoint(ws)) if checkpoint(ws) else False, "a checkpoint")
    ws.write("large.bin", os.urandom(40 << 20))
    last = ws.out("hash-object", "large.bin")
    wait_until(lambda: "large.bin" in skipped(ws, checkpoint(ws)), "it is refused")
    ws.path.joinpath("large.bin").unlink()
    wait_until(lambda: not any("large.bin" in path for path in held(keeper)), "it is held no more")
    saves = kept(ws)
    assert any("large.bin" in names_in(ws, one) and ws.out("rev-parse", f"{one}^1:large.bin") == last for one in saves)
    for text in ("one\n", "two\n", "three\n"):
        ws.write("a.txt", text)
        wait_until(partial(holds, ws, text), f"a checkpoint with {text}")
    assert kept(ws) == saves
    started.send(signal.SIGTERM)
    assert started.status() == 143


def test_keeper_listens_while_a_checkpoint_hangs(ws: Workspace) -> None:
    """Another gitstate holds the workspace: the checkpoint waits, and the agent is told all the same."""
    started = start(ws, "")
    agent_pid(ws)
    keeper = keeper_pid(ws)
    wait_until(lambda: checkpoint(ws), "the first checkpoint")
    (ws.git_dir / "gitstate" / "lock").touch()
    with (ws.git_dir / "gitstate" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ws.write("a.txt", "changed\n")
        wait_until(lambda: children(keeper), "a checkpoint is under way")
        started.send(signal.SIGTERM)
        wait_until((ws.outside / "heard").exists, "the agent hears of it")
        assert not marker(ws)
    assert started.status() == 143
    assert text_in(ws, marker(ws), "a.txt") == "changed\n"


def stop_front(started: Started, _: int) -> None:
    started.send(signal.SIGTERM)


def stop_keeper(_: Started, keeper: int) -> None:
    os.kill(keeper, signal.SIGTERM)


@pytest.mark.parametrize("tell", [stop_front, stop_keeper])
def test_signal_during_the_save_of_a_failed_run_hurries_it(ws: Workspace, tell: Callable[[Started, int], None]) -> None:
    """An agent that fails has its work saved without a deadline, until somebody waits for it."""
    started = start(ws, "open('large.bin', 'wb').truncate(15 << 30)", "--deadline", "5", then="3")
    agent_pid(ws)
    keeper = keeper_pid(ws)
    wait_until(lambda: children(keeper), "the save has begun")
    tell(started, keeper)
    assert started.status() in (3, 143), started.words()
    assert "large.bin" in started.words() and "deadline" in started.words()
    assert text_in(ws, marker(ws), "new by agent.txt") == "new\n"
    wait_until(lambda: not keepers(ws), "the keeper has ended")


def test_clean_end_waits_for_no_large_file_and_takes_a_last_checkpoint(ws: Workspace) -> None:
    started = start(ws, "open('large.bin', 'wb').truncate(15 << 30)", "--interval", "60", "--deadline", "5", then="0")
    assert started.status() == 0
    assert not marker(ws)
    assert text_in(ws, checkpoint(ws), "new by agent.txt") == "new\n"
    assert "large.bin" in skipped(ws, checkpoint(ws))


def test_keeper_listens_before_its_watch_stands(ws: Workspace, tmp_path: Path) -> None:
    """Git takes its time to list a large index."""
    tools, listed = tmp_path / "tools", tmp_path / "listed"
    tools.mkdir()
    hangs = f'case "$*" in *"ls-files -z") echo >{listed}; exec sleep 1000 ;; esac'
    (tools / "git").write_text(f'#!/bin/sh\n{hangs}\nexec {shutil.which("git")} "$@"\n')
    (tools / "git").chmod(0o755)
    script = ws.outside / "agent.py"
    script.write_text(AGENT)
    agent = [sys.executable, *map(os.fspath, (script, ws.outside / "ready", ws.outside / "heard")), "", ""]
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    started = Started(ws, [*GITSTATE, "run", "--interval", "0.2", "--", *agent], env=path)
    agent_pid(ws)
    wait_until(listed.exists, "git lists the index")
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    assert (ws.outside / "heard").exists()
    assert text_in(ws, marker(ws), "new by agent.txt") == "new\n"


@pytest.mark.parametrize("what", ["checkpoint", "early save"])
def test_save_that_has_not_begun_ends_with_its_keeper(ws: Workspace, what: str) -> None:
    """It waits for another gitstate, a recovery say: what it would save then is no longer the work of its run."""
    is_early = what == "early save"
    started = start(ws, "", "--deadline", "100", *(["--interval", "3600"] if is_early else []))
    agent = agent_pid(ws)
    keeper = keeper_pid(ws)
    wait_until(lambda: checkpoint(ws) and not children(keeper), "the first checkpoint")
    before = checkpoint(ws)
    with (ws.git_dir / "gitstate" / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ws.write("a.txt", "changed\n")
        if is_early:
            started.send(signal.SIGTERM)
        wait_until(lambda: children(keeper), "it is under way")
        (waiting,) = children(keeper)
        started.send(signal.SIGSTOP)
        for pid in (keeper, started.process.pid):
            os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(agent, signal.SIGKILL)
        started.status()
        assert ends(keeper)
    assert ends(waiting)
    assert not marker(ws) and checkpoint(ws) == before
    assert ws.recover().exit_status == 0
    assert ws.read("a.txt") == b"changed\n"
