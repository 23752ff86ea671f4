"""The record of an agent program: everything that gitstate has to know about one, as data.

Each file of `known` describes one agent in a constant `AGENT`, under the file's own name. `registry` finds them.
"""

from __future__ import annotations

import os

# A hook loads this after each tool of an agent: the stand-ins spare it 2 ms.
from ..system.files import home
from ..system.stdlib import TYPE_CHECKING, Record, signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    #: What a hook event means to gitstate, whatever the agent calls it.
    #: `session_start`: a session begins or is resumed. `prompt`: the user has sent a prompt. `tool`: a tool has run.
    #: `compaction`: the agent is about to forget part of the conversation. `turn_end`: the agent stops working until
    #: it is asked again. `turn_failed`: an error has ended the turn. `session_end`: the session is over.
    #: `before_tool`: a tool is about to run. `worktree_end`: a worktree is about to be removed.
    Meaning = Literal[
        "session_start",
        "prompt",
        "tool",
        "compaction",
        "turn_end",
        "turn_failed",
        "session_end",
        "before_tool",
        "worktree_end",
    ]


#: The key of the context's `extra` that holds the agent's program and the options that a resumed session gets again, as
#: a line for a shell.
ARGV_KEY = "agent_argv"
#: A script whose name is that of an agent's program, but for its ending, is that program.
SCRIPT_ENDINGS = (".js", ".mjs", ".cjs", ".py", ".sh")


class StopRule(Record):
    """How an agent is told to stop."""

    signal: int = signal.SIGTERM
    everyone: bool = False
    """Whether all processes of the run get the signal, not only the one that was started."""


class Home(Record):
    """A directory of an agent below the user's home directory."""

    directory: str
    """Relative to `HOME`."""
    variable: str | None = None
    """The environment variable that names another directory, if there is one."""
    below: str = ""
    """Where it stands in the directory that the variable names; empty where that is the directory itself."""

    def path(self, environ: Mapping[str, str]) -> str:
        """The directory for a user with this environment."""
        elsewhere = environ.get(self.variable) if self.variable else None
        if elsewhere:
            return os.path.join(elsewhere, self.below) if self.below else elsewhere
        return os.path.join(os.fsdecode(home(os.fsencode(environ.get("HOME", "")))), self.directory)


class HookEvent(Record):
    """One event for which an agent runs hooks."""

    name: str
    meaning: Meaning
    timeout: int = 0
    """Seconds after which the agent ends our hook. 0: the event is understood, but `install` does not register it."""
    matcher: str | None = None
    """Limits the event to tools that may change files, in the agent's own syntax. None: every tool."""
    deadline: float | None = None
    """Seconds that a checkpoint may read at this event, where `timeout` is too short for the usual deadline."""


class HookPosition(Record):
    """Where an entry of ours stands in JSON settings: `hooks[event][group].hooks[number]`."""

    event: str
    group: int
    number: int


class HookSettings(Record):
    """Where an agent keeps its hooks, and how they are written there."""

    home: Home
    file: str
    """Below `home`, or below the same directory in a project."""
    format: Literal["json", "flat", "toml", "file"] = "json"
    """`json`: groups of hooks by event. `flat`: JSON with a version, and a list of hooks for each event. `toml`: an
    array of tables `[[hooks]]`, one for each event. `file`: the whole file is ours, and holds `text`."""
    project_file: str | None = None
    """The file in a project, relative to its top. None: `file` below the same directory as in `home`."""
    text: str = ""
    """In it `@COMMAND@` stands for our command as a JSON string."""
    command_key: str = "command"
    timeout_key: str = "timeout"
    in_projects: bool = True
    """Whether the agent also reads hooks from a project's own directory."""
    units_per_second: int = 1
    """The unit of timeouts in this file: 1 for seconds, 1000 for milliseconds."""
    async_key: str | None = None
    """The key of our entries that says that the agent waits for nothing. It stands at the events of tools and at those
    before a compaction: at the end of a turn a program without a terminal may end before it starts such a hook. None:
    the agent has no such key."""
    entry_name: str | None = None
    """The value of the key `name` in our entries. None: entries have no such key."""
    notes: tuple[str, ...] = ()
    """What the user has to know after `install`."""
    project_notes: tuple[str, ...] = ()
    """The same after `install --scope project`."""
    untrusted: Callable[[bytes, Sequence[HookPosition]], list[str]] | None = None
    """The events whose entry the agent passes over because the user did not trust it, from the path of the settings and
    the positions of our entries. None: the agent asks for no trust."""


class Payload(Record):
    """The keys of the JSON object that the agent writes to a hook's stdin."""

    event: str = "hook_event_name"
    session_id: str = "session_id"
    transcript_path: str = "transcript_path"
    directory: str = "cwd"
    names_many_directories: bool = False
    """Whether `directory` is a list of all directories of the agent's work."""


class Briefing(Record):
    """How a hook hands text to the model."""

    event: str
    """The event whose output reaches the model."""
    format: Literal["text", "json", "additionalContext", "additional_context"] = "text"
    """`text`: as it is. `json`: as `hookSpecificOutput.additionalContext`. Otherwise JSON with this one key."""
    once: bool = False
    """Whether `event` comes more than once in a session, so that only the first one is answered."""


