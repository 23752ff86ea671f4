"""`gitstate save` beside a keeper: an order to it, and a save of its own wherever the keeper does not answer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstate.orders.client import SOCKET, order_checkpoint, order_save
from tests.run.commands import run_command
from tests.support.agents import Started, agent_pid, check_recovered, keeper_pid, marker, wait_until
from tests.support.oracle import fingerprint
from tests.support.repositories import three_files
from tests.support.workspace import GITSTATE, Workspace


def own(ws: Workspace) -> bytes:
    return os.path.join(os.fsencode(ws.git_dir), b"gitstate")


@contextlib.contextmanager
def running(ws: Workspace) -> Iterator[int]:
    """A run with a keeper that has taken a checkpoint, and knows what changes from now on; its pid."""
    started = Started(ws, run_command(ws, "", "--interval", "3600"))
    try:
        agent_pid(ws)
        keeper = keeper_pid(ws)
        wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "a checkpoint")
        yield keeper
    finally:
        started.send(signal.SIGKILL)
        started.status()
        wait_until(lambda: not os.path.exists(own(ws) + b"/run.json"), "the end of the keeper")


def saves(ws: Workspace) -> list[str]:
    return ws.out("for-each-ref", "--format=%(refname:lstrip=4)", "refs/gitstate/saves").split()


def start_save(ws: Workspace, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*GITSTATE, "save", *options], cwd=ws.path, stderr=subprocess.PIPE)


def is_connected(pid: int) -> bool:
    """Whether a process has a socket."""
    with contextlib.suppress(OSError):
        return any(os.readlink(link).startswith("socket:") for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def check_saved_alone(ws: Workspace, process: subprocess.Popen[bytes], most: int = 1) -> None:
    """The front has saved by itself: status, words, one save (or `most`), and it holds what is there."""
    _, words = process.communicate(timeout=60)
    assert (process.returncode, words[:6]) == (0, b"saved "), words
    assert 1 <= len(saves(ws)) <= most and marker(ws)
    assert ws.out("show", "HEAD:a.txt").endswith("more")


def test_save_is_an_order_to_the_keeper(ws: Workspace) -> None:
    with running(ws):
        ws.append("a.txt", "more\n")
        answer = order_save(own(ws), {"reason": (None, None, "by order"), "label": "mine"})
        assert answer.last is not None
        # What was known to have changed was saved first; the second save has taken its place.
        assert answer.early is not None and saves(ws) == [answer.last["json"]["save_id"]] != [answer.early]
        assert answer.last["lines"][0].startswith(f"saved {saves(ws)[0]} (")
        assert answer.last["lines"][0].endswith(" on agent/work)") and not answer.last["lost"]
        assert ws.out("show", "HEAD:a.txt").endswith("more")
        assert json.loads(ws.git("notes", "--ref=gitstate", "show", "HEAD"))["task_id"] == "T-9"
        again = order_save(own(ws), {"strict": True})
        assert again.last is not None and again.last["lines"] == ["nothing changed since the last save"]


def test_words_json_and_statuses_are_those_of_a_save_without_a_keeper(ws: Workspace) -> None:
    options = ["save", "--json", "--task-id", "T-1", "--reason", "by hand"]
    with running(ws):
        ws.append("a.txt", "more\n")
        before = fingerprint(ws.path)
        ordered, unchanged = ws.gitstate(*options), ws.gitstate(*options)
        refused = ws.gitstate("save", "--label", "latest")
        ws.config("gitstate.register", "perhaps")
        strict = ws.gitstate("save")
        ws.git("config", "--unset", "gitstate.register")
    ws.recover()
    for ref in ws.refs("refs/gitstate/pending", "refs/gitstate/saves"):
        ws.git("update-ref", "-d", ref)
    assert before.diff(fingerprint(ws.path)) == []
    alone = ws.gitstate(*options)
    volatile = ("save_id", "wip_commit", "archive", "index_commit")
    told, expected = ({**run.json, **dict.fromkeys(volatile)} for run in (ordered, alone))
    assert told == expected
    assert (ordered.exit_status, unchanged.exit_status, refused.exit_status, strict.exit_status) == (0, 0, 2, 2)
    assert unchanged.stderr == ws.gitstate(*options).stderr


def test_store_without_an_event_is_saved_too(ws: Workspace) -> None:
    with (ws.path / "a.txt").open("r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
    with running(ws):
        wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "what the agent wrote is in a checkpoint")
        view[0:1] = b"X"
        view.flush()
        assert ws.gitstate("save").exit_status == 0
        assert ws.out("show", "HEAD:a.txt").startswith("X")
    view.close()


def test_checkpoint_after_a_commit_knows_what_is_tracked(ws: Workspace) -> None:
    """What the keeper knew before must not take the place of what it has just seen."""
    with running(ws):
        ws.write("later.txt", "tracked later\n")
        ws.commit("the agent's")
        for name in ("a.txt", "later.txt"):
            ws.remove(name)
            wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "a checkpoint")
        (held,) = ws.refs("refs/gitstate/checkpoints").values()
        names = ws.out("ls-tree", "--name-only", f"{held}^1").split()
        assert "later.txt" not in names and "a.txt" not in names


ORDERS = """\
import marshal, os, socket, sys
os.chdir(sys.argv[1])
info = os.stat(".")
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect("keeper.sock")
try:
    order = {"do": "save", "own": (info.st_dev, info.st_ino), "words": {}, "environ": {}}
    connection.send(marshal.dumps(order))
    print(connection.recv(1 << 20))
