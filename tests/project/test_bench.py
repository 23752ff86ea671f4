"""What measures speed works, and has a place in docs/speed.md for each of its figures."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.environment import ROOT


def printed(name: str, *options: str) -> str:
    command = [sys.executable, str(ROOT / "bench" / name), *options]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def first_cells(report: str) -> list[str]:
    return [line.split(" | ")[0].removeprefix("| ") for line in report.splitlines() if re.match(r"\| [^-]", line)]


def test_fleet_and_memory_are_measured() -> None:
    report = printed("fleet.py", "--workspaces", "8", "--waiting", "2", "--runs-at-once", "1")
    assert first_cells(report) == [
        "command",
        "`git -C … status, in each`",
        "`gitstate register …`",
        "`gitstate status --all`",
        "`gitstate recover --all, nothing waits`",
        "`gitstate recover --all, 2 wait`",
        *("process", "gitstate run", "its keeper", "both", "`python3 -I -S`"),
    ]


def test_fleet_is_no_figure_where_nothing_was_registered() -> None:
    command = [sys.executable, str(ROOT / "bench" / "fleet.py"), "--workspaces", "3", "--gitstate", "true"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode != 0 and "| command |" not in done.stdout


def test_each_figure_has_its_place() -> None:
    programs = "".join((ROOT / "bench" / f"{name}.py").read_text() for name in ("look", "save", "run", "fleet"))
    sections = re.findall(r'publish\(.*?"(\w+)", args\)', programs, re.DOTALL)
    assert sections == ["look", "save", "run", "fleet"]
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    for section in (*sections, "growth-files", "growth-changed", "growth-saves"):
        body = page.partition(f"<!-- begin: {section} -->")[2].partition(f"<!-- end: {section} -->")[0]
        assert " cores (" in body and "git version " in body and body.count("\n| ") > 4, section


@pytest.mark.slow
def test_all_are_measured_in_one_run() -> None:
    cells = first_cells(printed("speed.py", "--quick"))
    wanted = ("git status", "gitstate recover, wiped", "git stash push -u", "gitstate register …", "gitstate log")
    assert all(f"`{name}`" in cells for name in wanted) and "SIGTERM to marker, ms" in cells
