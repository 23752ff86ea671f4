"""Installs gitstate's hooks in the settings of an agent, for a user or for a project, and uninstalls them.

`install` and `uninstall` return what would change; `carry_out` changes it, by one rename. The settings as they were
before are kept below the user's state directory until `uninstall`: where nothing else changed since, they are put back
byte for byte, else our entries alone are removed.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ..agents.base import Agent
from ..agents.registry import agent_named, all_agents
from ..errors import BadJson, NeedsPerson, UsageError
from ..system import child, files
from ..system.jsonio import dumps, loads
from .settings import JsonSettings, bad_settings, settings_format

#: Larger settings are not read, in bytes.
_MAX_SETTINGS = 4 << 20


class Change(NamedTuple):
    """What would change in one file of settings."""

    agent: str
    """The agent's name."""
    path: bytes
    outcome: Literal["installed", "already", "removed", "absent"]
    before: bytes | None
    """The content of the file; None if there is no file."""
    after: bytes | None
    """The new content; None if the file is removed, or there is none."""
    record: bytes
    """The path of the record that holds the original settings."""
    notes: tuple[str, ...] = ()
    """What the user has to know afterwards."""
    made: tuple[bytes, ...] = ()
    """Directories that have to be made for the file, or were made for it, the outermost first."""

    def diff(self) -> str:
        """The change as a unified diff; an empty text if nothing changes."""
        if self.before == self.after:
            return ""
        name = os.fsdecode(self.path)
        old_name, new_name = ("/dev/null" if data is None else name for data in (self.before, self.after))
        lines = difflib.unified_diff(_lines(self.before), _lines(self.after), old_name, new_name)
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)


def _lines(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "surrogateescape").splitlines(True)


def install(agent_name: str, project: bytes | None, environ: Mapping[str, str]) -> Change:
    """The change that puts our entries into the settings of the user, or of a project (its top directory).

    Raises UsageError if the agent has no such settings, NeedsPerson if they can't be read or extended.
    """
    agent = _known(agent_name)
    path = settings_path(agent, project, environ)
    record = _record_path(agent, path, environ)
    before = _read(path)
    # A project's settings go to other machines: there gitstate is where PATH says, or not installed.
    portable = f"! command -v gitstate >/dev/null 2>&1 || gitstate hook {agent.name}"
    command = portable if project is not None else child.shell_command("hook", agent.name)
    text = _text(before, path)
    after = settings_format(agent, path).with_hooks(text, command)
    if after == text and before is not None:
        return Change(agent.name, path, "already", before, before, record)
    data = after.encode("utf-8", "surrogateescape")
    made = _missing_directories(os.path.dirname(path))
    notes = (*agent.settings.notes, *(agent.settings.project_notes if project is not None else ()))
    return Change(agent.name, path, "installed", before, data, record, notes, made)


def uninstall(agent_name: str, project: bytes | None, environ: Mapping[str, str]) -> Change:
    """The change that removes our entries; raises as `install` does."""
    agent = _known(agent_name)
    path = settings_path(agent, project, environ)
    record = _record_path(agent, path, environ)
    before = _read(path)
    if before is None:
        return Change(agent.name, path, "absent", None, None, record)
    kept = _read_record(record)
    if kept is not None and kept.after == hashlib.sha256(before).hexdigest():
        return Change(agent.name, path, "removed", before, kept.before, record, made=kept.made)
    text = _text(before, path)
    after = settings_format(agent, path).without_hooks(text)
    if after == text:
        return Change(agent.name, path, "absent", before, before, record)
    left = "".join(after.split())
    if (kept is None or kept.before is None) and agent.settings.format == "file":
        return Change(agent.name, path, "removed", before, None, record, made=kept.made if kept is not None else ())
    if kept is not None and kept.before is None and left in ("", "{}", '{"version":1}'):
        return Change(agent.name, path, "removed", before, None, record, made=kept.made)
    return Change(agent.name, path, "removed", before, after.encode("utf-8", "surrogateescape"), record)


def carry_out(change: Change) -> None:
    """Make the change. A kill leaves the settings as they were before or as they are after it. Raises OSError."""
    if change.outcome == "installed" and change.after is not None:
        _write_record(change)
        files.make_directory(os.path.dirname(change.path), top=b"/")
        _write(change.path, change.after)
    elif change.outcome == "removed":
        if change.after is None:
            files.remove(change.path)
        else:
            _write(change.path, change.after)
        _remove_empty(change.made)
    if change.outcome in ("removed", "absent"):
        _remove_record(change.record)


def settings_path(agent: Agent, project: bytes | None, environ: Mapping[str, str]) -> bytes:
    """The file that holds the agent's hooks, of the user or of a project; the target if it is a symlink.

    Raises UsageError if the agent reads no hooks from a project.
    """
    settings = agent.settings
    if project is None:
        directory = settings.home.path(environ)
    elif settings.in_projects:
        directory = os.path.join(os.fsdecode(project), settings.home.directory)
        if settings.project_file is not None:
            return os.path.realpath(os.path.join(project, os.fsencode(settings.project_file)))
    else:
        raise UsageError(f"{agent.name} reads no hooks from a project", hint=f"gitstate install --agent {agent.name}")
    return os.path.realpath(os.fsencode(os.path.abspath(os.path.join(directory, settings.file))))


