"""What gitstate does when an agent calls its hook: record the context, take a checkpoint, brief a new session.

The event comes as JSON on stdin. It was written by an agent and is not trusted: sizes and types are checked, and every
value is data. Whatever fails, the agent reads an empty answer and sees success; `gitstate doctor` reports the failure.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..agents.base import Agent, Briefing, HookEvent, Payload
from ..agents.registry import agent_named, session_owner
from ..errors import BadJson, GitstateError
from ..format import names
from ..format.context import MAX_CONTEXT, Context, with_values
from ..format.names import is_save_id
from ..git import refs
from ..git.repository import Repository, open_repository, read_head
from ..system import files, process
from ..system.clock import now
from ..system.jsonio import Json, dumps, loads, text_to_json
from ..system.terminal import say
from ..workspace import lease
from ..workspace.live_context import read_live_context, replace_context, with_measured_fields
from ..workspace.settings import OF_SAVE, number, with_defaults
from ..workspace.state_file import ACTIVE, FINISHED, RECOVERED, read_state, write_state

if TYPE_CHECKING:
    from ..agents.base import Meaning
    from ..workspace.state_file import Status

#: A larger event is ignored, in bytes: it may hold the whole output of a tool.
_MAX_EVENT = 32 << 20
#: The event is ignored if the agent has not closed its end of stdin by then, in seconds.
_READ_TIMEOUT = 2.0
#: The pause after a checkpoint is at least this many times as long as the checkpoint took.
_PAUSE_FACTOR = 20
#: A longer text in an event counts as unknown, in characters.
_MAX_TEXT = 4096
#: A longer briefing is cut, in characters.
_MAX_BRIEFING = 8192
_MEMORY_FILE = b"agent-hook.json"

#: The agent stops, forgets or ends: a checkpoint is taken at once.
_CHECKPOINT_AT_ONCE: tuple[Meaning, ...] = ("compaction", "turn_end", "session_end")


class EventData(NamedTuple):
    """What is used of an agent's event. None stands for a value that is missing or not valid."""

    name: str
    session_id: str | None
    transcript_path: str | None
    directory: str | None
    """The agent's working directory: an absolute path that exists."""


class HookMemory(NamedTuple):
    """What one hook leaves for the next one in the same workspace."""

    last_ns: int = 0
    """When the last checkpoint ended, in nanoseconds since the epoch."""
    cost_ns: int = 0
    """How long it took, in nanoseconds."""
    skipped: int = 0
    """How many tool events passed without a checkpoint since then."""
    briefed: str | None = None
    """The session that was briefed last."""
    problem: str | None = None
    """Why the last hook failed; None after one that took a checkpoint."""
    since: str | None = None
    """When the first of them failed."""


def run(agent_name: str, safe: Callable[[str], str]) -> str:
    """Handle the event on stdin; returns what the agent is to read on stdout. `safe` escapes control characters."""
    agent = agent_named(agent_name)
    if agent is None:
        return ""
    data = parse_event(read_event(0), agent.payload)
    try:
        repository = open_repository(os.fsencode(data.directory or os.getcwd()))
    except (GitstateError, OSError, ValueError):
        return ""
    # The agent works on, whatever a setting says: the default takes its place, and `doctor` reports it.
    repository, _ = with_defaults(repository, ("hookInterval", *OF_SAVE))
    memory = read_memory(repository)
    answer = ""
    try:
        values = context_values(agent, data)
        event = agent.event(data.name)
        meaning = None if event is None else event.meaning
        keep_owner(repository, agent, meaning)
        pending = _pending(repository)
        if pending is None:
            keep_context(repository, values, meaning)
        if is_briefed(agent.briefing, data, memory):
            answer = format_briefing(agent.briefing, safe(briefing(repository, pending))[:_MAX_BRIEFING])
            memory = memory._replace(briefed=data.session_id)
            write_memory(repository, memory)
        if event is not None and is_due(event.meaning, memory, time.time_ns(), number(repository, "hookInterval")):
            _checkpoint(repository, values, event, memory)
        elif meaning == "tool":
            write_memory(repository, memory._replace(skipped=memory.skipped + 1))
    except (GitstateError, OSError, ValueError) as error:
        problem, since = text_to_json(f"{data.name}: {error}")[:300], memory.since if memory.problem else None
        memory = memory._replace(problem=problem, since=since or now())
        if not write_memory(repository, memory):
            # `status` and `doctor` will not know it: the agent keeps these words in its log.
            say(safe(f"gitstate: {_failing(memory)}"))
    return answer


# -- the event


