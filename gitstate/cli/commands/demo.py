"""`demo`: a process that works in a throw-away repository, a real SIGTERM, the save, the wipe, the recovery.

A shell runs every line that begins with `$`, and what the line prints follows it. Everything happens in one temporary
directory with a home directory of its own: no repository and no configuration of the user is read or written.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...system.child import isolated_python
from ..command import Call, command, echo

_GITCONFIG = """\
[user]
	name = An Agent
	email = agent@example.com
[init]
	defaultBranch = main
[advice]
	statusHints = false
"""

#: The loop waits for a child in the background, because a shell runs a trap only between two commands. It dies of the
#: signal that it was sent, so that its caller sees the status 143.
_LOOP = """\
finish() {
  kill "$agent"
  gitstate save --signal TERM
  trap - TERM
  kill -TERM $$
}
trap finish TERM
while :; do
  sh ../agent.sh & agent=$!
  wait "$agent"
done
"""

#: An agent that does some work, prints that it is in the middle of it, and would go on for a long time.
_WORK = """\
gitstate set task_id=T-42 issue_number=7 progress_stage="adding VAT"
echo 'vat = 0.19' >>price.py
git add price.py
echo 'gross = net * (1 + vat)' >>price.py
echo 'round to cents?' >notes.txt
echo working
exec sleep 600
"""
_MERGE = """\
gitstate set progress_stage="merging main"
git add --all
git commit -qm 'Gross prices'
git merge main
echo 'which price?' >>notes.txt
echo working
exec sleep 600
"""


class _Failed(Exception):
    """A step of the demo failed, or its result was not the expected one."""


@command("demo", json=False)
def demo(_: Call) -> int:
    """It takes a few seconds, and touches nothing of yours. The exit status is 0 if every comparison held."""
    return run(echo)


def run(say: Callable[[str], None]) -> int:
    """Print the demo line by line through `say`. Returns 0 if every comparison held, else 1."""
    with tempfile.TemporaryDirectory(prefix="gitstate-demo-") as top:
        story = _Story(Path(top), say)
        try:
            story.tell()
        except _Failed as failure:
            say(f"The demo failed: {failure}")
            return 1
        finally:
            story.end()
    return 0


class _Story:
    def __init__(self, top: Path, say: Callable[[str], None]) -> None:
        self.say = say
        self.shell = shutil.which("bash") or "sh"
        self.top = top
        self.shop = top / "shop"
        self.environment = _environment(top)
        self.loop: subprocess.Popen[str] | None = None

    def tell(self) -> None:
        self._build()
        self.say(f"A throw-away repository, {self.shop}, on branch agent/42. An agent works in it, in a loop:")
        self._start(_WORK)
        self._show("git status --short --branch")
        before = self._fingerprint()
        self.say("")
        self.say("Somebody kills the loop. Its trap runs `gitstate save --signal TERM`, then it dies of that signal:")
        self._kill()
        self._show("git log --oneline -2")
        self._show("""git notes --ref=gitstate show | grep -E '"(task_id|signal)"'""")
        self._show("git status --short --branch")
        self.say("")
        self.say("Worse: somebody throws all of it away. Then the next run begins with `gitstate recover`:")
        self._wipe("HEAD~2")
        self._recover()
        self._show("git status --short --branch")
        self._compare(before)
        self._show("""grep -E '"(task_id|branch_name|progress_stage|status)"' active_state.json""")
        self.say("")
        self.say("The same again, in the middle of a merge with a conflict. Here a save leaves the branch where it is:")
        self._start(_MERGE)
        self._show("git status --short && git rev-parse --short MERGE_HEAD")
        before = self._fingerprint()
        self._kill()
        self._wipe("HEAD")
        self._recover()
        self._show("git status --short && git rev-parse --short MERGE_HEAD")
        self._compare(before)

    def end(self) -> None:
        """Kill the loop if it still runs."""
        if self.loop is not None and self.loop.poll() is None:
            os.killpg(self.loop.pid, signal.SIGKILL)
            self.loop.wait()
        if self.loop is not None and self.loop.stdout is not None:
            self.loop.stdout.close()

    def _build(self) -> None:
        self.shop.mkdir()
        (self.top / "bin").mkdir()
        (self.top / ".gitconfig").write_text(_GITCONFIG)
        (self.top / "loop.sh").write_text(_LOOP)
        command = self.top / "bin" / "gitstate"
        command.write_text(f'#!/bin/sh\nexec {shlex.join(isolated_python())} "$@"\n')
        command.chmod(0o755)
        (self.shop / "price.py").write_text("net = 100\n")
        self._run("git init -q && git add . && git commit -qm 'The shop' && git checkout -qb agent/42")
        self._run("git checkout -q main && echo 'net = 120' >price.py && git commit -qam 'New price'")
        self._run("git checkout -q agent/42")

    def _run(self, command: str) -> str:
        """Run one command line in a shell, and return what it prints on both streams. Raises _Failed if it fails."""
        done = subprocess.run(
            [self.shell, "-c", command],
            cwd=self.shop,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=60,
        )
        if done.returncode:
            raise _Failed(f"`{command}` exited {done.returncode}: {done.stdout.strip()}")
        return done.stdout

    def _show(self, command: str) -> None:
        self.say(f"$ {command}")
        for line in self._run(command).splitlines():
            self.say(line)

    def _start(self, agent: str) -> None:
        """Start the loop and wait until its agent is in the middle of its work."""
        (self.top / "agent.sh").write_text(agent)
        self.end()
        self.say(f"$ {Path(self.shell).name} ../loop.sh &")
        self.loop = subprocess.Popen(
            [self.shell, "../loop.sh"],
            cwd=self.shop,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_listen_to_sigterm,
        )
        assert self.loop.stdout is not None
        heard = []
        for line in self.loop.stdout:
            if line == "working\n":
                return
            heard.append(line)
        raise _Failed(f"the loop ended early: {''.join(heard).strip()}")

    def _kill(self) -> None:
        assert self.loop is not None
        self._show(f"kill -TERM {self.loop.pid}")
        said, _ = self.loop.communicate(timeout=60)
        for line in said.splitlines():
            self.say(line)
        if self.loop.returncode != -signal.SIGTERM:
            raise _Failed(f"the loop ended with {self.loop.returncode}, not of SIGTERM")
        self.say(f"[the loop has ended; exit status {128 + signal.SIGTERM}]")

    def _wipe(self, commit: str) -> None:
        self._show(f"git reset --hard {commit} && git clean -fdxq && git status --short")

    def _recover(self) -> None:
        self._show("gitstate recover")

    def _compare(self, before: dict[str, object]) -> None:
        """Compare everything with what was there `before`. Raises _Failed if anything differs."""
        after = self._fingerprint()
        different = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        if different:
            raise _Failed(f"not as it was before the kill: {', '.join(different)}")
        files = sum(isinstance(value, tuple) for value in before.values())
        self.say(f"[compared: HEAD, branch, index and all {files} files are as before the kill, byte for byte]")

    def _fingerprint(self) -> dict[str, object]:
        """HEAD, branch, each index entry with its flags, the unfinished merge, type, mode and bytes of each file."""
        questions = (
            "cat .git/HEAD",
            "git rev-parse HEAD",
            "git ls-files -z --stage -v -t",
            "git status --porcelain=v2 -z --untracked-files=all",
            "cat .git/MERGE_HEAD .git/MERGE_MSG .git/MERGE_MODE 2>&1 || true",
        )
        found: dict[str, object] = {question: self._run(question) for question in questions}
        for directory, names, files in os.walk(self.shop):
            if ".git" in names:
                names.remove(".git")
            for name in (*names, *files):
                path = Path(directory, name)
                if name != "active_state.json":
                    mode = path.lstat().st_mode
                    found[str(path.relative_to(self.shop))] = (mode, path.read_bytes() if stat.S_ISREG(mode) else b"")
        return found


def _environment(top: Path) -> dict[str, str]:
    """This environment with a home of its own, and without the variables that change what git or gitstate do."""
    foreign = ("GIT_", "GITSTATE_", "XDG_", "LC_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign) and name != "BASH_ENV"}
    path = f"{top / 'bin'}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return kept | {"HOME": str(top), "PATH": path, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C", "TERM": "dumb"}


def _listen_to_sigterm() -> None:
    """Let SIGTERM through: a shell cannot trap a signal that was ignored or blocked when the shell started."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
