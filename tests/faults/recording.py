"""A workspace on a recorded disk: what an agent does before the power fails, and the run that the cut ends.

The command `recover` is recorded after a wipe, `recover-gone` after a linked worktree was removed; `save-recover` is a
save and a recovery in place, directly after it; `run` is a task that began, with one checkpoint.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.oracle import Fingerprint, fingerprint
from tests.support.workspace import Run, Workspace, run_git

from .device import Blocks, Disk, Entry, FileSystem, mounted


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
    """One run on a recorded disk. `done` is the length of the log when the command had reported success, `saved` when
    the save had.
    """

    kind: FileSystem
    ws: Workspace
    disk: Disk
    mount: Path
    init: tuple[str, ...] = ()
    base: Blocks = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    done: int = 0
    saved: int = 0
    expected: Fingerprint | None = None


def recorded(recording: Recording, command: str, build: Callable[[Workspace], None]) -> None:
    ws, disk = recording.ws, recording.disk
    with mounted(disk, recording.kind, recording.mount):
        main = ws if ws.main is None else Workspace(ws.main, ws.outside)
        main.path.mkdir()
        base(main, *recording.init)
        if command == "recover-gone":
            main.git("worktree", "add", "-q", "-b", "side", ws.path)
            build(ws)
            recording.expected = fingerprint(ws.path)
            succeed(ws.save())
            shutil.rmtree(ws.path)
            sync(main)
            disk.record()
        elif command != "recover":
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
        elif command == "recover-gone":
            succeed(recover_gone(ws))
        else:
            with ws.in_another_boot():  # the one that the cut ends
                name = {"save-recover": "save", "run": "checkpoint"}.get(command, command)
                if command == "run":
                    succeed(ws.gitstate("set", "task_id=T-1"))
                succeed(ws.gitstate(name, "--task-id", "T-1", "--json"))
                recording.saved = len(disk.log)
                if command == "save-recover":
                    succeed(ws.recover())
        recording.done = len(disk.log)
        sync(ws)
        disk.stop()
    recording.base, recording.log = disk.base, list(disk.log)


def recover_gone(ws: Workspace) -> Run:
    """Give a linked worktree that was removed back what was in it."""
    return ws.gitstate("recover", "--worktrees", path=ws.main)


def sync(ws: Workspace) -> None:
    subprocess.run(["sync", "-f", os.fspath(ws.path)], check=True)


def succeed(run: Run) -> None:
    assert run.exit_status == 0, str(run)


def none_is_cut_short(recording: Recording, run: Run) -> None:
    """Every file that is there is as it was. The name of one that was new or deleted may not be on the disk."""
    assert run.exit_status == 0, str(run)
    assert recording.expected is not None
    differences = recording.expected.diff(fingerprint(recording.ws.path))
    assert [line for line in differences if line.startswith("file ") and " became file " in line] == []


def came_back(recording: Recording, run: Run) -> None:
    assert run.exit_status == 0, str(run)
    assert recording.expected is not None
    differences = recording.expected.diff(fingerprint(recording.ws.path))
    assert differences == [], differences
    run_git(recording.ws.path, "fsck", "--connectivity-only", "--no-dangling", "--no-progress")
