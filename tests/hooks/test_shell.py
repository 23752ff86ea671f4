"""`hooks/gitstate.bash` and the ready loops, with real shells, signals and terminals, and a fake agent on the PATH.

Each story is the same: an agent works, something ends it, the save says what it was doing, nothing is left running,
and the next start finds the same tree and the same task.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.states import STATES, Templates, Workspace, make
from tests.support.environment import ROOT
from tests.support.oracle import Fingerprint, fingerprint
from tests.support.runs import PATIENCE, keepers, wait_until

HOOKS = ROOT / "hooks"
LIBRARY = HOOKS / "gitstate.bash"
SOURCE = f". {shlex.quote(str(LIBRARY))}\n"
SCRIPTS = (LIBRARY, HOOKS / "agent-loop.bash", HOOKS / "claude-loop.sh", HOOKS / "kimi-loop.sh")
#: Everything that makes a careless shell run something, or take data for an option.
HOSTILE = """-n 'one' "two" $(touch pwned) `touch pwned` \\ ${HOME} * ; rm -rf x & \n second line é"""

AGENT = r"""
printf '%s\0' "$@" >"$STAGE/arguments"
echo "$$" >"$STAGE/agent"
touch_ready() { : >"$STAGE/ready"; }
work() { echo staged >>work.txt; git add work.txt; echo not staged >>work.txt; echo new >"a new file"; }
case $(cat "$STAGE/manner") in
  look) touch_ready; exec sleep 600 ;;
  stay) work; touch_ready; exec sleep 600 ;;
  deaf) trap '' TERM INT HUP; work; touch_ready; while :; do sleep 0.1; done ;;
  parent)
    work
    bash -c 'trap "" HUP TERM; while :; do echo tick >>ticks; sleep 0.02; done' &
    until [ -s ticks ]; do sleep 0.02; done
    touch_ready; exec sleep 600 ;;
  fail) work; touch_ready; exit 3 ;;
  answer-ctrl-c) trap 'echo not yet >>work.txt; : >"$STAGE/heard"' INT; touch_ready
    until [ -e "$STAGE/enough" ]; do sleep 0.05; done ;;
  done) work ;;
  nothing) ;;
