"""How much disk the history of checkpoints takes: a simulated week of work on a busy repository.

    python bench/history.py [--days N] [--every SECONDS]

The clock of this process goes ahead, so that a week takes minutes. An agent edits three of 500 files (5 to 20 KiB) for
each checkpoint, adds one now and then, and commits each hour.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gitstate.save.request import SaveRequest  # noqa: E402
from gitstate.save.save import save  # noqa: E402


def main() -> int:
    """Print a table: one row for each day, and one after `git gc`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--every", type=int, default=300, metavar="SECONDS")
    options = parser.parse_args()
    os.environ["GITSTATE_REGISTER"] = "false"
    with tempfile.TemporaryDirectory() as temporary:
        repository = Path(temporary) / "repository"
        _simulate(repository, options.days, options.every)
    return 0


def _git(where: Path, *args: str) -> str:
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")
    done = subprocess.run(
        ["git", *identity, "-C", str(where), *args], check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout


def _simulate(where: Path, days: int, every: int) -> None:
    source = random.Random(1)
    where.mkdir()
    _git(where, "init", "-q", "-b", "main")
    paths = [where / f"src{number % 20}" / f"module{number}.py" for number in range(500)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(_lines(source, source.randrange(100, 400)))
    _git(where, "add", ".")
    _git(where, "commit", "-q", "-m", "begin")
    began = time.time_ns() - days * 86_400 * 1_000_000_000
    plain = _size(where)
    print(f"{'':>12}  {'checkpoints':>11}  {'history':>7}  {'kept alone by it':>16}  {'.git':>9}  {'ms each':>7}")
    taken, spent = 0, 0.0
    for day in range(1, days + 1):
        for step in range(86_400 // every):
            seconds = (day - 1) * 86_400 + step * every
            for path in source.sample(paths, 3):
                path.write_text(path.read_text() + _lines(source, 3))
            if step % 10 == 0:
                paths.append(paths[0].with_name(f"more{day}_{step}.py"))
                paths[-1].write_text(_lines(source, 100))
            if seconds % 3600 < every:
                _git(where, "add", ".")
                _git(where, "commit", "-q", "-m", f"hour {seconds // 3600}")
            moment = began + seconds * 1_000_000_000
            clock = time.perf_counter()
            with patch.object(time, "time_ns", return_value=moment):
                save(os.fsencode(where), SaveRequest(kind="checkpoint"))
            spent += time.perf_counter() - clock
            taken += 1
        _row(where, f"day {day}", taken, spent, plain)
        spent = 0.0
        # What git does by itself: fold the packs, and keep what nobody holds for two weeks.
        _git(where, "-c", "gc.auto=6700", "gc", "--quiet")
    _row(where, "after gc", taken, 0.0, plain)
    _git(where, "gc", "--quiet", "--prune=now")
    _row(where, "pruned", taken, 0.0, plain)
    for ref in _git(where, "for-each-ref", "--format=%(refname)", "refs/gitstate/").split():
        _git(where, "update-ref", "-d", ref)
    _git(where, "gc", "--quiet", "--prune=now")
    _row(where, "commits only", taken, 0.0, plain)


def _lines(source: random.Random, count: int) -> str:
    return "".join(f"    value_{source.randrange(10**6)} = compute({source.randrange(10**9)})\n" for _ in range(count))


def _size(where: Path) -> int:
    return sum(path.stat().st_size for path in (where / ".git").rglob("*") if path.is_file())


def _row(where: Path, name: str, taken: int, spent: float, plain: int) -> None:
    held = _git(where, "for-each-ref", "--format=%(objectname)", "refs/gitstate/history/").split()
    alone = _git(where, "rev-list", "--disk-usage", "--objects", *held, "--not", "--branches").strip() if held else "0"
    each = f"{1000 * spent / (86_400 / 300):7.0f}" if spent else f"{'':>7}"
    print(
        f"{name:>12}  {taken:>11}  {len(held):>7}  {_mib(int(alone)):>16}  {_mib(_size(where)):>9}  {each}", flush=True
    )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
