"""Fixtures of all tests: a clean environment, templates, a workspace; and what a run says at its end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.states import STATES, make
from tests.support.environment import hermetic_environment
from tests.support.repositories import Templates
from tests.support.sampling import mark_what_is_not_in_the_sample
from tests.support.workspace import Workspace


def pytest_configure(config: pytest.Config) -> None:
    # Started with `&` or `nohup` all of this would ignore the signals that the tests send.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    known = {line.split(":")[0].split("(")[0].strip() for line in config.getini("markers")}
    if "slow" not in known:
        config.addinivalue_line("markers", "slow: takes long; left out of a quick run with -m 'not slow'")
    if "faults" not in known:
        config.addinivalue_line("markers", "faults: kills processes, fills disks, breaks files")
    if "sample" not in known:
        config.addinivalue_line("markers", "sample(step): a long table, of which a quick run tries each step-th case")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_what_is_not_in_the_sample(items)


def pytest_collection_finish() -> None:
    # Thousands of tests stay for the whole run: a fifth of what a worker does was to walk through them again and again.
    gc.collect()
    gc.freeze()


_HOMES = count()


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give each test its own home and a clean environment; the value is that home."""
    # Not one that pytest numbers: it looks at all that there are.
    home = tmp_path_factory.mktemp(f"home{next(_HOMES)}", numbered=False)
    environment = hermetic_environment(home)
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = os.umask(0o022)
    yield home
    os.umask(before)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Repositories with a few commits, built once and copied for each test."""
    top = tmp_path_factory.mktemp("templates")
    return Templates(top, hermetic_environment(top / "home"))


@pytest.fixture
def ws(templates: Templates, tmp_path: Path) -> Workspace:
    """A clean workspace on branch agent/work."""
    return make(STATES["clean"], templates, tmp_path)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives as long as the test, to be the owner of a run."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


#: The number of tests that `-m "not slow"` deselected, as seen by this process or by a worker of its.
SLOW = pytest.StashKey[int]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow"):
            item.config.stash[SLOW] = item.config.stash.get(SLOW, 0) + 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["slow"] = session.config.stash.get(SLOW, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # Every worker of pytest-xdist collects all tests, and deselects the same.
    slow = getattr(node, "workeroutput", {}).get("slow", 0)
    node.config.stash[SLOW] = max(slow, node.config.stash.get(SLOW, 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what did not run, and how to have it run."""
    reasons = Counter(str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []))
    for reason, number in reasons.most_common():
        terminalreporter.write_line(f"skipped {number}: {reason.removeprefix('Skipped: ')}")
    if slow := config.stash.get(SLOW, 0):
        terminalreporter.write_line(f"not run: {slow} slow tests; to run them (hours): pytest -n 2 -m slow")
