"""A save where the disk is nearly full: what is small and precious is saved, the rest is named."""

from __future__ import annotations

import json
import os

import pytest

from tests.support.patched import patched
from tests.support.workspace import Workspace

#: A disk with so many bytes left: what is written to packs counts.
FULL = """
import errno
left = {left}
class Disk:
    f_bavail, f_frsize = {left}, 1
os.statvfs = lambda path: Disk
from gitstate.objects import pack
real = os.write
def write(fd, data):
    global left
    name = os.readlink("/proc/self/fd/%d" % fd)
    if "/objects/" in name:
        left -= len(data)
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
    return real(fd, data)
os.write = write
"""


@pytest.mark.parametrize("words", [(), ("--deadline", "60")])
def test_what_has_no_room_is_named(ws: Workspace, words: tuple[str, ...]) -> None:
    """What failed is removed before it is tried again."""
    ws.write("a.txt", "edited\n")
    with open(ws.at("large.bin"), "wb") as file:
        file.write(b"".join(b"%07d\n" % number for number in range(250_000)))
    run = patched(ws, FULL.format(left=1 << 20) + AGAIN, "save", "--json", *words)
    assert run.returncode == 4, run
    answer = json.loads(run.stdout)
    assert [(item["path"], item["reason"]) for item in answer["left_out"]] == [("large.bin", "the disk is full")]
    assert ws.out("show", f"{answer['wip_commit']}:a.txt") == "edited"


#: A pack that failed is removed: its bytes are free again.
AGAIN = f"""
from gitstate.objects.pack import PackWriter
release = PackWriter.release
def released(self):
    global left
    left = {1 << 20}
    release(self)
PackWriter.release = released
"""


#: A disk that says so often that it is full when the objects of a save are synced.
FULL_AT_SYNC = """
import errno
left, real = {times}, os.fsync
def fsync(fd):
    global left
    name = os.readlink("/proc/self/fd/%d" % fd)
    if left and "/objects/pack/gitstate_tmp_" in name:
        left -= 1
        raise OSError(errno.{error}, os.strerror(errno.{error}))
    real(fd)
os.fsync = fsync
"""


@pytest.mark.parametrize(("error", "words"), [("ENOSPC", "No space left on device"), ("EDQUOT", "Disk quota exceeded")])
def test_save_that_was_tried_again_for_lack_of_room_says_so(ws: Workspace, error: str, words: str) -> None:
    ws.write("a.txt", "edited\n")
    run = patched(ws, FULL_AT_SYNC.format(times=1, error=error), "save", "--json")
    (kept,) = (ws.git_dir / "gitstate").glob("index.*")
    answer = json.loads(run.stdout)
    assert (run.returncode, answer["result"], answer["left_out"]) == (0, "saved", []), run
    assert f"the disk was full ({words}), so the save was tried again" in answer["message"]
    assert answer["message"].encode() in run.stderr, "a person reads it, too"
    assert ws.out("show", f"{answer['wip_commit']}:a.txt") == "edited"
    assert kept.name == f"index.{answer['save_id']}", "the first try left none"


def test_save_for_which_the_disk_is_full_leaves_no_index(ws: Workspace) -> None:
    ws.write("a.txt", "edited\n")
    run = patched(ws, FULL_AT_SYNC.format(times=100, error="ENOSPC"), "save")
    assert run.returncode == 4 and run.stderr.startswith(b"nothing was saved"), run
    assert [*(ws.git_dir / "gitstate").glob("index.*")] == []
    assert ws.save().exit_status == 0 and ws.recover().exit_status == 0
    assert ws.read("a.txt") == b"edited\n"


def test_save_whose_refs_git_can_not_write_leaves_no_index(ws: Workspace) -> None:
    """As where there is no room for them, or another git holds their locks."""
    ws.write("a.txt", "edited\n")
    assert ws.save().exit_status == 0
    (marker,) = ws.refs("refs/gitstate/pending/")
    assert ws.recover().exit_status == 0
    lock = ws.git_dir / f"{marker}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    run = ws.save()
    assert run.exit_status == 1 and f"{lock.name}': File exists" in run.stderr, run
    assert [*(ws.git_dir / "gitstate").glob("index.*")] == []
    lock.unlink(missing_ok=True)
    assert ws.save().exit_status == 0 and ws.recover().exit_status == 0
    assert ws.read("a.txt") == b"edited\n"


def test_save_without_room_for_any_file_says_so(ws: Workspace) -> None:
    ws.write("a.txt", "edited\n")
    run = patched(ws, FULL_AT_SYNC.format(times=2, error="ENOSPC"), "save", "--json", "--task-id", "T-1")
    answer = json.loads(run.stdout)
    assert (run.returncode, answer["result"]) == (4, "saved"), run
    assert [(item["path"], item["reason"]) for item in answer["left_out"]] == [("a.txt", "the disk is full")]
    assert answer["message"].endswith("with 0 bytes for files")
    assert ws.save().exit_status == 0


@pytest.mark.parametrize("command", ["save", "checkpoint"])
def test_file_over_the_limit_of_the_system_is_skipped_alone(ws: Workspace, command: str) -> None:
    """`ulimit -f`, as batch systems set it."""
    ws.append("a.txt", "edited\n")
    ws.write("large.bin", os.urandom(1 << 20))
    ws.cli_prefix = ("prlimit", f"--fsize={1 << 19}")
    run = ws.gitstate(command, "--json")
    assert (run.exit_status, run.json["result"]) == (4, "saved"), run
    (skipped,) = run.json["left_out"]
    assert (skipped["path"], skipped["reason"]) == ("large.bin", "no file may be so large here")
    assert f"(File too large), so the save was tried again with {1 << 18} bytes for files" in run.stderr
    assert ws.out("show", f"{run.json['wip_commit']}:a.txt").endswith("edited")
