"""What gitstate does when an agent calls its hook: record the context, take a checkpoint, brief a new session.

The event comes as JSON on stdin. It was written by an agent and is not trusted: sizes and types are checked, and every
value is data. Whatever fails, the agent reads an empty answer and sees success; `gitstate doctor` reports the failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..agents.base import Agent, Briefing, HookEvent, Payload
from ..agents.registry import agent_named, agent_names, session_owner
from ..conversation.turn import read_turn, write_turn
from ..errors import BadJson, GitstateError, words_of
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
from .agent_stop import write_stop

if TYPE_CHECKING:
    from ..agents.base import Meaning
    from ..conversation.turn import Turn
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
#: What the command's script reads, to tell without Python that nothing is due: see `write_stamp`.
_STAMP_FILE = b"agent-hook.due"

#: The agent stops, forgets or ends: a checkpoint is taken at once.
_CHECKPOINT_AT_ONCE: tuple[Meaning, ...] = ("compaction", "turn_end", "turn_failed", "session_end")
#: What an event says of the agent's turn.
_TURNS: Mapping[Meaning, Turn] = {
    "prompt": "open",
    "tool": "open",
    "compaction": "open",
    "turn_end": "closed",
    "turn_failed": "failed",
    "session_end": "closed",
}


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
    """How many tool events that came here passed without a checkpoint since then."""
    briefed: str | None = None
    """The session that was briefed last."""
    problem: str | None = None
    """Why the last hook failed; None after one that took a checkpoint."""
    since: str | None = None
    """When the first of them failed."""


def run(agent_name: str, safe: Callable[[str], str], *, in_background: bool = False) -> str:
    """Handle the event on stdin; returns what the agent is to read on stdout. `safe` escapes control characters.

    `in_background`: the agent has gone on, so its session may have ended since.
    """
    agent = agent_named(agent_name)
    if agent is None:
        return ""
    agent = actual_agent(agent)
    value = read_event(0)
    data = parse_event(value, agent.payload)
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
        memory = _note_turn(repository, agent, meaning, memory, value)
        keep_owner(repository, agent, meaning)
        pending = _pending(repository)
        if pending is None and not (in_background and _has_ended(repository, data)):
            ends = meaning == "session_end" or (meaning == "turn_end" and not agent.ends_sessions)
            keep_context(repository, values, meaning, ends=ends)
        if is_briefed(agent.briefing, data, memory):
            answer = format_briefing(agent.briefing, safe(briefing(repository, pending))[:_MAX_BRIEFING])
            memory = memory._replace(briefed=data.session_id)
            write_memory(repository, memory)
        if event is not None and is_due(event.meaning, memory, time.time_ns(), number(repository, "hookInterval")):
            remove_stamp(repository)
            _checkpoint(repository, values, event, memory)
        elif meaning == "tool":
            write_memory(repository, memory._replace(skipped=memory.skipped + 1))
        if meaning == "tool":
            write_stamp(repository, agent, data)
        else:
            remove_stamp(repository)
    except (GitstateError, OSError, ValueError) as error:
        remove_stamp(repository)
        problem, since = text_to_json(f"{data.name}: {words_of(error)}")[:300], memory.since if memory.problem else None
        memory = memory._replace(problem=problem, since=since or now())
        if not write_memory(repository, memory):
            # `status` and `doctor` will not know it: the agent keeps these words in its log.
            say(safe(f"gitstate: {_failing(memory)}"))
    return answer


def actual_agent(agent: Agent) -> Agent:
    """The agent that runs this hook of `agent`: one that runs the hooks of others is told by its process."""
    for pid in _parents():
        words = (process.read_proc(f"/proc/{pid}/cmdline") or b"").split(b"\0")[:2]
        names = {os.path.basename(os.fsdecode(word)).lower() for word in words}
        if names & {*agent.commands}:
            return agent
        for name in names.intersection(agent_names()):
            other = agent_named(name)
            if other is not None and other.borrows_hooks:
                return other
    return agent


def _parents() -> Iterator[int]:
    """The pids of the nearest ancestors, the nearest first."""
    pid = os.getppid()
    for _ in range(6):
        yield pid
        data = process.read_proc(f"/proc/{pid}/stat")
        pid = int(data.rpartition(b")")[2].split()[1]) if data is not None else 0
        if pid <= 1:
            return


def _note_turn(
    repository: Repository, agent: Agent, meaning: Meaning | None, memory: HookMemory, value: Mapping[str, Json]
) -> HookMemory:
    """Note whether the agent is in the middle of a turn, and why one failed. A session that is resumed is briefed."""
    if meaning is None:
        return memory
    turn = _TURNS.get(meaning)
    # A subagent may end after the turn: where prompts have an event, they alone open a turn again.
    has_prompts = any(event.meaning == "prompt" for event in agent.registered_events())
    late = turn == "open" and meaning != "prompt" and has_prompts and read_turn(repository, 0.0) == "closed"
    if turn is not None and not late:
        write_turn(repository, turn)
    if meaning == "turn_failed":
        told = (value.get(key) for key in ("error", "error_details", "error_message", "last_assistant_message"))
        write_stop(repository, " ".join(text for text in told if isinstance(text, str)))
    return memory._replace(briefed=None) if meaning == "session_start" and agent.briefing.once else memory


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
        several = value.get(key)
        # Some agents name all directories of their work, the first one first.
        found = several[0] if isinstance(several, list) and several else text(key)
        if not isinstance(found, str) or not 0 < len(found) <= _MAX_TEXT or "\0" in found:
            return None
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


def keep_context(
    repository: Repository, values: Mapping[str, str], meaning: Meaning | None, *, ends: bool = False
) -> None:
    """Put an event's values into the live context (no-op if they are there).

    A recovered context stays `recovered` until the agent has run a tool or ended a turn. A session without a task is
    `finished` when it ends, or it would look interrupted: `ends` says whether this event is an end.
    """
    live, status = read_live_context(repository)
    context, _ = with_values(Context() if status == FINISHED else live, values)
    has_task = any((context.task_id, context.issue_number, context.progress_stage, context.pid))
    if ends and not has_task:
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


def _has_ended(repository: Repository, data: EventData) -> bool:
    """Whether the session of an event is over."""
    live, status = read_live_context(repository)
    return status == FINISHED and live.session_id == data.session_id


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
    return not 0 <= now_ns - memory.last_ns < _pause_ns(memory, interval)


def _pause_ns(memory: HookMemory, interval: float) -> int:
    """How long after a checkpoint a tool brings none, in nanoseconds."""
    return max(int(interval * 1e9), _PAUSE_FACTOR * memory.cost_ns)


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


def write_stamp(repository: Repository, agent: Agent, data: EventData) -> None:
    """Let the command's script answer the events that are like this one, until a checkpoint is due.

    Such an event changes nothing that this one did not: same tool event, session and directory, which the script looks
    for in its text as they stand in the lines of the file. The file's time of modification is when the next checkpoint
    is due. Where a value does not stand in JSON as it is, there is no stamp, and Python handles each event.
    """
    keys = agent.payload
    pairs = [
        (keys.event, data.name),
        (keys.session_id, data.session_id),
        (keys.directory, data.directory),
        (keys.transcript_path, data.transcript_path),
    ]
    lines = [agent.name, os.environ.get("GITSTATE_PROGRESS_STAGE", "")]
    lines += [f'"{key}":"{value}"' for key, value in pairs if value is not None]
    values = [value for _, value in pairs if value is not None]
    if None in (data.session_id, data.directory) or not all(_is_plain(text) for text in (*values, lines[1])):
        remove_stamp(repository)
        return
    memory = read_memory(repository)
    due = memory.last_ns + _pause_ns(memory, number(repository, "hookInterval"))
    path = os.path.join(repository.own, _STAMP_FILE)
    try:
        files.write_atomic(path, ("\n".join(lines) + "\n").encode("ascii"), staging=repository.own, durable=False)
        os.utime(path, ns=(due, due))
    except OSError:
        remove_stamp(repository)


def _is_plain(text: str) -> bool:
    """Whether a text stands in JSON, and in a line that sh reads, as it is."""
    return text.isascii() and text.isprintable() and not set(text) & set('"\\') and text == text.strip()


def remove_stamp(repository: Repository) -> None:
    """Let Python handle the next event."""
    with contextlib.suppress(OSError):
        files.remove(os.path.join(repository.own, _STAMP_FILE))


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
    if how.format != "text":
        return json.dumps({how.format: text}, ensure_ascii=True) + "\n"
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
