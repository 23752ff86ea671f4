"""Workspaces that can be put back as often as one likes, and the commands that are disturbed on them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.states import State, dirty, make
from tests.support.look import index_bytes, lock_files
from tests.support.losing import make_writable, strip_operation, wipe
from tests.support.oracle import Fingerprint, fingerprint, identities
from tests.support.recovering import recovered_from
from tests.support.repositories import Templates
from tests.support.saving import Saved, saved_from
from tests.support.workspace import Run, Workspace

WAIT = 120.0


def retyped(ws: Workspace) -> None:
    """A bit of everything, and things that became another kind of thing: what takes recover more than one step."""
    dirty(ws)
    ws.remove("thing")
    ws.write("thing/inner.txt")
    ws.remove("bin")
    ws.write("bin", "a file now\n")
    ws.symlink("a.txt", "empty.txt")
    ws.remove("data.bin")
    ws.symlink("src", "data.bin")
    ws.add("data.bin")
    ws.remove("link")
    ws.write("link", "no link any more\n")
    ws.remove("src/lib")
    ws.expect(" T empty.txt", " D src/lib/util.py", " T link", "?? bin", "?? thing/inner.txt")


Lose = Callable[[Workspace, Saved], None]


def in_place(ws: Workspace, saved: Saved) -> None:
    """Nothing is lost but the process."""


def wiped(ws: Workspace, saved: Saved) -> None:
    """What git calls clean: the files of the WIP commit, where the save moved the branch."""
    wipe(ws)


def undone(ws: Workspace, saved: Saved) -> None:
    """Back to where the work began: every file has to be written again."""
    ws.git("reset", "-q", "--hard", saved.document["base_commit"])
    ws.git("clean", "-ffdxq")
    strip_operation(ws)


def only_git_left(ws: Workspace, saved: Saved) -> None:
    for name in os.listdir(ws.path):
        if name != ".git":
            ws.remove(name)


def gone(ws: Workspace, saved: Saved) -> None:
    """The directory of a linked worktree, with all that is in it."""
    shutil.rmtree(ws.path)


@dataclass(frozen=True)
class Scene:
    """What is killed, and what it is killed on."""

    ws: Workspace
    top: Path
    command: tuple[str, ...]
    fingerprint: Fingerprint
    index: bytes | None
    files: frozenset[bytes]
    locks: frozenset[Path]
    lose: Lose | None
    usual: frozenset[str] = frozenset()

    @property
    def world(self) -> Path:
        return self.top / "world"

    @property
    def place(self) -> Path:
        """Where the command runs."""
        return self.ws.main if self.lose is gone and self.ws.main is not None else self.ws.path

    def reset(self) -> None:
        """The workspace as it was, at the same place; its files are new to git, as after a restore from a backup."""
        if self.world.exists():
            make_writable(self.world)
            shutil.rmtree(self.world)
        shutil.copytree(self.top / "pristine", self.world, symlinks=True)
        if self.lose is None:
            self.ws.git("update-index", "-q", "--refresh", check=False)


SAVE = ("save", "--task-id", "T-1", "--issue-number", "7", "--progress-stage", "coding")
CHECKPOINT = ("checkpoint", *SAVE[1:])
RECOVER = ("recover",)
RECOVER_ALL = ("recover", "--worktrees")


def scene_of(
    kind: State, command: tuple[str, ...], lose: Lose | None, templates: Templates, top: Path, *, linked: bool = False
) -> Scene:
    """``lose`` is what happened between the save and the recover that is killed; None where a save is killed."""
    world = top / "world"
    world.mkdir()
    ws = make(kind, templates, world, linked=linked)
    before = fingerprint(ws.path), index_bytes(ws), frozenset(identities(ws.path)), lock_files(ws)
    if lose is not None:
        saved = saved_from(ws.save())
        assert not saved.left_out
        lose(ws, saved)
    shutil.copytree(world, top / "pristine", symlinks=True)
    scene = Scene(ws, top, command, *before, lose)
    scene.reset()
    undisturbed = finish(start(scene))
    assert undisturbed.exit_status == 0, str(undisturbed)
    if lose is None:
        saved_and_lost(ws)
        recovered_from(ws.recover())
    assert scene.fingerprint.diff(fingerprint(ws.path)) == []
    return replace(scene, usual=frozenset(control_files(ws)))


def saved_and_lost(ws: Workspace) -> None:
    run = ws.save()
    assert run.exit_status == 0, str(run)
    wipe(ws)


def control_files(ws: Workspace) -> Iterator[str]:
    """Git's and our own files beside objects, refs and logs."""
    for path in ws.common_dir.rglob("*"):
        name = str(path.relative_to(ws.common_dir))
        if not name.startswith(("objects/", "refs/", "logs/")) and "/logs/" not in name and path.is_file():
            yield name


def start(scene: Scene, *before: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The scene's command in a process group of its own; ``before`` is a command that runs it."""
    words = [sys.executable, "-P", "-m", "gitstate", "-C", os.fspath(scene.place), *scene.command, "--json"]
    return subprocess.Popen(
        [*before, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=scene.ws.outside,
        env=dict(os.environ) | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(env or {}),
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> Run:
    """Wait for a process and for all others of its group."""
    stdout, stderr = process.communicate(timeout=WAIT)
    end = time.monotonic() + WAIT
    while group_lives(process.pid):
        assert time.monotonic() < end, "a process of the group never ended"
        time.sleep(0.005)
    return Run(process.returncode, stdout, stderr.decode("utf-8", "replace"))


def group_lives(group: int) -> bool:
    """Whether a process of the group is more than a zombie."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
                return True
    return False


def kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def killed_after(scene: Scene, delay: float, *, alone: bool) -> Run:
    """Kill gitstate after so many seconds, alone or with its children."""
    process = start(scene)
    time.sleep(delay)
    if alone:
        process.kill()
    else:
        kill_group(process.pid)
    return finish(process)
