"""Puts gitstate into an agent's own hooks: one entry for each event, merged into the settings that are there.

    claude   ~/.claude/settings.json    or .claude/settings.json of a project    timeouts in seconds
    codex    ~/.codex/hooks.json        or .codex/hooks.json        trusted by hash: the command must never change
    gemini   ~/.gemini/settings.json    or .gemini/settings.json    timeouts in milliseconds
    kimi     ~/.kimi-code/config.toml                               a field that it does not know ends it at its start

`install` and `uninstall` say what would change; `carry_out` changes it, by one rename. What the settings were before is
kept below the user's state directory until `uninstall`: where nothing else changed since, they get their very bytes
back, else our entries alone are taken out. TOML needs no library beyond Python's own parser: an array of tables may be
continued at the end of a file, and the result is parsed again before it is written.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..errors import BadJson, NeedsPerson, UsageError
from ..system import files, program
from ..system.jsonio import Json, dumps, loads
from . import json_edit

_MAX_SETTINGS = 4 << 20
_TOML_BEGIN = "# >>> gitstate >>> `gitstate uninstall --agent kimi` takes these lines out\n"
_TOML_END = "# <<< gitstate <<<\n"
_TOML_BLOCK = re.compile(r"\n?" + re.escape(_TOML_BEGIN) + r".*?" + re.escape(_TOML_END), re.DOTALL)
_OURS = re.compile(r"\bgitstate\b.*\bhook (?:claude|codex|gemini|kimi)$", re.DOTALL)


class Entry(NamedTuple):
    """One event that an agent calls us for. `matcher` bounds the tools, `timeout` is in seconds."""

    event: str
    timeout: int
    matcher: str | None = None


class Agent(NamedTuple):
    """Where an agent keeps its hooks, and which of them are of use."""

    variable: str
    """Names the directory of the user's settings, if it is set."""
    directory: str
    file: str
    entries: tuple[Entry, ...]
    in_projects: bool = True


#: Tools that may change files. Claude cuts SessionEnd after 1.5 s where no timeout is set, codex caps it at 3 s.
AGENTS: Mapping[str, Agent] = {
    "claude": Agent(
        "CLAUDE_CONFIG_DIR",
        ".claude",
        "settings.json",
        (
            Entry("SessionStart", 10),
            Entry("PostToolUse", 30, "Bash|Edit|MultiEdit|NotebookEdit|Write|mcp__.*"),
            Entry("PreCompact", 30),
            Entry("Stop", 30),
            Entry("SessionEnd", 10),
        ),
    ),
    "codex": Agent(
        "CODEX_HOME",
        ".codex",
        "hooks.json",
        (
            Entry("SessionStart", 10),
            Entry("PostToolUse", 30),
            Entry("PreCompact", 30),
            Entry("Stop", 30),
            Entry("SessionEnd", 3),
            Entry("Interrupt", 3),
        ),
    ),
    "gemini": Agent(
        "",
        ".gemini",
        "settings.json",
        (
            Entry("SessionStart", 10),
            Entry("AfterTool", 30, "write_file|replace|run_shell_command|mcp_.*"),
            Entry("AfterAgent", 30),
            Entry("PreCompress", 30),
            Entry("SessionEnd", 10),
        ),
    ),
    "kimi": Agent(
        "KIMI_CODE_HOME",
        ".kimi-code",
        "config.toml",
        (
            Entry("SessionStart", 10),
            Entry("UserPromptSubmit", 10),
            Entry("PostToolUse", 30),
            Entry("PreCompact", 30),
            Entry("Stop", 30),
            Entry("SessionEnd", 10),
            Entry("Interrupt", 10),
        ),
        in_projects=False,
    ),
}


