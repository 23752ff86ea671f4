"""How do the times of gitstate grow, and those of git beside it? README.md says how to read the tables.

    python bench/growth.py --quick               # small sizes, a minute
    python bench/growth.py --axis files --minutes 5 --write  # tables and curves of one axis, into docs/speed.md

The axes: tracked files, changed files, saves (and stashes) that the repository already holds. The curves need
matplotlib: `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from look import Bench
from place import CHECKOUT, Place, add_arguments, progress, publish, today, work_place
from save import Repository, Scenario

sys.path.insert(0, str(CHECKOUT))

from tests.support.past import past_saves

#: What is timed of gitstate, and the command of git that it is held against.
ROWS = {
    "save": "git stash push -u",
    "checkpoint": "git stash push -u",
    "recover, in place": "git stash pop --index",
    "recover, wiped": "git stash pop --index",
    "run that fails": "git stash push -u",
    "status": "git status",
    "hook, nothing due": "git status",
    # Both tell how much each of them changed.
    "log": "git stash list --shortstat",
    "prune --dry-run": "git stash list",
}
#: The panels of a picture: a title, and the rows of gitstate in it.
PANELS = {
    "save, checkpoint": ("save", "checkpoint"),
    "recover": ("recover, in place", "recover, wiped"),
    "run, from its start to the end of its save": ("run that fails",),
    "status, hook": ("status", "hook, nothing due"),
    "log": ("log",),
    "prune": ("prune --dry-run",),
}
_COLOURS = ("#0b6e99", "#d9730d")
#: Up to this size a round warms up and `--runs` are timed; above it one round is timed: it takes minutes.
_REPEATED = 5_000


@dataclass(frozen=True)
class Axis:
    """What grows, and how far."""

    name: str
    title: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]

    def scenario(self, size: int) -> Scenario:
        if self.name == "files":
            return Scenario(size, 50)
        return Scenario(max(200, size), size) if self.name == "changed" else Scenario(200, 50)


AXES = (
    Axis("files", "tracked files (50 changed)", (200, 2_000, 10_000, 100_000, 500_000), (200, 1_000)),
    Axis("changed", "changed files (of as many tracked ones)", (10, 100, 1_000, 10_000, 100_000), (10, 100)),
    Axis("saves", "saves, and stashes, that are there already", (1, 10, 100, 1_000, 10_000), (1, 50)),
)

Times = dict[str, list[float]]


class Growth(Bench):
    """One size: every row once in each round, each from the state that it is for."""

    def __init__(self, repository: Repository, gitstate: Sequence[str], env: dict[str, str]) -> None:
        super().__init__(repository, gitstate, env)
        self.times = {row: [] for row in (*ROWS, *ROWS.values())}
        #: Milliseconds of processor time, with that of the children that were waited for.
        self.cpu: Times = {row: [] for row in self.times}
        self.base = repository.git("rev-parse", "main")

    def run(self, row: str | None, argv: Sequence[str], given: bytes = b"", ok: Sequence[int] = (0,)) -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        super().run(row, argv, given, ok)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if row is not None:
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            self.cpu[row].append(spent * 1000)

    def round(self) -> None:
        self.repository.make_dirty()
        self.git("git status", "status", "--porcelain")
        self.git("git stash push -u", "stash", "push", "-qu")
        os.sync()
        self.git("git stash list", "stash", "list")
        self.git("git stash list --shortstat", "stash", "list", "--shortstat")
        self.git("git stash pop --index", "stash", "pop", "-q", "--index")
        self.repository.make_dirty()
        before = self.state()
        self.ours("checkpoint", "checkpoint", "--task-id", "T-1")
        self.ours("save", "save", "--task-id", "T-1")
        self.ours("recover, in place", "recover")
        self.check(before)
        self.ours(None, "save", "--task-id", "T-2")
        self.git(None, "reset", "-q", "--hard", self.base)
        self.git(None, "clean", "-fdxq")
        os.sync()
        self.ours("recover, wiped", "recover")
        self.check(before)
        self.run("run that fails", [*self.gitstate, "run", "--", "false"], ok=(1,))
        self.ours(None, "recover")
        self.check(before)
        self.ours("status", "status")
        for row in (None, None, "hook, nothing due"):
            self.ours(row, "hook", "claude", given=self.event("PostToolUse"))
        # Nobody waits for the end of an interval from here on.
        self.ours(None, "hook", "claude", given=self.event("SessionEnd"))
        self.ours("log", "log")
        self.ours("prune --dry-run", "prune", "--dry-run")


# -- a repository with a past


def give_past(bench: Growth, count: int) -> None:
    """Put `count` saves and as many stashes into the repository: one real save, and others made from its objects."""
    repository = bench.repository
    bench.ours(None, "save", "--task-id", "T-0")
    bench.ours(None, "recover")
    stream, _ = past_saves(repository.git, count)
    command = ["git", "-C", str(repository.path), "fast-import", "--quiet", "--force"]
    subprocess.run(command, input=stream, env=bench.env, check=True)
    if count > 1:
        repository.git("update-ref", "-d", "refs/past")
    stash = repository.git("stash", "create")
    repository.git("update-ref", "--create-reflog", "-m", "WIP on main", "refs/stash", stash)
    log = repository.path / ".git" / "logs" / "refs" / "stash"
    first = log.read_text()
    log.write_text(first + f"{stash} {first.partition(' ')[2]}" * (count - 1))
    repository.git("pack-refs", "--all")
    repository.git("reset", "-q", "--hard", bench.base)
    repository.git("clean", "-fdxq")
    repository.remember()


# -- what is printed


def slope(sizes: Sequence[int], times: Sequence[float]) -> float:
    """How the time grows over the last step, log by log: 1 is in proportion, 0 not at all."""
    return math.log(times[-1] / times[-2]) / math.log(sizes[-1] / sizes[-2])


def table(axis: Axis, results: dict[int, Times], cpu: dict[int, Times]) -> str:
    """A row for each command; in the last columns the slope of it and of git's own, by the clock and by processor time.

    Of the processor time the least of the rounds counts, which other programs disturb little.
    """
    sizes = sorted(results)
    middle = {row: [median(results[size][row]) for size in sizes] for row in results[sizes[0]]}
    least = {row: [max(1.0, min(cpu[size][row])) for size in sizes] for row in middle}
    rows = [[axis.title, *(f"{size:,}" for size in sizes), "slope", "git's", "of CPU", "git's"]]
    rows.append(["---", *("---:" for _ in rows[0][1:])])
    for row in dict.fromkeys([*ROWS.values(), *ROWS]):
        name = row if row.startswith("git") else f"gitstate {row}"
        cells = [f"{value:,.0f}" for value in middle[row]]
        for spent in (middle, least):
            cells.append(f"{slope(sizes, spent[row]):.2f}" if len(sizes) > 1 else "")
            cells.append(f"{slope(sizes, spent[ROWS[row]]):.2f}" if row in ROWS and len(sizes) > 1 else "")
        rows.append([f"`{name}`", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in rows) + "\n"


def draw(axis: Axis, results: dict[int, Times], where: Path) -> None:
    """The curves as PNG and SVG; raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "gitstate"  # the same picture is the same file
    from matplotlib import pyplot

    where.mkdir(parents=True, exist_ok=True)
    sizes = sorted(results)
    figure, panels = pyplot.subplots(3, 2, figsize=(10, 10), constrained_layout=True)
    for panel in panels.flat[len(PANELS) :]:
        panel.set_axis_off()
    for panel, (title, rows) in zip(panels.flat, PANELS.items(), strict=False):
        peer = ROWS[rows[0]]
        panel.plot(sizes, [median(results[size][peer]) for size in sizes], "--", color="#777777", label=peer)
        for row, colour in zip(rows, _COLOURS, strict=False):
            panel.plot(sizes, [median(results[size][row]) for size in sizes], "o-", color=colour, label=row)
        panel.set(title=title, xscale="log", yscale="log", xlabel=axis.title, ylabel="ms")
        low, high = panel.get_ylim()
        panel.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
        for line in (panel.xaxis, panel.yaxis):
            line.set_major_formatter(lambda value, _: f"{value:,g}")
        panel.grid(True, which="major", alpha=0.3)
        panel.legend(frameon=False)
    for suffix in ("png", "svg"):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(where / f"growth-{axis.name}.{suffix}", dpi=110, metadata=metadata)
    pyplot.close(figure)