esac
"""

LIBRARY_LOOP = """
set -euo pipefail
eval "$(gitstate init bash)"
task=T-42
if recover_agent_state; then task=$RECOVERED_TASK_ID; fi
gitstate_begin "task_id=$task" issue_number=7
gitstate_stage coding
gitstate_run claude -p "$task"
gitstate_finish
"""

SKETCH = f"""
set -euo pipefail
. {shlex.quote(str(LIBRARY))}
CURRENT_TASK_ID=T-42 ISSUE_NUMBER=7 WORKSPACE_PATH=$PWD BRANCH_NAME=agent/work PROGRESS_STAGE=coding MEMORY_REFS=m-1
trap cleanup_and_save SIGTERM SIGINT EXIT
if recover_agent_state; then CURRENT_TASK_ID=$RECOVERED_TASK_ID; fi
gitstate_run claude -p "$CURRENT_TASK_ID"
"""


@dataclass
class Stage:
    """A workspace, an agent on the PATH, and whatever was started here."""

    ws: Workspace
    directory: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def tasks(self) -> Path:
        return self.directory / "tasks"

    def manner(self, name: str) -> None:
        (self.directory / "manner").write_text(name)
        (self.directory / "ready").unlink(missing_ok=True)

    def script(self, text: str) -> list[str]:
        path = self.directory / "loop.sh"
        path.write_text(text)
        return ["bash", str(path)]

    def command(self, way: str) -> list[str]:
        if way in ("library", "sketch"):
            return self.script({"library": LIBRARY_LOOP, "sketch": SKETCH}[way])
        if not self.tasks.exists():
            self.tasks.write_text("T-42\nT-43\n")
        return [str(HOOKS / f"{way}-loop.sh"), "--tasks", str(self.tasks)]

    def start(self, command: Sequence[str], **more: object) -> subprocess.Popen[bytes]:
        error = open(self.directory / "stderr", "ab")  # noqa: SIM115
        with error:
            options: dict[str, object] = {"stdout": subprocess.DEVNULL, "stderr": error, **more}
            process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
                command, cwd=self.ws.path, stdin=subprocess.DEVNULL, start_new_session=True, **options
            )
        self.started.append(process)
        return process

    def ready(self, running: subprocess.Popen[bytes] | None = None) -> None:
        wait_until(
            lambda: (self.directory / "ready").exists() or (running is not None and running.poll() is not None),
            "the agent is ready",
        )
        assert (self.directory / "ready").exists(), self.said()

    def said(self) -> str:
        path = self.directory / "stderr"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def arguments(self) -> list[str]:
        return (self.directory / "arguments").read_text(encoding="utf-8").split("\0")[:-1]

    def processes(self) -> dict[int, str]:
        """Every process that was started from here, however it was re-parented."""
        mark = f"STAGE={self.directory}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def pending(self) -> str | None:
        return next(iter(self.ws.refs("refs/gitstate/pending").values()), None)

    def context(self) -> dict[str, object]:
        """The context as the note on the WIP commit has it, which has to be the one in the archive."""
        archive = self.pending()
        assert archive is not None, self.said()
        wip = self.ws.out("rev-parse", f"{archive}^1")
        note: dict[str, object] = json.loads(self.ws.git("notes", "--ref=gitstate", "show", wip))
        kept = json.loads(self.ws.git("show", f"{archive}:context.json"))
        assert {name: note[name] for name in kept} == kept
        return note

    def saves(self) -> int:
        return len(self.ws.refs("refs/gitstate/saves"))

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait(PATIENCE)


@pytest.fixture
def stage(templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    if not Path("/proc/self/environ").exists():
        pytest.skip("looks for leftovers in /proc, which is not here")
    ws = make(STATES["clean"], templates, tmp_path)
    directory = tmp_path / "stage"
    programs = directory / "bin"
    programs.mkdir(parents=True)
    gitstate = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gitstate "$@"\n'
    agent = f"#!/usr/bin/env bash\n{AGENT}"
    for name, text in {"gitstate": gitstate, "claude": agent, "kimi": agent}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("STAGE", str(directory))
    found = Stage(ws, directory)
    found.manner("stay")
    try:
        yield found
    finally:
        found.end()


# --------------------------------------------------------------------------------------------------------------------
# Whatever ends it
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cause:
    """How a run is ended: `kill` gets the loop and the agent's pid; `status` as the loop's parent sees it."""

    kill: Callable[[subprocess.Popen[bytes], int], None]
    status: int
    manner: str = "stay"
    reason: Mapping[str, object] = field(default_factory=dict)


def to_loop(number: int) -> Callable[[subprocess.Popen[bytes], int], None]:
    return lambda loop, agent: loop.send_signal(number)


def to_group(number: int) -> Callable[[subprocess.Popen[bytes], int], None]:
    return lambda loop, agent: os.killpg(loop.pid, number)


def twice(loop: subprocess.Popen[bytes], agent: int) -> None:
    os.killpg(loop.pid, signal.SIGTERM)
    time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(loop.pid, signal.SIGTERM)


def term_then_kill(loop: subprocess.Popen[bytes], agent: int) -> None:
    loop.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        loop.wait(2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(loop.pid, signal.SIGKILL)


def kill_agent(loop: subprocess.Popen[bytes], agent: int) -> None:
    os.kill(agent, signal.SIGKILL)


def nobody(loop: subprocess.Popen[bytes], agent: int) -> None:
    """The agent ends by itself."""


TERM: Mapping[str, object] = {"signal": "TERM"}
CAUSES = {
    "term": Cause(to_loop(signal.SIGTERM), -signal.SIGTERM, reason=TERM),
    "term-group": Cause(to_group(signal.SIGTERM), -signal.SIGTERM, reason=TERM),
    "int": Cause(to_loop(signal.SIGINT), -signal.SIGINT, reason={"signal": "INT"}),
    "int-group": Cause(to_group(signal.SIGINT), -signal.SIGINT, reason={"signal": "INT"}),
    "hup": Cause(to_loop(signal.SIGHUP), -signal.SIGHUP, reason={"signal": "HUP"}),
    "quit-group": Cause(to_group(signal.SIGQUIT), -signal.SIGQUIT, reason={"signal": "QUIT"}),
    "term-twice": Cause(twice, -signal.SIGTERM, reason=TERM),
    "term-then-kill": Cause(term_then_kill, -signal.SIGTERM, reason=TERM),
    "deaf-agent": Cause(to_loop(signal.SIGTERM), -signal.SIGTERM, "deaf", reason=TERM),
    "grandchild": Cause(to_loop(signal.SIGTERM), -signal.SIGTERM, "parent", reason=TERM),
    "agent-killed": Cause(kill_agent, 128 + signal.SIGKILL),
    "loop-killed": Cause(to_loop(signal.SIGKILL), -signal.SIGKILL),
    "group-killed": Cause(to_group(signal.SIGKILL), -signal.SIGKILL),
    "agent-fails": Cause(nobody, 3, "fail", reason={"exit_code": 3}),
}
#: What an ordinary run tries for every way in; the rest is for the thorough one.
ALWAYS = ("term", "int-group", "group-killed", "agent-fails")


STORIES = [
    pytest.param(
        way, cause, id=f"{way}-{cause}", marks=() if way == "library" or cause in ALWAYS else pytest.mark.slow
    )
    for way in ("library", "sketch", "claude", "kimi")
    for cause in CAUSES
]


@pytest.mark.faults
@pytest.mark.parametrize(("way", "cause"), STORIES)
def test_whatever_ends_it_the_next_start_goes_on(stage: Stage, way: str, cause: str) -> None:
    what = CAUSES[cause]
    stage.manner(what.manner)
    loop = stage.start(stage.command(way))
    stage.ready(loop)
    before = fingerprint(stage.ws.path)
    what.kill(loop, int((stage.directory / "agent").read_text()))
    assert loop.wait(PATIENCE) == what.status, stage.said()
    wait_until(lambda: stage.pending() is not None, "the save")
    wait_until(lambda: not stage.processes(), "everything has ended")

    context = stage.context()
    assert (context["task_id"], context["branch_name"]) == ("T-42", "agent/work")
    if way in ("library", "sketch"):
        assert (context["issue_number"], context["progress_stage"]) == (7, "coding")
    told = context["reason"]
    assert isinstance(told, dict)
    assert what.reason.items() <= told.items()
    assert stage.saves() == 1
    assert stage.ws.status() == set()

    ticks = stage.ws.read("ticks") if what.manner == "parent" else None
    stage.manner("look")
    again = stage.start(stage.command(way))
    stage.ready(again)
    assert any("T-42" in argument for argument in stage.arguments()), stage.arguments()
    assert stage.pending() is None
    if ticks is not None:
        assert stage.ws.read("ticks") == ticks
    assert difference(before, fingerprint(stage.ws.path)) == []


def difference(before: Fingerprint, after: Fingerprint) -> list[str]:
    """But for a file that something went on writing after `before` was taken."""
    return before.without([b"ticks"]).diff(after.without([b"ticks"]))


@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "sketch", "claude", "kimi"])
def test_a_clean_end_leaves_the_work_and_no_save(stage: Stage, way: str) -> None:
    stage.manner("done")
    stage.tasks.write_text("T-42\n")
    assert stage.start(stage.command(way)).wait(PATIENCE) == 0, stage.said()
    assert stage.pending() is None
    assert b"not staged" in stage.ws.read("work.txt")
    assert json.loads(stage.ws.gitstate("show", "--json").stdout)["context"]["status"] == "finished"
    wait_until(lambda: not stage.processes(), "everything has ended")


# --------------------------------------------------------------------------------------------------------------------
# Terminals
# --------------------------------------------------------------------------------------------------------------------


class Terminal:
    """A loop on a terminal of its own."""

    def __init__(self, stage: Stage, command: Sequence[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(stage.ws.path)
            os.execvp(command[0], list(command))
        self.printed = b""

    def drain(self) -> None:
        """Read what was printed, so that nothing waits for us."""
        with contextlib.suppress(OSError):
            while select.select([self.fd], [], [], 0)[0]:
                data = os.read(self.fd, 65_536)
                if not data:
                    break
                self.printed += data

    def wait(self) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.drain()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError(f"still running: {self.printed!r}")


@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "sketch", "claude"])
def test_ctrl_c_on_a_terminal_saves_and_ends_the_loop(stage: Stage, way: str) -> None:
    terminal = Terminal(stage, stage.command(way))
    stage.ready()
    before = fingerprint(stage.ws.path)
    os.write(terminal.fd, b"\x03")
    assert terminal.wait() == -signal.SIGINT, terminal.printed
    assert stage.context()["task_id"] == "T-42"
    assert stage.saves() == 1
    assert stage.ws.recover().exit_status == 0
    assert before.diff(fingerprint(stage.ws.path)) == []


@pytest.mark.faults
def test_ctrl_c_that_an_agent_takes_as_its_own_affair_does_not_end_the_loop(stage: Stage) -> None:
    stage.manner("answer-ctrl-c")
    terminal = Terminal(stage, stage.command("library"))
    stage.ready()
    os.write(terminal.fd, b"\x03")
    wait_until((stage.directory / "heard").exists, "the agent has heard of it")
    time.sleep(6)  # past the time in which an agent that ends is taken for one that Ctrl-C has ended
    (stage.directory / "enough").touch()
    assert terminal.wait() == 0, terminal.printed
    assert stage.pending() is None


def test_ctrl_c_at_a_prompt_ends_the_agent_and_not_the_shell(stage: Stage) -> None:
    terminal = Terminal(stage, ["bash", "--norc", "--noprofile", "-i"])
    os.write(terminal.fd, f"{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n".encode())
    stage.ready()
    os.write(terminal.fd, b"\x03")
    wait_until(lambda: stage.pending() is not None and not keepers(stage.ws), "the save")
    os.write(terminal.fd, b'echo "$?" >"$STAGE/status"; : >"$STAGE/ready"\n')
    wait_until((stage.directory / "status").exists, "the shell lives on")
    assert (stage.directory / "status").read_text() == "130\n"
    assert stage.context()["task_id"] == "T-1"
    os.write(terminal.fd, b"exit\n")
    assert terminal.wait() == 0
    assert stage.pending() is None


@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "sketch", "kimi"])
def test_a_closed_terminal(stage: Stage, way: str) -> None:
    terminal = Terminal(stage, stage.command(way))
    stage.ready()
    before = fingerprint(stage.ws.path)
    os.close(terminal.fd)
    assert terminal.wait() == -signal.SIGHUP
    assert stage.context()["task_id"] == "T-42"
    wait_until(lambda: not stage.processes(), "everything has ended")
    assert stage.ws.recover().exit_status == 0
    assert before.diff(fingerprint(stage.ws.path)) == []


@pytest.mark.faults
@pytest.mark.parametrize("way", ["library", "claude"])
def test_tmux_kill_session(stage: Stage, way: str) -> None:
    tmux = shutil.which("tmux")
    if tmux is None:
        pytest.skip("tmux is not installed")
    server = [tmux, "-S", str(stage.directory / "tmux"), "-f", os.devnull]
    command = shlex.join(stage.command(way))
    subprocess.run([*server, "new-session", "-d", "-s", "loop", "-c", str(stage.ws.path), command], check=True)
    try:
        stage.ready()
        before = fingerprint(stage.ws.path)
        subprocess.run([*server, "kill-session", "-t", "loop"], check=True)
        wait_until(lambda: stage.pending() is not None, "the save")
    finally:
        subprocess.run([*server, "kill-server"], stderr=subprocess.DEVNULL)
    wait_until(lambda: not stage.processes(), "everything has ended")
    assert stage.context()["task_id"] == "T-42"
    assert stage.ws.recover().exit_status == 0
    assert before.diff(fingerprint(stage.ws.path)) == []


# --------------------------------------------------------------------------------------------------------------------
# The shell that it is sourced into
# --------------------------------------------------------------------------------------------------------------------

def run(stage: Stage, text: str, **more: object) -> subprocess.Popen[bytes]:
    """A script that has come to its end."""
    process = stage.start(stage.script(text), **more)
    process.wait(PATIENCE)
    return process


def output(stage: Stage, text: str) -> str:
    """What a script printed that ended well."""
    with open(stage.directory / "stdout", "wb") as file:
        assert run(stage, text, stdout=file).returncode == 0, stage.said()
    return (stage.directory / "stdout").read_text(encoding="utf-8")


def test_traps_that_were_there_run_once_and_in_order(stage: Stage) -> None:
    loop = stage.start(stage.script(f"""
        set -euo pipefail
        trap 'echo "exit $?" >>"$STAGE/traps"' EXIT
        trap 'echo "term" >>"$STAGE/traps"; exit 1' TERM
        {SOURCE}{SOURCE}
        gitstate_begin task_id=T-1
        gitstate_run claude
    """))
    stage.ready(loop)
    os.killpg(loop.pid, signal.SIGTERM)
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert (stage.directory / "traps").read_text() == "term\nexit 143\n"


def test_traps_that_are_set_later_run_too(stage: Stage) -> None:
    loop = stage.start(stage.script(f"""
        {SOURCE}
        gitstate_begin task_id=T-1
        trap 'echo term >>"$STAGE/traps"' TERM
        gitstate_stage coding
        trap 'echo "exit $?" >>"$STAGE/traps"; exit 0' EXIT
        gitstate_run claude
    """))
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert (stage.directory / "traps").read_text() == "term\nexit 143\n"
    assert stage.saves() == 1


def test_one_trap_for_a_signal_and_exit_runs_once(stage: Stage) -> None:
    loop = stage.start(stage.script(f"""
        {SOURCE}
        trap 'echo "ended" >>"$STAGE/traps"; exit 0' TERM EXIT
        gitstate_begin task_id=T-1
        gitstate_run claude
    """))
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM, stage.said()
    assert (stage.directory / "traps").read_text() == "ended\n"


def test_an_error_under_set_e_is_saved_with_its_status(stage: Stage) -> None:
    done = run(stage, f"""
        set -euo pipefail
        trap 'echo "exit $?" >>"$STAGE/traps"' EXIT
        {SOURCE}
        gitstate_begin task_id=T-1
        echo work >>work.txt
        (exit 9)
        echo never >>work.txt
    """)
    assert done.returncode == 9
    reason = stage.context()["reason"]
    assert isinstance(reason, dict) and reason["exit_code"] == 9
    assert (stage.directory / "traps").read_text() == "exit 9\n"


def test_an_agent_that_fails_does_not_end_a_loop_that_looks_at_it(stage: Stage) -> None:
    stage.manner("fail")
    said = output(stage, f"""
        set -euo pipefail
        {SOURCE}
        gitstate_begin task_id=T-1
        if gitstate_run claude; then echo well; else echo "failed $?"; fi
        printf done >"$STAGE/manner"
        gitstate_run claude
        gitstate_finish
    """)
    assert said == "failed 3\n"
    assert stage.pending() is None


def test_a_signal_that_was_ignored_stays_ignored(stage: Stage) -> None:
    nohup = ["nohup", *stage.script(f"{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n")]
    loop = stage.start(nohup)
    stage.ready(loop)
    os.killpg(loop.pid, signal.SIGHUP)
    time.sleep(1)
    assert loop.poll() is None
    os.killpg(loop.pid, signal.SIGTERM)
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    assert stage.context()["task_id"] == "T-1"


@pytest.mark.parametrize("options", ["", "set -euo pipefail", "set -m", "set -f; IFS=:", "set -o posix", "set -E -T"])
def test_no_option_changes_and_nothing_is_printed(stage: Stage, options: str) -> None:
    stage.manner("done")
    said = output(stage, f"""
        {options}
        state() {{ set +o; shopt; printf '%q\\n' "$IFS"; trap -p USR1 DEBUG RETURN ERR; }}
        trap 'echo usr' USR1
        {SOURCE}
        before=$(state)
        recover_agent_state || [ $? -eq 1 ]
        gitstate_begin task_id=T-1
        gitstate_stage coding
        gitstate_run claude
        cleanup_and_save
        gitstate_finish
        [ "$(state)" = "$before" ]
    """)
    assert said == ""


def test_job_control(stage: Stage) -> None:
    loop = stage.start(stage.script(f"set -m\n{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n"))
    stage.ready(loop)
    agent = int((stage.directory / "agent").read_text())
    assert os.getpgid(agent) == loop.pid, "the agent has been moved out of the terminal's foreground"
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    assert stage.saves() == 1


def test_the_agent_reads_the_loops_stdin(stage: Stage) -> None:
    assert output(stage, f"{SOURCE}echo hello | {{ gitstate_run cat; }}\n") == "hello\n"


@pytest.mark.parametrize("closed", [">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(stage: Stage, closed: str) -> None:
    loop = stage.start(stage.script(f"exec {closed}\n{SOURCE}gitstate_begin task_id=T-1\ngitstate_run claude\n"))
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    assert stage.context()["task_id"] == "T-1"


def test_a_loop_in_the_background_of_a_script(stage: Stage) -> None:
    inner = stage.directory / "inner.sh"
    inner.write_text(f"{SOURCE}work() {{ gitstate_begin task_id=T-1; gitstate_run claude; }}\nwork\n")
    outer = stage.start(stage.script(f'bash {shlex.quote(str(inner))} & echo $! >"$STAGE/loop"; wait $!'))
    stage.ready(outer)
    os.kill(int((stage.directory / "loop").read_text()), signal.SIGTERM)
    assert outer.wait(PATIENCE) == 128 + signal.SIGTERM
    assert stage.context()["task_id"] == "T-1"


def test_a_subshell_has_traps_of_its_own(stage: Stage) -> None:
    """The parent's EXIT trap is not its affair."""
    done = run(stage, f"""
        trap 'echo parent >>"$STAGE/traps"' EXIT
        {SOURCE}
        gitstate_begin task_id=T-0
        (
          gitstate_begin task_id=T-1
          echo work >>work.txt
          exit 5
        ) || exit 5
    """)
    assert done.returncode == 5
    assert stage.context()["task_id"] == "T-1"
    assert (stage.directory / "traps").read_text() == "parent\n"


