"""`bin/gitstate save` beside a keeper: the keeper begins before Python starts, and the order is handed over to it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gitstate.orders.client import SOCKET, order_checkpoint, order_save
from gitstate.orders.saving import says_the_same
from tests.orders.test_save import children, own, running, saves
from tests.run.commands import run_command
from tests.support.agents import Started, agent_pid, check_recovered, keeper_pid, marker, wait_until
from tests.support.environment import ROOT
from tests.support.oracle import fingerprint
from tests.support.workspace import GITSTATE, Workspace

CALL, ANSWER, CALLED = "keeper.call", "keeper.answer", "keeper.called"
SHELLS = [name for name in ("dash", "busybox", "bash") if shutil.which(name)]
#: Stands for a Python that starts when the marker of the first save stands.
LATE = """\
#!/bin/sh
until [ -n "$(git for-each-ref refs/gitstate/pending)" ]; do sleep 0.02; done
git for-each-ref --format='%(objectname)' refs/gitstate/pending >{seen}
exec {gitstate} "$@"
"""
#: Stands for a client whose order says more than its announcement.
CHANGED = LATE.replace("exec ", "GITSTATE_PROGRESS_STAGE=ordered GITSTATE_AGENT= exec ")
PLAIN = '#!/bin/sh\nexec {gitstate} "$@"\n'
#: Notes the marker when Python starts.
NOTES_IT = LATE.replace("until [ -n", "#")
#: Stands for `timeout`, and never ends a program: this machine may be slow.
PATIENT = '#!/bin/sh\nshift 3\nexec "$@"\n'


def script(place: Path, start: str = PLAIN) -> Path:
    """A copy of the script that starts Python by way of `start`. What that sees stands in the file `seen` beside it."""
    place.mkdir()
    shutil.copy(ROOT / "bin" / "gitstate", place)
    command = place / "git-gitstate"
    command.write_text(start.format(seen=place / "seen", gitstate=shlex.join(map(str, GITSTATE))))
    command.chmod(0o755)
    return place / "gitstate"


def run(path: Path, ws: Workspace, *, shell: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    argv = [*([shell] if shell else []), *(["sh"] if shell == "busybox" else []), os.fspath(path), "save"]
    return subprocess.run(
        argv, cwd=ws.path, env={**os.environ, **env}, capture_output=True, encoding="utf-8", timeout=120
    )


def saves_of_kind(ws: Workspace, kind: str) -> list[str]:
    """The keeper may keep a checkpoint among them when it looks after the save."""
    manifests = {name: ws.git("show", f"refs/gitstate/saves/{name}:manifest.json") for name in paths_of_saves(ws)}
    return [name for name, text in manifests.items() if json.loads(text)["kind"] == kind]


def paths_of_saves(ws: Workspace) -> list[str]:
    return ws.out("for-each-ref", "--format=%(refname:lstrip=3)", "refs/gitstate/saves").split()


def call(ws: Workspace) -> Path:
    return Path(os.fsdecode(own(ws)), CALL)


def called(ws: Workspace) -> Path:
    return Path(os.fsdecode(own(ws)), CALLED)


def announce(ws: Workspace, line: str) -> None:
    """What the script does."""
    called(ws).write_text(line + "\n")
    with open(os.open(call(ws), os.O_RDWR), "wb") as fifo:
        fifo.write(b"\n")


def line_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rstrip("\n")


@pytest.mark.sample(2)
@pytest.mark.parametrize("shell", SHELLS)
def test_marker_stands_before_python_starts(shell: str, ws: Workspace, tmp_path: Path) -> None:
    command = script(tmp_path / "bin", LATE)
    with running(ws):
        ws.append("a.txt", "more\n")
        before = fingerprint(ws.path)
        done = run(command, ws, shell=shell, CURRENT_TASK_ID="T-77")
        assert (done.returncode, done.stdout, done.stderr[:6]) == (0, "", "saved "), done
        # The save that stood first held the work, and what the client exports; a second one takes its place.
        (first,) = (command.parent / "seen").read_text().split()
        assert len(saves_of_kind(ws, "save")) == 1
        assert ws.out("show", f"{first}^1:a.txt").endswith("more")
        assert json.loads(ws.git("show", f"{first}:context.json"))["task_id"] == "T-77"
        assert json.loads(ws.git("notes", "--ref=gitstate", "show", "HEAD"))["task_id"] == "T-77"
        assert not called(ws).exists()
        again = run(command, ws, shell=shell, CURRENT_TASK_ID="T-77")
        assert (again.returncode, again.stderr) == (0, "nothing changed since the last save\n")
    assert not call(ws).exists()
    check_recovered(ws, before)


@pytest.mark.parametrize("shell", SHELLS)
def test_save_behind_a_link_leaves_the_run_around_it_alone(shell: str, ws: Workspace, tmp_path: Path) -> None:
    """By its letters the current directory lies in this workspace; what is saved lies in another one."""
    other = tmp_path / "other"
    (other / "below").mkdir(parents=True)
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], cwd=other, check=True)
    (other / "below" / "new.txt").write_text("new\n")
    os.symlink(other / "below", ws.at("linked"))
    command = script(tmp_path / "bin")
    with running(ws):
        ws.append("a.txt", "more\n")
        argv = [*([shell] if shell else []), *(["sh"] if shell == "busybox" else []), os.fspath(command), "save"]
        place = os.fsdecode(ws.at("linked"))
        done = subprocess.run(
            argv, cwd=place, env={**os.environ, "PWD": place}, capture_output=True, encoding="utf-8", timeout=120
        )
        assert done.returncode == 0 and done.stderr.startswith("saved "), done
        assert not called(ws).exists()
        assert not ws.refs("refs/gitstate/pending") and not paths_of_saves(ws)


SAID: dict[str, Any] = {"words": {"values": {"task_id": "T-1"}, "strict": True}, "environ": {b"HOME": b"/h"}}
#: What a client says in full, and what shells and Python add to its environment.
IN_FULL = {
    "words": {**SAID["words"], "kind": "save", "reason": (None, None, None), "deadline": None, "wait": 60.0},
    "environ": {**SAID["environ"], b"_": b"/bin/gitstate", b"SHLVL": b"2", b"PWD": b"/w", b"LC_CTYPE": b"C.UTF-8"},
}


@pytest.mark.parametrize(
    ("more", "is_same"),
    [
        ({}, True),
        ({"words": {**SAID["words"], "values": {"task_id": "T-2"}}}, False),
        ({"words": {**SAID["words"], "label": "mine"}}, False),
        ({"words": {**SAID["words"], "deadline": 1.0}}, False),
        ({"environ": {b"HOME": b"/other"}}, False),
        ({"environ": {b"HOME": b"/h", b"GIT_DIR": b"/elsewhere"}}, False),
        ({"environ": {}}, False),
    ],
    ids=["in full", "task", "label", "deadline", "home", "git dir", "no environment"],
)
def test_order_is_answered_with_the_announced_save_only_where_both_say_the_same(
    more: dict[str, Any], is_same: bool
) -> None:
    assert says_the_same(SAID, {**IN_FULL, **more}) == is_same


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script waits until it is woken, however long that takes."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "timeout").write_text(PATIENT)
    (tools / "timeout").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")


@pytest.mark.sample(2)
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("shell", SHELLS)
def test_python_starts_when_the_marker_stands(shell: str, ws: Workspace, tmp_path: Path) -> None:
    """It would take the processor from that save."""
    command = script(tmp_path / "bin", NOTES_IT)
    with running(ws):
        for number in range(3):
            ws.append("a.txt", f"more {number}\n")
            assert run(command, ws, shell=shell).returncode == 0
            # The answer to one script wakes no other.
            (first,) = (command.parent / "seen").read_text().split()
            assert ws.out("show", f"{first}^1:a.txt").endswith(f"more {number}")
            # A save is taken from a checkpoint that stands on this branch.
            wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "a checkpoint")


def start_script(command: Path, ws: Workspace) -> subprocess.Popen[bytes]:
    return subprocess.Popen([command, "save"], cwd=ws.path, stderr=subprocess.PIPE)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("whom", ["child", "keeper and child"])
def test_script_that_waits_is_woken_when_its_saver_dies(whom: str, ws: Workspace, tmp_path: Path) -> None:
    command = script(tmp_path / "bin")
    with running(ws) as keeper, open(own(ws) + b"/lock", "rb") as lock:
        ws.append("a.txt", "more\n")
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start_script(command, ws)
        wait_until(lambda: children(keeper), "the saver waits for the workspace")
        if whom != "child":
            os.kill(keeper, signal.SIGSTOP)
        saver = children(keeper)
        for one in saver if whom == "child" else (*saver, keeper):
            os.kill(one, signal.SIGKILL)
        fcntl.flock(lock, fcntl.LOCK_UN)
        _, words = process.communicate(timeout=120)
        assert (process.returncode, words[:6]) == (0, b"saved "), words
        assert ws.out("show", "HEAD:a.txt").endswith("more")


@pytest.mark.usefixtures("patient")
def test_second_script_does_not_wait_for_the_save_of_the_first(ws: Workspace, tmp_path: Path) -> None:
    first, second = script(tmp_path / "bin"), script(tmp_path / "other", '#!/bin/sh\n: >{seen}\nexec {gitstate} "$@"\n')
    with running(ws) as keeper, open(own(ws) + b"/lock", "rb") as lock:
        ws.append("a.txt", "more\n")
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [start_script(first, ws)]
        wait_until(lambda: children(keeper), "the saver waits for the workspace")
        processes.append(start_script(second, ws))
        # Either may read the byte that comes now.
        wait_until(lambda: (second.parent / "seen").exists() or is_python(processes[0].pid), "one of them is woken")
        fcntl.flock(lock, fcntl.LOCK_UN)
        for process in processes:
            _, words = process.communicate(timeout=120)
            assert process.returncode == 0, words
        assert ws.out("show", "HEAD:a.txt").endswith("more")


def is_python(pid: int) -> bool:
    return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def test_order_wins_over_what_was_announced(ws: Workspace, tmp_path: Path) -> None:
    command = script(tmp_path / "bin", CHANGED)
    with running(ws):
        ws.append("a.txt", "more\n")
        assert run(command, ws, GITSTATE_PROGRESS_STAGE="announced").returncode == 0
        (first,) = (command.parent / "seen").read_text().split()
        assert json.loads(ws.git("show", f"{first}:context.json"))["progress_stage"] == "announced"
        assert json.loads(ws.git("show", f"{marker(ws)}:context.json"))["progress_stage"] == "ordered"


def test_announcement_begins_no_second_save_beside_one(ws: Workspace) -> None:
    with running(ws) as keeper, another() as stopped:
        ws.append("a.txt", "more\n")
        with open(own(ws) + b"/lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen([*GITSTATE, "save"], cwd=ws.path, stderr=subprocess.PIPE)
            wait_until(lambda: children(keeper), "the saver waits for the workspace")
            saver = children(keeper)
            announce(ws, line_of(stopped))
            wait_until(lambda: not called(ws).exists(), "the keeper has heard it")
            wait_until(lambda: order_checkpoint(own(ws), at_once=False), "the keeper has done with it")
            assert children(keeper) == saver
        _, words = process.communicate(timeout=120)
        assert (process.returncode, words[:6]) == (0, b"saved "), words


def test_client_that_dies_after_it_has_announced(ws: Workspace, tmp_path: Path) -> None:
    heard = f"while [ -e {shlex.quote(str(called(ws)))} ]; do sleep 0.02; done"
    command = script(tmp_path / "bin", f"#!/bin/sh\n{heard}\nexit 7\n")
    with running(ws) as keeper:
        ws.append("a.txt", "more\n")
        assert run(command, ws).returncode == 7
        wait_until(lambda: marker(ws) and not children(keeper), "the save that was announced")
        assert len(saves_of_kind(ws, "save")) == 1 and ws.out("show", "HEAD:a.txt").endswith("more")
        ws.append("a.txt", "after it\n")
        assert ws.gitstate("save").exit_status == 0
        assert ws.out("show", "HEAD:a.txt").endswith("after it")


def test_keeper_that_died_or_is_stopped_stops_no_save(ws: Workspace, tmp_path: Path) -> None:
    command = script(tmp_path / "bin")
    with running(ws) as keeper:
        os.kill(keeper, signal.SIGSTOP)
        for number in range(2):
            # Nobody reads from the FIFO: the second one does not write to it.
            ws.append("a.txt", f"more {number}\n")
            done = run(command, ws)
            assert (done.returncode, done.stderr[:6]) == (0, "saved "), done
            assert called(ws).exists()
        os.kill(keeper, signal.SIGCONT)
        wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "the keeper has heard all of it")
        wait_until(lambda: not called(ws).exists(), "the announcement is gone")
        assert ws.out("show", "HEAD:a.txt").endswith("more 1")
        os.kill(keeper, signal.SIGKILL)
        ws.append("a.txt", "after it\n")
        assert run(command, ws).returncode == 0
        assert ws.out("show", "HEAD:a.txt").endswith("after it")


@pytest.mark.sample(2)
@pytest.mark.parametrize("shell", SHELLS)
def test_script_with_blocked_signals_does_not_wait_for_a_stopped_keeper(
    shell: str, ws: Workspace, tmp_path: Path
) -> None:
    """A program that reads its signals from a descriptor hands its mask on to what it starts."""
    command = script(tmp_path / "bin")
    with running(ws) as keeper:
        os.kill(keeper, signal.SIGSTOP)
        ws.append("a.txt", "more\n")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            done = run(command, ws, shell=shell)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.kill(keeper, signal.SIGCONT)
        assert (done.returncode, done.stderr[:6]) == (0, "saved "), done
        assert ws.out("show", "HEAD:a.txt").endswith("more")


def test_child_of_the_keeper_killed_before_the_order(ws: Workspace, tmp_path: Path) -> None:
    kill = '#!/bin/sh\nuntil [ -e {seen} ]; do sleep 0.02; done\nexec {gitstate} "$@"\n'
    command = script(tmp_path / "bin", kill)
    with running(ws) as keeper:
        ws.append("a.txt", "more\n")
        process = subprocess.Popen([command, "save"], cwd=ws.path, stderr=subprocess.PIPE)
        wait_until(lambda: marker(ws), "the first save")
        for child in children(keeper):
            os.kill(child, signal.SIGKILL)
        wait_until(lambda: not children(keeper), "their end")
        (command.parent / "seen").touch()
        _, words = process.communicate(timeout=120)
        assert (process.returncode, words[:6]) == (0, b"saved "), words
        assert ws.out("show", "HEAD:a.txt").endswith("more")


WAITS_LONG = """\
import sys
sys.argv[0] = "gitstate"
import gitstate.orders.announced
gitstate.orders.announced._PATIENCE = 1000.0
from gitstate.__main__ import main
main()
"""


def test_nobody_waits_for_a_client_that_announced_and_was_stopped(ws: Workspace) -> None:
    """Ctrl-Z, say. The keeper awaits its order for some seconds, in which another may be in a hurry."""
    start = run_command(ws, "", "--interval", "3600")[len(GITSTATE) :]
    started = Started(ws, [sys.executable, "-c", WAITS_LONG, *start])
    agent_pid(ws)
    keeper_pid(ws)
    wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "a checkpoint")
    with another() as stopped:
        ws.append("a.txt", "more\n")
        announce(ws, line_of(stopped))
        wait_until(lambda: marker(ws), "the first save")
        ws.append("a.txt", "by another\n")
        answer = order_save(own(ws), {"deadline": 20.0})
        started.send(signal.SIGTERM)
        assert started.status() == 143, started.words()
    assert answer.last is not None and not answer.last["lost"], "the keeper has saved"
    assert ws.out("show", "HEAD:a.txt").endswith("by another")


def leave_file(path: Path) -> None:
    path.write_text("left\n")


def leave_link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [CALL, ANSWER, CALLED])
@pytest.mark.parametrize("leave", [leave_file, leave_link, os.mkfifo, Path.mkdir])
def test_strange_file_stops_no_save(leave: object, name: str, ws: Workspace, tmp_path: Path) -> None:
    assert callable(leave)
    ws.gitstate("begin", "task_id=T-1")
    ws.append("a.txt", "more\n")
    if name != CALL:
        os.mkfifo(call(ws))
    leave(Path(os.fsdecode(own(ws)), name))
    done = run(script(tmp_path / "bin"), ws)
    assert (done.returncode, done.stderr[:6]) == (0, "saved "), done
    assert ws.out("show", "HEAD:a.txt").endswith("more")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file and a process of another user")
def test_script_and_keeper_hear_no_other_user(ws: Workspace, tmp_path: Path) -> None:
    command = script(tmp_path / "bin")
    with running(ws) as keeper, another(user=65534) as stranger:
        announce(ws, line_of(stranger))
        wait_until(lambda: not called(ws).exists(), "the keeper has read it")
        assert not children(keeper) and not saves(ws)
        os.chown(call(ws), 65534, -1)
        ws.append("a.txt", "more\n")
        assert run(command, ws).returncode == 0
        assert not called(ws).exists() and len(saves_of_kind(ws, "save")) == 1


@contextlib.contextmanager
def another(user: int | None = None) -> Iterator[int]:
    with subprocess.Popen(["sleep", "600"], user=user) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def test_announcement_of_no_process_begins_nothing(ws: Workspace) -> None:
    # In another pid namespace its number is that of another process, which began at another time.
    name, _, fields = line_of(os.getpid()).rpartition(") ")
    words = fields.split()
    later = f"{name}) {' '.join([*words[:19], str(int(words[19]) + 1), *words[20:]])}"
    with running(ws) as keeper:
        ws.append("a.txt", "more\n")
        for line in ("", "1", "x (y) z", "99999999 (sh) S 1", later):
            announce(ws, line)
            wait_until(lambda: not called(ws).exists(), "the keeper has read it")
            assert not children(keeper), line
        assert ws.gitstate("save").exit_status == 0
        assert len(saves_of_kind(ws, "save")) == 1


def test_order_clears_an_announcement_without_its_byte(ws: Workspace, tmp_path: Path) -> None:
    """Its script was killed between both: no other could announce anything."""
    with running(ws):
        ws.append("a.txt", "more\n")
        called(ws).write_text("1 (sh) S 1\n")
        assert run(script(tmp_path / "bin"), ws).returncode == 0
        assert not called(ws).exists() and (call(ws).parent / os.fsdecode(SOCKET)).exists()
