"""System calls one by one: counted, and one of them made to fail or to be the last, through strace.

A point is named by its process, the call and its number: `gitstate:rename:3`, `update-ref.1:openat:12`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.skips import not_installed
from tests.support.workspace import Run

from .scenes import Scene, finish, start

#: System calls that change the disk. Of openat only those that create or truncate, of calls on a descriptor only
#: those on a file of the test count; execve and exit_group stand for "just started" and "all done".
CALLS = (
    *("write", "pwrite64", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir"),
    *("mkdir", "mkdirat", "fsync", "fdatasync", "ftruncate", "chmod", "fchmod", "fchmodat", "symlink", "symlinkat"),
    *("utimensat", "openat", "execve", "exit_group"),
)
ON_DESCRIPTORS = frozenset({"read", "pread64", "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fchmod"})
#: Calls without a name or a descriptor of the scene that count all the same.
EVERYWHERE = frozenset({"exit_group", "execve", "clone", "clone3", "vfork", "fork"})


@cache
def why_not_strace() -> str | None:
    """None where strace can kill a process at a system call, else the reason."""
    if shutil.which("strace") is None:
        return not_installed("strace")
    words = "strace -qq -o /dev/null -e trace=exit_group -e inject=exit_group:signal=KILL:when=1 true"
    done = subprocess.run(shlex.split(words), capture_output=True, check=False)
    if done.returncode != -signal.SIGKILL:
        message = done.stderr.decode("utf-8", "replace").strip()
        return f"strace must not trace: run in a container with --cap-add SYS_PTRACE ({message})"
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
        -e inject="$CRASH_CALL:$CRASH_FAULT" "$CRASH_REAL_GIT" "$@"
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


def count(scene: Scene, calls: Collection[str] = CALLS, *, reading: bool = False) -> list[Point]:
    """Every point of one undisturbed run; with `reading` also where a file of the scene is opened for reading."""
    scene.reset()
    logs = scene.top / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    traced = ",".join(f"?{call}" for call in calls)
    own = scene.top / "gitstate.log"
    run = finish(
        start(
            scene,
            *("strace", "-qq", "-y", "-s", "1000", "-o", str(own), "-e", f"trace={traced}"),
            env=wrapped(scene, LOGS=str(logs), CALL=traced),
        )
    )
    assert run.exit_status == 0, str(run)
    points = list(points_in(own, None, scene, calls, reading=reading))
    for log in sorted(logs.iterdir()):
        points += points_in(log, log.name, scene, calls, reading=reading)
    return points


def points_in(log: Path, git: str | None, scene: Scene, calls: Collection[str], *, reading: bool) -> Iterator[Point]:
    """The calls of one process that change a file of the scene."""
    numbers: dict[str, int] = {}
    for line in log.read_text("utf-8", "replace").splitlines():
        call, _, rest = line.partition("(")
        if call not in calls:
            continue
        numbers[call] = numbers.get(call, 0) + 1
        if call == "execve" and numbers[call] == 1:
            continue
        place = re.match(r"\d+<([^>]*)>", rest)
        if call in ON_DESCRIPTORS and not (place and place[1].startswith(str(scene.world))):
            continue
        if call == "openat" and not reading and "O_CREAT" not in rest and "O_TRUNC" not in rest:
            continue
        named = re.findall(r'"(/[^"]*)"', rest)
        if call not in EVERYWHERE and named and not any(n.startswith(str(scene.world)) for n in named):
            continue
        yield Point(git, call, numbers[call])


def _disturbed_log(scene: Scene) -> Path:
    return scene.top / "disturbed.log"


def was_disturbed(scene: Scene) -> bool:
    """Whether the last fault in gitstate's own process happened. Where much data of other programs waits for the disk
    each file is synced alone, else all by one call: a run may have fewer calls than the one that was counted.
    """
    return "(INJECTED)" in _disturbed_log(scene).read_text("utf-8", "replace")


def disturbed_at(scene: Scene, point: Point, fault: str = "signal=KILL", *, alone: bool = True) -> Run:
    """Let the fault happen at a point. `fault` is what strace's `inject=` takes: `signal=KILL`, `error=ENOSPC`.

    With `signal=KILL` one process dies just before the call, `alone` or with its whole group.
    """
    if ":when=" not in fault:
        fault = f"{fault}:when={point.number}"
    if point.git is not None:
        group = "" if alone else "1"
        env = wrapped(scene, GIT=point.git, CALL=point.call, GROUP=group, FAULT=fault)
        return finish(start(scene, env=env))
    trace = ["strace", "-qq", "-o", str(_disturbed_log(scene)), "-e", f"trace={point.call}"]
    trace += ["-e", f"inject={point.call}:{fault}"]
    if alone:
        return finish(start(scene, *trace))
    script = '"$@"; status=$?; [ $status != 137 ] || kill -KILL 0; exit $status'
    return finish(start(scene, "sh", "-c", script, "sh", *trace))