def test_a_supervisor_that_is_killed_at_once_costs_nothing(stage: Stage) -> None:
    loop = stage.start(stage.command("library"))
    stage.ready(loop)
    for pid, words in stage.processes().items():
        if " run --owner-pid" in words or " keep " in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert loop.wait(PATIENCE) == 128 + signal.SIGKILL
    assert stage.context()["task_id"] == "T-42"
    assert stage.ws.recover().exit_status == 0
    assert b"not staged" in stage.ws.read("work.txt")


# --------------------------------------------------------------------------------------------------------------------
# The first sketch's names
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sketch", "library"])
def test_values_stay_data_all_the_way(stage: Stage, way: str) -> None:
    value = shlex.quote(HOSTILE)
    if way == "sketch":
        tell = f"""
            CURRENT_TASK_ID={value} ISSUE_NUMBER={value} BRANCH_NAME={value} PROGRESS_STAGE={value}
            MEMORY_REFS=({value} --second)
            cleanup_and_save
        """
    else:
        tell = f"""
            gitstate_begin task_id={value} issue_number={value} memory_refs={value}
            gitstate_stage {value}
        """
    run(stage, f"{SOURCE}echo work >>work.txt\n{tell}\nexit 1\n")
    said = output(stage, f"""
        set -euo pipefail
        {SOURCE}
        recover_agent_state
        printf '%s\\0' "$RECOVERED_TASK_ID" "$RECOVERED_ISSUE_NUMBER" "$RECOVERED_PROGRESS_STAGE" \\
          "$RECOVERED_BRANCH_NAME" "$RECOVERED_WORKSPACE_PATH" "$RECOVERED_MEMORY_REFS"
    """)
    assert said.split("\0")[:5] == [HOSTILE, HOSTILE, HOSTILE, "agent/work", str(stage.ws.path)]
    assert said.split("\0")[5].startswith("-n 'one'")
    assert not (stage.ws.path / "pwned").exists()