@dataclass
class Budget:
    """The time that is left for one axis."""

    end: float
    #: Of each size so far the seconds that one round took, with its repository.
    spent: dict[int, float] = field(default_factory=dict)

    def allows(self, size: int) -> bool:
        """Whether a larger size should end in time, if times grow a little faster than over the last step."""
        *before, last = self.spent
        grown = slope([before[-1], last], [self.spent[before[-1]], self.spent[last]]) if before else 0.0
        expected: float = self.spent[last] * (size / last) ** min(1.1, max(0.0, grown) + 0.3)
        return time.monotonic() + expected < self.end


def measure(
    axis: Axis, sizes: Sequence[int], runs: int, minutes: float, place: Place
) -> tuple[dict[int, Times], dict[int, Times]]:
    """The times at each size, by the clock and of the processor, as far as the minutes reach."""
    results: dict[int, Times] = {}
    cpu: dict[int, Times] = {}
    budget = Budget(time.monotonic() + minutes * 60)
    for size in sizes:
        if results and not budget.allows(size):
            progress(f"{axis.name} {size:,}: would not end within the {minutes:g} minutes")
            break
        begun = time.monotonic()
        progress(f"{axis.name} {size:,}: building")
        repository = Repository(place.top / f"repository-{size}", place.env, axis.scenario(size))
        bench = Growth(repository, place.gitstate, place.env)
        if axis.name == "saves":
            give_past(bench, size)
        built = time.monotonic() - begun
        warm, count = (1, runs) if axis.name == "saves" or size <= _REPEATED else (0, 1)
        for number in range(count + warm):
            progress(f"{axis.name} {size:,}: round {number}, after {time.monotonic() - begun:.0f} s")
            start = time.monotonic()
            bench.round()
            budget.spent[size] = built + time.monotonic() - start
        results[size] = {row: samples[warm:] for row, samples in bench.times.items()}
        cpu[size] = {row: samples[warm:] for row, samples in bench.cpu.items()}
        shutil.rmtree(repository.path)
        progress(f"{axis.name} {size:,}: {time.monotonic() - begun:.0f} s in all")
    return results, cpu


