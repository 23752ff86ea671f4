"""SIGKILL at every step of save, checkpoint and recover: what comes next always gets everything back.

The quick part kills after delays that are spread evenly over one run, and at a few system calls. ``-m faults`` kills
before every single system call that changes the disk: in gitstate itself and in each git that it starts, once with the
whole process group and once alone. A point is named by its process, the call and its number: ``gitstate:rename:3``,
``update-ref.1:openat:12``; ``CRASH_POINT=REGEX pytest -m faults`` tries those alone.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from oracle import Fingerprint, Identity, fingerprint, identities
from states import STATES, Run, State, Templates, Workspace, dirty, make, run_git
from test_roundtrip import (
    Saved,
    check_state_file,
    index_bytes,
    lock_files,
    make_writable,
    recovered_from,
    saved_from,
    strip_operation,
    wipe,
)

#: System calls that change the disk. Of openat only those that create or truncate, of calls on a descriptor only
#: those on a file of the test count; execve and exit_group stand for "just started" and "all done".
CALLS = (
    *("write", "pwrite64", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir"),
    *("mkdir", "mkdirat", "fsync", "fdatasync", "ftruncate", "chmod", "fchmod", "fchmodat", "symlink", "symlinkat"),
    *("utimensat", "openat", "execve", "exit_group"),
)
ON_DESCRIPTORS = frozenset({"write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fchmod"})
#: What may stand in a directory of gitstate's own when nothing is under way and nothing waits.
OWN_FILES = frozenset({"lock", "durable", "context.json", "notes-turn"})
WAIT = 120.0


# --------------------------------------------------------------------------------------------------------------------
# Scenes: a workspace that can be put back as often as one likes
# --------------------------------------------------------------------------------------------------------------------


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


# --------------------------------------------------------------------------------------------------------------------
# Running and killing
# --------------------------------------------------------------------------------------------------------------------


def start(scene: Scene, *before: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The scene's command in a process group of its own; ``before`` is a command that runs it."""
    words = [sys.executable, "-m", "gitstate", "-C", os.fspath(scene.ws.path), *scene.command, "--json"]
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


@cache
def why_not_strace() -> str | None:
    """None where strace can kill a process at a system call, else the reason."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    words = "strace -qq -o /dev/null -e trace=exit_group -e inject=exit_group:signal=KILL:when=1 true"
    done = subprocess.run(shlex.split(words), capture_output=True, check=False)
    if done.returncode != -signal.SIGKILL:
        return f"strace can't trace here (ptrace is forbidden?): {done.stderr.decode('utf-8', 'replace').strip()}"
    return None


@dataclass(frozen=True)
class Point:
    """Just before the ``number``-th ``call`` of one process; ``git`` names a child (``update-ref.2``: the second)."""

    git: str | None
    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.git or 'gitstate'}:{self.call}:{self.number}"


#: Stands in for git: counts its calls by subcommand, and traces or kills the one that is asked for.
WRAPPER = """\
#!/bin/sh
skip=
for word in "$@"; do
    if [ -n "$skip" ]; then skip=; continue; fi
    case "$word" in -c|-C) skip=1 ;; -*) ;; *) break ;; esac
done
number=1
while ! mkdir "$CRASH_TURNS/$word.$number" 2>/dev/null; do number=$((number + 1)); done
if [ -n "$CRASH_LOGS" ]; then
    exec strace -qq -y -s 1000 -o "$CRASH_LOGS/$word.$number" -e trace="$CRASH_CALL" "$CRASH_REAL_GIT" "$@"
elif [ "$word.$number" = "$CRASH_GIT" ]; then
    set -- strace -qq -o /dev/null -e trace="$CRASH_CALL" \\
        -e inject="$CRASH_CALL:signal=KILL:when=$CRASH_NUMBER" "$CRASH_REAL_GIT" "$@"
    if [ -z "$CRASH_GROUP" ]; then exec "$@"; fi
    "$@"
    status=$?
    if [ $status = 137 ]; then kill -KILL 0; fi
    exit $status
