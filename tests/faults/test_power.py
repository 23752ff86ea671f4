"""The power fails at any write of the disk, and what was not flushed is lost or came in another order.

The agent never syncs anything: its own `git add` and `git commit` just before the save are at stake too. After exit
status 0 a save is whole and `recover` brings everything back; before it, the save is absent or whole. A recover that
is cut off is done again, and comes to the same end. `POWER_POINT=NUMBER[:SEED]` tries one point alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.recover.test_tampered_saves import forged
from tests.states import Run, Workspace, run_git
from tests.stories.test_roundtrip import paths_of, recovered_from
from tests.support.oracle import Fingerprint, NotARepositoryError, fingerprint

from .device import (
    FILE_SYSTEMS,
    Blocks,
    Disk,
    Entry,
    FileSystem,
    MountFailed,
    after,
    flushed,
    formatted,
    mounted,
    why_not,
)
from .sweeps import Say, judge, spread


def base(ws: Workspace, *options: str) -> None:
    """What is on the disk for good before the agent begins. `options` are for `git init`."""
    ws.git("init", "-q", "-b", "main", *options, ".")
    for number in range(12):
        ws.write(f"d{number % 3}/f{number}.txt", f"{number}\n" * 20)
    ws.write("run.sh", "#!/bin/sh\n", 0o755)
    ws.commit("base")


def work(ws: Workspace) -> None:
    """What an agent does in a minute, none of it synced: a commit, staged, edited, deleted and new files."""
    ws.write("d0/f0.txt", "committed by the agent\n")
    ws.write("new/committed.txt", "new in the agent's commit\n")
    ws.git("add", "-A")
    ws.git("commit", "-q", "-m", "the agent's own commit")
    ws.write("d1/f1.txt", "staged by the agent\n" * 30)
    ws.git("add", "d1/f1.txt")
    ws.write("d1/f1.txt", "edited after that\n")
    ws.write("d2/f2.txt", "edited\n")
    ws.write("new/staged.bin", os.urandom(60_000))
    ws.git("add", "new/staged.bin")
    ws.write("untracked/large.bin", os.urandom((8 << 20) + 1))
    ws.write("untracked/deep/file.txt", "untracked\n" * 500)
    ws.remove("d0/f3.txt")
    ws.mkdir("empty")


def few(ws: Workspace) -> None:
    """The same after a `git gc`, which syncs nothing either: what is left is synced file by file."""
    ws.git("gc", "-q", "--prune=now")
    work(ws)


def many(ws: Workspace) -> None:
    """So many objects that one sync of the whole file system has to do for them, however busy the machine is."""
    for number in range(420):
        ws.write(f"many/{number}.txt", f"{number} of the agent\n")
    ws.git("add", "-A")
    ws.git("commit", "-q", "-m", "many")
    ws.write("d0/f0.txt", "edited\n")


def conflict(ws: Workspace) -> None:
    """A merge that stopped half-way, and so few objects that nothing else is synced with them."""
    ws.git("gc", "-q", "--prune=now")
    ws.git("checkout", "-q", "-b", "theirs")
    ws.write("d0/f0.txt", "theirs\n")
    ws.commit("theirs")
    ws.git("checkout", "-q", "main")
    ws.write("d0/f0.txt", "ours\n")
    ws.commit("ours")
    ws.fails("merge", "theirs")
    ws.write("d1/f1.txt", "and an edit\n")
    ws.expect("UU d0/f0.txt")


@dataclass
class Recording:
    """One run on a recorded disk. `done` is the length of the log when the command had reported success."""

    kind: FileSystem
    ws: Workspace
    disk: Disk
    mount: Path
    init: tuple[str, ...] = ()
    base: Blocks = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    done: int = 0
    expected: Fingerprint | None = None


def recorded(recording: Recording, command: str, build: Callable[[Workspace], None]) -> None:
    ws, disk = recording.ws, recording.disk
    with mounted(disk, recording.kind, recording.mount):
        ws.path.mkdir()
        base(ws, *recording.init)
        if command != "recover":
            sync(ws)
            disk.record()
            build(ws)
        else:
            build(ws)
            recording.expected = fingerprint(ws.path)
            with ws.in_another_boot():
                succeed(ws.save())
            ws.git("reset", "-q", "--hard", recording.expected.commit or "HEAD")
            ws.git("clean", "-ffdxq")
            sync(ws)
            disk.record()
        if recording.expected is None:
            recording.expected = fingerprint(ws.path)
        if command == "recover":
            succeed(ws.recover())
        else:
            with ws.in_another_boot():  # the one that the cut ends
                succeed(ws.gitstate(command, "--task-id", "T-1", "--json"))
        recording.done = len(disk.log)
        sync(ws)
        disk.stop()
    recording.base, recording.log = disk.base, list(disk.log)


def sync(ws: Workspace) -> None:
    subprocess.run(["sync", "-f", os.fspath(ws.path)], check=True)


def succeed(run: Run) -> None:
    assert run.exit_status == 0, str(run)


#: The seed with which everything that was not flushed is lost.
LOST = -1


class Cut(tuple[int, int | None]):
    """A power cut after so many entries of the log; with a seed, what was not flushed is lost at random."""

    def __str__(self) -> str:
        return str(self[0]) if self[1] is None else f"{self[0]}:{self[1]}"


def cuts(recording: Recording, seeds: int) -> list[Cut]:
    """Every prefix of the log; and at every one where something is not flushed, `seeds` random subsets of that."""
    found: list[Cut] = []
    loose = 0
    for count in range(len(recording.log) + 1):
        found.append(Cut((count, None)))
        if count:
            entry = recording.log[count - 1]
            loose = loose + 1 if hasattr(entry, "blocks") else 0
        found += [Cut((count, seed)) for seed in range(seeds) if loose]
    # What must hold at the moment of success is worth more tries than any other point.
    found += [Cut((recording.done, seed)) for seed in (LOST, *range(seeds, 4 * seeds))]
    return found


def check(recording: Recording, command: str, cut: Cut) -> str | None:
    """Mount the disk as the cut left it; what is wrong, or None."""
    dropping = None if cut[1] is None else random.Random(f"{cut}")
    count = flushed(recording.log, cut[0]) if cut[1] == LOST else cut[0]
    recording.disk.blocks = after(recording.base, recording.log, count, dropping)
    try:
        with mounted(recording.disk, recording.kind, recording.mount):
            try:
                judged(recording, command, success=cut[0] >= recording.done)
            except (AssertionError, NotARepositoryError) as error:
                return str(error)[:1500]
    except MountFailed as error:
        return f"the file system itself can't be mounted: {error}"
    return None


def judged(recording: Recording, command: str, *, success: bool) -> None:
    ws = recording.ws
    markers = marks(ws, "pending" if command != "checkpoint" else "checkpoints")
    for name, content in markers.items():
        assert re.fullmatch(rb"[0-9a-f]{40}\n", content), f"a torn marker: {name} holds {content!r}"
    if command == "checkpoint":
        assert markers or not success, "success was reported and there is no checkpoint"
        for content in markers.values():
            whole(ws, content.decode().strip())
            manifest = json.loads(ws.git("cat-file", "blob", content.decode().strip() + ":manifest.json"))
            run = ws.recover("--save", manifest["save_id"])
            if success:
                came_back(recording, run)
            assert run.exit_status != 3, str(run)
        return
    assert markers or not success or command == "recover", "success was reported and there is no marker"
    for content in markers.values():
        whole(ws, content.decode().strip())
    run = ws.recover()
    if markers or success or command == "recover":
        came_back(recording, run)
        assert not marks(ws, "pending")
    else:
        assert run.exit_status in (0, 1, 4), str(run)  # nothing was saved yet; what the agent wrote may be torn
    assert "Traceback" not in run.stderr, str(run)


def marks(ws: Workspace, kind: str) -> Mapping[str, bytes]:
    if (ws.path / ".git" / "reftable").exists():
        return {name: f"{oid}\n".encode() for name, oid in ws.refs(f"refs/gitstate/{kind}").items()}
    directory = ws.path / ".git" / "refs" / "gitstate" / kind
    if not directory.is_dir():
        return {}
    return {file.name: file.read_bytes() for file in directory.iterdir() if not file.name.endswith(".lock")}


def whole(ws: Workspace, archive: str) -> None:
    """Every object of a save can be read, to its last byte."""
    run_git(ws.path, "pack-objects", "--revs", "--stdout", "-q", stdin=archive.encode() + b"\n")


def came_back(recording: Recording, run: Run) -> None:
    assert run.exit_status == 0, str(run)
    assert recording.expected is not None
    differences = recording.expected.diff(fingerprint(recording.ws.path))
    assert differences == [], differences
    run_git(recording.ws.path, "fsck", "--connectivity-only", "--no-dangling", "--no-progress")


# --------------------------------------------------------------------------------------------------------------------
# The sweeps
# --------------------------------------------------------------------------------------------------------------------

#: Command, what the agent was doing, and the number of entries in the log (writes and flushes) that is on record.
SWEEPS = {
    "ext4-save": ("save", work, 268),
    "ext4-checkpoint": ("checkpoint", few, 300),
    "ext4-recover": ("recover", work, 125),
    "ext4-save-merge": ("save", conflict, 130),
    "ext4-checkpoint-many": ("checkpoint", many, 150),
    "ext4-recover-merge": ("recover", conflict, 84),
    "ext4-save-reftable": ("save", work, 100),
    "xfs-save": ("save", few, 240),
    "xfs-checkpoint": ("checkpoint", work, 174),
    "xfs-recover": ("recover", work, 82),
    "btrfs-save": ("save", work, 400),
    "btrfs-checkpoint": ("checkpoint", work, 489),
    "btrfs-recover": ("recover", work, 170),
}
#: In an ordinary run, with the number of points that are tried.
QUICK = {
    "ext4-save": 4, "ext4-checkpoint": 3, "ext4-recover": 3, "ext4-save-merge": 3, "ext4-checkpoint-many": 3,
    "xfs-save": 3, "xfs-recover": 3, "btrfs-save": 3, "btrfs-recover": 3,
}  # fmt: skip


@contextlib.contextmanager
def ended_by_term() -> Iterator[None]:
    """SIGTERM, as a time limit sends it, unwinds the stack: what is mounted is unmounted."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recording]:
    name = request.param
    command, build, _ = SWEEPS[name]
    kind = FILE_SYSTEMS[name.partition("-")[0]]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    why = why_not(kind.name, scratch)
    if why is not None:
        pytest.skip(why)
    init = ("--ref-format=reftable",) if name.endswith("-reftable") else ()
    tried = subprocess.run(["git", "init", "-q", *init, os.fspath(tmp_path / "try")], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("this git has no reftable: it came with 2.45")
    disk = formatted(kind, tmp_path)
    mount, outside = tmp_path / "mnt", tmp_path / "outside"
    outside.mkdir()
    recording = Recording(kind, Workspace(mount / "repo", outside), disk, mount, init)
    with ended_by_term(), disk.served():
        recorded(recording, command, build)
        yield recording


def sweep(name: str, recording: Recording, say: Say, *, seeds: int, most: int | None) -> None:
    command, _, floor = SWEEPS[name]
    points = cuts(recording, seeds)
    only = os.environ.get("POWER_POINT")
    chosen = [cut for cut in points if str(cut) == only] if only else spread(points, most)
    if most is not None and not only:
        # Always: success was just reported, and all that is volatile is lost, or some of it.
        chosen[-2:] = [Cut((recording.done, seed)) for seed in (0, LOST)]
    problems = [f"{cut}: {wrong}" for cut in chosen if (wrong := check(recording, command, cut)) is not None]
    say(f"{len(recording.log)} writes and flushes, success after {recording.done}; {len(points)} ways to cut them")
    judge(say, points=len(recording.log), floor=floor, tried=len(chosen), problems=problems)


@pytest.mark.faults
@pytest.mark.parametrize(("name", "recording"), [(name, name) for name in QUICK], indirect=["recording"], ids=QUICK)
def test_power_cut_at_a_few_writes(name: str, recording: Recording, say: Say) -> None:
    sweep(name, recording, say, seeds=1, most=QUICK[name])


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(("name", "recording"), [(name, name) for name in SWEEPS], indirect=["recording"], ids=SWEEPS)
def test_power_cut_at_every_write(name: str, recording: Recording, say: Say) -> None:
    sweep(name, recording, say, seeds=2, most=None)


# --------------------------------------------------------------------------------------------------------------------
# What a cut leaves of a file, without a disk to cut
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> Workspace:
    path, outside = tmp_path / "repo", tmp_path / "outside"
    path.mkdir()
    outside.mkdir()
    ws = Workspace(path, outside)
    base(ws)
    return ws


def cut_short(ws: Workspace, path: str, length: int, zeros: int) -> None:
    """What is left of a file."""
    size = os.stat(ws.at(path)).st_size
    ws.write(path, ws.read(path)[:length] + bytes(min(zeros, size - length)))


def reboot(ws: Workspace, *, later: int = 0) -> None:
    """Let the save that waits be of the boot before, and have begun so many seconds later than it did."""
    with forged(ws) as save:
        save.context["boot_id"] = "the boot before"
        if later:
            began = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() + later))
            save.manifest["save_id"] = began + save.manifest["save_id"][15:]