def test_the_variables_are_read_when_the_signal_comes(stage: Stage) -> None:
    elsewhere = stage.directory
    loop = stage.start(stage.script(f"""
        {SOURCE}
        trap cleanup_and_save TERM
        CURRENT_TASK_ID=first PROGRESS_STAGE=planning WORKSPACE_PATH=$PWD
        cd {shlex.quote(str(elsewhere))}
        CURRENT_TASK_ID=second PROGRESS_STAGE=coding
        echo work >>"$WORKSPACE_PATH/work.txt"
        : >ready
        while :; do sleep 0.05; done
    """))
    stage.ready(loop)
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM
    context = stage.context()
    assert (context["task_id"], context["progress_stage"]) == ("second", "coding")


WAIT = ': >"$STAGE/ready"; sleep 600 & wait $!'
FOREGROUND = ': >"$STAGE/ready"; sleep 1'


def test_a_bash_that_names_the_signal_is_believed(stage: Stage) -> None:
    """Bash 5.3 has this variable; here it stands in for what an older one can't tell from the status."""
    loop = stage.start(stage.script(f"{SOURCE}trap cleanup_and_save TERM INT EXIT\nBASH_TRAPSIG=2\n{FOREGROUND}\n"))
    stage.ready(loop)
    loop.send_signal(signal.SIGINT)
    assert loop.wait(PATIENCE) == -signal.SIGINT


