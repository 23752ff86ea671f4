"""A loop on a stage: a workspace, a fake agent on the PATH, and shells that source the library."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.agents import PATIENCE, wait_until
from tests.support.environment import ROOT
from tests.support.workspace import Workspace

HOOKS = ROOT / "hooks"

#: Further shells for which all tests of the library run: paths, with a colon between them.
MORE_SHELLS = tuple(filter(None, os.environ.get("GITSTATE_TEST_SHELLS", "").split(":")))

LIBRARY = HOOKS / "gitstate.bash"

SOURCE = f". {shlex.quote(str(LIBRARY))}\n"

SCRIPTS = (LIBRARY, HOOKS / "claude-loop.sh", HOOKS / "kimi-loop.sh")

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
recover_agent_state && task=${RECOVERED_TASK_ID:-$task} || [ $? -eq 1 ]  # 1: nothing to recover
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


def words_of_shell(path: str) -> tuple[str, ...]:
    """How this shell is started, without the files of its user."""
    return (path, "-f") if os.path.basename(path).startswith("zsh") else (path,)


@dataclass
class Stage:
    """A workspace, an agent on the PATH, and whatever was started here."""

    ws: Workspace
    directory: Path
    shell: tuple[str, ...] = ("bash",)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def is_zsh(self) -> bool:
        return os.path.basename(self.shell[0]).startswith("zsh")

    @property
    def tasks(self) -> Path:
        return self.directory / "tasks"

    def manner(self, name: str) -> None:
        (self.directory / "manner").write_text(name)
        (self.directory / "ready").unlink(missing_ok=True)

    def script(self, text: str) -> list[str]:
        path = self.directory / "loop.sh"
        path.write_text(text)
        return [*self.shell, str(path)]

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
        """Every process that was started from the stage, re-parented ones included."""
        mark = f"STAGE={self.directory}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                    )
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


TERM: Mapping[str, object] = {"signal": "TERM"}


def run(stage: Stage, text: str, **more: object) -> subprocess.Popen[bytes]:
    """Run a script to its end."""
    process = stage.start(stage.script(text), **more)
    process.wait(PATIENCE)
    return process


def output(stage: Stage, text: str) -> str:
    """The output of a script that exits 0."""
    with open(stage.directory / "stdout", "wb") as file:
        assert run(stage, text, stdout=file).returncode == 0, stage.said()
    return (stage.directory / "stdout").read_text(encoding="utf-8")


WAIT = ': >"$STAGE/ready"; sleep 600 & wait $!'

FOREGROUND = ': >"$STAGE/ready"; while :; do sleep 0.1; done'


def is_waiting(shell: subprocess.Popen[bytes]) -> bool:
    """Whether a shell waits for the command that it has started last: then it knows which signal has ended that."""
    place = Path(f"/proc/{shell.pid}")
    with contextlib.suppress(OSError):
        children = (place / "task" / str(shell.pid) / "children").read_text().split()
        names = [Path(f"/proc/{child}/comm").read_text() for child in children]
        return "sleep\n" in names and (place / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"S"
    return False
