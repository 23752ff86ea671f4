"""What gitstate does when an agent calls its hook: record the context, take a checkpoint, brief a new session.

The event comes as JSON on stdin. It was written by an agent and is not trusted: sizes and types are checked, and every
value is data. Whatever fails, the agent reads an empty answer and sees success; `gitstate doctor` reports the failure.
"""

from __future__ import annotations

import os
import time

from ..agents.base import ARGV_KEY
from ..agents.registry import agent_named, agent_names, session_owner
from ..errors import GitstateError, words_of
from ..format import names
from ..format.context import Context, with_values
from ..git import refs
from ..git.opening import open_repository
from ..git.repository import Repository, read_head
from ..orders.events import queued_events
from ..system import process
from ..system.clock import Deadline
from ..system.forkpool import in_background
from ..system.jsonio import Json, text_to_json
from ..system.process import Process
from ..system.stdlib import TYPE_CHECKING
from ..system.terminal import say
from ..workspace import lease
from ..workspace.live_context import (
    ACTIVE,
    FINISHED,
    RECOVERED,
    read_live_context,
    read_turn,
    replace_context,
    with_measured_fields,
    write_state,
    write_turn,
)
from ..workspace.settings import OF_SAVE, number, with_defaults
from .background import failed, has_work, in_order, take_before, take_now, work
from .command_line import argv_values, session_mark
from .event import (
    EventData,
    context_values,
    destroying_command,
    event_of,
    parse_event,
    project_directory,
    read_event,
    removed_worktree,
)
from .memory import (
    CHECKPOINT_AT_ONCE,
    HookMemory,
    describe_problem,
    is_due,
    read_memory,
    remove_known,
    remove_stamp,
    write_known,
    write_memory,
    write_stamp,
)
from .stop import write_stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..agents.base import Agent, HookEvent, Meaning
    from ..workspace.live_context import Status, Turn

#: A longer briefing is cut, in characters.
_MAX_BRIEFING = 8192

#: What an event says of the agent's turn.
_TURNS: Mapping[Meaning, Turn] = {
    "prompt": "open",
    "tool": "open",
    "compaction": "open",
    "turn_end": "closed",
    "turn_failed": "failed",
    "session_end": "closed",
}


def run(agent_name: str, safe: Callable[[str], str]) -> str:
    """Handle the event on stdin; returns what the agent is to read on stdout. `safe` escapes control characters.

    A checkpoint that it wants is taken when the agent has gone on, unless the session ends.
    """
    agent = agent_named(agent_name)
    if agent is None:
        return ""
    agent = actual_agent(agent)
    value = read_event(0)
    data = parse_event(value, agent.payload)
    event = agent.event(data.name)
    home, visited = _home_and_visited(agent, data)
    if event is not None and event.meaning in ("before_tool", "worktree_end"):
        _before(event, value, data, home)
        return ""
    answer = ""
    for repository in (home, visited):
        if repository is None:
            continue
        with in_order(repository):
            _handle_queue(repository)
            owner = session_owner(agent)
            if repository is visited:
                _handle_guest(repository, agent, data, safe)
                # The first repository has to know of each event; a command that destroys nothing still waits for none.
                write_known(repository, agent, data, queues=False)
            elif is_inside(repository, owner, data):
                answer = _handle_guest(repository, agent, data, safe)
            else:
                answer = _handle(repository, agent, data, value, owner, safe)
    for repository in (home, visited):
        if repository is not None and event is not None and event.meaning == "session_end":
            seconds = (event.deadline or event.timeout) / (2 if visited is None else 4)
            take_now(repository, event.deadline and min(event.deadline, 2 * seconds), seconds)
        elif repository is not None and has_work(repository):
            _work_in_background(repository)
    return answer


def _work_in_background(repository: Repository) -> None:
    in_background(lambda: work(repository, lambda _: None))


def _home_and_visited(agent: Agent, data: EventData) -> tuple[Repository | None, Repository | None]:
    """The repository in which the session began, and another one in which its shell is, if it is in another.

    Whatever the agent does there, the first one holds its context, its turn and its end.
    """
    here, project = _opened(data.directory or os.getcwd()), project_directory(agent)
    home = None if project is None or project == data.directory else _opened(project)
    if home is None or (here is not None and here.own == home.own):
        return here, None
    return home, here