def power_fails(ws: Workspace) -> None:
    """Whatever happened to the files so far, the cut did: it leaves them the times that they had before the save.

    No call sets the time of a file's last change, so the save's is set forward.
    """
    reboot(ws, later=5)


@pytest.mark.parametrize(("length", "zeros"), [(0, 0), (7, 0), (0, 1000), (7, 5), (7, 1000)])
def test_a_file_that_a_power_cut_shortened_comes_back(plain: Workspace, length: int, zeros: int) -> None:
    plain.write("u.txt", "untracked\n" * 5)
    plain.write("d0/f0.txt", "edited, and long enough\n")
    expected = fingerprint(plain.path)
    succeed(plain.save())
    for path in ("u.txt", "d0/f0.txt", "d1/f1.txt"):
        cut_short(plain, path, length, zeros)
    power_fails(plain)
    run = plain.recover()
    came_back(Recording(FILE_SYSTEMS["ext4"], plain, Disk(plain.path, 0), plain.path, expected=expected), run)
    assert recovered_from(run)["verdict"] == "restore"


#: How an older, shorter beginning of a file comes into its place with the times that it had: $0 is put at $1.
MOVES = {
    "mv": 'mv "$0" "$1"',
    "cp -p": 'cp -p "$0" "$1"',
    "ln": 'ln -f "$0" "$1"',
    "touch -r": 'cat "$0" > "$1" && touch -r "$0" "$1"',
}