class Change(NamedTuple):
    """What would be changed: `installed`, `already`, `removed` or `absent`. None stands for no file."""

    agent: str
    path: bytes
    outcome: str
    before: bytes | None
    after: bytes | None
    record: bytes
    """Where it is kept what the settings were before."""
    notes: tuple[str, ...] = ()
    made: tuple[bytes, ...] = ()
    """Directories that were made for the file, the outermost first."""

    def diff(self) -> str:
        """The change as a unified diff; an empty text where there is none."""
        if self.before == self.after:
            return ""
        name = os.fsdecode(self.path)
        old, new = (_lines(data) for data in (self.before, self.after))
        none = "/dev/null"
        found = difflib.unified_diff(
            old, new, none if self.before is None else name, none if self.after is None else name
        )
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in found)


def _lines(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "surrogateescape").splitlines(True)


def install(agent: str, project: bytes | None, environ: Mapping[str, str]) -> Change:
    """The change that puts our entries into the settings of the user, or of a project (its top directory).

    Raises UsageError where the agent has no such settings, NeedsPerson where they can't be read or extended.
    """
    path = settings_path(agent, project, environ)
    record = _record_path(agent, path, environ)
    before = _read(path)
    # A project's settings go to other machines: there gitstate is where PATH says, or not at all.
    portable = f"! command -v gitstate >/dev/null 2>&1 || gitstate hook {agent}"
    command = portable if project is not None else program.shell_command("hook", agent)
    text = _text(before, path)
    after = _with_toml(text, path, command) if agent == "kimi" else _with_json(text, path, agent, command)
    notes = _NOTES.get(agent, ())
    if after == text and before is not None:
        return Change(agent, path, "already", before, before, record)
    made = _missing(os.path.dirname(path))
    return Change(agent, path, "installed", before, after.encode("utf-8", "surrogateescape"), record, notes, made)


_NOTES = {
    "codex": (
        "codex runs a hook only once you trust it: start codex, then /hooks",
        "until then `codex exec` passes it over without a word; `gitstate doctor` tells",
    ),
    "kimi": ("Kimi Code runs it; the older `kimi` that ends at once does not",),
}


def uninstall(agent: str, project: bytes | None, environ: Mapping[str, str]) -> Change:
    """The change that takes our entries out again; raises as `install` does."""
    path = settings_path(agent, project, environ)
    record = _record_path(agent, path, environ)
    before = _read(path)
    if before is None:
        return Change(agent, path, "absent", None, None, record)
    kept = _read_record(record)
    if kept is not None and kept.after == hashlib.sha256(before).hexdigest():
        return Change(agent, path, "removed", before, kept.before, record, made=kept.made)
    text = _text(before, path)
    after = _without_toml(text, path) if agent == "kimi" else _without_json(text, path)
    if after == text:
        return Change(agent, path, "absent", before, before, record)
    gone = kept is not None and kept.before is None and after.strip() in ("", "{}")
    made = kept.made if kept is not None and gone else ()
    return Change(
        agent, path, "removed", before, None if gone else after.encode("utf-8", "surrogateescape"), record, made=made
    )


def carry_out(change: Change) -> None:
    """Make the change. A kill leaves the settings as they were or as they shall be. Raises OSError."""
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
        kept = _read_record(change.record)
        files.remove(change.record)
        top = os.path.dirname(change.record)
        made_record = kept.made_record if kept is not None else ()
        _remove_empty(tuple(dict.fromkeys((*made_record, os.path.dirname(top), top))))


def settings_path(agent: str, project: bytes | None, environ: Mapping[str, str]) -> bytes:
    """The file that holds the agent's hooks; where it is a symlink, what that leads to."""
    known = AGENTS[agent]
    if project is None:
        home = environ.get("HOME") or os.path.expanduser("~")
        top = environ.get(known.variable) if known.variable else None
        path = os.path.join(top or os.path.join(home, known.directory), known.file)
    elif known.in_projects:
        path = os.path.join(os.fsdecode(project), known.directory, known.file)
    else:
        raise UsageError(f"{agent} reads no hooks from a project", hint=f"gitstate install --agent {agent}")
    return os.path.realpath(os.fsencode(os.path.abspath(path)))