def report(axis: Axis, results: dict[int, Times], cpu: dict[int, Times], host: str) -> str:
    counts = {size: len(times["save"]) for size, times in results.items()}
    most = max(counts.values())
    fewer = ", ".join(f"{count} at {size:,}" for size, count in counts.items() if count != most)
    text = f"Median of {most} runs{f' ({fewer})' if fewer else ''} in ms, whole processes. {today()}: {host}, "
    text += f"{os.getloadavg()[0]:.1f} at the end ({os.cpu_count()} cores).\n\n" + table(axis, results, cpu)
    text += (
        "\nThe slope is that of the last step, log by log: 1 is in proportion to the size, 0 no growth. That of the\n"
    )
    return text + "processor's time (CPU, the least of the rounds) depends less on what else the machine does.\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axis", choices=[axis.name for axis in AXES], action="append", help="one (all of them)")
    parser.add_argument("--sizes", metavar="N,N", help="other sizes, in growing order")
    parser.add_argument("--most", type=int, metavar="N", default=500_000, help="no size above this one")
    parser.add_argument("--minutes", type=float, default=60, help="begin no size that ends later, for each axis (60)")
    parser.add_argument("--runs", type=int, default=3, help="timed rounds (3; one above 5,000 files)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw the curves there (with --write: in docs/)")
    add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    runs = 1 if args.quick else args.runs
    pictures = CHECKOUT / "docs" if args.write else args.pictures
    for axis in AXES:
        if args.axis and axis.name not in args.axis:
            continue
        usual = axis.quick if args.quick else axis.sizes
        sizes = [int(word) for word in args.sizes.split(",")] if args.sizes else usual
        sizes = [size for size in sizes if size <= args.most]
        with work_place(args, GITSTATE_HOOK_INTERVAL="3600", GITSTATE_REGISTER="false") as place:
            results, cpu = measure(axis, sizes, runs, args.minutes, place)
        text = report(axis, results, cpu, place.host)
        if pictures:
            draw(axis, results, pictures)
        picture = f"\n![curves: {axis.title}](growth-{axis.name}.svg)\n" if args.write else ""
        publish(text + picture, f"growth-{axis.name}", args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
