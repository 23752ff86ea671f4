"""Where a benchmark works: a directory with a HOME of its own, the gitstate that it times, and on what machine."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pages import put

CHECKOUT = Path(__file__).resolve().parent.parent
_GITCONFIG = "[user]\n\tname = Bench\n\temail = bench@example.invalid\n[init]\n\tdefaultBranch = main\n"


class BenchError(Exception):
    """A command failed, or did not do what it was timed for."""


class Place(NamedTuple):
    """A temporary directory, and what commands are run with."""

    top: Path
    env: dict[str, str]
    gitstate: list[str]
    """The command that is timed, as words."""
    host: str
    """The machine and its load, for a headline."""

    def headline(self, runs: int) -> str:
        return f"Median of {runs} runs (fastest to slowest), whole processes. {today()}:\n{self.host}.\n\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--gitstate", metavar="COMMAND", help="the gitstate to time (this checkout, installed)")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="where to build (the temporary directory)")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/speed.md")


@contextmanager
def work_place(args: argparse.Namespace, **settings: str) -> Iterator[Place]:
    """A place for the time of the body; `settings` are added to its environment."""
    with tempfile.TemporaryDirectory(prefix="gitstate-bench-", dir=args.workdir) as name:
        top = Path(name).resolve()
        host = machine(top)
        home = top / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(_GITCONFIG)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"}
        command = shlex.split(args.gitstate) if args.gitstate else [str(_installed(top / "venv"))]
        yield Place(top, env | settings, command, host)


def _installed(place: Path) -> Path:
    """Lay this checkout out as pip does in a virtual environment of this Python; returns the command in it."""
    venv.create(place, with_pip=False)
    packages = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "gitstate").symlink_to(CHECKOUT / "gitstate")
    # What gitstate needs stands where it does for this interpreter.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = place / "bin" / "gitstate"
    shutil.copy(CHECKOUT / "bin" / "gitstate", command)
    return command


def publish(report: str, section: str, args: argparse.Namespace) -> None:
    """Print a report, and keep it in docs/speed.md where that is wanted."""
    print(report, flush=True)
    if args.write:
        put(CHECKOUT / "docs" / "speed.md", section, report)


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def spread(samples: Sequence[float]) -> str:
    return f"{median(samples):,.0f} ({min(samples):,.0f} to {max(samples):,.0f})"


def ratio(ours: Sequence[float], others: Sequence[float]) -> str:
    """The median of the pairs."""
    return f"{median(a / b for a, b in zip(ours, others, strict=True)):.2f}"


def last_line(*command: str) -> str:
    """Return the last line that a command prints, or "unknown"."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def machine(workdir: Path) -> str:
    filesystem = last_line("df", "--output=fstype", str(workdir))
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {filesystem}, {platform.system()} {platform.release()}, "
        f"{last_line('git', '--version')}, Python {platform.python_version()}; load {load:.1f} at the start"
    )


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
