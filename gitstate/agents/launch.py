"""The command lines that start an agent or continue its session, with the options that it had."""

from __future__ import annotations

import os

from ..format.context import Context
from ..system.stdlib import TYPE_CHECKING, quote
from .base import Agent

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The key of the context's `extra` that holds the program and the kept options, as a line for a shell.
ARGV_KEY = "agent_argv"
_MOST_ARGV = 8192


def recorded_argv(agent: Agent, argv: Sequence[str]) -> str | None:
    """What the context keeps of a command line: the program, how it works, and the options that a resumed session gets.

    No prompt and no option that gitstate does not know is among it: they may hold secrets, and a context is pushed.
    """
    sessions = agent.sessions
    mode = [word for word in argv[1:] if word in sessions.headless][:1]
    line = " ".join(map(quote, [argv[0], *mode, *kept_options(agent, argv)]))
    return line if len(line) <= _MOST_ARGV else None


def kept_options(agent: Agent, argv: Sequence[str]) -> list[str]:
    """The options of a command line that a resumed session gets again."""
    kept: list[str] = []
    words = iter(argv[1:])
    for word in words:
        name, equals, _ = word.partition("=")
        if word == "--":
            break
        if word in agent.sessions.flags or (equals and name in agent.sessions.valued):
            kept.append(word)
        elif word in agent.sessions.valued:
            value = next(words, None)
            kept += [word] if value is None else [word, value]
    return kept


class Launch:
    """Command lines for the agent of a context."""

    def __init__(self, agent: Agent, context: Context) -> None:
        self.agent = agent
        from shlex import split

        line = context.extra.get(ARGV_KEY)
        try:
            argv = split(line) if isinstance(line, str) and len(line) <= _MOST_ARGV else []
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
