"""Adds our hooks to the text of an agent's settings and removes them, in JSON and in TOML; the rest stays as it is.

TOML needs no library beyond Python's parser: an array of tables may be continued at the end of a file. Every new text
is parsed again before it is returned.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from ..agents.base import Agent, HookEvent, HookPosition
from ..errors import NeedsPerson
from ..system.jsonio import Json
from . import json_edit


class SettingsFormat(Protocol):
    """One text format of settings. All methods raise NeedsPerson if the text can't be understood or extended."""

    def with_hooks(self, text: str, command: str) -> str:
        """The text with one entry for each registered event that runs `command`; idempotent."""

    def without_hooks(self, text: str) -> str:
        """The text without our entries."""

    def commands(self, text: str) -> list[str]:
        """The commands of our entries, in the order of the text."""


def settings_format(agent: Agent, path: bytes) -> SettingsFormat:
    """The format of the agent's settings. Errors name the file `path`."""
    kinds: Mapping[str, Callable[[Agent, bytes], SettingsFormat]] = {
        "json": JsonSettings,
        "flat": FlatSettings,
        "toml": TomlSettings,
        "file": OwnFile,
    }
    return kinds[agent.settings.format](agent, path)


def bad_settings(path: bytes, problem: str) -> NeedsPerson:
    """The error for settings that gitstate can't change safely."""
    name = path.decode("utf-8", "backslashreplace")
    return NeedsPerson(f"{name} {problem}; nothing was changed", hint="mend that file first")


def _is_ours(agent: Agent, command: Json) -> bool:
    pattern = rf"\bgitstate\b.*\bhook {re.escape(agent.name)}"
    return isinstance(command, str) and re.search(rf"{pattern}\Z", command, re.DOTALL) is not None


class JsonEntry(NamedTuple):
    """One entry of ours in JSON settings."""

    position: HookPosition
    hooks: json_edit.Node
    """The list that holds the entry."""
    hook: json_edit.Node
    command: json_edit.Node


class JsonSettings:
    """JSON with an object `hooks`: event → list of groups → list of hooks. Comments and trailing commas are allowed."""

    def __init__(self, agent: Agent, path: bytes) -> None:
        self._agent = agent
        self._path = path

    def with_hooks(self, text: str, command: str) -> str:
        """See SettingsFormat. An entry of ours that an earlier version wrote is mended in its place."""
        if not text.strip():
            text = "{}\n"
        root = self.parse(text)
        indent = json_edit.indent_of(text, root)
        for entry in reversed(self.entries(root)):
            if self._lacks_async(entry):
                text = json_edit.insert(text, entry.hook, self._agent.settings.async_key, True, indent, 5)
            if entry.command.value != command:
                new = json.dumps(command, ensure_ascii=False)
                text = text[: entry.command.start] + new + text[entry.command.end :]
        for event in self._agent.registered_events():
            text = self._with_event(text, event, command, indent)
        self.parse(text)
        return text

    def without_hooks(self, text: str) -> str:
        """See SettingsFormat. What becomes empty with the removal goes, too: the group, the event, `hooks`."""
        while True:
            root = self.parse(text)
            entries = self.entries(root)
            if not entries:
                return text
            text = _without_entry(text, root, entries[-1])

    def commands(self, text: str) -> list[str]:
        """See SettingsFormat."""
        return [str(entry.command.value) for entry in self.entries(self.parse(text))] if text.strip() else []

    def positions(self, text: str) -> list[HookPosition]:
        """Where our entries stand, in the order of the text."""
        return [entry.position for entry in self.entries(self.parse(text))]

    def entries(self, root: json_edit.Node) -> list[JsonEntry]:
        """Our entries, in the order of the text."""
        return list(self._find_entries(root))

    def _find_entries(self, root: json_edit.Node) -> Iterator[JsonEntry]:
        events = root.item("hooks")
        for event in events.items if events is not None else ():
            for place, group in enumerate(event.node.items):
                hooks = group.node.item("hooks")
                if hooks is None:
                    continue
                for number, hook in enumerate(hooks.items):
                    command = hook.node.item("command")
                    if command is not None and _is_ours(self._agent, command.value):
                        yield JsonEntry(HookPosition(event.key or "", place, number), hooks, hook.node, command)

    def _with_event(self, text: str, event: HookEvent, command: str, indent: str) -> str:
        root = self.parse(text)
        if any(entry.position.event == event.name for entry in self.entries(root)):
            return text
        group = self._group(event, command)
        events = root.item("hooks")
        if events is None:
            return json_edit.insert(text, root, "hooks", {event.name: [group]}, indent, 0)
        groups = events.item(event.name)
        if groups is None:
            return json_edit.insert(text, events, event.name, [group], indent, 1)
        return json_edit.insert(text, groups, None, group, indent, 2)

    def _group(self, event: HookEvent, command: str) -> dict[str, Json]:
        settings = self._agent.settings
        hook: dict[str, Json] = {} if settings.entry_name is None else {"name": settings.entry_name}
        hook |= {"type": "command", "command": command, "timeout": event.timeout * settings.units_per_second}
        if settings.async_key is not None and _is_awaited_by_nobody(event):
            hook[settings.async_key] = True
        return {**({"matcher": event.matcher} if event.matcher else {}), "hooks": [hook]}

    def _lacks_async(self, entry: JsonEntry) -> bool:
        key, event = self._agent.settings.async_key, self._agent.event(entry.position.event)
        return key is not None and event is not None and _is_awaited_by_nobody(event) and key not in entry.hook.value

    def parse(self, text: str) -> json_edit.Node:
        """The text as a tree. Raises NeedsPerson."""
        try:
            root = json_edit.parse(text)
        except (ValueError, RecursionError) as error:
            raise bad_settings(self._path, f"is not JSON ({str(error)[:80]})") from None
        hooks = root.value.get("hooks", {}) if isinstance(root.value, dict) else None
        if not isinstance(hooks, dict) or not all(isinstance(groups, list) for groups in hooks.values()):
            raise bad_settings(self._path, "does not hold hooks by event")
        return root


