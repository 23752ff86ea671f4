"""Every test runs in a world of its own: no setting of the machine or of the person who runs the tests reaches it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment import hermetic_environment
from tests.support.repositories import Templates


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


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give each test its own home and a clean environment; the value is that home."""
    home = tmp_path_factory.mktemp("home", numbered=True)
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
