"""The environment of every test: no setting of the machine or of the person who runs the tests reaches it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: A machine that stalls for some seconds must cost no save: a test of the deadline sets one of its own.
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
[gitstate]
    deadline = 30
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