@pytest.mark.parametrize(
    ("ending", "number", "status"),
    [
        (WAIT, signal.SIGTERM, -signal.SIGTERM),
        (WAIT, signal.SIGINT, -signal.SIGINT),
        (FOREGROUND, signal.SIGTERM, -signal.SIGTERM),
        ("exit 3", None, 3),
        ("exit 0", None, 0),
        ("set -e; false", None, 1),
    ],
    ids=["wait-term", "wait-int", "foreground-term", "exit-3", "exit-0", "set-e"],
)
@pytest.mark.parametrize(
    "trap",
    [
        "trap cleanup_and_save SIGTERM SIGINT EXIT",
        "ended() { cleanup_and_save; exit 0; }; trap ended TERM INT; trap cleanup_and_save EXIT",
        "ended() { cleanup_and_save \"$1\"; exit 0; }; trap 'ended SIGTERM' TERM; trap 'ended INT' INT; trap "
        "'cleanup_and_save EXIT' EXIT",
    ],
    ids=["whole", "function", "named"],
)
def test_cleanup_and_save_as_a_trap(
    stage: Stage, trap: str, ending: str, number: int | None, status: int
) -> None:  # fmt: skip
    """Without a single other call: the library learns only from this trap that something has ended."""
    begin = f"{SOURCE}CURRENT_TASK_ID=T-9\necho work >>work.txt\n"
    loop = stage.start(stage.script(f"{begin}{trap}\n{ending}\necho no >>after\n"))
    if number is not None:
        stage.ready(loop)
        time.sleep(0.2)
        loop.send_signal(number)
    assert loop.wait(PATIENCE) == status, stage.said()
    assert not (stage.ws.path / "after").exists()
    if status == 0:
        assert stage.pending() is None
    else:
        assert stage.context()["task_id"] == "T-9"
        assert stage.saves() == 1