def agent_problems(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """What keeps the user's agents from calling gitstate: each in words, with the command that mends it.

    An agent whose hooks were never installed is no problem.
    """
    problems: list[tuple[str, str | None]] = []
    for agent in all_agents():
        path = settings_path(agent, None, environ)
        try:
            problem = _problem(agent, path)
        except NeedsPerson as error:
            problem = (error.message, None)
        if problem is not None:
            problems.append(problem)
    return problems


def _problem(agent: Agent, path: bytes) -> tuple[str, str | None] | None:
    text = _text(_read(path), path)
    settings = settings_format(agent, path)
    commands = settings.commands(text)
    if not commands:
        return None
    name = path.decode("utf-8", "backslashreplace")
    reinstall = f"gitstate install --agent {agent.name}"
    if set(commands) != {child.shell_command("hook", agent.name)}:
        return f"the hooks in {name} start another gitstate than this one", reinstall
    if len(commands) < len(agent.registered_events()):
        return f"some of gitstate's hooks are missing from {name}", reinstall
    if agent.settings.untrusted is not None and isinstance(settings, JsonSettings):
        untrusted = agent.settings.untrusted(path, settings.positions(text))
        if untrusted:
            program_name = agent.commands[0]
            return f"{program_name} passes over the hooks that you did not trust: {', '.join(untrusted)}", program_name
    return None


def _known(name: str) -> Agent:
    agent = agent_named(name)
    if agent is None:
        raise UsageError(f"there is no agent {name}", hint="gitstate install --help")
    return agent


# -- the file


def _read(path: bytes) -> bytes | None:
    data = files.read_limited(path, _MAX_SETTINGS)
    if data is None and os.path.lexists(path):
        raise bad_settings(path, f"is no file, or larger than {_MAX_SETTINGS} bytes")
    return data


def _text(data: bytes | None, path: bytes) -> str:
    try:
        return (data or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise bad_settings(path, "is not UTF-8") from None


def _write(path: bytes, data: bytes) -> None:
    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mode = 0o600
    directory = os.path.dirname(path)
    for name in os.listdir(directory):
        # A temporary file of an install that was killed.
        if re.fullmatch(re.escape(os.path.basename(path)) + rb"\.tmp-[0-9]+", name):
            files.remove(os.path.join(directory, name))
    files.write_atomic(path, data, staging=directory, mode=mode)


def _missing_directories(directory: bytes) -> tuple[bytes, ...]:
    missing: list[bytes] = []
    while not os.path.isdir(directory):
        missing.insert(0, directory)
        directory = os.path.dirname(directory)
    return tuple(missing)


def _remove_empty(directories: Sequence[bytes]) -> None:
    for directory in reversed(directories):
        try:
            os.rmdir(directory)
        except OSError:
            return


# -- the record of the original settings


class OriginalSettings(NamedTuple):
    """What a file of settings was before our first change."""

    before: bytes | None
    """Its content; None if there was no file."""
    after: str
    """The SHA-256 of what we wrote in its place, in hex."""
    made: tuple[bytes, ...]
    """Directories that were made for the file, the outermost first."""
    made_record: tuple[bytes, ...]
    """Directories that were made for this record, the outermost first."""


def _record_path(agent: Agent, path: bytes, environ: Mapping[str, str]) -> bytes:
    home = files.home(os.fsencode(environ.get("HOME", "")))
    named = environ.get("XDG_STATE_HOME", "")
    top = named if named.startswith("/") else os.path.join(os.fsdecode(home), ".local", "state")
    name = f"{agent.name}-{hashlib.sha256(path).hexdigest()[:16]}.json"
    return os.fsencode(os.path.join(top, "gitstate", "agents", name))


def _read_record(path: bytes) -> OriginalSettings | None:
    try:
        value = loads(files.read_limited(path, 4 * _MAX_SETTINGS), 4 * _MAX_SETTINGS, "the record")
        before = value["before"]
        made, made_record = (tuple(os.fsencode(str(name)) for name in value[key]) for key in ("made", "made_record"))
        decoded = None if before is None else base64.b64decode(before)
        return OriginalSettings(decoded, str(value["after"]), made, made_record)
    except (BadJson, KeyError, TypeError, binascii.Error):
        return None


def _write_record(change: Change) -> None:
    """Keep the original settings. If we wrote the current ones ourselves, the earlier record holds the original."""
    kept = _read_record(change.record)
    before, made = change.before, change.made
    if kept is not None and before is not None and kept.after == hashlib.sha256(before).hexdigest():
        before, made = kept.before, kept.made
    elif before is not None:
        before = _without_ours(change, before, kept)
    directory = os.path.dirname(change.record)
    made_record = kept.made_record if kept is not None else _missing_directories(directory)
    value = {
        "before": None if before is None else base64.b64encode(before).decode("ascii"),
        "after": hashlib.sha256(change.after or b"").hexdigest(),
        "made": [os.fsdecode(name) for name in made],
        "made_record": [os.fsdecode(name) for name in made_record],
    }
    files.make_directory(directory, top=b"/")
    files.write_atomic(change.record, dumps(value), staging=directory)


def _without_ours(change: Change, before: bytes, kept: OriginalSettings | None) -> bytes | None:
    """What was there without entries of ours: those of an older gitstate are not the user's. None for no file."""
    settings = settings_format(_known(change.agent), change.path)
    try:
        text = before.decode("utf-8")
        if not settings.commands(text):
            return before
        rest = settings.without_hooks(text)
    except (NeedsPerson, UnicodeDecodeError):
        return before
    is_ours = not rest.strip() or (kept is not None and kept.before is None and rest.strip() == "{}")
    return None if is_ours else rest.encode("utf-8")


def _remove_record(path: bytes) -> None:
    kept = _read_record(path)
    files.remove(path)
    directory = os.path.dirname(path)
    made = kept.made_record if kept is not None else ()
    _remove_empty(tuple(dict.fromkeys((*made, os.path.dirname(directory), directory))))
