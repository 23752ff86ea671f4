"""The context: what the agent was doing, and who it was. Its values come from agents: data, never code."""

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
#: The key of `extra` that names, in a save of a worktree that an agent made for itself, the workspace of its run.
RUN_WORKSPACE = "run_workspace"
#: The fields that are one text each, which a caller may give.
CONTEXT_TEXTS = ("task_id", "issue_number", "progress_stage", "agent", "session_id")
#: The variables of the first sketch, which a loop may export.
_LEGACY = {
    "task_id": "CURRENT_TASK_ID",
    "issue_number": "ISSUE_NUMBER",
    "progress_stage": "PROGRESS_STAGE",
    "memory_refs": "MEMORY_REFS",
}


def exported_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Map names of the context to texts of the environment. GITSTATE_NAME wins over the first sketch's name."""
    found: dict[str, str] = {}
    for name in (*CONTEXT_TEXTS, "memory_refs"):
        for variable in (_LEGACY.get(name, ""), f"GITSTATE_{name.upper()}"):
            if environ.get(variable):
                found[name] = environ[variable]
    return found


class Context(Record):
    """What the agent was doing, and who it was. A field is None, or empty, where that is unknown."""

    task_id: str | None = None
    """The task, as the caller names it."""
    issue_number: int | str | None = None
    """The issue: an integer where the caller gave a plain decimal, else its text (`GH-7`)."""
    workspace_path: str | None = None
    """The absolute path of the worktree's top; undecodable bytes are escaped. None in a context never written."""
    branch_name: str | None = None
    """The branch without `refs/heads/`; None where HEAD was detached."""
    progress_stage: str | None = None
    """How far the task is, as the caller describes it."""
    memory_refs: tuple[str, ...] = ()
    """Where the agent keeps notes of its own: paths, URLs or ids."""
    timestamp: str | None = None
    """When this was true: UTC, ISO 8601 with a trailing Z. None in a context never written."""
    agent: str | None = None
    """The agent program, by one of the names in `agents`, or another that the caller gave."""
    session_id: str | None = None
    """The agent's own id of its session, with which it can be resumed."""
    host: str | None = None
    """The host name. None in a context never written."""
    boot_id: str | None = None
    """The boot in which the process ran, as `boot_id` in `system.process` tells; None where the system has none."""
    pid: int | None = None
    """The process that owned the workspace; None where nobody did."""
    pid_start: str | None = None
    """Its start time, as `process_start` tells; None as `pid`, and where the system does not tell."""
    extra: Mapping[str, Json] = {}
    """The caller's own keys."""

    def to_json(self) -> dict[str, Json]:
        """The fields by name, `extra` last."""
        found = {name: getattr(self, name) for name in CONTEXT_FIELDS}
        found["memory_refs"] = list(self.memory_refs)
        found["extra"] = dict(self.extra)
        return found

    def work(self) -> tuple[Json, ...]:
        """The values that make a new save worth while where they differ; time and process are not among them."""
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
#: The fields that `set` and the options of `save` may change; the others are measured.
CALLER_FIELDS = ("task_id", "issue_number", "progress_stage", "memory_refs", "agent", "session_id")


def issue_from_text(text: str) -> int | str:
    """An issue number as the caller gave it: a plain decimal becomes an integer, `GH-7` stays text."""
    plain = text.isascii() and text.isdigit() and len(text) <= 18 and (text == "0" or text[0] != "0")
    return int(text) if plain else text


def context_from_json(value: Mapping[str, Json]) -> Context:
    """A context from untrusted JSON: a field of the wrong type or size counts as unknown."""

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
    """`context` with the caller's texts, which `values` maps from the names of fields; an empty text means unknown.

    A name that is no caller's field becomes a key of `extra`. Returns also the names whose value was too long, and was
    cut: no value costs a save, and the context stays small enough to be read.
    """
    fields: dict[str, Any] = {}
    extra = dict(context.extra)
    cut = []
    for name, text in values.items():
        value = clean_text(text[: MAX_VALUE + 1])
        if len(value) > MAX_VALUE:
            cut.append(name)
            value = value[:MAX_VALUE]
        if name == "issue_number":
            fields[name] = issue_from_text(value) if value else None
        elif name == "memory_refs":
            fields[name] = split_refs(value)
        elif name in CALLER_FIELDS:
            fields[name] = value or None
        elif value:
            extra[name] = value
        else:
            extra.pop(name, None)
    return _fitting(context._replace(**fields, extra=extra), cut)


def is_of_other_task(context: Context, values: Mapping[str, str]) -> bool:
    """Whether `values` name another task than `context` does: its issue, stage and notes are not those of that one."""
    task_id = clean_text(values.get("task_id", "")[:MAX_VALUE])
    return bool(task_id) and context.task_id not in (None, task_id)


def _fitting(context: Context, cut: list[str]) -> tuple[Context, list[str]]:
    """`context` with its longest values cut until it is at most half as large as what is read of one.

    `cut` are the names of the values that were cut before; returned are those and the new ones.
    """
    while len(dumps(context.to_json())) > MAX_CONTEXT // 2:
        fields = {**context.extra, **{name: getattr(context, name) for name in CALLER_FIELDS}}
        sizes = {name: len(dumps({name: list(v) if isinstance(v, tuple) else v})) for name, v in fields.items()}
        name = max(sizes, key=lambda name: sizes[name])
        value = fields[name]
        if isinstance(value, tuple):
            context = context._replace(memory_refs=value[: len(value) // 2])
        else:
            short = value[: len(value) // 2] if isinstance(value, str) else ""
            if name in CALLER_FIELDS:
                shorter: dict[str, Any] = {name: short or None}
                context = context._replace(**shorter)
            else:
                kept = {key: short if key == name else text for key, text in context.extra.items()}
                context = context._replace(extra={key: text for key, text in kept.items() if text != ""})
        if name not in cut:
            cut.append(name)
    return context, cut


def split_refs(text: str) -> tuple[str, ...]:
    """Memory references from one text: one on each line, or separated by commas."""
    parts: Iterable[str] = text.split("\n") if "\n" in text else text.split(",")
    return tuple(part.strip() for part in parts if part.strip())