def _is_awaited_by_nobody(event: HookEvent) -> bool:
    return event.meaning in ("tool", "compaction")


def _without_entry(text: str, root: json_edit.Node, entry: JsonEntry) -> str:
    event, place, number = entry.position
    events = root.item("hooks")
    groups = events.item(event) if events is not None else None
    assert events is not None and groups is not None, "the entry was found there"
    if not json_edit.is_alone(text, entry.hooks):
        return json_edit.remove(text, entry.hooks, number)
    if not json_edit.is_alone(text, groups):
        return json_edit.remove(text, groups, place)
    return _without_event(text, root, events, event)


def _without_event(text: str, root: json_edit.Node, events: json_edit.Node, event: str) -> str:
    if not json_edit.is_alone(text, events):
        return json_edit.remove(text, events, _place_of_key(events, event))
    return json_edit.remove(text, root, _place_of_key(root, "hooks"))


def _place_of_key(node: json_edit.Node, key: str) -> int:
    return [item.key for item in node.items].index(key)


class TomlSettings:
    """TOML with an array of tables `[[hooks]]`. Ours stand in one block between two comment lines, at the end."""

    def __init__(self, agent: Agent, path: bytes) -> None:
        self._agent = agent
        self._path = path
        self._first = f"# >>> gitstate >>> `gitstate uninstall --agent {agent.name}` takes these lines out\n"
        self._last = "# <<< gitstate <<<\n"

    def with_hooks(self, text: str, command: str) -> str:
        """See SettingsFormat."""
        events = self._agent.registered_events()
        wanted = [(event.name, command, self._timeout(event)) for event in events]
        if [(hook.get("event"), hook.get("command"), hook.get("timeout")) for hook in self._ours(text)] == wanted:
            return text
        rest = self.without_hooks(text)
        after = rest + ("\n" if rest else "") + self._block(command)
        try:
            added = [hook["command"] for hook in tomllib.loads(after)["hooks"]][-len(wanted) :]
        except (ValueError, KeyError):
            added = []
        if added != [command] * len(wanted):
            problem = "lists its hooks in one line, not as [[hooks]] tables that can be continued"
            raise bad_settings(self._path, problem)
        return after

    def without_hooks(self, text: str) -> str:
        """See SettingsFormat. Single tables are removed where the agent has rewritten its settings without comments."""
        before = self._parse(text)
        block = rf"\n?{re.escape(self._first)}.*?{re.escape(self._last)}"
        after = re.sub(block, "", text, flags=re.DOTALL)
        if self._ours(after):
            parts = re.split(r"(?m)^(?=[ \t]*\[)", after)
            after = "".join(part for part in parts if not self._is_our_table(part))
        others = [hook for hook in before.get("hooks", []) if not _is_ours(self._agent, hook.get("command"))]
        wanted = {**_without_key(before, "hooks"), **({"hooks": others} if others else {})}
        left = self._parse(after)
        if (left if left.get("hooks") else _without_key(left, "hooks")) != wanted:
            raise bad_settings(self._path, "holds gitstate's lines where they can't be told from others")
        return after

    def commands(self, text: str) -> list[str]:
        """See SettingsFormat."""
        return [hook["command"] for hook in self._ours(text)]

    def _ours(self, text: str) -> list[dict[str, Json]]:
        return [hook for hook in self._parse(text).get("hooks", []) if _is_ours(self._agent, hook.get("command"))]

    def _parse(self, text: str) -> dict[str, Json]:
        try:
            value = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise bad_settings(self._path, f"is not TOML ({str(error)[:80]})") from None
        hooks = value.get("hooks", [])
        if not isinstance(hooks, list) or not all(isinstance(hook, dict) for hook in hooks):
            raise bad_settings(self._path, "does not hold hooks as [[hooks]]")
        return value

    def _block(self, command: str) -> str:
        # A JSON string in ASCII is a TOML basic string.
        tables = [
            f"[[hooks]]\nevent = {json.dumps(event.name)}\ncommand = {json.dumps(command)}\n"
            f"timeout = {self._timeout(event)}\n"
            for event in self._agent.registered_events()
        ]
        return self._first + "\n".join(tables) + self._last

    def _timeout(self, event: HookEvent) -> int:
        return event.timeout * self._agent.settings.units_per_second

    def _is_our_table(self, part: str) -> bool:
        if not part.lstrip().startswith("[[hooks]]"):
            return False
        try:
            (hook,) = tomllib.loads(part)["hooks"]
        except ValueError:
            return False
        return _is_ours(self._agent, hook.get("command"))


