"""An agent's own session: the command that continues it, where it still exists, and the files of its transcript.

A loop around a resume command with a stale id would start it again and again, because it ends at once. The values come
from agents: an id must look like one, and every word is quoted for a shell.
"""

from __future__ import annotations

import os

from ..system.stdlib import TYPE_CHECKING, Record, quote, suppress
from .registry import agent_named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..format.context import Context
    from .base import Agent, Transcript

_INSIDE = dict.fromkeys(map(ord, "_-"))
#: No more names of one directory, and no more names below a `**`, are compared with a pattern.
_MAX_NAMES = 20_000


def resume_command(context: Context, environ: Mapping[str, str], prompt: str | None = None) -> str | None:
    """The shell command that continues the agent's session; None where there is no session, or it is gone.

    Without a `prompt` it is for a person at a terminal, with one for a program, which has none. `environ` says where
    agents keep their sessions (`HOME`, and each agent's own variable).
    """
    agent = agent_named((context.agent or "").lower())
    session = context.session_id
    if agent is None or session is None or not is_session_id(session):
        return None
    load = load_command(context, environ)
    if load is None and not _exists(agent, context, session, environ):
        return None
    from .launch import Launch

    commands = [
        ["cd", _directory(context)],
        *([] if load is None else [load]),
        Launch(agent, context).resume(session, prompt),
    ]
    return " && ".join(" ".join(map(quote, words)) for words in commands)


def _directory(context: Context) -> str:
    """Where the session is continued."""
    directory = context.extra.get("agent_cwd")
    is_there = isinstance(directory, str) and "\0" not in directory and os.path.isdir(directory)
    return directory if is_there and isinstance(directory, str) else context.workspace_path or "."


def load_command(context: Context, environ: Mapping[str, str]) -> list[str] | None:
    """The command that brings the session back into its agent's database, before it can be continued.

    None where it is there and works in this directory, where nothing is kept of it, or where the agent has no database.
    """
    agent, session = agent_named((context.agent or "").lower()), context.session_id
    database = None if agent is None else agent.sessions.database
    if agent is None or database is None or session is None or not is_session_id(session):
        return None
    file = database.path(environ, database.import_file, session)
    if not os.path.isfile(file) or database.holds(database.home.path(environ), session, _directory(context)):
        return None
    from .launch import Launch

    return [Launch(agent, context).program, *(word.replace("{file}", file) for word in database.load[1:])]


def _exists(agent: Agent, context: Context, session: str, environ: Mapping[str, str]) -> bool:
    database = agent.sessions.database
    if database is not None:
        return database.holds(database.home.path(environ), session, None)
    return _is_file(context.extra.get("transcript_path")) or any(
        path_exists(transcript.home.path(environ), transcript.pattern.format(id=session))
        for transcript in agent.sessions.transcripts
    )


def _is_file(path: object) -> bool:
    return isinstance(path, str) and "\0" not in path and os.path.isfile(path)


def is_session_id(text: str) -> bool:
    """Whether a text from an agent looks like the id of a session."""
    return len(text) <= 128 and text[:1].isalnum() and text.isascii() and text.translate(_INSIDE).isalnum()


def path_exists(directory: str, pattern: str) -> bool:
    """Whether a path below `directory` matches `pattern`, which is relative and may hold `*` and `**`."""
    return any(True for _ in matching_paths(directory, pattern))


def matching_paths(directory: str, pattern: str) -> Iterator[str]:
    """The paths below `directory`, and relative to it, that match `pattern`."""
    first, _, rest = pattern.partition("/")
    if not rest:
        yield from _matching_names(directory, first)
    elif first == "**":
        yield from _at_any_depth(directory, rest)
    else:
        for name in _matching_names(directory, first):
            yield from (f"{name}/{below}" for below in matching_paths(os.path.join(directory, name), rest))


def matches(path: str, pattern: str) -> bool:
    """Whether the whole relative path matches `pattern`."""
    name, _, below = path.partition("/")
    first, _, rest = pattern.partition("/")
    if first == "**":
        return matches(path, rest) or (bool(below) and matches(below, pattern))
    if not _name_matches(name, first):
        return False
    return matches(below, rest) if below and rest else not below and not rest


def _name_matches(name: str, pattern: str) -> bool:
    """`fnmatch.fnmatchcase` for a pattern with no other sign than `*`; its module takes as long as all else here."""
    first, *others = pattern.split("*")
    if not others:
        return name == pattern
    *between, last = others
    place, end = len(first), len(name) - len(last)
    if place > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in between:
        found = name.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _at_any_depth(directory: str, name_pattern: str) -> Iterator[str]:
    compared = 0
    # The newest first: sessions stand below the day of their begin.
    for above, below, names in os.walk(directory):
        below.sort(reverse=True)
        for name in names:
            if _name_matches(name, name_pattern):
                yield os.path.relpath(os.path.join(above, name), directory)
        compared += len(names)
        if compared > _MAX_NAMES:
            break


def _matching_names(directory: str, pattern: str) -> Iterator[str]:
    if "*" not in pattern:
        if os.path.exists(os.path.join(directory, pattern)):
            yield pattern
        return
    try:
        names = sorted(os.listdir(directory))[:_MAX_NAMES]
    except OSError:
        return
    yield from (name for name in names if _name_matches(name, pattern))


# -- the transcript of a session: where it is, and where its agent looks for it in another directory or on another host


class FoundTranscript(Record):
    """The files of one session."""

    root: str
    """The agent's own directory, absolute; the directory of the file where the agent is unknown."""
    transcript: str
    """Relative to `root`: the transcript, or the directory of the session."""
    files: tuple[str, ...]
    """Relative to `root`."""


