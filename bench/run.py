"""Time from SIGTERM to `gitstate run` until its work is safe, at several sizes. README.md says how to read it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from save import (
    CHECKOUT,
    GITCONFIG,
    SETTLE,
    BenchError,
    Contender,
    Repository,
    Scenario,
    arguments,
    contenders,
    machine,
    progress,
    spread,
)

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


def main(argv: Sequence[str] | None = None) -> int:
    args: argparse.Namespace = arguments(argv)
    gitstate = [sys.executable, "-m", "gitstate"] if not args.gitstate else args.gitstate.split()
    peers = [peer for peer in contenders(gitstate, ()) if peer.key in ("save", "stash-push")]
    rows: list[list[str]] = [["", *(f"{size:,} files" for size in args.sizes)], ["---", *("---:" for _ in args.sizes)]]
    cells: list[list[str]] = []
    with tempfile.TemporaryDirectory(prefix="gitstate-bench-", dir=args.workdir) as name:
        top = Path(name).resolve()
        home = top / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(GITCONFIG)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}
        timed_env = env if args.gitstate else env | {"PYTHONPATH": str(CHECKOUT)}
        print(f"Median of {args.runs} runs (fastest to slowest). {machine(top)}.\n")
        for place, size in enumerate(args.sizes):
            progress(f"{size:,} files: building")
            repository = Repository(top / f"repository{place}", env, Scenario(size, args.changed))
            rounds, times = measure(repository, peers, gitstate, args.runs, timed_env)
            markers, ends = [one.marker for one in rounds], [one.end for one in rounds]
            pairs = [a / b for a, b in zip(markers, times["stash-push"], strict=True)]
            cells.append([spread(markers), spread(ends), *(spread(times[peer.key]) for peer in peers)])
            cells[-1].append(f"{median(pairs):.2f}")
            shutil.rmtree(repository.path, ignore_errors=True)
    titles = ["SIGTERM to marker, ms", "SIGTERM to the end of the run, ms", *(f"`{peer.title}`, ms" for peer in peers)]
    titles.append("marker ÷ `git stash push -u`")
    rows += [[title, *(column[number] for column in cells)] for number, title in enumerate(titles)]
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
