"""Every error of gitstate: what happened, what to type next, and the exit status.

An error's message is one line for a person. `hint` is the command to type next. `cli` is the only place that turns
one of these into words on stderr and a status.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BUG = 3
EXIT_PERSON = 4
EXIT_AGAIN = 75
#: Every exit status and what it means. The help, the manual page and docs/exit-status.md are made from it.
EXIT_STATUSES = (
    (f"{EXIT_DONE}", "done, and durable"),
    (f"{EXIT_FAILED}", "failed; nothing was lost"),
    (f"{EXIT_USAGE}", "the command line or a setting is wrong"),
    (f"{EXIT_BUG}", "a bug in gitstate; the message names a log"),
    (f"{EXIT_PERSON}", "manual intervention required; or a save had to skip bytes of a file"),
    (f"{EXIT_AGAIN}", "another process works in this workspace; try again later"),
    ("128+n", "ended by signal n"),
)


class GitstateError(Exception):
    """The root of the tree: something failed, nothing was lost.

    >>> GitstateError("no such save", hint="gitstate log").exit_status
    1
    """

    exit_status = EXIT_FAILED

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
    """A git command failed: `argv` is what ran, `stderr` what it said."""

    def __init__(self, argv: list[str], status: int, stderr: bytes) -> None:
        said = stderr.decode("utf-8", "replace").strip().splitlines()
        super().__init__(f"git {_verb(argv)} failed ({status}): {said[-1] if said else 'it said nothing'}")
        self.argv = argv
        self.status = status
        self.stderr = stderr


class RefChanged(GitstateError):
    """A compare-and-swap lost: a ref is no longer where it was seen."""

    exit_status = EXIT_AGAIN


class NeedsPerson(GitstateError):
    """Going on would need a decision that is not ours."""

    exit_status = EXIT_PERSON


class CorruptSave(NeedsPerson):
    """A save, or a part of one, can't be read."""


class UnsupportedSave(NeedsPerson):
    """A save was written in a newer format than this version reads."""


class TryAgain(GitstateError):
    """Something else is at work here: the same command will go through later."""

    exit_status = EXIT_AGAIN


def _verb(argv: list[str]) -> str:
    """The subcommand of a git command line, past the global options with a value."""
    words = iter(argv)
    for word in words:
        if word in ("-c", "-C"):
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""