def _before(event: HookEvent, value: Mapping[str, Json], data: EventData, home: Repository | None) -> None:
    """Take a checkpoint before a command that destroys, or before a worktree goes; nothing before any other tool.

    The agent waits for it, until the deadline of the event. The context stays as it is: the tool has not run.
    """
    directory = data.directory or os.getcwd()
    command = destroying_command(value, directory) if event.meaning == "before_tool" else None
    if event.meaning == "before_tool" and command is None:
        return
    place = removed_worktree(value) if event.meaning == "worktree_end" else None
    repository = _opened(place or directory)
    if repository is None:
        return
    deadline = Deadline(event.deadline or event.timeout)
    if command is not None:
        from .threatened import threatened_worktrees

        for top in threatened_worktrees(repository, command, directory, home):
            other = _opened(os.fsdecode(top))
            if other is not None:
                take_before(other, event, deadline.part(2 / 3))
    take_before(repository, event, deadline)


def run_queue() -> None:
    """Handle the events that the command's script has queued for this directory, and take what they want.

    The agents have gone on: a session may have ended since, and nobody reads an answer.
    """
    repository = _opened(os.getcwd())
    os.chdir("/")
    if repository is not None:
        work(repository, _handle_queue_in_order)


def _opened(directory: str) -> Repository | None:
    """The repository of a directory. The agent works on, whatever a setting says: `doctor` reports it."""
    try:
        repository = open_repository(os.fsencode(directory))
    except (GitstateError, OSError, ValueError):
        return None
    return with_defaults(repository, ("hookInterval", *OF_SAVE))[0]


def _handle_queue_in_order(repository: Repository) -> None:
    with in_order(repository):
        _handle_queue(repository)


def _handle_queue(repository: Repository) -> None:
    """Handle the events in the queue."""
    for name, text in queued_events(repository):
        agent = agent_named(name)
        if agent is not None:
            value = event_of(text)
            data = parse_event(value, agent.payload)
            _handle(repository, agent, data, value, None)


def _handle(
    repository: Repository,
    agent: Agent,
    data: EventData,
    value: Mapping[str, Json],
    owner: Process | None,
    safe: Callable[[str], str] | None = None,
) -> str:
    """Turn, owner, context and memory after an event; returns the answer.

    `owner` is the agent's process, where one can be told. `safe` is None for a queued event.
    """
    memory = read_memory(repository)
    answer = ""
    try:
        values = context_values(agent, data)
        event = agent.event(data.name)
        meaning = None if event is None else event.meaning
        memory = _note_turn(repository, agent, meaning, memory, value)
        is_shared = safe is not None and keep_owner(repository, agent, meaning, owner)
        pending = _pending(repository)
        ends = meaning == "session_end" or (meaning == "turn_end" and not agent.ends_sessions)
        if pending is None and not (safe is None and _has_ended(repository, data)):
            live, _ = read_live_context(repository)
            is_alone = owner is not None and not is_shared
            memory = memory._replace(displaced={}) if is_alone else _note_displaced(memory, live, data, owner)
            if safe is not None:
                values |= argv_values(agent, data, live, begins=meaning == "session_start")
            # Whose a queued event is can't be told any more: those before it have told.
            if ends and memory.displaced:
                values, is_shared = {**memory.displaced}, True
            keep_context(repository, values, meaning, ends=ends and not is_shared)
        memory = memory._replace(values=values, ended=data.session_id if ends else memory.ended)
        if meaning == "session_start":
            from ..agents.launch import write_search_path

            write_search_path(repository.own, os.environ.get("PATH", ""))
        if safe is not None and is_briefed(agent, data, memory):
            answer = _briefing(repository, agent, pending, safe)
            memory = memory._replace(briefed=session_mark(agent, data))
        memory = _counted(repository, memory, data, meaning)
        if owner is not None and not (is_shared and memory.displaced):
            known = Process(0, None) if meaning == "session_end" else owner
            memory = memory._replace(session_pid=known.pid, session_start=known.start)
        if not write_memory(repository, memory):
            _note_problem(repository, failed(memory, f"{data.name}: its memory could not be written"), safe)
        if meaning == "tool":
            write_stamp(repository, agent, data)
        else:
            remove_stamp(repository)
        if safe is not None and meaning != "session_end":
            write_known(repository, agent, data)
        elif safe is not None:
            remove_known(repository)
    except (GitstateError, OSError, ValueError) as error:
        remove_stamp(repository)
        problem = text_to_json(f"{data.name}: {words_of(error)}")[:300]
        _note_problem(repository, failed(memory, problem), safe)
    return answer


