"""The tasks of a loop: the lines of a file that several loops may share, or what a command prints.

In a file each line is one task; empty lines and lines that begin with `#` are none. A line, or the output of the
command, may begin with values: `task_id=T-1 issue_number=7 memory_refs=notes.md Fix the rounding`. The command may also
print a JSON object with `task_id`, `issue_number`, `progress_stage`, `memory_refs` and `prompt`. Everything is data.

A line stays in the file until its task is done. While a loop works on it a claim in the user's state directory says
so, and no other loop takes it. The claim lasts until the task is done, however often the loop is killed: its workspace
holds the work. All of it happens under a lock on the file itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from ..errors import BadJson, GitstateError, UsageError
from ..system import files
from ..system.jsonio import dumps, loads
from ..system.process import boot_id, hostname, is_alive, process, process_start

_MOST_FILE = 64 << 20
_KEYS = ("task_id", "issue_number", "progress_stage", "memory_refs")
_VALUE = re.compile(rf"\s*({'|'.join(_KEYS)})=")


class Task(NamedTuple):
    """One task."""

    text: str
    """What the prompt says of it."""
    values: dict[str, str]
    """Values of the context, `task_id` always among them."""

    @property
    def task_id(self) -> str:
        return self.values["task_id"]


def parse_task(text: str) -> Task | None:
    """The task of a line, or of what a command printed; None where there is none."""
    text = text.rstrip("\r\n")
    if not text.strip():
        return None
    if text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            if isinstance(value, dict):
                return _of_json(value, text)
    values: dict[str, str] = {}
    rest = text
    while (found := _VALUE.match(rest)) is not None:
        word, rest = _first_word(rest[found.end() :])
        values[found[1]] = word
    rest = rest.strip() if values else text
    return _task(rest, values)


def _of_json(value: dict[str, Any], text: str) -> Task:
    values = {}
    for name in _KEYS:
        item = value.get(name)
        if isinstance(item, list):
            item = "\n".join(str(one) for one in item) + "\n"
        if isinstance(item, str | int) and not isinstance(item, bool) and str(item):
            values[name] = str(item)
    prompt = value.get("prompt") or value.get("text")
    if not isinstance(prompt, str) and "task_id" not in values:
        raise UsageError(f"the task has neither task_id nor prompt: {text[:80]}")
    return _task(prompt if isinstance(prompt, str) else "", values)


def _task(text: str, values: dict[str, str]) -> Task:
    task_id = values.get("task_id") or text or " ".join(f"{name}={value}" for name, value in values.items())
    return Task(text or task_id, {**values, "task_id": task_id})


def _first_word(text: str) -> tuple[str, str]:
    """The first word, in quotes or without, and the rest."""
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        if end > 0:
            return text[1:end], text[end + 1 :]
    word, _, rest = text.partition(" ")
    return word, rest


class TaskSource(Protocol):
    """Where tasks come from."""

    def take(self) -> Task | None:
        """The next task, claimed for this loop; None where none is left. Raises GitstateError."""

    def claim(self, task_id: str) -> Task | None:
        """The task that an earlier run began; None where the source does not have it any more."""

    def done(self, task: Task) -> None:
        """The task is done."""


class CommandTasks:
    """What a shell command prints."""

    def __init__(self, command: str) -> None:
        self._command = command

    def take(self) -> Task | None:
        done = subprocess.run(["bash", "-c", self._command], stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise GitstateError(f"this command failed: {self._command}")
        return parse_task(done.stdout.decode("utf-8", "replace"))

    def claim(self, task_id: str) -> Task | None:
        return None

    def done(self, task: Task) -> None:
        return


class FileTasks:
    """The lines of a file. `workspace` is where this loop works."""

    def __init__(self, path: bytes, workspace: bytes) -> None:
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            raise UsageError(f"{os.fsdecode(path)} can't be read", hint="gitstate loop --help")
        # A file behind a symlink stays one.
        self._path = os.path.realpath(path)
        self._workspace = os.path.realpath(workspace)
        name = hashlib.sha256(self._path).hexdigest()[:24]
        top = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        self._claims = os.path.join(os.fsencode(top), b"gitstate", b"claims", name.encode())

    def take(self) -> Task | None:
        """See TaskSource. A line that this workspace has claimed comes first."""
        with self._locked() as data:
            claims = self._read_claims()
            mine = [claim["task_id"] for claim in claims if self._is_mine(claim)]
            taken = [claim["task_id"] for claim in claims if not self._is_mine(claim) and _holds(claim)]
            tasks = [task for _, task in _lines(data)]
            for task in sorted(tasks, key=lambda task: task.task_id not in mine):
                if task.task_id in taken:
                    # Of equal lines each claim holds one.
                    taken.remove(task.task_id)
                    continue
                self._write_claims(claims, task.task_id)
                return task
        return None

    def claim(self, task_id: str) -> Task | None:
        with self._locked() as data:
            for _, task in _lines(data):
                if task.task_id == task_id:
                    self._write_claims(self._read_claims(), task_id)
                    return task
        return None

    def left(self) -> int:
        """How many tasks stand in the file."""
        return len(_lines(files.read_limited(self._path, _MOST_FILE) or b""))

    def done(self, task: Task) -> None:
        """Remove the line: the whole new file is written, then renamed. Every other byte stays."""
        with self._locked() as data:
            lines = data.splitlines(True)
            for number, found in _lines(data):
                if found.task_id == task.task_id:
                    del lines[number]
                    mode = os.stat(self._path).st_mode & 0o7777
                    directory = os.path.dirname(self._path)
                    files.write_atomic(self._path, b"".join(lines), staging=directory, mode=mode)
                    break
            self._write_claims(self._read_claims(), None)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bytes]:
        """The content, under a lock on the claims, and on the file. Who waited for one that was replaced begins anew.

        The lock on the file alone would not do: whoever opens the new one does not wait for the claims to be written.
        """
        with self._locked_claims():
            yield from self._locked_content()

    @contextlib.contextmanager
    def _locked_claims(self) -> Iterator[None]:
        files.make_directory(os.path.dirname(self._claims), top=b"/", mode=0o700)
        fd = os.open(self._claims + b".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _locked_content(self) -> Iterator[bytes]:
        while True:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_ino == os.stat(self._path).st_ino:
                    yield files.read_limited(self._path, _MOST_FILE) or b""
                    return
            finally:
                os.close(fd)

    def _is_mine(self, claim: dict[str, Any]) -> bool:
        return bool(claim["workspace"] == os.fsdecode(self._workspace))

    def _read_claims(self) -> list[dict[str, Any]]:
        data = files.read_limited(self._claims, _MOST_FILE)
        try:
            found = loads(data, _MOST_FILE, "the claims")["claims"]
            return [
                claim for claim in found if isinstance(claim["task_id"], str) and isinstance(claim["workspace"], str)
            ]
        except (BadJson, KeyError, TypeError):
            return []

    def _write_claims(self, claims: list[dict[str, Any]], task_id: str | None) -> None:
        """Claim a task for this workspace in the place of its earlier one; None: it has none."""
        kept = [claim for claim in claims if not self._is_mine(claim) and _holds(claim)]
        if task_id is not None:
            owner = {"host": hostname(), "boot_id": boot_id(), "pid": os.getpid(), "start": process_start(os.getpid())}
            kept.append({"task_id": task_id, "workspace": os.fsdecode(self._workspace), **owner})
        directory = os.path.dirname(self._claims)
        files.make_directory(directory, top=b"/", mode=0o700)
        files.write_atomic(self._claims, dumps({"claims": kept}), staging=directory)


def _lines(data: bytes) -> list[tuple[int, Task]]:
    """The tasks of a file, each with the number of its line."""
    found = []
    for number, line in enumerate(data.splitlines(True)):
        text = os.fsdecode(line).rstrip("\r\n")
        if text.lstrip().startswith("#"):
            continue
        task = parse_task(text)
        if task is not None:
            found.append((number, task))
    return found


def _holds(claim: dict[str, Any]) -> bool:
    """Whether a claim still counts: its loop lives, may live elsewhere, or has left the task unfinished behind."""
    if claim.get("host") != hostname():
        return True
    owner = process(claim.get("pid") or 0)
    if claim.get("boot_id") == boot_id() and owner.start == claim.get("start") and is_alive(owner):
        return True
    from ..git.repository import open_repository
    from ..workspace.live_context import read_live_context
    from ..workspace.state_file import FINISHED

    with contextlib.suppress(GitstateError, OSError):
        context, status = read_live_context(open_repository(os.fsencode(claim["workspace"])))
        return context.task_id == claim["task_id"] and status != FINISHED
    return False
