"""Many workspaces, and many runs at once: what the list of workspaces costs, and how much memory a run takes.

    python bench/fleet.py [--workspaces N] [--waiting N] [--runs-at-once N] [--write]

Beside it stands a loop of `git status` in each of the workspaces, and the memory of a Python that does nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from place import BenchError, Place, add_arguments, progress, publish, today, work_place

#: A command line takes no more paths at once.
_AT_ONCE = 5_000
_PATIENCE = 120.0
_STATUS = 'for path do git -C "$path" status --porcelain || exit; done'


class Fleet:
    """Workspaces of one small repository each, and the rows of what was run in them."""

    def __init__(self, place: Place, number: int, waiting: int) -> None:
        self.place = place
        self.rows: list[str] = []
        self.paths = [place.top / "workspaces" / f"{count:05}" for count in range(number)]
        self.waiting = self.paths[:: max(1, number // waiting)][:waiting] if waiting else []
        seed = place.top / "seed"
        self.git(place.top, "init", "-q", "--template=", str(seed))
        (seed / "a").write_text("a\n")
        self.git(seed, "add", ".")
        self.git(seed, "commit", "-qm", "first")
        self.git(seed, "gc", "-q")
        for path in self.paths:
            shutil.copytree(seed, path)
        os.sync()

    def git(self, where: Path, *words: str) -> None:
        subprocess.run(["git", *words], cwd=where, env=self.place.env, check=True, stdout=subprocess.DEVNULL)

    def run(self, title: str, *commands: Sequence[str]) -> None:
        """Time commands, one after the other, as one row. Raises BenchError."""
        seconds, most = 0.0, 0
        for command in commands:
            begun = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=self.paths[0], env=self.place.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds += time.perf_counter() - begun
            most = max(most, usage.ru_maxrss)
            if process.returncode:
                raise BenchError(f"{title} ended with {process.returncode}")
        progress(f"{title}: {seconds:.1f} s")
        self.rows.append(f"| `{title}` | {seconds:.1f} | {most / 1024:.0f} |\n")

    def output(self, where: Path, *words: str) -> bytes:
        command = [*self.place.gitstate, *words]
        return subprocess.run(command, cwd=where, env=self.place.env, check=True, capture_output=True).stdout

    def ours(self, title: str, *words: str) -> None:
        self.run(title, [*self.place.gitstate, *words])

    def measure(self) -> None:
        names = [str(path) for path in self.paths]
        parts = [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
        self.run("git -C … status, in each", *(["sh", "-c", _STATUS, "sh", *part] for part in parts))
        self.run("gitstate register …", *([*self.place.gitstate, "register", *part] for part in parts))
        self.ours("gitstate status --all", "status", "--all")
        self.ours("gitstate recover --all, nothing waits", "recover", "--all")
        for path in self.waiting:
            (path / "new").write_text("new\n")
            self.output(path, "save", "--json")
        self.check(self.waiting)
        self.ours(f"gitstate recover --all, {len(self.waiting)} wait", "recover", "--all")
        self.check([])
        if not all((path / "new").read_text() == "new\n" for path in self.waiting):
            raise BenchError("the recovery did not bring back what was saved")

    def check(self, waiting: Sequence[Path]) -> None:
        """All are on the list, and these wait. Raises BenchError."""
        found = json.loads(self.output(self.paths[0], "status", "--all", "--json"))["workspaces"]
        if {Path(one["workspace"]) for one in found} != {*self.paths}:
            raise BenchError("the list is not that of the fleet")
        if {Path(one["workspace"]) for one in found if one["waiting"]} != {*waiting}:
            raise BenchError("other workspaces wait than were saved")


def memory(place: Place, number: int) -> list[str]:
    """Rows with what each of so many runs at once takes, and a Python that does nothing."""
    runs: list[subprocess.Popen[bytes]] = []
    beside: list[subprocess.Popen[bytes]] = []

    def start(where: Path, *command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=where,
            env=place.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def workspace(name: str) -> Path:
        path = place.top / "runs" / name
        path.mkdir(parents=True)
        for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
            subprocess.run(["git", *words], cwd=path, env=place.env, check=True)
        (path / "new").write_text("new\n")
        return path

    # The first one compiles what it imports.
    start(workspace("first"), *place.gitstate, "run", "--", "true").wait()
    try:
        for count in range(number):
            path = workspace(str(count))
            runs.append(start(path, *place.gitstate, "run", "--", "sleep", "600"))
            beside.append(start(path, sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"))
        for count in range(number):
            refs = place.top / "runs" / str(count) / ".git" / "refs" / "gitstate"
            _wait_for_one(refs / "checkpoints")
        # What a checkpoint took is given back.
        time.sleep(3.0)
        front = [_pss(run.pid) for run in runs]
        keepers = [sum(_pss(pid) for pid in _children(run.pid) if _is_keeper(pid)) for run in runs]
        plain = [_pss(process.pid) for process in beside]
    finally:
        for process in (*runs, *beside):
            process.send_signal(signal.SIGTERM)
        for process in (*runs, *beside):
            process.wait()
    if not all(keepers):
        raise BenchError("a run has no keeper")
    rows = {
        "gitstate run": median(front),
        "its keeper": median(keepers),
        "both": median(a + b for a, b in zip(front, keepers, strict=True)),
        "`python3 -I -S`": median(plain),
    }
    return [f"| {name} | {size / 1024:.1f} |\n" for name, size in rows.items()]


def _wait_for_one(directory: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while not (directory.is_dir() and any(directory.iterdir())):
        if time.monotonic() > end:
            raise BenchError(f"waited in vain for a file in {directory}")
        time.sleep(0.01)


def _pss(pid: int) -> int:
    """The memory of a process in KiB; what it shares with others counts in parts."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_keeper(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:2] == [b"gitstate", b"keep"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspaces", type=int, default=10_000, metavar="N", help="registered ones (10000)")
    parser.add_argument("--waiting", type=int, default=50, metavar="N", help="of them, with a pending save (50)")
    parser.add_argument("--runs-at-once", type=int, default=20, metavar="N", help="for the memory of each (20)")
    add_arguments(parser)
    args = parser.parse_args(argv)
    with work_place(args) as place:
        fleet = Fleet(place, args.workspaces, args.waiting)
        fleet.measure()
        text = f"{args.workspaces:,} registered workspaces, one run. {today()}:\n{place.host}.\n\n"
        text += "| command | s | memory at most, MiB |\n|---|---:|---:|\n" + "".join(fleet.rows)
        if Path("/proc/self/smaps_rollup").exists():
            text += f"\n{args.runs_at_once} runs at once, median of each:\n\n| process | PSS, MiB |\n|---|---:|\n"
            text += "".join(memory(place, args.runs_at_once))
    publish(text, "fleet", args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