except OSError:
    print(b"")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a process of another user gives an order")
def test_keeper_takes_no_order_of_another_user(ws: Workspace) -> None:
    with running(ws):
        os.chmod(own(ws), 0o711)
        os.chmod(own(ws) + b"/" + SOCKET, 0o777)
        ws.append("a.txt", "more\n")
        argv = [sys.executable, "-c", ORDERS, os.fsdecode(own(ws))]
        said = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=60)
        assert (said.stdout, said.stderr) == ("b''\n", "")
        assert not saves(ws)


def test_keeper_killed_between_order_and_answer(ws: Workspace) -> None:
    with running(ws) as keeper:
        ws.append("a.txt", "more\n")
        os.kill(keeper, signal.SIGSTOP)
        process = start_save(ws)
        wait_until(lambda: is_connected(process.pid) or process.poll() is not None, "the order")
        os.kill(keeper, signal.SIGKILL)
        check_saved_alone(ws, process)


def test_keeper_that_does_not_answer_saves_nothing_later(ws: Workspace) -> None:
    with running(ws) as keeper:
        ws.append("a.txt", "more\n")
        os.kill(keeper, signal.SIGSTOP)
        check_saved_alone(ws, start_save(ws))
        ws.append("a.txt", "after it\n")
        os.kill(keeper, signal.SIGCONT)
        wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "the keeper has read all orders")
        assert len(saves(ws)) == 1
        assert ws.out("show", "HEAD:a.txt").endswith("more")


