"""A workspace for tests: git, files, claims and gitstate in one worktree."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.permissions import drop_override
from tests.support.skips import NO_OTHER_BOOT

#: What starts gitstate as `bin/gitstate` does: without `site`, which takes a quarter of the time of a small save.
START = "import sys; sys.argv[0] = 'gitstate'; from gitstate.__main__ import main; main()"
GITSTATE = (sys.executable, "-S", "-P", "-c", START)

Text = str | bytes

Pathish = str | bytes | Path


def to_bytes(value: Pathish) -> bytes:
    return os.fsencode(value)


@dataclass(frozen=True)
class Run:
    """One run of the command line."""

    exit_status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def json(self) -> dict[str, Any]:
        try:
            document = json.loads(self.stdout)
        except ValueError:
            raise AssertionError(f"no JSON on stdout, exit {self.exit_status}: {self}") from None
        assert isinstance(document, dict)
        return document

    def __str__(self) -> str:
        return f"exit {self.exit_status}\nstdout: {self.text}\nstderr: {self.stderr}"


def git_environment() -> dict[str, str]:
    """For git as the tests use it: no editor ever opens, nothing asks."""
    quiet = {"GIT_EDITOR": ":", "GIT_SEQUENCE_EDITOR": ":", "GIT_TERMINAL_PROMPT": "0"}
    return dict(os.environ) | quiet


def run_git(
    where: Path, *args: Pathish, check: bool = True, env: Mapping[str, str] | None = None, stdin: bytes = b""
) -> bytes:
    """Run git without hooks and file system monitors, so that only gitstate could be the one who started them."""
    command = [b"git", b"-C", bytes(where), b"-c", b"core.fsmonitor=false", b"-c", b"core.hooksPath=/dev/null"]
    done = subprocess.run(
        [*command, *map(to_bytes, args)],
        input=stdin,
        capture_output=True,
        env=git_environment() | dict(env or {}),
        timeout=300,
    )
    if check and done.returncode:
        raise AssertionError(f"{args!r} exited {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout


def run_gitstate(*args: str, cwd: Path, env: Mapping[str, str] | None = None, given: bytes = b"") -> Run:
    """Run the command line in a directory, as a user does; `given` is its standard input."""
    done = subprocess.run(
        [*GITSTATE, *args],
        input=given,
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=600,
    )
    return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


class Workspace:
    """A worktree in which an agent works, with short names for what builders do to it."""

    def __init__(self, path: Path, outside: Path, *, main: Path | None = None) -> None:
        self.path = path
        self.outside = outside  # a directory for helpers that are no part of the repository
        self.main = main  # the main repository, where this is a linked worktree
        self.cli_path: Path | None = None  # where gitstate is pointed at, if not at ``path``
        self.cli_env: dict[str, str] = {}  # what leaked into gitstate's environment
        self.cli_umask = 0o022
        self.cli_prefix: tuple[str, ...] = ()  # what starts it
        self.without_override = False  # run gitstate without root's right to read everything
        self.canaries: list[Path] = []  # files that must never come into being
        self.bystanders: list[Path] = []  # repositories that must not change
        self.held_locks: list[Path] = []  # released before anything else happens
        self.stale_locks: list[Path] = []  # nobody's; in the way of whoever wipes the workspace
        self._asked: tuple[object, Path, Path] | None = None  # which `.git`, and what git said of it

    # -- git

    def git(
        self, *args: Pathish, check: bool = True, env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> bytes:
        return run_git(self.path, *args, check=check, env=env, stdin=stdin)

    def out(self, *args: Pathish) -> str:
        return self.git(*args).decode("utf-8").strip()

    def config(self, name: str, value: str | Path) -> None:
        self.git("config", name, str(value))

    def commit(self, message: str = "more") -> str:
        """Commit everything that is there, hooks aside."""
        self.git("add", "-A")
        self.git("commit", "-q", "--no-verify", "--no-gpg-sign", "-m", message)
        return self.out("rev-parse", "HEAD")

    def fails(self, *args: Pathish, env: Mapping[str, str] | None = None) -> None:
        """Run a git command that is meant to stop half-way."""
        try:
            self.git(*args, env=env)
        except AssertionError:
            return
        raise AssertionError(f"{args!r} was meant to fail")

    @property
    def git_dir(self) -> Path:
        return self._directories()[0]

    @property
    def common_dir(self) -> Path:
        return self._directories()[1]

    def _directories(self) -> tuple[Path, Path]:
        """The git directory and the common one; git is asked again only after `.git` was replaced."""
        try:
            info = os.lstat(self.at(".git"))
        except FileNotFoundError:
            info = None
        # A directory's times change with every lock.
        known = info and (info.st_ino, info.st_mode, stat.S_ISDIR(info.st_mode) or info.st_ctime_ns)
        if known is None or self._asked is None or self._asked[0] != known:
            questions = ("--git-dir", "--git-common-dir")
            answers = self.git("rev-parse", "--path-format=absolute", *questions)[:-1].split(b"\n")
            if len(answers) != len(questions):  # a path holds a newline
                answers = [self.git("rev-parse", "--path-format=absolute", question)[:-1] for question in questions]
            git_dir, common_dir = (Path(os.fsdecode(answer)) for answer in answers)
            self._asked = known, git_dir, common_dir
        return self._asked[1:]

    def refs(self, *prefixes: str) -> dict[str, str]:
        listed = os.fsdecode(self.git("for-each-ref", "--format=%(refname) %(objectname)", *prefixes))
        return {line.rsplit(" ", 1)[0]: line.rsplit(" ", 1)[1] for line in listed.splitlines()}

    def status(self) -> set[bytes]:
        """``git status --porcelain``, one record each, without writing the index."""
        options = ("--porcelain", "-z", "--untracked-files=all", "--ignore-submodules=none")
        records = self.git("status", *options, env={"GIT_OPTIONAL_LOCKS": "0"}).split(b"\0")[:-1]
        found: set[bytes] = set()
        while records:
            record = records.pop(0)
            found.add(record + b" <- " + records.pop(0) if b"R" in record[:2] or b"C" in record[:2] else record)
        return found

    # -- files

    def at(self, path: Pathish) -> bytes:
        return os.path.join(bytes(self.path), to_bytes(path))

    def write(self, path: Pathish, data: Text = "text\n", mode: int | None = None) -> None:
        where = self.at(path)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        with open(where, "wb") as file:
            file.write(to_bytes(data))
        if mode is not None:
            os.chmod(where, mode)

    def read(self, path: Pathish) -> bytes:
        with open(self.at(path), "rb") as file:
            return file.read()

    def append(self, path: Pathish, data: Text = "one more line\n") -> None:
        with open(self.at(path), "ab") as file:
            file.write(to_bytes(data))

    def mkdir(self, path: Pathish, mode: int | None = None) -> None:
        os.makedirs(self.at(path), exist_ok=True)
        if mode is not None:
            os.chmod(self.at(path), mode)

    def symlink(self, target: Text, path: Pathish) -> None:
        where = self.at(path)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        if os.path.lexists(where):
            os.unlink(where)
        os.symlink(to_bytes(target), where)

    def remove(self, path: Pathish) -> None:
        where = self.at(path)
        if os.path.isdir(where) and not os.path.islink(where):
            shutil.rmtree(where)
        else:
            os.unlink(where)

    def chmod(self, path: Pathish, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def add(self, *paths: Pathish) -> None:
        self.git("--literal-pathspecs", "add", "-f", "--", *paths)

    def script(self, name: str, body: str) -> Path:
        """An executable shell script outside of the repository."""
        file = self.outside / name
        file.write_text("#!/bin/sh\n" + body)
        file.chmod(0o755)
        return file

    def canary(self, name: str, status: int = 1) -> Path:
        """A program that nobody may run; whoever does leaves a trace."""
        trace = self.outside / f"canary-{name}"
        self.canaries.append(trace)
        return self.script(f"{name}.sh", f'echo "$0 $*" >>{shlex.quote(str(trace))}\nexit {status}\n')

    # -- claims

    def expect(self, *records: Text) -> None:
        """These records are among those of ``git status --porcelain``."""
        found = self.status()
        missing = {to_bytes(record) for record in records} - found
        assert not missing, f"status lacks {sorted(missing)}; it says {sorted(found)}"

    def expect_exactly(self, *records: Text) -> None:
        assert self.status() == {to_bytes(record) for record in records}, sorted(self.status())

    def expect_operation(self, *names: str) -> None:
        for name in names:
            assert (self.git_dir / name).exists(), f"no {name} in {sorted(os.listdir(self.git_dir))}"

    def expect_flags(self, letter: str, *paths: Pathish) -> None:
        """``git ls-files -v`` marks these paths with this letter."""
        found = set(self.git("ls-files", "-v", "-z").split(b"\0"))
        for path in paths:
            assert to_bytes(letter) + b" " + to_bytes(path) in found, sorted(found)

    # -- gitstate

    def gitstate(self, *args: str, path: Path | None = None) -> Run:
        """Run the command line on this workspace, from another directory, with whatever has leaked."""
        where = path or self.cli_path or self.path
        done = subprocess.run(
            [*self.cli_prefix, *GITSTATE, "-C", os.fspath(where), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.outside,
            env=dict(os.environ) | self.cli_env,
            umask=self.cli_umask,
            timeout=180,
            preexec_fn=drop_override if self.without_override else None,
        )
        return Run(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))

    @contextlib.contextmanager
    def in_another_boot(self) -> Iterator[None]:
        """What `gitstate` runs sees another boot's id. Needs root, and a mount namespace for each run."""
        if os.geteuid():
            pytest.skip(NO_OTHER_BOOT)
        other = self.outside / "boot_id"
        other.write_text("00000000-1111-2222-3333-444444444444\n")
        script = 'mount --bind "$0" /proc/sys/kernel/random/boot_id || exit 97; exec "$@"'
        self.cli_prefix = ("unshare", "-m", "sh", "-c", script, os.fspath(other))
        try:
            yield
        finally:
            self.cli_prefix = ()

    def save(self, *args: str, task_id: str = "T-1") -> Run:
        context = ("--task-id", task_id, "--issue-number", "7", "--progress-stage", "coding")
        return self.gitstate("save", *context, *args, "--json")

    def recover(self, *args: str, path: Path | None = None) -> Run:
        return self.gitstate("recover", *args, "--json", path=path)