def test_cleanup_and_save_in_the_middle_of_a_script_does_not_end_it(stage: Stage) -> None:
    said = output(stage, f"""
        set -euo pipefail
        {SOURCE}
        trap cleanup_and_save SIGTERM SIGINT EXIT
        CURRENT_TASK_ID=T-9
        echo work >>work.txt
        cleanup_and_save
        cleanup_and_save 'before the risky part'
        git log -1 --format=%s
    """)
    assert said.startswith("WIP(gitstate): T-9")
    assert stage.pending() is None, "a clean end brings the save back"


def test_recover_agent_state_tells_nothing_from_a_person_must_decide(stage: Stage) -> None:
    ask = f"""
        set -euo pipefail
        {SOURCE}
        status=0
        recover_agent_state || status=$?
        echo "$status ${{RECOVERED_VERDICT:--}} ${{RECOVERED_TASK_ID:--}}"
    """
    assert output(stage, ask) == "1 nothing -\n"
    stage.ws.append("a.txt")
    assert stage.ws.save().exit_status == 0
    stage.ws.git("checkout", "-q", "-b", "other", "HEAD~1")
    stage.ws.append("b.txt")
    stage.ws.commit("elsewhere")
    assert output(stage, ask) == "4 - -\n"
    assert "next: " in stage.said()
    stage.ws.git("checkout", "-q", "agent/work")
    assert output(stage, ask) == "0 restore T-1\n"
    assert output(stage, f"cd /\n{ask}") == "1 - -\n"


# --------------------------------------------------------------------------------------------------------------------
# The ready loops
# --------------------------------------------------------------------------------------------------------------------