class Transcript(Record):
    """Where an agent may keep the transcript of a session."""

    home: Home
    pattern: str
    """Relative to `home`. `*` stands for any text within a name, `**` for directories of any depth, `{id}` for the
    session id and `{id:.8}` for its first eight characters."""
    files: tuple[str, ...] = ()
    """Where the pattern names a directory: the files in it without which the session can't be continued."""


class Database(Record):
    """Sessions that an agent keeps in a database: what is kept of one is a copy, in a file of lines."""

    home: Home
    copy: str
    """The copy, relative to `home`, with `{id}` for the session id."""
    import_file: str
    """What the agent's own import reads, relative to `home`, with `{id}`."""
    load: tuple[str, ...]
    """The command that brings a session into the database again, to work in the directory in which it runs; `{file}`
    stands for `import_file`."""
    holds: Callable[[str, str, str | None], bool]
    """From the agent's own directory, a session id and a directory: whether the session is in the database, and works
    in that directory (None: in any)."""
    export: Callable[[str, str, str], None]
    """From the first two and the path of the copy: bring the copy up to date. Raises OSError, ValueError."""
    pack: Callable[[bytes], bytes | None]
    """From the text of a copy: the text of `import_file`; None where the copy holds no session."""

    def path(self, environ: Mapping[str, str], pattern: str, session: str) -> str:
        """The absolute path of `copy` or `import_file` for one session."""
        return os.path.join(self.home.path(environ), pattern.format(id=session))


class Sessions(Record):
    """How a session is continued. In a command, `{id}` stands for the session id, `{prompt}` for a prompt, and
    `{options}` for the options that the agent had.
    """

    resume: tuple[str, ...]
    """The command for a person at a terminal, which `recover` prints."""
    resume_with_prompt: tuple[str, ...]
    """The command of a loop, which has a prompt and no terminal."""
    start_with_prompt: tuple[str, ...]
    """The same for a new session; it has `{id}` where the caller may choose the id."""
    transcripts: tuple[Transcript, ...]
    """A session exists if one of these does."""
    database: Database | None = None
    """Where the sessions are instead; None where each has files of its own."""
    flags: tuple[str, ...] = ()
    """The options without a value that a resumed session gets again, where the agent had them."""
    valued: tuple[str, ...] = ()
    """The same for options with a value."""
    many: tuple[str, ...] = ()
    """The same for options that take every word up to the next option."""
    headless: tuple[str, ...] = ()
    """Words that say that the agent works without a terminal. Empty: it always does."""
    place: Callable[[str, str, str], str] | None = None
    """From the agent's own directory, a transcript relative to it, and the directory that the agent works in: where the
    agent looks for that transcript. None: it looks in the same place wherever it works."""
    names_directory: bool = False
    """Whether the transcript names the directory of its work, and the agent takes it for no other."""
    lists: Callable[[str, str, str], tuple[tuple[str, bytes], ...]] | None = None
    """From the same three: the files below the agent's own directory that must have a certain line, each with the line,
    or the agent does not find the session."""

    def homes(self) -> list[Home]:
        """The agent's own directories that hold sessions."""
        found = [] if self.database is None else [self.database.home]
        return found + [transcript.home for transcript in self.transcripts]


class Agent(Record):
    """One agent program."""

    name: str
    """The name on gitstate's command line and in the context: the name of the agent's file in `known`."""
    commands: tuple[str, ...]
    """The names of its program, without a directory."""
    events: tuple[HookEvent, ...]
    settings: HookSettings
    briefing: Briefing
    sessions: Sessions
    stop: StopRule = StopRule()
    payload: Payload = Payload()
    project_variable: str | None = None
    """The variable in a hook's environment that names the directory in which the session began, where its shell may go
    elsewhere: `directory` of the payload is where that is. None: it stays, or nothing tells."""
    shared_with: tuple[str, ...] = ()
    """Arguments of its program with which one process serves several sessions, so that it belongs to none of them."""
    outlives_runs: tuple[str, ...] = ()
    """Arguments of a process that serves all sessions of the user: the run that happened to start it never ends it."""
    stub_advice: str | None = None
    """What to do where the program on the PATH is a stub that does nothing, known by a `--version` without a number.
    None: there is no such stub."""

    refused: Callable[[Sequence[str]], tuple[str, str] | None] | None = None
    """From a command line: why `run` can't supervise it, and the word to leave out; None where it can."""
    supervised: Callable[[Sequence[str]], str | None] | None = None
    """From a command line: the option without which the agent would work in a process that is not of the run. It is
    added where the program's `--help` names it. None: there is none."""
    ends_sessions: bool = True
    """Whether the end of a session has an event of its own. False: without a task a closed turn is the end."""
    borrows_hooks: bool = False
    """Whether it also runs the hooks that a project has for other agents."""

    def event(self, name: str) -> HookEvent | None:
        """The event of this name; None where it means nothing to gitstate."""
        return next((event for event in self.events if event.name == name), None)

    def registered_events(self) -> tuple[HookEvent, ...]:
        """The events for which `install` adds an entry."""
        return tuple(event for event in self.events if event.timeout)