def read_event(fd: int) -> dict[str, Json]:
    """The JSON object on a descriptor; an empty one if it is not valid, too large, or not complete in time."""
    parts: list[bytes] = []
    size = 0
    end = time.monotonic() + _READ_TIMEOUT
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return {}
        data = os.read(fd, 1 << 16)
        if not data:
            break
        size += len(data)
        if size <= _MAX_EVENT:
            parts.append(data)
    try:
        return loads(b"".join(parts), _MAX_EVENT, "the event") if size <= _MAX_EVENT else {}
    except BadJson:
        return {}


def parse_event(value: Mapping[str, Json], keys: Payload) -> EventData:
    """What is used of an event; a value of the wrong type, size or form counts as unknown."""

    def text(key: str) -> str | None:
        found = value.get(key)
        return found if isinstance(found, str) and 0 < len(found) <= _MAX_TEXT and "\0" not in found else None

    def absolute_path(key: str) -> str | None:
        found = text(key)
        return found if found is not None and found.startswith("/") else None

    directory = absolute_path(keys.directory)
    try:
        exists = directory is not None and os.path.isdir(directory)
    except (OSError, ValueError):
        exists = False
    return EventData(
        text(keys.event) or "",
        text(keys.session_id),
        absolute_path(keys.transcript_path),
        directory if exists else None,
    )


def context_values(agent: Agent, data: EventData) -> dict[str, str]:
    """What an event tells of the context, as `save` takes it."""
    found = {
        "agent": agent.name,
        "session_id": data.session_id,
        "transcript_path": data.transcript_path,
        "agent_cwd": data.directory,
        "progress_stage": os.environ.get("GITSTATE_PROGRESS_STAGE"),
    }
    return {name: value for name, value in found.items() if value}


# -- who works here


def keep_owner(repository: Repository, agent: Agent, meaning: Meaning | None) -> None:
    """Write down the agent's process as the owner of the workspace, until its session ends (no-op if it is there).

    A run that holds the lease, and another agent that still runs, stay on record.
    """
    owner = session_owner(agent)
    who = lease.presence(repository)
    known = who.holder
    if owner is None:
        return
    mine = known is not None and (known.kind, known.owner) == ("owner", owner)
    if meaning == "session_end":
        if mine and known is not None:
            lease.clear_holder(repository, known)
    elif not who.live:
        lease.write_holder(repository, lease.this_holder("owner", owner, agent=agent.name))


# -- the context


def keep_context(repository: Repository, values: Mapping[str, str], meaning: Meaning | None) -> None:
    """Put an event's values into the live context (no-op if they are there).

    A recovered context stays `recovered` until the agent has run a tool or ended a turn. A session without a task is
    `finished` when it ends, or it would look interrupted.
    """
    live, status = read_live_context(repository)
    context, _ = with_values(Context() if status == FINISHED else live, values)
    has_task = any((context.task_id, context.issue_number, context.progress_stage, context.pid))
    if meaning == "session_end" and not has_task:
        following: Status = FINISHED
    elif status == RECOVERED and meaning != "tool" and meaning not in _CHECKPOINT_AT_ONCE:
        following = RECOVERED
    else:
        following = ACTIVE
    if context == live and following == status:
        return
    if context.pid is None:
        context = context._replace(boot_id=process.boot_id())
    context = with_measured_fields(repository, context, read_head(repository.git_dir))
    if following == RECOVERED:
        replace_context(repository, context, following)
    else:
        write_state(repository, context, following, durable=False)


def _pending(repository: Repository) -> str | None:
    """The archive of this workspace's pending save; None where there is none."""
    marker = names.marker_ref(names.workspace_id(repository))
    return refs.read_refs(repository, [marker]).get(marker)


# -- the checkpoint


def is_due(meaning: Meaning, memory: HookMemory, now_ns: int, interval: float) -> bool:
    """Whether this event is worth a checkpoint: a tool only once in `interval` seconds.

    A checkpoint that took long is followed by a longer pause. A clock that was set back counts as no pause.
    """
    if meaning != "tool":
        return meaning in _CHECKPOINT_AT_ONCE
    pause = max(int(interval * 1e9), _PAUSE_FACTOR * memory.cost_ns)
    return not 0 <= now_ns - memory.last_ns < pause


def _checkpoint(repository: Repository, values: Mapping[str, str], event: HookEvent, memory: HookMemory) -> None:
    from ..save.request import SaveRequest
    from ..save.save import save

    begun = time.monotonic_ns()
    request = SaveRequest(kind="checkpoint", values=values, deadline=event.deadline, wait=1.0)
    save(repository.toplevel, request)
    cost = time.monotonic_ns() - begun
    write_memory(repository, HookMemory(last_ns=time.time_ns(), cost_ns=cost, briefed=memory.briefed))


