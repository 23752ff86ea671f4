"""Time from SIGTERM to `gitstate run` until its work is safe, at several sizes. README.md says how to read it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from place import BenchError, progress, publish, ratio, spread, work_place
from save import SETTLE, Contender, Repository, Scenario, arguments, contenders

#: What the agent does once the run's first checkpoint stands: it edits every file that it had changed before.
_MORE = b"and one more edit\n"
_PATIENCE = 300.0


class Round(NamedTuple):
    """Milliseconds from the signal until the marker stands, and until the run has ended with its last save."""

    marker: float
    end: float


def wait_for(condition: object, what: str) -> None:
    end = time.monotonic() + _PATIENCE
    assert callable(condition)
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"waited in vain for {what}")
        time.sleep(0.0005)


def supervised(repository: Repository, gitstate: Sequence[str], env: dict[str, str]) -> Round:
    """One run that is killed after its agent made more edits."""
    repository.make_dirty()
    own = repository.path / ".git" / "refs" / "gitstate"
    command = [*gitstate, "-C", str(repository.path), "run", "--interval", "3600", "--", "sleep", "600"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_for(lambda: list(own.glob("checkpoints/*")), "the first checkpoint")
        time.sleep(1.0)
        for name in repository.edited():
            with (repository.path / name).open("ab") as file:
                file.write(_MORE)
        os.sync()
        time.sleep(SETTLE)
        start = time.perf_counter_ns()
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: [path for path in own.glob("pending/*") if path.suffix != ".lock"], "the marker")
        marker = time.perf_counter_ns() - start
        status = process.wait()
        end = time.perf_counter_ns() - start
        output.seek(0)
        said = output.read().decode(errors="replace")
    held = [repository.git("cat-file", "-p", f"HEAD:{name}").encode() for name in repository.edited()]
    if status != -signal.SIGTERM or not all(text.endswith(_MORE.strip()) for text in held):
        raise BenchError(f"the run ended with {status}, or did not save all: {said[-2000:]}")
    return Round(marker / 1e6, end / 1e6)


def measure(
    repository: Repository, peers: Sequence[Contender], gitstate: Sequence[str], runs: int, env: dict[str, str]
) -> tuple[list[Round], dict[str, list[float]]]:
    rounds: list[Round] = []
    times: dict[str, list[float]] = {peer.key: [] for peer in peers}
    for turn in range(runs + 1):
        found = supervised(repository, gitstate, env)
        beside = {peer.key: peer.time(repository, env) for peer in peers}
        if turn:  # the first round only warms up
            rounds.append(found)
            for key, elapsed in beside.items():
                times[key].append(elapsed)
        progress(f"  round {turn} of {runs}")
    return rounds, times


def column(rounds: Sequence[Round], times: dict[str, list[float]]) -> dict[str, str]:
    """The cells of one size by the titles of their rows."""
    markers, ends = [one.marker for one in rounds], [one.end for one in rounds]
    return {
        "SIGTERM to marker, ms": spread(markers),
        "SIGTERM to the end of the run, ms": spread(ends),
        "`git status` and a tenth, + 60 ms": f"{1.1 * median(times['status']) + 60:.0f}",
        "`git status`, ms": spread(times["status"]),
        "`gitstate save`, ms": spread(times["save"]),
        "`git stash push -u`, ms": spread(times["stash-push"]),
        "marker ÷ `git stash push -u`": ratio(markers, times["stash-push"]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    columns: list[dict[str, str]] = []
    with work_place(args) as place:
        peers = [peer for peer in contenders(place.gitstate, ()) if peer.key in ("save", "stash-push", "status")]
        for size in args.sizes:
            progress(f"{size:,} files: building")
            repository = Repository(place.top / f"repository-{size}", place.env, Scenario(size, args.changed))
            columns.append(column(*measure(repository, peers, place.gitstate, args.runs, place.env)))
            shutil.rmtree(repository.path, ignore_errors=True)
    rows = [["", *(f"{size:,} files" for size in args.sizes)], ["---", *("---:" for _ in args.sizes)]]
    rows += [[title, *(cells[title] for cells in columns)] for title in columns[0]]
    publish(place.headline(args.runs) + "".join(f"| {' | '.join(row)} |\n" for row in rows), "run", args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
