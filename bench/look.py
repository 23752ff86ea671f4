"""Times of `recover`, `status`, `--version` and agents' hooks beside git's own commands: see README.md."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from place import BenchError, add_arguments, progress, publish, ratio, spread, work_place
from save import Repository, Scenario

Times = dict[str, list[float]]
#: The order of the table, and what each row is divided by.
ROWS = {
    "git status": "git status",
    "git stash pop --index": "git stash pop --index",
    "recover, in place": "git stash pop --index",
    "recover, wiped": "git stash pop --index",
    "recover, nothing pending": "git status",
    "status": "git status",
    "status --short": "git status",
    "--version": "git status",
    "hook, nothing due": "git status",
    "hook, checkpoint due": "git status",
    "hook, turn ends": "git status",
}
_INTERVAL = "3600"


class Bench:
    """One repository, and the times of what was run in it."""

    def __init__(self, repository: Repository, gitstate: Sequence[str], env: dict[str, str]) -> None:
        self.repository = repository
        self.gitstate = gitstate
        self.env = env
        self.times: Times = {row: [] for row in ROWS}

    def run(self, row: str | None, argv: Sequence[str], given: bytes = b"", ok: Sequence[int] = (0,)) -> None:
        """Run one command; its milliseconds belong to a row, where one is named. Raises BenchError."""
        begun = time.perf_counter_ns()
        done = subprocess.run(argv, cwd=self.repository.path, env=self.env, input=given, capture_output=True)
        spent = (time.perf_counter_ns() - begun) / 1e6
        if done.returncode not in ok:
            raise BenchError(f"{shlex.join(argv)}: {done.stderr.decode(errors='replace')[-500:]}")
        if row is not None:
            self.times[row].append(spent)

    def ours(self, row: str | None, *words: str, given: bytes = b"") -> None:
        self.run(row, [*self.gitstate, *words], given)

    def git(self, row: str | None, *words: str) -> None:
        self.run(row, ["git", *words])

    def round(self) -> None:
        """Every command once, each from the state that it is for."""
        self.repository.make_dirty()
        self.git("git status", "status", "--porcelain")
        self.git(None, "stash", "push", "-qu")
        self.git("git stash pop --index", "stash", "pop", "-q", "--index")
        head = self.repository.git("rev-parse", "HEAD").strip()
        before = self.state()
        self.ours(None, "save", "--task-id", "T-1")
        self.ours("recover, in place", "recover")
        self.check(before)
        self.ours(None, "save", "--task-id", "T-2")
        self.git(None, "reset", "-q", "--hard", head)
        self.git(None, "clean", "-fdxq")
        self.ours("recover, wiped", "recover")
        self.check(before)
        self.ours("recover, nothing pending", "recover")
        for row in ("status", "status --short", "--version"):
            self.ours(row, *row.split())
        self.hooks()

    def hooks(self) -> None:
        own = self.repository.path / ".git" / "gitstate"
        memory, waits = own / "agent-hook.json", own / "agent-hook.wait"
        self.tool(None)
        self.tool(None)
        wait_for(lambda: waits.exists() and waits.stat().st_mtime_ns > memory.stat().st_mtime_ns)
        self.tool("hook, nothing due")
        os.utime(own / "agent-hook.due", (1, 1))
        self.tool("hook, checkpoint due")
        self.ours("hook, turn ends", "hook", "claude", given=self.event("Stop"))
        self.settle()
        # Nobody waits for the end of an interval from here on.
        self.ours(None, "hook", "claude", given=self.event("SessionEnd"))

    def tool(self, row: str | None) -> None:
        self.ours(row, "hook", "claude", given=self.event("PostToolUse"))
        self.settle()

    def settle(self) -> None:
        """What a hook has begun goes on by itself: wait for it, so that the next row has the machine for itself."""
        own = self.repository.path / ".git" / "gitstate"

        def is_done() -> bool:
            memory = json.loads((own / "agent-hook.json").read_bytes())
            return not list(own.glob("agent-hook.events/1*")) and memory["done"] >= memory["wanted"]

        wait_for(is_done)

    def event(self, name: str) -> bytes:
        told = {"session_id": "s-1", "transcript_path": "/t", "cwd": str(self.repository.path), "hook_event_name": name}
        return json.dumps(told, separators=(",", ":")).encode()

    def state(self) -> str:
        return self.repository.git("status", "--porcelain", "-uall")

    def check(self, before: str) -> None:
        """A recovery that brought back something else is no time."""
        after = "".join(line for line in self.state().splitlines(True) if "active_state.json" not in line)
        if after != before:
            raise BenchError("the recovery did not bring back what was saved")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise BenchError("the checkpoint in the background was not taken")
        time.sleep(0.001)


def table(scenario: Scenario, times: Times) -> str:
    """One size: a row for each command, with the ratio to the command of git that it is compared with."""
    lines = [f"### {scenario.title}", "", "| command | ms | ratio |", "|---|---:|---|"]
    for row, floor in ROWS.items():
        name = row if row.startswith("git") else f"gitstate {row}"
        compared = "" if row == floor else f"{ratio(times[row], times[floor])} of `{floor}`"
        lines.append(f"| `{name}` | {spread(times[row])} | {compared} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="200,10000,100000", help="tracked files (200,10000,100000)")
    parser.add_argument("--changed", type=int, default=50, help="changes in each repository (50)")
    parser.add_argument("--runs", type=int, default=5, help="timed rounds, after one to warm up (5)")
    add_arguments(parser)
    args = parser.parse_args(argv)
    results: list[tuple[Scenario, Times]] = []
    with work_place(args, GITSTATE_HOOK_INTERVAL=_INTERVAL, GITSTATE_REGISTER="false") as place:
        for size in args.sizes.split(","):
            scenario = Scenario(int(size), args.changed)
            progress(f"{scenario.title}: building")
            where = place.top / f"repository-{size}"
            bench = Bench(Repository(where, place.env, scenario), place.gitstate, place.env)
            for number in range(args.runs + 1):
                progress(f"{scenario.title}: round {number}")
                bench.round()
            results.append((scenario, {row: samples[1:] for row, samples in bench.times.items()}))
            shutil.rmtree(where)
    publish(place.headline(args.runs) + "\n".join(table(scenario, times) for scenario, times in results), "look", args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