def read_memory(repository: Repository) -> HookMemory:
    """What the last hook left; an empty record if nothing can be read."""
    return _read_memory(repository.own)


def _read_memory(own: bytes) -> HookMemory:
    data = files.read_limited(os.path.join(own, _MEMORY_FILE), MAX_CONTEXT)
    try:
        value = loads(data, MAX_CONTEXT, "the hook's memory")
    except BadJson:
        return HookMemory()

    def number(name: str) -> int:
        found = value.get(name)
        return found if isinstance(found, int) and 0 <= found < 1 << 63 else 0

    def text(name: str) -> str | None:
        found = value.get(name)
        return found if isinstance(found, str) else None

    return HookMemory(
        number("last_ns"), number("cost_ns"), number("skipped"), text("briefed"), text("problem"), text("since")
    )


def write_memory(repository: Repository, memory: HookMemory) -> bool:
    """Leave `memory` to the next hook; False where it can't be written: the next hook takes a checkpoint sooner."""
    try:
        files.make_directory(repository.own, top=repository.git_dir)
        path = os.path.join(repository.own, _MEMORY_FILE)
        files.write_atomic(path, dumps(memory._asdict()), staging=repository.own, durable=False)
    except OSError:
        return False
    return True


def last_problem(repository: Repository) -> list[tuple[str, str | None]]:
    """Why the last hook failed, if no later one took a checkpoint, with the command that shows the error again."""
    problem = failing_hook(repository.git_dir)
    return [] if problem is None else [(problem, "gitstate checkpoint")]


def failing_hook(git_dir: bytes) -> str | None:
    """Why the last hook in a workspace took no checkpoint, and since when; None if a later one took one."""
    memory = _read_memory(os.path.join(git_dir, b"gitstate"))
    return None if memory.problem is None else _failing(memory)


def _failing(memory: HookMemory) -> str:
    since = f" (since {memory.since})" if memory.since else ""
    return f"an agent's hook took no checkpoint: {memory.problem}{since}"


# -- the briefing


def is_briefed(how: Briefing, data: EventData, memory: HookMemory) -> bool:
    """Whether the agent hands the answer to this event to the model, and its session has none yet."""
    return data.name == how.event and not (how.once and memory.briefed == data.session_id)


def format_briefing(how: Briefing, text: str) -> str:
    """`text` for the model in the form that the agent reads from a hook; an empty text if there is nothing to tell."""
    if not text:
        return ""
    if how.format == "json":
        answer = {"hookSpecificOutput": {"hookEventName": how.event, "additionalContext": text}}
        return json.dumps(answer, ensure_ascii=True) + "\n"
    return text + "\n"


def briefing(repository: Repository, pending: str | None) -> str:
    """What a new session should know of the workspace; an empty text if there is nothing to tell.

    `pending` is the archive of the pending save.
    """
    if pending is not None:
        return _of_pending_save(repository, pending)
    # The live context stands in the git directory. The state file stands in the worktree, and a repository may contain
    # one: its briefing is used only if it names a save of this repository.
    live, status = read_live_context(repository)
    state = read_state(repository) if status == RECOVERED else {}
    told, save = state.get("briefing"), state.get("save")
    save_id = save.get("save_id") if isinstance(save, dict) else None
    if isinstance(told, str) and is_save_id(save_id):
        known = refs.list_refs(repository.git, names.SAVES)
        if any(ref.endswith(f"/{save_id}") for ref in known):
            return told
    return _task(live)


def _of_pending_save(repository: Repository, archive: str) -> str:
    from ..format.archive import read_save
    from ..objects.reader import ObjectReader

    with ObjectReader(repository.git) as reader:
        save = read_save(archive, reader)
    lines = [
        f"This workspace has interrupted work in pending save {save.manifest.save_id}.",
        "Before you change anything here, run `gitstate recover`: it restores the files as they were.",
        _task(save.context),
    ]
    return "\n".join(line for line in lines if line)


def _task(context: Context) -> str:
    fields = {
        "task": context.task_id,
        "issue": context.issue_number,
        "stage": context.progress_stage,
        "branch": context.branch_name,
        "notes": ", ".join(context.memory_refs[:12]) or None,
    }
    known = [f"{name} {value}" for name, value in fields.items() if value is not None]
    return f"Current work: {'; '.join(known)}." if context.task_id or context.progress_stage else ""
