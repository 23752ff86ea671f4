"""Where the transcript of a session is, and where its agent looks for it in another directory or on another host."""

from __future__ import annotations

import os

from ..system.stdlib import TYPE_CHECKING, Record, suppress
from .registry import agent_named
from .sessions import is_session_id, matches, matching_paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..format.context import Context
    from .base import Agent, Transcript


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
        if name.endswith((".jsonl", ".json")) and session[:8] in name and os.path.isfile(told):
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


class Place(Record):
    """Where a transcript belongs."""

    root: str
    transcript: str
    lists: tuple[tuple[str, bytes], ...] = ()
    """Files below `root` that must have a line, without which the agent does not find the session."""
    rewrites: tuple[tuple[bytes, bytes], ...] = ()
    """What has to be exchanged in its text where it comes from another directory."""


def place_for(
    agent: Agent | None, root: str, transcript: str, was: str, directory: str, environ: Mapping[str, str]
) -> Place:
    """Where the agent looks for a transcript that was at `transcript` below `root` while it worked in `was`, once it
    works in `directory`.
    """
    if agent is None:
        return Place(root, transcript)
    homes = [home.path(environ) for home in agent.sessions.homes()]
    if homes and root not in homes and (agent.sessions.database is not None or not os.path.isdir(root)):
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
        pairs = ((os.path.join(old, transcript), os.path.join(root, here)), (was, directory))
        rewrites = [(os.fsencode(a), os.fsencode(b)) for a, b in pairs if a != b]
    lists = () if sessions.lists is None else sessions.lists(root, here, directory)
    return Place(root, here, lists, tuple(rewrites))
