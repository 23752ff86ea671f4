"""Every test runs in a world of its own: no setting of the machine or of the person who runs the tests reaches it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))  # so that test modules can import oracle and states

from states import Templates  # noqa: E402

GIT_CONFIG = """\
[user]
    name = A Tester
    email = tester@example.com
[init]
    defaultBranch = main
[protocol "file"]
    allow = always
[advice]
    detachedHead = false
    skippedCherryPicks = false
[gc]
    auto = 0
[maintenance]
    auto = false
"""

#: Inherited variables that would change what git, gitstate or a shell does.
FOREIGN_PREFIXES = ("GIT_", "GITSTATE_", "XDG_", "LC_", "SSH_", "TMUX", "CLAUDE", "CODEX_", "GEMINI_", "KIMI_")
FOREIGN_NAMES = frozenset(
    {
        "BASH_ENV",
        "BROWSER",
        "CDPATH",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUNBUFFERED",
        "COLUMNS",
        "CURRENT_TASK_ID",
        "DISPLAY",
        "EDITOR",
        "EMAIL",
        "ENV",
        "ISSUE_NUMBER",
        "LANG",
        "LANGUAGE",
        "LESS",
        "LINES",
        "MEMORY_REFS",
        "PAGER",
        "PROGRESS_STAGE",
        "PS4",
        "TZ",
        "VISUAL",
    }
)


def hermetic_environment(home: Path) -> dict[str, str]:
    """The environment that every test and everything it starts sees; ``home`` is made ready for it."""
    for directory in (home / ".config", home / ".local" / "state", home / ".cache"):
        directory.mkdir(parents=True, exist_ok=True)
    settings = home / ".gitconfig"
    settings.write_text(GIT_CONFIG)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN_PREFIXES) and name not in FOREIGN_NAMES
    }
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_STATE_HOME": str(home / ".local" / "state"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(settings),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONPATH": str(ROOT),
    }


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