def _without_key(value: Mapping[str, Json], key: str) -> dict[str, Json]:
    return {name: item for name, item in value.items() if name != key}


class FlatSettings:
    """JSON with `version` and an object `hooks`: event → list of hooks."""

    def __init__(self, agent: Agent, path: bytes) -> None:
        self._agent = agent
        self._path = path

    def with_hooks(self, text: str, command: str) -> str:
        """See SettingsFormat. An entry of ours that runs another command is mended in its place."""
        root = self._parse(text if text.strip() else "{}\n")
        text = text if text.strip() else "{}\n"
        indent = json_edit.indent_of(text, root)
        if root.item("version") is None:
            text = json_edit.insert(text, root, "version", 1, indent, 0)
        for _, _, node in reversed(self._entries(self._parse(text))):
            if node.value != command:
                text = text[: node.start] + json.dumps(command, ensure_ascii=False) + text[node.end :]
        for event in self._agent.registered_events():
            text = self._with_event(text, event, command, indent)
        self._parse(text)
        return text

    def without_hooks(self, text: str) -> str:
        """See SettingsFormat. What becomes empty with the removal goes, too."""
        while True:
            root = self._parse(text)
            entries = self._entries(root)
            events = root.item("hooks")
            if not entries or events is None:
                return text
            event, number, _ = entries[-1]
            hooks = events.item(event)
            assert hooks is not None, "the entry was found there"
            if json_edit.is_alone(text, hooks):
                text = _without_event(text, root, events, event)
            else:
                text = json_edit.remove(text, hooks, number)

    def commands(self, text: str) -> list[str]:
        """See SettingsFormat."""
        return [str(node.value) for _, _, node in self._entries(self._parse(text))] if text.strip() else []

    def _entries(self, root: json_edit.Node) -> list[tuple[str, int, json_edit.Node]]:
        """Our entries in the order of the text: event, number in its list, and the command."""
        events = root.item("hooks")
        key = self._agent.settings.command_key
        return [
            (event.key or "", number, command)
            for event in (events.items if events is not None else ())
            for number, hook in enumerate(event.node.items)
            if (command := hook.node.item(key)) is not None and _is_ours(self._agent, command.value)
        ]

    def _with_event(self, text: str, event: HookEvent, command: str, indent: str) -> str:
        root = self._parse(text)
        if any(name == event.name for name, _, _ in self._entries(root)):
            return text
        settings = self._agent.settings
        timeout = {settings.timeout_key: event.timeout * settings.units_per_second}
        hook: dict[str, Json] = {"type": "command", settings.command_key: command, **timeout}
        events = root.item("hooks")
        if events is None:
            return json_edit.insert(text, root, "hooks", {event.name: [hook]}, indent, 0)
        hooks = events.item(event.name)
        if hooks is None:
            return json_edit.insert(text, events, event.name, [hook], indent, 1)
        return json_edit.insert(text, hooks, None, hook, indent, 2)

    def _parse(self, text: str) -> json_edit.Node:
        return JsonSettings(self._agent, self._path).parse(text)


class OwnFile:
    """A file that is ours as a whole."""

    def __init__(self, agent: Agent, path: bytes) -> None:
        self._agent = agent
        self._path = path

    def with_hooks(self, text: str, command: str) -> str:
        """See SettingsFormat."""
        if text.strip() and not self.commands(text):
            raise bad_settings(self._path, "is not gitstate's")
        return self._agent.settings.text.replace("@COMMAND@", json.dumps(command))

    def without_hooks(self, text: str) -> str:
        """See SettingsFormat."""
        return "" if self.commands(text) else text

    def commands(self, text: str) -> list[str]:
        """See SettingsFormat. One file stands for all events."""
        before, _, after = self._agent.settings.text.partition("@COMMAND@")
        if not text.startswith(before[:40]):
            return []
        line = text[len(before) : len(text) - len(after)] if text.startswith(before) and text.endswith(after) else ""
        try:
            command = json.loads(line)
        except ValueError:
            command = "an older plugin"
        return [str(command)] * len(self._agent.registered_events())