def find_transcript(
    context: Context, environ: Mapping[str, str], before: tuple[str, str] | None = None
) -> FoundTranscript | None:
    """The transcript of the context's session: where the agent's hook said, else in its known place.

    `before` is where it was the last time, root and transcript: that spares a search. None where there is none.
    """
    session = context.session_id
    if session is None or not is_session_id(session):
        return None
    agent = agent_named((context.agent or "").lower())
    known = () if agent is None else agent.sessions.transcripts
    database = None if agent is None else agent.sessions.database
    if database is not None:
        root, name = database.home.path(environ), database.copy.format(id=session)
        return FoundTranscript(root, name, (name,)) if os.path.isfile(os.path.join(root, name)) else None
    told = context.extra.get("transcript_path")
    if isinstance(told, str) and told.startswith("/") and "\0" not in told:
        for transcript in known:
            found = _taken_apart(os.path.normpath(told), transcript, session)
            if found is not None:
                return found
        name = os.path.basename(told)
        if _is_told(name, session) and os.path.isfile(told):
            return FoundTranscript(os.path.dirname(told), name, (name,))
    for transcript in known:
        root, pattern = transcript.home.path(environ), transcript.pattern.format(id=session)
        known_place = before is not None and before[0] == root and matches(before[1], pattern)
        if before is not None and known_place and os.path.exists(os.path.join(*before)):
            return _found(root, before[1], transcript)
        relative = next(matching_paths(root, pattern), None)
        if relative is not None:
            return _found(root, relative, transcript)
    return None


def copy_session(context: Context, environ: Mapping[str, str]) -> None:
    """Bring the copy of a session in its agent's database up to date. What can't be read is left as it is."""
    agent, session = agent_named((context.agent or "").lower()), context.session_id
    database = None if agent is None else agent.sessions.database
    if database is None or session is None or not is_session_id(session):
        return
    with suppress(OSError, ValueError):
        database.export(database.home.path(environ), session, database.path(environ, database.copy, session))


def _taken_apart(path: str, transcript: Transcript, session: str) -> FoundTranscript | None:
    """Root and transcript of a path that matches the pattern with its last names, or one inside of a session."""
    pattern = transcript.pattern.format(id=session)
    parts = path.split("/")
    ends = range(len(parts), 1, -1) if transcript.files else (len(parts),)
    for end in ends:
        for start in range(1, end):
            relative = "/".join(parts[start:end])
            if matches(relative, pattern):
                root = "/".join(parts[:start]) or "/"
                return _found(root, relative, transcript) if os.path.exists(os.path.join(root, relative)) else None
    return None


def _found(root: str, relative: str, transcript: Transcript) -> FoundTranscript:
    files = tuple(f"{relative}/{name}" for name in transcript.files) or (relative,)
    return FoundTranscript(root, relative, files)


def is_transcript(agent: Agent | None, session: str, transcript: str, files: Sequence[str], *, fetched: bool) -> bool:
    """Whether the files of a session, relative to its agent's own directory, have names that `find_transcript` gives.

    Those that were `fetched` must stand where their agent keeps sessions: whoever can push has chosen their names.
    """
    database = None if agent is None else agent.sessions.database
    if database is not None:
        return {transcript, *files} == {database.copy.format(id=session)}
    for known in () if agent is None else agent.sessions.transcripts:
        if matches(transcript, known.pattern.format(id=session)):
            return {*files} <= {*_found("", transcript, known).files}
    return not fetched and "/" not in transcript and _is_told(transcript, session) and {*files} == {transcript}


def _is_told(name: str, session: str) -> bool:
    """Whether a file that an agent's hook names as its transcript is called like one."""
    return name.endswith((".jsonl", ".json")) and session[:8] in name


class Place(Record):
    """Where a transcript belongs."""

    root: str
    transcript: str
    lists: tuple[tuple[str, bytes], ...] = ()
    """Files below `root` that must have a line, without which the agent does not find the session."""
    rewrites: tuple[tuple[bytes, bytes], ...] = ()
    """What has to be exchanged in its text where it comes from another directory."""


def place_for(
    agent: Agent | None,
    root: str,
    transcript: str,
    was: str,
    directory: str,
    environ: Mapping[str, str],
    *,
    fetched: bool = False,
) -> Place:
    """Where the agent looks for a transcript that was at `transcript` below `root` while it worked in `was`, once it
    works in `directory`. Only the agent's own directories count for one that was `fetched`.
    """
    if agent is None:
        return Place(root, transcript)
    homes = [home.path(environ) for home in agent.sessions.homes()]
    is_other = fetched or agent.sessions.database is not None or not os.path.isdir(root)
    if homes and root not in homes and is_other:
        # It came from another host, or the home of another user.
        old, root = root, homes[0]
    else:
        old = root
    sessions = agent.sessions
    here = transcript
    if sessions.place is not None and (directory != was or old != root):
        here = sessions.place(root, transcript, directory)
    rewrites = []
    if sessions.names_directory and (directory != was or (old, transcript) != (root, here)):
        pairs = [(os.path.join(old, transcript), os.path.join(root, here)), (was, directory)]
        if transcript.count("/") == here.count("/"):
            # The name of the directory that holds the sessions of one project: some agents write it down alone.
            pairs += zip(transcript.split("/")[-2:-1], here.split("/")[-2:-1], strict=True)
        rewrites = [(os.fsencode(a), os.fsencode(b)) for a, b in pairs if a != b]
    lists = () if sessions.lists is None else sessions.lists(root, here, directory)
    return Place(root, here, lists, tuple(rewrites))
