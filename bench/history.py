"""How much disk the history of checkpoints takes: a simulated week of work on a busy repository.

    python bench/history.py [--days N] [--hours N] [--every SECONDS] [--write]

The clock of this process goes ahead, so that a week takes minutes. On each day an agent works for eight hours: before
each checkpoint it edits three of 500 files (5 to 20 KiB), it adds one now and then, and it commits each hour. After a
commit runs what git runs by itself: `git gc --auto`, with the settings that git has by default.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from pages import put
from place import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gitstate.git.opening import open_repository  # noqa: E402
from gitstate.objects.fold import fold_packs  # noqa: E402
from gitstate.save.request import SaveRequest  # noqa: E402
from gitstate.save.save import save  # noqa: E402


def main() -> int:
    """Print a table: a row for each day, and what is left after git has dropped what nobody holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--hours", type=int, default=8, help="busy hours of each day (8)")
    parser.add_argument("--every", type=int, default=10, metavar="SECONDS", help="between two checkpoints (10)")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/format.md")
    options = parser.parse_args()
    os.environ["GITSTATE_REGISTER"] = "false"
    with tempfile.TemporaryDirectory(prefix="gitstate-bench-") as temporary:
        top = Path(temporary)
        host = machine(top)
        os.environ["HOME"] = temporary
        (top / ".gitconfig").write_text(SETTINGS)
        rows = simulate(top / "repository", options.days, options.hours, options.every)
    lines = [
        " | ".join(("", *HEADER)),
        " | ".join(["---", *("---:" for _ in HEADER)]),
        *(" | ".join(row) for row in rows),
    ]
    text = (
        f"A checkpoint every {options.every} s of {options.hours} hours a day. {datetime.now(UTC).date()}: {host}.\n\n"
        + "".join(f"| {line} |\n" for line in lines)
    )
    print(text)
    if options.write:
        put(ROOT / "docs" / "format.md", "history", text)
    return 0


#: Garbage is collected while the agent waits, so that each run is the same.
SETTINGS = "[user]\n\tname = bench\n\temail = bench@example.invalid\n[gc]\n\tautoDetach = false\n"
HEADER = (
    "checkpoints",
    "in the history",
    "held by it alone",
    ".git",
    "packs",
    "most packs",
    "loose objects",
    "ms each",
)


class Work:
    """The agent, its files, and what was seen so far."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.source = random.Random(1)
        self.taken = self.most_packs = self.folded_at = 0
        self.spent = 0.0
        where.mkdir()
        self.git("init", "-q", "-b", "main")
        self.paths = [where / f"src{number % 20}" / f"module{number}.py" for number in range(500)]
        for path in self.paths:
            path.parent.mkdir(exist_ok=True)
            path.write_text(_lines(self.source, self.source.randrange(100, 400)))
        self.git("add", ".")
        self.git("commit", "-q", "-m", "begin")
        self.repository = open_repository(os.fsencode(where))

    def git(self, *args: str) -> str:
        """Run git as the agent does. Raises where git says a word of its gc."""
        command = ["git", "-C", str(self.where), *args]
        done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
        if "too many" in done.stderr or "gc.log" in done.stderr:
            raise SystemExit(f"git {args[0]}, after {self.taken} checkpoints: {done.stderr}")
        return done.stdout

    def checkpoint(self, moment: int, step: int) -> None:
        """Edit some files, and take a checkpoint at a moment, in nanoseconds since 1970."""
        for path in self.source.sample(self.paths, 3):
            path.write_text(path.read_text() + _lines(self.source, 3))
        if step % 10 == 0:
            self.paths.append(self.paths[0].with_name(f"more{self.taken}.py"))
            self.paths[-1].write_text(_lines(self.source, 100))
        clock = time.perf_counter()
        with patch.object(time, "time_ns", return_value=moment):
            save(os.fsencode(self.where), SaveRequest(kind="checkpoint"))
        self.spent += time.perf_counter() - clock
        self.taken += 1
        self.most_packs = max(self.most_packs, self.packs())
        # As the keeper does it after each checkpoint.
        self.folded_at = fold_packs(self.repository, self.folded_at)

    def packs(self) -> int:
        return sum(name.endswith(".pack") for name in os.listdir(self.where / ".git" / "objects" / "pack"))

    def row(self, name: str, checkpoints: int) -> list[str]:
        held = self.git("for-each-ref", "--format=%(objectname)", "refs/gitstate/history/").split()
        alone = self.git("rev-list", "--disk-usage", "--objects", *held, "--not", "--branches") if held else "0"
        loose = self.git("count-objects").split()[0]
        each = f"{1000 * self.spent / checkpoints:.0f}" if checkpoints else ""
        sizes = _mib(int(alone)), _mib(_size(self.where))
        cells = [name, f"{self.taken:,}", str(len(held)), *sizes, str(self.packs()), str(self.most_packs), loose, each]
        self.spent, self.most_packs = 0.0, 0
        print(*cells, sep="  ", file=sys.stderr, flush=True)
        return cells


def simulate(where: Path, days: int, hours: int, every: int) -> list[list[str]]:
    work = Work(where)
    began = time.time_ns() - days * 86_400 * 1_000_000_000
    rows = []
    for day in range(days):
        for hour in range(hours):
            for step in range(3600 // every):
                seconds = day * 86_400 + hour * 3600 + step * every
                work.checkpoint(began + seconds * 1_000_000_000, step)
            work.git("add", ".")
            work.git("commit", "-q", "-m", f"day {day + 1}, hour {hour + 1}")
        rows.append(work.row(f"day {day + 1}", hours * 3600 // every))
    work.git("gc", "--quiet", "--prune=now")
    rows.append(work.row("after `git gc --prune=now`", 0))
    for ref in work.git("for-each-ref", "--format=%(refname)", "refs/gitstate/").split():
        work.git("update-ref", "-d", ref)
    work.git("gc", "--quiet", "--prune=now")
    rows.append(work.row("the commits alone", 0))
    return rows


def _lines(source: random.Random, count: int) -> str:
    return "".join(f"    value_{source.randrange(10**6)} = compute({source.randrange(10**9)})\n" for _ in range(count))


def _size(where: Path) -> int:
    return sum(path.stat().st_size for path in (where / ".git").rglob("*") if path.is_file())


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