def agent_problems(environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """What keeps the user's agents from calling gitstate: each in words, with the command that mends it.

    An agent whose hooks were never installed is no problem.
    """
    problems: list[tuple[str, str | None]] = []
    for agent in AGENTS:
        path = settings_path(agent, None, environ)
        name = path.decode("utf-8", "backslashreplace")
        try:
            before = _read(path)
            text = _text(before, path)
            found = _commands(text, path, agent)
        except NeedsPerson as error:
            problems.append((error.message, None))
            continue
        if not found:
            continue
        mend = f"gitstate install --agent {agent}"
        if set(found) != {program.shell_command("hook", agent)}:
            problems.append((f"the hooks in {name} start another gitstate than this one", mend))
        elif len(found) < len(AGENTS[agent].entries):
            problems.append((f"some of gitstate's hooks are missing from {name}", mend))
        elif agent == "codex":
            untrusted = _untrusted(text, path)
            if untrusted:
                words = f"codex passes over the hooks that you did not trust: {', '.join(untrusted)}"
                problems.append((words, "codex"))
    return problems


def _untrusted(text: str, path: bytes) -> list[str]:
    """The events whose entry of ours codex does not trust.

    Its config.toml keeps `[hooks.state."FILE:EVENT:GROUP:NUMBER"]` with a `trusted_hash` for each reviewed hook.
    Whether the hash still fits is codex's to say.
    """
    data = files.read_limited(os.path.join(os.path.dirname(path), b"config.toml"), _MAX_SETTINGS)
    try:
        state = tomllib.loads((data or b"").decode("utf-8"))["hooks"]["state"]
        trusted = [key for key, value in state.items() if value.get("trusted_hash") and value.get("enabled", True)]
        known = {_resolved(key) for key in trusted}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        known = set()
    found = []
    for event, group, _, number, _ in _places(_parse(text, path)):
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", event).lower()
        if f"{os.fsdecode(path)}:{name}:{group}:{number}" not in known:
            found.append(event)
    return found


def _resolved(key: str) -> str:
    file, *rest = key.rsplit(":", 3)
    return ":".join((os.path.realpath(file) if "\0" not in file else file, *rest))


# -- JSON


def _group(agent: str, entry: Entry, command: str) -> dict[str, Json]:
    hook: dict[str, Json] = {"type": "command", "command": command}
    if agent == "gemini":
        hook = {"name": "gitstate", **hook}
    hook["timeout"] = entry.timeout * (1000 if agent == "gemini" else 1)
    return {**({"matcher": entry.matcher} if entry.matcher else {}), "hooks": [hook]}


def _parse(text: str, path: bytes) -> json_edit.Node:
    try:
        root = json_edit.parse(text)
    except (ValueError, RecursionError) as error:
        raise _unfit(path, f"is not JSON ({str(error)[:80]})") from None
    hooks = root.value.get("hooks", {}) if isinstance(root.value, dict) else None
    if not isinstance(hooks, dict) or not all(isinstance(groups, list) for groups in hooks.values()):
        raise _unfit(path, "does not hold hooks by event")
    return root


def _unfit(path: bytes, why: str) -> NeedsPerson:
    name = path.decode("utf-8", "backslashreplace")
    return NeedsPerson(f"{name} {why}; nothing was changed", hint="mend that file first")


def _places(root: json_edit.Node) -> list[tuple[str, int, json_edit.Node, int, json_edit.Node]]:
    """Every entry of ours: event, place of its group, the list in the group, place in that, and its command."""
    found = []
    hooks = root.item("hooks")
    for event, _, groups in hooks.items if hooks is not None else ():
        for place, (_, _, group) in enumerate(groups.items):
            inner = group.item("hooks")
            for number, (_, _, hook) in enumerate(inner.items if inner is not None else ()):
                command = hook.item("command")
                if inner is not None and command is not None and _is_ours(command.value):
                    found.append((event or "", place, inner, number, command))
    return found


def _is_ours(command: Json) -> bool:
    return isinstance(command, str) and _OURS.search(command) is not None


def _with_json(text: str, path: bytes, agent: str, command: str) -> str:
    if not text.strip():
        text = "{}\n"
    root = _parse(text, path)
    indent = json_edit.indent_of(text, root)
    for _, _, _, _, known in reversed(_places(root)):
        if known.value != command:
            text = text[: known.start] + json.dumps(command, ensure_ascii=False) + text[known.end :]
    for entry in AGENTS[agent].entries:
        root = _parse(text, path)
        if any(event == entry.event for event, *_ in _places(root)):
            continue
        hooks = root.item("hooks")
        if hooks is None:
            text = json_edit.insert(text, root, "hooks", {entry.event: [_group(agent, entry, command)]}, indent, 0)
            continue
        groups = hooks.item(entry.event)
        if groups is None:
            text = json_edit.insert(text, hooks, entry.event, [_group(agent, entry, command)], indent, 1)
        else:
            text = json_edit.insert(text, groups, None, _group(agent, entry, command), indent, 2)
    _parse(text, path)
    return text


def _without_json(text: str, path: bytes) -> str:
    while True:
        root = _parse(text, path)
        places = _places(root)
        if not places:
            return text
        event, place, inner, number, _ = places[-1]
        hooks = root.item("hooks")
        groups = hooks.item(event) if hooks is not None else None
        if hooks is None or groups is None:
            return text
        if len(inner.items) > 1:
            text = json_edit.remove(text, inner, number)
        elif len(groups.items) > 1:
            text = json_edit.remove(text, groups, place)
        elif len(hooks.items) > 1:
            text = json_edit.remove(text, hooks, [key for key, _, _ in hooks.items].index(event))
        else:
            text = json_edit.remove(text, root, [key for key, _, _ in root.items].index("hooks"))


# -- TOML


def _toml(text: str, path: bytes) -> dict[str, Json]:
    try:
        value = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unfit(path, f"is not TOML ({str(error)[:80]})") from None
    hooks = value.get("hooks", [])
    if not isinstance(hooks, list) or not all(isinstance(hook, dict) for hook in hooks):
        raise _unfit(path, "does not hold hooks as [[hooks]]")
    return value


def _toml_block(command: str) -> str:
    tables = []
    for entry in AGENTS["kimi"].entries:
        # A JSON string in ASCII is a TOML basic string.
        tables.append(f"[[hooks]]\nevent = {json.dumps(entry.event)}\ncommand = {json.dumps(command)}\n")
        tables[-1] += f"timeout = {entry.timeout}\n"
    return _TOML_BEGIN + "\n".join(tables) + _TOML_END


def _with_toml(text: str, path: bytes, command: str) -> str:
    ours = [hook for hook in _toml(text, path).get("hooks", []) if _is_ours(hook.get("command"))]
    wanted = [(entry.event, command, entry.timeout) for entry in AGENTS["kimi"].entries]
    if [(hook.get("event"), hook.get("command"), hook.get("timeout")) for hook in ours] == wanted:
        return text
    rest = _without_toml(text, path)
    after = rest + ("\n" if rest else "") + _toml_block(command)
    try:
        fits = [hook["command"] for hook in tomllib.loads(after)["hooks"]][-len(wanted) :] == [command] * len(wanted)
    except (ValueError, KeyError):
        fits = False
    if not fits:
        raise _unfit(path, "lists its hooks in one line, not as [[hooks]] tables that can be continued")
    return after


def _without_toml(text: str, path: bytes) -> str:
    """The text without our block; where the agent wrote the file anew and lost its marks, without our tables."""
    before = _toml(text, path)
    after = _TOML_BLOCK.sub("", text)
    if _count(_toml(after, path)):
        parts = re.split(r"(?m)^(?=[ \t]*\[)", after)
        after = "".join(part for part in parts if not _is_our_table(part))
    left = [hook for hook in before.get("hooks", []) if not _is_ours(hook.get("command"))]
    wanted = {**{key: value for key, value in before.items() if key != "hooks"}, **({"hooks": left} if left else {})}
    now = _toml(after, path)
    if {key: value for key, value in now.items() if value or key != "hooks"} != wanted:
        raise _unfit(path, "holds gitstate's lines where they can't be told from others")
    return after


def _count(value: Mapping[str, Json]) -> int:
    return sum(_is_ours(hook.get("command")) for hook in value.get("hooks", []))


def _is_our_table(part: str) -> bool:
    try:
        return part.lstrip().startswith("[[hooks]]") and _count(tomllib.loads(part)) == 1
    except ValueError:
        return False


def _commands(text: str, path: bytes, agent: str) -> list[str]:
    if not text.strip():
        return []
    if agent == "kimi":
        hooks = _toml(text, path).get("hooks", [])
        return [hook["command"] for hook in hooks if _is_ours(hook.get("command"))]
    return [str(command.value) for *_, command in _places(_parse(text, path))]


# -- files


class _Record(NamedTuple):
    before: bytes | None
    after: str
    made: tuple[bytes, ...]
    made_record: tuple[bytes, ...]
    """Directories that were made for the record itself."""


def _read(path: bytes) -> bytes | None:
    data = files.read_limited(path, _MAX_SETTINGS)
    if data is None and os.path.lexists(path):
        raise _unfit(path, f"is no file, or larger than {_MAX_SETTINGS} bytes")
    return data


def _text(data: bytes | None, path: bytes) -> str:
    try:
        return (data or b"").decode("utf-8")
    except UnicodeDecodeError:
        raise _unfit(path, "is not UTF-8") from None


def _write(path: bytes, data: bytes) -> None:
    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mode = 0o600
    directory = os.path.dirname(path)
    for name in os.listdir(directory):
        # What a killed install left half-written.
        if re.fullmatch(re.escape(os.path.basename(path)) + rb"\.tmp-[0-9]+", name):
            files.remove(os.path.join(directory, name))
    files.write_atomic(path, data, staging=directory, mode=mode)


def _missing(directory: bytes) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while not os.path.isdir(directory):
        found.insert(0, directory)
        directory = os.path.dirname(directory)
    return tuple(found)


def _remove_empty(directories: Sequence[bytes]) -> None:
    for directory in reversed(directories):
        try:
            os.rmdir(directory)
        except OSError:
            return


def _record_path(agent: str, path: bytes, environ: Mapping[str, str]) -> bytes:
    home = environ.get("HOME") or os.path.expanduser("~")
    top = environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state")
    name = f"{agent}-{hashlib.sha256(path).hexdigest()[:16]}.json"
    return os.fsencode(os.path.join(top, "gitstate", "agents", name))


def _read_record(path: bytes) -> _Record | None:
    try:
        value = loads(files.read_limited(path, 4 * _MAX_SETTINGS), 4 * _MAX_SETTINGS, "the record")
        before = value["before"]
        made, made_record = (tuple(os.fsencode(str(name)) for name in value[key]) for key in ("made", "made_record"))
        decoded = None if before is None else base64.b64decode(before)
        return _Record(decoded, str(value["after"]), made, made_record)
    except (BadJson, KeyError, TypeError, binascii.Error):
        return None


def _write_record(change: Change) -> None:
    """Keep what the settings were; those that we changed ourselves before are not what they were."""
    kept = _read_record(change.record)
    before, made = change.before, change.made
    if kept is not None and before is not None and kept.after == hashlib.sha256(before).hexdigest():
        before, made = kept.before, kept.made
    directory = os.path.dirname(change.record)
    made_record = kept.made_record if kept is not None else _missing(directory)
    value = {
        "before": None if before is None else base64.b64encode(before).decode("ascii"),
        "after": hashlib.sha256(change.after or b"").hexdigest(),
        "made": [os.fsdecode(name) for name in made],
        "made_record": [os.fsdecode(name) for name in made_record],
    }
    files.make_directory(directory, top=b"/")
    files.write_atomic(change.record, dumps(value), staging=directory)