@pytest.mark.parametrize("way", MOVES)
def test_an_older_beginning_that_someone_put_into_place_stays(plain: Workspace, way: str) -> None:
    """An edit like any other, whether git knew the file or not."""
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


def test_an_older_directory_that_someone_moved_into_place_stays(plain: Workspace) -> None:
    """Its files change no time at all: but the machine never went down, so no power cut left them short."""
    older = plain.outside / "notes"
    older.mkdir()
    (older / "log.txt").write_text("begun\n")
    plain.write("notes/log.txt", "begun\nand carried on\n")
    plain.write("d1/f1.txt", "edited\n")
    time.sleep(0.1)
    succeed(plain.save())
    os.rename(plain.at("notes"), plain.outside / "newer")
    os.rename(os.fsencode(older), plain.at("notes"))
    assert paths_of(recovered_from(plain.recover(), exits=(0, 4))["kept"]) == {b"notes/log.txt"}
    assert plain.read("notes/log.txt") == b"begun\n"


@pytest.mark.parametrize("left", [b"untr\0\0x", b"Untracked\n", b"untracked\n" * 6, b"untracked\n" * 5 + b"\0"])
def test_an_older_file_that_is_no_part_of_what_was_saved_stays(plain: Workspace, left: bytes) -> None:
    """Not what a cut leaves, whatever its times."""
    plain.write("u.txt", "untracked\n" * 5)
    succeed(plain.save())
    plain.write("u.txt", left)
    power_fails(plain)
    assert paths_of(recovered_from(plain.recover(), exits=(0, 4))["kept"]) == {b"u.txt"}
    assert plain.read("u.txt") == left


def test_a_file_that_someone_emptied_after_the_save_stays(plain: Workspace) -> None:
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
    assert paths_of(recovered_from(run, exits=(0, 4))["kept"]) == {b"u.txt"}
