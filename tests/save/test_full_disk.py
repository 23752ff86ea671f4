"""A save where the disk is nearly full: what is small and precious is saved, the rest is named."""

from __future__ import annotations

import json

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
