"""This installation of gitstate: the command that starts it from anywhere, and the files that it ships.

Schedulers, hooks and agents start it with an empty environment, so every path is absolute. Python is started isolated
(`-I`): nothing is imported from the current directory, a repository that may hold a `gitstate/` of its own.
"""

from __future__ import annotations

import os
import sys

from .stdlib import quote

#: The program of an isolated Python; its first argument is the directory that holds the package.
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from gitstate.__main__ import main; main()"


def interpreter() -> str:
    """The absolute path of the Python that runs this; in a virtual environment, that environment's."""
    return os.path.abspath(sys.executable)


def packages() -> str:
    """The directory that holds the package."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def isolated_python() -> tuple[str, ...]:
    """The argv that starts this gitstate in this Python, whatever the environment and the current directory hold."""
    return (interpreter(), "-I", "-c", START, packages())


def command() -> tuple[str, ...]:
    """The argv that starts this gitstate from anywhere: its script where there is one, else Python."""
    script = os.path.join(os.path.dirname(interpreter()), "gitstate")
    if os.path.isfile(script) and os.access(script, os.X_OK):
        return (script,)
    return isolated_python()


def shell_command(*arguments: str) -> str:
    """A line for sh that starts this gitstate; no-op once it is uninstalled."""
    argv = command()
    return f"[ ! -x {quote(argv[0])} ] || {' '.join(map(quote, (*argv, *arguments)))}"


def shipped(name: str) -> bytes:
    """The content of a file below `hooks/` of the package, in a checkout a link to `hooks/` at the top.

    Raises OSError.
    """
    with open(os.path.join(packages(), "gitstate", "hooks", name), "rb") as file:
        return file.read()
