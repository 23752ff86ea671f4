"""The command lines that start an agent or continue its session, with the options and the PATH that it had."""

from __future__ import annotations

import os

from ..format.context import Context
from ..system import files
from ..system.child import is_in_path
from ..system.stdlib import TYPE_CHECKING, quote, suppress
from .base import ARGV_KEY, SCRIPT_ENDINGS, Agent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MOST_ARGV = 8192


def recorded_argv(agent: Agent, argv: Sequence[str]) -> str | None:
    """What the context keeps of a command line: the program, how it works, and the options that a resumed session gets.

    No prompt and no option that gitstate does not know is among it: they may hold secrets, and a context is pushed.
    """
    sessions = agent.sessions
    mode = [word for word in argv[1:] if word in sessions.headless][:1]
    line = " ".join(map(quote, [argv[0], *mode, *kept_options(agent, argv)]))
    return line if len(line) <= _MOST_ARGV else None


def same_options(line: str, other: str) -> bool:
    """Whether two such lines differ at most in the path of the program."""
    return line.partition(" ")[2] == other.partition(" ")[2]


def typed_argv(agent: Agent, argv: Sequence[str]) -> list[str] | None:
    """The command line of an agent's process as a person types it: without an interpreter and its options, and with the
    name of the program where the PATH leads to one. None where it is that of another program.
    """
    for at, word in enumerate(argv):
        name = os.path.basename(word).lower()
        name = next((name.removesuffix(ending) for ending in SCRIPT_ENDINGS if name.endswith(ending)), name)
        if name in agent.commands:
            return [name if is_in_path(name) else word, *argv[at + 1 :]]
        # An interpreter has options before its script, and an option may have a value.
        after_option = argv[at - 1].startswith("-")
        if at and not word.startswith("-") and not after_option:
            return None
    return None


def kept_options(agent: Agent, argv: Sequence[str]) -> list[str]:
    """The options of a command line that a resumed session gets again; none that may hold a secret."""
    sessions = agent.sessions
    kept: list[str] = []
    words = list(argv[1 : argv.index("--") if "--" in argv else None])
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        values: list[str] = []
        if word in sessions.flags:
            kept.append(word)
        elif equals and name in (*sessions.valued, *sessions.many):
            kept += [word] if _is_kept(name, value) else []
        elif word in sessions.valued:
            values, words = words[:1], words[1:]
        elif word in sessions.many:
            while words and not words[0].startswith("-"):
                values.append(words.pop(0))
        values = [value for value in values if _is_kept(name, value)]
        kept += [word, *values] if values else []
    return kept


def _is_kept(option: str, value: str) -> bool:
    """Whether the value of an option is kept. One that names tools limits the agent: it always is."""
    return "tool" in option.lower() or not may_hold_secret(value)


#: What the name of a value that is a secret holds, and how a well-known secret begins.
_SECRET_NAMES = ("token", "secret", "passw", "api-key", "api_key", "apikey", "private-key", "private_key", "credential")
_SECRET_PLACES = ("authorization", "bearer ", "headers", "environment", '"env"', ".env.", ".env=", "env={")
_SECRET_STARTS = ("sk-", "sk_", "pk_", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "xox", "AKIA", "AIza", "eyJ")


def may_hold_secret(text: str) -> bool:
    """Whether the value of an option may hold a secret: by a name in it, by its beginning, or in the user of a URL."""
    lower = text.lower()
    if any(name in lower for name in (*_SECRET_NAMES, *_SECRET_PLACES)):
        return True
    parts = "".join(" " if c in "\"'=:,@{}[]" else c for c in text).split()
    if any(part.startswith(_SECRET_STARTS) for part in parts):
        return True
    return "@" in text.partition("://")[2].partition("/")[0]


def _words_of(line: str) -> list[str]:
    """`shlex.split`, which as a rule has nothing to unquote. Raises ValueError."""
    if line.isascii() and line.isprintable() and not {*line} & {*"'\"\\"}:
        return line.split()
    from shlex import split

    return split(line)


class Launch:
    """Command lines for the agent of a context."""

    def __init__(self, agent: Agent, context: Context) -> None:
        self.agent = agent
        line = context.extra.get(ARGV_KEY)
        try:
            argv = _words_of(line) if isinstance(line, str) and len(line) <= _MOST_ARGV else []
        except ValueError:
            argv = []
        if argv and os.path.basename(argv[0]).lower() not in agent.commands:
            argv = []
        self.program = argv[0] if argv else agent.commands[0]
        self.options = kept_options(agent, argv)
        self.is_headless = not argv or not agent.sessions.headless or any(w in agent.sessions.headless for w in argv)

    def resume(self, session: str, prompt: str | None = None) -> list[str]:
        """Continue a session: at a terminal, or with a prompt and without one."""
        sessions = self.agent.sessions
        return self._words(sessions.resume if prompt is None else sessions.resume_with_prompt, session, prompt)

    def start(self, session: str, prompt: str) -> list[str]:
        """A new session; `session` is its id where the caller may choose it."""
        return self._words(self.agent.sessions.start_with_prompt, session, prompt)

    def _words(self, template: Sequence[str], session: str, prompt: str | None) -> list[str]:
        words = [self.program]
        for word in template[1:]:
            if word == "{options}":
                words += self.options
            elif word == "{prompt}":
                words.append(as_prompt(prompt or ""))
            else:
                words.append(word.replace("{id}", session))
        return words


def as_prompt(text: str) -> str:
    """A prompt that no agent takes for an option."""
    return f" {text}" if text.startswith("-") else text


# -- the PATH that an agent had: a scheduler has a bare one, on which neither the agent nor its interpreter is
#
# It stands in gitstate's own directory of the workspace alone, and no save holds it.

_PATH_FILE = b"agent-path"
_MOST_PATH = 1 << 16


def write_search_path(own: bytes, path: str) -> None:
    """Keep the PATH of an agent that begins to work (no-op if it is there). A write that fails is ignored."""
    with suppress(OSError):
        if path and path != read_search_path(own):
            files.make_directory(own, top=os.path.dirname(own))
            files.write_atomic(os.path.join(own, _PATH_FILE), os.fsencode(path), staging=own, durable=False)


def read_search_path(own: bytes) -> str:
    """The PATH that was kept; an empty text where none was."""
    data = files.read_limited(os.path.join(own, _PATH_FILE), _MOST_PATH)
    return "" if data is None or b"\0" in data else os.fsdecode(data)


def with_search_path(own: bytes, environ: Mapping[str, str]) -> str:
    """The PATH of an environment, and behind it the directories of the kept one that it lacks."""
    here = environ.get("PATH", "")
    kept = [entry for entry in read_search_path(own).split(":") if entry.startswith("/")]
    return ":".join(dict.fromkeys([*(here.split(":") if here else []), *kept]))
