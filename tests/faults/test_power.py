"""Power cuts at any write of the disk: writes that were not flushed are lost or reordered.

The agent never syncs anything: its own `git add` and `git commit` just before the save are at stake too. After exit
status 0 a save is whole and `recover` brings everything back; before it, the save is absent or whole. A recover that
is cut off is done again, and comes to the same end; after its exit status 0 all files are there.
`POWER_POINT=NUMBER[:SEED]` tries one point alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.boots import in_a_new_boot
from tests.support.oracle import NotARepositoryError
from tests.support.skips import NO_REFTABLE
from tests.support.workspace import Workspace, run_git

from .device import FILE_SYSTEMS, MountFailed, Write, after, flushed, formatted, mounted, why_not
from .recording import Recording, came_back, conflict, few, many, none_is_cut_short, recorded, recover_gone, work
from .sweeps import Say, judge, spread

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
                with in_a_new_boot(recording.ws):
                    judged(recording, command, success=cut[0] >= recording.saved)
            except (AssertionError, NotARepositoryError) as error:
                return str(error)[:1500]
    except MountFailed as error:
        return f"the file system itself can't be mounted: {error}"
    return None


def judged(recording: Recording, command: str, *, success: bool) -> None:
    ws = recording.ws
    main = ws if ws.main is None else Workspace(ws.main, ws.outside)
    markers = marks(main, "checkpoints" if command in ("checkpoint", "run") else "pending")
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
    if command == "run":
        run = ws.recover()
        assert "Traceback" not in run.stderr, str(run)
        if success:
            none_is_cut_short(recording, run)
        return
    if command == "recover-gone":
        run = recover_gone(ws)
        assert "Traceback" not in run.stderr, str(run)
        came_back(recording, run)
        return
    recovers = command in ("recover", "save-recover")
    assert markers or not success or recovers, "success was reported and there is no marker"
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


#: Command, what the agent was doing, and the number of different blocks that are written, as it is on record. How many
#: requests the kernel makes of them says nothing: 175 to 622 were seen for the same 595 blocks. Btrfs writes its trees
#: anew in each commit, and a busy machine joins two syncs in one: 4,878 to 6,110 blocks were seen for the same save.
SWEEPS = {
    "ext4-save": ("save", work, 4150),
    "ext4-checkpoint": ("checkpoint", few, 4150),
    "ext4-recover": ("recover", work, 2050),
    "ext4-run": ("run", work, 4150),
    "ext4-save-recover": ("save-recover", work, 4150),
    "ext4-save-merge": ("save", conflict, 80),
    "ext4-checkpoint-many": ("checkpoint", many, 500),
    "ext4-recover-merge": ("recover", conflict, 55),
    "ext4-recover-gone": ("recover-gone", few, 2050),
    "ext4-save-reftable": ("save", work, 4000),
    "xfs-save": ("save", few, 4100),
    "xfs-run": ("run", work, 4100),
    "xfs-save-recover": ("save-recover", work, 4100),
    "xfs-checkpoint": ("checkpoint", work, 4100),
    "xfs-recover": ("recover", work, 2000),
    "btrfs-save": ("save", work, 4400),
    "btrfs-checkpoint": ("checkpoint", work, 5200),
    "btrfs-recover": ("recover", work, 2400),
}

#: In an ordinary run, with the number of points that are tried.
QUICK = {
    "ext4-save": 4,
    "ext4-checkpoint": 3,
    "ext4-recover": 3,
    "ext4-recover-gone": 3,
    "ext4-run": 3,
    "ext4-save-recover": 3,
    "ext4-save-merge": 3,
    "ext4-checkpoint-many": 3,
    "xfs-save": 3,
    "xfs-recover": 3,
    "xfs-run": 3,
    "xfs-save-recover": 3,
    "btrfs-save": 3,
    "btrfs-recover": 3,
}


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
        pytest.skip(NO_REFTABLE)
    disk = formatted(kind, tmp_path)
    mount, outside = tmp_path / "mnt", tmp_path / "outside"
    outside.mkdir()
    ws = Workspace(mount / "repo", outside)
    if command == "recover-gone":
        ws = Workspace(mount / "lost", outside, main=ws.path)
    recording = Recording(kind, ws, disk, mount, init)
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
    blocks = {block for entry in recording.log if isinstance(entry, Write) for block in entry.blocks}
    say(f"{len(recording.log)} writes and flushes, success after {recording.done}; {len(points)} ways to cut them")
    judge(say, points=len(blocks), floor=floor, tried=len(chosen), problems=problems, of="blocks")


@pytest.mark.faults
@pytest.mark.parametrize(("name", "recording"), [(name, name) for name in QUICK], indirect=["recording"], ids=QUICK)
def test_power_cut_at_sampled_writes_loses_nothing(name: str, recording: Recording, say: Say) -> None:
    sweep(name, recording, say, seeds=1, most=QUICK[name])


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(("name", "recording"), [(name, name) for name in SWEEPS], indirect=["recording"], ids=SWEEPS)
def test_power_cut_at_every_write_loses_nothing(name: str, recording: Recording, say: Say) -> None:
    sweep(name, recording, say, seeds=2, most=None)
