"""The context: what the agent was doing. Values come from callers and agents: they are data, never code."""

from __future__ import annotations

from ..system.jsonio import Json, clean_text, dumps
from ..system.stdlib import TYPE_CHECKING, Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any
SCHEMA_VERSION = 1

#: No note, context or state file of more bytes than this is read.
MAX_CONTEXT = 1 << 20
#: A value of the context may have this many characters.
MAX_VALUE = 65_536


class Context(Record):
    """What the agent was doing, and who it was. Values come from agents: they are data, never code."""

    task_id: str | None = None
    issue_number: int | str | None = None
    workspace_path: str | None = None
    branch_name: str | None = None
    progress_stage: str | None = None
    memory_refs: tuple[str, ...] = ()
    timestamp: str | None = None
    """When this was true: UTC, ISO 8601 with a trailing Z."""
    agent: str | None = None
    session_id: str | None = None
    host: str | None = None
    boot_id: str | None = None
    pid: int | None = None
    pid_start: str | None = None
    extra: Mapping[str, Json] = {}

    def to_json(self) -> dict[str, Json]:
        """The fields by name, `extra` last."""
        found = {name: getattr(self, name) for name in CONTEXT_FIELDS}
        found["memory_refs"] = list(self.memory_refs)
        found["extra"] = dict(self.extra)
        return found

    def work(self) -> tuple[Json, ...]:
        """What has to differ for two contexts to be worth two saves: neither time nor process counts."""
        return (
            self.task_id,
            self.issue_number,
            self.progress_stage,
            self.memory_refs,
            self.agent,
            self.session_id,
            dumps(dict(sorted(self.extra.items()))),
        )


CONTEXT_FIELDS = Context._fields
#: What `set` and the options of `save` may change; the rest is measured.
CALLER_FIELDS = ("task_id", "issue_number", "progress_stage", "memory_refs", "agent", "session_id")


def issue_from_text(text: str) -> int | str:
    """An issue number as the caller gave it: a plain decimal becomes an integer, `GH-7` stays text."""
    plain = text.isascii() and text.isdigit() and len(text) <= 18 and (text == "0" or text[0] != "0")
    return int(text) if plain else text


def context_from_json(value: Mapping[str, Json]) -> Context:
    """A context from JSON that nobody vouches for: a field of the wrong type or size counts as unknown."""

    def text(name: str) -> str | None:
        found = value.get(name)
        return clean_text(found) if isinstance(found, str) and len(found) <= MAX_VALUE else None

    def number(name: str) -> int | None:
        found = value.get(name)
        return found if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 1 << 63 else None

    refs = value.get("memory_refs")
    extra = value.get("extra")
    return Context(
        task_id=text("task_id"),
        issue_number=number("issue_number") if number("issue_number") is not None else text("issue_number"),
        workspace_path=text("workspace_path"),
        branch_name=text("branch_name"),
        progress_stage=text("progress_stage"),
        memory_refs=tuple(clean_text(ref) for ref in refs if isinstance(ref, str) and len(ref) <= MAX_VALUE)
        if isinstance(refs, list)
        else (),
        timestamp=text("timestamp"),
        agent=text("agent"),
        session_id=text("session_id"),
        host=text("host"),
        boot_id=text("boot_id"),
        pid=number("pid"),
        pid_start=text("pid_start"),
        extra=extra if isinstance(extra, dict) else {},
    )


def with_values(context: Context, values: Mapping[str, str]) -> tuple[Context, list[str]]:
    """`context` with the caller's texts by field name or `extra` key; an empty text means unknown.

    Returns it with the names that were dropped because their value is too long. A name that no field has goes to
    `extra`. Measured fields (path, branch, time, process) can't be set.
    """
    fields: dict[str, Any] = {}
    extra = dict(context.extra)
    dropped = []
    for name, given in values.items():
        value = clean_text(given)
        if len(value) > MAX_VALUE:
            dropped.append(name)
        elif name == "issue_number":
            fields[name] = issue_from_text(value) if value else None
        elif name == "memory_refs":
            fields[name] = split_refs(value)
        elif name in CALLER_FIELDS:
            fields[name] = value or None
        elif value:
            extra[name] = value
        else:
            extra.pop(name, None)
    return context._replace(**fields, extra=extra), dropped


def split_refs(text: str) -> tuple[str, ...]:
    """Memory references as a loop gives them: one on a line, or separated by commas."""
    parts: Iterable[str] = text.split("\n") if "\n" in text else text.split(",")
    return tuple(part.strip() for part in parts if part.strip())
