"""Files that a power cut left short come back; files that a person put there stay."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.boots import in_a_new_boot, needs_root
from tests.support.forgery import forged
from tests.support.look import paths_of
from tests.support.oracle import fingerprint
from tests.support.recovering import recovered_from
from tests.support.workspace import Workspace

from .device import FILE_SYSTEMS, Disk
from .recording import Recording, base, came_back, succeed


@pytest.fixture
def plain(tmp_path: Path) -> Workspace:
    path, outside = tmp_path / "repo", tmp_path / "outside"
    path.mkdir()
    outside.mkdir()
    ws = Workspace(path, outside)
    base(ws)
    return ws


def cut_short(ws: Workspace, path: str, length: int, zeros: int) -> None:
    """Keep `length` bytes of a file, and up to `zeros` zero bytes after them."""
    size = os.stat(ws.at(path)).st_size
    ws.write(path, ws.read(path)[:length] + bytes(min(zeros, size - length)))


def reboot(ws: Workspace, *, later: int = 0, kind: str = "pending") -> None:
    """Change the pending save: it was made in the previous boot, and began `later` seconds after its real start."""
    with forged(ws, kind) as save:
        save.context["boot_id"] = "the boot before"
        if later:
            began = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() + later))
            save.manifest["save_id"] = began + save.manifest["save_id"][15:]


def power_fails(ws: Workspace, kind: str = "pending") -> None:
    """Make every change to the files so far look like the work of a power cut, which leaves their old times.

    No system call sets a file's ctime, so the time of the save moves forward instead.
    """
    reboot(ws, later=5, kind=kind)


@pytest.mark.sample(2)
@needs_root
@pytest.mark.parametrize(("length", "zeros"), [(0, 0), (7, 0), (0, 1000), (7, 5), (7, 1000)])
def test_file_shortened_by_a_power_cut_is_restored(plain: Workspace, length: int, zeros: int) -> None:
    plain.write("u.txt", "untracked\n" * 5)
    plain.write("d0/f0.txt", "edited, and long enough\n")
    expected = fingerprint(plain.path)
    succeed(plain.save())
    for path in ("u.txt", "d0/f0.txt", "d1/f1.txt"):
        cut_short(plain, path, length, zeros)
    power_fails(plain)
    with in_a_new_boot(plain):
        run = plain.recover()
    came_back(Recording(FILE_SYSTEMS["ext4"], plain, Disk(plain.path, 0), plain.path, expected=expected), run)
    assert recovered_from(run)["verdict"] == "restore"


@needs_root
def test_file_shortened_in_a_run_comes_back_from_the_checkpoint(plain: Workspace) -> None:
    plain.write("u.txt", "untracked\n" * 5)
    plain.write("d0/f0.txt", "edited, and long enough\n")
    expected = fingerprint(plain.path)
    with plain.in_another_boot():
        succeed(plain.gitstate("begin", "task_id=T-1"))
        succeed(plain.gitstate("checkpoint"))
    cut_short(plain, "u.txt", 0, 0)
    power_fails(plain, "checkpoints")
    with in_a_new_boot(plain):
        run = plain.recover()
    came_back(Recording(FILE_SYSTEMS["ext4"], plain, Disk(plain.path, 0), plain.path, expected=expected), run)
    assert paths_of(recovered_from(run)["restored"]) == {b"u.txt"}


#: How an older, shorter beginning of a file comes into its place with the times that it had: $0 is put at $1.
MOVES = {
    "mv": 'mv "$0" "$1"',
    "cp -p": 'cp -p "$0" "$1"',
    "ln": 'ln -f "$0" "$1"',
    "touch -r": 'cat "$0" > "$1" && touch -r "$0" "$1"',
}


@pytest.mark.parametrize("way", MOVES)
def test_older_beginning_put_there_by_a_person_is_kept(plain: Workspace, way: str) -> None:
    """It is an edit like any other, for tracked and untracked files."""
    for path in ("u.txt", "d1/f1.txt"):
        older = plain.outside / os.path.basename(path)
        older.write_text("begun\n")
        os.utime(older, ns=(10**18, 10**18))
        plain.write(path, "begun\nand carried on\n")
    succeed(plain.save())
    reboot(plain)
    for path in ("u.txt", "d1/f1.txt"):
        older = plain.outside / os.path.basename(path)
        subprocess.run(["sh", "-c", MOVES[way], os.fspath(older), os.fspath(plain.at(path))], check=True)
        assert os.stat(plain.at(path)).st_mtime_ns == 10**18
    assert paths_of(recovered_from(plain.recover(), exits=(0, 4))["kept"]) == {b"u.txt", b"d1/f1.txt"}
    assert plain.read("u.txt") == plain.read("d1/f1.txt") == b"begun\n"


def test_older_directory_moved_there_by_a_person_is_kept(plain: Workspace) -> None:
    """A moved directory changes no time of its files, but without a reboot there was no power cut."""
    older = plain.outside / "notes"
    older.mkdir()
    (older / "log.txt").write_text("begun\n")
    plain.write("notes/log.txt", "begun\nand carried on\n")
    plain.write("d1/f1.txt", "edited\n")
    time.sleep(0.1)
    succeed(plain.save())
    os.rename(plain.at("notes"), plain.outside / "newer")
    os.rename(os.fsencode(older), plain.at("notes"))
    # The boot has no other id: the clock was set, and nothing else.
    with in_a_new_boot(plain) if os.geteuid() == 0 else contextlib.nullcontext():
        run = plain.recover()
    assert paths_of(recovered_from(run, exits=(0, 4))["kept"]) == {b"notes/log.txt"}
    assert plain.read("notes/log.txt") == b"begun\n"


@pytest.mark.sample(2)
@pytest.mark.parametrize("left", [b"untr\0\0x", b"Untracked\n", b"untracked\n" * 6, b"untracked\n" * 5 + b"\0"])
def test_older_file_with_other_bytes_is_kept(plain: Workspace, left: bytes) -> None:
    """A power cut leaves a beginning of the saved bytes, never other bytes."""
    plain.write("u.txt", "untracked\n" * 5)
    succeed(plain.save())
    plain.write("u.txt", left)
    power_fails(plain)
    with in_a_new_boot(plain) if os.geteuid() == 0 else contextlib.nullcontext():
        run = plain.recover()
    assert paths_of(recovered_from(run, exits=(0, 4))["kept"]) == {b"u.txt"}
    assert plain.read("u.txt") == left


@pytest.mark.parametrize("kind", ["pending", "checkpoints"])
def test_file_shortened_in_this_boot_is_kept_where_the_clock_was_ahead(plain: Workspace, kind: str) -> None:
    """It is older than the time that the save tells. No power cut can have left it so: the machine was up."""
    for path in ("u.txt", "d0/f0.txt"):
        plain.write(path, "begun\nand carried on\n")
    if kind == "pending":
        succeed(plain.save())
    else:
        succeed(plain.gitstate("begin", "task_id=T-1"))
        succeed(plain.gitstate("checkpoint"))
        context = plain.git_dir / "gitstate/context.json"
        context.write_text(json.dumps(json.loads(context.read_text()) | {"boot_id": "the boot before"}))
    for path in ("u.txt", "d0/f0.txt"):
        plain.write(path, "begun\n")
    reboot(plain, later=3600, kind=kind)
    assert plain.recover().exit_status in (0, 4)
    assert plain.read("u.txt") == plain.read("d0/f0.txt") == b"begun\n"


def test_file_emptied_after_the_save_is_kept(plain: Workspace) -> None:
    plain.write("u.txt", "untracked\n" * 5)
    succeed(plain.save())
    reboot(plain)
    before = os.stat(plain.at("u.txt")).st_mtime_ns
    plain.write("u.txt", "")
    plain.write("d1/f1.txt", "1\n")
    assert os.stat(plain.at("u.txt")).st_mtime_ns > before
    run = plain.recover()
    assert plain.read("u.txt") == b""
    assert plain.read("d1/f1.txt") == b"1\n"
    assert paths_of(recovered_from(run, exits=(0, 4))["kept"]) == {b"d1/f1.txt", b"u.txt"}
