"""Every error of gitstate: what happened, what to type next, and the exit status.

A message is one line for a person, `hint` the command to type next. Only `cli` turns an error into lines on stderr and
an exit status.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, Literal

    ExitStatus = Literal[0, 1, 2, 3, 4, 75]

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_BUG: Final = 3
EXIT_PERSON: Final = 4
EXIT_AGAIN: Final = 75
#: Every exit status and what it means. The help, the manual page and docs/exit-status.md are made from it.
EXIT_STATUSES = (
    (f"{EXIT_DONE}", "done, and durable"),
    (f"{EXIT_FAILED}", "failed; nothing was lost"),
    (f"{EXIT_USAGE}", "the command line or a setting is wrong"),
    (f"{EXIT_BUG}", "a bug in gitstate; the message names a log"),
    (f"{EXIT_PERSON}", "manual intervention required; or a save had to skip bytes of a file"),
    (f"{EXIT_AGAIN}", "try again later: another process works here, or a disk does not answer"),
    ("128+n", "ended by signal n"),
)


class GitstateError(Exception):
    """The base of all errors below: something failed, nothing was lost.

    >>> GitstateError("no such save", hint="gitstate log").exit_status
    1
    """

    exit_status: ExitStatus = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(GitstateError):
    """The command line, or a value on it, is wrong."""

    exit_status = EXIT_USAGE


class NotAWorkspace(GitstateError):
    """The path is not inside the worktree of a git repository that git agrees to open."""


class GitError(GitstateError):
    """A git command failed.

    `argv` is its arguments, `stderr` what it wrote there. `status` is its exit status, minus the number of the signal
    where one killed it.
    """

    def __init__(self, argv: list[str], status: int, stderr: bytes, *, hint: str | None = None) -> None:
        lines = stderr.decode("utf-8", "replace").strip().splitlines()
        # Below it git explains at length what may be the cause.
        lock = next((line for line in lines if "Unable to create '" in line), None)
        if lock is not None and lock.endswith(".lock': File exists."):
            path = lock[lock.index("Unable to create '") + len("Unable to create '") : -len("': File exists.")]
            # Git quotes it, but not for a shell.
            quoted = path.replace("'", "'\"'\"'")
            hint = f"once no git runs here: rm '{quoted}'"
        why = lock or (lines[-1] if lines else "no error message")
        super().__init__(f"git {_verb(argv)} failed ({status}): {why}", hint=hint)
        self.argv = argv
        self.status = status
        self.stderr = stderr


class MissingObject(GitError):
    """Git answered, but an object that should be there is missing, damaged, too large, or of another kind.

    `status` is 0: no git failed.
    """

    def __init__(self, oid: str, problem: str = "is missing") -> None:
        super().__init__(["cat-file"], 0, b"")
        self.message = f"object {oid} {problem}"
        self.args = (self.message,)
        self.oid = oid


class BadJson(ValueError):
    """Data that should be a JSON object is none, or is too large. The message names the data."""


class RefChanged(GitstateError):
    """A ref was not moved, because it no longer has the value that was read."""

    exit_status = EXIT_AGAIN


class NeedsPerson(GitstateError):
    """Manual intervention is required."""

    exit_status = EXIT_PERSON


class CorruptSave(NeedsPerson):
    """A save, or a part of one, can't be read."""


class UnsupportedSave(NeedsPerson):
    """A save was written in a newer format than this version reads."""


class TryAgain(GitstateError):
    """Another process holds what is needed; the same command works later."""

    exit_status = EXIT_AGAIN


#: An error is written into a save, or told of a repository inside, with so many characters: two long paths fit in.
MOST_SAID = 1_000


def words_of(error: BaseException) -> str:
    """What happened, for a person: of an OSError the path and the system's words, never Python's `[Errno 13] …`.

    >>> words_of(FileNotFoundError(2, "No such file or directory", b"/x"))
    '/x: No such file or directory'
    """
    if isinstance(error, GitstateError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        path = error.filename
        return f"{os.fsdecode(path)}: {error.strerror}" if isinstance(path, str | bytes) else str(error.strerror)
    return str(error) or type(error).__name__


def _verb(argv: list[str]) -> str:
    """The subcommand in the arguments of git, after the global options."""
    arguments = iter(argv)
    for argument in arguments:
        if argument in ("-c", "-C"):
            next(arguments, None)
        elif not argument.startswith("-"):
            return argument
    return ""
