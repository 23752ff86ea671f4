"""`status --watch`: a live table on a terminal of 80 columns, in tmux, and in a pipe."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gitstate.fleet.board import STATES, read_rows
from tests.support.agents import wait_until
from tests.support.screen import OnTerminal
from tests.support.skips import not_installed
from tests.support.workspace import Workspace, run_git, run_gitstate

WATCH = ("status", "--all", "--watch", "--interval", "0.2")


@pytest.fixture
def fleet(tmp_path: Path) -> dict[str, Workspace]:
    """Workspaces by their state: each of another."""
    found = {}
    run_git(tmp_path, "init", "-q", "--template=", str(tmp_path / "idle"))
    first = found["idle"] = Workspace(tmp_path / "idle", tmp_path)
    first.write("a.txt")
    first.commit("first")
    for state in ("finished", "active", "interrupted", "crashed"):
        shutil.copytree(first.path, tmp_path / state)
        found[state] = Workspace(tmp_path / state, tmp_path)
    first.gitstate("register")
    dies = subprocess.Popen(["sleep", "600"])
    for state, owner in (("finished", os.getpid()), ("active", os.getpid()), ("crashed", dies.pid)):
        values = (f"task_id=T-{state}", "agent=tester", "progress_stage=coding")
        found[state].gitstate("begin", *values, "--owner-pid", str(owner))
    dies.kill()
    dies.wait()
    # The process that holds the lease for it ends some time later.
    crashed = [os.fsencode(found["crashed"].path)]
    wait_until(lambda: read_rows(crashed)[0].state == "crashed", "the crashed one")
    found["finished"].gitstate("finish")
    found["active"].append("a.txt")
    found["active"].gitstate("checkpoint")
    found["interrupted"].append("a.txt")
    found["interrupted"].gitstate("save", "--task-id", "T-interrupted")
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., OnTerminal]]:
    running: list[OnTerminal] = []

    def begin(*words: str, **given: Any) -> OnTerminal:
        running.append(OnTerminal(*(words or WATCH), cwd=tmp_path, **given))
        return running[-1]

    yield begin
    for one in running:
        one.close()


def shows(text: str) -> Callable[[list[str]], bool]:
    return lambda lines: any(text in line for line in lines)


def states_on(lines: list[str]) -> list[str]:
    """The first words of the lines that are rows."""
    words = [line.split()[0] for line in lines if line]
    return [word for word in words if word in STATES]


def test_table_on_80_columns_is_worst_first(fleet: dict[str, Workspace], start: Callable[..., OnTerminal]) -> None:
    terminal = start()
    lines = terminal.until(lambda lines: len(states_on(lines)) == len(fleet), "all rows")
    assert states_on(lines) == ["crashed", "interrupted", "active", "idle", "finished"], lines
    assert lines[0].startswith("5 workspaces: 1 crashed, 1 interrupted, 1 active, 1 idle, 1 finished")
    assert lines[1].split() == ["STATE", "COPY", "AGENT", "TASK", "STAGE", "WORKSPACE"]
    (active,) = [line.split() for line in lines if line.startswith("active")]
    assert active[2:5] == ["tester", "T-active", "coding"] and active[1].endswith("s")
    assert [line.split()[1] for line in lines if line.startswith(("crashed", "idle"))] == ["-", "-"]
    for state, ws in fleet.items():
        (row,) = [line for line in lines if line.startswith(state)]
        assert row.endswith(ws.path.name) and len(row) <= 80


def test_refresh_writes_only_what_changed(fleet: dict[str, Workspace], start: Callable[..., OnTerminal]) -> None:
    terminal = start()
    terminal.until(lambda lines: len(states_on(lines)) == len(fleet), "all rows")
    before = len(terminal.written)
    fleet["active"].gitstate("set", "progress_stage=review")
    terminal.until(shows("review"), "the new stage")
    written = terminal.written[before:].decode()
    assert "\x1b[2J" not in written and "\x1b[?1049h" not in written
    # What did not change is not written again: the crashed one has no copy that would grow older.
    assert "review" in written and "T-crashed" not in written and "STAGE" not in written


def test_workspaces_come_and_go(fleet: dict[str, Workspace], start: Callable[..., OnTerminal], tmp_path: Path) -> None:
    terminal = start()
    terminal.until(lambda lines: len(states_on(lines)) == len(fleet), "all rows")
    shutil.rmtree(fleet["idle"].path)
    terminal.until(shows("1 missing"), "the missing one")
    run_gitstate("unregister", str(fleet["idle"].path), cwd=tmp_path)
    terminal.until(lambda lines: len(states_on(lines)) == len(fleet) - 1, "one row less")
    run_git(tmp_path, "init", "-q", "--template=", str(tmp_path / "late"))
    run_gitstate("register", str(tmp_path / "late"), cwd=tmp_path)
    terminal.until(shows("/late"), "the new one")
    fleet["crashed"].gitstate("recover")
    terminal.until(lambda lines: "crashed" not in states_on(lines), "the recovered one")


def test_owner_that_dies_is_seen(
    ws: Workspace, sleeper: subprocess.Popen[bytes], start: Callable[..., OnTerminal]
) -> None:
    """A process that ends changes no file."""
    ws.gitstate("begin", "task_id=T-1", "--owner-pid", str(sleeper.pid))
    terminal = start()
    terminal.until(lambda lines: states_on(lines) == ["active"], "the active one")
    sleeper.kill()
    sleeper.wait()
    terminal.until(lambda lines: states_on(lines) == ["crashed"], "the crashed one")


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("how", "status"),
    [("q", 0), ("ctrl-c", 130), ("TERM", -signal.SIGTERM), ("HUP", -signal.SIGHUP), ("QUIT", -signal.SIGQUIT)],
)
def test_end_leaves_the_terminal_as_it_was(
    how: str, status: int, ws: Workspace, start: Callable[..., OnTerminal]
) -> None:
    ws.gitstate("register")
    terminal = start()
    terminal.until(lambda lines: states_on(lines) == ["idle"], "the table")
    assert terminal.screen.modes["1049"] and not terminal.screen.modes["25"] and not terminal.screen.modes["7"]
    assert terminal.mode_now() != terminal.mode
    if how in ("q", "ctrl-c"):
        terminal.type({"q": b"xq", "ctrl-c": b"\x03"}[how])
    else:
        os.kill(terminal.pid, getattr(signal, f"SIG{how}"))
    assert terminal.wait() == status
    modes = terminal.screen.modes
    assert not modes["1049"] and modes["25"] and modes["7"] and not modes["2026"]
    assert terminal.mode_now() == terminal.mode
    assert b"Traceback" not in terminal.written and not terminal.written.endswith(b"\n")


def test_small_screen_has_the_worst_and_how_many_more(
    fleet: dict[str, Workspace], start: Callable[..., OnTerminal]
) -> None:
    terminal = start(columns=60, lines=5)
    lines = terminal.until(shows("and 3 more"), "the number of the others")
    assert states_on(lines) == ["crashed", "interrupted"]
    before = len(terminal.written)
    terminal.resize(100, 24)
    terminal.until(lambda lines: len(states_on(lines)) == len(fleet) and shows("STAGE")(lines), "all rows")
    # A terminal moves what it showed when its size changes: all is written anew.
    assert b"\x1b[2J" in terminal.written[before:]
    terminal.resize(34, 4)
    lines = terminal.until(shows("and 4 more"), "a narrow screen")
    assert states_on(lines) == ["crashed"] and lines[2].endswith("shed")
    # Nothing fits: nothing breaks.
    for size in ((80, 2), (80, 1), (3, 1), (1, 1), (80, 24)):
        terminal.resize(*size)
    terminal.until(lambda lines: len(states_on(lines)) == len(fleet), "all rows")


#: Each with what of it must be seen in its cell.
HOSTILE = {
    "\x1b[2J\x1b[31mred": "\\x1b[2J",
    "two\nlines\rhere": "two\\nlines",
    "\u202eright to left": "\\u202e",
    "zero\u200bwidth\u200d": "zero\\u200b",
    "日本語の課題": "日本語",
    "e\u0301\u0301\u0301\u20dd accents": "accents",
    "heart \u2764\ufe0f\u2764\ufe0f end": "end",
    "\u1112\u1161\u11ab jamo": "jamo",
    "שלום עולם": "שלום",
    "x" * 3000: "xxx",
    "\x9b31m\x07\x08": "\\x9b",
}


def test_hostile_values_break_no_row(tmp_path: Path, start: Callable[..., OnTerminal]) -> None:
    for number, value in enumerate(HOSTILE):
        path = tmp_path / f"w{number:02}"
        run_git(tmp_path, "init", "-q", "--template=", str(path))
        words = (f"task_id={value}", f"progress_stage={value}", f"agent={value[:20]}")
        run_gitstate("begin", *words, "--owner-pid", str(os.getpid()), cwd=path)
    for columns in (80, 200):
        # This terminal finds hearts wider than Unicode says.
        terminal = start(columns=columns, wide="\u2764")
        lines = terminal.until(lambda lines: len(states_on(lines)) == len(HOSTILE), "all rows")
        rows = [line for line in lines if states_on([line])]
        place = {cell_start(terminal, line, "/") for line, text in enumerate(lines) if text in rows}
        assert len(place) == 1, lines
        assert sorted(row[-3:] for row in rows) == [f"w{number:02}" for number in range(len(HOSTILE))]
        if columns == 200:
            for row in rows:
                assert list(HOSTILE.values())[int(row[-2:])] in row, row


def cell_start(terminal: OnTerminal, line: int, first: str) -> int:
    """The column at which the last cell begins."""
    return max(
        column for (at, column), c in terminal.screen.cells.items() if at == line and c == first and column < 199
    )


def test_first_look_and_dumb_terminal_are_plain(ws: Workspace, start: Callable[..., OnTerminal]) -> None:
    ws.gitstate("register")
    terminal = start(env={"TERM": "dumb"})
    terminal.until(lambda lines: states_on(lines)[:2] == ["idle", "idle"], "two tables, one below the other")
    assert b"\x1b" not in terminal.written
    terminal.type(b"\x03")
    assert terminal.wait() == 130


def test_colours_can_be_turned_off(ws: Workspace, start: Callable[..., OnTerminal]) -> None:
    ws.append("a.txt")
    ws.save()
    plain, coloured = start(env={"NO_COLOR": "1"}), start()
    for terminal in (plain, coloured):
        terminal.until(lambda lines: states_on(lines) == ["interrupted"], "the row")
    assert b"\x1b[33m" in coloured.written and b"\x1b[33m" not in plain.written


# -- elsewhere than on a terminal


def piped(ws: Workspace, words: str, more: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m gitstate {words} --interval 0.1 {more}"
    script = f"set -o pipefail; {program}"
    return subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8", cwd=ws.path, timeout=120)


def test_pipe_gets_a_table_for_each_look(ws: Workspace) -> None:
    ws.gitstate("register")
    done = piped(ws, "status --all --watch", "| head -n 8")
    assert (done.returncode, done.stderr) == (0, "")
    blocks = done.stdout.split("\n\n")
    assert len(blocks) == 3 and "\x1b" not in done.stdout
    for block in blocks[:2]:
        first, header, row = block.splitlines()
        assert first[:4].isdigit() and first.endswith(" 1 workspace: 1 idle")
        assert header.split()[0] == "STATE" and row.split() == ["idle", "-", "-", "-", "-", str(ws.path)]


def test_json_is_an_object_for_each_look(ws: Workspace) -> None:
    ws.gitstate("begin", "task_id=T-1", "--owner-pid", str(os.getpid()))
    once = ws.gitstate("status", "--all", "--json").stdout.decode()
    size = len(once.splitlines()) * 2
    done = piped(ws, "status --all --watch --json", f"| head -n {size}")
    assert (done.returncode, done.stderr) == (0, "")
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(done.stdout)
    second, _ = decoder.raw_decode(done.stdout[end:].lstrip())
    assert first == second == json.loads(once)


def test_watch_of_one_workspace_from_a_directory_in_it(ws: Workspace) -> None:
    ws.mkdir("inside")
    done = piped(ws, "-C inside status --watch", "| head -n 3")
    assert done.returncode == 0 and done.stdout.splitlines()[2].split()[-1] == str(ws.path)


def test_watch_of_what_is_no_workspace_ends_with_1(tmp_path: Path) -> None:
    run = run_gitstate("status", "--watch", cwd=tmp_path)
    assert run.exit_status == 1 and "not a git repository" in run.text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("status --interval 2", "--interval goes with --watch"),
        ("status --watch --interval 0.01", "--interval"),
        ("status --watch --interval nan", "'--interval': 'nan' is not a number"),
        ("status --watch --interval 1e8", "--interval takes"),
        ("status --short --watch", "--short prints one line"),
        ("status --short --prometheus x", "--short prints one line"),
        ("status --prometheus=", "--prometheus needs the name of a file"),
        ("status --watch --prometheus -", "--prometheus - prints the metrics once"),
    ],
)
def test_options_that_do_not_go_together(words: str, said: str, ws: Workspace) -> None:
    run = ws.gitstate(*words.split())
    assert run.exit_status == 2 and said in run.stderr and " status" in run.stderr.partition("next: gitstate")[2]


# -- in tmux


class Tmux:
    """A server of its own with one window of 80 columns, in which a shell runs."""

    def __init__(self, socket: Path, cwd: Path) -> None:
        tmux = shutil.which("tmux")
        if tmux is None:
            pytest.skip(not_installed("tmux"))
        self.argv = [tmux, "-S", str(socket), "-f", os.devnull]
        self.run("new-session", "-d", "-x", "80", "-y", "24", "-s", "it", "-c", str(cwd), "bash --norc -i")

    def run(self, *words: str) -> str:
        done = subprocess.run([*self.argv, *words], capture_output=True, encoding="utf-8", check=True)
        return done.stdout

    def lines(self) -> list[str]:
        return self.run("capture-pane", "-p", "-t", "it").splitlines()

    def type(self, *keys: str) -> None:
        self.run("send-keys", "-t", "it", *keys)

    def modes(self) -> str:
        """Whether the cursor is seen, lines wrap, and another screen is shown."""
        return self.run("display", "-p", "-t", "it", "#{cursor_flag} #{wrap_flag} #{alternate_on}").strip()


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Tmux]:
    server = Tmux(tmp_path / "tmux", tmp_path)
    yield server
    subprocess.run([*server.argv, "kill-server"], capture_output=True)


def test_in_tmux(fleet: dict[str, Workspace], tmux: Tmux) -> None:
    def rows() -> int:
        return len(states_on(tmux.lines()))

    def last() -> str:
        return next((line for line in reversed(tmux.lines()) if line), "")

    tmux.type(f"echo bef''ore; {sys.executable} -m gitstate {' '.join(WATCH)}; echo status=$?", "Enter")
    wait_until(lambda: rows() == len(fleet), "all rows")
    assert states_on(tmux.lines()) == ["crashed", "interrupted", "active", "idle", "finished"]
    assert tmux.modes() == "0 0 1"
    tmux.run("resize-window", "-t", "it", "-x", "60", "-y", "5")
    wait_until(lambda: last() == "and 3 more", "a small window")
    tmux.run("resize-window", "-t", "it", "-x", "80", "-y", "24")
    wait_until(lambda: rows() == len(fleet), "all rows again")
    # Ctrl-Z gives the terminal to the shell, which shows what it showed before; `fg` takes it again.
    tmux.type("C-z")
    wait_until(lambda: tmux.modes() == "1 1 0" and any("Stopped" in line for line in tmux.lines()), "the shell")
    assert "before" in tmux.lines() and rows() == 0
    tmux.type("fg", "Enter")
    wait_until(lambda: tmux.modes() == "0 0 1" and rows() == len(fleet), "the table again")
    tmux.type("C-c")
    wait_until(lambda: tmux.modes() == "1 1 0", "the shell again")
    tmux.type("echo status=$?", "Enter")
    wait_until(lambda: "status=130" in tmux.lines(), "its exit status")
    # What is typed is shown again.
    assert any(line.endswith("echo status=$?") for line in tmux.lines())