def test_saver_of_the_keeper_killed_before_its_answer(ws: Workspace) -> None:
    with running(ws) as keeper:
        ws.append("a.txt", "more\n")
        with open(own(ws) + b"/lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = start_save(ws)
            wait_until(lambda: children(keeper), "the saver waits for the workspace")
            for child in children(keeper):
                os.kill(child, signal.SIGKILL)
        check_saved_alone(ws, process)


def test_saver_killed_after_its_first_marker(ws: Workspace) -> None:
    with running(ws) as keeper:
        ws.append("a.txt", "more\n")
        before = fingerprint(ws.path)
        process = start_save(ws)
        wait_until(lambda: marker(ws) or process.poll() is not None, "the first marker")
        for child in children(keeper):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        # The front does not know of a first save whose saver was killed before it could tell: it makes one more.
        check_saved_alone(ws, process, most=2)
    check_recovered(ws, before)


def test_several_orders_at_once_make_one_save(ws: Workspace) -> None:
    with running(ws):
        ws.append("a.txt", "more\n")
        before = fingerprint(ws.path)
        running_saves = [start_save(ws) for _ in range(5)]
        for process in running_saves:
            _, words = process.communicate(timeout=120)
            assert process.returncode == 0, words
        assert len(saves(ws)) == 1
    assert "T-9" in check_recovered(ws, before)["briefing"]


def test_run_that_ends_during_an_order_loses_nothing(ws: Workspace) -> None:
    started = Started(ws, run_command(ws, "", "--interval", "3600"))
    agent_pid(ws)
    keeper = keeper_pid(ws)
    wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "a checkpoint")
    ws.append("a.txt", "more\n")
    before = fingerprint(ws.path)
    with open(own(ws) + b"/lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start_save(ws)
        wait_until(lambda: children(keeper), "the saver waits for the workspace")
        started.send(signal.SIGTERM)
        wait_until(lambda: not os.path.lexists(own(ws) + b"/" + SOCKET), "the keeper takes no order any more")
    assert started.status() == 143, started.words()
    process.communicate(timeout=120)
    assert marker(ws)
    assert process.returncode == 0
    check_recovered(ws, before)


def leave_socket(path: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        dead.bind(f"/proc/self/fd/{directory}/{os.fsdecode(os.path.basename(path))}")
        os.close(directory)


def leave_file(path: bytes) -> None:
    Path(os.fsdecode(path)).write_bytes(b"no socket")


def leave_link(path: bytes) -> None:
    os.symlink(b"/dev/zero", path)


@pytest.mark.sample(3)
@pytest.mark.parametrize("leave", [leave_socket, leave_file, leave_link, os.mkfifo, os.mkdir])
@pytest.mark.parametrize("held", [False, True])
def test_socket_of_nobody(leave: object, held: bool, ws: Workspace) -> None:
    assert callable(leave)
    ws.gitstate("begin", "task_id=T-1")
    leave(os.path.join(own(ws), SOCKET))
    ws.append("a.txt", "more\n")
    with open(own(ws) + b"/lease", "ab") as lease:
        if held:
            fcntl.flock(lease, fcntl.LOCK_EX)
        check_saved_alone(ws, start_save(ws))


LIAR = """\
import marshal, os, socket, sys
directory, user = os.open(sys.argv[1], os.O_RDONLY), int(sys.argv[2])
listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listening.bind(f"/proc/self/fd/{directory}/keeper.sock")
os.chmod(f"/proc/self/fd/{directory}/keeper.sock", 0o777)
os.setuid(user)
listening.listen(5)
print("listens", flush=True)
while True:
    connection, _ = listening.accept()
    heard = b""
    try:
        connection.send(marshal.dumps({"begun": True}))
        connection.send(marshal.dumps({"lines": ["saved by a liar"], "json": {}, "lost": False}))
        heard = connection.recv(1 << 20)
    except OSError:
        pass
    print(heard, flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a process of another user listens")
def test_socket_of_another_user_is_told_nothing(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=T-1")
    ws.append("a.txt", "more\n")
    argv = ["python3", "-c", LIAR, os.fsdecode(own(ws)), "65534"]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE) as liar,
        open(own(ws) + b"/lease", "ab") as lease,
    ):
        try:
            assert liar.stdout is not None and liar.stdout.readline() == b"listens\n"
            fcntl.flock(lease, fcntl.LOCK_EX)
            check_saved_alone(ws, start_save(ws))
            assert liar.stdout.readline() == b"b''\n"
        finally:
            liar.kill()


def test_keeper_of_another_workspace_saves_nothing(ws: Workspace, tmp_path: Path) -> None:
    with running(ws):
        ws.git("worktree", "add", "-q", str(tmp_path / "other"))
        other = Workspace(tmp_path / "other", tmp_path)
        other.gitstate("set", "task_id=T-2")
        os.link(os.path.join(own(ws), SOCKET), os.path.join(own(other), SOCKET))
        other.append("a.txt", "more\n")
        with open(own(other) + b"/lease", "ab") as lease:
            fcntl.flock(lease, fcntl.LOCK_EX)
            assert order_save(own(other), {}).last is None
            assert not order_checkpoint(own(other), at_once=True, waits=60)
            assert other.gitstate("save").exit_status == 0
        assert other.out("show", "HEAD:a.txt").endswith("more")
        assert other.out("log", "-1", "--format=%s").startswith("WIP(gitstate)")
        assert ws.out("log", "-1", "--format=%s").startswith("WIP(gitstate)") is False


def test_keeper_takes_no_order_from_another_directory_in_its_place(ws: Workspace) -> None:
    with running(ws):
        moved = own(ws) + b"-moved"
        os.rename(own(ws), moved)
        try:
            assert not order_checkpoint(moved, at_once=True, waits=60)
        finally:
            wait_until(lambda: puts_back(moved, own(ws)), "it is back")
        wait_until(lambda: order_checkpoint(own(ws), at_once=True, waits=60), "the keeper takes orders again")


def puts_back(moved: bytes, place: bytes) -> bool:
    """Move a directory back; where the run has made another one meanwhile, to hold the lease there, that one goes."""
    with contextlib.suppress(OSError):
        os.rename(moved, place)
        return True
    os.rename(place, moved + b"-%d" % os.stat(place).st_ino)
    return False


def test_link_into_another_repository_leads_to_that_one(ws: Workspace, tmp_path: Path) -> None:
    """Its path is below this workspace, where a keeper works; git works where the link leads."""
    (tmp_path / "other").mkdir()
    other = three_files(tmp_path / "other")
    os.symlink(other.path / "d", ws.at("to other"))
    other.write("a", "work\n")
    with running(ws):
        done = subprocess.run([*GITSTATE, "-C", ws.at("to other"), "save", "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout)["workspace"] == os.fspath(other.path)
    assert other.out("show", "HEAD:a") == "work"
