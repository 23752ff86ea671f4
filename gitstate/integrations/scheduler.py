"""What each scheduler answers and needs: commands of the system, files of ours, the environment that it lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Protocol

from ..errors import GitstateError, NeedsPerson
from ..system import files
from ..system.child import shipped
from ..system.stdlib import quote
from ..workspace.registry import list_directory

#: Stands in every unit and property list that gitstate wrote.
_MARK = "Written by `gitstate boot enable`"
#: `resumes` of `Scheduler.set_up`: what is set up may be either.
EITHER = (False, True)
#: Environment variables that lead to the list of workspaces, where HOME alone does not.
_NEEDED = ("GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME", "XDG_STATE_HOME")


class Scheduler(Protocol):
    """One way to run a command at boot. Methods raise GitstateError and OSError, `set_up` NeedsPerson, too."""

    def works(self) -> bool:
        """Whether it can be set up on this machine."""

    def is_enabled(self) -> bool:
        """Whether gitstate is set up in it."""

    def is_current(self) -> bool:
        """Whether what gitstate wrote into it is what `set_up` would write now."""

    def paths(self) -> list[str]:
        """The files of gitstate's own that `set_up` writes."""

    def set_up(self, *, resumes: bool) -> None:
        """Run `gitstate recover --all` at boot; idempotent. `resumes`: then start the interrupted agents again."""

    def remove(self) -> None:
        """Undo `set_up`; nothing else is touched."""


def needed_environment() -> dict[str, str]:
    """What the environment of a scheduler lacks: where git is, and where the list of workspaces is."""
    found = {name: os.environ[name] for name in _NEEDED if os.environ.get(name)}
    git = shutil.which("git")
    places = [os.path.dirname(git)] if git else []
    found["PATH"] = ":".join(dict.fromkeys([*places, "/usr/local/bin", "/usr/bin", "/bin"]))
    return found


def log_file() -> str:
    """The file for what recovery says at boot, where there is no system log."""
    return os.path.join(os.path.dirname(os.fsdecode(list_directory())), "boot.log")


def template(name: str) -> str:
    return shipped(f"boot/{name}").decode("utf-8")


def call(words: Sequence[str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            words, input=given, capture_output=True, check=False, timeout=60, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise NeedsPerson(f"there is no {words[0]} here", hint="gitstate boot enable --scheduler cron") from None
    except subprocess.TimeoutExpired:
        raise GitstateError(f"{words[0]} did not answer for a minute", hint="gitstate boot status") from None


def answer(words: Sequence[str]) -> bytes:
    """What a command of the user's prints on both streams; nothing where it does not start or does not end."""
    try:
        done = call(words)
    except (GitstateError, OSError):
        return b""
    return done.stdout + done.stderr


def must_succeed(words: Sequence[str], given: bytes = b"") -> None:
    done = call(words, given)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitstateError(
            f"{' '.join(words[:3])} failed: {said[-1] if said else f'status {done.returncode}'}",
            hint="gitstate boot enable --scheduler cron",
        )


def read_file(path: str) -> str | None:
    data = files.read_limited(os.fsencode(path), 1 << 20)
    return None if data is None else data.decode("utf-8", "replace")


def is_ours(path: str) -> bool:
    return _MARK in (read_file(path) or "")


def write_file(path: str, text: str) -> None:
    if os.path.lexists(path) and not is_ours(path):
        raise NeedsPerson(
            f"{path} is not gitstate's; it was left alone", hint=f"mv {quote(path)} {quote(path + '.mine')}"
        )
    directory = os.fsencode(os.path.dirname(path))
    files.make_directory(directory, top=b"/")
    if read_file(path) != text:
        files.write_atomic(os.fsencode(path), text.encode("utf-8"), staging=directory, mode=0o644)


def are_current(wanted: Mapping[str, str]) -> bool:
    """Whether each file has this text."""
    return all(read_file(path) == text for path, text in wanted.items())
