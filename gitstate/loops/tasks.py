"""The tasks of a loop: what a text means, and the lines of a file that several loops may share.

In a file each line is one task; empty lines and lines that begin with `#` are none. A line, or the output of the
command, may begin with values: `task_id=T-1 issue_number=7 memory_refs=notes.md Fix the rounding`. The command may also
print a JSON object with `task_id`, `issue_number`, `progress_stage`, `memory_refs` and `prompt`. Everything is data.

A line stays in the file until its task is done. While a loop works on it a claim in the user's state directory says
so, and no other loop takes it. The claim lasts until the task is done, however often the loop is killed: its workspace
holds the work. All of it happens under a lock on the file itself.

What no agent can be given is refused before one starts: a NUL byte, a task longer than a command may be, JSON that is
torn.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from ..errors import BadJson, GitstateError, UsageError
from ..system import files
from ..system.jsonio import clean_text, dumps, loads
from ..system.locks import flock
from ..system.process import boot_id, hostname, is_alive, process, process_start

_MOST_FILE = 64 << 20
#: The bytes of one task: the system passes no more than twice that to a command, with the briefing.
_MOST_TASK = 60_000
_BOM = b"\xef\xbb\xbf"
#: A text that begins so, and is no JSON, is torn JSON.
_LIKE_JSON = re.compile(r'\s*\{\s*["}]')
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
    """The task of a line, or of what a command printed; None where there is none. Raises UsageError."""
    text = text.rstrip("\r\n")
    if not text.strip():
        return None
    if "\0" in text:
        raise UsageError(f"the task has a NUL byte, which no command can be given: {text[:80]}")
    if len(text.encode("utf-8", "surrogateescape")) > _MOST_TASK:
        raise UsageError(f"the task is longer than {_MOST_TASK} bytes: {text[:80]}…")
    if text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            if isinstance(value, dict):
                return _of_json(value, text)
        if _LIKE_JSON.match(text):
            raise UsageError(f"the task begins like a JSON object, and is none: {text[:80]}")
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
    if any("\0" in item for item in (*values.values(), str(value.get("prompt")), str(value.get("text")))):
        raise UsageError(f"the task has a NUL byte, which no command can be given: {text[:80]}")
    prompt = value.get("prompt") or value.get("text")
    if not isinstance(prompt, str) and "task_id" not in values:
        raise UsageError(f"the task has neither task_id nor prompt: {text[:80]}")
    return _task(prompt if isinstance(prompt, str) else "", values)


def _task(text: str, values: dict[str, str]) -> Task:
    task_id = values.get("task_id") or text or " ".join(f"{name}={value}" for name, value in values.items())
    # As the context has it: after a crash the task is found again by it.
    return Task(text or task_id, {**values, "task_id": clean_text(task_id)})


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

    def take(self, is_over: Callable[[], bool]) -> Task | None:
        """The next task, claimed for this loop; None where none is left, or `is_over` while it is waited for.

        Raises GitstateError.
        """

    def claim(self, task_id: str) -> Task | None:
        """The task that an earlier run began; None where the source does not have it any more."""

    def done(self, task: Task) -> None:
        """The task is done."""


class FileTasks:
    """The lines of a file. `workspace` is where this loop works."""

    def __init__(self, path: bytes, workspace: bytes) -> None:
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            what = "is no regular file" if os.path.exists(path) and not os.path.isfile(path) else "can't be read"
            raise UsageError(f"{os.fsdecode(path)} {what}", hint="gitstate loop --help")
        # A file behind a symlink stays one.
        self._path = os.path.realpath(path)
        directory = os.path.dirname(self._path)
        if not os.access(directory, os.W_OK):
            what = f"no task could be removed from {os.fsdecode(path)} when it is done"
            raise UsageError(f"{os.fsdecode(directory)} can't be written: {what}", hint="gitstate loop --help")
        # Every line has a meaning before the first agent starts.
        _lines(self._content())
        self._workspace = os.path.realpath(workspace)
        name = hashlib.sha256(self._path).hexdigest()[:24]
        self._claims = os.path.join(files.state_home(), b"gitstate", b"claims", name.encode())

    def take(self, is_over: Callable[[], bool]) -> Task | None:
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
        return len(_lines(self._content()))

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
            fd = flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _locked_content(self) -> Iterator[bytes]:
        while True:
            try:
                fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                raise self._gone() from None
            try:
                inode = os.fstat(fd).st_ino
                fd = flock(fd, fcntl.LOCK_EX)
                if inode == os.stat(self._path).st_ino:
                    yield self._content()
                    return
            except FileNotFoundError:
                raise self._gone() from None
            finally:
                os.close(fd)

    def _content(self) -> bytes:
        data = files.read_limited(self._path, _MOST_FILE)
        if data is not None:
            return data
        try:
            size = os.stat(self._path).st_size
        except FileNotFoundError:
            raise self._gone() from None
        what = f"has more than {_MOST_FILE >> 20} MiB" if size > _MOST_FILE else "can't be read"
        raise GitstateError(f"{os.fsdecode(self._path)} {what}; no task was taken")

    def _gone(self) -> GitstateError:
        return GitstateError(f"{os.fsdecode(self._path)} is gone; the work is on disk", hint="gitstate status")

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
    """The tasks of a file, each with the number of its line. Raises UsageError for one that no agent can be given."""
    found = []
    for number, line in enumerate(data.splitlines(True)):
        text = os.fsdecode(line.removeprefix(_BOM) if number == 0 else line).rstrip("\r\n")
        if text.lstrip().startswith("#"):
            continue
        try:
            task = parse_task(text)
        except UsageError as error:
            raise UsageError(f"line {number + 1} of the tasks: {error}", hint="gitstate loop --help") from None
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
    from ..git.opening import open_repository
    from ..workspace.live_context import FINISHED, read_live_context

    with contextlib.suppress(GitstateError, OSError):
        context, status = read_live_context(open_repository(os.fsencode(claim["workspace"])))
        return context.task_id == claim["task_id"] and status != FINISHED
    return False
