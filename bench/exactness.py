"""How exactly do tools bring a workspace back? Every nasty state of the tests, saved, lost and restored by each tool.

    python bench/exactness.py                              # gitstate and git stash
    python bench/exactness.py --tools DIR/bin --write      # and those of bench/others.txt, installed in DIR
    python bench/exactness.py --tools DIR/bin --record OUT # the same; begun once more, it goes on where it stopped

The states are those of `tests/states`, the judge is the oracle of the tests: it reads files, modes, index, HEAD and the
files of an unfinished merge or rebase with its own eyes. README.md says how to read the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from exactness_tables import EXACT, LOSSES, REFUSED, STOPPED, WRONG, Outcome, report
from pages import put
from place import last_line, progress

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.states import STATES, State, make  # noqa: E402
from tests.support.environment import hermetic_environment  # noqa: E402
from tests.support.losing import make_writable  # noqa: E402
from tests.support.oracle import Fingerprint, fingerprint  # noqa: E402
from tests.support.permissions import drop_override  # noqa: E402
from tests.support.repositories import Templates  # noqa: E402
from tests.support.workspace import Workspace  # noqa: E402

_MOST_PROCESSES = 200
#: Git leaves this file behind where it merged something by itself; nothing reads it but `git diff AUTO_MERGE`.
_HARMLESS = r"operation AUTO_MERGE: .* appeared$"


@dataclass(frozen=True)
class Tool:
    """How a tool is used: what saves, what restores, and where in the worktree it keeps files of its own."""

    name: str
    save: Sequence[str]
    #: Gets what the save printed.
    restore: Callable[[str], Sequence[str]]
    #: The distribution that it came from; None for git and for this checkout.
    package: str | None = None
    #: Not compared, and spared by the wipe.
    own: tuple[bytes, ...] = ()
    #: Exit statuses of a save that saved all but what it names.
    incomplete: tuple[int, ...] = ()


def known_tools(gitstate: Sequence[str]) -> list[Tool]:
    """Each tool with the options that bring back most."""
    return [
        Tool(
            "gitstate",
            save=[*gitstate, "save", "--task-id", "T-1"],
            restore=lambda _: [*gitstate, "recover"],
            own=(b"active_state.json",),
            incomplete=(4,),
        ),
        Tool(
            "git stash",
            save=["git", "stash", "push", "-u"],
            restore=lambda _: ["git", "stash", "pop", "--index"],
        ),
        Tool(
            "gitundo",
            package="gitundo",
            save=["gitundo", "snap", "before"],
            # With --index all that was saved comes back staged.
            restore=lambda _: ["gitundo", "restore", "--hard", "--delete-extraneous"],
        ),
        Tool(
            "git-safepoint",
            package="git-safepoint",
            save=["git-safepoint", "snapshot"],
            restore=lambda said: ["git-safepoint", "restore", _safepoint(said), "--all", "--yes", "--no-backup"],
        ),
        Tool(
            "stepback",
            package="stepback",
            save=["stepback", "run", "--", "true"],
            restore=lambda _: ["stepback", "rewind", "--yes"],
        ),
        Tool(
            "unedit",
            package="unedit",
            save=["unedit", "save"],
            restore=lambda _: ["unedit", "back", "--yes", "--hard"],
            own=(b".unedit",),
        ),
    ]


def _safepoint(said: str) -> str:
    named = re.search(r"refs/snapshots/(\S+)", said)
    return named[1] if named else "none"


class Failed(Exception):
    """A tool ended with a status that says that it did not do its work."""


class TookTooLong(Exception):
    """A tool was still at work at the end of the time that one state may take; it was killed."""


@dataclass
class Patience:
    """How many seconds the commands of one attempt may take together; the work of the judge does not count."""

    left: float

    def run(self, ws: Workspace, argv: Sequence[str], ok: Iterable[int] = (0,)) -> str:
        """Run a tool in the workspace, with whatever the state leaks into it. Returns all that it printed."""
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or "gitstate" in argv}
        begun = time.monotonic()
        # Not a pipe: a process that the tool leaves behind would hold it open, and nobody would see the end.
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                argv,
                cwd=ws.cli_path or ws.path,
                env=env | ws.cli_env,
                umask=ws.cli_umask,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=drop_override if ws.without_override else None,
            )
            try:
                status = self._wait(process, begun)
            except BaseException as error:
                # Also where a person ends the benchmark: the tool has a session of its own.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise TookTooLong(shlex.join(argv[:3])) from None
                raise
            self.left -= time.monotonic() - begun
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        if status not in ok:
            raise Failed(f"status {status}: {said.strip()[-300:]}")
        return said

    def _wait(self, process: subprocess.Popen[bytes], begun: float) -> int:
        """The exit status. A hook that runs git that runs the hook fills the machine with processes: that is no end."""
        while True:
            left = begun + self.left - time.monotonic()
            try:
                return process.wait(max(0.0, min(left, 1.0)))
            except subprocess.TimeoutExpired:
                if left <= 1.0 or processes_of(process.pid) > _MOST_PROCESSES:
                    raise


def processes_of(session: int) -> int:
    """How many processes a session has."""
    listed = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], stdout=subprocess.PIPE, check=False).stdout
    return len(listed.split())


def wipe(ws: Workspace, tool: Tool, commit: str | None) -> None:
    """What agents do most: back to the commit that it began on, and everything else removed, ignored files too."""
    for lock in ws.stale_locks:
        lock.unlink(missing_ok=True)
    ws.git("reset", "--hard", "-q", *([commit] if commit else []), check=False)
    ws.git("clean", "-ffdxq", *(f"--exclude=/{os.fsdecode(path)}" for path in tool.own), check=False)


def look(ws: Workspace, tool: Tool) -> Fingerprint:
    return fingerprint(ws.path, ignore=(b"active_state.json", *tool.own))


def attempt(tool: Tool, ws: Workspace, what: tuple[str, str], patience: Patience) -> Outcome:
    """A workspace, saved, lost and restored. `what` is the name of its state, and how it is lost."""
    before = look(ws, tool)
    said = ""
    try:
        said = patience.run(ws, tool.save, ok=(0, *tool.incomplete))
        for lock in ws.held_locks:
            lock.unlink(missing_ok=True)
        if what[1] == "wiped":
            wipe(ws, tool, before.commit)
        said += patience.run(ws, tool.restore(said))
    except Failed as failure:
        return Outcome(tool.name, *what, REFUSED, (str(failure),))
    except TookTooLong as late:
        return Outcome(tool.name, *what, STOPPED, (str(late),))
    try:
        lines = [line for line in before.diff(look(ws, tool)) if not re.match(_HARMLESS, line)]
    except (AssertionError, OSError) as error:
        lines = [f"repository: the workspace can't be read any more: {error}"]
    return Outcome(tool.name, *what, verdict(lines, said), tuple(lines))


def verdict(lines: Sequence[str], said: str) -> str:
    """Exact; refused, where the tool named each path that it did not bring back, or its directory; else wrong."""
    if not lines:
        return EXACT
    paths = [re.match(r"(?:file|repository) (.*?): ", line) for line in lines]
    return REFUSED if all(found and is_named(found[1], said) for found in paths) else WRONG


def is_named(path: str, said: str) -> bool:
    """Whether a tool named a path as skipped, or one above it, which stands for all below."""
    above = [path[:end] for end in range(len(path)) if path[end] == "/"]
    return path in said or any(re.search(rf"skipped: {re.escape(name)}[/:]", said) for name in above)


#: What the processes of the pool share: they are forked, so that nothing of it has to be sent to them.
_SHARED: dict[str, tuple[Sequence[Tool], float, Templates, Path]] = {}


def one(job: tuple[int, str, str]) -> Outcome:
    """One attempt; a state that did not become what its name says, as on a busy machine, is made once more."""
    for _ in range(2):
        with contextlib.suppress(AssertionError):
            return _one(*job)
    return _one(*job)


def _one(number: int, state: str, loss: str) -> Outcome:
    tools, limit, templates, top = _SHARED["run"]
    place = Path(tempfile.mkdtemp(dir=top))
    os.environ.update(hermetic_environment(place / "home"))  # a state may change the user's configuration
    try:
        ws = make(STATES[state], templates, place)
        return attempt(tools[number], ws, (state, loss), Patience(limit))
    finally:
        make_writable(place)
        shutil.rmtree(place, ignore_errors=True)


def recorded(record: Path | None) -> list[Outcome]:
    """What a run that was broken off has found; a line that it had not finished is no outcome."""
    found = []
    for line in record.read_text().splitlines() if record and record.exists() else []:
        with contextlib.suppress(ValueError):
            outcome = json.loads(line)
            found.append(Outcome(**outcome | {"lines": tuple(outcome["lines"])}))
    return found


def measure(
    tools: Sequence[Tool], states: Sequence[State], jobs: int, limit: float, record: Path | None
) -> list[Outcome]:
    """Every tool with every state, lost in both ways, in the order of the states; the slow ones are begun last."""
    names = {tool.name: place for place, tool in enumerate(tools)}
    wanted = [(place, state.name, loss) for state in states for loss in LOSSES for place in range(len(tools))]
    found = {
        (names[outcome.tool], outcome.state, outcome.loss): outcome
        for outcome in recorded(record)
        if outcome.tool in names
    }
    todo = sorted((job for job in wanted if job not in found), key=lambda job: STATES[job[1]].slow)
    with tempfile.TemporaryDirectory(prefix="gitstate-exactness-") as name:
        top = Path(name).resolve()
        environment = hermetic_environment(top / "home")
        os.environ.clear()
        os.environ.update(environment)
        os.umask(0o022)
        templates = Templates(top / "templates", environment)
        for kind in sorted({state.template for state in states}):
            templates.copy(kind, top / f"first-{kind}")  # builds it, before the processes are forked
        _SHARED["run"] = tools, limit, templates, top
        with (
            multiprocessing.get_context("fork").Pool(jobs) as pool,
            (record or Path(os.devnull)).open("a") as kept,
        ):
            for number, outcome in enumerate(pool.imap_unordered(one, todo), 1):
                found[names[outcome.tool], outcome.state, outcome.loss] = outcome
                print(json.dumps(asdict(outcome)), file=kept, flush=True)
                if number % 100 == 0:
                    progress(f"{number} of {len(todo)}")
    return [found[job] for job in wanted]


def version(tool: Tool, place: Path | None) -> str | None:
    """The version of an installed tool; None where it is not installed."""
    if tool.name == "git stash":
        return last_line("git", "--version").removeprefix("git version ")
    if tool.package is None:
        return last_line(*tool.save[: -len(("save", "--task-id", "T-1"))], "--version").rsplit(" ", 1)[-1]
    if shutil.which(tool.save[0]) is None:
        return None
    ask = f"import importlib.metadata as m; print(m.version({tool.package!r}))"
    return last_line(str(place / "python"), "-c", ask) if place else "unknown"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, metavar="DIR", help="the bin directory where the other tools are")
    parser.add_argument("--only", metavar="NAMES", help="tools, with commas: gitstate,git stash")
    parser.add_argument("--states", default="*", metavar="PATTERNS", help="names of states, with commas and *")
    parser.add_argument("--gitstate", metavar="COMMAND", help="the gitstate to judge (this checkout)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="states at the same time (one a core)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for the commands of one attempt (120)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep each outcome there, and go on from it")
    parser.add_argument("--json", action="store_true", help="print every outcome, one a line, and no table")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/exactness.md")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    if args.tools:
        os.environ["PATH"] = f"{args.tools.resolve()}:{os.environ['PATH']}"
    os.environ["PYTHONPATH"] = str(ROOT)
    gitstate = shlex.split(args.gitstate) if args.gitstate else [sys.executable, "-m", "gitstate"]
    versions: dict[str, str] = {}
    tools: list[Tool] = []
    for tool in known_tools(gitstate):
        release = version(tool, args.tools)
        if release is None:
            progress(f"{tool.name}: not installed")
        elif not args.only or tool.name in args.only.split(","):
            tools.append(tool)
            versions[tool.name] = release
    forms = [form.strip() for form in args.states.split(",")]
    chosen = [state for state in STATES.values() if any(fnmatch.fnmatch(state.name, form) for form in forms)]
    impossible = {state.name: state.why_not() for state in chosen}
    possible = [state for state in chosen if impossible[state.name] is None]
    outcomes = measure(tools, possible, args.jobs, args.limit, args.record)
    if args.json:
        for outcome in outcomes:
            print(json.dumps(asdict(outcome)))
        return 0
    text = report(versions, outcomes, args.limit, [f"{name} ({why})" for name, why in impossible.items() if why])
    print(text, end="")
    if args.write:
        put(ROOT / "docs" / "exactness.md", "exactness", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