def loop_with(stage: Stage, *options: str, agent: str = "claude") -> subprocess.Popen[bytes]:
    process = stage.start([str(HOOKS / f"{agent}-loop.sh"), *options])
    process.wait(PATIENCE)
    return process


def test_a_loop_does_every_task_and_removes_it(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text(f"\n  \n-first\n{HOSTILE.splitlines()[0]}\nlast, without a line's end")
    stage.tasks.chmod(0o640)
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 0, stage.said()
    assert stage.tasks.read_text() == "\n  \n"
    assert stage.tasks.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in stage.directory.glob("tasks*")) == ["tasks"]
    assert "no task is left" in stage.said()
    assert not (stage.ws.path / "pwned").exists()
    assert stage.pending() is None


def test_a_task_is_a_prompt_and_never_an_option(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text("--version $(touch pwned)\n")
    options = ["--prompt", "--do {} && report", "--", "--model", "opus"]
    assert loop_with(stage, "--tasks", str(stage.tasks), *options).returncode == 0, stage.said()
    first, prompt, *rest = stage.arguments()
    assert (first, prompt) == ("-p", " --do --version $(touch pwned) && report")
    assert rest[-2:] == ["--model", "opus"]
    assert not (stage.ws.path / "pwned").exists()


def test_a_task_of_a_failed_agent_stays_first(stage: Stage) -> None:
    stage.manner("fail")
    stage.tasks.write_text("T-1\nT-2\n")
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 3
    assert stage.tasks.read_text() == "T-1\nT-2\n"
    stage.tasks.write_text("T-0\nT-1\nT-2\n")
    stage.manner("done")
    assert loop_with(stage, "--tasks", str(stage.tasks), "--once").returncode == 0, stage.said()
    assert stage.tasks.read_text() == "T-0\nT-2\n", "what was begun comes before what is new"


def test_tasks_from_a_command(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text("one\ntwo\n")
    take = 'head -n 1 "$STAGE/tasks"; sed -i 1d "$STAGE/tasks"'
    assert loop_with(stage, "--next", take, agent="kimi").returncode == 0, stage.said()
    assert stage.tasks.read_text() == ""
    assert stage.arguments()[:2] == ["-p", "two"]
    assert loop_with(stage, "--next", "exit 9").returncode == 1
    assert "this command failed: exit 9" in stage.said()


def test_an_agent_that_ends_at_once_and_does_nothing_is_not_run_for_ever(stage: Stage) -> None:
    stage.manner("nothing")
    stage.tasks.write_text("T-1\nT-2\n")
    assert loop_with(stage, "--tasks", str(stage.tasks), agent="kimi").returncode == 75, stage.said()
    assert stage.tasks.read_text() == "T-1\nT-2\n"
    assert "kimi ended 3 times within 5 seconds and changed nothing" in stage.said()


def test_a_loop_stops_where_it_is_told_to(stage: Stage) -> None:
    stage.manner("done")
    stage.tasks.write_text("T-1\nT-2\nT-3\n")
    assert loop_with(stage, f"--tasks={stage.tasks}", "--max", "2").returncode == 0
    assert stage.tasks.read_text() == "T-3\n"
    (stage.directory / "stop").touch()
    assert loop_with(stage, "--tasks", str(stage.tasks), "--stop-file", str(stage.directory / "stop")).returncode == 0
    assert stage.tasks.read_text() == "T-3\n"


def test_a_loop_works_elsewhere_and_logs(stage: Stage, tmp_path: Path) -> None:
    agent = stage.directory / "bin" / "claude"
    agent.write_text("#!/bin/sh\necho said; echo wailed >&2; echo more >>work.txt\n")
    options = ["--workspace", str(stage.ws.path), "--tasks", "tasks", "--log-dir", "logs"]
    command = [str(HOOKS / "claude-loop.sh"), *options]
    stage.tasks.write_text("T-1\nT-2\n")
    done = subprocess.run(command, cwd=stage.directory, capture_output=True, encoding="utf-8", timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "said\nsaid\n"
    logs = sorted((stage.directory / "logs").iterdir())
    assert [sorted(log.read_text().split()) for log in logs] == [["said", "wailed"]] * 2
    assert stage.ws.read("work.txt") == b"more\nmore\n"


@pytest.mark.parametrize("agent", ["claude", "kimi"])
def test_a_loop_resumes_the_agents_own_session_where_it_is_still_there(
    stage: Stage, agent: str, hermetic: Path
) -> None:
    stage.tasks.write_text("T-1\n")
    command = [str(HOOKS / f"{agent}-loop.sh"), "--tasks", str(stage.tasks)]
    loop = stage.start(command)
    stage.ready(loop)
    if agent == "claude":
        session = stage.arguments()[stage.arguments().index("--session-id") + 1]
        transcript = hermetic / ".claude" / "projects" / "somewhere" / f"{session}.jsonl"
    else:
        session = "0a1b2c3d"
        assert stage.ws.gitstate("set", f"session_id={session}").exit_status == 0
        transcript = hermetic / ".kimi-code" / "sessions" / "somewhere" / session / "state.json"
    loop.terminate()
    assert loop.wait(PATIENCE) == -signal.SIGTERM

    stage.manner("look")
    stale = stage.start(command)
    stage.ready(stale)
    assert session not in stage.arguments(), "a session that is gone is not resumed"
    assert not any(argument in ("--resume", "-S") for argument in stage.arguments())
    if agent == "claude":
        session = stage.arguments()[stage.arguments().index("--session-id") + 1]
        transcript = transcript.with_name(f"{session}.jsonl")
    else:
        assert stage.ws.gitstate("set", f"session_id={session}").exit_status == 0
    transcript.parent.mkdir(parents=True)
    transcript.write_text("{}\n")
    stale.terminate()
    assert stale.wait(PATIENCE) == -signal.SIGTERM

    stage.manner("look")
    loop = stage.start(command)
    stage.ready(loop)
    *before, prompt = stage.arguments()[:4]
    assert before == (["-p", "--resume", session] if agent == "claude" else ["-S", session, "-p"])
    assert prompt.startswith("T-1\n\nYour last run in this workspace was interrupted by SIGTERM")


def test_a_loop_starts_no_agent_where_a_person_must_decide(stage: Stage) -> None:
    stage.tasks.write_text("T-1\n")
    stage.ws.append("a.txt")
    assert stage.ws.save().exit_status == 0
    stage.ws.git("checkout", "-q", "-b", "other", "HEAD~1")
    stage.ws.append("b.txt")
    stage.ws.commit("elsewhere")
    assert loop_with(stage, "--tasks", str(stage.tasks)).returncode == 4
    assert "a person must decide" in stage.said()
    assert not (stage.directory / "arguments").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "where do the tasks come from"),
        (["--tasks"], "--tasks wants a value"),
        (["--tasks", "nowhere"], "can't be read"),
        (["--next", "true", "--max", "many"], "--max wants a number"),
        (["--next", "true", "--tasks", "x"], "exclude each other"),
        (["--what", "1"], "--what is no option"),
    ],
)
def test_a_wrong_option_is_said_and_nothing_runs(stage: Stage, options: list[str], said: str) -> None:
    assert loop_with(stage, *options).returncode == 2
    assert said in stage.said() and "next: claude-loop.sh --help" in stage.said()


