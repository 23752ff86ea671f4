"""What gitstate does when an agent calls its hook: keep the context, take a checkpoint, brief a new session.

The event comes as JSON on stdin, from an agent and so from nobody in particular: sizes and types are checked, a value
is data. Whatever goes wrong, the agent sees an empty answer; what went wrong last is kept for `gitstate doctor`.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BadJson, GitstateError
from ..format import names
from ..format.context import MAX_CONTEXT, Context, with_values
from ..format.names import is_save_id
from ..git import refs
from ..git.repository import Repository, open_repository, read_head
from ..system import files, process
from ..system.jsonio import Json, dumps, loads, text_to_json
from ..workspace.live_context import read_live_context, replace_context, with_measured_fields
from ..workspace.state_file import ACTIVE, FINISHED, RECOVERED, read_state, write_state

if TYPE_CHECKING:
    from ..workspace.state_file import Status

if TYPE_CHECKING:
    from ..workspace.state_file import Status

AGENTS = ("claude", "codex", "gemini", "kimi")
#: A tool's answer stands in its event. No more than this is kept of one, in bytes.
_MAX_EVENT = 32 << 20
#: An agent that does not close its end is not waited for longer, in seconds.
_READ_FOR = 2.0
#: Not more often than this after a tool, in seconds: git config gitstate.hookInterval, or GITSTATE_HOOK_INTERVAL.
_INTERVAL = 15.0
#: A checkpoint may take this part of the time at most.
_SHARE = 20
_MAX_TEXT = 4096
_MAX_BRIEFING = 8192
_MEMORY = b"agent-hook.json"

#: Events after a tool: many, so they are spaced.
_AFTER_TOOL = frozenset(("PostToolUse", "PostToolUseFailure", "AfterTool"))
#: Events after which the agent rests, forgets or ends: whatever changed is kept now.
_AT_REST = frozenset(("Stop", "AfterAgent", "PreCompact", "PreCompress", "SessionEnd", "Interrupt"))
#: How long a checkpoint may read, in seconds, where the agent cuts the hook short: codex these two after 3.
_DEADLINES = {("codex", "SessionEnd"): 2.0, ("codex", "Interrupt"): 2.0}
#: Where each agent hands a hook's words to the model. Kimi only observes SessionStart.
_BRIEFED_AT = {"claude": "SessionStart", "codex": "SessionStart", "gemini": "SessionStart", "kimi": "UserPromptSubmit"}


class Event(NamedTuple):
    """What is used of an agent's event."""

    name: str
    session_id: str | None
    transcript_path: str | None
    directory: str | None
    """Where the agent stands: an absolute path."""


class Memory(NamedTuple):
    """What one hook leaves to the next in a workspace. Times in nanoseconds since the epoch."""

    last_ns: int = 0
    cost_ns: int = 0
    skipped: int = 0
    """How many events passed without a checkpoint since the last one."""
    briefed: str | None = None
    problem: str | None = None


def run(agent: str, safe: Callable[[str], str]) -> str:
    """Carry out the event on stdin; returns what the agent is to read on stdout. `safe` escapes control characters."""
    if agent not in AGENTS:
        return ""
    event = parse_event(read_event(0))
    try:
        repository = open_repository(os.fsencode(event.directory or os.getcwd()))
    except (GitstateError, OSError, ValueError):
        return ""
    memory = read_memory(repository)
    answer = ""
    try:
        values = context_values(agent, event)
        waiting = _waiting(repository)
        if waiting is None:
            keep_context(repository, values, event.name)
        if event.name == _BRIEFED_AT[agent] and (agent != "kimi" or memory.briefed != event.session_id):
            answer = form(agent, event.name, safe(briefing(repository, waiting))[:_MAX_BRIEFING])
            memory = memory._replace(briefed=event.session_id)
            write_memory(repository, memory)
        if is_due(event.name, memory, time.time_ns(), _interval(repository)):
            _checkpoint(repository, values, _DEADLINES.get((agent, event.name)), memory)
        elif event.name in _AFTER_TOOL:
            write_memory(repository, memory._replace(skipped=memory.skipped + 1))
    except (GitstateError, OSError, ValueError) as error:
        write_memory(repository, memory._replace(problem=text_to_json(f"{event.name}: {error}")[:300]))
    return answer


# -- the event


def read_event(fd: int) -> dict[str, Json]:
    """The JSON object on a descriptor; an empty one where it is none, too large, or never ends."""
    parts: list[bytes] = []
    size = 0
    end = time.monotonic() + _READ_FOR
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


def parse_event(value: Mapping[str, Json]) -> Event:
    """What is used of an event; a field of the wrong type, size or form counts as unknown."""

    def text(name: str) -> str | None:
        found = value.get(name)
        return found if isinstance(found, str) and 0 < len(found) <= _MAX_TEXT and "\0" not in found else None

    def path(name: str) -> str | None:
        found = text(name)
        return found if found is not None and found.startswith("/") else None

    directory = path("cwd")
    try:
        known = directory is not None and os.path.isdir(directory)
    except (OSError, ValueError):
        known = False
    return Event(
        text("hook_event_name") or "", text("session_id"), path("transcript_path"), directory if known else None
    )


def context_values(agent: str, event: Event) -> dict[str, str]:
    """What an event tells of the context, as `save` takes it."""
    values = {"agent": agent}
    named = {
        "session_id": event.session_id,
        "transcript_path": event.transcript_path,
        "agent_cwd": event.directory,
        "progress_stage": os.environ.get("GITSTATE_PROGRESS_STAGE"),
    }
    values.update({name: value for name, value in named.items() if value})
    return values