def _note_displaced(memory: HookMemory, live: Context, data: EventData, owner: Process | None) -> HookMemory:
    """Note what the context tells of another session, before an event of this one takes its place.

    Where this one ends while that one works on, the context is that of the one to be continued again.
    """
    if memory.displaced.get("session_id") == data.session_id:
        return memory._replace(displaced={})
    around = Process(memory.session_pid, memory.session_start)
    is_other = live.session_id not in (None, memory.ended, data.session_id) and around != owner
    if memory.displaced or not is_other or not around.pid or not process.is_alive(around):
        return memory
    extra = {name: live.extra.get(name) for name in ("transcript_path", "agent_cwd", ARGV_KEY)}
    told = {"agent": live.agent, "session_id": live.session_id, **extra}
    return memory._replace(displaced={name: text if isinstance(text, str) else "" for name, text in told.items()})


def is_inside(repository: Repository, owner: Process | None, data: EventData) -> bool:
    """Whether an event is of a session that another one has started, as by a command in an agent's shell.

    The context stays that of the session around it, which is the one to be continued, and goes on when this one ends.
    """
    memory = read_memory(repository)
    around = Process(memory.session_pid, memory.session_start)
    if owner is None or not around.pid or around == owner or around.pid not in process.ancestors():
        return False
    # Some agents start themselves again: those are of one session.
    live, _ = read_live_context(repository)
    return live.session_id != data.session_id and process.is_alive(around)


def _handle_guest(repository: Repository, agent: Agent, data: EventData, safe: Callable[[str], str]) -> str:
    """The memory after an event of a session inside another one; returns the answer. All else is left as it is."""
    memory = read_memory(repository)
    answer = ""
    try:
        event = agent.event(data.name)
        if is_briefed(agent, data, memory):
            answer = _briefing(repository, agent, _pending(repository), safe)
        memory = _counted(repository, memory, data, None if event is None else event.meaning)
        if not write_memory(repository, memory):
            _note_problem(repository, failed(memory, f"{data.name}: its memory could not be written"), safe)
    except (GitstateError, OSError, ValueError) as error:
        _note_problem(repository, failed(memory, text_to_json(f"{data.name}: {words_of(error)}")[:300]), safe)
    return answer


def _briefing(repository: Repository, agent: Agent, pending: str | None, safe: Callable[[str], str]) -> str:
    """What the agent reads: see `briefing`."""
    from .briefing import briefing, format_briefing

    return format_briefing(agent.briefing, safe(briefing(repository, pending))[:_MAX_BRIEFING])


def _counted(repository: Repository, memory: HookMemory, data: EventData, meaning: Meaning | None) -> HookMemory:
    """The memory after an event: whether it wants a checkpoint at once, or when the interval is over."""
    if meaning is None or (meaning != "tool" and meaning not in CHECKPOINT_AT_ONCE):
        return memory
    due = is_due(meaning, memory, time.time_ns(), number(repository, "hookInterval"))
    count = memory.events + 1
    return memory._replace(
        events=count,
        event=data.name,
        wanted=count if due else memory.wanted,
        urgent=count if meaning != "tool" else memory.urgent,
        skipped=memory.skipped + (not due),
    )


def _note_problem(repository: Repository, memory: HookMemory, safe: Callable[[str], str] | None) -> None:
    if not write_memory(repository, memory) and safe is not None:
        # `status` and `doctor` will not know it: the agent keeps these words in its log.
        say(safe(f"gitstate: {describe_problem(memory)}"))


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
    if meaning == "session_start" and agent.briefing.once and memory.briefed is not None:
        memory = memory._replace(briefed=None)
        write_memory(repository, memory)
    return memory


# -- who works here


def keep_owner(repository: Repository, agent: Agent, meaning: Meaning | None, owner: Process | None) -> bool:
    """Write down the agent's process as the owner of the workspace, until its session ends (no-op if it is there).

    A run that holds the lease, and another agent that still runs, stay on record. Returns whether one of them does that
    has not started this one.
    """
    who = lease.presence(repository)
    known = who.holder
    if owner is None:
        return False
    mine = known is not None and (known.kind, known.owner) == ("owner", owner)
    if meaning == "session_end":
        if mine and known is not None:
            lease.clear_holder(repository, known)
    elif not who.live:
        lease.write_holder(repository, lease.this_holder("owner", owner, agent=agent.name))
    return who.live and not mine and not who.ours and known is not None


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
    elif status == RECOVERED and meaning != "tool" and meaning not in CHECKPOINT_AT_ONCE:
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


def is_briefed(agent: Agent, data: EventData, memory: HookMemory) -> bool:
    """Whether the agent hands the answer to this event to the model, and its session has none yet."""
    how = agent.briefing
    return data.name == how.event and not (how.once and memory.briefed == session_mark(agent, data))
