"""What one hook leaves for the next one of a workspace: when a checkpoint is due, who was briefed, what failed."""

from __future__ import annotations

import os

from ..errors import BadJson
from ..format.context import MAX_CONTEXT
from ..system import files
from ..system.jsonio import dumps, loads
from ..system.stdlib import TYPE_CHECKING, Record, suppress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..agents.base import Agent, HookEvent, Meaning
    from ..git.repository import Repository
    from .event import EventData


#: The pause after a checkpoint is at least this many times as long as the checkpoint took.
_PAUSE_FACTOR = 20
_MEMORY_FILE = b"agent-hook.json"
#: What the command's script reads, to tell without Python that nothing is due: see `write_stamp`.
_STAMP_FILE = b"agent-hook.due"
#: The same, to tell that the agent need not wait for what becomes of an event: see `write_known`.
_KNOWN_FILE = b"agent-hook.known"
#: Newer than the memory while somebody waits for the end of the interval: see `note_waiting`.
_WAITING_FILE = b"agent-hook.wait"
#: The agent stops, forgets or ends: a checkpoint is taken at once.
CHECKPOINT_AT_ONCE: tuple[Meaning, ...] = ("compaction", "turn_end", "turn_failed", "session_end")


class HookMemory(Record):
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
    events: int = 0
    """How many events came that may have changed files, or after which the agent stops."""
    event: str | None = None
    """The agent's name of the last one."""
    wanted: int = 0
    """Up to which of them a checkpoint is due."""
    urgent: int = 0
    """Up to which of them the agent stops or forgets: a keeper too takes a checkpoint at once."""
    done: int = 0
    """Up to which of them a checkpoint holds their work, or could not be taken."""
    session_pid: int = 0
    """The agent's process whose session is in the context; 0 where none is known."""
    session_start: str | None = None
    """When that process started, as `process_start` tells."""
    values: Mapping[str, str] = {}
    """What the last event told of the context: a checkpoint for it may be taken by the process of an earlier one."""
    ended: str | None = None
    """The session that ended last."""
    displaced: Mapping[str, str] = {}
    """What the context told of a session that works on, while one beside it stands there; empty where none does."""


def is_due(meaning: Meaning, memory: HookMemory, now_ns: int, interval: float) -> bool:
    """Whether this event is worth a checkpoint: a tool only once in `interval` seconds.

    A checkpoint that took long is followed by a longer pause. A clock that was set back counts as no pause.
    """
    if meaning != "tool":
        return meaning in CHECKPOINT_AT_ONCE
    return not 0 <= now_ns - memory.last_ns < pause_ns(memory, interval)


def pause_ns(memory: HookMemory, interval: float) -> int:
    """How long after a checkpoint a tool brings none, in nanoseconds."""
    return max(int(interval * 1e9), _PAUSE_FACTOR * memory.cost_ns)


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

    def texts(name: str) -> dict[str, str]:
        found = value.get(name)
        return {key: word for key, word in found.items() if isinstance(word, str)} if isinstance(found, dict) else {}

    return HookMemory(
        number("last_ns"),
        number("cost_ns"),
        number("skipped"),
        text("briefed"),
        text("problem"),
        text("since"),
        number("events"),
        text("event"),
        number("wanted"),
        number("urgent"),
        number("done"),
        number("session_pid"),
        text("session_start"),
        texts("values"),
        text("ended"),
        texts("displaced"),
    )


def write_memory(repository: Repository, memory: HookMemory) -> bool:
    """Leave `memory` to the next hook; False where it can't be written: the next hook takes a checkpoint sooner."""
    try:
        files.make_directory(repository.own, top=repository.git_dir)
        path = os.path.join(repository.own, _MEMORY_FILE)
        files.write_report(path, dumps(memory._asdict()), staging=repository.own)
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
    # `[` where the agent names all directories of its work, the first one first.
    opens = {key: '["' if key == keys.directory and keys.names_many_directories else '"' for key, _ in pairs}
    lines += [f'"{key}":{opens[key]}{value}"' for key, value in pairs if value is not None]
    values = [value for _, value in pairs if value is not None]
    if None in (data.session_id, data.directory) or not all(_is_plain(text) for text in (*values, lines[1])):
        remove_stamp(repository)
        return
    path = os.path.join(repository.own, _STAMP_FILE)
    try:
        files.write_atomic(path, ("\n".join(lines) + "\n").encode("ascii"), staging=repository.own, durable=False)
    except OSError:
        remove_stamp(repository)
    date_stamp(repository, read_memory(repository))


