"""Entries that are no file, are unreadable, or are large."""

from __future__ import annotations

import os
import stat

from tests.states.ordinary import DIRTY, dirty
from tests.states.registry import EVERYWHERE, HERE, NO_PLAIN, Loss, state
from tests.support.permissions import why_what_is_unreadable_cannot_be_compared
from tests.support.workspace import Workspace


@state(losses=NO_PLAIN, left_out=["fifo", "fresh/fifo"])
def fifo(ws: Workspace) -> None:
    os.mkfifo(ws.at("fifo"))
    ws.write("fresh/file.txt")
    os.mkfifo(ws.at("fresh/fifo"))
    dirty(ws)
    ws.expect(*DIRTY)


@state(losses=NO_PLAIN, left_out=["socket"])
def unix_socket(ws: Workspace) -> None:
    os.mknod(ws.at("socket"), stat.S_IFSOCK | 0o600)
    dirty(ws)
    ws.expect(*DIRTY)


@state(losses=NO_PLAIN, left_out=["a.txt"], status_says_more=True)
def fifo_where_a_tracked_file_was(ws: Workspace) -> None:
    ws.remove("a.txt")
    os.mkfifo(ws.at("a.txt"))
    ws.append("b.txt")
    ws.expect(" M b.txt")


@state(
    losses=NO_PLAIN,
    left_out=["secret.txt", "b.txt"],
    save_exits=[4],
    recover_exits=[0, 4],
    status_says_more=True,
    why_not=why_what_is_unreadable_cannot_be_compared,
)
def unreadable_files(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("secret.txt", "secret\n", 0)
    ws.append("b.txt")
    ws.chmod("b.txt", 0)
    ws.write("untracked.txt")
    ws.without_override = True
    ws.expect(" M a.txt", "?? secret.txt")


@state(
    losses=NO_PLAIN,
    left_out=["locked"],
    save_exits=[0, 4],
    recover_exits=[0, 4],
    status_says_more=True,
    why_not=why_what_is_unreadable_cannot_be_compared,
)
def unreadable_directory(ws: Workspace) -> None:
    ws.append("a.txt")
    ws.write("locked/inner.txt")
    ws.chmod("locked", 0)
    ws.without_override = True
    ws.expect(" M a.txt")


@state(
    losses=NO_PLAIN,
    may_leave_out=["locked"],
    save_exits=(0, 4),
    recover_exits=(0, 4),
    why_not=why_what_is_unreadable_cannot_be_compared,
)
def unreadable_directory_of_tracked_files(ws: Workspace) -> None:
    ws.write("locked/inner.txt")
    ws.commit("locked")
    ws.append("a.txt")
    ws.chmod("locked", 0)
    ws.without_override = True
    ws.expect(" M a.txt")


@state(quick=EVERYWHERE)
def odd_contents(ws: Workspace) -> None:
    ws.write("nothing.txt", "")
    ws.write("a.txt", "")
    ws.write("empty.txt", "no longer\n")
    ws.write("nul.bin", b"a\0b\0\0")
    ws.write("no-newline.txt", "no newline")
    ws.write("looks-like-a-blob", b"blob 3\0abc")
    ws.write("conflict-markers.txt", "<<<<<<< HEAD\n=======\n>>>>>>> x\n")
    ws.write("data.bin", os.urandom(50_000))
    ws.expect(" M a.txt", " M empty.txt", "?? nul.bin")


@state()
def huge_line(ws: Workspace) -> None:
    ws.write("line.txt", "x" * 5_000_000)
    ws.append("a.txt", "y" * 1_000_000)
    ws.expect_exactly("?? line.txt", " M a.txt")


@state()
def large_file_20_mb(ws: Workspace) -> None:
    ws.write("large.bin", os.urandom(20_000_000))
    ws.append("a.txt")
    ws.expect_exactly("?? large.bin", " M a.txt")


@state(slow=True, losses=HERE | {Loss.REMOVED})
def large_file_200_mb(ws: Workspace) -> None:
    with open(ws.at("large.bin"), "wb") as file:
        for _ in range(200):
            file.write(os.urandom(1_000_000))
    ws.append("a.txt")
    ws.expect_exactly("?? large.bin", " M a.txt")


def _many(ws: Workspace, count: int) -> None:
    for number in range(count):
        ws.write(f"many/{number % 100}/{number}.txt", f"{number}\n")
    ws.append("a.txt")


@state()
def untracked_files_3000(ws: Workspace) -> None:
    _many(ws, 3_000)


@state(slow=True, losses=HERE | {Loss.REMOVED})
def untracked_files_30000(ws: Workspace) -> None:
    _many(ws, 30_000)
