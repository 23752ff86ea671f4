"""What one hook leaves for the next one of a workspace: when a checkpoint is due, who was briefed, what failed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from ..agents.base import Agent
from ..errors import BadJson
from ..format.context import MAX_CONTEXT
from ..git.repository import Repository
from ..system import files
from ..system.jsonio import dumps, loads
from ..workspace.settings import number
from .event import EventData

if TYPE_CHECKING:
    from ..agents.base import Meaning


#: The pause after a checkpoint is at least this many times as long as the checkpoint took.
_PAUSE_FACTOR = 20
_MEMORY_FILE = b"agent-hook.json"
#: What the command's script reads, to tell without Python that nothing is due: see `write_stamp`.
_STAMP_FILE = b"agent-hook.due"
#: The agent stops, forgets or ends: a checkpoint is taken at once.
CHECKPOINT_AT_ONCE: tuple[Meaning, ...] = ("compaction", "turn_end", "turn_failed", "session_end")


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


def is_due(meaning: Meaning, memory: HookMemory, now_ns: int, interval: float) -> bool:
    """Whether this event is worth a checkpoint: a tool only once in `interval` seconds.

    A checkpoint that took long is followed by a longer pause. A clock that was set back counts as no pause.
    """
    if meaning != "tool":
        return meaning in CHECKPOINT_AT_ONCE
    return not 0 <= now_ns - memory.last_ns < _pause_ns(memory, interval)


def _pause_ns(memory: HookMemory, interval: float) -> int:
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
    # `[` where the agent names all directories of its work, the first one first.
    opens = {key: '["' if key == keys.directory and keys.names_many_directories else '"' for key, _ in pairs}
    lines += [f'"{key}":{opens[key]}{value}"' for key, value in pairs if value is not None]
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
    return None if memory.problem is None else describe_problem(memory)


def describe_problem(memory: HookMemory) -> str:
    since = f" (since {memory.since})" if memory.since else ""
    return f"an agent's hook took no checkpoint: {memory.problem}{since}"