def date_stamp(repository: Repository, memory: HookMemory) -> None:
    """Tell the script when the next checkpoint is due; no-op without a stamp."""
    from ..workspace.settings import number

    due = memory.last_ns + pause_ns(memory, number(repository, "hookInterval"))
    with suppress(OSError):
        os.utime(os.path.join(repository.own, _STAMP_FILE), ns=(due, due))


def write_known(repository: Repository, agent: Agent, data: EventData, *, queues: bool = True) -> None:
    """Let the command's script queue the events that need no answer, and give the agent back at once.

    They must be of the same agent, session, directory and stage as this one: those lines come first. After an empty
    line stand the events, one of which must be in the text. After another one stand those of a command that is about to
    run: nothing becomes of one that does not destroy files. `queues` is false where no event is to be queued.
    """
    from ..orders.events import make_queue

    keys = agent.payload
    opens = '["' if keys.names_many_directories else '"'
    same = [f'"{keys.session_id}":"{data.session_id}"', f'"{keys.directory}":{opens}{data.directory}"']
    queued = [event.name for event in agent.events if is_queued(event) and event.name != agent.briefing.event]
    names = queued if queues else []
    before = [event.name for event in agent.events if event.meaning == "before_tool"]
    stage = os.environ.get("GITSTATE_PROGRESS_STAGE", "")
    if data.session_id is None or data.directory is None:
        return
    if not queued or not all(_is_plain(text) for text in (data.session_id, data.directory, stage)):
        remove_known(repository)
        return
    lines = [agent.name, stage, *same]
    for some in (names, before):
        lines += ["", *(f'"{keys.event}":"{name}"' for name in some)]
    lines.append("")
    path = os.path.join(repository.own, _KNOWN_FILE)
    try:
        make_queue(repository)
        files.write_atomic(path, "\n".join(lines).encode("ascii"), staging=repository.own, durable=False)
    except OSError:
        remove_known(repository)


def is_queued(event: HookEvent) -> bool:
    """Whether an agent may go on at once after an event: a session that begins may be answered, one that ends waits.

    So does a tool that destroys files.
    """
    return event.meaning not in ("session_start", "session_end", "before_tool", "worktree_end")


def remove_known(repository: Repository) -> None:
    """Let the agent wait for the next event."""
    with suppress(OSError):
        files.remove(os.path.join(repository.own, _KNOWN_FILE))


def note_waiting(repository: Repository) -> None:
    """Tell the script that a process takes a checkpoint at the end of the interval: none has to be started for that.

    It is so until the memory is written again.
    """
    path = os.path.join(repository.own, _WAITING_FILE)
    with suppress(OSError):
        os.close(files.open_own(path, os.O_WRONLY))
        newer = os.stat(os.path.join(repository.own, _MEMORY_FILE)).st_mtime_ns + 1_000_000
        os.utime(path, ns=(newer, newer))


def _is_plain(text: str) -> bool:
    """Whether a text stands in JSON, and in a line that sh reads, as it is."""
    return text.isascii() and text.isprintable() and not set(text) & set('"\\') and text == text.strip()


def remove_stamp(repository: Repository) -> None:
    """Let Python handle the next event."""
    with suppress(OSError):
        files.remove(os.path.join(repository.own, _STAMP_FILE))


def last_problem(repository: Repository) -> list[tuple[str, str | None]]:
    """Why the last hook failed, if no later one took a checkpoint, with the command that shows the error again."""
    problem = failing_hook(repository.git_dir)
    return [] if problem is None else [(problem, "gitstate checkpoint")]


def failing_hook(git_dir: bytes) -> str | None:
    """Why the last hook in a workspace took no checkpoint, and since when; None if a later one took one."""
    memory = _read_memory(os.path.join(git_dir, b"gitstate"))
    return None if memory.problem is None else describe_problem(memory)


def describe_problem(memory: HookMemory) -> str:
    since = f" (since {memory.since})" if memory.since else ""
    return f"an agent's hook took no checkpoint: {memory.problem}{since}"
