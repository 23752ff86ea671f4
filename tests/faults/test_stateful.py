"""Random lives of an agent, with kills at random places: no saved work is ever lost.

Hypothesis makes up sequences of an agent's actions, saves, checkpoints, kills, wipes and recoveries. What must hold:

- after a successful save every file on the disk is in it;
- recover leaves whatever was on the disk on the disk, or in a ref;
- a save of a workspace in which none was waiting, then nothing, a kill or a wipe, then recover: all is exactly as it
  was, HEAD, branch, index, files, and the unfinished operation;
- a killed save touches no file, and every object that was ever saved can still be read at the end.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.support.oracle import Fingerprint, fingerprint, walk
from tests.support.workspace import Run, Workspace

from .checks import check_integrity
from .sweeps import Say

PATHS = st.sampled_from(["a.txt", "b.txt", "d/c.txt", "d/e/f.txt", "new.txt", "d/new.txt", "\u00fc \n.txt"])
WORDS = st.text(st.sampled_from("xyz\n"), max_size=12)
OPERATIONS = [
    *(("merge", "-q", "theirs"), ("rebase", "-q", "theirs"), ("cherry-pick", "theirs")),
    *(("merge", "--abort"), ("rebase", "--abort"), ("cherry-pick", "--abort")),
]
COMMANDS = st.sampled_from(["save", "save", "checkpoint"])

#: Dies of SIGKILL at the given step: each call that changes the disk is one, and each child that is started.
DIE_AT = """\
import os, signal, subprocess, sys
left = int(sys.argv.pop(1))
def counted(function):
    def wrapper(*args, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return wrapper
for name in ("rename", "link", "unlink", "fsync", "mkdir", "rmdir", "write"):
    setattr(os, name, counted(getattr(os, name)))
class Popen(subprocess.Popen):
    __init__ = counted(subprocess.Popen.__init__)
subprocess.Popen = Popen
from gitstate.__main__ import main
main()
"""


class Agent(RuleBasedStateMachine):
    """An agent at work, and what must never be lost."""

    top: ClassVar[Path]
    numbers: ClassVar[Iterator[int]]
    counts: ClassVar[dict[str, int]]

    @initialize()
    def begin(self) -> None:
        where = self.top / str(next(self.numbers))
        (where / "repo").mkdir(parents=True)
        (where / "outside").mkdir()
        self.ws = ws = Workspace(where / "repo", where / "outside")
        ws.git("init", "-q", "-b", "main", ".")
        for path in ("a.txt", "b.txt", "d/c.txt"):
            ws.write(path, f"{path}\n")
        ws.commit("base")
        ws.git("checkout", "-q", "-b", "theirs")
        ws.write("a.txt", "theirs\n")
        ws.commit("theirs")
        ws.git("checkout", "-q", "-b", "work", "main")
        self.remembered: set[str] = set()  # blobs that a successful save held
        self.exact: Fingerprint | None = None  # what recover has to bring back, as long as only a wipe came between

    # -- what the agent does

    @rule(path=PATHS, text=WORDS)
    def edit(self, path: str, text: str) -> None:
        self._acts()
        if os.path.isdir(self.ws.at(path)):
            return
        try:
            self.ws.write(path, text)
        except (FileExistsError, NotADirectoryError):
            return

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        self._acts()
        if os.path.lexists(self.ws.at(path)):
            self.ws.remove(path)

    @rule(path=PATHS, mode=st.sampled_from([0o755, 0o644, 0o600]))
    def chmod(self, path: str, mode: int) -> None:
        self._acts()
        if os.path.isfile(self.ws.at(path)):
            self.ws.chmod(path, mode)

    @rule(path=PATHS, how=st.sampled_from([("add", "-f"), ("add", "-N"), ("rm", "-q", "--cached"), ("reset", "-q")]))
    def stage(self, path: str, how: tuple[str, ...]) -> None:
        self._git(*how, "--", path)

    @rule(everything=st.booleans())
    def commit(self, everything: bool) -> None:
        self._git("commit", "-q", "--allow-empty", "-m", "the agent's", *(["-a"] if everything else []))

    @rule(words=st.sampled_from(OPERATIONS))
    def integrate(self, words: tuple[str, ...]) -> None:
        self._git(*words)

    @rule(words=st.sampled_from([("stash", "push", "-q", "-u"), ("stash", "push", "-q"), ("stash", "pop", "-q")]))
    def stash(self, words: tuple[str, ...]) -> None:
        self._git(*words)

    @rule(name=st.sampled_from(["work", "other", "main"]), new=st.booleans())
    def checkout(self, name: str, new: bool) -> None:
        self._git("checkout", "-q", *(["-B", name] if new else [name]))

    @rule()
    def wipe(self) -> None:
        """Somebody throws away what is not committed. What was saved has to survive it."""
        self.ws.git("reset", "-q", "--hard", check=False)
        self.ws.git("clean", "-ffdxq", check=False)

    # -- what gitstate does

    @rule(command=COMMANDS)
    def save(self, command: str) -> None:
        fresh = not self._waits()
        before = fingerprint(self.ws.path)
        run = self.ws.gitstate(command, "--task-id", "T-1", "--json")
        assert run.exit_status == 0, str(run)
        assert _files(before) == _files(fingerprint(self.ws.path)), "a save changed a file"
        if command == "save":
            self._remember(run)
            if run.json["result"] == "saved":
                self.exact = before if fresh else None

    @rule(command=COMMANDS, step=st.integers(1, 70))
    def killed(self, command: str, step: int) -> None:
        before = fingerprint(self.ws.path)
        words = ["-C", os.fspath(self.ws.path), command, "--task-id", "T-1", "--json"]
        done = subprocess.run(
            [sys.executable, "-P", "-c", DIE_AT, str(step), *words],
            cwd=self.ws.outside,
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode in (0, -signal.SIGKILL), done
        self._count("kills" if done.returncode else "saves")
        assert _files(before) == _files(fingerprint(self.ws.path)), "a killed save changed a file"
        if self._waits():
            self.exact = None

    @rule()
    def recover(self) -> None:
        before = self._blobs()
        run = self.ws.recover()
        assert run.exit_status in (0, 4), str(run)
        after = self._blobs()
        lost = (before - after) - self._reachable(before - after)
        assert not lost, f"recover lost what was on the disk: {run}"
        if self.exact is not None:
            assert run.exit_status == 0, str(run)
            differences = self.exact.diff(fingerprint(self.ws.path))
            assert differences == [], f"{differences} after {run}"
            self._count("exact recoveries")
        self.exact = None

    @rule(step=st.sampled_from([0, 0, 12, 25, 40, 60]), wiped=st.booleans())
    def crash(self, step: int, wiped: bool) -> None:
        """The whole cycle: a save (perhaps killed and repeated), a wipe, recovery."""
        if step:
            self.killed("save", step)
        self.save("save")
        if wiped:
            self.wipe()
        self.recover()

    # -- the model

    def _acts(self) -> None:
        self.exact = None

    def _git(self, *words: str) -> None:
        self._acts()
        self.ws.git(*words, check=False)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def _waits(self) -> bool:
        return bool(self.ws.refs("refs/gitstate/pending"))

    def _blobs(self) -> set[str]:
        """The files of the worktree, as the blobs that they would be."""
        found = set()
        for path, info, _ in walk(bytes(self.ws.path)):
            if stat.S_ISREG(info.st_mode) and path != b"active_state.json":
                data = self.ws.read(path)
                found.add(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
        return found

    def _remember(self, run: Run) -> None:
        blobs = self._blobs()
        missing = blobs - self._reachable(blobs)
        assert not missing, f"a file is in no save: {run}"
        self.remembered |= blobs
        self._count("saves")

    def _reachable(self, blobs: set[str]) -> set[str]:
        if not blobs:
            return set()
        listed = self.ws.git("rev-list", "--objects", "--no-object-names", "--all").decode().split()
        return blobs & set(listed)

    def teardown(self) -> None:
        if hasattr(self, "ws"):
            check_integrity(self.ws)
            missing = self.remembered - self._reachable(self.remembered)
            assert not missing, f"what was saved once is in no ref any more: {missing}"
            self._count("examples")


def _files(print_: Fingerprint) -> object:
    return print_.files


def play(tmp_path: Path, say: Say, *, examples: int, steps: int) -> None:
    class Played(Agent):
        top, numbers, counts = tmp_path, itertools.count(), {}

    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(Played, settings=chosen)
    say(", ".join(f"{count} {what}" for what, count in sorted(Played.counts.items())))
    assert Played.counts["examples"] >= examples
    assert Played.counts["exact recoveries"] >= examples // 4, "the sequences hardly ever come to a recovery"


@pytest.mark.faults
def test_sampled_lives_of_an_agent_lose_nothing(tmp_path: Path, say: Say) -> None:
    play(tmp_path, say, examples=8, steps=14)


@pytest.mark.slow
@pytest.mark.faults
def test_many_lives_of_an_agent_lose_nothing(tmp_path: Path, say: Say) -> None:
    play(tmp_path, say, examples=150, steps=25)