@pytest.mark.parametrize("name", ["claude", "kimi"])
def test_help_names_every_option(stage: Stage, name: str) -> None:
    done = subprocess.run([str(HOOKS / f"{name}-loop.sh"), "--help"], capture_output=True, encoding="utf-8", check=True)
    source = (HOOKS / "agent-loop.bash").read_text(encoding="utf-8")
    parsed = {word for line in source.splitlines() for word in line.split() if line.strip().startswith("--")}
    for option in {word.rstrip(")") for word in parsed if word.startswith("--") and word.endswith(")")} - {"--"}:
        if "*" not in option:
            assert option in done.stdout, option


# --------------------------------------------------------------------------------------------------------------------
# The text itself
# --------------------------------------------------------------------------------------------------------------------


def test_init_prints_the_library(stage: Stage) -> None:
    assert stage.ws.gitstate("init", "bash").stdout.decode() == LIBRARY.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_nothing_needs_a_bash_newer_than_3_2(path: Path) -> None:
    """An old bash is not to be had everywhere, so what came later is looked for in the text."""
    lines = path.read_text(encoding="utf-8").splitlines()
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    newer = {
        "associative arrays, namerefs": r"\b(?:declare|local|typeset)\s+-\w*[Ang]",
        "transformations of values": r"\$\{[\w\[\]@*]+@[A-Za-z]\}",
        "case of values": r"\$\{\w+(?:\[[^]]*\])?(?:\^|,)",
        "wait -n": r"\bwait\s+-",
        "mapfile": r"\b(?:mapfile|readarray|coproc)\b",
        "&>> and |&": r"&>>|\|&",
        "negative offsets": r"\$\{\w+\[-",
        "[[ -v": r"\[\[ -v\b",
        "printf of time or into a variable's element": r"printf\s+(?:-v\s+\w+\[|'%\()",
        "EPOCHSECONDS and the like": r"\$\{?(?:EPOCH|SRANDOM|BASH_ARGV0)",
        "fractions of read -t": r"\bread\b.*-t\s*0?\.",
        "an array that may be empty under set -u": r'(?<!\+)"\$\{(?!_gitstate_argv)\w+\[@\]\}"(?!\})',
        "local -": r"\blocal -(?:\s|$)",
        ";& and ;;&": r";;?&(?!&)\s*$",
    }
    for what, pattern in newer.items():
        assert not re.search(pattern, code, re.MULTILINE), what


@pytest.mark.parametrize("path", (*SCRIPTS, ROOT / "bin" / "gitstate"), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    beside = Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([program, "--severity=style", str(path)], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout
