"""What an order, and the end of a run, cost until the marker stands, in numbers that no machine changes."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstate.orders.client import order_checkpoint, order_save
from tests.recover.test_cost import LOGGING
from tests.run.commands import run_command
from tests.support.agents import Started, agent_pid, wait_until
from tests.support.workspace import Workspace

#: One git each, all of them at once: what HEAD has at the changed paths, whether new ones are ignored, and the refs.
UNTIL_MARKER = ["cat-file", "check-ignore", "update-ref"]


#: The runs that a test has begun.
_started: list[Started] = []


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file to which each git adds its subcommand. No run is left, where the test fails either."""
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()
    (tools / "git").write_text(LOGGING.format(log=log, git=shutil.which("git")))
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    yield log
    while _started:
        left = _started.pop()
        if left.process.poll() is None:
            left.send(signal.SIGKILL)
            left.status()


def running(ws: Workspace, log: Path, agent: list[str] | None = None) -> Started:
    """A run whose keeper knows what changes: a tracked file has changed since its checkpoint, and one is new."""
    command = run_command(ws, "", "--interval", "3600", "--grace", "100", "--deadline", "200")
    # Of a directory that is made later the keeper asks by itself whether git ignores it.
    ws.write("d/first.txt", "new\n")
    started = Started(ws, command if agent is None else [*command[: command.index("--") + 1], *agent])
    _started.append(started)
    agent_pid(ws)
    own = os.path.join(os.fsencode(ws.git_dir), b"gitstate")
    for what in ("a checkpoint", "the directories that it has found are watched"):
        wait_until(lambda: order_checkpoint(own, at_once=True, waits=60), what)
    ws.append("a.txt", "more\n")
    ws.write("d/new.txt", "new\n")
    log.write_text("")
    return started


def test_ordered_save_starts_three_gits_until_its_marker(ws: Workspace, log: Path) -> None:
    started = running(ws, log)
    answer = order_save(os.path.join(os.fsencode(ws.git_dir), b"gitstate"), {})
    assert answer.last is not None and answer.early is not None
    begun = log.read_text().split()
    # The second save looks at everything, and opens the repository anew.
    assert (sorted(begun[:3]), begun[3]) == (UNTIL_MARKER, "config")
    started.send(signal.SIGKILL)
    started.status()


def test_end_of_a_run_starts_three_gits_until_its_marker(ws: Workspace, log: Path) -> None:
    started = running(ws, log)
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    begun = log.read_text().split()
    assert (sorted(begun[:3]), begun[3]) == (UNTIL_MARKER, "config")
    assert ws.out("show", "HEAD:d/new.txt") == "new"


def test_end_of_a_run_makes_one_index_and_lists_no_path_twice(ws: Workspace, log: Path) -> None:
    """Git makes the new index from what the first save took, while it looks at everything."""
    for number in range(2000):
        # A small index is read without git.
        ws.write(f"many/{number:0120}", "")
    ws.add("many")
    ws.commit()
    started = running(ws, log)
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    begun = log.read_text().split()
    assert begun.count("update-index") == 1 and "ls-files" not in begun
    assert ws.out("status", "--porcelain") == ""


def test_what_the_agent_writes_at_its_end_is_in_the_index_too(ws: Workspace, log: Path) -> None:
    ready = ws.outside / "ready"
    marker = '[ -n "$(ls .git/refs/gitstate/pending 2>/dev/null)" ]'
    late = f"until {marker}; do sleep 0.02; done; echo late >>b.txt; exit 0"
    words = f"trap '{late}' TERM; echo $$ >{ready}; while :; do sleep 0.05; done"
    started = running(ws, log, ["sh", "-c", words])
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    assert log.read_text().split().count("update-index") == 2
    assert ws.out("show", "HEAD:b.txt").endswith("late")
    assert ws.out("status", "--porcelain") == ""


def test_command_loads_next_to_nothing_before_its_order(ws: Workspace, log: Path) -> None:
    """The marker waits for it: Python itself takes longer."""
    started = running(ws, log)
    ws.cli_env = {**ws.cli_env, "PYTHONPROFILEIMPORTTIME": "1"}
    run = ws.gitstate("save")
    assert run.exit_status == 0
    ours = {name for name in re.findall(r"\| +([\w.]+)$", run.stderr, re.MULTILINE) if name.startswith("gitstate")}
    assert "gitstate.orders.client" in ours
    assert not {name for name in ours if name.startswith(("gitstate.git", "gitstate.save", "gitstate.objects"))}
    assert len(ours) <= 20, sorted(ours)
    started.send(signal.SIGKILL)
    started.status()


def test_what_the_agent_stages_at_its_end_comes_back(ws: Workspace, log: Path) -> None:
    """Another index than that of the early save: nothing of what was known of it counts."""
    marker = '[ -n "$(ls .git/refs/gitstate/pending 2>/dev/null)" ]'
    staged = "git add d/new.txt; git rm -q --cached b.txt; git update-index --chmod=+x docs/guide.md"
    seen = "git status --porcelain; git ls-files -s"
    late = f"until {marker}; do sleep 0.02; done; {staged}; ({seen}) >{ws.outside}/seen; exit 0"
    words = f"trap '{late}' TERM; echo $$ >{ws.outside}/ready; while :; do sleep 0.05; done"
    started = running(ws, log, ["sh", "-c", words])
    started.send(signal.SIGTERM)
    assert started.status() == 143, started.words()
    ws.git("reset", "-q", "--hard", "HEAD")
    ws.git("clean", "-fdxq")
    assert ws.recover().exit_status == 0
    assert ws.git("status", "--porcelain") + ws.git("ls-files", "-s") == (ws.outside / "seen").read_bytes()