# -- the context


def keep_context(repository: Repository, values: Mapping[str, str], event: str) -> None:
    """Put an event's values into the live context; nothing is written where it says so already.

    A recovered context stays `recovered` until the agent's first deed. A session that ends, and had no task,
    leaves none that would seem to have been interrupted.
    """
    live, status = read_live_context(repository)
    context, _ = with_values(Context() if status == FINISHED else live, values)
    has_task = any((context.task_id, context.issue_number, context.progress_stage, context.pid))
    if event == "SessionEnd" and not has_task:
        following: Status = FINISHED
    elif status == RECOVERED and event not in _AFTER_TOOL | _AT_REST:
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


def _waiting(repository: Repository) -> str | None:
    """The archive of the save that waits in this workspace."""
    marker = names.marker_ref(names.workspace_id(repository))
    return refs.read_refs(repository, [marker]).get(marker)


# -- the checkpoint


def is_due(event: str, memory: Memory, now_ns: int, interval: float) -> bool:
    """Whether this event is worth a checkpoint: every rest is, a tool only once in `interval` seconds.

    A checkpoint that took long is followed by a longer pause. A clock that was set back counts as no pause.
    """
    if event in _AT_REST:
        return True
    if event not in _AFTER_TOOL:
        return False
    pause = max(int(interval * 1e9), _SHARE * memory.cost_ns)
    return not 0 <= now_ns - memory.last_ns < pause


def _interval(repository: Repository) -> float:
    given = os.environ.get("GITSTATE_HOOK_INTERVAL") or repository.setting("gitstate.hookinterval")
    try:
        return max(0.0, float(given)) if given else _INTERVAL
    except ValueError:
        return _INTERVAL


def _checkpoint(repository: Repository, values: Mapping[str, str], deadline: float | None, memory: Memory) -> None:
    from ..save.request import SaveRequest
    from ..save.save import save

    begun = time.monotonic_ns()
    request = SaveRequest(kind="checkpoint", values=values, deadline=deadline, wait=1.0)
    save(repository.toplevel, request)
    now = time.time_ns()
    write_memory(repository, Memory(now, time.monotonic_ns() - begun, 0, memory.briefed, None))


def read_memory(repository: Repository) -> Memory:
    """What the hook before left; an empty one where there is none to read."""
    data = files.read_limited(os.path.join(repository.own, _MEMORY), MAX_CONTEXT)
    try:
        value = loads(data, MAX_CONTEXT, "the hook's memory")
    except BadJson:
        return Memory()

    def number(name: str) -> int:
        found = value.get(name)
        return found if isinstance(found, int) and 0 <= found < 1 << 63 else 0

    def text(name: str) -> str | None:
        found = value.get(name)
        return found if isinstance(found, str) else None

    return Memory(number("last_ns"), number("cost_ns"), number("skipped"), text("briefed"), text("problem"))


def write_memory(repository: Repository, memory: Memory) -> None:
    """Leave it to the next hook. What can't be written is not worth an error."""
    try:
        files.make_directory(repository.own, top=repository.git_dir)
        path = os.path.join(repository.own, _MEMORY)
        files.write_atomic(path, dumps(memory._asdict()), staging=repository.own, durable=False)
    except OSError:
        return


def last_problem(repository: Repository) -> list[tuple[str, str | None]]:
    """What went wrong in an agent's hook and was not made good since, with the command that shows it again."""
    problem = read_memory(repository).problem
    return [] if problem is None else [(f"an agent's hook took no checkpoint: {problem}", "gitstate checkpoint")]


# -- the briefing


def form(agent: str, event: str, words: str) -> str:
    """`words` for the model in the form that the agent reads from a hook; nothing where there are none."""
    if not words:
        return ""
    if agent in ("codex", "gemini"):
        answer = {"hookSpecificOutput": {"hookEventName": event, "additionalContext": words}}
        return json.dumps(answer, ensure_ascii=True) + "\n"
    return words + "\n"


def briefing(repository: Repository, waiting: str | None) -> str:
    """What a new session should know of the workspace; an empty text where there is nothing to tell."""
    if waiting is not None:
        return _of_waiting(repository, waiting)
    # The live context stands in the git dir. The state file is in the worktree, where a repository may bring one along:
    # its words are taken only where it names a save of this very repository.
    live, status = read_live_context(repository)
    state = read_state(repository) if status == RECOVERED else {}
    told, save = state.get("briefing"), state.get("save")
    save_id = save.get("save_id") if isinstance(save, dict) else None
    if isinstance(told, str) and is_save_id(save_id):
        known = refs.list_refs(repository.git, names.SAVES)
        if any(ref.endswith(f"/{save_id}") for ref in known):
            return told
    return _task(live)


def _of_waiting(repository: Repository, archive: str) -> str:
    from ..format.archive import read_save
    from ..objects.reader import ObjectReader

    with ObjectReader(repository.git) as reader:
        save = read_save(archive, reader)
    lines = [
        f"Interrupted work waits in this workspace, in save {save.manifest.save_id}.",
        "Before you change anything here, run `gitstate recover`: it puts the files back as they were.",
        _task(save.context),
    ]
    return "\n".join(line for line in lines if line)


def _task(context: Context) -> str:
    named = {
        "task": context.task_id,
        "issue": context.issue_number,
        "stage": context.progress_stage,
        "branch": context.branch_name,
        "notes": ", ".join(context.memory_refs[:12]) or None,
    }
    words = [f"{name} {value}" for name, value in named.items() if value is not None]
    return f"The work in hand: {'; '.join(words)}." if context.task_id or context.progress_stage else ""
