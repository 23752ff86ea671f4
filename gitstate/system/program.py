"""This installation of gitstate: how to start it again from anywhere, and the files that it ships for shells and hooks.

Schedulers, hooks and agents start it under a bare environment, so every path is absolute. Python is started isolated
(`-I`): the directory that it is started in, a repository that may hold a `gitstate/` of its own, is never imported.
"""

from __future__ import annotations

import os
import shlex
import sys

#: What an isolated Python runs; the directory that holds the package stands before gitstate's own arguments.
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gitstate.__main__ import main; main()"


def interpreter() -> str:
    """The absolute path of the Python that runs this; in a virtual environment, that environment's."""
    return os.path.abspath(sys.executable)


def packages() -> str:
    """The directory that holds the package."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def command() -> tuple[str, ...]:
    """The words that start this gitstate from anywhere: its script where it was installed with one, else Python."""
    script = os.path.join(os.path.dirname(interpreter()), "gitstate")
    if os.path.isfile(script) and os.access(script, os.X_OK):
        return (script,)
    return (interpreter(), "-I", "-c", START, packages())


def shell_command(*arguments: str) -> str:
    """A line for sh that starts this gitstate, and does nothing once it is gone."""
    words = command()
    return f"[ ! -x {shlex.quote(words[0])} ] || {shlex.join((*words, *arguments))}"


def shipped(name: str) -> bytes:
    """A file below `hooks/`, which the package holds: in a checkout it is a link to the directory beside it.

    Raises OSError.
    """
    with open(os.path.join(packages(), "gitstate", "hooks", name), "rb") as file:
        return file.read()