fi
exec "$CRASH_REAL_GIT" "$@"
"""


def wrapped(scene: Scene, **env: str) -> dict[str, str]:
    """The environment in which the wrapper is git."""
    programs, turns = scene.top / "bin", scene.top / "turns"
    programs.mkdir(exist_ok=True)
    (programs / "git").write_text(WRAPPER)
    (programs / "git").chmod(0o755)
    shutil.rmtree(turns, ignore_errors=True)
    turns.mkdir()
    git = shutil.which("git")
    assert git is not None
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "CRASH_TURNS": str(turns), "CRASH_REAL_GIT": git, **{f"CRASH_{k}": v for k, v in env.items()}}


def count(scene: Scene) -> list[Point]:
    """Every point of one undisturbed run."""
    scene.reset()
    logs = scene.top / "logs"
    logs.mkdir()
    calls = ",".join(CALLS)
    own = scene.top / "gitstate.log"
    run = finish(
        start(scene, *("strace", "-qq", "-y", "-s", "1000", "-o", str(own), "-e", f"trace={calls}"),
              env=wrapped(scene, LOGS=str(logs), CALL=calls))
    )  # fmt: skip
    assert run.exit_status == 0, str(run)
    points = list(points_in(own, None, scene))
    for log in sorted(logs.iterdir()):
        points += points_in(log, log.name, scene)
    return points


def points_in(log: Path, git: str | None, scene: Scene) -> Iterator[Point]:
    """The calls of one process that change a file of the scene."""
    numbers: dict[str, int] = {}
    for line in log.read_text("utf-8", "replace").splitlines():
        call, _, rest = line.partition("(")
        if call not in CALLS:
            continue
        numbers[call] = numbers.get(call, 0) + 1
        if call == "execve" and numbers[call] == 1:
            continue
        place = re.match(r"\d+<([^>]*)>", rest)
        if call in ON_DESCRIPTORS and not (place and place[1].startswith(str(scene.world))):
            continue
        if call == "openat" and "O_CREAT" not in rest and "O_TRUNC" not in rest:
            continue
        named = re.findall(r'"(/[^"]*)"', rest)
        if call not in ("exit_group", "execve") and named and not any(n.startswith(str(scene.world)) for n in named):
            continue
        yield Point(git, call, numbers[call])


def killed_at(scene: Scene, point: Point, *, alone: bool) -> Run:
    """Kill one process just before a system call, alone or with its whole group."""
    if point.git is not None:
        env = wrapped(scene, GIT=point.git, CALL=point.call, NUMBER=str(point.number), GROUP="" if alone else "1")
        return finish(start(scene, env=env))
    trace = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={point.call}"]
    trace += ["-e", f"inject={point.call}:signal=KILL:when={point.number}"]
    if alone:
        return finish(start(scene, *trace))
    script = '"$@"; status=$?; [ $status != 137 ] || kill -KILL 0; exit $status'
    return finish(start(scene, "sh", "-c", script, "sh", *trace))


# --------------------------------------------------------------------------------------------------------------------
# What must be true afterwards
# --------------------------------------------------------------------------------------------------------------------


def check_integrity(ws: Workspace) -> None:
    run_git(ws.path, "fsck", "--no-dangling", "--no-progress")


def litter(scene: Scene) -> list[str]:
    """Files that nobody needs any more."""
    ws = scene.ws
    common = ws.common_dir
    found = [str(path.relative_to(common)) for path in lock_files(ws) - scene.locks]
    for path in (common / "objects").rglob("*"):
        if path.name.startswith("tmp_") or path.suffix == ".keep":
            found.append(str(path.relative_to(common)))
    for own in {common / "gitstate", ws.git_dir / "gitstate"}:
        if own.is_dir():
            found += [str(path.relative_to(common)) for path in own.iterdir() if path.name not in OWN_FILES]
    found += sorted(set(control_files(ws)) - scene.usual - {"ORIG_HEAD", *found})
    found += [os.fsdecode(path) for path in identities(ws.path).keys() - scene.files]
    return found


def check_done(scene: Scene, *, in_place: bool) -> None:
    """The last recover is done: all is as it was, and nothing lies around."""
    ws = scene.ws
    assert scene.fingerprint.diff(fingerprint(ws.path)) == []
    check_state_file(ws)
    check_integrity(ws)
    assert not ws.refs("refs/gitstate/pending"), "the marker is still there"
    assert ws.refs("refs/gitstate/saves"), "the save is gone, before its time"
    if in_place and index_bytes(ws) != scene.index:
        raise AssertionError("the index file is not what it was, byte for byte")
    assert litter(scene) == []


def recover_to_the_end(ws: Workspace) -> dict[str, Any]:
    answer = recovered_from(ws.recover())
    assert answer["verdict"] in ("restore", "context_only", "nothing"), answer
    assert answer["kept"] == [], answer
    return answer


@dataclass(frozen=True)
class Before:
    """What a killed save must not change."""

    identities: Mapping[bytes, Identity]
    index: bytes | None


def check_killed_save(scene: Scene, before: Before, run: Run, number: int) -> None:
    """After a save or a checkpoint that was killed; ``number`` varies what happens next."""
    ws = scene.ws
    check_integrity(ws)
    after = identities(ws.path)
    touched = {path for path in before.identities.keys() | after if before.identities.get(path) != after.get(path)}
    assert {path for path in touched if not path.startswith(b"active_state.json.tmp-")} == set()
    pending = ws.refs("refs/gitstate/pending")
    check_markers(scene, pending, run)
    if pending:
        waiting = [oid for name, oid in ws.refs("refs/gitstate/saves").items() if oid in pending.values()]
        assert waiting, "a marker without its save"
        if number % 3:
            goal = scene.fingerprint.commit if number % 3 == 2 else None
            ws.git("reset", "-q", "--hard", goal or "HEAD", check=False)
            ws.git("clean", "-ffdxq")
        answer = recover_to_the_end(ws)
        assert answer["verdict"] != "nothing"
        check_done(replace(scene, index=before.index), in_place=number % 3 == 0)
        return
    assert scene.fingerprint.diff(fingerprint(ws.path)) == []
    same = index_bytes(ws) == before.index
    assert same, "the index file changed, and there is no save"
    if number % 2:
        assert recover_to_the_end(ws)["verdict"] == "nothing"
    saved_and_lost(ws)
    answer = recover_to_the_end(ws)
    assert answer["verdict"] != "nothing"
    check_done(scene, in_place=False)


def check_markers(scene: Scene, pending: Mapping[str, str], run: Run) -> None:
    """A save that says so is there; a checkpoint leaves no marker, and what it leaves can be read."""
    ws = scene.ws
    if scene.command[0] == "checkpoint":
        assert pending == {}
    for name, oid in {**pending, **ws.refs("refs/gitstate/checkpoints")}.items():
        manifest = json.loads(ws.git("cat-file", "blob", f"{oid}:manifest.json"))
        assert name.endswith("/" + manifest["workspace_id"])
        ws.git("rev-list", "--objects", oid)
    if run.exit_status == 0:
        archive = run.json["archive"]
        there = pending if scene.command[0] == "save" else ws.refs("refs/gitstate/checkpoints")
        assert archive in there.values(), f"success was reported without a save: {run}"


def check_killed_recover(scene: Scene) -> None:
    """After a recover that was killed: another one brings everything back."""
    ws = scene.ws
    check_integrity(ws)
    pending = ws.refs("refs/gitstate/pending")
    answer = recover_to_the_end(ws)
    assert answer["verdict"] != "nothing" or not pending
    check_done(scene, in_place=scene.lose is in_place)


def tried(scene: Scene, kill: Callable[[], Run], number: int) -> str | None:
    """One killing on a fresh copy of the scene; what is wrong afterwards, or None."""
    scene.reset()
    before = Before(identities(scene.ws.path), index_bytes(scene.ws))
    run = kill()
    try:
        if scene.lose is None:
            check_killed_save(scene, before, run, number)
        else:
            check_killed_recover(scene)
    except AssertionError as error:
        return str(error)[:1500]
    return None


def report(problems: Sequence[str], count: int, floor: int) -> None:
    print(f"{count} points, {len(problems)} of them bad")
    assert not problems, f"{len(problems)} of {count} points:\n" + "\n".join(problems[:40])
    assert count >= floor, f"only {count} points: is the wrapper still in use, does strace see the calls?"


# --------------------------------------------------------------------------------------------------------------------
# The quick part
# --------------------------------------------------------------------------------------------------------------------

QUICK = [
    pytest.param("everything_at_once", SAVE, None, id="save"),
    pytest.param("merge_conflict", SAVE, None, id="save-merge"),
    pytest.param("everything_at_once", RECOVER, undone, id="recover-undone"),
    pytest.param("merge_conflict", RECOVER, undone, id="recover-merge"),
]


def measured_run(scene: Scene) -> tuple[float, float]:
    """Seconds after which one run has taken the workspace, and after which it has ended."""
    scene.reset()
    lock = scene.ws.git_dir / "gitstate" / "journal"
    begun = time.monotonic()
    process = start(scene)
    while not lock.exists() and process.poll() is None:
        time.sleep(0.0005)
    taken = time.monotonic() - begun
    process.communicate(timeout=WAIT)
    return taken, time.monotonic() - begun


@pytest.mark.parametrize(("name", "command", "lose"), QUICK)
def test_killed_after_a_while(
    name: str, command: tuple[str, ...], lose: Lose | None, templates: Templates, tmp_path: Path
) -> None:
    scene = scene_of(STATES[name], command, lose, templates, tmp_path)
    first, last = measured_run(scene)
    problems = []
    for number in range(12):
        delay = first + (last - first) * number / 11
        alone = number % 4 >= 2

        def kill(delay: float = delay, alone: bool = alone) -> Run:
            return killed_after(scene, delay, alone=alone)

        problem = tried(scene, kill, number)
        if problem is not None:
            who = "alone" if alone else "with its children"
            problems.append(f"after {delay:.3f} s of {last:.3f}, {who}: {problem}")
    report(problems, 12, 12)


# --------------------------------------------------------------------------------------------------------------------
# Every system call
# --------------------------------------------------------------------------------------------------------------------

RETYPED = State(name="retyped", build=retyped)
EVERY = {
    "save": (STATES["everything_at_once"], SAVE, None, False, 100),
    "save-merge": (STATES["merge_conflict"], SAVE, None, False, 80),
    "save-linked": (STATES["everything_at_once"], SAVE, None, True, 100),
    "checkpoint": (STATES["everything_at_once"], CHECKPOINT, None, False, 50),
    "checkpoint-merge": (STATES["merge_conflict"], CHECKPOINT, None, False, 50),
    "recover-in-place": (STATES["everything_at_once"], RECOVER, in_place, False, 50),
    "recover-wiped": (RETYPED, RECOVER, wiped, False, 60),
    "recover-undone": (RETYPED, RECOVER, undone, False, 110),
    "recover-merge": (STATES["merge_conflict"], RECOVER, undone, False, 80),
    "recover-merge-in-place": (STATES["merge_conflict"], RECOVER, in_place, False, 30),
    "recover-only-git-left": (RETYPED, RECOVER, only_git_left, False, 160),
    "recover-linked": (STATES["everything_at_once"], RECOVER, undone, True, 90),
}


def sweep(scene: Scene, points: Sequence[Point], *, alone: bool) -> list[str]:
    """What went wrong at which point."""
    problems, missed = [], []
    for number, point in enumerate(points):

        def kill(point: Point = point) -> Run:
            run = killed_at(scene, point, alone=alone)
            if run.exit_status != -signal.SIGKILL and not (alone and point.git):
                missed.append(str(point))
            return run

        problem = tried(scene, kill, number)
        if problem is not None:
            problems.append(f"{point} {'alone' if alone else 'with its group'}: {problem}")
    print(f"{len(missed)} of them were not reached: {' '.join(missed)}")
    assert len(missed) <= len(points) // 5, f"not reached: {missed}"
    return problems


@pytest.mark.parametrize("name", ["save", "recover-undone"])
def test_killed_at_a_few_system_calls(name: str, templates: Templates, tmp_path: Path) -> None:
    why = why_not_strace()
    if why is not None:
        pytest.skip(why)
    kind, command, lose, linked, floor = EVERY[name]
    scene = scene_of(kind, command, lose, templates, tmp_path, linked=linked)
    points = count(scene)
    assert len(points) >= floor
    few = points[:: len(points) // 5 or 1]
    report(sweep(scene, few, alone=False), len(few), 5)


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True], ids=["group", "alone"])
@pytest.mark.parametrize("name", EVERY)
def test_killed_at_every_system_call(name: str, alone: bool, templates: Templates, tmp_path: Path) -> None:
    why = why_not_strace()
    if why is not None:
        pytest.skip(why)
    kind, command, lose, linked, floor = EVERY[name]
    scene = scene_of(kind, command, lose, templates, tmp_path, linked=linked)
    points = count(scene)
    only = os.environ.get("CRASH_POINT")
    if only is not None:
        points, floor = [point for point in points if re.fullmatch(only, str(point))], 1
    report(sweep(scene, points, alone=alone), len(points), floor)
